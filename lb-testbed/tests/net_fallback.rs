//! Where the kernel planes cannot serve, the proxy does by itself, or the daemon refuses: never silence.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use lb_testbed::bed::{Bed, PORT, Setup};
use lb_testbed::eventually::eventually;
use lb_testbed::namespace::Namespace;
use lb_testbed::topology::{Topology, VIP4, VIP6};
use lb_userspace::model::Plane;
use rustix::thread::CapabilitySet;

const DEADLINE: Duration = Duration::from_secs(10);
/// Whoever has none of these can load no program. CAP_SYS_ADMIN stands for CAP_BPF.
const NO_BPF: CapabilitySet =
    CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN).union(CapabilitySet::PERFMON);

fn serves(bed: &Bed) -> anyhow::Result<()> {
    let report = bed.long(20, None)?.finish()?;
    ensure!(report.broken == 0, "{report}");
    Ok(())
}

fn proxied_because(bed: &Bed, reason: &str) -> anyhow::Result<()> {
    let service = bed.service()?;
    ensure!(service.plane == Some(Plane::Proxy) && service.forward == "proxy", "{service:?}");
    ensure!(service.reason.contains(reason), "{service:?} does not say {reason:?}");
    Ok(())
}

fn owns(lb: &Namespace) -> anyhow::Result<bool> {
    let shown = lb.ip("-o address")?;
    Ok(shown.contains(&format!("{VIP4}/")) || shown.contains(&format!("{VIP6}/")))
}

/// The config of a bed on any plane, with a part of it replaced.
fn changed(bed: &Bed, from: &str, to: &str) -> anyhow::Result<()> {
    let config = bed.config(&[100; 6]);
    ensure!(config.contains(from), "{config}");
    bed.sluice.write_config(&config.replace(from, to))
}

#[test]
fn without_a_kernel_plane_the_proxy_serves_and_owns_the_vip_as_long_as_it_lives() -> anyhow::Result<()> {
    let mut bed = Bed::prepare(Setup::on(Plane::Proxy))?;
    ensure!(!owns(&bed.topology.lb)?);
    bed.sluice.start()?;
    proxied_because(&bed, "kernel.plane is \"off\"")?;
    ensure!(owns(&bed.topology.lb)?, "the VIPs are nobody's");
    serves(&bed)?;
    ensure!(bed.sluice.stop(DEADLINE)?.success());
    ensure!(!owns(&bed.topology.lb)?, "the VIPs stayed");
    Ok(())
}

#[test]
fn without_the_right_to_load_programs_the_proxy_serves() -> anyhow::Result<()> {
    let mut bed = Bed::prepare(Setup::on(Plane::Tc))?;
    changed(&bed, "plane = \"tc\"", "plane = \"auto\"")?;
    bed.sluice.deny(NO_BPF);
    bed.sluice.start()?;
    proxied_because(&bed, "CAP_BPF")?;
    serves(&bed)?;
    // The same config with rights: the better plane.
    ensure!(bed.sluice.stop(DEADLINE)?.success());
    bed.sluice.deny(CapabilitySet::empty());
    bed.sluice.start()?;
    let service = bed.service()?;
    ensure!(service.plane == Some(Plane::Tc) && !owns(&bed.topology.lb)?, "{service:?}");
    serves(&bed)
}

#[test]
fn without_rights_over_the_network_the_vip_must_be_there() -> anyhow::Result<()> {
    let mut bed = Bed::prepare(Setup::on(Plane::Tc))?;
    changed(&bed, "plane = \"tc\"", "plane = \"auto\"")?;
    bed.sluice.deny(NO_BPF | CapabilitySet::NET_ADMIN);
    let exit = bed.sluice.fail()?;
    let log = bed.sluice.log();
    ensure!(exit.code() == Some(1) || exit.code() == Some(4), "{exit}: {log}");
    ensure!(log.contains(&VIP4.to_string()) && log.contains("Operation not permitted"), "{log}");

    for vip in [VIP4, VIP6] {
        bed.topology.lb.ip(&format!("address add {vip} dev lo"))?;
    }
    bed.sluice.start()?;
    proxied_because(&bed, "CAP_NET_ADMIN")?;
    serves(&bed)?;
    ensure!(bed.sluice.stop(DEADLINE)?.success());
    ensure!(owns(&bed.topology.lb)?, "somebody else's address was taken off");
    Ok(())
}

