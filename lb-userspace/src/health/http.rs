//! The HTTP check over HTTP/1.1 (RFC 9112).

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::probe::{Outcome, describe};
use crate::model::Http;

/// What a backend may send before the end of its headers; more is a failure.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Where what the body should hold is looked for.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Asks as `http` says and judges the answer. The body is read only where something is looked for in it.
pub(super) async fn ask(stream: TcpStream, endpoint: SocketAddr, http: &Http) -> Outcome {
    match exchange(stream, endpoint, http).await {
        Ok(outcome) => outcome,
        Err(why) => Outcome::failed(why),
    }
}

async fn exchange(stream: TcpStream, endpoint: SocketAddr, http: &Http) -> Result<Outcome, String> {
    let request = request(endpoint, http)?;
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| explain(&error))?;
    let answer = Box::pin(answer(sender, request, http));
    // The connection has to be polled for the answer to come; when it ends first, the answer, or why there is
    // none, is waiting.
    match select(answer, Box::pin(connection)).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right((_, answer)) => answer.await,
    }
}

fn request(endpoint: SocketAddr, http: &Http) -> Result<Request<Empty<Bytes>>, String> {
    let host = http.host.clone().unwrap_or_else(|| endpoint.to_string());
    let mut request = Request::builder()
        .method(http.method.clone())
        .uri(&http.path)
        .header(HOST, host)
        .header(USER_AGENT, "sluice-health")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| format!("the request cannot be made: {error}"))?;
    for name in http.headers.keys() {
        request.headers_mut().remove(name);
    }
    request.headers_mut().extend(http.headers.clone());
    Ok(request)
}

async fn answer(
    mut sender: SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
    http: &Http,
) -> Result<Outcome, String> {
    let response = sender.send_request(request).await.map_err(|error| explain(&error))?;
    let status = response.status().as_u16();
    let seen = format!("HTTP {status}");
    if !http.status.iter().any(|accepted| accepted.contains(&status)) {
        return Ok(Outcome::failed(seen));
    }
    match &http.body {
        None => Ok(Outcome::passed(seen)),
        Some(wanted) => Ok(match find(response, wanted.as_bytes()).await {
            Ok(()) => Outcome::passed(format!("{seen}, the body holds {wanted:?}")),
            Err(why) => Outcome::failed(format!("{seen}, {why} {wanted:?}")),
        }),
    }
}

/// Reads no further than needed. An error says why it is not there, to be followed by what was wanted.
async fn find(mut response: Response<Incoming>, wanted: &[u8]) -> Result<(), String> {
    let mut body: Vec<u8> = Vec::new();
    while let Some(frame) = response.frame().await {
        let Ok(frame) = frame else { return Err("the body broke off before it held".to_owned()) };
        let Some(data) = frame.data_ref() else { continue };
        // It may have begun in what came before.
        let from = body.len().saturating_sub(wanted.len());
        body.extend(data.iter().take(MAX_BODY_BYTES - body.len()));
        if body.get(from..).is_some_and(|new| holds(new, wanted)) {
            return Ok(());
        }
        if body.len() == MAX_BODY_BYTES {
            return Err(format!("the first {MAX_BODY_BYTES} bytes of the body do not hold"));
        }
    }
    Err("the body does not hold".to_owned())
}

fn holds(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || text.windows(wanted.len()).any(|window| window == wanted)
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
