//! Reading the timeline, from this process or another one, whichever store it is kept in.
//!
//! Constraints: read-only; blocks, so the runtime's threads are not the place for it; an answer that is held in
//! memory is bounded by [`LIMIT_MAX`], a longer one is shown row by row ([`Timeline::each`]). One builder writes the
//! SQL of every store ([`select`]), so that a question means the same everywhere. A record is here a moment after
//! its call, when the shipper has carried it to the store.

mod postgres;
mod select;
mod sqlite;
pub mod stats;

use std::path::Path;

use doorward_core::Timestamp;
use doorward_pgclient::blocking::ClientError;
use doorward_settings::Problem;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::columns::position;
use crate::config::StoreUrl;

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
    /// PostgreSQL says no.
    #[error("the timeline cannot be read: {0}")]
    Client(ClientError),
    /// The login may not read.
    #[error(
        "the login {0} may not read the timeline: name a member of doorward_reader as `store.reader`, and give it a scope"
    )]
    NotReader(String),
    /// The database has no timeline.
    #[error("there is no timeline in {0} yet, or an older one: run `doorward store migrate`")]
    NotMigrated(String),
    /// The reader's password cannot be read.
    #[error("the store's login: {0}")]
    Login(Problem),
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
    /// Ids that the key store knows for that principal; any of them will do.
    pub subject_ids: Vec<Uuid>,
    /// Whose decision: `gateway`, or the resource that imports records.
    pub source: Option<String>,
    /// The class of record.
    pub class: Option<String>,
    /// The resource's name.
    pub resource: Option<String>,
    /// The verb.
    pub verb: Option<String>,
    /// The outcome.
    pub outcome: Option<String>,
    /// The grant that decided.
    pub grant: Option<String>,
    /// The call.
    pub access_id: Option<Uuid>,
    /// The door's name.
    pub door: Option<String>,
    /// The most rows, the newest of those that match; [`LIMIT_DEFAULT`] when not set.
    pub limit: Option<usize>,
}

impl Filter {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX)
    }
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

/// One row of the timeline: one action of one call, its cells in the order of
/// [`COLUMNS`](crate::columns::COLUMNS).
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The newest row's number in a file.
    Row(i64),
    /// How far each start of each gateway has come.
    Leaves(Vec<(String, i64, i64)>),
}

/// An open timeline.
#[derive(Debug)]
pub struct Timeline(Backend);

#[derive(Debug)]
enum Backend {
    Sqlite(sqlite::Reader),
    // A question changes the connection's state, and readers ask one at a time.
    Postgres(Mutex<postgres::Reader>),
}

impl Timeline {
    /// Opens the store that is configured, as its reader. Blocks.
    pub fn connect(store: &StoreUrl) -> Result<Self, QueryError> {
        match store {
            StoreUrl::Sqlite(path) => Self::open(path),
            StoreUrl::Postgres(server) => {
                Ok(Self(Backend::Postgres(Mutex::new(postgres::Reader::connect(server)?))))
            }
        }
    }

    /// Opens an embedded store's file for reading. Blocks.
    pub fn open(path: &Path) -> Result<Self, QueryError> {
        Ok(Self(Backend::Sqlite(sqlite::Reader::open(path)?)))
    }

    /// The newest rows that match, oldest first.
    pub fn query(&self, filter: &Filter) -> Result<Vec<Row>, QueryError> {
        let mut rows = Vec::new();
        let keep = &mut |row| {
            rows.push(row);
            true
        };
        match &self.0 {
            Backend::Sqlite(reader) => reader.newest_first(filter, keep)?,
            Backend::Postgres(reader) => reader.lock().newest_first(filter, keep)?,
        }
        rows.reverse();
        Ok(rows)
    }

    /// Shows every row that matches, oldest first, however many there are, until `each` says `false`.
    pub fn each(&self, filter: &Filter, each: &mut dyn FnMut(Row) -> bool) -> Result<(), QueryError> {
        match &self.0 {
            Backend::Sqlite(reader) => reader.oldest_first(filter, each),
            Backend::Postgres(reader) => reader.lock().oldest_first(filter, each),
        }
    }

    /// Gaps in the time that the filter names; its other conditions do not apply to what was lost.
    pub fn gaps(&self, filter: &Filter) -> Result<Vec<GapRow>, QueryError> {
        let since = filter.since.map_or(i64::MIN, Timestamp::micros);
        let until = filter.until.map_or(i64::MAX, Timestamp::micros);
        match &self.0 {
            Backend::Sqlite(reader) => reader.gaps(since, until),
            Backend::Postgres(reader) => reader.lock().gaps(since, until),
        }
    }

    /// Where following begins: behind the newest row.
    pub fn newest(&self) -> Result<Position, QueryError> {
        match &self.0 {
            Backend::Sqlite(reader) => Ok(Position(Place::Row(reader.newest()?))),
            Backend::Postgres(reader) => Ok(Position(Place::Leaves(reader.lock().newest()?))),
        }
    }

    /// Rows that came after a position and match, in the order in which they came, and where to go on.
    pub fn follow(&self, filter: &Filter, after: &Position) -> Result<(Vec<Row>, Position), QueryError> {
        match (&self.0, &after.0) {
            (Backend::Sqlite(reader), Place::Row(after)) => {
                let (rows, next) = reader.follow(filter, *after)?;
                Ok((rows, Position(Place::Row(next))))
            }
            (Backend::Postgres(reader), Place::Leaves(after)) => {
                let (rows, next) = reader.lock().follow(filter, after)?;
                Ok((rows, Position(Place::Leaves(next))))
            }
            // A position of another store: begin at this one's end.
            _ => Ok((Vec::new(), self.newest()?)),
        }
    }

    /// The rows of one call: one for each of its actions. Empty when it is not known.
    pub fn trace(&self, access_id: Uuid) -> Result<Vec<Row>, QueryError> {
        let limit = Some(doorward_core::Actions::MAX);
        let filter = Filter { access_id: Some(access_id), limit, ..Filter::default() };
        let mut rows = self.query(&filter)?;
        rows.sort_by_key(|row| (row.int("seq"), row.int("action_index")));
        Ok(rows)
    }
}
