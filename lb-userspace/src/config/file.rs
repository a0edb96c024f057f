//! Reads every section of the file. What concerns one key alone is judged here; what concerns several
//! objects is `check`'s.

use std::time::Duration;

use lb_common::limits;

use crate::model::{
    Affinity, AllDown, Announce, Backend, Fallback, Forward, Grace, Pool, Protocol, Scheduler, Service,
    Timeouts, Tracking,
};

use super::health::health;
use super::outlier::outlier;
use super::problem::Fault;
use super::report::Read;
use super::scalar::{Scalar, word};
use super::section::{Entry, Mixed, Section};
use super::values::{self, duration, duration_or_zero, integer};
use super::weights::{slow_start, weights};
use super::words;
use super::{Admin, Daemon, Interface, Interfaces, Kernel, LogFormat, PlaneChoice, address};

/// What every host takes (RFC 9293 §3.7.1), and what the longest IPv4 packet holds.
const LEAST_MSS: u32 = 536;
const GREATEST_MSS: u32 = 65_495;

/// The file, each object read or its problems reported.
pub(super) struct File {
    pub(super) daemon: Daemon,
    pub(super) admin: Admin,
    pub(super) kernel: Kernel,
    pub(super) services: Vec<Read<Service>>,
    pub(super) pools: Vec<Read<Pool>>,
}

/// Reads the whole file.
pub(super) fn read(mut root: Section<'_, '_>) -> File {
    let file = File {
        daemon: daemon(root.section("daemon")),
        admin: admin(root.section("admin")),
        kernel: kernel(root.section("kernel")),
        services: root.sections("service").into_iter().map(service).collect(),
        pools: root.sections("pool").into_iter().map(pool).collect(),
    };
    root.finish();
    file
}

fn daemon(mut s: Section<'_, '_>) -> Daemon {
    let drain_timeout = s.or("drain_timeout", Duration::from_secs(30), duration_or_zero);
    let daemon = Daemon {
        state_dir: s.or("state_dir", "/var/lib/sluice".into(), values::path),
        bpf_dir: s.or("bpf_dir", "/sys/fs/bpf/sluice".into(), values::path),
        log: s.or("log", "info".to_owned(), values::log_filter),
        log_format: s.or("log_format", LogFormat::Text, word(words::LOG_FORMAT)),
        drain_timeout,
        drain_spread: s.or("drain_spread", drain_timeout / 10, duration_or_zero),
        watch: s.or("watch", false, values::boolean),
        checks_at_once: s.or("checks_at_once", 256, integer(1..=65_536)),
    };
    s.finish();
    daemon
}

fn admin(mut s: Section<'_, '_>) -> Admin {
    let admin = Admin {
        socket: s.or("socket", "/run/sluice/admin.sock".into(), values::socket),
        listen: s.optional("listen", address::loopback).ok().flatten(),
        token_file: s.optional("token_file", values::path).ok().flatten(),
    };
    s.finish();
    admin
}

fn kernel(mut s: Section<'_, '_>) -> Kernel {
    let plane = s.or("plane", PlaneChoice::Auto, word(words::PLANE));
    let kernel = Kernel {
        plane,
        interfaces: interfaces(&mut s, plane),
        flows: s.or("flows", limits::FLOWS, integer(1024..=64 * 1024 * 1024)),
        backends: s.or("backends", limits::BACKENDS, integer(1024..=limits::MAX_BACKENDS)),
        hash_seed: s.or("hash_seed", None, values::hash_seed),
        ping: s.or("ping", true, values::boolean),
        local: s.or("local", true, word(words::LOCAL)),
    };
    s.finish();
    kernel
}

fn interfaces(s: &mut Section<'_, '_>, plane: PlaneChoice) -> Interfaces {
    let key = "interfaces";
    let path = s.at(key);
    let listed = match s.mixed(key) {
        None => return Interfaces::Auto,
        Some(Mixed::One(path, node)) => {
            // Read for its problem alone: all that it may be is the default.
            s.scalar(&path, node, &only_auto).ok();
            return Interfaces::Auto;
        }
        Some(Mixed::Many(listed)) => listed,
    };
    if listed.is_empty() {
        let fault = Fault::new("is empty: nothing would be attached");
        s.report.fault(&path, fault.hint("write plane = \"off\" for no kernel plane, or leave this key out"));
    }
    let mut interfaces: Vec<Interface> = Vec::new();
    for entry in listed {
        let (path, name, plane) = match entry {
            Entry::Scalar(path, node) => {
                let name = s.scalar(&path, node, &values::interface);
                (path, name, plane)
            }
            Entry::Table(mut entry) => {
                let name = entry.required("name", "\"eth1\"", values::interface);
                let plane = entry.or("plane", plane, word(words::PLANE));
                let path = entry.path.clone();
                entry.finish();
                (path, name, plane)
            }
        };
        let Ok(name) = name else { continue };
        if interfaces.iter().any(|other| other.name == name) {
            s.report.fault(
                &path,
                Fault::new(format!("interface {name:?} is listed twice")).hint("delete one of the two"),
            );
        }
        interfaces.push(Interface { name, plane });
    }
    Interfaces::List(interfaces)
}

