//! The whole of it: a topology, a server for each family on every backend, and the daemon between them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use lb_userspace::model::Plane;
use lb_userspace::model::status::{Explanation, PoolStatus, ServiceStatus, Status};

use crate::backend::process::HEALTH_PORT;
use crate::backend::{Kind, Server};
use crate::client::churn::{self, Churn};
use crate::client::long::{self, LongFlows};
use crate::conservation;
use crate::eventually::eventually;
use crate::process::{Sluice, succeeded};
use crate::topology::{Options, Topology, VIP4, VIP6};

/// Port of the VIPs.
pub const PORT: u16 = 80;
/// Port of the servers.
pub const SERVER_PORT: u16 = 8080;
/// The one service.
pub const SERVICE: &str = "web";
/// The one pool.
pub const POOL: &str = "servers";

/// An answer that takes longer is a stall: TCP has then sent a segment three times, also on a busy machine.
pub const STALL: Duration = Duration::from_secs(5);

/// What is not the same in every test.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What serves the VIPs; forced.
    pub plane: Plane,
    /// Of the topology.
    pub topology: Options,
    /// What the servers speak.
    pub kind: Kind,
    /// The program whose processes are the servers, as in [`Server::spawn`], which are then checked by HTTP; none: threads of
    /// this process, checked by TCP.
    pub program: Option<PathBuf>,
    /// `kernel.flows`.
    pub flows: u32,
    /// VIPs of the service; every backend has a server of each of their families.
    pub vips: Vec<IpAddr>,
    /// `daemon.drain_timeout`.
    pub drain_timeout: &'static str,
    /// `daemon.drain_spread`; none: its default.
    pub drain_spread: Option<&'static str>,
    /// `service.down_grace`.
    pub down_grace: &'static str,
    /// `pool.health.interval`; two failures take a backend down, two successes bring it up.
    pub interval: &'static str,
    /// `pool.health.timeout`.
    pub timeout: &'static str,
    /// Further services of the config.
    pub services: &'static str,
    /// `pool.health.check`.
    pub check: &'static str,
    /// Further keys of the pool.
    pub pool: &'static str,
}

impl Setup {
    /// Echo servers behind an IPv4 VIP and an IPv6 one, on a topology that suits the plane.
    pub fn on(plane: Plane) -> Self {
        Self {
            plane,
            topology: if plane == Plane::Xdp { Options::xdp() } else { Options::default() },
            kind: Kind::Echo,
            program: None,
            flows: 65_536,
            vips: vec![VIP4, VIP6],
            drain_timeout: "30s",
            drain_spread: None,
            down_grace: "10s",
            interval: "500ms",
            timeout: "500ms",
            services: "",
            check: "tcp",
            pool: "",
        }
    }

    /// The config with these backends, each an address and a weight.
    pub fn config(&self, backends: &[(SocketAddr, u16)]) -> String {
        let Self { flows, vips, drain_timeout, down_grace, interval, timeout, services, check, pool, .. } =
            self;
        let check = match self.program {
            Some(_) => format!("check = \"http\"\nport = {HEALTH_PORT}"),
            None => format!("check = {check:?}"),
        };
        let spread =
            self.drain_spread.map(|spread| format!("drain_spread = \"{spread}\"\n")).unwrap_or_default();
        let plane = match self.plane {
            Plane::Proxy => "off".to_owned(),
            plane => plane.to_string(),
        };
        let listen: Vec<_> = vips.iter().map(|vip| format!("\"{}\"", SocketAddr::new(*vip, PORT))).collect();
        let backends = backends.iter().map(|(address, weight)| {
            format!("[[pool.backend]]\naddress = \"{address}\"\nweight = {weight}\n")
        });
        format!(
            "[daemon]\ndrain_timeout = \"{drain_timeout}\"\n{spread}\
             [kernel]\nplane = \"{plane}\"\nflows = {flows}\n\
             [[service]]\nname = \"{SERVICE}\"\nlisten = [{}]\npool = \"{POOL}\"\ndown_grace = \"{down_grace}\"\n{services}\
             [[pool]]\nname = \"{POOL}\"\ntable_size = 4099\n{pool}\
             [pool.health]\n{check}\ninterval = \"{interval}\"\ntimeout = \"{timeout}\"\nrise = 2\nfall = 2\n{}",
            listen.join(", "),
            backends.collect::<String>()
        )
    }
}

/// All of it, running. Gone on drop, when every frame that the kernel planes have seen must be accounted for.
#[derive(Debug)]
pub struct Bed {
    /// On the balancer.
    pub sluice: Sluice,
    /// Backend by backend, one for each VIP; they are called after their backend, `b1` and so on.
    pub servers: Vec<Server>,
    /// Where all this is.
    pub topology: Topology,
    setup: Setup,
}

impl Bed {
    /// Starts all; the daemon is ready when this returns.
    ///
    /// # Errors
    /// No rights, or the daemon does not come up; the message holds its log.
    pub fn start(setup: Setup) -> anyhow::Result<Self> {
        let mut bed = Self::prepare(setup)?;
        bed.sluice.start()?;
        Ok(bed)
    }

