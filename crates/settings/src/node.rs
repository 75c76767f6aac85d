//! The tree: scalars, sequences and mappings, each with its place in a file.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::de;
use crate::problem::Problem;

/// A place in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One node of the tree.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) position: Position,
    pub(crate) trail: Trail,
    pub(crate) kind: NodeKind,
}

#[derive(Clone, Debug)]
pub(crate) enum NodeKind {
    /// The text; `plain` when it stands without quotes, so that `null`, `true` and `1` can be read as such.
    Scalar {
        text: Box<str>,
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// One key of a mapping, with its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: Box<str>,
    /// Where the key stands.
    pub key_position: Position,
    /// The value.
    pub value: Node,
}

impl Node {
    /// Where the node stands.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The key path: `grants.analysts.allow[1]`; empty for the whole document.
    pub fn path(&self) -> String {
        self.trail.to_string()
    }

    /// The value of a key; `None` when there is none, or when this is no mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| &*entry.key == key).map(|entry| &entry.value)
    }

    /// The keys and values of a mapping in file order; empty for anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.kind {
            NodeKind::Mapping(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a sequence; empty for anything else.
    pub fn items(&self) -> &[Node] {
        match &self.kind {
            NodeKind::Sequence(items) => items,
            _ => &[],
        }
    }

    /// Whether this is a mapping.
    pub fn is_mapping(&self) -> bool {
        matches!(self.kind, NodeKind::Mapping(_))
    }

    /// Whether this is a sequence.
    pub fn is_sequence(&self) -> bool {
        matches!(self.kind, NodeKind::Sequence(_))
    }

    /// Whether nothing is here: an empty plain scalar, `~` or `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.kind, NodeKind::Scalar { text, plain: true } if matches!(&**text, "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The text of a scalar.
    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            NodeKind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Reads the node as a `T`. Every error has the place and the key path of what it is about.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        T::deserialize(de::NodeDeserializer::new(self)).map_err(|error| error.into_problem(self))
    }

    /// A problem with this node.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::at(&self.position, self.path(), message)
    }

    pub(crate) fn sort(&self) -> &'static str {
        match &self.kind {
            NodeKind::Mapping(_) => "a mapping",
            NodeKind::Sequence(_) => "a list",
            NodeKind::Scalar { .. } if self.is_null() => "nothing",
            NodeKind::Scalar { .. } => "text",
        }
    }
}

impl Entry {
    /// A problem with this key.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::at(&self.key_position, self.value.path(), message)
    }
}

/// The way to a node. Steps are shared, so that a deep tree with long keys does not cost its square.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trail(Option<Arc<Step>>);

#[derive(Debug)]
struct Step {
    parent: Trail,
    name: StepName,
}

#[derive(Debug)]
enum StepName {
    Key(Box<str>),
    Index(usize),
}

impl Trail {
    pub(crate) fn key(&self, key: &str) -> Self {
        Self(Some(Arc::new(Step { parent: self.clone(), name: StepName::Key(key.into()) })))
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        Self(Some(Arc::new(Step { parent: self.clone(), name: StepName::Index(index) })))
    }
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(step) = &self.0 else { return Ok(()) };
        step.parent.fmt(f)?;
        match &step.name {
            StepName::Key(key) if step.parent.0.is_none() => f.write_str(key),
            StepName::Key(key) => write!(f, ".{key}"),
            StepName::Index(index) => write!(f, "[{index}]"),
        }
    }
}
