//! What was changed at run time, and who is ejected, as it survives the daemon.

use std::net::SocketAddr;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::status::rfc3339;

/// One backend that is not, or not only, as the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// The pool's name.
    pub pool: String,
    /// Where the backend listens.
    pub address: SocketAddr,
    /// The weight that the file had for it when it was last read; none: the file did not have the backend.
    pub file: Option<u16>,
    /// Set at run time.
    pub weight: Option<u16>,
    /// Drained at run time: until when its old flows stay.
    #[serde(with = "moment")]
    pub drain: Option<SystemTime>,
    /// Taken from the pool at run time, or by the file.
    pub removed: bool,
    /// Until when its old flows stay after it was taken from the pool.
    #[serde(with = "moment")]
    pub leaving: Option<SystemTime>,
    /// Ejected for what its clients met: until when.
    #[serde(with = "moment", default, skip_serializing_if = "Option::is_none")]
    pub ejected: Option<SystemTime>,
    /// Ejections in a row, this one included.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ejections: u32,
}

impl Override {
    /// Whether somebody has changed it at run time; else it is only ejected.
    pub fn is_change(&self) -> bool {
        self.file.is_none() || self.weight.is_some() || self.drain.is_some() || self.removed
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// RFC 3339, UTC, milliseconds.
mod moment {
    use super::{Deserialize, Deserializer, Serialize, Serializer, SystemTime, rfc3339};

    pub(super) fn serialize<S: Serializer>(
        moment: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        moment.map(rfc3339).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        text.map(|text| humantime::parse_rfc3339(&text)).transpose().map_err(serde::de::Error::custom)
    }
}
