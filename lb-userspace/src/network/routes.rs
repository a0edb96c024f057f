//! The main routing table, mirrored: longest prefix first, then the lowest metric.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType, RouteVia,
};

use crate::data_plane::kernel::Prefix;

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Through these, any of which will do.
    Hops(Vec<Hop>),
    /// Nowhere: the word `ip route` has for it.
    Reject(&'static str),
}

/// One way out of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    /// Kernel index.
    pub(super) interface: u32,
    /// None: destinations are on the link.
    pub(super) gateway: Option<IpAddr>,
}

/// One route to a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Lower is preferred (`RTA_PRIORITY`).
    pub(super) metric: u32,
    /// Where it leads.
    pub(super) way: Way,
}

/// The routes by destination. Prefix lengths that are not in use cost a look-up nothing.
#[derive(Debug, Default)]
pub(super) struct Routes {
    by_length: BTreeMap<(bool, Reverse<u8>), HashMap<IpAddr, Vec<Route>>>,
}

impl Routes {
    /// Takes over what a route dump says; routes of other tables, and those that depend on more than the
    /// destination, are left out.
    pub(super) fn insert(&mut self, message: &RouteMessage) {
        let Some((prefix, route)) = parse(message) else { return };
        let routes = self
            .by_length
            .entry((prefix.address.is_ipv6(), Reverse(prefix.length)))
            .or_default()
            .entry(prefix.address)
            .or_default();
        let place = routes.partition_point(|other| other.metric <= route.metric);
        routes.insert(place, route);
    }

    /// Every prefix with its routes, the preferred one first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Prefix, &[Route])> {
        self.by_length.iter().flat_map(|((_, Reverse(length)), networks)| {
            networks
                .iter()
                .map(|(address, routes)| (Prefix { address: *address, length: *length }, routes.as_slice()))
        })
    }

    /// The routes of the longest prefix that holds `ip`, the preferred one first.
    pub(super) fn lookup(&self, ip: IpAddr) -> Option<&[Route]> {
        let longest = if ip.is_ipv6() { 128 } else { 32 };
        self.by_length.range((ip.is_ipv6(), Reverse(longest))..=(ip.is_ipv6(), Reverse(0))).find_map(
            |((_, Reverse(length)), networks)| networks.get(&network(ip, *length)).map(Vec::as_slice),
        )
    }
}

/// `ip` with its host bits cleared; `length` at most 32 or 128.
pub(super) fn network(ip: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match ip {
        IpAddr::V4(ip) => {
            Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(32 - length.min(32)).unwrap_or(0)).into()
        }
        IpAddr::V6(ip) => {
            Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(128 - length.min(128)).unwrap_or(0))
                .into()
        }
    }
}

fn parse(message: &RouteMessage) -> Option<(Prefix, Route)> {
    let header = &message.header;
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    if table.unwrap_or(u32::from(header.table)) != u32::from(RouteHeader::RT_TABLE_MAIN)
        || header.tos != 0
        || header.source_prefix_length != 0
        || header.flags.contains(RouteFlags::Cloned)
    {
        return None;
    }
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let address = match (destination, header.address_family) {
        (Some(address), _) => address,
        (None, AddressFamily::Inet) => Ipv4Addr::UNSPECIFIED.into(),
        (None, AddressFamily::Inet6) => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    let way = match header.kind {
        RouteType::Unicast => Way::Hops(hops(&message.attributes)),
        RouteType::BlackHole => Way::Reject("blackhole"),
        RouteType::Unreachable => Way::Reject("unreachable"),
        RouteType::Prohibit => Way::Reject("prohibit"),
        RouteType::Throw => Way::Reject("throw"),
        _ => return None,
    };
    let length = header.destination_prefix_length;
    Some((Prefix { address: network(address, length), length }, Route { metric: metric.unwrap_or(0), way }))
}

fn hops(attributes: &[RouteAttribute]) -> Vec<Hop> {
    let mut hops = Vec::new();
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(interface) => {
                hops.push(Hop { interface: *interface, gateway: gateway(attributes) });
            }
            RouteAttribute::MultiPath(paths) => hops.extend(
                paths
                    .iter()
                    .map(|path| Hop { interface: path.interface_index, gateway: gateway(&path.attributes) }),
            ),
            _ => {}
        }
    }
    hops
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_clears_host_bits() {
        for (address, length, expected) in [
            ("10.1.2.3", 24, "10.1.2.0"),
            ("10.1.2.3", 32, "10.1.2.3"),
            ("10.1.2.3", 0, "0.0.0.0"),
            ("2001:db8::ffff", 120, "2001:db8::ff00"),
            ("2001:db8::1", 128, "2001:db8::1"),
            ("2001:db8::1", 0, "::"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(network(address, length).to_string(), expected);
        }
    }
}
