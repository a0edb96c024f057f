//! Passive health: a backend that does not answer its clients is ejected for a while. Pure; time is injected.
//!
//! One machine for both sources: what the kernel planes count of handshakes, and what becomes of the proxy's
//! connections. It is told totals about once a second and looks at what was added. A SYN is given until the next look
//! to be answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::{Add, Sub};
use std::time::{Duration, Instant};

use crate::model::Outlier;

/// Ejections in a row beyond which the time grows no further.
const MOST_DOUBLINGS: u32 = 20;

/// How the connections of clients to one backend fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// That were begun.
    pub begun: u64,
    /// That the backend has answered.
    pub answered: u64,
    /// That it has refused.
    pub refused: u64,
}

impl Add for Attempts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            begun: self.begun + other.begun,
            answered: self.answered + other.answered,
            refused: self.refused + other.refused,
        }
    }
}

impl Sub for Attempts {
    type Output = Self;

    /// Totals that were cleared in between have added nothing.
    fn sub(self, before: Self) -> Self {
        Self {
            begun: self.begun.saturating_sub(before.begun),
            answered: self.answered.saturating_sub(before.answered),
            refused: self.refused.saturating_sub(before.refused),
        }
    }
}

/// Who of a pool is ejected.
#[derive(Clone, Debug)]
pub struct Ejector {
    settings: Outlier,
    backends: BTreeMap<SocketAddr, Track>,
}

/// An ejection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// When it ends.
    pub until: Instant,
    /// How long it is in all.
    pub time: Duration,
    /// What led to it.
    pub why: String,
}

#[derive(Clone, Debug, Default)]
struct Track {
    total: Option<Attempts>,
    /// What each look has found new within the window, oldest first.
    looks: VecDeque<(Instant, Attempts)>,
    ejection: Option<Ejection>,
    /// Ejections that are remembered: the next one is so many times doubled.
    remembered: u32,
    /// When one of them is forgotten, unless it is ejected until then.
    forgets: Option<Instant>,
}

impl Ejector {
    /// Nobody is ejected.
    pub const fn new(settings: Outlier) -> Self {
        Self { settings, backends: BTreeMap::new() }
    }

    /// The same with other settings. Ejections stay as they are.
    #[must_use]
    pub fn with(self, settings: Outlier) -> Self {
        Self { settings, ..self }
    }

    /// Takes in the totals of every backend of the pool, and who of them would take new flows if nobody were
    /// ejected; whether anybody was ejected or let back.
    pub fn look(
        &mut self,
        totals: &BTreeMap<SocketAddr, Attempts>,
        fit: &BTreeSet<SocketAddr>,
        now: Instant,
    ) -> bool {
        let before = self.ejected(now);
        self.backends.retain(|address, _| totals.contains_key(address));
        for (address, total) in totals {
            let track = self.backends.entry(*address).or_default();
            // What it met while it was ejected counts for nothing.
            let counts = track.ejection.is_none();
            track.age(&self.settings, now);
            let new = track.take_in(*total);
            if counts {
                track.remember(new, &self.settings, now);
            }
        }
        let most = fit.len() * self.settings.most as usize / 100;
        self.let_back(fit, most, now);
        self.eject(fit, most, now);
        before != self.ejected(now)
    }

    /// The ejection that a backend is in.
    pub fn ejection(&self, backend: SocketAddr, now: Instant) -> Option<&Ejection> {
        self.backends.get(&backend)?.ejection.as_ref().filter(|ejection| ejection.until > now)
    }

    /// Those who are ejected, each with the end and how many ejections in a row it is.
    pub fn ejections(&self, now: Instant) -> impl Iterator<Item = (SocketAddr, Instant, u32)> {
        self.backends.iter().filter_map(move |(backend, track)| {
            let ejection = track.ejection.as_ref().filter(|ejection| ejection.until > now)?;
            Some((*backend, ejection.until, track.remembered))
        })
    }

    /// Goes on with what an earlier daemon has begun. `until` is given by this: at most so much from now.
    pub fn resume(&mut self, backend: SocketAddr, row: u32, until: impl FnOnce(Duration) -> Instant) {
        let row = row.clamp(1, MOST_DOUBLINGS);
        let time = ejection_time(&self.settings, row - 1);
        let why = "by the daemon before this one".to_owned();
        let ejection = Some(Ejection { until: until(time), time, why });
        self.backends.insert(backend, Track { ejection, remembered: row, ..Track::default() });
    }

    /// Whether so few of `wanted` backends are left that nobody's ejection counts.
    pub fn panics(&self, left: usize, wanted: usize) -> bool {
        left * 100 < wanted * self.settings.panic as usize
    }

