//! Sizes, offsets and bytes of everything that lies in pinned maps. A change here is a change of the layout:
//! daemons before and after it cannot share maps.

use core::mem::{align_of, offset_of, size_of};
use core::net::SocketAddr;

use lb_common::{
    Address, Backend, BackendId, Endpoint, Exact, ExactKey, Flow, FlowKey, HalfOpen, Handshakes, NextHop,
    Peer, PeerKey, Port, Service, ServiceId, Slot, SocketKey, Station, Traffic, Vip,
};
use zerocopy::IntoBytes;

#[test]
fn sizes_and_alignments() {
    let layouts = [
        ("Address", size_of::<Address>(), align_of::<Address>(), 16, 4),
        ("SocketKey", size_of::<SocketKey>(), align_of::<SocketKey>(), 20, 4),
        ("NextHop", size_of::<NextHop>(), align_of::<NextHop>(), 20, 4),
        ("Backend", size_of::<Backend>(), align_of::<Backend>(), 48, 4),
        ("Service", size_of::<Service>(), align_of::<Service>(), 32, 4),
        ("Endpoint", size_of::<Endpoint>(), align_of::<Endpoint>(), 56, 4),
        ("Slot", size_of::<Slot>(), align_of::<Slot>(), 8, 8),
        ("FlowKey", size_of::<FlowKey>(), align_of::<FlowKey>(), 24, 4),
        ("HalfOpen", size_of::<HalfOpen>(), align_of::<HalfOpen>(), 36, 4),
        ("Flow", size_of::<Flow>(), align_of::<Flow>(), 24, 4),
        ("Station", size_of::<Station>(), align_of::<Station>(), 20, 4),
        ("PeerKey", size_of::<PeerKey>(), align_of::<PeerKey>(), 32, 8),
        ("Peer", size_of::<Peer>(), align_of::<Peer>(), 24, 4),
        ("ExactKey", size_of::<ExactKey>(), align_of::<ExactKey>(), 40, 4),
        ("Exact", size_of::<Exact>(), align_of::<Exact>(), 24, 4),
        ("Vip", size_of::<Vip>(), align_of::<Vip>(), 52, 4),
        ("Traffic", size_of::<Traffic>(), align_of::<Traffic>(), 48, 8),
        ("Handshakes", size_of::<Handshakes>(), align_of::<Handshakes>(), 24, 8),
    ];
    for (name, size, alignment, expected_size, expected_alignment) in layouts {
        assert_eq!((size, alignment), (expected_size, expected_alignment), "{name}");
    }
}

#[test]
fn offsets() {
    assert_eq!(offset_of!(SocketKey, port), 16);
    assert_eq!(offset_of!(SocketKey, protocol), 18);
    assert_eq!(offset_of!(NextHop, source), 6);
    assert_eq!(offset_of!(NextHop, ifindex), 12);
    assert_eq!(offset_of!(NextHop, mtu), 16);
    assert_eq!(offset_of!(Backend, port), 16);
    assert_eq!(offset_of!(Backend, id), 20);
    assert_eq!(offset_of!(Backend, hop), 24);
    assert_eq!(offset_of!(Backend, plain), 44);
    assert_eq!(offset_of!(ExactKey, client), 20);
    assert_eq!(offset_of!(ExactKey, port), 36);
    assert_eq!(offset_of!(Exact, pending), 12);
    assert_eq!(offset_of!(Vip, service), 20);
    assert_eq!(offset_of!(Endpoint, backend), 20);
    assert_eq!(offset_of!(Endpoint, service), 24);
    assert_eq!(offset_of!(FlowKey, service), 16);
    assert_eq!(offset_of!(FlowKey, port), 20);
    assert_eq!(offset_of!(Station, ifindex), 16);
    assert_eq!(offset_of!(PeerKey, address), 8);
    assert_eq!(offset_of!(PeerKey, padding), 28);
    assert_eq!(offset_of!(Peer, backend), 20);
    assert_eq!(offset_of!(HalfOpen, expires), 28);
    assert_eq!(offset_of!(HalfOpen, proven), 32);
    assert_eq!(offset_of!(Flow, expires), 16);
    assert_eq!(offset_of!(Flow, closing), 20);
}

#[test]
fn capacities() {
    use lb_common::limits::*;
    assert_eq!([SERVICES, SERVICE_BUCKETS, STATIONS], [16384, 8192, 16384]);
    assert_eq!([BACKENDS, MAX_BACKENDS, ENDPOINT_BUCKETS], [32768, 131_072, 65536]);
    assert_eq!([LOCAL_ADDRESSES, ROUTES, HOSTS, HOST_BUCKETS], [4096, 65536, 69632, 32768]);
    assert_eq!([LISTS, LIST_BUCKETS, TABLES, SPARE_ENTRIES], [64, 2, 8192, 1024]);
    assert_eq!([WANTED, ASKERS, PEERS, HALF_OPEN], [1024, 4096, 65536, 262_144]);
}

#[test]
fn addresses_and_ports_lie_in_network_order() {
    let socket: SocketAddr = "192.0.2.10:80".parse().unwrap();
    let key = SocketKey::new(socket, 6);
    let expected = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 10, 0, 80];
    assert_eq!(key.as_bytes()[..18], expected);
    assert_eq!(key.socket(), socket);
    let socket: SocketAddr = "[2001:db8::1]:443".parse().unwrap();
    let key = SocketKey::new(socket, 6);
    assert_eq!(key.address.as_bytes()[..4], [0x20, 0x01, 0x0d, 0xb8]);
    assert_eq!(key.socket(), socket);
    assert!(!key.address.is_v4());
    assert_eq!(Port::new(0x1234).as_bytes(), [0x12, 0x34]);
}

#[test]
fn a_slot_keeps_its_four_parts_apart() {
    let (a, b) = (BackendId::new(0xf_ffff, 0x7ff), BackendId::new(1, 0));
    for (current, fallback) in [(a, b), (b, a), (a, a), (BackendId::NONE, a)] {
        for settling in [false, true] {
            let slot = Slot::tracked(current, fallback, settling);
            assert_eq!((slot.current(), slot.fallback()), (current, fallback));
            assert!(slot.is_tracked());
            assert_eq!(slot.is_settling(), settling);
        }
        let slot = Slot::stable(current);
        assert_eq!((slot.current(), slot.fallback()), (current, current));
        assert!(!slot.is_tracked() && !slot.is_settling());
    }
    assert_eq!(Slot::tracked(b, b, false).0, 1 | 1 << 31 | 1 << 32);
}

#[test]
fn ids_keep_index_and_generation_apart() {
    let id = BackendId::new(77, 2047);
    assert_eq!((id.index(), id.generation()), (77, 2047));
    assert_eq!(id.next_generation(), BackendId::new(77, 0));
    let id = ServiceId::new(77, 9);
    assert_eq!((id.index(), id.generation()), (77, 9));
}

#[test]
fn the_last_two_server_numbers_are_kept() {
    let mut half = HalfOpen::default();
    let recorded = |half: &HalfOpen| {
        let mut numbers: Vec<_> = half.server_isn.iter().take(half.recorded as usize).copied().collect();
        numbers.sort_unstable();
        numbers
    };
    half.record_server(10);
    half.record_server(10);
    assert_eq!(recorded(&half), [10]);
    half.record_server(20);
    assert_eq!(recorded(&half), [10, 20]);
    half.record_server(30);
    assert_eq!(recorded(&half), [20, 30]);
}
