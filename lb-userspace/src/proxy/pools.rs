//! Buffers and pipes that a worker lends to its connections. An idle connection holds neither.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use super::relay::BUFFER;
use super::splice::Pipe;

/// Buffers kept for the next borrower, at most.
const IDLE_BUFFERS: usize = 64;

/// Pipes kept for the next borrower, at most; each holds two descriptors.
const IDLE_PIPES: usize = 32;

/// One worker's buffers and pipes.
#[derive(Debug)]
pub(super) struct Pools {
    buffers: RefCell<Vec<Box<[u8]>>>,
    pipes: RefCell<Vec<Pipe>>,
    /// Pipes that may be lent besides those that are.
    allowance: Cell<usize>,
}

impl Pools {
    /// Lends at most `pipes` pipes at a time.
    pub(super) fn new(pipes: usize) -> Rc<Self> {
        Rc::new(Self {
            buffers: RefCell::new(Vec::new()),
            pipes: RefCell::new(Vec::new()),
            allowance: Cell::new(pipes),
        })
    }

    /// A buffer of [`BUFFER`] bytes that hold anything.
    pub(super) fn buffer(self: &Rc<Self>) -> Buffer {
        let memory = self.buffers.borrow_mut().pop();
        Buffer { memory: memory.unwrap_or_else(|| vec![0; BUFFER].into()), pools: Rc::clone(self) }
    }

    /// An empty pipe; `None`: the limit is reached, or the kernel has none to give.
    pub(super) fn pipe(self: &Rc<Self>) -> Option<LentPipe> {
        let allowance = self.allowance.get().checked_sub(1)?;
        let idle = self.pipes.borrow_mut().pop();
        let pipe = match idle {
            Some(pipe) => pipe,
            None => Pipe::new().inspect_err(|error| tracing::debug!(%error, "no pipe: copying")).ok()?,
        };
        self.allowance.set(allowance);
        Some(LentPipe { pipe, pools: Rc::clone(self) })
    }
}

/// A lent buffer; goes back when dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Box<[u8]>,
    pools: Rc<Pools>,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = self.pools.buffers.borrow_mut();
        if idle.len() < IDLE_BUFFERS {
            idle.push(std::mem::take(&mut self.memory));
        }
    }
}

/// A lent pipe; when dropped it goes back if it is empty, and is closed if it is not.
#[derive(Debug)]
pub(super) struct LentPipe {
    pipe: Pipe,
    pools: Rc<Pools>,
}

impl Deref for LentPipe {
    type Target = Pipe;

    fn deref(&self) -> &Pipe {
        &self.pipe
    }
}

impl DerefMut for LentPipe {
    fn deref_mut(&mut self) -> &mut Pipe {
        &mut self.pipe
    }
}

impl Drop for LentPipe {
    fn drop(&mut self) {
        self.pools.allowance.set(self.pools.allowance.get() + 1);
        let mut idle = self.pools.pipes.borrow_mut();
        if idle.len() < IDLE_PIPES {
            idle.extend(self.pipe.recycled());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_pipe_with_residue_is_never_lent_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (source, _) = listener.accept().unwrap();

        let pools = Pools::new(1);
        let mut dirty = pools.pipe().unwrap();
        assert!(pools.pipe().is_none(), "the limit is one");
        client.write_all(b"secret").unwrap();
        dirty.fill(&source).unwrap();
        drop(dirty);
        assert!(pools.pipes.borrow().is_empty());

        drop(pools.pipe().unwrap());
        assert_eq!(pools.pipes.borrow().len(), 1, "a clean one is kept");
    }
}
