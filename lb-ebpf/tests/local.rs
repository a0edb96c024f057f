//! Sockets of this host: where they are led to, and by which name they know it.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::Cell;
use std::collections::BTreeMap;

use lb_common::address::{TCP, UDP};
use lb_common::service::SOURCE_AFFINITY;
use lb_common::{Backend, BackendId, Endpoint, Service, ServiceId, Slot, SocketKey};
use lb_ebpf::host::Model;
use lb_ebpf::local::{Lead, connect, name, send};

const TABLE: u32 = 5;
const SLOTS: u32 = 1009;
const NOW: u32 = 70_000;
const VIPS: [&str; 2] = ["192.0.2.10:80", "[2001:db8::10]:80"];

fn key(socket: &str, protocol: u8) -> SocketKey {
    SocketKey::new(socket.parse().unwrap(), protocol)
}

fn id(number: u32) -> BackendId {
    BackendId::new(number, 1)
}

fn endpoint(number: u32, protocol: u8) -> SocketKey {
    key(&format!("10.0.0.{number}:8080"), protocol)
}

/// A VIP of each family for each protocol on backends 1 to 3, slot after slot.
fn model(flags: u32) -> Model {
    let mut model = Model { hash_key: lb_common::hash::key([7, 9]), now: Cell::new(NOW), ..Model::default() };
    let service =
        Service { id: ServiceId::new(1, 1), table: TABLE, slots: SLOTS, flags, ..Service::default() };
    for protocol in [TCP, UDP] {
        for vip in VIPS {
            model.services.insert(key(vip, protocol), service);
        }
    }
    model.tables.insert(TABLE, (0..SLOTS).map(|slot| Slot::stable(id(slot % 3 + 1))).collect());
    for number in 1..=3 {
        put(&mut model, number, UDP);
    }
    model
}

/// Backends have one protocol each; these tests take whichever they are about.
fn put(model: &mut Model, number: u32, protocol: u8) {
    let SocketKey { address, port, protocol } = endpoint(number, protocol);
    let backend = Backend { address, port, protocol, id: id(number), ..Backend::default() };
    model.backends.insert(number, backend);
    let of = Endpoint { vip: key(VIPS[0], UDP), backend: id(number), ..Endpoint::default() };
    model.endpoints.insert(backend.endpoint(), of);
}

fn change(model: &mut Model, slot: Slot) {
    model.tables.insert(TABLE, vec![slot; SLOTS as usize]);
}

fn to(number: u32) -> Lead {
    known_as(endpoint(number, UDP))
}

fn known_as(address: SocketKey) -> Lead {
    Lead { is_refused: false, is_changed: true, address }
}

const STAY: Lead = Lead {
    is_refused: false,
    is_changed: false,
    address: SocketKey::vip(lb_common::Address::from_v6_raw([0; 4])),
};

#[test]
fn connections_spread_over_the_backends_and_show_the_vip() {
    for vip in VIPS {
        let (model, vip) = (model(0), key(vip, UDP));
        let mut shares = BTreeMap::new();
        for socket in 1..=3000 {
            let lead = connect(&model, socket, &vip);
            assert!(lead.is_changed && !lead.is_refused);
            assert_eq!(name(&model, socket, &lead.address), known_as(vip));
            assert_eq!(name(&model, socket + 3000, &lead.address), STAY, "another socket's backend");
            *shares.entry(lead.address).or_insert(0) += 1;
        }
        assert!(shares.len() == 3 && shares.values().all(|share| (850..1150).contains(share)), "{shares:?}");
        assert_eq!(model.service_traffic.borrow()[&1].new_flows, 3000);
        let backends = model.backend_traffic.borrow();
        assert_eq!(backends.values().map(|traffic| traffic.new_flows).sum::<u64>(), 3000);
        assert!(backends.values().all(|traffic| traffic.packets == 0), "no packet was seen");
    }
}

#[test]
fn with_affinity_this_host_is_one_client() {
    let model = model(SOURCE_AFFINITY);
    let first = connect(&model, 1, &key(VIPS[0], UDP));
    assert!((2..1000).all(|socket| connect(&model, socket, &key(VIPS[0], UDP)) == first));
}

#[test]
fn what_is_no_service_stays() {
    let model = model(0);
    for other in ["192.0.2.10:81", "192.0.2.11:80", "[2001:db8::11]:80", "192.0.2.10:0"] {
        for protocol in [0, TCP, UDP, 132] {
            assert_eq!(connect(&model, 1, &key(other, protocol)), STAY, "{other}");
            assert_eq!(send(&model, 1, &key(other, protocol), false), STAY, "{other}");
        }
    }
    assert_eq!(connect(&model, 1, &key(VIPS[0], 132)), STAY, "another protocol");
    assert!(model.peers.borrow().is_empty());
}

