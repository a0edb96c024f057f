//! Clients that judge what they get: flows that live long, and a stream of new ones.

pub mod bound;
pub mod bulk;
pub mod churn;
mod flow;
pub mod http;
pub mod long;
pub mod ping;
pub mod visit;

use serde::{Deserialize, Serialize};

/// How a flow stands, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Not connected yet.
    Connecting,
    /// Open, nothing wrong so far.
    Open,
    /// Ended by us, every record answered.
    Ok,
    /// Never connected, or never greeted: refused, reset or out of time.
    NotConnected,
    /// RST before our FIN.
    Reset,
    /// FIN before ours.
    Eof,
    /// No answer within the stall limit.
    Stalled,
    /// Greeted by someone who is no backend.
    WrongBanner,
    /// An answer that is not what was sent.
    BadRecord,
}

impl Outcome {
    /// Whether a flow that stands so is broken.
    pub fn is_broken(self) -> bool {
        !matches!(self, Self::Connecting | Self::Open | Self::Ok)
    }
}
