//! `[pool.outlier]`.

use crate::model::Outlier;

use super::problem::Fault;
use super::section::Section;
use super::values::{duration, integer};

/// Reads the section; `None` where it is missing.
pub(super) fn outlier(mut s: Section<'_, '_>) -> Option<Outlier> {
    if !s.is_written() {
        return None;
    }
    let default = Outlier::default();
    let ejection = s.or("ejection", default.ejection, duration);
    let outlier = Outlier {
        consecutive: s.or("consecutive", default.consecutive, integer(1..=1_000_000)),
        share: s.or("share", default.share, integer(1..=100)),
        volume: s.or("volume", default.volume, integer(1..=1_000_000)),
        window: s.or("window", default.window, duration),
        ejection,
        longest: s.or("longest", default.longest.max(ejection), duration),
        most: s.or("most", default.most, integer(0..=100)),
        panic: s.or("panic", default.panic, integer(0..=100)),
    };
    if outlier.longest < ejection {
        let reason = format!("is shorter than the first ejection, {}", humantime::format_duration(ejection));
        s.report.fault(&s.at("longest"), Fault::new(reason).hint("each ejection in a row is twice as long"));
    }
    s.finish();
    Some(outlier)
}
