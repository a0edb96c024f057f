//! `affinity = "source"`: all flows of a client's address go to one backend, on every plane, also after a reload.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::thread;

use anyhow::{Context, ensure};
use lb_testbed::bed::{Bed, Setup};
use lb_testbed::client::visit::Visit;
use lb_testbed::process::succeeded;
use lb_testbed::topology::HOST_INTERFACE;
use lb_userspace::model::Plane;

/// Addresses of the client by family: they fall to one backend alone once in 3^11.
const ADDRESSES: u8 = 12;
/// Flows of each.
const FLOWS: usize = 6;

#[test]
fn tc_keeps_a_source_on_its_backend() -> anyhow::Result<()> {
    keeps(Plane::Tc)
}

#[test]
fn xdp_keeps_a_source_on_its_backend() -> anyhow::Result<()> {
    keeps(Plane::Xdp)
}

#[test]
fn the_proxy_keeps_a_source_on_its_backend() -> anyhow::Result<()> {
    keeps(Plane::Proxy)
}

fn keeps(plane: Plane) -> anyhow::Result<()> {
    let bed = Bed::start(Setup { services: "affinity = \"source\"\n", ..Setup::on(plane) })?;
    let client = &bed.topology.client.namespace;
    let numbers = 100..100 + ADDRESSES;
    client.ip_batch(&numbers.clone().map(|n| address(n, true)).collect::<Vec<_>>())?;
    client.ip_batch(&numbers.clone().map(|n| address(n, false)).collect::<Vec<_>>())?;
    let sources: Vec<IpAddr> = numbers
        .flat_map(|n| [format!("10.201.0.{n}"), format!("fd00:201::{n}")])
        .map(|text| text.parse().context(text))
        .collect::<anyhow::Result<_>>()?;

    let first = homes(&bed, &sources)?;
    for is_v4 in [true, false] {
        let used: BTreeSet<_> =
            first.iter().filter(|(ip, _)| ip.is_ipv4() == is_v4).map(|(_, id)| id).collect();
        ensure!(used.len() > 1, "{plane:?}: every source went to {used:?}");
    }
    bed.sluice.write_config(&bed.config(&[100; 6]).replace("\"500ms\"", "\"600ms\""))?;
    succeeded(bed.sluice.ask(&["reload"])?)?;
    let second = homes(&bed, &sources)?;
    ensure!(first == second, "{plane:?}: {first:?} before a reload, {second:?} after it");
    Ok(())
}

fn address(number: u8, is_v4: bool) -> String {
    let (prefix, options) = if is_v4 { ("10.201.0.", "24") } else { ("fd00:201::", "64") };
    let nodad = if is_v4 { "" } else { " nodad" };
    format!("address add {prefix}{number}/{options} dev {HOST_INTERFACE}{nodad}")
}

/// The one backend that greets each source. All at once: the balancer meets most of them for the first time, and what
/// it has to ask for takes a moment.
fn homes(bed: &Bed, sources: &[IpAddr]) -> anyhow::Result<BTreeMap<IpAddr, String>> {
    thread::scope(|scope| {
        let threads: Vec<_> =
            sources.iter().map(|source| (source, scope.spawn(|| home(bed, *source)))).collect();
        threads
            .into_iter()
            .map(|(source, thread)| {
                let id = thread.join().map_err(|_| anyhow::anyhow!("{source}: panicked"))??;
                Ok((*source, id))
            })
            .collect()
    })
}

fn home(bed: &Bed, source: IpAddr) -> anyhow::Result<String> {
    let target = bed.targets().into_iter().find(|target| target.is_ipv4() == source.is_ipv4());
    let target = target.context("no VIP of this family")?;
    let client = &bed.topology.client.namespace;
    let mut visits =
        (0..FLOWS).map(|_| Visit::open_from(client, source, target)).collect::<anyhow::Result<Vec<_>>>()?;
    visits.iter_mut().try_for_each(Visit::speak)?;
    let ids: BTreeSet<_> = visits.iter().map(|visit| visit.id.clone()).collect();
    ensure!(ids.len() == 1, "{source} went to {ids:?}");
    ids.into_iter().next().context("nobody greeted")
}
