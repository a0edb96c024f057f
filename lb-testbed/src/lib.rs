//! Privileged tests of Sluice, and what they are built from.

pub mod object;
