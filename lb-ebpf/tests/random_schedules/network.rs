//! Clients, balancer and hosts, and the judge between them: it knows who holds which connection, and follows
//! every packet.

use std::net::SocketAddr;

use lb_common::Slot;
use lb_common::ticks::{self, SECOND};
use lb_testbed::schedule::internet::{Machine, Peer, Phase};
use lb_testbed::schedule::{Host, Memory, Outcome};
use lb_testbed::segment::{ACK, FIN, RST, SYN, Tcp};
use lb_testbed::world::{CLOSING, ESTABLISHED, HALF_OPEN};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Bed;

/// A client, and what the balancer owes its connection.
pub struct Subject {
    pub peer: Peer,
    /// When the balancer last saw a packet of it.
    pub spoke: u32,
    /// How long it may be silent while its slot is tracked.
    patience: u32,
    /// Its flow has kept to the limits that the data path states.
    pub is_protected: bool,
    /// When the balancer last sent its SYN to each host.
    syn_at: [Option<u32>; 4],
    /// Its SYN met a closing entry and could not be remembered: it has that entry's time-out.
    inherited_closing: bool,
}

/// How often the interesting things happened.
#[derive(Debug, Default)]
pub struct Tally {
    pub to_fallback: u64,
    pub to_other: u64,
    pub proven: u64,
    pub refused: u64,
    pub settled: u64,
    pub marked: u64,
    pub untracked: u64,
    pub cut: u64,
    pub judged: u64,
    pub interrupted: u64,
}

pub struct Network {
    pub bed: Bed,
    pub rng: StdRng,
    pub subjects: Vec<Subject>,
    pub machines: [Machine; 4],
    /// On their way from a host to the balancer.
    pub wire: Vec<(Host, Tcp)>,
    pub tally: Tally,
    /// The daemon runs.
    pub is_led: bool,
    /// The insert guard refuses everything.
    pub is_guarded: bool,
    slots: Vec<Slot>,
    slots_noted: Vec<Slot>,
    tracked_since: Vec<Option<u32>>,
    seed: u64,
    events: Vec<String>,
}

impl Tally {
    pub fn named(&self) -> [(&'static str, u64); 10] {
        [
            ("a packet to the fallback", self.to_fallback),
            ("a packet to neither current nor fallback", self.to_other),
            ("a packet of a proven half-open flow", self.proven),
            ("a refused SYN", self.refused),
            ("a settled slot", self.settled),
            ("a marked slot", self.marked),
            ("an untracked slot", self.untracked),
            ("a cut", self.cut),
            ("a judgement", self.judged),
            ("an interruption", self.interrupted),
        ]
    }
}

impl Subject {
    /// It opens another connection.
    pub fn begin(&mut self, isn: u32) -> Tcp {
        self.is_protected = false;
        self.inherited_closing = false;
        self.syn_at = [None; 4];
        self.peer.open(isn)
    }
}

impl Network {
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let slots = rng.random_range(1..=4);
        let mut bed = Bed::new(slots);
        if rng.random_range(0..4) == 0 {
            bed.track_always();
        }
        bed.limit(Memory::HalfOpen, rng.random_range(0..6));
        bed.limit(Memory::Flows, rng.random_range(0..8));
        let subject = |port| Subject {
            peer: Peer::new(SocketAddr::from(([203, 0, 113, 7], port))),
            spoke: 0,
            patience: 0,
            is_protected: false,
            syn_at: [None; 4],
            inherited_closing: false,
        };
        Self {
            bed,
            rng,
            subjects: (40000..40008).map(subject).collect(),
            machines: Host::ALL.map(Machine::new),
            wire: Vec::new(),
            tally: Tally::default(),
            is_led: true,
            is_guarded: false,
            slots: Vec::new(),
            slots_noted: Vec::new(),
            tracked_since: vec![None; slots as usize],
            seed,
            events: Vec::new(),
        }
    }

