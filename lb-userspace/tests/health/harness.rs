//! Backends of all kinds, and what checks find there.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_userspace::health::{Checker, Observation, Target};
use lb_userspace::model::{Check, Health, Http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Checks that run at the same time.
pub(crate) const AT_ONCE: usize = 256;
/// What should not take long may take this long on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// The time-out of checks that should run into it.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

pub(crate) fn http() -> Check {
    http_with(|_| ())
}

pub(crate) fn http_with(set: impl FnOnce(&mut Http)) -> Check {
    let mut http = Http { path: "/health?deep=1".to_owned(), ..Http::default() };
    set(&mut http);
    Check::Http(Arc::new(http))
}

pub(crate) fn target(address: SocketAddr, check: Check) -> Target {
    let interval = Duration::from_millis(50);
    let (fast_interval, timeout) = (interval, DEADLINE);
    let health = Health { check, interval, fast_interval, timeout, rise: 3, ..Health::default() };
    Target { pool: "web".to_owned(), address, was_up: false, health }
}

pub(crate) fn checker() -> (Checker, mpsc::Receiver<Observation>) {
    let (sender, receiver) = mpsc::channel(4);
    (Checker::start(sender, AT_ONCE), receiver)
}

pub(crate) async fn next(observations: &mut mpsc::Receiver<Observation>) -> Observation {
    timeout(DEADLINE, observations.recv()).await.unwrap().unwrap()
}

/// What the first check of `address` finds.
pub(crate) async fn first(address: SocketAddr, check: Check) -> Observation {
    first_within(DEADLINE, address, check).await
}

pub(crate) async fn first_within(timeout: Duration, address: SocketAddr, check: Check) -> Observation {
    let (mut checker, mut observations) = checker();
    let mut target = target(address, check);
    target.health.timeout = timeout;
    checker.set_targets(vec![target].into());
    next(&mut observations).await
}

/// A server on loopback: `serve` gets every connection with its number, from 0.
pub(crate) async fn server<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream, usize) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, number));
        }
    });
    address
}

/// Reads a request's headers.
pub(crate) async fn request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(request).unwrap()
}

/// A server that answers every request with these bytes and closes.
pub(crate) async fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = answer.into();
    server(move |mut stream, _| {
        let answer = answer.clone();
        async move {
            request(&mut stream).await;
            // The checker may close before it has read everything.
            let _ = stream.write_all(&answer).await;
        }
    })
    .await
}

/// A server that accepts and says nothing.
pub(crate) async fn silent() -> SocketAddr {
    server(|stream, _| async move {
        let _open = stream;
        pending::<()>().await;
    })
    .await
}

/// An address where nobody listens, for as long as the socket lives.
pub(crate) fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

pub(crate) fn found(observation: &Observation) -> (bool, &str) {
    assert_eq!(observation.up, observation.check.ok, "the first check decides alone");
    (observation.up, &observation.check.detail)
}