    /// When ejections end.
    pub fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.backends.values().filter_map(|track| Some(track.ejection.as_ref()?.until))
    }

    fn ejected(&self, now: Instant) -> BTreeSet<SocketAddr> {
        self.backends.keys().filter(|backend| self.ejection(**backend, now).is_some()).copied().collect()
    }

    /// Lets those back that are too many, since others left the pool or failed: first whose time is over first.
    fn let_back(&mut self, fit: &BTreeSet<SocketAddr>, most: usize, now: Instant) {
        let mut ejected: Vec<_> =
            self.backends.iter_mut().filter(|(backend, _)| fit.contains(backend)).map(|(_, t)| t).collect();
        ejected.retain(|track| track.ejection.is_some());
        ejected.sort_by_key(|track| track.ejection.as_ref().map(|ejection| ejection.until));
        let too_many = ejected.len().saturating_sub(most);
        for track in ejected.into_iter().take(too_many) {
            track.end(&self.settings, now);
        }
    }

    /// Ejects those that deserve it while there is room: first who failed most.
    fn eject(&mut self, fit: &BTreeSet<SocketAddr>, most: usize, now: Instant) {
        let settings = self.settings;
        let ejected = self.ejected(now).intersection(fit).count();
        let tracks = self.backends.iter_mut().filter(|(backend, _)| fit.contains(backend));
        let mut guilty: Vec<_> = tracks
            .filter(|(_, track)| track.ejection.is_none())
            .filter_map(|(_, track)| Some((track.verdict(&settings)?, track)))
            .collect();
        guilty.sort_by_key(|((failures, _), _)| std::cmp::Reverse(*failures));
        for ((_, why), track) in guilty.into_iter().take(most.saturating_sub(ejected)) {
            let time = ejection_time(&settings, track.remembered);
            track.ejection = Some(Ejection { until: now + time, time, why });
            track.remembered = (track.remembered + 1).min(MOST_DOUBLINGS);
            track.forgets = None;
        }
    }
}

/// The time of an ejection before which so many are remembered.
fn ejection_time(settings: &Outlier, remembered: u32) -> Duration {
    let time = settings.ejection.saturating_mul(1 << remembered.min(MOST_DOUBLINGS));
    time.min(settings.longest).max(settings.ejection)
}

impl Track {
    /// Ends what is over, and forgets.
    fn age(&mut self, settings: &Outlier, now: Instant) {
        if let Some(until) = self.ejection.as_ref().map(|ejection| ejection.until)
            && until <= now
        {
            self.end(settings, until);
        }
        while let Some(at) = self.forgets
            && at <= now
        {
            self.remembered = self.remembered.saturating_sub(1);
            self.forgets = (self.remembered > 0).then(|| at + ejection_time(settings, self.remembered - 1));
        }
    }

    /// Back since `at`, with nothing held against it but the ejections that it had.
    fn end(&mut self, settings: &Outlier, at: Instant) {
        self.ejection = None;
        self.looks.clear();
        // It has to serve as long as it was away for one of them to be forgotten.
        self.forgets = Some(at + ejection_time(settings, self.remembered.saturating_sub(1)));
    }

    /// What the total has more than the last one.
    fn take_in(&mut self, total: Attempts) -> Attempts {
        total - self.total.replace(total).unwrap_or(total)
    }

    fn remember(&mut self, new: Attempts, settings: &Outlier, now: Instant) {
        self.looks.push_back((now, new));
        while self.looks.front().is_some_and(|(at, _)| *at + settings.window < now) {
            self.looks.pop_front();
        }
    }

