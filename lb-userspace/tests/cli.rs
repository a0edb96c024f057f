//! The built binary, end to end on loopback with the proxy plane: no rights needed.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "cli/backend.rs"]
mod backend;
#[path = "cli/daemon.rs"]
mod daemon;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;

use backend::Client;
use daemon::{DEADLINE, Daemon, Place, text};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A service `web` on `listen`, proxied to `backends` in turn.
fn web(listen: SocketAddr, backends: &[SocketAddr]) -> String {
    let mut config = format!(
        "[[service]]\nname = \"web\"\nlisten = \"{listen}\"\npool = \"web\"\nforward = \"proxy\"\n\n\
         [[pool]]\nname = \"web\"\nscheduler = \"round_robin\"\nhealth.check = \"tcp\"\n\
         health.interval = \"200ms\"\nhealth.timeout = \"200ms\"\n"
    );
    for backend in backends {
        config += &format!("[[pool.backend]]\naddress = \"{backend}\"\n");
    }
    config
}

struct Fixture {
    place: Place,
    listen: SocketAddr,
    backends: Vec<SocketAddr>,
    daemon: Daemon,
}

/// A ready daemon in front of two backends that are up.
async fn fixture() -> Fixture {
    let place = Place::new();
    let listen = backend::free_address().await;
    let backends = vec![backend::start().await, backend::start().await];
    place.configure(&web(listen, &backends));
    let daemon = Daemon::start(&place).await;
    for backend in &backends {
        wait_for_state(&place, *backend, "up").await;
    }
    Fixture { place, listen, backends, daemon }
}

async fn wait_for_state(place: &Place, backend: SocketAddr, state: &str) {
    wait_for(place, |status| {
        let backends = status["pools"][0]["backends"].as_array().unwrap();
        backends.iter().any(|found| found["address"] == backend.to_string() && found["state"] == state)
    })
    .await;
}

async fn wait_for(place: &Place, condition: impl Fn(&serde_json::Value) -> bool) {
    let mut last = serde_json::Value::Null;
    let waiting = async {
        loop {
            last = place.status().await;
            if condition(&last) {
                return;
            }
        }
    };
    assert!(timeout(DEADLINE, waiting).await.is_ok(), "never came true: {last:#}");
}

/// Which backends answer `count` new connections.
async fn spread(listen: SocketAddr, count: usize) -> BTreeMap<SocketAddr, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        *seen.entry(Client::connect(listen).await.1).or_default() += 1;
    }
    seen
}

#[tokio::test]
async fn connections_go_to_the_backends_in_turn_and_status_shows_them() {
    let Fixture { place, listen, backends, daemon: _daemon } = fixture().await;
    let seen = spread(listen, 10).await;
    assert_eq!(seen.keys().collect::<BTreeSet<_>>(), backends.iter().collect());
    let (mut client, _) = Client::connect(listen).await;
    client.echo("hello").await;
    wait_for(&place, |status| {
        let service = &status["services"][0];
        service["flows"] == 1 && service["new_flows"] == 11 && service["plane"] == "proxy"
    })
    .await;
    let status = place.status().await;
    assert_eq!(status["phase"], "ready");
    assert_eq!(status["services"][0]["listen"][0], listen.to_string());
    let shown = place.done(&["status"]).await;
    assert!(shown.contains(&backends[0].to_string()) && !shown.contains('\u{1b}'), "{shown}");
}

