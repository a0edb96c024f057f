//! The kernel's network tables, mirrored: a pure fold of netlink messages.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::Mac;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressProtocol};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol};

use super::Link;
use super::routes::Routes;

/// What marks neighbours (`NDA_PROTOCOL`) and addresses (`IFA_PROTO`) as made by this daemon, so that one
/// that knows nothing of its predecessor can take them away. The numbers are a free name space
/// (linux/rtnetlink.h); nobody is known to use this one.
pub(super) const OURS: u8 = 0x53;

/// Ends the label of an IPv4 address of ours: kernels before 5.18 do not keep `IFA_PROTO`.
pub(super) const OUR_LABEL: &str = ":sluice";

/// An interface with its link-layer address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) link: Link,
    /// None: not Ethernet.
    pub(super) mac: Option<Mac>,
}

/// One address on one interface: its key in [`Tables::addresses`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Assigned {
    pub(super) ip: IpAddr,
    pub(super) interface: u32,
    /// Prefix length.
    pub(super) length: u8,
}

/// One entry of the neighbour table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) mac: Option<Mac>,
    pub(super) state: NeighbourState,
    /// The kernel keeps it resolved (`NTF_EXT_MANAGED`).
    pub(super) managed: bool,
    /// It carries our mark.
    pub(super) ours: bool,
}

impl Neighbour {
    /// The address to send to, where there is one that can be trusted.
    pub(super) fn resolved(&self) -> Option<Mac> {
        match self.state {
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp => self.mac,
            _ => None,
        }
    }

    /// Whether an administrator wrote it, or the device needs no resolution: it must not be touched.
    pub(super) fn is_static(&self) -> bool {
        matches!(self.state, NeighbourState::Permanent | NeighbourState::Noarp)
    }
}

/// What a message means to the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Folded {
    /// Nothing that is mirrored.
    Nothing,
    /// A table changed.
    Changed,
    /// The routes have to be dumped again. The kernel drops routes of a link that goes down, and replaces
    /// routes, without a message for each; so route messages are never folded one by one.
    RoutesStale,
}

/// The mirror.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// By index.
    pub(super) devices: BTreeMap<u32, Device>,
    /// Whether an address is ours.
    pub(super) addresses: BTreeMap<Assigned, bool>,
    /// By interface and address.
    pub(super) neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    /// The main table.
    pub(super) routes: Routes,
}

impl Tables {
    /// Takes one message of a dump or of a multicast group.
    pub(super) fn fold(&mut self, message: &RouteNetlinkMessage) -> Folded {
        match message {
            RouteNetlinkMessage::NewLink(message) => self.new_link(message),
            RouteNetlinkMessage::DelLink(message) => self.del_link(message),
            RouteNetlinkMessage::NewAddress(message) => match address(message) {
                Some((key, ours)) => changed(self.addresses.insert(key, ours) != Some(ours)),
                None => Folded::Nothing,
            },
            RouteNetlinkMessage::DelAddress(message) => match address(message) {
                Some((key, _)) => changed(self.addresses.remove(&key).is_some()),
                None => Folded::Nothing,
            },
            RouteNetlinkMessage::NewNeighbour(message) => match neighbour(message) {
                Some((key, entry)) => {
                    let same = self.neighbours.get(&key) == Some(&entry);
                    self.neighbours.insert(key, entry);
                    changed(!same)
                }
                None => Folded::Nothing,
            },
            RouteNetlinkMessage::DelNeighbour(message) => match neighbour(message) {
                Some((key, _)) => changed(self.neighbours.remove(&key).is_some()),
                None => Folded::Nothing,
            },
            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => Folded::RoutesStale,
            _ => Folded::Nothing,
        }
    }

    /// Puts a dump of the routes in place of what was known.
    pub(super) fn replace_routes(&mut self, dump: &[RouteMessage]) {
        self.routes = Routes::default();
        for message in dump {
            self.routes.insert(message);
        }
    }

    /// Whether the host itself has this address.
    pub(super) fn is_local(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.holders(ip).next().is_some()
    }

    /// The interfaces that have this address, and whether we put it there.
    pub(super) fn holders(&self, ip: IpAddr) -> impl Iterator<Item = (Assigned, bool)> {
        let first = Assigned { ip, interface: 0, length: 0 };
        let last = Assigned { ip, interface: u32::MAX, length: u8::MAX };
        self.addresses.range(first..=last).map(|(key, ours)| (*key, *ours))
    }

    /// An interface's name for messages.
    pub(super) fn name(&self, interface: u32) -> String {
        match self.devices.get(&interface) {
            Some(device) => device.link.name.clone(),
            None => format!("interface {interface}"),
        }
    }

    fn new_link(&mut self, message: &LinkMessage) -> Folded {
        let Some(device) = device(message) else { return Folded::Nothing };
        if self.devices.get(&device.link.index) == Some(&device) {
            return Folded::Nothing;
        }
        self.devices.insert(device.link.index, device);
        Folded::RoutesStale
    }

