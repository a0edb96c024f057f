//! What figures were measured on.

use std::{fmt, fs};

use anyhow::{Context, Result};
use serde::Serialize;

/// A machine, as far as its figures depend on it.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Linux's release.
    pub kernel: String,
    /// The model's name.
    pub cpu: String,
    /// How many.
    pub cpus: usize,
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn read() -> Result<Self> {
        let read = |path| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let info = read("/proc/cpuinfo")?;
        let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpu: name.map_or("unknown CPU", |(_, name)| name).to_owned(),
            // Not what this process may use: the benchmark pins itself.
            cpus: info.lines().filter(|line| line.starts_with("processor")).count(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux {}, {} x {}", self.kernel, self.cpus, self.cpu)
    }
}
