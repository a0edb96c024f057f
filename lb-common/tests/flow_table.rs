//! Flow tables: lanes are found without branches, and a table takes what it is for.

use std::collections::BTreeMap;

use lb_common::flow_table::{self, Bucket, LANES, PREFERRED, Place, WAYS};
use lb_common::{Address, FlowKey, Port, ServiceId};
use proptest::prelude::*;

fn key(number: u32) -> FlowKey {
    FlowKey {
        client: Address::from(std::net::Ipv4Addr::from(0x0a00_0000 + number / 50_000)),
        service: ServiceId::new(1, 0),
        port: Port::new((number % 50_000) as u16),
        padding: 0,
    }
}

/// The rule by which programs choose a lane.
fn choose(places: &Place, first: &Bucket, second: &Bucket) -> Option<(bool, u32)> {
    let vacant = |bucket: &Bucket| {
        let find = |mark| flow_table::find_in(|word| bucket.lanes[word], mark);
        if find(places.mark).is_some() { None } else { find(0) }
    };
    match (vacant(first), vacant(second)) {
        (Some(lane), _) if lane < PREFERRED && first.moved == 0 => Some((true, lane)),
        (Some(lane), None) => Some((true, lane)),
        (Some(lane), Some(other)) if lane < PREFERRED || lane <= other => Some((true, lane)),
        (_, Some(other)) => Some((false, other)),
        (None, None) => None,
    }
}

#[test]
fn a_table_takes_all_the_flows_that_it_is_for() {
    for (flows, seed) in [(1024, [1, 2]), (100_000, [3, 4]), (100_000, [5, 6])] {
        let (secret, count) = (flow_table::secret(seed), flow_table::buckets(flows));
        let mut buckets = vec![Bucket::default(); count as usize];
        let mut taken = BTreeMap::new();
        for number in 0..flows {
            let place = Place::of(&key(number), &secret, count);
            assert!(place.first < count && place.second < count && place.mark != 0);
            let [first, second] = [place.first, place.second].map(|bucket| bucket as usize);
            let (is_first, lane) =
                choose(&place, &buckets[first], &buckets[second]).expect("room for every flow");
            let bucket = if is_first { first } else { second };
            buckets[first].moved += u64::from(!is_first);
            buckets[bucket].lanes[(lane / LANES) as usize] |= u64::from(place.mark) << (16 * (lane % LANES));
            assert!(taken.insert((bucket, lane), number).is_none(), "a lane is given away once");
        }
        // Most stand where a search begins.
        let moved = buckets.iter().map(|bucket| bucket.moved).sum::<u64>();
        assert!(moved * 4 < u64::from(flows), "{moved} of {flows}");
    }
}

#[test]
fn a_place_depends_on_every_part_of_the_key_and_on_the_secret() {
    let (secret, count) = (flow_table::secret([7, 8]), 1 << 20);
    let one = key(1);
    let place = Place::of(&one, &secret, count);
    let mut others = vec![
        FlowKey { port: Port::new(2), ..one },
        FlowKey { service: ServiceId::new(1, 1), ..one },
        FlowKey { service: ServiceId::new(2, 0), ..one },
    ];
    for word in 0..4 {
        let mut other = one;
        other.client.words[word] ^= 1 << 31;
        others.push(other);
    }
    for other in others {
        let other = Place::of(&other, &secret, count);
        assert_ne!(place.first, other.first);
        assert_ne!(place.second, other.second);
        assert_ne!(place.mark, other.mark);
    }
    assert_ne!(place, Place::of(&one, &flow_table::secret([7, 9]), count));
}

proptest! {
    #[test]
    fn the_first_lane_with_a_mark_is_found(lanes in prop::array::uniform16(0_u16..4), mark in 0_u16..4) {
        let word = |word: usize| {
            lanes[4 * word..].iter().take(4).rev().fold(0, |bits, lane| bits << 16 | u64::from(*lane))
        };
        let expected = lanes.iter().position(|lane| *lane == mark).map(|lane| lane as u32);
        prop_assert_eq!(flow_table::find_in(word, mark), expected);
    }

    #[test]
    fn and_so_in_any_lanes(lanes in any::<[u16; 16]>(), which in 0_usize..16) {
        let word = |word: usize| {
            lanes[4 * word..].iter().take(4).rev().fold(0, |bits, lane| bits << 16 | u64::from(*lane))
        };
        let expected = lanes.iter().position(|lane| *lane == lanes[which]).map(|lane| lane as u32);
        prop_assert!(expected.is_some_and(|lane| lane < WAYS));
        prop_assert_eq!(flow_table::find_in(word, lanes[which]), expected);
    }
}
