//! The HTTP check: over HTTP/1.1 (RFC 9112), with TLS also over HTTP/2 (RFC 9113).

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::http::request;
use hyper::{Request, Response, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::probe::{Outcome, describe};
use super::tls;
use crate::model::Http;

/// What HTTP runs over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

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
    let Some(tls) = &http.tls else { return one(stream, endpoint, http).await };
    let stream = tls::handshake(stream, endpoint, tls).await?;
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => two(stream, endpoint, http).await,
        _ => one(stream, endpoint, http).await,
    }
}

/// Over HTTP/1.1.
async fn one(stream: impl Stream, endpoint: SocketAddr, http: &Http) -> Result<Outcome, String> {
    let request = request(http)
        .uri(&http.path)
        .header(HOST, host(endpoint, http))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(impossible)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| explain(&error))?;
    let answer = async {
        let response = sender.send_request(request).await;
        judge(response.map_err(|error| explain(&error))?, http).await
    };
    drive(answer, connection).await
}

/// Over HTTP/2.
async fn two(stream: impl Stream, endpoint: SocketAddr, http: &Http) -> Result<Outcome, String> {
    let uri = Uri::builder().scheme("https").authority(host(endpoint, http)).path_and_query(&*http.path);
    let request = request(http)
        .uri(uri.build().map_err(impossible)?)
        .version(Version::HTTP_2)
        .body(Empty::<Bytes>::new())
        .map_err(impossible)?;
    over_two(stream, request, |response| judge(response, http)).await
}

/// Makes one request over HTTP/2 and has its answer judged.
pub(super) async fn over_two<B, F>(
    stream: impl Stream,
    request: Request<B>,
    judge: impl FnOnce(Response<Incoming>) -> F,
) -> Result<Outcome, String>
where
    B: Body<Data = Bytes, Error = Infallible> + Unpin + Send + 'static,
    F: Future<Output = Result<Outcome, String>>,
{
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| explain(&error))?;
    let answer = async {
        let response = sender.send_request(request).await;
        judge(response.map_err(|error| explain(&error))?).await
    };
    drive(answer, connection).await
}

/// The connection has to be polled for the answer to come; when it ends first, the answer, or why there is none,
/// is waiting.
async fn drive(
    answer: impl Future<Output = Result<Outcome, String>>,
    connection: impl Future,
) -> Result<Outcome, String> {
    match select(Box::pin(answer), Box::pin(connection)).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right((_, answer)) => answer.await,
    }
}

fn host(endpoint: SocketAddr, http: &Http) -> String {
    http.host.clone().unwrap_or_else(|| endpoint.to_string())
}

/// What both versions send.
fn request(http: &Http) -> request::Builder {
    let mut request = Request::builder().method(http.method.clone());
    if let Some(headers) = request.headers_mut() {
        headers.insert(USER_AGENT, HeaderValue::from_static("sluice-health"));
        http.headers.keys().for_each(|name| drop(headers.remove(name)));
        headers.extend(http.headers.clone());
    }
    request
}

fn impossible(error: hyper::http::Error) -> String {
    format!("the request cannot be made: {error}")
}

async fn judge(response: Response<Incoming>, http: &Http) -> Result<Outcome, String> {
    let status = response.status().as_u16();
    let seen = match response.version() {
        Version::HTTP_2 => format!("HTTP/2 {status}"),
        _ => format!("HTTP {status}"),
    };
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
            None => match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
        }
    }
}
