//! What may happen to a balancer.

use std::fmt;

use clap::ValueEnum;
use lb_userspace::model::Plane;
use serde::{Deserialize, Serialize};

/// Something that happens while flows go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// Nothing: the control
    Nothing,
    /// Every flow is forgotten by the kernel while no slot is within a change
    Wiped,
    /// A bug, planted: the slots of a backend are given to another as if they had no flows
    Shifted,
    /// Every flow is forgotten by the kernel in the middle of a change
    WipedInChange,
    /// A backend is added
    AddOne,
    /// Eight backends are added
    AddEight,
    /// A backend is drained, then removed
    RemoveDrained,
    /// Weights change every 200 ms
    Weights,
    /// A backend's process stops and goes on, once a second, and so does its health
    Flapping,
    /// Each backend is replaced by another
    Rolling,
    /// The config is reloaded again and again
    Reload,
    /// The daemon is stopped, and another started
    Restart,
    /// The programs are replaced under their links by those of another build and back, again and again
    Program,
    /// The daemon is killed, and there is none for a while
    Kill,
    /// A backend's process is killed, and restored
    Killed,
    /// A backend's link goes down, and up again
    Unplugged,
    /// A backend sends nothing any more, then again
    Silenced,
}

impl Event {
    /// Whether flows must be broken: what shows that the laboratory can see it.
    pub fn is_sabotage(self) -> bool {
        self == Self::Shifted
    }

    /// Whether a plane knows this event. Connections of the proxy end with its process, and it has no maps.
    pub fn is_for(self, plane: Plane) -> bool {
        let of_the_kernel =
            [Self::Restart, Self::Program, Self::Kill, Self::Wiped, Self::WipedInChange, Self::Shifted];
        plane != Plane::Proxy || !of_the_kernel.contains(&self)
    }

    pub(super) fn needs_stable_slots(self) -> bool {
        matches!(self, Self::Wiped | Self::Shifted | Self::WipedInChange)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}
