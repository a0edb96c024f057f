//! What outlives a daemon: pins, their adoption, and their removal.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{MapData, MapInfo, loaded_maps};
use aya::programs::{ProgramInfo, loaded_programs};
use lb_common::{Backend, BackendId, flow_table, hash, limits, names};
use lb_testbed::pinned::{Fixture, link, names_in, run, veth};
use lb_userspace::config::PlaneChoice;
use lb_userspace::controller::table_sizes::TableSizes;
use lb_userspace::data_plane::kernel::{KernelAction, KernelState, KernelTables};
use lb_userspace::kernel::{self, Adopted, KernelError, KernelPlane, Settings, Unavailable};
use lb_userspace::model::Plane;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Every program that is pinned.
const PROGRAMS: [&str; 4] =
    [names::PROGRAM_TC, names::PROGRAM_TC_RARE, names::PROGRAM_XDP, names::PROGRAM_XDP_RARE];

#[test]
fn a_private_directory_is_made_and_everything_in_it_is_adopted() -> Result<()> {
    let fixture = Fixture::new()?;
    let dir = fixture.bpffs.join("deep").join("sluice");
    let (mut plane, adopted) = fixture.open_with(&dir, 1024, None)?;
    assert_eq!(adopted, Adopted::default());
    for level in [&dir, &dir.join("maps"), &dir.join("links"), &fixture.bpffs.join("deep")] {
        let metadata = std::fs::metadata(level)?;
        assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o700, 0), "{}", level.display());
    }
    let backend = Backend { id: BackendId::new(1, 1), ..Backend::default() };
    plane.tables.apply(&KernelAction::PutBackend { index: 1, backend })?;
    let (seed, state) = (plane.seed, plane.tables.read_back(&KernelState::default())?);
    assert_ne!(seed, [0, 0]);
    drop(plane);

    let (mut plane, adopted) = fixture.open_with(&dir, 1024, None)?;
    assert_eq!(adopted.maps, names::MAPS);
    assert_eq!(plane.seed, seed);
    assert_eq!(plane.tables.read_back(&KernelState::default())?, state);
    assert_eq!(names_in(&dir.join("programs"))?, PROGRAMS.map(String::from).into());
    Ok(())
}

#[test]
fn the_programs_hash_with_the_pinned_seed() -> Result<()> {
    let fixture = Fixture::new()?;
    let configured = [0x0123_4567_89ab_cdef, 0];
    let (plane, _) = fixture.open_with(&fixture.dir(), 1024, Some(configured))?;
    assert_eq!(plane.seed, configured);
    drop(plane);
    assert_eq!(fixture.open()?.0.seed, configured, "random: the pinned one is kept");
    fixture.open_with(&fixture.dir(), 1024, Some(configured))?;
    let error = fixture.open_with(&fixture.dir(), 1024, Some([1, 2])).err();
    assert!(matches!(error, Some(KernelError::Seed { .. })), "{error:?}");

    // The read-only data of the loaded program holds what is made of the seed.
    let (_plane, _) = fixture.open()?;
    let info = ProgramInfo::from_pin(fixture.dir().join("programs").join(names::PROGRAM_TC))?;
    let mut found = false;
    for id in info.map_ids()?.context("map ids")? {
        let map = MapInfo::from_id(id)?;
        if map.name_as_str().is_some_and(|name| name.ends_with("rodata")) {
            let data: aya::maps::Array<_, [u64; 24]> =
                aya::maps::Array::try_from(aya::maps::Map::Array(MapData::from_id(id)?))?;
            let data = data.get(&0, 0)?;
            let (key, secret) = (hash::key(configured), flow_table::secret(configured));
            found |= data.windows(key.len()).any(|words| words == key)
                && data.windows(secret.len()).any(|words| words == secret);
        }
    }
    assert!(found, "no read-only data of the program holds the seed");
    Ok(())
}

#[test]
fn a_second_daemon_and_a_cleanup_are_refused_while_one_runs() -> Result<()> {
    let fixture = Fixture::new()?;
    let (plane, _) = fixture.open()?;
    let error = fixture.refusal(&fixture.dir())?;
    assert!(matches!(error, KernelError::Locked { .. }), "{error}");
    let error = kernel::cleanup(&fixture.dir()).err();
    assert!(matches!(error, Some(KernelError::Locked { .. })), "{error:?}");
    drop(plane);
    fixture.open()?;
    Ok(())
}

