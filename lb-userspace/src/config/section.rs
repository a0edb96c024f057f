//! Reads one table key by key, remembers which keys it was asked for, and reports the others.

use super::problem::{Fault, nearest};
use super::report::{Read, Report, Reported};
use super::scalar::Scalar;
use super::tree::{Node, Origin, Table, Value, join};

/// One table of the file. A table that the file does not have is empty: all keys take their defaults.
pub(super) struct Section<'r, 'a> {
    pub(super) report: &'r Report<'a>,
    pub(super) path: String,
    table: Option<&'a Table>,
    known: Vec<&'static str>,
    refused: Vec<&'static str>,
}

/// What a key holds that takes one value or an array of values and tables.
pub(super) enum Mixed<'r, 'a> {
    /// One value: its path.
    One(String, &'a Node),
    /// An array.
    Many(Vec<Entry<'r, 'a>>),
}

/// One entry of such an array.
pub(super) enum Entry<'r, 'a> {
    /// A value with its path.
    Scalar(String, &'a Node),
    /// A table.
    Table(Section<'r, 'a>),
}

impl<'r, 'a> Section<'r, 'a> {
    pub(super) fn new(report: &'r Report<'a>, path: String, table: Option<&'a Table>) -> Self {
        Self { report, path, table, known: Vec::new(), refused: Vec::new() }
    }

    /// The path of a key of this table.
    pub(super) fn at(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Whether the file has this table.
    pub(super) const fn is_written(&self) -> bool {
        self.table.is_some()
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        let (_, node) = self.table?.get(key)?;
        self.report.place(&self.at(key), node);
        Some(node)
    }

    /// A key without a default.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&Scalar<'_>) -> Result<T, Fault>,
    ) -> Read<Option<T>> {
        match self.take(key) {
            Some(node) => self.scalar(&self.at(key), node, &read).map(Some),
            None => Ok(None),
        }
    }

    /// A key with a default, which also stands in for a faulty value while the rest is checked.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl Fn(&Scalar<'_>) -> Result<T, Fault>,
    ) -> T {
        self.optional(key, read).ok().flatten().unwrap_or(default)
    }

    /// A key that has to be there.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl Fn(&Scalar<'_>) -> Result<T, Fault>,
    ) -> Read<T> {
        self.optional(key, read)?.ok_or_else(|| self.missing(key, example))
    }

    /// One value or an array of them; has to be there.
    pub(super) fn one_or_more<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl Fn(&Scalar<'_>) -> Result<T, Fault>,
    ) -> Read<Vec<T>> {
        let list = self.list(key, read)?.ok_or_else(|| self.missing(key, example))?;
        if list.is_empty() {
            let fault = Fault::new("is empty").hint(format!("write {key} = {example}"));
            return Err(self.report.fault(&self.at(key), fault));
        }
        Ok(list)
    }

