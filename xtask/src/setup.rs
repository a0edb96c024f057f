//! `cargo xtask setup`: makes this machine able to build the eBPF object.
//!
//! Facts are gathered, a pure function names the next step, the step is taken, and the facts are gathered
//! again, until nothing is missing or nothing is left to try.

mod facts;
mod install;
mod plan;

use anyhow::{Result, bail};

use facts::Facts;
pub(crate) use facts::TOOLS;
pub(crate) use install::packages;
use plan::Decision;
pub(crate) use plan::Toolbox;

/// The verb.
pub(crate) fn run() -> Result<()> {
    ready().map(drop)
}

/// What the eBPF object is built with, installed first where it is missing. Every verb that builds calls this.
pub(crate) fn ready() -> Result<Toolbox> {
    let mut tried = Vec::new();
    loop {
        match plan::next(&Facts::gather(), &tried) {
            Decision::Do(step, why) => {
                println!("setup: {step}, because {why}");
                if let Err(error) = install::take(&step) {
                    println!("setup: that failed: {error:#}");
                }
                tried.push(step);
            }
            Decision::Ready(toolbox) => {
                println!("setup: {toolbox}");
                return Ok(toolbox);
            }
            Decision::Stuck(reason) => bail!("{reason}"),
        }
    }
}
