//! The flow hash against an independent implementation, and what it promises.

#![expect(clippy::unwrap_used, reason = "a test whose input is wrong should stop")]

use std::hash::Hasher;
use std::net::SocketAddr;

use lb_common::Port;
use lb_common::hash::{Tuple, initial, key, siphash13, slot};
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

/// The paper's SipHash-1-3 of some bytes.
fn siphash(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(SEED[0], SEED[1]);
    hasher.write(bytes);
    hasher.finish()
}

/// The hash of ten words, from its definition: their sum, each times its factor, and then four rounds.
fn reference(words: [u32; 10]) -> u32 {
    let factor = |place: u64| u128::from(siphash(&place.to_le_bytes()));
    let sum = (5..).zip(words).fold(factor(4), |sum, (place, word)| sum + factor(place) * u128::from(word));
    let digest = (sum % (1 << 64)) as u64;
    let mut v =
        [0x736f_6d65_7073_6575, 0x646f_7261_6e64_6f6d, 0x6c79_6765_6e65_7261, 0x7465_6462_7974_6573_u64];
    (0..4).for_each(|word| v[word] ^= SEED[word % 2]);
    for number in 0..4 {
        v[3] ^= if number == 0 { digest } else { 0 };
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
        if number == 0 {
            v[0] ^= digest;
            v[2] ^= 0xff;
        }
    }
    let hash = v[0] ^ v[1] ^ v[2] ^ v[3];
    (hash ^ (hash >> 32)) as u32
}

/// An address in four words of network order.
fn words(ip: &str) -> [u32; 4] {
    let octets = ip.parse::<std::net::Ipv6Addr>().unwrap().octets();
    std::array::from_fn(|word| u32::from_ne_bytes(octets[4 * word..][..4].try_into().unwrap()))
}

fn ports(source: u16, destination: u16) -> u32 {
    let [a, b] = source.to_be_bytes();
    let [c, d] = destination.to_be_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

#[test]
fn ipv4_is_what_the_definition_says() {
    let (source, destination) = (u32::from_ne_bytes([192, 0, 2, 1]), u32::from_ne_bytes([198, 51, 100, 2]));
    let expected = reference([0, 0, 0, source, 0, 0, 0, destination, ports(40000, 80), 6]);
    assert_eq!(tuple("192.0.2.1:40000", "198.51.100.2:80").hash_with(&key(SEED)), expected);
}

#[test]
fn ipv6_is_what_the_definition_says() {
    let (source, destination) = ("2001:db8:3:4:5:6:7:1", "2001:db8:1::2");
    let ([a, b, c, d], [e, f, g, h]) = (words(source), words(destination));
    let hash = tuple(&format!("[{source}]:40000"), &format!("[{destination}]:443")).hash_with(&key(SEED));
    assert_eq!(hash, reference([a, b, c, d, e, f, g, h, ports(40000, 443), 6]));
}

#[test]
fn the_keyed_function_is_siphash_of_the_paper() {
    for (bytes, word) in [(b"01234567", 0x3736_3534_3332_3130_u64), (b"\0\0\0\0\0\0\0\0", 0)] {
        assert_eq!(siphash13([word, 8 << 56], initial(SEED)), siphash(bytes));
    }
}

#[test]
fn every_part_of_the_tuple_and_the_seed_matter() {
    let base = tuple("192.0.2.1:40000", "198.51.100.2:80");
    let hash = base.hash_with(&key(SEED));
    for other in [
        tuple("192.0.2.2:40000", "198.51.100.2:80"),
        tuple("192.0.2.1:40001", "198.51.100.2:80"),
        tuple("192.0.2.1:40000", "198.51.100.3:80"),
        tuple("192.0.2.1:40000", "198.51.100.2:81"),
        tuple("[2001:db8::1]:40000", "[2001:db8::2]:80"),
        Tuple { protocol: 17, ..base },
    ] {
        assert_ne!(other.hash_with(&key(SEED)), hash, "{other:?}");
    }
    assert_ne!(base.hash_with(&key([SEED[1], SEED[0]])), hash);
    let base = ["2001", "db8", "1", "2", "3", "4", "5", "6"];
    let hash = |groups: [&str; 8], other: [&str; 8]| {
        tuple(&format!("[{}]:1", groups.join(":")), &format!("[{}]:2", other.join(":"))).hash_with(&key(SEED))
    };
    for group in 0..8 {
        let mut other = base;
        other[group] = "f";
        assert_ne!(hash(other, base), hash(base, base), "group {group} of the client's address");
        assert_ne!(hash(base, other), hash(base, base), "group {group} of the VIP");
    }
}

/// Clients that differ in the lower half of a network's addresses only, and in steps, as real ones do.
#[test]
fn clients_in_steps_are_spread_evenly() {
    const SLOTS: u32 = 251;
    for step in [1_u32, 2, 256, 65_536] {
        let mut used = [0_u32; SLOTS as usize];
        for number in 0..65_535_u32 {
            let client = std::net::Ipv4Addr::from(0x0a00_0000_u32.wrapping_add(number.wrapping_mul(step)));
            let tuple = tuple(&format!("{client}:40000"), "198.51.100.2:80");
            used[slot(tuple.hash_with(&key(SEED)), SLOTS) as usize] += 1;
        }
        assert!(used.iter().all(|uses| (165..=357).contains(uses)), "step {step}: {used:?}");
    }
}

#[test]
fn slots_are_within_the_table_and_evenly_used() {
    const SLOTS: u32 = 251;
    let mut used = [0_u32; SLOTS as usize];
    for port in 1..=u16::MAX {
        let mut tuple = tuple("192.0.2.1:1", "198.51.100.2:80");
        tuple.source_port = Port::new(port);
        used[slot(tuple.hash_with(&key(SEED)), SLOTS) as usize] += 1;
    }
    // 261 expected, standard deviation 16: six of them either way.
    assert!(used.iter().all(|uses| (165..=357).contains(uses)), "{used:?}");
    assert_eq!(slot(u32::MAX, SLOTS), SLOTS - 1);
    assert_eq!(slot(0, SLOTS), 0);
}
