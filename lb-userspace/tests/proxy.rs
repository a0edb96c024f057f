//! The proxy plane on loopback. No root. Every wait has a deadline: that of the socket it reads from.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lb_common::Port;
use lb_common::hash::{Tuple, slot};
use lb_userspace::data_plane::proxy::{ProxyAction, ProxyPlane, ProxyService, ProxyTraffic};
use lb_userspace::maglev;
use lb_userspace::model::{Affinity, Member, Scheduler};
use lb_userspace::proxy::{Proxy, Splice};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

const DEADLINE: Duration = Duration::from_secs(20);
const SEED: [u64; 2] = [7, 11];

/// A listen address that nothing else uses: 127.0.0.0/8 is wide.
fn vip() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., b, c] = std::process::id().to_be_bytes();
    (Ipv4Addr::new(127, 100 + b % 100, c, NEXT.fetch_add(1, Ordering::Relaxed)), 8080).into()
}

fn member(address: SocketAddr, weight: u32) -> Member {
    Member { address, weight, keeps: true }
}

fn service(scheduler: Scheduler, members: &[Member]) -> ProxyService {
    ProxyService {
        name: "web".into(),
        pool: "web".into(),
        scheduler,
        affinity: Affinity::None,
        table_size: 1021,
        members: members.to_vec(),
        connect_timeout: Duration::from_secs(5),
        idle_timeout: DEADLINE,
        closing_timeout: DEADLINE,
    }
}

/// A proxy with one listen address.
struct Setup {
    proxy: Proxy,
    listen: SocketAddr,
}

impl Setup {
    fn new(cores: usize, splice: Splice, service: ProxyService) -> Self {
        let mut proxy = Proxy::start_with(cores, SEED, splice).unwrap();
        let listen = vip();
        proxy.apply(&ProxyAction::Listen { listen, service }).unwrap();
        Self { proxy, listen }
    }

    /// Two workers, round robin, adaptive.
    fn over(members: &[Member]) -> Self {
        Self::new(2, Splice::Adaptive, service(Scheduler::RoundRobin, members))
    }

    fn update(&mut self, service: ProxyService) {
        self.proxy.apply(&ProxyAction::Update { listen: self.listen, service }).unwrap();
    }

    fn close(&mut self, drain: Duration) {
        self.proxy.apply(&ProxyAction::Close { listen: self.listen, drain }).unwrap();
    }

    fn client(&self) -> TcpStream {
        with_deadline(TcpStream::connect(self.listen).unwrap())
    }

    fn traffic(&self) -> ProxyTraffic {
        self.proxy.traffic()[&self.listen].0
    }

    fn backend_traffic(&self, backend: SocketAddr) -> ProxyTraffic {
        self.proxy.traffic()[&self.listen].1[&backend]
    }

    /// Waits until the traffic is as it should be.
    fn expect_traffic(&self, condition: impl Fn(ProxyTraffic) -> bool) {
        let start = Instant::now();
        while !condition(self.traffic()) {
            assert!(start.elapsed() < DEADLINE, "the traffic stayed {:?}", self.traffic());
            thread::yield_now();
        }
    }
}

fn with_deadline(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A backend that the test accepts for itself.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let mut ready = [PollFd::new(listener, PollFlags::IN)];
    assert_eq!(poll(&mut ready, Some(&timespec(DEADLINE))).unwrap(), 1, "nobody came");
    with_deadline(listener.accept().unwrap().0)
}

