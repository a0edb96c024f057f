//! The shipped config is good, every rule explains itself, and nothing broken is accepted.
//!
//! Each `tests/config/NAME.toml` breaks one rule; `NAME.expected` holds the messages. After a change of the
//! wording, `UPDATE_EXPECTED=1 cargo test --test config` writes them anew: read the difference before you
//! commit it.

#[path = "config/health.rs"]
mod health;
#[path = "config/mutations.rs"]
mod mutations;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lb_userspace::config::problem::Problem;
use lb_userspace::config::{self, Config, Environment, Interface, Interfaces, LogFormat, PlaneChoice};
use lb_userspace::model::{
    Agent, Announce, Check, Exec, Fallback, Forward, Grace, Grpc, Health, Http, Plane, Scheduler, Tls, Trust,
    Udp,
};
use proptest::prelude::*;

const SHIPPED: &str = include_str!("../../config.toml");

const SMALL: &str = "[[service]]\nname = \"s\"\nlisten = \"192.0.2.1:80\"\npool = \"p\"\n\
                     [[pool]]\nname = \"p\"\n[[pool.backend]]\naddress = \"10.0.0.1:80\"\n";

fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    Config::parse("config.toml", text, &Environment::new())
}

fn parse_with(text: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    let environment =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::parse("config.toml", text, &environment)
}

