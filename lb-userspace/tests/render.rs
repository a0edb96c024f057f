//! What people read, against golden text. To record it anew: `SLUICE_BLESS=1 cargo test --test render`.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;

use lb_userspace::cli::{explain, flows, status};
use lb_userspace::model::Plane;
use lb_userspace::model::flows::{FlowEntry, FlowList, FlowState};
use lb_userspace::model::status::Explanation;

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/render").join(name);
    if std::env::var_os("SLUICE_BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap(), "{} differs", path.display());
}

#[test]
fn status_as_text() {
    golden("status.txt", &status::render(&serde_json::from_str(include_str!("status.json")).unwrap()));
}

#[test]
fn flows_as_text() {
    let tracked = FlowEntry {
        plane: Plane::Xdp,
        protocol: "tcp".into(),
        state: FlowState::Closing,
        client: "198.51.100.7:40000".parse().unwrap(),
        service: "web".into(),
        listen: "192.0.2.10:80".parse().unwrap(),
        backend: Some("10.0.0.11:8080".parse().unwrap()),
        expires_s: Some(119.9),
        age_s: None,
    };
    let proxied = FlowEntry {
        plane: Plane::Proxy,
        protocol: "udp".into(),
        state: FlowState::HalfOpen,
        client: "[2001:db8::7]:9".parse().unwrap(),
        backend: None,
        expires_s: None,
        age_s: Some(3723.4),
        ..tracked.clone()
    };
    let list = FlowList { flows: vec![tracked, proxied], matched: 7 };
    golden("flows.txt", &flows::render(&list));
}

#[test]
fn explanations_as_text() {
    let tracked = Explanation {
        client: "198.51.100.7:40000".parse().unwrap(),
        service: "web".into(),
        listen: "192.0.2.10:80".parse().unwrap(),
        plane: Plane::Tc,
        hash: Some(0x00ab_cdef),
        slot: Some(171),
        current: Some("10.0.0.11:8080".parse().unwrap()),
        fallback: Some("10.0.0.12:8080".parse().unwrap()),
        tracked: true,
        flow: Some("half-open, for 10.0.0.11:8080".into()),
        backend: Some("10.0.0.11:8080".parse().unwrap()),
        why: "the flow began after the change of its slot".into(),
    };
    let nowhere = Explanation {
        plane: Plane::Proxy,
        hash: None,
        slot: None,
        current: None,
        fallback: None,
        tracked: false,
        flow: None,
        backend: None,
        // What a backend sent may hold anything; the terminal must not obey it.
        why: "no backend is up: \u{1b}[2J".into(),
        ..tracked.clone()
    };
    golden("explain.txt", &(explain::render(&tracked) + &explain::render(&nowhere)));
}
