//! What one direction of a connection does next. No sockets, no clock: events in, steps out.
//!
//! Small exchanges go through a small buffer, bulk through a pipe; each direction learns from the sizes of its
//! reads which of the two it is. It reads only when everything that it read before is written, so it never
//! holds more than one buffer or one pipe, and a slow receiver slows down the sender.

/// Bytes of the small buffer.
pub(super) const BUFFER: usize = 16 << 10;

/// Reads in a row that fill the buffer, before a pipe is tried.
const FULL_READS: u32 = 2;

/// Reads in a row that the buffer could have taken, before the pipe is given back.
const SMALL_READS: u32 = 4;

/// Full reads to wait for after a pipe was refused.
const FULL_READS_AFTER_REFUSAL: u32 = 64;

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// read(2) and write(2) through the small buffer.
    Buffer,
    /// splice(2) through a pipe.
    Pipe,
}

/// What a direction wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read into an empty carrier.
    Read(Carrier),
    /// Write what the carrier holds.
    Write,
    /// Tell the receiver that nothing more comes.
    Shutdown,
    /// Nothing, ever again.
    Done,
}

/// The state of one direction.
#[derive(Debug)]
pub(super) struct Direction {
    splice: bool,
    carrier: Carrier,
    /// Reads in a row that speak for the other carrier, and how many it takes.
    votes: u32,
    quorum: u32,
    held: usize,
    ended: bool,
    outcome: Option<Outcome>,
}

/// How a direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The receiver got every byte and the end.
    Complete,
    /// The receiver takes no more.
    Refused,
}

impl Direction {
    /// With `splice` false everything is copied.
    pub(super) fn new(splice: bool) -> Self {
        Self {
            splice,
            carrier: Carrier::Buffer,
            votes: 0,
            quorum: FULL_READS,
            held: 0,
            ended: false,
            outcome: None,
        }
    }

    /// The next step.
    pub(super) fn step(&self) -> Step {
        match (self.outcome, self.held, self.ended) {
            (Some(_), ..) => Step::Done,
            (None, 0, true) => Step::Shutdown,
            (None, 0, false) => Step::Read(self.carrier),
            (None, ..) => Step::Write,
        }
    }

    /// `n` bytes were read; 0: the sender has closed.
    pub(super) fn read(&mut self, n: usize) {
        self.held += n;
        self.ended |= n == 0;
        let for_other = match self.carrier {
            Carrier::Buffer => self.splice && n >= BUFFER,
            Carrier::Pipe => n < BUFFER,
        };
        self.votes = if for_other { self.votes + 1 } else { 0 };
    }

    /// `n` bytes were written. Between carriers only when the old one is empty.
    pub(super) fn wrote(&mut self, n: usize) {
        self.held = self.held.saturating_sub(n);
        if self.held == 0 && self.votes >= self.quorum {
            match self.carrier {
                Carrier::Buffer => self.use_carrier(Carrier::Pipe, SMALL_READS),
                Carrier::Pipe => self.use_carrier(Carrier::Buffer, FULL_READS),
            }
        }
    }

    /// There is no pipe to be had: copies on, and asks again later.
    pub(super) fn no_pipe(&mut self) {
        self.use_carrier(Carrier::Buffer, FULL_READS_AFTER_REFUSAL);
    }

    /// The receiver was told the end.
    pub(super) fn shut(&mut self) {
        self.outcome.get_or_insert(Outcome::Complete);
    }

    /// The receiver takes no more; what is held is lost.
    pub(super) fn refused(&mut self) {
        self.outcome.get_or_insert(Outcome::Refused);
    }

    /// How it ended, if it has.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    fn use_carrier(&mut self, carrier: Carrier, quorum: u32) {
        self.carrier = carrier;
        self.votes = 0;
        self.quorum = quorum;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads and writes `n` bytes.
    fn pass(direction: &mut Direction, n: usize) {
        direction.read(n);
        direction.wrote(n);
    }

