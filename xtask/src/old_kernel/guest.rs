//! The machine itself: qemu, by KVM where that works, else by emulation.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;

/// What init prints first.
const GREETING: &str = "guest: Linux";
/// From power to that line, by KVM. A machine that is itself virtual may offer a KVM that never gets there.
const BOOT: Duration = Duration::from_secs(30);
/// Of the whole run: emulation takes some minutes on an idle machine.
const LIMIT: Duration = Duration::from_secs(3600);

/// What the tests came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
    /// Test binaries that ran to their end.
    pub(super) binaries: usize,
}

/// Boots, and passes on what the guest prints until it turns itself off.
pub(super) fn run(kernel: &Path, image: &Path) -> Result<Counts> {
    if Path::new("/dev/kvm").exists() {
        if let Some(counts) = boot(kernel, image, &["kvm", "host"], BOOT)? {
            return Ok(counts);
        }
        println!("the guest does not start by KVM within {} s: emulating it", BOOT.as_secs());
    }
    boot(kernel, image, &["tcg", "max"], LIMIT)?.context("the emulated guest does not start")
}

/// `None`: no greeting within `patience`.
fn boot(
    kernel: &Path,
    image: &Path,
    [accelerator, cpu]: &[&str; 2],
    patience: Duration,
) -> Result<Option<Counts>> {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", accelerator, "-cpu", cpu, "-m", "2048", "-smp", "2"])
        .args(["-nographic", "-no-reboot", "-nic", "none", "-append", "console=ttyS0 panic=-1 quiet"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    println!("$ {}", process::shown(&command));
    let mut guest = Guest(command.spawn().context("cannot run qemu-system-x86_64")?);
    let lines = guest.lines()?;
    let start = Instant::now();
    let mut greeted = false;
    let mut counts = Counts::default();
    loop {
        let patience = if greeted { LIMIT } else { patience };
        match lines.recv_timeout(patience.saturating_sub(start.elapsed())) {
            Ok(line) => {
                greeted |= line.contains(GREETING);
                counts.take(&line);
                if greeted {
                    println!("{line}");
                }
            }
            Err(RecvTimeoutError::Disconnected) if greeted => return Ok(Some(counts)),
            Err(RecvTimeoutError::Timeout) if greeted => {
                bail!("the guest still runs after {} s", LIMIT.as_secs())
            }
            Err(_) => return Ok(None),
        }
    }
}

impl Counts {
    /// Counts one line: `test result: ok. 12 passed; 0 failed; ...`.
    fn take(&mut self, line: &str) {
        let Some((_, result)) = line.split_once("test result:") else { return };
        let count = |word| {
            let before = result.split(word).next().unwrap_or_default();
            before.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or_default()
        };
        self.passed += count(" passed");
        self.failed += count(" failed");
        self.binaries += 1;
    }
}

/// A running machine; turned off on drop.
struct Guest(Child);

impl Guest {
    fn lines(&mut self) -> Result<Receiver<String>> {
        let output = self.0.stdout.take().context("qemu has no output")?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(std::io::Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(receiver)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Off already where it turned itself off.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted() {
        let mut counts = Counts::default();
        counts.take("test a ... ok");
        counts.take("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured");
        counts.take("\u{1b}[2Jtest result: ok. 4 passed; 0 failed; 0 ignored");
        assert_eq!(counts, Counts { passed: 7, failed: 2, binaries: 2 });
    }
}