    /// Its failures where they are too many, and what to say of them.
    fn verdict(&self, settings: &Outlier) -> Option<(u64, String)> {
        let mut looks = self.looks.iter().rev().map(|(_, new)| *new);
        // What was begun since the last look but one may still be answered.
        let newest = Attempts { begun: 0, ..looks.next()? };
        let looks = [newest].into_iter().chain(looks);
        let row = looks.clone().take_while(|new| new.answered == 0).fold(Attempts::default(), Attempts::add);
        let (refused, failures) = (row.refused, row.refused.max(row.begun));
        if failures >= u64::from(settings.consecutive) {
            return Some((
                failures,
                format!("{failures} connections in a row failed, {refused} were refused"),
            ));
        }
        let sum = looks.fold(Attempts::default(), Attempts::add);
        let (refused, failures) = (sum.refused, sum.refused.max(sum.begun.saturating_sub(sum.answered)));
        let all = sum.answered + failures;
        let is_much = all >= u64::from(settings.volume) && failures * 100 >= all * u64::from(settings.share);
        is_much.then(|| (failures, format!("{failures} of {all} connections failed, {refused} were refused")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A pool of so many backends, looked at once a second.
    struct Pool {
        ejector: Ejector,
        totals: BTreeMap<SocketAddr, Attempts>,
        now: Instant,
    }

    fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    fn attempts(begun: u64, answered: u64, refused: u64) -> Attempts {
        Attempts { begun, answered, refused }
    }

    impl Pool {
        fn new(backends: u16, settings: Outlier) -> Self {
            let totals = (1..=backends).map(|number| (address(number), Attempts::default())).collect();
            let mut pool = Self { ejector: Ejector::new(settings), totals, now: Instant::now() };
            pool.look(&[]);
            pool
        }

        /// A second later, with this added; who is ejected then.
        fn look(&mut self, added: &[(u16, Attempts)]) -> Vec<u16> {
            self.look_at(added, |_| true)
        }

        fn look_at(&mut self, added: &[(u16, Attempts)], is_fit: impl Fn(u16) -> bool) -> Vec<u16> {
            self.now += SECOND;
            for (number, added) in added {
                let total = self.totals.get_mut(&address(*number)).unwrap();
                *total = *total + *added;
            }
            let fit = self.totals.keys().filter(|backend| is_fit(backend.port())).copied().collect();
            let before = self.ejected(self.now);
            let changed = self.ejector.look(&self.totals, &fit, self.now);
            let after = self.ejected(self.now);
            assert_eq!(changed, before != after);
            after
        }

        fn ejected(&self, now: Instant) -> Vec<u16> {
            self.ejector.ejected(now).iter().map(SocketAddr::port).collect()
        }

        fn time(&self, number: u16) -> Option<Duration> {
            self.ejector.ejection(address(number), self.now).map(|ejection| ejection.time)
        }
    }

    #[test]
    fn who_refuses_several_in_a_row_is_ejected() {
        let mut pool = Pool::new(4, Outlier::default());
        assert!(pool.look(&[(1, attempts(4, 0, 4))]).is_empty());
        assert!(pool.look(&[(1, attempts(1, 1, 0)), (2, attempts(3, 0, 3))]).is_empty(), "one was answered");
        assert!(pool.look(&[(1, attempts(4, 0, 4))]).is_empty());
        assert_eq!(pool.look(&[(2, attempts(2, 0, 2))]), [2]);
        let ejection = pool.ejector.ejection(address(2), pool.now).unwrap();
        assert_eq!(ejection.why, "5 connections in a row failed, 5 were refused");
    }

    #[test]
    fn who_answers_nobody_is_ejected_once_the_answers_are_late() {
        let mut pool = Pool::new(2, Outlier::default());
        assert!(pool.look(&[(1, attempts(9, 0, 0))]).is_empty(), "they may still be answered");
        assert_eq!(pool.look(&[]), [1]);
        let mut pool = Pool::new(2, Outlier::default());
        assert!(pool.look(&[(1, attempts(9, 0, 0))]).is_empty());
        for _ in 0..20 {
            assert!(pool.look(&[(1, attempts(9, 9, 0))]).is_empty(), "each answered a second later");
        }
    }

    #[test]
    fn who_fails_a_large_share_is_ejected_if_there_were_enough() {
        let mut pool = Pool::new(2, Outlier { consecutive: 1000, ..Outlier::default() });
        assert!(pool.look(&[(1, attempts(18, 3, 15))]).is_empty(), "18 are no 20");
        assert_eq!(pool.look(&[(1, attempts(2, 2, 0))]), [1]);
        let mut pool = Pool::new(2, Outlier { consecutive: 1000, ..Outlier::default() });
        for _ in 0..30 {
            assert!(pool.look(&[(1, attempts(100, 51, 49))]).is_empty());
        }
        // What was long ago does not count.
        let mut pool = Pool::new(2, Outlier { consecutive: 1000, ..Outlier::default() });
        assert!(pool.look(&[(1, attempts(19, 0, 19))]).is_empty());
        for _ in 0..10 {
            pool.look(&[]);
        }
        assert!(pool.look(&[(1, attempts(4, 2, 2))]).is_empty());
    }

    #[test]
    fn a_pool_without_traffic_and_totals_that_begin_anew_eject_nobody() {
        let mut pool = Pool::new(2, Outlier::default());
        pool.look(&[(1, attempts(1000, 1000, 0))]);
        pool.totals.values_mut().for_each(|total| *total = Attempts::default());
        for _ in 0..5 {
            assert!(pool.look(&[]).is_empty());
        }
    }

    #[test]
    fn each_ejection_in_a_row_is_twice_as_long_and_good_times_make_them_shorter() {
        let settings =
            Outlier { ejection: 10 * SECOND, longest: 60 * SECOND, most: 100, ..Outlier::default() };
        let mut pool = Pool::new(1, settings);
        for expected in [10, 20, 40, 60, 60] {
            assert_eq!(pool.look(&[(1, attempts(5, 0, 5))]), [1]);
            assert_eq!(pool.time(1), Some(expected * SECOND));
            for second in 1..expected {
                // What it does meanwhile counts for nothing.
                assert_eq!(pool.look(&[(1, attempts(5, 0, 5))]), [1], "{second} s of {expected}");
            }
            assert!(pool.look(&[]).is_empty(), "{expected} s are over");
        }
        // As long as it was away last, then as long as the time before, and so on.
        for _ in 0..60 + 60 + 40 + 1 {
            assert!(pool.look(&[(1, attempts(1, 1, 0))]).is_empty());
        }
        pool.look(&[(1, attempts(5, 0, 5))]);
        pool.look(&[(1, attempts(5, 0, 5))]);
        assert_eq!(pool.time(1), Some(40 * SECOND), "three of five are forgotten");
    }

    #[test]
    fn who_failed_most_goes_first_and_no_more_than_may() {
        let mut pool = Pool::new(4, Outlier::default());
        let all = [(1, attempts(5, 0, 5)), (2, attempts(7, 0, 7)), (3, attempts(6, 0, 6))];
        assert_eq!(pool.look(&all), [2, 3]);
        // Another one fails its check: of three only one may be ejected, and the first was both.
        assert_eq!(pool.look_at(&[], |number| number != 4).len(), 1);
        // One that is ejected and fails its check makes no room for another.
        assert!(pool.look_at(&[], |number| number < 2).len() <= 1);
    }

    #[test]
    fn ejections_go_on_where_an_earlier_daemon_has_begun_them() {
        let settings = Outlier { ejection: 10 * SECOND, longest: 60 * SECOND, ..Outlier::default() };
        let mut pool = Pool::new(2, settings);
        for (number, row) in [(1, 3), (2, 1)] {
            let now = pool.now;
            pool.ejector.resume(address(number), row, |most| {
                assert_eq!(most, [10, 20, 40][row as usize - 1] * SECOND);
                // That of the second has ended meanwhile.
                if number == 1 { now + 5 * SECOND } else { now }
            });
        }
        assert_eq!(pool.ejected(pool.now), [1]);
        let kept: Vec<_> = pool.ejector.ejections(pool.now).collect();
        assert_eq!(kept, [(address(1), pool.now + 5 * SECOND, 3)]);
        for second in 1..5 {
            assert_eq!(pool.look(&[(1, attempts(5, 0, 5))]), [1], "{second} s");
        }
        assert!(pool.look(&[]).is_empty());
        // Each knows how often it has been out.
        assert_eq!(pool.look(&[(1, attempts(5, 0, 5))]), [1]);
        assert_eq!(pool.time(1), Some(60 * SECOND));
        pool.ejector.backends.remove(&address(1));
        assert_eq!(pool.look(&[(2, attempts(5, 0, 5))]), [2]);
        assert_eq!(pool.time(2), Some(20 * SECOND));
        assert!(Ejector::new(settings).ejections(pool.now).next().is_none());
    }

    #[test]
    fn few_that_are_left_make_ejections_count_for_nothing() {
        let ejector = Ejector::new(Outlier { panic: 50, ..Outlier::default() });
        assert!(ejector.panics(1, 4) && !ejector.panics(2, 4) && ejector.panics(0, 1));
        assert!(!Ejector::new(Outlier::default()).panics(0, 4));
    }

    proptest! {
        /// Whatever happens: no more than may are ejected, and nobody for longer than the longest.
        #[test]
        fn the_bounds_hold(
            most in 0..=100_u32,
            backends in 1..9_u16,
            events in prop::collection::vec((0..9_u16, 0..30_u64, 0..30_u64, 0..30_u64, any::<u8>()), 1..200),
        ) {
            let longest = 20 * SECOND;
            let settings = Outlier { most, ejection: 3 * SECOND, longest, ..Outlier::default() };
            let mut pool = Pool::new(backends, settings);
            let mut since: BTreeMap<u16, Instant> = BTreeMap::new();
            for (number, begun, answered, failed, unfit) in events {
                let number = number % backends + 1;
                let added = attempts(begun, answered.min(begun), failed.min(begun - answered.min(begun)));
                let is_fit = |number: u16| unfit & (1 << (number % 8)) == 0;
                let ejected = pool.look_at(&[(number, added)], is_fit);
                let fit = (1..=backends).filter(|number| is_fit(*number)).count();
                let counted = ejected.iter().filter(|number| is_fit(**number)).count();
                prop_assert!(counted * 100 <= fit * most as usize, "{counted} of {fit} at {most} %");
                since.retain(|number, _| ejected.contains(number));
                for number in ejected {
                    let begun = *since.entry(number).or_insert(pool.now);
                    prop_assert!(pool.now - begun <= longest);
                }
            }
            // And all return.
            pool.now += longest;
            prop_assert!(pool.ejected(pool.now).is_empty());
        }
    }
}