#[tokio::test]
async fn an_operator_changes_backends_without_touching_connections() {
    let Fixture { place, listen, backends, daemon: _daemon } = fixture().await;
    let [first, second] = backends[..] else { unreachable!() };
    let (mut client, theirs) = Client::connect(listen).await;
    let (drained, other) = if theirs == first { (first, second) } else { (second, first) };

    place.done(&["backend", "drain", "web", &drained.to_string()]).await;
    assert_eq!(spread(listen, 6).await, BTreeMap::from([(other, 6)]));
    client.echo("still here").await;
    wait_for_state(&place, drained, "draining").await;
    place.done(&["backend", "undrain", "web", &drained.to_string()]).await;
    assert_eq!(spread(listen, 6).await.len(), 2);

    place.done(&["backend", "weight", "web", &drained.to_string(), "0"]).await;
    assert_eq!(spread(listen, 6).await, BTreeMap::from([(other, 6)]));
    place.done(&["backend", "weight", "web", &drained.to_string(), "100"]).await;

    let third = backend::start().await;
    place.done(&["backend", "add", "web", &third.to_string(), "--weight", "100"]).await;
    wait_for_state(&place, third, "up").await;
    assert_eq!(spread(listen, 9).await.len(), 3);

    place.done(&["backend", "remove", "web", &other.to_string()]).await;
    assert!(!spread(listen, 6).await.contains_key(&other));
    client.echo("through it all").await;

    place.done(&["backend", "remove", "web", &drained.to_string(), "--now"]).await;
    assert_eq!(client.line().await, None, "a connection outlived --now");

    let unknown = place.ask(&["backend", "drain", "web", &drained.to_string()]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains(&drained.to_string()), "{unknown:?}");
}

#[tokio::test]
async fn what_was_changed_at_run_time_survives_a_kill_and_a_bad_disk_is_told() {
    let Fixture { place, backends, mut daemon, .. } = fixture().await;
    let (first, second) = (backends[0].to_string(), backends[1].to_string());
    place.done(&["backend", "weight", "web", &first, "7"]).await;
    place.done(&["backend", "drain", "web", &second]).await;
    place.done(&["backend", "add", "web", "127.0.0.1:9", "--weight", "3"]).await;
    let words = |status: &serde_json::Value| {
        let backends = status["pools"][0]["backends"].as_array().unwrap();
        backends
            .iter()
            .map(|b| format!("{} {} {}", b["address"], b["weight"], b["overrides"]))
            .collect::<Vec<_>>()
    };
    let before = words(&place.status().await);
    assert_eq!(before[2], "\"127.0.0.1:9\" 3 [\"added\"]");
    daemon.signal(Signal::KILL);
    timeout(DEADLINE, daemon.gone()).await.unwrap();
    let mut daemon = Daemon::start(&place).await;
    assert_eq!(words(&place.status().await), before);
    let shown = place.done(&["status"]).await;
    assert!(shown.contains("7 (file: 100)") && shown.contains("(added)"), "{shown}");

    // Damaged: the daemon starts, without the changes, and says so.
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await, 0, "{}", daemon.log());
    let file = place.path("state/changes");
    fs::write(&file, &fs::read(&file).unwrap()[1..]).unwrap();
    let daemon = Daemon::start(&place).await;
    let status = place.status().await;
    assert_eq!(status["pools"][0]["backends"].as_array().unwrap().len(), 2);
    assert!(status["warnings"][0].as_str().unwrap().contains("set aside as"), "{status:#}");
    assert!(daemon.log().contains("set aside as"), "{}", daemon.log());

    // No place to write: the change is in force, and the answer says what it is worth.
    fs::remove_dir_all(place.path("state")).unwrap();
    fs::write(place.path("state"), "").unwrap();
    let output = place.ask(&["backend", "weight", "web", &first, "9"]).await;
    let warned = text(&output.stderr);
    assert!(output.status.success() && warned.contains("would not survive a restart"), "{warned}");
    let status = place.status().await;
    assert_eq!(status["pools"][0]["backends"][0]["weight"], 9);
    assert!(status["warnings"].to_string().contains("would not survive a restart"), "{status:#}");
}

