//! UDP: servers that give every datagram back, and clients that judge what they get.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::RngCore;
use tokio::sync::oneshot;

use crate::namespace::Namespace;

/// More than any datagram.
const LONGEST: usize = 1 << 16;
/// An answer that takes longer is lost. None is under way for so long, also on a busy machine.
const LOST: Duration = Duration::from_secs(2);

/// Answers an empty datagram with its id, and gives back every other. Stops on drop.
#[derive(Debug)]
pub struct EchoServer {
    id: String,
    address: SocketAddr,
    /// Dropped: it ends.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl EchoServer {
    /// Starts one that hears when this returns.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn start(namespace: &Namespace, id: &str, address: SocketAddr) -> anyhow::Result<Self> {
        let socket = namespace
            .run(|| UdpSocket::bind(address))?
            .with_context(|| format!("UDP server {id} on {address}"))?;
        socket.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel();
        let name = id.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(serve(socket, &name, stopped))
        });
        Ok(Self { id: id.to_owned(), address, stop: Some(stop), thread: Some(thread) })
    }

    /// Who it is.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it hears.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("UDP server {}: {error:#}", self.id);
        }
    }
}

async fn serve(socket: UdpSocket, id: &str, mut stopped: oneshot::Receiver<()>) -> anyhow::Result<()> {
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut buffer = vec![0; LONGEST];
    loop {
        let (length, client) = tokio::select! {
            _ = &mut stopped => return Ok(()),
            received = socket.recv_from(&mut buffer) => received?,
        };
        let answer = if length == 0 { id.as_bytes() } else { &buffer[..length] };
        socket.send_to(answer, client).await?;
    }
}

/// A client with a port of its own. Its socket hears nobody but the target.
#[derive(Debug)]
pub struct Caller {
    socket: UdpSocket,
    /// Our own address and port.
    pub address: SocketAddr,
}

impl Caller {
    /// One that has not said anything yet.
    ///
    /// # Errors
    /// No socket.
    pub fn new(namespace: &Namespace, target: SocketAddr) -> anyhow::Result<Self> {
        let any: SocketAddr = if target.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = namespace.run(|| UdpSocket::bind(any))??;
        socket.connect(target)?;
        socket.set_read_timeout(Some(LOST))?;
        Ok(Self { address: socket.local_addr()?, socket })
    }

    /// Who answers.
    ///
    /// # Errors
    /// Nobody does.
    pub fn who(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8(self.ask(&[])?)?)
    }

    /// Sends so many bytes, no two times the same, which have to come back.
    ///
    /// # Errors
    /// They do not, or changed.
    pub fn echo(&self, bytes: usize) -> anyhow::Result<()> {
        let mut datagram = vec![0; bytes];
        rand::rng().fill_bytes(&mut datagram);
        let answer = self.ask(&datagram).with_context(|| format!("{bytes} bytes"))?;
        ensure!(answer == datagram, "{bytes} bytes have come back changed");
        Ok(())
    }

    fn ask(&self, datagram: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.socket.send(datagram)?;
        let mut answer = vec![0; LONGEST];
        let length = self.socket.recv(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    }
}

/// Clients that speak in turn, and who answered each of them last.
#[derive(Debug)]
pub struct Callers {
    callers: Vec<(Caller, String)>,
}

impl Callers {
    /// So many, each of which has been answered once.
    ///
    /// # Errors
    /// One was not.
    pub fn new(namespace: &Namespace, target: SocketAddr, count: usize) -> anyhow::Result<Self> {
        let callers = (0..count).map(|_| {
            let caller = Caller::new(namespace, target)?;
            let who = caller.who()?;
            anyhow::Ok((caller, who))
        });
        Ok(Self { callers: callers.collect::<anyhow::Result<_>>()? })
    }

    /// How many each server has.
    pub fn by_server(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for (_, who) in &self.callers {
            *counts.entry(who.as_str()).or_default() += 1;
        }
        counts
    }

    /// The clients of a server, or of all others.
    pub fn of(&self, server: &str, its: bool) -> impl Iterator<Item = &Caller> {
        let chosen = self.callers.iter().filter(move |(_, who)| (who == server) == its);
        chosen.map(|(caller, _)| caller)
    }

    /// Has all of them speak once; each has to be answered by the server that it had.
    ///
    /// # Errors
    /// One was not.
    pub fn stay(&self) -> anyhow::Result<()> {
        self.callers.iter().try_for_each(|(caller, before)| {
            let now = caller.who()?;
            ensure!(now == *before, "{} was with {before} and is with {now}", caller.address);
            Ok(())
        })
    }
}
