//! The gRPC health protocol (grpc.health.v1, `Health.Check`) over HTTP/2.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use hyper::{Request, Response, Uri, Version};
use tokio::net::TcpStream;

use super::http::over_two;
use super::probe::Outcome;
use super::tls;
use crate::model::Grpc;

/// The answer has two bytes; a few more do no harm.
const MAX_ANSWER_BYTES: usize = 4096;
/// In front of every message: whether it is compressed, and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX_BYTES: usize = 5;

/// Asks how the service is; SERVING passes.
pub(super) async fn ask(stream: TcpStream, endpoint: SocketAddr, grpc: &Grpc) -> Outcome {
    match exchange(stream, endpoint, grpc).await {
        Ok(outcome) => outcome,
        Err(why) => Outcome::failed(why),
    }
}

async fn exchange(stream: TcpStream, endpoint: SocketAddr, grpc: &Grpc) -> Result<Outcome, String> {
    let host = grpc.host.clone().unwrap_or_else(|| endpoint.to_string());
    let scheme = if grpc.tls.is_some() { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(host).path_and_query("/grpc.health.v1.Health/Check");
    let request = uri.build().and_then(|uri| {
        Request::post(uri)
            .version(Version::HTTP_2)
            .header(USER_AGENT, "sluice-health")
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Full::new(question(&grpc.service)))
    });
    let request = request.map_err(|error| format!("the request cannot be made: {error}"))?;
    match &grpc.tls {
        None => over_two(stream, request, judge).await,
        Some(tls) => over_two(tls::handshake(stream, endpoint, tls).await?, request, judge).await,
    }
}

/// A `HealthCheckRequest`: field 1 is the name of the service.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put(message);
    framed.freeze()
}

async fn judge(response: Response<Incoming>) -> Result<Outcome, String> {
    if response.status() != 200 {
        return Ok(Outcome::failed(format!("HTTP/2 {}", response.status().as_u16())));
    }
    // An answer without a message has its status here.
    if let Some(refused) = refused(response.headers()) {
        return Ok(refused);
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| format!("no gRPC answer: {error}"))?;
    if let Some(refused) = body.trailers().and_then(refused) {
        return Ok(refused);
    }
    Ok(match serving(&body.to_bytes()) {
        Some(1) => Outcome::passed("SERVING"),
        Some(0) => Outcome::failed("UNKNOWN"),
        Some(2) => Outcome::failed("NOT_SERVING"),
        Some(3) => Outcome::failed("SERVICE_UNKNOWN"),
        Some(status) => Outcome::failed(format!("health status {status}")),
        None => Outcome::failed("no gRPC health answer"),
    })
}

/// A `grpc-status` other than OK.
fn refused(headers: &HeaderMap) -> Option<Outcome> {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let status = text("grpc-status").filter(|status| status != "0")?;
    let message: String = text("grpc-message").unwrap_or_default().chars().take(200).collect();
    Some(Outcome::failed(format!("gRPC status {status} {message}").trim_end()))
}

/// The status in a `HealthCheckResponse`, which is field 1. `None`: this is none.
fn serving(framed: &[u8]) -> Option<u64> {
    let (prefix, mut message) = framed.split_at_checked(PREFIX_BYTES)?;
    let [0, length @ ..] = prefix else { return None };
    if u32::from_be_bytes(length.try_into().ok()?) as usize != message.len() {
        return None;
    }
    // What is not said has its default, and the last one counts (protobuf's encoding).
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let skipped = match tag & 7 {
            0 => {
                let value = varint(&mut message)?;
                status = if tag >> 3 == 1 { value } else { status };
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        message = message.get(skipped..)?;
    }
    Some(status)
}

/// Takes a number of seven bits a byte, the lowest first.
fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_names_the_service() {
        assert_eq!(question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 0x01, 0x2f, 0x0a, 0xac, 0x02]);
        assert_eq!(long.len(), 8 + 300);
    }

    #[test]
    fn answers_are_read_as_protobuf() {
        let framed = |message: &[u8]| {
            let mut framed = vec![0];
            framed.extend((message.len() as u32).to_be_bytes());
            framed.extend(message);
            framed
        };
        for (message, status) in [
            (&[][..], Some(0)),
            (&[8, 1], Some(1)),
            (&[8, 2], Some(2)),
            (&[8, 0x81, 0x01], Some(129)),
            // Fields that nobody knows yet, of every type.
            (&[0x12, 2, 8, 2, 8, 1, 0x18, 7, 0x25, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0, 0, 0, 0], Some(1)),
            (&[8], None),
            (&[8, 0x80], None),
            (&[0x12, 9, 1], None),
            (&[0x0b], None),
            (&[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], None),
        ] {
            assert_eq!(serving(&framed(message)), status, "{message:?}");
        }
        for framed in [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 3, 8, 1]] {
            assert_eq!(serving(framed), None, "{framed:?}");
        }
    }
}
