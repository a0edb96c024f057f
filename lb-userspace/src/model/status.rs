//! The status document: `sluice status --json` and `GET /api/v1/status` are this, and nothing else is.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Plane;

/// The whole document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon.
    pub version: String,
    /// Phase of the process: `starting`, `ready`, `draining`, `stopping`.
    pub phase: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Planes by interface, and why the better one was not chosen.
    pub planes: Vec<InterfacePlane>,
    /// Whether clients on this host reach the VIPs of kernel planes.
    pub local: LocalTraffic,
    /// In config order.
    pub services: Vec<ServiceStatus>,
    /// In config order.
    pub pools: Vec<PoolStatus>,
    /// Kernel planes: frames `received`, and of them those that were not dropped, by what became of them.
    /// `received` is the sum of the others and of all drops.
    pub verdicts: BTreeMap<String, u64>,
    /// Kernel planes: packets dropped by reason, all reasons listed.
    pub drops: BTreeMap<String, u64>,
    /// Kernel planes: what happened on the way of packets that are counted above.
    pub events: BTreeMap<String, u64>,
    /// Kernel planes: how full the tables are that remember flows.
    pub tables: Vec<TableStatus>,
    /// Kernel planes: entries of the maps that were found changed or missing, and programs that somebody else had
    /// detached, that were repaired since the start.
    pub drift_repaired: u64,
    /// What was changed at run time.
    pub kept: KeptStatus,
    /// What needs somebody's attention, each with its cure.
    pub warnings: Vec<String>,
}

/// What was changed at run time, and whether it would survive a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptStatus {
    /// Where it is kept.
    pub file: PathBuf,
    /// Backends that are not, or not only, as the config file says; leaving ones included.
    pub changes: u64,
    /// What was lost at the start, and why the last write failed.
    pub problems: Vec<String>,
}

/// A table that remembers flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// `flows` (proven ones) or `half_open`.
    pub name: String,
    /// At the last sweep.
    pub entries: u64,
    /// What it has room for. A full table refuses new entries and loses none.
    pub capacity: u64,
}

/// The plane of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfacePlane {
    /// Its name.
    pub interface: String,
    /// What is attached there; null: nothing.
    pub plane: Option<Plane>,
    /// Why this one, and not a better one.
    pub reason: String,
}

/// What happens to sockets of this host that name a VIP of a kernel plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalTraffic {
    /// The sockets below this cgroup are led to backends; null: none are.
    pub cgroup: Option<PathBuf>,
    /// Which of them, or why none.
    pub reason: String,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// As in the config.
    pub name: String,
    /// As in the config.
    pub listen: Vec<SocketAddr>,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// What is in force: `nat` or `proxy`.
    pub forward: String,
    /// The plane that serves it; null while none does.
    pub plane: Option<Plane>,
    /// Why this plane.
    pub reason: String,
    /// Who owns its addresses on the wire.
    pub vips: Vec<VipStatus>,
    /// As in the config.
    pub pool: String,
    /// Kernel planes: tracked entries; proxy: open connections, of UDP the clients.
    pub flows: u64,
    /// SYNs forwarded; proxy: connections accepted. Of UDP on the kernel planes the flows remembered
    /// with `tracking = "always"`, else null: they cannot tell.
    pub new_flows: Option<u64>,
    /// From clients; null for TCP on the proxy plane.
    pub packets: Option<u64>,
    /// From clients.
    pub bytes: u64,
    /// To clients; null for TCP on the proxy plane.
    pub reply_packets: Option<u64>,
    /// To clients.
    pub reply_bytes: u64,
    /// Packets dropped; proxy: TCP connections that found no backend, UDP datagrams dropped.
    pub drops: u64,
    /// Packets a second over the last 10 s; null on the proxy plane.
    pub rate: Option<f64>,
}

