//! Fold, place, plan, apply: from what is known to what the planes do.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use super::chores::audit;
use super::inputs::Progress;
use super::planes::Kernel;
use super::start::has_way;
use super::{Controller, now};
use crate::config::Config;
use crate::controller::desired::{Fold, Judged};
use crate::controller::kernel_state::Desired;
use crate::controller::ownership::{self, Owner, Ownership};
use crate::controller::placement::{self, Host, Placement};
use crate::controller::plan::plan_proxy;
use crate::controller::proxy_state;
use crate::data_plane::PlaneError;
use crate::data_plane::kernel::KernelState;
use crate::data_plane::proxy::{ProxyAction, ProxyPlane};
use crate::model::status::InterfacePlane;
use crate::model::{Cut, Listen, Service};
use crate::network::Facts;
use lb_common::{NextHop, SocketKey, Station};

/// A neighbour that is there answers within some milliseconds.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_millis(250);

/// What decides where services go, beside the config and who is in the pools.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grounds {
    planes: Vec<InterfacePlane>,
    local: BTreeSet<IpAddr>,
}

impl<P: ProxyPlane + 'static> Controller<P> {
    /// Brings the planes to what is desired now; what they refuse is tried again later.
    pub(super) async fn reconcile(&mut self) {
        // The caller that has to know looks at `progress`.
        let _ = self.try_reconcile().await;
    }

    /// As [`Self::reconcile`]; the first refusal.
    pub(super) async fn try_reconcile(&mut self) -> Result<(), PlaneError> {
        let now = now();
        self.damper.clear();
        let mut fold = self.pools.fold(now);
        self.place_again(&fold);
        self.announce();
        self.look_for_newcomers(&fold).await;
        self.newcomers.hold(&mut fold, now);
        if self.pools.rise(&self.fold, &fold, now) {
            fold = self.pools.fold(now);
            self.newcomers.hold(&mut fold, now);
        }
        self.keep();
        log_changes(&self.fold, &fold);
        self.fold = fold;
        self.folded_at = now;

        let facts = self.channels.facts.borrow_and_update().clone();
        let desired = proxy_state::desire(&self.config, &self.fold, &self.placements);
        let (serve, stop) = plan_proxy(&self.proxy.applied, &desired, self.config.daemon.drain_timeout);
        let mut errors = self.proxy.apply(serve).await;
        errors.extend(self.apply_kernel(&facts).await);
        self.tell_found(&facts);
        let stop = stop.into_iter().filter(|action| self.may_stop(action)).collect();
        errors.extend(self.proxy.apply(stop).await);
        self.conclude(errors)
    }

    /// Looks which backends the kernel planes do not know yet and have no way to; of those that are seen for the first
    /// time, waits a moment for it.
    async fn look_for_newcomers(&mut self, fold: &Fold) {
        let Ok(kernel) = &self.kernel else { return };
        let backends = &kernel.confirmed.applied.backends;
        let is_known = |address| kernel.identities.of(address).any(|id| backends.contains_key(&id.index()));
        let may_be = self.newcomers.may_be(fold, is_known);
        self.newcomers.looked(fold.clone());
        if !may_be {
            return;
        }
        let backends = kernel.confirmed.applied.backends.values();
        let known: HashSet<_> = backends.map(|backend| backend.address.ip()).collect();
        let mut newcomers = self.takers(fold);
        newcomers.retain(|ip| !known.contains(ip));
        let first_seen: Vec<_> = newcomers.iter().copied().filter(|ip| !self.newcomers.knows(ip)).collect();
        self.resolve(&first_seen, NEIGHBOUR_PATIENCE).await;
        let (facts, planes) = (self.channels.facts.borrow(), self.channels.planes.borrow());
        let interfaces = &self.config.kernel.interfaces;
        newcomers.retain(|ip| !has_way(*ip, interfaces, &facts, &planes));
        self.newcomers.look(&newcomers.into_iter().collect(), now());
    }

    async fn apply_kernel(&mut self, facts: &Facts) -> Vec<PlaneError> {
        let owners = self.owners(facts);
        let Ok(kernel) = &mut self.kernel else { return Vec::new() };
        if self.retry.is_some()
            && let Err(error) = audit(kernel).await
        {
            // What failed may have been done all the same. Nothing is built on a guess.
            return vec![error];
        }
        // A second round is for backends that come back: first the old id is retired, then the new one given.
        for _ in 0..2 {
            let applied = &kernel.confirmed.applied;
            let is_proxied = |service: &Service| {
                service.listens().all(|listen| self.proxy.applied.services.contains_key(&listen))
            };
            // What moves to the proxy plane stays until that serves it.
            let served: Vec<_> = self
                .config
                .services
                .iter()
                .filter(|service| match self.placements.get(&service.name) {
                    Some(Placement::Kernel { .. }) => true,
                    Some(Placement::Proxy { .. }) => is_in(applied, service) && !is_proxied(service),
                    Some(Placement::Refused { .. }) | None => false,
                })
                .collect();
            // The VIPs of what stays go on being found.
            let stays = served.iter().filter(|service| {
                self.placements.get(&service.name).is_some_and(|placement| !placement.is_kernel())
            });
            let stays: BTreeSet<_> = stays.flat_map(|service| ownership::vips(service)).collect();
            let mut stations = ownership::stations(&owners);
            let kept = applied.stations.iter().filter(|(station, _)| stays.contains(&station.vip.ip()));
            stations.extend(kept.map(|(station, hop)| (*station, *hop)));
            let incomplete;
            let errors;
            (incomplete, errors) =
                apply_once(kernel, &self.config, &self.fold, &served, facts, stations).await;
            if !incomplete || !errors.is_empty() {
                return errors;
            }
        }
        Vec::new()
    }

    /// Whether the proxy may stop serving: a service that moves to the kernel planes has to be there.
    fn may_stop(&self, action: &ProxyAction) -> bool {
        let ProxyAction::Close { listen, .. } = action else { return true };
        let moving = self.config.services.iter().find(|service| {
            service.listens().any(|own| own == *listen)
                && self.placements.get(&service.name).is_some_and(Placement::is_kernel)
        });
        let Ok(kernel) = &self.kernel else { return true };
        moving.is_none_or(|service| is_in(&kernel.confirmed.applied, service))
    }

    fn conclude(&mut self, errors: Vec<PlaneError>) -> Result<(), PlaneError> {
        for error in &errors {
            tracing::error!(object = error.object, "{}; it will be tried again", error.reason);
        }
        let progress = match errors.first() {
            None => Progress::Done,
            Some(error) => Progress::Behind(error.to_string()),
        };
        self.channels.outputs.progress.send_replace(progress);
        match errors.into_iter().next() {
            None => {
                self.retry = None;
                if let Ok(kernel) = &mut self.kernel {
                    kernel.drift.settle();
                }
                Ok(())
            }
            Some(error) => {
                self.try_again();
                Err(error)
            }
        }
    }

    /// Decides where the services go, if anything is another that this is decided from: among very many backends it is
    /// the longest part of a reconcile.
    pub(super) fn place_again(&mut self, fold: &Fold) {
        let grounds = Some(Grounds {
            planes: self.channels.planes.borrow().clone(),
            local: self.channels.facts.borrow().local.clone(),
        });
        if self.grounds == grounds && fold.has_members_of(&self.fold) {
            return;
        }
        self.grounds = grounds;
        let mut placements = self.place(&self.config, fold);
        for (service, placement) in &mut placements {
            // Once it is served, a fact that changes takes nothing away: only starts and reloads refuse.
            if let (Placement::Refused { .. }, Some(last)) = (&placement, self.placements.get(service)) {
                *placement = last.clone();
            }
        }
        self.placements = placements;
        self.newcomers.looked(Fold::default());
        replace(&self.channels.outputs.neighbours, self.neighbours(fold));
    }

    /// Where every service of `config` goes.
    pub(super) fn place(&self, config: &Config, fold: &Fold) -> BTreeMap<String, Placement> {
        let facts = self.channels.facts.borrow();
        let host = Host {
            without_kernel: self.kernel.as_ref().err().map(String::as_str),
            planes: &self.channels.planes.borrow(),
            local: &facts.local,
        };
        placement::place(config, fold, host)
    }

    /// Tells the others what the desired state needs of them.
    pub(super) fn announce(&self) {
        let outputs = &self.channels.outputs;
        replace(&outputs.targets, self.pools.targets());
        replace(&outputs.vips, self.vips());
        replace(&outputs.sought, self.config.services.iter().flat_map(ownership::vips).collect());
    }

    /// Backends of the services that the kernel planes serve.
    fn neighbours(&self, fold: &Fold) -> BTreeSet<IpAddr> {
        let placed =
            |service: &&Service| self.placements.get(&service.name).is_some_and(Placement::is_kernel);
        let pools = self.config.services.iter().filter(placed).map(|service| fold.of(&service.pool));
        pools.flatten().map(|judged| judged.member.address.ip()).collect()
    }

    /// VIPs that the host should own: the proxy plane can only listen on the host's addresses.
    fn vips(&self) -> BTreeSet<IpAddr> {
        let owners = self.owners(&self.channels.facts.borrow()).into_iter();
        owners.filter(|(_, ownership)| ownership.owner == Owner::Address).map(|(vip, _)| vip).collect()
    }

    /// Who owns which VIP.
    pub(super) fn owners(&self, facts: &Facts) -> BTreeMap<IpAddr, Ownership> {
        ownership::decide(&self.config, &self.placements, facts, &self.channels.planes.borrow())
    }

    /// Tells which VIPs are found by asking now: where the data path answers, or the host does.
    fn tell_found(&self, facts: &Facts) {
        let applied = self.kernel.as_ref().ok().map(|kernel| &kernel.confirmed.applied.stations);
        let found = self.owners(facts).into_iter().filter_map(|(vip, ownership)| match ownership.owner {
            Owner::Arp(link) => {
                let station = Station { vip: vip.into(), ifindex: link.index };
                applied?.contains_key(&station).then_some((vip, link))
            }
            Owner::Address if facts.ours.contains(&vip) => Some((vip, *facts.on_link.get(&vip)?)),
            Owner::Address | Owner::Host | Owner::Nobody => None,
        });
        replace(&self.channels.outputs.found, found.collect());
    }
}