    /// One value or an array of them.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&Scalar<'_>) -> Result<T, Fault>,
    ) -> Read<Option<Vec<T>>> {
        let Some(node) = self.take(key) else { return Ok(None) };
        let path = self.at(key);
        let Value::Array(items) = &node.value else {
            return Ok(Some(vec![self.scalar(&path, node, &read)?]));
        };
        // All of them are read before the first faulty one ends it.
        let read: Vec<Read<T>> = items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                let path = format!("{path}[{index}]");
                self.report.place(&path, item);
                self.scalar(&path, item, &read)
            })
            .collect();
        read.into_iter().collect::<Read<Vec<T>>>().map(Some)
    }

    fn missing(&self, key: &str, example: &str) -> Reported {
        let fault = Fault::new("is missing").hint(format!("write {key} = {example}"));
        self.report.fault(&self.at(key), fault)
    }

    /// Reads one value.
    pub(super) fn scalar<T>(
        &self,
        path: &str,
        node: &Node,
        read: &impl Fn(&Scalar<'_>) -> Result<T, Fault>,
    ) -> Read<T> {
        let scalar = Scalar { value: &node.value, environment: self.report.environment };
        read(&scalar).map_err(|fault| self.report.fault(path, fault))
    }

    /// A table below this one whose keys are not the schema's: its entries, unless one of them is faulty.
    pub(super) fn entries<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str, &Scalar<'_>) -> Result<T, Fault>,
    ) -> Read<Option<Vec<T>>> {
        let Some(node) = self.take(key) else { return Ok(None) };
        let path = self.at(key);
        let Value::Table(table) = &node.value else {
            let fault = Fault::new(format!("must be a table, not {}", node.value.kind()));
            return Err(self
                .report
                .fault(&path, fault.hint(format!("write {key} = {{ Name = \"value\" }}"))));
        };
        let read: Vec<Read<T>> = table
            .iter()
            .map(|(name, (_, node))| {
                let path = join(&path, name);
                self.report.place(&path, node);
                self.scalar(&path, node, &|scalar: &Scalar<'_>| read(name, scalar))
            })
            .collect();
        read.into_iter().collect::<Read<Vec<T>>>().map(Some)
    }

    /// A table below this one.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'r, 'a> {
        let path = self.at(key);
        let table = self.take(key).and_then(|node| match &node.value {
            Value::Table(table) => Some(table),
            other => {
                let fault = Fault::new(format!("must be a table, not {}", other.kind()));
                self.report.fault(&path, fault.hint(format!("write [{}]", header(&path))));
                None
            }
        });
        Section::new(self.report, path, table)
    }

    /// An array of tables below this one.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'r, 'a>> {
        let path = self.at(key);
        match self.take(key).map(|node| &node.value) {
            None => Vec::new(),
            Some(Value::Array(items)) => items
                .iter()
                .enumerate()
                .filter_map(|(index, item)| self.item(format!("{path}[{index}]"), item))
                .collect(),
            Some(other) => {
                let fault = Fault::new(format!("must be an array of tables, not {}", other.kind()));
                self.report
                    .fault(&path, fault.hint(format!("write [[{}]] in double brackets", header(&path))));
                Vec::new()
            }
        }
    }

    /// What `key` holds, where it may be a value or an array of values and tables.
    pub(super) fn mixed(&mut self, key: &'static str) -> Option<Mixed<'r, 'a>> {
        let path = self.at(key);
        let node = self.take(key)?;
        let Value::Array(items) = &node.value else { return Some(Mixed::One(path, node)) };
        let entries = items.iter().enumerate().map(|(index, item)| {
            let path = format!("{path}[{index}]");
            self.report.place(&path, item);
            match &item.value {
                Value::Table(table) => Entry::Table(Section::new(self.report, path, Some(table))),
                _ => Entry::Scalar(path, item),
            }
        });
        Some(Mixed::Many(entries.collect()))
    }

    fn item(&self, path: String, item: &'a Node) -> Option<Section<'r, 'a>> {
        self.report.place(&path, item);
        let Value::Table(table) = &item.value else {
            let fault = Fault::new(format!("must be a table, not {}", item.value.kind()));
            self.report.fault(&path, fault.hint(format!("write [[{}]]", header(&path))));
            return None;
        };
        Some(Section::new(self.report, path, Some(table)))
    }

    /// A key that the design has and this version has not.
    pub(super) fn later(&mut self, key: &'static str, instead: &str) {
        self.refused.push(key);
        let Some((origin, _)) = self.table.and_then(|table| table.get(key)) else { return };
        let fault = Fault::new("is not in this version yet").hint(instead);
        self.report.fault_at(&self.at(key), origin, None, fault);
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        for (key, (origin, node)) in self.table.into_iter().flatten() {
            if self.known.contains(&key.as_str()) || self.refused.contains(&key.as_str()) {
                continue;
            }
            let is_override = matches!(origin, Origin::Variable(_));
            let case = |word: &str| if is_override { word.to_uppercase() } else { word.to_owned() };
            let hint = match nearest(key, self.known.iter().copied()) {
                Some(known) => format!("did you mean {}?", case(known)),
                None => format!("known here: {}", case(&self.known.join(", "))),
            };
            let fault = Fault::new("unknown key").hint(hint);
            self.report.fault_at(&self.at(key), origin, Some(node), fault);
        }
    }
}

/// The header that TOML wants for a path: indexes are not written.
fn header(path: &str) -> String {
    path.split('.').map(|key| key.split('[').next().unwrap_or(key)).collect::<Vec<_>>().join(".")
}
