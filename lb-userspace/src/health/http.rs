//! The HTTP check: `GET path` over HTTP/1.1 (RFC 9112).

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::probe::{Outcome, describe};

/// What a backend may send before the end of its headers; more is a failure.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Asks for `path`; a 2xx or 3xx status passes. The body is not read.
pub(super) async fn get(stream: TcpStream, address: SocketAddr, path: &str) -> Outcome {
    match status(stream, address, path).await {
        Ok(status) => Outcome {
            ok: status.is_success() || status.is_redirection(),
            detail: format!("HTTP {}", status.as_u16()),
        },
        Err(why) => Outcome::failed(why),
    }
}

async fn status(stream: TcpStream, address: SocketAddr, path: &str) -> Result<StatusCode, String> {
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(USER_AGENT, "sluice-health")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("path {path:?}: {error}"))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| explain(&error))?;
    let answer = Box::pin(sender.send_request(request));
    // The connection has to be polled for the answer to come; when it ends first, the answer, or why there is
    // none, is waiting.
    let response = match select(answer, Box::pin(connection)).await {
        Either::Left((response, _)) => response,
        Either::Right((_, answer)) => answer.await,
    };
    response.map(|response| response.status()).map_err(|error| explain(&error))
}

/// In a few words.
fn explain(error: &hyper::Error) -> String {
    if error.is_parse_too_large() {
        format!("more than {MAX_HEAD_BYTES} bytes of headers")
    } else if error.is_parse() {
        "no HTTP/1 answer".to_owned()
    } else if error.is_incomplete_message() || error.is_canceled() {
        "closed before the answer".to_owned()
    } else {
        match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
            Some(error) => describe(error),
            None => error.to_string(),
        }
    }
}
