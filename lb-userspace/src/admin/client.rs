//! The API as the command line uses it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::problem::ProblemDocument;
use crate::controller::request::Changed;

/// For a whole exchange. A reload waits for every plane to confirm.
const PATIENCE: Duration = Duration::from_secs(60);
/// No answer is larger: a million backends in one status document are not served.
const ANSWER_LIMIT: usize = 1 << 30;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket, or nobody behind it.
    #[error("no daemon answers at {} (hint: sluice run -c FILE, or --socket PATH)", .0.display())]
    NoDaemon(PathBuf),
    /// The socket's mode keeps this user out.
    #[error("no rights on {} (hint: sudo, or become a member of its group)", .0.display())]
    Denied(PathBuf),
    /// The daemon refused; nothing was changed.
    #[error("{}", .0.detail)]
    Refused(ProblemDocument),
    /// The exchange broke.
    #[error("{}: {reason}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// How.
        reason: String,
    },
}

/// Talks to the daemon behind one unix socket, a connection for each request.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the daemon at `socket`; nothing is connected yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Reads a document.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path).await
    }

    /// Makes a request without a body and reads the document that answers it.
    pub async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        let answer = self.exchange(method, path, Bytes::new()).await?;
        serde_json::from_slice(&answer).map_err(|error| self.broken(&error))
    }

    /// Sends a document and reads the one that answers it.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(&error))?;
        let answer = self.exchange(Method::POST, path, body.into()).await?;
        serde_json::from_slice(&answer).map_err(|error| self.broken(&error))
    }

    /// Changes a backend.
    pub async fn change(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Changed, ClientError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| self.broken(&error))?,
            None => Vec::new(),
        };
        let answer = self.exchange(method, path, body.into()).await?;
        // Nothing to say.
        if answer.is_empty() {
            return Ok(Changed::default());
        }
        serde_json::from_slice(&answer).map_err(|error| self.broken(&error))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        tokio::time::timeout(PATIENCE, self.exchange_patiently(method, path, body))
            .await
            .map_err(|_| self.broken(&format!("no answer within {PATIENCE:?}")))?
    }

    async fn exchange_patiently(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon(self.socket.clone())
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied(self.socket.clone()),
            _ => self.broken(&error),
        })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "sluice")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(&error))?;
        let answer = async move {
            let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT);
            let body = body.collect().await.map_err(|error| self.broken(&error))?.to_bytes();
            if status.is_success() { Ok(body) } else { Err(self.refused(status, &body)) }
        };
        // The connection ends when the sender is gone; an error of it is the request's too.
        tokio::join!(answer, connection).0
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice(body) {
            Ok(document) => ClientError::Refused(document),
            Err(_) => self.broken(&format!("answered {status}")),
        }
    }

    fn broken(&self, reason: &dyn fmt::Display) -> ClientError {
        ClientError::Broken { path: self.socket.clone(), reason: reason.to_string() }
    }
}
