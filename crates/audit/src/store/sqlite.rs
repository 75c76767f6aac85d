//! The embedded store: one SQLite file in WAL mode.
//!
//! Constraints: one writer, the shipper; any number of readers in other processes. A commit is synced
//! (`synchronous=FULL`), because the spool's segments are deleted after it. Two indexes, both of which
//! grow at their end: `ts` and `access_id`.

use std::fmt::Write as _;
use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, ToSql, Transaction, params};
use uuid::Uuid;

use super::{BUSY_WAIT, Batch, OpenIntent, Record, Store, StoreError};
use crate::columns::{COLUMNS, Source, Type};
use crate::config::Retention;
use crate::row::Value;
use crate::spool::files::make_private;
use crate::wire::ActionText;

/// Rows removed in one step of retention.
const RETAIN_ROWS: usize = 5_000;
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
        connection.execute_batch(&schema())?;
        check_columns(&connection)?;
        Ok(Self { connection, insert: insert() })
    }
}

impl Store for SqliteStore {
    fn high_water(&mut self, gateway_id: &str, epoch: u64) -> Result<u64, StoreError> {
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
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let found = high_water(&transaction, batch.gateway_id, batch.epoch)?;
        if found != batch.from_seq {
            return Err(StoreError::Moved {
                gateway_id: batch.gateway_id.to_owned(),
                epoch: batch.epoch,
                expected: batch.from_seq,
                found,
            });
        }
        insert_records(&transaction, &self.insert, batch)?;
        keep_intents(&transaction, batch)?;
        for (seq, gap) in &batch.gaps {
            transaction
                .prepare_cached("INSERT INTO audit_gap VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                .execute(params![
                    gap.from_us,
                    gap.until_us,
                    batch.gateway_id,
                    number(batch.epoch),
                    number(*seq),
                    number(gap.lost),
                    gap.reason
                ])?;
        }
        transaction
            .prepare_cached(
                "INSERT INTO high_water (gateway_id, epoch, last_seq) VALUES (?1, ?2, ?3)
                 ON CONFLICT (gateway_id, epoch) DO UPDATE SET last_seq = excluded.last_seq",
            )?
            .execute(params![batch.gateway_id, number(batch.epoch), number(batch.to_seq)])?;
        transaction.commit()?;
        Ok(())
    }

    fn retain(&mut self, retention: &Retention, now_us: i64) -> Result<bool, StoreError> {
        let mut more = false;
        if let Some(age) = retention.age {
            let age_us = i64::try_from(age.get().as_micros()).unwrap_or(i64::MAX);
            let before = now_us.saturating_sub(age_us);
            more |= self.remove_oldest(before)? == RETAIN_ROWS;
            self.connection.execute("DELETE FROM audit_gap WHERE until_us < ?1", [before])?;
        }
        if let Some(size) = retention.size
            && self.size()? > size.get()
        {
            more |= self.remove_oldest(i64::MAX)? > 0;
        }
        // Pages that are free go back to the file system, so that the file shrinks too.
        self.connection.execute_batch(&format!("PRAGMA incremental_vacuum({RETAIN_PAGES})"))?;
        Ok(more)
    }
}

impl SqliteStore {
    fn remove_oldest(&self, before_us: i64) -> rusqlite::Result<usize> {
        self.connection
            .prepare_cached(
                "DELETE FROM access_event WHERE rowid IN
                 (SELECT rowid FROM access_event WHERE ts < ?1 ORDER BY ts LIMIT ?2)",
            )?
            .execute(params![before_us, i64::try_from(RETAIN_ROWS).unwrap_or(i64::MAX)])
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
        let actions = record.access.actions.as_slice();
        // A call whose actions are not known has one row all the same.
        for index in 0..actions.len().max(1) {
            bind_row(&mut statement, batch, record, index, actions.get(index))?;
            statement.raw_execute()?;
        }
    }
    Ok(())
}

