//! The kernel object that the tests load.

use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result};
use lb_common::names;
use object::read::File;
use object::{Object as _, ObjectSection, ObjectSymbol};

/// The object that `cargo xtask build-ebpf` made, or the one that `SLUICE_EBPF_OBJECT` names.
///
/// # Errors
/// It is not there.
pub fn bytes() -> Result<Vec<u8>> {
    read("SLUICE_EBPF_OBJECT", "sluice.o", "cargo xtask build-ebpf")
}

/// The same with a clock that tests move, or the one that `SLUICE_CLOCK_OBJECT` names.
///
/// # Errors
/// It is not there.
pub fn with_clock() -> Result<Vec<u8>> {
    read("SLUICE_CLOCK_OBJECT", "clock.o", "cargo xtask test --ring kernel")
}

/// The same programs as another compiler might have built them: in each, one constant comes into its register by another
/// instruction, so the kernel takes them for others (their tags differ).
///
/// # Errors
/// It is no object of ours.
pub fn rebuilt(object: &[u8]) -> Result<Vec<u8>> {
    /// `rX = constant`, and `wX = constant`, which clears the upper half: the same where the constant is not negative
    /// (RFC 9669, section 4.1).
    const MOV64_K: u8 = 0xb7;
    const MOV32_K: u8 = 0xb4;
    let mut rebuilt = object.to_vec();
    for name in [names::PROGRAM_TC, names::PROGRAM_TC_RARE, names::PROGRAM_XDP, names::PROGRAM_XDP_RARE] {
        let code = rebuilt.get_mut(code(object, name)?).with_context(|| name.to_owned())?;
        let (instructions, _) = code.as_chunks_mut::<8>();
        let fits = |instruction: &&mut [u8; 8]| instruction[0] == MOV64_K && instruction[7] < 0x80;
        instructions.iter_mut().find(fits).with_context(|| format!("{name} has no such instruction"))?[0] =
            MOV32_K;
    }
    Ok(rebuilt)
}

/// Where the instructions of a program are in the file.
///
/// # Errors
/// There is no such program.
pub fn code(object: &[u8], program: &str) -> Result<Range<usize>> {
    let file = File::parse(object)?;
    let symbol = file.symbol_by_name(program).with_context(|| format!("no program {program}"))?;
    let section = file.section_by_index(symbol.section_index().context("in no section")?)?;
    let (start, _) = section.file_range().context("not in the file")?;
    let start = usize::try_from(start + symbol.address())?;
    Ok(start..start + usize::try_from(symbol.size())?)
}

fn read(variable: &str, file: &str, cure: &str) -> Result<Vec<u8>> {
    let built = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf").join(file);
    let path = std::env::var_os(variable).map_or_else(built, PathBuf::from);
    std::fs::read(&path).with_context(|| format!("{}: no kernel object (cure: {cure})", path.display()))
}
