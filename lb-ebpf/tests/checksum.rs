//! Incremental updates equal a full recomputation (RFC 1624), for every field the walk changes.

use lb_ebpf::checksum::Sum;
use proptest::prelude::*;

/// RFC 1071, over big-endian words.
fn full(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The two zeros of ones'-complement arithmetic are the same checksum.
fn same(a: u16, b: u16) -> bool {
    a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
}

proptest! {
    #[test]
    fn changed_words_are_a_full_recomputation(
        mut bytes in proptest::collection::vec(any::<u8>(), 40),
        address in any::<[u8; 16]>(),
        word in any::<[u8; 4]>(),
        port in any::<[u8; 2]>(),
    ) {
        let before = full(&bytes);
        let words = |bytes: &[u8]| -> [u32; 4] {
            core::array::from_fn(|n| u32::from_ne_bytes(bytes[n * 4..n * 4 + 4].try_into().unwrap()))
        };
        let half = |bytes: &[u8]| u16::from_ne_bytes(bytes.try_into().unwrap());
        let single = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
        let change = Sum::default()
            .swap128(words(&bytes[0..16]), words(&address))
            .swap32(single(&bytes[20..24]), single(&word))
            .plus(Sum::default().swap16(half(&bytes[30..32]), half(&port)));
        bytes[0..16].copy_from_slice(&address);
        bytes[20..24].copy_from_slice(&word);
        bytes[30..32].copy_from_slice(&port);
        let after = u16::from_be(change.apply(before.to_be()));
        prop_assert!(same(after, full(&bytes)), "{after:#06x} {:#06x}", full(&bytes));
    }

    #[test]
    fn an_error_stays_the_same_error(right in any::<u16>(), error in 1..0xffff_u16, old in any::<u32>(), new in any::<u32>()) {
        let change = Sum::default().swap32(old, new);
        let add = |a: u16, b: u16| {
            let sum = u32::from(a) + u32::from(b);
            (sum & 0xffff) as u16 + (sum >> 16) as u16
        };
        prop_assert!(same(change.apply(add(right, error)), add(change.apply(right), error)));
    }

    #[test]
    fn both_folds_agree(words in proptest::collection::vec(any::<u32>(), 1..12)) {
        let sum = words.iter().fold(Sum::default(), |sum, word| sum.add32(*word));
        let folded = Sum::default().add32(sum.fold32());
        prop_assert!(same(sum.fold(), folded.fold()));
    }
}

#[test]
fn corners() {
    for old in [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_0000, 0x0000_ffff, u32::MAX] {
        for new in [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_0000, 0x0000_ffff, u32::MAX] {
            let mut bytes = [0x12, 0x34, 0, 0, 0, 0, 0xab, 0xcd];
            bytes[2..6].copy_from_slice(&u32::to_ne_bytes(old));
            let before = full(&bytes);
            bytes[2..6].copy_from_slice(&u32::to_ne_bytes(new));
            let after = u16::from_be(Sum::default().swap32(old, new).apply(before.to_be()));
            assert!(same(after, full(&bytes)), "{old:#x} -> {new:#x}");
        }
    }
}