fn messages(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn the_shipped_config_is_good_and_shows_the_defaults() {
    let shipped = parse(SHIPPED).unwrap_or_else(|problems| panic!("{}", messages(&problems)));
    let small = parse(SMALL).unwrap();
    assert_eq!(shipped.daemon, small.daemon);
    assert_eq!(shipped.admin, small.admin);
    assert_eq!(shipped.kernel, small.kernel);
    let [web, mail] = shipped.services.as_slice() else { panic!("two services") };
    assert_eq!(web.listen.len(), 2);
    assert_eq!(web.timeouts, mail.timeouts);
    assert_eq!((web.forward, mail.forward), (Forward::Auto, Forward::Auto));
    assert_eq!(web.down_grace, Grace::For(Duration::from_secs(10)));
    let [web, mail] = shipped.pools.as_slice() else { panic!("two pools") };
    assert_eq!(web.table_size, mail.table_size);
    let http = Http { path: "/health".to_owned(), ..Http::default() };
    let health = Health { check: Check::Http(Arc::new(http)), ..Health::default() };
    assert_eq!((&web.health, &mail.health), (&health, &Health::default()));
    assert!(web.backends.iter().all(|backend| backend.weight == 100 && !backend.backup));
    // Whatever kernel plane there is: the shipped services can use it.
    for service in &shipped.services {
        let pool = shipped.pools.iter().find(|pool| pool.name == service.pool).unwrap();
        assert_eq!(config::needs_proxy(&shipped.kernel, service, pool), None);
    }
}

#[test]
fn every_key_reaches_the_config() {
    let config = parse(
        r#"
        daemon = { state_dir = "/s", bpf_dir = "/b", log = "debug", log_format = "json", drain_timeout = "0s", drain_spread = "7s", watch = true }
        admin = { socket = "/a", listen = "[::1]:9900", token_file = "/t" }
        [kernel]
        plane = "xdp"
        interfaces = ["eth0", { name = "eth1", plane = "tc" }, { name = "eth2" }]
        flows = 2_048
        hash_seed = "000102030405060708090A0b0c0d0e0f"
        ping = false
        [[service]]
        name = "S.1"
        listen = "192.0.2.1:80"
        pool = "p"
        forward = "proxy"
        fallback = "refuse"
        announce = "none"
        mss = 1360
        down_grace = "forever"
        timeouts.closing = "1m"
        [[pool]]
        name = "p"
        scheduler = "round_robin"
        table_size = 7
        health = { check = "none" }
        backend = [{ address = "[2001:db8::1]:80", weight = 0, backup = true }]
        "#,
    )
    .unwrap_or_else(|problems| panic!("{}", messages(&problems)));
    assert_eq!(config.daemon.log_format, LogFormat::Json);
    assert_eq!(config.daemon.drain_timeout, Duration::ZERO);
    assert_eq!(config.daemon.drain_spread, Duration::from_secs(7));
    assert_eq!(parse("daemon.drain_timeout = \"40s\"").unwrap().daemon.drain_spread, Duration::from_secs(4));
    assert!(config.daemon.watch);
    assert_eq!(config.admin.listen, Some("[::1]:9900".parse().unwrap()));
    assert_eq!(config.admin.token_file.as_deref(), Some(Path::new("/t")));
    let planes = [Plane::Xdp, Plane::Tc, Plane::Xdp].map(PlaneChoice::Force);
    let interfaces = ["eth0", "eth1", "eth2"].into_iter().zip(planes);
    let interfaces = interfaces.map(|(name, plane)| Interface { name: name.to_owned(), plane });
    assert_eq!(config.kernel.interfaces, Interfaces::List(interfaces.collect()));
    assert_eq!(config.kernel.flows, 2048);
    assert_eq!(config.kernel.hash_seed, Some([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]));
    assert!(!config.kernel.ping);
    let service = &config.services[0];
    assert_eq!((service.forward, service.fallback), (Forward::Proxy, Fallback::Refuse));
    assert_eq!((service.announce, service.down_grace), (Announce::None, Grace::Forever));
    assert_eq!(service.mss, Some(1360));
    assert_eq!(service.timeouts.closing, Duration::from_secs(60));
    assert_eq!(service.timeouts.established, Duration::from_secs(3600));
    let pool = &config.pools[0];
    assert_eq!((pool.scheduler, pool.table_size), (Scheduler::RoundRobin, 7));
    assert_eq!(pool.health.check, Check::None);
    assert_eq!((pool.backends[0].weight, pool.backends[0].backup), (0, true));
}

#[test]
fn what_is_unusual_but_sound_is_accepted() {
    let pool = |name: &str, backends: &str| format!("[[pool]]\nname = \"{name}\"\nbackend = [{backends}]\n");
    let service = |name: &str, listen: &str, pool: &str, more: &str| {
        format!("[[service]]\nname = \"{name}\"\nlisten = {listen}\npool = \"{pool}\"\n{more}\n")
    };
    let (v4, v6) = ("{ address = \"10.0.0.1:80\" }", "{ address = \"[2001:db8::1]:80\" }");
    for text in [
        // Nothing to do yet: backends come at run time, an unused pool is a spare.
        pool("p", ""),
        service("s", "\"192.0.2.1:80\"", "p", "forward = \"nat\"") + &pool("p", ""),
        // One pool for two services, one of them proxied.
        service("a", "\"192.0.2.1:80\"", "p", "")
            + &service("b", "\"192.0.2.1:81\"", "p", "forward = \"proxy\"")
            + &pool("p", v4),
        // A family each.
        service("a", "\"192.0.2.1:80\"", "p", "")
            + &service("b", "\"[2001:db8::80]:80\"", "p", "")
            + &pool("p", &format!("{v4}, {v6}")),
        // No kernel plane, no ambiguity; nat falls back.
        "[kernel]\nplane = \"off\"\n".to_owned()
            + &service("a", "\"192.0.2.1:80\"", "p", "forward = \"nat\"")
            + &service("b", "[\"192.0.2.1:81\", \"192.0.2.1:82\"]", "p", "")
            + &pool("p", v4),
        // Loopback is the proxy plane's.
        service("a", "\"127.0.0.1:80\"", "p", "")
            + &service("b", "\"127.0.0.1:81\"", "p", "")
            + &pool("p", "{ address = \"127.0.0.1:8080\" }"),
    ] {
        assert!(parse(&text).is_ok(), "{text}\n{}", messages(&parse(&text).unwrap_err()));
    }
}

#[test]
fn bad_files_yield_their_golden_messages() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(files.len() >= 20, "{files:?}");
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let environment =
            [("SLUICE_TEST_ADDRESS", "nowhere")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let found = match Config::parse(name, &text, &environment) {
            Ok(_) => panic!("{name} was accepted"),
            Err(problems) => messages(&problems),
        };
        let golden = path.with_extension("expected");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(found, expected, "{name}: see the top of this test for how to update it");
    }
}

