//! TCP's maximum segment size (RFC 9293 §3.7.1), lowered in passing where a service asks for it: for tunnels
//! behind backends or before clients whose errors never come back.

use crate::checksum::Sum;
use crate::packet::Packet;
use crate::transport::Transport;

/// Kinds of options (RFC 9293 §3.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
/// Options that are looked at. Every stack begins with the maximum segment size.
const OPTIONS: usize = 8;

/// Lowers the maximum segment size in a SYN or SYN-ACK with its header at byte `l4` to `limit` bytes; returns
/// what the segment's sum changes by. Without that option the peer sends 536 or 1220 bytes, fewer than any limit
/// is for.
#[inline(always)]
pub fn clamp<P: Packet>(packet: &mut P, l4: usize, limit: u32) -> Sum {
    let unchanged = Sum::default();
    let end = l4 + Transport::Tcp.length_at(packet, l4);
    let mut at = l4 + Transport::Tcp.header_length();
    for _ in 0..OPTIONS {
        let Some(&[kind, length]) = packet.header::<[u8; 2]>(at) else { return unchanged };
        if kind == END {
            return unchanged;
        }
        let step = match (kind, length) {
            (NO_OPERATION, _) => 1,
            (MAXIMUM_SEGMENT_SIZE, 4) if at + 4 <= end => {
                return lower(packet, at + 2, (at - l4) & 1 == 1, limit);
            }
            (_, 0 | 1) => return unchanged,
            _ => usize::from(length),
        };
        at = packet.forget(at + step);
    }
    unchanged
}

/// Lowers the number at byte `at`. Where that is an odd place in the segment, the number lies across two of the
/// words that the checksum adds up, and its bytes count the other way round.
#[inline(always)]
fn lower<P: Packet>(packet: &mut P, at: usize, is_odd: bool, limit: u32) -> Sum {
    let Some(field) = packet.header_mut::<[u8; 2]>(at) else { return Sum::default() };
    let old = *field;
    if u32::from(u16::from_be_bytes(old)) <= limit {
        return Sum::default();
    }
    let new = (limit as u16).to_be_bytes();
    *field = new;
    let word =
        |[first, second]: [u8; 2]| u16::from_ne_bytes(if is_odd { [second, first] } else { [first, second] });
    Sum::default().swap16(word(old), word(new))
}
