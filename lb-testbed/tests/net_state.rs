//! What was changed at run time survives the daemon, on a host with all that can go wrong with its disk.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use lb_testbed::bed::{Bed, POOL, Setup};
use lb_testbed::process::succeeded;
use lb_testbed::topology::VIP4;
use lb_userspace::model::{Override, Plane};
use lb_userspace::state::{FILE, Store};
use rustix::mount::{MountFlags, UnmountFlags};

const DEADLINE: Duration = Duration::from_secs(10);

#[test]
fn changes_survive_kill_stop_and_reload_on_tc() -> anyhow::Result<()> {
    survives(Plane::Tc)
}

#[test]
fn changes_survive_kill_stop_and_reload_on_the_proxy() -> anyhow::Result<()> {
    survives(Plane::Proxy)
}

fn survives(plane: Plane) -> anyhow::Result<()> {
    let mut bed = Bed::start(Setup { vips: vec![VIP4], drain_timeout: "1h", ..Setup::on(plane) })?;
    let flows =
        (plane != Plane::Proxy).then(|| bed.long(60, Some(Duration::from_millis(200)))).transpose()?;
    bed.backend("weight", &bed.servers[0], &["7"])?;
    bed.backend("drain", &bed.servers[1], &[])?;
    bed.backend("remove", &bed.servers[2], &[])?;
    let stranger = "192.0.2.99:9";
    if plane == Plane::Proxy {
        // Nobody is there; the kernel planes would wait for its neighbour.
        succeeded(bed.sluice.ask(&["backend", "add", POOL, stranger, "--weight", "3"])?)?;
    }
    let seen = |bed: &Bed| Ok::<_, anyhow::Error>((words(bed, plane)?, slots(bed, plane)?));
    let before = seen(&bed)?;
    ensure!(before.0.len() >= 3 && bed.sluice.status()?.kept.problems.is_empty(), "{before:?}");

    bed.sluice.kill()?;
    bed.sluice.start()?;
    ensure!(seen(&bed)? == before, "after a kill: {before:?}, then {:?}", seen(&bed)?);
    ensure!(bed.sluice.stop(DEADLINE)?.success(), "{}", bed.sluice.log());
    bed.sluice.start()?;
    ensure!(seen(&bed)? == before, "after a stop: {before:?}, then {:?}", seen(&bed)?);
    succeeded(bed.sluice.ask(&["reload"])?)?;
    ensure!(seen(&bed)? == before, "after a reload: {before:?}, then {:?}", seen(&bed)?);
    if let Some(flows) = flows {
        let report = flows.finish()?;
        ensure!(report.broken == 0, "{report}");
    }
    Ok(())
}

/// Weights, drains, and deadlines to the second. Of the proxy's leaving backends nothing is left with the process.
fn words(bed: &Bed, plane: Plane) -> anyhow::Result<Vec<String>> {
    let pool = bed.pool()?;
    let backends = pool.backends.iter().map(|backend| {
        let is_draining = backend.state == "draining";
        format!("{} {} {is_draining} {:?}", backend.address, backend.weight, backend.overrides)
    });
    let leaving = pool.leaving.iter().filter(|_| plane != Plane::Proxy).map(|leaving| {
        let until = leaving.drain.until.split('.').next().unwrap_or_default();
        format!("{} until {until}", leaving.address)
    });
    let removed = pool.removed.iter().map(|removed| format!("{removed} removed"));
    Ok(backends.chain(leaving).chain(removed).collect())
}

/// Where the flows of some clients go.
fn slots(bed: &Bed, plane: Plane) -> anyhow::Result<Vec<Option<SocketAddr>>> {
    let client = bed.topology.client.ipv4();
    let ports = 1000..if plane == Plane::Proxy { 1000 } else { 1040 };
    ports.map(|port| Ok(bed.explain(SocketAddr::new(client, port), bed.target())?.backend)).collect()
}

/// A file system of a test's own, with little room.
struct Small {
    directory: tempfile::TempDir,
}

impl Small {
    fn mount() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        rustix::mount::mount("none", directory.path(), "tmpfs", MountFlags::empty(), Some(c"size=256k"))?;
        Ok(Self { directory })
    }

    fn remount(&self, flags: MountFlags) -> anyhow::Result<()> {
        Ok(rustix::mount::mount_remount(self.directory.path(), flags, "")?)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(self.directory.path(), UnmountFlags::DETACH) {
            eprintln!("{}: cannot unmount: {error}", self.directory.path().display());
        }
    }
}

fn changes(count: u16) -> Vec<Override> {
    let one = |port| Override {
        pool: POOL.into(),
        address: SocketAddr::from(([10, 0, 0, 1], port)),
        file: None,
        weight: Some(1),
        drain: None,
        removed: false,
        leaving: None,
        ejected: None,
        ejections: 0,
    };
    (1..=count).map(one).collect()
}

#[test]
fn a_full_disk_and_a_read_only_one_leave_the_old_file_whole() -> anyhow::Result<()> {
    let small = Small::mount()?;
    let state = small.directory.path().join("state");
    let mut store = Store::open(&state).store;
    store.save(&changes(3))?;
    let filler = small.directory.path().join("filler");
    let full = fill(&filler).context("the disk is never full")?;
    ensure!(full.kind() == std::io::ErrorKind::StorageFull, "{full}");
    let error = store.save(&changes(3000)).err().context("there is no room")?.to_string();
    ensure!(error.contains("No space left"), "{error}");
    ensure!(names(&state)? == [FILE], "what was begun is taken away: {:?}", names(&state)?);
    ensure!(Store::open(&state).overrides.is_empty(), "the directory is held");
    drop(store);
    let mut opened = Store::open(&state);
    ensure!(opened.overrides == changes(3) && opened.problem.is_none(), "{:?}", opened.problem);

    small.remount(MountFlags::RDONLY)?;
    let error = opened.store.save(&changes(1)).err().context("it is read-only")?.to_string();
    ensure!(error.contains("Read-only"), "{error}");
    small.remount(MountFlags::empty())?;
    fs::remove_file(&filler)?;
    opened.store.save(&changes(1))?;
    drop(opened.store);
    ensure!(Store::open(&state).overrides == changes(1));
    Ok(())
}

/// Writes until nothing more goes in; why.
fn fill(path: &Path) -> Option<std::io::Error> {
    use std::io::Write;
    let mut file = fs::File::create(path).ok()?;
    (0..1 << 20).find_map(|_| file.write_all(&[1; 4096]).err())
}

fn names(directory: &Path) -> anyhow::Result<Vec<String>> {
    let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}
