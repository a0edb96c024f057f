//! The slot machine: how one Maglev table goes from one assignment to the next without breaking a flow.
//!
//! Invariant: a live flow without an entry in the flow tables belongs to its slot's `fallback`.
//! Pure: no maps, no clock. Every transition *proposes* slots (`None`: nothing to do); what the kernel has
//! confirmed is then [`TableState::commit`]ted. So a swap that failed leaves no trace here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::{BackendId, Slot, ticks};

use crate::data_plane::kernel::{Slots, Sweep};

/// One Maglev table as the kernel has confirmed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableState {
    slots: Slots,
    /// By slot, in ticks: when `current` last changed. Meaningless in untracked slots, and empty while there are no others.
    changed_at: Vec<u32>,
    /// How often the `current` of a slot changed.
    moved: u64,
    census: Census,
    shape: Shape,
}

/// What is in the slots, counted once for every commit: tables are asked far more often than they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Census {
    tracked: bool,
    settling: bool,
    /// By every backend that a slot names.
    holdings: BTreeMap<BackendId, Holdings>,
}

/// How many slots name a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// As `current`.
    pub current: u64,
    /// As `fallback`.
    pub fallback: u64,
}

impl Census {
    fn of(slots: &[Slot]) -> Self {
        let mut census = Self::default();
        // A table has few different slots, so sorting costs less than a look-up for each of them.
        let mut words: Vec<_> = slots.iter().map(|slot| slot.0).collect();
        words.sort_unstable();
        for alike in words.chunk_by(|a, b| a == b) {
            if let Some(word) = alike.first() {
                census.add(Slot(*word), alike.len() as u64);
            }
        }
        census
    }

    fn add(&mut self, slot: Slot, count: u64) {
        self.tracked |= slot.is_tracked();
        self.settling |= slot.is_settling();
        if slot.current().is_some() {
            self.holdings.entry(slot.current()).or_default().current += count;
        }
        if slot.fallback().is_some() {
            self.holdings.entry(slot.fallback()).or_default().fallback += count;
        }
    }
}

/// Which backend is `current` where: equal as long as none of them changes.
#[derive(Clone, Debug, Default)]
pub struct Shape(Arc<()>);

impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Shape {}

impl TableState {
    /// A table read back from the kernel. How long its slots have been in a change is not known, so those
    /// times start again at `now` (ticks). `fallback` is kept: a table built anew would forget it and break
    /// flows.
    pub fn adopt(slots: Slots, now: u32) -> Self {
        let are_sound = slots.iter().all(|slot| sound(*slot) == *slot);
        let slots = if are_sound { slots } else { Slots::new(slots.iter().copied().map(sound).collect()) };
        let census = Census::of(&slots);
        let changed_at = if census.tracked { vec![now; slots.len()] } else { Vec::new() };
        Self { slots, changed_at, moved: 0, census, shape: Shape::default() }
    }

    /// The confirmed slots.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Which backend is `current` where.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Records `slots` as confirmed. `now` (ticks) is read after the grace period: packets that ran on the
    /// old table until then stamped nothing.
    pub fn commit(&mut self, slots: Slots, now: u32) {
        self.census = Census::of(&slots);
        self.changed_at.resize(if self.census.tracked { slots.len() } else { 0 }, now);
        let before = self.moved;
        for (index, slot) in slots.iter().enumerate() {
            if self.slots.get(index).map(|old| old.current()) != Some(slot.current()) {
                if let Some(changed) = self.changed_at.get_mut(index) {
                    *changed = now;
                }
                self.moved += 1;
            }
        }
        if self.moved != before {
            self.shape = Shape::default();
        }
        self.slots = slots;
    }

    /// A change, and the second step of a failure.
    ///
    /// `assignment` names the backend of each slot; beyond its end there is none. Ids that do not `live` in a slot are
    /// cut there: replaced where they are `current`, and where they are `fallback` that becomes the new `current`
    /// in the same swap, since a dead backend that came back would inherit flows that are not its own.
    /// [`BackendId::NONE`] never lives. Everywhere else only `current` is replaced, and the slot tracked.
    pub fn assign(
        &self,
        assignment: &[BackendId],
        lives: impl Fn(usize, BackendId) -> bool,
    ) -> Option<Vec<Slot>> {
        let wanted = |index| assignment.get(index).copied().unwrap_or(BackendId::NONE);
        self.propose(|index, slot| {
            assign(slot, wanted(index), &|id: BackendId| id.is_some() && lives(index, id))
        })
    }

