//! Random schedules for UDP: clients that speak and fall silent, noise, a guard, copies on other CPUs, and a
//! controller that changes, fails, settles, sweeps, dies and comes back. A flow is live while its client has spoken
//! within the idle time-out and its host has not failed; after each datagram: no live flow has moved, none of its
//! datagrams was dropped, and its host's answers are translated. One is let off: a flow whose first datagram was
//! under way while its slot was marked may lose others until the mark goes; it does not move either.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;

use lb_common::Counter;
use lb_common::ticks::SECOND;
use lb_testbed::schedule::{Host, Memory, Outcome, Talker, vip};
use lb_testbed::segment::Tcp;
use lb_testbed::world::UDP_IDLE;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Bed;

const STEPS: usize = 600;
/// An entry's end is moved on at most once a second, so it may be that much early.
const PATIENCE: u32 = UDP_IDLE - SECOND;

struct Subject {
    talker: Talker,
    spoke: u32,
    /// Its slot was settling when its first datagram had gone through.
    is_let_off: bool,
}

struct Run {
    seed: u64,
    rng: StdRng,
    bed: Bed,
    subjects: Vec<Subject>,
    /// Takes new flows.
    up: Vec<Host>,
    down: Vec<Host>,
    /// The daemon runs.
    is_led: bool,
    /// The insert guard refuses everything.
    is_guarded: bool,
    events: Vec<String>,
    tally: BTreeMap<&'static str, u64>,
}

/// Runs a schedule for each seed; how often the interesting things happened.
pub fn all(seeds: Range<u64>) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for (name, count) in seeds.flat_map(run) {
        *sums.entry(name).or_default() += count;
    }
    sums
}

fn run(seed: u64) -> BTreeMap<&'static str, u64> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut bed = Bed::udp(rng.random_range(1..=4));
    if rng.random_range(0..4) == 0 {
        bed.track_always();
    }
    bed.limit(Memory::Flows, rng.random_range(0..10));
    let subjects = (40000..40008)
        .map(|port| Subject { talker: Talker::new(port), spoke: 0, is_let_off: false })
        .collect();
    let (up, down) = (Host::ALL.to_vec(), Vec::new());
    let (events, tally) = (Vec::new(), BTreeMap::new());
    let mut run = Run { seed, rng, bed, subjects, up, down, is_led: true, is_guarded: false, events, tally };
    for _ in 0..STEPS {
        match run.rng.random_range(0..100) {
            0..50 => run.speak(),
            50..53 => run.noise(),
            53..75 => run.time(),
            _ => run.control(),
        }
    }
    run.rest();
    run.tally
}

impl Run {
    fn one_in(&mut self, times: u32) -> bool {
        self.rng.random_range(0..times) == 0
    }

    fn count(&mut self, name: &'static str, times: u64) {
        *self.tally.entry(name).or_default() += times;
    }

    fn note(&mut self, event: String) {
        self.events.push(event);
    }

    #[expect(clippy::panic, reason = "a violation ends the test with the seed and what led to it")]
    fn violation(&self, what: &str) -> ! {
        let last = self.events.len().saturating_sub(60);
        panic!("seed {}: {what}\n{}", self.seed, self.events[last..].join("\n"))
    }

    fn speak(&mut self) {
        // Some speak seldom.
        let most = if self.one_in(8) { self.subjects.len() } else { 3 };
        let index = self.rng.random_range(0..most);
        let now = self.bed.now();
        let Subject { talker, spoke, is_let_off } = &self.subjects[index];
        let (talker, is_live, is_let_off) =
            (talker.clone(), now.wrapping_sub(*spoke) <= PATIENCE, *is_let_off);
        let held = talker.host.filter(|_| is_live);
        if let Some(host) = held {
            self.answered(&talker, host);
        }
        let outcome = self.carry(&talker.packet());
        self.note(format!("{} {outcome:?}", talker.address));
        match (held, outcome) {
            (Some(host), Outcome::To(other)) if host == other => self.count("judged", 1),
            (Some(_), Outcome::Dropped(Counter::Settling)) if is_let_off => return self.count("dropped", 1),
            (Some(host), outcome) => self.violation(&format!("{} of {host:?}: {outcome:?}", talker.address)),
            (None, Outcome::Dropped(_)) => self.count("dropped", 1),
            (None, _) => {}
        }
        let slot = self.bed.slots()[self.bed.slot_of(talker.address)];
        let subject = &mut self.subjects[index];
        subject.talker.host = outcome.host();
        subject.spoke = now;
        subject.is_let_off = if held.is_none() { slot.is_settling() } else { is_let_off };
        if let Some(host) = outcome.host() {
            let id = self.bed.id(host);
            self.count("to fallback", u64::from(id == slot.fallback() && id != slot.current()));
            self.count("to another", u64::from(id != slot.fallback() && id != slot.current()));
            let is_kept = self.bed.flow(talker.address).is_some();
            self.count("refused", u64::from(!is_kept && id == slot.fallback() && id != slot.current()));
            self.answered(&talker, host);
        }
    }

