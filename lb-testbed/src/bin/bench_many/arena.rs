//! The namespaces, and the config.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;
use clap::Args;
use lb_testbed::topology::{Options, Topology};
use serde::Serialize;

/// How many.
#[derive(Args, Clone, Copy, Debug, Serialize)]
pub(crate) struct Size {
    /// Services, each with a VIP and a pool of its own
    #[arg(long, default_value_t = 1000)]
    pub(crate) services: u32,
    /// Backends of each pool
    #[arg(long, default_value_t = 100)]
    pub(crate) backends: u32,
    /// Slots of each pool's table
    #[arg(long, default_value_t = 65537)]
    pub(crate) table_size: u32,
}

impl Size {
    /// The name of a service and of its pool.
    pub(crate) fn name(service: u32) -> String {
        format!("s{service}")
    }

    /// A backend of a service's pool.
    pub(crate) fn backend(&self, service: u32, number: u32) -> SocketAddr {
        const FIRST: u32 = u32::from_be_bytes([10, 64, 0, 0]);
        SocketAddr::new(Ipv4Addr::from_bits(FIRST + service * self.backends + number).into(), 8080)
    }

    /// A config with this weight of the first backend of the first pool; all others have 100.
    pub(crate) fn config(&self, first: u16) -> String {
        let all = self.services * self.backends;
        let mut config = format!(
            "[kernel]\nplane = \"tc\"\nflows = 65536\nlocal = \"off\"\nbackends = {}\n",
            (all + all / 8).clamp(1024, 131_072)
        );
        for service in 0..self.services {
            let (name, vip) = (Self::name(service), vip(service));
            let _ = write!(
                config,
                "[[service]]\nname = \"{name}\"\nlisten = \"{vip}\"\npool = \"{name}\"\n[[pool]]\nname = \"{name}\"\n\
                 table_size = {}\n[pool.health]\ncheck = \"none\"\n",
                self.table_size
            );
            for number in 0..self.backends {
                let weight = if (service, number) == (0, 0) { first } else { 100 };
                let backend = self.backend(service, number);
                let _ = writeln!(config, "[[pool.backend]]\naddress = \"{backend}\"\nweight = {weight}");
            }
        }
        config
    }
}

fn vip(service: u32) -> SocketAddr {
    const FIRST: u32 = u32::from_be_bytes([10, 200, 0, 0]);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(FIRST + service)), 80)
}

/// A balancer, and a gateway to all backends, of which there is none.
pub(crate) struct Arena {
    pub(crate) size: Size,
    pub(crate) topology: Topology,
}

impl Arena {
    /// # Errors
    /// No rights.
    pub(crate) fn new(size: Size) -> Result<Self> {
        let topology = Topology::new(Options { backends: 1, ..Options::default() })?;
        topology.lb.ip("route add 10.64.0.0/10 via 10.201.1.2")?;
        Ok(Self { size, topology })
    }
}
