//! The balancers, each configured as its users do, with the same VIP and backends.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_testbed::eventually::eventually;
use lb_testbed::process::Sluice;
use lb_testbed::topology::Topology;
use lb_userspace::model::Plane;

use crate::contender::Contender;
use crate::running::Running;
use crate::web;

/// From the daemon's start to all backends up, and of its graceful stop.
const DEADLINE: Duration = Duration::from_secs(20);

/// What stands between client and backends.
pub enum Balancer {
    /// The kernel: it routes, or does as nftables has told it.
    Kernel,
    /// HAProxy or nginx.
    Program(Running),
    /// Ours.
    Sluice(Box<Sluice>),
}

impl Balancer {
    /// Starts the contender's.
    ///
    /// # Errors
    /// It does not start, or (Sluice) not on the plane that is to be measured.
    pub fn start(
        contender: Contender,
        bed: &Topology,
        vip: SocketAddr,
        backends: &[SocketAddr],
    ) -> Result<Self> {
        let local = || bed.lb.ip(&format!("address add {} dev lo", vip.ip()));
        match contender {
            Contender::Direct | Contender::DirectWire => Ok(Self::Kernel),
            Contender::Nftables | Contender::NftablesWire => {
                let rules = tempfile::NamedTempFile::new()?;
                fs::write(rules.path(), nftables(vip, backends)?)?;
                bed.lb.output(Command::new("nft").arg("-f").arg(rules.path()))?;
                Ok(Self::Kernel)
            }
            Contender::Haproxy => {
                local()?;
                program(bed, "haproxy.cfg", &haproxy(vip, backends)?, |directory| {
                    let mut command = Command::new("haproxy");
                    command.arg("-db").arg("-f").arg(directory.join("haproxy.cfg"));
                    command
                })
            }
            Contender::NginxStream => {
                local()?;
                program(bed, "nginx.conf", &nginx(vip, backends)?, web::command)
            }
            Contender::SluiceProxy => {
                local()?;
                sluice(bed, &config("off", bed, "proxy", vip, backends)?, Plane::Proxy)
            }
            Contender::SluiceTc => sluice(bed, &config("tc", bed, "nat", vip, backends)?, Plane::Tc),
            Contender::SluiceXdp => sluice(bed, &config("xdp", bed, "nat", vip, backends)?, Plane::Xdp),
        }
    }

    /// # Errors
    /// It has ended.
    pub fn check(&mut self) -> Result<()> {
        match self {
            Self::Kernel => Ok(()),
            Self::Program(running) => running.check(),
            Self::Sluice(sluice) => {
                let exit = sluice.exited()?;
                ensure!(exit.is_none(), "the daemon ended with {exit:?}: {}", sluice.log());
                Ok(())
            }
        }
    }

    /// Ends it in good order.
    ///
    /// # Errors
    /// It ends with a failure, or not in time.
    pub fn stop(self) -> Result<()> {
        let Self::Sluice(mut sluice) = self else { return Ok(()) };
        let exit = sluice.stop(DEADLINE)?;
        ensure!(exit.success(), "the daemon ended with {exit}: {}", sluice.log());
        Ok(())
    }
}

fn program(
    bed: &Topology,
    file: &str,
    config: &str,
    command: impl FnOnce(&Path) -> Command,
) -> Result<Balancer> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join(file), config)?;
    Ok(Balancer::Program(Running::start(&bed.lb, directory, command)?))
}

fn sluice(bed: &Topology, config: &str, plane: Plane) -> Result<Balancer> {
    let mut sluice = Sluice::new(&Arc::clone(&bed.lb), config)?;
    sluice.start()?;
    eventually("every backend is up", DEADLINE, || {
        let status = sluice.status()?;
        let service = status.services.first().context("no service")?;
        ensure!(service.plane == Some(plane), "on plane {:?}: {}", service.plane, service.reason);
        let backends = &status.pools.first().context("no pool")?.backends;
        Ok(backends.iter().all(|backend| backend.state == "up").then_some(()))
    })
    .with_context(|| sluice.log())?;
    Ok(Balancer::Sluice(Box::new(sluice)))
}

fn config(
    plane: &str,
    bed: &Topology,
    forward: &str,
    vip: SocketAddr,
    backends: &[SocketAddr],
) -> Result<String> {
    let links: Vec<&str> =
        std::iter::once(&bed.client).chain(&bed.backends).map(|host| host.link.as_str()).collect();
    let interfaces = if plane == "off" { String::new() } else { format!("interfaces = {links:?}") };
    // Round robin as the other proxies have it.
    let scheduler = if forward == "proxy" { "round_robin" } else { "maglev" };
    let mut config = format!(
        "[kernel]
        plane = \"{plane}\"
        {interfaces}
        [[service]]
        name = \"web\"
        listen = \"{vip}\"
        pool = \"web\"
        forward = \"{forward}\"
        fallback = \"refuse\"
        announce = \"none\"
        [[pool]]
        name = \"web\"
        scheduler = \"{scheduler}\"
        health = {{ check = \"tcp\" }}
        "
    );
    for backend in backends {
        writeln!(config, "[[pool.backend]]\naddress = \"{backend}\"")?;
    }
    Ok(config)
}

fn haproxy(vip: SocketAddr, backends: &[SocketAddr]) -> Result<String> {
    let mut config = format!(
        "global
            nbthread 2
            maxconn 4000
        defaults
            mode tcp
            option splice-auto
            timeout connect 5s
            timeout client 1m
            timeout server 1m
        frontend web
            bind {vip}
            default_backend web
        backend web
            balance roundrobin
        "
    );
    for (number, backend) in backends.iter().enumerate() {
        writeln!(config, "    server b{number} {backend} check")?;
    }
    Ok(config)
}

fn nginx(vip: SocketAddr, backends: &[SocketAddr]) -> Result<String> {
    let module = stream_module().context("nginx has no stream module")?;
    let mut config = format!(
        "{module}
        daemon off;
        worker_processes auto;
        error_log stderr;
        pid pid;
        events {{ worker_connections 16384; }}
        stream {{
            server {{ listen {vip} reuseport backlog=4096; proxy_pass web; }}
            upstream web {{
        "
    );
    for backend in backends {
        writeln!(config, "server {backend};")?;
    }
    config.push_str("} }\n");
    Ok(config)
}

/// The line that loads nginx's stream module, which is empty where it is built in; `None`: there is none.
pub fn stream_module() -> Option<String> {
    let version = Command::new("nginx").arg("-V").output().ok()?.stderr;
    let version = String::from_utf8_lossy(&version).into_owned();
    let option = |name: &str| version.split_whitespace().find_map(|word| word.strip_prefix(name));
    match option("--with-stream")? {
        "" => Some(String::new()),
        _ => {
            let path = Path::new(option("--modules-path=")?).join("ngx_stream_module.so");
            path.is_file().then(|| format!("load_module {};", path.display()))
        }
    }
}

fn nftables(vip: SocketAddr, backends: &[SocketAddr]) -> Result<String> {
    let mut map = String::new();
    for (number, backend) in backends.iter().enumerate() {
        write!(map, "{number} : {} . {}, ", backend.ip(), backend.port())?;
    }
    Ok(format!(
        "table ip balancer {{
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                ip daddr {ip} tcp dport {port} dnat to numgen inc mod {count} map {{ {map} }}
            }}
        }}
        ",
        ip = vip.ip(),
        port = vip.port(),
        count = backends.len(),
    ))
}
