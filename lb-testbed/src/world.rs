//! The maps that the packet table runs against: one small network, the same for host and kernel.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use lb_common::address::{TCP, UDP};
use lb_common::hash::{self, Seed};
use lb_common::route::Host;
use lb_common::service::{SOURCE_AFFINITY, TRACK_ALWAYS, VIP_MARKER, VIP_PING, vip_of};
use lb_common::{
    Address, Backend, BackendId, Claim, Endpoint, Exact, ExactKey, Flow, FlowKey, HalfOpen, NextHop, Port,
    Service, ServiceId, Slot, SocketKey, Station, Vip, ticks,
};
use lb_ebpf::host::{Memory, Model};
use lb_userspace::data_plane::kernel::{KernelState, Prefix};

use crate::segment::RECEIVER;

/// The flow hash's secret of the table.
pub const SEED: Seed = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
/// Slots of each Maglev table.
pub const SLOTS: u32 = 251;
/// The interface towards the backends.
pub const BACKEND_SIDE: u32 = 7;
/// The interface that test frames come in by.
pub const LINK: u32 = 1;
/// The interface towards the clients.
pub const CLIENT_SIDE: u32 = 8;
/// `timeouts.established` of every service, in ticks.
pub const ESTABLISHED: u32 = 3600 * ticks::SECOND;
/// `timeouts.closing` of every service, in ticks.
pub const CLOSING: u32 = 120 * ticks::SECOND;
/// `timeouts.half_open` of every service, in ticks.
pub const HALF_OPEN: u32 = 5 * ticks::SECOND;

/// `timeouts.udp` of every UDP service, in ticks.
pub const UDP_IDLE: u32 = 30 * ticks::SECOND;

/// The maximum segment size of [`Web::Affinity`].
pub const MSS: u32 = 1360;

/// Services of the world, by what is special about them. Each has its own VIP and its own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Web {
    /// IPv4, three backends, stable.
    V4 = 1,
    /// IPv6, three backends, stable.
    V6,
    /// Every slot is within a change from [`OLD`] to [`NEW`].
    Tracked,
    /// As `Tracked`, about to settle.
    Settling,
    /// As `Tracked`, but the fallback has failed and its grace is over.
    DeadFallback,
    /// IPv6, every slot within a change.
    TrackedV6,
    /// No backend at all.
    Empty,
    /// Its backend's neighbour is not resolved.
    Unresolved,
    /// Its table is missing.
    Damaged,
    /// The source address alone decides; and the maximum segment size is [`MSS`].
    Affinity,
    /// IPv4 over UDP, three backends, stable.
    Dns,
    /// IPv6 over UDP, three backends, stable.
    Dns6,
    /// As `Tracked`, over UDP.
    TrackedDns,
    /// As `Settling`, over UDP.
    SettlingDns,
    /// As `V4`, but every flow is remembered.
    Always,
    /// As `Dns`, but every flow is remembered.
    AlwaysDns,
    /// A second service in front of the backends of `V4`.
    Further,
}

impl Web {
    const ALL: [Self; 17] = [
        Self::V4,
        Self::V6,
        Self::Tracked,
        Self::Settling,
        Self::DeadFallback,
        Self::TrackedV6,
        Self::Empty,
        Self::Unresolved,
        Self::Damaged,
        Self::Affinity,
        Self::Dns,
        Self::Dns6,
        Self::TrackedDns,
        Self::SettlingDns,
        Self::Always,
        Self::AlwaysDns,
        Self::Further,
    ];

    fn is_v6(self) -> bool {
        matches!(self, Self::V6 | Self::TrackedV6 | Self::Dns6)
    }

    /// The IP protocol number of its transport.
    pub fn protocol(self) -> u8 {
        match self {
            Self::Dns | Self::Dns6 | Self::TrackedDns | Self::SettlingDns | Self::AlwaysDns => UDP,
            _ => TCP,
        }
    }

    /// What clients connect to.
    pub fn vip(self) -> SocketAddr {
        let ip: IpAddr = if self.is_v6() {
            format!("2001:db8::{}", self as u32).parse().expect("an address")
        } else {
            format!("192.0.2.{}", self as u32).parse().expect("an address")
        };
        SocketAddr::new(ip, 80)
    }

    /// Id of the service.
    pub fn id(self) -> ServiceId {
        ServiceId::new(self as u32, 1)
    }

    fn service(self) -> Service {
        Service {
            id: self.id(),
            table: self.pool() as u32,
            slots: SLOTS,
            flags: match self {
                Self::Affinity => SOURCE_AFFINITY,
                Self::Always | Self::AlwaysDns => TRACK_ALWAYS,
                _ => 0,
            },
            established: if self.protocol() == UDP { UDP_IDLE } else { ESTABLISHED },
            closing: CLOSING,
            half_open: HALF_OPEN,
            mss: if self == Self::Affinity { MSS } else { 0 },
        }
    }

