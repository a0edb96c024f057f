//! Carries the bytes of one connection: both directions in one task, driven by readiness.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::counters::Shard;
use super::later;
use super::pools::{Buffer, LentPipe, Pools};
use super::relay::{Carrier, Direction, Outcome, Step};

/// Bytes that one connection may move before others have their turn.
const TURN: usize = 1 << 20;

/// How long a connection may be silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// While both directions are open.
    pub(super) idle: Duration,
    /// After one was closed.
    pub(super) closing: Duration,
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides have closed, and each has got all of the other's bytes.
    Closed,
    /// One side broke off; the other has to learn it.
    Broken,
    /// Silent for too long.
    Idle,
}

/// Relays until both directions are closed or one side breaks off, and adds what it moves to `counters`.
///
/// An end of stream is passed on behind the last byte, and the other direction goes on. Bytes that arrived
/// before a reset are delivered before it is passed on, unless their receiver takes none.
pub(super) async fn relay(
    client: &TcpStream,
    backend: &TcpStream,
    pools: &Rc<Pools>,
    splice: bool,
    patience: Patience,
    counters: [&Shard; 2],
) -> End {
    let mut up = Way::new(client, backend, pools, splice);
    let mut down = Way::new(backend, client, pools, splice);
    let mut client_error = pin!(client.ready(Interest::ERROR));
    let mut backend_error = pin!(backend.ready(Interest::ERROR));
    let mut active = Instant::now();
    let mut closing = false;
    let mut timer = pin!(sleep_until(later(active, patience.idle)));
    poll_fn(|cx| {
        let ended = poll_ways(cx, &mut up, &mut down);
        let (bytes, reply_bytes) = (up.take_moved(), down.take_moved());
        if bytes + reply_bytes > 0 {
            for shard in counters {
                shard.relayed(bytes, reply_bytes);
            }
            active = Instant::now();
        }
        if let Poll::Ready(end) = ended {
            return Poll::Ready(end);
        }

        // A direction that does not read sees no reset of its sender. A client's counts at once: nobody is left
        // to deliver to. A backend's waits until the client has what came before it.
        if !up.reads() && client_error.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Broken);
        }
        if down.ended() && backend_error.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Broken);
        }

        let half_closed = up.ended() || down.ended();
        let limit = if half_closed { patience.closing } else { patience.idle };
        if half_closed != closing {
            closing = half_closed;
            active = Instant::now();
            timer.as_mut().reset(later(active, limit));
        }
        // One timer, set again only when it fires: a byte costs no more than a look at the clock.
        while timer.as_mut().poll(cx).is_ready() {
            let deadline = later(active, limit);
            if Instant::now() >= deadline {
                return Poll::Ready(End::Idle);
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    })
    .await
}

fn poll_ways(cx: &mut Context<'_>, up: &mut Way<'_>, down: &mut Way<'_>) -> Poll<End> {
    if let Poll::Ready(Err(_)) = up.poll(cx, down.intact()) {
        return Poll::Ready(End::Broken);
    }
    if let Poll::Ready(Err(_)) = down.poll(cx, up.intact()) {
        return Poll::Ready(End::Broken);
    }
    match (up.direction.outcome(), down.direction.outcome()) {
        (Some(Outcome::Complete), Some(Outcome::Complete)) => Poll::Ready(End::Closed),
        (Some(_), Some(_)) => Poll::Ready(End::Broken),
        _ => Poll::Pending,
    }
}

/// One direction with its sockets.
struct Way<'a> {
    direction: Direction,
    source: &'a TcpStream,
    sink: &'a TcpStream,
    pools: &'a Rc<Pools>,
    load: Load,
    moved: u64,
}

/// What carries the bytes that were read and not yet written.
enum Load {
    None,
    Buffer {
        buffer: Buffer,
        start: usize,
        end: usize,
    },
    /// Kept while the direction splices, empty or not.
    Pipe(LentPipe),
}

