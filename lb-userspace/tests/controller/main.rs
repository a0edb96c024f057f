//! The controller against recorders of the planes: what it writes, in which order, and what it leaves alone.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod harness;

mod adoption;
mod changes;
mod drain;
mod failures;
mod flows;
mod health;
mod kept;
mod many;
mod outlier;
mod ownership;
mod partial;
mod plan;
mod planes;
mod shared;
mod udp;
mod weights;
