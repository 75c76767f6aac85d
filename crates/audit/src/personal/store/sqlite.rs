//! The key store as a SQLite file, which all gateways of one machine may share.
//!
//! Constraints: `secure_delete` is on, so what is deleted is overwritten; an erasure also rewrites the file
//! (`VACUUM`) and empties the write-ahead log. A file of the first version, which held the mapping in clear,
//! is upgraded as soon as there is a root key to seal it under.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use super::super::keys::{KeyId, Lookup};
use super::{Erasure, Imported, KeyStore, KeyStoreError, Known, NewSubject, Plain, ROWS_MAX, SubjectRow};
use crate::spool::files::make_private;

/// How long another gateway's lock is waited for.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// The version of the tables, in the file's `user_version`.
const VERSION: i64 = 2;
/// How often emptying the write-ahead log is tried while others read.
const TRUNCATE_TRIES: u32 = 50;
/// How long between two tries.
const TRUNCATE_PAUSE: Duration = Duration::from_millis(100);

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS root_key (master_key_id TEXT PRIMARY KEY, wrapped BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS subject (
    subject_id BLOB PRIMARY KEY, identity BLOB NOT NULL, first INTEGER NOT NULL, day INTEGER,
    key BLOB NOT NULL, person BLOB NOT NULL, created_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS subject_first ON subject (identity) WHERE first = 1;
CREATE INDEX IF NOT EXISTS subject_identity ON subject (identity);
CREATE TABLE IF NOT EXISTS name (
    lookup BLOB NOT NULL, subject_id BLOB NOT NULL, PRIMARY KEY (lookup, subject_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS name_subject ON name (subject_id);
CREATE TABLE IF NOT EXISTS erased (
    subject_id BLOB PRIMARY KEY, identity BLOB, erased_us INTEGER NOT NULL, number INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS erased_number ON erased (number);
";

const COLUMNS: &str = "subject_id, identity, day, key, person, created_us";

/// The file.
pub(crate) struct SqliteKeys {
    connection: Connection,
    path: PathBuf,
}

impl SqliteKeys {
    /// Opens the file, and makes it when there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, KeyStoreError> {
        let unusable = |cause: String| KeyStoreError::Unusable(format!("{}: {cause}", path.display()));
        make_private(path).map_err(|error| unusable(error.to_string()))?;
        Self::with(path).map_err(|error| match KeyStoreError::from(error) {
            KeyStoreError::Unusable(cause) => unusable(cause),
            other => other,
        })
    }

    fn with(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_WAIT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "secure_delete", true)?;
        let mut keys = Self { connection, path: path.to_owned() };
        keys.make_tables()?;
        Ok(keys)
    }

    /// One that lives as long as its connection.
    #[cfg(test)]
    pub(crate) fn in_memory() -> rusqlite::Result<Self> {
        let connection = Connection::open_in_memory()?;
        let mut keys = Self { connection, path: PathBuf::new() };
        keys.make_tables()?;
        Ok(keys)
    }

    fn make_tables(&mut self) -> rusqlite::Result<()> {
        if self.version()? == VERSION {
            return Ok(());
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version < VERSION {
            if has_plain(&transaction)? {
                transaction.execute_batch("ALTER TABLE subject RENAME TO plain_subject")?;
            }
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        transaction.commit()
    }

    fn version(&self) -> rusqlite::Result<i64> {
        self.connection.pragma_query_value(None, "user_version", |row| row.get(0))
    }

    /// Rewrites the file without what was deleted, and empties the write-ahead log.
    fn wipe(&self) -> Result<(), KeyStoreError> {
        let remains = |cause: String| KeyStoreError::Remains(format!("{}: {cause}", self.path.display()));
        self.connection.execute_batch("VACUUM").map_err(|error| remains(error.to_string()))?;
        for _ in 0..TRUNCATE_TRIES {
            let busy: i64 = self
                .connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
                .map_err(|error| remains(error.to_string()))?;
            if busy == 0 {
                return Ok(());
            }
            std::thread::park_timeout(TRUNCATE_PAUSE);
        }
        Err(remains("the write-ahead log is in use by another process".to_owned()))
    }

    fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, KeyStoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }
}

impl From<rusqlite::Error> for KeyStoreError {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error.sqlite_error_code() {
            // Waiting helps: another process has the lock, the disk is full, the volume is away.
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly,
            ) => Self::Away(text),
            _ => Self::Unusable(text),
        }
    }
}

impl KeyStore for SqliteKeys {
    fn upgrade(&mut self, seal: &dyn Fn(&Plain) -> Option<NewSubject>) -> Result<usize, KeyStoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if !exists(&transaction, "plain_subject")? {
            return Ok(0);
        }
        let mut upgraded = 0;
        {
            let mut plain = transaction.prepare("SELECT issuer, subject, subject_id FROM plain_subject")?;
            let mut rows = plain.query([])?;
            while let Some(row) = rows.next()? {
                let id = Uuid::parse_str(&row.get::<_, String>(2)?).unwrap_or_else(|_| Uuid::new_v4());
                let sealed = seal(&(row.get(0)?, row.get(1)?, id));
                let sealed =
                    sealed.ok_or_else(|| KeyStoreError::Unusable("a mapping cannot be sealed".into()))?;
                insert(&transaction, &sealed, true)?;
                upgraded += 1;
            }
        }
        transaction.execute_batch("DROP TABLE plain_subject")?;
        transaction.commit()?;
        self.wipe()?;
        Ok(upgraded)
    }

    fn roots(&mut self) -> Result<Vec<(KeyId, Vec<u8>)>, KeyStoreError> {
        Ok(roots(&self.connection)?)
    }

    fn found(&mut self, id: &KeyId, wrapped: &[u8]) -> Result<Vec<(KeyId, Vec<u8>)>, KeyStoreError> {
        self.write(|transaction| {
            transaction.execute(
                "INSERT INTO root_key SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM root_key)",
                params![id.as_str(), wrapped],
            )?;
            roots(transaction)
        })
    }

    fn rewrap(&mut self, id: &KeyId, wrapped: &[u8], keep: &[KeyId]) -> Result<(), KeyStoreError> {
        self.write(|transaction| {
            transaction.execute(
                "INSERT INTO root_key VALUES (?1, ?2) ON CONFLICT (master_key_id) DO NOTHING",
                params![id.as_str(), wrapped],
            )?;
            for (other, _) in roots(transaction)? {
                if other != *id && !keep.contains(&other) {
                    transaction.execute("DELETE FROM root_key WHERE master_key_id = ?1", [other.as_str()])?;
                }
            }
            Ok(())
        })?;
        self.wipe()
    }

    fn find(&mut self, identities: &[Lookup]) -> Result<Vec<Option<SubjectRow>>, KeyStoreError> {
        identities.iter().map(|identity| Ok(first(&self.connection, identity)?)).collect()
    }

    fn erasures(&mut self, identities: &[Lookup]) -> Result<Vec<Option<Erasure>>, KeyStoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT subject_id, erased_us FROM erased WHERE identity = ?1 ORDER BY erased_us DESC LIMIT 1",
        )?;
        let mut of = |identity: &Lookup| {
            let found =
                statement.query_row([identity.0], |row| Ok(Erasure { id: id(row, 0)?, at_us: row.get(1)? }));
            Ok(found.optional()?)
        };
        identities.iter().map(&mut of).collect()
    }

    fn agree(&mut self, rows: &[NewSubject]) -> Result<Vec<SubjectRow>, KeyStoreError> {
        self.write(|transaction| {
            rows.iter()
                .map(|new| match first(transaction, &new.row.identity)? {
                    Some(other) => Ok(other),
                    None => {
                        insert(transaction, new, true)?;
                        Ok(new.row.clone())
                    }
                })
                .collect()
        })
    }

    fn import(&mut self, rows: &[NewSubject]) -> Result<Vec<Imported>, KeyStoreError> {
        self.write(|transaction| rows.iter().map(|new| import(transaction, new)).collect())
    }

    fn rename(&mut self, id: Uuid, names: &[Lookup], person: &[u8]) -> Result<(), KeyStoreError> {
        self.write(|transaction| {
            let changed = transaction.execute(
                "UPDATE subject SET person = ?2 WHERE subject_id = ?1",
                params![id.as_bytes(), person],
            )?;
            // A person who has been erased in the meantime gets no names.
            if changed > 0 {
                put_names(transaction, id, names)?;
            }
            Ok(())
        })
    }

    fn named(&mut self, name: &Lookup) -> Result<Vec<Uuid>, KeyStoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT subject_id FROM name WHERE lookup = ?1 LIMIT ?2")?;
        let ids = statement.query_map(params![name.0, limit()], |row| id(row, 0))?;
        Ok(ids.collect::<rusqlite::Result<_>>()?)
    }

    fn all_of(&mut self, identity: &Lookup) -> Result<Vec<SubjectRow>, KeyStoreError> {
        let sql = format!("SELECT {COLUMNS} FROM subject WHERE identity = ?1 LIMIT ?2");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params![identity.0, limit()], subject)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn known(&mut self, id: Uuid) -> Result<Known, KeyStoreError> {
        let sql = format!("SELECT {COLUMNS} FROM subject WHERE subject_id = ?1");
        let row = self.connection.prepare_cached(&sql)?.query_row([id.as_bytes()], subject).optional()?;
        if let Some(row) = row {
            return Ok(Known::Kept(row));
        }
        let at: Option<i64> = self
            .connection
            .prepare_cached("SELECT erased_us FROM erased WHERE subject_id = ?1")?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()?;
        Ok(at.map_or(Known::Unknown, Known::Erased))
    }

    fn erase(&mut self, ids: &[Uuid], at_us: i64) -> Result<(), KeyStoreError> {
        self.write(|transaction| {
            for id in ids {
                transaction.execute(
                    "INSERT INTO erased SELECT ?1, (SELECT identity FROM subject WHERE subject_id = ?1), ?2,
                     (SELECT coalesce(max(number), 0) + 1 FROM erased) ON CONFLICT (subject_id) DO NOTHING",
                    params![id.as_bytes(), at_us],
                )?;
                transaction.execute("DELETE FROM name WHERE subject_id = ?1", [id.as_bytes()])?;
                transaction.execute("DELETE FROM subject WHERE subject_id = ?1", [id.as_bytes()])?;
            }
            Ok(())
        })?;
        self.wipe()
    }

    fn erased_since(&mut self, number: i64) -> Result<(i64, Vec<Uuid>), KeyStoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT subject_id, number FROM erased WHERE number > ?1 ORDER BY number LIMIT ?2",
        )?;
        let rows = statement.query_map(params![number, limit()], |row| Ok((id(row, 0)?, row.get(1)?)))?;
        let rows: Vec<(Uuid, i64)> = rows.collect::<rusqlite::Result<_>>()?;
        let last = rows.last().map_or(number, |(_, last)| *last);
        Ok((last, rows.into_iter().map(|(id, _)| id).collect()))
    }

    fn expire(&mut self, day: Option<i64>, erased_before_us: i64) -> Result<usize, KeyStoreError> {
        let expired = self.write(|transaction| {
            let days = match day {
                Some(day) => transaction.execute("DELETE FROM subject WHERE day < ?1", [day])?,
                None => 0,
            };
            let forgotten = transaction.execute(
                "UPDATE erased SET identity = NULL WHERE identity IS NOT NULL AND erased_us < ?1",
                [erased_before_us],
            )?;
            Ok(days + forgotten)
        })?;
        if expired > 0 {
            self.wipe()?;
        }
        Ok(expired)
    }
}

