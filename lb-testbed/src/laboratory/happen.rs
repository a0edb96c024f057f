//! How each event is made to happen, and what it may break.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::event::Event;
use super::report::{Casualty, Excuse, Group};
use super::{BACKENDS, DEADLINE, DRAIN, INTERVAL, Laboratory, SPARE, pins};
use crate::client::long::LongFlows;
use crate::eventually::eventually;
use crate::object;
use crate::takeover::Takeover;

/// Between two changes of the weights.
const FLIP: Duration = Duration::from_millis(200);
/// How long a backend stops, and then goes on.
const HALF_PERIOD: Duration = Duration::from_millis(500);
/// What it takes to write down a time, on a busy machine; and the longest that a new flow takes.
const NOTICE: Duration = Duration::from_millis(200);
/// The backend that something happens to.
const VICTIM: usize = 0;

/// What is left of an event.
pub(super) struct Aftermath {
    pub(super) excuse: Excuse,
    pub(super) detected: Vec<Duration>,
    /// With the beginning of their clock.
    pub(super) young: Option<(LongFlows, Instant)>,
}

impl Aftermath {
    /// Nothing may be broken.
    fn none() -> Self {
        Self { excuse: Box::new(|_| false), detected: Vec::new(), young: None }
    }

    /// Flows of a backend may end from its time on.
    fn ends(ends: BTreeMap<String, Instant>) -> Self {
        let excuse =
            move |casualty: &Casualty| ends.get(&casualty.backend).is_some_and(|end| casualty.at >= *end);
        Self { excuse: Box::new(excuse), ..Self::none() }
    }
}

impl Laboratory {
    pub(super) fn happen(&mut self, event: Event) -> anyhow::Result<Aftermath> {
        let scale = self.scale;
        match event {
            Event::Nothing => self.pass(scale.quiet)?,
            Event::AddOne => self.add(1)?,
            Event::AddEight => self.add(SPARE)?,
            Event::RemoveDrained => return self.remove_drained(),
            Event::Weights => self.flip_weights()?,
            Event::Flapping => self.flap()?,
            Event::Rolling => return self.replace_all(),
            Event::Reload => {
                for turn in 0..scale.repeats {
                    self.bed.reload(&self.bed.config(&[100, if turn % 2 == 0 { 200 } else { 100 }, 100]))?;
                }
            }
            Event::Restart => {
                ensure!(self.bed.sluice.stop(DEADLINE)?.success(), "{}", self.bed.sluice.log());
                self.bed.sluice.start()?;
            }
            Event::Program => self.replace_programs()?,
            Event::Kill => {
                self.bed.sluice.kill()?;
                self.pass(scale.down)?;
                self.bed.sluice.start()?;
            }
            Event::Killed | Event::Unplugged | Event::Silenced => return self.die(event),
            Event::Wiped => pins::wipe(&self.bed.sluice.bpf_dir())?,
            Event::WipedInChange => return self.wipe_in_change(),
            Event::Shifted => {
                let bpf_dir = self.bed.sluice.bpf_dir();
                let slots = pins::shift(&bpf_dir)?;
                self.pass(INTERVAL * 2)?;
                pins::write(&bpf_dir, &slots)?;
            }
        }
        Ok(Aftermath::none())
    }

    /// Adds so many backends; they have flows when this returns.
    fn add(&self, more: usize) -> anyhow::Result<()> {
        let members: Vec<_> = (0..BACKENDS + more).collect();
        self.serve_by(&members)
    }

    /// Puts these backends in the config; all of them serve when this returns.
    fn serve_by(&self, members: &[usize]) -> anyhow::Result<()> {
        self.bed.reload(&self.bed.config_of(members.iter().map(|member| (*member, 100))))?;
        eventually("they serve", DEADLINE, || {
            let pool = self.bed.pool()?;
            let serving = pool.backends.iter().filter(|backend| backend.state == "up" && backend.slots > 0);
            ensure!(serving.count() == members.len(), "{pool:?}");
            Ok(Some(()))
        })
    }

    fn drain(&self, server: usize) -> anyhow::Result<(String, Instant)> {
        let server = &self.bed.servers[server];
        let drained = Instant::now();
        self.bed.backend("drain", server, &[])?;
        Ok((server.id().to_owned(), drained + DRAIN - NOTICE))
    }

    fn all_have_left(&self) -> anyhow::Result<()> {
        eventually("who was removed has left", DEADLINE, || {
            let pool = self.bed.pool()?;
            ensure!(pool.leaving.is_empty(), "{:?}", pool.leaving);
            Ok(Some(()))
        })
    }

    /// Ends who has left, as an operator does who took it out, and starts another in its place. Its end of flows that were cut
    /// is open still: a client that came with the port of one would be challenged (RFC 5961), and try again after a
    /// second.
    fn renew(&mut self, left: impl IntoIterator<Item = usize>) -> anyhow::Result<()> {
        for server in left {
            let server = &mut self.bed.servers[server];
            server.kill();
            server.resume()?;
        }
        Ok(())
    }

    fn remove_drained(&mut self) -> anyhow::Result<Aftermath> {
        let end = self.drain(BACKENDS - 1)?;
        self.pass(DRAIN / 2)?;
        self.serve_by(&[0, 1])?;
        self.all_have_left()?;
        self.renew([BACKENDS - 1])?;
        Ok(Aftermath::ends([end].into()))
    }

