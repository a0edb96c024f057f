//! Who gets a client, and where the proxy listens.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use lb_common::Port;
use lb_common::hash::{Tuple, key, slot};
use lb_userspace::data_plane::proxy::{ProxyAction, ProxyPlane, ProxyService};
use lb_userspace::maglev;
use lb_userspace::model::{Affinity, Listen, Protocol, Scheduler};
use lb_userspace::proxy::{Proxy, Splice};
use socket2::{Domain, Socket, Type};

use crate::harness::{Echo, SEED, Setup, member, ping, service, vip, who, with_deadline};

#[test]
fn round_robin_is_exact_by_weight() {
    let backends = [b'a', b'b', b'c'].map(Echo::start);
    let members =
        [member(backends[0].address, 3), member(backends[1].address, 1), member(backends[2].address, 0)];
    let setup = Setup::new(1, Splice::Adaptive, service(Scheduler::RoundRobin, &members));
    let names: Vec<u8> = (0..40).map(|_| who(&mut setup.client())).collect();
    let count = |name| names.iter().filter(|&&seen| seen == name).count();
    assert_eq!([count(b'a'), count(b'b'), count(b'c')], [30, 10, 0]);
}

#[test]
fn maglev_sends_every_client_where_its_hash_says_on_every_worker() {
    let backends = [b'a', b'b', b'c'].map(Echo::start);
    let members = backends.each_ref().map(|backend| member(backend.address, 1));
    let weights = members.map(|member| (member.address, member.weight));
    let table = maglev::build(&weights, 1021).unwrap();
    for affinity in [Affinity::None, Affinity::Source] {
        let service = ProxyService { affinity, ..service(Scheduler::Maglev, &members) };
        let setup = Setup::new(2, Splice::Adaptive, service);
        for _ in 0..30 {
            let mut client = setup.client();
            let address = client.local_addr().unwrap();
            let tuple = Tuple {
                source: address.ip().into(),
                destination: setup.listen.address.ip().into(),
                source_port: Port::new(if affinity == Affinity::None { address.port() } else { 0 }),
                destination_port: Port::new(setup.listen.address.port()),
                protocol: 6,
            };
            let index = table[slot(tuple.hash_with(&key(SEED)), 1021) as usize];
            assert_eq!(who(&mut client), b"abc"[index as usize]);
        }
    }
}

#[test]
fn ipv6_is_served_alike() {
    let Ok(held) = TcpListener::bind("[::1]:0") else { return };
    let listen = Listen { address: held.local_addr().unwrap(), protocol: Protocol::Tcp };
    drop(held);
    let backend = Echo::start(b'a');
    let mut proxy = Proxy::start(2, SEED).unwrap();
    let service = service(Scheduler::Maglev, &[member(backend.address, 1)]);
    proxy.apply(&ProxyAction::Listen { listen, service }).unwrap();
    let mut client = with_deadline(TcpStream::connect(listen.address).unwrap());
    assert_eq!(who(&mut client), b'a');
    ping(&mut client).unwrap();
}

#[test]
fn a_listen_address_that_cannot_be_had_is_named_with_the_cure() {
    let mut proxy = Proxy::start(2, SEED).unwrap();
    let mut error = |listen: Listen| {
        let service = service(Scheduler::RoundRobin, &[]);
        proxy.apply(&ProxyAction::Listen { listen, service }).unwrap_err().to_string()
    };

    let taken = vip(Protocol::Tcp);
    let _held = TcpListener::bind(taken.address).unwrap();
    let message = error(taken);
    assert!(message.contains(&taken.to_string()) && message.contains("ss -ltnp"), "{message}");

    let taken = vip(Protocol::Udp);
    let _held = UdpSocket::bind(taken.address).unwrap();
    let message = error(taken);
    assert!(message.contains(&taken.to_string()) && message.contains("ss -lunp"), "{message}");

    for (protocol, kind) in [(Protocol::Tcp, Type::STREAM), (Protocol::Udp, Type::DGRAM)] {
        let shared = vip(protocol);
        let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&shared.address.into()).unwrap();
        if protocol == Protocol::Tcp {
            socket.listen(1).unwrap();
        }
        assert!(error(shared).contains("another program"), "SO_REUSEPORT is no invitation");
    }

    let message = error(Listen { address: "192.0.2.1:80".parse().unwrap(), protocol: Protocol::Tcp });
    assert!(message.contains("192.0.2.1:80") && message.contains("announce"), "{message}");

    let ours = vip(Protocol::Tcp);
    let service = service(Scheduler::RoundRobin, &[]);
    proxy.apply(&ProxyAction::Listen { listen: ours, service: service.clone() }).unwrap();
    assert!(proxy.apply(&ProxyAction::Listen { listen: ours, service: service.clone() }).is_err());
    assert!(proxy.apply(&ProxyAction::Update { listen: vip(Protocol::Tcp), service }).is_err());
    proxy.apply(&ProxyAction::Close { listen: vip(Protocol::Tcp), drain: Duration::ZERO }).unwrap();
}
