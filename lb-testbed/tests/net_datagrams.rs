//! UDP beside TCP, on every plane: datagrams of all sizes, the life and death of backends. Health checks ask over
//! TCP, every 500 ms, and two failures take a backend down.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lb_testbed::bed::{Bed, Setup};
use lb_testbed::datagrams::{Callers, EchoServer};
use lb_testbed::eventually::eventually;
use lb_testbed::process::succeeded;
use lb_testbed::topology::VIP4;
use lb_userspace::model::Plane;
use lb_userspace::model::status::{Explanation, ServiceStatus};

/// The same addresses, port and pool as the TCP service.
const DNS: &str = "[[service]]
name = \"dns\"
listen = [\"10.200.0.10:80\", \"[fd00:200::10]:80\"]
protocol = \"udp\"
pool = \"servers\"
timeouts = { udp = \"2s\" }
";
const DNS4: &str = "[[service]]
name = \"dns\"
listen = \"10.200.0.10:80\"
protocol = \"udp\"
pool = \"servers\"
timeouts = { udp = \"2s\" }
";
/// `timeouts.udp`
const IDLE: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(20);
const CLIENTS: usize = 60;
/// How often so many new ones come: clients that use up their ports within seconds meet their own expired flows, whose
/// datagrams are dropped while a slot settles, and whoever waits for an answer falls silent.
const PACE: Duration = Duration::from_millis(200);

#[test]
fn tc_carries_datagrams_of_all_sizes() -> anyhow::Result<()> {
    carries_datagrams_of_all_sizes(Plane::Tc)
}

#[test]
fn xdp_carries_datagrams_of_all_sizes() -> anyhow::Result<()> {
    carries_datagrams_of_all_sizes(Plane::Xdp)
}

#[test]
fn the_proxy_carries_datagrams_of_all_sizes() -> anyhow::Result<()> {
    carries_datagrams_of_all_sizes(Plane::Proxy)
}

/// The bed with a UDP server beside every TCP server.
fn bed(setup: Setup) -> anyhow::Result<(Bed, Vec<EchoServer>)> {
    let bed = Bed::start(setup)?;
    let servers = bed.servers.iter().map(|server| {
        let address = server.address();
        let host =
            bed.topology.backends.iter().find(|host| host.socket(address.ip(), address.port()) == address);
        EchoServer::start(&host.context("a server without a host")?.namespace, server.id(), address)
    });
    let servers = servers.collect::<anyhow::Result<_>>()?;
    Ok((bed, servers))
}

fn dns(bed: &Bed) -> anyhow::Result<ServiceStatus> {
    bed.sluice.status()?.services.into_iter().find(|service| service.name == "dns").context("no service dns")
}

fn carries_datagrams_of_all_sizes(plane: Plane) -> anyhow::Result<()> {
    let (bed, servers) = bed(Setup { services: DNS, ..Setup::on(plane) })?;
    ensure!(dns(&bed)?.plane == Some(plane), "{:?}", dns(&bed)?);
    let client = &bed.topology.client.namespace;
    let (mut packets, mut bytes) = (0, 0);
    for target in bed.targets() {
        let callers = Callers::new(client, target, CLIENTS)?;
        ensure!(callers.by_server().len() == 3, "{:?}", callers.by_server());
        packets += CLIENTS as u64;
        for server in &servers {
            for caller in callers.of(server.id(), true) {
                let explained = explain(&bed, caller.address)?;
                // The hosts answer to both families.
                ensure!(
                    explained.is_some_and(|address| of(&servers, address) == server.id()),
                    "{explained:?}"
                );
            }
        }
        let headers = if target.is_ipv4() { 28 } else { 48 };
        let mut sizes = vec![1, 2, 3, 512, 1280, 1500 - headers];
        if plane == Plane::Proxy {
            // The kernel planes drop fragments.
            sizes.extend([1500 - headers + 1, 8192]);
        }
        for (caller, size) in callers.of("", false).zip(sizes) {
            caller.echo(size)?;
            packets += 1;
            bytes += size as u64;
        }
    }
    let status = dns(&bed)?;
    ensure!(status.packets == Some(packets) && status.bytes >= bytes && status.drops == 0, "{status:?}");
    ensure!(bed.long(20, None)?.finish()?.broken == 0, "TCP beside it");
    Ok(())
}

fn of(servers: &[EchoServer], address: SocketAddr) -> &str {
    servers.iter().find(|server| server.address() == address).map_or("a stranger", EchoServer::id)
}

/// The backend of a client by what the daemon says.
fn explain(bed: &Bed, client: SocketAddr) -> anyhow::Result<Option<SocketAddr>> {
    let answer = succeeded(bed.sluice.ask(&["explain", &client.to_string(), "dns", "--json"])?)?;
    Ok(serde_json::from_str::<Explanation>(&answer)?.backend)
}

#[test]
fn tc_drains_without_losing_a_datagram() -> anyhow::Result<()> {
    drains_without_losing_a_datagram(Plane::Tc)
}

#[test]
fn xdp_drains_without_losing_a_datagram() -> anyhow::Result<()> {
    drains_without_losing_a_datagram(Plane::Xdp)
}

#[test]
fn the_proxy_drains_without_losing_a_datagram() -> anyhow::Result<()> {
    drains_without_losing_a_datagram(Plane::Proxy)
}

fn one_family(plane: Plane) -> Setup {
    Setup { services: DNS4, vips: vec![VIP4], ..Setup::on(plane) }
}

fn drains_without_losing_a_datagram(plane: Plane) -> anyhow::Result<()> {
    let (bed, _servers) = bed(one_family(plane))?;
    let (client, target) = (&bed.topology.client.namespace, bed.target());
    let old = Callers::new(client, target, CLIENTS)?;
    ensure!(old.by_server().len() == 3, "{:?}", old.by_server());

    bed.backend("weight", &bed.servers[0], &["0"])?;
    let start = Instant::now();
    // On the kernel planes a new client may go to the old backend for one idle time more: there is no SYN to
    // tell it from an old one.
    while start.elapsed() < IDLE + Duration::from_secs(1) {
        old.stay()?;
    }
    let new = eventually("new clients go elsewhere", DEADLINE, || {
        old.stay()?;
        let new = Callers::new(client, target, CLIENTS)?;
        Ok((!new.by_server().contains_key("b1")).then_some(new))
    })?;
    old.stay()?;
    new.stay()?;

    bed.backend("weight", &bed.servers[0], &["100"])?;
    let mut asked = Instant::now();
    eventually("new clients come back", DEADLINE, || {
        old.stay()?;
        new.stay()?;
        if asked.elapsed() < PACE {
            return Ok(None);
        }
        asked = Instant::now();
        Ok(Callers::new(client, target, CLIENTS)?.by_server().contains_key("b1").then_some(()))
    })
}

#[test]
fn tc_moves_the_clients_of_a_dead_backend_and_no_others() -> anyhow::Result<()> {
    moves_the_clients_of_a_dead_backend_and_no_others(Plane::Tc)
}

#[test]
fn xdp_moves_the_clients_of_a_dead_backend_and_no_others() -> anyhow::Result<()> {
    moves_the_clients_of_a_dead_backend_and_no_others(Plane::Xdp)
}

#[test]
fn the_proxy_moves_the_clients_of_a_dead_backend_and_no_others() -> anyhow::Result<()> {
    moves_the_clients_of_a_dead_backend_and_no_others(Plane::Proxy)
}

fn moves_the_clients_of_a_dead_backend_and_no_others(plane: Plane) -> anyhow::Result<()> {
    let (mut bed, mut servers) = bed(one_family(plane))?;
    let callers = Callers::new(&bed.topology.client.namespace, bed.target(), CLIENTS)?;
    ensure!(callers.by_server().len() == 3, "{:?}", callers.by_server());
    drop(servers.remove(1));
    bed.servers[1].kill();
    let killed = Instant::now();
    eventually("b2 is down", DEADLINE, || {
        for caller in callers.of("b2", false) {
            caller.echo(100)?;
        }
        Ok((bed.pool()?.backends[1].state == "down").then_some(()))
    })?;
    println!("b2 is down after {:?}", killed.elapsed());
    // At once: they have no connection that a grace could save.
    for caller in callers.of("b2", true) {
        let now = caller.who()?;
        ensure!(now != "b2", "{now}");
    }
    for server in &servers {
        for caller in callers.of(server.id(), true) {
            ensure!(caller.who()? == server.id(), "{} has moved", caller.address);
        }
    }
    Ok(())
}
