//! What a reload would change, in words, and what it must not change.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::model::{Adaptive, Check, Grace, Health, Http, Outlier, Pool, Service, Tls, Trust, Weights};

use super::problem::{Fault, Problem};
use super::{Config, Interfaces, PlaneChoice};

/// Settings by key, in words.
type Settings = BTreeMap<&'static str, String>;

/// One line for every difference: `pool "web", backend 10.0.0.11:8080: weight 100 -> 50`. Empty where the two
/// mean the same.
pub fn changes(old: &Config, new: &Config) -> Vec<String> {
    let (old, new) = (objects(old), objects(new));
    let removed =
        old.keys().filter(|object| !new.contains_key(*object)).map(|object| format!("{object}: removed"));
    let others = new.iter().flat_map(|(object, settings)| match old.get(object) {
        None => {
            let list: Vec<String> = settings.iter().map(|(key, value)| format!("{key} {value}")).collect();
            vec![format!("{object}: added ({})", list.join(", "))]
        }
        Some(before) => different(before, settings)
            .map(|(key, before, after)| format!("{object}: {key} {before} -> {after}"))
            .collect(),
    });
    removed.chain(others).collect()
}

/// Settings that a running daemon keeps for life: where its state lies, how it logs and is reached, and what
/// pinned maps were made with.
/// A reload that changes one of them is refused.
pub fn frozen(old: &Config, new: &Config) -> Vec<Problem> {
    const KEYS: [(&str, &[&str]); 3] = [
        ("daemon", &["bpf_dir", "checks_at_once", "log_format", "state_dir"]),
        ("admin", &["listen", "socket", "token_file"]),
        ("kernel", &["backends", "flows", "hash_seed"]),
    ];
    let mut problems = Vec::new();
    let (before, after) = (sections(old), sections(new));
    for (section, keys) in KEYS {
        let (Some(before), Some(after)) = (before.get(section), after.get(section)) else { continue };
        for (key, before, after) in different(before, after).filter(|(key, ..)| keys.contains(key)) {
            problems.push(needs_restart(format!("{section}.{key}"), before, after));
        }
    }
    // Seeds are secret and no setting in words.
    if old.kernel.hash_seed != new.kernel.hash_seed {
        problems.push(needs_restart("kernel.hash_seed".to_owned(), "another seed", "..."));
    }
    for (index, pool) in new.pools.iter().enumerate() {
        let Some(before) = old.pools.iter().find(|before| before.name == pool.name) else { continue };
        let in_use = old.services.iter().any(|service| service.pool == pool.name);
        if in_use && before.table_size != pool.table_size {
            let (path, before) = (format!("pool[{index}].table_size"), before.table_size.to_string());
            problems.push(needs_restart(path, &before, &pool.table_size.to_string()));
        }
    }
    problems
}

fn needs_restart(path: String, before: &str, after: &str) -> Problem {
    let hint = if path.ends_with("table_size") {
        "make a pool of another name and point the service to it; or stop the daemon, run `sluice cleanup`, which ends \
         open connections, and start it"
    } else if path.starts_with("kernel.") {
        "take the change back; or stop the daemon, run `sluice cleanup`, which ends open connections, and start it"
    } else {
        "restart the daemon, or take the change back"
    };
    let fault = Fault::new(format!("the daemon runs with {before}, and a change needs a restart")).hint(hint);
    let value = (!super::problem::is_secret(&path)).then(|| after.to_owned());
    Problem { path, value, ..Problem::whole("", fault) }
}

fn different<'s>(
    before: &'s Settings,
    after: &'s Settings,
) -> impl Iterator<Item = (&'static str, &'s str, &'s str)> {
    let both =
        after.iter().filter_map(|(key, after)| Some((*key, before.get(key)?.as_str(), after.as_str())));
    both.filter(|(_, before, after)| before != after)
}

fn objects(config: &Config) -> BTreeMap<String, Settings> {
    let mut objects: BTreeMap<String, Settings> =
        sections(config).into_iter().map(|(name, settings)| (name.to_owned(), settings)).collect();
    for service in &config.services {
        objects.insert(format!("service {:?}", service.name), self::service(service));
    }
    for pool in &config.pools {
        let name = format!("pool {:?}", pool.name);
        for backend in &pool.backends {
            let settings =
                [("weight", backend.weight.to_string()), ("backup", backend.backup.to_string())].into();
            objects.insert(format!("{name}, backend {}", backend.address), settings);
        }
        objects.insert(name, self::pool(pool));
    }
    objects
}