fn bind_row(
    statement: &mut rusqlite::CachedStatement<'_>,
    batch: &Batch<'_>,
    record: &Record<'_>,
    index: usize,
    action: Option<&ActionText<'_>>,
) -> rusqlite::Result<()> {
    let mut values = record.access.values.iter();
    for (place, column) in COLUMNS.iter().enumerate() {
        let place = place + 1;
        match column.source {
            Source::Call(_) => match values.next() {
                Some(Value::Uuid(id)) => bind_uuid(statement, place, id)?,
                Some(value) => statement.raw_bind_parameter(place, Bound(value))?,
                None => statement.raw_bind_parameter(place, rusqlite::types::Null)?,
            },
            Source::AccessId => bind_uuid(statement, place, &record.access.access_id)?,
            Source::LogIndex | Source::LeafHash => {
                statement.raw_bind_parameter(place, rusqlite::types::Null)?;
            }
            Source::Gateway => statement.raw_bind_parameter(place, batch.gateway_id)?,
            Source::Epoch => statement.raw_bind_parameter(place, number(batch.epoch))?,
            Source::Seq => statement.raw_bind_parameter(place, number(record.seq))?,
            Source::ActionIndex => statement.raw_bind_parameter(place, count(index))?,
            Source::ActionCount => {
                statement.raw_bind_parameter(place, count(record.access.actions.len()))?;
            }
            Source::Verb => statement.raw_bind_parameter(place, action.map(|action| &*action.verb))?,
            Source::Resource => {
                statement.raw_bind_parameter(place, action.map(|action| &*action.resource))?;
            }
            Source::Object => statement.raw_bind_parameter(place, action.map(|action| &*action.object))?,
        }
    }
    Ok(())
}

fn bind_uuid(statement: &mut rusqlite::CachedStatement<'_>, place: usize, id: &Uuid) -> rusqlite::Result<()> {
    let mut buffer = Uuid::encode_buffer();
    statement.raw_bind_parameter(place, &*id.hyphenated().encode_lower(&mut buffer))
}

struct Bound<'a>(&'a Value<'a>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Value::Int(number) => ToSqlOutput::Borrowed(ValueRef::Integer(*number)),
            Value::Text(value) | Value::Json(value) => {
                ToSqlOutput::Borrowed(ValueRef::Text(value.as_bytes()))
            }
            Value::Personal(sealed) => ToSqlOutput::Borrowed(ValueRef::Text(sealed.as_stored().as_bytes())),
            Value::Uuid(id) => ToSqlOutput::Owned(id.to_string().into()),
        })
    }
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

fn high_water(connection: &Connection, gateway_id: &str, epoch: u64) -> rusqlite::Result<u64> {
    let found: Option<i64> = connection
        .prepare_cached("SELECT last_seq FROM high_water WHERE gateway_id = ?1 AND epoch = ?2")?
        .query_row(params![gateway_id, number(epoch)], |row| row.get(0))
        .optional()?;
    Ok(found.unwrap_or(0).cast_unsigned())
}

/// SQLite's integers are signed; our numbers stay far below its largest.
fn number(number: u64) -> i64 {
    number.cast_signed()
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
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
             PRIMARY KEY (gateway_id, epoch)) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS open_intent (
             gateway_id TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
             access_id TEXT NOT NULL PRIMARY KEY, payload BLOB NOT NULL, columns TEXT NOT NULL);
         CREATE TABLE IF NOT EXISTS audit_gap (
             from_us INTEGER NOT NULL, until_us INTEGER NOT NULL, gateway_id TEXT NOT NULL,
             epoch INTEGER NOT NULL, seq INTEGER NOT NULL, lost INTEGER NOT NULL, reason TEXT NOT NULL);",
    );
    sql
}

fn insert() -> String {
    let places: Vec<String> = (1..=COLUMNS.len()).map(|place| format!("?{place}")).collect();
    format!("INSERT INTO access_event VALUES ({})", places.join(", "))
}

fn check_columns(connection: &Connection) -> Result<(), StoreError> {
    let mut statement = connection.prepare("SELECT name, type FROM pragma_table_info('access_event')")?;
    let found: Vec<(String, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let same = found.len() == COLUMNS.len()
        && found
            .iter()
            .zip(COLUMNS)
            .all(|((name, ty), column)| name == column.name && ty == type_name(column.ty));
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
