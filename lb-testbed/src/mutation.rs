//! Frames near the packet table's: structured, random, the same for the same seed.

use rand::Rng;
use rand::rngs::StdRng;

/// Values that parsers stumble over: ends of ranges, version and length nibbles, protocol numbers, header kinds.
const BYTES: [u8; 20] = [0, 1, 4, 5, 6, 17, 20, 43, 44, 45, 47, 51, 58, 59, 60, 64, 0x7f, 0x80, 0xfe, 0xff];
/// The same for fields of two bytes: EtherTypes, lengths, fragment flags.
const WORDS: [u16; 12] = [0, 1, 8, 20, 0x0800, 0x86dd, 0x8100, 0x88a8, 0x2000, 0x4000, 0x7fff, 0xffff];
/// Bytes that hold headers.
const HEADERS: usize = 110;
/// Of a frame.
const LONGEST: usize = 1600;

/// A frame made of one of `seeds`, changed in up to five ways.
pub fn frame(random: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(0..=5) {
        change(random, seeds, &mut frame);
    }
    if random.random() {
        mend_lengths(&mut frame);
    }
    frame
}

fn change(random: &mut StdRng, seeds: &[Vec<u8>], frame: &mut Vec<u8>) {
    let end = frame.len().min(HEADERS);
    if end < 2 {
        return;
    }
    let at = random.random_range(0..end);
    match random.random_range(0..9) {
        0 => frame[at] ^= 1 << random.random_range(0..8),
        1 => frame[at] = BYTES[random.random_range(0..BYTES.len())],
        2 => frame[at] = random.random(),
        3 => {
            let word = WORDS[random.random_range(0..WORDS.len())].to_be_bytes();
            let at = at & !1;
            for (byte, new) in frame[at..].iter_mut().zip(word) {
                *byte = new;
            }
        }
        4 => frame.truncate(random.random_range(at..=frame.len())),
        5 => {
            let more = random.random_range(1..64).min(LONGEST - frame.len().min(LONGEST));
            frame.extend((0..more).map(|_| random.random::<u8>()));
        }
        6 => {
            // A tag: 802.1Q or 802.1ad.
            let kind: [u8; 2] = if random.random() { [0x81, 0] } else { [0x88, 0xa8] };
            let tag = [kind[0], kind[1], random.random(), random.random()];
            frame.splice(12.min(frame.len())..12.min(frame.len()), tag);
        }
        7 => {
            // Headers of one frame, the rest of another: what an ICMP error quotes, among others.
            let other = &seeds[random.random_range(0..seeds.len())];
            frame.truncate(at);
            frame.extend(other.get(random.random_range(0..other.len())..).unwrap_or_default());
        }
        _ => {
            // Sender and receiver change places.
            if let Some(range) = addresses(frame) {
                let half = range.len() / 2;
                frame[range].rotate_left(half);
            }
        }
    }
}

/// Where both addresses of an untagged IP packet are.
fn addresses(frame: &[u8]) -> Option<std::ops::Range<usize>> {
    let range = match frame.get(12..14)? {
        [0x08, 0x00] => 26..34,
        [0x86, 0xdd] => 22..54,
        _ => return None,
    };
    (frame.len() >= range.end).then_some(range)
}

/// Makes the length field of an untagged IP packet what the frame holds, so that the next header is looked at.
fn mend_lengths(frame: &mut [u8]) {
    let length = frame.len();
    let (at, before) = match frame.get(12..14) {
        Some([0x08, 0x00]) => (16, 14),
        Some([0x86, 0xdd]) => (18, 54),
        _ => return,
    };
    let value = u16::try_from(length.saturating_sub(before)).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&value);
    }
}
