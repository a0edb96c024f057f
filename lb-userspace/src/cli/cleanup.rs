//! `sluice cleanup`: the host as it was before the first daemon.

use std::fmt::Write;
use std::path::Path;

use crate::config::{self, Config};
use crate::kernel::{self, Report};
use crate::network::{NetworkError, addresses, neighbours, qdiscs};

use super::output::print;
use super::{Failure, runtime};

/// Takes programs, maps, addresses and neighbours away that a daemon with this config has left.
pub fn cleanup(file: &Path) -> Result<(), Failure> {
    let config = Config::load(file, &config::environment()).map_err(Failure::ConfigInvalid)?;
    let report = kernel::cleanup(&config.daemon.bpf_dir)?;
    let (qdiscs, addresses, neighbours) = runtime()?.block_on(async {
        let qdiscs = qdiscs::release(&report.qdiscs).await?;
        Ok::<_, NetworkError>((qdiscs, addresses::release().await?, neighbours::release().await?))
    })?;
    let mut text = words(&report);
    for interface in qdiscs {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "clsact qdisc of interface {interface} removed");
    }
    for address in addresses {
        let _ = writeln!(text, "address {address} taken off");
    }
    if neighbours > 0 {
        let _ = writeln!(text, "{neighbours} neighbours let go");
    }
    if text.is_empty() {
        text.push_str("nothing was there\n");
    }
    print(&text)
}

/// A line for each thing that was removed or left.
pub(super) fn words(report: &Report) -> String {
    let mut text = String::new();
    for link in &report.links {
        let _ = writeln!(text, "detached {link}");
    }
    if report.programs + report.maps > 0 {
        let _ = writeln!(text, "{} programs and {} maps unpinned", report.programs, report.maps);
    }
    for path in &report.left {
        let _ = writeln!(text, "{} is not ours: left alone", path.display());
    }
    text
}