    fn del_link(&mut self, message: &LinkMessage) -> Folded {
        // A bridge port that leaves its bridge is announced as a deleted link of family AF_BRIDGE.
        if message.header.interface_family != AddressFamily::Unspec {
            return Folded::Nothing;
        }
        let index = message.header.index;
        self.devices.remove(&index);
        self.addresses.retain(|key, _| key.interface != index);
        self.neighbours.retain(|(interface, _), _| *interface != index);
        Folded::RoutesStale
    }
}

fn changed(changed: bool) -> Folded {
    if changed { Folded::Changed } else { Folded::Nothing }
}

/// Six bytes as the data path keeps them; anything else is not Ethernet.
pub(super) fn mac(bytes: &[u8]) -> Option<Mac> {
    let [a, b, c, d, e, f] = *<&[u8; 6]>::try_from(bytes).ok()?;
    Some([u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])])
}

fn device(message: &LinkMessage) -> Option<Device> {
    let header = &message.header;
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let (mut name, mut mtu, mut address) = (None, 0, None);
    let (mut has_kind, mut has_parent) = (false, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Mtu(value) => mtu = *value,
            LinkAttribute::Address(value) => address = mac(value),
            LinkAttribute::LinkInfo(infos) => {
                has_kind = infos.iter().any(|info| matches!(info, LinkInfo::Kind(_)));
            }
            LinkAttribute::ParentDevName(_) => has_parent = true,
            _ => {}
        }
    }
    let is_loopback = header.flags.contains(LinkFlags::Loopback);
    Some(Device {
        link: Link {
            index: header.index,
            name: name?,
            up: header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
            mtu,
            is_virtual: is_loopback || (has_kind && !has_parent),
            is_loopback,
        },
        mac: address.filter(|_| header.link_layer_type == LinkLayerType::Ether),
    })
}

fn address(message: &AddressMessage) -> Option<(Assigned, bool)> {
    let (mut peer, mut local, mut ours) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => peer = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Protocol(AddressProtocol::Other(OURS)) => ours = true,
            AddressAttribute::Label(label) => ours |= label.ends_with(OUR_LABEL),
            _ => {}
        }
    }
    // On point-to-point links the two differ, and `IFA_ADDRESS` is the other end's.
    let ip = local.or(peer)?;
    Some((Assigned { ip, interface: message.header.index, length: message.header.prefix_len }, ours))
}

fn neighbour(message: &NeighbourMessage) -> Option<((u32, IpAddr), Neighbour)> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut ip = None;
    let mut entry = Neighbour { mac: None, state: message.header.state, managed: false, ours: false };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::from(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::from(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => entry.mac = mac(bytes),
            NeighbourAttribute::ExtFlags(flags) => {
                entry.managed = flags.contains(NeighbourExtFlags::Managed);
            }
            NeighbourAttribute::Protocol(RouteProtocol::Other(OURS)) => entry.ours = true,
            _ => {}
        }
    }
    Some(((message.header.ifindex, ip?), entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::fixtures::{self, ip};

    fn tables() -> Tables {
        let mut tables = Tables::default();
        tables.fold(&fixtures::link(2, "eth0", 1));
        tables.fold(&fixtures::address(2, "10.0.0.1", 24, false));
        tables.fold(&fixtures::neighbour(2, "10.0.0.2", NeighbourState::Reachable, false));
        tables
    }

    #[test]
    fn the_same_message_twice_changes_nothing() {
        let mut tables = tables();
        let again = fixtures::neighbour(2, "10.0.0.2", NeighbourState::Reachable, false);
        assert_eq!(tables.fold(&again), Folded::Nothing);
        assert_eq!(tables.fold(&fixtures::link(2, "eth0", 1)), Folded::Nothing);
        assert_eq!(tables.fold(&fixtures::address(2, "10.0.0.1", 24, false)), Folded::Nothing);
    }

    #[test]
    fn a_deleted_link_takes_its_addresses_and_neighbours_along() {
        let mut tables = tables();
        assert_eq!(tables.fold(&fixtures::del_link(2, AddressFamily::Unspec)), Folded::RoutesStale);
        assert!(tables.devices.is_empty());
        assert!(tables.addresses.is_empty());
        assert!(tables.neighbours.is_empty());
    }

    #[test]
    fn a_port_that_leaves_its_bridge_stays_an_interface() {
        let mut tables = tables();
        assert_eq!(tables.fold(&fixtures::del_link(2, AddressFamily::Bridge)), Folded::Nothing);
        assert!(tables.devices.contains_key(&2));
    }

    #[test]
    fn a_renamed_link_or_another_mac_is_a_change() {
        let mut tables = tables();
        assert_eq!(tables.fold(&fixtures::link(2, "lan", 1)), Folded::RoutesStale);
        assert_eq!(tables.name(2), "lan");
        assert_eq!(tables.fold(&fixtures::link(2, "lan", 9)), Folded::RoutesStale);
    }

    #[test]
    fn an_address_of_ours_is_told_from_others() {
        let mut tables = tables();
        tables.fold(&fixtures::address(2, "10.0.0.9", 32, true));
        assert!(tables.holders(ip("10.0.0.9")).all(|(_, ours)| ours));
        assert!(tables.holders(ip("10.0.0.1")).all(|(_, ours)| !ours));
        assert!(tables.is_local(ip("10.0.0.9")) && !tables.is_local(ip("10.0.0.2")));
    }
}
