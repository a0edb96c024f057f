//! Where keys stand in pinned maps, by number: a build must find what the build before it has put there.

#![expect(clippy::expect_used, reason = "a test whose input is wrong should stop")]

use lb_common::buckets::{FILTER, Hash, Key, WAYS};
use lb_common::flow_table::{self, Place};
use lb_common::{Address, FlowKey, Port, ServiceId, SocketKey};

const SEED: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

fn key(socket: &str, protocol: u8) -> SocketKey {
    SocketKey::new(socket.parse().expect("an address"), protocol)
}

/// The hash's low and high half as they can be seen from outside, and the bit in the filter.
fn seen(hash: Hash) -> (u32, u64, (u32, usize, u64)) {
    (hash.first(1 << 31), hash.word(0) >> 32, hash.filter())
}

#[test]
fn of_services_endpoints_and_hosts() {
    let v4 = key("192.0.2.10:80", 6);
    let v6 = key("[2001:db8::1]:443", 6);
    let long = key("[fd00:1:2:3:4:5:6:7]:53", 17);
    assert_eq!(seen(v4.hash()), (0x2408_cb94, 0xf047_f08e, (4, 1, 1 << 14)));
    assert_eq!(seen(v6.hash()), (0x7954_6b04, 0xb1b9_2c10, (25, 7, 1 << 16)));
    assert_eq!(seen(long.hash()), (0x00fa_b82d, 0x9ddd_1d78, (0, 0, 1 << 56)));
    assert_eq!(seen(v4.address.hash()), (0x3c7a_de9a, 0x8607_db68, (28, 1, 1 << 40)));
    assert_eq!(seen(v6.address.hash()), (0x35ca_3b2e, 0xa346_bb24, (21, 5, 1 << 36)));
    assert_eq!(seen(long.address.hash()), (0x7725_4090, 0x9ce8_f38b, (23, 3, 1 << 11)));
}

#[test]
fn of_flows() {
    // SplitMix64, as any other implementation of it gives them.
    let secret = [
        0xab31_c572_86d6_09f1,
        0x271a_0576_0fc3_6341,
        0x380a_da32_0ef9_3316,
        0x6737_06d9_e36a_8d00,
        0x24d2_4737_9612_94a8,
        0xe512_34b9_0598_5981,
        0x3f67_7da0_aafb_1e76,
    ];
    assert_eq!(flow_table::secret(SEED), secret);
    for (socket, first, second, mark) in [
        ("192.0.2.10:80", 1_007_267, 312_985, 40944),
        ("[2001:db8::1]:443", 73724, 804_558, 59784),
        ("[fd00:1:2:3:4:5:6:7]:53", 498_661, 680_427, 45146),
    ] {
        let SocketKey { address: client, port, .. } = key(socket, 6);
        let flow = FlowKey { client, service: ServiceId::new(7, 3), port, padding: 0 };
        assert_eq!(Place::of(&flow, &secret, 1 << 20), Place { first, second, mark }, "{socket}");
    }
}

#[test]
fn of_entries_in_their_buckets() {
    assert_eq!([flow_table::buckets(12), flow_table::buckets(13), flow_table::buckets(24)], [1, 2, 2]);
    assert_eq!([flow_table::entries(1), flow_table::entries(3)], [16, 48]);
    assert_eq!([flow_table::capacity(1), flow_table::capacity(3)], [12, 36]);
    assert_eq!([flow_table::entry(0, 15), flow_table::entry(3, 0), flow_table::entry(3, 5)], [15, 48, 53]);
}

#[test]
fn every_bit_of_the_filter_is_somebodys() {
    let mut filter = [[0_u64; WAYS]; FILTER as usize];
    for number in 0..400_000_u32 {
        let (element, word, bit) = Address::from_v4_raw(number.to_be()).hash().filter();
        assert_eq!(bit.count_ones(), 1);
        filter[element as usize][word] |= bit;
    }
    assert!(filter.iter().flatten().all(|word| *word == u64::MAX));
    assert_ne!(key("192.0.2.10:80", 6).hash(), key("192.0.2.10:80", 17).hash());
    assert_ne!(
        SocketKey { port: Port::new(81), ..key("192.0.2.10:80", 6) }.hash(),
        key("192.0.2.10:80", 6).hash()
    );
}
