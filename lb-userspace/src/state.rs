//! What was changed at run time, kept on disk so that it survives the daemon.
//!
//! One file in `daemon.state_dir`, written whole and put in place by a rename, so that it is always an old one or
//! a new one. One that cannot be understood is set aside and reported; it never keeps a daemon from starting.

mod format;
mod keeper;
mod store;

pub use format::{Damage, decode, encode};
pub use keeper::{Saved, Snapshot, keep};
pub use store::{FILE, Opened, Store, StoreError};
