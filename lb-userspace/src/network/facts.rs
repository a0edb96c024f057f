//! From the mirrored tables to [`Facts`]: route look-ups and next hops, pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::{NextHop, limits};
use rtnetlink::packet_route::neighbour::NeighbourState;

use crate::data_plane::kernel::Prefix;

use super::routes::{Hop, Route, Way};
use super::tables::{Device, Tables};
use super::{ChosenInterface, Facts, OnLink};

/// What the data path may know, and how much did not fit.
pub(super) struct Computed {
    pub(super) facts: Facts,
    /// Routes or neighbours beyond the capacity of the route map.
    pub(super) left_out: usize,
}

/// The facts of this moment for these targets.
pub(super) fn compute(tables: &Tables, targets: &BTreeSet<IpAddr>, capacity: usize) -> Computed {
    let mut hops = BTreeMap::new();
    let mut unreachable = BTreeMap::new();
    let mut lost = BTreeSet::new();
    for target in targets {
        match target_hop(tables, *target) {
            Ok(hop) => {
                hops.insert(*target, hop);
            }
            Err(none) => {
                if none.is_lost {
                    lost.insert(*target);
                }
                unreachable.insert(*target, none.reason);
            }
        }
    }
    let (routes, left_out) = reply_routes(tables, capacity);
    let facts = Facts {
        links: tables.devices.iter().map(|(index, device)| (*index, device.link.clone())).collect(),
        local: tables.addresses.keys().map(|key| key.ip).collect(),
        routes,
        hops,
        ours: tables.addresses.iter().filter(|(_, ours)| **ours).map(|(key, _)| key.ip).collect(),
        on_link: BTreeMap::new(),
        unreachable,
        lost,
    };
    Computed { facts, left_out }
}

/// Neighbours that must stay resolved: the next hops of the targets, and the gateways of all routes.
pub(super) fn wanted(tables: &Tables, targets: &BTreeSet<IpAddr>) -> BTreeSet<(u32, IpAddr)> {
    let gateways = tables.routes.iter().flat_map(|(_, routes)| routes).flat_map(|route| match &route.way {
        Way::Hops(hops) => hops.as_slice(),
        Way::Reject(_) => &[],
    });
    let mut wanted: BTreeSet<_> =
        gateways.filter_map(|hop| hop.gateway.map(|gateway| (hop.interface, gateway))).collect();
    for target in targets.iter().filter(|target| !tables.is_local(**target)) {
        if let Ok(hops) = way(tables, *target) {
            wanted.extend(hops.iter().map(|hop| (hop.interface, hop.gateway.unwrap_or(*target))));
        }
    }
    wanted.retain(|(interface, _)| {
        tables.devices.get(interface).is_some_and(|device| device.link.up && device.mac.is_some())
    });
    wanted
}

/// The neighbour that packets to a target go to first.
pub(super) fn neighbour_of(tables: &Tables, target: IpAddr) -> Option<(u32, IpAddr)> {
    let hops = way(tables, target).ok()?;
    let hop = hops.iter().find(|hop| is_up(tables, hop.interface))?;
    Some((hop.interface, hop.gateway.unwrap_or(target)))
}

/// The interfaces that traffic of these addresses passes, each with the reason; never loopback.
///
/// They are those that the routes to the addresses use, those that hold one of them, and those of the
/// default routes, where clients that are not on a link come from.
pub(super) fn interfaces_for(tables: &Tables, ips: &BTreeSet<IpAddr>) -> Vec<ChosenInterface> {
    let mut chosen = BTreeMap::new();
    for ip in ips {
        if tables.is_local(*ip) {
            for (key, _) in tables.holders(*ip) {
                chosen.entry(key.interface).or_insert_with(|| format!("has the address {ip}"));
            }
        } else {
            for hop in way(tables, *ip).unwrap_or_default() {
                chosen.entry(hop.interface).or_insert_with(|| format!("the route to {ip} uses it"));
            }
        }
    }
    for (_, routes) in tables.routes.iter().filter(|(prefix, _)| prefix.length == 0) {
        if let Some(Way::Hops(hops)) = preferred(tables, routes).map(|route| &route.way) {
            for hop in hops {
                chosen.entry(hop.interface).or_insert_with(|| "the default route uses it".to_owned());
            }
        }
    }
    chosen
        .into_iter()
        .filter_map(|(index, reason)| {
            let link = &tables.devices.get(&index)?.link;
            (!link.is_loopback).then(|| ChosenInterface { index, name: link.name.clone(), reason })
        })
        .collect()
}

