//! From facts to the next step: no I/O, so that machines which nobody has at hand can be tested.

use std::fmt;

use super::facts::{Facts, Linker, Toolchain, version};

/// The Debian packages of a toolchain with the library's source and clippy.
pub(super) const COMPILER_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];
/// 0.13 is the first with `--disable-expand-memcpy-in-order`.
pub(super) const LINKER_VERSION: &str = "0.13.0";
/// Major versions of LLVM that this bpf-linker can be built for.
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// The oldest rustc that the workspace takes.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

/// One change to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Fetches the library's source for a toolchain of rustup's.
    AddSource {
        /// Rustup's name of it.
        toolchain: String,
    },
    /// Installs the distribution's toolchain.
    InstallCompiler,
    /// Builds bpf-linker for the LLVM of a toolchain.
    InstallLinker(Toolchain),
    /// Installs packages of tools.
    InstallTools(Vec<&'static str>),
}

/// What the eBPF object is built with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolbox {
    /// A toolchain with the library's source.
    pub(crate) toolchain: Toolchain,
    /// A bpf-linker that reads its bitcode.
    pub(crate) linker: Linker,
    /// Tools that could not be installed; only `demo` and the namespace ring need them.
    missing_tools: Vec<(&'static str, &'static str)>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Take this step, for this reason; then look again.
    Do(Step, String),
    /// Nothing more.
    Ready(Toolbox),
    /// Nothing is left to try. Holds what is missing and the commands to run by hand.
    Stuck(String),
}

/// Names the next step. A step in `tried` is not named again, whatever came of it.
pub(super) fn next(facts: &Facts, tried: &[Step]) -> Decision {
    let complete: Vec<&Toolchain> =
        facts.toolchains.iter().filter(|toolchain| toolchain.fits() && toolchain.has_source).collect();
    let pair = complete.iter().find_map(|toolchain| {
        facts.linkers.iter().find(|linker| linker.fits(toolchain)).map(|linker| (*toolchain, linker))
    });
    if let Some((toolchain, linker)) = pair {
        return tools(facts, tried, toolchain, linker);
    }
    let untried = |step: Step, why: String| (!tried.contains(&step)).then_some(Decision::Do(step, why));
    let step = match complete.first() {
        Some(toolchain) => untried(Step::InstallLinker((*toolchain).clone()), no_linker(facts, toolchain)),
        None => source(facts).and_then(|(step, why)| untried(step, why)).or_else(|| {
            facts.packages.ok()?;
            untried(Step::InstallCompiler, no_toolchain(facts))
        }),
    };
    step.unwrap_or_else(|| Decision::Stuck(stuck(facts, complete.first().copied())))
}

/// The toolchain is complete; the tools may not be. Without them the object can still be built, so what
/// cannot be installed is no error here.
fn tools(facts: &Facts, tried: &[Step], toolchain: &Toolchain, linker: &Linker) -> Decision {
    let step = Step::InstallTools(facts.missing_tools.iter().map(|(_, package)| *package).collect());
    if !facts.missing_tools.is_empty() && facts.packages.is_ok() && !tried.contains(&step) {
        let names: Vec<&str> = facts.missing_tools.iter().map(|(tool, _)| *tool).collect();
        return Decision::Do(step, format!("demo and test run {}", names.join(", ")));
    }
    Decision::Ready(Toolbox {
        toolchain: toolchain.clone(),
        linker: linker.clone(),
        missing_tools: facts.missing_tools.clone(),
    })
}

/// The library's source comes fastest through rustup, and needs no root.
fn source(facts: &Facts) -> Option<(Step, String)> {
    let toolchain =
        facts.toolchains.iter().find(|toolchain| toolchain.fits() && toolchain.rustup.is_some())?;
    let step = Step::AddSource { toolchain: toolchain.rustup.clone()? };
    Some((step, format!("{toolchain} lacks rust-src, the source of the library")))
}

