//! The outcome of a fold: lists that are shared as long as nothing changes in their pool.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backend::Judged;

/// The backends of one pool.
pub type Members = Arc<Vec<Judged>>;

/// Every pool's backends. A list is the same object as in the last fold unless something in it changed, so what
/// differs between two folds is found without a look at the backends.
#[derive(Clone, Debug, Default)]
pub struct Fold(BTreeMap<String, Members>);

impl Fold {
    /// The backends of a pool; none where there is no such pool.
    pub fn of(&self, pool: &str) -> &[Judged] {
        self.0.get(pool).map(|members| members.as_slice()).unwrap_or_default()
    }

    /// The backends of a pool as they are shared between folds.
    pub fn members(&self, pool: &str) -> Option<&Members> {
        self.0.get(pool)
    }

    /// The backends of every pool.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Members> {
        self.0.values_mut()
    }

    /// Whether nothing of a pool is another than in `old`.
    pub fn is_same(&self, old: &Self, pool: &str) -> bool {
        match (old.0.get(pool), self.0.get(pool)) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (old, new) => old.is_none() && new.is_none(),
        }
    }

    /// The pools that are not as in `old`, each with its backends there and here.
    pub fn changed<'f>(
        &'f self,
        old: &'f Self,
    ) -> impl Iterator<Item = (&'f str, &'f [Judged], &'f [Judged])> {
        let pools = self.0.iter().filter(|(pool, _)| !self.is_same(old, pool));
        pools.map(|(pool, members)| (pool.as_str(), old.of(pool), members.as_slice()))
    }

    /// Whether the same backends are in the same pools as in `old`, whatever became of them. The same backends leave.
    pub fn has_members_of(&self, old: &Self) -> bool {
        let who = |judged: &Judged| (judged.member.address, judged.leaving.is_some());
        self.0.keys().eq(old.0.keys())
            && self.changed(old).all(|(_, old, new)| old.iter().map(who).eq(new.iter().map(who)))
    }
}

impl FromIterator<(String, Members)> for Fold {
    fn from_iter<I: IntoIterator<Item = (String, Members)>>(pools: I) -> Self {
        Self(pools.into_iter().collect())
    }
}
