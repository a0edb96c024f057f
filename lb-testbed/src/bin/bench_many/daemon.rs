//! The daemon, timed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::MapData;
use hyper::Method;
use lb_testbed::eventually::eventually;
use lb_testbed::object;
use lb_testbed::process::{Sluice, succeeded};
use lb_testbed::tracer::Trace;
use lb_userspace::admin::api::{Weight, backend_path};
use lb_userspace::admin::client::Client;
use lb_userspace::config::{Config, environment};
use lb_userspace::controller::apply::Confirmed;
use lb_userspace::controller::table_sizes::TableSizes;
use lb_userspace::data_plane::kernel::{KernelState, KernelTables};
use lb_userspace::kernel::{KernelPlane, Settings};
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::arena::{Arena, Size};

/// Whoever takes longer is broken.
const DEADLINE: Duration = Duration::from_secs(300);
/// Between two questions for `/health`.
const PULSE: Duration = Duration::from_millis(5);

/// What something took, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Used {
    /// Of the clock on the wall.
    pub(crate) ms: f64,
    /// CPU time of the daemon.
    pub(crate) cpu_ms: f64,
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} ms, {:.0} ms of CPU time", self.ms, self.cpu_ms)
    }
}

/// What is in use.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Memory {
    /// Of the daemon, now.
    pub(crate) resident_mib: f64,
    /// Of the daemon, at most so far.
    pub(crate) peak_mib: f64,
    /// Of all maps, as the kernel accounts for them.
    pub(crate) maps_mib: f64,
    /// Maglev tables among them, and when their slots' old flows were seen.
    pub(crate) tables_mib: f64,
}

/// One daemon after another.
pub(crate) struct Daemon {
    arena: Arena,
    sluice: Sluice,
    runtime: Runtime,
}

