//! Legal holds: what may be neither removed nor erased, because it may be needed in court.
//!
//! A hold covers a person, a resource, a span of time, or all that its conditions have in common; without
//! any, everything. Holds stand in the record store, so that retention and erasure, which may run on
//! different machines, honour the same ones.
//!
//! Invariant: a released hold stays in the table; who held what, from when until when, is told for ever.

use std::path::Path;

use doorward_core::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, ToSql, params};
use uuid::Uuid;

use crate::config::StoreUrl;
use crate::store::BUSY_WAIT;

/// The most holds that are read.
const HOLDS_MAX: i64 = 10_000;

/// Why holds cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// SQLite says no.
    #[error("the store: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// There is no store.
    #[error("there is no store at {0}")]
    Missing(String),
    /// There is no such hold in force.
    #[error("there is no hold {0} in force")]
    Unknown(String),
    /// The kind of store has none yet.
    #[error("legal holds in {0} are not available in this version yet")]
    Elsewhere(String),
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its id.
    pub id: Uuid,
    /// What it is called: the matter, or the case's number.
    pub name: String,
    /// The person whom it covers.
    pub subject_id: Option<Uuid>,
    /// The resource that it covers.
    pub resource: Option<String>,
    /// Records not before this.
    pub from: Option<Timestamp>,
    /// Records before this.
    pub until: Option<Timestamp>,
    /// When it was laid.
    pub created: Timestamp,
    /// Who laid it.
    pub created_by: String,
    /// When it was released; `None` while it is in force.
    pub released: Option<Timestamp>,
}

/// The holds of one store.
#[derive(Debug)]
pub struct Holds(Connection);

impl Holds {
    /// Opens the store. Blocks.
    pub fn open(store: &StoreUrl) -> Result<Self, HoldError> {
        let path = store.path().ok_or_else(|| HoldError::Elsewhere(store.to_string()))?;
        Self::open_file(path)
    }

    fn open_file(path: &Path) -> Result<Self, HoldError> {
        if !path.is_file() {
            return Err(HoldError::Missing(path.display().to_string()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_WAIT)?;
        connection.execute_batch(crate::retention::sqlite::SCHEMA)?;
        Ok(Self(connection))
    }

    /// Lays a hold.
    pub fn add(&self, hold: &Hold) -> Result<(), HoldError> {
        let micros = |time: Option<Timestamp>| time.map(Timestamp::micros);
        self.0.execute(
            "INSERT INTO legal_hold VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                hold.id.to_string(),
                hold.name,
                hold.subject_id.map(|id| id.to_string()),
                hold.resource,
                micros(hold.from),
                micros(hold.until),
                hold.created.micros(),
                hold.created_by,
                micros(hold.released),
            ],
        )?;
        Ok(())
    }

    /// Releases the holds in force that have this id or this name: a person may have several ids, and a hold
    /// over a person is one for each.
    pub fn release(&self, which: &str, at: Timestamp) -> Result<Vec<Hold>, HoldError> {
        let matching = |hold: &Hold| hold.id.to_string() == which || hold.name == which;
        let mut released = Vec::new();
        for hold in self.list(false)?.into_iter().filter(matching) {
            self.0.execute(
                "UPDATE legal_hold SET released_us = ?2 WHERE hold_id = ?1 AND released_us IS NULL",
                params![hold.id.to_string(), at.micros()],
            )?;
            released.push(Hold { released: Some(at), ..hold });
        }
        if released.is_empty() { Err(HoldError::Unknown(which.to_owned())) } else { Ok(released) }
    }

    /// The holds in force, oldest first; with `all`, the released ones too.
    pub fn list(&self, all: bool) -> Result<Vec<Hold>, HoldError> {
        let mut statement = self.0.prepare(
            "SELECT hold_id, name, subject_id, resource, from_us, until_us, created_us, created_by, released_us
             FROM legal_hold WHERE released_us IS NULL OR ?1 ORDER BY created_us, hold_id LIMIT ?2",
        )?;
        let rows = statement.query_map(params![all, HOLDS_MAX], hold)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The holds in force that cover one of these ids of a person: those that name it, and those over a
    /// resource or a time in which the person has records.
    pub fn covering(&self, ids: &[Uuid]) -> Result<Vec<Hold>, HoldError> {
        let mut covering = Vec::new();
        for hold in self.list(false)? {
            let covers = match hold.subject_id {
                Some(id) => ids.contains(&id),
                None if hold.resource.is_none() && hold.from.is_none() && hold.until.is_none() => true,
                None => self.has_records(&hold, ids)?,
            };
            if covers {
                covering.push(hold);
            }
        }
        Ok(covering)
    }

    fn has_records(&self, hold: &Hold, ids: &[Uuid]) -> Result<bool, HoldError> {
        let mut sql = "SELECT 1 FROM access_event WHERE ts >= ? AND ts < ?".to_owned();
        let mut values: Vec<Box<dyn ToSql>> = vec![
            Box::new(hold.from.map_or(i64::MIN, Timestamp::micros)),
            Box::new(hold.until.map_or(i64::MAX, Timestamp::micros)),
        ];
        if let Some(resource) = &hold.resource {
            sql.push_str(" AND resource = ?");
            values.push(Box::new(resource.clone()));
        }
        let places = vec!["?"; ids.len()].join(", ");
        sql.push_str(&format!(" AND subject_id IN ({places}) LIMIT 1"));
        values.extend(ids.iter().map(|id| Box::new(id.to_string()) as Box<dyn ToSql>));
        let values: Vec<&dyn ToSql> = values.iter().map(|value| &**value).collect();
        Ok(self.0.query_row(&sql, &*values, |_| Ok(())).optional()?.is_some())
    }
}

fn hold(row: &Row<'_>) -> rusqlite::Result<Hold> {
    let id = |text: Option<String>| text.and_then(|text| Uuid::parse_str(&text).ok());
    let time = |micros: Option<i64>| micros.map(Timestamp::from_micros);
    Ok(Hold {
        id: id(row.get(0)?).unwrap_or_default(),
        name: row.get(1)?,
        subject_id: id(row.get(2)?),
        resource: row.get(3)?,
        from: time(row.get(4)?),
        until: time(row.get(5)?),
        created: Timestamp::from_micros(row.get(6)?),
        created_by: row.get(7)?,
        released: time(row.get(8)?),
    })
}

/// Whether a hold covers callers who are not known: any that names no person.
pub(crate) fn unknown_callers_held(store: &StoreUrl) -> Box<dyn Fn() -> Result<bool, String> + Send> {
    let store = store.clone();
    Box::new(move || match Holds::open(&store).and_then(|holds| holds.list(false)) {
        Ok(holds) => Ok(holds.iter().any(|hold| hold.subject_id.is_none())),
        // Without a store there is nothing to hold.
        Err(HoldError::Missing(_)) => Ok(false),
        Err(error) => Err(error.to_string()),
    })
}
