//! Collects problems and knows where every key was written.

use std::cell::RefCell;
use std::collections::HashMap;

use super::Environment;
use super::expand::expand;
use super::problem::{Fault, Problem, is_secret};
use super::source::Source;
use super::tree::{Node, Origin, Value};

/// Proof that a problem was reported: who holds it has no value, and need not say why.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reported(());

/// A value, or the proof that its problem is known.
pub(super) type Read<T> = Result<T, Reported>;

/// Collects problems and knows where every key was written.
pub(super) struct Report<'a> {
    source: &'a Source<'a>,
    pub(super) environment: &'a Environment,
    places: RefCell<HashMap<String, &'a Node>>,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Report<'a> {
    pub(super) fn new(source: &'a Source<'a>, environment: &'a Environment) -> Self {
        Self { source, environment, places: RefCell::default(), problems: RefCell::default() }
    }

    /// Remembers where `path` was written.
    pub(super) fn place(&self, path: &str, node: &'a Node) {
        self.places.borrow_mut().insert(path.to_owned(), node);
    }

    /// The path of one of several values of a key: the key's own where the file gives one value and no array.
    pub(super) fn entry(&self, path: String, index: usize) -> String {
        let entry = format!("{path}[{index}]");
        if self.places.borrow().contains_key(&entry) { entry } else { path }
    }

    /// Reports a fault of `path`, at its value; where the file has no such key, at what would hold it.
    pub(super) fn fault(&self, path: &str, fault: Fault) -> Reported {
        let places = self.places.borrow();
        if let Some(node) = places.get(path) {
            return self.fault_at(path, &node.origin, Some(node), fault);
        }
        let mut outer = path;
        while let Some(end) = outer.rfind(['.', '[']) {
            outer = outer.get(..end).unwrap_or_default();
            if let Some(node) = places.get(outer) {
                return self.fault_at(path, &node.origin, None, fault);
            }
        }
        self.push(Problem { path: path.to_owned(), ..Problem::whole(self.source.file, fault) })
    }

    /// Reports a fault at `origin`, with the value of `node`.
    pub(super) fn fault_at(
        &self,
        path: &str,
        origin: &Origin,
        node: Option<&Node>,
        mut fault: Fault,
    ) -> Reported {
        let value = node.filter(|_| !is_secret(path)).and_then(|node| self.written(node));
        if let (Some(Value::Text(text)), Some(_)) = (node.map(|node| &node.value), &value)
            && let Ok(expanded) = expand(text, self.environment)
            && expanded != *text
        {
            fault.reason = format!("{} (it expands to {expanded:?})", fault.reason);
        }
        let (file, position) = match origin {
            Origin::File(span) => (self.source.file.to_owned(), Some(self.source.position(span.start))),
            Origin::Variable(name) => (format!("environment variable {name}"), None),
        };
        self.push(Problem {
            file,
            line: position.map(|(line, _)| line),
            column: position.map(|(_, column)| column),
            path: path.to_owned(),
            value,
            reason: fault.reason,
            hint: fault.hint,
        })
    }

    fn written(&self, node: &Node) -> Option<String> {
        match (&node.value, &node.origin) {
            (Value::Override(text), _) => Some(format!("{text:?}")),
            (_, Origin::Variable(_)) => None,
            (value, Origin::File(span)) => {
                let written = self.source.written(span.clone())?;
                // What stands at a table is its header, or the first of its dotted keys.
                let is_value = match value {
                    Value::Table(_) => written.starts_with('{'),
                    Value::Array(_) => !written.starts_with("[["),
                    _ => true,
                };
                is_value.then_some(written)
            }
        }
    }

    fn push(&self, problem: Problem) -> Reported {
        self.problems.borrow_mut().push(problem);
        Reported(())
    }

    /// Everything reported so far.
    pub(super) fn take(&self) -> Vec<Problem> {
        self.problems.take()
    }
}
