//! What outlives a daemon: pins, their adoption, attached programs, and their removal.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{MapData, MapInfo, loaded_maps};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, Xdp, XdpMode, loaded_programs};
use aya::{Ebpf, EbpfLoader};
use lb_common::{Backend, BackendId, names};
use lb_testbed::bpffs::Bpffs;
use lb_userspace::config::PlaneChoice;
use lb_userspace::data_plane::kernel::{KernelAction, KernelTables};
use lb_userspace::kernel::{self, Adopted, KernelError, KernelPlane, Settings, Unavailable};
use lb_userspace::model::Plane;
use lb_userspace::network::Link;
use lb_userspace::network::qdiscs;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Every program that is pinned.
const PROGRAMS: [&str; 4] =
    [names::PROGRAM_TC, names::PROGRAM_TC_RARE, names::PROGRAM_XDP, names::PROGRAM_XDP_RARE];

struct Fixture {
    bpffs: Bpffs,
    object: Vec<u8>,
}

impl Fixture {
    fn new() -> Result<Self> {
        Ok(Self { bpffs: Bpffs::mount()?, object: lb_testbed::object::bytes()? })
    }

    fn dir(&self) -> PathBuf {
        self.bpffs.join("sluice")
    }

    fn open_with(
        &self,
        dir: &Path,
        flows: u32,
        hash_seed: Option<[u64; 2]>,
    ) -> Result<(KernelPlane, Adopted), KernelError> {
        KernelPlane::open(&Settings { bpf_dir: dir, flows, hash_seed, object: &self.object })
    }

    fn open(&self) -> Result<(KernelPlane, Adopted), KernelError> {
        self.open_with(&self.dir(), 1024, None)
    }

    /// What a refused start says.
    fn refusal(&self, dir: &Path) -> Result<KernelError> {
        match self.open_with(dir, 1024, None) {
            Ok(_) => bail!("{}: was accepted", dir.display()),
            Err(error) => Ok(error),
        }
    }

    /// Id and program of a pinned link.
    fn link(&self, name: &str) -> Result<(u32, u32)> {
        let path = self.dir().join("links").join(name);
        let link = FdLink::from(PinnedLink::from_pin(&path).with_context(|| path.display().to_string())?);
        let info = link.info()?;
        Ok((info.id(), info.program_id()))
    }

    fn links(&self) -> Result<BTreeSet<String>> {
        names_in(&self.dir().join("links"))
    }

    fn program_id(&self, name: &str) -> Result<u32> {
        Ok(ProgramInfo::from_pin(self.dir().join("programs").join(name))?.id())
    }
}

fn names_in(directory: &Path) -> Result<BTreeSet<String>> {
    std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn run(command: &str) -> Result<String> {
    let output = Command::new("sh").args(["-c", command]).output()?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A network namespace that this thread is in, with a veth pair `v0` - `v1`; gone with the value.
struct Namespace {
    name: String,
}

impl Namespace {
    fn enter(test: &str) -> Result<Self> {
        let this = Self { name: format!("sluice-{test}-{}", std::process::id()) };
        run(&format!("ip netns add {}", this.name))?;
        let file = std::fs::File::open(Path::new("/run/netns").join(&this.name))?;
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind))?;
        run("ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up")?;
        Ok(this)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run(&format!("ip netns del {}", self.name)) {
            eprintln!("{error:#}");
        }
    }
}

