//! A stream of bytes that shows every loss.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};
use rustix::event::{PollFd, PollFlags, poll};

use crate::harness::timespec;

/// An endless stream of bytes that anyone can produce from any position on: a loss, a repetition or a swap
/// shows.
pub struct Pattern(Vec<u8>);

impl Pattern {
    pub fn new(seed: u64) -> Self {
        let mut block = vec![0; 1_000_003];
        StdRng::seed_from_u64(seed).fill_bytes(&mut block);
        Self(block)
    }

    /// At most `most` bytes from `position` on.
    pub fn at(&self, position: usize, most: usize) -> &[u8] {
        let rest = &self.0[position % self.0.len()..];
        &rest[..most.min(rest.len())]
    }

    /// Writes `range` in pieces of random sizes.
    pub fn write(
        &self,
        mut sink: &TcpStream,
        range: std::ops::Range<usize>,
        sizes: &mut StdRng,
    ) -> io::Result<()> {
        let mut position = range.start;
        while position < range.end {
            let most = *[100, 5_000, 50_000, 500_000].choose(sizes).unwrap();
            let bytes = self.at(position, sizes.random_range(1..=most).min(range.end - position));
            sink.write_all(bytes)?;
            position += bytes.len();
        }
        Ok(())
    }

    /// Reads `range` in pieces of random sizes.
    pub fn expect(&self, mut source: &TcpStream, range: std::ops::Range<usize>, sizes: &mut StdRng) {
        let mut buffer = vec![0; 100_000];
        let mut position = range.start;
        while position < range.end {
            let most = sizes.random_range(1..=buffer.len()).min(range.end - position);
            let n = source.read(&mut buffer[..most]).unwrap();
            assert_ne!(n, 0, "the stream ended after {position} bytes");
            let mut seen = &buffer[..n];
            while !seen.is_empty() {
                let expected = self.at(position, seen.len());
                assert!(seen.starts_with(expected), "wrong bytes near {position}");
                position += expected.len();
                seen = &seen[expected.len()..];
            }
        }
    }

    /// Writes until the other end has taken nothing for a while; returns how much that was.
    pub fn fill(&self, mut sink: &TcpStream) -> usize {
        let mut position = 0;
        sink.set_nonblocking(true).unwrap();
        loop {
            match sink.write(self.at(position, 64 << 10)) {
                Ok(n) => position += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut writable = [PollFd::new(sink, PollFlags::OUT)];
                    if poll(&mut writable, Some(&timespec(Duration::from_millis(300)))).unwrap() == 0 {
                        break;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        sink.set_nonblocking(false).unwrap();
        position
    }
}