/// An address that refuses: bound, and nobody listens.
fn refusing() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// A backend that sends back what it gets, after a byte that says who it is.
struct Echo {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Echo {
    fn start(name: u8) -> Self {
        let (listener, address) = listener();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                connections.push(thread::spawn(move || echo(stream?, name)));
            }
            for connection in connections {
                let _ = connection.join().unwrap();
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

fn echo(stream: TcpStream, name: u8) -> io::Result<()> {
    let mut stream = with_deadline(stream);
    stream.write_all(&[name])?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

/// The name of the echo backend behind a fresh connection.
fn who(client: &mut TcpStream) -> u8 {
    let mut name = [0];
    client.read_exact(&mut name).unwrap();
    name[0]
}

fn ping(client: &mut TcpStream) -> io::Result<()> {
    let mut answer = [0; 4];
    client.write_all(b"ping")?;
    client.read_exact(&mut answer)?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

fn assert_reset(client: &mut TcpStream) {
    let error = io::copy(client, &mut io::sink()).expect_err("a clean end, not a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

fn timespec(duration: Duration) -> Timespec {
    duration.try_into().unwrap()
}

/// An endless stream of bytes that anyone can produce from any position on: a loss, a repetition or a swap
/// shows.
struct Pattern(Vec<u8>);

impl Pattern {
    fn new(seed: u64) -> Self {
        let mut block = vec![0; 1_000_003];
        StdRng::seed_from_u64(seed).fill_bytes(&mut block);
        Self(block)
    }

    /// At most `most` bytes from `position` on.
    fn at(&self, position: usize, most: usize) -> &[u8] {
        let rest = &self.0[position % self.0.len()..];
        &rest[..most.min(rest.len())]
    }

    /// Writes `range` in pieces of random sizes.
    fn write(
        &self,
        mut sink: &TcpStream,
        range: std::ops::Range<usize>,
        sizes: &mut StdRng,
    ) -> io::Result<()> {
        let mut position = range.start;
        while position < range.end {
            let most = *[100, 5_000, 50_000, 500_000].choose(sizes).unwrap();
            let bytes = self.at(position, sizes.random_range(1..=most).min(range.end - position));
            sink.write_all(bytes)?;
            position += bytes.len();
        }
        Ok(())
    }

    /// Reads `range` in pieces of random sizes.
    fn expect(&self, mut source: &TcpStream, range: std::ops::Range<usize>, sizes: &mut StdRng) {
        let mut buffer = vec![0; 100_000];
        let mut position = range.start;
        while position < range.end {
            let most = sizes.random_range(1..=buffer.len()).min(range.end - position);
            let n = source.read(&mut buffer[..most]).unwrap();
            assert_ne!(n, 0, "the stream ended after {position} bytes");
            let mut seen = &buffer[..n];
            while !seen.is_empty() {
                let expected = self.at(position, seen.len());
                assert!(seen.starts_with(expected), "wrong bytes near {position}");
                position += expected.len();
                seen = &seen[expected.len()..];
            }
        }
    }

    /// Writes until the other end has taken nothing for a while; returns how much that was.
    fn fill(&self, mut sink: &TcpStream) -> usize {
        let mut position = 0;
        sink.set_nonblocking(true).unwrap();
        loop {
            match sink.write(self.at(position, 64 << 10)) {
                Ok(n) => position += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut writable = [PollFd::new(sink, PollFlags::OUT)];
                    if poll(&mut writable, Some(&timespec(Duration::from_millis(300)))).unwrap() == 0 {
                        break;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        sink.set_nonblocking(false).unwrap();
        position
    }
}

fn expect_end(mut stream: &TcpStream) {
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "more bytes than were sent");
}

/// Echoes `size` bytes through the proxy, writing and reading at the same time.
fn echo_all(splice: Splice, scheduler: Scheduler, size: usize) {
    let backend = Echo::start(b'a');
    let setup = Setup::new(1, splice, service(scheduler, &[member(backend.address, 1)]));
    let mut client = setup.client();
    assert_eq!(who(&mut client), b'a');
    let pattern = Pattern::new(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            pattern.write(&client, 0..size, &mut StdRng::seed_from_u64(2)).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        pattern.expect(&client, 0..size, &mut StdRng::seed_from_u64(3));
        expect_end(&client);
    });
    let size = size as u64;
    setup.expect_traffic(|traffic| {
        traffic
            == ProxyTraffic { new_connections: 1, bytes: size, reply_bytes: size + 1, ..Default::default() }
    });
    assert_eq!(setup.backend_traffic(backend.address), setup.traffic());
}

#[test]
fn bulk_passes_unharmed_through_pipes() {
    echo_all(Splice::Adaptive, Scheduler::Maglev, 64 << 20);
}

#[test]
fn bulk_passes_unharmed_when_copied() {
    echo_all(Splice::Off, Scheduler::RoundRobin, 64 << 20);
}

/// The end of the stream is behind full buffers everywhere when it is sent; what is before it must arrive, and
/// the other direction must go on for as long as it likes.
fn half_close(splice: Splice) {
    let (backend, address) = listener();
    let setup = Setup::new(1, splice, service(Scheduler::RoundRobin, &[member(address, 1)]));
    let client = setup.client();
    let server = accept(&backend);
    let pattern = Pattern::new(4);
    let mut sizes = StdRng::seed_from_u64(5);

    let size = pattern.fill(&client);
    client.shutdown(Shutdown::Write).unwrap();
    pattern.expect(&server, 0..size, &mut sizes);
    expect_end(&server);

    let size = pattern.fill(&server);
    server.shutdown(Shutdown::Write).unwrap();
    pattern.expect(&client, 0..size, &mut sizes);
    expect_end(&client);
    setup.expect_traffic(|traffic| traffic.connections == 0);
}

#[test]
fn half_close_keeps_the_tail_in_a_full_pipe() {
    half_close(Splice::Adaptive);
}

#[test]
fn half_close_keeps_the_tail_in_a_full_buffer() {
    half_close(Splice::Off);
}

#[test]
fn the_receiver_slows_the_sender_down() {
    let (backend, address) = listener();
    // Small windows on the far side, so that what the proxy itself holds stands out.
    SockRef::from(&backend).set_recv_buffer_size(64 << 10).unwrap();
    let setup = Setup::over(&[member(address, 1)]);
    let client = setup.client();
    let server = accept(&backend);
    let pattern = Pattern::new(6);
    let sent = pattern.fill(&client);
    let relayed = usize::try_from(setup.traffic().bytes).unwrap();
    // One pipe of 64 fragments of at most 64 KiB, and two socket queues of the client's connection.
    let queues = sysctl_max("tcp_rmem") + sysctl_max("tcp_wmem");
    assert!(sent - relayed <= (4 << 20) + queues, "{sent} sent, {relayed} relayed");
    pattern.expect(&server, 0..sent, &mut StdRng::seed_from_u64(7));
}

fn sysctl_max(name: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
    text.split_whitespace().next_back().unwrap().parse().unwrap()
}

#[test]
fn a_reset_passes_in_both_directions_behind_what_was_sent_before() {
    let (backend, address) = listener();
    let setup = Setup::over(&[member(address, 1)]);

    let mut client = setup.client();
    let server = accept(&backend);
    SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    assert_reset(&mut client);

    let client = setup.client();
    let mut server = accept(&backend);
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_reset(&mut server);
    setup.expect_traffic(|traffic| traffic.connections == 0);
}

#[test]
fn a_client_that_gives_up_is_noticed_while_its_backend_takes_nothing() {
    let (backend, address) = listener();
    let setup = Setup::over(&[member(address, 1)]);
    let client = setup.client();
    let server = accept(&backend);
    Pattern::new(8).fill(&client);
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let mut errors = [PollFd::new(&server, PollFlags::ERR)];
    assert_eq!(poll(&mut errors, Some(&timespec(DEADLINE))).unwrap(), 1, "the backend's side stays open");
    setup.expect_traffic(|traffic| traffic.connections == 0);
}

#[test]
fn an_unreachable_backend_costs_a_client_nothing() {
    let (_held, dead) = refusing();
    let live = Echo::start(b'a');
    for scheduler in [Scheduler::RoundRobin, Scheduler::Maglev] {
        let members = [member(dead, 1), member(live.address, 1)];
        let setup = Setup::new(1, Splice::Adaptive, service(scheduler, &members));
        for _ in 0..10 {
            assert_eq!(who(&mut setup.client()), b'a');
        }
        assert_eq!(setup.traffic().failures, 0);
        let failures = setup.backend_traffic(dead).failures;
        assert!((1..=10).contains(&failures), "{failures} attempts at the dead one");
        if scheduler == Scheduler::RoundRobin {
            assert_eq!(failures, 5, "every second client met the dead one first");
        }
    }
}

#[test]
fn without_a_backend_the_client_is_reset_and_counted() {
    let (_held, dead) = refusing();
    let idle = Echo::start(b'a');
    for members in [vec![], vec![member(idle.address, 0)], vec![member(dead, 1)]] {
        for scheduler in [Scheduler::RoundRobin, Scheduler::Maglev] {
            let setup = Setup::new(1, Splice::Adaptive, service(scheduler, &members));
            assert_reset(&mut setup.client());
            setup.expect_traffic(|traffic| traffic.connections == 0);
            assert_eq!(
                setup.traffic(),
                ProxyTraffic { new_connections: 1, failures: 1, ..Default::default() }
            );
        }
    }
}

#[test]
fn silence_ends_a_connection_and_bytes_keep_it() {
    let backend = Echo::start(b'a');
    let idle = Duration::from_millis(200);
    let service =
        ProxyService { idle_timeout: idle, ..service(Scheduler::RoundRobin, &[member(backend.address, 1)]) };
    let setup = Setup::new(1, Splice::Adaptive, service);
    let mut client = setup.client();
    assert_eq!(who(&mut client), b'a');
    let start = Instant::now();
    while start.elapsed() < 3 * idle {
        ping(&mut client).unwrap();
    }
    let last = Instant::now();
    assert_reset(&mut client);
    assert!(last.elapsed() >= idle / 2, "reset after {:?}", last.elapsed());
    setup.expect_traffic(|traffic| traffic.connections == 0);
}

#[test]
fn a_half_closed_connection_has_its_own_time_out() {
    let (backend, address) = listener();
    let closing = Duration::from_millis(200);
    let service =
        ProxyService { closing_timeout: closing, ..service(Scheduler::RoundRobin, &[member(address, 1)]) };
    let setup = Setup::new(1, Splice::Adaptive, service);
    let mut client = setup.client();
    let _server = accept(&backend);
    let start = Instant::now();
    client.shutdown(Shutdown::Write).unwrap();
    assert_reset(&mut client);
    assert!(start.elapsed() >= closing, "reset after {:?}", start.elapsed());
}

#[test]
fn an_update_cuts_only_what_it_must() {
    let [a, b, c] = [b'a', b'b', b'c'].map(Echo::start);
    let all = [&a, &b, &c].map(|echo| member(echo.address, 1));
    let mut setup = Setup::new(1, Splice::Adaptive, service(Scheduler::RoundRobin, &all));
    let mut clients = [setup.client(), setup.client(), setup.client()];
    clients.sort_by_cached_key(|client| who(&mut client.try_clone().unwrap()));
    let [on_a, on_b, on_c] = &mut clients;

    // a is drained, b has failed for good, c stays.
    let failed = Member { address: b.address, weight: 0, keeps: false };
    setup.update(service(Scheduler::RoundRobin, &[member(a.address, 0), failed, member(c.address, 1)]));
    assert_reset(on_b);
    ping(on_a).unwrap();
    ping(on_c).unwrap();
    for _ in 0..6 {
        assert_eq!(who(&mut setup.client()), b'c');
    }

    // a is gone, b is back.
    setup.update(service(Scheduler::RoundRobin, &[member(b.address, 1), member(c.address, 1)]));
    assert_reset(on_a);
    ping(on_c).unwrap();
    let mut back = [setup.client(), setup.client()];
    let mut names = back.each_mut().map(who);
    names.sort_unstable();
    assert_eq!(&names, b"bc");
    back.iter_mut().for_each(|client| ping(client).unwrap());
    assert_eq!(setup.backend_traffic(b.address).new_connections, 2, "counters outlive a failure");
}

#[test]
fn close_serves_who_is_in_the_queue_and_resets_the_rest_at_the_deadline() {
    let backend = Echo::start(b'a');
    let mut setup = Setup::over(&[member(backend.address, 1)]);
    let mut clients: Vec<_> = (0..50).map(|_| setup.client()).collect();
    let drain = Duration::from_secs(2);
    let start = Instant::now();
    setup.close(drain);
    let refused = TcpStream::connect(setup.listen).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    for client in &mut clients {
        assert_eq!(who(client), b'a');
        ping(client).unwrap();
    }
    assert!(start.elapsed() < drain, "too slow for this test");
    clients.iter_mut().for_each(assert_reset);
    assert!(start.elapsed() >= drain);

    let service = service(Scheduler::RoundRobin, &[member(backend.address, 1)]);
    setup.proxy.apply(&ProxyAction::Listen { listen: setup.listen, service }).unwrap();
    assert_eq!(who(&mut setup.client()), b'a');
}

#[test]
fn stop_waits_for_connections_and_resets_them_at_the_deadline() {
    let (backend, address) = listener();
    let setup = Setup::over(&[member(address, 1)]);
    let (mut patient, quick) = (setup.client(), setup.client());
    let (mut first, mut second) = (accept(&backend), accept(&backend));
    let listen = setup.listen;
    let drain = Duration::from_secs(1);
    let start = Instant::now();
    let stopping = thread::spawn(move || setup.proxy.stop(drain));
    while TcpStream::connect(listen).is_ok() {
        assert!(start.elapsed() < drain, "still accepts");
    }
    (&quick).write_all(b"x").unwrap();
    quick.shutdown(Shutdown::Write).unwrap();
    // Which of the two is quick's is up to the workers.
    let mut ready = [PollFd::new(&first, PollFlags::IN), PollFd::new(&second, PollFlags::IN)];
    poll(&mut ready, Some(&timespec(DEADLINE))).unwrap();
    if ready[0].revents().is_empty() {
        std::mem::swap(&mut first, &mut second);
    }
    assert_eq!(io::read_to_string(&mut first).unwrap(), "x");
    first.write_all(b"y").unwrap();
    drop(first);
    assert_eq!(io::read_to_string(quick).unwrap(), "y");
    assert_reset(&mut patient);
    assert!(start.elapsed() >= drain);
    stopping.join().unwrap();
    assert_reset(&mut second);
}

#[test]
fn stop_returns_as_soon_as_all_have_ended() {
    let backend = Echo::start(b'a');
    let setup = Setup::over(&[member(backend.address, 1)]);
    let mut client = setup.client();
    assert_eq!(who(&mut client), b'a');
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| setup.proxy.stop(DEADLINE));
        client.shutdown(Shutdown::Write).unwrap();
        expect_end(&client);
    });
    assert!(start.elapsed() < DEADLINE / 2);
}

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
                destination: setup.listen.ip().into(),
                source_port: Port::new(if affinity == Affinity::None { address.port() } else { 0 }),
                destination_port: Port::new(setup.listen.port()),
                protocol: 6,
            };
            let index = table[slot(tuple.hash(SEED), 1021) as usize];
            assert_eq!(who(&mut client), b"abc"[index as usize]);
        }
    }
}

#[test]
fn ipv6_is_served_alike() {
    let Ok(held) = TcpListener::bind("[::1]:0") else { return };
    let listen = held.local_addr().unwrap();
    drop(held);
    let backend = Echo::start(b'a');
    let mut proxy = Proxy::start(2, SEED).unwrap();
    let service = service(Scheduler::Maglev, &[member(backend.address, 1)]);
    proxy.apply(&ProxyAction::Listen { listen, service }).unwrap();
    let mut client = with_deadline(TcpStream::connect(listen).unwrap());
    assert_eq!(who(&mut client), b'a');
    ping(&mut client).unwrap();
}

#[test]
fn a_listen_address_that_cannot_be_had_is_named_with_the_cure() {
    let mut proxy = Proxy::start(2, SEED).unwrap();
    let mut error = |listen: SocketAddr| {
        let service = service(Scheduler::RoundRobin, &[]);
        proxy.apply(&ProxyAction::Listen { listen, service }).unwrap_err().to_string()
    };

    let taken = vip();
    let _held = TcpListener::bind(taken).unwrap();
    let message = error(taken);
    assert!(message.contains(&taken.to_string()) && message.contains("ss -ltnp"), "{message}");

    let shared = vip();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&shared.into()).unwrap();
    socket.listen(1).unwrap();
    assert!(error(shared).contains("another program"), "SO_REUSEPORT is no invitation");

    let message = error("192.0.2.1:80".parse().unwrap());
    assert!(message.contains("192.0.2.1:80") && message.contains("announce"), "{message}");

    let ours = vip();
    let service = service(Scheduler::RoundRobin, &[]);
    proxy.apply(&ProxyAction::Listen { listen: ours, service: service.clone() }).unwrap();
    assert!(proxy.apply(&ProxyAction::Listen { listen: ours, service: service.clone() }).is_err());
    assert!(proxy.apply(&ProxyAction::Update { listen: vip(), service }).is_err());
    proxy.apply(&ProxyAction::Close { listen: vip(), drain: Duration::ZERO }).unwrap();
}
