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

/// The answer of `/health` and `/ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// See [`crate::model::Phase`].
    pub phase: String,
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

fn encoded(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}
