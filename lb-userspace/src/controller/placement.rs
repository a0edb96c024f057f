//! Which plane serves a service, and why. Pure.
//!
//! Decided from what stays: the config, who is in the pool, where kernel planes are attached, which addresses
//! are this host's own. A neighbour that is not resolved or a backend that is down moves no service.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::desired::Fold;
use crate::config::{self, Config};
use crate::model::status::InterfacePlane;
use crate::model::{self, Fallback, Forward, Plane, Protocol, Service};

/// Where a service goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// To the kernel planes, by NAT.
    Kernel {
        /// The plane of the first interface that has one.
        plane: Plane,
        /// Which plane is attached where.
        reason: String,
    },
    /// To the proxy plane.
    Proxy {
        /// Why.
        reason: String,
    },
    /// Nowhere: only the kernel planes may serve it, and cannot.
    Refused {
        /// Why.
        reason: String,
    },
}

impl Placement {
    /// Whether the kernel planes serve it.
    pub const fn is_kernel(&self) -> bool {
        matches!(self, Self::Kernel { .. })
    }

    /// Whether the proxy plane serves it.
    pub const fn is_proxy(&self) -> bool {
        matches!(self, Self::Proxy { .. })
    }

    /// Why it is there.
    pub fn reason(&self) -> &str {
        match self {
            Self::Kernel { reason, .. } | Self::Proxy { reason } | Self::Refused { reason } => reason,
        }
    }
}

/// What the kernel planes are on this host.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// Why there are no maps at all; `None`: there are.
    pub without_kernel: Option<&'a str>,
    /// What is attached where.
    pub planes: &'a [InterfacePlane],
    /// The host's own addresses.
    pub local: &'a BTreeSet<IpAddr>,
}

/// The placement of every service, by name.
pub fn place(config: &Config, fold: &Fold, host: Host<'_>) -> BTreeMap<String, Placement> {
    let mut claims = Claims::default();
    let pools: HashMap<_, _> = config.pools.iter().map(|pool| (pool.name.as_str(), pool)).collect();
    let mut placements = BTreeMap::new();
    for service in &config.services {
        let placement =
            match obstacle(config, service, pools.get(service.pool.as_str()).copied(), fold, host, &claims) {
                None => {
                    claims.claim(service, fold);
                    kernel(host.planes)
                }
                Some(why) => match (service.forward, service.fallback) {
                    (Forward::Nat, Fallback::Refuse) => Placement::Refused {
                        reason: format!("forward = \"nat\" and fallback = \"refuse\", but {why}"),
                    },
                    (Forward::Nat, Fallback::Proxy) => {
                        Placement::Proxy { reason: format!("forward = \"nat\" is not possible: {why}") }
                    }
                    (Forward::Auto | Forward::Proxy, _) => Placement::Proxy { reason: why },
                },
            };
        placements.insert(service.name.clone(), placement);
    }
    placements
}

fn kernel(planes: &[InterfacePlane]) -> Placement {
    let attached: Vec<_> = planes.iter().filter_map(|on| Some((on.plane?, on.interface.as_str()))).collect();
    let list: Vec<_> = attached.iter().map(|(plane, interface)| format!("{plane} on {interface}")).collect();
    let plane = attached.first().map_or(Plane::Tc, |(plane, _)| *plane);
    Placement::Kernel { plane, reason: format!("nat: {}", list.join(", ")) }
}

/// Why the kernel planes cannot serve a service.
fn obstacle(
    config: &Config,
    service: &Service,
    configured: Option<&model::Pool>,
    fold: &Fold,
    host: Host<'_>,
    claims: &Claims<'_>,
) -> Option<String> {
    let Some(configured) = configured else {
        return Some(format!("pool {:?} does not exist", service.pool));
    };
    let judged = fold.of(&service.pool);
    let backends = judged.iter().map(|judged| model::Backend {
        address: judged.member.address,
        weight: judged.weight,
        backup: false,
    });
    let pool = model::Pool { backends: backends.collect(), ..configured.clone() };
    if let Some(why) = config::needs_proxy(&config.kernel, service, &pool) {
        return Some(why.to_string());
    }
    if let Some(own) = pool.backends.iter().find(|backend| host.local.contains(&backend.address.ip())) {
        return Some(format!("backend {} is on this host itself", own.address));
    }
    if let Some(why) = host.without_kernel {
        return Some(format!("there is no kernel plane: {why}"));
    }
    if host.planes.iter().all(|interface| interface.plane.is_none()) {
        let reasons: Vec<_> =
            host.planes.iter().map(|on| format!("{}: {}", on.interface, on.reason)).collect();
        let reasons = if reasons.is_empty() { "no interface was chosen".into() } else { reasons.join("; ") };
        return Some(format!("no kernel plane is attached ({reasons})"));
    }
    claims.conflict(service, fold)
}

/// Endpoints that serve a kernel service already. Services of one pool share its endpoints; a second pool would
/// judge the same endpoint on its own.
#[derive(Debug, Default)]
struct Claims<'a>(HashMap<(SocketAddr, Protocol), &'a Service>);

impl<'a> Claims<'a> {
    fn conflict(&self, service: &Service, fold: &Fold) -> Option<String> {
        endpoints(service, fold).find_map(|address| {
            let owner =
                self.0.get(&(address, service.protocol)).filter(|owner| owner.pool != service.pool)?;
            Some(format!("backend {address} serves {:?} through pool {:?} already", owner.name, owner.pool))
        })
    }

    fn claim(&mut self, service: &'a Service, fold: &Fold) {
        for address in endpoints(service, fold) {
            self.0.entry((address, service.protocol)).or_insert(service);
        }
    }
}

/// The backends that a service may send new flows to.
fn endpoints(service: &Service, fold: &Fold) -> impl Iterator<Item = SocketAddr> {
    let present = fold
        .of(&service.pool)
        .iter()
        .filter(|judged| judged.leaving.is_none())
        .map(|judged| judged.member.address);
    present.filter(|address| service.listen.iter().any(|listen| listen.is_ipv4() == address.is_ipv4()))
}
