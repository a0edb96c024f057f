//! Running other programs: each is shown before it runs, and named when it fails.

use std::env;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Variables that the outer cargo sets for this xtask; a cargo within must not see them.
const OUTER_CARGO: &[&str] =
    &["CARGO", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PRIMARY_PACKAGE", "LD_LIBRARY_PATH"];

/// The cargo that runs this xtask.
pub(crate) fn own_cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// A cargo by its path, in the workspace's root, free of what the outer cargo set.
pub(crate) fn cargo(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace::root());
    for (name, _) in env::vars_os() {
        let inherited = name.to_str().is_some_and(|name| {
            OUTER_CARGO.contains(&name) || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_BIN_")
        });
        if inherited {
            command.env_remove(name);
        }
    }
    command
}

/// The command as one would type it, without its environment.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Shows the command and runs it to its end; its output goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", shown(command));
    let status = command.status().with_context(|| format!("cannot run `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// From here on, standard output goes where standard error goes: what is built on the way is no part of the
/// report, which somebody may parse. Returns where the report goes.
pub(crate) fn progress_to_stderr() -> Result<OwnedFd> {
    let report = rustix::io::dup(rustix::stdio::stdout()).context("duplicating standard output")?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).context("redirecting standard output")?;
    Ok(report)
}

/// Runs the command silently; what it wrote to its standard output, where it succeeded.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Every program of this name: on `PATH`, where cargo installs, and where root's tools are (which the `PATH`
/// of other users often lacks).
pub(crate) fn find_all(name: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = std::iter::once(cargo_bin())
        .chain(env::split_paths(&path))
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(name))
        .filter(|program| program.is_file())
        .collect();
    found.dedup();
    found
}

/// Whether a program of this name is installed.
pub(crate) fn installed(name: &str) -> bool {
    !find_all(name).is_empty()
}

/// Where `cargo install` puts programs.
fn cargo_bin() -> PathBuf {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    home.unwrap_or_default().join("bin")
}
