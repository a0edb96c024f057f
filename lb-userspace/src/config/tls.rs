//! How a check speaks TLS.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::model::{Tls, Trust};

use super::health::only;
use super::problem::Fault;
use super::scalar::Scalar;
use super::section::Section;
use super::values;
use super::words::CheckKind;

/// The checks that make a TLS handshake.
const TLS: &[CheckKind] = &[CheckKind::Tls, CheckKind::Https, CheckKind::Grpcs];

/// Reads the keys of TLS; `None`: the check has none, or they are faulty.
///
/// `name` is what the certificate has to be made out to where the keys do not say it.
pub(super) fn tls(s: &mut Section<'_, '_>, kind: Option<CheckKind>, name: Option<&str>) -> Option<Tls> {
    let verify = only(s, kind, TLS, "verify", values::boolean).unwrap_or(true);
    let trust = only(s, kind, TLS, "ca_file", authorities);
    let sni = only(s, kind, TLS, "sni", server_name);
    if !verify && trust.is_some() {
        let fault = Fault::new("means nothing here: with verify = false every certificate is good");
        s.report.fault(&s.at("ca_file"), fault.hint("leave one of the two out"));
    }
    let kind = kind.filter(|kind| TLS.contains(kind))?;
    let trust = if verify { trust.unwrap_or(Trust::System) } else { Trust::Anyone };
    let protocols: &[&[u8]] = match kind {
        CheckKind::Https => &[b"h2", b"http/1.1"],
        CheckKind::Grpcs => &[b"h2"],
        _ => &[],
    };
    let from_host = name.and_then(|name| ServerName::try_from(name.to_owned()).ok());
    let key = if matches!(trust, Trust::System) { "check" } else { "ca_file" };
    Tls::new(trust, sni.or(from_host), protocols)
        .map_err(|error| {
            let fault = Fault::new(format!("no certificate could be verified: {error}"));
            let hint =
                "write ca_file = \"...\" with the certificates of an authority in PEM, or verify = false";
            s.report.fault(&s.at(key), fault.hint(hint))
        })
        .ok()
}

fn authorities(scalar: &Scalar<'_>) -> Result<Trust, Fault> {
    const HINT: &str = "name a file with the certificates of authorities in PEM";
    let file = values::path(scalar)?;
    let read = CertificateDer::pem_file_iter(&file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(Fault::new("the file has no certificate").hint(HINT))
        }
        Ok(certificates) => Ok(Trust::Authorities { file, certificates }),
        Err(error) => Err(Fault::new(format!("cannot be read: {error}")).hint(HINT)),
    }
}

fn server_name(scalar: &Scalar<'_>) -> Result<ServerName<'static>, Fault> {
    let text = scalar.text("a host name in quotes, such as \"www.example.org\"")?;
    ServerName::try_from(text.into_owned()).map_err(|_| {
        Fault::new("is neither a host name nor an IP address").hint("write it as \"www.example.org\"")
    })
}
