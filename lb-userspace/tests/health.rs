//! Health checks against real sockets on loopback.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::HeaderValue;
use lb_userspace::health::{CONCURRENT_CHECKS, Checker, Observation, Target};
use lb_userspace::model::{Check, Health, Http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// What should not take long may take this long on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);
/// The time-out of checks that should run into it.
const SHORT: Duration = Duration::from_millis(300);

fn http() -> Check {
    http_with(|_| ())
}

fn http_with(set: impl FnOnce(&mut Http)) -> Check {
    let mut http = Http { path: "/health?deep=1".to_owned(), ..Http::default() };
    set(&mut http);
    Check::Http(Arc::new(http))
}

fn target(address: SocketAddr, check: Check) -> Target {
    let interval = Duration::from_millis(50);
    let (fast_interval, timeout) = (interval, DEADLINE);
    let health = Health { check, interval, fast_interval, timeout, rise: 3, ..Health::default() };
    Target { pool: "web".to_owned(), address, was_up: false, health }
}

fn checker() -> (Checker, mpsc::Receiver<Observation>) {
    let (sender, receiver) = mpsc::channel(4);
    (Checker::start(sender), receiver)
}

async fn next(observations: &mut mpsc::Receiver<Observation>) -> Observation {
    timeout(DEADLINE, observations.recv()).await.unwrap().unwrap()
}

/// What the first check of `address` finds.
async fn first(address: SocketAddr, check: Check) -> Observation {
    first_within(DEADLINE, address, check).await
}

async fn first_within(timeout: Duration, address: SocketAddr, check: Check) -> Observation {
    let (mut checker, mut observations) = checker();
    let mut target = target(address, check);
    target.health.timeout = timeout;
    checker.set_targets(vec![target]);
    next(&mut observations).await
}

/// A server on loopback: `serve` gets every connection with its number, from 0.
async fn server<F: Future<Output = ()> + Send + 'static>(
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
async fn request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(request).unwrap()
}

/// A server that answers every request with these bytes and closes.
async fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
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
async fn silent() -> SocketAddr {
    server(|stream, _| async move {
        let _open = stream;
        pending::<()>().await;
    })
    .await
}

/// An address where nobody listens, for as long as the socket lives.
fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn found(observation: &Observation) -> (bool, &str) {
    assert_eq!(observation.up, observation.check.ok, "the first check decides alone");
    (observation.up, &observation.check.detail)
}

#[tokio::test]
async fn a_tcp_check_wants_an_accepted_connection() {
    let silent = silent().await;
    let seen = first(silent, Check::Tcp).await;
    assert_eq!((seen.pool.as_str(), seen.address, found(&seen)), ("web", silent, (true, "connected")));
    assert!(seen.check.at.ends_with('Z') && seen.check.took_ms > 0.0, "{:?}", seen.check);

    let (_socket, address) = refusing();
    assert_eq!(found(&first(address, Check::Tcp).await), (false, "connection refused"));
    assert_eq!(found(&first(address, http()).await), (false, "connection refused"));
}

#[tokio::test]
async fn a_tcp_check_says_goodbye_without_a_reset() {
    let (sender, mut ends) = mpsc::channel(1);
    let address = server(move |mut stream, _| {
        let ends = sender.clone();
        async move {
            let _ = ends.send(stream.read(&mut [0]).await.map_err(|error| error.kind())).await;
        }
    })
    .await;
    first(address, Check::Tcp).await;
    assert_eq!(timeout(DEADLINE, ends.recv()).await.unwrap(), Some(Ok(0)));
}

