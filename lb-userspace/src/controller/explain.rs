//! Which backend a client's flow goes to, and why: the data path's rules, told in words. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lb_common::hash::{self, Seed, Tuple};
use lb_common::service::SOURCE_AFFINITY;
use lb_common::{BackendId, FlowKey, Port, Service, Slot, SocketKey, ticks};

use super::placement::Placement;
use super::request::RequestError;
use crate::config::Config;
use crate::data_plane::kernel::{KernelState, TrackedFlow};
use crate::data_plane::proxy::ProxyState;
use crate::maglev;
use crate::model::status::Explanation;
use crate::model::{Affinity, Listen, Plane, Protocol, Scheduler};

/// A client and a service.
#[derive(Clone, Debug)]
pub struct Question {
    client: SocketAddr,
    /// As asked.
    service: String,
    name: String,
    listen: Listen,
}

impl Question {
    /// `service` is a name or a listen address. Of several listen addresses the first of the client's family
    /// is taken.
    pub fn new(client: SocketAddr, service: String, config: &Config) -> Result<Self, RequestError> {
        let asked: Option<SocketAddr> = service.parse().ok();
        let found = config.services.iter().find(|known| {
            known.name == service || asked.is_some_and(|listen| known.listen.contains(&listen))
        });
        let Some(found) = found else {
            let names: Vec<_> = config.services.iter().map(|service| service.name.as_str()).collect();
            return Err(RequestError::NoSuchService(service, names.join(", ")));
        };
        let same_family = |listen: &&SocketAddr| listen.is_ipv4() == client.is_ipv4();
        let listen = match asked.filter(|listen| found.listen.contains(listen)) {
            Some(listen) => Some(listen).filter(|listen| same_family(&listen)),
            None => found.listen.iter().find(same_family).copied(),
        };
        let listen = listen.ok_or_else(|| {
            RequestError::Invalid(format!(
                "{client} cannot be a client of {service:?}: its addresses are of the other family"
            ))
        })?;
        let name = found.name.clone();
        Ok(Self { client, service, name, listen: Listen { address: listen, protocol: found.protocol } })
    }

    /// The service's key in the maps.
    pub fn key(&self) -> SocketKey {
        SocketKey::new(self.listen.address, self.listen.protocol.number())
    }

    /// The kernel plane that serves it.
    pub fn plane(&self, placements: &BTreeMap<String, Placement>) -> Plane {
        match placements.get(&self.name) {
            Some(Placement::Kernel { plane, .. }) => *plane,
            // On its way to the proxy plane, which does not serve it yet.
            _ => Plane::Proxy,
        }
    }

    /// The flow's key in the flow tables.
    pub fn flow_key(&self, service: &Service) -> FlowKey {
        let (client, port) = (self.client.ip().into(), Port::new(self.client.port()));
        FlowKey { client, service: service.id, port, padding: 0 }
    }

    fn hash(&self, source_alone: bool, seed: Seed) -> u32 {
        let source_port = if source_alone { Port::new(0) } else { Port::new(self.client.port()) };
        let tuple = Tuple {
            source: self.client.ip().into(),
            destination: self.listen.address.ip().into(),
            source_port,
            destination_port: Port::new(self.listen.address.port()),
            protocol: self.listen.protocol.number(),
        };
        tuple.hash_with(&hash::key(seed))
    }

    fn answer(self, plane: Plane) -> Explanation {
        Explanation {
            client: self.client,
            service: self.service,
            listen: self.listen.address,
            plane,
            hash: None,
            slot: None,
            current: None,
            fallback: None,
            tracked: false,
            flow: None,
            backend: None,
            why: String::new(),
        }
    }
}

