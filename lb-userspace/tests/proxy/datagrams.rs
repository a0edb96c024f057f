//! UDP services.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use lb_common::Port;
use lb_common::hash::{Tuple, key, slot};
use lb_userspace::data_plane::proxy::{ProxyAction, ProxyPlane, ProxyService, ProxyTraffic};
use lb_userspace::maglev;
use lb_userspace::model::{Affinity, Cut, Listen, Member, Protocol, Scheduler};
use lb_userspace::proxy::Proxy;

use crate::harness::{DEADLINE, Echo, SEED, Setup, member, service, vip, who};

/// A UDP service on `cores` workers.
fn setup(cores: usize, service: ProxyService) -> Setup {
    Setup::on(vip(Protocol::Udp), Proxy::start(cores, SEED).unwrap(), service)
}

/// The same, round robin on two.
fn over(backends: &[&Backend]) -> Setup {
    let members: Vec<_> = backends.iter().map(|backend| member(backend.address, 1)).collect();
    setup(2, service(Scheduler::RoundRobin, &members))
}

/// A backend that answers when the test says so.
struct Backend {
    socket: UdpSocket,
    address: SocketAddr,
    name: u8,
}

impl Backend {
    fn named(name: u8) -> Self {
        let socket = socket("127.0.0.1:0");
        let address = socket.local_addr().unwrap();
        Self { socket, address, name }
    }

    /// The next datagram and where it came from.
    fn take(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 1 << 16];
        let (length, from) = self.socket.recv_from(&mut buffer).expect("nothing came");
        buffer.truncate(length);
        (buffer, from)
    }

    /// Answers it with its name in front.
    fn echo(&self) {
        let (bytes, from) = self.take();
        self.socket.send_to(&[&[self.name], &*bytes].concat(), from).unwrap();
    }

    /// Whether anything waits.
    fn is_asked(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let waits = self.socket.peek_from(&mut [0]).is_ok();
        self.socket.set_nonblocking(false).unwrap();
        waits
    }
}

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// A client that hears the listen address and nobody else.
struct Client(UdpSocket);

impl Client {
    fn of(setup: &Setup) -> Self {
        let socket = socket("127.0.0.1:0");
        socket.connect(setup.listen.address).unwrap();
        Self(socket)
    }

    fn send(&self, bytes: &[u8]) {
        self.0.send(bytes).unwrap();
    }

