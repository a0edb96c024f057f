//! What another config would change: the answer of `sluice plan` and `POST /api/v1/plan`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Plane;

/// The whole document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whether a daemon runs that it was compared with.
    pub running: bool,
    /// Whether it was compared with what an earlier daemon has left in the kernel, since none runs; else, without a daemon,
    /// with nothing, as at a first start.
    pub left: bool,
    /// One line a difference of the configs, as `reload` prints them.
    pub changes: Vec<String>,
    /// Services that are added, removed or served in another way.
    pub services: Vec<ServicePlan>,
    /// Pools of which a backend or a slot changes.
    pub pools: Vec<PoolPlan>,
}

/// Whether something comes, goes or stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It was not there.
    Added,
    /// It will not be there.
    Removed,
    /// It will be there, in another way.
    Changed,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePlan {
    /// As in the config.
    pub name: String,
    /// What happens to it.
    pub fate: Fate,
    /// The plane that serves it now; null: none.
    pub before: Option<Plane>,
    /// The plane that would; null: none, or nobody knows before a daemon runs.
    pub after: Option<Plane>,
    /// Why there.
    pub reason: String,
    /// Its flows, where it goes or moves to another plane: they end.
    pub flows: Option<Flows>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolPlan {
    /// As in the config.
    pub name: String,
    /// What happens to it.
    pub fate: Fate,
    /// Those that change.
    pub backends: Vec<BackendPlan>,
    /// Slots of its tables in the kernel planes; null: no daemon runs, and none has left any.
    pub slots: Option<u64>,
    /// How many of them get another current backend at once. Their flows stay where they are. Null: as `slots`.
    pub moved: Option<u64>,
    /// How many do when the health checks have found all new backends up.
    pub moved_when_up: Option<u64>,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendPlan {
    /// Where it listens.
    pub address: SocketAddr,
    /// What happens to it.
    pub fate: Fate,
    /// Its weight now.
    pub before: Option<u16>,
    /// Its weight then.
    pub after: Option<u16>,
    /// Where no daemon runs that knew the weight before: the slots that lead to it now, and that would.
    #[serde(default)]
    pub slots: Option<(u64, u64)>,
    /// Its flows, where it goes: they stay until they end or the drain time-out passes.
    pub flows: Option<Flows>,
}

/// Flows that are concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// Tracked ones at the last sweep, and connections of the proxy plane.
    pub known: u64,
    /// Whether these are all; else there may be more, which nobody can count.
    pub exact: bool,
}
