//! Privileged tests of Sluice, and what they, the demo and the benchmark are built from: the packet table
//! and its worlds; network namespaces, hosts in them, clients that judge every byte, the real `sluice`.
#![expect(clippy::expect_used, reason = "a test that cannot be set up should stop")]

pub mod cases;
pub mod eventually;
pub mod namespace;
pub mod object;
pub mod segment;
pub mod world;