#[test]
fn a_service_without_backends_refuses() {
    let mut model = model(0);
    let refused = |model: &Model| {
        let vip = key(VIPS[0], UDP);
        connect(model, 1, &vip).is_refused && send(model, 1, &vip, false).is_refused
    };
    change(&mut model, Slot::stable(BackendId::NONE));
    assert!(refused(&model));
    // A backend that has given way to its successor.
    change(&mut model, Slot::stable(id(1)));
    assert!(!refused(&model));
    change(&mut model, Slot::stable(BackendId::new(1, 2)));
    assert!(refused(&model));
    model.tables.clear();
    assert!(refused(&model));
}

#[test]
fn within_a_change_new_flows_go_to_the_new_backend() {
    let mut model = model(0);
    change(&mut model, Slot::tracked(id(2), id(1), false));
    for socket in 1..100 {
        assert_eq!(connect(&model, socket, &key(VIPS[0], UDP)), to(2));
        assert_eq!(send(&model, socket + 100, &key(VIPS[1], UDP), false), to(2));
    }
    assert!(model.old_seen.borrow().is_empty());
}

#[test]
fn a_socket_that_speaks_stays_with_its_backend_through_changes() {
    let (mut model, vip) = (model(0), key(VIPS[0], UDP));
    change(&mut model, Slot::stable(id(1)));
    assert_eq!(send(&model, 1, &vip, false), to(1));
    change(&mut model, Slot::tracked(id(2), id(1), false));
    assert_eq!(send(&model, 1, &vip, false), to(1));
    assert_eq!(send(&model, 2, &vip, false), to(2));
    // The slot is not settled while an old flow speaks.
    assert_eq!(model.old_seen.borrow().values().copied().collect::<Vec<_>>(), [NOW]);
    model.old_seen.borrow_mut().clear();

    change(&mut model, Slot::tracked(id(3), id(1), false));
    assert_eq!([1, 2, 3].map(|socket| send(&model, socket, &vip, false)), [to(1), to(2), to(3)]);
    assert_eq!(name(&model, 2, &endpoint(2, UDP)), known_as(vip));
    assert_eq!(model.service_traffic.borrow()[&1].new_flows, 3);

    // A dead backend keeps nobody; a settled slot is followed.
    model.backends.get_mut(&2).unwrap().id = BackendId::new(2, 2);
    assert_eq!(send(&model, 2, &vip, false), to(3));
    change(&mut model, Slot::stable(id(3)));
    assert_eq!(send(&model, 1, &vip, false), to(3));
    assert_eq!(name(&model, 1, &endpoint(3, UDP)), known_as(vip));
}

#[test]
fn forgotten_names_come_back_with_the_next_datagram() {
    let (mut model, vip) = (model(0), key(VIPS[0], UDP));
    change(&mut model, Slot::stable(id(1)));
    send(&model, 1, &vip, false);
    model.peers.borrow_mut().clear();
    assert_eq!(name(&model, 1, &endpoint(1, UDP)), STAY);
    send(&model, 1, &vip, false);
    assert_eq!(name(&model, 1, &endpoint(1, UDP)), known_as(vip));
}

#[test]
fn a_backend_that_is_named_itself_keeps_its_name() {
    let (mut model, vip, backend) = (model(0), key(VIPS[0], UDP), endpoint(1, UDP));
    change(&mut model, Slot::stable(id(1)));
    let speak: [fn(&Model, &SocketKey) -> Lead; 2] =
        [|model, target| send(model, 1, target, false), |model, target| connect(model, 1, target)];
    for speak in speak {
        assert_eq!(speak(&model, &vip), to(1));
        assert_eq!(speak(&model, &backend), STAY);
        assert_eq!(name(&model, 1, &backend), STAY);
    }
    // The kernel shows an IPv6 socket's datagrams to its IPv4 peer as if they named it.
    assert_eq!(connect(&model, 1, &vip), to(1));
    assert_eq!(send(&model, 1, &backend, true), STAY);
    assert_eq!(name(&model, 1, &backend), known_as(vip));
}

#[test]
fn tcp_and_udp_are_told_apart() {
    let mut model = model(0);
    put(&mut model, 1, TCP);
    change(&mut model, Slot::stable(id(1)));
    assert_eq!(connect(&model, 1, &key(VIPS[0], TCP)), known_as(endpoint(1, TCP)));
    assert_eq!(name(&model, 1, &endpoint(1, TCP)), known_as(key(VIPS[0], TCP)));
    assert_eq!(name(&model, 1, &endpoint(1, UDP)), STAY);
}
