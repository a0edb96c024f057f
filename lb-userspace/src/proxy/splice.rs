//! Pipes, and moving bytes through them without copying: splice(2).
//!
//! No `unsafe`: rustix has safe calls for all of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};

/// What a pipe should hold. One slot of 4 KiB takes one fragment of the socket's queue, whatever its size, so
/// 64 slots hold from some 90 KiB (fragments of one segment) to 2 MiB.
const WANTED: usize = 256 << 10;

/// The least that is worth it. A user above /proc/sys/fs/pipe-user-pages-soft gets two slots (man 7 pipe);
/// copying is faster than that.
const LEAST: usize = 64 << 10;

/// Most bytes that one call asks for.
const MOST: usize = 1 << 20;

/// A pipe and what it holds.
#[derive(Debug)]
pub(super) struct Pipe {
    ends: Rc<Ends>,
    held: usize,
}

#[derive(Debug)]
struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipe {
    /// A new pipe, or why there is none: no descriptors, no memory, or too small a size.
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // EPERM above the user's limit: what there is may still do.
        if fcntl_setpipe_size(&writer, WANTED).is_err() && fcntl_getpipe_size(&writer)? < LEAST {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Self { ends: Rc::new(Ends { reader, writer }), held: 0 })
    }

    /// This pipe for another user, if it is empty: nobody must ever see bytes of another connection.
    pub(super) fn recycled(&self) -> Option<Self> {
        (self.held == 0).then(|| Self { ends: Rc::clone(&self.ends), held: 0 })
    }

    /// Moves from a socket into the pipe; 0 is the end of the stream. To be called with an empty pipe only:
    /// `WouldBlock` then says that the socket is empty, never that the pipe is full.
    pub(super) fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let n = retry_on_intr(|| splice(&socket, None, &self.ends.writer, None, MOST, flags))?;
        self.held += n;
        Ok(n)
    }

    /// Moves from the pipe into a socket.
    pub(super) fn drain(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let n = retry_on_intr(|| splice(&self.ends.reader, None, &socket, None, self.held, flags))?;
        self.held = self.held.saturating_sub(n);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn bytes_pass_and_the_end_is_zero() {
        let ((mut client, source), (sink, mut server)) = (pair(), pair());
        let mut pipe = Pipe::new().unwrap();
        client.write_all(b"hello").unwrap();
        assert_eq!(pipe.fill(&source).unwrap(), 5);
        assert!(pipe.recycled().is_none());
        assert_eq!(pipe.drain(&sink).unwrap(), 5);
        assert!(pipe.recycled().is_some());
        let mut seen = [0; 5];
        server.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"hello");

        source.set_nonblocking(true).unwrap();
        assert_eq!(pipe.fill(&source).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(client);
        source.set_nonblocking(false).unwrap();
        assert_eq!(pipe.fill(&source).unwrap(), 0);
    }
}
