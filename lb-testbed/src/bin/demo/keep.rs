//! `--keep`: everything stays, and how to look around in it.

use std::fmt::Write;

use anyhow::{Context, Result};
use lb_testbed::process::Sluice;

use crate::stage::{SERVICE, Stage};
use crate::web::Web;

/// Leaves it, also after the end of this process; says how to look around, and how to take it down.
///
/// # Errors
/// It cannot be left; then it is gone.
pub fn leave(stage: Stage) -> Result<String> {
    let Stage { sluice, webs, topology } = stage;
    let binary = Sluice::binary().canonicalize()?;
    let (binary, socket, config) = (binary.display(), sluice.socket(), sluice.config());
    let enter = |namespace: &str| format!("nsenter --net=/run/netns/{namespace}");
    let (lb, client) = (enter(topology.lb.name()), enter(topology.client.namespace.name()));
    let mut text = format!(
        "
  kept; to look around, as root:
    {lb} {binary} status --socket {socket}
    {lb} {binary} explain 10.201.0.2:40000 web --socket {socket}
    {client} curl http://{SERVICE}/
  the daemon's config is {config}; {lb} bash gives a shell on the balancer
  to take all of it down:
",
        socket = socket.display(),
        config = config.display(),
    );
    let bpffs = sluice.bpf_dir().parent().context("the pins have no bpffs")?.to_owned();
    let directory = config.parent().context("the config has no folder")?.to_owned();
    let hosts = std::iter::once(&topology.client).chain(&topology.backends);
    let namespaces: Vec<String> = std::iter::once(&topology.lb)
        .chain(hosts.map(|host| &host.namespace))
        .map(|namespace| namespace.name().to_owned())
        .collect();
    topology.leave(&bpffs)?;
    let daemon = sluice.pid();
    std::mem::forget(sluice);
    let pids = daemon.into_iter().chain(webs.into_iter().filter_map(Web::leave));
    let pids: Vec<String> = pids.map(|pid| pid.to_string()).collect();
    writeln!(text, "    kill -9 {}", pids.join(" "))?;
    writeln!(
        text,
        "    umount {bpffs} && rm -r {bpffs} {directory}",
        bpffs = bpffs.display(),
        directory = directory.display()
    )?;
    writeln!(text, "    for namespace in {}; do ip netns delete $namespace; done", namespaces.join(" "))?;
    Ok(text)
}