/// On the kernel planes, `plane` being the one that serves it: the slot of the hash and, in a tracked slot,
/// the flow's entry. `now` in ticks.
pub fn kernel(
    question: Question,
    (service, plane): (Service, Plane),
    seed: Seed,
    applied: &KernelState,
    entry: Option<TrackedFlow>,
    now: u32,
) -> Explanation {
    let hash = question.hash(service.flags & SOURCE_AFFINITY != 0, seed);
    let index = hash::slot(hash, service.slots);
    let slot = applied.tables.get(&service.table).and_then(|slots| slots.get(index as usize)).copied();
    let slot = slot.unwrap_or_default();
    let address = |id: BackendId| {
        let backend = applied.backends.get(&id.index()).filter(|backend| backend.id == id && id.is_some())?;
        Some(SocketAddr::new(backend.address.ip(), backend.port.get()))
    };
    let is_asked = slot.is_tracked() || service.tracks_always();
    let entry = entry.filter(|_| is_asked).and_then(|entry| counting(entry, now, address));
    let (backend, why) = match &entry {
        Some((backend, what)) => {
            (Some(*backend), format!("its flows are tracked, and {what} names this backend"))
        }
        None => by_slot(slot, question.listen.protocol == Protocol::Udp, address),
    };
    Explanation {
        hash: Some(hash),
        slot: Some(index),
        current: address(slot.current()),
        fallback: address(slot.fallback()).filter(|_| slot.fallback() != slot.current()),
        tracked: slot.is_tracked(),
        flow: entry.map(|(_, what)| what),
        backend,
        why,
        ..question.answer(plane)
    }
}

/// The backend of an entry and what it is, unless it counts as absent.
fn counting(
    entry: TrackedFlow,
    now: u32,
    address: impl Fn(BackendId) -> Option<SocketAddr>,
) -> Option<(SocketAddr, String)> {
    let (backend, expires, what) = match entry {
        TrackedFlow::HalfOpen(half) if half.proven != 0 => {
            (half.backend, half.expires, "an entry of this flow")
        }
        TrackedFlow::HalfOpen(half) => (half.backend, half.expires, "a half-open entry of this flow"),
        TrackedFlow::Flow(flow) if flow.closing != 0 => {
            (flow.backend, flow.expires, "a closing entry of this flow")
        }
        TrackedFlow::Flow(flow) => (flow.backend, flow.expires, "an entry of this flow"),
    };
    if ticks::is_past(expires, now) {
        return None;
    }
    let seconds = expires.wrapping_sub(now) / ticks::SECOND;
    Some((address(backend)?, format!("{what} ({seconds} s left)")))
}

fn by_slot(
    slot: Slot,
    is_udp: bool,
    address: impl Fn(BackendId) -> Option<SocketAddr>,
) -> (Option<SocketAddr>, String) {
    let (current, fallback) = (address(slot.current()), address(slot.fallback()));
    match (slot.is_tracked(), current, fallback) {
        (_, None, None) => (None, "the pool has no backend that takes new flows".into()),
        (false, current, _) => (current, "the slot is stable: every flow of it goes to its backend".into()),
        (true, Some(current), fallback) if fallback.is_none_or(|fallback| fallback == current) => (
            Some(current),
            "the slot is tracked, its change is over, and no entry of this flow says otherwise".into(),
        ),
        (true, current, fallback) => {
            let new = match current {
                Some(_) if is_udp => "so does a new one until old flows have been silent".into(),
                Some(current) => format!("a new flow would go to {current}"),
                None => "a new flow would find no backend".into(),
            };
            let why =
                format!("the slot is within a change: a flow without an entry stays at the fallback; {new}");
            (fallback, why)
        }
    }
}

/// On the proxy plane: where a new connection would go first.
pub fn proxy(question: Question, seed: Seed, applied: &ProxyState) -> Explanation {
    let Some(service) = applied.services.get(&question.listen) else {
        return Explanation { why: "no plane serves it yet".into(), ..question.answer(Plane::Proxy) };
    };
    if service.scheduler != Scheduler::Maglev {
        let why = format!("the scheduler {} takes the backends in turn", service.scheduler.name());
        return Explanation { why, ..question.answer(Plane::Proxy) };
    }
    let hash = question.hash(service.affinity == Affinity::Source, seed);
    let slot = hash::slot(hash, service.table_size);
    let members: Vec<_> = service.members.iter().map(|member| (member.address, member.weight)).collect();
    let table = maglev::build(&members, service.table_size).unwrap_or_default();
    let backend =
        table.get(slot as usize).and_then(|index| members.get(*index as usize)).map(|member| member.0);
    let why = match backend {
        Some(_) => {
            "a new connection goes to the slot's backend, and to another if that does not answer; an open one \
                    stays where it is"
        }
        None => "the pool has no backend that takes new connections",
    };
    Explanation {
        hash: Some(hash),
        slot: Some(slot),
        current: backend,
        backend,
        why: why.into(),
        ..question.answer(Plane::Proxy)
    }
}
