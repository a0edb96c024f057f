//! A proxy on loopback, backends and clients. Every wait has a deadline: that of the socket it reads from.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lb_userspace::data_plane::proxy::{ProxyAction, ProxyPlane, ProxyService, ProxyTraffic};
use lb_userspace::model::{Affinity, Cut, Listen, Member, Protocol, Scheduler};
use lb_userspace::proxy::{Proxy, Splice};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub const DEADLINE: Duration = Duration::from_secs(20);
pub const SEED: [u64; 2] = [7, 11];

/// A listen address that nothing else uses: 127.0.0.0/8 is wide.
pub fn vip(protocol: Protocol) -> Listen {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., b, c] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 100 + b % 100, c, NEXT.fetch_add(1, Ordering::Relaxed));
    Listen { address: (ip, 8080).into(), protocol }
}

pub fn member(address: SocketAddr, weight: u32) -> Member {
    Member { address, weight, cut: Cut::NONE }
}

pub fn service(scheduler: Scheduler, members: &[Member]) -> ProxyService {
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
pub struct Setup {
    pub proxy: Proxy,
    pub listen: Listen,
}

impl Setup {
    pub fn new(cores: usize, splice: Splice, service: ProxyService) -> Self {
        Self::on(vip(Protocol::Tcp), Proxy::start_with(cores, SEED, splice).unwrap(), service)
    }

    pub fn on(listen: Listen, mut proxy: Proxy, service: ProxyService) -> Self {
        proxy.apply(&ProxyAction::Listen { listen, service }).unwrap();
        Self { proxy, listen }
    }

    /// Two workers, round robin, adaptive.
    pub fn over(members: &[Member]) -> Self {
        Self::new(2, Splice::Adaptive, service(Scheduler::RoundRobin, members))
    }

    pub fn update(&mut self, service: ProxyService) {
        self.proxy.apply(&ProxyAction::Update { listen: self.listen, service }).unwrap();
    }

    pub fn close(&mut self, drain: Duration) {
        self.proxy.apply(&ProxyAction::Close { listen: self.listen, drain }).unwrap();
    }

    pub fn client(&self) -> TcpStream {
        with_deadline(TcpStream::connect(self.listen.address).unwrap())
    }

    pub fn traffic(&self) -> ProxyTraffic {
        self.proxy.traffic()[&self.listen].0
    }

    pub fn backend_traffic(&self, backend: SocketAddr) -> ProxyTraffic {
        self.proxy.traffic()[&self.listen].1[&backend]
    }

    /// Waits until the traffic is as it should be.
    pub fn expect_traffic(&self, condition: impl Fn(ProxyTraffic) -> bool) {
        let start = Instant::now();
        while !condition(self.traffic()) {
            assert!(start.elapsed() < DEADLINE, "the traffic stayed {:?}", self.traffic());
            thread::yield_now();
        }
    }
}

pub fn with_deadline(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A backend that the test accepts for itself.
pub fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub fn accept(listener: &TcpListener) -> TcpStream {
    let mut ready = [PollFd::new(listener, PollFlags::IN)];
    assert_eq!(poll(&mut ready, Some(&timespec(DEADLINE))).unwrap(), 1, "nobody came");
    with_deadline(listener.accept().unwrap().0)
}

/// An address that refuses: bound, and nobody listens.
pub fn refusing() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// A backend that sends back what it gets, after a byte that says who it is.
pub struct Echo {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Echo {
    pub fn start(name: u8) -> Self {
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
pub fn who(client: &mut TcpStream) -> u8 {
    let mut name = [0];
    client.read_exact(&mut name).unwrap();
    name[0]
}

pub fn ping(client: &mut TcpStream) -> io::Result<()> {
    let mut answer = [0; 4];
    client.write_all(b"ping")?;
    client.read_exact(&mut answer)?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

pub fn assert_reset(client: &mut TcpStream) {
    let error = io::copy(client, &mut io::sink()).expect_err("a clean end, not a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

pub fn timespec(duration: Duration) -> Timespec {
    duration.try_into().unwrap()
}

pub fn expect_end(mut stream: &TcpStream) {
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "more bytes than were sent");
}
