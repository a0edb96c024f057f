//! What health checks of very many backends cost: the CPU time of one thread that checks them all, each once a second.
//!
//! `cargo bench -p lb-userspace --bench checks [BACKENDS]`. The backends are addresses of 127.0.0.0/8 that a process of its
//! own answers for. On loopback the kernel does the receiver's part of a handshake on the sender's time, so a network
//! costs less.
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_userspace::health::{Checker, Target};
use lb_userspace::model::{Check, Health, Http};
use tokio::sync::mpsc;
use tokio::time::timeout_at;

/// The word that makes a process the backends'.
const SERVE: &str = "serve";
const INTERVAL: Duration = Duration::from_secs(1);
const AT_ONCE: usize = 256;
/// Until the first checks are spread.
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(20);

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|word| word == SERVE) {
        return serve();
    }
    let backends = arguments.first().map_or(10_000, |count| count.parse().unwrap());
    let mut server = Command::new(std::env::current_exe().unwrap())
        .arg(SERVE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut port = [0; 2];
    server.stdout.take().unwrap().read_exact(&mut port).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (name, check) in [("tcp", Check::Tcp), ("http", Check::Http(Arc::new(Http::default())))] {
        runtime.block_on(measure(name, &check, backends, u16::from_ne_bytes(port)));
    }
    // It ends with its input.
    drop(server.stdin.take());
    server.wait().unwrap();
}

/// Answers on all addresses of one port until the input ends.
fn serve() {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let mut out = std::io::stdout();
    out.write_all(&listener.local_addr().unwrap().port().to_ne_bytes()).unwrap();
    out.flush().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { continue };
                tokio::spawn(async move {
                    use tokio::io::{AsyncReadExt, AsyncWriteExt};
                    let mut request = [0; 1024];
                    if stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                        let _ = stream.read(&mut request).await;
                    }
                });
            }
        });
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

async fn measure(name: &str, check: &Check, backends: u32, port: u16) {
    let health =
        Health { check: check.clone(), interval: INTERVAL, fast_interval: INTERVAL, ..Health::default() };
    let target = |number: u32| Target {
        pool: "bench".to_owned(),
        // The host's part of 127.0.0.0/8, without 127.0.0.0 and 127.0.0.1.
        address: SocketAddr::from((Ipv4Addr::from(0x7f00_0100 + number), port)),
        was_up: false,
        health: health.clone(),
    };
    let (sender, mut observed) = mpsc::channel(1024);
    let mut checker = Checker::start(sender, AT_ONCE);
    checker.set_targets((0..backends).map(target).collect::<Vec<_>>().into());
    let warm = tokio::time::Instant::now() + WARM_UP;
    while timeout_at(warm, observed.recv()).await.is_ok() {}

    let mut last: HashMap<SocketAddr, Instant> = HashMap::new();
    let (mut gaps, mut failed, mut took) = (Vec::new(), 0_u32, Vec::new());
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let end = tokio::time::Instant::now() + MEASURED;
    while let Ok(Some(seen)) = timeout_at(end, observed.recv()).await {
        let now = Instant::now();
        if let Some(before) = last.insert(seen.address, now) {
            gaps.push(now - before);
        }
        failed += u32::from(!seen.check.ok);
        took.push(seen.check.took_ms);
    }
    let (cpu, wall) = (cpu_seconds() - cpu, start.elapsed().as_secs_f64());
    gaps.sort_unstable();
    took.sort_unstable_by(f64::total_cmp);
    let share = |part: f64, of: usize| (of as f64 * part) as usize;
    println!(
        "{name}: {backends} backends, {:.0} checks a second, {failed} failed, {:.1} % of one CPU, {:.1} µs each; \
         between two checks of a backend p50 {:.0} ms, p99 {:.0} ms, most {:.0} ms; a check takes p50 {:.2} ms, p99 {:.2} ms",
        took.len() as f64 / wall,
        cpu / wall * 100.0,
        cpu / took.len() as f64 * 1e6,
        gaps[share(0.5, gaps.len())].as_secs_f64() * 1e3,
        gaps[share(0.99, gaps.len())].as_secs_f64() * 1e3,
        gaps.last().unwrap().as_secs_f64() * 1e3,
        took[share(0.5, took.len())],
        took[share(0.99, took.len())],
    );
}

/// That this process has used, user and system, to a hundredth (proc(5): `utime` and `stime`, USER_HZ is 100).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // Counted from the state, which is the third of all.
    [11, 12].map(|field: usize| fields[field].parse::<f64>().unwrap()).iter().sum::<f64>() / 100.0
}