#[test]
fn every_mutation_is_refused_at_its_line_and_key() {
    for base in [SHIPPED, SMALL] {
        let cases = mutations::mutations(base);
        let different: BTreeSet<&str> = cases.iter().map(|case| case.text.as_str()).collect();
        assert!(different.len() >= 200, "only {} different cases", different.len());
        assert!(!different.contains(base));
        for case in &cases {
            let Err(problems) = parse(&case.text) else {
                panic!("{} was accepted:\n{}", case.name, case.text)
            };
            let named = |problem: &&Problem| problem.line == case.line && problem.path == case.path;
            assert!(
                problems.iter().find(named).is_some_and(|problem| !problem.reason.is_empty()),
                "{}: no message names line {:?} and {:?}:\n{}",
                case.name,
                case.line,
                case.path,
                messages(&problems)
            );
        }
    }
}

#[test]
fn files_that_cannot_be_read_are_explained() {
    let directory = tempfile::tempdir().unwrap();
    let load = |path: &Path| messages(&Config::load(path, &Environment::new()).unwrap_err());
    let path = directory.path().join("config.toml");
    let start = path.display().to_string();
    assert!(load(&path).starts_with(&format!("{start}: cannot read the file: No such file")));
    fs::write(&path, b"# one\n# \xff\n").unwrap();
    assert_eq!(
        load(&path),
        format!("{start}: the file is not UTF-8: line 2 holds other bytes (hint: save it as UTF-8)\n")
    );
    fs::write(&path, "\n # nothing\n").unwrap();
    assert!(load(&path).starts_with(&format!("{start}: the file is empty")));
    assert!(load(directory.path()).contains("cannot read the file"));
    assert!(load(Path::new("/dev/zero")).contains("larger than 64 MiB"));
    fs::write(&path, SMALL).unwrap();
    assert_eq!(Config::load(&path, &Environment::new()), parse(SMALL));
}

#[test]
fn variables_in_strings_are_expanded() {
    let text = SMALL.replace("192.0.2.1", "${VIP}");
    let config = parse_with(&text, &[("VIP", "198.51.100.7")]).unwrap();
    assert_eq!(config.services[0].listen, ["198.51.100.7:80".parse().unwrap()]);
    let missing = parse(&text).unwrap_err();
    assert_eq!(
        messages(&missing),
        "config.toml:3:10: service[0].listen = \"${VIP}:80\": the environment variable VIP is not set \
         (hint: set VIP, or write $${ for a literal ${)\n"
    );
    let wrong = parse_with(&text, &[("VIP", "web")]).unwrap_err();
    assert!(
        messages(&wrong).contains("\"web\" is not an IP address (it expands to \"web:80\")"),
        "{wrong:?}"
    );
}

#[test]
fn variables_override_any_scalar() {
    let config = parse_with(
        SMALL,
        &[
            ("SLUICE_DAEMON__LOG", "debug"),
            ("SLUICE_DAEMON__WATCH", "true"),
            ("SLUICE_KERNEL__PLANE", "tc"),
            ("SLUICE_KERNEL__FLOWS", "2_048"),
            ("SLUICE_SERVICE__0__FORWARD", "proxy"),
            ("SLUICE_SERVICE__0__TIMEOUTS__HALF_OPEN", "1s"),
            ("SLUICE_POOL__0__BACKEND__0__ADDRESS", "10.9.9.9:99"),
            ("SLUICE_POOL__0__BACKEND__0__WEIGHT", "7"),
            // No overrides: other programs' names, and the command line's.
            ("SLUICE_CONFIG", "/etc/sluice.toml"),
            ("OTHER__KEY", "x"),
        ],
    )
    .unwrap();
    assert_eq!(config.daemon.log, "debug");
    assert!(config.daemon.watch);
    assert_eq!(config.kernel.plane, PlaneChoice::Force(Plane::Tc));
    assert_eq!(config.kernel.flows, 2048);
    assert_eq!(config.services[0].forward, Forward::Proxy);
    assert_eq!(config.services[0].timeouts.half_open, Duration::from_secs(1));
    assert_eq!(config.pools[0].backends[0].address, "10.9.9.9:99".parse().unwrap());
    assert_eq!(config.pools[0].backends[0].weight, 7);
}

