//! Passive health: when a backend that does not answer its clients is ejected, and for how long.

use std::time::Duration;

/// When a backend is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// So many connections that failed, and none that was answered, eject a backend; at least 1.
    pub consecutive: u32,
    /// So many percent of all connections within the window do too, 1 to 100.
    pub share: u32,
    /// Provided that there were so many; at least 1.
    pub volume: u32,
    /// Over how long connections are counted.
    pub window: Duration,
    /// How long it is ejected for the first time; each time in a row twice as long.
    pub ejection: Duration,
    /// The longest; at least `ejection`.
    pub longest: Duration,
    /// How many percent of those that are healthy may be ejected at a time, at most 100.
    pub most: u32,
    /// Where fewer than so many percent of the pool are healthy and not ejected, ejections do not count; 0: they always do.
    pub panic: u32,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            consecutive: 5,
            share: 50,
            volume: 20,
            window: Duration::from_secs(10),
            ejection: Duration::from_secs(30),
            longest: Duration::from_secs(300),
            most: 50,
            panic: 0,
        }
    }
}
