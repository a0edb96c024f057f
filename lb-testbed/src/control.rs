//! The control of the flood tests: the programs of a usual balancer in the place of ours, on the same maps.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lb_userspace::model::Plane;

use crate::takeover::Takeover;

/// Its flow table, in the object.
const CONNECTIONS: &str = "CONNECTIONS";

/// Puts the control's programs under every link that a daemon has pinned, with a flow table of their own for so
/// many flows. They stay there until that daemon's successor comes.
///
/// # Errors
/// There is no object of it, or no link.
pub fn take_over(bpf_dir: &Path, plane: Plane, flows: u32) -> anyhow::Result<()> {
    let path = std::env::var_os("SLUICE_CONTROL_OBJECT").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/control.o"),
        PathBuf::from,
    );
    let object = fs::read(&path).with_context(|| format!("{} (cure: cargo xtask test)", path.display()))?;
    Takeover { bpf_dir, plane, object: &object, flows, own_map: Some(CONNECTIONS) }.run()
}
