//! The flow hash against an independent implementation, and what it promises.

#![expect(clippy::unwrap_used, reason = "a test whose input is wrong should stop")]

use std::hash::Hasher;
use std::net::SocketAddr;

use lb_common::Port;
use lb_common::hash::{Tuple, slot};
use siphasher::sip::SipHasher13;

const SEED: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

fn tuple(source: &str, destination: &str) -> Tuple {
    let (source, destination): (SocketAddr, SocketAddr) =
        (source.parse().unwrap(), destination.parse().unwrap());
    Tuple {
        source: source.ip().into(),
        destination: destination.ip().into(),
        source_port: Port::new(source.port()),
        destination_port: Port::new(destination.port()),
        protocol: 6,
    }
}

/// The paper's SipHash-1-3 over the same bytes, folded to 32 bits.
fn reference(bytes: &[u8]) -> u32 {
    let mut hasher = SipHasher13::new_with_keys(SEED[0], SEED[1]);
    hasher.write(bytes);
    let hash = hasher.finish();
    (hash ^ (hash >> 32)) as u32
}

#[test]
fn ipv4_is_siphash_over_addresses_ports_and_protocol() {
    let bytes = [&[192, 0, 2, 1, 198, 51, 100, 2][..], &40000_u16.to_be_bytes(), &80_u16.to_be_bytes(), &[6]];
    assert_eq!(tuple("192.0.2.1:40000", "198.51.100.2:80").hash(SEED), reference(&bytes.concat()));
}

#[test]
fn ipv6_is_siphash_over_addresses_ports_and_protocol() {
    let (source, destination) = ("2001:db8::1", "2001:db8:1::2");
    let octets = |ip: &str| ip.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let bytes =
        [&octets(source)[..], &octets(destination), &40000_u16.to_be_bytes(), &443_u16.to_be_bytes(), &[6]];
    let hash = tuple(&format!("[{source}]:40000"), &format!("[{destination}]:443")).hash(SEED);
    assert_eq!(hash, reference(&bytes.concat()));
}

#[test]
fn every_part_of_the_tuple_and_the_seed_matter() {
    let base = tuple("192.0.2.1:40000", "198.51.100.2:80");
    let hash = base.hash(SEED);
    for other in [
        tuple("192.0.2.2:40000", "198.51.100.2:80"),
        tuple("192.0.2.1:40001", "198.51.100.2:80"),
        tuple("192.0.2.1:40000", "198.51.100.3:80"),
        tuple("192.0.2.1:40000", "198.51.100.2:81"),
        Tuple { protocol: 17, ..base },
    ] {
        assert_ne!(other.hash(SEED), hash, "{other:?}");
    }
    assert_ne!(base.hash([SEED[1], SEED[0]]), hash);
}

#[test]
fn slots_are_within_the_table_and_evenly_used() {
    const SLOTS: u32 = 251;
    let mut used = [0_u32; SLOTS as usize];
    for port in 1..=u16::MAX {
        let mut tuple = tuple("192.0.2.1:1", "198.51.100.2:80");
        tuple.source_port = Port::new(port);
        used[slot(tuple.hash(SEED), SLOTS) as usize] += 1;
    }
    // 261 expected, standard deviation 16: six of them either way.
    assert!(used.iter().all(|uses| (165..=357).contains(uses)), "{used:?}");
    assert_eq!(slot(u32::MAX, SLOTS), SLOTS - 1);
    assert_eq!(slot(0, SLOTS), 0);
}
