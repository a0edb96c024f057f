//! `sluice flows` lists what is remembered: on the kernel planes the flows that began within a change, on the proxy
//! plane every connection.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use lb_testbed::bed::{Bed, SERVICE, Setup};
use lb_testbed::client::visit::Visit;
use lb_testbed::eventually::eventually;
use lb_testbed::process::succeeded;
use lb_testbed::topology::VIP4;
use lb_userspace::model::Plane;
use lb_userspace::model::flows::{FlowEntry, FlowList, FlowState};

const DEADLINE: Duration = Duration::from_secs(10);

#[test]
fn tc_lists_the_flows_of_a_change() -> anyhow::Result<()> {
    lists_flows(Plane::Tc)
}

#[test]
fn xdp_lists_the_flows_of_a_change() -> anyhow::Result<()> {
    lists_flows(Plane::Xdp)
}

#[test]
fn the_proxy_lists_its_connections() -> anyhow::Result<()> {
    lists_flows(Plane::Proxy)
}

fn flows(bed: &Bed, more: &[&str]) -> anyhow::Result<FlowList> {
    let answer = succeeded(bed.sluice.ask(&[&["flows", "--json"], more].concat())?)?;
    serde_json::from_str(&answer).with_context(|| format!("not a list of flows: {answer}"))
}

fn lists_flows(plane: Plane) -> anyhow::Result<()> {
    let bed = Bed::start(Setup { vips: vec![VIP4], ..Setup::on(plane) })?;
    let _old = bed.long(20, None)?;
    let before = flows(&bed, &[])?;
    let remembered = if plane == Plane::Proxy { 20 } else { 0 };
    ensure!(before.matched == remembered, "{before:?}");

    bed.backend("weight", &bed.servers[0], &["0"])?;
    let client = &bed.topology.client.namespace;
    let mut visits =
        (0..60).map(|_| Visit::open(client, bed.target())).collect::<anyhow::Result<Vec<_>>>()?;
    visits.iter_mut().try_for_each(Visit::speak)?;
    let all = flows(&bed, &["--service", SERVICE])?;
    let by_client: BTreeMap<_, _> = all.flows.iter().map(|flow| (flow.client, flow)).collect();
    let ids: BTreeMap<_, _> = bed.servers.iter().map(|server| (server.address(), server.id())).collect();
    let mut listed = 0;
    for visit in &visits {
        let Some(flow) = by_client.get(&visit.client) else { continue };
        let FlowEntry { backend, state, listen, .. } = flow;
        ensure!(
            backend.and_then(|backend| ids.get(&backend).copied()) == Some(&visit.id),
            "{flow:?}: {}",
            visit.id
        );
        ensure!(
            *state == FlowState::Established && *listen == bed.target() && flow.plane == plane,
            "{flow:?}"
        );
        ensure!(flow.age_s.is_some() == (plane == Plane::Proxy), "{flow:?}");
        ensure!(flow.expires_s.is_some() != (plane == Plane::Proxy), "{flow:?}");
        listed += 1;
    }
    // The flows of slots that have not changed need no entry.
    ensure!(all.matched == remembered + listed && listed > 0, "{listed} of {all:?}");
    ensure!(plane != Plane::Proxy || listed == 60, "{all:?}");

    let one = by_client.values().next().context("none")?.client;
    ensure!(flows(&bed, &["--client", &one.to_string()])?.matched == 1);
    ensure!(flows(&bed, &["--client", &one.ip().to_string(), "--limit", "3"])?.flows.len() == 3);
    let to_second = flows(&bed, &["--backend", &bed.servers[1].address().to_string()])?;
    ensure!(to_second.matched > 0 && to_second.matched < all.matched, "{to_second:?}");
    let text = succeeded(bed.sluice.ask(&["flows"])?)?;
    ensure!(text.contains(&one.to_string()) && text.contains("established"), "{text}");

    if plane != Plane::Proxy {
        eventually("the next sweep counts them", DEADLINE, || {
            let flows = bed.sluice.status()?.tables.into_iter().find(|table| table.name == "flows");
            Ok(flows
                .is_some_and(|flows| flows.entries >= listed && flows.capacity.abs_diff(65536) < 12)
                .then_some(()))
        })?;
    }
    drop(visits);
    eventually("ended flows are closing or gone", DEADLINE, || {
        let left = flows(&bed, &["--service", SERVICE])?;
        let open = left.flows.iter().filter(|flow| flow.state == FlowState::Established).count();
        Ok((open as u64 == remembered).then_some(()))
    })
}
