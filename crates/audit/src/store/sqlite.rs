//! The embedded store: one SQLite file in WAL mode.
//!
//! Constraints: one writer, the shipper; any number of readers in other processes. A commit is synced
//! (`synchronous=FULL`), because the spool's segments are deleted after it. Two indexes, both of which
//! grow at their end: `ts` and `access_id`.

use std::fmt::Write as _;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use uuid::Uuid;

use super::{BUSY_WAIT, Batch, HighWater, OpenIntent, Shrink, Store, StoreError, TooLarge};
use crate::columns::{COLUMNS, SCHEMA_VERSION, Type};
use crate::config::Retention;
use crate::leaf::{self, Field, RowOf};
use crate::retention;
use crate::rollup;
use crate::spool::files::make_private;

/// Pages given back to the file system in one step of retention.
const RETAIN_PAGES: usize = 2_000;
/// Memory for pages of the file.
const CACHE_KIB: i64 = 8_192;
/// Bytes to which the write-ahead log is cut back when a reader has let it grow.
const JOURNAL_MAX: i64 = 64 << 20;
/// Prepared statements kept.
const STATEMENTS_MAX: usize = 16;

/// The store.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Connection,
    insert: String,
}

impl SqliteStore {
    /// Opens the file, and makes it when there is none; refuses one whose columns are not ours.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        make_private(path)?;
        let connection = Connection::open(path)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        connection.busy_timeout(BUSY_WAIT)?;
        // Only a file without tables takes this, and only before it is in WAL mode.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "journal_size_limit", JOURNAL_MAX)?;
        upgrade(&connection)?;
        rollup::sqlite::add_functions(&connection)?;
        connection.execute_batch(&schema())?;
        connection.execute_batch(&rollup::sqlite::schema())?;
        connection.execute_batch(retention::sqlite::SCHEMA)?;
        check_columns(&connection)?;
        Ok(Self { connection, insert: insert() })
    }
}

impl Store for SqliteStore {
    fn high_water(&mut self, gateway_id: &str, epoch: u64) -> Result<HighWater, StoreError> {
        Ok(high_water(&self.connection, gateway_id, epoch)?)
    }

