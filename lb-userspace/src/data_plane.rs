//! What a controller may ask of a data plane: the vocabulary of both sides, as data.
//!
//! A plane has a *state* that can be compared and *actions* that change it one step. The controller computes
//! the desired state, `plan`s the actions that lead there from the applied one, and records as applied only
//! what the plane confirmed.

pub mod flows;
pub mod kernel;
pub mod proxy;
#[cfg(feature = "testing")]
pub mod recorder;

/// Why a plane could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{object}: {reason}")]
pub struct PlaneError {
    /// What was touched: a map and key, a listen address.
    pub object: String,
    /// What went wrong, and the cure where there is one.
    pub reason: String,
}

impl PlaneError {
    /// Names the object and keeps the source's words.
    pub fn new(object: impl Into<String>, reason: impl ToString) -> Self {
        Self { object: object.into(), reason: reason.to_string() }
    }
}
