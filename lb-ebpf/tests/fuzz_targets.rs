//! The fuzz targets on inputs that need no fuzzer: the packet table, the corpus, and random changes of both.

use std::path::Path;
use std::{fs, io};

use lb_testbed::{fuzzing, mutation};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Of each target.
const RUNS: usize = 20_000;

/// Inputs that a fuzzer found worth keeping.
fn corpus(target: &str) -> io::Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    fs::read_dir(folder)?.map(|entry| fs::read(entry?.path())).collect()
}

fn holds(target: &str, seeds: Vec<Vec<u8>>, run: impl Fn(&[u8])) -> io::Result<()> {
    let inputs = [corpus(target)?, seeds].concat();
    inputs.iter().for_each(|input| run(input));
    let mut random = StdRng::seed_from_u64(1);
    (0..RUNS).for_each(|_| run(&mutation::frame(&mut random, &inputs)));
    Ok(())
}

#[test]
fn any_frames() -> io::Result<()> {
    holds("frames", fuzzing::seeds(), fuzzing::frames)
}

#[test]
fn a_round_trip_of_any_payload() -> io::Result<()> {
    holds("round_trip", Vec::new(), fuzzing::round_trip)
}

#[test]
fn any_quote_in_an_icmp_error() -> io::Result<()> {
    holds("quote", Vec::new(), fuzzing::quote)
}