fn no_toolchain(facts: &Facts) -> String {
    if facts.toolchains.is_empty() {
        return "there is no rustc".to_owned();
    }
    let why = |toolchain: &Toolchain| match toolchain.fits() {
        true => format!("{toolchain} lacks rust-src"),
        false => format!("{toolchain} is older than {OLDEST} or has an LLVM that bpf-linker lacks"),
    };
    facts.toolchains.iter().map(why).collect::<Vec<_>>().join("; ")
}

fn no_linker(facts: &Facts, toolchain: &Toolchain) -> String {
    if facts.linkers.is_empty() {
        return "there is no bpf-linker that starts".to_owned();
    }
    let found: Vec<String> = facts.linkers.iter().map(Linker::to_string).collect();
    format!("{} does not fit {toolchain}", found.join(", "))
}

fn stuck(facts: &Facts, complete: Option<&Toolchain>) -> String {
    if let Some(toolchain) = complete {
        return format!(
            "{}, and none could be installed (by hand: `LLVM_PREFIX=/usr/lib/llvm-{llvm} cargo install bpf-linker \
             --version {LINKER_VERSION} --locked --no-default-features --features llvm-{llvm}`, where package \
             llvm-{llvm}-dev is installed)",
            no_linker(facts, toolchain),
            llvm = toolchain.llvm,
        );
    }
    let packages = facts.packages.err().unwrap_or("apt-get did not bring one");
    format!(
        "no rustc with the source of its library: {}; {packages} (by hand: `rustup component add rust-src`; or, as \
         root on Debian 12, `apt-get install --no-install-recommends {}`)",
        no_toolchain(facts),
        COMPILER_PACKAGES.join(" "),
    )
}

impl Toolchain {
    fn fits(&self) -> bool {
        version(OLDEST).is_some_and(|oldest| self.version >= oldest) && LINKER_LLVM.contains(&self.llvm)
    }
}

impl Linker {
    /// Bitcode is only sure to be read by the LLVM that wrote it, or another of the same major version.
    fn fits(&self, toolchain: &Toolchain) -> bool {
        version(&self.version) == version(LINKER_VERSION)
            && self.llvm.is_none_or(|llvm| llvm == toolchain.llvm)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddSource { toolchain } => write!(f, "adding rust-src to rustup's {toolchain}"),
            Self::InstallCompiler => write!(f, "installing {}", COMPILER_PACKAGES.join(", ")),
            Self::InstallLinker(toolchain) => {
                write!(f, "building bpf-linker {LINKER_VERSION} for LLVM {}", toolchain.llvm)
            }
            Self::InstallTools(packages) => write!(f, "installing {}", packages.join(", ")),
        }
    }
}