#[test]
fn who_wants_no_fallback_gets_a_reason() -> anyhow::Result<()> {
    let mut bed = Bed::prepare(Setup::on(Plane::Tc))?;
    let refuse = "forward = \"nat\"\nfallback = \"refuse\"\ndown_grace";
    let config = bed.config(&[100; 6]).replace("plane = \"tc\"", "plane = \"auto\"");
    bed.sluice.write_config(&config.replace("down_grace", refuse))?;
    bed.sluice.deny(NO_BPF);
    let exit = bed.sluice.fail()?;
    let log = bed.sluice.log();
    ensure!(exit.code() == Some(1), "{exit}: {log}");
    ensure!(log.contains("CAP_BPF") && log.contains("refuse"), "{log}");
    ensure!(!owns(&bed.topology.lb)?);

    // A plane that is asked for by name is not replaced by another one either.
    bed.sluice.write_config(&bed.config(&[100; 6]))?;
    let exit = bed.sluice.fail()?;
    ensure!(exit.code() == Some(1) || exit.code() == Some(4), "{exit}: {}", bed.sluice.log());

    bed.sluice.deny(CapabilitySet::empty());
    bed.sluice.write_config(&config.replace("down_grace", refuse))?;
    bed.sluice.start()?;
    ensure!(bed.service()?.plane == Some(Plane::Tc));
    serves(&bed)
}

#[test]
fn what_only_the_proxy_can_do_goes_there_with_a_reason() -> anyhow::Result<()> {
    let mut bed = Bed::prepare(Setup::on(Plane::Tc))?;
    for (from, to, reason) in [
        ("table_size = 4099", "scheduler = \"round_robin\"", "round_robin"),
        ("down_grace", "forward = \"proxy\"\ndown_grace", "forward = \"proxy\""),
    ] {
        changed(&bed, from, to)?;
        bed.sluice.start()?;
        proxied_because(&bed, reason)?;
        serves(&bed)?;
        ensure!(bed.sluice.stop(DEADLINE)?.success());
    }
    Ok(())
}

#[test]
fn a_service_moves_between_the_planes_by_reload() -> anyhow::Result<()> {
    let bed = Bed::start(Setup::on(Plane::Tc))?;
    serves(&bed)?;
    changed(&bed, "down_grace", "forward = \"proxy\"\ndown_grace")?;
    reload(&bed)?;
    proxied_because(&bed, "forward = \"proxy\"")?;
    serves(&bed)?;
    ensure!(owns(&bed.topology.lb)?);
    bed.sluice.write_config(&bed.config(&[100; 6]))?;
    reload(&bed)?;
    let service = bed.service()?;
    ensure!(service.plane == Some(Plane::Tc), "{service:?}");
    eventually("the VIPs are nobody's again", DEADLINE, || Ok((!owns(&bed.topology.lb)?).then_some(())))?;
    serves(&bed)
}

fn reload(bed: &Bed) -> anyhow::Result<()> {
    lb_testbed::process::succeeded(bed.sluice.ask(&["reload"])?).map(drop)
}

#[test]
fn a_port_that_is_taken_is_named() -> anyhow::Result<()> {
    let mut bed = Bed::prepare(Setup::on(Plane::Proxy))?;
    let lb: &Topology = &bed.topology;
    lb.lb.ip(&format!("address add {VIP4} dev lo"))?;
    let listen = SocketAddr::new(VIP4, PORT);
    let taken = lb.lb.run(|| std::net::TcpListener::bind(listen))?.context("binding the VIP")?;
    let exit = bed.sluice.fail()?;
    let log = bed.sluice.log();
    ensure!(exit.code() == Some(1), "{exit}: {log}");
    ensure!(log.contains(&listen.to_string()) && log.contains("in use"), "{log}");
    drop(taken);
    bed.sluice.start()?;
    serves(&bed)
}

#[test]
fn a_proxy_that_has_no_port_left_says_so_and_how_to_mend_it() -> anyhow::Result<()> {
    let mut bed = Bed::prepare(Setup::on(Plane::Proxy))?;
    bed.topology.lb.sysctl("net/ipv4/ip_local_port_range", "50000 50007")?;
    bed.topology.lb.sysctl("net/ipv4/tcp_tw_reuse", "2")?;
    bed.sluice.start()?;
    let told = |what: &str| {
        eventually(what, DEADLINE, || {
            let log = bed.sluice.log();
            Ok((log.contains(what) && log.contains("tcp_tw_reuse=1")).then_some(()))
        })
    };
    told("8 ephemeral ports")?;
    let churn = bed.churn(50);
    told("cannot open further connections")?;
    churn.stop()?;
    Ok(())
}
