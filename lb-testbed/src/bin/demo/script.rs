//! What is done to one plane, in order, and what is written down.

use std::time::Duration;

use anyhow::{Context, Result};
use lb_testbed::eventually::eventually;

use crate::choice::Choice;
use crate::figures::{Chosen, DaemonKill, Figures, FullLoad, Kill, Outcome, Restore, milliseconds};
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
    let mut play = Play { stage: &mut stage, interrupt };
    let full_load = play.full_load()?;
    voice.say(&text::full_load(&full_load));
    let kill = play.kill()?;
    voice.say(&text::kill(&kill));
    let restore = play.restore()?;
    voice.say(&text::restore(&restore));
    let daemon_kill = choice.is_kernel().then(|| play.kill_daemon()).transpose()?;
    voice.say(&text::daemon_kill(daemon_kill.as_ref()));
    if is_kept {
        voice.say_always(&keep::leave(stage)?);
    } else {
        stage.end()?;
    }
    let figures = Figures { ok: false, chosen, full_load, kill, restore, daemon_kill };
    Ok(Outcome::Shown(Box::new(figures.judge())))
}

/// One part after another, each under a load of its own, so that what becomes of its last request is its own.
struct Play<'a> {
    stage: &'a mut Stage,
    interrupt: &'a Interrupt,
}

impl Play<'_> {
    fn full_load(&mut self) -> Result<FullLoad> {
        let load = self.load(Pace::Full);
        self.interrupt.wait(FULL)?;
        let record = load.stop()?;
        let wrk_requests_per_s = wrk::run(&self.stage.topology.client.namespace, SERVICE, FULL)?;
        let distribution = tally::shares(&record, &self.stage.names());
        Ok(FullLoad { span: tally::span(&record, Duration::ZERO, None), distribution, wrk_requests_per_s })
    }

    fn kill(&mut self) -> Result<Kill> {
        let load = self.steady_load()?;
        let start = load.now();
        let victim = self.stage.webs.get_mut(VICTIM).context("no backend to kill")?;
        let backend = victim.id.clone();
        victim.kill();
        self.stage.until_out(VICTIM)?;
        let out = load.now();
        // Its old flows are moved after the grace: that must not cost anything either.
        self.interrupt.wait(DOWN_GRACE + SETTLE)?;
        let record = load.stop()?;
        let last = tally::last_lost(&record, start);
        Ok(Kill {
            backend,
            span: tally::span(&record, start, Some(Excuse { backend: VICTIM, until: out })),
            detected_ms: milliseconds(out - start),
            last_lost_ms: last.map(|last| milliseconds(last - start)),
        })
    }

    fn restore(&mut self) -> Result<Restore> {
        let load = self.steady_load()?;
        let start = load.now();
        let victim = self.stage.webs.get_mut(VICTIM).context("no backend to restore")?;
        let backend = victim.id.clone();
        victim.restore()?;
        let listens = load.now();
        let again = eventually(&format!("{backend} gets traffic again"), RESTORED, || {
            Ok(load.look(|record| tally::first_answer(record, VICTIM, start)))
        })?;
        self.interrupt.wait(SETTLE)?;
        let span = tally::span(&load.stop()?, start, None);
        Ok(Restore { backend, span, traffic_again_ms: milliseconds(again.saturating_sub(listens)) })
    }

    fn kill_daemon(&mut self) -> Result<DaemonKill> {
        let load = self.steady_load()?;
        let start = load.now();
        self.stage.sluice.kill()?;
        self.interrupt.wait(WITHOUT_DAEMON)?;
        let next = load.now();
        self.stage.sluice.start()?;
        let ready = load.now();
        self.interrupt.wait(SETTLE)?;
        let span = tally::span(&load.stop()?, start, None);
        Ok(DaemonKill { span, without_ms: milliseconds(next - start), ready_ms: milliseconds(ready - next) })
    }

    /// One in which every client has a connection.
    fn steady_load(&self) -> Result<Load> {
        let load = self.load(Pace::Every(PACE));
        self.interrupt.wait(SETTLE)?;
        Ok(load)
    }

    fn load(&self, pace: Pace) -> Load {
        Load::start(&self.stage.topology.client.namespace, SERVICE, self.stage.names(), pace)
    }
}
