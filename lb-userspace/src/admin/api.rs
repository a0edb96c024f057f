//! Bodies and paths that the routes and the client share.

use std::net::SocketAddr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// The weight of a backend that is added without one, as in the config.
pub const DEFAULT_WEIGHT: u16 = 100;

/// The body of `PUT` (where it may be missing) and `PATCH` of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weight {
    /// 0 to 65535.
    pub weight: u16,
}

/// The body of `plan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The text of a config file, at most 16 MiB.
    pub config: String,
}

/// The query of `DELETE` of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// Cuts old flows at once.
    #[serde(default)]
    pub now: bool,
}

/// The query of `explain`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Address and port of the client.
    pub client: SocketAddr,
    /// Service name, or one of its listen addresses.
    pub service: String,
}

/// The query of `flows`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flows {
    /// Service name, or one of its listen addresses.
    #[serde(default)]
    pub service: Option<String>,
    /// Address of the client, with or without a port.
    #[serde(default)]
    pub client: Option<String>,
    /// Address of the backend, with or without a port.
    #[serde(default)]
    pub backend: Option<String>,
    /// So many at most, 0 to [`MOST_FLOWS`]; [`DEFAULT_FLOWS`] without.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// Flows in one list where nobody says how many.
pub const DEFAULT_FLOWS: usize = 1000;
/// Flows in one list: some 20 MB of JSON.
pub const MOST_FLOWS: usize = 100_000;

/// The answer of `/health` and `/ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// See [`crate::model::Phase`].
    pub phase: String,
}

/// The path of a pool.
pub fn pool_path(pool: &str) -> String {
    format!("/api/v1/pools/{}", encoded(pool))
}

/// The path of a backend, and of what is below it (`"/drain"` or nothing).
pub fn backend_path(pool: &str, address: SocketAddr, below: &str) -> String {
    format!("/api/v1/pools/{}/backends/{}{below}", encoded(pool), encoded(&address.to_string()))
}

/// The path and query of a question.
pub fn explain_path(question: &Question) -> String {
    let Question { client, service } = question;
    format!("/api/v1/explain?client={}&service={}", encoded(&client.to_string()), encoded(service))
}

/// The path and query of a list of flows.
pub fn flows_path(flows: &Flows) -> String {
    let Flows { service, client, backend, limit } = flows;
    let limit = limit.map(|limit| limit.to_string());
    let pairs = [("service", service), ("client", client), ("backend", backend), ("limit", &limit)];
    let pairs =
        pairs.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", encoded(value.as_ref()?))));
    format!("/api/v1/flows?{}", pairs.collect::<Vec<_>>().join("&"))
}

fn encoded(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}
