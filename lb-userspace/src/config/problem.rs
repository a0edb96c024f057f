//! One thing that is wrong with a config, and how it prints.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that is wrong with a config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file as it was named; `environment variable NAME` where an override is at fault; empty where the
    /// file is fine but the running daemon cannot take it.
    pub file: String,
    /// 1-based; `None`: the fault is the whole file's (missing, unreadable, empty) or not in the file.
    pub line: Option<usize>,
    /// 1-based, in characters.
    pub column: Option<usize>,
    /// The key, such as `pool[0].backend[2].weight`; empty for the whole file.
    pub path: String,
    /// The value as written, where there is one and it is no secret.
    pub value: Option<String>,
    /// What is wrong with it.
    pub reason: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Problem {
    /// A fault of the file as a whole.
    pub(super) fn whole(file: &str, fault: Fault) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            column: None,
            path: String::new(),
            value: None,
            reason: fault.reason,
            hint: fault.hint,
        }
    }

    /// A config that is fine by itself, and contradicts what is pinned here.
    pub fn of_pins(error: &impl fmt::Display) -> Self {
        Self::whole("", Fault::new(error.to_string()))
    }

    /// A fault of the override in the environment variable `name`, which stands for the key `path`.
    pub(super) fn variable(name: &str, path: String, value: &str, fault: Fault) -> Self {
        let value = (!is_secret(&path)).then(|| format!("{value:?}"));
        Self { path, value, ..Self::whole(&format!("environment variable {name}"), fault) }
    }
}

impl fmt::Display for Problem {
    /// `config.toml:12:9: pool[0].backend[2].weight = 70000: is not within 0 to 65535 (hint: ...)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        if !self.file.is_empty() {
            f.write_str(": ")?;
        }
        if !self.path.is_empty() {
            f.write_str(&self.path)?;
            if let Some(value) = &self.value {
                write!(f, " = {value}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

/// Whether the value of this key, even of a misspelt one, must not reach a terminal, a log or the API.
pub(super) fn is_secret(path: &str) -> bool {
    let path = path.to_lowercase();
    ["hash", "seed", "token", "secret", "password", "headers"].iter().any(|word| path.contains(word))
        && !path.ends_with("token_file")
}

/// What is wrong with a value, before anybody knows where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: String,
    pub(super) hint: Option<String>,
}

impl Fault {
    /// A fault without a hint.
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None }
    }

    /// Adds what to write instead.
    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// The known word that was probably meant.
pub(super) fn nearest<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let written = written.trim().to_lowercase().replace('-', "_");
    let allowed = 1 + written.len() / 3;
    known
        .into_iter()
        .filter_map(|word| {
            let plain = word.replace('-', "_");
            let part = written.len() >= 3 && (plain.starts_with(&written) || written.starts_with(&plain));
            // A very long key cannot be a slip of a short one: not worth the quadratic comparison.
            let near = written.len() <= 3 * plain.len() && {
                let distance = strsim::damerau_levenshtein(&written, &plain);
                distance <= allowed && distance < plain.len()
            };
            (part || near).then(|| (strsim::damerau_levenshtein(&written, &plain), word))
        })
        .min()
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["weight", "address", "backup", "health", "xdp-generic"];
        for (written, meant) in [
            ("wieght", Some("weight")),
            ("Weight", Some("weight")),
            ("addr", Some("address")),
            ("health_check", Some("health")),
            ("xdp_generic", Some("xdp-generic")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, known), meant, "{written}");
        }
    }
}
