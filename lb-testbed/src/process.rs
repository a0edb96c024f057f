//! The real `sluice` in a namespace, with files, sockets and pins of its own. Never outlives its guard.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use lb_userspace::admin::client::Client;
use lb_userspace::model::status::Status;
use rustix::process::{Pid, Signal};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::bpffs::Bpffs;
use crate::eventually::eventually;
use crate::namespace::Namespace;

/// A daemon that is not ready by then is broken.
const READY: Duration = Duration::from_secs(20);

/// One daemon after another with the same config and pins. Dropping it kills the daemon and removes what is
/// pinned.
#[derive(Debug)]
pub struct Sluice {
    namespace: Arc<Namespace>,
    directory: TempDir,
    /// Takes the pins, and so the attached programs, along.
    bpffs: Bpffs,
    child: Option<Child>,
    /// What the daemon is started from.
    daemon: PathBuf,
    /// Capabilities that no daemon here gets.
    denied: CapabilitySet,
    /// Hidden from every daemon here.
    hidden: Option<PathBuf>,
    /// What becomes the daemon: a program and its arguments, before the daemon's own command line.
    through: Vec<OsString>,
}

impl Sluice {
    /// Prepares directories and a bpffs, and writes the config; starts nothing. Paths in `config` are
    /// overridden, so it need not name any.
    ///
    /// # Errors
    /// No rights.
    pub fn new(namespace: &Arc<Namespace>, config: &str) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("sluice-test-").tempdir()?;
        let bpffs = Bpffs::mount()?;
        let (namespace, denied) = (Arc::clone(namespace), CapabilitySet::empty());
        let (daemon, through) = (Self::binary(), Vec::new());
        let sluice = Self { namespace, directory, bpffs, child: None, daemon, denied, hidden: None, through };
        sluice.write_config(config)?;
        Ok(sluice)
    }

    /// Takes these capabilities from every daemon that is started from now on.
    pub fn deny(&mut self, capabilities: CapabilitySet) {
        self.denied = capabilities;
    }

    /// Hides the file system that is mounted there from every daemon that is started from now on, under another one.
    pub fn hide(&mut self, mount: &Path) {
        self.hidden = Some(mount.to_owned());
    }

    /// Has every daemon that is started from now on started by this program, which becomes it; empty: by none.
    pub fn go_through(&mut self, program: Vec<OsString>) {
        self.through = program;
    }

    /// Has every daemon that is started from now on be this build. What asks them is [`Self::binary`] still.
    pub fn use_build(&mut self, daemon: &Path) {
        self.daemon = daemon.to_owned();
    }

    /// The binary: what `SLUICE_BIN` names, or the release build of this workspace.
    pub fn binary() -> PathBuf {
        std::env::var_os("SLUICE_BIN").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/sluice"),
            PathBuf::from,
        )
    }

    /// Puts another config in place; the daemon is not told.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_config(&self, config: &str) -> anyhow::Result<()> {
        fs::write(self.config(), config).with_context(|| format!("writing {}", self.config().display()))
    }

    /// The config file.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    /// The admin socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    /// Where links, programs and maps are pinned.
    pub fn bpf_dir(&self) -> PathBuf {
        self.bpffs.join("sluice")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Everything that the daemons have logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The process of the daemon that runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts the daemon and waits until it is ready.
    ///
    /// # Errors
    /// It runs already, cannot be started, ends, or is not ready in time; the message holds its log.
    pub fn start(&mut self) -> anyhow::Result<Status> {
        self.spawn()?;
        let status = eventually("the daemon is ready", READY, || {
            let status = self.status();
            // The exit of a daemon that failed says more than a socket that is not there.
            if let Some(exit) = self.exited()? {
                return Ok(Some(Err(anyhow::anyhow!("the daemon ended with {exit}"))));
            }
            Ok(Some(status?).filter(|status| status.phase == "ready").map(Ok))
        });
        status.and_then(|status| status).with_context(|| format!("log of the daemon:\n{}", self.log()))
    }

    /// Starts a daemon of whatever build, and waits until it is ready; how it ended, where it did that instead.
    ///
    /// # Errors
    /// It runs already, cannot be started, or is not ready in time; the message holds its log.
    pub fn try_start(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.spawn()?;
        let outcome = eventually("the daemon is ready, or ends", READY, || {
            // Of the document of another build only this is known.
            let status = self.ask_at_once::<serde_json::Value>();
            if let Some(exit) = self.exited()? {
                return Ok(Some(Some(exit)));
            }
            Ok(status?.get("phase").is_some_and(|phase| phase == "ready").then_some(None))
        });
        outcome.with_context(|| format!("log of the daemon:\n{}", self.log()))
    }

    /// Starts the daemon and does not wait.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "a daemon runs already");
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let mut command = match &self.hidden {
            None => match self.through.split_first() {
                None => self.command(&self.daemon),
                Some((program, arguments)) => {
                    let mut command = self.command(program);
                    command.args(arguments).arg(&self.daemon);
                    command
                }
            },
            Some(mount) => {
                let mut command = self.command("unshare");
                // A mount namespace of its own, whose mounts stay in it.
                command.args(["--mount", "sh", "-c", r#"mount -t tmpfs none "$0" && exec "$@""#]);
                command.arg(mount).arg(&self.daemon);
                command
            }
        };
        command.args(["run", "-c"]).arg(self.config()).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = self.namespace.run(|| {
            // The thread ends with this; for root, what is not in the bounding set is gone after exec.
            for capability in self.denied {
                remove_capability_from_bounding_set(capability)?;
            }
            command.spawn()
        })?;
        self.child = Some(child.with_context(|| format!("starting {command:?}"))?);
        Ok(())
    }

    /// Starts a daemon that has to end by itself, and returns how; its log is in [`Self::log`].
    ///
    /// # Errors
    /// It does not end in time; or one runs already.
    pub fn fail(&mut self) -> anyhow::Result<ExitStatus> {
        self.spawn()?;
        eventually("the daemon gives up", READY, || self.exited())
            .with_context(|| format!("log of the daemon:\n{}", self.log()))
    }

    /// Starts a second daemon with the same pins, and with the same admin socket or another one; it has to
    /// end by itself.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn rival(&self, socket: &Path) -> anyhow::Result<Output> {
        let mut command = self.command(&self.daemon);
        command.args(["run", "-c"]).arg(self.config()).env("SLUICE_ADMIN__SOCKET", socket);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.namespace.run(|| command.spawn())??;
        let ended = eventually("the second daemon gives up", READY, || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill()?;
        }
        let output = child.wait_with_output()?;
        ended.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(output)
    }

    /// Sends a signal to the daemon.
    ///
    /// # Errors
    /// None runs.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("no daemon runs")?;
        rustix::process::kill_process(Pid::from_child(child), signal)?;
        Ok(())
    }

    /// `kill -9`, and the process is gone when this returns. Pins stay.
    ///
    /// # Errors
    /// None runs.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("no daemon runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// None runs, or it does not end in time; the message holds its log.
    pub fn stop(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        eventually("the daemon ends", deadline, || self.exited())
            .with_context(|| format!("log of the daemon:\n{}", self.log()))
    }

    /// How the daemon ended, if it did and was not asked before.
    ///
    /// # Errors
    /// The kernel cannot say.
    pub fn exited(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let exit = child.try_wait()?;
        if exit.is_some() {
            self.child = None;
        }
        Ok(exit)
    }

    /// Runs a verb that talks to the daemon, such as `["status", "--json"]`.
    ///
    /// # Errors
    /// It cannot be started; its own failure is in the output.
    pub fn ask(&self, verb: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.command(Self::binary());
        command.args(verb).arg("--socket").arg(self.socket());
        self.namespace.run(|| command.output())?.with_context(|| format!("starting {command:?}"))
    }

    /// Runs a verb that reads the config, such as `["check"]`.
    ///
    /// # Errors
    /// It cannot be started; its own failure is in the output.
    pub fn with_config(&self, verb: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.command(Self::binary());
        command.args(verb).arg("-c").arg(self.config());
        self.namespace.run(|| command.output())?.with_context(|| format!("starting {command:?}"))
    }

    /// The status document.
    ///
    /// # Errors
    /// The daemon does not answer, or with something else.
    pub fn status(&self) -> anyhow::Result<Status> {
        let text = succeeded(self.ask(&["status", "--json"])?).context("status")?;
        serde_json::from_str(&text).with_context(|| format!("not a status document: {text}"))
    }

    /// The status document, as soon as the daemon can answer: without a process for the question.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn status_at_once(&self) -> anyhow::Result<Status> {
        self.ask_at_once()
    }

    fn ask_at_once<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(Client::new(&self.socket()).get("/api/v1/status"))?)
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("SLUICE_DAEMON__STATE_DIR", self.directory.path().join("state"))
            .env("SLUICE_DAEMON__BPF_DIR", self.bpf_dir())
            .env("SLUICE_ADMIN__SOCKET", self.socket());
        command
    }
}

impl Drop for Sluice {
    fn drop(&mut self) {
        if self.kill().is_ok() {
            eprintln!("log of the daemon:\n{}", self.log());
        }
    }
}

/// What a verb printed that must not fail.
///
/// # Errors
/// It has failed; the message holds what it printed.
pub fn succeeded(output: Output) -> anyhow::Result<String> {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{}: {printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(printed)
}