    /// The service whose table and backends it has.
    fn pool(self) -> Self {
        if self == Self::Further { Self::V4 } else { self }
    }

    /// The backends that its slots name; of a change: the new one, then the old one.
    pub fn backends(self) -> Vec<BackendId> {
        let first = self.pool() as u32 * 10;
        match self {
            Self::V4
            | Self::V6
            | Self::Affinity
            | Self::Dns
            | Self::Dns6
            | Self::Always
            | Self::AlwaysDns
            | Self::Further => (0..3).map(|n| BackendId::new(first + n, 1)).collect(),
            Self::Tracked
            | Self::Settling
            | Self::DeadFallback
            | Self::TrackedV6
            | Self::TrackedDns
            | Self::SettlingDns => {
                vec![BackendId::new(first, 1), BackendId::new(first + 1, 1)]
            }
            Self::Unresolved => vec![BackendId::new(first, 1)],
            Self::Empty | Self::Damaged => Vec::new(),
        }
    }

    /// Where a backend listens.
    pub fn endpoint(self, id: BackendId) -> SocketAddr {
        let ip = if self.is_v6() {
            format!("fd00::{}", id.index()).parse().expect("an address")
        } else {
            format!("10.0.0.{}", id.index()).parse().expect("an address")
        };
        SocketAddr::new(ip, 8080)
    }

    /// The new backend of a change.
    pub fn new_backend(self) -> BackendId {
        self.backends()[0]
    }

    /// The old backend of a change.
    pub fn old_backend(self) -> BackendId {
        self.backends()[1]
    }

    fn slots(self) -> Option<Vec<Slot>> {
        let ids = self.backends();
        let slot = |n: usize| match self {
            Self::Tracked | Self::DeadFallback | Self::TrackedV6 | Self::TrackedDns => {
                Slot::tracked(ids[0], ids[1], false)
            }
            Self::Settling | Self::SettlingDns => Slot::tracked(ids[0], ids[1], true),
            Self::Empty => Slot::stable(BackendId::NONE),
            _ => Slot::stable(ids[n % ids.len()]),
        };
        (self != Self::Damaged).then(|| (0..SLOTS as usize).map(slot).collect())
    }

    /// The key of a client's flow to it.
    pub fn flow_key(self, client: SocketAddr) -> FlowKey {
        FlowKey { client: client.ip().into(), service: self.id(), port: Port::new(client.port()), padding: 0 }
    }
}

/// MAC address of a backend's or gateway's neighbour entry, in memory order.
pub fn mac(number: u32) -> [u8; 6] {
    [0x02, 0xbb, 0, 0, (number >> 8) as u8, number as u8]
}

pub(crate) fn hop(number: u32, ifindex: u32) -> NextHop {
    NextHop {
        destination: zerocopy::transmute!(mac(number)),
        source: zerocopy::transmute!(mac(0xff00 + ifindex)),
        ifindex,
        mtu: MTU,
    }
}

/// Of both links.
pub const MTU: u32 = 1500;

/// Number of the clients' gateway, for [`mac`].
pub const GATEWAY: u32 = 0x100;
/// A client that is not behind the gateway and has no neighbour entry.
pub const STRANGER: &str = "198.51.100.9:40000";
/// An address of the balancer itself.
pub const HOST: &str = "192.0.2.200:22";

/// The world, and what it remembers of flows.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The controller's maps.
    pub state: KernelState,
    /// The flow table; `expires` is relative to now.
    pub flows: Vec<(FlowKey, Flow)>,
    /// The half-open table; `expires` is relative to now.
    pub half_open: Vec<(FlowKey, HalfOpen)>,
    /// Hosts that have asked for a VIP.
    pub askers: Vec<(Address, NextHop)>,
    /// The exact entries; `expires` is relative to now.
    pub exact: Vec<(ExactKey, Exact)>,
}

impl World {
    /// The service whose VIP answers no pings.
    pub const SILENT: Web = Web::Affinity;