#[tokio::test]
async fn an_http_check_goes_by_the_status() {
    for (status, ok) in
        [(200, true), (204, true), (302, true), (399, true), (400, false), (404, false), (503, false)]
    {
        let address = answering(format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n")).await;
        let seen = first(address, http()).await;
        assert_eq!(found(&seen), (ok, format!("HTTP {status}").as_str()));
    }
    let old = answering("HTTP/1.0 200 OK\r\n\r\nhello").await;
    assert_eq!(found(&first(old, http()).await), (true, "HTTP 200"));
}

#[tokio::test]
async fn an_http_check_asks_for_the_path_and_says_who_it_is() {
    let (sender, mut requests) = mpsc::channel(1);
    let address = server(move |mut stream, _| {
        let requests = sender.clone();
        async move {
            let _ = requests.send(request(&mut stream).await.to_lowercase()).await;
        }
    })
    .await;
    first(address, http()).await;
    let request = timeout(DEADLINE, requests.recv()).await.unwrap().unwrap();
    let mut lines: Vec<&str> = request.trim_end().split("\r\n").collect();
    lines[1..].sort_unstable();
    let host = format!("host: {address}");
    let expected = ["get /health?deep=1 http/1.1", "connection: close", &host, "user-agent: sluice-health"];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn an_http_check_asks_as_the_config_says() {
    let (sender, mut requests) = mpsc::channel(1);
    let address = server(move |mut stream, _| {
        let requests = sender.clone();
        async move {
            let _ = requests.send(request(&mut stream).await).await;
        }
    })
    .await;
    let check = http_with(|http| {
        http.method = Method::HEAD;
        http.host = Some("www.example.org".to_owned());
        for (name, value) in [("user-agent", "probe"), ("x-probe", "1"), ("x-probe", "2")] {
            http.headers.append(name, HeaderValue::from_static(value));
        }
    });
    first(address, check).await;
    let request = timeout(DEADLINE, requests.recv()).await.unwrap().unwrap();
    let mut lines: Vec<&str> = request.trim_end().split("\r\n").collect();
    lines[1..].sort_unstable();
    let expected = [
        "HEAD /health?deep=1 HTTP/1.1",
        "connection: close",
        "host: www.example.org",
        "user-agent: probe",
        "x-probe: 1",
        "x-probe: 2",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn the_config_says_which_status_is_healthy() {
    let check = http_with(|http| http.status = vec![200..=204, 401..=401]);
    for (status, ok) in [(200, true), (204, true), (205, false), (302, false), (401, true)] {
        let address = answering(format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(found(&first(address, check.clone()).await), (ok, format!("HTTP {status}").as_str()));
    }
}

#[tokio::test]
async fn an_http_check_looks_into_the_body() {
    const LIMIT: usize = 65536;
    let check = http_with(|http| http.body = Some("all is well".to_owned()));
    let answer =
        |length: usize, body: String| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
    let whole = |body: String| answer(body.len(), body);
    let at = |offset: usize| whole("x".repeat(offset) + "all is well" + &"y".repeat(LIMIT));
    for (answer, expected) in [
        (whole("status: all is well!".to_owned()), (true, "HTTP 200, the body holds \"all is well\"")),
        (at(LIMIT - 11), (true, "HTTP 200, the body holds \"all is well\"")),
        (at(LIMIT - 10), (false, "HTTP 200, the first 65536 bytes of the body do not hold \"all is well\"")),
        (whole("all is wel".to_owned()), (false, "HTTP 200, the body does not hold \"all is well\"")),
        (whole(String::new()), (false, "HTTP 200, the body does not hold \"all is well\"")),
        (
            answer(99, "all is".to_owned()),
            (false, "HTTP 200, the body broke off before it held \"all is well\""),
        ),
    ] {
        assert_eq!(found(&first(answering(answer).await, check.clone()).await), expected);
    }
    // The status comes first, and the text may come in pieces.
    let failing = answering("HTTP/1.1 500 No\r\nContent-Length: 11\r\n\r\nall is well").await;
    assert_eq!(found(&first(failing, check.clone()).await), (false, "HTTP 500"));
    let pieces = server(|mut stream, _| async move {
        stream.set_nodelay(true).unwrap();
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        for chunk in ["xal", "l is we", "ll"] {
            let chunk = format!("{:x}\r\n{chunk}\r\n", chunk.len());
            stream.write_all(chunk.as_bytes()).await.unwrap();
        }
        // Nothing ends the body: it need not be read to its end.
        pending::<()>().await;
    })
    .await;
    assert!(first(pieces, check).await.up);
}

#[tokio::test]
async fn checks_may_ask_elsewhere_and_come_from_elsewhere() {
    let (sender, mut clients) = mpsc::channel(1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let alive = listener.local_addr().unwrap();
    tokio::spawn(async move { while sender.send(listener.accept().await.unwrap().1).await.is_ok() {} });
    let (_socket, dead) = refusing();
    let mut elsewhere = target(dead, Check::Tcp);
    elsewhere.health.port = Some(alive.port());
    let source = IpAddr::from([127, 0, 0, 99]);
    elsewhere.health.source = Some(source);
    let (mut checker, mut observations) = checker();
    checker.set_targets(vec![elsewhere.clone()]);
    let seen = next(&mut observations).await;
    assert_eq!((seen.address, found(&seen)), (dead, (true, "connected")), "reported as the backend's");
    assert_eq!(timeout(DEADLINE, clients.recv()).await.unwrap().unwrap().ip(), source);

    // An address that nobody has: only the address of the check answers.
    let mut elsewhere = elsewhere;
    elsewhere.address = SocketAddr::from(([192, 0, 2, 1], 9));
    elsewhere.health.address = Some(alive.ip());
    checker.set_targets(vec![elsewhere]);
    while next(&mut observations).await.address == dead {}

    // A source of the other family is not for this endpoint.
    let mut other_family = target(alive, Check::Tcp);
    other_family.health.source = Some("2001:db8::1".parse().unwrap());
    checker.set_targets(vec![other_family]);
    while next(&mut observations).await.address != alive {}
}

#[tokio::test]
async fn an_http_check_does_not_wait_for_the_body() {
    let endless = server(|mut stream, _| async move {
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    })
    .await;
    assert_eq!(found(&first(endless, http()).await), (true, "HTTP 200"));
}

#[tokio::test]
async fn servers_that_do_not_answer_fail() {
    let silent = silent().await;
    let seen = first_within(SHORT, silent, http()).await;
    assert_eq!(found(&seen), (false, "no answer within 300 ms"));

    let dripping = server(|mut stream, _| async move {
        for byte in b"HTTP/1.1 200 OK\r\nServer: slow\r\n\r\n" {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    })
    .await;
    let seen = first_within(SHORT, dripping, http()).await;
    assert_eq!(found(&seen), (false, "no answer within 300 ms"));
    assert!((300.0..3000.0).contains(&seen.check.took_ms), "{}", seen.check.took_ms);

    for part in ["", "HTTP/1.1 200 OK\r\nServer: ha"] {
        assert_eq!(found(&first(answering(part).await, http()).await), (false, "closed before the answer"));
    }

    let resetting = server(|mut stream, _| async move {
        request(&mut stream).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert_eq!(found(&first(resetting, http()).await), (false, "connection reset"));
}

#[tokio::test]
async fn answers_that_are_not_http_or_too_long_fail() {
    let ssh = answering("SSH-2.0-OpenSSH_9.2p1\r\n").await;
    assert_eq!(found(&first(ssh, http()).await), (false, "no HTTP/1 answer"));

    let long = answering(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100_000))).await;
    assert_eq!(found(&first(long, http()).await), (false, "more than 16384 bytes of headers"));
}

#[tokio::test]
async fn a_backend_that_stays_keeps_its_judgement() {
    let address = server(|mut stream, number| async move {
        request(&mut stream).await;
        let status = if number == 0 { "503 No" } else { "200 Yes" };
        let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await;
    })
    .await;
    let other = silent().await;
    let (mut checker, mut observations) = checker();
    let mut seen = Vec::new();
    for round in 0..5 {
        // Another backend comes and goes, and the interval changes, in between.
        let mut kept = target(address, http());
        kept.health.interval -= Duration::from_millis(round % 2);
        let mut targets = vec![kept];
        if round % 2 == 1 {
            targets.push(target(other, Check::Tcp));
        }
        checker.set_targets(targets);
        loop {
            let observation = next(&mut observations).await;
            if observation.address == address {
                seen.push((observation.check.ok, observation.up));
                break;
            }
        }
    }
    assert_eq!(seen, [(false, false), (true, false), (true, false), (true, true), (true, true)]);
}

#[tokio::test]
async fn a_backend_that_left_is_not_checked_and_starts_anew_when_it_returns() {
    let (_socket, dead) = refusing();
    let alive = silent().await;
    let both = vec![target(dead, Check::Tcp), target(alive, Check::Tcp)];
    let (mut checker, mut observations) = checker();
    checker.set_targets(both.clone());
    while next(&mut observations).await.address != dead {}

    checker.set_targets(both[1..].to_vec());
    while observations.try_recv().is_ok() {}
    for _ in 0..5 {
        assert_eq!(next(&mut observations).await.address, alive);
    }

    let listener = TcpListener::from_std(_socket.listen(8).unwrap().into_std().unwrap()).unwrap();
    assert_eq!(listener.local_addr().unwrap(), dead);
    checker.set_targets(both);
    let returned = loop {
        let observation = next(&mut observations).await;
        if observation.address == dead {
            break observation;
        }
    };
    assert!(returned.up, "judged anew by the first check");

    drop(checker);
    let ended = async { while observations.recv().await.is_some() {} };
    timeout(DEADLINE, ended).await.unwrap();
}

#[tokio::test]
async fn check_none_observes_nothing() {
    let (_socket, address) = refusing();
    let alive = silent().await;
    let (mut checker, mut observations) = checker();
    checker.set_targets(vec![target(address, Check::None), target(alive, Check::Tcp)]);
    for _ in 0..5 {
        assert_eq!(next(&mut observations).await.address, alive);
    }
    checker.set_targets(vec![target(alive, Check::None)]);
    while observations.try_recv().is_ok() {}
    drop(checker);
    assert_eq!(timeout(DEADLINE, observations.recv()).await.unwrap(), None);
}

/// The server answers nobody before as many as may are connected, and prefers new connections after that.
#[tokio::test]
async fn checks_that_hang_do_not_pile_up() {
    let count = CONCURRENT_CHECKS + 40;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut open, mut most, mut accepted) = (Vec::new(), 0, 0);
        while accepted < count || !open.is_empty() {
            tokio::select! {
                biased;
                connection = listener.accept(), if accepted < count => {
                    open.push(connection.unwrap().0);
                    accepted += 1;
                    most = most.max(open.len());
                }
                () = std::future::ready(()), if open.len() >= CONCURRENT_CHECKS || accepted == count => {
                    let mut stream = open.remove(0);
                    request(&mut stream).await;
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                }
            }
        }
        most
    });
    let (mut checker, mut observations) = checker();
    let targets = (0..count).map(|pool| {
        let mut target = target(address, http());
        target.pool = format!("pool-{pool}");
        target.health.interval = 10 * DEADLINE;
        target
    });
    checker.set_targets(targets.collect());
    for _ in 0..count {
        let seen = next(&mut observations).await;
        assert!(seen.up, "{:?}", seen.check);
    }
    assert_eq!(timeout(DEADLINE, server).await.unwrap().unwrap(), CONCURRENT_CHECKS);
}
