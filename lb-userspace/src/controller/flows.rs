//! What `sluice flows` lists: the kernel's entries and the proxy's connections, under the names of the config.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::service::VIP_MARKER;
use lb_common::{BackendId, FlowKey, ServiceId, ticks};

use super::request::{FlowQuery, RequestError};
use crate::config::Config;
use crate::data_plane::PlaneError;
use crate::data_plane::flows::{Filter, FlowSource, Listing, Peer, SeenFlow};
use crate::data_plane::kernel::{FlowTables, KernelState, TrackedFlow};
use crate::model::flows::{FlowEntry, FlowList, FlowState};
use crate::model::{Listen, Plane, Protocol, Service};

/// Which flows are asked for.
pub fn filter(query: &FlowQuery, config: &Config) -> Result<Filter, RequestError> {
    let listens = query.service.as_deref().map(|asked| listens(asked, config)).transpose()?;
    Ok(Filter { listens, client: peer(query.client.as_deref())?, backend: peer(query.backend.as_deref())? })
}

fn peer(text: Option<&str>) -> Result<Option<Peer>, RequestError> {
    text.map(str::parse).transpose().map_err(|error| RequestError::Invalid(format!("{error}")))
}

/// The listen addresses of a service, or one of them.
fn listens(asked: &str, config: &Config) -> Result<BTreeSet<Listen>, RequestError> {
    let address: Option<SocketAddr> = asked.parse().ok();
    let is_asked =
        |service: &&Service, listen: &Listen| service.name == asked || address == Some(listen.address);
    let all =
        config.services.iter().flat_map(|service| service.listens().map(move |listen| (service, listen)));
    let listens: BTreeSet<_> =
        all.filter(|(service, listen)| is_asked(service, listen)).map(|(_, listen)| listen).collect();
    if listens.is_empty() {
        let names: Vec<_> = config.services.iter().map(|service| service.name.as_str()).collect();
        return Err(RequestError::NoSuchService(asked.to_owned(), names.join(", ")));
    }
    Ok(listens)
}

/// What a list is made from.
pub struct Lister {
    /// With the plane that is attached.
    pub kernel: Option<(Entries, Plane)>,
    /// The proxy's connections.
    pub proxy: Option<Box<dyn FlowSource>>,
    /// Names of the services.
    pub services: BTreeMap<Listen, String>,
}

impl Lister {
    /// At most `most` flows. Blocks, for some tenths of a second where there are a million entries.
    pub fn list(self, filter: Filter, most: usize) -> Result<FlowList, PlaneError> {
        let mut kernel = Listing::new(filter, most);
        let plane = match &self.kernel {
            Some((entries, plane)) => {
                entries.list(&mut kernel)?;
                *plane
            }
            None => Plane::Proxy,
        };
        let mut proxy = kernel.part();
        if let Some(connections) = &self.proxy {
            connections.list(&mut proxy)?;
        }
        let ((tracked, in_kernel), (open, in_proxy)) = (kernel.into_parts(), proxy.into_parts());
        let tracked = tracked.into_iter().map(|flow| self.entry(flow, plane));
        let open = open.into_iter().map(|flow| self.entry(flow, Plane::Proxy));
        Ok(FlowList { flows: tracked.chain(open).collect(), matched: in_kernel + in_proxy })
    }

    fn entry(&self, flow: SeenFlow, plane: Plane) -> FlowEntry {
        FlowEntry {
            plane,
            protocol: flow.listen.protocol.name().into(),
            state: flow.state,
            client: flow.client,
            service: self.services.get(&flow.listen).cloned().unwrap_or_default(),
            listen: flow.listen.address,
            backend: flow.backend,
            expires_s: flow.expires.map(|expires| expires.as_secs_f64()),
            age_s: flow.age.map(|age| age.as_secs_f64()),
        }
    }
}

/// The kernel's flow tables, with the names of what is in them.
pub struct Entries {
    tables: Arc<dyn FlowTables>,
    now: u32,
    listens: HashMap<ServiceId, Listen>,
    backends: HashMap<BackendId, SocketAddr>,
}

impl Entries {
    /// Of the maps that hold `applied`; `now` in ticks.
    pub fn new(tables: Arc<dyn FlowTables>, now: u32, applied: &KernelState) -> Self {
        let services = applied.services.iter().filter(|(_, service)| service.flags & VIP_MARKER == 0);
        let listens = services.filter_map(|(key, service)| {
            let protocol = Protocol::of(key.protocol)?;
            Some((service.id, Listen { address: key.socket(), protocol }))
        });
        let backends = applied.backends.values().map(|backend| (backend.id, backend.endpoint().socket()));
        Self { tables, now, listens: listens.collect(), backends: backends.collect() }
    }

    /// `None`: the programs take no notice of it, because it has expired, or its service or backend is gone.
    fn flow(&self, key: &FlowKey, entry: TrackedFlow) -> Option<SeenFlow> {
        let (backend, expires, state) = match entry {
            TrackedFlow::HalfOpen(half) if half.proven == 0 => {
                (half.backend, half.expires, FlowState::HalfOpen)
            }
            TrackedFlow::HalfOpen(half) => (half.backend, half.expires, FlowState::Established),
            TrackedFlow::Flow(flow) if flow.closing == 0 => {
                (flow.backend, flow.expires, FlowState::Established)
            }
            TrackedFlow::Flow(flow) => (flow.backend, flow.expires, FlowState::Closing),
        };
        if ticks::is_past(expires, self.now) {
            return None;
        }
        Some(SeenFlow {
            listen: *self.listens.get(&key.service)?,
            client: SocketAddr::new(key.client.ip(), key.port.get()),
            backend: Some(*self.backends.get(&backend)?),
            state,
            expires: Some(Duration::from_nanos(u64::from(expires.wrapping_sub(self.now)) << ticks::SHIFT)),
            age: None,
        })
    }
}

impl FlowSource for Entries {
    fn list(&self, listing: &mut Listing) -> Result<(), PlaneError> {
        self.tables.scan(&mut |key, entry| {
            if let Some(flow) = self.flow(key, entry) {
                listing.offer(flow);
            }
        })
    }
}
