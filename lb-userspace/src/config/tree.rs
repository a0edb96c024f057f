//! The file exactly as TOML says it, every value with its origin, and the overrides laid over it.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::Environment;
use super::problem::{Fault, Problem};

/// What the names of all overrides begin with.
const PREFIX: &str = "SLUICE_";
/// What stands between the keys in the name of an override.
const SEPARATOR: &str = "__";

/// Where something was written.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// At these bytes of the file.
    File(Range<usize>),
    /// In this environment variable.
    Variable(String),
}

/// A value and where it was written.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

/// A TOML value, or the text of an override, which takes the type that its key asks for.
#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Boolean(bool),
    /// A float or a date: no key takes one.
    Other(&'static str),
    Array(Vec<Node>),
    Table(Table),
    Override(String),
}

/// Keys with their own origins.
pub(super) type Table = BTreeMap<String, (Origin, Node)>;

impl Value {
    /// The type in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Override(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Boolean(_) => "a boolean",
            Self::Other(kind) => kind,
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

/// Takes over what `toml` has parsed.
pub(super) fn table(parsed: DeTable<'_>) -> Table {
    parsed
        .into_iter()
        .map(|(key, value)| {
            let origin = Origin::File(key.span());
            (key.into_inner().into_owned(), (origin, node(value)))
        })
        .collect()
}

fn node(parsed: toml::Spanned<DeValue<'_>>) -> Node {
    let origin = Origin::File(parsed.span());
    let value = match parsed.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        // Beyond 128 bits is beyond every range that a key has.
        DeValue::Integer(number) => {
            Value::Integer(i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX))
        }
        DeValue::Boolean(truth) => Value::Boolean(truth),
        DeValue::Float(_) => Value::Other("a float"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => Value::Array(items.into_iter().map(node).collect()),
        DeValue::Table(inner) => Value::Table(table(inner)),
    };
    Node { origin, value }
}

/// Lays every variable `SLUICE_SECTION__KEY` over the value that it names. A name that leads nowhere becomes
/// a problem here where the file has something else in the way, and an unknown key for the reader otherwise.
pub(super) fn lay_over(root: &mut Table, environment: &Environment) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, text) in environment {
        let Some(keys) = name.strip_prefix(PREFIX).filter(|keys| keys.contains(SEPARATOR)) else { continue };
        let layer = Override { name, keys: keys.split(SEPARATOR).collect(), text };
        let laid = if name.contains(|c: char| c.is_ascii_lowercase()) {
            let fault = Fault::new("the names of overrides are in upper case");
            Err(fault.hint(format!("use {}", name.to_uppercase())))
        } else {
            layer.lay_below(root, 0)
        };
        if let Err(fault) = laid {
            problems.push(Problem::variable(name, layer.path(layer.keys.len()), text, fault));
        }
    }
    problems
}

/// A variable, and the keys that its name is made of.
struct Override<'e> {
    name: &'e str,
    keys: Vec<&'e str>,
    text: &'e str,
}

impl Override<'_> {
    /// The first keys as a path: `service[0].name`.
    fn path(&self, keys: usize) -> String {
        self.keys.iter().take(keys).fold(String::new(), |path, key| match key.parse::<usize>() {
            Ok(index) => format!("{path}[{index}]"),
            Err(_) => join(&path, &key.to_lowercase()),
        })
    }

    fn is_index(&self, number: usize) -> bool {
        self.keys.get(number).is_some_and(|key| key.parse::<usize>().is_ok())
    }

    /// The fault of naming an entry, by the key with this number, that the file does not have.
    fn absent(&self, number: usize, hint: String) -> Fault {
        Fault::new(format!("the file has no {} to override", self.path(number + 1))).hint(hint)
    }

    fn node(&self, value: Value) -> Node {
        Node { origin: Origin::Variable(self.name.to_owned()), value }
    }

    /// Puts the text below `table`, from the key with this number on.
    fn lay_below(&self, table: &mut Table, number: usize) -> Result<(), Fault> {
        let Some(key) = self.keys.get(number) else { return Ok(()) };
        if self.is_index(number + 1) && !table.contains_key(&key.to_lowercase()) {
            return Err(self.absent(number + 1, NO_ENTRY.to_owned()));
        }
        let (_, node) = table.entry(key.to_lowercase()).or_insert_with(|| {
            (Origin::Variable(self.name.to_owned()), self.node(Value::Table(Table::new())))
        });
        self.lay_on(node, number + 1)
    }

    fn lay_on(&self, node: &mut Node, number: usize) -> Result<(), Fault> {
        let Some(key) = self.keys.get(number) else {
            *node = self.node(Value::Override(self.text.to_owned()));
            return Ok(());
        };
        let index = key.parse::<usize>().ok();
        match (&mut node.value, index) {
            (Value::Array(items), index) => {
                let last = items.len().checked_sub(1);
                match (index.and_then(|index| items.get_mut(index)), last) {
                    (Some(item), _) => self.lay_on(item, number + 1),
                    (None, Some(last)) => {
                        Err(self.absent(number, format!("the last one is {}[{last}]", self.path(number))))
                    }
                    (None, None) => Err(self.absent(number, NO_ENTRY.to_owned())),
                }
            }
            (Value::Table(_), Some(_)) => Err(self.absent(number, NO_ENTRY.to_owned())),
            (Value::Table(table), None) => self.lay_below(table, number),
            (other, _) => {
                let path = self.path(number);
                let fault = Fault::new(format!("{path} is {}, there is nothing below it", other.kind()));
                Err(fault.hint(format!("override {path} itself")))
            }
        }
    }
}

const NO_ENTRY: &str = "an override changes what the file has, it adds no entry";

/// A key below a path, quoted where TOML would ask for it.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
