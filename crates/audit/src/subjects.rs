//! Who is behind a `subject_id`: a random id for each (issuer, subject), kept apart from the records.
//!
//! Constraints: lives in a file of its own, so that it can be backed up, and destroyed, apart from the
//! timeline. New ids are written in one transaction per batch of frames, which [`Subjects::commit`] makes
//! durable before the frames that use them are. The cache is bounded: two generations of
//! [`GENERATION_MAX`], the older of which is forgotten when the younger is full.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

/// Subjects in one generation of the cache.
const GENERATION_MAX: usize = 32_768;

/// The key store's mapping.
pub(crate) struct Subjects {
    connection: Connection,
    in_transaction: bool,
    young: HashMap<Box<str>, Uuid>,
    old: HashMap<Box<str>, Uuid>,
    key: String,
}

impl Subjects {
    /// Opens the mapping, and makes it when there is none.
    pub(crate) fn open(path: &Path) -> rusqlite::Result<Self> {
        Self::with(Connection::open(path)?)
    }

    #[cfg(test)]
    pub(crate) fn in_memory() -> rusqlite::Result<Self> {
        Self::with(Connection::open_in_memory()?)
    }

    fn with(connection: Connection) -> rusqlite::Result<Self> {
        connection.busy_timeout(crate::store::BUSY_WAIT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS subject (
                 issuer TEXT NOT NULL, subject TEXT NOT NULL, subject_id TEXT NOT NULL,
                 PRIMARY KEY (issuer, subject)
             ) WITHOUT ROWID",
        )?;
        let (young, old) = (HashMap::new(), HashMap::new());
        Ok(Self { connection, in_transaction: false, young, old, key: String::new() })
    }

    /// The id of a subject; a new one when it has none yet.
    pub(crate) fn id(&mut self, issuer: &str, subject: &str) -> rusqlite::Result<Uuid> {
        self.key.clear();
        self.key.push_str(issuer);
        self.key.push('\0');
        self.key.push_str(subject);
        if let Some(id) = self.young.get(self.key.as_str()) {
            return Ok(*id);
        }
        let id = match self.old.get(self.key.as_str()) {
            Some(id) => *id,
            None => self.find_or_make(issuer, subject)?,
        };
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(self.key.as_str().into(), id);
        Ok(id)
    }

    /// Makes the new ids durable.
    pub(crate) fn commit(&mut self) -> rusqlite::Result<()> {
        if self.in_transaction {
            self.connection.execute_batch("COMMIT")?;
            self.in_transaction = false;
        }
        Ok(())
    }

    /// Forgets the new ids of a batch that failed.
    pub(crate) fn roll_back(&mut self) {
        if self.in_transaction {
            // When this fails too, SQLite has rolled back by itself.
            let _ = self.connection.execute_batch("ROLLBACK");
            self.in_transaction = false;
            self.young.clear();
            self.old.clear();
        }
    }

    fn find_or_make(&mut self, issuer: &str, subject: &str) -> rusqlite::Result<Uuid> {
        if let Some(id) = self.find(issuer, subject)? {
            return Ok(id);
        }
        if !self.in_transaction {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
            self.in_transaction = true;
        }
        let id = Uuid::new_v4();
        self.connection
            .prepare_cached("INSERT INTO subject (issuer, subject, subject_id) VALUES (?1, ?2, ?3)")?
            .execute(params![issuer, subject, id.to_string()])?;
        Ok(id)
    }

    fn find(&self, issuer: &str, subject: &str) -> rusqlite::Result<Option<Uuid>> {
        let text: Option<String> = self
            .connection
            .prepare_cached("SELECT subject_id FROM subject WHERE issuer = ?1 AND subject = ?2")?
            .query_row(params![issuer, subject], |row| row.get(0))
            .optional()?;
        Ok(text.and_then(|text| Uuid::parse_str(&text).ok()))
    }
}
