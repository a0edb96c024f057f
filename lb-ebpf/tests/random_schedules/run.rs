//! Random schedules: clients that come and go, floods, forgeries, losses, and a controller that changes,
//! fails, cuts, settles, sweeps, dies and comes back. After each step: no live flow has moved, and its
//! replies are translated.
//!
//! A flow is let off only where the limits say so, and the judge says which: it has been silent for the idle
//! time-out in a tracked slot (half-closed, or opened on a closing entry while the tables refused: the
//! closing time-out); its handshake took longer than the half-open time; its host was cut. One packet is let
//! off: the RST of a flow whose SYN was sent again and remembered for a second host, while that host's
//! half-open entry lasts, for a RST need not say which answer the client had accepted. A forger guesses
//! numbers and never comes within 64 KiB.
#![expect(clippy::panic, reason = "a violation ends the test with the seed and what led to it")]

mod network;

use super::Bed;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;

use lb_common::ticks::SECOND;
use lb_testbed::schedule::internet::Phase;
use lb_testbed::schedule::{Host, Outcome, vip};
use lb_testbed::segment::{ACK, FIN, RST, SYN, Tcp};
use lb_testbed::world::{CLOSING, ESTABLISHED, HALF_OPEN};
use network::{Network, Tally};

use rand::Rng;

const STEPS: usize = 800;

/// The controller's side of a schedule.
struct Controller {
    assignment: Vec<Option<Host>>,
    /// Takes new flows.
    up: Vec<Host>,
    /// Failed, but its grace is not over.
    failed: Vec<Host>,
    cut: Vec<Host>,
}

/// Runs a schedule for each seed; how often the interesting things happened.
pub fn all(seeds: Range<u64>) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for (name, count) in seeds.flat_map(|seed| run(seed).named()) {
        *sums.entry(name).or_default() += count;
    }
    sums
}

fn run(seed: u64) -> Tally {
    let mut net = Network::new(seed);
    let slots = net.bed.slots().len();
    let mut controller = Controller {
        assignment: vec![Some(Host::A); slots],
        up: Host::ALL.to_vec(),
        failed: Vec::new(),
        cut: Vec::new(),
    };
    for _ in 0..STEPS {
        // Every other schedule is a calm one: slots settle only where old flows are silent for long.
        let is_calm = seed.is_multiple_of(2);
        match net.rng.random_range(0..100) {
            0..45 => client(&mut net),
            45..55 => late_packet(&mut net),
            55..60 => forgery(&mut net),
            60..66 if is_calm => lull(&mut net),
            60..66 => flood(&mut net),
            66..82 => time(&mut net),
            82..94 if is_calm => client(&mut net),
            _ => controller.step(&mut net),
        }
        net.observe();
    }
    controller.rest(&mut net, seed);
    net.tally
}

/// A client does what it likes.
fn client(net: &mut Network) {
    let index = net.rng.random_range(0..net.subjects.len());
    let choice = net.rng.random_range(0..20);
    let peer = &net.subjects[index].peer;
    let address = peer.address;
    let packet = match (peer.phase, choice) {
        (Phase::Closed, _) => {
            let isn = net.rng.random();
            net.subjects[index].begin(isn)
        }
        (Phase::Opening, 0..15) => peer.first(),
        (Phase::Open(host), 0..4) => {
            if let Some(packet) = net.machine(host).speak(address) {
                net.host_sends(host, packet);
            }
            return;
        }
        (Phase::Open(_), 4..14) => peer.speak(),
        (Phase::Open(host), 14..17) => {
            let packet = peer.packet(FIN | ACK);
            net.subjects[index].peer.phase = Phase::Closing(host);
            packet
        }
        (Phase::Open(_), 17) => {
            let packet = peer.packet(RST);
            net.client_sends(index, &packet);
            net.subjects[index].peer.phase = Phase::Closed;
            return;
        }
        (Phase::Closing(_), 0..12) => peer.packet(ACK),
        (Phase::Opening | Phase::Open(_) | Phase::Closing(_), _) => {
            net.note(|| format!("{address} vanishes"));
            net.subjects[index].peer.phase = Phase::Closed;
            return;
        }
    };
    net.client_sends(index, &packet);
    net.catch_up(index);
}

