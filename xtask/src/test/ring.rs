//! The rings: what each runs, and what it needs of the host.

use std::collections::BTreeSet;
use std::{fmt, fs};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::cargo_test::{self, Outcome};
use crate::{daemon, process, rights, setup, workspace};

/// The privileged rings' tests run one after another: each has the machine's few cores, its eBPF maps of a
/// million entries and its deadlines for itself, and a failure is one test's own.
const PRIVILEGED_THREADS: &str = "--test-threads=1";

/// The crate of the privileged tests.
const TESTBED: &str = "lb-testbed";

/// A set of tests that need the same rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Ring {
    /// Pure logic and sockets on loopback; no rights
    Host,
    /// The loaded programs, fed packets by BPF_PROG_TEST_RUN
    Kernel,
    /// The daemon end to end in network namespaces
    Net,
}

impl Ring {
    /// From the cheapest to the dearest.
    pub(super) const ALL: [Self; 3] = [Self::Host, Self::Kernel, Self::Net];

    /// How the names of its files in lb-testbed/tests begin; the host ring has none there.
    const fn prefix(self) -> Option<&'static str> {
        match self {
            Self::Host => None,
            Self::Kernel => Some("kernel_"),
            Self::Net => Some("net_"),
        }
    }

    /// Whether this host can run it; else why not.
    pub(super) fn runnable(self) -> Result<(), String> {
        match self {
            Self::Host => Ok(()),
            Self::Kernel => rights::bpf(),
            Self::Net => {
                rights::bpf()?;
                rights::namespaces()?;
                match setup::TOOLS.iter().find(|(tool, _)| !process::installed(tool)) {
                    None => Ok(()),
                    Some((tool, package)) => Err(format!("{tool} is missing (install package {package})")),
                }
            }
        }
    }

    /// Runs its tests to the end, whatever fails among them.
    pub(super) fn run(self, filter: Option<&str>) -> Result<Outcome> {
        println!("\n== {self} ring");
        let daemon = (self == Self::Net).then(daemon::build).transpose()?;
        let mut outcome = Outcome::default();
        let mut cargo = |arguments: &[&str], threads: &[&str]| {
            let mut command = process::cargo(&process::own_cargo());
            command.args(["test", "--no-fail-fast"]).args(arguments).arg("--").args(threads).args(filter);
            command.envs(daemon.iter().map(|path| (daemon::VARIABLE, path)));
            cargo_test::run(command, &mut outcome)
        };
        let Some(prefix) = self.prefix() else {
            // lb-testbed's own unit tests need no rights; its folder tests/ is the other rings.
            cargo(&["--workspace", "--doc"], &[])?;
            cargo(&["--package", TESTBED, "--lib", "--bins"], &[])?;
            cargo(&["--lib", "--bins", "--tests"], &[])?;
            return Ok(outcome);
        };
        let targets = privileged_targets()?;
        let names = targets.iter().filter(|name| name.starts_with(prefix));
        let selected: Vec<&str> = names.flat_map(|name| ["--test", name]).collect();
        if selected.is_empty() {
            println!("{TESTBED}/tests has no file {prefix}*.rs");
            return Ok(outcome);
        }
        cargo(&[&["--package", TESTBED], selected.as_slice()].concat(), &[PRIVILEGED_THREADS])?;
        Ok(outcome)
    }
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Host => "host",
            Self::Kernel => "kernel",
            Self::Net => "net",
        })
    }
}

/// Fails where a privileged test file belongs to no ring, because it would never run.
pub(super) fn refuse_strays() -> Result<()> {
    for name in privileged_targets()? {
        let known = Ring::ALL.iter().filter_map(|ring| ring.prefix()).any(|prefix| name.starts_with(prefix));
        ensure!(
            known,
            "{TESTBED}/tests/{name}.rs belongs to no ring (cure: name it kernel_*.rs or net_*.rs)"
        );
    }
    Ok(())
}

/// The names of the files in lb-testbed/tests, without `.rs`, in order.
fn privileged_targets() -> Result<Vec<String>> {
    let folder = workspace::root().join(TESTBED).join("tests");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list {}", folder.display()))?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let path = entry?.path();
        if let (Some(name), Some("rs")) = (path.file_stem(), path.extension().and_then(|text| text.to_str()))
        {
            names.insert(name.to_string_lossy().into_owned());
        }
    }
    Ok(names.into_iter().collect())
}
