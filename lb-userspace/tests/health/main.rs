//! Health checks against real sockets on loopback.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod agent;
mod grpc;
mod harness;
mod http;
mod others;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use harness::*;
use lb_userspace::model::Check;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

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
    checker.set_targets(vec![elsewhere.clone()].into());
    let seen = next(&mut observations).await;
    assert_eq!((seen.address, found(&seen)), (dead, (true, "connected")), "reported as the backend's");
    assert_eq!(timeout(DEADLINE, clients.recv()).await.unwrap().unwrap().ip(), source);

    // An address that nobody has: only the address of the check answers.
    let mut elsewhere = elsewhere;
    elsewhere.address = SocketAddr::from(([192, 0, 2, 1], 9));
    elsewhere.health.address = Some(alive.ip());
    checker.set_targets(vec![elsewhere].into());
    while next(&mut observations).await.address == dead {}

    // A source of the other family is not for this endpoint.
    let mut other_family = target(alive, Check::Tcp);
    other_family.health.source = Some("2001:db8::1".parse().unwrap());
    checker.set_targets(vec![other_family].into());
    while next(&mut observations).await.address != alive {}
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
        checker.set_targets(targets.into());
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
    checker.set_targets(both.clone().into());
    while next(&mut observations).await.address != dead {}

    checker.set_targets(both[1..].to_vec().into());
    while observations.try_recv().is_ok() {}
    for _ in 0..5 {
        assert_eq!(next(&mut observations).await.address, alive);
    }

    let listener = TcpListener::from_std(_socket.listen(8).unwrap().into_std().unwrap()).unwrap();
    assert_eq!(listener.local_addr().unwrap(), dead);
    checker.set_targets(both.into());
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
    checker.set_targets(vec![target(address, Check::None), target(alive, Check::Tcp)].into());
    for _ in 0..5 {
        assert_eq!(next(&mut observations).await.address, alive);
    }
    checker.set_targets(vec![target(alive, Check::None)].into());
    while observations.try_recv().is_ok() {}
    drop(checker);
    assert_eq!(timeout(DEADLINE, observations.recv()).await.unwrap(), None);
}

/// The server answers nobody before as many as may are connected, and prefers new connections after that.
#[tokio::test]
async fn checks_that_hang_do_not_pile_up() {
    let count = AT_ONCE + 40;
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
                () = std::future::ready(()), if open.len() >= AT_ONCE || accepted == count => {
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
    checker.set_targets(targets.collect::<Vec<_>>().into());
    for _ in 0..count {
        let seen = next(&mut observations).await;
        assert!(seen.up, "{:?}", seen.check);
    }
    assert_eq!(timeout(DEADLINE, server).await.unwrap().unwrap(), AT_ONCE);
}

#[tokio::test]
async fn whose_way_is_lost_is_down_and_is_checked_when_it_is_regained() {
    let (here, there) = (silent().await, SocketAddr::from(([127, 0, 0, 2], 9)));
    let (mut checker, mut observations) = checker();
    let mut targets = vec![target(here, Check::Tcp), target(there, Check::Tcp)];
    for target in &mut targets {
        (target.health.interval, target.health.fast_interval) = (20 * DEADLINE, 20 * DEADLINE);
        target.health.rise = 1;
    }
    checker.set_targets(targets.into());
    for _ in 0..2 {
        next(&mut observations).await;
    }
    checker.lose(here.ip(), "eth1 is down");
    let seen = next(&mut observations).await;
    assert_eq!((seen.address, found(&seen)), (here, (false, "eth1 is down")));
    checker.recheck(here.ip());
    let seen = next(&mut observations).await;
    assert_eq!((seen.address, found(&seen)), (here, (true, "connected")));
    assert!(observations.try_recv().is_err(), "the other one is elsewhere");
}
