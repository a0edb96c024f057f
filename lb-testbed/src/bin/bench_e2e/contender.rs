//! Who is compared, with whom, and what each needs.

use std::fmt;
use std::path::Path;

use clap::ValueEnum;
use lb_testbed::object;
use lb_testbed::process::Sluice;
use lb_testbed::topology::Options;
use serde::{Serialize, Serializer};

/// One way from the client to the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Contender {
    /// The kernel routes to one backend through the same namespace; no balancer
    Direct,
    /// Sluice's kernel plane on tcx
    SluiceTc,
    /// nftables: destination NAT with connection tracking
    Nftables,
    /// As `direct`, hosts leaving nothing to their devices, as native XDP needs it on veth
    DirectWire,
    /// Sluice's kernel plane on native XDP
    SluiceXdp,
    /// As `nftables`, on hosts as those of `sluice-xdp`
    NftablesWire,
    /// Sluice's proxy plane
    SluiceProxy,
    /// HAProxy in TCP mode
    Haproxy,
    /// nginx's stream module
    NginxStream,
}

impl Contender {
    /// Balances nothing.
    pub fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::DirectWire)
    }

    /// The direct path on hosts of the same kind.
    pub fn direct(self) -> Self {
        match self {
            Self::DirectWire | Self::SluiceXdp | Self::NftablesWire => Self::DirectWire,
            _ => Self::Direct,
        }
    }

    /// Its hosts.
    pub fn options(self) -> Options {
        match self.direct() {
            Self::DirectWire => Options::xdp(),
            _ => Options::default(),
        }
    }

    /// Why it cannot run here.
    fn missing(self) -> Option<String> {
        let program = |name: &str, package: &str| {
            (!is_installed(name)).then(|| format!("{name} is not installed (package {package})"))
        };
        let own = || {
            let path = Sluice::binary();
            (!path.is_file()).then(|| format!("no {} (cure: cargo xtask bench e2e)", path.display()))
        };
        let object = || object::bytes().err().map(|error| format!("{error:#}"));
        match self {
            Self::Direct => None,
            Self::DirectWire => object(),
            Self::SluiceProxy => own(),
            Self::SluiceTc | Self::SluiceXdp => object().or_else(own),
            Self::Nftables => program("nft", "nftables"),
            Self::NftablesWire => object().or_else(|| program("nft", "nftables")),
            Self::Haproxy => program("haproxy", "haproxy"),
            Self::NginxStream => (crate::balancer::stream_module().is_none())
                .then(|| "nginx has no stream module (package libnginx-mod-stream)".to_owned()),
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::SluiceTc => "sluice tc",
            Self::Nftables => "nftables",
            Self::DirectWire => "direct (tx off)",
            Self::SluiceXdp => "sluice xdp (tx off)",
            Self::NftablesWire => "nftables (tx off)",
            Self::SluiceProxy => "sluice proxy",
            Self::Haproxy => "haproxy",
            Self::NginxStream => "nginx stream",
        })
    }
}

impl Serialize for Contender {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A contender that cannot run here, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    /// Who.
    pub contender: Contender,
    /// Why not.
    pub reason: String,
}

/// Those of `only` (all, where that is empty) that can run here, with their direct paths; and the others.
pub fn runnable(only: &[Contender]) -> (Vec<Contender>, Vec<Skipped>) {
    let is_wanted = |contender: &Contender| {
        only.is_empty() || only.iter().any(|wanted| wanted == contender || wanted.direct() == *contender)
    };
    let (mut runnable, mut skipped) = (Vec::new(), Vec::new());
    for contender in Contender::value_variants().iter().copied().filter(is_wanted) {
        match contender.missing() {
            None => runnable.push(contender),
            Some(reason) => skipped.push(Skipped { contender, reason }),
        }
    }
    (runnable, skipped)
}

/// Whether there is a program of this name; the folders of root's tools are often not in `PATH`.
pub fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).any(|program| Path::is_file(&program))
}
