//! The built binary as a daemon of a test's own, on loopback, without rights.

use std::fs;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// For anything that has to happen at all.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A directory for one daemon.
pub struct Place {
    directory: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the config file: the part that every test has, then `services`.
    pub fn configure(&self, services: &str) {
        let at = |name: &str| self.path(name).display().to_string();
        let config = format!(
            "[daemon]\nstate_dir = {:?}\nbpf_dir = {:?}\ndrain_timeout = \"10s\"\n\n\
             [admin]\nsocket = {:?}\n\n[kernel]\nplane = \"off\"\n\n{services}",
            at("state"),
            at("bpf"),
            at("admin.sock"),
        );
        fs::write(self.path("config.toml"), config).unwrap();
    }

    /// A verb that reads the config file.
    pub async fn with_config(&self, arguments: &[&str]) -> Output {
        let config = self.path("config.toml");
        let command = sluice().args(arguments).arg("-c").arg(config).output();
        timeout(DEADLINE, command).await.unwrap().unwrap()
    }

    /// A verb that asks the daemon.
    pub async fn ask(&self, arguments: &[&str]) -> Output {
        let command = sluice().arg("--socket").arg(self.path("admin.sock")).args(arguments).output();
        timeout(DEADLINE, command).await.unwrap().unwrap()
    }

    /// Any arguments, however many.
    pub async fn with(&self, arguments: &[&str]) -> Output {
        timeout(DEADLINE, sluice().args(arguments).output()).await.unwrap().unwrap()
    }

    /// Any arguments.
    pub async fn with_arguments(&self, arguments: [String; 3]) -> Output {
        timeout(DEADLINE, sluice().args(arguments).output()).await.unwrap().unwrap()
    }

    /// A verb that must succeed; what it printed.
    pub async fn done(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The status document.
    pub async fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.done(&["status", "--json"]).await).unwrap()
    }
}

/// The binary with an environment of its own.
fn sluice() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    notices: UnixDatagram,
    log: PathBuf,
}

impl Daemon {
    /// Starts it and waits until it says that it is ready.
    pub async fn start(place: &Place) -> Self {
        let mut daemon = Self::spawn(place);
        daemon.told("READY=1").await;
        daemon
    }

    pub fn spawn(place: &Place) -> Self {
        Self::spawn_with(place, &[])
    }

    /// With arguments before the verb.
    pub fn spawn_with(place: &Place, arguments: &[&str]) -> Self {
        let (notify, log) = (place.path("notify"), place.path("log"));
        let _ = fs::remove_file(&notify);
        let socket = StdDatagram::bind(&notify).unwrap();
        socket.set_nonblocking(true).unwrap();
        let child = sluice()
            .args(arguments)
            .args(["run", "-c"])
            .arg(place.path("config.toml"))
            .env("NOTIFY_SOCKET", &notify)
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, notices: UnixDatagram::from_std(socket).unwrap(), log }
    }

    /// Waits until it tells the service manager `word`.
    pub async fn told(&mut self, word: &str) {
        let mut buffer = [0; 512];
        let heard = async {
            loop {
                let length = self.notices.recv(&mut buffer).await.unwrap();
                if text(&buffer[..length]).lines().any(|line| line == word) {
                    return;
                }
            }
        };
        tokio::select! {
            () = heard => {}
            status = self.child.wait() => panic!("ended with {status:?}:\n{}", self.log()),
            () = tokio::time::sleep(DEADLINE) => panic!("never said {word}:\n{}", self.log()),
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end; the exit code.
    pub async fn ended(&mut self) -> i32 {
        match timeout(DEADLINE, self.child.wait()).await {
            Ok(status) => status.unwrap().code().unwrap(),
            Err(_) => panic!("does not end:\n{}", self.log()),
        }
    }

    /// Waits for its end, however it ends.
    pub async fn gone(&mut self) {
        self.child.wait().await.unwrap();
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}
