//! Reading the timeline, from this process or another one.
//!
//! Constraints: read-only; blocks, so the runtime's threads are not the place for it; the number of rows
//! of one answer is bounded by [`LIMIT_MAX`]. A record is here a moment after its call, when the shipper
//! has carried it to the store.

use std::path::Path;

use doorward_core::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, ToSql};
use uuid::Uuid;

use crate::columns::{COLUMNS, position};
use crate::store::BUSY_WAIT;

/// The most rows of one answer.
pub const LIMIT_MAX: usize = 100_000;
/// Rows of an answer that asks for no number.
pub const LIMIT_DEFAULT: usize = 100;
/// The most gaps of one answer.
const GAPS_MAX: i64 = 1_000;

/// Why the timeline cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// There is no store yet.
    #[error("there is no timeline at {0}: is `store` right, and has the gateway run once?")]
    Missing(String),
    /// The store has other columns than this version reads.
    #[error("the timeline at {path} was written by another version: {cause}")]
    Other {
        /// The file.
        path: String,
        /// What SQLite says.
        cause: rusqlite::Error,
    },
    /// SQLite says no.
    #[error("the timeline cannot be read: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// Which rows are wanted; what is not set does not filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// The principal's subject, e-mail address, client id or `subject_id`.
    pub principal: Option<String>,
    /// The ids that the key store knows for that principal ([`crate::personal::open::Opener::ids`]); any of
    /// them will do.
    pub subject_ids: Vec<Uuid>,
    /// The resource's name.
    pub resource: Option<String>,
    /// The verb.
    pub verb: Option<String>,
    /// The outcome.
    pub outcome: Option<String>,
    /// The call.
    pub access_id: Option<Uuid>,
    /// The door's name.
    pub door: Option<String>,
    /// The most rows, the newest of those that match; [`LIMIT_DEFAULT`] when not set.
    pub limit: Option<usize>,
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Not known, or does not apply.
    Null,
    /// A number.
    Int(i64),
    /// Text of any kind.
    Text(String),
}

/// One row of the timeline: one action of one call, its cells in the order of [`COLUMNS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(Vec<Cell>);

impl Row {
    /// Puts a row together; it has a cell for each column.
    pub fn new(cells: Vec<Cell>) -> Self {
        Self(cells)
    }

    /// The cells, in the order of the columns.
    pub fn cells(&self) -> &[Cell] {
        &self.0
    }

    /// A column's text, if it has one.
    pub fn text(&self, column: &str) -> Option<&str> {
        match self.cell(column) {
            Some(Cell::Text(text)) => Some(text),
            Some(Cell::Int(_) | Cell::Null) | None => None,
        }
    }

    /// A column's number, if it has one.
    pub fn int(&self, column: &str) -> Option<i64> {
        match self.cell(column) {
            Some(Cell::Int(number)) => Some(*number),
            Some(Cell::Text(_) | Cell::Null) | None => None,
        }
    }

    fn cell(&self, column: &str) -> Option<&Cell> {
        self.0.get(position(column)?)
    }
}

/// Records that could not be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapRow {
    /// When the first was lost.
    pub from: Timestamp,
    /// When the last was lost.
    pub until: Timestamp,
    /// How many; 0 when that is not known.
    pub lost: u64,
    /// The gateway that lost them.
    pub gateway_id: String,
    /// Why.
    pub reason: String,
}

/// Where a follower stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position(i64);

/// An open timeline.
#[derive(Debug)]
pub struct Timeline {
    connection: Connection,
    columns: String,
}

