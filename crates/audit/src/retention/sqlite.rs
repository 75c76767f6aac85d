//! Retention in SQLite.
//!
//! Constraints: a step looks at no more than [`WINDOW_ROWS`] rows of each group of classes. A cursor remembers how
//! far a group has been looked through, so that rows which stay are not read again with each step; once a day it
//! begins anew, for records that came late and for holds that were released.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::Group;
use crate::config::Retention;
use crate::rollup;
use crate::rollup::tables::Level;

/// Rows that one step looks at.
const WINDOW_ROWS: i64 = 10_000;
/// Rows that one step removes when the file is too large.
const SIZE_ROWS: i64 = 5_000;
/// Rows whose removal is told at one time, so that notes of it stay few.
const SIZE_TOLD_ROWS: i64 = 50_000;
/// How often a group is looked through from its beginning.
const SWEEP_EVERY_US: i64 = 24 * 60 * 60 * 1_000_000;

/// A row of `access_event` that no hold in force covers.
const FREE: &str = "NOT EXISTS (
    SELECT 1 FROM legal_hold AS h WHERE h.released_us IS NULL
    AND (h.subject_id IS NULL OR h.subject_id = access_event.subject_id)
    AND (h.resource IS NULL OR h.resource = access_event.resource)
    AND (h.from_us IS NULL OR access_event.ts >= h.from_us)
    AND (h.until_us IS NULL OR access_event.ts < h.until_us))";

/// The tables.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS retention_horizon (
    class TEXT NOT NULL PRIMARY KEY, before_us INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS retention_cursor (
    classes TEXT NOT NULL PRIMARY KEY, done_us INTEGER NOT NULL, swept_us INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS legal_hold (
    hold_id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, subject_id TEXT, resource TEXT,
    from_us INTEGER, until_us INTEGER, created_us INTEGER NOT NULL, created_by TEXT NOT NULL,
    released_us INTEGER) WITHOUT ROWID;";

/// Removes what has expired, a bounded number of rows. Whether there may be more.
pub fn expire(connection: &mut Connection, retention: &Retention, now_us: i64) -> rusqlite::Result<bool> {
    let mut more = false;
    for group in retention.groups() {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        more |= expire_group(&transaction, &group, now_us)?;
        transaction.commit()?;
    }
    for level in Level::ALL {
        if let Some(keep) = retention.level_us(level) {
            more |= rollup::sqlite::expire(connection, level, now_us.saturating_sub(keep))?;
        }
    }
    Ok(more)
}

fn expire_group(transaction: &Transaction<'_>, group: &Group, now_us: i64) -> rusqlite::Result<bool> {
    let (key, before) = (group.classes.join(","), now_us.saturating_sub(group.keep_us));
    let cursor: Option<(i64, i64)> = transaction
        .prepare_cached("SELECT done_us, swept_us FROM retention_cursor WHERE classes = ?1")?
        .query_row([&key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (done, swept) = match cursor {
        Some((done, swept)) if now_us.saturating_sub(swept) < SWEEP_EVERY_US => (done, swept),
        Some(_) | None => (i64::MIN, now_us),
    };
    let (end, looked_at): (Option<i64>, i64) = transaction
        .prepare_cached(
            "SELECT max(ts), count(*) FROM
             (SELECT ts FROM access_event WHERE ts >= ?1 AND ts < ?2 ORDER BY ts LIMIT ?3)",
        )?
        .query_row(params![done, before, WINDOW_ROWS], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let Some(end) = end else { return Ok(false) };
    for class in &group.classes {
        let removed = transaction
            .prepare_cached(&format!(
                "DELETE FROM access_event WHERE ts >= ?1 AND ts <= ?2 AND ifnull(class, 'access') = ?3 AND {FREE}"
            ))?
            .execute(params![done, end, class])?;
        if removed > 0 {
            raise_horizon(transaction, class, end.saturating_add(1))?;
        }
    }
    transaction
        .prepare_cached(
            "INSERT INTO retention_cursor VALUES (?1, ?2, ?3) ON CONFLICT (classes) DO UPDATE
             SET done_us = excluded.done_us, swept_us = excluded.swept_us",
        )?
        .execute(params![key, end.saturating_add(1), swept])?;
    Ok(looked_at == WINDOW_ROWS)
}

/// Removes the oldest records from before a time that no hold covers, of whatever class, a bounded number. How many.
pub fn shrink(connection: &mut Connection, before_us: i64) -> rusqlite::Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let oldest = format!("FROM access_event WHERE ts < ?2 AND {FREE} ORDER BY ts LIMIT ?1");
    let newest: Option<i64> = transaction
        .prepare_cached(&format!("SELECT max(ts) FROM (SELECT ts {oldest})"))?
        .query_row([SIZE_ROWS, before_us], |row| row.get(0))?;
    let Some(newest) = newest else { return Ok(0) };
    let removed = transaction
        .prepare_cached(&format!("DELETE FROM access_event WHERE rowid IN (SELECT rowid {oldest})"))?
        .execute([SIZE_ROWS, before_us])?;
    // They were of all classes.
    raise_horizon(&transaction, "", newest.saturating_add(1))?;
    transaction.commit()?;
    Ok(removed)
}

/// Before when the records are that a store which is too large should remove next; `None` when there are none.
pub fn too_much(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let oldest = format!("SELECT ts FROM access_event WHERE {FREE} ORDER BY ts LIMIT ?1");
    let newest: Option<i64> = connection
        .prepare_cached(&format!("SELECT max(ts) FROM ({oldest})"))?
        .query_row([SIZE_TOLD_ROWS], |row| row.get(0))?;
    Ok(newest.map(|newest| newest.saturating_add(1)))
}

/// Keeps, with the removal, up to when rows were removed: a row that is missing after that was taken away.
pub(crate) fn raise_horizon(
    transaction: &Transaction<'_>,
    class: &str,
    before_us: i64,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO retention_horizon VALUES (?1, ?2)
             ON CONFLICT (class) DO UPDATE SET before_us = max(before_us, excluded.before_us)",
        )?
        .execute(params![class, before_us])?;
    Ok(())
}
