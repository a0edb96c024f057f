//! What a daemon could leave behind: in the network of its host, and in the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use aya::maps::{MapInfo, loaded_maps};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, loaded_links, loaded_programs};

use crate::namespace::Namespace;

/// Everything about a namespace that a daemon could have changed, a line for each thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Links, addresses, routes, rules, neighbours, queueing disciplines, filters, offloads and sysctls.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        let mut lines = BTreeSet::new();
        for question in ["-d -o link", "-o address", "-4 route show table all", "-6 route show table all"] {
            add(&mut lines, question, &namespace.ip(question)?);
        }
        for question in ["-4 rule", "-6 rule"] {
            add(&mut lines, question, &namespace.ip(question)?);
        }
        // Those that somebody has set; others are a cache, which comes and goes.
        for line in namespace.ip("-o neigh show nud all")?.lines() {
            let marks = line.split(' ').filter(|word| ["managed", "PERMANENT", "proto"].contains(word));
            let marks: Vec<_> = marks.collect();
            if !marks.is_empty() {
                let whose: Vec<_> = line.split(' ').take(3).collect();
                lines.insert(format!("neighbour: {} {}", whose.join(" "), marks.join(" ")));
            }
        }
        for link in interfaces(namespace)? {
            for question in ["qdisc", "filter"] {
                let mut tc = Command::new("tc");
                tc.args([question, "show", "dev", &link]);
                if question == "filter" {
                    tc.arg("ingress");
                }
                add(&mut lines, &format!("{question} of {link}"), &namespace.output(&mut tc)?);
            }
            let offloads = namespace.output(Command::new("ethtool").args(["-k", &link]))?;
            add(&mut lines, &format!("offload of {link}"), &offloads);
        }
        namespace.run(|| sysctls(Path::new("/proc/sys/net"), &mut lines))?;
        Ok(Self(lines))
    }

    /// What `later` has and this has not, marked `+`, and the other way round, marked `-`.
    pub fn difference(&self, later: &Self) -> Vec<String> {
        let gone = self.0.difference(&later.0).map(|line| format!("- {line}"));
        gone.chain(later.0.difference(&self.0).map(|line| format!("+ {line}"))).collect()
    }
}

fn add(lines: &mut BTreeSet<String>, what: &str, text: &str) {
    lines.extend(text.lines().map(|line| format!("{what}: {}", line.trim())));
}

fn interfaces(namespace: &Namespace) -> Result<Vec<String>> {
    let links = namespace.ip("-o link")?;
    let names = links.lines().filter_map(|line| line.split(": ").nth(1));
    Ok(names.map(|name| name.split('@').next().unwrap_or(name).to_owned()).collect())
}

/// Every file that can be read: some are for writing only.
fn sysctls(directory: &Path, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sysctls(&path, lines);
        } else if let Ok(value) = fs::read_to_string(&path) {
            lines.insert(format!("{}: {}", path.display(), value.trim()));
        }
    }
}

/// eBPF objects of one daemon, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Programs.
    pub programs: BTreeSet<u32>,
    /// Links of these programs.
    pub links: BTreeSet<u32>,
    /// Maps: those of the programs, and those pinned beside them.
    pub maps: BTreeSet<u32>,
}

impl Objects {
    /// What is pinned under a daemon's `bpf_dir`, and what hangs on it.
    ///
    /// # Errors
    /// A pin cannot be read.
    pub fn pinned(bpf_dir: &Path) -> Result<Self> {
        let mut objects = Self::default();
        for pin in pins(&bpf_dir.join("programs"))? {
            let program = ProgramInfo::from_pin(pin)?;
            objects.programs.insert(program.id());
            objects.maps.extend(program.map_ids()?.into_iter().flatten());
        }
        for pin in pins(&bpf_dir.join("local"))? {
            objects.programs.insert(FdLink::from(PinnedLink::from_pin(pin)?).info()?.program_id());
        }
        for directory in ["maps", "tables", "old_seen"] {
            for pin in pins(&bpf_dir.join(directory))? {
                objects.maps.insert(MapInfo::from_pin(pin)?.id());
            }
        }
        for link in loaded_links().filter_map(Result::ok) {
            if objects.programs.contains(&link.program_id()) {
                objects.links.insert(link.id());
            }
        }
        Ok(objects)
    }

    /// Those that the kernel still has.
    pub fn alive(&self) -> Self {
        // Others come and go while this looks: what is gone in between is gone.
        let programs: BTreeSet<_> =
            loaded_programs().filter_map(|program| Some(program.ok()?.id())).collect();
        let links: BTreeSet<_> = loaded_links().filter_map(|link| Some(link.ok()?.id())).collect();
        let maps: BTreeSet<_> = loaded_maps().filter_map(|map| Some(map.ok()?.id())).collect();
        Self { programs: &self.programs & &programs, links: &self.links & &links, maps: &self.maps & &maps }
    }
}

fn pins(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
