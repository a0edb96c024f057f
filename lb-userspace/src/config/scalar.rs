//! One value as a string, a number or a truth value.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use super::Environment;
use super::expand::expand;
use super::problem::{Fault, nearest};
use super::tree::Value;

/// One value of the file or of an override.
pub(super) struct Scalar<'a> {
    pub(super) value: &'a Value,
    pub(super) environment: &'a Environment,
}

impl Scalar<'_> {
    /// A string, its variables expanded. `what` says in words what is wanted.
    pub(super) fn text(&self, what: &str) -> Result<Cow<'_, str>, Fault> {
        match self.value {
            Value::Text(text) => expand(text, self.environment),
            Value::Override(text) => Ok(Cow::Borrowed(text)),
            other => Err(Fault::new(format!("must be a string, not {}", other.kind())).hint(what)),
        }
    }

    /// An integer within a range.
    pub(super) fn integer(&self, range: &RangeInclusive<u32>) -> Result<u32, Fault> {
        let (least, most) = (range.start(), range.end());
        let hint = || format!("write a number from {least} to {most}");
        let outside = |hint: String| Fault::new(format!("is not within {least} to {most}")).hint(hint);
        let parsed = |text: &str| text.trim().replace('_', "").parse::<i128>();
        let number = match self.value {
            Value::Integer(number) => *number,
            Value::Override(text) => parsed(text).map_err(|_| outside(hint()))?,
            Value::Text(text) => {
                let number = parsed(text).map(|number| format!("write {number} without the quotes"));
                return Err(
                    Fault::new("must be an integer, not a string").hint(number.unwrap_or_else(|_| hint()))
                );
            }
            other => return Err(Fault::new(format!("must be an integer, not {}", other.kind())).hint(hint())),
        };
        match u32::try_from(number) {
            Ok(fitting) if range.contains(&fitting) => Ok(fitting),
            _ if number < i128::from(*least) => Err(outside(format!("write {least} or more"))),
            _ => Err(outside(format!("write {most} or less"))),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, Fault> {
        let hint = "write true or false, without quotes";
        match self.value {
            Value::Boolean(truth) => Ok(*truth),
            Value::Override(text) => {
                text.trim().parse().map_err(|_| Fault::new("is neither true nor false").hint(hint))
            }
            other => Err(Fault::new(format!("must be a boolean, not {}", other.kind())).hint(hint)),
        }
    }
}

/// What a word of the schema means.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word<T> {
    /// This.
    Is(T),
    /// It is in the design and not in this version; what to use instead.
    Later(&'static str),
}

/// Reads one of a few words.
pub(super) fn word<T: Copy>(
    words: &'static [(&'static str, Word<T>)],
) -> impl Fn(&Scalar<'_>) -> Result<T, Fault> {
    move |scalar| {
        // The first word is what one writes who has no special wish.
        let now = || words.iter().filter(|(_, word)| matches!(word, Word::Is(_))).map(|(name, _)| *name);
        let list = now().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        let one_of = if now().count() == 1 { list } else { format!("one of {list}") };
        let written = scalar.text(&format!("write {one_of}"))?;
        match words.iter().find(|(name, _)| *name == written) {
            Some((_, Word::Is(value))) => Ok(*value),
            Some((_, Word::Later(instead))) => Err(Fault::new("is not in this version yet").hint(*instead)),
            None => Err(Fault::new(format!("must be {one_of}")).hint(match nearest(&written, now()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("{:?} is the usual one", now().next().unwrap_or_default()),
            })),
        }
    }
}
