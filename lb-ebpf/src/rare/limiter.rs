//! How often the data path answers by itself: a token bucket per CPU.
//!
//! Sources can be forged, so answers go to whoever an attacker likes. None is longer than what it answers, and
//! a CPU sends no more of them than this.

/// Tokens that come back with each tick of 16.8 ms: about 950 a second.
const PER_TICK: u32 = 16;
/// Tokens that a bucket holds.
const BURST: u32 = 128;

/// What an answer is for; each has a bucket of its own, so that pings do not use up what path MTU discovery
/// needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Answer {
    /// An error about a packet.
    Error = 0,
    /// A ping.
    Echo = 1,
}

/// Kinds of answers.
pub const ANSWERS: usize = 2;

/// A bucket. All zeros is a full one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tokens {
    /// When the tokens were last counted, in ticks.
    tick: u32,
    /// Tokens taken out and not yet come back.
    taken: u32,
}

impl Tokens {
    /// Takes a token at time `now`, in ticks; `false`: none is left.
    #[inline(always)]
    pub const fn take(&mut self, now: u32) -> bool {
        let elapsed = now.wrapping_sub(self.tick);
        let back = if elapsed >= BURST / PER_TICK { BURST } else { elapsed * PER_TICK };
        self.taken = self.taken.saturating_sub(back);
        self.tick = now;
        let has = self.taken < BURST;
        if has {
            self.taken += 1;
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut Tokens, now: u32) -> usize {
        (0..1000).filter(|_| bucket.take(now)).count()
    }

    #[test]
    fn a_burst_then_a_rate() {
        let mut bucket = Tokens::default();
        assert_eq!(taken(&mut bucket, 7), BURST as usize);
        assert_eq!(taken(&mut bucket, 7), 0);
        assert_eq!(taken(&mut bucket, 8), PER_TICK as usize);
        assert_eq!(taken(&mut bucket, 11), 3 * PER_TICK as usize);
    }

    #[test]
    fn a_long_silence_fills_it_and_no_more() {
        let mut bucket = Tokens::default();
        taken(&mut bucket, u32::MAX - 1);
        // Also across the wrap of the clock.
        assert_eq!(taken(&mut bucket, 0), 2 * PER_TICK as usize);
        assert_eq!(taken(&mut bucket, 1 << 31), BURST as usize);
    }
}
