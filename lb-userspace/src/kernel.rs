//! The kernel planes.

pub mod object;
