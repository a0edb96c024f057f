//! `[pool.health]`.

use std::sync::Arc;
use std::time::Duration;

use hyper::{HeaderMap, Method};

use crate::model::{Agent, Check, Exec, Grpc, Health, Http, Udp};

use super::problem::Fault;
use super::report::Read;
use super::scalar::{Scalar, word};
use super::section::Section;
use super::tls::tls;
use super::values::{duration, integer};
use super::words::{self, CheckKind};
use super::{address, http, questions};

/// The checks that make an HTTP request.
const HTTP: &[CheckKind] = &[CheckKind::Http, CheckKind::Https];
/// The checks that make a request to a named host.
const HOSTS: &[CheckKind] = &[CheckKind::Http, CheckKind::Https, CheckKind::Grpc, CheckKind::Grpcs];
const GRPC: &[CheckKind] = &[CheckKind::Grpc, CheckKind::Grpcs];
const UDP: &[CheckKind] = &[CheckKind::Udp];
/// The checks that send what they are told to.
const SEND: &[CheckKind] = &[CheckKind::Udp, CheckKind::Agent];
/// Agents have a port of their own.
const AGENT_PORT: &str = "9777, where the agent listens";
const EXEC: &[CheckKind] = &[CheckKind::Exec];

/// Reads the section. Where it is missing, backends are asked for TCP connections.
pub(super) fn health(mut s: Section<'_, '_>) -> Health {
    let default = Health::default();
    // Of a faulty word nothing is known: it must not lead to further problems.
    let kind = s.optional("check", word(words::CHECK)).map(|kind| kind.unwrap_or(CheckKind::Tcp)).ok();
    let host = only(&mut s, kind, HOSTS, "host", http::host);
    let tls = tls(&mut s, kind, host.as_deref().map(http::name));
    let service = only(&mut s, kind, GRPC, "service", questions::service).unwrap_or_default();
    let http = http(&mut s, kind, host.clone());
    let send = match kind {
        Some(CheckKind::Udp) => {
            s.required("send", "\"ping\", or hex digits: \"hex:0a0b\"", questions::bytes).ok()
        }
        _ => only(&mut s, kind, SEND, "send", questions::bytes),
    };
    let expect = only(&mut s, kind, UDP, "expect", questions::bytes);
    let exec = exec(&mut s, kind);
    let check = match kind {
        Some(CheckKind::None) => Some(Check::None),
        Some(CheckKind::Tcp) | None => Some(Check::Tcp),
        Some(CheckKind::Tls) => tls.map(|tls| Check::Tls(Arc::new(tls))),
        Some(CheckKind::Http | CheckKind::Https) => Some(Check::Http(Arc::new(Http { tls, ..http }))),
        Some(CheckKind::Grpc | CheckKind::Grpcs) => Some(Check::Grpc(Arc::new(Grpc { service, host, tls }))),
        Some(CheckKind::Udp) => send.map(|send| Check::Udp(Arc::new(Udp { send, expect }))),
        Some(CheckKind::Agent) => Some(Check::Agent(Arc::new(Agent { send: send.unwrap_or_default() }))),
        Some(CheckKind::Exec) => exec.map(|exec| Check::Exec(Arc::new(exec))),
    };
    // What is faulty is not used: it only must not lead to further problems.
    let check = check.unwrap_or(Check::Tcp);
    let (interval, fast_interval, timeout) = times(&mut s, &default, true);
    let port = match kind {
        Some(CheckKind::Agent) => s.required("port", AGENT_PORT, address::port).ok(),
        _ => s.optional("port", address::port).ok().flatten(),
    };
    let mut health = Health {
        check,
        interval,
        fast_interval,
        jitter: s.or("jitter", default.jitter, integer(0..=50)),
        timeout,
        rise: s.or("rise", default.rise, integer(1..=1000)),
        fall: s.or("fall", default.fall, integer(1..=1000)),
        address: s.optional("address", address::host).ok().flatten(),
        port,
        source: s.optional("source", address::host).ok().flatten(),
        agent: None,
    };
    let section = s.section("agent");
    if section.is_written() && kind == Some(CheckKind::Agent) {
        let fault = Fault::new("means nothing here: check = \"agent\" asks the agent already");
        s.report.fault(&s.at("agent"), fault.hint("write its keys beside check, or choose another check"));
    }
    health.agent = section.is_written().then(|| Arc::new(agent(section, &health)));
    s.finish();
    health
}