fn limit() -> i64 {
    i64::try_from(ROWS_MAX).unwrap_or(i64::MAX)
}

fn exists(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1)",
        [table],
        |row| row.get(0),
    )
}

/// Whether there is a table of the first version.
fn has_plain(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM pragma_table_info('subject') WHERE name = 'issuer')",
        [],
        |row| row.get(0),
    )
}

fn roots(connection: &Connection) -> rusqlite::Result<Vec<(KeyId, Vec<u8>)>> {
    let mut statement = connection
        .prepare_cached("SELECT master_key_id, wrapped FROM root_key ORDER BY master_key_id LIMIT ?1")?;
    let rows = statement.query_map([limit()], |row| {
        let id: String = row.get(0)?;
        Ok((KeyId::stored(&id), row.get(1)?))
    })?;
    rows.collect()
}

fn first(connection: &Connection, identity: &Lookup) -> rusqlite::Result<Option<SubjectRow>> {
    let sql = format!("SELECT {COLUMNS} FROM subject WHERE identity = ?1 AND first = 1");
    connection.prepare_cached(&sql)?.query_row([identity.0], subject).optional()
}

fn import(transaction: &Transaction<'_>, new: &NewSubject) -> rusqlite::Result<Imported> {
    let row = &new.row;
    let erased: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM erased WHERE subject_id = ?1 OR (identity = ?2 AND erased_us >= ?3))",
        params![row.id.as_bytes(), row.identity.0, row.created_us],
        |row| row.get(0),
    )?;
    if erased {
        // Its own id is told to be erased too, so that readers say so.
        transaction.execute(
            "INSERT INTO erased SELECT ?1, NULL, ?2, (SELECT coalesce(max(number), 0) + 1 FROM erased)
             ON CONFLICT (subject_id) DO NOTHING",
            params![row.id.as_bytes(), row.created_us],
        )?;
        return Ok(Imported::Erased);
    }
    match first(transaction, &row.identity)? {
        Some(other) if other.id == row.id => Ok(Imported::First),
        Some(_) => insert(transaction, new, false).map(|()| Imported::Further),
        None => insert(transaction, new, true).map(|()| Imported::First),
    }
}