fn only_auto(scalar: &Scalar<'_>) -> Result<(), Fault> {
    match &*scalar.text("write \"auto\" or an array of names")? {
        "auto" => Ok(()),
        name => Err(Fault::new("must be \"auto\" or an array")
            .hint(format!("write interfaces = [{name:?}] for one interface"))),
    }
}

fn service(mut s: Section<'_, '_>) -> Read<Service> {
    let name = s.required("name", "\"web\"", values::name);
    let listen = s.one_or_more("listen", "\"192.0.2.10:80\"", address::unicast);
    let protocol = s.or("protocol", Protocol::Tcp, word(words::PROTOCOL));
    let pool = s.required("pool", "\"web\", the name of a [[pool]]", values::name);
    // A faulty word counts as `proxy`, of which least is asked: it must not lead to further problems.
    let forward = s.optional("forward", word(words::FORWARD));
    let forward = forward.map_or(Forward::Proxy, |written| written.unwrap_or(Forward::Auto));
    let fallback = s.or("fallback", Fallback::Proxy, word(words::FALLBACK));
    let announce = s.or("announce", Announce::Auto, word(words::ANNOUNCE));
    let affinity = s.or("affinity", Affinity::None, word(words::AFFINITY));
    let tracking = s.or("tracking", Tracking::Auto, word(words::TRACKING));
    let mss = s.optional("mss", integer(LEAST_MSS..=GREATEST_MSS));
    if protocol == Protocol::Udp && matches!(mss, Ok(Some(_))) {
        let fault = Fault::new("means nothing here: only TCP has a maximum segment size");
        s.report.fault(&s.at("mss"), fault.hint("leave it out of a UDP service"));
    }
    let all_down = s.or("all_down", AllDown::Refuse, word(words::ALL_DOWN));
    let down_grace = s.or("down_grace", Grace::For(Duration::from_secs(10)), values::grace);
    let timeouts = timeouts(s.section("timeouts"));
    s.later("route", "make one service and one pool for every listen address");
    s.later("limits", "limit connections at the backends until then");
    s.later("tls", "let the backends terminate TLS: Sluice forwards it as it is");
    s.finish();
    Ok(Service {
        name: name?,
        listen: listen?,
        protocol,
        pool: pool?,
        forward,
        fallback,
        announce,
        affinity,
        tracking,
        mss: mss.ok().flatten(),
        all_down,
        down_grace,
        timeouts,
    })
}

fn timeouts(mut s: Section<'_, '_>) -> Timeouts {
    let default = Timeouts::default();
    let timeouts = Timeouts {
        established: s.or("established", default.established, duration),
        closing: s.or("closing", default.closing, duration),
        half_open: s.or("half_open", default.half_open, duration),
        udp: s.or("udp", default.udp, duration),
    };
    s.finish();
    timeouts
}

fn pool(mut s: Section<'_, '_>) -> Read<Pool> {
    let name = s.required("name", "\"web\"", values::name);
    let scheduler = s.or("scheduler", Scheduler::Maglev, word(words::SCHEDULER));
    let table_size = s.optional("table_size", values::table_size);
    let table_size = table_size.map_or(limits::MAX_TABLE_SIZE, |written| written.unwrap_or(65_537));
    let weights = weights(&mut s, table_size);
    let slow_start = slow_start(s.section("slow_start"));
    let health = health(s.section("health"));
    let outlier = outlier(s.section("outlier"));
    let backends: Vec<Read<Backend>> = s.sections("backend").into_iter().map(backend).collect();
    s.later("breaker", "limit connections at the backends until then");
    s.finish();
    Ok(Pool {
        name: name?,
        scheduler,
        table_size,
        weights,
        slow_start,
        health,
        outlier,
        backends: backends.into_iter().collect::<Result<_, _>>()?,
    })
}

fn backend(mut s: Section<'_, '_>) -> Read<Backend> {
    let address = s.required("address", "\"10.0.0.11:8080\"", address::unicast);
    let weight = s.or("weight", 100, values::weight);
    let backup = s.or("backup", false, values::boolean);
    s.finish();
    Ok(Backend { address: address?, weight, backup })
}
