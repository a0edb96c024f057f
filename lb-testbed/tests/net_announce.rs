//! Who owns a VIP on the wire: clients in its own subnet find it with nothing configured.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use lb_common::Counter;
use lb_testbed::bed::{Bed, PORT, Setup};
use lb_testbed::client::visit::Visit;
use lb_testbed::eventually::eventually;
use lb_testbed::process::succeeded;
use lb_testbed::topology::HOST_INTERFACE;
use lb_userspace::model::Plane;

const DEADLINE: Duration = Duration::from_secs(10);
/// Addresses of nobody, in the subnets of the client's link.
const VIPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 201, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x201, 0, 0, 0, 0, 0, 0x10)),
];
/// Where the VIPs were before.
const ELSEWHERE: &str = "02:00:00:00:00:99";

#[test]
fn tc_answers_for_the_vip_on_its_link() -> anyhow::Result<()> {
    is_found(Plane::Tc)
}

#[test]
fn xdp_answers_for_the_vip_on_its_link() -> anyhow::Result<()> {
    is_found(Plane::Xdp)
}

#[test]
fn the_proxy_has_the_vip_as_an_address_and_gives_it_back() -> anyhow::Result<()> {
    let mut bed = Bed::start(Setup { vips: VIPS.into(), ..Setup::on(Plane::Proxy) })?;
    owned(&bed, "address")?;
    for target in bed.targets() {
        Visit::open(&bed.topology.client.namespace, target)?.speak()?;
        ensure!(has(&bed, target.ip())?, "{target} is not the host's");
    }
    // Without its service a VIP is nobody's, and with it the host's again.
    let whole = fs::read_to_string(bed.sluice.config())?;
    let first = whole.replace(&format!(", \"{}\"", SocketAddr::new(VIPS[1], PORT)), "");
    ensure!(first != whole, "{whole}");
    for (config, is_second_there) in [(first, false), (whole, true)] {
        bed.sluice.write_config(&config)?;
        succeeded(bed.sluice.ask(&["reload"])?)?;
        eventually("the address follows the config", DEADLINE, || {
            Ok((has(&bed, VIPS[1])? == is_second_there).then_some(()))
        })?;
        ensure!(has(&bed, VIPS[0])?, "{} is not the host's", VIPS[0]);
    }
    bed.sluice.stop(DEADLINE)?;
    for vip in VIPS {
        ensure!(!has(&bed, vip)?, "{vip} is still the host's");
    }
    Ok(())
}

fn is_found(plane: Plane) -> anyhow::Result<()> {
    let mut bed = Bed::prepare(Setup { vips: VIPS.into(), ..Setup::on(plane) })?;
    let client = bed.topology.client.namespace.clone();
    for vip in VIPS {
        client.ip(&format!("neigh replace {vip} lladdr {ELSEWHERE} dev {HOST_INTERFACE} nud stale"))?;
    }
    bed.sluice.start()?;
    owned(&bed, "arp")?;
    for vip in VIPS {
        eventually(&format!("the client hears where {vip} is now"), DEADLINE, || {
            let neighbours = client.ip(&format!("neigh show {vip} dev {HOST_INTERFACE}"))?;
            Ok((neighbours.contains("lladdr") && !neighbours.contains(ELSEWHERE)).then_some(()))
        })?;
    }
    visit_anew(&bed)?;
    become_stranger(&bed, 7)?;
    visit_anew(&bed)?;
    bed.sluice.kill()?;
    become_stranger(&bed, 8)?;
    visit_anew(&bed)?;
    bed.sluice.start()?;
    visit_anew(&bed)?;
    let dropped = bed.sluice.status()?.drops.get(Counter::NoNeighbour.name()).copied();
    ensure!(dropped == Some(0), "{plane:?}: {dropped:?} replies had no way to the client");
    Ok(())
}

/// Gives the client addresses that nobody on its link has met.
fn become_stranger(bed: &Bed, number: u8) -> anyhow::Result<()> {
    let client = &bed.topology.client.namespace;
    client.ip_batch(&[
        format!("address flush dev {HOST_INTERFACE} scope global"),
        format!("address add 10.201.0.{number}/24 dev {HOST_INTERFACE}"),
        format!("address add fd00:201::{number}/64 dev {HOST_INTERFACE} nodad"),
    ])
}

/// Opens a flow to each VIP by a client that has to ask where that is.
fn visit_anew(bed: &Bed) -> anyhow::Result<()> {
    let client = &bed.topology.client.namespace;
    for target in bed.targets() {
        client.ip(&format!("neigh flush dev {HOST_INTERFACE}"))?;
        Visit::open(client, target)?.speak()?;
        ensure!(!has(bed, target.ip())?, "{target} is the host's");
    }
    Ok(())
}

/// Whether an address is the balancer's.
fn has(bed: &Bed, vip: IpAddr) -> anyhow::Result<bool> {
    Ok(bed.topology.lb.ip("-o address show")?.contains(&format!(" {vip}/")))
}

fn owned(bed: &Bed, by: &str) -> anyhow::Result<()> {
    let service = bed.service()?;
    for vip in VIPS {
        let status = service.vips.iter().find(|status| status.address == vip);
        let status = status.with_context(|| format!("the status does not say who owns {vip}"))?;
        ensure!(status.owner == by && !status.reason.is_empty(), "{status:?}");
    }
    Ok(())
}