#[tokio::test]
async fn a_plan_is_shown_with_a_daemon_and_without_and_changes_nothing() {
    let Fixture { place, listen, backends, mut daemon } = fixture().await;
    let before = place.status().await["pools"].clone();
    place.configure(&web(listen, &backends[..1]));
    let shown = async |place: &Place, more: &str| {
        let [socket, file] = ["admin.sock", "config.toml"].map(|name| place.path(name).display().to_string());
        let arguments = ["--socket", &socket, "plan", "-c", &file, more];
        let output = place.with(&arguments[..if more.is_empty() { 5 } else { 6 }]).await;
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let plan = shown(&place, "").await;
    let gone = format!("- {}: 0 flows stay until", backends[1]);
    assert!(plan.contains("~ pool web") && plan.contains(&gone), "{plan}");
    let json: serde_json::Value = serde_json::from_str(&shown(&place, "--json").await).unwrap();
    assert_eq!(json["pools"][0]["backends"][0]["fate"], "removed");
    assert_eq!(place.status().await["pools"][0]["backends"][1]["state"], before[0]["backends"][1]["state"]);
    daemon.signal(Signal::TERM);
    daemon.ended().await;
    let plan = shown(&place, "").await;
    assert!(
        plan.contains("no daemon runs") && plan.contains(&format!("+ {}: weight 100", backends[0])),
        "{plan}"
    );
    fs::write(place.path("config.toml"), "[[pool]]").unwrap();
    assert_eq!(place.with_config(&["plan"]).await.status.code(), Some(3));
}

#[tokio::test]
async fn a_reload_puts_a_good_file_in_force_and_keeps_the_old_one_for_a_bad_one() {
    let Fixture { place, listen, backends, mut daemon } = fixture().await;
    let (mut client, theirs) = Client::connect(listen).await;

    place.configure(&(web(listen, &backends) + "wieght = 3\n"));
    let bad = place.ask(&["reload"]).await;
    assert_eq!(bad.status.code(), Some(3), "{bad:?}");
    let line = fs::read_to_string(place.path("config.toml")).unwrap().lines().count();
    let said = text(&bad.stderr);
    assert!(said.contains(&format!("config.toml:{line}:")) && said.contains("wieght"), "{said}");
    assert_eq!(spread(listen, 4).await.len(), 2, "the old config is not in force");

    let third = backend::start().await;
    place.configure(&web(listen, &[theirs, third]));
    place.done(&["reload"]).await;
    wait_for_state(&place, third, "up").await;
    assert_eq!(
        spread(listen, 10).await.into_keys().collect::<BTreeSet<_>>(),
        BTreeSet::from([theirs, third])
    );

    place.configure(&web(listen, &[third]));
    daemon.signal(Signal::HUP);
    daemon.told("RELOADING=1").await;
    daemon.told("READY=1").await;
    assert_eq!(spread(listen, 4).await, BTreeMap::from([(third, 4)]));
    client.echo("through both reloads").await;
}

#[tokio::test]
async fn a_graceful_stop_lets_connections_end_and_accepts_no_new_ones() {
    let Fixture { place, listen, mut daemon, .. } = fixture().await;
    let (mut client, _) = Client::connect(listen).await;
    daemon.signal(Signal::TERM);
    daemon.told("STOPPING=1").await;
    let refused = async { while TcpStream::connect(listen).await.is_ok() {} };
    assert!(timeout(DEADLINE, refused).await.is_ok(), "still accepts");
    client.echo("let me finish").await;
    assert!(daemon.is_running());
    drop(client);
    assert_eq!(daemon.ended().await, 0, "{}", daemon.log());
    assert!(!place.path("admin.sock").exists());
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let Fixture { place: _place, listen, mut daemon, .. } = fixture().await;
    let (mut client, _) = Client::connect(listen).await;
    daemon.signal(Signal::TERM);
    daemon.told("STOPPING=1").await;
    daemon.signal(Signal::INT);
    assert_eq!(client.line().await, None);
    assert_eq!(daemon.ended().await, 0, "{}", daemon.log());
}

#[tokio::test]
async fn explain_agrees_with_where_a_connection_goes() {
    let place = Place::new();
    let listen = backend::free_address().await;
    let backends = [backend::start().await, backend::start().await, backend::start().await];
    place.configure(&web(listen, &backends).replace("round_robin", "maglev"));
    let _daemon = Daemon::start(&place).await;
    for backend in backends {
        wait_for_state(&place, backend, "up").await;
    }
    for _ in 0..8 {
        let (client, backend) = Client::connect(listen).await;
        let address = client.local_address().to_string();
        let answer = place.done(&["explain", &address, "web", "--json"]).await;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["backend"], backend.to_string(), "{answer:#}");
    }
    let unknown = place.ask(&["explain", "127.0.0.1:1", "wbe"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("the services are web"), "{unknown:?}");
}

#[tokio::test]
async fn run_takes_the_socket_of_the_command_line_and_keeps_it_through_a_reload() {
    let place = Place::new();
    place.configure(&web(backend::free_address().await, &[backend::start().await]));
    let elsewhere = place.path("elsewhere.sock").display().to_string();
    let mut daemon = Daemon::spawn_with(&place, &["--socket", &elsewhere]);
    daemon.told("READY=1").await;
    assert!(!place.path("admin.sock").exists());
    let there =
        |verb: &'static str| place.with_arguments(["--socket".into(), elsewhere.clone(), verb.into()]);
    for verb in ["status", "reload", "status"] {
        let output = there(verb).await;
        assert!(output.status.success(), "{verb}: {}", text(&output.stderr));
    }
}

#[tokio::test]
async fn a_second_daemon_does_not_take_the_place_of_the_first() {
    let Fixture { place, listen, daemon: _daemon, .. } = fixture().await;
    let mut second = Daemon::spawn(&place);
    assert_eq!(second.ended().await, 1);
    assert!(second.log().contains("another daemon answers there"), "{}", second.log());
    assert_eq!(spread(listen, 2).await.len(), 2);
}

#[tokio::test]
async fn a_port_in_use_is_told_and_ends_the_start() {
    let place = Place::new();
    let taken = backend::start().await;
    place.configure(&web(taken, &[backend::start().await]));
    let mut daemon = Daemon::spawn(&place);
    assert_eq!(daemon.ended().await, 1);
    let log = daemon.log();
    assert!(log.contains(&taken.to_string()) && log.contains("in use"), "{log}");
    assert!(!place.path("admin.sock").exists());
}

#[tokio::test]
async fn a_watched_file_is_reloaded_when_it_changes() {
    let place = Place::new();
    let listen = backend::free_address().await;
    let (first, second) = (backend::start().await, backend::start().await);
    let config = |backend| {
        place.configure(&web(listen, &[backend]));
        let path = place.path("config.toml");
        let watched = fs::read_to_string(&path).unwrap().replace("[daemon]\n", "[daemon]\nwatch = true\n");
        fs::write(&path, watched).unwrap();
    };
    config(first);
    let _daemon = Daemon::start(&place).await;
    wait_for_state(&place, first, "up").await;
    config(second);
    wait_for_state(&place, second, "up").await;
    assert_eq!(spread(listen, 2).await, BTreeMap::from([(second, 2)]));
}

#[tokio::test]
async fn check_tells_every_problem_with_its_place_and_exits_3() {
    let place = Place::new();
    place.configure(
        "[[pool]]\nname = \"web\"\n[[pool.backend]]\naddress = \"127.0.0.1:80\"\nweight = 70000\n",
    );
    let output = place.with_config(&["check"]).await;
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(said.contains("pool[0].backend[0].weight = 70000"), "{said}");

    let output = place.with_config(&["check", "--json"]).await;
    assert_eq!(output.status.code(), Some(3));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["ok"], false);
    assert_eq!(document["problems"][0]["path"], "pool[0].backend[0].weight");

    let started = place.with_config(&["run"]).await;
    assert_eq!(started.status.code(), Some(3));
    assert_eq!(text(&started.stderr), said, "run and check differ");

    place.configure(&web("127.0.0.1:8080".parse().unwrap(), &["127.0.0.1:80".parse().unwrap()]));
    let output = place.with_config(&["check"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn without_a_daemon_the_error_says_what_to_do() {
    let place = Place::new();
    for arguments in [&["status"][..], &["reload"], &["backend", "drain", "web", "127.0.0.1:1"]] {
        let output = place.ask(arguments).await;
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.contains("no daemon answers at") && said.contains("sluice run -c"), "{said}");
    }
    for arguments in
        [&["backend", "weight", "web", "127.0.0.1:1", "70000"][..], &["explain", "x", "web"], &[]]
    {
        assert_eq!(place.ask(arguments).await.status.code(), Some(2), "{arguments:?}");
    }
}
