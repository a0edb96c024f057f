//! Configs that are broken in a known way, given to `check` and to a running daemon: none gets in, each message
//! names the place, and the daemon goes on with what it had.

#[path = "../../lb-userspace/tests/config/mutations.rs"]
mod mutations;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, Map, MapData, MapInfo};
use lb_common::buckets::{Bucket, EMPTY, FILTER, HOLE};
use lb_common::route::{Host, Routes};
use lb_common::{Address, Backend, Endpoint, NextHop, Service, SocketKey, names};
use lb_testbed::bed::{Bed, Setup};
use lb_testbed::eventually::eventually;
use lb_testbed::process::Sluice;
use lb_userspace::model::Plane;
use mutations::{Mutation, mutations};

const DEADLINE: Duration = Duration::from_secs(10);
/// Below these keys the environment of the daemon under test wins over the file.
const OVERRIDDEN: [&str; 3] = ["daemon.state_dir", "daemon.bpf_dir", "admin.socket"];

#[test]
fn check_refuses_every_mutation_and_names_the_place() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("config.toml");
    let bed_config = Setup::on(Plane::Tc).config(&[("10.201.1.2:8080".parse()?, 100)]);
    let shipped = include_str!("../../config.toml");
    for base in [shipped, &bed_config] {
        fs::write(&file, base)?;
        let output = check(&file)?;
        ensure!(output.status.code() == Some(0), "the base is refused: {output:?}");
        let cases = mutations(base);
        ensure!(cases.len() >= 200, "only {} mutations", cases.len());
        for case in &cases {
            fs::write(&file, &case.text)?;
            names_the_place(case, &check(&file)?, &file)?;
        }
    }
    Ok(())
}

#[test]
fn a_running_daemon_refuses_every_mutation_and_keeps_its_maps() -> Result<()> {
    let bed = Bed::start(Setup::on(Plane::Tc))?;
    let config = bed.config(&[100; 6]);
    let old = bed.long(20, Some(Duration::from_millis(200)))?;
    let churn = bed.churn(20);
    let before = dump(&bed.sluice.bpf_dir())?;
    ensure!(before.len() == 11 && before.values().all(|map| !map.is_empty()), "{:?}", before.keys());
    let cases = mutations(&config);
    let seen = cases.iter().filter(|case| !OVERRIDDEN.iter().any(|key| case.path.starts_with(key)));
    let mut count = 0;
    for case in seen {
        bed.sluice.write_config(&case.text)?;
        names_the_place(case, &bed.sluice.ask(&["reload"])?, &bed.sluice.config())?;
        count += 1;
    }
    ensure!(count >= 200, "only {count} mutations");
    let after = dump(&bed.sluice.bpf_dir())?;
    for (map, bytes) in &before {
        ensure!(after.get(map) == Some(bytes), "{map} is not what it was");
    }
    ensure!(after.len() == before.len(), "{:?}", after.keys());

    let churn = churn.stop()?;
    ensure!(churn.lost == 0, "{churn}");
    let old = old.finish()?;
    ensure!(old.broken == 0, "{old}");
    // The daemon still takes a good one.
    bed.sluice.write_config(&bed.config(&[100, 100, 100, 100, 50, 50]))?;
    let output = bed.sluice.ask(&["reload"])?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(dump(&bed.sluice.bpf_dir())? != before, "a good reload changes the maps");
    Ok(())
}

#[test]
fn what_needs_a_restart_is_refused_with_all_that_came_with_it() -> Result<()> {
    let bed = Bed::start(Setup::on(Plane::Tc))?;
    let before = bed.sluice.status()?.planes;
    ensure!(before.len() == 4, "{before:?}");
    // The one key is good for a reload, and would break every flow.
    let config = bed.config(&[100; 6]).replace("flows = 65536", "flows = 70000\ninterfaces = [\"client\"]");
    bed.sluice.write_config(&config)?;
    let output = bed.sluice.ask(&["reload"])?;
    let printed = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(3) && printed.contains("kernel.flows"), "{output:?}");
    let churn = bed.churn(50);
    eventually("new flows", DEADLINE, || Ok((churn.begun() >= 50).then_some(())))?;
    let report = churn.stop()?;
    ensure!(report.lost == 0, "{report}");
    let after = bed.sluice.status()?.planes;
    ensure!(after == before, "{after:?}");
    Ok(())
}

