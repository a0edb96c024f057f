//! The backends: nginx, one worker each.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use lb_testbed::topology::Host;
use tempfile::TempDir;

use crate::running::Running;

/// Where backends listen.
pub const PORT: u16 = 8080;
/// Bytes of `/bulk`. It is one hole: read from the page cache, as a file in use would be.
pub const BULK: u64 = 128 << 20;

/// What all of them serve: one file of [`BULK`] bytes, so that many backends need no more cache than one.
#[derive(Debug)]
pub struct Content {
    directory: TempDir,
}

impl Content {
    /// Makes the file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir().context("making a folder for the backends' file")?;
        File::create(directory.path().join("bulk"))?.set_len(BULK)?;
        Ok(Self { directory })
    }
}

/// A server that answers `/` with a few bytes and `/bulk` with the file, over both families.
///
/// # Errors
/// It cannot be started.
pub fn serve(host: &Host, content: &Content) -> Result<Running> {
    let directory = tempfile::tempdir().context("making a folder for nginx")?;
    let config = format!(
        "daemon off;
        master_process off;
        worker_processes 1;
        error_log stderr;
        pid pid;
        events {{ worker_connections 4096; }}
        http {{
            access_log off;
            sendfile on;
            tcp_nopush on;
            keepalive_requests 1000000000;
            client_body_temp_path .; proxy_temp_path .; fastcgi_temp_path .; uwsgi_temp_path .; scgi_temp_path .;
            server {{
                listen {PORT} backlog=4096;
                listen [::]:{PORT} backlog=4096;
                root {root};
                location = / {{ return 200 \"hello\\n\"; }}
            }}
        }}
        ",
        root = content.directory.path().display()
    );
    fs::write(directory.path().join("nginx.conf"), config)?;
    Running::start(&host.namespace, directory, command)
}

/// nginx with the files in `directory`.
pub fn command(directory: &Path) -> Command {
    let mut command = Command::new("nginx");
    command.arg("-p").arg(directory).arg("-c").arg(directory.join("nginx.conf")).args(["-e", "stderr"]);
    command
}