    fn open_intents(&mut self, gateway_id: &str, epoch: u64) -> Result<Vec<OpenIntent>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT seq, access_id, payload, columns FROM open_intent
             WHERE gateway_id = ?1 AND epoch = ?2 ORDER BY seq",
        )?;
        let rows = statement.query_map(params![gateway_id, number(epoch)], |row| {
            let access_id: String = row.get(1)?;
            Ok(OpenIntent {
                seq: row.get::<_, i64>(0)?.cast_unsigned(),
                access_id: Uuid::parse_str(&access_id).unwrap_or_default(),
                payload: row.get(2)?,
                columns: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn unfinished_epochs(&mut self, gateway_id: &str, epoch: u64) -> Result<Vec<u64>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT DISTINCT epoch FROM open_intent WHERE gateway_id = ?1 AND epoch < ?2 ORDER BY epoch",
        )?;
        let rows = statement
            .query_map(params![gateway_id, number(epoch)], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        self.write_once(batch).map_err(|error| match error {
            StoreError::Sqlite(error) if refuses_a_value(&error) => StoreError::Rejected(error.to_string()),
            other => other,
        })
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        // Each write is durable when it returns.
        Ok(())
    }

    fn retain(&mut self, retention: &Retention, now_us: i64) -> Result<bool, StoreError> {
        let mut more = rollup::sqlite::fold(&mut self.connection)?;
        more |= retention::sqlite::expire(&mut self.connection, retention, now_us)?;
        if let Some(keep) = retention.longest_us() {
            let before = now_us.saturating_sub(keep);
            self.remove_log(before)?;
        }
        // Pages that are free go back to the file system, so that the file shrinks too.
        self.connection.execute_batch(&format!("PRAGMA incremental_vacuum({RETAIN_PAGES})"))?;
        Ok(more)
    }

    fn shrink(&mut self, limit: u64, announced_us: Option<i64>) -> Result<Shrink, StoreError> {
        let bytes = self.size()?;
        if bytes <= limit {
            return Ok(Shrink::Done);
        }
        if retention::sqlite::shrink(&mut self.connection, announced_us.unwrap_or(i64::MIN))? > 0 {
            return Ok(Shrink::Removed);
        }
        let next = retention::sqlite::too_much(&self.connection)?;
        Ok(next.map_or(Shrink::Done, |before_us| Shrink::Tell(TooLarge { before_us, bytes, limit })))
    }
}

impl SqliteStore {
    fn write_once(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let found = high_water(&transaction, batch.gateway_id, batch.epoch)?;
        if found.last_seq != batch.from_seq || found.next_leaf != batch.leaf_from {
            return Err(StoreError::Moved {
                gateway_id: batch.gateway_id.to_owned(),
                epoch: batch.epoch,
                expected: batch.from_seq,
                found: found.last_seq,
            });
        }
        insert_records(&transaction, &self.insert, batch)?;
        rollup::sqlite::append(&transaction, &batch.rollups)?;
        keep_intents(&transaction, batch)?;
        insert_gaps(&transaction, batch)?;
        insert_dead_letters(&transaction, batch)?;
        insert_log(&transaction, batch)?;
        transaction
            .prepare_cached(
                "INSERT INTO high_water (gateway_id, epoch, last_seq, next_leaf) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (gateway_id, epoch) DO UPDATE
                 SET last_seq = excluded.last_seq, next_leaf = excluded.next_leaf",
            )?
            .execute(params![
                batch.gateway_id,
                number(batch.epoch),
                number(batch.to_seq),
                number(batch.leaf_to)
            ])?;
        transaction.commit()?;
        Ok(())
    }

    /// Removes gaps and checkpoints from before a time. The newest of these checkpoints stays: it alone shows that
    /// what it counts, and retention removed, was as old as that.
    fn remove_log(&mut self, before_us: i64) -> rusqlite::Result<()> {
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        transaction.execute(
            "DELETE FROM checkpoint AS old WHERE signed_us < ?1 AND EXISTS (
                 SELECT 1 FROM checkpoint AS new WHERE new.gateway_id = old.gateway_id
                 AND new.epoch = old.epoch AND new.size > old.size AND new.signed_us < ?1)",
            [before_us],
        )?;
        transaction.execute("DELETE FROM audit_gap WHERE until_us < ?1", [before_us])?;
        // What is older may go, of whatever class, and what there was to tell its age is gone.
        retention::sqlite::raise_horizon(&transaction, "", before_us)?;
        transaction.commit()
    }

    /// Bytes in use: the file's, less the pages that are free.
    fn size(&self) -> rusqlite::Result<u64> {
        let pragma = |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let pages = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
        Ok(pages.saturating_mul(pragma("page_size")?).cast_unsigned())
    }
}

fn insert_records(
    transaction: &Transaction<'_>,
    insert: &str,
    batch: &Batch<'_>,
) -> Result<(), rusqlite::Error> {
    let mut statement = transaction.prepare_cached(insert)?;
    for record in &batch.records {
        for action in 0..leaf::rows(&record.access) {
            bind_row(&mut statement, &record.row(batch.gateway_id, batch.epoch, action))?;
            statement.raw_execute()?;
        }
    }
    Ok(())
}

fn bind_row(statement: &mut rusqlite::CachedStatement<'_>, row: &RowOf<'_>) -> rusqlite::Result<()> {
    for (place, (_, field)) in row.fields().enumerate() {
        let place = place + 1;
        match field {
            Field::Null => statement.raw_bind_parameter(place, rusqlite::types::Null)?,
            Field::Int(number) => statement.raw_bind_parameter(place, number)?,
            Field::Text(text) => statement.raw_bind_parameter(place, text)?,
            Field::Uuid(id) => {
                let mut buffer = Uuid::encode_buffer();
                statement.raw_bind_parameter(place, &*id.hyphenated().encode_lower(&mut buffer))?;
            }
            Field::Hash(hash) => statement.raw_bind_parameter(place, &hash[..])?,
        }
    }
    Ok(())
}

fn keep_intents(transaction: &Transaction<'_>, batch: &Batch<'_>) -> rusqlite::Result<()> {
    for intent in &batch.opened {
        transaction.prepare_cached("INSERT INTO open_intent VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
            params![
                batch.gateway_id,
                number(batch.epoch),
                number(intent.seq),
                intent.access_id.to_string(),
                intent.payload,
                intent.columns
            ],
        )?;
    }
    for access_id in &batch.closed {
        transaction
            .prepare_cached("DELETE FROM open_intent WHERE access_id = ?1")?
            .execute([access_id.to_string()])?;
    }
    Ok(())
}

fn insert_gaps(transaction: &Transaction<'_>, batch: &Batch<'_>) -> rusqlite::Result<()> {
    for lost in &batch.gaps {
        let gap = &lost.gap;
        transaction
            .prepare_cached(
                "INSERT INTO audit_gap
                 (from_us, until_us, gateway_id, epoch, seq, lost, reason, log_index, leaf_hash)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                gap.from_us,
                gap.until_us,
                batch.gateway_id,
                number(batch.epoch),
                number(lost.seq),
                number(gap.lost),
                gap.reason,
                lost.leaf.map(|(index, _)| number(index)),
                lost.leaf.as_ref().map(|(_, hash)| &hash[..]),
            ])?;
    }
    Ok(())
}

