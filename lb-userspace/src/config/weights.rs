//! `weights`, `[pool.adaptive]` and `[pool.slow_start]`.

use std::time::Duration;

use crate::model::{Adaptive, SlowStart, Weights};

use super::problem::Fault;
use super::scalar::word;
use super::section::Section;
use super::values::{duration_or_zero, integer};
use super::words::{self, WeightsKind};

/// Slots of a table that may move in a second where the file says nothing: one in fifty.
const BUDGET: u32 = 50;

/// Reads both sections of a pool whose tables have `table_size` slots.
pub(super) fn weights(pool: &mut Section<'_, '_>, table_size: u32) -> Weights {
    let kind = pool.or("weights", WeightsKind::Static, word(words::WEIGHTS));
    let mut s = pool.section("adaptive");
    if s.is_written() && kind == WeightsKind::Static {
        let fault = Fault::new("means nothing with weights = \"static\"");
        s.report.fault(&s.path, fault.hint("write weights = \"adaptive\" in the pool, or leave it out"));
    }
    let adaptive = Adaptive {
        slots_per_second: s.or(
            "slots_per_second",
            (table_size / BUDGET).max(1),
            integer(1..=table_size.max(1)),
        ),
        least: s.or("least", 10, integer(1..=100)),
    };
    s.finish();
    match kind {
        WeightsKind::Static => Weights::Static,
        WeightsKind::Adaptive => Weights::Adaptive(adaptive),
    }
}

/// Reads `[pool.slow_start]`.
pub(super) fn slow_start(mut s: Section<'_, '_>) -> SlowStart {
    let default = SlowStart::default();
    let slow_start = SlowStart {
        time: s.or("time", Duration::ZERO, duration_or_zero),
        least: s.or("least", default.least, integer(1..=100)),
    };
    s.finish();
    slow_start
}
