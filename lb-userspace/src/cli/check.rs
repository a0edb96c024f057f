//! `sluice check`: is this file a config, and one that a start here would accept?

use std::path::Path;

use serde::Serialize;

use crate::config::problem::Problem;
use crate::config::{self, Config, PlaneChoice};
use crate::kernel::{self, KernelError, Settings, object};

use super::Failure;
use super::output::{print, print_json};

/// What `--json` prints.
#[derive(Serialize)]
struct Verdict<'a> {
    ok: bool,
    problems: &'a [Problem],
}

/// Reads and checks the file as `run` would, environment included.
pub fn check(file: &Path, json: bool) -> Result<(), Failure> {
    let loaded = Config::load(file, &config::environment());
    let refusal = loaded.as_ref().ok().and_then(refusal);
    if json {
        let mut problems = loaded.as_ref().err().cloned().unwrap_or_default();
        problems.extend(refusal.as_ref().map(Problem::of_pins));
        print_json(&Verdict { ok: problems.is_empty(), problems: &problems })?;
    }
    let config = loaded.map_err(Failure::ConfigInvalid)?;
    if let Some(error) = refusal {
        return Err(error.into());
    }
    if json {
        return Ok(());
    }
    print(&format!(
        "{}: fine ({} services, {} pools)\n",
        file.display(),
        config.services.len(),
        config.pools.len()
    ))
}

/// Why `run` would refuse the config for what a daemon has left in the kernel here; `None` also where that cannot be seen.
fn refusal(config: &Config) -> Option<KernelError> {
    let object = object::object().filter(|_| config.kernel.strictest() != PlaneChoice::Off)?;
    kernel::fits(&Settings::of(config, object)).err().filter(KernelError::is_contradiction)
}
