//! Bounded access to a frame.

use lb_common::{Address, NextHop};

use crate::checksum::Sum;
use crate::headers::{Header, U32};
use crate::transport::Transport;
use crate::walk::At;

/// A frame, from its link header on.
///
/// Whatever changes the layout or may move the bytes takes `&mut self`: every borrowed header is dead after
/// it, which is the verifier's rule for packet pointers, here enforced by the borrow checker.
pub trait Packet {
    /// The header at byte `at`, if the frame's linear part holds all of it.
    fn header<T: Header>(&self, at: usize) -> Option<&T>;

    /// The same, to be changed.
    fn header_mut<T: Header>(&mut self, at: usize) -> Option<&mut T>;

    /// A word of the frame as it lies there.
    #[inline(always)]
    fn word(field: &U32) -> u32 {
        field.raw()
    }

    /// Puts a word there.
    #[inline(always)]
    fn set_word(field: &mut U32, word: u32) {
        *field = U32::from_raw(word);
    }

    /// The four words of an IPv6 address.
    #[inline(always)]
    fn words([a, b, c, d]: &[U32; 4]) -> [u32; 4] {
        [Self::word(a), Self::word(b), Self::word(c), Self::word(d)]
    }

    /// Puts an IPv6 address there.
    #[inline(always)]
    fn set_words([a, b, c, d]: &mut [U32; 4], words: [u32; 4]) {
        Self::set_word(a, words[0]);
        Self::set_word(b, words[1]);
        Self::set_word(c, words[2]);
        Self::set_word(d, words[3]);
    }

    /// Whether the frame has at least `bytes` bytes, wherever they lie.
    fn holds(&self, bytes: usize) -> bool;

    /// Makes a change known to the checksum of the transport header at byte `l4`: `address` is what changed in
    /// the pseudo-header, `ports` what changed in the segment. Two parts, because a partial checksum covers
    /// only the first.
    fn fix_checksum(&mut self, transport: Transport, l4: usize, address: Sum, ports: Sum) -> Option<()>;

    /// The same offset, at most 32767, of which the verifier knows no more than that. What it knows of a value, it
    /// walks the rest of the program for: after a loop that is once for every number of rounds.
    fn forget(&self, at: usize) -> usize;

    /// The interface that the frame came in by.
    fn ifindex(&self) -> u32;

    /// Whether a VLAN tag is kept beside the frame's bytes.
    fn is_tagged(&self) -> bool;

    /// Bytes of payload in each of the segments that the device will cut the frame into; 0: it goes out as it is.
    fn segment_size(&self) -> usize;

    /// Makes the IP packet `length` bytes long, at most what it has. Its bytes are then any bytes, and all plans
    /// of the kernel's for it (segments to cut, a checksum to fill in) are off.
    fn reshape(&mut self, at: At, length: usize) -> Option<()>;

    /// Makes the frame `length` bytes long: cuts its tail, or adds zeros. For a short packet whose checksum the
    /// kernel has no plans for.
    fn resize(&mut self, length: usize) -> Option<()>;

    /// Where the kernel would send a packet of an IP protocol number (its FIB, RFC 1812 §5.2.1): asked where the
    /// mirrored routes have no answer.
    fn route(&mut self, protocol: u8, source: &Address, destination: &Address) -> Option<NextHop>;
}