/// An address of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipStatus {
    /// The VIP.
    pub address: IpAddr,
    /// `arp` (the kernel planes answer for it), `address` (the daemon puts it on this host), `host` (the host had it
    /// before) or `none` (a router sends it here).
    pub owner: String,
    /// Why.
    pub reason: String,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// As in the config.
    pub name: String,
    /// As in the config.
    pub scheduler: String,
    /// As in the config.
    pub table_size: u32,
    /// Kernel planes: how often a slot changed its current backend since the daemon started, over the pool's tables.
    pub moved_slots: u64,
    /// In config order, then those added at run time.
    pub backends: Vec<BackendStatus>,
    /// Removed backends whose old flows may still run.
    pub leaving: Vec<Leaving>,
    /// Backends of the config file that were removed at run time.
    pub removed: Vec<SocketAddr>,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// As configured or set at run time.
    pub weight: u16,
    /// What the config file says; null: the file does not have the backend.
    pub configured_weight: Option<u16>,
    /// While it drains; null: it does not.
    pub drain: Option<DrainStatus>,
    /// What is not as the config file says: `added`, `weight`, `drain`.
    pub overrides: Vec<String>,
    /// After health, drain, backup, slow start and load.
    pub effective_weight: u32,
    /// `up`, `down`, `draining`, `maintenance`, `starting`.
    pub state: String,
    /// Why.
    pub reason: String,
    /// Slots whose current backend it is, over the pool's tables.
    pub slots: u64,
    /// `slots` over all slots of its tables, 0 to 1.
    pub share: f64,
    /// Kernel planes: tracked entries; proxy: open connections, of UDP the clients.
    pub flows: u64,
    /// SYNs forwarded; proxy: connections opened. Of UDP on the kernel planes as by service.
    pub new_flows: Option<u64>,
    /// From clients; null for TCP on the proxy plane.
    pub packets: Option<u64>,
    /// From clients.
    pub bytes: u64,
    /// To clients; null for TCP on the proxy plane.
    pub reply_packets: Option<u64>,
    /// To clients.
    pub reply_bytes: u64,
    /// How the SYNs of clients fared; null: no kernel plane serves it over TCP.
    #[serde(default)]
    pub handshakes: Option<HandshakeStatus>,
    /// Proxy: connections to it that failed; null: it serves nobody there.
    #[serde(default)]
    pub failures: Option<u64>,
    /// Proxy: those among them that took too long.
    #[serde(default)]
    pub timeouts: Option<u64>,
    /// The last health check; null before the first and with `check = "none"`.
    pub last_check: Option<LastCheck>,
    /// What its agent says; null before its first answer, and where there is none.
    #[serde(default)]
    pub agent: Option<AgentStatus>,
}

/// How the SYNs of clients fared at a backend, as far as packets pass this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandshakeStatus {
    /// SYNs that were forwarded, retransmissions included. Sockets of this host are not among them.
    pub syns: u64,
    /// SYN-ACKs that came back, retransmissions included.
    pub accepted: u64,
    /// Resets that answered a SYN.
    pub refused: u64,
}

/// What an agent says of its backend, beyond the backend's state: each figure as it was said last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// How much of its weight the backend shall have, in percent.
    pub percent: Option<u16>,
    /// How busy the backend's CPUs are, in percent.
    pub load: Option<u8>,
    /// The connections that the backend shall have at most. Shown, not enforced.
    pub connections: Option<u32>,
    /// When the agent was last asked.
    pub last_check: LastCheck,
}

/// The outcome of one health check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastCheck {
    /// Whether it succeeded.
    pub ok: bool,
    /// RFC 3339, UTC.
    pub at: String,
    /// Milliseconds.
    pub took_ms: f64,
    /// What was seen.
    pub detail: String,
}

/// A removed backend whose old flows may still run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Where it listens.
    pub address: SocketAddr,
    /// How long, and how many there are.
    #[serde(flatten)]
    pub drain: DrainStatus,
}

/// A backend that takes no new flows, and what is known of its old ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// RFC 3339, UTC: from then on they are cut, one after another.
    pub until: String,
    /// RFC 3339, UTC: none is left.
    pub ends: String,
    /// Kernel planes: tracked entries at the last sweep; proxy: open connections, of UDP the clients.
    pub flows: u64,
    /// Whether these are all. Else there may be more, which have no entries: nobody can count them before their slots
    /// have settled, which takes an idle time-out.
    pub exact: bool,
    /// Slots that such flows may be of.
    pub slots: u64,
}

/// The answer of `sluice explain` and `GET /api/v1/explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// As asked.
    pub client: SocketAddr,
    /// As asked.
    pub service: String,
    /// The listen address that was taken.
    pub listen: SocketAddr,
    /// The plane that serves it.
    pub plane: Plane,
    /// The flow hash; null where the scheduler does not hash.
    pub hash: Option<u32>,
    /// The slot of the hash.
    pub slot: Option<u32>,
    /// The slot's current backend.
    pub current: Option<SocketAddr>,
    /// The slot's fallback, where it differs.
    pub fallback: Option<SocketAddr>,
    /// Whether the slot is within a change.
    pub tracked: bool,
    /// Whether an entry of this very flow decides.
    pub flow: Option<String>,
    /// Where a packet of this flow goes now; null: nowhere.
    pub backend: Option<SocketAddr>,
    /// In a sentence.
    pub why: String,
}

/// A moment as the documents write it: RFC 3339, UTC, milliseconds. A clock that is set outside of the years
/// 1970 to 9999 shows the nearer of the two.
pub fn rfc3339(time: SystemTime) -> String {
    const END: Duration = Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(time.clamp(UNIX_EPOCH, UNIX_EPOCH + END)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_rfc_3339_whatever_the_clock_says() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs_f64(seconds));
        assert_eq!(at(1_754_000_000.25), "2025-07-31T22:13:20.250Z");
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(9)), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(1e15), "9999-12-31T23:59:59.000Z");
    }
}
