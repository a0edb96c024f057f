//! Backends that more than one thing leads to: two services of one pool, one of them with two listen addresses, and
//! clients that connect to a backend's own address and service port. Each hears its own answers.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_testbed::bed::{Bed, Setup};
use lb_testbed::client::visit::Visit;
use lb_testbed::datagrams::{Caller, EchoServer};
use lb_testbed::topology::VIP4;
use lb_userspace::model::Plane;

/// TCP and UDP, each with two addresses, in front of the backends of the service that every bed has.
const SERVICES: &str = "[[service]]
name = \"api\"
listen = [\"10.200.0.10:81\", \"10.200.0.10:82\"]
pool = \"servers\"
[[service]]
name = \"dns\"
listen = [\"10.200.0.10:80\", \"10.200.0.10:81\"]
protocol = \"udp\"
pool = \"servers\"
";
/// Enough that a service's rules, run for another one's packets, name the wrong backend of some.
const FLOWS: usize = 20;

#[test]
fn tc_tells_whose_a_reply_is() -> Result<()> {
    tells_whose_a_reply_is(Plane::Tc)
}

#[test]
fn xdp_tells_whose_a_reply_is() -> Result<()> {
    tells_whose_a_reply_is(Plane::Xdp)
}

fn tells_whose_a_reply_is(plane: Plane) -> Result<()> {
    let bed = Bed::start(Setup { vips: vec![VIP4], services: SERVICES, ..Setup::on(plane) })?;
    let status = bed.sluice.status()?;
    ensure!(status.services.len() == 3, "{:?}", status.services);
    ensure!(status.services.iter().all(|service| service.plane == Some(plane)), "{:?}", status.services);

    let mut flows = Vec::new();
    for _ in 0..FLOWS {
        for port in [80, 81, 82] {
            flows.push(visit(&bed, SocketAddr::new(VIP4, port), &bed.known())?);
        }
        flows.push(visit_itself(&bed, 0)?);
    }
    flows.iter_mut().try_for_each(Visit::speak)?;

    // Some flows lose their slots' backend, and are remembered.
    bed.backend("weight", &bed.servers[0], &["0"])?;
    flows.iter_mut().try_for_each(Visit::speak)?;
    let others: BTreeSet<_> = bed.servers[1..].iter().map(|server| server.id().to_owned()).collect();
    for _ in 0..FLOWS {
        for port in [80, 81, 82] {
            flows.push(visit(&bed, SocketAddr::new(VIP4, port), &others)?);
        }
        flows.push(visit_itself(&bed, 0)?);
        flows.push(visit_itself(&bed, 1)?);
    }
    bed.backend("weight", &bed.servers[0], &["100"])?;
    flows.iter_mut().try_for_each(Visit::speak)
}

/// A flow that one of these backends answers.
fn visit(bed: &Bed, target: SocketAddr, known: &BTreeSet<String>) -> Result<Visit> {
    let visit = Visit::open(&bed.topology.client.namespace, target)?;
    ensure!(known.contains(&visit.id), "{target}: answered by {}", visit.id);
    Ok(visit)
}

/// A flow to a backend, past all services.
fn visit_itself(bed: &Bed, number: usize) -> Result<Visit> {
    let server = bed.servers.get(number).context("no such server")?;
    visit(bed, server.address(), &BTreeSet::from([server.id().to_owned()]))
}

#[test]
fn tc_tells_whose_a_datagram_is() -> Result<()> {
    tells_whose_a_datagram_is(Plane::Tc)
}

#[test]
fn xdp_tells_whose_a_datagram_is() -> Result<()> {
    tells_whose_a_datagram_is(Plane::Xdp)
}

/// A caller's socket hears its target only, so an answer in another one's name would never come.
fn tells_whose_a_datagram_is(plane: Plane) -> Result<()> {
    let bed = Bed::start(Setup { vips: vec![VIP4], services: SERVICES, ..Setup::on(plane) })?;
    let servers = bed.servers.iter().zip(&bed.topology.backends);
    let servers =
        servers.map(|(server, host)| EchoServer::start(&host.namespace, server.id(), server.address()));
    let servers = servers.collect::<Result<Vec<_>>>()?;
    let client = &bed.topology.client.namespace;
    let own = bed.servers[0].address();
    let mut callers = Vec::new();
    for _ in 0..FLOWS {
        for target in [SocketAddr::new(VIP4, 80), SocketAddr::new(VIP4, 81), own] {
            callers.push((target, Caller::new(client, target)?));
        }
    }
    for _ in 0..2 {
        for (target, caller) in &callers {
            let who = caller.who()?;
            ensure!(*target != own || who == servers[0].id(), "{target}: answered by {who}");
            caller.echo(1000)?;
        }
    }
    Ok(())
}
