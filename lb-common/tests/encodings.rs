//! How values are put into the bytes that lie in pinned maps.

use core::net::SocketAddr;

use lb_common::{BackendId, HalfOpen, Port, ServiceId, Slot, SocketKey};
use zerocopy::IntoBytes;

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
