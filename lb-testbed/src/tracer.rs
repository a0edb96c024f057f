//! Runs a program and kills it at its n-th call into the kernel that changes something there: bpf(2), or a message to a
//! netlink socket. Calls of bpf(2) that only read are not counted: who dies at one leaves what it leaves at the next
//! change. By ptrace(2), so the program needs no hook for it.
//!
//! The process that asks becomes the program, so whoever started it keeps a child with the same id. A second process,
//! forked before, traces it, and ends with it.
#![expect(unsafe_code, reason = "fork(2) has no safe form")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid};

/// When to kill.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Calls are counted while there is a file `armed` in it; how many there were stands in `count`.
    pub directory: PathBuf,
    /// The call that is not made any more; 1: the first.
    pub at: u64,
}

impl Trace {
    /// Starts to count, or stops.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn arm(&self, armed: bool) -> anyhow::Result<()> {
        let file = self.directory.join("armed");
        match armed {
            true => fs::write(&file, "").with_context(|| format!("writing {}", file.display())),
            false if file.exists() => Ok(fs::remove_file(file)?),
            false => Ok(()),
        }
    }

    /// Calls counted so far.
    pub fn count(&self) -> u64 {
        fs::read_to_string(self.directory.join("count")).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Becomes `command`, traced. To be called in a process of one thread.
    ///
    /// # Errors
    /// It cannot be traced or started.
    pub fn exec(&self, mut command: Command) -> anyhow::Result<Infallible> {
        let (reader, writer) = std::io::pipe()?;
        let program = getpid();
        // SAFETY: the process has one thread, so no lock is left held in the child.
        match unsafe { fork() }? {
            ForkResult::Child => {
                drop(reader);
                if let Err(error) = self.follow(program, writer) {
                    eprintln!("the tracer: {error:#}");
                }
                std::process::exit(0)
            }
            ForkResult::Parent { .. } => {
                drop(writer);
                wait_for(reader)?;
                Err(command.exec()).with_context(|| format!("starting {command:?}"))
            }
        }
    }

    /// Traces `program` to its end; drops `ready` once it does.
    fn follow(&self, program: Pid, mut ready: PipeWriter) -> anyhow::Result<()> {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(program, options).context("tracing")?;
        ptrace::interrupt(program)?;
        waitpid(program, Some(WaitPidFlag::__WALL))?;
        ptrace::syscall(program, None)?;
        ready.write_all(b"!")?;
        drop(ready);
        let mut sockets = Sockets::default();
        let counter = File::options().write(true).open(self.directory.join("count"))?;
        let mut count = 0;
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => return Ok(()),
                Err(error) => return Err(error).context("waiting for the program"),
            };
            let gone_on = match status {
                WaitStatus::PtraceSyscall(thread) => {
                    if is_change(thread, &mut sockets)? && self.directory.join("armed").exists() {
                        count += 1;
                        // In place, so that a reader never finds a part of it.
                        counter.write_all_at(format!("{count:020}").as_bytes(), 0)?;
                        if count == self.at {
                            kill(program, Signal::SIGKILL)?;
                            continue;
                        }
                    }
                    ptrace::syscall(thread, None)
                }
                WaitStatus::Stopped(thread, signal) => ptrace::syscall(thread, signal),
                WaitStatus::PtraceEvent(thread, signal, event) => {
                    let stopped = event == Event::PTRACE_EVENT_STOP as i32 && signal != Signal::SIGTRAP;
                    // A whole process that is stopped stays so until SIGCONT.
                    if stopped { listen(thread) } else { ptrace::syscall(thread, None) }
                }
                _ => Ok(()),
            };
            // Killed meanwhile.
            gone_on.or_else(|error| if error == Errno::ESRCH { Ok(()) } else { Err(error) })?;
        }
    }
}

fn wait_for(mut reader: PipeReader) -> anyhow::Result<()> {
    let mut byte = [0];
    reader.read_exact(&mut byte).context("the tracer is gone")
}

fn listen(thread: Pid) -> nix::Result<()> {
    // SAFETY: PTRACE_LISTEN takes no addresses.
    let result = unsafe { libc::ptrace(libc::PTRACE_LISTEN, thread.as_raw(), 0, 0) };
    Errno::result(result).map(drop)
}

/// Commands of bpf(2) that change nothing (`enum bpf_cmd` of linux/bpf.h): looking up, walking, asking, opening.
const READING: [u64; 16] = [1, 4, 7, 10, 11, 12, 13, 14, 15, 16, 19, 20, 23, 24, 30, 31];

/// Which descriptors of the traced process are netlink sockets, by inode.
#[derive(Debug, Default)]
struct Sockets(BTreeMap<PathBuf, bool>);

impl Sockets {
    fn is_netlink(&mut self, process: Pid, descriptor: u64) -> bool {
        let Ok(socket) = fs::read_link(format!("/proc/{process}/fd/{descriptor}")) else { return false };
        *self.0.entry(socket).or_insert_with_key(|socket| is_listed(process, socket).unwrap_or(false))
    }
}

/// Whether `/proc/net/netlink` has `socket:[INODE]`.
fn is_listed(process: Pid, socket: &Path) -> Option<bool> {
    let inode = socket.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
    let list = fs::read_to_string(format!("/proc/{process}/net/netlink")).ok()?;
    Some(list.lines().any(|line| line.split_whitespace().last() == Some(inode)))
}

/// Whether a thread is about to make such a call.
fn is_change(thread: Pid, sockets: &mut Sockets) -> anyhow::Result<bool> {
    let info = match ptrace::syscall_info(thread) {
        Ok(info) => info,
        Err(Errno::ESRCH) => return Ok(false),
        Err(error) => return Err(error).context("asking for the call"),
    };
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(false);
    }
    // SAFETY: the kernel has filled in this part of the union, as `op` says.
    let entry = unsafe { info.u.entry };
    Ok(match entry.nr as i64 {
        libc::SYS_bpf => !READING.contains(&(entry.args[0] & 0xffff_ffff)),
        libc::SYS_sendto | libc::SYS_sendmsg | libc::SYS_write => sockets.is_netlink(thread, entry.args[0]),
        _ => false,
    })
}