    pub fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    pub fn note(&mut self, event: impl FnOnce() -> String) {
        let line = format!("{} {}", self.bed.now().wrapping_add(60_000), event());
        self.events.push(line);
    }

    /// Stops with what happened to a client's flow and to the slots.
    #[track_caller]
    pub fn violation(&self, client: SocketAddr, what: &str) -> ! {
        let client = client.to_string();
        let concern = |line: &&String| line.contains(&client) || !line.contains("->");
        let mut events: Vec<_> = self.events.iter().rev().filter(concern).take(100).cloned().collect();
        events.reverse();
        let (seed, slots, events) = (self.seed, self.bed.slots(), events.join("\n"));
        panic!("seed {seed}: {what}\nslots {slots:?}\n{events}");
    }

    pub fn machine(&mut self, host: Host) -> &mut Machine {
        &mut self.machines[host as usize - 1]
    }

    /// Looks at the slots after the controller did something.
    pub fn observe(&mut self) {
        let now = self.bed.now();
        for (old, new) in self.slots.iter().zip(self.bed.slots()) {
            let had_lived = Host::ALL.into_iter().any(|host| self.bed.id(host) == old.fallback());
            self.tally.settled += u64::from(had_lived && old.fallback() != new.fallback());
            self.tally.marked += u64::from(new.is_settling() && !old.is_settling());
        }
        self.slots = self.bed.slots().to_vec();
        for (since, slot) in self.tracked_since.iter_mut().zip(self.bed.slots()) {
            if since.is_some() && !slot.is_tracked() {
                self.tally.untracked += 1;
            }
            *since = slot.is_tracked().then(|| since.unwrap_or(now));
            assert!(slot.is_tracked() || slot.current() == slot.fallback(), "seed {}", self.seed);
        }
        if self.slots_noted != self.slots {
            self.slots_noted = self.slots.clone();
            let slots = self.slots.iter().map(|slot| describe_slot(*slot)).collect::<Vec<_>>();
            self.note(|| format!("slots {}", slots.join(" ")));
        }
        self.judge_silence();
    }

    /// Takes the protection from flows that have been silent for too long in a tracked slot: a limit that is
    /// stated. An entry's life is written down once a second, so it may end a second early.
    pub fn judge_silence(&mut self) {
        let now = self.bed.now();
        for subject in &mut self.subjects {
            let Some(since) = self.tracked_since[self.bed.slot_of(subject.peer.address)] else { continue };
            let silent = now.wrapping_sub(subject.spoke).min(now.wrapping_sub(since));
            let slack = if subject.patience == HALF_OPEN { 0 } else { SECOND };
            subject.is_protected &= silent <= subject.patience.saturating_sub(slack);
        }
    }

    /// A packet of client number `index` sets out.
    pub fn client_sends(&mut self, index: usize, packet: &Tcp) {
        if self.one_in(20) {
            return self.note(|| format!("{} lost", describe(packet)));
        }
        let host = self.subjects[index].peer.host().filter(|_| packet.flags & SYN == 0);
        let is_ambiguous = packet.flags & RST != 0 && host.is_some_and(|host| self.has_rival(index, host));
        let outcome = self.carry(packet);
        let now = self.bed.now();
        let subject = &self.subjects[index];
        if let Some(host) = host
            && subject.is_protected
            && !is_ambiguous
        {
            self.tally.judged += 1;
            if outcome != Outcome::To(host) {
                self.violation(
                    packet.source,
                    &format!("a packet of a live flow of {host:?} went {outcome:?}"),
                );
            }
            self.count_kind(index, host);
        }
        if packet.flags & SYN != 0 {
            self.syn_went(index, outcome);
        } else if host.is_some() {
            let subject = &mut self.subjects[index];
            subject.spoke = now;
            let closes = packet.flags & (FIN | RST) != 0 || subject.inherited_closing;
            subject.patience = if closes || subject.patience == CLOSING { CLOSING } else { ESTABLISHED };
        }
        if let Outcome::To(host) = outcome
            && !self.one_in(20)
        {
            let isn = (host as u32) << 28 | self.rng.random::<u32>() >> 4;
            if let Some(answer) = self.machine(host).hear(packet, isn) {
                self.host_sends(host, answer);
            }
        }
    }

