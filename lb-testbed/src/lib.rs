//! Privileged tests of Sluice, and what they are built from.
#![expect(clippy::expect_used, reason = "a test that cannot be set up should stop")]

pub mod bpffs;
pub mod cases;
pub mod loaded;
pub mod median;
pub mod object;
pub mod segment;
pub mod world;
