//! A contender with hosts of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use lb_testbed::client::http;
use lb_testbed::eventually::eventually;
use lb_testbed::topology::{Options, Topology, VIP4};

use crate::balancer::Balancer;
use crate::contender::Contender;
use crate::load::{Load, Measured, Tool};
use crate::running::Running;
use crate::web::{self, Content};

/// From the start to the first answer.
const READY: Duration = Duration::from_secs(20);

/// Fields in the order in which they must end.
pub struct Arena {
    /// Who.
    pub contender: Contender,
    target: SocketAddr,
    balancer: Balancer,
    _servers: Vec<Running>,
    bed: Topology,
}

impl Arena {
    /// Makes the hosts, starts the servers and the balancer, and waits for the first answer.
    ///
    /// # Errors
    /// Something of that fails, or nobody answers.
    pub fn new(contender: Contender, backends: u8, content: &Content) -> Result<Self> {
        let bed = Topology::new(Options { backends, ..contender.options() })?;
        let servers =
            bed.backends.iter().map(|host| web::serve(host, content)).collect::<Result<Vec<_>>>()?;
        let endpoints: Vec<SocketAddr> =
            bed.backends.iter().map(|host| host.socket(VIP4, web::PORT)).collect();
        for &endpoint in &endpoints {
            answers(&bed, endpoint, || Ok(()))?;
        }
        let vip = SocketAddr::new(VIP4, 80);
        let mut balancer = Balancer::start(contender, &bed, vip, &endpoints)?;
        let direct = endpoints.first().context("no backends")?;
        let target = if contender.is_direct() { *direct } else { vip };
        answers(&bed, target, || balancer.check()).with_context(|| format!("{contender}"))?;
        Ok(Self { contender, target, balancer, _servers: servers, bed })
    }

    /// Puts the load on it.
    ///
    /// # Errors
    /// The tool fails, or the balancer ended. Failed requests are counted, not errors here.
    pub fn measure(&mut self, load: Load, tool: &Tool, duration: Duration) -> Result<Measured> {
        let measured = tool.run(load, &self.bed.client.namespace, self.target, duration)?;
        self.balancer.check()?;
        Ok(measured)
    }

    /// Ends it in good order.
    ///
    /// # Errors
    /// The balancer does not end as it should.
    pub fn close(self) -> Result<()> {
        self.balancer.stop()
    }
}

fn answers(bed: &Topology, target: SocketAddr, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    eventually(&format!("an answer from {target}"), READY, || {
        check()?;
        http::get(&bed.client.namespace, target, "/").map(Some)
    })
    .map(drop)
}
