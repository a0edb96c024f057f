//! What checks that make no HTTP request ask.

use super::problem::Fault;
use super::scalar::Scalar;

/// The name of a gRPC service.
pub(super) fn service(scalar: &Scalar<'_>) -> Result<String, Fault> {
    const HINT: &str = "such as \"mail.v1.Mailbox\"";
    let text = scalar.text(HINT)?;
    if text.len() > 1024 || text.contains(|c: char| !c.is_ascii_graphic()) {
        return Err(Fault::new("is not the name of a gRPC service").hint(HINT));
    }
    Ok(text.into_owned())
}

/// What a datagram holds: a text, or `hex:` and hex digits.
pub(super) fn bytes(scalar: &Scalar<'_>) -> Result<Vec<u8>, Fault> {
    let text = scalar.text("a text in quotes, or hex digits: \"hex:0a0b\"")?;
    let bytes = match text.strip_prefix("hex:") {
        Some(digits) => hex(digits).ok_or_else(|| {
            Fault::new("has more than pairs of hex digits after \"hex:\"").hint("such as \"hex:0a0b\"")
        })?,
        None => text.as_bytes().to_vec(),
    };
    match bytes.len() {
        0 => Err(Fault::new("is empty").hint("write a text, or hex digits: \"hex:0a0b\"")),
        1..=1024 => Ok(bytes),
        _ => Err(Fault::new("is longer than 1024 bytes").hint("shorten it")),
    }
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let nibble = |digit: u8| char::from(digit).to_digit(16);
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => u8::try_from(nibble(high)? << 4 | nibble(low)?).ok(),
            _ => None,
        })
        .collect()
}

/// The path of a program, or one of its arguments.
pub(super) fn argument(scalar: &Scalar<'_>) -> Result<String, Fault> {
    let text = scalar.text("an array of strings: a program and its arguments")?;
    if text.contains('\0') {
        return Err(Fault::new("holds a NUL character, which ends arguments").hint("delete it"));
    }
    Ok(text.into_owned())
}
