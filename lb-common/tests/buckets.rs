//! Placement by hash: every key has two buckets, and keys spread over all of them.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::SocketKey;
use lb_common::buckets::{EMPTY, HOLE, Key, WAYS};
use lb_common::limits::{SERVICE_BUCKETS, SERVICES};

/// Addresses as people number them: one network with many ports, many networks with one, both families.
fn keys() -> impl Iterator<Item = SocketKey> {
    (0..SERVICES).map(|number| {
        let socket: SocketAddr = match number % 4 {
            0 => (Ipv4Addr::from(0x0a00_0000 + number), 80).into(),
            1 => (Ipv4Addr::new(192, 0, 2, 1), number as u16).into(),
            2 => (Ipv6Addr::from((0x2001_0db8 << 96) + u128::from(number)), 443).into(),
            _ => (Ipv6Addr::from((0xfd00 << 112) + (u128::from(number) << 64) + 1), 443).into(),
        };
        SocketKey::new(socket, if number % 8 < 4 { 6 } else { 17 })
    })
}

#[test]
fn a_full_table_of_usual_addresses_overflows_no_bucket() {
    let mut firsts = HashMap::<u32, usize>::new();
    for key in keys() {
        *firsts.entry(key.hash().first(SERVICE_BUCKETS)).or_default() += 1;
    }
    // Two keys a bucket on average: where they spread at random, one bucket in 4,000 has more than eight.
    let crowded = firsts.values().filter(|count| **count > WAYS).count();
    assert!(crowded <= 8, "{crowded} buckets");
    assert!(firsts.len() > SERVICE_BUCKETS as usize * 4 / 5, "{} buckets in use", firsts.len());
}

#[test]
fn the_second_bucket_is_another_one() {
    for key in keys() {
        let hash = key.hash();
        let (first, second) = (hash.first(SERVICE_BUCKETS), hash.second(SERVICE_BUCKETS));
        assert!(first != second && first < SERVICE_BUCKETS && second < SERVICE_BUCKETS, "{key:?}");
    }
}

#[test]
fn a_word_names_its_entry_to_its_own_key_alone() {
    let mut seen = HashMap::new();
    for (entry, key) in (1..).zip(keys()) {
        let word = key.hash().word(entry);
        assert!(word != EMPTY && word != HOLE);
        assert_eq!(key.hash().candidate(word), Some(entry));
        assert_eq!(key.hash().candidate(EMPTY), None);
        assert_eq!(key.hash().candidate(HOLE), None);
        let place = (key.hash().first(SERVICE_BUCKETS), word >> 32);
        assert_eq!(seen.insert(place, key), None, "tags differ where buckets do not");
    }
}
