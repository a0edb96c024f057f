//! What goes to standard output.

use std::borrow::Cow;
use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

use super::Failure;

/// Prints a text. A reader that has seen enough (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("standard output").into())
        }
        _ => Ok(()),
    }
}

/// Prints a document as JSON.
pub(super) fn print_json(document: &impl Serialize) -> Result<(), Failure> {
    let mut text =
        serde_json::to_string_pretty(document).context("the document cannot be written as JSON")?;
    text.push('\n');
    print(&text)
}

/// The text with control characters, which a terminal would obey, shown as what they are: names and reasons may
/// come from a file or a backend.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) { text.escape_debug().to_string().into() } else { text.into() }
}
