//! What the kernel's verifier makes of the programs.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::EbpfLoader;
use aya::programs::Program;

/// Instructions that the verifier follows before it gives up (`BPF_COMPLEXITY_LIMIT_INSNS` in linux/bpf.h).
pub(super) const LIMIT: u32 = 1_000_000;

/// By name of the program.
pub(super) type Measured = HashMap<String, Verified>;

/// One loaded program.
pub(super) struct Verified {
    /// Instructions that the verifier followed, over all paths.
    pub(super) instructions: u32,
    /// Of the whole load: verifier and compiler to machine code.
    pub(super) took: Duration,
}

/// Loads every program, attaches none, and lets them go again.
pub(super) fn measure(object: &[u8]) -> Result<Measured> {
    let mut ebpf = EbpfLoader::new().load(object).context("the kernel refused the object's maps or types")?;
    let load = |(name, program): (&str, &mut Program)| {
        let start = Instant::now();
        match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            other => bail!("program {name} is a {:?}, which is not known here", other.prog_type()),
        }
        .with_context(|| format!("the verifier refused program {name}"))?;
        let took = start.elapsed();
        let info = program.info().with_context(|| format!("cannot read back program {name}"))?;
        let instructions = info.verified_instruction_count().unwrap_or_default();
        Ok((name.to_owned(), Verified { instructions, took }))
    };
    ebpf.programs_mut().map(load).collect()
}