fn late_packet(net: &mut Network) {
    if !net.wire.is_empty() {
        let index = net.rng.random_range(0..net.wire.len());
        let (host, packet) = net.wire.swap_remove(index);
        if !net.machine(host).is_down {
            net.host_packet_arrives(host, &packet);
        }
    }
}

/// In a client's name, with numbers that are far from its own.
fn forgery(net: &mut Network) {
    let index = net.rng.random_range(0..net.subjects.len());
    let peer = &net.subjects[index].peer;
    let (address, sends) = (peer.address, peer.sends);
    let far = 1 << 20;
    let seq = sends.wrapping_add(net.rng.random_range(far..u32::MAX - far));
    let kinds = [SYN, ACK, FIN | ACK, RST, RST | ACK];
    let flags = kinds[net.rng.random_range(0..kinds.len())];
    // Hosts begin with 1 to 4 in the top four bits.
    let ack = if flags & ACK != 0 { 0x9000_0000 } else { 0 };
    forge(net, &Tcp::new(address, vip(), flags).numbers(seq, ack));
    if flags == SYN && net.one_in(2) {
        forge(net, &Tcp::new(address, vip(), ACK).numbers(seq.wrapping_add(1), 0x9000_0000));
    }
}

fn forge(net: &mut Network, packet: &Tcp) {
    net.note(|| "forged:".into());
    if let Outcome::To(host) = net.carry(packet) {
        let isn = (host as u32) << 28 | net.rng.random::<u32>() >> 4;
        if let Some(answer) = net.machine(host).hear(packet, isn) {
            net.host_sends(host, answer);
        }
    }
}

fn flood(net: &mut Network) {
    if net.one_in(4) {
        net.is_guarded = !net.is_guarded;
        let is_guarded = net.is_guarded;
        net.note(|| format!("guarded: {is_guarded}"));
        net.bed.guard(is_guarded);
    }
    let flags = if net.one_in(2) { SYN } else { ACK };
    net.note(|| format!("a flood of {flags:#x}"));
    for _ in 0..10 {
        let source = SocketAddr::from(([198, 51, 100, net.rng.random()], net.rng.random()));
        net.bed.send(&Tcp::new(source, vip(), flags).numbers(net.rng.random(), 0));
    }
}

fn time(net: &mut Network) {
    let most = match net.rng.random_range(0..100) {
        0..60 => SECOND / 2,
        60..80 => HALF_OPEN + 10,
        80..90 => CLOSING + 2 * SECOND,
        90..96 => ESTABLISHED / 2,
        _ => ESTABLISHED + 10 * SECOND,
    };
    let ticks = net.rng.random_range(1..=most);
    net.bed.pass(ticks);
    net.note(|| format!("after {ticks} ticks"));
}

/// About an idle time-out in which few speak.
fn lull(net: &mut Network) {
    let quiet = net.one_in(2);
    for _ in 0..3 {
        net.bed.pass(ESTABLISHED / 2 - 2 * SECOND);
        net.note(|| "a lull".into());
        net.judge_silence();
        for index in 0..net.subjects.len() {
            let peer = &net.subjects[index].peer;
            let Some(host) = peer.host() else { continue };
            let slot = net.bed.slots()[net.bed.slot_of(peer.address)];
            let is_old = slot.fallback() == net.bed.id(host) && slot.current() != slot.fallback();
            if !(quiet && is_old) {
                let packet = peer.packet(ACK);
                net.client_sends(index, &packet);
            }
        }
    }
}