#[test]
fn a_directory_that_others_can_change_is_refused() -> Result<()> {
    let fixture = Fixture::new()?;
    let root = fixture.bpffs.join("");
    let nobody = 65534;
    let owned = |path: &Path, uid, mode| -> Result<()> {
        std::fs::create_dir(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        Ok(std::os::unix::fs::chown(path, Some(uid), Some(uid))?)
    };
    owned(&root.join("squatted"), nobody, 0o700)?;
    owned(&root.join("open"), 0, 0o755)?;
    owned(&root.join("shared"), 0, 0o770)?;
    owned(&root.join("sticky"), 0, 0o1777)?;
    owned(&root.join("readable"), 0, 0o755)?;
    for (path, level) in [
        ("squatted", "squatted"),
        ("squatted/below", "squatted"),
        ("open", "open"),
        ("shared/sluice", "shared"),
        ("sticky/sluice", "sticky"),
    ] {
        let error = fixture.refusal(&root.join(path))?;
        let KernelError::Foreign { path: named, owner, mode, .. } = &error else {
            bail!("{path}: {error}");
        };
        let metadata = std::fs::metadata(root.join(level))?;
        assert_eq!((named, *owner, *mode), (&root.join(level), metadata.uid(), metadata.mode() & 0o7777));
        assert!(error.to_string().contains("rm -r"), "{error}");
        assert!(kernel::cleanup(&root.join(path)).is_err(), "{path}: cleanup must not follow either");
    }
    assert_eq!(names_in(&root.join("squatted"))?, BTreeSet::new());
    assert_eq!(names_in(&root.join("shared"))?, BTreeSet::new());
    // Readable by others is fine above the directory itself.
    fixture.open_with(&root.join("readable").join("sluice"), 1024, None)?;

    // Within the directory as well.
    let (plane, _) = fixture.open()?;
    drop(plane);
    std::fs::set_permissions(fixture.dir().join("links"), std::fs::Permissions::from_mode(0o777))?;
    assert!(matches!(fixture.refusal(&fixture.dir())?, KernelError::Foreign { .. }));
    Ok(())
}

#[test]
fn links_and_strange_places_are_refused_with_the_cure() -> Result<()> {
    let fixture = Fixture::new()?;
    let real = fixture.bpffs.join("real");
    drop(fixture.open_with(&real, 1024, None)?);
    let (last, inner) = (fixture.bpffs.join("last"), fixture.bpffs.join("inner"));
    symlink(&real, &last)?;
    symlink(fixture.bpffs.join(""), &inner)?;
    for path in [last, inner.join("real")] {
        let error = fixture.refusal(&path)?;
        assert!(matches!(error, KernelError::NotDirectory { .. }), "{error}");
    }
    for path in ["relative", "/tmp/../tmp/sluice"] {
        let error = fixture.refusal(Path::new(path))?;
        assert!(matches!(error, KernelError::Path { .. }), "{error}");
    }
    let plain = tempfile::tempdir()?;
    let error = fixture.refusal(&plain.path().join("bpf").join("sluice"))?;
    let KernelError::NotBpffs { command, .. } = &error else { bail!("{error}") };
    assert!(
        command.contains("mount -t bpf") && command.contains(&*plain.path().to_string_lossy()),
        "{command}"
    );
    // The command is right, and what it mounts may itself be the directory.
    run(command)?;
    let mounted = plain.path().join("bpf");
    let opened = fixture.open_with(&mounted.join("sluice"), 1024, None).map(drop);
    let opened = opened.and(fixture.open_with(&mounted, 1024, None).map(drop));
    run(&format!("umount -l {}", mounted.display()))?;
    opened?;
    Ok(())
}

#[test]
fn a_half_made_directory_is_completed() -> Result<()> {
    let fixture = Fixture::new()?;
    let (plane, _) = fixture.open()?;
    let seed = plane.seed;
    drop(plane);
    for name in ["SERVICES", "TABLES", "COUNTERS"] {
        std::fs::remove_file(fixture.dir().join("maps").join(name))?;
    }
    std::fs::rename(fixture.dir().join("programs/sluice_tc"), fixture.dir().join("programs/sluice_tc-new"))?;
    std::fs::remove_dir(fixture.dir().join("links"))?;

    let (mut plane, adopted) = fixture.open()?;
    assert_eq!(adopted.maps.len(), names::MAPS.len() - 3);
    assert_eq!(plane.seed, seed);
    plane.tables.read_back(&KernelState::default())?;
    assert_eq!(names_in(&fixture.dir().join("programs"))?, PROGRAMS.map(String::from).into());
    Ok(())
}

/// Waits until the kernel has freed the objects, which it does after a grace period.
fn wait_until_gone(programs: &BTreeSet<u32>, maps: &BTreeSet<u32>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // An object may end while it is listed.
        let programs_left = loaded_programs().flatten().any(|program| programs.contains(&program.id()));
        let maps_left = loaded_maps().flatten().any(|map| maps.contains(&map.id()));
        if !programs_left && !maps_left {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "programs left: {programs_left}, maps left: {maps_left}");
        std::thread::yield_now();
    }
}

