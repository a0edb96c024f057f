//! What is listed of flows.

use std::time::Duration;

use lb_common::{BackendId, Flow, FlowKey, HalfOpen, Port, ticks};
use lb_userspace::controller::request::{FlowQuery, RequestError};
use lb_userspace::data_plane::flows::SeenFlow;
use lb_userspace::data_plane::kernel::{KernelTables, TrackedFlow};
use lb_userspace::model::flows::{FlowEntry, FlowState};
use lb_userspace::model::{Listen, Plane, Protocol};

use crate::harness::{A, B, C, WEB, World, address};

/// Puts an entry into the flow tables, to expire in `seconds`.
fn remember(world: &World, client: &str, seconds: i32, backend: BackendId, entry: TrackedFlow) {
    let key = lb_common::SocketKey::new(address("192.0.2.10:80"), 6);
    let service = world.kernel.state().services[&key].id;
    let client = address(client);
    let key = FlowKey { client: client.ip().into(), service, port: Port::new(client.port()), padding: 0 };
    let now = KernelTables::now(&world.kernel);
    let expires = now.wrapping_add_signed(seconds * ticks::SECOND.cast_signed());
    world.kernel.set_flow(
        key,
        match entry {
            TrackedFlow::HalfOpen(half) => TrackedFlow::HalfOpen(HalfOpen { backend, expires, ..half }),
            TrackedFlow::Flow(flow) => TrackedFlow::Flow(Flow { backend, expires, ..flow }),
        },
    );
}

async fn list(world: &World, query: FlowQuery) -> (Vec<FlowEntry>, u64) {
    let list = world.handle.flows(query).await.unwrap();
    (list.flows, list.matched)
}

#[tokio::test(start_paused = true)]
async fn flows_of_both_planes_are_listed_under_their_names() {
    let udp = "[[service]]\nname = \"dns\"\nlisten = \"192.0.2.11:53\"\nprotocol = \"udp\"\npool = \"web\"\nforward = \"proxy\"\n\n[[pool]]";
    let world = World::start(&WEB.replace("[[pool]]", udp)).await;
    let (half, flow) = (HalfOpen::default(), Flow::default());
    let [a, b, c] = [A, B, C].map(|backend| world.id(backend));
    remember(&world, "198.51.100.7:1", 5, a, TrackedFlow::HalfOpen(half));
    remember(&world, "198.51.100.7:2", 3600, a, TrackedFlow::HalfOpen(HalfOpen { proven: 1, ..half }));
    remember(&world, "198.51.100.7:3", 3600, b, TrackedFlow::Flow(flow));
    remember(&world, "198.51.100.8:3", 120, c, TrackedFlow::Flow(Flow { closing: 1, ..flow }));
    // The programs take no notice of these.
    remember(&world, "198.51.100.9:1", -2, a, TrackedFlow::Flow(flow));
    remember(&world, "198.51.100.9:2", 100, a.next_generation(), TrackedFlow::Flow(flow));
    let dns = Listen { address: address("192.0.2.11:53"), protocol: Protocol::Udp };
    world.proxy.connect(SeenFlow {
        listen: dns,
        client: address("198.51.100.7:9"),
        backend: Some(address(A)),
        state: FlowState::Established,
        expires: None,
        age: Some(Duration::from_secs(7)),
    });

    let everything = FlowQuery { most: 10, ..FlowQuery::default() };
    let (flows, matched) = list(&world, everything.clone()).await;
    assert_eq!((flows.len(), matched), (5, 5));
    let of = |client: &str| flows.iter().find(|flow| flow.client == address(client)).unwrap();
    let first = of("198.51.100.7:1");
    assert_eq!((first.state, first.backend, first.plane), (FlowState::HalfOpen, Some(address(A)), Plane::Tc));
    assert_eq!((first.service.as_str(), first.protocol.as_str()), ("web", "tcp"));
    assert!((4.0..=5.0).contains(&first.expires_s.unwrap()) && first.age_s.is_none(), "{first:?}");
    assert_eq!(of("198.51.100.7:2").state, FlowState::Established);
    assert_eq!(of("198.51.100.7:3").state, FlowState::Established);
    assert_eq!(of("198.51.100.8:3").state, FlowState::Closing);
    let proxied = of("198.51.100.7:9");
    assert_eq!((proxied.service.as_str(), proxied.plane), ("dns", Plane::Proxy));
    assert_eq!((proxied.expires_s, proxied.age_s), (None, Some(7.0)));

    let text = |text: &str| Some(text.to_owned());
    for (query, expected) in [
        (FlowQuery { service: text("web"), ..everything.clone() }, 4),
        (FlowQuery { service: text("192.0.2.11:53"), ..everything.clone() }, 1),
        (FlowQuery { client: text("198.51.100.7"), ..everything.clone() }, 4),
        (FlowQuery { client: text("198.51.100.7:9"), ..everything.clone() }, 1),
        (FlowQuery { backend: text(A), ..everything.clone() }, 3),
        (FlowQuery { backend: text(A), service: text("dns"), ..everything.clone() }, 1),
    ] {
        assert_eq!(list(&world, query.clone()).await.1, expected, "{query:?}");
    }
    let (flows, matched) = list(&world, FlowQuery { most: 2, ..everything.clone() }).await;
    assert_eq!((flows.len(), matched), (2, 5), "no more than asked for, and how many there are");

    let unknown = FlowQuery { service: text("wbe"), ..everything.clone() };
    assert!(matches!(world.handle.flows(unknown).await, Err(RequestError::NoSuchService(..))));
    let bad = FlowQuery { client: text("somewhere"), ..everything };
    assert!(matches!(world.handle.flows(bad).await, Err(RequestError::Invalid(_))));
}
