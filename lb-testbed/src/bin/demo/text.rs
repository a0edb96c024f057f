//! The figures as a person reads them.

use std::fmt::Display;

use crate::choice::Choice;
use crate::figures::{Chosen, DaemonKill, Document, FullLoad, Kill, Outcome, Restore, Span};
use crate::load::{CLIENTS, REQUESTS_PER_CONNECTION};
use crate::stage::SERVICE;

/// Where text goes.
#[derive(Clone, Copy)]
pub struct Voice {
    /// Standard output is for one JSON document.
    pub json: bool,
}

impl Voice {
    /// What the document says too.
    pub fn say(self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    /// What is not in the document.
    pub fn say_always(self, text: &str) {
        if self.json { eprintln!("{text}") } else { println!("{text}") }
    }
}

/// Columns of the labels.
const LABEL: usize = 20;
/// Columns beside them.
const WIDTH: usize = 88;

/// What will be seen.
pub fn opening() -> String {
    format!(
        "
A client, the balancer and three HTTP backends, each in a network namespace of its own, and the real daemon.
{CLIENTS} clients ask http://{SERVICE}/ over kept connections, {REQUESTS_PER_CONNECTION} requests on each.
Lost is a request that got no answer, or a wrong one; stalled is one that waited for longer than a second."
    )
}

/// The plane and why it is this one.
pub fn chosen(choice: Choice, chosen: &Chosen) -> String {
    let mut text = format!("\n== {choice}\n{}", line("chosen", format!("{choice} ({})", chosen.reason)));
    for (interfaces, reason) in chosen.by_plane() {
        text.push_str(&format!("\n{}", line("because", format!("{}: {reason}", interfaces.join(", ")))));
    }
    text
}

/// Requests and their distribution.
pub fn full_load(load: &FullLoad) -> String {
    let FullLoad { span, distribution, wrk_requests_per_s } = load;
    let wrk = wrk_requests_per_s.map(|rate| format!(" (wrk: {}/s)", thousands(rate.round() as u64)));
    let rate = format!(
        "{} requests in {:.1} s, {}/s{}",
        thousands(span.requests),
        span.seconds,
        thousands(span.requests_per_s.round() as u64),
        wrk.unwrap_or_default()
    );
    let cost = format!("{} lost, {}", thousands(span.lost), stalled(span));
    let latency = format!("median {:.1} ms, p99 {:.1} ms", span.median_ms, span.p99_ms);
    let mut text = [line("full load", rate), line("", format!("{cost}; {latency}"))].join("\n");
    for share in distribution {
        let figures = format!("{:>9} requests  {:>4.1} %", thousands(share.requests), share.percent);
        text.push_str(&format!("\n{}", line(&format!("  {}", share.backend), figures)));
    }
    text
}

/// What the kill cost.
pub fn kill(kill: &Kill) -> String {
    let last = kill.last_lost_ms.map_or_else(
        || "no request failed".to_owned(),
        |ms| format!("last failed request {} after the kill", seconds(ms)),
    );
    let survivors = match kill.span.unexplained {
        0 => "no request and no connection".to_owned(),
        count => format!("{} requests and connections", thousands(count)),
    };
    [
        line(&format!("{} killed", kill.backend), of_requests(&kill.span)),
        line("", format!("out of the tables {} after the kill, {last}", seconds(kill.detected_ms))),
        line("", format!("the other backends lost {survivors}")),
    ]
    .join("\n")
}

/// What the restore cost.
pub fn restore(restore: &Restore) -> String {
    [
        line(&format!("{} restored", restore.backend), of_requests(&restore.span)),
        line("", format!("traffic again {} after it listened", seconds(restore.traffic_again_ms))),
    ]
    .join("\n")
}

/// What the daemon's death cost.
pub fn daemon_kill(kill: Option<&DaemonKill>) -> String {
    let Some(kill) = kill else {
        return line("daemon", "not killed here: on this plane the daemon itself carries the traffic");
    };
    [
        line("daemon killed (-9)", of_requests(&kill.span)),
        line(
            "",
            format!(
                "{} without a daemon; the next one was ready {} after its start",
                seconds(kill.without_ms),
                seconds(kill.ready_ms)
            ),
        ),
    ]
    .join("\n")
}

/// How it went with one plane.
pub fn outcome(choice: Choice, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Shown(figures) if figures.ok => line("as it should", "yes"),
        Outcome::Shown(_) => {
            line("as it should", "NO: a request or connection was lost that nothing explains")
        }
        Outcome::Skipped { reason } => format!("\n== {choice}\n{}", line("cannot run here", reason)),
        Outcome::Failed { reason } => format!("\n== {choice}\n{}", line("FAILED", reason)),
    }
}

/// The last line.
pub fn closing(document: &Document) -> String {
    let names = |kind: fn(&Outcome) -> bool| {
        let planes = document.planes.iter().filter(|shown| kind(&shown.outcome));
        planes.map(|shown| shown.plane.to_string()).collect::<Vec<_>>().join(", ")
    };
    let good = names(|outcome| matches!(outcome, Outcome::Shown(figures) if figures.ok));
    let bad = names(|outcome| match outcome {
        Outcome::Shown(figures) => !figures.ok,
        Outcome::Skipped { .. } => false,
        Outcome::Failed { .. } => true,
    });
    let skipped = names(|outcome| matches!(outcome, Outcome::Skipped { .. }));
    let mut parts = Vec::new();
    for (text, planes) in
        [("all went as it should on", good), ("NOT as it should on", bad), ("cannot run here:", skipped)]
    {
        if !planes.is_empty() {
            parts.push(format!("{text} {planes}"));
        }
    }
    format!("\n{}.", parts.join("; "))
}

fn of_requests(span: &Span) -> String {
    let lost = thousands(span.lost);
    format!("{lost} of {} requests lost, {}", thousands(span.requests), stalled(span))
}

fn stalled(span: &Span) -> String {
    let paused = (span.stalled > 0 && span.paused_ms > 0.0)
        .then(|| format!(" (this machine did not run the clients for up to {})", seconds(span.paused_ms)));
    format!("{} stalled{}", thousands(span.stalled), paused.unwrap_or_default())
}

fn seconds(milliseconds: f64) -> String {
    format!("{:.2} s", milliseconds / 1000.0)
}

/// A label and what belongs to it, wrapped, so that all begins in the same column.
fn line(label: &str, text: impl Display) -> String {
    let mut lines = vec![String::new()];
    for word in text.to_string().split(' ') {
        match lines.last_mut() {
            Some(last) if last.is_empty() => last.push_str(word),
            Some(last) if last.chars().count() + word.chars().count() < WIDTH => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    format!("  {label:<LABEL$} {}", lines.join(&format!("\n{:LABEL$}   ", "")))
}

/// With a comma between groups of three digits.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_stays_in_its_column() {
        let wrapped = line("label", "word ".repeat(40).trim());
        assert_eq!(wrapped.split_whitespace().count(), 41);
        assert!(wrapped.lines().all(|line| line.len() <= 2 + LABEL + 1 + WIDTH), "{wrapped}");
        assert!(wrapped.lines().skip(1).all(|line| line.find("word") == Some(2 + LABEL + 1)), "{wrapped}");
    }

    #[test]
    fn groups_of_three() {
        assert_eq!(
            [0, 999, 1000, 123_456, 1_000_000].map(thousands),
            ["0", "999", "1,000", "123,456", "1,000,000"]
        );
    }
}
