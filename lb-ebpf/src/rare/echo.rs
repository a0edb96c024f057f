//! Pings to a VIP: answered in its name, on behalf of no backend.

use lb_common::Counter;

use super::discovery::is_group;
use super::limiter::Answer;
use super::message::Message;
use crate::checksum::Sum;
use crate::family::Network;
use crate::headers::{Ethernet, Icmp, U16};
use crate::packet::Packet;
use crate::tables::Tables;
use crate::verdict::Verdict;

/// Turns a request into its reply and sends it back the way it came.
///
/// # Errors
/// [`Counter::Icmp`] where the config forbids it (`may`), [`Counter::Limited`] where there were too many.
#[inline(always)]
pub(super) fn answer<F: Message, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    network: &Network,
    l3: usize,
    may: bool,
) -> Result<Verdict, Counter> {
    if !may || !is_for_one(packet) {
        return Err(Counter::Icmp);
    }
    if !tables.may_answer(Answer::Echo) {
        return Err(Counter::Limited);
    }
    turn_link(packet).ok_or(Counter::Rewrite)?;
    F::turn(packet, l3).ok_or(Counter::Rewrite)?;
    let icmp = packet.header_mut::<Icmp>(network.l4).ok_or(Counter::Rewrite)?;
    let change = Sum::default()
        .swap16(u16::from_ne_bytes([icmp.kind, icmp.code]), u16::from_ne_bytes([F::ECHO_REPLY, icmp.code]));
    icmp.kind = F::ECHO_REPLY;
    // An ICMP answer may be all zeroes, whose checksum is not 0. RFC 1624's arithmetic gives 0 then; the other zero
    // of ones' complement is right for it and for every other answer.
    icmp.checksum = U16::from_raw(match change.apply(icmp.checksum.raw()) {
        0 => u16::MAX,
        checksum => checksum,
    });
    Ok(Verdict { counter: Counter::Echoed, ifindex: packet.ifindex(), rare: false })
}

/// Whether the frame was sent to one station: what was sent to many is not answered (RFC 1122 §3.2.2).
#[inline(always)]
pub(super) fn is_for_one<P: Packet>(packet: &P) -> bool {
    packet.header::<Ethernet>(0).is_some_and(|ethernet| !is_group(ethernet.destination))
}

/// Swaps the MAC addresses.
#[inline(always)]
pub(super) fn turn_link<P: Packet>(packet: &mut P) -> Option<()> {
    let ethernet = packet.header_mut::<Ethernet>(0)?;
    core::mem::swap(&mut ethernet.destination, &mut ethernet.source);
    Some(())
}