    fn answered(&self, talker: &Talker, host: Host) {
        let outcome = talker.answer(&self.bed, host);
        if outcome != Outcome::Replied {
            self.violation(&format!("an answer of {host:?} to {}: {outcome:?}", talker.address));
        }
    }

    /// Through the balancer; now and then something happens on the way.
    fn carry(&mut self, packet: &Tcp) -> Outcome {
        if !self.one_in(6) {
            return self.bed.send(packet);
        }
        let operations = self.rng.random_range(0..6);
        let what = match self.rng.random_range(0..if self.is_led { 3 } else { 1 }) {
            0 => "a copy",
            1 => "a sweep",
            _ => "slots are marked",
        };
        let (outcome, was_interrupted) = self.bed.send_while(packet, operations, |bed| match what {
            "a copy" => drop(bed.send(packet)),
            "a sweep" => drop(bed.sweep()),
            _ => bed.begin_settling(),
        });
        if was_interrupted {
            self.count("interrupted", 1);
            self.note(format!("{what} came between:"));
            self.bed.end_grace();
        }
        outcome
    }

    fn noise(&mut self) {
        if self.one_in(3) {
            self.is_guarded = !self.is_guarded;
            self.note(format!("guarded: {}", self.is_guarded));
            self.bed.guard(self.is_guarded);
        }
        for _ in 0..6 {
            let source = SocketAddr::from(([198, 51, 100, self.rng.random()], self.rng.random()));
            self.bed.send(&Tcp::datagram(source, vip(), b"noise"));
        }
    }

    fn time(&mut self) {
        let most = match self.rng.random_range(0..10) {
            0..6 => SECOND,
            6..9 => UDP_IDLE / 3,
            _ => UDP_IDLE + 2 * SECOND,
        };
        let ticks = self.rng.random_range(1..=most);
        self.bed.pass(ticks);
        self.note(format!("after {ticks} ticks"));
    }

    fn control(&mut self) {
        if !self.is_led {
            if self.one_in(5) {
                self.note("a daemon adopts".into());
                self.bed.adopt();
                self.is_led = true;
            }
            return;
        }
        // Every other schedule is a calm one: slots settle only where nothing changes for long.
        let restless = if self.seed.is_multiple_of(2) { 9 } else { 22 };
        match self.rng.random_range(0..restless + 12) {
            0..9 => {
                let settled = |bed: &Bed| {
                    let slots = bed.slots().iter();
                    let stable = slots.clone().filter(|slot| !slot.is_tracked()).count();
                    (slots.filter(|slot| slot.current() == slot.fallback()).count(), stable)
                };
                let before = settled(&self.bed);
                self.note("house-keeping".into());
                self.bed.keep_house();
                let after = settled(&self.bed);
                self.count("settled", after.0.saturating_sub(before.0) as u64);
                self.count("untracked", after.1.saturating_sub(before.1) as u64);
            }
            9 => {
                self.note("swept".into());
                self.bed.sweep();
            }
            10..15 => {
                self.note("slots are marked".into());
                self.bed.begin_settling();
                self.bed.end_grace();
            }
            15..17 => {
                self.note("slots are settled".into());
                self.bed.settle();
            }
            17 => {
                self.note("the daemon dies".into());
                self.is_led = false;
            }
            18 | 22..26 => self.fail(),
            19 | 26..30 => self.recover(),
            _ => self.change(),
        }
    }

    /// Some slots go to other hosts.
    fn change(&mut self) {
        let to = self.assignment();
        self.note(format!("a change to {to:?}"));
        self.bed.begin_change(&to);
        self.bed.end_grace();
    }

    fn assignment(&mut self) -> Vec<Option<Host>> {
        let slots = self.bed.slots().len();
        let pick = |rng: &mut StdRng, up: &[Host]| {
            if up.is_empty() { None } else { Some(up[rng.random_range(0..up.len())]) }
        };
        (0..slots).map(|_| pick(&mut self.rng, &self.up)).collect()
    }

    fn fail(&mut self) {
        if self.up.len() < 2 {
            return;
        }
        let host = self.up.swap_remove(self.rng.random_range(0..self.up.len()));
        let to = self.assignment();
        self.note(format!("{host:?} fails: {to:?}"));
        self.bed.cut(host, &to);
        self.down.push(host);
        self.count("failed", 1);
        for subject in self.subjects.iter_mut().filter(|subject| subject.talker.host == Some(host)) {
            subject.talker.host = None;
        }
    }

    fn recover(&mut self) {
        if let Some(host) = self.down.pop() {
            self.note(format!("{host:?} comes back"));
            self.bed.come_back(host);
            self.up.push(host);
            self.change();
        }
    }

    /// Nobody speaks any more.
    fn rest(&mut self) {
        self.bed.adopt();
        for _ in 0..4 {
            self.bed.pass(UDP_IDLE + 2 * SECOND);
            self.bed.keep_house();
        }
        if self.bed.slots().iter().any(|slot| slot.is_tracked()) {
            self.violation("a slot is still tracked though everything is silent");
        }
        assert_eq!(self.bed.sweep().flows, 0);
    }
}