    fn hear(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 1 << 16];
        let length = self.0.recv(&mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Sends, lets whoever got it answer, and says who that was.
    fn ask(&self, bytes: &[u8], backends: &[&Backend]) -> u8 {
        self.send(bytes);
        let start = Instant::now();
        let asked = loop {
            if let Some(asked) = backends.iter().find(|backend| backend.is_asked()) {
                break asked;
            }
            assert!(start.elapsed() < DEADLINE, "no backend was asked");
            thread::yield_now();
        };
        asked.echo();
        let answer = self.hear().expect("no answer");
        assert_eq!(answer[1..], *bytes);
        answer[0]
    }
}

#[test]
fn datagrams_of_every_size_pass_unharmed_and_are_counted() {
    let backend = Backend::named(b'a');
    let setup = over(&[&backend]);
    let client = Client::of(&setup);
    let sizes = [0, 1, 2, 511, 1472, 8192, 65_506];
    for (size, fill) in sizes.into_iter().zip(0..) {
        assert_eq!(client.ask(&vec![fill; size], &[&backend]), b'a');
    }
    let (n, bytes) = (sizes.len() as u64, sizes.iter().sum::<usize>() as u64);
    let expected = ProxyTraffic {
        connections: 1,
        new_connections: 1,
        bytes,
        reply_bytes: bytes + n,
        packets: n,
        reply_packets: n,
        ..ProxyTraffic::default()
    };
    setup.expect_traffic(|traffic| traffic == expected);
    assert_eq!(setup.backend_traffic(backend.address), expected);
}

#[test]
fn every_client_keeps_its_backend_and_hears_its_own_answers_alone() {
    let backends = [b'a', b'b', b'c'].map(Backend::named);
    let all = backends.each_ref();
    let setup = over(&all);
    let clients: Vec<_> = (0..60).map(|_| Client::of(&setup)).collect();
    let homes: Vec<_> = clients.iter().map(|client| client.ask(b"hello", &all)).collect();
    let at = |name| homes.iter().filter(|home| **home == name).count();
    for name in *b"abc" {
        assert!((18..=22).contains(&at(name)), "{homes:?}: not in turn on each of two workers");
    }

    // All at once, answered in another order.
    for (client, number) in clients.iter().zip(0_u32..) {
        client.send(&number.to_be_bytes());
    }
    for backend in all {
        let mut waiting: Vec<_> = (0..at(backend.name)).map(|_| backend.take()).collect();
        waiting.reverse();
        for (bytes, from) in waiting {
            backend.socket.send_to(&[&[backend.name], &*bytes].concat(), from).unwrap();
        }
    }
    for ((client, home), number) in clients.iter().zip(&homes).zip(0_u32..) {
        assert_eq!(client.hear().unwrap(), [&[*home], &number.to_be_bytes()[..]].concat());
    }
    assert_eq!(setup.traffic().new_connections, 60);
}

#[test]
fn nobody_but_the_backend_can_answer() {
    let backend = Backend::named(b'a');
    let setup = over(&[&backend]);
    let client = Client::of(&setup);
    client.send(b"question");
    let (_, proxy) = backend.take();
    let stranger = socket("127.0.0.1:0");
    stranger.send_to(b"forged", proxy).unwrap();
    backend.socket.send_to(b"answer", proxy).unwrap();
    assert_eq!(client.hear().unwrap(), b"answer");
}

#[test]
fn maglev_sends_every_client_where_its_hash_says_on_every_worker() {
    let backends = [b'a', b'b', b'c'].map(Backend::named);
    let all = backends.each_ref();
    let members = all.map(|backend| member(backend.address, 1));
    let table = maglev::build(&members.map(|member| (member.address, member.weight)), 1021).unwrap();
    for affinity in [Affinity::None, Affinity::Source] {
        let setup = setup(2, ProxyService { affinity, ..service(Scheduler::Maglev, &members) });
        for _ in 0..30 {
            let client = Client::of(&setup);
            let address = client.0.local_addr().unwrap();
            let tuple = Tuple {
                source: address.ip().into(),
                destination: setup.listen.address.ip().into(),
                source_port: Port::new(if affinity == Affinity::None { address.port() } else { 0 }),
                destination_port: Port::new(setup.listen.address.port()),
                protocol: 17,
            };
            let index = table[slot(tuple.hash_with(&key(SEED)), 1021) as usize];
            assert_eq!(client.ask(b"who?", &all), b"abc"[index as usize]);
        }
    }
}

#[test]
fn silence_ends_a_client_and_datagrams_of_either_side_keep_it() {
    let backend = Backend::named(b'a');
    let idle = Duration::from_millis(500);
    let service =
        ProxyService { idle_timeout: idle, ..service(Scheduler::RoundRobin, &[member(backend.address, 1)]) };
    let setup = setup(1, service);
    let client = Client::of(&setup);
    client.send(b"subscribe");
    let (_, proxy) = backend.take();
    let start = Instant::now();
    while start.elapsed() < idle * 2 {
        backend.socket.send_to(b"news", proxy).unwrap();
        assert_eq!(client.hear().unwrap(), b"news");
    }
    assert_eq!(setup.traffic().connections, 1);
    let last = Instant::now();
    setup.expect_traffic(|traffic| traffic.connections == 0);
    assert!(last.elapsed() >= idle / 2, "ended after {:?}", last.elapsed());

    assert_eq!(client.ask(b"again", &[&backend]), b'a');
    assert_eq!(setup.traffic().new_connections, 2);
}

#[test]
fn a_refusing_backend_ends_the_client_which_goes_elsewhere() {
    let dead = Backend::named(b'x').address;
    let live = Backend::named(b'a');
    let setup = setup(1, service(Scheduler::RoundRobin, &[member(dead, 1), member(live.address, 1)]));
    let client = Client::of(&setup);
    client.send(b"lost");
    setup.expect_traffic(|traffic| traffic.new_connections == 1 && traffic.connections == 0);
    assert_eq!(setup.backend_traffic(dead).failures, 1);
    assert_eq!(client.ask(b"found", &[&live]), b'a');
}

#[test]
fn without_a_backend_a_datagram_is_dropped_and_counted() {
    let idle = Backend::named(b'a');
    for members in [vec![], vec![member(idle.address, 0)]] {
        for scheduler in [Scheduler::RoundRobin, Scheduler::Maglev] {
            let setup = setup(1, service(scheduler, &members));
            Client::of(&setup).send(b"anyone?");
            setup.expect_traffic(|traffic| traffic == ProxyTraffic { failures: 1, ..Default::default() });
        }
    }
}

#[test]
fn an_update_cuts_only_what_it_must() {
    let backends = [b'a', b'b', b'c'].map(Backend::named);
    let all = backends.each_ref();
    let [a, b, c] = all;
    let mut setup = setup(1, service(Scheduler::RoundRobin, &all.map(|backend| member(backend.address, 1))));
    let mut clients = [Client::of(&setup), Client::of(&setup), Client::of(&setup)];
    clients.sort_by_cached_key(|client| client.ask(b"who?", &all));
    let [on_a, on_b, on_c] = &clients;

    // a is drained, b has failed, c stays.
    let failed = Member { address: b.address, weight: 0, cut: Cut::ALL };
    setup.update(service(Scheduler::RoundRobin, &[member(a.address, 0), failed, member(c.address, 1)]));
    assert_eq!([on_a, on_b, on_c].map(|client| client.ask(b"who?", &all)), *b"acc");
    assert_eq!(Client::of(&setup).ask(b"who?", &all), b'c');

    // a is gone, b is back.
    setup.update(service(Scheduler::RoundRobin, &[member(b.address, 1), member(c.address, 1)]));
    assert_ne!(on_a.ask(b"who?", &all), b'a');
    assert_eq!([on_b, on_c].map(|client| client.ask(b"who?", &all)), *b"cc");
    setup.expect_traffic(|traffic| traffic.connections == 4);
}

#[test]
fn close_serves_known_clients_until_the_deadline_and_nobody_new() {
    let backend = Backend::named(b'a');
    let mut setup = over(&[&backend]);
    let clients: Vec<_> = (0..20).map(|_| Client::of(&setup)).collect();
    for client in &clients {
        client.ask(b"hello", &[&backend]);
    }
    let drain = Duration::from_secs(2);
    let start = Instant::now();
    setup.close(drain);
    Client::of(&setup).send(b"too late");
    for client in &clients {
        assert_eq!(client.ask(b"still there?", &[&backend]), b'a');
    }
    assert!(start.elapsed() < drain, "too slow for this test");
    // The kernel refuses once the sockets are closed.
    let Client(socket) = &clients[0];
    socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let refuses = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    while !socket.send(b"hello?").is_err_and(refuses) && !socket.recv(&mut [0]).is_err_and(refuses) {
        assert!(start.elapsed() < DEADLINE, "still served");
    }
    assert!(start.elapsed() >= drain);
}

/// A socket that leaves its group changes which worker the kernel hands the clients of the others to.
#[test]
fn on_close_a_worker_without_clients_waits_for_the_others() {
    let backend = Backend::named(b'a');
    let idle_timeout = Duration::from_secs(3);
    let service =
        ProxyService { idle_timeout, ..service(Scheduler::RoundRobin, &[member(backend.address, 1)]) };
    let mut setup = setup(4, service);
    let clients: Vec<_> = (0..40).map(|_| Client::of(&setup)).collect();
    for client in &clients {
        client.ask(b"hello", &[&backend]);
    }
    setup.close(DEADLINE);
    let start = Instant::now();
    while start.elapsed() < idle_timeout * 2 {
        for client in &clients[..4] {
            client.ask(b"still there?", &[&backend]);
        }
    }
}

#[test]
fn an_address_can_be_served_again_while_its_last_clients_leave() {
    let [old, new] = [b'a', b'b'].map(Backend::named);
    let mut setup = over(&[&old]);
    let client = Client::of(&setup);
    assert_eq!(client.ask(b"who?", &[&old]), b'a');
    setup.close(DEADLINE);
    let service = service(Scheduler::RoundRobin, &[member(new.address, 1)]);
    setup.proxy.apply(&ProxyAction::Listen { listen: setup.listen, service }).unwrap();
    assert_eq!(client.ask(b"who?", &[&new, &old]), b'b');
}

#[test]
fn stop_returns_as_soon_as_all_are_silent() {
    let backend = Backend::named(b'a');
    let idle_timeout = Duration::from_millis(300);
    let service =
        ProxyService { idle_timeout, ..service(Scheduler::RoundRobin, &[member(backend.address, 1)]) };
    let setup = setup(2, service);
    Client::of(&setup).ask(b"hello", &[&backend]);
    let start = Instant::now();
    setup.proxy.stop(DEADLINE, Duration::ZERO);
    assert!(start.elapsed() < DEADLINE / 2);
}

#[test]
fn tcp_and_udp_share_an_address() {
    let (stream, datagram) = (Echo::start(b't'), Backend::named(b'u'));
    let mut setup = over(&[&datagram]);
    let listen = Listen { protocol: Protocol::Tcp, ..setup.listen };
    let service = service(Scheduler::RoundRobin, &[member(stream.address, 1)]);
    setup.proxy.apply(&ProxyAction::Listen { listen, service }).unwrap();
    assert_eq!(who(&mut setup.client()), b't');
    assert_eq!(Client::of(&setup).ask(b"who?", &[&datagram]), b'u');
    assert_eq!(setup.traffic().new_connections, 1);
}

#[test]
fn ipv6_clients_reach_ipv4_backends() {
    let Ok(held) = UdpSocket::bind("[::1]:0") else { return };
    let listen = Listen { address: held.local_addr().unwrap(), protocol: Protocol::Udp };
    drop(held);
    let backend = Backend::named(b'a');
    let service = service(Scheduler::Maglev, &[member(backend.address, 1)]);
    let _setup = Setup::on(listen, Proxy::start(2, SEED).unwrap(), service);
    let socket = socket("[::1]:0");
    socket.connect(listen.address).unwrap();
    assert_eq!(Client(socket).ask(b"hello", &[&backend]), b'a');
}
