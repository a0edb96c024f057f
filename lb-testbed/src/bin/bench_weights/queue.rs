//! A server that is a queue: one request at a time, each so long.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use lb_testbed::namespace::Namespace;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

/// A running one. Ends on drop.
pub(crate) struct Queue {
    _runtime: Runtime,
}

impl Queue {
    /// Starts one that answers every request with `id` after `service`, one after the other.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(crate) fn start(
        namespace: &Arc<Namespace>,
        id: &str,
        address: SocketAddr,
        service: Duration,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = namespace.run(|| std::net::TcpListener::bind(address))??;
        listener.set_nonblocking(true)?;
        let id: Arc<str> = id.into();
        runtime.spawn(accept(listener, id, service));
        Ok(Self { _runtime: runtime })
    }
}

async fn accept(listener: std::net::TcpListener, id: Arc<str>, service: Duration) -> Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    let turn = Arc::new(Mutex::new(()));
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer(stream, Arc::clone(&id), Arc::clone(&turn), service));
    }
}

async fn answer(mut stream: TcpStream, id: Arc<str>, turn: Arc<Mutex<()>>, service: Duration) -> Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut part = [0; 1024];
        let length = stream.read(&mut part).await?;
        if length == 0 {
            return Ok(());
        }
        request.extend_from_slice(&part[..length]);
    }
    {
        let _mine = turn.lock().await;
        tokio::time::sleep(service).await;
    }
    let length = id.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{id}");
    stream.write_all(answer.as_bytes()).await?;
    Ok(())
}
