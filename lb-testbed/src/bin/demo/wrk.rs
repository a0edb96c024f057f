//! wrk, where it is installed: how much goes through when the client is quicker than ours.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lb_testbed::namespace::Namespace;

use crate::load::CLIENTS;

/// Requests a second over as many connections as our clients use; `None`: there is no wrk.
///
/// # Errors
/// It fails, or says something else than it used to.
pub fn run(namespace: &Namespace, target: SocketAddr, duration: Duration) -> Result<Option<f64>> {
    let mut command = Command::new("wrk");
    command.arg("-t1").arg(format!("-c{CLIENTS}")).arg(format!("-d{}s", duration.as_secs()));
    command.arg(format!("http://{target}/"));
    let output = match namespace.run(|| command.output())? {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        output => output.context("starting wrk")?,
    };
    let printed = String::from_utf8_lossy(&output.stdout);
    let rate = printed.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.map(Some).with_context(|| {
        format!(
            "wrk ({}) printed no rate: {printed}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
    })
}