/// The Ethernet device whose subnet holds `ip`.
pub(super) fn on_link_device(tables: &Tables, ip: IpAddr) -> Option<&Device> {
    let hops = way(tables, ip).ok()?;
    let on_link = hops.iter().filter(|hop| hop.gateway.is_none());
    on_link
        .filter_map(|hop| tables.devices.get(&hop.interface))
        .find(|device| device.link.up && device.mac.is_some())
}

/// Which of these addresses belong to the subnet of a link, and to which.
pub(super) fn on_link(tables: &Tables, ips: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, OnLink> {
    let found = ips.iter().filter_map(|ip| {
        let device = on_link_device(tables, *ip)?;
        Some((*ip, OnLink { index: device.link.index, mac: device.mac?, mtu: device.link.mtu }))
    });
    found.collect()
}

/// The route of a prefix that is in force: the preferred one that has a way out.
fn preferred<'a>(tables: &Tables, routes: &'a [Route]) -> Option<&'a Route> {
    routes.iter().find(|route| match &route.way {
        Way::Hops(hops) => hops.iter().any(|hop| is_up(tables, hop.interface)),
        Way::Reject(_) => true,
    })
}

fn is_up(tables: &Tables, interface: u32) -> bool {
    tables.devices.get(&interface).is_some_and(|device| device.link.up)
}

/// The ways to an address, or why there is none.
fn way(tables: &Tables, ip: IpAddr) -> Result<&[Hop], String> {
    let Some(routes) = tables.routes.lookup(ip) else {
        return Err(format!("no route to {ip} in the main table (see `ip route get {ip}`)"));
    };
    match preferred(tables, routes).or(routes.first()).map(|route| &route.way) {
        Some(Way::Hops(hops)) => Ok(hops),
        Some(Way::Reject(word)) => Err(format!("the route to {ip} is of type {word}")),
        None => Err(format!("the route to {ip} leads nowhere")),
    }
}

/// Why there is no next hop.
struct NoHop {
    reason: String,
    /// The host surely cannot be reached.
    is_lost: bool,
}

impl NoHop {
    fn lost(reason: String) -> Self {
        Self { reason, is_lost: true }
    }

    fn unknown(reason: String) -> Self {
        Self { reason, is_lost: false }
    }
}

fn target_hop(tables: &Tables, target: IpAddr) -> Result<NextHop, NoHop> {
    if tables.is_local(target) {
        return Err(NoHop::unknown(format!(
            "{target} is an address of this host: the kernel planes forward to other hosts only"
        )));
    }
    first_resolved(tables, way(tables, target).map_err(NoHop::lost)?, target)
}

/// The first way whose neighbour is resolved; else the reason why the first one is not. Lost is who is lost on every
/// way.
fn first_resolved(tables: &Tables, hops: &[Hop], target: IpAddr) -> Result<NextHop, NoHop> {
    let mut first: Option<NoHop> = None;
    for hop in hops {
        match next_hop(tables, hop.interface, hop.gateway.unwrap_or(target)) {
            Ok(hop) => return Ok(hop),
            Err(none) => match &mut first {
                Some(first) => first.is_lost &= none.is_lost,
                None => first = Some(none),
            },
        }
    }
    Err(first.unwrap_or_else(|| NoHop::lost(format!("the route to {target} leads nowhere"))))
}

