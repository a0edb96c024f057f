//! The ephemeral ports of this host: every connection to a backend takes one, and where this side was the first to close,
//! keeps it for a minute (TIME-WAIT, RFC 9293 3.6.1; `TCP_TIMEWAIT_LEN` in Linux). Long before they run out, looking for
//! a free one takes the kernel more time than all the rest.

use std::cell::Cell;
use std::fs;
use std::io;
use std::time::Duration;

use tokio::time::Instant;

/// How long a port stays taken, in seconds.
const TIME_WAIT: u32 = 60;
/// Between two complaints of one worker.
const SILENCE: Duration = Duration::from_secs(10);
const CURE: &str = "sysctl net.ipv4.tcp_tw_reuse=1 net.ipv4.ip_local_port_range=\"1024 65535\"";

/// Why this host may run out of them, and the cure; nothing where it takes ports again at once.
pub(super) fn shortage() -> Option<String> {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok();
    words(&read("ip_local_port_range")?, &read("tcp_tw_reuse")?)
}

fn words(range: &str, reuse: &str) -> Option<String> {
    let mut bounds = range.split_whitespace().map(|bound| bound.parse::<u32>().ok());
    let (first, last) = (bounds.next()??, bounds.next()??);
    let ports = (last + 1).checked_sub(first)?;
    // 2 is for loopback alone.
    (reuse.trim() != "1").then(|| {
        format!(
            "{ports} ephemeral ports, each taken until a minute after its connection: at {} new connections a second to one \
             backend there is none left, and at half of that they become slow (hint: {CURE})",
            ports / TIME_WAIT
        )
    })
}

/// Says now and then that a connection could not be made for want of something on this host.
#[derive(Debug, Default)]
pub(super) struct Complaints(Cell<Option<Instant>>);

impl Complaints {
    /// Logs an error of this host, unless one was logged a moment ago.
    pub(super) fn make(&self, error: &io::Error, now: Instant) {
        if self.0.get().is_some_and(|last| now < last + SILENCE) {
            return;
        }
        self.0.set(Some(now));
        let hint = match error.kind() {
            io::ErrorKind::AddrNotAvailable => CURE,
            _ => "raise the limit of open files, or give the host more memory",
        };
        tracing::warn!(%error, hint, "this host cannot open further connections to backends");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_keeps_ports_back_is_told_how_far_they_go() {
        let told = words("32768\t60999\n", "2\n").unwrap();
        assert!(
            told.starts_with("28232 ephemeral ports") && told.contains("at 470 new connections"),
            "{told}"
        );
        assert_eq!(words("32768\t60999\n", "1\n"), None);
        assert_eq!(words("", "2"), None);
        assert_eq!(words("60999 32768", "2"), None);
    }
}