fn insert(transaction: &Transaction<'_>, new: &NewSubject, first: bool) -> rusqlite::Result<()> {
    let row = &new.row;
    transaction
        .prepare_cached(
            "INSERT INTO subject (subject_id, identity, first, day, key, person, created_us)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (subject_id) DO NOTHING",
        )?
        .execute(params![
            row.id.as_bytes(),
            row.identity.0,
            first,
            row.day,
            row.key,
            row.person,
            row.created_us
        ])?;
    put_names(transaction, row.id, &new.names)
}

fn put_names(transaction: &Transaction<'_>, id: Uuid, names: &[Lookup]) -> rusqlite::Result<()> {
    for name in names {
        transaction
            .prepare_cached("INSERT INTO name VALUES (?1, ?2) ON CONFLICT (lookup, subject_id) DO NOTHING")?
            .execute(params![name.0, id.as_bytes()])?;
    }
    Ok(())
}

fn subject(row: &Row<'_>) -> rusqlite::Result<SubjectRow> {
    Ok(SubjectRow {
        id: id(row, 0)?,
        identity: Lookup(row.get(1)?),
        day: row.get(2)?,
        key: row.get(3)?,
        person: row.get(4)?,
        created_us: row.get(5)?,
    })
}

fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<Uuid> {
    Ok(Uuid::from_bytes(row.get(column)?))
}
