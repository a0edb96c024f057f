//! Accepts connections and serves them within limits, so that no client holds the API up for the others.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Peer;
use super::{Admin, Tcp};

/// Connections of one listener at a time; further ones wait.
const CONNECTIONS: usize = 64;
/// For the head of a request; also how long a connection may idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const HEADERS: usize = 64;
const BUFFER: usize = 16 * 1024;
/// For answers under way when the process stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// Serves until `stop`, then takes the unix socket away.
pub(super) async fn serve(admin: Admin, router: Router, stop: CancellationToken) -> io::Result<()> {
    let Admin { mut socket, tcp } = admin;
    let connections = TaskTracker::new();
    if let Some(Tcp { listener, token }) = tcp {
        let server = Server::new(&router, &connections, &stop);
        let judge = move |_: &TcpStream| Peer::Tcp { token: token.clone() };
        connections.spawn(server.accept(TcpListener::from_std(listener)?, judge));
    }
    if let Some(listener) = socket.take_listener()? {
        let path = socket.path().to_owned();
        let judge = move |stream: &UnixStream| Peer::of_unix(stream.peer_cred().ok(), &path);
        Server::new(&router, &connections, &stop).accept(listener, judge).await;
    }
    connections.close();
    if tokio::time::timeout(STOP_PATIENCE, connections.wait()).await.is_err() {
        tracing::warn!("connections of the API were cut");
    }
    Ok(())
}

struct Server {
    router: Router,
    connections: TaskTracker,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Server {
    fn new(router: &Router, connections: &TaskTracker, stop: &CancellationToken) -> Self {
        Self {
            router: router.clone(),
            connections: connections.clone(),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
            stop: stop.clone(),
        }
    }

    /// Accepts until told to stop. `axum`'s listeners wait and go on where an accept fails.
    async fn accept<L: Listener>(self, mut listener: L, judge: impl Fn(&L::Io) -> Peer) {
        let all = async {
            while let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
                let (stream, _) = listener.accept().await;
                let peer = judge(&stream);
                let connection = self.connection(stream, peer);
                self.connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
        };
        tokio::select! {
            () = all => {}
            () = self.stop.cancelled() => {}
        }
    }

    fn connection<S>(&self, stream: S, peer: Peer) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(self.router.clone().layer(Extension(peer)));
        let stop = self.stop.clone();
        async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_headers(HEADERS)
                .max_buf_size(BUFFER)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let result = tokio::select! {
                result = &mut connection => result,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "a connection of the API ended early");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    /// Sends `bytes`, leaves the connection open and returns what came back until the server closed it.
    async fn sent(bytes: &[u8]) -> (String, Duration) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (handle, _controller) = crate::controller::request::Handle::channel(1);
        let (_phase, watch) = tokio::sync::watch::channel(crate::model::Phase::Starting);
        let router = crate::admin::routes::router(handle, watch);
        let server = Server::new(&router, &TaskTracker::new(), &CancellationToken::new());
        let connection = tokio::spawn(server.connection(far, Peer::Unix { uid: Some(0), allowed: true }));
        let (mut reader, mut writer) = tokio::io::split(near);
        let start = Instant::now();
        // The server may close before it has read all: that is no failure of the client's.
        let _ = writer.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = reader.read_to_end(&mut answer).await;
        connection.await.unwrap();
        (String::from_utf8(answer).unwrap(), start.elapsed())
    }

    fn put(length: usize, body: &str) -> Vec<u8> {
        format!(
            "PUT /api/v1/pools/web/backends/127.0.0.1:80 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_come_ends_the_connection() {
        for head in ["", "GET /health HTTP/1.1\r\nhost: x\r\n"] {
            let (_, took) = sent(head.as_bytes()).await;
            assert!(took >= HEADER_TIMEOUT && took < 2 * HEADER_TIMEOUT, "{head:?} took {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_ends_the_request() {
        let (answer, took) = sent(&put(10, "{")).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(took < Duration::from_secs(10), "took {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn large_heads_and_bodies_are_refused() {
        let head = format!("GET /health HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
        assert!(sent(head.as_bytes()).await.0.starts_with("HTTP/1.1 431 "));
        let headers = "x: y\r\n".repeat(HEADERS + 1);
        let head = format!("GET /health HTTP/1.1\r\n{headers}\r\n");
        assert!(sent(head.as_bytes()).await.0.starts_with("HTTP/1.1 431 "));
        let length = 64 * 1024 + 1;
        assert!(sent(&put(length, &" ".repeat(length))).await.0.starts_with("HTTP/1.1 413 "));
    }

    #[tokio::test(start_paused = true)]
    async fn deep_json_is_refused() {
        let body = format!("{{\"weight\": {}", "[".repeat(60_000));
        assert!(sent(&put(body.len(), &body)).await.0.starts_with("HTTP/1.1 400 "));
    }
}