    /// Everything but the daemon.
    ///
    /// # Errors
    /// No rights.
    pub fn prepare(setup: Setup) -> anyhow::Result<Self> {
        let topology = Topology::new(setup.topology)?;
        let mut servers = Vec::new();
        for (host, number) in topology.backends.iter().zip(1..) {
            for vip in &setup.vips {
                let address = host.socket(*vip, SERVER_PORT);
                let id = format!("b{number}");
                servers.push(match &setup.program {
                    Some(program) => Server::spawn(program.clone(), &host.namespace, &id, address)?,
                    None => Server::start(&host.namespace, setup.kind, &id, address)?,
                });
            }
        }
        let backends: Vec<_> = servers.iter().map(|server| (server.address(), 100)).collect();
        let sluice = Sluice::new(&topology.lb, &setup.config(&backends))?;
        Ok(Self { sluice, servers, topology, setup })
    }

    /// The config of the start, with these weights by server: those beyond the list are left out.
    pub fn config(&self, weights: &[u16]) -> String {
        self.config_of(weights.iter().copied().enumerate())
    }

    /// The config of the start, with these servers, each with a weight.
    pub fn config_of(&self, members: impl IntoIterator<Item = (usize, u16)>) -> String {
        let backends = members.into_iter();
        let backends =
            backends.filter_map(|(number, weight)| Some((self.servers.get(number)?.address(), weight)));
        self.setup.config(&backends.collect::<Vec<_>>())
    }

    /// Puts a config in force.
    ///
    /// # Errors
    /// It is refused; the message holds what `reload` printed.
    pub fn reload(&self, config: &str) -> anyhow::Result<()> {
        self.sluice.write_config(config)?;
        succeeded(self.sluice.ask(&["reload"])?).map(drop)
    }

    /// The VIPs with their port.
    pub fn targets(&self) -> Vec<SocketAddr> {
        self.setup.vips.iter().map(|vip| SocketAddr::new(*vip, PORT)).collect()
    }

    /// The first VIP with its port.
    pub fn target(&self) -> SocketAddr {
        SocketAddr::new(self.setup.vips[0], PORT)
    }

    /// Who may answer.
    pub fn known(&self) -> BTreeSet<String> {
        self.servers.iter().map(|server| server.id().to_owned()).collect()
    }

    /// A plan for flows to the first VIP that live long.
    pub fn long_plan(&self, flows: u64, interval: Option<Duration>) -> long::Plan {
        long::Plan { target: self.target(), flows, interval, known: self.known(), stall: STALL }
    }

    /// Opens flows to the first VIP that live long.
    ///
    /// # Errors
    /// As of [`LongFlows::open`].
    pub fn long(&self, flows: u64, interval: Option<Duration>) -> anyhow::Result<LongFlows> {
        LongFlows::open(&self.topology.client.namespace, self.long_plan(flows, interval))
    }

    /// Starts new flows to the first VIP.
    pub fn churn(&self, rate: u32) -> Churn {
        self.churn_within(rate, STALL)
    }

    /// Starts new flows to the first VIP; one that has no answer within `deadline` is lost.
    pub fn churn_within(&self, rate: u32, deadline: Duration) -> Churn {
        let plan =
            churn::Plan { target: self.target(), kind: self.setup.kind, rate, known: self.known(), deadline };
        Churn::start(&self.topology.client.namespace, plan)
    }

    /// The service in the status document.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn service(&self) -> anyhow::Result<ServiceStatus> {
        self.status()?.services.into_iter().next().context("the status holds no service")
    }

    /// The pool in the status document.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn pool(&self) -> anyhow::Result<PoolStatus> {
        self.status()?.pools.into_iter().next().context("the status holds no pool")
    }

    fn accounts_for_all(&self) -> anyhow::Result<()> {
        let maps = self.sluice.bpf_dir();
        if !maps.join("maps").exists() {
            return Ok(());
        }
        eventually("every frame is accounted for", STALL, || conservation::holds(&maps).map(Some))
    }

    fn status(&self) -> anyhow::Result<Status> {
        self.sluice.status()
    }

    /// What the daemon says of a client's flow to a VIP.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn explain(&self, client: SocketAddr, listen: SocketAddr) -> anyhow::Result<Explanation> {
        let answer =
            succeeded(self.sluice.ask(&["explain", &client.to_string(), &listen.to_string(), "--json"])?)?;
        serde_json::from_str(&answer).with_context(|| format!("not an explanation: {answer}"))
    }

    /// `sluice backend VERB POOL ADDRESS ...` about a server.
    ///
    /// # Errors
    /// It fails; the message holds what it printed.
    pub fn backend(&self, verb: &str, server: &Server, more: &[&str]) -> anyhow::Result<()> {
        let address = server.address().to_string();
        let verb = [&["backend", verb, POOL, &address], more].concat();
        succeeded(self.sluice.ask(&verb)?).map(drop)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Err(error) = self.accounts_for_all() {
            // A second panic would end the process and hide the first.
            if std::thread::panicking() {
                eprintln!("{error:#}");
            } else {
                fail(&error);
            }
        }
    }
}

#[expect(clippy::panic, reason = "a destructor has no other way to fail a test")]
fn fail(error: &anyhow::Error) -> ! {
    panic!("{error:#}")
}
