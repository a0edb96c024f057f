//! The agent check: a backend says in one line how it is (HAProxy's configuration manual, `agent-check`).

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::probe::{Outcome, describe};
use crate::model::{Agent, Condition, Order, Report};

/// A longer line is no answer.
const MAX_LINE_BYTES: usize = 1024;
/// What is shown of words, in characters.
const SHOWN: usize = 200;

/// Asks, and reads one line.
pub(super) async fn ask(mut stream: TcpStream, agent: &Agent) -> Outcome {
    let line = match exchange(&mut stream, agent).await {
        Ok(line) => line,
        Err(error) => return Outcome::failed(describe(&error)),
    };
    let line = String::from_utf8_lossy(&line);
    match parse(&line) {
        Ok(report) => Outcome { report, ..Outcome::passed(shown(line.trim())) },
        Err(why) => Outcome::failed(why),
    }
}

/// The answer up to the end of its first line.
async fn exchange(stream: &mut TcpStream, agent: &Agent) -> io::Result<Vec<u8>> {
    stream.write_all(&agent.send).await?;
    let mut line = Vec::with_capacity(MAX_LINE_BYTES);
    let mut answer = stream.take(MAX_LINE_BYTES as u64);
    loop {
        let read = answer.read_buf(&mut line).await?;
        if let Some(end) = line.iter().position(|byte| b"\r\n".contains(byte)) {
            line.truncate(end);
            return Ok(line);
        }
        if line.len() >= MAX_LINE_BYTES {
            let reason = format!("the answer's first line is longer than {MAX_LINE_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        if read == 0 {
            return Ok(line);
        }
    }
}

/// What a line says; the error names what nobody understands.
fn parse(line: &str) -> Result<Report, String> {
    // What follows is for people.
    let (words, why) = match line.split_once('#') {
        Some((words, why)) => (words, why.trim()),
        None => (line, ""),
    };
    let mut report = Report::default();
    let mut unknown = Vec::new();
    for word in words.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
        if take(&mut report, word, why).is_none() {
            unknown.push(word);
        }
    }
    if !unknown.is_empty() {
        return Err(format!("the agent's answer has unknown words: {}", shown(&unknown.join(" "))));
    }
    if report == Report::default() {
        return Err("the agent's answer is empty".to_owned());
    }
    Ok(report)
}

/// Takes in one word; `None`: it is unknown.
fn take(report: &mut Report, word: &str, why: &str) -> Option<()> {
    let word = word.to_ascii_lowercase();
    match word.as_str() {
        "ready" => report.order = Some(Order::Ready),
        "drain" => report.order = Some(Order::Drain),
        "maint" => report.order = Some(Order::Maintenance),
        "up" => report.condition = Some(Condition::Up),
        "down" | "fail" | "failed" | "stopped" => {
            let said = if why.is_empty() { word } else { format!("{word}: {}", shown(why)) };
            report.condition = Some(Condition::Down(said));
        }
        other => {
            if let Some(load) = other.strip_prefix("cpu:") {
                let load: f64 = load.strip_suffix('%').unwrap_or(load).parse().ok()?;
                report.load = Some((0.0..=100.0).contains(&load).then_some(load.round() as u8)?);
            } else if let Some(connections) = other.strip_prefix("maxconn:") {
                report.connections = Some(connections.parse().ok()?);
            } else {
                report.percent = Some(other.strip_suffix('%')?.parse().ok()?);
            }
        }
    }
    Some(())
}

/// What a terminal and a log may show.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn down(said: &str) -> Option<Condition> {
        Some(Condition::Down(said.to_owned()))
    }

    #[test]
    fn a_line_says_what_its_words_say() {
        let nothing = Report::default;
        let expected = [
            ("75%", Report { percent: Some(75), ..nothing() }),
            ("\t0% ", Report { percent: Some(0), ..nothing() }),
            ("UP 99%", Report { percent: Some(99), condition: Some(Condition::Up), ..nothing() }),
            ("ready,up", {
                Report { order: Some(Order::Ready), condition: Some(Condition::Up), ..nothing() }
            }),
            ("drain", Report { order: Some(Order::Drain), ..nothing() }),
            ("maint maxconn:30", {
                Report { order: Some(Order::Maintenance), connections: Some(30), ..nothing() }
            }),
            ("down", Report { condition: down("down"), ..nothing() }),
            ("failed #", Report { condition: down("failed"), ..nothing() }),
            ("fail", Report { condition: down("fail"), ..nothing() }),
            ("stopped, 5% # disk # full ", {
                Report { condition: down("stopped: disk # full"), percent: Some(5), ..nothing() }
            }),
            ("cpu:37.6% 100%", Report { load: Some(38), percent: Some(100), ..nothing() }),
            ("cpu:0", Report { load: Some(0), ..nothing() }),
        ];
        for (line, report) in expected {
            assert_eq!(parse(line), Ok(report), "{line}");
        }
    }

    #[test]
    fn what_nobody_understands_is_named() {
        for (line, why) in [
            ("", "the agent's answer is empty"),
            (" , # all is well", "the agent's answer is empty"),
            ("75", "the agent's answer has unknown words: 75"),
            ("ready -5% 70000% up", "the agent's answer has unknown words: -5% 70000%"),
            ("cpu:101 cpu:nan% cpu: maxconn:x %", {
                "the agent's answer has unknown words: cpu:101 cpu:nan% cpu: maxconn:x %"
            }),
            ("\u{1b}[2J", "the agent's answer has unknown words: \u{fffd}[2J"),
        ] {
            assert_eq!(parse(line), Err(why.to_owned()), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_does_harm(line in "\\PC{0,300}") {
            let shown = match parse(&line) {
                Ok(report) => format!("{report:?}"),
                Err(why) => why,
            };
            prop_assert!(!shown.contains(char::is_control));
        }
    }
}
