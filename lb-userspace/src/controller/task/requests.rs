//! Requests, one at a time; each is answered after the planes have confirmed what it asked for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::chores::service_indexes;
use super::planes::Kernel;
use super::{Controller, now};
use crate::config;
use crate::controller::desired::{Fold, Pools};
use crate::controller::explain::{self, Question};
use crate::controller::flows::{self, Lister};
use crate::controller::placement::Placement;
use crate::controller::request::{BackendChange, Changed, FlowQuery, Reloaded, Reply, Request, RequestError};
use crate::controller::status::{self, View};
use crate::data_plane::kernel::KernelCounters;
use crate::data_plane::proxy::ProxyPlane;
use crate::model::Plane;
use crate::model::flows::FlowList;
use crate::model::status::{Explanation, Status};

impl<P: ProxyPlane + 'static> Controller<P> {
    /// Answers one request. Who asked may be gone; what was asked is done all the same.
    pub(super) async fn answer(&mut self, request: Request) {
        match request {
            Request::Reload(reply) => {
                let _ = reply.send(self.reload().await);
            }
            Request::Plan(text, reply) => {
                let _ = reply.send(self.preview(text).await);
            }
            Request::Backend { pool, address, change, reply } => {
                match self.change(&pool, address, change).await {
                    Ok(()) => {
                        // Other requests need not wait for the disk.
                        let kept = self.kept();
                        tokio::spawn(async move {
                            let _ = reply.send(Ok(Changed { warning: kept.await }));
                        });
                    }
                    Err(error) => {
                        let _ = reply.send(Err(error));
                    }
                }
            }
            Request::Status(reply) => {
                let _ = reply.send(self.status().await.map(Arc::new));
            }
            Request::Explain { client, service, reply } => {
                let _ = reply.send(self.explain(client, service).await);
            }
            Request::Flows(query, reply) => self.flows(query, reply),
        }
    }

    async fn reload(&mut self) -> Result<Reloaded, RequestError> {
        let read = self.channels.read_config.clone();
        let read = spawn_blocking(move || read()).await.map_err(|_| RequestError::Stopped)?;
        let new = read.map_err(RequestError::ConfigInvalid)?;
        let (pools, _) = self.admit(&new)?;
        self.find_drift().await?;
        let changes = config::changes(&self.config, &new);
        for change in &changes {
            tracing::info!("reload: {change}");
        }
        self.in_force.send_replace(new.clone());
        (self.config, self.grounds) = (new, None);
        self.pools = pools;
        self.try_reconcile().await?;
        Ok(Reloaded { changes })
    }

    async fn change(
        &mut self,
        pool: &str,
        address: SocketAddr,
        change: BackendChange,
    ) -> Result<(), RequestError> {
        let mut address = address;
        if let IpAddr::V4(plain) = address.ip().to_canonical() {
            address.set_ip(plain.into());
        }
        let mut pools = self.pools.clone();
        pools.change(pool, address, change, now())?;
        if let BackendChange::Put { .. } | BackendChange::Weight { .. } = change {
            self.check_address(address)?;
            self.check_pools(&mut pools)?;
        }
        tracing::info!(pool, backend = %address, ?change, "changed by an operator");
        self.pools = pools;
        Ok(self.try_reconcile().await?)
    }

    /// Refuses a backend that no config could hold.
    pub(super) fn check_address(&self, address: SocketAddr) -> Result<(), RequestError> {
        let invalid = |reason: String| Err(RequestError::Invalid(reason));
        if let Some(reason) = config::no_backend_at(address) {
            return invalid(format!("{address}: {reason}"));
        }
        let twin = self.config.services.iter().find(|service| service.listen.contains(&address));
        if let Some(service) = twin {
            return invalid(format!("{address} is where service {:?} listens: it would loop", service.name));
        }
        Ok(())
    }

    /// Refuses backends that have no room, or that would take a service from the kernel planes.
    pub(super) fn check_pools(&self, pools: &mut Pools) -> Result<(), RequestError> {
        let fold = pools.fold(now());
        fits(&self.config, &fold)?;
        if fold.has_members_of(&self.fold) {
            return Ok(());
        }
        for (service, placement) in self.place(&self.config, &fold) {
            let was_kernel = self.placements.get(&service).is_some_and(Placement::is_kernel);
            if was_kernel && !placement.is_kernel() {
                let reason = placement.reason();
                let reason = format!("service {service:?} could not stay on the kernel planes: {reason}");
                return Err(RequestError::Invalid(reason));
            }
        }
        Ok(())
    }

    async fn status(&mut self) -> Result<Status, RequestError> {
        let traffic = self.proxy.traffic();
        let counters = match &mut self.kernel {
            Ok(kernel) => {
                let services = service_indexes(kernel);
                let backends: Vec<_> = kernel.confirmed.applied.backends.keys().copied().collect();
                kernel.call(move |tables, _| tables.counters(&services, &backends)).await??
            }
            Err(_) => KernelCounters::default(),
        };
        let about = &self.channels.about;
        let phase = about.phase.borrow().name();
        let planes = self.channels.planes.borrow();
        let rate = |service| self.chores.rates.of(service);
        Ok(status::build(&View {
            version: &about.version,
            phase,
            started_at: about.started_at,
            now: (self.clock.wall, self.clock.process),
            config: &self.config,
            fold: &self.fold,
            placements: &self.placements,
            owners: &self.owners(&self.channels.facts.borrow()),
            planes: &planes,
            local: &about.local.borrow(),
            kernel: self.kernel.as_ref().ok().map(|kernel| status::Kernel {
                confirmed: &kernel.confirmed,
                identities: &kernel.identities,
                sweep: &kernel.sweep,
                counters: &counters,
                rate: &rate,
            }),
            traffic: &traffic,
            pools: &self.pools,
            drift_repaired: self.kernel.as_ref().map_or(0, |kernel| kernel.drift.repaired())
                + *about.links_repaired.borrow(),
            kept: self.kept_status(),
        }))
    }

    /// Answers from a thread of its own: with a million entries that takes a while.
    fn flows(&self, query: FlowQuery, reply: Reply<FlowList>) {
        let filter = match flows::filter(&query, &self.config) {
            Ok(filter) => filter,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let attached = self.channels.planes.borrow().iter().find_map(|interface| interface.plane);
        let entries = self.kernel.as_ref().ok().and_then(Kernel::entries);
        let entries = entries.map(|entries| (entries, attached.unwrap_or(Plane::Tc)));
        let services = self.config.services.iter();
        let names =
            services.flat_map(|service| service.listens().map(|listen| (listen, service.name.clone())));
        let lister = Lister { kernel: entries, proxy: self.proxy.connections(), services: names.collect() };
        drop(spawn_blocking(move || {
            let _ = reply.send(lister.list(filter, query.most).map_err(Into::into));
        }));
    }

    async fn explain(&mut self, client: SocketAddr, service: String) -> Result<Explanation, RequestError> {
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        let question = Question::new(client, service, &self.config)?;
        let seed = self.channels.seed;
        if let Ok(kernel) = &mut self.kernel
            && let Some(entry) = kernel.confirmed.applied.services.get(&question.key()).copied()
        {
            let plane = question.plane(&self.placements);
            let key = question.flow_key(&entry);
            let (flow, now) = kernel.call(move |tables, _| (tables.flow(&key), tables.now())).await?;
            return Ok(explain::kernel(
                question,
                (entry, plane),
                seed,
                &kernel.confirmed.applied,
                flow?,
                now,
            ));
        }
        Ok(explain::proxy(question, seed, &self.proxy.applied))
    }
}

/// Whether every pool's table has a slot for each backend that takes new flows.
pub(super) fn fits(config: &config::Config, fold: &Fold) -> Result<(), RequestError> {
    for pool in &config.pools {
        let backends = fold.of(&pool.name).iter();
        let weighted = backends.filter(|judged| judged.leaving.is_none() && judged.weight > 0).count();
        if weighted > pool.table_size as usize {
            return Err(RequestError::Invalid(format!(
                "pool {:?}: {weighted} backends of positive weight do not fit table_size = {} (hint: use \
                 a pool of another name with a larger one; or stop sluice, run `sluice cleanup`, which ends the flows, and \
                 raise it)",
                pool.name, pool.table_size
            )));
        }
    }
    Ok(())
}
