//! Evidence in an embedded file.

use std::path::Path;

use doorward_tlog::{Hash, tile};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use uuid::Uuid;

use super::{EXTRAS_MAX, Evidence, Item, LogId, Strangers, VerifyError, What, class_of, weave};
use crate::columns::{COLUMNS, Type, position};
use crate::leaf::{FIELDS_MAX, Field, Hasher};
use crate::store::BUSY_WAIT;
use crate::wire::Gap;

/// A SQLite store, open for reading.
#[derive(Debug)]
pub struct SqliteEvidence {
    connection: Connection,
    hasher: Hasher,
    /// Whether the file is of the version that had no log, and was upgraded.
    upgraded: bool,
}

impl SqliteEvidence {
    /// Opens the file. Blocks.
    pub fn open(path: &Path) -> Result<Self, VerifyError> {
        if !path.is_file() {
            return Err(VerifyError::Missing(path.display().to_string()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_WAIT)?;
        connection.pragma_update(None, "query_only", true)?;
        // One picture of the store, while the gateway goes on.
        connection.execute_batch("BEGIN")?;
        let upgraded = is_upgraded(&connection)?;
        Ok(Self { connection, hasher: Hasher::default(), upgraded })
    }

    /// Everything beside the rows in the order of places: gaps, notes and dead letters, up to a place.
    fn extras(&mut self, log: &LogId, to: i64) -> Result<Vec<Item>, VerifyError> {
        let mut extras = Vec::new();
        let key = params![log.gateway_id, log.epoch.cast_signed(), to];
        let mut keep = |index: i64, stored: Option<Vec<u8>>, leaf: Option<Hash>, what: What| {
            let stored = stored.and_then(|hash| hash.try_into().ok());
            extras.push(Item { index: Some(index.cast_unsigned()), stored, leaf, what });
            if extras.len() > EXTRAS_MAX { Err(VerifyError::TooMany(log.epoch)) } else { Ok(()) }
        };
        let mut statement = self.connection.prepare_cached(
            "SELECT log_index, leaf_hash, seq, lost, from_us, until_us, reason FROM audit_gap
             WHERE gateway_id = ?1 AND epoch = ?2 AND log_index < ?3",
        )?;
        let mut rows = statement.query(key)?;
        while let Some(row) = rows.next()? {
            let reason: String = row.get(6)?;
            let lost = row.get::<_, i64>(3)?.cast_unsigned();
            let gap = Gap { lost, from_us: row.get(4)?, until_us: row.get(5)?, reason: reason.into() };
            let seq = row.get::<_, i64>(2)?.cast_unsigned();
            let leaf = self.hasher.gap(&log.gateway_id, log.epoch, seq, &gap);
            keep(row.get(0)?, row.get(1)?, Some(leaf), What::Gap)?;
        }
        let mut statement = self.connection.prepare_cached(
            "SELECT log_index, leaf_hash, kind, body FROM log_note
             WHERE gateway_id = ?1 AND epoch = ?2 AND log_index < ?3",
        )?;
        let mut rows = statement.query(key)?;
        while let Some(row) = rows.next()? {
            let (kind, body): (String, String) = (row.get(2)?, row.get(3)?);
            let leaf = self.hasher.note(&log.gateway_id, log.epoch, &kind, &body);
            keep(row.get(0)?, row.get(1)?, Some(leaf), What::Note { kind, body })?;
        }
        let mut statement = self.connection.prepare_cached(
            "SELECT log_index, leaf_hash, payload FROM dead_letter
             WHERE gateway_id = ?1 AND epoch = ?2 AND log_index < ?3",
        )?;
        let mut rows = statement.query(key)?;
        while let Some(row) = rows.next()? {
            let payload: String = row.get(2)?;
            let (what, leaf) = super::bundle::letter(&mut self.hasher, log, payload.as_bytes());
            keep(row.get(0)?, row.get(1)?, leaf, what)?;
        }
        extras.sort_by_key(|item| item.index);
        Ok(extras)
    }
}

impl Evidence for SqliteEvidence {
    fn logs(&mut self) -> Result<Vec<LogId>, VerifyError> {
        let mut statement = self.connection.prepare(
            "SELECT gateway_id, epoch FROM high_water WHERE next_leaf > 0
             UNION SELECT gateway_id, epoch FROM checkpoint UNION SELECT gateway_id, epoch FROM log_tile",
        )?;
        let logs = statement.query_map([], |row| {
            Ok(LogId { gateway_id: row.get(0)?, epoch: row.get::<_, i64>(1)?.cast_unsigned() })
        })?;
        Ok(logs.collect::<rusqlite::Result<_>>()?)
    }

    fn strangers(&mut self) -> Result<Vec<Strangers>, VerifyError> {
        let mut statement = self.connection.prepare(
            "SELECT gateway_id, epoch, count(*), count(*) FILTER (WHERE schema_version >= 2)
             FROM access_event AS e WHERE NOT EXISTS (SELECT 1 FROM high_water AS h
                 WHERE h.gateway_id = e.gateway_id AND h.epoch = e.epoch AND h.next_leaf > 0)
             GROUP BY gateway_id, epoch",
        )?;
        let found = statement.query_map([], |row| {
            let number = |place| row.get::<_, i64>(place).map(i64::cast_unsigned);
            let log = LogId { gateway_id: row.get(0)?, epoch: number(1)? };
            Ok(Strangers { log, rows: number(2)?, logged: number(3)? })
        })?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    fn items(&mut self, log: &LogId, each: &mut dyn FnMut(Item)) -> Result<(), VerifyError> {
        let mut extras = self.extras(log, i64::MAX)?.into_iter().peekable();
        let names: Vec<String> = COLUMNS.iter().map(|column| format!("\"{}\"", column.name)).collect();
        let sql = format!(
            "SELECT {} FROM access_event WHERE gateway_id = ?1 AND epoch = ?2 ORDER BY log_index",
            names.join(", ")
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let places = Places::find();
        let mut rows = statement.query(params![log.gateway_id, log.epoch.cast_signed()])?;
        while let Some(row) = rows.next()? {
            weave(&mut extras, places.item(row, &mut self.hasher)?, each);
        }
        extras.for_each(each);
        Ok(())
    }

    /// A file that was made with a log has no row from before it.
    fn may_predate_log(&self) -> bool {
        self.upgraded
    }

    fn items_from_start(&mut self, log: &LogId, each: &mut dyn FnMut(Item)) -> Result<(), VerifyError> {
        self.extras(log, 1)?.into_iter().for_each(each);
        Ok(())
    }

    fn checkpoints(&mut self, log: &LogId) -> Result<Vec<(i64, String)>, VerifyError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT signed_us, note FROM checkpoint WHERE gateway_id = ?1 AND epoch = ?2 ORDER BY size",
        )?;
        let rows = statement.query_map(params![log.gateway_id, log.epoch.cast_signed()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn tile(&mut self, log: &LogId, index: u64) -> Result<Vec<Hash>, VerifyError> {
        let bytes: Option<Vec<u8>> = self
            .connection
            .prepare_cached("SELECT hashes FROM log_tile WHERE gateway_id = ?1 AND epoch = ?2 AND tile = ?3")?
            .query_row(params![log.gateway_id, log.epoch.cast_signed(), index.cast_signed()], |row| {
                row.get(0)
            })
            .optional()?;
        Ok(bytes.and_then(|bytes| tile::hashes(&bytes)).unwrap_or_default())
    }

    fn notes(&mut self, kind: &str) -> Result<Vec<String>, VerifyError> {
        let mut statement =
            self.connection.prepare_cached("SELECT body FROM log_note WHERE kind = ?1 LIMIT ?2")?;
        let most = i64::try_from(EXTRAS_MAX).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![kind, most], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn horizons(&mut self) -> Result<Vec<(String, i64)>, VerifyError> {
        let mut statement = self.connection.prepare("SELECT class, before_us FROM retention_horizon")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

/// Whether a file was made by the version that had no log: what an upgrade adds stands behind what was there.
fn is_upgraded(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT (SELECT cid FROM pragma_table_info('access_event') WHERE name = 'ext')
              < (SELECT cid FROM pragma_table_info('access_event') WHERE name = 'log_index')",
        [],
        |row| Ok(row.get::<_, Option<bool>>(0)?.unwrap_or(false)),
    )
}

/// Where the columns are that say which row it is.
struct Places {
    ts: Option<usize>,
    access_id: Option<usize>,
    class: Option<usize>,
    schema_version: Option<usize>,
    log_index: Option<usize>,
    leaf_hash: Option<usize>,
}

impl Places {
    fn find() -> Self {
        Self {
            ts: position("ts"),
            access_id: position("access_id"),
            class: position("class"),
            schema_version: position("schema_version"),
            log_index: position("log_index"),
            leaf_hash: position("leaf_hash"),
        }
    }

    fn item(&self, row: &Row<'_>, hasher: &mut Hasher) -> rusqlite::Result<Item> {
        let mut fields = [Field::Null; FIELDS_MAX];
        let mut readable = true;
        for (index, (place, column)) in fields.iter_mut().zip(COLUMNS).enumerate() {
            match field(row.get_ref(index)?, column.ty) {
                Some(field) => *place = field,
                None => readable = false,
            }
        }
        let at =
            |place: Option<usize>| place.and_then(|place| fields.get(place).copied()).unwrap_or(Field::Null);
        let int = |place| match at(place) {
            Field::Int(number) => Some(number),
            _ => None,
        };
        let what = What::Row {
            access_id: match at(self.access_id) {
                Field::Uuid(id) => Some(id),
                _ => None,
            },
            ts: int(self.ts),
            class: match at(self.class) {
                Field::Text(class) => class_of(Some(class)),
                _ => class_of(None),
            },
            before_log: int(self.schema_version).is_none_or(|version| version < 2),
        };
        let stored = match at(self.leaf_hash) {
            Field::Hash(hash) => Some(*hash),
            _ => None,
        };
        let index = int(self.log_index).map(i64::cast_unsigned);
        Ok(Item { index, stored, leaf: readable.then(|| hasher.fields(&fields)), what })
    }
}

/// A value as the leaf holds it; `None` when it is not of its column's type.
fn field(value: ValueRef<'_>, ty: Type) -> Option<Field<'_>> {
    Some(match (value, ty) {
        (ValueRef::Null, _) => Field::Null,
        (ValueRef::Integer(number), Type::Time | Type::Int) => Field::Int(number),
        (ValueRef::Text(text), Type::Uuid) => {
            let text = std::str::from_utf8(text).ok()?;
            let id = Uuid::parse_str(text).ok()?;
            // Another spelling of the same id is another value.
            let mut buffer = Uuid::encode_buffer();
            (id.hyphenated().encode_lower(&mut buffer) == text).then_some(Field::Uuid(id))?
        }
        (ValueRef::Text(text), Type::Text | Type::Json) => Field::Text(std::str::from_utf8(text).ok()?),
        (ValueRef::Blob(hash), Type::Hash) => Field::Hash(hash.try_into().ok()?),
        _ => return None,
    })
}