fn sections(config: &Config) -> BTreeMap<&'static str, Settings> {
    let Config { daemon, admin, kernel, .. } = config;
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    let interfaces = match &kernel.interfaces {
        Interfaces::Auto => "auto".to_owned(),
        Interfaces::List(list) => {
            let names =
                list.iter().map(|interface| format!("{} ({})", interface.name, plane(interface.plane)));
            names.collect::<Vec<_>>().join(", ")
        }
    };
    [
        (
            "daemon",
            [
                ("state_dir", daemon.state_dir.display().to_string()),
                ("bpf_dir", daemon.bpf_dir.display().to_string()),
                ("log", daemon.log.clone()),
                ("log_format", lower(daemon.log_format)),
                ("drain_timeout", time(daemon.drain_timeout)),
                ("drain_spread", time(daemon.drain_spread)),
                ("watch", daemon.watch.to_string()),
                ("checks_at_once", daemon.checks_at_once.to_string()),
            ]
            .into(),
        ),
        (
            "admin",
            [
                ("socket", admin.socket.display().to_string()),
                ("listen", or_none(admin.listen.map(|listen| listen.to_string()))),
                ("token_file", or_none(admin.token_file.as_ref().map(|file| file.display().to_string()))),
            ]
            .into(),
        ),
        (
            "kernel",
            [
                ("plane", plane(kernel.plane)),
                ("interfaces", interfaces),
                ("flows", kernel.flows.to_string()),
                ("backends", kernel.backends.to_string()),
                ("ping", kernel.ping.to_string()),
                ("local", if kernel.local { "auto" } else { "off" }.to_owned()),
            ]
            .into(),
        ),
    ]
    .into()
}

fn service(service: &Service) -> Settings {
    let listen: Vec<String> = service.listen.iter().map(ToString::to_string).collect();
    let grace = match service.down_grace {
        Grace::For(duration) => time(duration),
        Grace::Forever => "forever".to_owned(),
    };
    [
        ("listen", listen.join(", ")),
        ("protocol", lower(service.protocol)),
        ("pool", service.pool.clone()),
        ("forward", lower(service.forward)),
        ("fallback", lower(service.fallback)),
        ("announce", lower(service.announce)),
        ("affinity", lower(service.affinity)),
        ("mss", service.mss.map_or_else(|| "none".to_owned(), |mss| mss.to_string())),
        ("tracking", lower(service.tracking)),
        ("all_down", service.all_down.name().to_owned()),
        ("down_grace", grace),
        ("timeouts.established", time(service.timeouts.established)),
        ("timeouts.closing", time(service.timeouts.closing)),
        ("timeouts.half_open", time(service.timeouts.half_open)),
        ("timeouts.udp", time(service.timeouts.udp)),
    ]
    .into()
}

fn pool(pool: &Pool) -> Settings {
    let mut settings = health(&pool.health);
    settings.insert("scheduler", pool.scheduler.name().to_owned());
    settings.insert("table_size", pool.table_size.to_string());
    settings.insert("weights", pool.weights.name().to_owned());
    if let Weights::Adaptive(Adaptive { slots_per_second, least }) = &pool.weights {
        settings.insert("adaptive.slots_per_second", slots_per_second.to_string());
        settings.insert("adaptive.least", least.to_string());
    }
    settings.insert("slow_start.time", time(pool.slow_start.time));
    settings.insert("slow_start.least", pool.slow_start.least.to_string());
    settings.insert("outlier", pool.outlier.as_ref().map_or_else(|| "none".to_owned(), outlier));
    settings
}

fn outlier(outlier: &Outlier) -> String {
    let Outlier { consecutive, share, volume, window, ejection, longest, most, panic } = outlier;
    let (window, ejection, longest) = (time(*window), time(*ejection), time(*longest));
    format!(
        "{consecutive} in a row, or {share} % of {volume} within {window}: {ejection} to {longest}, {most} % at most, \
         panic at {panic} %"
    )
}

