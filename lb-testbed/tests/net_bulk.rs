//! Bulk transfers through each plane: every byte arrives, and nothing stalls, whatever the MTU and the offloads.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use lb_testbed::bed::{Bed, Setup};
use lb_testbed::client::bulk;
use lb_testbed::topology::Options;
use lb_userspace::model::Plane;

const BYTES: u64 = 64 << 20;
/// The least that IPv6 may meet, the usual, and jumbo frames.
const MTUS: [u32; 3] = [1280, 1500, 9000];
const STALL: Duration = Duration::from_secs(1);

#[test]
fn bulk_through_tc_is_intact() -> anyhow::Result<()> {
    for (mtu, offloads) in MTUS.into_iter().flat_map(|mtu| [(mtu, true), (mtu, false)]) {
        transfers(Setup {
            topology: Options { mtu, offloads, ..Options::default() },
            ..Setup::on(Plane::Tc)
        })?;
    }
    Ok(())
}

/// Without offloads: see [`xdp_on_veth_says_what_it_needs`].
#[test]
fn bulk_through_xdp_is_intact() -> anyhow::Result<()> {
    for mtu in MTUS {
        transfers(Setup { topology: Options { mtu, ..Options::xdp() }, ..Setup::on(Plane::Xdp) })?;
    }
    Ok(())
}

#[test]
fn bulk_through_the_proxy_is_intact() -> anyhow::Result<()> {
    for (mtu, offloads) in MTUS.into_iter().flat_map(|mtu| [(mtu, true), (mtu, false)]) {
        let topology = Options { mtu, offloads, ..Options::default() };
        transfers(Setup { topology, ..Setup::on(Plane::Proxy) })?;
    }
    Ok(())
}

#[test]
fn generic_xdp_is_refused_until_offloads_are_off() -> anyhow::Result<()> {
    let mut bed = Bed::prepare(Setup { topology: Options::xdp(), ..Setup::on(Plane::XdpGeneric) })?;
    let links = |bed: &Bed| -> Vec<String> {
        let hosts = std::iter::once(&bed.topology.client).chain(&bed.topology.backends);
        hosts.map(|host| host.link.clone()).collect()
    };
    let refusal = bed.sluice.start().err().context("it started over receive offloads")?.to_string();
    ensure!(refusal.contains("stall bulk") || bed.sluice.log().contains("stall bulk"), "{refusal}");
    ensure!(bed.sluice.log().contains("ethtool -K"), "{}", bed.sluice.log());
    for link in links(&bed) {
        let off = ["-K", &link, "gro", "off", "gso", "off", "tso", "off"];
        bed.topology.lb.output(Command::new("ethtool").args(off))?;
    }
    bed.sluice.start()?;
    transfer(&bed)
}

#[test]
fn xdp_on_veth_says_what_it_needs() -> anyhow::Result<()> {
    let bed = Bed::start(Setup { topology: Options::default(), ..Setup::on(Plane::Xdp) })?;
    let status = bed.sluice.status()?;
    for on in &status.planes {
        ensure!(on.plane == Some(Plane::Xdp), "{on:?}");
        ensure!(on.reason.contains("ethtool -K") && on.reason.contains("tx off"), "{on:?}");
    }
    Ok(())
}

fn transfers(setup: Setup) -> anyhow::Result<()> {
    let shown = format!("{:?} {:?}", setup.plane, setup.topology);
    Bed::start(setup).and_then(|bed| transfer(&bed)).context(shown)
}

/// Through the IPv4 VIP and the IPv6 one, both ways at once.
fn transfer(bed: &Bed) -> anyhow::Result<()> {
    for target in bed.targets() {
        let plan = bulk::Plan { target, bytes: BYTES / 2, stall: STALL };
        let report = bulk::transfer(&bed.topology.client.namespace, plan)?;
        println!("{target}: {report:?}");
        ensure!(report.intact && bed.known().contains(&report.backend), "{report:?}");
    }
    Ok(())
}
