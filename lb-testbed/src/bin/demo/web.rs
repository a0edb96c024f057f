//! A backend: a web server that is a process of its own, so that it can be killed as one.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use lb_testbed::eventually::eventually;
use lb_testbed::namespace::Namespace;
use lb_testbed::topology::Host;

/// A server that does not listen by then is broken.
const START: Duration = Duration::from_secs(5);

/// Dropping it kills the process.
pub struct Web {
    /// What it answers.
    pub id: String,
    /// Where it listens.
    pub address: SocketAddr,
    namespace: Arc<Namespace>,
    child: Option<Child>,
}

impl Web {
    /// Starts one on this host.
    ///
    /// # Errors
    /// As of [`Self::restore`].
    pub fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let namespace = Arc::clone(&host.namespace);
        let mut web = Self { id: host.link.clone(), address, namespace, child: None };
        web.restore()?;
        Ok(web)
    }

    /// `kill -9`; it is gone when this returns.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill().and_then(|()| child.wait()));
        }
    }

    /// Starts it again; it listens when this returns.
    ///
    /// # Errors
    /// It cannot be started, or does not listen in time.
    pub fn restore(&mut self) -> Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["serve", &self.id, &self.address.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = self.namespace.run(|| command.spawn())?;
        self.child = Some(child.with_context(|| format!("starting {command:?}"))?);
        eventually(&format!("{} listens on {}", self.id, self.address), START, || {
            let connected = self.namespace.run(|| TcpStream::connect_timeout(&self.address, START))?;
            Ok(connected.is_ok().then_some(()))
        })
    }

    /// The process, which from here on nobody ends.
    pub fn leave(mut self) -> Option<u32> {
        self.child.take().map(|child| child.id())
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.kill();
    }
}