fn health(health: &Health) -> Settings {
    let Health { check, interval, fast_interval, jitter, timeout, rise, fall, address, port, source, agent } =
        health;
    let own = |written: Option<String>| written.unwrap_or_else(|| "the backend's".to_owned());
    let fast_interval =
        if fast_interval == interval { "the interval".to_owned() } else { time(*fast_interval) };
    let mut settings = Settings::from([
        ("health.interval", time(*interval)),
        ("health.fast_interval", fast_interval),
        ("health.jitter", jitter.to_string()),
        ("health.timeout", time(*timeout)),
        ("health.rise", rise.to_string()),
        ("health.fall", fall.to_string()),
        ("health.address", own(address.map(|address| address.to_string()))),
        ("health.port", own(port.map(|port| port.to_string()))),
        ("health.source", source.map_or_else(|| "any".to_owned(), |source| source.to_string())),
    ]);
    settings
        .insert("health.agent", agent.as_ref().map_or_else(|| "none".to_owned(), |agent| self::agent(agent)));
    let name = match check {
        Check::None => "none",
        Check::Tcp => "tcp",
        Check::Tls(tls) => {
            settings.extend(self::tls(tls));
            "tls"
        }
        Check::Http(http) => {
            settings.extend(self::http(http));
            settings.extend(http.tls.iter().flat_map(tls));
            if http.tls.is_some() { "https" } else { "http" }
        }
        Check::Grpc(grpc) => {
            settings.insert("health.service", format!("{:?}", grpc.service));
            settings.insert("health.host", own(grpc.host.clone()));
            settings.extend(grpc.tls.iter().flat_map(tls));
            if grpc.tls.is_some() { "grpcs" } else { "grpc" }
        }
        Check::Udp(udp) => {
            settings.insert("health.send", text(&udp.send));
            settings.insert("health.expect", udp.expect.as_deref().map_or_else(|| "any".to_owned(), text));
            "udp"
        }
        Check::Exec(exec) => {
            settings.insert("health.command", format!("{:?} {:?}", exec.program, exec.arguments));
            "exec"
        }
        Check::Agent(agent) => {
            settings.insert("health.send", text(&agent.send));
            "agent"
        }
    };
    settings.insert("health.check", name.to_owned());
    settings
}

/// An agent that is asked beside the check.
fn agent(agent: &Health) -> String {
    let send = match &agent.check {
        Check::Agent(agent) => text(&agent.send),
        _ => String::new(),
    };
    let address = agent.address.map_or_else(|| "the backend".to_owned(), |address| address.to_string());
    let (port, interval, timeout) =
        (agent.port.unwrap_or_default(), time(agent.interval), time(agent.timeout));
    format!("port {port} of {address}, every {interval} for {timeout}, sending {send}")
}

fn text(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

fn http(http: &Http) -> Settings {
    let Http { method, host, path, headers, status, body, tls: _ } = http;
    let status: Vec<String> =
        status.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect();
    // Their values may be secret.
    let headers: Vec<&str> = headers.keys().map(|name| name.as_str()).collect();
    [
        ("health.method", method.to_string()),
        ("health.host", host.clone().unwrap_or_else(|| "the backend's".to_owned())),
        ("health.path", path.clone()),
        ("health.headers", if headers.is_empty() { "none".to_owned() } else { headers.join(", ") }),
        ("health.status", status.join(",")),
        ("health.body", body.as_ref().map_or_else(|| "any".to_owned(), |body| format!("{body:?}"))),
    ]
    .into()
}

fn tls(tls: &Tls) -> Settings {
    let trust = match tls.trust() {
        Trust::Anyone => "anyone".to_owned(),
        Trust::System => "the host's".to_owned(),
        Trust::Authorities { file, .. } => file.display().to_string(),
    };
    let name = tls.server_name().map_or_else(|| "the address".into(), |name| name.to_str());
    [("health.ca_file", trust), ("health.sni", name.into_owned())].into()
}

/// The words of these enums are their names.
fn lower(word: impl fmt::Debug) -> String {
    format!("{word:?}").to_lowercase()
}

fn plane(choice: PlaneChoice) -> String {
    match choice {
        PlaneChoice::Auto => "auto".to_owned(),
        PlaneChoice::Force(plane) => plane.to_string(),
        PlaneChoice::Off => "off".to_owned(),
    }
}

fn time(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