fn insert_dead_letters(transaction: &Transaction<'_>, batch: &Batch<'_>) -> rusqlite::Result<()> {
    for letter in &batch.dead_letters {
        for row in letter.rows(batch.gateway_id, batch.epoch) {
            transaction
                .prepare_cached(
                    "INSERT INTO dead_letter
                     (gateway_id, epoch, seq, access_id, log_index, leaf_hash, reason, payload)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    batch.gateway_id,
                    number(batch.epoch),
                    number(row.seq),
                    row.access_id.to_string(),
                    row.leaf.map(|(index, _)| number(index)),
                    row.leaf.as_ref().map(|(_, hash)| &hash[..]),
                    letter.reason,
                    row.payload,
                ])?;
        }
    }
    Ok(())
}

/// What the log says about itself, its checkpoints and its tiles.
fn insert_log(transaction: &Transaction<'_>, batch: &Batch<'_>) -> rusqlite::Result<()> {
    let (gateway_id, epoch) = (batch.gateway_id, number(batch.epoch));
    for note in &batch.notes {
        transaction.prepare_cached("INSERT INTO log_note VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
            params![gateway_id, epoch, number(note.index), note.kind, note.body, &note.leaf_hash[..]],
        )?;
    }
    for checkpoint in &batch.checkpoints {
        transaction
            // The one with more cosignatures stays; of two that are alike, the first, which says more about age.
            .prepare_cached(
                "INSERT INTO checkpoint VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE
                 SET signed_us = excluded.signed_us, note = excluded.note
                 WHERE length(excluded.note) > length(checkpoint.note)",
            )?
            .execute(params![
                gateway_id,
                epoch,
                number(checkpoint.size),
                checkpoint.signed_us,
                checkpoint.note
            ])?;
    }
    for tile in &batch.tiles {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO log_tile VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![gateway_id, epoch, number(tile.index), tile.hashes])?;
    }
    Ok(())
}