/// Reads the section of an agent that is asked beside the check.
fn agent(mut s: Section<'_, '_>, beside: &Health) -> Health {
    let send = s.optional("send", questions::bytes).ok().flatten().unwrap_or_default();
    let usual = Health { interval: beside.interval, ..Health::default() };
    let (interval, _, timeout) = times(&mut s, &usual, false);
    let agent = Health {
        check: Check::Agent(Arc::new(Agent { send })),
        interval,
        fast_interval: interval,
        jitter: beside.jitter,
        timeout,
        rise: 1,
        fall: 1,
        address: s.optional("address", address::host).ok().flatten().or(beside.address),
        port: s.required("port", AGENT_PORT, address::port).ok(),
        source: beside.source,
        agent: None,
    };
    s.finish();
    agent
}

/// The interval, the fast one where the section has it, and the time-out.
fn times(s: &mut Section<'_, '_>, default: &Health, has_fast: bool) -> (Duration, Duration, Duration) {
    let interval = s.optional("interval", duration);
    let mut within = |key, usual: Duration, hint: &str| {
        let written = s.optional(key, duration);
        let Ok(interval) = interval else { return usual };
        let interval = interval.unwrap_or(default.interval);
        // The default must not be longer than a short interval that the file asks for.
        let Ok(Some(written)) = written else { return usual.min(interval) };
        if written > interval {
            let reason = format!("is longer than the interval, {}", humantime::format_duration(interval));
            s.report.fault(&s.at(key), Fault::new(reason).hint(hint));
        }
        written
    };
    let fast = match has_fast {
        true => within("fast_interval", Duration::MAX, "it is for checks that should be closer together"),
        false => Duration::MAX,
    };
    let timeout = within("timeout", default.timeout, "a check has to end before the next one begins");
    (interval.ok().flatten().unwrap_or(default.interval), fast, timeout)
}

fn http(s: &mut Section<'_, '_>, kind: Option<CheckKind>, host: Option<String>) -> Http {
    let default = Http::default();
    let method = only(s, kind, HTTP, "method", http::method).unwrap_or(default.method);
    let path = only(s, kind, HTTP, "path", http::path).unwrap_or(default.path);
    let headers = s.entries("headers", http::header);
    let headers: Option<HeaderMap> =
        fits(s, kind, HTTP, "headers", headers).map(|headers| headers.into_iter().collect());
    let status = only(s, kind, HTTP, "status", http::statuses).unwrap_or(default.status);
    let body = only(s, kind, HTTP, "body", http::body);
    if method == Method::HEAD && body.is_some() {
        let fault = Fault::new("means nothing here: the answer to HEAD has no body");
        s.report.fault(&s.at("body"), fault.hint("write method = \"GET\", or leave body out"));
    }
    Http { method, host, path, headers: headers.unwrap_or_default(), status, body, tls: None }
}

fn exec(s: &mut Section<'_, '_>, kind: Option<CheckKind>) -> Option<Exec> {
    let key = "command";
    let command = match kind {
        Some(CheckKind::Exec) => s.one_or_more(key, "[\"/usr/local/bin/check\"]", questions::argument).ok(),
        _ => {
            let command = s.list(key, questions::argument);
            fits(s, kind, EXEC, key, command)
        }
    };
    let (program, arguments) = command.as_ref()?.split_first()?;
    if !program.starts_with('/') {
        let fault = Fault::new("does not begin with the absolute path of a program");
        let hint = "such as [\"/usr/local/bin/check\", \"--fast\"]; a shell is run by [\"/bin/sh\", \"-c\", \"...\"]";
        s.report.fault(&s.report.entry(s.at(key), 0), fault.hint(hint));
        return None;
    }
    Some(Exec { program: program.into(), arguments: arguments.to_vec() })
}

/// A key that some checks alone take.
pub(super) fn only<T>(
    s: &mut Section<'_, '_>,
    kind: Option<CheckKind>,
    takers: &[CheckKind],
    key: &'static str,
    read: impl Fn(&Scalar<'_>) -> Result<T, Fault>,
) -> Option<T> {
    let value = s.optional(key, read);
    fits(s, kind, takers, key, value)
}

/// Reports a key that means nothing to this kind of check. Where the kind is faulty, all take every key.
fn fits<T>(
    s: &Section<'_, '_>,
    kind: Option<CheckKind>,
    takers: &[CheckKind],
    key: &str,
    value: Read<Option<T>>,
) -> Option<T> {
    let value = value.ok().flatten()?;
    if kind.is_some_and(|kind| !takers.contains(&kind)) {
        let takers: Vec<String> = takers.iter().map(|taker| format!("check = {:?}", taker.name())).collect();
        let takers = takers.join(" or ");
        let fault = Fault::new(format!("means nothing here: only {takers} takes it"));
        s.report.fault(&s.at(key), fault.hint(format!("write {takers}, or leave {key} out")));
    }
    Some(value)
}
