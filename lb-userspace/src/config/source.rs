//! The text of a config file and where in it an offset lies.

use std::ops::Range;

/// How much of a value is repeated in a message.
const SHOWN: usize = 80;

/// The text of a config file, as it was named.
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        let line_starts =
            std::iter::once(0).chain(text.match_indices('\n').map(|(offset, _)| offset + 1)).collect();
        Self { file, text, line_starts }
    }

    /// Line and column of a byte offset, both 1-based, the column in characters.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|&start| start <= offset).max(1);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count());
        (line, column + 1)
    }

    /// The bytes of the line that an offset lies in, without its line end.
    pub(super) fn line(&self, offset: usize) -> Range<usize> {
        let line = self.line_starts.partition_point(|&start| start <= offset).max(1);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let end = self.line_starts.get(line).map_or(self.text.len(), |next| next - 1);
        start..end
    }

    /// A value as it was written: its first line, cut where it is long.
    pub(super) fn written(&self, span: Range<usize>) -> Option<String> {
        let whole = self.text.get(span)?;
        let first = whole.lines().next()?;
        let shown: String = first.chars().take(SHOWN).collect();
        Some(if shown.len() < whole.len() { format!("{shown}...") } else { shown })
    }
}

#[cfg(test)]
mod tests {
    use super::Source;

    #[test]
    fn positions_count_characters() {
        let source = Source::new("f", "a = 1\nü = \"é\" # x\n");
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(4), (1, 5));
        assert_eq!(source.position(6), (2, 1));
        assert_eq!(source.position(source.text.find('é').unwrap()), (2, 6));
        assert_eq!(source.position(source.text.len()), (3, 1));
        assert_eq!(&source.text[source.line(8)], "ü = \"é\" # x");
        assert_eq!(source.written(0..8).as_deref(), Some("a = 1..."));
    }
}