#[test]
fn a_bad_override_names_its_variable() {
    for (name, value, message) in [
        (
            "SLUICE_KERNEL__FLOWS",
            "many",
            "kernel.flows = \"many\": is not within 1024 to 67108864 (hint: write a number from 1024 to 67108864)\n",
        ),
        ("SLUICE_DAEMON__LOGG", "info", "daemon.logg = \"info\": unknown key (hint: did you mean LOG?)\n"),
        ("SLUICE_DEAMON__LOG", "info", "deamon: unknown key (hint: did you mean DAEMON?)\n"),
        (
            "SLUICE_DAEMON__LOG__LEVEL",
            "info",
            "daemon.log.level = \"info\": daemon.log is a string, there is nothing below it (hint: override daemon.log itself)\n",
        ),
        (
            "SLUICE_SERVICE__1__NAME",
            "x",
            "service[1].name = \"x\": the file has no service[1] to override (hint: the last one is service[0])\n",
        ),
        (
            "SLUICE_KERNEL__INTERFACES__0__NAME",
            "x",
            "kernel.interfaces[0].name = \"x\": the file has no kernel.interfaces[0] to override (hint: an override changes what the file has, it adds no entry)\n",
        ),
        (
            "SLUICE_daemon__log",
            "info",
            "daemon.log = \"info\": the names of overrides are in upper case (hint: use SLUICE_DAEMON__LOG)\n",
        ),
    ] {
        let text = format!("[daemon]\nlog = \"warn\"\n{SMALL}");
        let problems = parse_with(&text, &[(name, value)]).unwrap_err();
        assert_eq!(messages(&problems), format!("environment variable {name}: {message}"));
        assert!(problems.iter().all(|problem| problem.line.is_none()));
    }
}

#[test]
fn a_seed_is_never_shown() {
    let seed = "00112233445566778899aabbccddeeff";
    for text in
        [format!("hash_seed = \"{seed}0\""), format!("hash_seed = {seed}"), format!("hash_sed = \"{seed}\"")]
    {
        let problems = parse(&format!("[kernel]\n{text}\n{SMALL}")).unwrap_err();
        assert!(!messages(&problems).contains(seed), "{problems:?}");
    }
    let problems = parse_with(SMALL, &[("SLUICE_KERNEL__HASH_SEED", &seed[1..])]).unwrap_err();
    assert!(!messages(&problems).contains(&seed[1..]), "{problems:?}");
}

#[test]
fn changes_are_told_in_words() {
    let old = parse(SHIPPED).unwrap();
    assert!(config::changes(&old, &old).is_empty());
    let new = SHIPPED
        .replace("log = \"info\"", "log = \"debug\"")
        .replace("weight = 100", "weight = 50")
        .replace("interval = \"1s\"", "interval = \"90s\"")
        .replace("198.51.100.21:25", "198.51.100.22:25")
        .replace("forward = \"auto\"", "forward = \"nat\"");
    assert_eq!(
        config::changes(&old, &parse(&new).unwrap()),
        [
            "pool \"mail\", backend 198.51.100.21:25: removed",
            "daemon: log info -> debug",
            "pool \"mail\", backend 198.51.100.22:25: added (backup false, weight 100)",
            "pool \"web\": health.interval 1s -> 1m 30s",
            "pool \"web\", backend 198.51.100.11:8080: weight 100 -> 50",
            "service \"web\": forward auto -> nat",
        ]
    );
}