impl Daemon {
    pub(crate) fn new(arena: Arena) -> Result<Self> {
        let sluice = Sluice::new(&arena.topology.lb, &arena.size.config(100))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { arena, sluice, runtime })
    }

    /// Until it is ready.
    pub(crate) fn start(&mut self) -> Result<Used> {
        let begin = Instant::now();
        self.sluice.spawn()?;
        let client = self.client();
        eventually("the daemon is ready", DEADLINE, || {
            if let Some(exit) = self.sluice.exited()? {
                return Ok(Some(Err(anyhow::anyhow!("the daemon ended with {exit}"))));
            }
            Ok(self.runtime.block_on(client.get::<Value>("/ready")).ok().map(|_| Ok(())))
        })
        .and_then(|ready| ready)
        .with_context(|| self.sluice.log())?;
        Ok(Used { ms: begin.elapsed().as_secs_f64() * 1e3, cpu_ms: self.cpu_ms()? })
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.sluice.kill()
    }

    fn client(&self) -> Client {
        Client::new(&self.sluice.socket())
    }

    /// User's and system's time of the daemon so far, in milliseconds.
    pub(crate) fn cpu_ms(&self) -> Result<f64> {
        let stat = self.proc("stat")?;
        // After the command's name, which may hold anything.
        let (_, fields) = stat.rsplit_once(')').context("stat")?;
        let ticks: Result<Vec<f64>, _> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect();
        // A tick is a hundredth of a second on every architecture of Linux.
        Ok(ticks?.iter().sum::<f64>() * 10.0)
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.sluice.pid().context("no daemon runs")?);
        fs::read_to_string(&path).context(path)
    }

    fn timed(&self, act: impl FnOnce(&Self) -> Result<()>) -> Result<Used> {
        let (begin, cpu) = (Instant::now(), self.cpu_ms()?);
        act(self)?;
        Ok(Used { ms: begin.elapsed().as_secs_f64() * 1e3, cpu_ms: self.cpu_ms()? - cpu })
    }

    /// Sets the weight of the first backend of a service's pool.
    pub(crate) fn change(&self, service: u32, weight: u16) -> Result<Used> {
        let path = backend_path(&Size::name(service), self.arena.size.backend(service, 0), "");
        let weight = Weight { weight };
        self.timed(|this| {
            let patch = this.client();
            this.runtime.block_on(patch.change(Method::PATCH, &path, Some(&weight)))?;
            Ok(())
        })
    }

    pub(crate) fn reload(&self) -> Result<Used> {
        self.timed(|this| {
            let client = this.client();
            this.runtime.block_on(client.ask::<Value>(Method::POST, "/api/v1/reload"))?;
            Ok(())
        })
    }

    /// Writes a config with another weight of one backend.
    pub(crate) fn reweigh(&self) -> Result<()> {
        self.sluice.write_config(&self.arena.size.config(77))
    }

    /// Bytes of the status document.
    pub(crate) fn status(&self) -> Result<usize> {
        Ok(succeeded(self.sluice.ask(&["status", "--json"])?)?.len())
    }

    /// Does nothing.
    pub(crate) fn rest(&self, time: Duration) -> Result<()> {
        let begin = Instant::now();
        eventually("time passes", time * 2, || Ok((begin.elapsed() >= time).then_some(())))
    }

    /// The tables in place: each swap gives a table another name.
    pub(crate) fn tables(&self) -> Result<BTreeSet<OsString>> {
        let names = fs::read_dir(self.sluice.bpf_dir().join("tables"))?;
        names.map(|entry| Ok(entry?.file_name())).collect()
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        let status = self.proc("status")?;
        let mib = |key: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).context("status")?;
            Ok(line.split_whitespace().next().context("no number")?.parse::<f64>()? / 1024.0)
        };
        let dir = self.sluice.bpf_dir();
        let [maps, tables, seen] = ["maps", "tables", "old_seen"].map(|pins| pinned_mib(&dir.join(pins)));
        let tables_mib = tables? + seen?;
        Ok(Memory {
            resident_mib: mib("VmRSS:")?,
            peak_mib: mib("VmHWM:")?,
            maps_mib: maps? + tables_mib,
            tables_mib,
        })
    }

    /// Starts it under the tracer; how many calls `act` makes it make.
    pub(crate) fn count_calls(&mut self, act: impl FnOnce(&Self) -> Result<()>) -> Result<u64> {
        let directory = tempfile::Builder::new().prefix("sluice-bench-").tempdir()?;
        let trace = Trace { directory: directory.path().to_owned(), at: u64::MAX };
        fs::write(trace.directory.join("count"), format!("{:020}", 0))?;
        let tracer = std::env::current_exe()?.into_os_string();
        self.sluice.go_through(vec![tracer, "trace".into(), directory.path().into()]);
        self.start()?;
        trace.arm(true)?;
        act(self)?;
        let count = trace.count();
        trace.arm(false)?;
        self.sluice.go_through(Vec::new());
        Ok(count)
    }

    /// Reads back what the last daemon left, and compares it with itself, in milliseconds.
    pub(crate) fn audit(&self) -> Result<f64> {
        let object = object::bytes()?;
        let config = Config::load(&self.sluice.config(), &environment())
            .map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        let dir = self.sluice.bpf_dir();
        let settings = Settings {
            bpf_dir: &dir,
            flows: config.kernel.flows,
            backends: config.kernel.backends,
            hash_seed: None,
            tables: TableSizes::default(),
            object: &object,
        };
        let (KernelPlane { mut tables, .. }, _) = KernelPlane::open(&settings)?;
        let mut confirmed = Confirmed::adopt(tables.read_back(&KernelState::default())?, tables.now());
        let begin = Instant::now();
        let drift = confirmed.audit(&mut tables)?;
        ensure!(drift.is_empty(), "{} entries are not as they were left", drift.len());
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    }

    /// Asks for `/health` again and again.
    pub(crate) fn watch_health(&self) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, socket) = (Arc::clone(&stop), self.sluice.socket());
        Watch { stop, thread: std::thread::spawn(move || longest(&socket, &stopped)) }
    }
}

/// A thread that asks for `/health`.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<f64>>,
}

impl Watch {
    /// Ends it; the longest that an answer took, in milliseconds.
    pub(crate) fn longest(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(longest) => longest,
            Err(_) => bail!("the watch has panicked"),
        }
    }
}

fn longest(socket: &Path, stop: &AtomicBool) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(socket);
    runtime.block_on(async {
        let mut longest = Duration::ZERO;
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stop.load(Ordering::Relaxed) {
            pulse.tick().await;
            let begin = Instant::now();
            client.get::<Value>("/health").await?;
            longest = longest.max(begin.elapsed());
        }
        Ok(longest.as_secs_f64() * 1e3)
    })
}

/// Memory of the maps that are pinned in a directory.
fn pinned_mib(directory: &Path) -> Result<f64> {
    let mut sum = 0.0;
    for entry in fs::read_dir(directory)? {
        let path: PathBuf = entry?.path();
        let map = MapData::from_pin(&path).with_context(|| path.display().to_string())?;
        let info = format!("/proc/self/fdinfo/{}", std::os::fd::AsFd::as_fd(map.fd()).as_raw_fd());
        let info = fs::read_to_string(&info).context(info)?;
        let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:")).context("no memlock")?;
        sum += bytes.trim().parse::<f64>()?;
    }
    Ok(sum / f64::from(1 << 20))
}