    fn replace_all(&mut self) -> anyhow::Result<Aftermath> {
        let mut members: Vec<usize> = (0..BACKENDS).collect();
        let mut ends = BTreeMap::new();
        let mut young = None;
        for old in 0..BACKENDS {
            members.push(BACKENDS + old);
            self.serve_by(&members)?;
            ends.extend([self.drain(old)?]);
            if old == BACKENDS / 2 {
                young = Some(self.open_flows(self.scale.flows.div_ceil(4))?);
            }
            self.pass(self.scale.rest)?;
            members.remove(0);
            self.serve_by(&members)?;
        }
        self.all_have_left()?;
        self.renew(0..BACKENDS)?;
        Ok(Aftermath { young, ..Aftermath::ends(ends) })
    }

    fn flip_weights(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut flips = 0;
        while start.elapsed() < self.scale.weights {
            let weights = if flips % 2 == 0 { ["300", "10"] } else { ["100", "100"] };
            for (server, weight) in self.bed.servers.iter().zip(weights) {
                self.bed.backend("weight", server, &[weight])?;
            }
            flips += 1;
            self.pass((FLIP * flips).saturating_sub(start.elapsed()))?;
        }
        for server in &self.bed.servers[..2] {
            self.bed.backend("weight", server, &["100"])?;
        }
        Ok(())
    }

    fn flap(&self) -> anyhow::Result<()> {
        // Two checks must fail while it stands still.
        self.bed.reload(&self.bed.config(&[100; BACKENDS]).replace("\"300ms\"", "\"100ms\""))?;
        let victim = &self.bed.servers[VICTIM];
        let start = Instant::now();
        let (mut turns, mut changes, mut last) = (0, 0, true);
        while start.elapsed() < self.scale.flapping {
            victim.freeze(turns % 2 == 0)?;
            turns += 1;
            self.pass((HALF_PERIOD * turns).saturating_sub(start.elapsed()))?;
            let serves = self.bed.pool()?.backends[VICTIM].slots > 0;
            changes += u32::from(serves != last);
            last = serves;
        }
        victim.freeze(false)?;
        ensure!(changes > 1, "its health has changed {changes} times in {turns} turns");
        Ok(())
    }

    fn replace_programs(&self) -> anyhow::Result<()> {
        let ours = object::bytes()?;
        let other = object::rebuilt(&ours)?;
        for object in [&other, &ours].into_iter().cycle().take(self.scale.repeats as usize) {
            let bpf_dir = &self.bed.sluice.bpf_dir();
            let (plane, flows) = (self.plane, self.scale.table);
            Takeover { bpf_dir, plane, object, flows, own_map: None }.run()?;
        }
        Ok(())
    }

    /// A backend dies and comes back, again and again.
    fn die(&mut self, death: Event) -> anyhow::Result<Aftermath> {
        let id = self.bed.servers[VICTIM].id().to_owned();
        let first = Instant::now();
        let (mut detected, mut windows) = (Vec::new(), Vec::new());
        for _ in 0..self.scale.deaths {
            let dies = Instant::now();
            self.set_dead(death, true)?;
            eventually("the dead has no slots", DEADLINE, || {
                let status = self.bed.sluice.status_at_once()?;
                let victim = status.pools[0].backends.get(VICTIM).context("no victim")?;
                Ok((victim.slots == 0).then_some(()))
            })?;
            detected.push(dies.elapsed());
            windows.push(dies - NOTICE..Instant::now() + NOTICE);
            self.set_dead(death, false)?;
            self.serve_by(&(0..BACKENDS).collect::<Vec<_>>())?;
        }
        let excuse = move |casualty: &Casualty| match casualty.group {
            Group::New => windows.iter().any(|window| window.contains(&casualty.at)),
            _ => casualty.backend == id && casualty.at >= first,
        };
        Ok(Aftermath { excuse: Box::new(excuse), detected, young: None })
    }

    fn set_dead(&mut self, death: Event, dead: bool) -> anyhow::Result<()> {
        let host = &self.bed.topology.backends[VICTIM];
        match (death, dead) {
            (Event::Killed, true) => self.bed.servers[VICTIM].kill(),
            (Event::Killed, false) => self.bed.servers[VICTIM].resume()?,
            (Event::Unplugged, true) => host.cut()?,
            (Event::Unplugged, false) => host.mend()?,
            // It sends nothing but ARP, so nobody can tell where the silence comes from.
            (_, dead) => {
                let verb = if dead { "add" } else { "delete" };
                host.namespace.ip(&format!("rule {verb} pref 1 iif lo blackhole"))?;
            }
        }
        Ok(())
    }

    fn wipe_in_change(&self) -> anyhow::Result<Aftermath> {
        let bpf_dir = self.bed.sluice.bpf_dir();
        let changes = Instant::now();
        self.add(1)?;
        let slots = pins::slots(&bpf_dir)?;
        let moved: BTreeSet<_> =
            (0..slots.len()).filter(|slot| slots[*slot].current() != slots[*slot].fallback()).collect();
        ensure!(!moved.is_empty(), "no slot has moved");
        let (young, opened) = self.open_flows(self.scale.flows.div_ceil(4))?;
        pins::wipe(&bpf_dir)?;
        let wiped = Instant::now();
        let (count, seed, vip) = (slots.len(), crate::takeover::seed(&bpf_dir)?, self.bed.target());
        let excuse = move |casualty: &Casualty| match casualty.group {
            Group::Long => false,
            Group::Young => {
                casualty.client.is_some_and(|client| moved.contains(&pins::slot_of(client, vip, seed, count)))
            }
            Group::New => (changes..wiped + NOTICE).contains(&casualty.at),
        };
        Ok(Aftermath { excuse: Box::new(excuse), young: Some((young, opened)), detected: Vec::new() })
    }
}
