//! `cargo xtask upgrade`: the daemon of another revision and this one, each in the place of the other, under load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use clap::Args;

use crate::{build_ebpf, daemon, process, rights, setup, workspace};

/// Which revision, and with how much load.
#[derive(Args)]
pub(crate) struct Options {
    /// A commit, a branch or a tag
    revision: String,
    /// [--flows N] [--rate N]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    passed: Vec<String>,
}

/// The verb. Builds without optimisation: what flows survive does not depend on it.
pub(crate) fn run(options: &Options) -> Result<()> {
    rights::bpf().map_err(|reason| anyhow!(reason))?;
    rights::namespaces().map_err(|reason| anyhow!(reason))?;
    let toolbox = setup::ready()?;
    let other = build_other(&options.revision)?;
    build_ebpf::build(&toolbox)?;
    build_daemon(&workspace::root())?;
    let mut command = process::cargo(&process::own_cargo());
    command.args(["run", "--package", "lb-testbed", "--bin", "upgrade", "--", "--other"]).arg(other);
    process::run(command.args(&options.passed).env(daemon::VARIABLE, built()))
}

/// Builds the daemon of a revision from a tree of its own, with the crates that are built already, and puts it aside.
fn build_other(revision: &str) -> Result<PathBuf> {
    let folder = workspace::target_dir().join("upgrade");
    let tree = folder.join("tree");
    if tree.is_dir() {
        git(&["worktree", "remove", "--force"], &[&tree])?;
    }
    fs::create_dir_all(&folder)?;
    git(&["worktree", "add", "--detach"], &[&tree, Path::new(revision)])?;
    let build = || {
        let mut object = process::cargo(&process::own_cargo());
        object.args(["run", "--package", "xtask", "--", "build-ebpf"]).current_dir(&tree);
        process::run(object.env("CARGO_TARGET_DIR", workspace::target_dir()).env("CARGO_INCREMENTAL", "0"))?;
        build_daemon(&tree)?;
        let other = folder.join("sluice");
        fs::copy(built(), &other).with_context(|| format!("cannot write {}", other.display()))?;
        Ok(other)
    };
    let other = build();
    git(&["worktree", "remove", "--force"], &[&tree])?;
    other
}

fn build_daemon(tree: &Path) -> Result<()> {
    let mut command = process::cargo(&process::own_cargo());
    command.args(["build", "--package", "lb-userspace", "--bin", "sluice"]).current_dir(tree);
    process::run(command.env("CARGO_TARGET_DIR", workspace::target_dir()).env("CARGO_INCREMENTAL", "0"))
}

/// Where such a build leaves it.
fn built() -> PathBuf {
    workspace::target_dir().join("debug/sluice")
}

fn git(arguments: &[&str], paths: &[&Path]) -> Result<()> {
    process::run(Command::new("git").current_dir(workspace::root()).args(arguments).args(paths))
}
