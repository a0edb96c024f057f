//! Client, balancer and backends, each a network namespace, and the real daemon.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_testbed::eventually::eventually;
use lb_testbed::process::Sluice;
use lb_testbed::topology::{Topology, VIP4};
use lb_userspace::model::status::Status;

use crate::choice::Choice;
use crate::web::Web;

/// Where clients connect.
pub const SERVICE: SocketAddr = SocketAddr::new(VIP4, 80);
/// Where backends listen.
const PORT: u16 = 8080;
/// A failed backend's old flows move after so long.
pub const DOWN_GRACE: Duration = Duration::from_secs(2);
/// For every change to take effect, with room for a machine that does other work.
const PATIENCE: Duration = Duration::from_secs(15);

/// All of it; gone on drop.
pub struct Stage {
    /// The daemon.
    pub sluice: Sluice,
    /// The backends, in order.
    pub webs: Vec<Web>,
    /// Their hosts.
    pub topology: Topology,
}

impl Stage {
    /// Makes it, and starts all but the daemon.
    ///
    /// # Errors
    /// No rights, or a server does not start.
    pub fn new(choice: Choice) -> Result<Self> {
        let topology = Topology::new(choice.hosts())?;
        let webs = topology
            .backends
            .iter()
            .map(|host| Web::start(host, host.socket(VIP4, PORT)))
            .collect::<Result<Vec<_>>>()?;
        let sluice = Sluice::new(&topology.lb, &config(choice, &webs)?)?;
        Ok(Self { sluice, webs, topology })
    }

    /// Starts the daemon and waits until it has seen every backend up.
    ///
    /// # Errors
    /// It does not start, or a backend stays down.
    pub fn start(&mut self) -> Result<Status> {
        self.sluice.start()?;
        eventually("every backend is up", PATIENCE, || {
            let status = self.sluice.status()?;
            let mut backends = status.pools.iter().flat_map(|pool| &pool.backends);
            Ok(backends.all(|backend| backend.state == "up").then_some(status))
        })
    }

    /// Waits until this backend gets no new flows.
    ///
    /// # Errors
    /// It takes too long.
    pub fn until_out(&self, backend: usize) -> Result<()> {
        let web = self.webs.get(backend).context("no such backend")?;
        eventually(&format!("{} is out of the tables", web.id), PATIENCE, || {
            let status = self.sluice.status()?;
            let mut backends = status.pools.iter().flat_map(|pool| &pool.backends);
            let ours = backends.find(|backend| backend.address == web.address).context("it is not there")?;
            Ok((ours.state != "up" && ours.slots == 0).then_some(()))
        })
    }

    /// The names of all backends, in order.
    pub fn names(&self) -> Vec<String> {
        self.webs.iter().map(|web| web.id.clone()).collect()
    }

    /// Stops the daemon in good order and takes everything out of the kernel.
    ///
    /// # Errors
    /// It does not end well, or something is left.
    pub fn end(mut self) -> Result<()> {
        let exit = self.sluice.stop(PATIENCE)?;
        ensure!(exit.success(), "the daemon ended with {exit}:\n{}", self.sluice.log());
        let cleanup = self.sluice.with_config(&["cleanup"])?;
        let said = String::from_utf8_lossy(&cleanup.stderr);
        ensure!(cleanup.status.success(), "sluice cleanup: {}: {said}", cleanup.status);
        let left = self.sluice.bpf_dir();
        ensure!(!left.exists(), "sluice cleanup left {}", left.display());
        Ok(())
    }
}

fn config(choice: Choice, webs: &[Web]) -> Result<String> {
    let mut config = format!(
        "[daemon]
drain_timeout = \"1s\"

[kernel]
plane = \"{plane}\"
flows = 65536

[[service]]
name = \"web\"
listen = \"{SERVICE}\"
pool = \"web\"
down_grace = \"{grace}s\"

[[pool]]
name = \"web\"
health = {{ check = \"http\", path = \"/health\", interval = \"500ms\", timeout = \"500ms\", rise = 2, fall = 2 }}
",
        plane = choice.setting(),
        grace = DOWN_GRACE.as_secs(),
    );
    for web in webs {
        write!(config, "\n[[pool.backend]]\naddress = \"{}\"\n", web.address)?;
    }
    Ok(config)
}
