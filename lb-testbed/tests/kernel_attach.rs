//! Programs on interfaces: where they attach, how they replace each other, what they leave alone.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use lb_common::names;
use lb_testbed::pinned::{Fixture, link, run, veth};
use lb_userspace::config::PlaneChoice;
use lb_userspace::kernel::{self, KernelError};
use lb_userspace::model::Plane;
use lb_userspace::network::{Link, qdiscs};

/// Whether the kernel has links for tc: since 6.6.
fn has_tcx() -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(6))
}

/// What an interface with the tc program has pinned: its link; without tcx marks of filter and qdisc.
fn tc_pins(index: u32) -> BTreeSet<String> {
    let names: &[&str] = if has_tcx() { &["tcx"] } else { &["clsact", "qdisc"] };
    names.iter().map(|name| format!("{index}-{name}")).collect()
}

#[test]
fn auto_takes_tc_on_virtual_devices_and_says_why() -> Result<()> {
    let fixture = Fixture::new()?;
    let _namespace = veth("auto")?;
    let (mut plane, _) = fixture.open()?;
    let attached = plane.programs.attach(&link("v0", true)?, PlaneChoice::Auto)?;
    assert_eq!(attached.plane, Some(Plane::Tc));
    assert!(attached.reason.contains("virtual device"), "{}", attached.reason);
    assert_eq!(attached.reason.contains("clsact"), !has_tcx(), "{}", attached.reason);
    assert_eq!(fixture.links()?, tc_pins(attached.ifindex));
    Ok(())
}

#[test]
fn auto_takes_native_xdp_where_the_driver_has_it_else_tc_with_the_reason() -> Result<()> {
    let fixture = Fixture::new()?;
    let _namespace = veth("nic")?;
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
    let _namespace = veth("foreign")?;
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
    let _namespace = veth("jumbo")?;
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
    let _namespace = veth("generic")?;
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
    let _namespace = veth("adopt")?;
    let (a, b) = (link("v0", true)?, link("v1", true)?);
    // Filters are not links: without tcx the second is XDP too.
    let (hook, plane_of_b) = if has_tcx() { ("tcx", Plane::Tc) } else { ("xdp", Plane::Xdp) };
    let choices = [(&a, PlaneChoice::Force(Plane::Xdp)), (&b, PlaneChoice::Force(plane_of_b))];
    let (mut plane, _) = fixture.open()?;
    for (link, choice) in choices {
        plane.programs.attach(link, choice)?;
    }
    let (first, second) = (format!("{}-xdp", a.index), format!("{}-{hook}", b.index));
    let before = [fixture.link(&first)?, fixture.link(&second)?];
    drop(plane);
    assert_eq!([fixture.link(&first)?, fixture.link(&second)?], before, "they stay without a daemon");

    // An interface keeps its index when it is renamed.
    run("ip link set v1 down && ip link set v1 name v2 && ip link set v2 up")?;
    let c = Link { name: "v2".to_owned(), ..b.clone() };
    let (mut plane, adopted) = fixture.open()?;
    assert_eq!(BTreeSet::from_iter(adopted.links), [(a.index, Plane::Xdp), (b.index, plane_of_b)].into());
    assert_eq!(fixture.link(&first)?, before[0], "opening replaces nothing");
    for (link, choice) in [(&a, choices[0].1), (&c, choices[1].1)] {
        plane.programs.attach(link, choice)?;
    }
    let after = [fixture.link(&first)?, fixture.link(&second)?];
    assert_eq!(after.map(|(link, _)| link), before.map(|(link, _)| link), "the same links");
    let program_of_b = if has_tcx() { names::PROGRAM_TC } else { names::PROGRAM_XDP };
    let ours = [fixture.program_id(names::PROGRAM_XDP)?, fixture.program_id(program_of_b)?];
    assert_eq!(after.map(|(_, program)| program), ours, "with the new programs");
    assert_ne!(after, before);

    // Another plane for the same interface, and none for the other.
    plane.programs.attach(&a, PlaneChoice::Force(Plane::Tc))?;
    assert_eq!(fixture.links()?, &tc_pins(a.index) | &[second].into());
    assert_eq!(plane.programs.detach_except(&[a.index].into())?, [b.index].into());
    assert_eq!(fixture.links()?, tc_pins(a.index));
    assert_eq!(plane.programs.attach(&a, PlaneChoice::Off)?.plane, None);
    let left = fixture.links()?;
    assert!(left.iter().all(|name| name.ends_with("-qdisc")), "{left:?}");
    Ok(())
}

