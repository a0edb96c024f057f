//! The check by a program.

use std::io;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::future::{Either, select};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::probe::Outcome;
use crate::model::Exec;

/// What is kept of the output's first line.
const MAX_LINE_BYTES: usize = 256;
/// How long the output may stay open after the program has ended: something that it started may hold it.
const LAST_OUTPUT: Duration = Duration::from_millis(100);

/// Runs the program; exit code 0 passes. An error means that this host is short of what a process needs.
///
/// It gets the endpoint in its environment, and nothing else of the daemon's. Whoever drops this kills its
/// process group.
pub(super) async fn ask(endpoint: SocketAddr, exec: &Exec) -> io::Result<Outcome> {
    let spawned = Command::new(&exec.program)
        .args(&exec.arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("SLUICE_BACKEND", endpoint.to_string())
        .env("SLUICE_BACKEND_ADDRESS", endpoint.ip().to_string())
        .env("SLUICE_BACKEND_PORT", endpoint.port().to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        // The runtime waits for it then.
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Ok(Outcome::failed(format!("{} cannot be run: {error}", exec.program.display())));
        }
        Err(error) => return Err(error),
    };
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)));
    let mut line = Vec::new();
    let Some(stdout) = child.stdout.take() else { return Err(io::Error::other("no output")) };
    // Once it has ended its number may be another's, and the group is left alone.
    let status = match select(Box::pin(child.wait()), Box::pin(first_line(stdout, &mut line))).await {
        Either::Left((status, output)) => {
            group.0 = None;
            let _ = timeout(LAST_OUTPUT, output).await;
            status
        }
        Either::Right(((), ended)) => {
            let status = ended.await;
            group.0 = None;
            status
        }
    }?;
    let detail = detail(status, &line);
    Ok(if status.success() { Outcome::passed(detail) } else { Outcome::failed(detail) })
}

/// Kills the processes when it is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Who has ended already need not be killed.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Reads to the end, so that the program never waits for a reader, and keeps the beginning.
async fn first_line(mut output: impl AsyncRead + Unpin, line: &mut Vec<u8>) {
    let mut piece = [0; 1024];
    let mut is_over = false;
    while let Ok(length @ 1..) = output.read(&mut piece).await {
        for &byte in piece.iter().take(length) {
            is_over |= byte == b'\n' || line.len() == MAX_LINE_BYTES;
            if !is_over {
                line.push(byte);
            }
        }
    }
}

fn detail(status: ExitStatus, line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    match line.trim() {
        "" => status.to_string(),
        line => format!("{status}: {line}"),
    }
}