    #[test]
    fn bulk_moves_to_a_pipe_and_small_reads_bring_it_back() {
        let mut direction = Direction::new(true);
        pass(&mut direction, BUFFER);
        pass(&mut direction, BUFFER - 1);
        pass(&mut direction, BUFFER);
        assert_eq!(direction.step(), Step::Read(Carrier::Buffer), "the full reads were not in a row");
        pass(&mut direction, BUFFER);
        assert_eq!(direction.step(), Step::Read(Carrier::Pipe));
        for _ in 0..3 {
            pass(&mut direction, 100);
        }
        pass(&mut direction, BUFFER);
        for _ in 0..4 {
            assert_eq!(direction.step(), Step::Read(Carrier::Pipe));
            pass(&mut direction, 100);
        }
        assert_eq!(direction.step(), Step::Read(Carrier::Buffer));
    }

    #[test]
    fn small_exchanges_never_ask_for_a_pipe() {
        let mut direction = Direction::new(true);
        for n in (1..BUFFER).step_by(7) {
            pass(&mut direction, n);
            assert_eq!(direction.step(), Step::Read(Carrier::Buffer));
        }
    }

    #[test]
    fn without_splice_bulk_is_copied() {
        let mut direction = Direction::new(false);
        for _ in 0..100 {
            pass(&mut direction, BUFFER);
            assert_eq!(direction.step(), Step::Read(Carrier::Buffer));
        }
    }

    #[test]
    fn a_refused_pipe_is_asked_for_again_later() {
        let mut direction = Direction::new(true);
        pass(&mut direction, BUFFER);
        pass(&mut direction, BUFFER);
        direction.no_pipe();
        for _ in 0..FULL_READS_AFTER_REFUSAL {
            assert_eq!(direction.step(), Step::Read(Carrier::Buffer));
            pass(&mut direction, BUFFER);
        }
        assert_eq!(direction.step(), Step::Read(Carrier::Pipe));
    }

    #[test]
    fn the_end_is_passed_on_after_the_last_byte() {
        let mut direction = Direction::new(true);
        direction.read(10);
        direction.wrote(4);
        assert_eq!(direction.step(), Step::Write);
        direction.wrote(6);
        direction.read(0);
        assert_eq!(direction.step(), Step::Shutdown);
        direction.shut();
        assert_eq!((direction.step(), direction.outcome()), (Step::Done, Some(Outcome::Complete)));
    }

    #[test]
    fn a_refusing_receiver_ends_the_direction_at_once() {
        let mut direction = Direction::new(true);
        direction.read(10);
        direction.refused();
        direction.shut();
        assert_eq!((direction.step(), direction.outcome()), (Step::Done, Some(Outcome::Refused)));
    }

    proptest! {
        /// Whatever the sizes: every byte read is written before the next read, nothing is lost, the carrier
        /// changes only while nothing is held, and the end comes last and once.
        #[test]
        fn never_more_than_one_carrier_full(
            reads in prop::collection::vec((1_usize..4 * BUFFER, 1_usize..4 * BUFFER), 0..200),
            refuse in prop::collection::vec(any::<bool>(), 200),
        ) {
            let mut direction = Direction::new(true);
            let (mut read, mut wrote) = (0, 0);
            let mut refuse = refuse.into_iter();
            for (size, chunk) in reads {
                if direction.step() == Step::Read(Carrier::Pipe) && refuse.next().unwrap_or(false) {
                    direction.no_pipe();
                }
                let size = match direction.step() {
                    Step::Read(Carrier::Buffer) => size.min(BUFFER),
                    Step::Read(Carrier::Pipe) => size,
                    other => panic!("{other:?} instead of a read"),
                };
                direction.read(size);
                read += size;
                while direction.step() == Step::Write {
                    let n = chunk.min(read - wrote);
                    direction.wrote(n);
                    wrote += n;
                }
                prop_assert_eq!(read, wrote);
            }
            direction.read(0);
            prop_assert_eq!(direction.step(), Step::Shutdown);
            direction.shut();
            prop_assert_eq!(direction.step(), Step::Done);
        }
    }
}
