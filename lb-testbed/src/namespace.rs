//! A network namespace that lives as long as its guard.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{self, Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A named network namespace, with `lo` up and IPv6 addresses usable at once. Removed on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Makes a namespace whose name begins with `sluice-`, then this process's id, and ends with `label`.
    ///
    /// # Errors
    /// There is no right to make one, or no `ip` command.
    pub fn new(label: &str) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-{}-{count}-{label}", process::id());
        checked(Command::new("ip").args(["netns", "add", &name]))?;
        let path = PathBuf::from("/run/netns").join(&name);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let namespace = Self { name, file };
        // Duplicate address detection would keep new addresses unusable for a second.
        namespace.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
        namespace.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        namespace.sysctl("net/ipv6/conf/default/accept_ra", "0")?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// As `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `nsenter --net=` takes.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `inside` on a thread that has entered the namespace. Sockets and child processes made there stay
    /// in the namespace; mounts (bpffs, /sys) are those of the host.
    ///
    /// # Panics
    /// When `inside` does.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                anyhow::Ok(inside())
            });
            match thread.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves the calling thread into the namespace for good.
    ///
    /// # Errors
    /// There is no right to.
    pub fn enter(&self) -> anyhow::Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("entering namespace {}", self.name))
    }

    /// Runs a command inside to its end and returns what it printed.
    ///
    /// # Errors
    /// It cannot be started, or fails.
    pub fn output(&self, command: &mut Command) -> anyhow::Result<String> {
        let printed = self.run(|| checked(command))??;
        Ok(String::from_utf8_lossy(&printed.stdout).into_owned())
    }

    /// `ip` with these arguments, split at white space.
    ///
    /// # Errors
    /// It fails.
    pub fn ip(&self, arguments: &str) -> anyhow::Result<String> {
        let mut command = Command::new("ip");
        command.args(["-netns", &self.name]).args(arguments.split_whitespace());
        Ok(String::from_utf8_lossy(&checked(&mut command)?.stdout).into_owned())
    }

    /// Several `ip` commands at once.
    ///
    /// # Errors
    /// One fails; those after it are not run.
    pub fn ip_batch(&self, commands: &[String]) -> anyhow::Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(commands.join("\n").as_bytes())?;
        let mut command = Command::new("ip");
        command.args(["-netns", &self.name, "-batch"]).arg(file.path());
        checked(&mut command).with_context(|| commands.join("; ")).map(drop)
    }

    /// Writes a file below `/proc/sys`, as seen from inside.
    ///
    /// # Errors
    /// There is no such file, or the kernel refuses the value.
    pub fn sysctl(&self, path: &str, value: &str) -> anyhow::Result<()> {
        let file = PathBuf::from("/proc/sys").join(path);
        self.run(|| std::fs::write(&file, value))?
            .with_context(|| format!("writing {value} to {} in {}", file.display(), self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = checked(Command::new("ip").args(["netns", "delete", &self.name])) {
            eprintln!("{error:#}");
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started, or fails; the message holds what it printed.
pub fn checked(command: &mut Command) -> anyhow::Result<Output> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output)
}
