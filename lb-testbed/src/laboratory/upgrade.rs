//! One build of the daemon after another.

use std::path::Path;

use anyhow::{Context, ensure};

use super::event::Event;
use super::report::{Excuse, Group, Report, Sheet};
use super::{DEADLINE, Laboratory};

impl Laboratory {
    /// Under load the daemon, which is `ours`, ends, `other` takes its place, and then `ours` again. Judges, and tells what the
    /// other said where it refused.
    ///
    /// # Errors
    /// A daemon does not end, does not answer, or ours does not come back; never what happens to the flows.
    pub fn replace(&mut self, ours: &Path, other: &Path) -> anyhow::Result<(Report, Option<String>)> {
        let load = self.load().context("the load")?;
        self.pass(self.scale.rest)?;
        self.stop()?;
        let told = self.bed.sluice.log().len();
        self.bed.sluice.use_build(other);
        let ended = self.bed.sluice.try_start()?;
        let log = self.bed.sluice.log();
        let reason = || log.get(told..)?.lines().last().map(str::to_owned);
        let refused = ended.map(|ended| reason().unwrap_or_else(|| ended.to_string()));
        self.pass(self.scale.rest)?;
        if refused.is_none() {
            self.stop()?;
        }
        self.bed.sluice.use_build(ours);
        let ended = self.bed.sluice.try_start()?;
        ensure!(ended.is_none(), "ours did not come back: {}", self.bed.sluice.log());
        self.pass(self.scale.rest)?;

        let mut sheet = Sheet { start: load.start, ..Sheet::new() };
        sheet.add_new(load.churn.stop()?, load.begun);
        sheet.add_long(Group::Long, load.long.finish()?, load.opened);
        self.stop()?;
        let excuse: Excuse = Box::new(|_| false);
        Ok((sheet.judge(self.plane, Event::Restart, &excuse, &[]), refused))
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        ensure!(self.bed.sluice.stop(DEADLINE)?.success(), "{}", self.bed.sluice.log());
        Ok(())
    }
}
