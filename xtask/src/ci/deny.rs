//! cargo-deny, which keeps licences, sources and duplicates of dependencies as deny.toml says.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// Pinned, because new versions have new checks.
const VERSION: &str = "0.20.2";

/// Installs it where it is missing, and runs the checks that need no more than crates.io.
pub(super) fn run() -> Result<()> {
    if installed().is_none() {
        println!("installing cargo-deny {VERSION}, because there is none; takes minutes");
        let package = ["cargo-deny", "--version", VERSION, "--locked", "--force"];
        process::run(process::cargo(&process::own_cargo()).arg("install").args(package))?;
    }
    let program = installed().context("cargo-deny was installed, yet it does not start")?;
    process::run(process::cargo(&program).args(["deny", "check", "bans", "licenses", "sources"]))
}

fn installed() -> Option<PathBuf> {
    process::find_all("cargo-deny").into_iter().find(|program| {
        process::output(Command::new(program).arg("--version")).is_some_and(|said| said.contains(VERSION))
    })
}
