//! `sluice check`: is this file a config?

use std::path::Path;

use serde::Serialize;

use crate::config::problem::Problem;
use crate::config::{self, Config};

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
    if json {
        let problems = loaded.as_ref().err().map(Vec::as_slice).unwrap_or_default();
        print_json(&Verdict { ok: loaded.is_ok(), problems })?;
    }
    let config = loaded.map_err(Failure::ConfigInvalid)?;
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
