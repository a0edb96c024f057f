//! `cargo xtask rules`: each rule of the data path's state, taken out of the code, must make a test fail.
//!
//! The rules stand in `lb-ebpf/tests/rules.toml`, each as a place in the source and what stands there without it. The
//! change is made in a copy of the workspace, so the sources stay as they are whatever happens.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;

use crate::{process, workspace};

/// What the tests of lb-ebpf need.
const SOURCES: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "clippy.toml",
    "lb-common",
    "lb-ebpf",
    "lb-testbed",
    "lb-userspace",
    "xtask",
    "config.toml",
];

/// Those that say what the state must do.
const TESTS: [&str; 4] = ["schedules", "random_schedules", "random_datagrams", "packets"];

/// How many of them.
#[derive(Args)]
pub(crate) struct Options {
    /// Only rules whose text holds this
    #[arg(long)]
    filter: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    rule: Vec<Rule>,
}

/// A rule, and the code without it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// In words.
    rule: String,
    /// Where it is.
    file: String,
    /// What stands there, once.
    with: String,
    /// What stands there without the rule.
    without: String,
}

/// The verb.
pub(crate) fn run(options: &Options) -> Result<()> {
    let list = workspace::root().join("lb-ebpf/tests/rules.toml");
    let list = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let list: List = toml::from_str(&list)?;
    let copy = workspace::target_dir().join("rules");
    fs::create_dir_all(&copy)?;
    for source in SOURCES {
        let from = workspace::root().join(source);
        process::run(
            Command::new("cp").args(["--recursive", "--update", "--target-directory"]).args([&copy, &from]),
        )?;
    }
    let broken = failing(&copy)?;
    ensure!(broken.is_empty(), "with all rules in place these tests fail: {}", broken.join(", "));
    let mut survived = Vec::new();
    let wanted = |rule: &&Rule| options.filter.as_ref().is_none_or(|text| rule.rule.contains(text));
    for rule in list.rule.iter().filter(wanted) {
        let caught = rule.take_out(&copy).with_context(|| rule.rule.clone())?;
        let told = caught.first().map_or("NO TEST FAILS".to_owned(), |first| {
            format!(
                "{first}{}",
                if caught.len() > 1 { format!(" and {} more", caught.len() - 1) } else { String::new() }
            )
        });
        println!("{:<100} {told}", rule.rule);
        if caught.is_empty() {
            survived.push(rule.rule.as_str());
        }
    }
    ensure!(survived.is_empty(), "no test fails without: {}", survived.join("; "));
    Ok(())
}

impl Rule {
    /// The tests that fail without it.
    fn take_out(&self, copy: &Path) -> Result<Vec<String>> {
        let path = copy.join(&self.file);
        let source = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let places = source.matches(&self.with).count();
        ensure!(places == 1, "{}: stands there {places} times: {:?}", self.file, self.with);
        fs::write(&path, source.replace(&self.with, &self.without))?;
        let caught = failing(copy);
        fs::write(&path, source)?;
        caught
    }
}

/// The tests of lb-ebpf that fail; a build that fails is an error.
fn failing(copy: &Path) -> Result<Vec<String>> {
    let tests = |more: &[&str]| {
        let mut command = process::cargo(&process::own_cargo());
        command
            .current_dir(copy)
            .env("CARGO_TARGET_DIR", copy.join("target"))
            .env("RUSTFLAGS", "--cap-lints=warn");
        command.args(["test", "--package", "lb-ebpf", "--quiet", "--no-fail-fast"]);
        command.args(TESTS.into_iter().flat_map(|test| ["--test", test])).args(more);
        command
    };
    let build = tests(&["--no-run"]).stderr(Stdio::piped()).output()?;
    ensure!(build.status.success(), "does not build:\n{}", String::from_utf8_lossy(&build.stderr));
    let output = tests(&[]).stderr(Stdio::null()).output()?;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = output.lines().filter_map(|line| line.strip_prefix("---- ")?.strip_suffix(" stdout ----"));
    Ok(failed.map(str::to_owned).collect())
}