/// One plan for the kernel planes; whether another has to follow, and what was refused.
async fn apply_once(
    kernel: &mut Kernel,
    config: &Config,
    fold: &Fold,
    served: &[&Service],
    facts: &Facts,
    stations: BTreeMap<Station, NextHop>,
) -> (bool, Vec<PlaneError>) {
    let Kernel { confirmed, identities, sweep, .. } = kernel;
    #[cfg(debug_assertions)]
    let whole = {
        let mut identities = identities.clone();
        identities.unsettle();
        let mut whole = identities.desire(config, fold, served, facts, confirmed, sweep);
        whole.state.stations = stations.clone();
        whole.actions(&confirmed.applied)
    };
    let mut desired = identities.desire(config, fold, served, facts, confirmed, sweep);
    desired.state.stations = stations;
    kernel.idle = std::mem::take(&mut desired.idle);
    let actions = desired.actions(&kernel.confirmed.applied);
    #[cfg(debug_assertions)]
    assert_eq!(actions, whole, "what was left out has changed");
    let cuts = kernel.new_cuts(std::mem::take(&mut desired.cuts));
    let mut errors = std::mem::take(&mut desired.errors);
    if actions.is_empty() && cuts.is_empty() {
        return (conclude_kernel(kernel, desired, facts, &errors), errors);
    }
    let (services, backends) = (desired.clear_services.clone(), desired.clear_backends.clone());
    let outcome = kernel
        .call(move |tables, confirmed| {
            let services = services.into_iter().map(|index| (Some(index), None));
            let backends = backends.into_iter().map(|index| (None, Some(index)));
            for (service, backend) in services.chain(backends) {
                if let Err(error) = tables.clear_traffic(service, backend) {
                    tracing::warn!(
                        object = error.object,
                        "counters of another keep counting: {}",
                        error.reason
                    );
                }
            }
            confirmed.apply_all(tables, &actions, &mut errors);
            // Where a table was not swapped, its slots would bring the flows back.
            if errors.is_empty() && !cuts.is_empty() {
                errors.extend(tables.cut(&cuts).err());
            }
            errors
        })
        .await;
    kernel.identities.release(&desired.state, &kernel.confirmed.applied);
    let errors = outcome.unwrap_or_else(|error| vec![error]);
    (conclude_kernel(kernel, desired, facts, &errors), errors)
}

