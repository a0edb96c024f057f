//! Clients on the balancer's own host: they name a VIP, talk to a backend, and hear of the VIP alone.
//!
//! Where the host's kernel or its mounts do not allow this, the daemon has to say so; nothing else is tested then.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lb_testbed::bed::{Bed, PORT, SERVER_PORT, Setup};
use lb_testbed::client::visit::Visit;
use lb_testbed::datagrams::{Callers, EchoServer};
use lb_testbed::eventually::eventually;
use lb_testbed::namespace::Namespace;
use lb_testbed::process::succeeded;
use lb_testbed::topology::{VIP4, VIP6};
use lb_userspace::model::Plane;

const DNS: &str = "[[service]]
name = \"dns\"
listen = [\"10.200.0.10:80\", \"[fd00:200::10]:80\"]
protocol = \"udp\"
pool = \"servers\"
timeouts = { udp = \"2s\" }
";
/// `timeouts.udp`
const IDLE: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(20);
const CLIENTS: usize = 60;

/// A daemon with UDP servers beside the TCP ones; none: this host cannot do it, and the daemon has said so.
fn bed(plane: Plane) -> anyhow::Result<Option<(Bed, Vec<EchoServer>)>> {
    let bed = Bed::start(Setup { services: DNS, ..Setup::on(plane) })?;
    let local = bed.sluice.status()?.local;
    ensure!(!local.reason.is_empty(), "{local:?}");
    if local.cgroup.is_none() {
        println!("clients on this host are left alone: {}", local.reason);
        ensure!(bed.sluice.log().contains("clients on this host do not reach"), "{}", bed.sluice.log());
        return Ok(None);
    }
    let servers = bed.servers.iter().map(|server| {
        let address = server.address();
        let host =
            bed.topology.backends.iter().find(|host| host.socket(address.ip(), address.port()) == address);
        EchoServer::start(&host.context("a server without a host")?.namespace, server.id(), address)
    });
    let servers = servers.collect::<anyhow::Result<_>>()?;
    Ok(Some((bed, servers)))
}

/// The VIPs as sockets may name them; the last as an IPv6 socket names the IPv4 one.
fn names() -> [SocketAddr; 3] {
    let IpAddr::V4(vip) = VIP4 else { unreachable!() };
    [VIP4, VIP6, vip.to_ipv6_mapped().into()].map(|vip| SocketAddr::new(vip, PORT))
}

/// A socket without a peer, of the family of `like`.
fn unconnected(namespace: &Namespace, like: SocketAddr) -> anyhow::Result<UdpSocket> {
    let any: IpAddr =
        if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = namespace.run(|| UdpSocket::bind((any, 0)))??;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(socket)
}

/// Who answers a datagram to `target`; the answer has to come from there.
fn ask(socket: &UdpSocket, target: SocketAddr) -> anyhow::Result<String> {
    socket.send_to(&[], target)?;
    let mut answer = [0; 64];
    let (length, source) = socket.recv_from(&mut answer)?;
    ensure!(source == target, "{target} was asked, and {source} answers");
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn new_flows(bed: &Bed) -> anyhow::Result<u64> {
    bed.service()?.new_flows.context("TCP on a kernel plane counts new flows")
}

#[test]
fn tc_leads_clients_on_the_balancer_to_every_backend() -> anyhow::Result<()> {
    leads_to_every_backend(Plane::Tc)
}

#[test]
fn xdp_leads_clients_on_the_balancer_to_every_backend() -> anyhow::Result<()> {
    leads_to_every_backend(Plane::Xdp)
}

fn leads_to_every_backend(plane: Plane) -> anyhow::Result<()> {
    let Some((bed, _servers)) = bed(plane)? else { return Ok(()) };
    let lb = &bed.topology.lb;
    let mut begun = 0;
    for target in names() {
        let mut ids = BTreeSet::new();
        for _ in 0..CLIENTS {
            let stream = lb.run(|| TcpStream::connect_timeout(&target, DEADLINE))??;
            ensure!(stream.peer_addr()? == target, "{:?}", stream.peer_addr());
            drop(stream);
            let mut visit = Visit::open(lb, target)?;
            visit.speak()?;
            ids.insert(visit.id);
            begun += 2;
        }
        ensure!(ids == bed.known(), "TCP to {target}: {ids:?}");

        let (mut connected, mut alone) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..CLIENTS {
            let socket = unconnected(lb, target)?;
            let id = ask(&socket, target)?;
            for _ in 0..3 {
                ensure!(ask(&socket, target)? == id, "{target}: a socket has moved from {id}");
            }
            alone.insert(id);
            socket.connect(target)?;
            ensure!(socket.peer_addr()? == target, "{:?}", socket.peer_addr());
            for _ in 0..2 {
                socket.send(&[])?;
                let mut answer = [0; 64];
                let (length, source) = socket.recv_from(&mut answer)?;
                ensure!(source == target, "{target} was asked, and {source} answers");
                connected.insert(String::from_utf8_lossy(&answer[..length]).into_owned());
            }
            ensure!(socket.peer_addr()? == target, "after a datagram: {:?}", socket.peer_addr());
        }
        ensure!(alone == bed.known() && connected == bed.known(), "{target}: {alone:?} {connected:?}");
    }
    ensure!(new_flows(&bed)? == begun, "{} of {begun}", new_flows(&bed)?);

    // A backend that is named itself keeps its name, on a socket that knows it as the VIP too.
    let socket = unconnected(lb, names()[0])?;
    let id = ask(&socket, names()[0])?;
    let server = bed.servers.iter().find(|server| server.id() == id && server.address().is_ipv4());
    let server = server.context("a server of that id")?.address();
    ensure!(ask(&socket, server)? == id && ask(&socket, names()[0])? == id);
    ensure!(Visit::open(lb, server)?.id == id);
    // And clients elsewhere come as packets, as ever.
    ensure!(bed.long(20, None)?.finish()?.broken == 0);
    Ok(())
}

#[test]
fn sockets_of_other_namespaces_are_left_alone() -> anyhow::Result<()> {
    let Some((first, _servers)) = bed(Plane::Tc)? else { return Ok(()) };
    // A host that happens to use the same address for itself.
    let other = Namespace::new("other")?;
    other.ip("address add 10.200.0.10/32 dev lo")?;
    let listener = other.run(|| TcpListener::bind((VIP4, PORT)))??;
    let stream = other.run(|| TcpStream::connect_timeout(&first.target(), DEADLINE))??;
    ensure!(listener.accept()?.1 == stream.local_addr()?);
    ensure!(new_flows(&first)? == 0);

    // A balancer with the same VIPs in another namespace, and a client on each.
    let second = Bed::start(Setup::on(Plane::Tc))?;
    for (bed, others) in [(&first, &second), (&second, &first)] {
        let before = (new_flows(bed)?, new_flows(others)?);
        for _ in 0..CLIENTS {
            Visit::open(&bed.topology.lb, bed.target())?.speak()?;
        }
        ensure!((new_flows(bed)?, new_flows(others)?) == (before.0 + CLIENTS as u64, before.1));
    }
    drop(second);
    Visit::open(&first.topology.lb, first.target())?.speak()
}

#[test]
fn a_drained_backend_gets_no_new_clients_and_keeps_the_old() -> anyhow::Result<()> {
    let Some((bed, _servers)) = bed(Plane::Tc)? else { return Ok(()) };
    let (lb, target) = (&bed.topology.lb, bed.target());
    let open = || (0..CLIENTS).map(|_| Visit::open(lb, target)).collect::<anyhow::Result<Vec<_>>>();
    let sockets = || {
        let sockets = (0..CLIENTS).map(|_| {
            let socket = unconnected(lb, target)?;
            Ok((ask(&socket, target)?, socket))
        });
        sockets.collect::<anyhow::Result<Vec<_>>>()
    };
    let (mut visits, old, connected) = (open()?, sockets()?, Callers::new(lb, target, CLIENTS)?);
    ensure!(visits.iter().any(|visit| visit.id == "b1") && old.iter().any(|(id, _)| id == "b1"));

    for server in bed.servers.iter().filter(|server| server.id() == "b1") {
        bed.backend("weight", server, &["0"])?;
    }
    // At once: a new socket is known as new.
    ensure!(open()?.iter().all(|visit| visit.id != "b1"));
    ensure!(sockets()?.iter().all(|(id, _)| id != "b1"));
    ensure!(!Callers::new(lb, target, CLIENTS)?.by_server().contains_key("b1"));
    let start = Instant::now();
    while start.elapsed() < 3 * IDLE {
        for (id, socket) in &old {
            let now = ask(socket, target)?;
            ensure!(now == *id, "a socket was with {id} and is with {now}");
        }
        connected.stay()?;
    }
    visits.iter_mut().try_for_each(Visit::speak)?;

    // Once they are silent the slots settle, and all follow.
    eventually("nobody is left", DEADLINE, || {
        let sockets = old.iter().filter(|(id, _)| id == "b1");
        let waited = Instant::now();
        let mut ids = BTreeSet::new();
        for (_, socket) in sockets {
            ids.insert(ask(socket, target)?);
        }
        eventually("silence", 3 * IDLE, || Ok((waited.elapsed() > 2 * IDLE).then_some(())))?;
        Ok((!ids.contains("b1")).then_some(()))
    })
}

#[test]
fn they_are_led_on_without_a_daemon_and_by_the_next_one() -> anyhow::Result<()> {
    let Some((mut bed, _servers)) = bed(Plane::Tc)? else { return Ok(()) };
    let pins = bed.sluice.bpf_dir().join("local");
    let serves = |bed: &Bed| -> anyhow::Result<()> {
        for target in names() {
            ensure!(bed.known().contains(&Visit::open(&bed.topology.lb, target)?.id));
            let socket = unconnected(&bed.topology.lb, target)?;
            ensure!(bed.known().contains(&ask(&socket, target)?));
        }
        Ok(())
    };
    let socket = unconnected(&bed.topology.lb, bed.target())?;
    let id = ask(&socket, bed.target())?;
    let mut visit = Visit::open(&bed.topology.lb, bed.target())?;
    bed.sluice.kill()?;
    serves(&bed)?;
    ensure!(ask(&socket, bed.target())? == id);
    bed.sluice.start()?;
    serves(&bed)?;
    ensure!(ask(&socket, bed.target())? == id, "names outlive the daemon");
    ensure!(bed.sluice.stop(DEADLINE)?.success());
    serves(&bed)?;
    ensure!(pins.read_dir()?.count() == 8);
    let printed = succeeded(bed.sluice.with_config(&["cleanup"])?)?;
    ensure!(printed.contains("detached the programs for sockets of this host"), "{printed}");
    ensure!(!pins.exists());
    left_alone(&bed)?;
    // Whom it talks to needs no balancer any more.
    visit.speak()
}

#[test]
fn the_config_switches_it_off_and_on() -> anyhow::Result<()> {
    let Some((bed, _servers)) = bed(Plane::Tc)? else { return Ok(()) };
    let on = bed.config(&[100; 6]);
    bed.sluice.write_config(&on.replace("[kernel]", "[kernel]\nlocal = \"off\""))?;
    succeeded(bed.sluice.ask(&["reload"])?)?;
    eventually("it is off", DEADLINE, || Ok(bed.sluice.status()?.local.cgroup.is_none().then_some(())))?;
    ensure!(bed.sluice.status()?.local.reason == "kernel.local = \"off\"");
    left_alone(&bed)?;
    bed.sluice.write_config(&on)?;
    succeeded(bed.sluice.ask(&["reload"])?)?;
    eventually("it is on", DEADLINE, || Ok(bed.sluice.status()?.local.cgroup.is_some().then_some(())))?;
    Visit::open(&bed.topology.lb, bed.target())?.speak()
}

#[test]
fn without_a_cgroup_the_daemon_says_so_and_serves_all_others() -> anyhow::Result<()> {
    let mut bed = Bed::prepare(Setup::on(Plane::Tc))?;
    // As the kernel lists it: another file system may hide it from everybody already.
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    for place in mounts.lines().filter(|line| line.contains(" cgroup2 ")) {
        let place = place.split(' ').nth(1).context("a mount point")?;
        bed.sluice.hide(Path::new(place));
    }
    let local = bed.sluice.start()?.local;
    ensure!(local.cgroup.is_none() && local.reason.contains("no cgroup2"), "{local:?}");
    let printed = succeeded(bed.sluice.ask(&["status"])?)?;
    ensure!(printed.contains("clients on this host: not led to backends (no cgroup2"), "{printed}");
    ensure!(bed.long(20, None)?.finish()?.broken == 0);
    left_alone(&bed)
}

/// A connection to the VIP meets whoever has the address on the balancer's host.
fn left_alone(bed: &Bed) -> anyhow::Result<()> {
    let lb = &bed.topology.lb;
    lb.ip("address add 10.200.0.10/32 dev lo")?;
    let listener = lb.run(|| TcpListener::bind((VIP4, PORT)))??;
    let stream = lb.run(|| TcpStream::connect_timeout(&bed.target(), DEADLINE))??;
    ensure!(listener.accept()?.1 == stream.local_addr()?);
    lb.ip("address del 10.200.0.10/32 dev lo").map(drop)
}

#[test]
fn a_pool_without_backends_refuses_at_once() -> anyhow::Result<()> {
    let Some((mut bed, _servers)) = bed(Plane::Tc)? else { return Ok(()) };
    bed.servers.iter_mut().for_each(lb_testbed::backend::Server::kill);
    eventually("all are down", DEADLINE, || {
        Ok(bed.pool()?.backends.iter().all(|backend| backend.state == "down").then_some(()))
    })?;
    eventually("it is refused", DEADLINE, || {
        let refused = bed.topology.lb.run(|| TcpStream::connect_timeout(&bed.target(), DEADLINE))?;
        Ok(refused.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied).then_some(()))
    })?;
    ensure!(bed.servers.iter().all(|server| server.address().port() == SERVER_PORT));
    Ok(())
}