fn next_hop(tables: &Tables, interface: u32, ip: IpAddr) -> Result<NextHop, NoHop> {
    let name = tables.name(interface);
    let Some(device) = tables.devices.get(&interface) else {
        return Err(NoHop::lost(format!("{name} is gone")));
    };
    if !device.link.up {
        return Err(NoHop::lost(format!("{name} is down (see `ip link show {name}`)")));
    }
    let Some(source) = device.mac else {
        let reason = format!("{name} has no Ethernet address: the kernel planes cannot send there");
        return Err(NoHop::unknown(reason));
    };
    let Some(neighbour) = tables.neighbours.get(&(interface, ip)) else {
        return Err(NoHop::unknown(format!("neighbour {ip} on {name} is not known yet")));
    };
    match neighbour.resolved() {
        Some(destination) => Ok(NextHop { destination, source, ifindex: interface, mtu: device.link.mtu }),
        None => Err(NoHop {
            reason: format!("neighbour {ip} on {name} does not answer (state {})", neighbour.state),
            is_lost: neighbour.state == NeighbourState::Failed,
        }),
    }
}

/// Next hops for replies, by destination.
///
/// Every prefix of the main table has an entry, for a prefix without one would fall to a shorter one and its
/// packets to the wrong gateway. Where no MAC address is known for the prefix as a whole - on the link,
/// gateway not resolved, blackhole - the entry is [`NextHop::default`]: not known, ask the kernel's FIB.
/// Resolved neighbours on the link have entries of their own below it.
fn reply_routes(tables: &Tables, capacity: usize) -> (BTreeMap<Prefix, NextHop>, usize) {
    let mut entries = BTreeMap::new();
    for (prefix, routes) in tables.routes.iter().filter(|(prefix, _)| !is_link_local(prefix.address)) {
        let hop = match preferred(tables, routes).map(|route| &route.way) {
            Some(Way::Hops(hops)) => gateway_hop(tables, hops),
            Some(Way::Reject(_)) => NextHop::default(),
            None => continue,
        };
        entries.insert(prefix, hop);
    }
    if entries.len() > capacity {
        // Part of the routes would lead astray; without any the FIB is asked for every reply.
        return (BTreeMap::new(), entries.len());
    }
    let mut left_out = 0;
    for ((interface, ip), hop) in on_link_neighbours(tables) {
        if entries.len() < capacity {
            entries.insert(Prefix { address: ip, length: if ip.is_ipv6() { 128 } else { 32 } }, hop);
        } else {
            tracing::trace!(%ip, interface, "neighbour left out: the route map is full");
            left_out += 1;
        }
    }
    (entries, left_out)
}

/// The first resolved gateway; unknown where a way leads to the link itself, whatever the others say.
fn gateway_hop(tables: &Tables, hops: &[Hop]) -> NextHop {
    hops.iter()
        .filter_map(|hop| next_hop(tables, hop.interface, hop.gateway?).ok())
        .next()
        .unwrap_or_default()
}

fn on_link_neighbours(tables: &Tables) -> impl Iterator<Item = ((u32, IpAddr), NextHop)> {
    tables.neighbours.keys().filter_map(|(interface, ip)| {
        let usable = !is_link_local(*ip) && !ip.is_multicast() && !tables.is_local(*ip);
        let on_link = Hop { interface: *interface, gateway: None };
        (usable && way(tables, *ip).is_ok_and(|hops| hops.contains(&on_link)))
            .then(|| next_hop(tables, *interface, *ip).ok())
            .flatten()
            .map(|hop| ((*interface, *ip), hop))
    })
}

