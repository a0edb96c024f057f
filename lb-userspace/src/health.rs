//! Health checks: one probe per backend, judged by rise and fall.

use std::net::SocketAddr;

use crate::model;
use crate::model::status::LastCheck;

/// One backend to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its pool.
    pub pool: String,
    /// Its address.
    pub address: SocketAddr,
    /// How.
    pub health: model::Health,
}

/// What became of one check.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The backend's pool.
    pub pool: String,
    /// The backend's address.
    pub address: SocketAddr,
    /// The judgement after this check. The first check decides alone: before it there is none.
    pub up: bool,
    /// The check itself.
    pub check: LastCheck,
}
