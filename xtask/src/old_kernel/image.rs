//! The machine's first and only file system: tests, their libraries, a few tools, and an init.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::package::Kernel;
use crate::{process, workspace};

/// What the tests need beyond the kernel itself, in the order in which it must be loaded.
const MODULES: [&str; 4] =
    ["net/sched/sch_ingress", "net/sched/cls_bpf", "drivers/net/veth", "drivers/net/dummy"];

/// Mounts what a system has, loads the modules, runs the tests, and turns the machine off.
const INIT: &str = include_str!("init.sh");

/// Builds it beside the kernel; the path of the compressed archive.
pub(super) fn build(kernel: &Kernel, tests: &[PathBuf], filter: Option<&str>) -> Result<PathBuf> {
    let folder = workspace::target_dir().join("old-kernel");
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot empty {}", root.display()))?;
    }
    for name in ["bin", "dev", "modules", "proc", "run", "sys", "tests", "tmp", "tools"] {
        fs::create_dir_all(root.join(name))?;
    }
    for (number, module) in MODULES.iter().enumerate() {
        let from = kernel.modules.join(module).with_extension("ko");
        let to = root.join(format!("modules/{number}.ko"));
        fs::copy(&from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    // Busybox has an `ip` and a `tc` of its own, which do less, and its shell takes those whatever `PATH` says.
    let tools = ["sh", "ip", "tc", "ethtool"].map(|tool| (tool, "tools"));
    for (tool, folder) in [("busybox", "bin")].into_iter().chain(tools) {
        let found = process::find_all(tool);
        let program = found.first().with_context(|| format!("{tool} is not installed"))?;
        install(program, &root, &format!("{folder}/{tool}"))?;
    }
    for test in tests {
        let name = test.file_name().unwrap_or_default().to_string_lossy();
        install(test, &root, &format!("tests/{name}"))?;
    }
    for object in ["sluice.o", "clock.o"] {
        fs::copy(workspace::bpf_dir().join(object), root.join(object))?;
    }
    fs::write(root.join("filter"), filter.unwrap_or_default())?;
    fs::write(root.join("init"), INIT)?;
    process::run(Command::new("chmod").arg("755").arg(root.join("init")))?;
    let archive = folder.join("image.gz");
    let pack = "find . | cpio --quiet -o -H newc | gzip -1 > \"$0\"";
    process::run(Command::new("sh").args(["-c", pack]).arg(&archive).current_dir(&root))?;
    Ok(archive)
}

/// Copies a program without its debug information, and the libraries that it loads to where it looks for them.
fn install(program: &Path, root: &Path, to: &str) -> Result<()> {
    process::run(Command::new("strip").arg(program).arg("-o").arg(root.join(to)))?;
    // A static program has none, and ldd fails.
    let libraries = process::output(Command::new("ldd").arg(program)).unwrap_or_default();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let place = root.join(library.trim_start_matches('/'));
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(library, &place).with_context(|| format!("cannot copy {library}"))?;
    }
    Ok(())
}
