//! The TLS and the HTTPS check.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lb_userspace::model::{Check, Http, Tls, Trust};
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ServerConfig, crypto};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::grpc;
use crate::harness::*;

/// An authority, and a key with its certificate.
pub(crate) struct Identity {
    authority: CertificateDer<'static>,
    acceptor: ServerConfig,
}

impl Identity {
    /// Made out to `name`.
    pub(crate) fn new(name: &str) -> Self {
        let (key, ca_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut ca = CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = ca.self_signed(&ca_key).unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let acceptor = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        Self { authority: authority.der().clone(), acceptor }
    }

    pub(crate) fn trusted(&self) -> Trust {
        Trust::Authorities { file: "/ca.pem".into(), certificates: vec![self.authority.clone()] }
    }

    /// A server of the gRPC health protocol.
    pub(crate) async fn serve_grpc(mut self) -> SocketAddr {
        self.acceptor.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(self.acceptor));
        server(move |stream, _| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service_fn(grpc::answer)).await;
            }
        })
        .await
    }

    /// A server that answers HTTP requests, by the protocol that the handshake chose, with what it was asked.
    async fn serve(mut self, protocols: &[&str]) -> SocketAddr {
        self.acceptor.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(self.acceptor));
        server(move |stream, _| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let (service, stream) = (service_fn(echo), TokioIo::new(stream));
                // The checker may go whenever it has seen enough.
                if is_two {
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(stream, service).await;
                } else {
                    let builder = hyper::server::conn::http1::Builder::new();
                    let _ = builder.serve_connection(stream, service).await;
                }
            }
        })
        .await
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let host = request.headers().get("host").map(|host| host.to_str().unwrap().to_owned());
    let host = host.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap();
    let probe = request.headers().get("x-probe").map_or("none", |value| value.to_str().unwrap());
    let line = format!("{} {host} {} {probe}", request.method(), request.uri().path());
    Ok(Response::new(Full::new(Bytes::from(line))))
}

fn name(name: &str) -> Option<ServerName<'static>> {
    Some(ServerName::try_from(name.to_owned()).unwrap())
}

fn tls(trust: Trust, server_name: Option<ServerName<'static>>) -> Check {
    Check::Tls(Arc::new(Tls::new(trust, server_name, &[]).unwrap()))
}

fn https(trust: Trust, set: impl FnOnce(&mut Http)) -> Check {
    http_with(|http| {
        http.tls = Some(Tls::new(trust, name("www.example.org"), &[b"h2", b"http/1.1"]).unwrap());
        set(http);
    })
}

#[tokio::test]
async fn a_tls_check_verifies_the_certificate() {
    let identity = Identity::new("www.example.org");
    let (trusted, stranger) = (identity.trusted(), Identity::new("www.example.org").trusted());
    let address = identity.serve(&[]).await;

    let good = tls(trusted.clone(), name("www.example.org"));
    assert_eq!(found(&first(address, good).await), (true, "TLS 1.3"));
    let unverified = tls(Trust::Anyone, None);
    assert_eq!(found(&first(address, unverified).await), (true, "TLS 1.3"));

    for (trust, server_name, why) in [
        (stranger, name("www.example.org"), "TLS: invalid peer certificate"),
        (trusted.clone(), name("mail.example.org"), "not valid for name \"mail.example.org\""),
        (trusted, None, "not valid for name \"127.0.0.1\""),
    ] {
        let seen = first(address, tls(trust, server_name)).await;
        assert!(!seen.up && seen.check.detail.contains(why), "{:?}", seen.check);
    }
}

#[tokio::test]
async fn a_certificate_may_be_made_out_to_the_address() {
    let identity = Identity::new("127.0.0.1");
    let check = tls(identity.trusted(), None);
    assert_eq!(found(&first(identity.serve(&[]).await, check).await), (true, "TLS 1.3"));
}

#[tokio::test]
async fn a_tls_check_says_goodbye() {
    let identity = Identity::new("localhost");
    let acceptor = TlsAcceptor::from(Arc::new(identity.acceptor));
    let (sender, mut ends) = mpsc::channel(1);
    let address = server(move |stream, _| {
        let (acceptor, ends) = (acceptor.clone(), sender.clone());
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            // Without close_notify it would be an error.
            let end = stream.read(&mut [0]).await;
            let _ = ends.send(end.map_err(|error| error.kind())).await;
        }
    })
    .await;
    first(address, tls(Trust::Anyone, None)).await;
    assert_eq!(timeout(DEADLINE, ends.recv()).await.unwrap(), Some(Ok(0)));
}

#[tokio::test]
async fn a_server_without_tls_fails() {
    let plain = server(|mut stream, _| async move {
        let _ = stream.write_all(b"220 mail.example.org ESMTP\r\n").await;
        let _ = stream.read(&mut [0; 64]).await;
    })
    .await;
    let seen = first(plain, tls(Trust::Anyone, None)).await;
    assert!(!seen.up && seen.check.detail.starts_with("TLS: "), "{:?}", seen.check);
    let seen = first_within(SHORT, silent().await, tls(Trust::Anyone, None)).await;
    assert_eq!(found(&seen), (false, "no answer within 300 ms"));
}

#[tokio::test]
async fn an_https_check_speaks_the_version_that_the_backend_has() {
    for (protocols, version) in
        [(&["h2", "http/1.1"][..], "HTTP/2"), (&["http/1.1"], "HTTP"), (&["h2"], "HTTP/2"), (&[], "HTTP")]
    {
        let identity = Identity::new("www.example.org");
        let check = https(identity.trusted(), |http| {
            http.host = Some("web.example.org:8443".to_owned());
            http.headers.insert("x-probe", "deep".parse().unwrap());
            http.body = Some("GET web.example.org:8443 /health deep".to_owned());
        });
        let missing = https(identity.trusted(), |http| {
            http.status = vec![404..=404];
        });
        let address = identity.serve(protocols).await;
        let seen = first(address, check).await;
        assert!(seen.up && seen.check.detail.starts_with(&format!("{version} 200, ")), "{:?}", seen.check);
        assert_eq!(found(&first(address, missing).await), (false, format!("{version} 200").as_str()));
    }
}

#[tokio::test]
async fn an_https_check_wants_a_good_certificate() {
    let (identity, other) = (Identity::new("www.example.org"), Identity::new("www.example.org"));
    let check = https(other.trusted(), |_| ());
    let seen = first(identity.serve(&["h2"]).await, check).await;
    assert!(!seen.up && seen.check.detail.starts_with("TLS: invalid peer certificate"), "{:?}", seen.check);
}
