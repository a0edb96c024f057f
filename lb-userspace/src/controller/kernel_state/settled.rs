//! What of the desired state stands in the maps already. Among very many backends a change concerns few: tables about
//! which nothing is another than when all of them was confirmed are neither worked out again nor compared.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::{NextHop, Service, SocketKey};

use super::super::apply::Confirmed;
use super::super::desired::Members;
use super::super::plan::{changed, missing};
use super::Table;
use crate::data_plane::kernel::{FlowCut, KernelState, Slots};
use crate::network::Facts;

/// The tables whose last plan was confirmed as a whole; without any, everything is looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Settled {
    tables: BTreeMap<u32, Piece>,
    /// The next hops that they were worked out from.
    hops: BTreeMap<IpAddr, NextHop>,
}

/// A table, and what it was worked out from.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    members: Option<Members>,
    services: Vec<(SocketKey, Service)>,
    /// As they were confirmed.
    slots: Slots,
    /// Its part of [`super::Desired::cuts`].
    pub(super) cuts: Vec<FlowCut>,
    /// Endpoints of all its backends, each with the index of its id if it has one.
    backends: Vec<(SocketKey, Option<u32>)>,
}

/// What has to be looked at.
#[derive(Debug)]
pub(super) struct Scope {
    /// Tables, also those that are not wanted any more.
    stale: BTreeSet<u32>,
    /// Every endpoint that one of them has or had. No other table has any of these.
    pub(super) endpoints: HashSet<SocketKey>,
    /// Indexes of ids that these had.
    indexes: BTreeSet<u32>,
}

impl Settled {
    /// What has to be looked at for these tables; `None`: everything.
    pub(super) fn scope(&self, tables: &[Table<'_>], confirmed: &Confirmed, facts: &Facts) -> Option<Scope> {
        if self.tables.is_empty() {
            return None;
        }
        let wanted: BTreeMap<_, _> = tables.iter().map(|table| (table.number, table)).collect();
        let moved: HashSet<_> = if self.hops == facts.hops {
            HashSet::new()
        } else {
            let new = changed(&self.hops, &facts.hops).map(|(ip, _)| *ip);
            new.chain(missing(&self.hops, &facts.hops).copied()).collect()
        };
        let is_stale = |number: &u32, piece: &Piece| {
            !wanted.get(number).is_some_and(|table| piece.holds(table, confirmed, &moved))
        };
        let stale = self.tables.iter().filter(|(number, piece)| is_stale(number, piece));
        let mut next: BTreeSet<u32> = stale.map(|(number, _)| *number).collect();
        next.extend(wanted.keys().filter(|number| !self.tables.contains_key(number)));
        let (mut stale, mut endpoints) = (BTreeSet::new(), HashSet::new());
        // Tables that share an endpoint decide together whose it is.
        while !next.is_empty() {
            for number in &next {
                let had = self.tables.get(number).into_iter().flat_map(Piece::endpoints);
                let has = wanted.get(number).into_iter().flat_map(|table| table.endpoints());
                endpoints.extend(had.chain(has));
            }
            stale.append(&mut next);
            let others = self.tables.iter().filter(|(number, _)| !stale.contains(number));
            let sharing =
                others.filter(|(_, piece)| piece.endpoints().any(|endpoint| endpoints.contains(&endpoint)));
            next = sharing.map(|(number, _)| *number).collect();
        }
        let pieces = stale.iter().filter_map(|number| self.tables.get(number));
        let indexes =
            pieces.flat_map(|piece| piece.backends.iter().filter_map(|(_, index)| *index)).collect();
        Some(Scope { stale, endpoints, indexes })
    }

    /// A table that nothing has to be done about.
    pub(super) fn table(&self, number: u32, scope: Option<&Scope>) -> Option<&Piece> {
        self.tables.get(&number).filter(|_| scope.is_some_and(|scope| !scope.stale.contains(&number)))
    }

    /// Takes in that everything was confirmed that these tables ask for, and all others do not want any more that were
    /// within the scope.
    pub(super) fn settle(
        &mut self,
        pieces: BTreeMap<u32, Piece>,
        scope: Option<&Scope>,
        hops: &BTreeMap<IpAddr, NextHop>,
        confirmed: &Confirmed,
    ) {
        self.tables.retain(|number, _| scope.is_some_and(|scope| !scope.stale.contains(number)));
        for (number, mut piece) in pieces {
            if let Some(state) = confirmed.tables.get(&number) {
                piece.slots = Arc::clone(state.slots());
            }
            self.tables.insert(number, piece);
        }
        if self.hops != *hops {
            self.hops.clone_from(hops);
        }
    }
}

impl Piece {
    pub(super) fn new(
        table: &Table<'_>,
        cuts: Vec<FlowCut>,
        backends: Vec<(SocketKey, Option<u32>)>,
    ) -> Self {
        let (members, services) = (table.members.cloned(), table.entries.clone());
        Self { members, services, slots: Slots::default(), cuts, backends }
    }

    /// To be looked at again in any case.
    pub(super) fn unfinished(mut self) -> Self {
        self.members = None;
        self
    }

    fn holds(&self, table: &Table<'_>, confirmed: &Confirmed, moved: &HashSet<IpAddr>) -> bool {
        let same = |(old, new): (&Members, &Members)| Arc::ptr_eq(old, new);
        let state = confirmed.tables.get(&table.number);
        self.members.as_ref().zip(table.members).is_some_and(same)
            && self.services == table.entries
            && state.is_some_and(|state| Arc::ptr_eq(state.slots(), &self.slots))
            && (moved.is_empty() || !self.endpoints().any(|endpoint| moved.contains(&endpoint.address.ip())))
    }

    fn endpoints(&self) -> impl Iterator<Item = SocketKey> {
        self.backends.iter().map(|(endpoint, _)| *endpoint)
    }
}

impl Scope {
    /// Of `applied`, what can be another in `desired`; tables, services and the network as a whole.
    pub(super) fn of(&self, applied: &KernelState, desired: &KernelState) -> KernelState {
        let indexes = self.indexes.iter().chain(desired.backends.keys());
        let backends = indexes.filter_map(|index| Some((*index, *applied.backends.get(index)?)));
        let endpoints =
            self.endpoints.iter().filter_map(|endpoint| Some((*endpoint, *applied.endpoints.get(endpoint)?)));
        KernelState {
            backends: backends.collect(),
            endpoints: endpoints.collect(),
            tables: applied.tables.clone(),
            services: applied.services.clone(),
            local: applied.local.clone(),
            routes: applied.routes.clone(),
            stations: applied.stations.clone(),
        }
    }
}
