//! Path MTU discovery through the kernel planes: a link that takes less than the others, next to the balancer or
//! behind a router on either side, stops no transfer. Linux looks for such links by itself in no other way than
//! by the errors that these tests are about (`tcp_mtu_probing` is 0).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use aya::maps::{Map, MapData, ProgramArray};
use lb_common::{Counter, names};
use lb_testbed::backend::{Kind, Server};
use lb_testbed::bed::{PORT, SERVER_PORT, Setup};
use lb_testbed::client::bulk;
use lb_testbed::namespace::Namespace;
use lb_testbed::process::Sluice;
use lb_testbed::topology::{Host, Options, Topology};
use lb_userspace::model::Plane;

/// What the narrow link takes; all others take 1500.
const NARROW: u32 = 1400;
/// Each way.
const BYTES: u64 = 4 << 20;
const STALL: Duration = Duration::from_secs(2);
const PLANES: [Plane; 2] = [Plane::Tc, Plane::Xdp];

#[test]
fn a_narrow_link_to_the_backend() -> anyhow::Result<()> {
    for plane in PLANES {
        let bed = Bed::new(plane, Wires::to_backend)?;
        bed.transfer()?;
        let told = bed.drops(Counter::TooLongAnswered)?;
        ensure!(told >= 2, "{plane:?}: {told} senders were told what fits");
    }
    Ok(())
}

#[test]
fn a_narrow_link_behind_a_router_of_the_backend() -> anyhow::Result<()> {
    PLANES.into_iter().try_for_each(|plane| Bed::new(plane, Wires::behind_backend)?.transfer())
}

#[test]
fn a_narrow_link_behind_a_router_of_the_client() -> anyhow::Result<()> {
    for plane in PLANES {
        let bed = Bed::new(plane, Wires::behind_client)?;
        bed.transfer()?;
        ensure!(bed.drops(Counter::Icmp)? == 0, "{plane:?}: errors about our packets were dropped");
    }
    Ok(())
}

/// The control of the three above: without the program that answers and translates ICMP, on the same wires, no transfer
/// gets through, by either VIP.
#[test]
fn without_errors_no_transfer_gets_through() -> anyhow::Result<()> {
    let layouts: [Layout; 3] = [Wires::to_backend, Wires::behind_backend, Wires::behind_client];
    for plane in PLANES {
        for (layout, number) in layouts.into_iter().zip(1..) {
            let bed = Bed::new(plane, layout)?;
            for map in [names::MAP_RARE_TC, names::MAP_RARE_XDP] {
                let map = MapData::from_pin(bed.sluice.bpf_dir().join("maps").join(map))?;
                ProgramArray::try_from(Map::ProgramArray(map))?.clear_index(&0)?;
            }
            for vip in &bed.setup.vips {
                let outcome = bed.transfer_by(*vip);
                ensure!(outcome.is_err(), "{plane:?}, wires {number}, {vip}: {outcome:?}");
            }
        }
    }
    Ok(())
}

fn setup(plane: Plane) -> Setup {
    let setup = Setup::on(plane);
    Setup { topology: Options { backends: 1, ..setup.topology }, ..setup }
}

/// How the wires are laid.
type Layout = fn(&Topology) -> anyhow::Result<Wires>;

/// Where the two ends are.
struct Wires {
    client: Arc<Namespace>,
    server: Arc<Namespace>,
    addresses: [IpAddr; 2],
}

impl Wires {
    fn to_backend(topology: &Topology) -> anyhow::Result<Self> {
        let backend = &topology.backends[0];
        topology.lb.ip(&format!("link set {} mtu {NARROW}", backend.link))?;
        // The backend lets its peers send more than its link takes, as if the link were not its own.
        backend.namespace.ip_batch(&[
            format!("link set eth0 mtu {NARROW}"),
            "route replace default via 10.201.1.1 advmss 1460".to_owned(),
            "route replace default via fd00:201:1::1 advmss 1440".to_owned(),
        ])?;
        let (client, server) = (&topology.client.namespace, &backend.namespace);
        let addresses = [backend.ipv4(), backend.ipv6()];
        Ok(Self { client: Arc::clone(client), server: Arc::clone(server), addresses })
    }

