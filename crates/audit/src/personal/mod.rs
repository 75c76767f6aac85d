//! Personal data: sealed on its way into a record, opened for those who hold the keys, erased by destroying
//! a key.
//!
//! The spool's writer seals ([`seal::Sealing`]) each value of a personal column under the key of the person
//! whose call it is, before the frame is made; so whatever is hashed, shipped and backed up is sealed. Keys
//! come from the key store ([`store::KeyStore`]) through a thread of their own ([`service`]), which makes
//! keys of its own while the store is away ([`pending`]). Readers open values again ([`open::Opener`]).
//!
//! Constraints and invariants:
//! - a sealed value is text, and in a JSON column a JSON string, so that a record keeps its shape:
//!   `p1.` for a known person, `d1.` for callers of one day who are not known;
//! - a value opens only in the record, the column and for the person for which it was sealed;
//! - a key is durable, in the key store or in the spool, before a frame that uses it is;
//! - the mapping of a person to an id, and the person's key, are kept together and destroyed together;
//! - nobody reads the key store without the master key, and no key is ever printed.

pub mod config;
pub(crate) mod keyring;
pub(crate) mod keys;
pub mod open;
pub(crate) mod pending;
pub(crate) mod seal;
pub(crate) mod service;
pub mod start;
pub mod store;
pub(crate) mod xaes;

use std::borrow::Cow;
use std::fmt;

use crate::columns::{COLUMNS, Source, Type};

pub use keys::KeyId;
pub use service::{KeyError, Person};

/// A personal value in the form in which it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed<'a>(Cow<'a, str>);

impl<'a> Sealed<'a> {
    /// Takes a value that is sealed already, from a frame or from the store.
    pub fn stored(text: impl Into<Cow<'a, str>>) -> Self {
        Self(text.into())
    }

    /// The form in which the value is kept.
    pub fn as_stored(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sealed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(..)")
    }
}

/// Which columns are sealed: those marked personal, and those that the operator adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    /// For each column of a frame, in order, how it is sealed.
    calls: Vec<Option<Field>>,
    /// Whether actions' objects are.
    pub(crate) object: Option<Field>,
}

/// How one column is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) json: bool,
}

impl Fields {
    /// The columns that are marked personal, and others by name.
    pub(crate) fn with(more: &[String]) -> Self {
        let field = |column: &crate::columns::Column| {
            let sealed = column.personal || more.iter().any(|name| name == column.name);
            sealed.then_some(Field { name: column.name, json: column.ty == Type::Json })
        };
        let calls = COLUMNS.iter().filter(|column| matches!(column.source, Source::Call(_))).map(field);
        let object = COLUMNS.iter().find(|column| matches!(column.source, Source::Object)).and_then(field);
        Self { calls: calls.collect(), object }
    }

    /// Whether an operator may have a column sealed: text and JSON about a call that nothing joins, groups or
    /// retains by.
    pub(crate) fn sealable(name: &str) -> bool {
        const MORE: &[&str] = &[
            "groups",
            "client_id",
            "credential_id",
            "user_agent",
            "object",
            "endpoint",
            "dag_id",
            "run_id",
            "task_id",
            "ext",
        ];
        MORE.contains(&name) || COLUMNS.iter().any(|column| column.personal && column.name == name)
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
