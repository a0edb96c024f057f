//! How effective weights move: with the load, and after a backend came up.

use std::time::Duration;

/// Whether the effective weights of a pool follow the load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weights {
    /// They are those of the config, of operators and of agents.
    Static,
    /// The controller lowers those of backends that answer late.
    Adaptive(Adaptive),
}

impl Weights {
    /// As the config says it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Adaptive(_) => "adaptive",
        }
    }
}

/// The bounds of adaptive weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// Slots of a table that may change their backend in a second; at least 1.
    pub slots_per_second: u32,
    /// Percent of its weight that a backend keeps, 1 to 100.
    pub least: u32,
}

/// How a backend that came up gets its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowStart {
    /// From the least weight to the whole one; zero: at once.
    pub time: Duration,
    /// Percent of its weight that it begins with, 1 to 100.
    pub least: u32,
}

impl Default for SlowStart {
    fn default() -> Self {
        Self { time: Duration::ZERO, least: 10 }
    }
}
