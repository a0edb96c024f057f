//! What becomes of a frame.

use lb_common::Counter;

/// What becomes of a frame: where it is counted, and where it goes.
///
/// A struct whose fields are always set, not an enum with payloads: LLVM copies the undefined payload of the
/// other variants from any register, and the verifier refuses to read that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// [`Counter::Passed`], [`Counter::Forwarded`], [`Counter::Replied`] or a drop reason.
    pub counter: Counter,
    /// The interface it leaves by, where it was translated; else 0.
    pub ifindex: u32,
}

impl Verdict {
    /// Not ours: on to the host, byte for byte as it came.
    pub const PASS: Self = Self { counter: Counter::Passed, ifindex: 0 };

    /// Ours, but not to be forwarded.
    #[inline(always)]
    pub const fn drop(reason: Counter) -> Self {
        Self { counter: reason, ifindex: 0 }
    }

    /// Translated for a backend.
    #[inline(always)]
    pub const fn forward(ifindex: u32) -> Self {
        Self { counter: Counter::Forwarded, ifindex }
    }

    /// Translated for a client.
    #[inline(always)]
    pub const fn reply(ifindex: u32) -> Self {
        Self { counter: Counter::Replied, ifindex }
    }
}
