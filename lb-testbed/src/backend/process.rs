//! A backend that is a process of its own: it can be killed, and stopped, as a whole.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal};

use super::Kind;
use crate::eventually::eventually;
use crate::namespace::Namespace;

/// Where it answers health checks, by HTTP.
pub const HEALTH_PORT: u16 = 8081;
/// It accepts within this.
const START: Duration = Duration::from_secs(10);

/// A process. Killed on drop.
#[derive(Debug)]
pub(super) struct Process(Child);

impl Process {
    /// Starts `program serve ID ADDRESS`, which has to call [`serve`]; it accepts when this returns.
    ///
    /// # Errors
    /// It cannot be started, or does not accept in time.
    pub(super) fn start(
        program: &Path,
        namespace: &Namespace,
        id: &str,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(["serve", id, &address.to_string()]).stdin(Stdio::piped()).stdout(Stdio::null());
        let child = namespace.run(|| command.spawn())?.with_context(|| format!("starting {command:?}"))?;
        let process = Self(child);
        for socket in [address, SocketAddr::new(address.ip(), HEALTH_PORT)] {
            eventually(&format!("{id} listens on {socket}"), START, || {
                let connected = namespace.run(|| TcpStream::connect_timeout(&socket, START))?;
                Ok(connected.is_ok().then_some(()))
            })?;
        }
        Ok(process)
    }

    /// SIGSTOP, or SIGCONT.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(rustix::process::kill_process(Pid::from_child(&self.0), signal)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("a backend's process cannot be killed: {error}");
        }
    }
}

/// An echo server in the calling thread's namespace that also answers checks on [`HEALTH_PORT`], for a process of its own:
/// until its standard input ends, which is when whoever started it is gone.
///
/// # Errors
/// An address cannot be bound, or no connection can be accepted any more.
pub fn serve(id: &str, address: SocketAddr) -> anyhow::Result<()> {
    let health = SocketAddr::new(address.ip(), HEALTH_PORT);
    let (ended, first) = std::sync::mpsc::channel();
    for (kind, address) in [(Kind::Echo, address), (Kind::Http, health)] {
        let (ended, id) = (ended.clone(), id.to_owned());
        std::thread::spawn(move || ended.send(super::serve(kind, id, address)));
    }
    std::thread::spawn(move || {
        ended.send(std::io::stdin().read_to_end(&mut Vec::new()).map(drop).map_err(Into::into))
    });
    first.recv()?
}
