//! Which interfaces have a program: where the routes to services and backends point, or those of the config.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, Interfaces, PlaneChoice};
use crate::controller::task::AUDIT;
use crate::kernel::{KernelError, Programs};
use crate::model::status::{InterfacePlane, LocalTraffic};
use crate::network::{Facts, Link, Network};
use crate::supervisor::Outcome;

use super::local;

/// What decides which interfaces have a program.
pub(super) struct Inputs {
    /// Backends, those of the API included.
    pub(super) backends: watch::Receiver<BTreeSet<IpAddr>>,
    pub(super) facts: watch::Receiver<Facts>,
    pub(super) network: Arc<Network>,
}

/// Where it is told what has become of that.
pub(super) struct Outputs {
    /// Interface by interface.
    pub(super) planes: watch::Sender<Vec<InterfacePlane>>,
    /// Of sockets of this host.
    pub(super) local: watch::Sender<LocalTraffic>,
    /// How often somebody else had detached something that was attached again.
    pub(super) repaired: watch::Sender<u64>,
}

/// Attaches programs and tells what is attached where.
pub(super) struct Attacher {
    programs: Programs,
    inputs: Inputs,
    outputs: Outputs,
    attached: BTreeMap<u32, (PlaneChoice, InterfacePlane)>,
    /// `kernel.local` as it was last followed.
    is_local: Option<bool>,
}

/// An interface that should have a program.
struct Chosen {
    link: Link,
    choice: PlaneChoice,
    /// Why this interface; empty where the config names it.
    reason: String,
}

impl Attacher {
    /// Attaches what should be, and detaches what an earlier daemon had elsewhere.
    ///
    /// # Errors
    /// A plane that the config forces cannot be had.
    pub(super) fn start(
        programs: Programs,
        config: &Config,
        inputs: Inputs,
        outputs: Outputs,
    ) -> Result<Self, KernelError> {
        let mut attacher = Self { programs, inputs, outputs, attached: BTreeMap::new(), is_local: None };
        attacher.attach(config, true)?;
        let kept = attacher.attached.keys().copied().collect();
        for interface in attacher.programs.detach_except(&kept)? {
            tracing::info!(interface, "detached: no service needs it there");
        }
        Ok(attacher)
    }

