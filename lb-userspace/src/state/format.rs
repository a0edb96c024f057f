//! The bytes of the file: a line that says what it is, then JSON that the line has the digest of.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::model::Override;

/// First words of the file.
const NAME: &str = "sluice-changes";
/// Of what follows. A build that changes the meaning of the JSON takes the next number.
const VERSION: &str = "1";

/// Why a file cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It does not begin as such files do.
    #[error("it does not begin with \"{NAME}\", a version and a digest")]
    Header,
    /// Written by another build.
    #[error("it is of version {0:?}, and this build knows {VERSION:?}")]
    Version(String),
    /// A byte is not what it was, or some are missing.
    #[error("its digest is not the one that it was written with")]
    Digest,
    /// The digest is right and the JSON is not what it should be.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// The bytes of a file.
///
/// # Errors
/// None that could be named: these types always become JSON.
pub fn encode(overrides: &[Override]) -> Result<Vec<u8>, serde_json::Error> {
    let mut json = serde_json::to_vec_pretty(overrides)?;
    json.push(b'\n');
    let mut bytes = format!("{NAME} {VERSION} {}\n", digest(&json)).into_bytes();
    bytes.append(&mut json);
    Ok(bytes)
}

/// What the bytes of a file say.
///
/// # Errors
/// Any byte is not as [`encode`] wrote it, or another build wrote it.
pub fn decode(bytes: &[u8]) -> Result<Vec<Override>, Damage> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(Damage::Header)?;
    let (header, json) = (bytes.get(..end).unwrap_or_default(), bytes.get(end + 1..).unwrap_or_default());
    let header = std::str::from_utf8(header).map_err(|_| Damage::Header)?;
    let words: Vec<_> = header.split(' ').collect();
    let [name, version, written] = words.as_slice() else { return Err(Damage::Header) };
    if *name != NAME {
        return Err(Damage::Header);
    }
    if *version != VERSION {
        return Err(Damage::Version((*version).to_owned()));
    }
    if *written != digest(json) {
        return Err(Damage::Digest);
    }
    Ok(serde_json::from_slice(json)?)
}

/// SHA-256 of version and JSON, in lower case.
fn digest(json: &[u8]) -> String {
    let hash = Sha256::new().chain_update(VERSION).chain_update(json).finalize();
    hash.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
