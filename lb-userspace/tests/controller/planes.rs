//! Which plane serves what, both families, and what the others are told.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lb_common::{Counter, FlowKey, HalfOpen, Handshakes, Port, SocketKey, Traffic, ticks};
use lb_userspace::controller::Progress;
use lb_userspace::controller::request::{BackendChange, RequestError};
use lb_userspace::data_plane::kernel::{KernelCounters, Sweep, TrackedFlow};
use lb_userspace::data_plane::proxy::{ProxyAction, ProxyTraffic};
use lb_userspace::model::status::InterfacePlane;
use lb_userspace::model::{Cut, Listen, Plane, Protocol};
use lb_userspace::network::Link;
use tokio::time::sleep;

use super::harness::{A, B, C, WEB, World, address, facts, hop, named};

const BOTH: &str = r#"
[[service]]
name = "web"
listen = ["192.0.2.10:80", "[2001:db8:f::10]:80"]
pool = "web"

[[pool]]
name = "web"
table_size = 13
health = { check = "none" }
backend = [
    { address = "10.0.0.1:80" },
    { address = "10.0.0.2:80" },
    { address = "[2001:db8::1]:80" },
    { address = "[2001:db8::2]:80" },
]
"#;

const V6: &str = "[2001:db8:f::10]:80";

/// Where the service listens.
fn web() -> Listen {
    Listen { address: address("192.0.2.10:80"), protocol: Protocol::Tcp }
}

