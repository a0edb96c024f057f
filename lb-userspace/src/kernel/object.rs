//! The eBPF object, embedded when the binary was built.

/// The ELF file that holds the programs and maps, 8-byte aligned as its parsers want it; `None` where there
/// was none at build time.
pub fn object() -> Option<&'static [u8]> {
    static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice.o"));
    Some(OBJECT).filter(|object| !object.is_empty())
}
