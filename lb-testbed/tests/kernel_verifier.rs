//! The verifier accepts every program, within a budget.

use anyhow::Result;
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use lb_common::names;

/// Half of what the kernel allows (`BPF_COMPLEXITY_LIMIT_INSNS` is one million) leaves room for older kernels.
const BUDGET: u32 = 500_000;

fn load() -> Result<Ebpf> {
    let object = lb_testbed::object::bytes()?;
    Ok(EbpfLoader::new().map_max_entries("FLOWS", 1024).load(&object)?)
}

#[test]
fn every_program_loads_within_the_budget() -> Result<()> {
    let mut ebpf = load()?;
    let mut loaded = 0;
    for (name, program) in ebpf.programs_mut() {
        let info = match program {
            Program::Xdp(program) => {
                program.load()?;
                program.info()?
            }
            Program::SchedClassifier(program) => {
                program.load()?;
                program.info()?
            }
            Program::CgroupSockAddr(program) => {
                program.load()?;
                program.info()?
            }
            _ => continue,
        };
        let verified = info.verified_instruction_count().unwrap_or_default();
        println!("{name}: {verified} instructions verified");
        assert!(verified < BUDGET, "{name}: {verified} instructions verified, the budget is {BUDGET}");
        loaded += 1;
    }
    // sluice_xdp, sluice_tc, one for the rare packets of each, and sluice_pass.
    assert_eq!(loaded, 5 + names::PROGRAMS_LOCAL.len());
    Ok(())
}