/// Takes in what became of a plan; whether another has to follow.
fn conclude_kernel(kernel: &mut Kernel, desired: Desired, facts: &Facts, errors: &[PlaneError]) -> bool {
    let incomplete = desired.incomplete;
    if errors.is_empty() {
        kernel.identities.settle(desired, facts, &kernel.confirmed);
    } else {
        kernel.identities.unsettle();
    }
    incomplete
}

fn is_in(applied: &KernelState, service: &Service) -> bool {
    let key = |listen: Listen| SocketKey::new(listen.address, listen.protocol.number());
    service.listens().all(|listen| applied.services.contains_key(&key(listen)))
}

fn replace<T: PartialEq>(channel: &tokio::sync::watch::Sender<T>, value: T) {
    channel.send_if_modified(|old| {
        let changed = *old != value;
        *old = value;
        changed
    });
}

/// Logs every backend whose state is not what it was.
fn log_changes(old: &Fold, new: &Fold) {
    for (pool, old, judged) in new.changed(old) {
        for (place, now) in judged.iter().enumerate() {
            let is_same = |old: &&Judged| old.member.address == now.member.address;
            // Mostly nobody came or went.
            let before = old.get(place).filter(is_same).or_else(|| old.iter().find(is_same));
            if before.is_none_or(|before| {
                before.state != now.state
                    || (before.member.cut == Cut::NONE) != (now.member.cut == Cut::NONE)
                    || before.member.cut.is_all() != now.member.cut.is_all()
            }) {
                let backend = now.member.address;
                tracing::info!(pool, %backend, state = ?now.state, weight = now.member.weight, "{}", now.reason);
            }
        }
    }
}