fn link(name: &str, is_virtual: bool) -> Result<Link> {
    let index = run(&format!("ip -o link show dev {name}"))?
        .split(':')
        .next()
        .and_then(|index| index.parse().ok())
        .context("an interface index")?;
    Ok(Link { index, name: name.to_owned(), up: true, mtu: 1500, is_virtual, is_loopback: false })
}

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
    let (seed, state) = (plane.seed, plane.tables.read_back()?);
    assert_ne!(seed, [0, 0]);
    drop(plane);

    let (mut plane, adopted) = fixture.open_with(&dir, 1024, None)?;
    assert_eq!(adopted.maps, names::MAPS);
    assert_eq!(plane.seed, seed);
    assert_eq!(plane.tables.read_back()?, state);
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

    // The read-only data of the loaded program begins with the seed.
    let (_plane, _) = fixture.open()?;
    let info = ProgramInfo::from_pin(fixture.dir().join("programs").join(names::PROGRAM_TC))?;
    let mut found = false;
    for id in info.map_ids()?.context("map ids")? {
        let map = MapInfo::from_id(id)?;
        if map.name_as_str().is_some_and(|name| name.ends_with("rodata")) {
            let data: aya::maps::Array<_, [u64; 2]> =
                aya::maps::Array::try_from(aya::maps::Map::Array(MapData::from_id(id)?))?;
            found |= data.get(&0, 0)? == configured;
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
fn maps_of_another_layout_are_refused_by_name() -> Result<()> {
    let fixture = Fixture::new()?;
    let (plane, _) = fixture.open()?;
    drop(plane);
    let error = fixture.open_with(&fixture.dir(), 2048, None).err().context("another capacity")?;
    let KernelError::Layout { path, what, pinned: 1024, needed: 2048, .. } = &error else { bail!("{error}") };
    assert_eq!((path, *what), (&fixture.dir().join("maps/FLOWS"), "capacity"));
    assert!(error.to_string().contains("kernel.flows = 1024"), "{error}");

    let hosts = fixture.dir().join("maps/HOSTS");
    let found = MapInfo::from_pin(&hosts)?;
    std::fs::remove_file(&hosts)?;
    let other = aya_obj::Map::new_from_params(found.map_type()? as u32, 4, 8, found.max_entries(), 0);
    MapData::create(other, "HOSTS", None)?.pin(&hosts)?;
    let error = fixture.refusal(&fixture.dir())?;
    let KernelError::Layout { path, what: "value size", pinned: 8, needed: 40, cure } = &error else {
        bail!("{error}")
    };
    assert_eq!(path, &hosts);
    assert!(cure.contains("sluice cleanup"), "{cure}");
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
    plane.tables.read_back()?;
    assert_eq!(names_in(&fixture.dir().join("programs"))?, PROGRAMS.map(String::from).into());
    Ok(())
}

#[test]
fn auto_takes_tc_on_virtual_devices_and_says_why() -> Result<()> {
    let fixture = Fixture::new()?;
    let _namespace = Namespace::enter("auto")?;
    let (mut plane, _) = fixture.open()?;
    let attached = plane.programs.attach(&link("v0", true)?, PlaneChoice::Auto)?;
    assert_eq!(attached.plane, Some(Plane::Tc));
    assert!(attached.reason.contains("virtual device"), "{}", attached.reason);
    assert_eq!(fixture.links()?, [format!("{}-tcx", attached.ifindex)].into());
    Ok(())
}

#[test]
fn auto_takes_native_xdp_where_the_driver_has_it_else_tc_with_the_reason() -> Result<()> {
    let fixture = Fixture::new()?;
    let _namespace = Namespace::enter("nic")?;
    let (mut plane, _) = fixture.open()?;
    // veth has native XDP, as a NIC's driver may.
    let attached = plane.programs.attach(&link("v0", false)?, PlaneChoice::Auto)?;
    assert_eq!(attached.plane, Some(Plane::Xdp));
    assert!(run("ip -d link show dev v0")?.contains("prog/xdp id"), "in the driver, not xdpgeneric");

    // A driver without it.
    let without = link("lo", false)?;
    let attached = plane.programs.attach(&without, PlaneChoice::Auto)?;
    assert_eq!(attached.plane, Some(Plane::Tc));
    assert!(attached.reason.contains("native XDP is not possible"), "{}", attached.reason);
    let error =
        plane.programs.attach(&without, PlaneChoice::Force(Plane::Xdp)).err().context("no driver mode")?;
    assert!(
        matches!(&error, KernelError::Attach { interface, plane: Plane::Xdp, .. } if interface == "lo"),
        "{error}"
    );
    Ok(())
}

/// A program that passes everything, from nobody we know.
fn foreign(fixture: &Fixture) -> Result<Ebpf> {
    Ok(EbpfLoader::new().map_max_entries(names::MAP_FLOWS, 1024).load(&fixture.object)?)
}

#[test]
fn a_foreign_xdp_program_is_left_alone() -> Result<()> {
    let fixture = Fixture::new()?;
    let _namespace = Namespace::enter("foreign")?;
    let mut foreign = foreign(&fixture)?;
    let program: &mut Xdp = foreign.program_mut(names::PROGRAM_PASS).context("sluice_pass")?.try_into()?;
    program.load()?;
    program.attach("v0", XdpMode::Driver)?;
    let theirs = program.info()?.id();

    let (mut plane, _) = fixture.open()?;
    let error =
        plane.programs.attach(&link("v0", true)?, PlaneChoice::Force(Plane::Xdp)).err().context("busy")?;
    assert!(error.to_string().contains("another XDP program is attached"), "{error}");
    let attached = plane.programs.attach(&link("v0", false)?, PlaneChoice::Auto)?;
    assert_eq!(attached.plane, Some(Plane::Tc));
    assert!(attached.reason.contains("another XDP program is attached"), "{}", attached.reason);
    assert!(run("ip -d link show dev v0")?.contains(&format!("prog/xdp id {theirs} ")));
    Ok(())
}

#[test]
fn xdp_on_a_jumbo_veth_and_an_interface_that_is_gone() -> Result<()> {
    let fixture = Fixture::new()?;
    let _namespace = Namespace::enter("jumbo")?;
    let (mut plane, _) = fixture.open()?;
    run("ip link set v0 mtu 9000 && ip link set v1 mtu 9000")?;
    let a = link("v0", true)?;
    let attached = plane.programs.attach(&a, PlaneChoice::Force(Plane::Xdp))?;
    assert_eq!(attached.plane, Some(Plane::Xdp));
    assert!(attached.reason.contains("tx off"), "{}", attached.reason);

    run("ip link del v0")?;
    let error = plane.programs.attach(&a, PlaneChoice::Force(Plane::Tc)).err().context("gone")?;
    assert!(matches!(error, KernelError::Attach { .. }), "{error}");
    Ok(())
}

#[test]
fn generic_xdp_needs_the_offloads_off_and_names_the_command() -> Result<()> {
    let fixture = Fixture::new()?;
    let _namespace = Namespace::enter("generic")?;
    let (mut plane, _) = fixture.open()?;
    let a = link("v0", true)?;
    let generic = PlaneChoice::Force(Plane::XdpGeneric);
    let error = plane.programs.attach(&a, generic).err().context("offloads are on")?;
    let KernelError::Attach { cure, .. } = &error else { bail!("{error}") };
    let command = cure.split(", or").next().context("a command")?;
    assert!(command.starts_with("ethtool -K v0 "), "{command}");
    if Command::new("ethtool").arg("--version").output().is_err() {
        eprintln!("ethtool is not installed: only the refusal is tested");
        return Ok(());
    }
    run(command)?;
    assert_eq!(plane.programs.attach(&a, generic)?.plane, Some(Plane::XdpGeneric));
    assert!(run("ip -d link show dev v0")?.contains("xdpgeneric"));

    // From one mode to the other, which exclude each other.
    assert_eq!(plane.programs.attach(&a, PlaneChoice::Force(Plane::Xdp))?.plane, Some(Plane::Xdp));
    assert_eq!(fixture.links()?, [format!("{}-xdp", a.index)].into());
    Ok(())
}

#[test]
fn a_new_daemon_puts_its_programs_under_the_old_links() -> Result<()> {
    let fixture = Fixture::new()?;
    let _namespace = Namespace::enter("adopt")?;
    let (a, b) = (link("v0", true)?, link("v1", true)?);
    let choices = [(&a, PlaneChoice::Force(Plane::Xdp)), (&b, PlaneChoice::Auto)];
    let (mut plane, _) = fixture.open()?;
    for (link, choice) in choices {
        plane.programs.attach(link, choice)?;
    }
    let (xdp, tcx) = (format!("{}-xdp", a.index), format!("{}-tcx", b.index));
    let before = [fixture.link(&xdp)?, fixture.link(&tcx)?];
    drop(plane);
    assert_eq!([fixture.link(&xdp)?, fixture.link(&tcx)?], before, "they stay without a daemon");

    // An interface keeps its index when it is renamed.
    run("ip link set v1 down && ip link set v1 name v2 && ip link set v2 up")?;
    let c = Link { name: "v2".to_owned(), ..b.clone() };
    let (mut plane, adopted) = fixture.open()?;
    assert_eq!(BTreeSet::from_iter(adopted.links), [(a.index, Plane::Xdp), (b.index, Plane::Tc)].into());
    assert_eq!(fixture.link(&xdp)?, before[0], "opening replaces nothing");
    for (link, choice) in [(&a, choices[0].1), (&c, choices[1].1)] {
        plane.programs.attach(link, choice)?;
    }
    let after = [fixture.link(&xdp)?, fixture.link(&tcx)?];
    assert_eq!(after.map(|(link, _)| link), before.map(|(link, _)| link), "the same links");
    let ours = [fixture.program_id(names::PROGRAM_XDP)?, fixture.program_id(names::PROGRAM_TC)?];
    assert_eq!(after.map(|(_, program)| program), ours, "with the new programs");
    assert_ne!(after, before);

    // Another plane for the same interface, and none for the other.
    plane.programs.attach(&a, PlaneChoice::Force(Plane::Tc))?;
    assert_eq!(fixture.links()?, [format!("{}-tcx", a.index), tcx].into());
    assert_eq!(plane.programs.detach_except(&[a.index].into())?, [b.index].into());
    assert_eq!(fixture.links()?, [format!("{}-tcx", a.index)].into());
    assert_eq!(plane.programs.attach(&a, PlaneChoice::Off)?.plane, None);
    assert_eq!(fixture.links()?, BTreeSet::new());
    Ok(())
}

#[test]
fn a_recreated_interface_is_not_taken_for_the_old_one() -> Result<()> {
    let fixture = Fixture::new()?;
    let _namespace = Namespace::enter("recreate")?;
    let old = link("v0", true)?;
    let (mut plane, _) = fixture.open()?;
    plane.programs.attach(&old, PlaneChoice::Auto)?;
    drop(plane);
    run(&format!("ip link del v0 && ip link add v0 index {} type veth peer name v1", old.index))?;
    let new = link("v0", true)?;
    assert_eq!(new.index, old.index);

    let (mut plane, adopted) = fixture.open()?;
    assert_eq!(adopted.links, []);
    assert_eq!(fixture.links()?, BTreeSet::new());
    plane.programs.attach(&new, PlaneChoice::Auto)?;
    let (_, program) = fixture.link(&format!("{}-tcx", new.index))?;
    assert_eq!(program, fixture.program_id(names::PROGRAM_TC)?);
    Ok(())
}

#[test]
fn clsact_filters_are_replaced_and_removed() -> Result<()> {
    let fixture = Fixture::new()?;
    let _namespace = Namespace::enter("clsact")?;
    let filters = || -> Result<Vec<String>> {
        let listed = run("tc filter show dev v0 ingress")?;
        Ok(listed.lines().filter(|line| line.contains("sluice_tc")).map(str::to_owned).collect())
    };
    let a = link("v0", true)?;
    let (mut plane, _) = fixture.open()?;
    plane.programs.attach_clsact(&a)?;
    let first = filters()?;
    assert_eq!(first.len(), 1, "{first:?}");
    drop(plane);
    assert_eq!(filters()?, first, "it stays without a daemon");

    let (mut plane, adopted) = fixture.open()?;
    assert_eq!(adopted.links, [(a.index, Plane::Tc)]);
    plane.programs.attach_clsact(&a)?;
    let second = filters()?;
    assert_eq!(second.len(), 1, "{second:?}");
    assert_ne!(second, first, "another program");
    assert!(second[0].contains(&format!(" id {} ", fixture.program_id(names::PROGRAM_TC)?)), "{second:?}");

    // A kernel that has got tcx: the filter goes when the link is there.
    assert_eq!(plane.programs.attach(&a, PlaneChoice::Auto)?.plane, Some(Plane::Tc));
    assert_eq!(filters()?, Vec::<String>::new());
    assert_eq!(fixture.links()?, [format!("{}-qdisc", a.index), format!("{}-tcx", a.index)].into());

    plane.programs.attach_clsact(&a)?;
    drop(plane);
    // Somebody else's filter stays, and with it the qdisc that we made.
    run("tc filter add dev v0 ingress prio 5 bpf bytecode '1,6 0 0 0,'")?;
    let report = kernel::cleanup(&fixture.dir())?;
    assert_eq!((report.links.len(), report.qdiscs.as_slice()), (2, [a.index].as_slice()));
    assert_eq!(filters()?, Vec::<String>::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let release = || runtime.block_on(qdiscs::release(&report.qdiscs));
    assert!(release()?.is_empty());
    assert!(run("tc filter show dev v0 ingress")?.contains("bytecode"));
    run("tc filter del dev v0 ingress prio 5")?;
    assert_eq!(release()?, [a.index]);
    assert!(!run("tc qdisc show dev v0")?.contains("clsact"));

    // One that was there before us is not ours to remove.
    run("tc qdisc add dev v0 clsact")?;
    let (mut plane, _) = fixture.open()?;
    plane.programs.attach_clsact(&a)?;
    drop(plane);
    assert!(kernel::cleanup(&fixture.dir())?.qdiscs.is_empty());
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
    let _namespace = Namespace::enter("cleanup")?;
    let (mut plane, _) = fixture.open()?;
    plane.programs.attach(&link("v0", true)?, PlaneChoice::Force(Plane::Xdp))?;
    plane.programs.attach(&link("v1", true)?, PlaneChoice::Auto)?;
    plane
        .tables
        .apply(&KernelAction::SwapTable { table: 1, slots: vec![lb_common::Slot::default(); 251] })?;
    drop(plane);

    let mut maps = BTreeSet::new();
    for directory in ["maps", "tables", "old_seen"] {
        for name in names_in(&fixture.dir().join(directory))? {
            maps.insert(MapInfo::from_pin(fixture.dir().join(directory).join(name))?.id());
        }
    }
    let programs: BTreeSet<u32> =
        PROGRAMS.iter().map(|name| fixture.program_id(name)).collect::<Result<_>>()?;
    assert_eq!(maps.len(), names::MAPS.len() + 2);

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
    let settings = Settings { bpf_dir: &fixture.dir(), flows: 1024, hash_seed: None, object: b"no ELF" };
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
    let _namespace = Namespace::enter("rights")?;
    let (v0, v1) = (link("v0", true)?, link("v1", true)?);
    let slots = vec![lb_common::Slot::stable(BackendId::new(1, 1)); 251];
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
        assert_eq!(plane.tables.read_back()?.tables, [(1, slots)].into());
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
