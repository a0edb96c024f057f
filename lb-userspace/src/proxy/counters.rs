//! What the proxy counts, sharded by worker, so that no two threads write one cache line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::data_plane::proxy::ProxyTraffic;

/// Counters of a listen address or of one of its backends.
#[derive(Clone, Debug)]
pub(super) struct Counters(Arc<[Shard]>);

/// One worker's part, on cache lines of its own (two: the prefetcher fetches pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Shard {
    opened: AtomicU64,
    ended: AtomicU64,
    bytes: AtomicU64,
    reply_bytes: AtomicU64,
    packets: AtomicU64,
    reply_packets: AtomicU64,
    failures: AtomicU64,
    /// Nanoseconds.
    connecting: AtomicU64,
    timeouts: AtomicU64,
}

impl Counters {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Shard::default()).collect())
    }

    /// The part of one worker; every index is valid.
    pub(super) fn shard(&self, worker: usize) -> &Shard {
        &self.0[worker % self.0.len()]
    }

    /// The sums. `ended` is read before `opened`, so that a connection in between is never counted as ended
    /// only.
    pub(super) fn sum(&self) -> ProxyTraffic {
        self.0.iter().fold(ProxyTraffic::default(), |sum, shard| {
            let ended = shard.ended.load(Relaxed);
            let opened = shard.opened.load(Relaxed);
            ProxyTraffic {
                connections: sum.connections + opened.saturating_sub(ended),
                new_connections: sum.new_connections + opened,
                bytes: sum.bytes + shard.bytes.load(Relaxed),
                reply_bytes: sum.reply_bytes + shard.reply_bytes.load(Relaxed),
                packets: sum.packets + shard.packets.load(Relaxed),
                reply_packets: sum.reply_packets + shard.reply_packets.load(Relaxed),
                failures: sum.failures + shard.failures.load(Relaxed),
                connecting: sum.connecting + Duration::from_nanos(shard.connecting.load(Relaxed)),
                timeouts: sum.timeouts + shard.timeouts.load(Relaxed),
            }
        })
    }
}

impl Shard {
    /// Counts a connection as open for as long as the guard lives.
    pub(super) fn open(&self) -> Open<'_> {
        self.opened.fetch_add(1, Relaxed);
        Open(self)
    }

    /// Counts how long a connection took to open.
    pub(super) fn connected(&self, took: Duration) {
        self.connecting.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Counts what [`ProxyTraffic::failures`] says.
    pub(super) fn fail(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Counts what [`ProxyTraffic::timeouts`] says.
    pub(super) fn time_out(&self) {
        self.timeouts.fetch_add(1, Relaxed);
    }

    /// Counts bytes from the client and bytes to it.
    pub(super) fn relayed(&self, bytes: u64, reply_bytes: u64) {
        if bytes > 0 {
            self.bytes.fetch_add(bytes, Relaxed);
        }
        if reply_bytes > 0 {
            self.reply_bytes.fetch_add(reply_bytes, Relaxed);
        }
    }

    /// Counts one datagram of a client.
    pub(super) fn sent(&self, bytes: usize) {
        self.packets.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Counts one datagram to a client.
    pub(super) fn replied(&self, bytes: usize) {
        self.reply_packets.fetch_add(1, Relaxed);
        self.reply_bytes.fetch_add(bytes as u64, Relaxed);
    }
}

/// An open connection.
pub(super) struct Open<'a>(&'a Shard);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Relaxed);
    }
}
