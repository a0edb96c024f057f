//! A server program in a namespace, with files of its own.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lb_testbed::eventually::eventually;
use lb_testbed::namespace::Namespace;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// After SIGTERM.
const DEADLINE: Duration = Duration::from_secs(5);

/// Ends with its guard: asked first, so that its own children end too.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    directory: TempDir,
}

impl Running {
    /// Starts what `command` makes of the directory that holds its files.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        namespace: &Namespace,
        directory: TempDir,
        command: impl FnOnce(&Path) -> Command,
    ) -> Result<Self> {
        let mut command = command(directory.path());
        let log = File::create(directory.path().join("log"))?;
        command.current_dir(directory.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = namespace.run(|| command.spawn())?.with_context(|| format!("starting {command:?}"))?;
        Ok(Self { name: command.get_program().to_string_lossy().into_owned(), child, directory })
    }

    /// # Errors
    /// It has ended; the message holds what it printed.
    pub fn check(&mut self) -> Result<()> {
        let Some(exit) = self.child.try_wait()? else { return Ok(()) };
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        bail!("{} ended with {exit}: {log}", self.name)
    }

    fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        eventually(&format!("{} ends", self.name), DEADLINE, || Ok(self.child.try_wait()?)).map(drop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
            let killed = self.child.kill().and_then(|()| self.child.wait());
            if let Err(error) = killed {
                eprintln!("{} cannot be killed: {error}", self.name);
            }
        }
    }
}
