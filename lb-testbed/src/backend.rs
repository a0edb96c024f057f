//! Servers that say who they are. Each runs on a thread or in a process of its own, its sockets in the backend's
//! namespace.

pub mod process;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::namespace::Namespace;
use crate::record;
use process::Process;

/// Room for as many connections as a test opens at once.
const BACKLOG: i32 = 4096;

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A banner with its id, then everything that comes, back again.
    Echo,
    /// HTTP/1.1 with keep-alive: its id answers every request.
    Http,
}

/// A server. Stops on drop.
#[derive(Debug)]
pub struct Server {
    namespace: Arc<Namespace>,
    kind: Kind,
    id: String,
    address: SocketAddr,
    /// What serves, in a process of its own; none: a thread of this one.
    program: Option<PathBuf>,
    running: Option<Running>,
}

#[derive(Debug)]
enum Running {
    Thread {
        /// Where it accepts; none: nowhere. Closed: it ends.
        listener: watch::Sender<Option<Arc<TcpListener>>>,
        thread: JoinHandle<anyhow::Result<()>>,
    },
    Process(Process),
}

impl Server {
    /// Starts one that accepts when this returns. `id` has at most [`record::BANNER`] bytes.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn start(
        namespace: &Arc<Namespace>,
        kind: Kind,
        id: &str,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let (namespace, id) = (Arc::clone(namespace), id.to_owned());
        let mut server = Self { namespace, kind, id, address, program: None, running: None };
        server.resume()?;
        Ok(server)
    }

    /// Starts an echo server that is a process: `program serve ID ADDRESS`, which has to call [`process::serve`].
    ///
    /// # Errors
    /// It does not come up.
    pub fn spawn(
        program: PathBuf,
        namespace: &Arc<Namespace>,
        id: &str,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let (namespace, id) = (Arc::clone(namespace), id.to_owned());
        let program = Some(program);
        let mut server = Self { namespace, kind: Kind::Echo, id, address, program, running: None };
        server.resume()?;
        Ok(server)
    }

    /// Who it is.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends as a killed process does: nobody listens any more, every connection is closed by the kernel.
    /// Echo connections are reset; HTTP connections end as the kernel chooses, mostly by FIN.
    pub fn kill(&mut self) {
        if let Some(Running::Thread { listener, thread }) = self.running.take() {
            drop(listener);
            if let Ok(Err(error)) = thread.join() {
                eprintln!("server {}: {error:#}", self.id);
            }
        }
    }

    /// Refuses new connections, some milliseconds from now, and keeps the old ones. Threads only.
    pub fn pause(&self) {
        if let Some(Running::Thread { listener, .. }) = &self.running {
            listener.send_replace(None);
        }
    }

    /// Stops its process, or lets it go on: meanwhile its kernel accepts connections, and nobody answers on them.
    ///
    /// # Errors
    /// It is no process, or does not run.
    pub fn freeze(&self, frozen: bool) -> anyhow::Result<()> {
        match &self.running {
            Some(Running::Process(process)) => {
                process.signal(if frozen { Signal::STOP } else { Signal::CONT })
            }
            _ => anyhow::bail!("server {} is no process that runs", self.id),
        }
    }

    /// Accepts again, after [`Self::pause`] or [`Self::kill`].
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        if let Some(program) = &self.program {
            let process = Process::start(program, &self.namespace, &self.id, self.address)?;
            self.running = Some(Running::Process(process));
            return Ok(());
        }
        let listener = Arc::new(
            self.namespace
                .run(|| listen(self.address))?
                .with_context(|| format!("server {} on {}", self.id, self.address))?,
        );
        match &self.running {
            Some(Running::Thread { listener: running, .. }) => {
                running.send_replace(Some(listener));
            }
            _ => {
                let (sender, receiver) = watch::channel(Some(listener));
                let (kind, id) = (self.kind, self.id.clone());
                let thread = std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    runtime.block_on(accept(kind, id, receiver))
                });
                self.running = Some(Running::Thread { listener: sender, thread });
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server in the calling thread's namespace, for a process of its own: until that is killed.
///
/// # Errors
/// The address cannot be bound, or no connection can be accepted any more.
pub fn serve(kind: Kind, id: String, address: SocketAddr) -> anyhow::Result<()> {
    let listener = listen(address).with_context(|| format!("server {id} on {address}"))?;
    let (_open, listeners) = watch::channel(Some(Arc::new(listener)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(accept(kind, id, listeners))
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the channel closes; the runtime, and with it every connection, ends then.
async fn accept(
    kind: Kind,
    id: String,
    mut listeners: watch::Receiver<Option<Arc<TcpListener>>>,
) -> anyhow::Result<()> {
    loop {
        let listener = listeners.borrow_and_update().clone();
        let Some(listener) = listener else {
            if listeners.changed().await.is_err() {
                return Ok(());
            }
            continue;
        };
        let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    // Whatever ends this connection but its own good end, ends it with a RST.
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                    stream.set_nodelay(true)?;
                    let id = id.clone();
                    match kind {
                        Kind::Echo => tokio::spawn(async move { drop(echo(stream, &id).await) }),
                        Kind::Http => tokio::spawn(async move { drop(http(stream, &id).await) }),
                    };
                }
                changed = listeners.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return Ok(()),
                }
            }
        }
    }
}

async fn echo(mut stream: TcpStream, id: &str) -> std::io::Result<()> {
    stream.write_all(&record::banner(id)).await?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return end_well(&stream);
        }
        stream.write_all(&buffer[..length]).await?;
    }
}

async fn http(stream: TcpStream, id: &str) -> anyhow::Result<()> {
    // With an abortive close the last answer of a connection could be lost.
    end_well(&stream)?;
    let answer = Bytes::from(format!("{id}\n"));
    let service = service_fn(move |_: Request<Incoming>| {
        let answer = answer.clone();
        async move { Ok::<_, std::convert::Infallible>(Response::new(Full::new(answer))) }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?;
    Ok(())
}

/// From here on, closing is a FIN.
fn end_well(stream: &TcpStream) -> std::io::Result<()> {
    SockRef::from(stream).set_linger(None)
}
