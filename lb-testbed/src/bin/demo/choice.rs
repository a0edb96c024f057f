//! The planes that are shown, and what each needs.

use std::fmt;

use aya::maps::{Array, MapData};
use clap::ValueEnum;
use lb_testbed::topology::Options;
use lb_userspace::model::Plane;
use serde::Serialize;

/// A plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// eBPF at the traffic control hook: what `auto` chooses on virtual links
    Tc,
    /// Native XDP, forced, for on virtual links it is not the best
    Xdp,
    /// The splice proxy
    Proxy,
}

impl Choice {
    /// Those that were asked for; all, where none was.
    pub fn all(asked: &[Self]) -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied().filter(|choice| asked.is_empty() || asked.contains(choice))
    }

    /// As the status document names it.
    pub fn plane(self) -> Plane {
        match self {
            Self::Tc => Plane::Tc,
            Self::Xdp => Plane::Xdp,
            Self::Proxy => Plane::Proxy,
        }
    }

    /// Whether it forwards without the daemon.
    pub fn is_kernel(self) -> bool {
        self != Self::Proxy
    }

    /// Why this host cannot even try it.
    pub fn missing(self) -> Option<String> {
        if !self.is_kernel() {
            return None;
        }
        let map = Array::<MapData, u32>::create(1, 0).map(drop);
        map.err().map(|error| format!("no right to use eBPF: {error}"))
    }

    /// What `kernel.plane` is set to.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Tc => "auto",
            Self::Xdp => "xdp",
            Self::Proxy => "off",
        }
    }

    /// The hosts that it runs on.
    pub fn hosts(self) -> Options {
        match self {
            Self::Xdp => Options::xdp(),
            Self::Tc | Self::Proxy => Options::default(),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plane().fmt(f)
    }
}
