//! Puts the eBPF object where `src/kernel/object.rs` embeds it from. An empty file stands for "none".

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Names another object than the one that `cargo xtask build-ebpf` leaves.
const OVERRIDE: &str = "SLUICE_EBPF_OBJECT";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    println!("cargo::rerun-if-changed=build.rs");
    let embedded = variable("OUT_DIR")?.join("sluice.o");
    let object = match env::var_os(OVERRIDE) {
        Some(path) => PathBuf::from(path),
        None => default_object()?,
    };
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot read the eBPF object {}: {error}", object.display()))
    })?;
    fs::write(embedded, bytes)
}

/// Where `cargo xtask build-ebpf` leaves the object. Cargo runs a build script anew, and compiles the crate
/// anew, at every build while a watched file is missing; so an empty one is put there.
fn default_object() -> io::Result<PathBuf> {
    let object = variable("CARGO_MANIFEST_DIR")?.join("../target/bpf/sluice.o");
    if !object.exists() {
        fs::create_dir_all(object.parent().unwrap_or(Path::new(".")))?;
        fs::write(&object, [])?;
    }
    Ok(object)
}

fn variable(name: &str) -> io::Result<PathBuf> {
    env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::other(format!("{name} is not set: run this through cargo")))
}