#[test]
fn cleanup_leaves_nothing_behind() -> Result<()> {
    let fixture = Fixture::new()?;
    let _namespace = veth("cleanup")?;
    let (mut plane, _) = fixture.open()?;
    plane.programs.attach(&link("v0", true)?, PlaneChoice::Force(Plane::Xdp))?;
    plane.programs.attach(&link("v1", true)?, PlaneChoice::Auto)?;
    plane
        .tables
        .apply(&KernelAction::SwapTable { table: 1, slots: vec![lb_common::Slot::default(); 251].into() })?;
    drop(plane);

    let mut maps = BTreeSet::new();
    for directory in ["maps", "tables", "old_seen"] {
        for name in names_in(&fixture.dir().join(directory))? {
            maps.insert(MapInfo::from_pin(fixture.dir().join(directory).join(name))?.id());
        }
    }
    let programs: BTreeSet<u32> =
        PROGRAMS.iter().map(|name| fixture.program_id(name)).collect::<Result<_>>()?;
    // All, the number of their layout, and the two arrays of the table.
    assert_eq!(maps.len(), names::MAPS.len() + 3);

    let report = kernel::cleanup(&fixture.dir())?;
    assert_eq!((report.links.len(), report.programs, report.maps), (2, PROGRAMS.len(), maps.len()));
    assert!(report.directory && report.left.is_empty(), "{report:?}");
    assert!(!names_in(&fixture.bpffs.join(""))?.contains("sluice"));
    assert!(!run("ip -d link show dev v0")?.contains("xdp"), "detached when cleanup returns");
    wait_until_gone(&programs, &maps)?;

    assert_eq!(kernel::cleanup(&fixture.dir())?, kernel::Report::default(), "once more: nothing to do");
    Ok(())
}

#[test]
fn cleanup_takes_what_a_crash_left_and_leaves_what_is_not_ours() -> Result<()> {
    let fixture = Fixture::new()?;
    let (plane, _) = fixture.open()?;
    let report = plane.programs.remove()?;
    assert!(report.directory, "{report:?}");

    let (plane, _) = fixture.open()?;
    drop(plane);
    let dir = fixture.dir();
    std::fs::rename(dir.join("maps/HOSTS"), dir.join("links/7-xdp-new"))?;
    std::fs::rename(dir.join("maps/FLOWS"), dir.join("tables/junk"))?;
    std::fs::rename(dir.join("maps/WANTED"), dir.join("theirs"))?;
    let report = kernel::cleanup(&dir)?;
    assert_eq!(report.left, [dir.join("theirs")]);
    assert!(!report.directory);
    assert_eq!(names_in(&dir)?, ["theirs".to_owned()].into());
    Ok(())
}

#[test]
fn kernel_planes_are_available_here_and_a_refused_object_is_named() -> Result<()> {
    let fixture = Fixture::new()?;
    assert_eq!(kernel::available(PlaneChoice::Auto, Some(&fixture.object))?, fixture.object);
    assert_eq!(kernel::available(PlaneChoice::Auto, None), Err(Unavailable::NoObject));
    let settings = Settings {
        bpf_dir: &fixture.dir(),
        flows: 1024,
        backends: limits::BACKENDS,
        hash_seed: None,
        tables: TableSizes::default(),
        object: b"no ELF",
    };
    let error = KernelPlane::open(&settings).err().context("no object")?;
    assert!(matches!(error, KernelError::Object { .. }), "{error}");
    Ok(())
}

/// Leaves this thread these capabilities while `work` runs.
fn with_capabilities<T>(kept: CapabilitySet, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let all = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(None, CapabilitySets { effective: kept & all.effective, ..all })?;
    let result = work();
    rustix::thread::set_capabilities(None, all)?;
    result
}

#[test]
fn three_capabilities_are_enough_and_missing_ones_are_named() -> Result<()> {
    let fixture = Fixture::new()?;
    let _namespace = veth("rights")?;
    let (v0, v1) = (link("v0", true)?, link("v1", true)?);
    let slots = Arc::new(vec![lb_common::Slot::stable(BackendId::new(1, 1)); 251]);
    let enough = CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::NET_ADMIN;
    with_capabilities(enough, || {
        kernel::available(PlaneChoice::Auto, Some(&fixture.object))?;
        let (mut plane, _) = fixture.open()?;
        plane.programs.attach(&v0, PlaneChoice::Auto)?;
        plane.programs.attach(&v1, PlaneChoice::Force(Plane::Xdp))?;
        plane.tables.apply(&KernelAction::SwapTable { table: 1, slots: slots.clone() })?;
        drop(plane);
        let (mut plane, _) = fixture.open()?;
        plane.programs.attach(&v0, PlaneChoice::Auto)?;
        assert_eq!(plane.tables.read_back(&KernelState::default())?.tables, [(1, slots)].into());
        drop(plane);
        assert!(kernel::cleanup(&fixture.dir())?.directory);
        Ok(())
    })?;
    with_capabilities(CapabilitySet::NET_RAW, || {
        let missing = vec!["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"];
        let refused = kernel::available(PlaneChoice::Auto, Some(&fixture.object));
        assert_eq!(refused, Err(Unavailable::NoCapability { missing }));
        Ok(())
    })
}
