//! Each plane end to end: what is for a service is balanced, everything else passes untouched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, ensure};
use lb_testbed::backend::{Kind, Server};
use lb_testbed::bed::{Bed, Setup};
use lb_testbed::client::ping::ping;
use lb_testbed::client::visit::Visit;
use lb_testbed::eventually::eventually;
use lb_testbed::namespace::Namespace;
use lb_testbed::topology::{HOST_INTERFACE, Host};
use lb_userspace::model::Plane;

/// More than any MTU here.
const FRAGMENTED: usize = 4000;
const DEADLINE: Duration = Duration::from_secs(10);

#[test]
fn tc_balances_and_the_rest_of_the_host_notices_nothing() -> anyhow::Result<()> {
    balances_and_passes(Plane::Tc)
}

#[test]
fn xdp_balances_and_the_rest_of_the_host_notices_nothing() -> anyhow::Result<()> {
    balances_and_passes(Plane::Xdp)
}

#[test]
fn the_proxy_balances_and_the_rest_of_the_host_notices_nothing() -> anyhow::Result<()> {
    balances_and_passes(Plane::Proxy)
}

fn balances_and_passes(plane: Plane) -> anyhow::Result<()> {
    let bed = Bed::start(Setup::on(plane))?;
    status_names_the_plane(&bed, plane)?;
    for target in bed.targets() {
        flows_go_where_explain_says(&bed, target, plane)?;
    }
    // From the very first packet on.
    let drops = bed.sluice.status()?.drops;
    ensure!(drops.values().all(|packets| *packets == 0), "{drops:?}");
    for target in bed.targets() {
        others_pass(&bed, target.ip())?;
    }
    health_checks_pass(&bed)
}

fn status_names_the_plane(bed: &Bed, plane: Plane) -> anyhow::Result<()> {
    let status = bed.sluice.status()?;
    let service = &status.services[0];
    ensure!(service.plane == Some(plane) && !service.reason.is_empty(), "{service:?}");
    let on: BTreeMap<_, _> = status.planes.iter().map(|on| (on.interface.as_str(), on)).collect();
    if plane == Plane::Proxy {
        ensure!(on.values().all(|on| on.plane.is_none()), "{on:?}");
        return Ok(());
    }
    let hosts = std::iter::once(&bed.topology.client).chain(&bed.topology.backends);
    for link in hosts.map(|host| host.link.as_str()) {
        let on = on.get(link).with_context(|| format!("the status does not name {link}"))?;
        ensure!(on.plane == Some(plane) && !on.reason.is_empty(), "{on:?}");
    }
    Ok(())
}

/// Opens flows until each backend has one; then `explain` must have known all of them. (That answers come from
/// the VIP goes without saying: the client's socket is connected to it.)
fn flows_go_where_explain_says(bed: &Bed, target: SocketAddr, plane: Plane) -> anyhow::Result<()> {
    let mut visits = Vec::new();
    let mut seen = BTreeSet::new();
    while seen.len() < 3 || visits.len() < 12 {
        ensure!(visits.len() < 100, "{target}: {} flows, all to {seen:?}", visits.len());
        let visit = Visit::open(&bed.topology.client.namespace, target)?;
        seen.insert(visit.id.clone());
        visits.push(visit);
    }
    for visit in &mut visits {
        visit.speak()?;
        let explanation = bed.explain(visit.client, target)?;
        let backend = bed.servers.iter().find(|server| Some(server.address()) == explanation.backend);
        ensure!(
            backend.is_some_and(|server| server.id() == visit.id),
            "{} is with {}, but: {explanation:?}",
            visit.client,
            visit.id
        );
    }
    let service = bed.service()?;
    // On stable slots the kernel planes remember nothing.
    let tracked = if plane == Plane::Proxy { visits.len() as u64 } else { 0 };
    ensure!(service.flows == tracked && service.new_flows >= Some(visits.len() as u64), "{service:?}");
    let pool = bed.pool()?;
    ensure!(pool.backends.iter().map(|backend| backend.flows).sum::<u64>() == tracked, "{pool:?}");
    Ok(())
}

/// Traffic of one family that is not for the service.
fn others_pass(bed: &Bed, like: IpAddr) -> anyhow::Result<()> {
    let (client, backend) = (&bed.topology.client, &bed.topology.backends[0]);
    let (of_client, of_backend) = (balancer(client, like), balancer(backend, like));

    // The host itself, as a login would reach it, from both sides.
    let login = Server::start(&bed.topology.lb, Kind::Echo, "host", SocketAddr::new(of_client, 22))?;
    for host in [client, backend] {
        let visit = Visit::open(&host.namespace, login.address())?;
        ensure!(visit.id == "host");
    }
    // Its address with the port of the service, and the VIP with another, are not the service.
    ensure!(Visit::open(&client.namespace, SocketAddr::new(of_client, bed.target().port())).is_err());

    for (host, own) in [(client, of_client), (backend, of_backend)] {
        for bytes in [56, FRAGMENTED] {
            ping(&host.namespace, own, bytes)?;
        }
        datagram_arrives(&host.namespace, &bed.topology.lb, SocketAddr::new(own, 5353))?;
    }
    // Routed through: no other port of a backend is an endpoint.
    let other = Server::start(&backend.namespace, Kind::Echo, "other", backend.socket(like, 9090))?;
    ensure!(Visit::open(&client.namespace, other.address())?.id == "other");
    ping(&client.namespace, backend.socket(like, 0).ip(), FRAGMENTED)?;

    // Both ends forget each other's MAC address and have to ask again, past the programs.
    for host in [client, backend] {
        host.namespace.ip(&format!("neigh flush dev {HOST_INTERFACE}"))?;
        bed.topology.lb.ip(&format!("neigh flush dev {}", host.link))?;
        ping(&host.namespace, balancer(host, like), 56)?;
    }
    Visit::open(&client.namespace, SocketAddr::new(like, bed.target().port()))?.speak()
}

/// The balancer's address on the link to a host.
fn balancer(host: &Host, like: IpAddr) -> IpAddr {
    match host.socket(like, 0).ip() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            [a, b, c, 1].into()
        }
        IpAddr::V6(ip) => {
            let mut segments = ip.segments();
            segments[7] = 1;
            Ipv6Addr::from(segments).into()
        }
    }
}

/// A UDP datagram larger than the MTU.
fn datagram_arrives(from: &Namespace, to: &Namespace, address: SocketAddr) -> anyhow::Result<()> {
    let receiver = to.run(|| UdpSocket::bind(address))??;
    receiver.set_read_timeout(Some(DEADLINE))?;
    let sender = from.run(|| UdpSocket::bind((any(address), 0)))??;
    sender.send_to(&[7; FRAGMENTED], address)?;
    let mut datagram = [0; FRAGMENTED + 1];
    let length =
        receiver.recv(&mut datagram).with_context(|| format!("a datagram in fragments to {address}"))?;
    ensure!(length == FRAGMENTED && datagram[..length] == [7; FRAGMENTED]);
    Ok(())
}

fn any(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() }
}

fn health_checks_pass(bed: &Bed) -> anyhow::Result<()> {
    eventually("every backend has passed its health check", DEADLINE, || {
        let pool = bed.pool()?;
        let passes = |backend: &lb_userspace::model::status::BackendStatus| {
            backend.state == "up" && backend.last_check.as_ref().is_some_and(|check| check.ok)
        };
        ensure!(pool.backends.len() == 6 && pool.backends.iter().all(passes), "{pool:?}");
        Ok(Some(()))
    })
}