    /// Marks slots whose old flows have been silent for longer than `idle` (ticks) at `now`.
    ///
    /// From the grace period after the swap on, no packet can begin a flow of `fallback`; then
    /// [`Self::settle`] decides. `old_seen` is read before.
    pub fn mark_settling(&self, old_seen: &[u32], now: u32, idle: u32) -> Option<Vec<Slot>> {
        self.propose(|index, slot| {
            let in_change = slot.current() != slot.fallback();
            if in_change && self.is_silent(index, old_seen, now, idle) {
                Slot::tracked(slot.current(), slot.fallback(), true)
            } else {
                slot
            }
        })
    }

    /// Settles the marked slots: `fallback` becomes `current`, or the mark goes where an old flow spoke.
    /// `old_seen` is read after the grace period of the swap that marked them.
    pub fn settle(&self, old_seen: &[u32], now: u32, idle: u32) -> Option<Vec<Slot>> {
        self.propose(|index, slot| {
            if !slot.is_settling() {
                slot
            } else if self.is_silent(index, old_seen, now, idle) {
                Slot::tracked(slot.current(), slot.current(), false)
            } else {
                Slot::tracked(slot.current(), slot.fallback(), false)
            }
        })
    }

    /// Untracks settled slots of which the flow tables hold nothing for another backend. `sweep` was begun
    /// after the last commit.
    pub fn untrack(&self, table: u32, sweep: &Sweep) -> Option<Vec<Slot>> {
        self.is_tracked().then_some(())?;
        self.propose(|index, slot| {
            let settled = slot.is_tracked() && slot.current() == slot.fallback();
            let named = || sweep.slots.get(&(table, index as u32));
            if settled && named().is_none_or(|ids| ids.iter().all(|id| *id == slot.current())) {
                Slot::stable(slot.current())
            } else {
                slot
            }
        })
    }

    /// How often a slot has changed its current backend since this daemon adopted or made the table.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether any slot is tracked.
    pub fn is_tracked(&self) -> bool {
        self.census.tracked
    }

    /// Whether any slot waits to be settled.
    pub fn is_settling(&self) -> bool {
        self.census.settling
    }

    /// Every backend that a slot names.
    pub fn named(&self) -> impl Iterator<Item = BackendId> + '_ {
        self.census.holdings.keys().copied()
    }

    /// In how many slots a backend is named.
    pub fn holdings(&self, id: BackendId) -> Holdings {
        self.census.holdings.get(&id).copied().unwrap_or_default()
    }

    fn propose(&self, step: impl Fn(usize, Slot) -> Slot) -> Option<Vec<Slot>> {
        let mut slots = self.slots.iter().enumerate();
        let (first, next) = slots.find_map(|(index, slot)| {
            let next = step(index, *slot);
            (next != *slot).then_some((index, next))
        })?;
        let mut proposed = Vec::with_capacity(self.slots.len());
        proposed.extend(self.slots.iter().take(first).chain([&next]));
        proposed.extend(slots.map(|(index, slot)| step(index, *slot)));
        Some(proposed)
    }

    /// Whether neither the change nor a packet of an old flow lies within `idle` before `now`.
    fn is_silent(&self, index: usize, old_seen: &[u32], now: u32, idle: u32) -> bool {
        let seen = old_seen.get(index).copied().unwrap_or(0);
        let changed = self.changed_at.get(index).copied().unwrap_or(now);
        elapsed(changed, now) > idle && (seen == 0 || elapsed(seen, now) > idle)
    }
}

/// Every backend that one of `slots` names.
pub fn named(slots: &[Slot]) -> BTreeSet<BackendId> {
    let mut ids = BTreeSet::new();
    let mut last = Slot::default();
    for slot in slots {
        // Neighbouring slots are often alike in small pools; look-ups are what this costs.
        if *slot != last {
            ids.extend([slot.current(), slot.fallback()].into_iter().filter(|id| id.is_some()));
            last = *slot;
        }
    }
    ids
}

