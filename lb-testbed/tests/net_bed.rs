//! The test bed itself, without Sluice: it forwards, and its judges see what they must.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use lb_testbed::backend::{Kind, Server};
use lb_testbed::client::churn::{self, Churn};
use lb_testbed::client::long::{self, LongFlows};
use lb_testbed::client::{Outcome, http};
use lb_testbed::eventually::eventually;
use lb_testbed::topology::{HOST_INTERFACE, Options, Topology, VIP4, VIP6};

const DEADLINE: Duration = Duration::from_secs(10);
const PORT: u16 = 8080;

fn server(bed: &Topology, backend: usize, kind: Kind, like: std::net::IpAddr) -> anyhow::Result<Server> {
    let host = &bed.backends[backend];
    Server::start(&host.namespace, kind, &format!("b{backend}"), host.socket(like, PORT))
}

fn known(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

fn flows(server: &Server, flows: u64, interval: Option<Duration>) -> long::Plan {
    long::Plan {
        target: server.address(),
        flows,
        interval,
        known: known(&[server.id()]),
        stall: Duration::from_secs(1),
    }
}

#[test]
fn a_router_breaks_nothing() -> anyhow::Result<()> {
    for (options, vip) in
        [(Options::default(), VIP4), (Options { mtu: 9000, offloads: false, ..Options::default() }, VIP6)]
    {
        let bed = Topology::new(options)?;
        let server = server(&bed, 0, Kind::Echo, vip)?;
        let long =
            LongFlows::open(&bed.client.namespace, flows(&server, 1000, Some(Duration::from_millis(200))))?;
        let churn = Churn::start(
            &bed.client.namespace,
            churn::Plan {
                target: server.address(),
                kind: Kind::Echo,
                rate: 500,
                known: known(&["b0"]),
                deadline: Duration::from_secs(3),
            },
        );
        eventually("half a second of new flows", DEADLINE, || Ok((churn.now_ms() > 500.0).then_some(())))?;
        let churn = churn.stop()?;
        ensure!(churn.lost == 0 && churn.flows > 200 && churn.backends["b0"] == churn.flows, "{churn:?}");
        let long = long.finish()?;
        ensure!(long.broken == 0 && long.outcomes[&Outcome::Ok] == 1000, "{long:?}");
        ensure!(long.broken_share_below < 0.0031 && serde_json::to_string(&long)?.contains("\"ok\":1000"));
    }
    Ok(())
}

#[test]
fn http_answers_with_the_id() -> anyhow::Result<()> {
    let bed = Topology::new(Options { backends: 2, ..Options::default() })?;
    let servers = [server(&bed, 0, Kind::Http, VIP4)?, server(&bed, 1, Kind::Http, VIP6)?];
    for server in &servers {
        ensure!(http::get(&bed.client.namespace, server.address(), "/health")? == server.id());
    }
    let plan = churn::Plan {
        target: servers[0].address(),
        kind: Kind::Http,
        rate: 200,
        known: known(&["someone else"]),
        deadline: Duration::from_secs(3),
    };
    let churn = Churn::start(&bed.client.namespace, plan);
    eventually("a tenth of a second of requests", DEADLINE, || Ok((churn.now_ms() > 100.0).then_some(())))?;
    let report = churn.stop()?;
    ensure!(report.lost == report.flows && report.losses[0].why.contains("b0"), "{report:?}");
    Ok(())
}

#[test]
fn a_killed_server_ends_its_flows_and_no_others() -> anyhow::Result<()> {
    let bed = Topology::new(Options { backends: 2, ..Options::default() })?;
    let mut victim = server(&bed, 0, Kind::Echo, VIP4)?;
    let other = server(&bed, 1, Kind::Echo, VIP4)?;
    let silent = LongFlows::open(&bed.client.namespace, flows(&victim, 20, None))?;
    let others = LongFlows::open(&bed.client.namespace, flows(&other, 20, None))?;
    victim.kill();
    eventually("the reset is seen", DEADLINE, || Ok((silent.report().broken == 20).then_some(())))?;
    let report = silent.finish()?;
    ensure!(report.outcomes[&Outcome::Reset] == 20 && report.ends[0].backend == "b0", "{report:?}");
    ensure!(others.finish()?.broken == 0);
    let refused = LongFlows::open(&bed.client.namespace, flows(&victim, 5, None))?.finish()?;
    ensure!(refused.outcomes[&Outcome::NotConnected] == 5, "{refused:?}");
    victim.resume()?;
    ensure!(LongFlows::open(&bed.client.namespace, flows(&victim, 5, None))?.finish()?.broken == 0);
    Ok(())
}

#[test]
fn a_paused_server_keeps_its_flows() -> anyhow::Result<()> {
    let bed = Topology::new(Options { backends: 1, ..Options::default() })?;
    let mut server = server(&bed, 0, Kind::Echo, VIP6)?;
    let silent = LongFlows::open(&bed.client.namespace, flows(&server, 20, None))?;
    server.pause();
    eventually("new flows are refused", DEADLINE, || {
        let report = LongFlows::open(&bed.client.namespace, flows(&server, 1, None))?.finish()?;
        Ok((report.broken == 1).then_some(()))
    })?;
    silent.speak()?;
    server.resume()?;
    let late = LongFlows::open(&bed.client.namespace, flows(&server, 1, None))?.finish()?;
    ensure!(late.broken == 0, "{late:?}");
    ensure!(silent.finish()?.broken == 0);
    Ok(())
}

#[test]
fn a_cut_link_stalls_and_a_mended_one_works() -> anyhow::Result<()> {
    let bed = Topology::new(Options { backends: 1, ..Options::default() })?;
    for like in [VIP4, VIP6] {
        let server = server(&bed, 0, Kind::Echo, like)?;
        let long =
            LongFlows::open(&bed.client.namespace, flows(&server, 10, Some(Duration::from_millis(100))))?;
        bed.backends[0].cut()?;
        // The router knows that the link is down and says so: hard errors and stalls are both breaks.
        eventually("all flows are seen to be broken", DEADLINE, || {
            Ok((long.report().broken == 10).then_some(()))
        })?;
        drop(long);
        bed.backends[0].mend()?;
        eventually("new flows work", DEADLINE, || {
            let report = LongFlows::open(&bed.client.namespace, flows(&server, 1, None))?.finish()?;
            Ok((report.broken == 0).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn native_xdp_is_possible_on_the_balancer() -> anyhow::Result<()> {
    let bed = Topology::new(Options { backends: 1, ..Options::xdp() })?;
    for host in [&bed.client, &bed.backends[0]] {
        let shown = host.namespace.ip(&format!("-details link show {HOST_INTERFACE}"))?;
        ensure!(shown.contains("prog/xdp"), "{shown}");
    }
    let server = server(&bed, 0, Kind::Echo, VIP4)?;
    ensure!(LongFlows::open(&bed.client.namespace, flows(&server, 5, None))?.finish()?.broken == 0);
    Ok(())
}