impl Timeline {
    /// Opens the store's file for reading. Blocks.
    pub fn open(path: &Path) -> Result<Self, QueryError> {
        if !path.is_file() {
            return Err(QueryError::Missing(path.display().to_string()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_WAIT)?;
        // Reading a file in WAL mode may have to make its index file; nothing else is written.
        connection.pragma_update(None, "query_only", true)?;
        let columns: Vec<String> = COLUMNS.iter().map(|column| format!("\"{}\"", column.name)).collect();
        let columns = columns.join(", ");
        connection
            .prepare(&format!("SELECT {columns} FROM access_event"))
            .map_err(|cause| QueryError::Other { path: path.display().to_string(), cause })?;
        Ok(Self { connection, columns })
    }

    /// The newest rows that match, oldest first.
    pub fn query(&self, filter: &Filter) -> Result<Vec<Row>, QueryError> {
        let mut rows = self.select(filter, None, "ts DESC, rowid DESC")?;
        rows.reverse();
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// Gaps in the time that the filter names; its other conditions do not apply to what was lost.
    pub fn gaps(&self, filter: &Filter) -> Result<Vec<GapRow>, QueryError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT from_us, until_us, lost, gateway_id, reason FROM audit_gap
             WHERE until_us >= ?1 AND from_us < ?2 ORDER BY from_us LIMIT ?3",
        )?;
        let since = filter.since.map_or(i64::MIN, Timestamp::micros);
        let until = filter.until.map_or(i64::MAX, Timestamp::micros);
        let rows = statement.query_map([since, until, GAPS_MAX], |row| {
            Ok(GapRow {
                from: Timestamp::from_micros(row.get(0)?),
                until: Timestamp::from_micros(row.get(1)?),
                lost: row.get::<_, i64>(2)?.cast_unsigned(),
                gateway_id: row.get(3)?,
                reason: row.get(4)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Where following begins: behind the newest row.
    pub fn newest(&self) -> Result<Position, QueryError> {
        let newest: Option<i64> =
            self.connection.query_row("SELECT max(rowid) FROM access_event", [], |row| row.get(0))?;
        Ok(Position(newest.unwrap_or(0)))
    }

    /// Rows that came after a position and match, in the order in which they came, and where to go on.
    pub fn follow(&self, filter: &Filter, after: Position) -> Result<(Vec<Row>, Position), QueryError> {
        let newest = self.newest()?;
        // Retention may have emptied the table, and numbers begin again.
        let after = if newest.0 < after.0 { Position(0) } else { after };
        let rows = self.select(filter, Some((after, newest)), "rowid")?;
        let full = rows.len() >= filter.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
        let next = match rows.last() {
            Some((last, _)) if full => *last,
            Some(_) | None => newest,
        };
        Ok((rows.into_iter().map(|(_, row)| row).collect(), next))
    }

    /// The rows of one call: one for each of its actions. Empty when it is not known.
    pub fn trace(&self, access_id: Uuid) -> Result<Vec<Row>, QueryError> {
        let limit = Some(doorward_core::Actions::MAX);
        let filter = Filter { access_id: Some(access_id), limit, ..Filter::default() };
        let rows = self.select(&filter, None, "seq, action_index")?;
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    fn select(
        &self,
        filter: &Filter,
        between: Option<(Position, Position)>,
        order: &str,
    ) -> Result<Vec<(Position, Row)>, QueryError> {
        let mut conditions = Conditions::of(filter);
        if let Some((after, newest)) = between {
            conditions.add("rowid > ?", after.0);
            conditions.add("rowid <= ?", newest.0);
        }
        let limit = filter.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
        conditions.values.push(Box::new(i64::try_from(limit).unwrap_or(i64::MAX)));
        let (columns, conditions_sql) = (&self.columns, conditions.sql());
        let sql =
            format!("SELECT {columns}, rowid FROM access_event{conditions_sql} ORDER BY {order} LIMIT ?");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let values: Vec<&dyn ToSql> = conditions.values.iter().map(|value| &**value).collect();
        let rows = statement.query_map(&*values, |row| {
            let cells =
                (0..COLUMNS.len()).map(|index| cell(row.get_ref(index)?)).collect::<Result<_, _>>()?;
            Ok((Position(row.get(COLUMNS.len())?), Row(cells)))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

#[derive(Default)]
struct Conditions {
    texts: Vec<String>,
    values: Vec<Box<dyn ToSql>>,
}

impl Conditions {
    fn of(filter: &Filter) -> Self {
        let mut conditions = Self::default();
        if let Some(since) = filter.since {
            conditions.add("ts >= ?", since.micros());
        }
        if let Some(until) = filter.until {
            conditions.add("ts < ?", until.micros());
        }
        if let Some(access_id) = filter.access_id {
            conditions.add("access_id = ?", access_id.to_string());
        }
        let equal = [
            ("resource = ?", &filter.resource),
            ("verb = ?", &filter.verb),
            ("outcome = ?", &filter.outcome),
            ("door = ?", &filter.door),
        ];
        for (text, value) in equal {
            if let Some(value) = value {
                conditions.add(text, value.clone());
            }
        }
        if let Some(principal) = &filter.principal {
            let columns = ["principal_subject", "principal_email", "client_id", "subject_id"];
            let mut either = columns.map(|name| format!("{name} = ?")).to_vec();
            for _ in columns {
                conditions.values.push(Box::new(principal.clone()));
            }
            for id in &filter.subject_ids {
                either.push("subject_id = ?".to_owned());
                conditions.values.push(Box::new(id.to_string()));
            }
            conditions.texts.push(format!("({})", either.join(" OR ")));
        }
        conditions
    }

    fn add(&mut self, text: &str, value: impl ToSql + 'static) {
        self.texts.push(text.to_owned());
        self.values.push(Box::new(value));
    }

    fn sql(&self) -> String {
        if self.texts.is_empty() { String::new() } else { format!(" WHERE {}", self.texts.join(" AND ")) }
    }
}

fn cell(value: ValueRef<'_>) -> rusqlite::Result<Cell> {
    Ok(match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Int(number),
        ValueRef::Real(number) => Cell::Text(number.to_string()),
        ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Cell::Text(crate::row::hex_text(bytes)),
    })
}
