//! TOML syntax: every error of a file, not just the first, and what can still be read of the rest.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::problem::{Fault, Problem, is_secret};
use super::source::Source;
use super::tree::{self, Table, join};

/// Beyond so many errors the file is something else.
const MOST: usize = 20;
/// How many lines before an error its statement may begin.
const FARTHEST: usize = 400;

/// What a file holds.
pub(super) struct Parsed {
    /// Everything outside the faulty lines; `None` where an error leaves open what the lines after it mean.
    pub(super) root: Option<Table>,
    /// One for every faulty line.
    pub(super) problems: Vec<Problem>,
}

/// Parses, and on an error blanks its line and parses again, as long as that line alone is at fault.
pub(super) fn parse(source: &Source<'_>) -> Parsed {
    let mut text = source.text.to_owned();
    let mut problems = Vec::new();
    loop {
        let (tree, errors) = DeTable::parse_recoverable(&text);
        // Of several errors in one line the parser's first is the one that explains.
        let Some(error) = errors.iter().min_by_key(|error| source.line(offset(error)).start) else {
            return Parsed { root: Some(tree::table(tree.into_inner())), problems };
        };
        let fault = Faulty::new(source, &text, error);
        problems.push(fault.problem());
        if !fault.is_alone() || problems.len() == MOST {
            return Parsed { root: None, problems };
        }
        let line = fault.line;
        let blank = " ".repeat(line.len());
        text.replace_range(line, &blank);
    }
}

fn offset(error: &toml::de::Error) -> usize {
    error.span().map_or(0, |span| span.start)
}

/// A statement with a syntax error.
struct Faulty<'a> {
    source: &'a Source<'a>,
    error: &'a toml::de::Error,
    /// The line that the statement begins in.
    line: Range<usize>,
    /// The lines before it; `None` where no near line begins a statement.
    before: Option<toml::Spanned<DeTable<'a>>>,
}

impl<'a> Faulty<'a> {
    /// Goes back from the error to the line up to which everything is complete: a bracket or quote that was
    /// left open is noticed by the parser long after it.
    fn new(source: &'a Source<'a>, text: &'a str, error: &'a toml::de::Error) -> Self {
        let last = source.line(offset(error));
        let mut line = last.clone();
        for _ in 0..FARTHEST {
            if let Ok(tree) = DeTable::parse(text.get(..line.start).unwrap_or_default()) {
                return Self { source, error, line, before: Some(tree) };
            }
            line = source.line(line.start.saturating_sub(1));
        }
        Self { source, error, line: last, before: None }
    }

    fn text(&self) -> &'a str {
        self.source.text.get(self.line.clone()).unwrap_or_default()
    }

    /// Whether the error is in a later line than the statement's first.
    fn is_long(&self) -> bool {
        self.source.line(offset(self.error)) != self.line
    }

    /// Whether the other lines mean the same without this one.
    fn is_alone(&self) -> bool {
        let line = self.text();
        let count = |c: char| line.matches(c).count();
        self.before.is_some()
            && !self.is_long()
            && !line.trim_start().starts_with('[')
            && count('[') == count(']')
            && count('{') == count('}')
            && !line.contains("\"\"\"")
            && !line.contains("'''")
    }

    fn problem(&self) -> Problem {
        let (section, table) = match &self.before {
            Some(tree) => enclosing(tree.get_ref(), self.source.text),
            None => (String::new(), None),
        };
        let (key, value) = key_value(self.text());
        let path = match key {
            Some(key) if self.before.is_some() => join_dotted(&section, key),
            _ => header(self.text()).unwrap_or(section),
        };
        let first = key.zip(table).and_then(|(key, table)| table.get_key_value(key));
        let first = first.map(|(key, _)| self.source.position(key.span().start).0);
        let (at, fault) = self.fault(key, value, first, is_secret(&path));
        let (line, column) = self.source.position(at);
        Problem { line: Some(line), column: Some(column), path, ..Problem::whole(self.source.file, fault) }
    }

    /// What is wrong, and the offset to point at: the parser's words where it has no better ones.
    fn fault(
        &self,
        key: Option<&str>,
        value: Option<&str>,
        first: Option<usize>,
        secret: bool,
    ) -> (usize, Fault) {
        let text = self.text();
        let within = |part: &str| text.find(part).map_or(self.line.start, |start| self.line.start + start);
        let error = offset(self.error);
        let fault = Fault::new(format!("TOML syntax: {}", self.error.message()));
        if self.is_long() {
            let (line, _) = self.source.position(error);
            let fault = Fault::new(format!("{}, noticed in line {line}", fault.reason));
            return (
                within(text.trim_start()),
                fault.hint("is a quote or bracket that begins here left open?"),
            );
        }
        let Some(key) = key else { return (error, fault) };
        match (value, first) {
            (_, Some(first)) => {
                (error, fault.hint(format!("it is already in line {first}: delete one of the two")))
            }
            (None | Some(""), None) => {
                (error, Fault::new("TOML syntax: no value").hint(format!("write {key} = ...")))
            }
            (Some(value), None) if is_bare_text(value) => {
                let shown = if secret { "..." } else { value };
                let fault = Fault::new("TOML syntax: this is neither a number nor a string in quotes");
                (within(value), fault.hint(format!("as a string: {key} = {shown:?}")))
            }
            _ => (error, fault),
        }
    }
}

