//! What happens to the interfaces and neighbours of a balancer while it works: new flows find their way again within a
//! second, and flows that need not notice do not.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lb_testbed::bed::{Bed, Setup};
use lb_testbed::client::churn::Churn;
use lb_testbed::client::long::LongFlows;
use lb_testbed::eventually::eventually;
use lb_testbed::namespace::Namespace;
use lb_testbed::topology::{HOST_INTERFACE, Host, VIP4, VIP6};
use lb_userspace::model::Plane;

/// Of new flows that get no answer.
const HEALED: Duration = Duration::from_secs(1);
/// What it takes to look and to begin, on a busy machine.
const NOTICE: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(20);
/// A new flow that has no answer within this is lost.
const ANSWER: Duration = Duration::from_millis(500);
const RATE: u32 = 50;

/// Whose old flows have to go on.
#[derive(Clone, Copy, PartialEq)]
enum Spared {
    All,
    /// Those of the other backends.
    Others,
}

#[test]
fn tc_when_an_interface_is_renamed() -> anyhow::Result<()> {
    heals(Plane::Tc, Spared::All, rename)
}

#[test]
fn xdp_when_an_interface_is_renamed() -> anyhow::Result<()> {
    heals(Plane::Xdp, Spared::All, rename)
}

#[test]
fn tc_when_an_mtu_changes() -> anyhow::Result<()> {
    heals(Plane::Tc, Spared::All, shrink)
}

#[test]
fn xdp_when_an_mtu_changes() -> anyhow::Result<()> {
    heals(Plane::Xdp, Spared::All, shrink)
}

#[test]
fn tc_when_a_backend_has_another_mac_address_and_says_so() -> anyhow::Result<()> {
    heals(Plane::Tc, Spared::All, |_, host| {
        host.namespace.sysctl(&format!("net/ipv4/conf/{HOST_INTERFACE}/arp_notify"), "1")?;
        host.namespace.sysctl(&format!("net/ipv6/conf/{HOST_INTERFACE}/ndisc_notify"), "1")?;
        another_mac(host)
    })
}

#[test]
fn xdp_when_a_backend_has_another_mac_address_and_does_not_say_so() -> anyhow::Result<()> {
    heals(Plane::Xdp, Spared::All, |_, host| another_mac(host))
}

#[test]
fn tc_when_an_interface_is_made_anew() -> anyhow::Result<()> {
    heals(Plane::Tc, Spared::Others, |bed, host| {
        let link = &host.link;
        bed.topology.lb.ip(&format!("link delete {link}"))?;
        bed.topology.lb.ip(&format!(
            "link add {link} type veth peer name {HOST_INTERFACE} netns {}",
            host.namespace.name()
        ))?;
        addresses(bed, host)?;
        host.mend()
    })
}

#[test]
fn tc_when_an_interface_is_away_for_a_while() -> anyhow::Result<()> {
    let elsewhere = Namespace::new("elsewhere")?;
    heals(Plane::Tc, Spared::Others, |bed, host| {
        let link = &host.link;
        bed.topology.lb.ip(&format!("link set {link} netns {}", elsewhere.name()))?;
        elsewhere.ip(&format!("link set {link} netns {}", bed.topology.lb.name()))?;
        addresses(bed, host)
    })
}

fn rename(bed: &Bed, host: &Host) -> anyhow::Result<()> {
    bed.topology.lb.ip(&format!("link set {} name renamed", host.link)).map(drop)
}

fn shrink(bed: &Bed, host: &Host) -> anyhow::Result<()> {
    bed.topology.lb.ip(&format!("link set {} mtu 1400", host.link))?;
    host.namespace.ip(&format!("link set {HOST_INTERFACE} mtu 1400")).map(drop)
}

/// An own one of the host; its link stays up.
fn another_mac(host: &Host) -> anyhow::Result<()> {
    host.namespace.ip(&format!("link set {HOST_INTERFACE} address 02:00:00:00:77:01")).map(drop)
}

/// What the balancer's end of the first backend's link had.
fn addresses(bed: &Bed, host: &Host) -> anyhow::Result<()> {
    let link = &host.link;
    bed.topology.lb.ip_batch(&[
        format!("address replace 10.201.1.1/24 dev {link}"),
        format!("address replace fd00:201:1::1/64 dev {link} nodad"),
        format!("link set {link} up"),
    ])
}

/// Lets something happen to the link of the first backend.
fn heals(
    plane: Plane,
    spared: Spared,
    event: impl Fn(&Bed, &Host) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for vip in [VIP4, VIP6] {
        let bed = Bed::start(Setup { vips: vec![vip], interval: "500ms", ..Setup::on(plane) })?;
        heals_on(&bed, spared, &event).with_context(|| format!("{plane}, {vip}: {}", bed.sluice.log()))?;
    }
    Ok(())
}

fn heals_on(
    bed: &Bed,
    spared: Spared,
    event: &impl Fn(&Bed, &Host) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let host = &bed.topology.backends[0];
    let long = bed.long(30, Some(Duration::from_millis(100)))?;
    let churn = bed.churn_within(RATE, ANSWER);
    goes_on(&churn, NOTICE)?;
    let before = churn.now_ms();
    event(bed, host)?;
    let after = churn.now_ms();
    goes_on(&churn, HEALED + NOTICE)?;
    eventually("the backend is up", DEADLINE, || Ok((bed.pool()?.backends[0].state == "up").then_some(())))?;
    answers(bed)?;
    let new = churn.stop()?;
    let last = new.losses.iter().map(|loss| loss.at_ms).fold(before, f64::max);
    println!("took {:.0} ms, last loss {:.0} ms after it, {} lost", after - before, last - after, new.lost);
    ensure!(new.losses.iter().all(|loss| loss.at_ms >= before - 1000.0 * ANSWER.as_secs_f64()), "{new}");
    let limit = (HEALED + NOTICE).as_secs_f64() * 1000.0;
    ensure!(last - after < limit, "flows were lost until {:.0} ms after it: {new}", last - after);
    unharmed(long, spared)
}

fn goes_on(churn: &Churn, time: Duration) -> anyhow::Result<()> {
    let (start, begun) = (Instant::now(), churn.begun());
    eventually("the load goes on", time + DEADLINE, || Ok((start.elapsed() >= time).then_some(())))?;
    ensure!(churn.begun() > begun, "no new flows");
    Ok(())
}

/// The first backend itself serves again.
fn answers(bed: &Bed) -> anyhow::Result<()> {
    eventually("it answers", DEADLINE, || {
        let new = bed.long(10, None)?.finish()?;
        Ok(new.backends.contains_key("b1").then_some(()))
    })
}

fn unharmed(long: LongFlows, spared: Spared) -> anyhow::Result<()> {
    let report = long.finish()?;
    println!("{report}");
    let harmed = |end: &&lb_testbed::client::long::End| spared == Spared::All || end.backend != "b1";
    ensure!(report.ends.iter().filter(harmed).count() == 0, "{report}");
    Ok(())
}