fn high_water(connection: &Connection, gateway_id: &str, epoch: u64) -> rusqlite::Result<HighWater> {
    let found = connection
        .prepare_cached("SELECT last_seq, next_leaf FROM high_water WHERE gateway_id = ?1 AND epoch = ?2")?
        .query_row(params![gateway_id, number(epoch)], |row| {
            let (last_seq, next_leaf): (i64, i64) = (row.get(0)?, row.get(1)?);
            Ok(HighWater { last_seq: last_seq.cast_unsigned(), next_leaf: next_leaf.cast_unsigned() })
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// Whether an error is about the data, so that the same batch would be refused again.
fn refuses_a_value(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{ConstraintViolation, TooBig, TypeMismatch};
    matches!(error.sqlite_error_code(), Some(ConstraintViolation | TooBig | TypeMismatch))
}

/// SQLite's integers are signed; our numbers stay far below its largest.
fn number(number: u64) -> i64 {
    number.cast_signed()
}

const fn type_name(ty: Type) -> &'static str {
    match ty {
        Type::Time | Type::Int => "INTEGER",
        Type::Text | Type::Uuid | Type::Json => "TEXT",
        Type::Hash => "BLOB",
    }
}

fn schema() -> String {
    let mut sql = String::from("CREATE TABLE IF NOT EXISTS access_event (");
    for (index, column) in COLUMNS.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(sql, "{comma}\"{}\" {}", column.name, type_name(column.ty));
    }
    sql.push_str(
        ");
         CREATE INDEX IF NOT EXISTS access_event_ts ON access_event (ts);
         CREATE INDEX IF NOT EXISTS access_event_access_id ON access_event (access_id);
         CREATE TABLE IF NOT EXISTS high_water (
             gateway_id TEXT NOT NULL, epoch INTEGER NOT NULL, last_seq INTEGER NOT NULL,
             next_leaf INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (gateway_id, epoch)) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS open_intent (
             gateway_id TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
             access_id TEXT NOT NULL PRIMARY KEY, payload BLOB NOT NULL, columns TEXT NOT NULL);
         CREATE TABLE IF NOT EXISTS audit_gap (
             from_us INTEGER NOT NULL, until_us INTEGER NOT NULL, gateway_id TEXT NOT NULL,
             epoch INTEGER NOT NULL, seq INTEGER NOT NULL, lost INTEGER NOT NULL, reason TEXT NOT NULL,
             log_index INTEGER, leaf_hash BLOB);
         CREATE INDEX IF NOT EXISTS access_event_log ON access_event (gateway_id, epoch, log_index);
         CREATE TABLE IF NOT EXISTS dead_letter (
             gateway_id TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, access_id TEXT NOT NULL,
             log_index INTEGER, leaf_hash BLOB, reason TEXT NOT NULL, payload TEXT NOT NULL);
         CREATE TABLE IF NOT EXISTS log_note (
             gateway_id TEXT NOT NULL, epoch INTEGER NOT NULL, log_index INTEGER NOT NULL, kind TEXT NOT NULL,
             body TEXT NOT NULL, leaf_hash BLOB NOT NULL);
         CREATE TABLE IF NOT EXISTS checkpoint (
             gateway_id TEXT NOT NULL, epoch INTEGER NOT NULL, size INTEGER NOT NULL,
             signed_us INTEGER NOT NULL, note TEXT NOT NULL,
             PRIMARY KEY (gateway_id, epoch, size)) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS log_tile (
             gateway_id TEXT NOT NULL, epoch INTEGER NOT NULL, tile INTEGER NOT NULL, hashes BLOB NOT NULL,
             PRIMARY KEY (gateway_id, epoch, tile)) WITHOUT ROWID;",
    );
    sql
}

/// Brings a file of schema version 1 to this one. Adds columns only, all of them or none, and only where every
/// column of version 1 is there under its name; anything else is the operator's to look at.
fn upgrade(connection: &Connection) -> Result<(), StoreError> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version >= SCHEMA_VERSION {
        return Ok(());
    }
    let found = columns(connection, "access_event")?;
    let has = |name: &str| found.iter().any(|(found, _)| found == name);
    let first = |name: &str| leaf::number(name).is_some_and(|number| number <= leaf::NUMBER_MAX_V1);
    let old = COLUMNS.iter().filter(|column| first(column.name)).all(|column| has(column.name));
    let mut sql = String::from("BEGIN IMMEDIATE;");
    if old {
        for column in COLUMNS.iter().filter(|column| !has(column.name)) {
            // Writing to a string does not fail.
            let _ = write!(
                sql,
                "ALTER TABLE access_event ADD COLUMN \"{}\" {};",
                column.name,
                type_name(column.ty)
            );
        }
        let others = [
            ("high_water", "next_leaf", "INTEGER NOT NULL DEFAULT 0"),
            ("audit_gap", "log_index", "INTEGER"),
            ("audit_gap", "leaf_hash", "BLOB"),
        ];
        for (table, column, ty) in others {
            let present = columns(connection, table)?;
            if !present.is_empty() && !present.iter().any(|(name, _)| name == column) {
                let _ = write!(sql, "ALTER TABLE {table} ADD COLUMN {column} {ty};");
            }
        }
    }
    if old || found.is_empty() {
        let _ = write!(sql, "PRAGMA user_version = {SCHEMA_VERSION};");
    }
    sql.push_str("COMMIT");
    let done = connection.execute_batch(&sql);
    if done.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    Ok(done?)
}

/// Names and types of a table's columns; none when there is no such table.
fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = connection.prepare("SELECT name, type FROM pragma_table_info(?1)")?;
    statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Names its columns: a file that was upgraded has them in another order.
fn insert() -> String {
    let names: Vec<String> = COLUMNS.iter().map(|column| format!("\"{}\"", column.name)).collect();
    let places: Vec<String> = (1..=COLUMNS.len()).map(|place| format!("?{place}")).collect();
    format!("INSERT INTO access_event ({}) VALUES ({})", names.join(", "), places.join(", "))
}

fn check_columns(connection: &Connection) -> Result<(), StoreError> {
    let found = columns(connection, "access_event")?;
    let same = found.len() == COLUMNS.len()
        && COLUMNS
            .iter()
            .all(|column| found.iter().any(|(name, ty)| name == column.name && ty == type_name(column.ty)));
    if same {
        return Ok(());
    }
    let has = |name: &str| found.iter().any(|(found, _)| found == name);
    let missing: Vec<&str> = COLUMNS.iter().map(|column| column.name).filter(|name| !has(name)).collect();
    let foreign: Vec<&str> = found
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| !COLUMNS.iter().any(|column| column.name == *name))
        .collect();
    Err(StoreError::Schema(format!("missing [{}], unknown [{}]", missing.join(", "), foreign.join(", "))))
}
