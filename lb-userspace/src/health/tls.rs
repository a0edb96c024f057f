//! The TLS handshake (RFC 8446) with a backend.

use std::net::SocketAddr;

use rustls::ProtocolVersion;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::probe::{Outcome, describe};
use crate::model::Tls;

/// Checks no more than the handshake.
pub(super) async fn ask(stream: TcpStream, endpoint: SocketAddr, tls: &Tls) -> Outcome {
    match handshake(stream, endpoint, tls).await {
        Ok(mut stream) => {
            let version = match stream.get_ref().1.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
                _ => "TLS 1.2",
            };
            // The backend need not hear the goodbye.
            let _ = stream.shutdown().await;
            Outcome::passed(version)
        }
        Err(why) => Outcome::failed(why),
    }
}

/// The stream after the handshake, or why there is none, in a few words.
pub(super) async fn handshake(
    stream: TcpStream,
    endpoint: SocketAddr,
    tls: &Tls,
) -> Result<TlsStream<TcpStream>, String> {
    let name = tls.server_name().cloned().unwrap_or_else(|| ServerName::from(endpoint.ip()));
    let connected = TlsConnector::from(tls.client()).connect(name, stream).await;
    connected.map_err(|error| format!("TLS: {}", describe(&error)))
}
