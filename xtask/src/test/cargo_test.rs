//! Running `cargo test`: its output is passed on as it comes and counted on the way.

use std::io::{self, BufRead, BufReader};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// How libtest begins the last line of each test binary.
const RESULT: &str = "test result:";

/// What one or more runs of `cargo test` came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Tests that passed.
    pub(super) passed: u64,
    /// Tests that failed.
    pub(super) failed: u64,
    /// Whether something failed, or could not even be built.
    pub(super) broken: bool,
    /// The last lines, not printed yet.
    pub(super) closing: Vec<String>,
}

impl Outcome {
    /// Prints the closing lines.
    pub(super) fn close(&mut self) {
        self.closing.drain(..).for_each(|line| println!("{line}"));
    }

    /// Counts one line of output, and gives back what is to be printed now.
    fn take(&mut self, line: String) -> Vec<String> {
        if line.starts_with(RESULT) {
            self.passed += count(&line, " passed");
            self.failed += count(&line, " failed");
        } else if self.closing.is_empty() {
            return vec![line];
        } else if !line.is_empty() {
            let mut lines = std::mem::take(&mut self.closing);
            lines.push(line);
            return lines;
        }
        self.closing.push(line);
        Vec::new()
    }
}

/// Shows the command, runs it to its end, and adds what it comes to. Both its outputs go through one pipe, which
/// keeps their order.
pub(super) fn run(mut command: Command, outcome: &mut Outcome) -> Result<()> {
    outcome.close();
    let shown = process::shown(&command);
    println!("$ {shown}");
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot run `{shown}`"))?;
    // It holds the pipe's other end, which would never be closed.
    drop(command);
    for line in BufReader::new(reader).split(b'\n') {
        for line in outcome.take(String::from_utf8_lossy(&line?).into_owned()) {
            println!("{line}");
        }
    }
    outcome.broken |= !child.wait()?.success();
    Ok(())
}

/// The number before a word: `test result: ok. 12 passed; 0 failed; ...`.
fn count(line: &str, word: &str) -> u64 {
    let before = line.split(word).next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str =
        "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0s";
    const SECOND: &str = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";

    #[test]
    fn results_are_summed_and_the_last_is_held_back() {
        let mut outcome = Outcome::default();
        let mut printed = Vec::new();
        for line in ["running 12 tests", FIRST, "", "running 3 tests", SECOND, ""] {
            printed.extend(outcome.take(line.to_owned()));
        }
        assert_eq!((outcome.passed, outcome.failed), (13, 2));
        assert_eq!(printed, ["running 12 tests", FIRST, "", "running 3 tests"]);
        assert_eq!(outcome.closing, [SECOND, ""]);
    }

    #[test]
    fn a_line_that_only_looks_like_a_result_counts_nothing() {
        let mut outcome = Outcome::default();
        outcome.take("test result_is_kept ... ok".to_owned());
        outcome.take("5 passed".to_owned());
        assert_eq!(outcome, Outcome::default());
    }
}