    /// Whether a half-open entry remembers the client's SYN for another host than the one it has accepted.
    fn has_rival(&self, index: usize, host: Host) -> bool {
        let peer = &self.subjects[index].peer;
        let half = self.bed.half_open(peer.address);
        half.is_some_and(|half| half.isn == peer.isn && half.backend != self.bed.id(host))
    }

    fn count_kind(&mut self, index: usize, host: Host) {
        let slot = self.bed.slots()[self.bed.slot_of(self.subjects[index].peer.address)];
        let id = self.bed.id(host);
        let address = self.subjects[index].peer.address;
        self.tally.to_fallback += u64::from(slot.fallback() == id && slot.current() != id);
        self.tally.to_other += u64::from(slot.fallback() != id);
        let proven = self.bed.half_open(address).is_some_and(|half| half.proven != 0);
        self.tally.proven += u64::from(proven);
    }

    fn syn_went(&mut self, index: usize, outcome: Outcome) {
        let Outcome::To(host) = outcome else { return };
        let now = self.bed.now();
        let address = self.subjects[index].peer.address;
        let is_tracked = self.bed.slots()[self.bed.slot_of(address)].is_tracked();
        let id = self.bed.id(host);
        let closing = self.bed.flow(address).is_some_and(|flow| flow.closing != 0);
        let subject = &mut self.subjects[index];
        let half = self.bed.half_open(address).is_some_and(|half| {
            half.isn == subject.peer.isn && half.backend == id && !ticks::is_past(half.expires, now)
        });
        self.tally.refused += u64::from(is_tracked && !half);
        subject.inherited_closing |= is_tracked && closing && !half;
        subject.syn_at[host as usize - 1] = Some(now);
    }

    /// A packet of a host sets out: it arrives, is lost, or is late.
    pub fn host_sends(&mut self, host: Host, packet: Tcp) {
        if self.one_in(20) {
            self.note(|| format!("{} lost", describe(&packet)));
        } else if self.one_in(4) {
            self.wire.push((host, packet));
        } else {
            self.host_packet_arrives(host, &packet);
        }
    }

    /// A packet of a host arrives at the balancer.
    pub fn host_packet_arrives(&mut self, host: Host, packet: &Tcp) {
        let client = packet.destination;
        let Some(index) = self.subjects.iter().position(|subject| subject.peer.address == client) else {
            return;
        };
        let now = self.bed.now();
        let is_cut = !self.bed.id(host).is_some();
        let subject = &self.subjects[index];
        let isn = subject.peer.isn;
        let syn_at = subject.syn_at[host as usize - 1].filter(|at| now.wrapping_sub(*at) <= HALF_OPEN);
        let is_answer = packet.flags & SYN != 0 && packet.ack == isn.wrapping_add(1);
        if is_answer && syn_at.is_none() {
            // A limit that is stated: a handshake that takes longer than the half-open time.
            return self.note(|| format!("{} is too late", describe(packet)));
        }
        let is_owed = match subject.peer.phase {
            Phase::Opening => is_answer && !is_cut,
            Phase::Open(holder) | Phase::Closing(holder) => {
                let holds = self.machines[host as usize - 1].holds(client, isn);
                // Not a packet of the tuple's last connection that was under way for long.
                let is_of_it = packet.ack.wrapping_sub(isn) < 1 << 16;
                subject.is_protected && holder == host && holds && is_of_it
            }
            Phase::Closed => false,
        };
        let outcome = self.carry(packet);
        self.tally.judged += u64::from(is_owed);
        if outcome != Outcome::Replied {
            if is_owed {
                self.violation(client, &format!("a reply of {host:?} to a live flow was {outcome:?}"));
            }
            return;
        }
        if self.one_in(20) {
            return;
        }
        let subject = &mut self.subjects[index];
        let was_protected = subject.is_protected;
        let was = subject.peer.phase;
        let answer = subject.peer.hear(packet, host);
        if subject.peer.phase == Phase::Closed
            && was != Phase::Closed
            && subject.peer.was_reset
            && was_protected
        {
            self.violation(client, &format!("a live flow of {host:?} was reset"));
        }
        if let (Phase::Opening, Phase::Open(_)) = (was, subject.peer.phase) {
            subject.spoke = syn_at.unwrap_or(now);
            subject.patience = HALF_OPEN;
            // A SYN-ACK from before its host forgot everything opens nothing.
            let is_held =
                self.machines[host as usize - 1].sends(client, isn) == Some(packet.seq.wrapping_add(1));
            subject.is_protected = !is_cut && is_held;
            self.note(|| format!("{client} is open on {host:?}"));
        }
        if [Phase::Open(host), Phase::Closing(host)].contains(&was) {
            let expects = self.subjects[index].peer.expects;
            self.machine(host).was_heard(client, isn, expects);
        }
        if let Some(answer) = answer {
            self.client_sends(index, &answer);
        }
    }

