//! Where keys and mappings are kept, apart from the records: a SQLite file, or a PostgreSQL schema.
//!
//! Four tables. `root_key`: the root key, wrapped under each master key in use. `subject`: for each person
//! (and for each day's unknown callers) a random id, the wrapped key, and the mapping sealed under that key;
//! found by a keyed hash of (issuer, subject). `name`: more keyed hashes by which somebody is found.
//! `erased`: ids whose key was destroyed.
//!
//! Invariants: one row of `subject` for each identity is the first, which all gateways use; others are of
//! gateways that were cut off, and mean the same person. What [`KeyStore::erase`] removes leaves no bytes in
//! the store's own files. An id that was erased never comes back.

pub(crate) mod postgres;
pub(crate) mod sqlite;

use uuid::Uuid;

use super::keys::{KeyId, Lookup};

/// Rows that one call hands over at most.
pub(crate) const ROWS_MAX: usize = 1_024;

/// Why the key store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// It cannot be reached, now; keys are made locally until it can.
    #[error("the key store is away: {0}")]
    Away(String),
    /// It can be reached and not used.
    #[error("the key store cannot be used: {0}")]
    Unusable(String),
    /// The keys were destroyed, and their bytes may still be in the file.
    #[error(
        "the keys were removed, but {0}: their bytes may still stand in the key store's files; do it again, with \
         `--subject-id` for a person"
    )]
    Remains(String),
}

/// A person, or a day, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubjectRow {
    /// The random id.
    pub(crate) id: Uuid,
    /// The keyed hash of whose id it is.
    pub(crate) identity: Lookup,
    /// The day, of a key for unknown callers: days since 1970.
    pub(crate) day: Option<i64>,
    /// The key, wrapped.
    pub(crate) key: Vec<u8>,
    /// The mapping, sealed under the key.
    pub(crate) person: Vec<u8>,
    /// When it was made, microseconds.
    pub(crate) created_us: i64,
}

/// That somebody was erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Erasure {
    /// The id that was theirs.
    pub(crate) id: Uuid,
    /// When, microseconds.
    pub(crate) at_us: i64,
}

/// A row to be kept, with the names by which it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewSubject {
    pub(crate) row: SubjectRow,
    pub(crate) names: Vec<Lookup>,
}

/// What became of a row that a gateway made while it was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Imported {
    /// It is the identity's first.
    First,
    /// The identity had one: it is a further id of the same person.
    Further,
    /// The person was erased after it was made; so is it.
    Erased,
}

/// What is known of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Its key.
    Kept(SubjectRow),
    /// Its key was destroyed, at this time.
    Erased(i64),
    /// Nothing.
    Unknown,
}

/// A mapping of the first version, which stood in clear: issuer, subject, id.
pub(crate) type Plain = (String, String, Uuid);

/// The key store. It is called from one thread, and may block.
pub(crate) trait KeyStore: Send {
    /// Turns mappings of the first version into rows made by `seal`, all of them or none, and wipes the old
    /// ones. How many there were.
    fn upgrade(&mut self, _seal: &dyn Fn(&Plain) -> Option<NewSubject>) -> Result<usize, KeyStoreError> {
        Ok(0)
    }

    /// The root key's wrapped forms, by master key.
    fn roots(&mut self) -> Result<Vec<(KeyId, Vec<u8>)>, KeyStoreError>;

    /// Keeps the first root key, unless there is one; gives back what there is then.
    fn found(&mut self, id: &KeyId, wrapped: &[u8]) -> Result<Vec<(KeyId, Vec<u8>)>, KeyStoreError>;

    /// Keeps one more wrapped form of the root key, and removes all others but those of `keep`.
    fn rewrap(&mut self, id: &KeyId, wrapped: &[u8], keep: &[KeyId]) -> Result<(), KeyStoreError>;

    /// The first rows of these identities.
    fn find(&mut self, identities: &[Lookup]) -> Result<Vec<Option<SubjectRow>>, KeyStoreError>;

    /// The latest erasure of each identity: the id, and when. Those of long ago are forgotten.
    fn erasures(&mut self, identities: &[Lookup]) -> Result<Vec<Option<Erasure>>, KeyStoreError>;

    /// Keeps each row whose identity has none yet. Gives back, in order, the row that is each identity's
    /// first; durable when it returns.
    fn agree(&mut self, rows: &[NewSubject]) -> Result<Vec<SubjectRow>, KeyStoreError>;

    /// Takes over rows that were made while the store was away. Safe to repeat.
    fn import(&mut self, rows: &[NewSubject]) -> Result<Vec<Imported>, KeyStoreError>;

    /// Adds a name to a person, and keeps the mapping that has it.
    fn rename(&mut self, id: Uuid, names: &[Lookup], person: &[u8]) -> Result<(), KeyStoreError>;

    /// The ids that a name leads to, erased ones not.
    fn named(&mut self, name: &Lookup) -> Result<Vec<Uuid>, KeyStoreError>;

    /// All rows of one identity.
    fn all_of(&mut self, identity: &Lookup) -> Result<Vec<SubjectRow>, KeyStoreError>;

    /// What is known of an id.
    fn known(&mut self, id: Uuid) -> Result<Known, KeyStoreError>;

    /// Destroys keys, mappings and names; only that the ids are erased is kept.
    fn erase(&mut self, ids: &[Uuid], at_us: i64) -> Result<(), KeyStoreError>;

    /// Erasures since a number that this gave earlier (0: from the beginning): the number now, and the ids,
    /// at most [`ROWS_MAX`] at a time.
    fn erased_since(&mut self, number: i64) -> Result<(i64, Vec<Uuid>), KeyStoreError>;

    /// Destroys the keys of days before this one, and forgets whose erasures before a time were.
    fn expire(&mut self, day: Option<i64>, erased_before_us: i64) -> Result<usize, KeyStoreError>;
}
