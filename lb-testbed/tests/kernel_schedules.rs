//! The schedules of lb-ebpf once more, on the loaded programs: the same files, their clock a map that the driver writes.
//! Left out are its `races`, which say why.
#![expect(clippy::duplicate_mod, reason = "the same schedules for each program")]

#[path = "kernel_schedules/tc.rs"]
mod tc;
#[path = "kernel_schedules/xdp.rs"]
mod xdp;

use std::collections::BTreeMap;
use std::ops::Range;

/// Random schedules for each program and protocol; `SLUICE_TEST_SEEDS` asks for another number.
const SEEDS: u64 = 4;

fn seeds() -> Range<u64> {
    let number = std::env::var("SLUICE_TEST_SEEDS").ok().and_then(|text| text.parse().ok());
    0..number.unwrap_or(SEEDS)
}

/// The schedules were not empty: this has happened to many packets.
fn judge(sums: &BTreeMap<&str, u64>, what: &str) {
    println!("{sums:?}");
    assert!(sums.get(what).is_some_and(|count| *count > 50), "{what}: {sums:?}");
}