#[test]
fn some_settings_need_a_restart() {
    let old = parse(SHIPPED).unwrap();
    let seed = "00112233445566778899aabbccddeeff";
    let new = SHIPPED
        .replace("\"/var/lib/sluice\"", "\"/var/lib/other\"")
        .replace("\"/sys/fs/bpf/sluice\"", "\"/sys/fs/bpf/other\"")
        .replace("\"/run/sluice/admin.sock\"", "\"/run/other.sock\"")
        .replace("# listen = ", "listen = ")
        .replace("1_000_000", "2_000_000")
        .replace("\"random\"", &format!("\"{seed}\""))
        .replace("table_size = 65537", "table_size = 1009");
    let problems = config::frozen(&old, &parse(&new).unwrap());
    let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "daemon.bpf_dir",
            "daemon.state_dir",
            "admin.listen",
            "admin.socket",
            "kernel.flows",
            "kernel.hash_seed",
            "pool[0].table_size"
        ]
    );
    let text = messages(&problems);
    assert!(!text.contains(seed));
    assert!(text.contains(
        "kernel.flows = 2000000: the daemon runs with 1000000, and a change needs a restart \
         (hint: take the change back; or stop the daemon, run `sluice cleanup`, which ends open connections, and start \
         it)\n"
    ));
    let harmless = SHIPPED.replace("weight = 100", "weight = 1").replace("\"info\"", "\"warn\"");
    assert!(config::frozen(&old, &parse(&harmless).unwrap()).is_empty());
}

/// Good text with one piece replaced by anything.
fn damaged() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        "[\\[\\]{}=\"'\\\\$#,.\n ]{0,6}",
        Just("${".to_owned()),
        Just("99999999999999999999999999999999999999999".to_owned()),
    ];
    (0..SHIPPED.len(), 0..40_usize, piece).prop_map(|(start, length, piece)| {
        let end = (start + length).min(SHIPPED.len());
        let mut bytes = SHIPPED.as_bytes().to_vec();
        bytes.splice(start..end, piece.into_bytes());
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn explains(text: &str) {
    if let Err(problems) = parse(text) {
        assert!(!problems.is_empty());
        let lines = text.lines().count() + 1;
        for problem in problems {
            assert!(!problem.reason.is_empty());
            assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)), "{problem:?}");
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_taken_or_explained(text in any::<String>()) {
        explains(&text);
    }

    #[test]
    fn any_damage_is_taken_or_explained(text in damaged()) {
        explains(&text);
    }
}

#[test]
fn deep_nesting_is_no_way_to_end_the_process() {
    for text in
        ["a.".repeat(100_000) + "a = 1", "a = ".to_owned() + &"[".repeat(100_000), "a = {".repeat(100_000)]
    {
        explains(&text);
    }
}

#[test]
fn more_backends_than_the_maps_hold_are_refused() {
    let most = lb_common::limits::BACKENDS;
    let many = most + 1;
    let backends: String = (1..many)
        .map(|number| {
            let [_, a, b, c] = number.to_be_bytes();
            format!("[[pool.backend]]\naddress = \"10.{a}.{b}.{c}:81\"\n")
        })
        .collect();
    let service = "[[service]]\nname = \"many\"\nlisten = \"192.0.2.11:81\"\npool = \"many\"\n";
    let text = format!("{SMALL}{service}[[pool]]\nname = \"many\"\n{backends}");
    assert!(parse(&text.replace("pool = \"many\"", "pool = \"many\"\nforward = \"proxy\"")).is_ok());
    let problems = parse(&text).unwrap_err();
    assert_eq!(
        messages(&problems),
        format!(
            "config.toml:5:1: pool: {many} backends are too many: {most} at most (hint: raise kernel.backends, up \
             to 131072)\n"
        )
    );
}