impl fmt::Display for Toolbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "found {} with rust-src, and {}", self.toolchain, self.linker)?;
        for (tool, package) in &self.missing_tools {
            write!(
                f,
                "\nsetup: {tool} is missing; demo and the namespace tests need it (by hand: install {package})"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toolchain(bin: &str, rustup: Option<&str>, has_source: bool) -> Toolchain {
        Toolchain {
            bin: bin.into(),
            rustup: rustup.map(str::to_owned),
            version: (1, 95),
            llvm: 22,
            has_source,
        }
    }

    fn linker(llvm: Option<u32>) -> Linker {
        Linker { path: "/bin/bpf-linker".into(), version: "0.13.0".into(), llvm }
    }

    fn facts(toolchains: Vec<Toolchain>, linkers: Vec<Linker>) -> Facts {
        Facts { toolchains, linkers, packages: Ok(()), missing_tools: Vec::new() }
    }

    fn step(decision: Decision) -> Step {
        match decision {
            Decision::Do(step, _) => step,
            other => panic!("no step: {other:?}"),
        }
    }

    fn add_source() -> Step {
        Step::AddSource { toolchain: "stable".into() }
    }

    #[test]
    fn nothing_is_done_where_nothing_is_missing() {
        let found = facts(vec![toolchain("/a", Some("stable"), true)], vec![linker(Some(22))]);
        assert!(matches!(next(&found, &[]), Decision::Ready(_)));
    }

    #[test]
    fn the_toolchain_that_fits_the_linker_is_taken_before_the_first() {
        let mut other = toolchain("/b", None, true);
        other.llvm = 21;
        let found = facts(vec![toolchain("/a", Some("stable"), true), other.clone()], vec![linker(Some(21))]);
        match next(&found, &[]) {
            Decision::Ready(toolbox) => assert_eq!(toolbox.toolchain, other),
            decision => panic!("{decision:?}"),
        }
    }

    #[test]
    fn rustup_is_asked_before_the_distribution_and_only_once() {
        let found = facts(vec![toolchain("/a", Some("stable"), false)], vec![linker(Some(22))]);
        assert_eq!(step(next(&found, &[])), add_source());
        assert_eq!(step(next(&found, &[add_source()])), Step::InstallCompiler);
    }

    #[test]
    fn without_rustup_the_distribution_is_asked() {
        let found = facts(vec![toolchain("/usr/bin", None, false)], Vec::new());
        assert_eq!(step(next(&found, &[])), Step::InstallCompiler);
    }

    #[test]
    fn a_toolchain_too_old_or_too_new_counts_as_none() {
        let (mut old, mut new) = (toolchain("/old", Some("old"), true), toolchain("/new", Some("new"), true));
        old.version = (1, 85);
        new.llvm = 24;
        let found = facts(vec![old, new], vec![linker(None)]);
        assert_eq!(step(next(&found, &[])), Step::InstallCompiler);
    }

    #[test]
    fn a_linker_of_another_llvm_or_version_is_replaced() {
        let complete = toolchain("/a", Some("stable"), true);
        let mut old = linker(Some(22));
        old.version = "0.9.15".into();
        for linkers in [Vec::new(), vec![linker(Some(21))], vec![old]] {
            let found = facts(vec![complete.clone()], linkers);
            assert_eq!(step(next(&found, &[])), Step::InstallLinker(complete.clone()));
        }
        // Its LLVM is within it: only building shows whether it fits.
        assert!(matches!(next(&facts(vec![complete], vec![linker(None)]), &[]), Decision::Ready(_)));
    }

    #[test]
    fn stuck_without_root_names_the_commands() {
        let mut found = facts(vec![toolchain("/a", Some("stable"), false)], Vec::new());
        found.packages = Err("installing packages needs root");
        let Decision::Stuck(reason) = next(&found, &[add_source()]) else { panic!("not stuck") };
        for part in ["/a", "needs root", "rustup component add rust-src", "apt-get install"] {
            assert!(reason.contains(part), "{part:?} is not in {reason:?}");
        }
    }

    #[test]
    fn stuck_without_a_linker_names_the_command() {
        let complete = toolchain("/a", None, true);
        let tried = [Step::InstallLinker(complete.clone())];
        let Decision::Stuck(reason) = next(&facts(vec![complete], Vec::new()), &tried) else {
            panic!("not stuck")
        };
        assert!(reason.contains("cargo install bpf-linker") && reason.contains("llvm-22"), "{reason}");
    }

    #[test]
    fn missing_tools_are_installed_where_they_can_be_and_named_where_not() {
        let mut found = facts(vec![toolchain("/a", None, true)], vec![linker(Some(22))]);
        found.missing_tools = vec![("ip", "iproute2")];
        assert_eq!(step(next(&found, &[])), Step::InstallTools(vec!["iproute2"]));
        found.packages = Err("there is no apt-get");
        match next(&found, &[]) {
            Decision::Ready(toolbox) => assert!(toolbox.to_string().contains("ip is missing")),
            decision => panic!("{decision:?}"),
        }
    }
}