    /// What its host has taken in, the client need not send again.
    pub fn catch_up(&mut self, index: usize) {
        let peer = &mut self.subjects[index].peer;
        if let Some(host) = peer.host()
            && let Some(expects) = self.machines[host as usize - 1].expects(peer.address, peer.isn)
        {
            peer.sends = expects;
        }
    }

    /// The host was cut: nobody owes its flows anything.
    pub fn let_off(&mut self, host: Host) {
        for subject in &mut self.subjects {
            subject.is_protected &= subject.peer.host() != Some(host);
            subject.syn_at[host as usize - 1] = None;
        }
    }

    /// Through the balancer; now and then something happens on the way.
    pub fn carry(&mut self, packet: &Tcp) -> Outcome {
        let outcome = if self.one_in(10) { self.carry_while(packet) } else { self.bed.send(packet) };
        self.note(|| format!("{} {outcome:?}", describe(packet)));
        outcome
    }

    /// Something happens on the way, if the packet takes so many steps.
    fn carry_while(&mut self, packet: &Tcp) -> Outcome {
        let operations = self.rng.random_range(0..8);
        // The copy of a RST finds that the handshake is gone, which it may.
        let what = match self.rng.random_range(0..if self.is_led { 3 } else { 1 }) {
            0 if packet.flags & RST == 0 => "a copy",
            1 => "a sweep",
            2 => "slots are marked",
            _ => "nothing",
        };
        let (outcome, was_interrupted) = self.bed.send_while(packet, operations, |bed| match what {
            "a copy" => drop(bed.send(packet)),
            "a sweep" => drop(bed.sweep()),
            "slots are marked" => bed.begin_settling(),
            _ => {}
        });
        if was_interrupted {
            self.tally.interrupted += 1;
            self.note(|| format!("{what} came between:"));
            self.bed.end_grace();
        }
        outcome
    }
}

fn describe(packet: &Tcp) -> String {
    let names = [(SYN, "SYN "), (ACK, "ACK "), (FIN, "FIN "), (RST, "RST ")];
    let flags: String =
        names.iter().filter(|(flag, _)| packet.flags & flag != 0).map(|(_, name)| *name).collect();
    let (from, to, length) = (packet.source, packet.destination, packet.payload.len());
    format!("{from} -> {to} {flags}{:x} {:x} ({length})", packet.seq, packet.ack)
}

fn describe_slot(slot: Slot) -> String {
    let name = |id: lb_common::BackendId| format!("{}.{}", id.index(), id.generation());
    let mark = if slot.is_settling() { "!" } else { "" };
    match (name(slot.current()), slot.is_tracked()) {
        (current, false) => current,
        (current, true) => format!("{{{current} {}{mark}}}", name(slot.fallback())),
    }
}
