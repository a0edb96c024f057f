//! Who owns a VIP on the wire, and why. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::{Mac, NextHop, Station};

use super::placement::Placement;
use crate::config::Config;
use crate::model::status::InterfacePlane;
use crate::model::{Announce, Service};
use crate::network::{Facts, OnLink};

/// Who owns a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// Nobody here: a router sends its packets.
    Nobody,
    /// The host had the address before, and keeps it.
    Host,
    /// The kernel planes answer for it on this link.
    Arp(OnLink),
    /// The daemon puts it on an interface.
    Address,
}

impl Owner {
    /// The word for it in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "none",
            Self::Host => "host",
            Self::Arp(_) => "arp",
            Self::Address => "address",
        }
    }
}

/// An owner with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Who.
    pub owner: Owner,
    /// Why.
    pub reason: String,
}

/// The owner of every VIP. Services that share one and differ get what serves all of them: an address can be
/// asked for by everybody, so it goes before answers of the data path, and both go before nothing.
pub fn decide(
    config: &Config,
    placements: &BTreeMap<String, Placement>,
    facts: &Facts,
    planes: &[InterfacePlane],
) -> BTreeMap<IpAddr, Ownership> {
    let mut owners: BTreeMap<IpAddr, Ownership> = BTreeMap::new();
    for service in &config.services {
        let Some(placement) = placements.get(&service.name) else { continue };
        for vip in vips(service) {
            let ownership = of(service, placement, vip, facts, planes);
            match owners.get(&vip) {
                Some(before) if before.owner >= ownership.owner => {}
                _ => {
                    owners.insert(vip, ownership);
                }
            }
        }
    }
    owners
}

/// The addresses of a service that somebody has to own.
pub fn vips(service: &Service) -> impl Iterator<Item = IpAddr> {
    let ips = service.listen.iter().map(|listen| listen.ip());
    ips.filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}

/// Where the data path answers, for whom, and by which way.
pub fn stations(owners: &BTreeMap<IpAddr, Ownership>) -> BTreeMap<Station, NextHop> {
    let found = owners.iter().filter_map(|(vip, ownership)| match ownership.owner {
        Owner::Arp(OnLink { index: ifindex, mac: source, mtu }) => {
            let hop = NextHop { destination: Mac::default(), source, ifindex, mtu };
            Some((Station { vip: (*vip).into(), ifindex }, hop))
        }
        _ => None,
    });
    found.collect()
}

fn of(
    service: &Service,
    placement: &Placement,
    vip: IpAddr,
    facts: &Facts,
    planes: &[InterfacePlane],
) -> Ownership {
    let asked = format!("announce = \"{}\"", word(service.announce));
    let owned = |owner, why: &str| Ownership { owner, reason: format!("{asked}: {why}") };
    let is_hosts = facts.local.contains(&vip) && !facts.ours.contains(&vip);
    match (service.announce, placement) {
        (Announce::None, _) => owned(Owner::Nobody, "a router has to send it here"),
        (_, Placement::Refused { .. }) => owned(Owner::Nobody, "no plane serves it"),
        _ if is_hosts => owned(Owner::Host, "it is an address of this host already"),
        (Announce::Address, _) => owned(Owner::Address, "the daemon puts it on this host"),
        (Announce::Auto | Announce::Arp, Placement::Proxy { .. }) => {
            owned(Owner::Address, "the proxy plane listens on addresses of this host only")
        }
        (Announce::Auto | Announce::Arp, Placement::Kernel { .. }) => match link(vip, facts, planes) {
            Ok((link, interface)) => owned(
                Owner::Arp(link),
                &format!("it belongs to a subnet of {interface}, where a program answers"),
            ),
            Err(why) => owned(Owner::Nobody, &format!("{why}; a router has to send it here")),
        },
    }
}

/// Where the kernel planes can answer for a VIP, and the interface's name.
fn link(vip: IpAddr, facts: &Facts, planes: &[InterfacePlane]) -> Result<(OnLink, String), String> {
    let link = *facts.on_link.get(&vip).ok_or("it belongs to the subnet of no Ethernet link that is up")?;
    let name = facts.links.get(&link.index).map(|link| link.name.clone()).unwrap_or_default();
    if planes.iter().any(|on| on.interface == name && on.plane.is_some()) {
        Ok((link, name))
    } else {
        Err(format!("it belongs to a subnet of {name}, but no program is attached there"))
    }
}

const fn word(announce: Announce) -> &'static str {
    match announce {
        Announce::Auto => "auto",
        Announce::Address => "address",
        Announce::Arp => "arp",
        Announce::None => "none",
    }
}
