//! What is measured: requests over kept connections, new connections, bulk.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use lb_testbed::namespace::Namespace;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::web;

/// wrk's connections; one thread drives them.
const CONNECTIONS: &str = "-c32";
/// Downloads at a time.
const DOWNLOADS: usize = 4;
/// A download in which nothing arrives for so long has failed.
const STALL: Duration = Duration::from_secs(2);

/// Prints wrk's summary as one line of JSON.
const SUMMARY: &str = r#"
done = function(summary, latency)
  local e = summary.errors
  print(string.format('{"requests":%.0f,"us":%.0f,"p50_us":%.0f,"p99_us":%.0f,"errors":%.0f}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Small requests over connections that stay open
    KeepAlive,
    /// A connection for each small request
    NewConnections,
    /// Large downloads
    Bulk,
}

impl Load {
    /// In the order of a round.
    pub const ALL: [Self; 3] = [Self::KeepAlive, Self::NewConnections, Self::Bulk];

    /// Of its rate.
    pub fn unit(self) -> &'static str {
        match self {
            Self::KeepAlive => "requests/s",
            Self::NewConnections => "connections/s",
            Self::Bulk => "Mbit/s",
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::KeepAlive => "keep-alive",
            Self::NewConnections => "new connections",
            Self::Bulk => "bulk",
        })
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// In [`Load::unit`].
    pub rate: f64,
    /// Of a request in microseconds: median and 99th percentile. Not for bulk.
    pub latency: Option<(f64, f64)>,
    /// Requests or downloads that failed.
    pub errors: u64,
}

/// What [`SUMMARY`] prints.
#[derive(Deserialize)]
struct Summary {
    requests: f64,
    us: f64,
    p50_us: f64,
    p99_us: f64,
    errors: u64,
}

/// Makes load.
pub struct Tool {
    script: NamedTempFile,
}

impl Tool {
    /// # Errors
    /// wrk is not installed.
    pub fn new() -> Result<Self> {
        ensure!(
            crate::contender::is_installed("wrk"),
            "wrk makes the load and is not installed (cure: install package wrk)"
        );
        let mut script = NamedTempFile::new()?;
        script.write_all(SUMMARY.as_bytes())?;
        Ok(Self { script })
    }

    /// Puts load on the target for so long.
    ///
    /// # Errors
    /// The tool itself fails.
    pub fn run(
        &self,
        load: Load,
        client: &Namespace,
        target: SocketAddr,
        duration: Duration,
    ) -> Result<Measured> {
        match load {
            Load::KeepAlive => self.wrk(client, target, duration, &[]),
            Load::NewConnections => self.wrk(client, target, duration, &["-H", "Connection: close"]),
            Load::Bulk => client.run(|| bulk(target, duration)),
        }
    }

    fn wrk(
        &self,
        client: &Namespace,
        target: SocketAddr,
        duration: Duration,
        options: &[&str],
    ) -> Result<Measured> {
        let mut command = Command::new("wrk");
        command.args(["-t1", CONNECTIONS]).arg(format!("-d{}s", duration.as_secs())).args(options);
        command.arg("-s").arg(self.script.path()).arg(format!("http://{target}/"));
        let printed = client.output(&mut command)?;
        let line = printed.lines().rfind(|line| line.starts_with('{'));
        let summary: Summary = serde_json::from_str(line.unwrap_or_default())
            .with_context(|| format!("wrk printed no summary: {printed}"))?;
        Ok(Measured {
            rate: summary.requests * 1e6 / summary.us,
            latency: Some((summary.p50_us, summary.p99_us)),
            errors: summary.errors,
        })
    }
}

/// Downloads from the calling thread's namespace.
fn bulk(target: SocketAddr, duration: Duration) -> Measured {
    let start = Instant::now();
    let results: Vec<Result<u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..DOWNLOADS).map(|_| scope.spawn(|| download(target, start + duration))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let bytes: u64 = results.iter().flatten().sum();
    let rate = bytes as f64 * 8e-6 / start.elapsed().as_secs_f64();
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        eprintln!("download from {target}: {error:#}");
    }
    let good = results.iter().flatten().count();
    Measured { rate, latency: None, errors: (DOWNLOADS - good) as u64 }
}

/// One download after the other; how many bytes came before `end`.
fn download(target: SocketAddr, end: Instant) -> Result<u64> {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        let mut stream = TcpStream::connect_timeout(&target, STALL).context("connecting")?;
        stream.set_read_timeout(Some(STALL))?;
        stream.write_all(b"GET /bulk HTTP/1.0\r\n\r\n")?;
        let mut bytes = 0;
        loop {
            let length = stream.read(&mut buffer).with_context(|| format!("after {bytes} bytes"))?;
            bytes += length as u64;
            if Instant::now() >= end {
                return Ok(total + bytes);
            }
            if length == 0 {
                break;
            }
        }
        ensure!(bytes > web::BULK, "ended after {bytes} of {} bytes", web::BULK);
        total += bytes;
    }
}