    /// The world without any remembered flow.
    pub fn new() -> Self {
        let mut state = KernelState::default();
        for web in Web::ALL {
            let vip = SocketKey::new(web.vip(), web.protocol());
            state.services.insert(vip, web.service());
            let ping = if web == Self::SILENT { 0 } else { VIP_PING };
            let marker = Service { flags: VIP_MARKER | vip_of(web.protocol()) | ping, ..Service::default() };
            state.services.insert(SocketKey::vip(vip.address), marker);
            if web.pool() != web {
                continue;
            }
            if let Some(slots) = web.slots() {
                state.tables.insert(web as u32, slots.into());
            }
            for id in web.backends() {
                let endpoint = SocketKey::new(web.endpoint(id), web.protocol());
                let SocketKey { address, port, protocol } = endpoint;
                let is_dead = web == Web::DeadFallback && id == web.old_backend();
                let backend = Backend {
                    address,
                    port,
                    protocol,
                    id: if is_dead { BackendId::NONE } else { id },
                    hop: if web == Web::Unresolved {
                        NextHop::default()
                    } else {
                        hop(id.index(), BACKEND_SIDE)
                    },
                    plain: web.id(),
                };
                state.backends.insert(id.index(), backend);
                let value = Endpoint { vip, backend: id, service: web.service() };
                state.endpoints.insert(endpoint, value);
            }
        }
        let host: SocketAddr = HOST.parse().expect("an address");
        state.local.insert(host.ip().into());
        for (address, length, hop) in [
            ("0.0.0.0", 0, hop(GATEWAY, CLIENT_SIDE)),
            ("::", 0, hop(GATEWAY, CLIENT_SIDE)),
            ("198.51.100.0", 24, NextHop::default()),
        ] {
            let address = address.parse().expect("an address");
            state.routes.insert(Prefix { address, length }, hop);
        }
        for (web, ifindex) in
            [(Web::V4, LINK), (Web::V6, LINK), (Web::Dns, CLIENT_SIDE), (Web::Dns6, CLIENT_SIDE)]
        {
            let station = Station { vip: web.vip().ip().into(), ifindex };
            let from =
                NextHop { source: zerocopy::transmute!(RECEIVER), ifindex, mtu: MTU, ..NextHop::default() };
            state.stations.insert(station, from);
        }
        Self { state, ..Self::default() }
    }

    /// The same for the host's walk, at time `now`.
    pub fn model(&self, now: u32) -> Model {
        let model = Model {
            now: now.into(),
            hash_key: hash::key(SEED),
            services: self.state.services.iter().map(|(key, value)| (*key, *value)).collect(),
            endpoints: self.state.endpoints.iter().map(|(key, value)| (*key, *value)).collect(),
            backends: self.state.backends.iter().map(|(key, value)| (*key, *value)).collect(),
            tables: self.state.tables.iter().map(|(key, value)| (*key, value.to_vec())).collect(),
            hosts: self.state.local.iter().map(|ip| (*ip, Host::own())).collect(),
            stations: self.state.stations.iter().map(|(key, hop)| (*key, *hop)).collect(),
            askers: RefCell::new(self.askers.iter().copied().collect()),
            routes: self.state.routes.iter().map(|(prefix, hop)| route_of(prefix, *hop)).collect(),
            vips: self.vips().collect(),
            flows: Memory::default(),
            ..Model::default()
        };
        for (key, flow) in self.flows_at(now) {
            model.flows.insert(&key, flow);
        }
        for (key, half) in self.half_open_at(now) {
            model.half_open.insert(&key, half);
        }
        for (key, exact) in self.exact_at(now) {
            model.exact.insert(&key, exact);
        }
        model.exact_hints.borrow_mut().extend(self.exact_hints());
        model
    }

    /// The flow table at time `now`.
    pub fn flows_at(&self, now: u32) -> impl Iterator<Item = (FlowKey, Flow)> + '_ {
        self.flows
            .iter()
            .map(move |(key, flow)| (*key, Flow { expires: now.wrapping_add(flow.expires), ..*flow }))
    }

    /// The VIPs by service index.
    fn vips(&self) -> impl Iterator<Item = (u32, Vip)> + '_ {
        let services = self.state.services.iter().filter(|(_, service)| service.flags & VIP_MARKER == 0);
        services.map(|(key, service)| (service.id.index(), Vip { key: *key, service: *service }))
    }

    /// The exact entries at time `now`.
    pub fn exact_at(&self, now: u32) -> impl Iterator<Item = (ExactKey, Exact)> + '_ {
        let at = move |claim: Claim| Claim { expires: now.wrapping_add(claim.expires), ..claim };
        self.exact.iter().map(move |(key, exact)| {
            (*key, Exact { confirmed: at(exact.confirmed), pending: at(exact.pending) })
        })
    }

    /// Indexes of the backends whose endpoints have exact entries.
    pub fn exact_hints(&self) -> impl Iterator<Item = u32> + '_ {
        self.exact
            .iter()
            .filter_map(|(key, _)| Some(self.state.endpoints.get(&key.endpoint)?.backend.index()))
    }

    /// The half-open table at time `now`.
    pub fn half_open_at(&self, now: u32) -> impl Iterator<Item = (FlowKey, HalfOpen)> + '_ {
        self.half_open
            .iter()
            .map(move |(key, half)| (*key, HalfOpen { expires: now.wrapping_add(half.expires), ..*half }))
    }
}

/// A prefix as the maps hold it: 128 bits.
pub(crate) fn route_of(prefix: &Prefix, hop: NextHop) -> (Address, u8, NextHop) {
    let length = if prefix.address.is_ipv4() { prefix.length + 96 } else { prefix.length };
    (prefix.address.into(), length, hop)
}
