//! The timeline in an embedded file.

use std::path::Path;

use doorward_core::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, ToSql};

use super::select::{Bind, Dialect, NEWEST_FIRST, OLDEST_FIRST, Select};
use super::{Cell, Filter, GAPS_MAX, GapRow, QueryError, Row};
use crate::columns::COLUMNS;
use crate::rollup;
use crate::store::BUSY_WAIT;

#[derive(Debug)]
pub(super) struct Reader {
    connection: Connection,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, QueryError> {
        if !path.is_file() {
            return Err(QueryError::Missing(path.display().to_string()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_WAIT)?;
        rollup::sqlite::add_functions(&connection)?;
        // Reading a file in WAL mode may have to make its index file; nothing else is written.
        connection.pragma_update(None, "query_only", true)?;
        let probe = Select::of(Dialect::Sqlite, &Filter::default()).sql("", "access_event", "ts", None);
        connection
            .prepare(&probe)
            .map_err(|cause| QueryError::Other { path: path.display().to_string(), cause })?;
        Ok(Self { connection })
    }

    pub(super) fn newest_first(
        &self,
        filter: &Filter,
        each: &mut dyn FnMut(Row) -> bool,
    ) -> Result<(), QueryError> {
        let select = Select::of(Dialect::Sqlite, filter);
        self.run(&select, NEWEST_FIRST, Some(filter.limit()), &mut |row, _| each(row))
    }

    pub(super) fn oldest_first(
        &self,
        filter: &Filter,
        each: &mut dyn FnMut(Row) -> bool,
    ) -> Result<(), QueryError> {
        let select = Select::of(Dialect::Sqlite, filter);
        self.run(&select, OLDEST_FIRST, filter.limit, &mut |row, _| each(row))
    }

    pub(super) fn newest(&self) -> Result<i64, QueryError> {
        let newest: Option<i64> =
            self.connection.query_row("SELECT max(rowid) FROM access_event", [], |row| row.get(0))?;
        Ok(newest.unwrap_or(0))
    }

    pub(super) fn follow(&self, filter: &Filter, after: i64) -> Result<(Vec<Row>, i64), QueryError> {
        let newest = self.newest()?;
        // Retention may have emptied the table, and numbers begin again.
        let after = if newest < after { 0 } else { after };
        let mut select = Select::of(Dialect::Sqlite, filter);
        select.add("rowid >", Bind::Int(after));
        select.add("rowid <=", Bind::Int(newest));
        let (mut rows, mut last) = (Vec::new(), newest);
        self.run(&select, "rowid", Some(filter.limit()), &mut |row, number| {
            rows.push(row);
            last = number;
            true
        })?;
        let next = if rows.len() >= filter.limit() { last } else { newest };
        Ok((rows, next))
    }

    pub(super) fn gaps(&self, since: i64, until: i64) -> Result<Vec<GapRow>, QueryError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT from_us, until_us, lost, gateway_id, reason FROM audit_gap
             WHERE until_us >= ?1 AND from_us < ?2 ORDER BY from_us LIMIT ?3",
        )?;
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

    /// Asks the rollups' views about a span of time.
    pub(super) fn ask(&self, sql: &str, between: (i64, i64)) -> Result<Vec<Vec<Cell>>, QueryError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let width = statement.column_count();
        let rows = statement.query_map([between.0, between.1], |row| {
            (0..width).map(|index| Ok(cell(row.get_ref(index)?))).collect::<rusqlite::Result<Vec<_>>>()
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn run(
        &self,
        select: &Select,
        order: &str,
        limit: Option<usize>,
        each: &mut dyn FnMut(Row, i64) -> bool,
    ) -> Result<(), QueryError> {
        let mut statement =
            self.connection.prepare_cached(&select.sql(", rowid", "access_event", order, limit))?;
        let values: Vec<&dyn ToSql> = select
            .binds
            .iter()
            .map(|bind| match bind {
                Bind::Int(number) => number as &dyn ToSql,
                Bind::Text(text) => text,
            })
            .collect();
        let mut rows = statement.query(&*values)?;
        while let Some(row) = rows.next()? {
            let cells = (0..COLUMNS.len())
                .map(|index| Ok(cell(row.get_ref(index)?)))
                .collect::<rusqlite::Result<_>>()?;
            if !each(Row::new(cells), row.get(COLUMNS.len())?) {
                break;
            }
        }
        Ok(())
    }
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Int(number),
        ValueRef::Real(number) => Cell::Text(number.to_string()),
        ValueRef::Text(text) | ValueRef::Blob(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
    }
}
