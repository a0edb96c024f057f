//! Waiting for a condition with a deadline: the only wait of the test bed, and the only file that polls.

use std::time::{Duration, Instant};

use anyhow::bail;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks until `look` finds something, and returns it.
///
/// # Errors
/// Nothing was found within `deadline`; the message names `what`, and why the last look failed.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        let seen = look();
        if let Ok(Some(found)) = seen {
            return Ok(found);
        }
        if start.elapsed() > deadline {
            match seen {
                Err(error) => bail!("{what}: not within {deadline:?}: {error:#}"),
                Ok(_) => bail!("{what}: not within {deadline:?}"),
            }
        }
        pause(INTERVAL);
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that polls")]
fn pause(interval: Duration) {
    std::thread::sleep(interval);
}