#[tokio::test(start_paused = true)]
async fn each_family_has_its_table_and_its_listen_address() {
    let world = World::start(BOTH).await;
    let state = world.kernel.state();
    assert_eq!((state.tables.len(), state.services.len(), state.backends.len()), (2, 4, 4));
    let services: Vec<_> = state.services.values().filter(|service| service.flags == 0).collect();
    assert_ne!(services[0].id, services[1].id);
    assert_ne!(services[0].table, services[1].table);
    for (key, endpoint) in &state.endpoints {
        let listen = if key.address.is_v4() { "192.0.2.10:80" } else { V6 };
        assert_eq!(endpoint.vip, SocketKey::new(address(listen), 6));
        assert_eq!(endpoint.service, state.services[&endpoint.vip]);
        assert!(named(&world.slots(listen), endpoint.backend) > 0);
    }
    let v4 = world.slots("192.0.2.10:80");
    let drain = BackendChange::Drain;
    world.handle.backend("web".into(), address("[2001:db8::1]:80"), drain).await.unwrap();
    assert_eq!(world.slots("192.0.2.10:80"), v4);
    assert!(world.slots(V6).iter().any(|slot| slot.is_tracked()));
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_cannot_do_is_proxied_with_the_reason() {
    for (change, expected) in [
        (("table_size", "scheduler = \"round_robin\"\ntable_size"), "round_robin"),
        (("10.0.0.1:80", "172.16.0.1:80"), "on this host itself"),
        (("pool = \"web\"\ndown", "pool = \"web\"\nforward = \"proxy\"\ndown"), "forward"),
    ] {
        let world = World::start(&WEB.replacen(change.0, change.1, 1)).await;
        let status = world.handle.status().await.unwrap();
        let service = &status.services[0];
        assert_eq!((service.plane, service.forward.as_str()), (Some(Plane::Proxy), "proxy"));
        assert!(service.reason.contains(expected), "{}", service.reason);
        assert_eq!(world.proxy.state().services.len(), 1);
        assert_eq!(world.kernel.state().services.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_backend_has_no_flows_before_its_interface_has_a_program() {
    let world = World::start(WEB).await;
    let name = "eth4".to_owned();
    let link = Link { index: 4, name, up: true, mtu: 1500, is_virtual: true, is_loopback: false };
    world.facts.send_modify(|facts| {
        facts.hops.insert("10.0.0.4".parse().unwrap(), hop(4));
        facts.links.insert(4, link);
    });
    let added = address("10.0.0.4:80");
    world.handle.backend("web".into(), added, BackendChange::Put { weight: 100 }).await.unwrap();
    world.observe("web", added, true).await;
    let serves = || world.kernel.id_of(added).is_some_and(|id| named(&world.web(), id) > 0);
    sleep(Duration::from_secs(2)).await;
    assert!(!serves());
    let eth4 = InterfacePlane { interface: "eth4".into(), plane: Some(Plane::Tc), reason: "veth".into() };
    world.planes.send_modify(|planes| planes.push(eth4));
    sleep(Duration::from_millis(10)).await;
    assert!(serves());
}

#[tokio::test(start_paused = true)]
async fn the_proxy_is_told_of_health_too() {
    let world = World::start(&WEB.replace("table_size", "scheduler = \"round_robin\"\ntable_size")).await;
    let members = |world: &World| world.proxy.state().services[&web()].members.clone();
    assert!(members(&world).iter().all(|member| member.weight > 0 && member.cut == Cut::NONE));
    world.down(A).await;
    assert_eq!((members(&world)[0].weight, members(&world)[0].cut), (0, Cut::NONE));
    world.pass(Duration::from_secs(11)).await;
    assert!(members(&world)[0].cut.is_all());
    let actions = world.proxy.take_actions();
    assert!(actions.iter().all(|action| matches!(action, ProxyAction::Update { .. })), "{actions:?}");
    world.up(A).await;
    assert!(members(&world)[0].cut == Cut::NONE && members(&world)[0].weight > 0);
}

#[tokio::test(start_paused = true)]
async fn udp_is_proxied_beside_tcp_and_loses_a_failed_backend_at_once() {
    let udp = "[[service]]\nname = \"dns\"\nlisten = \"192.0.2.10:80\"\nprotocol = \"udp\"\npool = \"web\"\n\n[[pool]]";
    let config =
        WEB.replace("table_size", "scheduler = \"round_robin\"\ntable_size").replace("[[pool]]", udp);
    let world = World::start(&config).await;
    let dns = Listen { protocol: Protocol::Udp, ..web() };
    let service = |listen| world.proxy.state().services[&listen].clone();
    assert_eq!(service(web()).idle_timeout, Duration::from_secs(3600));
    assert_eq!(service(dns).idle_timeout, Duration::from_secs(30));
    world.down(A).await;
    assert!(service(web()).members[0].cut == Cut::NONE, "within its grace");
    assert!(service(dns).members[0].cut.is_all());

    let counted = ProxyTraffic { packets: 5, bytes: 50, ..ProxyTraffic::default() };
    world.proxy.set_traffic(dns, counted, [(address(A), counted)].into());
    let status = world.handle.status().await.unwrap();
    assert_eq!((status.services[1].packets, status.services[1].bytes), (Some(5), 50));
    assert_eq!((status.services[0].packets, status.services[0].bytes), (None, 0));
    assert_eq!(status.pools[0].backends[0].packets, Some(5));
}

#[tokio::test(start_paused = true)]
async fn between_the_planes_a_service_is_always_served() {
    let world = World::start(WEB).await;
    let round_robin = WEB.replace("table_size", "scheduler = \"round_robin\"\ntable_size");
    let fails = Arc::new(AtomicBool::new(true));
    let flag = fails.clone();
    world.proxy.fail(move |_| flag.load(Ordering::Relaxed));
    world.set_config(&round_robin);
    assert!(matches!(world.handle.reload().await, Err(RequestError::Plane(_))));
    assert!(world.vips.borrow().contains(&"192.0.2.10".parse::<IpAddr>().unwrap()));
    world.pass(Duration::from_secs(20)).await;
    assert_eq!(world.kernel.state().services.len(), 2, "still there: the proxy does not listen");
    fails.store(false, Ordering::Relaxed);
    world.done().await;
    assert_eq!(world.proxy.state().services.len(), 1);
    let state = world.kernel.state();
    assert!(state.services.is_empty() && state.tables.is_empty() && state.backends.is_empty());
    assert!(state.endpoints.is_empty());

    world.kernel.fail(|_| true);
    world.set_config(WEB);
    assert!(world.handle.reload().await.is_err());
    assert_eq!(world.proxy.state().services.len(), 1, "the kernel planes do not serve it");
    world.kernel.fail(|_| false);
    world.done().await;
    assert!(world.proxy.state().services.is_empty());
    assert_eq!(world.kernel.state().services.len(), 2);
    assert!(world.vips.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn planes_may_come_and_go() {
    let world = World::start(WEB).await;
    world.planes.send_modify(|planes| planes[0].plane = None);
    world.eventually("proxied", || world.proxy.state().services.len() == 1).await;
    world.done().await;
    assert!(world.kernel.state().services.is_empty());
    world.planes.send_modify(|planes| planes[0].plane = Some(Plane::Xdp));
    world.eventually("back", || world.proxy.state().services.is_empty()).await;
    assert_eq!(world.handle.status().await.unwrap().services[0].plane, Some(Plane::Xdp));
}

#[tokio::test(start_paused = true)]
async fn the_others_are_told_what_is_needed() {
    let mut world = World::start(WEB).await;
    assert_eq!(world.targets.borrow().iter().count(), 3);
    assert_eq!(world.neighbours.borrow().len(), 3);
    assert!(world.vips.borrow().is_empty());
    let client: IpAddr = "198.51.100.7".parse().unwrap();
    world.kernel.want(client, 4);
    assert_eq!(world.wanted.recv().await, Some(vec![(client, 4)]));
    let remove = BackendChange::Remove { now: false };
    world.handle.backend("web".into(), address(A), remove).await.unwrap();
    assert_eq!(world.targets.borrow().iter().count(), 2, "what leaves is not checked");
    assert_eq!(world.neighbours.borrow().len(), 3, "its old flows still need the way there");
    assert_eq!(*world.progress.borrow(), Progress::Done);
}

#[tokio::test(start_paused = true)]
async fn local_addresses_and_routes_are_mirrored() {
    let world = World::start(WEB).await;
    let added: IpAddr = "172.16.0.2".parse().unwrap();
    let mut changed = facts();
    changed.local = [added].into();
    let prefix =
        lb_userspace::data_plane::kernel::Prefix { address: "198.51.100.0".parse().unwrap(), length: 24 };
    changed.routes.insert(prefix, hop(3));
    world.facts.send_replace(changed);
    world.pass(Duration::from_secs(1)).await;
    let state = world.kernel.state();
    assert_eq!(state.local, [added.into()].into());
    assert_eq!(state.routes[&prefix].ifindex, 3);
}

#[tokio::test(start_paused = true)]
async fn status_adds_up() {
    let world = World::start(WEB).await;
    let index = world.kernel.state().services.values().map(|service| service.id.index()).max().unwrap();
    let count = |packets| KernelCounters {
        counters: [(Counter::Settling, 5), (Counter::Received, 900), (Counter::Missed, 6)].into(),
        services: [(index, Traffic { packets, bytes: 1000, new_flows: 3, drops: 2, ..Traffic::default() })]
            .into(),
        backends: [(world.id(A).index(), Traffic { packets: 9, ..Traffic::default() })].into(),
        handshakes: [(world.id(A).index(), Handshakes { syns: 8, accepted: 7, refused: 1 })].into(),
    };
    world.kernel.set_sweep(Sweep {
        by_service: [(index, 4)].into(),
        by_backend: [(world.id(A), 4)].into(),
        flows: 4,
        flows_capacity: 5,
        half_open_capacity: 100,
        ..Sweep::default()
    });
    world.down(B).await;
    for second in 0..20 {
        world.kernel.set_counters(count(second * 100));
        world.pass(Duration::from_secs(1)).await;
    }
    let status = world.handle.status().await.unwrap();
    let service = &status.services[0];
    assert_eq!((service.flows, service.new_flows, service.packets), (4, Some(3), Some(1900)));
    assert_eq!((service.bytes, service.drops, service.plane), (1000, 2, Some(Plane::Tc)));
    let rate = service.rate.unwrap();
    assert!((95.0..=105.0).contains(&rate), "{rate}");
    assert_eq!(status.drops["settling"], 5);
    assert_eq!((status.verdicts["received"], status.events["missed"]), (900, 6));
    let listed = status.drops.len() + status.verdicts.len() + status.events.len();
    assert_eq!(listed, Counter::ALL.len(), "every counter is shown once");
    assert_eq!((status.tables[0].name.as_str(), status.tables[0].entries), ("flows", 4));
    assert!(status.warnings[0].contains("flows is 80 % full"), "{:?}", status.warnings);
    assert_eq!(status.drops.len(), Counter::ALL.iter().filter(|counter| counter.is_drop()).count());
    let pool = world.pool("web").await;
    assert_eq!(pool.backends.iter().map(|backend| backend.slots).sum::<u64>(), 13);
    let share: f64 = pool.backends.iter().map(|backend| backend.share).sum();
    assert!((share - 1.0).abs() < 1e-9);
    assert_eq!((pool.backends[0].flows, pool.backends[0].packets), (4, Some(9)));
}

#[tokio::test(start_paused = true)]
async fn explain_follows_the_rules() {
    let world = World::start(WEB).await;
    let client = address("198.51.100.7:40000");
    let stable = world.handle.explain(client, "web".into()).await.unwrap();
    let slot = stable.slot.unwrap() as usize;
    assert_eq!(stable.backend, stable.current);
    assert!(!stable.tracked && stable.why.contains("stable"));
    let old = stable.backend.unwrap();

    world.down(&old.to_string()).await;
    let changed = world.handle.explain(client, "192.0.2.10:80".into()).await.unwrap();
    assert_eq!((changed.slot, changed.backend), (stable.slot, Some(old)));
    assert_ne!(changed.current, Some(old));
    assert!(changed.tracked && changed.why.contains("change"));

    let state = world.kernel.state();
    let service = state.services[&SocketKey::new(address("192.0.2.10:80"), 6)];
    let key = FlowKey { client: client.ip().into(), service: service.id, port: Port::new(40000), padding: 0 };
    let current = world.web()[slot].current();
    let expires = ticks::from_duration(Duration::from_secs(3600));
    let half = HalfOpen { backend: current, slot: slot as u32, expires, ..HalfOpen::default() };
    world.kernel.set_flow(key, TrackedFlow::HalfOpen(half));
    let entry = world.handle.explain(client, "web".into()).await.unwrap();
    assert_eq!(entry.backend, changed.current);
    assert!(entry.flow.unwrap().contains("half-open"));

    assert!(matches!(world.handle.explain(client, "wbe".into()).await, Err(RequestError::NoSuchService(..))));
    let v6 = world.handle.explain(address("[2001:db8::9]:1"), "web".into()).await;
    assert!(matches!(v6, Err(RequestError::Invalid(_))));
}

#[tokio::test(start_paused = true)]
async fn proxied_services_are_explained_and_counted() {
    let config = WEB.replace("pool = \"web\"\ndown", "pool = \"web\"\nforward = \"proxy\"\ndown");
    let world = World::start(&config).await;
    let client = address("198.51.100.7:40000");
    let explained = world.handle.explain(client, "web".into()).await.unwrap();
    assert_eq!(explained.plane, Plane::Proxy);
    assert!([A, B, C].map(address).contains(&explained.backend.unwrap()));
    let (service, backend) = (
        ProxyTraffic {
            connections: 2,
            new_connections: 7,
            bytes: 50,
            failures: 1,
            ..ProxyTraffic::default()
        },
        ProxyTraffic { connections: 1, ..ProxyTraffic::default() },
    );
    world.proxy.set_traffic(web(), service, [(address(A), backend)].into());
    let status = world.handle.status().await.unwrap();
    let shown = &status.services[0];
    assert_eq!((shown.flows, shown.new_flows, shown.bytes, shown.drops), (2, Some(7), 50, 1));
    assert_eq!((shown.packets, shown.rate), (None, None));
    assert_eq!(status.pools[0].backends[0].flows, 1);
    assert_eq!(status.pools[0].backends.iter().map(|backend| backend.slots).sum::<u64>(), 13);
}