#[test]
fn a_recreated_interface_is_not_taken_for_the_old_one() -> Result<()> {
    let fixture = Fixture::new()?;
    let _namespace = veth("recreate")?;
    let old = link("v0", true)?;
    let (mut plane, _) = fixture.open()?;
    plane.programs.attach(&old, PlaneChoice::Auto)?;
    drop(plane);
    run(&format!("ip link del v0 && ip link add v0 index {} type veth peer name v1", old.index))?;
    let new = link("v0", true)?;
    assert_eq!(new.index, old.index);

    let (mut plane, adopted) = fixture.open()?;
    if has_tcx() {
        assert_eq!(adopted.links, []);
        assert_eq!(fixture.links()?, BTreeSet::new());
    }
    plane.programs.attach(&new, PlaneChoice::Auto)?;
    if has_tcx() {
        let (_, program) = fixture.link(&format!("{}-tcx", new.index))?;
        assert_eq!(program, fixture.program_id(names::PROGRAM_TC)?);
    } else {
        // The mark of a filter knows its interface by index only; what counts is that the new one gets its filter.
        assert_eq!(filters()?.len(), 1);
    }
    Ok(())
}

/// Our filters on `v0`.
fn filters() -> Result<Vec<String>> {
    let listed = run("tc filter show dev v0 ingress")?;
    Ok(listed.lines().filter(|line| line.contains("sluice_tc")).map(str::to_owned).collect())
}

#[test]
fn clsact_filters_are_replaced_and_removed() -> Result<()> {
    let fixture = Fixture::new()?;
    let _namespace = veth("clsact")?;
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

    // Somebody else deletes ours, and not what is beside it; then all of the qdisc.
    for deletion in ["filter del dev v0 ingress prio 19522", "qdisc del dev v0 clsact"] {
        run("tc filter add dev v0 ingress prio 5 bpf bytecode '1,6 0 0 0,'")?;
        assert_eq!(plane.programs.attached()?, [(a.index, Plane::Tc)].into());
        run(&format!("tc {deletion}"))?;
        assert_eq!(plane.programs.attached()?, [].into(), "{deletion}");
        plane.programs.attach_clsact(&a)?;
        assert_eq!(filters()?.len(), 1, "{deletion}");
        assert_eq!(plane.programs.attached()?, [(a.index, Plane::Tc)].into());
    }

    assert_eq!(plane.programs.attach(&a, PlaneChoice::Auto)?.plane, Some(Plane::Tc));
    if has_tcx() {
        // A kernel that has got it since: the filter goes when the link is there.
        assert_eq!(filters()?, Vec::<String>::new());
        assert_eq!(fixture.links()?, [format!("{}-qdisc", a.index), format!("{}-tcx", a.index)].into());
    }

    plane.programs.attach_clsact(&a)?;
    drop(plane);
    // Somebody else's filter stays, and with it the qdisc that we made.
    run("tc filter add dev v0 ingress prio 5 bpf bytecode '1,6 0 0 0,'")?;
    let report = kernel::cleanup(&fixture.dir())?;
    let links = if has_tcx() { 2 } else { 1 };
    assert_eq!((report.links.len(), report.qdiscs.as_slice()), (links, [a.index].as_slice()));
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
