//! Errors of our own, in the name of the VIP: the packet is too long for the next link, or its time is up.

use lb_common::{Address, Counter};

use super::echo::{is_for_one, turn_link};
use super::limiter::Answer;
use super::message::Message;
use crate::family::Network;
use crate::packet::Packet;
use crate::tables::Tables;
use crate::verdict::Verdict;
use crate::walk::At;

/// Why a packet cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// What fits through the next link, in bytes; 0: its time to live is used up.
    pub(super) mtu: u32,
}

impl Problem {
    /// The time to live is used up.
    pub(super) const EXPIRED: Self = Self { mtu: 0 };

    /// The next link takes no more than `mtu` bytes.
    #[inline(always)]
    pub(super) const fn too_long(mtu: u32) -> Self {
        Self { mtu }
    }

    /// How it counts when nobody is told.
    #[inline(always)]
    const fn dropped(self) -> Counter {
        if self.mtu == 0 { Counter::TtlExceeded } else { Counter::TooLong }
    }

    /// How it counts when the sender is told.
    #[inline(always)]
    const fn answered(self) -> Counter {
        if self.mtu == 0 { Counter::TtlAnswered } else { Counter::TooLongAnswered }
    }
}

/// Tells the sender, where that does more good than harm; the packet is gone either way.
///
/// Its beginning is quoted, as much as names the flow. The error is written over the packet, so it is never
/// longer than what it answers; shorter packets are dropped in silence.
#[inline(always)]
pub(super) fn send<F: Message, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    network: &Network,
    at: At,
    (vip, problem): (&Address, Problem),
) -> Verdict {
    let wants = problem.mtu == 0 || F::forbids_fragments(packet, at.l3);
    let fits = network.end - at.l3 >= F::ERROR_LENGTH && packet.holds(network.end);
    if !wants || !fits || !is_for_one(packet) || !tables.may_answer(Answer::Error) {
        return Verdict::drop(problem.dropped());
    }
    match write::<F, P>(packet, network, at, vip, problem) {
        Some(()) => Verdict { counter: problem.answered(), ifindex: packet.ifindex(), rare: false },
        None => Verdict::drop(Counter::Rewrite),
    }
}

#[inline(always)]
fn write<F: Message, P: Packet>(
    packet: &mut P,
    network: &Network,
    at: At,
    vip: &Address,
    problem: Problem,
) -> Option<()> {
    turn_link(packet)?;
    F::write_error(packet, at, (vip, &network.source), problem.mtu)
}
