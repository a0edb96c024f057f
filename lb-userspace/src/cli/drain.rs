//! What is left of a backend that drains, in words.

use crate::model::status::{DrainStatus, PoolStatus};

/// As the end of a sentence that begins with the backend.
pub(super) fn words(drain: &DrainStatus) -> String {
    let DrainStatus { until, ends, flows, exact, slots } = drain;
    let count = if *exact {
        format!("{flows} flows left")
    } else {
        format!(
            "at least {flows} flows left, those without entries not counted ({slots} slots may have some)"
        )
    };
    format!("old flows may run until {until}, the last is cut at {ends}; {count}")
}

/// One line for a backend of a pool, if it drains or leaves.
pub(super) fn line(pool: &PoolStatus, address: std::net::SocketAddr) -> Option<String> {
    let leaving = pool.leaving.iter().find(|leaving| leaving.address == address);
    if let Some(leaving) = leaving {
        return Some(format!("{address} leaves: {}\n", words(&leaving.drain)));
    }
    let backend = pool.backends.iter().find(|backend| backend.address == address)?;
    Some(format!("{address} drains: {}\n", words(backend.drain.as_ref()?)))
}
