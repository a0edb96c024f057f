//! What is done to one plane, in order, and what is written down.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lb_testbed::eventually::eventually;

use crate::choice::Choice;
use crate::figures::{Chosen, DaemonKill, Figures, FullLoad, Kill, Outcome, Restore, Span, milliseconds};
use crate::interrupt::Interrupt;
use crate::load::{Load, Pace};
use crate::stage::{DOWN_GRACE, SERVICE, Stage};
use crate::tally::{self, Excuse};
use crate::text::{self, Voice};
use crate::{keep, wrk};

/// Of the load at full speed, ours and wrk's.
const FULL: Duration = Duration::from_secs(2);
/// Between two requests of a client while something is killed or restored: quick enough to notice everything,
/// slow enough that refused clients do not drown the others.
const PACE: Duration = Duration::from_millis(25);
/// Every client has a connection after this, and every event its effects.
const SETTLE: Duration = Duration::from_millis(500);
/// How long there is no daemon.
const WITHOUT_DAEMON: Duration = Duration::from_secs(2);
/// For a restored backend to get traffic again.
const RESTORED: Duration = Duration::from_secs(15);
/// The place of the backend that is killed.
const VICTIM: usize = 1;

/// Plays it, tells every part as soon as it is over, and takes everything down again, or (`keep`) does not.
///
/// # Errors
/// Something else failed than requests, or it was interrupted.
pub fn play(choice: Choice, is_kept: bool, interrupt: &Interrupt, voice: Voice) -> Result<Outcome> {
    if let Some(reason) = choice.missing() {
        return Ok(Outcome::Skipped { reason });
    }
    let mut stage = Stage::new(choice)?;
    let chosen = Chosen::of(&stage.start()?);
    if chosen.plane != Some(choice.plane()) {
        stage.end()?;
        return Ok(Outcome::Skipped { reason: chosen.reason });
    }
    voice.say(&text::chosen(choice, &chosen));
    let full_load = full_load(&stage, interrupt)?;
    voice.say(&text::full_load(&full_load));
    let mut run = Run { load: load(&stage, Pace::Every(PACE)), stage: &mut stage, interrupt };
    interrupt.wait(SETTLE)?;
    let kill = run.kill()?;
    voice.say(&text::kill(&kill));
    let restore = run.restore()?;
    voice.say(&text::restore(&restore));
    let daemon_kill = choice.is_kernel().then(|| run.kill_daemon()).transpose()?;
    voice.say(&text::daemon_kill(daemon_kill.as_ref()));
    run.load.stop()?;
    if is_kept {
        voice.say_always(&keep::leave(stage)?);
    } else {
        stage.end()?;
    }
    let figures = Figures { ok: false, chosen, full_load, kill, restore, daemon_kill };
    Ok(Outcome::Shown(Box::new(figures.judge())))
}

fn load(stage: &Stage, pace: Pace) -> Load {
    Load::start(&stage.topology.client.namespace, SERVICE, stage.names(), pace)
}

fn full_load(stage: &Stage, interrupt: &Interrupt) -> Result<FullLoad> {
    let load = load(stage, Pace::Full);
    interrupt.wait(FULL)?;
    let during = Duration::ZERO..load.now();
    let record = load.stop()?;
    let wrk_requests_per_s = wrk::run(&stage.topology.client.namespace, SERVICE, FULL)?;
    let span = tally::span(&record, &during, None);
    let distribution = tally::shares(&record.events, &during, &stage.names());
    Ok(FullLoad { span, distribution, wrk_requests_per_s })
}

/// Events under a steady load.
struct Run<'a> {
    load: Load,
    stage: &'a mut Stage,
    interrupt: &'a Interrupt,
}

impl Run<'_> {
    fn kill(&mut self) -> Result<Kill> {
        let victim = self.stage.webs.get_mut(VICTIM).context("no backend to kill")?;
        let backend = victim.id.clone();
        let start = self.load.now();
        victim.kill();
        self.stage.until_out(VICTIM)?;
        let detected = self.load.now();
        // Its old flows are moved after the grace: that must not cost anything either.
        self.interrupt.wait(DOWN_GRACE + SETTLE)?;
        let excuse = Excuse { backend: VICTIM, until: detected };
        let last = self.load.look(|record| tally::last_lost(&record.events, &(start..Duration::MAX)));
        Ok(Kill {
            backend,
            span: self.since(start, Some(excuse)),
            detected_ms: milliseconds(detected - start),
            last_lost_ms: last.map(|last| milliseconds(last.saturating_sub(start))),
        })
    }

    fn restore(&mut self) -> Result<Restore> {
        let start = self.load.now();
        let victim = self.stage.webs.get_mut(VICTIM).context("no backend to restore")?;
        victim.restore()?;
        let listens = self.load.now();
        let backend = victim.id.clone();
        let again = eventually(&format!("{backend} gets traffic again"), RESTORED, || {
            Ok(self.load.look(|record| tally::first_answer(&record.events, VICTIM, start)))
        })?;
        self.interrupt.wait(SETTLE)?;
        let traffic_again_ms = milliseconds(again.saturating_sub(listens));
        Ok(Restore { backend, span: self.since(start, None), traffic_again_ms })
    }

    fn kill_daemon(&mut self) -> Result<DaemonKill> {
        let start = self.load.now();
        self.stage.sluice.kill()?;
        self.interrupt.wait(WITHOUT_DAEMON)?;
        let without = self.load.now() - start;
        let next = Instant::now();
        self.stage.sluice.start()?;
        let ready = next.elapsed();
        self.interrupt.wait(SETTLE)?;
        let span = self.since(start, None);
        Ok(DaemonKill { span, without_ms: milliseconds(without), ready_ms: milliseconds(ready) })
    }

    /// What has ended since then.
    fn since(&self, start: Duration, excuse: Option<Excuse>) -> Span {
        let during = start..self.load.now();
        self.load.look(|record| tally::span(record, &during, excuse))
    }
}
