//! Many bytes to an echo server and back, both directions busy at once, compared by digest.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::namespace::Namespace;
use crate::record::{self, BANNER};

const CHUNK: usize = 256 * 1024;

/// A transfer.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where it connects.
    pub target: SocketAddr,
    /// How many bytes, each way.
    pub bytes: u64,
    /// The longest pause in which nothing arrives.
    pub stall: Duration,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Who greeted.
    pub backend: String,
    /// What came back is what was sent.
    pub intact: bool,
    /// One way, in millions of bits a second.
    pub mbit_per_s: f64,
    /// The longest time in which nothing arrived, in milliseconds.
    pub longest_pause_ms: f64,
}

/// Transfers from within the namespace.
///
/// # Errors
/// The connection breaks or stalls; the message says how far it came.
pub fn transfer(namespace: &Namespace, plan: Plan) -> anyhow::Result<Report> {
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(run(plan))
    })?
}

async fn run(plan: Plan) -> anyhow::Result<Report> {
    let mut stream = timeout(plan.stall, TcpStream::connect(plan.target)).await.context("connecting")??;
    let mut banner = [0; BANNER];
    timeout(plan.stall, stream.read_exact(&mut banner)).await.context("no banner")??;
    let start = Instant::now();
    let (reader, writer) = stream.into_split();
    let (sent, (received, longest_pause)) =
        tokio::try_join!(send(writer, plan.bytes), receive(reader, plan))?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Report {
        backend: record::id(&banner),
        intact: sent == received,
        mbit_per_s: plan.bytes as f64 * 8e-6 / seconds,
        longest_pause_ms: longest_pause.as_secs_f64() * 1000.0,
    })
}

/// Sends bytes that do not repeat, and their digest stays here.
async fn send(mut writer: OwnedWriteHalf, bytes: u64) -> anyhow::Result<[u8; 32]> {
    let mut random = SmallRng::seed_from_u64(bytes);
    let mut digest = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        random.fill_bytes(&mut chunk[..length]);
        digest.update(&chunk[..length]);
        writer.write_all(&chunk[..length]).await?;
        left -= length as u64;
    }
    writer.shutdown().await?;
    Ok(digest.finalize().into())
}

async fn receive(mut reader: OwnedReadHalf, plan: Plan) -> anyhow::Result<([u8; 32], Duration)> {
    let mut digest = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let (mut count, mut longest) = (0, Duration::ZERO);
    loop {
        let start = Instant::now();
        let read = timeout(plan.stall, reader.read(&mut chunk)).await;
        let length = read
            .with_context(|| format!("a stall of {:?} after {count} bytes", plan.stall))?
            .with_context(|| format!("broken after {count} bytes"))?;
        longest = longest.max(start.elapsed());
        if length == 0 {
            ensure!(count == plan.bytes, "ended after {count} of {} bytes", plan.bytes);
            return Ok((digest.finalize().into(), longest));
        }
        digest.update(&chunk[..length]);
        count += length as u64;
    }
}