/// The table that the last header opened, with its path.
fn enclosing<'t, 'i>(root: &'t DeTable<'i>, text: &str) -> (String, Option<&'t DeTable<'i>>) {
    let mut last = (0, String::new(), Some(root));
    visit(root, "", text, &mut last);
    (last.1, last.2)
}

type Last<'t, 'i> = (usize, String, Option<&'t DeTable<'i>>);

fn visit<'t, 'i>(table: &'t DeTable<'i>, path: &str, text: &str, last: &mut Last<'t, 'i>) {
    for (key, value) in table {
        let path = join(path, key.get_ref());
        match value.get_ref() {
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    open(item, format!("{path}[{index}]"), text, last);
                }
            }
            _ => open(value, path, text, last),
        }
    }
}

fn open<'t, 'i>(value: &'t toml::Spanned<DeValue<'i>>, path: String, text: &str, last: &mut Last<'t, 'i>) {
    let DeValue::Table(table) = value.get_ref() else { return };
    visit(table, &path, text, last);
    let start = value.span().start;
    if text.get(start..).is_some_and(|text| text.starts_with('[')) && start >= last.0 {
        *last = (start, path, Some(table));
    }
}

/// `key = value # comment` taken apart, where it looks like that.
fn key_value(line: &str) -> (Option<&str>, Option<&str>) {
    let (key, value) = match line.split_once('=') {
        Some((key, value)) => (key, Some(value.split('#').next().unwrap_or_default().trim())),
        None => (line, None),
    };
    let key = key.trim();
    (is_dotted(key).then_some(key), value)
}

/// The name in `[name]` or `[[name]]`, whole or not.
fn header(line: &str) -> Option<String> {
    let name = line.trim().strip_prefix('[')?.trim_matches(['[', ']', ' ']);
    is_dotted(name).then(|| name.to_owned())
}

fn is_dotted(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

fn join_dotted(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// Whether quotes would make a string of it.
fn is_bare_text(value: &str) -> bool {
    value.starts_with(|c: char| c.is_alphanumeric() || "/$.".contains(c)) && !value.contains(['"', '\'', '='])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> (bool, Vec<String>) {
        let parsed = parse(&Source::new("f", text));
        (parsed.root.is_some(), parsed.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_faulty_line_is_found_and_the_rest_is_read() {
        let (read, found) = messages(
            "[kernel]\nflows = \n[[pool]]\nname = \"a\"\nname = \"b\"\n[[pool.backend]]\naddress = 10.0.0.1:80\n",
        );
        assert!(read);
        assert_eq!(
            found,
            [
                "f:2:9: kernel.flows: TOML syntax: no value (hint: write flows = ...)",
                "f:5:1: pool[0].name: TOML syntax: duplicate key (hint: it is already in line 4: delete one \
                 of the two)",
                "f:7:11: pool[0].backend[0].address: TOML syntax: this is neither a number nor a string in \
                 quotes (hint: as a string: address = \"10.0.0.1:80\")",
            ]
        );
    }

    #[test]
    fn an_open_bracket_is_blamed_where_it_stands() {
        for (text, start) in [
            ("[[service]]\n  listen = [\"a\",\n[kernel]\nflows = 1\n", "f:2:3: service[0].listen: "),
            ("a = [1,2\nb = 3\n", "f:1:1: a: "),
            ("a = 1\nb = \"\"\"x\nc=1\n", "f:2:1: b: "),
            ("[[a]]\nb = { c = 1\n[d]\ne = 1\n", "f:2:1: a[0].b: "),
        ] {
            let (read, found) = messages(text);
            assert!(!read, "{text}");
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(start), "{found:?}");
        }
    }

    #[test]
    fn a_file_of_something_else_ends_early() {
        let (read, found) = messages(&"hello world\n".repeat(1000));
        assert!(!read);
        assert_eq!(found.len(), MOST);
    }
}