impl Controller {
    fn step(&mut self, net: &mut Network) {
        if !net.is_led {
            if net.one_in(6) {
                net.note(|| "a daemon adopts".into());
                net.bed.adopt();
                net.is_led = true;
            }
            return;
        }
        match net.rng.random_range(0..30) {
            0..7 => self.change(net),
            7..9 => self.fail(net),
            9..13 => self.recover(net),
            13 => self.cut(net),
            14..16 => self.come_back(net),
            16..19 => {
                net.note(|| "slots are marked".into());
                net.bed.begin_settling();
                net.bed.end_grace();
            }
            19..22 => settle(net),
            22..25 => {
                net.note(|| "swept".into());
                net.bed.sweep();
            }
            25..29 => {
                net.note(|| "house-keeping".into());
                settle(net);
                net.bed.keep_house();
            }
            _ => {
                net.note(|| "the daemon dies".into());
                net.is_led = false;
            }
        }
    }

    /// Some slots, or all, go to other hosts.
    fn change(&mut self, net: &mut Network) {
        let all = net.one_in(3);
        let one = (!self.up.is_empty()).then(|| self.up[net.rng.random_range(0..self.up.len())]);
        let index = net.rng.random_range(0..self.assignment.len());
        for (slot, host) in self.assignment.iter_mut().enumerate() {
            if all || slot == index || !host.is_some_and(|host| self.up.contains(&host)) {
                *host = one;
            }
        }
        net.note(|| format!("a change to {:?}", self.assignment));
        net.bed.begin_change(&self.assignment);
        if net.one_in(20) {
            net.note(|| "the daemon dies before it is confirmed".into());
            net.is_led = false;
        } else {
            net.bed.end_grace();
        }
    }

    fn fail(&mut self, net: &mut Network) {
        if self.up.len() > 1 || net.one_in(4) && !self.up.is_empty() {
            let host = self.up.swap_remove(net.rng.random_range(0..self.up.len()));
            net.note(|| format!("{host:?} fails"));
            net.machine(host).is_down = true;
            self.failed.push(host);
            self.change(net);
        }
    }

    /// Within the grace.
    fn recover(&mut self, net: &mut Network) {
        if let Some(host) = self.failed.pop() {
            net.note(|| format!("{host:?} is up again"));
            net.machine(host).is_down = false;
            self.up.push(host);
            self.change(net);
        }
    }

    /// The grace of a failed host is over, or a draining host's deadline.
    fn cut(&mut self, net: &mut Network) {
        let Some(host) = self.failed.pop().or_else(|| (self.up.len() > 1).then(|| self.up.pop()).flatten())
        else {
            return;
        };
        let to = self.up.first().copied();
        for slot in self.assignment.iter_mut().filter(|slot| **slot == Some(host)) {
            *slot = to;
        }
        net.note(|| format!("{host:?} is cut, {:?}", self.assignment));
        net.bed.cut(host, &self.assignment);
        net.tally.cut += 1;
        self.cut.push(host);
        net.let_off(host);
    }

    fn come_back(&mut self, net: &mut Network) {
        if let Some(host) = self.cut.pop() {
            net.note(|| format!("{host:?} comes back"));
            if net.one_in(2) {
                net.machine(host).forget();
            }
            net.machine(host).is_down = false;
            net.bed.come_back(host);
            self.up.push(host);
            self.change(net);
        }
    }

    /// Nobody speaks any more.
    fn rest(&mut self, net: &mut Network, seed: u64) {
        net.bed.adopt();
        for _ in 0..4 {
            net.bed.pass(ESTABLISHED + 2 * SECOND);
            net.bed.keep_house();
        }
        if net.bed.slots().iter().any(|slot| slot.is_tracked()) {
            panic!("seed {seed}: a slot is still tracked though everything is silent");
        }
        let sweep = net.bed.sweep();
        assert_eq!((sweep.flows, sweep.half_open), (0, 0));
    }
}

fn settle(net: &mut Network) {
    net.bed.settle();
    net.note(|| "slots are settled".into());
}