    fn behind_backend(topology: &Topology) -> anyhow::Result<Self> {
        let far = Far::behind(topology, &topology.backends[0])?;
        let client = Arc::clone(&topology.client.namespace);
        Ok(Self { client, server: far.namespace, addresses: far.addresses })
    }

    fn behind_client(topology: &Topology) -> anyhow::Result<Self> {
        let far = Far::behind(topology, &topology.client)?;
        let backend = &topology.backends[0];
        let addresses = [backend.ipv4(), backend.ipv6()];
        Ok(Self { client: far.namespace, server: Arc::clone(&backend.namespace), addresses })
    }
}

/// All of it, running.
struct Bed {
    sluice: Sluice,
    _servers: Vec<Server>,
    client: Arc<Namespace>,
    setup: Setup,
    _topology: Topology,
}

impl Bed {
    fn new(plane: Plane, layout: Layout) -> anyhow::Result<Self> {
        let setup = setup(plane);
        let topology = Topology::new(setup.topology)?;
        let Wires { client, server, addresses } = layout(&topology)?;
        let servers = addresses.map(|ip| SocketAddr::new(ip, SERVER_PORT)).into_iter();
        let servers = servers.map(|address| Server::start(&server, Kind::Echo, "b1", address));
        let servers = servers.collect::<anyhow::Result<Vec<_>>>()?;
        let backends: Vec<_> = servers.iter().map(|server| (server.address(), 100)).collect();
        let mut sluice = Sluice::new(&topology.lb, &setup.config(&backends))?;
        sluice.start()?;
        Ok(Self { sluice, _servers: servers, client, setup, _topology: topology })
    }

    /// Both ways at once, through the IPv4 VIP and the IPv6 one.
    fn transfer(&self) -> anyhow::Result<()> {
        let Self { sluice, setup, .. } = self;
        for vip in &setup.vips {
            let report = self.transfer_by(*vip).with_context(|| {
                format!("{:?} through {vip}; {:?}", setup.plane, sluice.status().map(|status| status.drops))
            })?;
            println!("{:?} through {vip}: {report:?}", setup.plane);
            ensure!(report.intact, "{:?} through {vip}: {report:?}", setup.plane);
        }
        Ok(())
    }

    fn transfer_by(&self, vip: IpAddr) -> anyhow::Result<bulk::Report> {
        let plan = bulk::Plan { target: SocketAddr::new(vip, PORT), bytes: BYTES, stall: STALL };
        bulk::transfer(&self.client, plan)
    }

    fn drops(&self, counter: Counter) -> anyhow::Result<u64> {
        self.sluice.status()?.drops.get(counter.name()).copied().context("the status lists every reason")
    }
}

/// A host behind another, which routes. The way to it takes [`NARROW`] bytes and the way back 1500, so that it
/// does not know.
struct Far {
    namespace: Arc<Namespace>,
    addresses: [IpAddr; 2],
}

impl Far {
    fn behind(topology: &Topology, router: &Host) -> anyhow::Result<Self> {
        let namespace = Arc::new(Namespace::new("far")?);
        router.namespace.sysctl("net/ipv4/ip_forward", "1")?;
        router.namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        router.namespace.ip_batch(&[
            format!("link add far type veth peer name eth0 netns {}", namespace.name()),
            "address add 10.202.0.1/24 dev far".to_owned(),
            "address add fd00:202::1/64 dev far nodad".to_owned(),
            "link set far up".to_owned(),
            format!("route replace 10.202.0.0/24 dev far mtu lock {NARROW}"),
            format!("route add fd00:202::/64 dev far metric 1 mtu lock {NARROW}"),
        ])?;
        namespace.ip_batch(&[
            "link set eth0 up".to_owned(),
            "address add 10.202.0.2/24 dev eth0".to_owned(),
            "address add fd00:202::2/64 dev eth0 nodad".to_owned(),
            "route add default via 10.202.0.1".to_owned(),
            "route add default via fd00:202::1".to_owned(),
        ])?;
        topology.lb.ip_batch(&[
            format!("route add 10.202.0.0/24 via {}", router.ipv4()),
            format!("route add fd00:202::/64 via {}", router.ipv6()),
        ])?;
        Ok(Self { namespace, addresses: ["10.202.0.2".parse()?, "fd00:202::2".parse()?] })
    }
}
