//! The UDP check and the check by a program.

use std::path::Path;
use std::sync::Arc;

use lb_userspace::model::{Check, Exec, Udp};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

use crate::harness::*;

fn udp(send: &[u8], expect: Option<&[u8]>) -> Check {
    Check::Udp(Arc::new(Udp { send: send.to_vec(), expect: expect.map(<[u8]>::to_vec) }))
}

fn sh(script: &str) -> Check {
    let arguments = ["-c", script, "name", "an argument"].map(str::to_owned).to_vec();
    Check::Exec(Arc::new(Exec { program: "/bin/sh".into(), arguments }))
}

#[tokio::test]
async fn a_udp_check_wants_an_answer() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut datagram = [0; 100];
        loop {
            let (length, client) = socket.recv_from(&mut datagram).await.unwrap();
            if &datagram[..length] == b"ping\0" {
                socket.send_to(b"well: pong", client).await.unwrap();
            }
        }
    });
    assert_eq!(found(&first(address, udp(b"ping\0", None)).await), (true, "10 bytes"));
    assert_eq!(found(&first(address, udp(b"ping\0", Some(b"pong"))).await), (true, "10 bytes"));
    let other = first(address, udp(b"ping\0", Some(b"gong"))).await;
    assert_eq!(found(&other), (false, "10 bytes without what is expected"));
    let silent = first_within(SHORT, address, udp(b"pong", None)).await;
    assert_eq!(found(&silent), (false, "no answer within 300 ms"));
}

#[tokio::test]
async fn a_udp_check_hears_that_nobody_listens() {
    let address = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let started = Instant::now();
    assert_eq!(found(&first(address, udp(b"ping", None)).await), (false, "port unreachable"));
    assert!(started.elapsed() < DEADLINE / 2, "long before the time-out");
}

#[tokio::test]
async fn a_program_decides_by_its_exit_code() {
    let backend = "192.0.2.1:80".parse().unwrap();
    for (script, expected) in [
        ("exit 0", (true, "exit status: 0")),
        ("echo all is well; echo second line", (true, "exit status: 0: all is well")),
        ("echo disk full; exit 3", (false, "exit status: 3: disk full")),
        ("echo $SLUICE_BACKEND $SLUICE_BACKEND_ADDRESS $SLUICE_BACKEND_PORT", {
            (true, "exit status: 0: 192.0.2.1:80 192.0.2.1 80")
        }),
        ("echo $1 $HOME; pwd >&2", (true, "exit status: 0: an argument")),
        // More than a pipe holds: it never waits for a reader.
        ("head -c 1000000 /dev/zero | tr '\\0' '\\n'; exit 1", (false, "exit status: 1")),
        ("kill -9 $$", (false, "signal: 9 (SIGKILL)")),
        // What goes on in the background holds the output, and nobody waits for it.
        ("sleep 2 & exit 0", (true, "exit status: 0")),
    ] {
        assert_eq!(found(&first(backend, sh(script)).await), expected, "{script}");
    }
    let missing = Exec { program: "/no/such/program".into(), arguments: Vec::new() };
    let seen = first(backend, Check::Exec(Arc::new(missing))).await;
    assert_eq!(found(&seen), {
        (false, "/no/such/program cannot be run: No such file or directory (os error 2)")
    });
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_killed_with_what_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pids");
    let script =
        format!("sleep 600 & echo $$ $! > {file}.new; mv {file}.new {file}; wait", file = file.display());
    let backend = "192.0.2.1:80".parse().unwrap();
    let (mut checker, mut observations) = checker();
    let mut target = target(backend, sh(&script));
    (target.health.timeout, target.health.interval) = (10 * SHORT, 20 * DEADLINE);
    checker.set_targets(vec![target].into());
    let seen = next(&mut observations).await;
    assert_eq!(found(&seen), (false, "no result within 3000 ms"));
    let pids = std::fs::read_to_string(&file).unwrap();
    let ended = async {
        for pid in pids.split_whitespace() {
            while is_running(pid) {
                tokio::task::yield_now().await;
            }
        }
    };
    timeout(DEADLINE, ended).await.unwrap();
}

/// Whether the process exists and has not ended.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X']))
}