/// Without the overrides of a test's daemon.
fn check(file: &Path) -> Result<Output> {
    Command::new(Sluice::binary()).args(["check", "-c"]).arg(file).output().context("starting sluice check")
}

fn names_the_place(case: &Mutation, output: &Output, file: &Path) -> Result<()> {
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(3), "{}: {}: {printed}\n{}", case.name, output.status, case.text);
    let place = match case.line {
        Some(line) => format!("{}:{line}:", file.display()),
        None => format!("{}:", file.display()),
    };
    let mut lines = printed.lines().filter(|line| line.starts_with(&place));
    ensure!(
        lines.any(|line| case.path.is_empty() || line.contains(&format!(" {}", case.path))),
        "{}: no message names {place} and {:?}: {printed}",
        case.name,
        case.path
    );
    Ok(())
}

/// What stands in the maps that a config decides, by pin; counters and what packets write are left out.
fn dump(bpf_dir: &Path) -> Result<BTreeMap<String, String>> {
    let maps = bpf_dir.join("maps");
    let open = |name: &str| MapData::from_pin(maps.join(name)).with_context(|| name.to_owned());
    let mut dump = BTreeMap::new();
    let mut put = |name: &str, text: String| dump.insert(name.to_owned(), text);
    let services = entries::<{ size_of::<(SocketKey, Service)>() }>;
    put(names::MAP_SERVICES, services(open(names::MAP_SERVICES)?, open(names::MAP_SERVICE_BUCKETS)?)?);
    let endpoints = entries::<{ size_of::<(SocketKey, Endpoint)>() }>;
    put(names::MAP_ENDPOINTS, endpoints(open(names::MAP_ENDPOINTS)?, open(names::MAP_ENDPOINT_BUCKETS)?)?);
    let hosts = entries::<{ size_of::<(Address, Host)>() }>;
    put(names::MAP_HOSTS, hosts(open(names::MAP_HOSTS)?, open(names::MAP_HOST_BUCKETS)?)?);
    let lists = entries::<{ size_of::<(Address, Routes)>() }>;
    put(names::MAP_LISTS, lists(open(names::MAP_LISTS)?, open(names::MAP_LIST_BUCKETS)?)?);
    put(names::MAP_BACKENDS, array::<Backend>(open(names::MAP_BACKENDS)?)?);
    put(names::MAP_SEED, array::<[u64; 2]>(open(names::MAP_SEED)?)?);
    let routes = LpmTrie::<_, [u8; 16], NextHop>::try_from(Map::LpmTrie(open(names::MAP_ROUTES)?))?;
    let routes = routes
        .iter()
        .map(|entry| entry.map(|(key, hop)| format!("{} {:?} {hop:?}", key.prefix_len(), key.data())));
    put(names::MAP_ROUTES, sorted(routes.collect::<Result<_, _>>()?));
    for folder in ["tables", "old_seen"] {
        for pin in fs::read_dir(bpf_dir.join(folder))? {
            let path = pin?.path();
            // A swap makes a new map: the same id says that there was none.
            let id = MapInfo::from_pin(&path)?.id();
            let data = MapData::from_pin(&path)?;
            let text = if folder == "tables" { array::<u64>(data)? } else { array::<u32>(data)? };
            put(&format!("{} {id}", path.display()), text);
        }
    }
    Ok(dump)
}

/// The entries that a table's index names, wherever they lie.
fn entries<const SIZE: usize>(entries: MapData, index: MapData) -> Result<String> {
    let entries = Array::<_, [u8; SIZE]>::try_from(Map::Array(entries))?;
    let index = Array::<_, Bucket>::try_from(Map::Array(index))?;
    let mut lines = Vec::new();
    for bucket in 0..index.len() - FILTER {
        for word in index.get(&bucket, 0)?.into_iter().filter(|word| *word != EMPTY && *word != HOLE) {
            lines.push(format!("{:?}", entries.get(&(word as u32), 0)?));
        }
    }
    Ok(sorted(lines))
}

fn array<V: Pod + std::fmt::Debug>(data: MapData) -> Result<String> {
    let array = Array::<_, V>::try_from(Map::Array(data))?;
    let elements = (0..array.len()).map(|index| Ok(format!("{:?}", array.get(&index, 0)?)));
    Ok(elements.collect::<Result<Vec<_>>>()?.join("\n"))
}

fn sorted(mut lines: Vec<String>) -> String {
    lines.sort();
    lines.join("\n")
}
