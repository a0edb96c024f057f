//! The proxy plane on loopback. No root.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod harness;
mod pattern;

mod changes;
mod connect;
mod datagrams;
mod flows;
mod listen;
mod relay;
mod timeouts;