/// fe80::/10 means another host on each link: never a destination of replies (RFC 4291 §2.5.6).
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// As many entries as the route map holds.
pub(super) const CAPACITY: usize = limits::ROUTES as usize;

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::RouteType;

    use super::*;
    use crate::network::fixtures::{self, hop, ip, prefix, route};

    /// eth0 is 10.0.0.1/24 with gateway .254, eth1 is fd00:1::1/64; both have a resolved neighbour 2.
    fn host() -> Tables {
        let mut tables = Tables::default();
        for message in [
            fixtures::loopback(),
            fixtures::link(2, "eth0", 1),
            fixtures::link(3, "eth1", 3),
            fixtures::address(2, "10.0.0.1", 24, false),
            fixtures::address(3, "fd00:1::1", 64, false),
            fixtures::neighbour(2, "10.0.0.2", NeighbourState::Stale, false),
            fixtures::neighbour(2, "10.0.0.254", NeighbourState::Reachable, true),
            fixtures::neighbour(3, "fd00:1::2", NeighbourState::Permanent, false),
            fixtures::neighbour(3, "fe80::9", NeighbourState::Reachable, false),
        ] {
            tables.fold(&message);
        }
        tables
    }

    fn routed() -> Tables {
        let mut tables = host();
        tables.replace_routes(&[
            route("0.0.0.0", 0, 2, Some("10.0.0.254"), 100),
            route("10.0.0.0", 24, 2, None, 0),
            route("fd00:1::", 64, 3, None, 256),
            route("fe80::", 64, 3, None, 256),
            route("fd00:9::", 64, 3, Some("fe80::9"), 1024),
        ]);
        tables
    }

    fn facts(tables: &Tables, targets: &[&str]) -> Facts {
        compute(tables, &targets.iter().map(|text| ip(text)).collect(), CAPACITY).facts
    }

    #[test]
    fn targets_on_the_link_and_behind_gateways_have_next_hops() {
        let facts = facts(&routed(), &["10.0.0.2", "203.0.113.5", "fd00:1::2", "fd00:9::7"]);
        assert_eq!(facts.unreachable, BTreeMap::new());
        assert_eq!(facts.hops[&ip("10.0.0.2")], hop(2, "10.0.0.2", 1));
        assert_eq!(facts.hops[&ip("203.0.113.5")], hop(2, "10.0.0.254", 1));
        assert_eq!(facts.hops[&ip("fd00:1::2")], hop(3, "fd00:1::2", 3));
        assert_eq!(facts.hops[&ip("fd00:9::7")], hop(3, "fe80::9", 3));
    }

    #[test]
    fn what_has_no_next_hop_has_a_reason() {
        let mut tables = routed();
        tables.fold(&fixtures::neighbour(2, "10.0.0.3", NeighbourState::Failed, true));
        let facts = facts(&tables, &["10.0.0.1", "10.0.0.3", "10.0.0.4", "fd00:5::1"]);
        assert_eq!(facts.hops, BTreeMap::new());
        for (target, word) in [
            ("10.0.0.1", "address of this host"),
            ("10.0.0.3", "does not answer"),
            ("10.0.0.4", "not known yet"),
            ("fd00:5::1", "no route"),
        ] {
            let reason = &facts.unreachable[&ip(target)];
            assert!(reason.contains(word) && reason.contains(target), "{target}: {reason}");
        }
        assert_eq!(facts.lost, ["10.0.0.3", "fd00:5::1"].map(ip).into());
    }

    #[test]
    fn a_host_is_lost_with_its_last_way() {
        let mut tables = host();
        tables.fold(&fixtures::neighbour(3, "10.9.9.9", NeighbourState::Reachable, true));
        tables.replace_routes(&[
            route("0.0.0.0", 0, 2, Some("10.0.0.254"), 100),
            route("0.0.0.0", 0, 3, Some("10.9.9.9"), 200),
        ]);
        let lost = |tables: &Tables| facts(tables, &["198.51.100.1"]).lost;
        tables.fold(&fixtures::link_down(2, "eth0", 1));
        assert_eq!(lost(&tables), BTreeSet::new());
        tables.fold(&fixtures::neighbour(3, "10.9.9.9", NeighbourState::Incomplete, true));
        assert_eq!(lost(&tables), BTreeSet::new(), "it is being asked for");
        tables.fold(&fixtures::neighbour(3, "10.9.9.9", NeighbourState::Failed, true));
        assert_eq!(lost(&tables), [ip("198.51.100.1")].into());
    }

    #[test]
    fn the_lower_metric_wins_while_its_interface_is_up() {
        let mut tables = host();
        tables.fold(&fixtures::neighbour(3, "10.9.9.9", NeighbourState::Reachable, true));
        tables.replace_routes(&[
            route("0.0.0.0", 0, 3, Some("10.9.9.9"), 200),
            route("0.0.0.0", 0, 2, Some("10.0.0.254"), 100),
        ]);
        assert_eq!(facts(&tables, &["198.51.100.1"]).hops[&ip("198.51.100.1")].ifindex, 2);
        tables.fold(&fixtures::link_down(2, "eth0", 1));
        assert_eq!(facts(&tables, &["198.51.100.1"]).hops[&ip("198.51.100.1")].ifindex, 3);
    }

    #[test]
    fn next_hops_know_what_fits_through_their_link() {
        let mut tables = routed();
        tables.fold(&fixtures::link_of_mtu(2, "eth0", 1, 1400));
        let facts = facts(&tables, &["10.0.0.2", "fd00:1::2"]);
        assert_eq!(facts.hops[&ip("10.0.0.2")].mtu, 1400);
        assert_eq!(facts.hops[&ip("fd00:1::2")].mtu, fixtures::MTU);
        assert_eq!(facts.routes[&prefix("0.0.0.0", 0)].mtu, 1400);
    }

    #[test]
    fn a_blackhole_is_not_passed_over_for_the_default_route() {
        let mut tables = host();
        tables.replace_routes(&[
            route("0.0.0.0", 0, 2, Some("10.0.0.254"), 0),
            fixtures::reject("198.51.100.0", 24, RouteType::BlackHole),
        ]);
        let facts = facts(&tables, &["198.51.100.1"]);
        assert!(facts.unreachable[&ip("198.51.100.1")].contains("blackhole"));
        assert_eq!(facts.routes[&prefix("198.51.100.0", 24)], NextHop::default());
    }

    #[test]
    fn replies_to_unknown_hosts_on_the_link_do_not_fall_to_the_gateway() {
        let facts = facts(&routed(), &[]);
        let expected = [
            (prefix("0.0.0.0", 0), hop(2, "10.0.0.254", 1)),
            (prefix("10.0.0.0", 24), NextHop::default()),
            (prefix("10.0.0.2", 32), hop(2, "10.0.0.2", 1)),
            (prefix("10.0.0.254", 32), hop(2, "10.0.0.254", 1)),
            (prefix("fd00:1::", 64), NextHop::default()),
            (prefix("fd00:1::2", 128), hop(3, "fd00:1::2", 3)),
            (prefix("fd00:9::", 64), hop(3, "fe80::9", 3)),
        ];
        assert_eq!(facts.routes, expected.into());
    }

    #[test]
    fn neighbours_are_left_out_first_and_a_part_of_the_routes_never() {
        let computed = compute(&routed(), &BTreeSet::new(), 5);
        assert_eq!((computed.facts.routes.len(), computed.left_out), (5, 2));
        assert!(computed.facts.routes.contains_key(&prefix("0.0.0.0", 0)));
        assert_eq!(compute(&routed(), &BTreeSet::new(), 3).facts.routes, BTreeMap::new());
    }

    #[test]
    fn gateways_and_targets_are_kept_resolved() {
        let targets = ["10.0.0.7", "203.0.113.5", "10.0.0.1"].map(ip).into();
        let expected = [(2, "10.0.0.254"), (2, "10.0.0.7"), (3, "fe80::9")];
        assert_eq!(wanted(&routed(), &targets), expected.map(|(index, text)| (index, ip(text))).into());
    }

    #[test]
    fn interfaces_are_those_of_routes_local_vips_and_the_default_route() {
        let tables = routed();
        let names = |ips: &[&str]| -> Vec<String> {
            let ips = ips.iter().map(|text| ip(text)).collect();
            interfaces_for(&tables, &ips).into_iter().map(|chosen| chosen.name).collect()
        };
        assert_eq!(names(&[]), ["eth0"]);
        assert_eq!(names(&["fd00:1::7"]), ["eth0", "eth1"]);
        assert_eq!(names(&["fd00:1::1"]), ["eth0", "eth1"]);
        assert_eq!(names(&["127.0.0.1", "fd00:5::1"]), ["eth0"]);
    }
}