fn assign(slot: Slot, wanted: BackendId, lives: &impl Fn(BackendId) -> bool) -> Slot {
    let fallback_lives = lives(slot.fallback());
    if !slot.is_tracked() {
        return match (wanted == slot.current(), fallback_lives) {
            (true, _) => slot,
            (false, true) => Slot::tracked(wanted, slot.fallback(), false),
            // Nothing of the dead backend may go on, so there is nothing to remember either.
            (false, false) => Slot::stable(wanted),
        };
    }
    let fallback = if fallback_lives { slot.fallback() } else { wanted };
    // The change starts the idle time-out again, so a slot that was about to settle no longer is.
    let settling = slot.is_settling() && slot == Slot::tracked(wanted, fallback, true);
    Slot::tracked(wanted, fallback, settling)
}

/// A slot as the rules allow it: one that was damaged is read as within a change.
fn sound(slot: Slot) -> Slot {
    if !slot.is_tracked() && (slot.current() != slot.fallback() || slot.is_settling()) {
        Slot::tracked(slot.current(), slot.fallback(), false)
    } else {
        slot
    }
}

/// Ticks from `then` to `now`, right for up to 2.3 years. A time a little ahead of `now` counts as `now`:
/// the programs' clock goes on between two readings.
fn elapsed(then: u32, now: u32) -> u32 {
    let elapsed = now.wrapping_sub(then);
    if elapsed > u32::MAX - 60 * ticks::SECOND { 0 } else { elapsed }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: BackendId = BackendId::new(1, 0);
    const B: BackendId = BackendId::new(2, 0);
    const C: BackendId = BackendId::new(3, 0);
    const NONE: BackendId = BackendId::NONE;
    const IDLE: u32 = 100;

    fn table(slot: Slot) -> TableState {
        TableState::adopt(vec![slot].into(), 1000)
    }

    /// The slot after a change to `wanted` while only `alive` live.
    fn assigned(slot: Slot, wanted: BackendId, alive: &[BackendId]) -> Slot {
        let table = table(slot);
        let next = table.assign(&[wanted], |_, id| alive.contains(&id));
        next.map_or(slot, |slots| slots[0])
    }

    #[test]
    fn a_change_keeps_the_fallback_and_tracks() {
        assert_eq!(assigned(Slot::stable(A), B, &[A, B]), Slot::tracked(B, A, false));
    }

    #[test]
    fn a_second_change_replaces_only_current() {
        assert_eq!(assigned(Slot::tracked(B, A, false), C, &[A, B, C]), Slot::tracked(C, A, false));
    }

    #[test]
    fn a_change_back_stays_tracked() {
        assert_eq!(assigned(Slot::tracked(B, A, false), A, &[A, B]), Slot::tracked(A, A, false));
    }

    #[test]
    fn a_change_takes_the_settling_mark_away_and_no_change_leaves_it() {
        assert_eq!(assigned(Slot::tracked(B, A, true), C, &[A, B, C]), Slot::tracked(C, A, false));
        assert_eq!(assigned(Slot::tracked(B, A, true), B, &[A, B]), Slot::tracked(B, A, true));
    }

    #[test]
    fn a_cut_leaves_an_untracked_slot_untracked() {
        assert_eq!(assigned(Slot::stable(A), B, &[B]), Slot::stable(B));
    }

    #[test]
    fn a_cut_replaces_current_and_keeps_a_living_fallback() {
        assert_eq!(assigned(Slot::tracked(B, A, false), C, &[A, C]), Slot::tracked(C, A, false));
    }

    #[test]
    fn a_cut_fallback_becomes_current_in_the_same_swap() {
        assert_eq!(assigned(Slot::tracked(B, A, false), B, &[B]), Slot::tracked(B, B, false));
        assert_eq!(assigned(Slot::tracked(B, A, true), B, &[B]), Slot::tracked(B, B, false));
        assert_eq!(assigned(Slot::tracked(B, A, false), C, &[C]), Slot::tracked(C, C, false));
    }

    #[test]
    fn without_backends_old_flows_stay_until_the_cut_and_nothing_inherits_them() {
        let down = assigned(Slot::stable(A), NONE, &[A]);
        assert_eq!(down, Slot::tracked(NONE, A, false));
        assert_eq!(assigned(down, A, &[A]), Slot::tracked(A, A, false), "up again within the grace");
        let cut = assigned(down, NONE, &[]);
        assert_eq!(cut, Slot::tracked(NONE, NONE, false));
        assert_eq!(
            assigned(cut, A.next_generation(), &[A.next_generation()]).fallback(),
            A.next_generation()
        );
        assert_eq!(assigned(Slot::stable(A), NONE, &[]), Slot::stable(NONE));
        assert_eq!(assigned(Slot::stable(NONE), B, &[B]), Slot::stable(B));
    }

    #[test]
    fn settling_takes_silence_since_the_change_and_since_the_last_old_packet() {
        let table = table(Slot::tracked(B, A, false));
        assert_eq!(table.mark_settling(&[0], 1000 + IDLE, IDLE), None, "the change is too young");
        assert_eq!(table.mark_settling(&[1050], 1050 + IDLE, IDLE), None, "an old flow spoke");
        let marked = vec![Slot::tracked(B, A, true)];
        assert_eq!(table.mark_settling(&[0], 1001 + IDLE, IDLE), Some(marked.clone()));
        assert_eq!(table.mark_settling(&[1050], 1051 + IDLE, IDLE), Some(marked));
    }

    #[test]
    fn the_second_look_settles_or_unmarks() {
        let table = table(Slot::tracked(B, A, true));
        let now = 1005 + IDLE;
        assert_eq!(table.settle(&[0], now, IDLE), Some(vec![Slot::tracked(B, B, false)]));
        assert_eq!(table.settle(&[now], now, IDLE), Some(vec![Slot::tracked(B, A, false)]));
        assert_eq!(
            table.settle(&[now + 1], now, IDLE),
            Some(vec![Slot::tracked(B, A, false)]),
            "newer clock"
        );
    }

    #[test]
    fn a_change_starts_the_idle_time_again() {
        let mut table = table(Slot::tracked(B, A, false));
        table.commit(vec![Slot::tracked(C, A, false)].into(), 2000);
        assert_eq!(table.mark_settling(&[0], 2000 + IDLE, IDLE), None);
        assert!(table.mark_settling(&[0], 2001 + IDLE, IDLE).is_some());
    }

    #[test]
    fn ticks_may_wrap_and_stamps_may_be_ancient() {
        let start = u32::MAX - 10;
        let table = TableState::adopt(vec![Slot::tracked(B, A, false)].into(), start);
        assert_eq!(table.mark_settling(&[0], start.wrapping_add(IDLE), IDLE), None);
        assert!(table.mark_settling(&[0], start.wrapping_add(IDLE + 1), IDLE).is_some());
        assert!(table.mark_settling(&[start / 4], start.wrapping_add(IDLE + 1), IDLE).is_some());
    }

    #[test]
    fn only_settled_slots_that_nothing_names_are_untracked() {
        let sweep = |ids: &[BackendId]| Sweep {
            slots: [((7, 0), ids.iter().copied().collect::<BTreeSet<_>>())].into(),
            ..Sweep::default()
        };
        let settled = table(Slot::tracked(B, B, false));
        assert_eq!(settled.untrack(7, &sweep(&[A, B])), None);
        assert_eq!(settled.untrack(7, &sweep(&[B])), Some(vec![Slot::stable(B)]));
        assert_eq!(settled.untrack(8, &sweep(&[A])), Some(vec![Slot::stable(B)]), "another table's entries");
        assert_eq!(table(Slot::tracked(B, A, false)).untrack(7, &Sweep::default()), None);
    }

    #[test]
    fn adoption_keeps_the_slots_and_reads_damage_as_a_change() {
        let read = vec![Slot::stable(A), Slot::tracked(B, A, true), Slot::tracked(B, B, false)];
        assert_eq!(**TableState::adopt(read.clone().into(), 5).slots(), read);
        let damaged = Slot(u64::from(A.0) | u64::from(B.0) << 32);
        assert_eq!(**table(damaged).slots(), [Slot::tracked(A, B, false)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// `alive` by slot and backend: within a drain, a backend is cut from slot after slot.
        Assign {
            wanted: Vec<u32>,
            alive: Vec<Vec<bool>>,
        },
        Settle {
            seen: Vec<bool>,
            seen_again: Vec<bool>,
        },
        Untrack {
            named: Vec<bool>,
        },
        Pass {
            ticks: u32,
        },
    }

    const SLOTS: usize = 4;

    fn step() -> impl Strategy<Value = Step> {
        let bits = || proptest::collection::vec(any::<bool>(), SLOTS);
        prop_oneof![
            (
                proptest::collection::vec(0..4_u32, SLOTS),
                proptest::collection::vec(proptest::collection::vec(any::<bool>(), 4), SLOTS)
            )
                .prop_map(|(wanted, alive)| Step::Assign { wanted, alive }),
            (bits(), bits()).prop_map(|(seen, seen_again)| Step::Settle { seen, seen_again }),
            bits().prop_map(|named| Step::Untrack { named }),
            (1..2 * IDLE).prop_map(|ticks| Step::Pass { ticks }),
        ]
    }

    fn stamp(old_seen: &mut [u32], seen: &[bool], now: u32) {
        for (stamp, _) in old_seen.iter_mut().zip(seen).filter(|(_, seen)| **seen) {
            *stamp = now;
        }
    }

    proptest! {
        /// Whatever happens: slots stay sound, `fallback` moves only by a cut or by settling, and never
        /// within `IDLE` of a change or of a packet of an old flow.
        #[test]
        fn fallback_is_given_up_only_by_the_rules(steps in proptest::collection::vec(step(), 1..40)) {
            let mut now = 5000;
            let mut table = TableState::adopt(vec![Slot::stable(A); SLOTS].into(), now);
            let mut old_seen = vec![0; SLOTS];
            let mut changed = [now; SLOTS];
            for step in steps {
                let before = table.slots().to_vec();
                match step {
                    Step::Pass { ticks } => now += ticks,
                    Step::Assign { wanted, alive } => {
                        let alive = |slot: usize, id: BackendId| alive[slot][id.index() as usize];
                        let wanted: Vec<_> = wanted
                            .into_iter()
                            .map(|index| BackendId::new(index, 0))
                            .enumerate()
                            .map(|(slot, id)| if alive(slot, id) { id } else { NONE })
                            .collect();
                        if let Some(slots) = table.assign(&wanted, alive) {
                            table.commit(slots.into(), now);
                        }
                        for (index, (old, new)) in before.iter().zip(table.slots().iter()).enumerate() {
                            prop_assert_eq!(new.current(), wanted[index]);
                            let fallback = old.fallback();
                            let kept = fallback.is_some() && alive(index, fallback);
                            prop_assert_eq!(new.fallback(), if kept { fallback } else { wanted[index] });
                            prop_assert!(new.is_tracked() || old == new || !kept);
                            if new.current() != old.current() {
                                changed[index] = now;
                            }
                        }
                    }
                    Step::Settle { seen, seen_again } => {
                        stamp(&mut old_seen, &seen, now);
                        if let Some(slots) = table.mark_settling(&old_seen, now, IDLE) {
                            table.commit(slots.into(), now);
                        }
                        stamp(&mut old_seen, &seen_again, now);
                        if let Some(slots) = table.settle(&old_seen, now, IDLE) {
                            table.commit(slots.into(), now);
                        }
                        for (index, (old, new)) in before.iter().zip(table.slots().iter()).enumerate() {
                            prop_assert_eq!(old.current(), new.current());
                            if old.fallback() != new.fallback() {
                                prop_assert_eq!(new.fallback(), new.current());
                                prop_assert!(changed[index] + IDLE < now && old_seen[index] + IDLE < now);
                            }
                        }
                    }
                    Step::Untrack { named } => {
                        let slots = (0..SLOTS)
                            .filter(|index| named[*index])
                            .map(|index| ((0, index as u32), BTreeSet::from([A])))
                            .collect();
                        if let Some(slots) = table.untrack(0, &Sweep { slots, ..Sweep::default() }) {
                            table.commit(slots.into(), now);
                        }
                        for (index, (old, new)) in before.iter().zip(table.slots().iter()).enumerate() {
                            prop_assert_eq!((old.current(), old.fallback()), (new.current(), new.fallback()));
                            if old.is_tracked() && !new.is_tracked() {
                                prop_assert!(!named[index] || new.current() == A);
                            }
                        }
                    }
                }
                for slot in table.slots().iter() {
                    prop_assert!(slot.is_tracked() || slot.current() == slot.fallback());
                    prop_assert!(!slot.is_settling() || slot.is_tracked());
                }
            }
        }
    }
}
