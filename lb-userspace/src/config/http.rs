//! What an HTTP check asks and wants to see.

use std::ops::RangeInclusive;

use hyper::Method;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use super::problem::Fault;
use super::scalar::Scalar;

/// The request's first line and headers, and the connection, are not for a header to change.
const OURS: [HeaderName; 6] = [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// The method of a request.
pub(super) fn method(scalar: &Scalar<'_>) -> Result<Method, Fault> {
    let text = scalar.text("a method in quotes, such as \"GET\"")?;
    let fault = || Fault::new("is not a method of HTTP that a check can use");
    let upper = text.to_ascii_uppercase();
    if *text != upper && !upper.is_empty() {
        // Methods are case-sensitive (RFC 9110, section 9.1), and nobody has one in lower case.
        return Err(fault().hint(format!("write {upper:?}")));
    }
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) if method != Method::CONNECT => Ok(method),
        _ => Err(fault().hint("write \"GET\", \"HEAD\", \"OPTIONS\" or \"POST\"")),
    }
}

/// The value of the `Host` header.
pub(super) fn host(scalar: &Scalar<'_>) -> Result<String, Fault> {
    let text = scalar.text("a host name in quotes, such as \"www.example.org\"")?;
    match text.parse::<hyper::http::uri::Authority>() {
        Ok(authority) if !authority.as_str().contains('@') => Ok(text.into_owned()),
        _ => Err(Fault::new("is not a host name, with or without a port")
            .hint("write it as \"www.example.org\", without \"http://\" and path")),
    }
}

/// What a certificate for this host is made out to: the host without its port.
pub(super) fn name(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_matches(['[', ']'])
}

/// The path of a request.
pub(super) fn path(scalar: &Scalar<'_>) -> Result<String, Fault> {
    let text = scalar.text("a path in quotes, such as \"/health\"")?;
    if !text.starts_with('/') {
        return Err(Fault::new("does not begin with \"/\"").hint("write the path alone, such as \"/health\""));
    }
    if text.len() > 1024 {
        return Err(Fault::new("is longer than 1024 bytes").hint("check a shorter path"));
    }
    match text.chars().find(|c| !c.is_ascii_graphic()) {
        Some(odd) => Err(Fault::new(format!("holds {odd:?}")).hint("write it percent-encoded")),
        None => Ok(text.into_owned()),
    }
}

/// A header of a request.
pub(super) fn header(name: &str, scalar: &Scalar<'_>) -> Result<(HeaderName, HeaderValue), Fault> {
    let name = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Fault::new("is not the name of a header").hint("such as \"X-Probe\""))?;
    if name == HOST {
        return Err(Fault::new("has a key of its own").hint("write host = \"...\" beside headers"));
    }
    if OURS.contains(&name) {
        return Err(Fault::new("is for the check itself to write").hint("leave it out"));
    }
    let text = scalar.text("the header's value in quotes")?;
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| Fault::new("holds a character that no header can").hint("write it in ASCII"))?;
    // Such as a password: nothing that prints a request may show it.
    value.set_sensitive(true);
    Ok((name, value))
}

/// Status codes: `200`, `200-399` or `200-299,401`.
/// Those below 200 are no answers yet (RFC 9110, section 15.2).
pub(super) fn statuses(scalar: &Scalar<'_>) -> Result<Vec<RangeInclusive<u16>>, Fault> {
    const HINT: &str = "such as \"200\", \"200-399\" or \"200-299,401\"";
    let text = scalar.text(HINT)?;
    let code = |code: &str| -> Result<u16, Fault> {
        let fault = || Fault::new(format!("{code:?} is not a status code within 200 to 599")).hint(HINT);
        let number = code.parse().map_err(|_| fault())?;
        if (200..=599).contains(&number) { Ok(number) } else { Err(fault()) }
    };
    text.split(',')
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (code(first.trim())?, code(last.trim())?);
            if first > last {
                return Err(
                    Fault::new(format!("{first}-{last} is empty")).hint(format!("write {last}-{first}"))
                );
            }
            Ok(first..=last)
        })
        .collect()
}

/// What a body holds.
pub(super) fn body(scalar: &Scalar<'_>) -> Result<String, Fault> {
    let text = scalar.text("a text in quotes")?;
    match text.len() {
        0 => Err(Fault::new("is empty, which every body holds").hint("leave it out")),
        1..=256 => Ok(text.into_owned()),
        _ => Err(Fault::new("is longer than 256 bytes").hint("look for a shorter text")),
    }
}
