//! The planner: whatever the applied and the desired state, every prefix of the plan leaves valid maps, the
//! plan reaches the desired state, and a failure holds back only what builds on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lb_common::service::VIP_MARKER;
use lb_common::{Backend, BackendId, Endpoint, NextHop, Service, ServiceId, Slot, SocketKey};
use lb_userspace::controller::plan::{may_apply, plan, plan_proxy};
use lb_userspace::data_plane::kernel::{KernelState, Prefix};
use lb_userspace::data_plane::proxy::{ProxyAction, ProxyService, ProxyState};
use lb_userspace::model::{Affinity, Listen, Protocol, Scheduler};
use proptest::prelude::*;

const SLOTS: usize = 5;
const TABLES: u32 = 3;
const BACKENDS: u32 = 6;

fn backend(index: u32, hop: u32) -> Backend {
    let address = Ipv4Addr::new(10, 0, 0, index as u8);
    Backend {
        address: address.into(),
        port: lb_common::Port::new(8080),
        protocol: 6,
        id: BackendId::new(index, 0),
        hop: NextHop { ifindex: hop, ..NextHop::default() },
        plain: ServiceId::default(),
    }
}

fn endpoint_key(backend: &Backend) -> SocketKey {
    backend.endpoint()
}

fn vip(table: u32) -> SocketKey {
    SocketKey::new(SocketAddr::new(Ipv4Addr::new(192, 0, 2, table as u8).into(), 80), 6)
}

/// A state as the controller builds them: each backend serves at most one table, each table one service.
fn state() -> impl Strategy<Value = KernelState> {
    let owners = proptest::collection::vec((0..=TABLES, 0..2_u32), BACKENDS as usize);
    let slots = proptest::collection::vec((any::<u8>(), any::<u8>()), SLOTS);
    let services = proptest::collection::vec(any::<bool>(), TABLES as usize);
    let local = proptest::collection::btree_set(0..4_u8, 0..4);
    (owners, slots, services, 1..3_u32, local).prop_map(|(owners, slots, services, timeout, local)| {
        let mut state = KernelState::default();
        for last in local {
            let address = Ipv4Addr::new(172, 16, 0, last);
            state.local.insert(address.into());
            let hop = NextHop { ifindex: timeout, ..NextHop::default() };
            state.routes.insert(Prefix { address: IpAddr::V4(address), length: 32 }, hop);
        }
        for table in (0..TABLES).filter(|table| services[*table as usize]) {
            let service = Service {
                id: ServiceId::new(table + 1, 0),
                table,
                slots: SLOTS as u32,
                established: timeout,
                ..Service::default()
            };
            let key = vip(table);
            state.services.insert(key, service);
            let marker = Service { flags: VIP_MARKER, ..Service::default() };
            state.services.insert(SocketKey::vip(key.address), marker);
            let mut members = vec![BackendId::NONE];
            for (index, (owner, hop)) in (1..).zip(&owners) {
                if *owner == table {
                    let backend = backend(index, *hop);
                    members.push(backend.id);
                    state.backends.insert(index, backend);
                    let endpoint = Endpoint { vip: key, backend: backend.id, service };
                    state.endpoints.insert(endpoint_key(&backend), endpoint);
                }
            }
            let pick = |byte: u8| members[usize::from(byte) % members.len()];
            let slots = slots.iter().map(|(a, b)| Slot::tracked(pick(*a), pick(*b), false));
            state.tables.insert(table, Arc::new(slots.collect()));
        }
        state
    })
}

fn assert_valid(state: &KernelState) {
    let lives = |id: BackendId| state.backends.get(&id.index()).is_some_and(|backend| backend.id == id);
    for service in state.services.values().filter(|service| service.flags == 0) {
        assert_eq!(state.tables[&service.table].len() as u32, service.slots, "a service without its table");
        for slot in state.tables[&service.table].iter() {
            let id = slot.current();
            if id.is_some() {
                let key = endpoint_key(&state.backends[&id.index()]);
                assert_eq!(state.endpoints[&key].backend, id, "replies of a backend would not be translated");
            }
        }
    }
    for slot in state.tables.values().flat_map(|slots| slots.iter()) {
        for id in [slot.current(), slot.fallback()] {
            assert!(!id.is_some() || lives(id), "a slot names a dead backend");
        }
    }
    for endpoint in state.endpoints.values() {
        assert!(lives(endpoint.backend), "an endpoint names a dead backend");
        assert!(state.tables.contains_key(&endpoint.service.table), "an endpoint without its table");
    }
}

proptest! {
    #[test]
    fn every_prefix_is_valid_and_the_end_is_the_desired_state(applied in state(), desired in state()) {
        let mut now = applied;
        for action in plan(&now.clone(), &desired) {
            prop_assert!(may_apply(&now, &action), "{action:?} is held back without a failure");
            now.record(&action);
            assert_valid(&now);
        }
        prop_assert_eq!(&now, &desired);
        prop_assert_eq!(plan(&now, &desired), vec![]);
    }

    #[test]
    fn failures_hold_back_what_builds_on_them_and_a_retry_gets_there(
        applied in state(),
        desired in state(),
        fails in proptest::collection::vec(any::<bool>(), 64),
    ) {
        let mut now = applied;
        for (action, fails) in plan(&now.clone(), &desired).iter().zip(fails) {
            if !fails && may_apply(&now, action) {
                now.record(action);
                assert_valid(&now);
            }
        }
        for action in plan(&now.clone(), &desired) {
            prop_assert!(may_apply(&now, &action));
            now.record(&action);
            assert_valid(&now);
        }
        prop_assert_eq!(now, desired);
    }

    #[test]
    fn nothing_is_written_twice(applied in state(), desired in state()) {
        let actions = plan(&applied, &desired);
        let distinct: BTreeSet<_> = actions.iter().map(|action| format!("{action:?}")).collect();
        prop_assert_eq!(distinct.len(), actions.len());
    }
}

fn proxy_service(name: &str) -> ProxyService {
    ProxyService {
        name: name.into(),
        pool: "web".into(),
        scheduler: Scheduler::RoundRobin,
        affinity: Affinity::None,
        table_size: 251,
        members: Vec::new(),
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(60),
        closing_timeout: Duration::from_secs(10),
    }
}

fn listen(port: u16) -> Listen {
    Listen { address: (Ipv4Addr::LOCALHOST, port).into(), protocol: Protocol::Tcp }
}

fn proxy_state(services: &[(u16, &str)]) -> ProxyState {
    let entry = |(port, name): &(u16, &str)| (listen(*port), proxy_service(name));
    ProxyState { services: services.iter().map(entry).collect::<BTreeMap<_, _>>() }
}

#[test]
fn the_proxy_serves_before_it_stops_and_leaves_the_rest_alone() {
    let applied = proxy_state(&[(1, "same"), (2, "old"), (3, "gone")]);
    let desired = proxy_state(&[(1, "same"), (2, "new"), (4, "added")]);
    let drain = Duration::from_secs(30);
    let (serve, stop) = plan_proxy(&applied, &desired, drain);
    assert_eq!(
        serve,
        [
            ProxyAction::Update { listen: listen(2), service: proxy_service("new") },
            ProxyAction::Listen { listen: listen(4), service: proxy_service("added") },
        ]
    );
    assert_eq!(stop, [ProxyAction::Close { listen: listen(3), drain }]);
    let mut state = applied;
    for action in serve.iter().chain(&stop) {
        state.record(action);
    }
    assert_eq!(state, desired);
    assert_eq!(plan_proxy(&state, &desired, drain), (vec![], vec![]));
}
