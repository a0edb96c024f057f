//! HTTP requests from within a namespace.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::namespace::Namespace;

/// A connection that is asked again and again.
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    target: SocketAddr,
}

impl Connection {
    /// Connects from the calling thread's namespace.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn open(target: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, target })
    }

    /// The body of the answer to `GET path`, without white space at its end.
    ///
    /// # Errors
    /// The connection breaks, or the status is not 200.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<String> {
        let request = Request::get(path).header(HOST, self.target.to_string()).body(Empty::new())?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        ensure!(answer.status() == StatusCode::OK, "status {}", answer.status());
        let body = answer.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&body).trim_end().to_owned())
    }
}

/// One request over a connection of its own, from within `namespace`.
///
/// # Errors
/// As of [`Connection`].
pub fn get(namespace: &Namespace, target: SocketAddr, path: &str) -> anyhow::Result<String> {
    namespace
        .run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { Connection::open(target).await?.get(path).await })
        })?
        .with_context(|| format!("GET http://{target}{path}"))
}