impl<'a> Way<'a> {
    fn new(source: &'a TcpStream, sink: &'a TcpStream, pools: &'a Rc<Pools>, splice: bool) -> Self {
        Self { direction: Direction::new(splice), source, sink, pools, load: Load::None, moved: 0 }
    }

    /// Whether it waits for its sender.
    fn reads(&self) -> bool {
        matches!(self.direction.step(), Step::Read(_))
    }

    fn ended(&self) -> bool {
        self.direction.outcome().is_some()
    }

    /// Whether no byte was lost on this way.
    fn intact(&self) -> bool {
        self.direction.outcome() != Some(Outcome::Refused)
    }

    /// Bytes moved since the last call.
    fn take_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    /// Goes on until it has to wait, its turn is over or it has ended; an error is one of the sender. Unless
    /// the other way is intact, the end of stream is not passed on: a reset will say that something is missing.
    fn poll(&mut self, cx: &mut Context<'_>, other_intact: bool) -> Poll<io::Result<()>> {
        let mut turn = TURN;
        loop {
            match self.direction.step() {
                Step::Read(_) if turn == 0 => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Step::Read(carrier) => {
                    self.take_carrier(carrier);
                    match self.read() {
                        Ok(n) => self.direction.read(n),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            self.load = Load::None;
                            ready!(self.source.poll_read_ready(cx))?;
                        }
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
                Step::Write => match self.write() {
                    Ok(n) => {
                        self.direction.wrote(n);
                        self.moved += n as u64;
                        turn = turn.saturating_sub(n);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(self.sink.poll_write_ready(cx))?;
                    }
                    Err(_) => self.direction.refused(),
                },
                Step::Shutdown if other_intact && shutdown(self.sink, Shutdown::Write).is_ok() => {
                    self.direction.shut();
                }
                Step::Shutdown => self.direction.refused(),
                Step::Done => {
                    self.load = Load::None;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Makes sure that there is something to read into. The old load is empty when the carrier changes.
    fn take_carrier(&mut self, carrier: Carrier) {
        match (carrier, &self.load) {
            (Carrier::Buffer, Load::Buffer { .. }) | (Carrier::Pipe, Load::Pipe(_)) => {}
            (Carrier::Buffer, _) => self.load = self.empty_buffer(),
            (Carrier::Pipe, _) => {
                self.load = if let Some(pipe) = self.pools.pipe() {
                    Load::Pipe(pipe)
                } else {
                    self.direction.no_pipe();
                    self.empty_buffer()
                };
            }
        }
    }

    fn empty_buffer(&self) -> Load {
        Load::Buffer { buffer: self.pools.buffer(), start: 0, end: 0 }
    }

    fn read(&mut self) -> io::Result<usize> {
        match &mut self.load {
            Load::None => Err(io::ErrorKind::WouldBlock.into()),
            Load::Pipe(pipe) => self.source.try_io(Interest::READABLE, || pipe.fill(self.source)),
            Load::Buffer { buffer, start, end } => {
                let mut got = None;
                let outcome = self.source.try_io(Interest::READABLE, || {
                    let (n, _) = retry_on_intr(|| recv(self.source, &mut **buffer, RecvFlags::empty()))?;
                    got = Some(n);
                    // Less than there is room for: the queue is empty, and an edge will tell when it no longer is.
                    // Said in the way that `try_io` understands, it saves the call that would find nothing.
                    if 0 < n && n < buffer.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
                });
                match (got, outcome) {
                    (Some(n), _) => {
                        (*start, *end) = (0, n);
                        Ok(n)
                    }
                    (None, outcome) => outcome.map(|()| 0),
                }
            }
        }
    }

    fn write(&mut self) -> io::Result<usize> {
        self.sink.try_io(Interest::WRITABLE, || match &mut self.load {
            Load::None => Ok(0),
            Load::Pipe(pipe) => pipe.drain(self.sink),
            Load::Buffer { buffer, start, end } => {
                let bytes = buffer.get(*start..*end).unwrap_or_default();
                let n = retry_on_intr(|| send(self.sink, bytes, SendFlags::NOSIGNAL))?;
                *start += n;
                Ok(n)
            }
        })
    }
}
