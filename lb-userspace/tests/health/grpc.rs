//! The gRPC check.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lb_userspace::model::{Check, Grpc, Tls, Trust};

use crate::harness::*;
use crate::tls::Identity;

/// Says SERVING of the service "good", and of the others what their names say.
pub(crate) async fn answer(request: Request<Incoming>) -> Result<Response<GrpcBody>, Infallible> {
    assert_eq!((request.version(), request.method().as_str()), (Version::HTTP_2, "POST"));
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    assert_eq!(request.headers()["te"], "trailers");
    let question = request.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(question[..5], [0, 0, 0, 0, question.len() as u8 - 5]);
    let service = question.get(7..).unwrap_or_default();
    let status = match service {
        b"" | b"good" => 1,
        b"bad" => 2,
        b"lost" => {
            let refused =
                Response::builder().header("grpc-status", "5").header("grpc-message", "unknown service");
            return Ok(refused.body(body(Vec::new(), "0")).unwrap());
        }
        b"late" => return Ok(Response::new(body(vec![0, 0, 0, 0, 2, 8, 1], "13"))),
        _ => return Ok(Response::new(body(b"<html>".to_vec(), "0"))),
    };
    Ok(Response::new(body(vec![0, 0, 0, 0, 2, 8, status], "0")))
}

type GrpcBody = http_body_util::combinators::BoxBody<Bytes, Infallible>;

fn body(message: Vec<u8>, status: &'static str) -> GrpcBody {
    let trailers: HeaderMap =
        [("grpc-status".parse().unwrap(), status.parse().unwrap())].into_iter().collect();
    Full::new(Bytes::from(message)).with_trailers(async move { Some(Ok(trailers)) }).boxed()
}

async fn plain() -> SocketAddr {
    server(|stream, _| async move {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
    })
    .await
}

fn grpc(service: &str, tls: Option<Tls>) -> Check {
    Check::Grpc(Arc::new(Grpc { service: service.to_owned(), host: None, tls }))
}

#[tokio::test]
async fn a_grpc_check_asks_the_health_service() {
    let address = plain().await;
    for (service, expected) in [
        ("", (true, "SERVING")),
        ("good", (true, "SERVING")),
        ("bad", (false, "NOT_SERVING")),
        ("lost", (false, "gRPC status 5 unknown service")),
        ("late", (false, "gRPC status 13")),
        ("odd", (false, "no gRPC health answer")),
    ] {
        assert_eq!(found(&first(address, grpc(service, None)).await), expected, "{service}");
    }
}

#[tokio::test]
async fn a_grpc_check_wants_http_2() {
    let seen = first(answering("HTTP/1.1 200 OK\r\n\r\n").await, grpc("", None)).await;
    assert!(!seen.up, "{:?}", seen.check);
}

#[tokio::test]
async fn a_grpc_check_may_use_tls() {
    let identity = Identity::new("127.0.0.1");
    let tls = |trust| Some(Tls::new(trust, None, &[b"h2"]).unwrap());
    let (good, stranger) = (tls(identity.trusted()), tls(Identity::new("127.0.0.1").trusted()));
    let address = identity.serve_grpc().await;
    assert_eq!(found(&first(address, grpc("good", good)).await), (true, "SERVING"));
    assert_eq!(found(&first(address, grpc("bad", tls(Trust::Anyone))).await), (false, "NOT_SERVING"));
    assert!(!first(address, grpc("good", stranger)).await.up);
}