    /// Follows what changes until told to stop; then everything stays attached. Looks from time to time, and at every
    /// reload, whether all of it still is.
    pub(super) async fn run(
        &mut self,
        mut config: watch::Receiver<Config>,
        stop: CancellationToken,
    ) -> Outcome {
        let mut audit = interval(AUDIT);
        audit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let changed = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = audit.tick() => Ok(()),
                changed = config.changed() => changed,
                changed = self.inputs.backends.changed() => changed,
                changed = self.inputs.facts.changed() => changed,
            };
            if changed.is_err() {
                stop.cancelled().await;
                return Ok(());
            }
            let config = config.borrow_and_update().clone();
            block_in_place(|| self.attach(&config, false))?;
        }
    }

    /// The programs, for who removes them.
    pub(super) fn into_programs(self) -> Programs {
        self.programs
    }

    /// One look. An interface that `auto` has chosen once keeps its program while it exists: routes come and
    /// go with a cable, and attaching resets some drivers.
    fn attach(&mut self, config: &Config, strict: bool) -> Result<(), KernelError> {
        let had_local = self.is_local == Some(config.kernel.local);
        let is_lost = had_local && self.outputs.local.borrow().cgroup.is_some() && !self.programs.is_local();
        if !had_local || is_lost {
            self.is_local = Some(config.kernel.local);
            let local = local::follow(&mut self.programs, config.kernel.local);
            self.repair(is_lost && local.cgroup.is_some(), "a program for sockets of this host");
            self.outputs.local.send_replace(local);
        }
        let backends = self.inputs.backends.borrow_and_update().clone();
        let facts = self.inputs.facts.borrow_and_update().clone();
        let (chosen, missing) = choose(config, &backends, &facts, &self.inputs.network);

        let is_auto = matches!(config.kernel.interfaces, Interfaces::Auto);
        let wanted: BTreeSet<u32> = chosen.iter().map(|chosen| chosen.link.index).collect();
        let before = self.attached.len();
        self.attached.retain(|index, (choice, _)| {
            wanted.contains(index)
                || is_auto && facts.links.contains_key(index) && *choice == config.kernel.plane
        });
        if self.attached.len() < before {
            self.programs.detach_except(&self.attached.keys().copied().collect())?;
        }
        let live = self.programs.attached()?;
        for Chosen { link, choice, reason } in chosen {
            let had = self.attached.get(&link.index).filter(|(had, _)| *had == choice);
            let is_lost =
                had.is_some_and(|(_, entry)| entry.plane.is_some() && !live.contains_key(&link.index));
            if had.is_some() && !is_lost {
                continue;
            }
            let entry = match self.programs.attach(&link, choice) {
                Ok(attached) => {
                    let reason = [attached.reason, reason].join("; ");
                    let reason = reason.trim_end_matches("; ").to_owned();
                    InterfacePlane { interface: attached.name, plane: attached.plane, reason }
                }
                Err(error) if strict && matches!(choice, PlaneChoice::Force(_)) => return Err(error),
                Err(error) => {
                    InterfacePlane { interface: link.name.clone(), plane: None, reason: error.to_string() }
                }
            };
            self.repair(is_lost && entry.plane.is_some(), &entry.interface);
            let InterfacePlane { interface, plane, reason } = &entry;
            tracing::info!(interface, plane = plane.map(tracing::field::display), reason, "interface chosen");
            self.attached.insert(link.index, (choice, entry));
        }

        let mut planes: Vec<_> = self.attached.values().map(|(_, entry)| entry.clone()).collect();
        planes.extend(missing);
        planes.sort_by(|a, b| a.interface.cmp(&b.interface));
        self.outputs.planes.send_if_modified(|old| {
            let changed = *old != planes;
            *old = planes;
            changed
        });
        Ok(())
    }

    fn repair(&self, is_repaired: bool, what: &str) {
        if is_repaired {
            tracing::warn!(what, "somebody else had detached it; attached again");
            self.outputs.repaired.send_modify(|repaired| *repaired += 1);
        }
    }
}

/// The interfaces that should have a program, and those of the config that do not exist.
fn choose(
    config: &Config,
    backends: &BTreeSet<IpAddr>,
    facts: &Facts,
    network: &Network,
) -> (Vec<Chosen>, Vec<InterfacePlane>) {
    let mut chosen = Vec::new();
    let mut missing = Vec::new();
    match &config.kernel.interfaces {
        Interfaces::Auto => {
            let ips = addresses(config, backends);
            if ips.is_empty() {
                return (chosen, missing);
            }
            for interface in network.interfaces_for(&ips) {
                let Some(link) = facts.links.get(&interface.index).cloned() else { continue };
                chosen.push(Chosen { link, choice: config.kernel.plane, reason: interface.reason });
            }
        }
        Interfaces::List(listed) => {
            for interface in listed {
                match facts.links.values().find(|link| link.name == interface.name).cloned() {
                    Some(link) => {
                        chosen.push(Chosen { link, choice: interface.plane, reason: String::new() });
                    }
                    None => missing.push(InterfacePlane {
                        interface: interface.name.clone(),
                        plane: None,
                        reason: "no such interface (hint: `ip link` shows those there are)".into(),
                    }),
                }
            }
        }
    }
    (chosen, missing)
}

/// VIPs and backends of the services that a kernel plane may serve; none: no program is needed anywhere.
fn addresses(config: &Config, backends: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let mut ips = backends.clone();
    for service in &config.services {
        let Some(pool) = config.pools.iter().find(|pool| pool.name == service.pool) else { continue };
        if config::needs_proxy(&config.kernel, service, pool).is_none() {
            ips.extend(service.listen.iter().map(|listen| listen.ip()));
            ips.extend(pool.backends.iter().map(|backend| backend.address.ip()));
        }
    }
    ips
}
