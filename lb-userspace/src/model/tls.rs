//! TLS as health checks speak it.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

/// What this host trusts, read once: it has a hundred and more certificates.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(roots)
});

/// Whose certificates are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Anyone's: only the handshake has to succeed.
    Anyone,
    /// Those of the authorities that this host trusts.
    System,
    /// Those of these authorities.
    Authorities {
        /// Where they were read.
        file: PathBuf,
        /// At least one.
        certificates: Vec<CertificateDer<'static>>,
    },
}

/// TLS 1.2 or 1.3 as a client, ready for use.
#[derive(Clone)]
pub struct Tls {
    trust: Trust,
    server_name: Option<ServerName<'static>>,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// `server_name`: what the certificate has to be made out to; none: the address that is asked. `protocols` are
    /// offered by ALPN (RFC 7301), best first.
    ///
    /// # Errors
    /// A certificate of an authority that cannot be read, or a host that trusts nobody.
    pub fn new(
        trust: Trust,
        server_name: Option<ServerName<'static>>,
        protocols: &[&[u8]],
    ) -> Result<Self, Error> {
        let builder =
            ClientConfig::builder_with_provider(PROVIDER.clone()).with_safe_default_protocol_versions()?;
        let builder = match &trust {
            Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified)),
            Trust::System if SYSTEM.is_empty() => {
                return Err(Error::General("this host has no certificates that it trusts".to_owned()));
            }
            Trust::System => builder.with_root_certificates(SYSTEM.clone()),
            Trust::Authorities { certificates, .. } => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates {
                    roots.add(certificate.clone())?;
                }
                builder.with_root_certificates(roots)
            }
        };
        let mut client = builder.with_no_client_auth();
        client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        // A resumed session would not show the certificate that the backend has now.
        client.resumption = Resumption::disabled();
        Ok(Self { trust, server_name, client: Arc::new(client) })
    }

    /// Whose certificates are good.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// What the certificate has to be made out to; none: the address that is asked.
    pub fn server_name(&self) -> Option<&ServerName<'static>> {
        self.server_name.as_ref()
    }

    /// For the handshake.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("trust", &self.trust).field("server_name", &self.server_name).finish()
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        let key =
            |tls: &Self| (tls.trust.clone(), tls.server_name.clone(), tls.client.alpn_protocols.clone());
        key(self) == key(other)
    }
}

impl Eq for Tls {}

/// Takes every certificate, but wants proof that the backend has its key.
#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn algorithms() -> crypto::WebPkiSupportedAlgorithms {
    PROVIDER.signature_verification_algorithms
}
