//! What becomes of a frame.

use lb_common::Counter;

/// What becomes of a frame: where it is counted, and where it goes.
///
/// A struct whose fields are always set, not an enum with payloads: LLVM copies the undefined payload of the
/// other variants from any register, and the verifier refuses to read that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where the frame is counted: passed, sent on or a drop reason.
    pub counter: Counter,
    /// The interface it leaves by, where it was translated or turned into an answer; else 0.
    pub ifindex: u32,
    /// [`crate::rare()`] shall look at it. The frame is as it came, and `counter` is what becomes of it where
    /// nobody does.
    pub rare: bool,
}

impl Verdict {
    /// Not ours: on to the host, byte for byte as it came.
    pub const PASS: Self = Self { counter: Counter::Passed, ifindex: 0, rare: false };

    /// Ours, but not to be forwarded.
    #[inline(always)]
    pub const fn drop(reason: Counter) -> Self {
        Self { counter: reason, ifindex: 0, rare: false }
    }

    /// Left to [`crate::rare()`].
    #[inline(always)]
    pub const fn rare(counter: Counter) -> Self {
        Self { counter, ifindex: 0, rare: true }
    }

    /// Translated for a backend.
    #[inline(always)]
    pub const fn forward(ifindex: u32) -> Self {
        Self { counter: Counter::Forwarded, ifindex, rare: false }
    }

    /// Translated for a client.
    #[inline(always)]
    pub const fn reply(ifindex: u32) -> Self {
        Self { counter: Counter::Replied, ifindex, rare: false }
    }
}
