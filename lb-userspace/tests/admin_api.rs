//! The API over real sockets, in front of a stand-in for the controller.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lb_userspace::admin::api::{
    Alive, Flows, PlanRequest, Question, Weight, backend_path, explain_path, flows_path,
};
use lb_userspace::admin::client::{Client, ClientError};
use lb_userspace::admin::problem::ProblemDocument;
use lb_userspace::admin::{Admin, AdminSocket, Serving};
use lb_userspace::config;
use lb_userspace::config::problem::Problem;
use lb_userspace::controller::request::{
    BackendChange, Changed, FlowQuery, Handle, Reloaded, Request, RequestError,
};
use lb_userspace::model::flows::{FlowEntry, FlowList, FlowState};
use lb_userspace::model::plan::Plan;
use lb_userspace::model::status::{Explanation, PoolStatus, ServiceStatus, Status};
use lb_userspace::model::{Phase, Plane};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

const TOKEN: &str = "3f9c1b7ad2e84650";

type Change = (String, SocketAddr, BackendChange);

struct Api {
    directory: TempDir,
    client: Client,
    tcp: SocketAddr,
    phase: watch::Sender<Phase>,
    changes: mpsc::UnboundedReceiver<Change>,
    serving: Serving,
}

fn sample() -> Status {
    serde_json::from_str(include_str!("status.json")).unwrap()
}

fn problem() -> Problem {
    Problem {
        file: "config.toml".into(),
        line: Some(3),
        column: Some(7),
        path: "daemon.lgo".into(),
        value: None,
        reason: "unknown key".into(),
        hint: Some("log".into()),
    }
}

/// Answers as a controller would that knows pool `web` and whose config file is bad.
async fn stand_in(mut requests: mpsc::Receiver<Request>, changes: mpsc::UnboundedSender<Change>) {
    while let Some(request) = requests.recv().await {
        match request {
            Request::Reload(reply) => {
                let _ = reply.send(Err(RequestError::ConfigInvalid(vec![problem()])));
            }
            Request::Plan(text, reply) => {
                let _ = reply.send(Ok(Plan { changes: vec![text.len().to_string()], ..Plan::default() }));
            }
            Request::Status(reply) => {
                let _ = reply.send(Ok(Arc::new(sample())));
            }
            Request::Backend { pool, reply, .. } if pool != "web" && pool != "a b/ü" => {
                let _ = reply.send(Err(RequestError::NoSuchPool(pool, "web".into())));
            }
            Request::Backend { pool, address, change, reply } => {
                changes.send((pool, address, change)).unwrap();
                // Port 9 stands for a full disk.
                let warning = (address.port() == 9).then(|| "no space".to_owned());
                let _ = reply.send(Ok(Changed { warning }));
            }
            Request::Explain { client, service, reply } => {
                let _ = reply.send(Ok(explanation(client, service)));
            }
            Request::Flows(query, reply) => {
                let _ = reply.send(flows(&query));
            }
        }
    }
}

/// One flow, named by what was asked for.
fn flows(query: &FlowQuery) -> Result<FlowList, RequestError> {
    let Some(service) = &query.service else {
        return Err(RequestError::NoSuchService(String::new(), "web".into()));
    };
    let flow = FlowEntry {
        plane: Plane::Proxy,
        protocol: "tcp".into(),
        state: FlowState::Established,
        client: query.client.as_ref().unwrap().parse().unwrap(),
        service: service.clone(),
        listen: address("192.0.2.10:80"),
        backend: query.backend.as_ref().map(|backend| backend.parse().unwrap()),
        expires_s: None,
        age_s: Some(1.0),
    };
    Ok(FlowList { flows: vec![flow], matched: query.most as u64 })
}

fn explanation(client: SocketAddr, service: String) -> Explanation {
    Explanation {
        client,
        service,
        listen: "192.0.2.10:80".parse().unwrap(),
        plane: Plane::Xdp,
        hash: Some(7),
        slot: Some(3),
        current: None,
        fallback: None,
        tracked: false,
        flow: None,
        backend: None,
        why: "the pool has no backend".into(),
    }
}

fn admin_config(directory: &Path, token: bool) -> config::Admin {
    let token_file = token.then(|| {
        let path = directory.join("token");
        fs::write(&path, TOKEN).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    });
    config::Admin {
        socket: directory.join("run/admin.sock"),
        listen: Some("127.0.0.1:0".parse().unwrap()),
        token_file,
    }
}

fn start(token: bool) -> Api {
    let directory = tempfile::tempdir().unwrap();
    let config = admin_config(directory.path(), token);
    let (handle, requests) = Handle::channel(8);
    let (sender, changes) = mpsc::unbounded_channel();
    tokio::spawn(stand_in(requests, sender));
    let (phase, watch) = watch::channel(Phase::Starting);
    let admin = Admin::bind(&config).unwrap();
    let tcp = admin.tcp_address().unwrap();
    let serving = admin.start(handle, watch).unwrap();
    Api { client: Client::new(&config.socket), tcp, directory, phase, changes, serving }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ProblemDocument {
    match result {
        Err(ClientError::Refused(document)) => document,
        other => panic!("expected a problem document, got {other:?}"),
    }
}

/// One request over TCP: status code, head and body.
async fn over_tcp(address: SocketAddr, method: &str, path: &str, head: &str) -> (u16, String, String) {
    over_tcp_as(address, "127.0.0.1:9900", method, path, head).await
}

async fn over_tcp_as(
    address: SocketAddr,
    host: &str,
    method: &str,
    path: &str,
    head: &str,
) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{head}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn the_documents_are_those_of_the_controller() {
    let api = start(false);
    let status: Status = api.client.get("/api/v1/status").await.unwrap();
    assert_eq!(status, sample());

    let not_ready = api.client.get::<Alive>("/ready").await.map(drop);
    assert_eq!(refused(not_ready).status, 503);
    assert_eq!(api.client.get::<Alive>("/health").await.unwrap().phase, "starting");
    api.phase.send(Phase::Ready).unwrap();
    assert_eq!(api.client.get::<Alive>("/ready").await.unwrap().phase, "ready");

    let services: Vec<ServiceStatus> = api.client.get("/api/v1/services").await.unwrap();
    assert_eq!(services, sample().services);
    let pool: PoolStatus = api.client.get("/api/v1/pools/mail").await.unwrap();
    assert_eq!(pool, sample().pools[1]);
    let missing = refused(api.client.get::<PoolStatus>("/api/v1/pools/mial").await.map(drop));
    assert_eq!(missing.status, 404);
    assert_eq!(missing.detail, "pool \"mial\" does not exist (hint: the pools are web, mail)");

    let question = Question { client: address("[2001:db8::1]:40000"), service: "a&b c".into() };
    let answer: Explanation = api.client.get(&explain_path(&question)).await.unwrap();
    assert_eq!(answer, explanation(question.client, question.service));
}

#[tokio::test]
async fn each_verb_reaches_the_controller_as_its_change() {
    use lb_userspace::admin::api::DEFAULT_WEIGHT;
    let mut api = start(false);
    let backend = address("[2001:db8::11]:8080");
    let none = None::<&Weight>;
    let cases = [
        ("PUT", "", none, BackendChange::Put { weight: DEFAULT_WEIGHT }),
        ("PUT", "", Some(&Weight { weight: 7 }), BackendChange::Put { weight: 7 }),
        ("PATCH", "", Some(&Weight { weight: 0 }), BackendChange::Weight { weight: 0 }),
        ("POST", "/drain", none, BackendChange::Drain),
        ("POST", "/undrain", none, BackendChange::Undrain),
        ("DELETE", "", none, BackendChange::Remove { now: false }),
        ("DELETE", "?now=true", none, BackendChange::Remove { now: true }),
    ];
    for pool in ["web", "a b/ü"] {
        for (method, below, body, expected) in cases {
            let path = backend_path(pool, backend, below);
            let changed = api.client.change(method.parse().unwrap(), &path, body).await.unwrap();
            assert_eq!(changed, Changed::default());
            assert_eq!(api.changes.recv().await.unwrap(), (pool.to_owned(), backend, expected));
        }
    }
}

#[tokio::test]
async fn a_change_that_would_not_survive_is_answered_with_a_warning() {
    let api = start(false);
    let path = backend_path("web", address("10.0.0.11:9"), "/drain");
    let changed = api.client.change(hyper::Method::POST, &path, None::<&Weight>).await.unwrap();
    assert_eq!(changed.warning.as_deref(), Some("no space"));
}

#[tokio::test]
async fn a_plan_takes_a_config_that_is_larger_than_other_bodies() {
    let api = start(false);
    for (length, fits) in [(10, true), (1 << 20, true), (17 << 20, false)] {
        let asked = PlanRequest { config: "x".repeat(length) };
        let answer: Result<Plan, _> = api.client.post("/api/v1/plan", &asked).await;
        match answer {
            Ok(plan) => assert!(fits && plan.changes == [length.to_string()]),
            Err(error) => assert!(!fits, "{error}"),
        }
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_a_problem_document_that_names_it() {
    let mut api = start(false);
    let pools = "/api/v1/pools";
    let cases: &[(&str, String, Option<serde_json::Value>, u16, &str)] = &[
        ("GET", "/api/v1/nothing".into(), None, 404, "/api/v1/nothing"),
        ("POST", "/api/v1/status".into(), None, 405, "POST"),
        ("PUT", format!("{pools}/nope/backends/10.0.0.1:80"), None, 404, "\"nope\""),
        ("PUT", format!("{pools}/web/backends/10.0.0.1"), None, 400, "\"10.0.0.1\""),
        ("PATCH", format!("{pools}/web/backends/10.0.0.1:80"), None, 400, "a body is needed"),
        (
            "PUT",
            format!("{pools}/web/backends/10.0.0.1:80"),
            Some(serde_json::json!({"wieght": 1})),
            400,
            "wieght",
        ),
        (
            "PUT",
            format!("{pools}/web/backends/10.0.0.1:80"),
            Some(serde_json::json!({"weight": 65536})),
            400,
            "65536",
        ),
        ("DELETE", format!("{pools}/web/backends/10.0.0.1:80?force=1"), None, 400, "force"),
        ("GET", "/api/v1/explain?client=10.0.0.1&service=web".into(), None, 400, "client"),
        ("GET", "/api/v1/explain?service=web".into(), None, 400, "client"),
        ("GET", "/api/v1/flows".into(), None, 404, "web"),
        ("GET", "/api/v1/flows?limit=100001".into(), None, 400, "100000"),
        ("GET", "/api/v1/flows?limit=-1".into(), None, 400, "limit"),
        ("GET", "/api/v1/flows?sevrice=web".into(), None, 400, "sevrice"),
    ];
    for (method, path, body, status, named) in cases {
        let document = refused(api.client.change(method.parse().unwrap(), path, body.as_ref()).await);
        assert_eq!(document.status, *status, "{method} {path}: {document:?}");
        assert!(document.detail.contains(named), "{method} {path}: {document:?}");
        assert!(document.kind.starts_with("urn:sluice:problem:"));
    }
    assert!(api.changes.try_recv().is_err(), "a refused request reached the controller");
}

#[tokio::test]
async fn flows_are_asked_for_by_name_and_address() {
    let api = start(false);
    let mut asked = Flows {
        service: Some("a b/ü".into()),
        client: Some("[2001:db8::7]:40000".into()),
        backend: Some("10.0.0.1:80".into()),
        limit: None,
    };
    let list: FlowList = api.client.get(&flows_path(&asked)).await.unwrap();
    let [flow] = list.flows.as_slice() else { panic!("{list:?}") };
    assert_eq!((flow.service.as_str(), flow.client), ("a b/ü", address("[2001:db8::7]:40000")));
    assert_eq!((flow.backend, list.matched), (Some(address("10.0.0.1:80")), 1000));
    asked.limit = Some(5);
    assert_eq!(api.client.get::<FlowList>(&flows_path(&asked)).await.unwrap().matched, 5);
}

#[tokio::test]
async fn a_bad_config_file_is_told_problem_by_problem() {
    let api = start(false);
    let result = api.client.ask::<Reloaded>("POST".parse().unwrap(), "/api/v1/reload").await;
    let document = refused(result.map(drop));
    let expected = serde_json::json!({
        "type": "urn:sluice:problem:config-invalid",
        "title": "The config is invalid",
        "status": 422,
        "detail": "the config has 1 problem(s); the old one stays in force",
        "problems": [problem()],
    });
    assert_eq!(serde_json::to_value(document).unwrap(), expected);
}

/// Every route that changes something.
fn changes() -> Vec<(&'static str, String)> {
    let backend = "/api/v1/pools/web/backends/10.0.0.1:80";
    vec![
        ("POST", "/api/v1/reload".to_owned()),
        ("PUT", backend.to_owned()),
        ("PATCH", backend.to_owned()),
        ("DELETE", backend.to_owned()),
        ("POST", format!("{backend}/drain")),
        ("POST", format!("{backend}/undrain")),
        ("POST", "/api/v1/not-made-yet".to_owned()),
    ]
}

#[tokio::test]
async fn over_tcp_reading_is_free_and_changes_need_the_token() {
    let mut api = start(true);
    for path in ["/health", "/api/v1/status", "/api/v1/services", "/api/v1/pools/web"] {
        assert_eq!(over_tcp(api.tcp, "GET", path, "").await.0, 200, "{path}");
    }
    let wrong = [
        String::new(),
        "authorization: Bearer\r\n".into(),
        format!("authorization: Basic {TOKEN}\r\n"),
        format!("authorization: Bearer {}\r\n", &TOKEN[..TOKEN.len() - 1]),
        format!("authorization: Bearer {TOKEN}0\r\n"),
        format!("authorization: Bearer {}\r\n", TOKEN.to_uppercase()),
    ];
    for (method, path) in changes() {
        for head in &wrong {
            let (status, head, body) = over_tcp(api.tcp, method, &path, head).await;
            assert_eq!(status, 401, "{method} {path}");
            assert!(head.contains("www-authenticate: bearer"), "{head}");
            assert!(head.contains("content-type: application/problem+json"), "{head}");
            assert!(!body.contains(TOKEN));
        }
    }
    assert!(api.changes.try_recv().is_err(), "a refused request reached the controller");

    let right = format!("authorization: bearer {TOKEN}\r\n");
    let (status, ..) = over_tcp(api.tcp, "PUT", "/api/v1/pools/web/backends/10.0.0.1:80", &right).await;
    assert_eq!(status, 204);
    assert!(api.changes.recv().await.is_some());
}

#[tokio::test]
async fn over_tcp_without_a_token_file_nothing_can_be_changed() {
    let mut api = start(false);
    for (method, path) in changes() {
        let head = format!("authorization: Bearer {TOKEN}\r\n");
        assert_eq!(over_tcp(api.tcp, method, &path, &head).await.0, 403, "{method} {path}");
    }
    assert!(api.changes.try_recv().is_err(), "a refused request reached the controller");
}

#[tokio::test]
async fn a_form_of_a_web_page_is_not_taken_for_a_body() {
    let api = start(true);
    let head = format!(
        "authorization: Bearer {TOKEN}\r\ncontent-type: text/plain\r\ncontent-length: 12\r\n\r\n{{\"weight\":1}}"
    );
    assert_eq!(over_tcp(api.tcp, "PUT", "/api/v1/pools/web/backends/10.0.0.1:80", &head).await.0, 415);
}

#[tokio::test]
async fn a_page_that_rebinds_its_name_to_loopback_reads_nothing() {
    let api = start(false);
    for (host, status) in
        [("localhost:9900", 200), ("[::1]:9900", 200), ("127.0.0.1", 200), ("evil.example", 403)]
    {
        assert_eq!(over_tcp_as(api.tcp, host, "GET", "/api/v1/status", "").await.0, status, "{host}");
    }
}

#[tokio::test]
async fn the_socket_is_0660_and_goes_with_the_server() {
    let api = start(false);
    let socket = api.directory.path().join("run/admin.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, 0o660);
    drop(api.serving);
    assert!(!socket.exists());
    let gone = api.client.get::<Status>("/api/v1/status").await;
    assert!(matches!(gone, Err(ClientError::NoDaemon(path)) if path == socket));
}

fn socket_path() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    (directory, path)
}

fn bind_error(path: &Path) -> String {
    AdminSocket::bind(path).unwrap_err().to_string()
}

#[test]
fn a_live_socket_is_not_stolen_and_a_stale_one_is_replaced() {
    let (_directory, path) = socket_path();
    let other = UnixListener::bind(&path).unwrap();
    assert!(bind_error(&path).contains("another daemon answers there"));
    drop(other);
    assert!(path.exists());
    let ours = AdminSocket::bind(&path).unwrap();
    // Somebody puts another one in its place: that one is not ours to remove.
    fs::remove_file(&path).unwrap();
    let _theirs = UnixListener::bind(&path).unwrap();
    drop(ours);
    assert!(path.exists());
}

#[test]
fn nothing_but_a_socket_is_replaced() {
    let (directory, path) = socket_path();
    fs::write(&path, "precious").unwrap();
    assert!(bind_error(&path).contains("not a socket"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();

    let stale = directory.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    std::os::unix::fs::symlink(&stale, &path).unwrap();
    assert!(bind_error(&path).contains("not a socket"));
    assert!(stale.exists());
}

#[test]
fn a_directory_where_others_write_is_refused() {
    let (directory, _) = socket_path();
    let open = directory.path().join("open");
    fs::create_dir(&open).unwrap();
    for mode in [0o777, 0o1777, 0o775] {
        fs::set_permissions(&open, Permissions::from_mode(mode)).unwrap();
        let error = bind_error(&open.join("admin.sock"));
        assert!(error.contains("others may write in"), "{error}");
    }
    assert!(bind_error(Path::new("admin.sock")).contains("not an absolute path"));
}

#[test]
fn only_loopback_is_listened_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = admin_config(directory.path(), false);
    config.listen = Some(address("0.0.0.0:0"));
    let error = Admin::bind(&config).unwrap_err().to_string();
    assert!(error.contains("admin.listen = 0.0.0.0:0: is not a loopback address"), "{error}");
    assert!(!config.socket.exists());
}
