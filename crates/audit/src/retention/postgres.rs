//! Retention by class in PostgreSQL. Whole days go with their chunk or partition when nothing of them is kept any
//! longer (the store does that); what is here removes single classes from days that stay, and old rollups.
//!
//! Constraints: the gateway only calls functions that run with the owner's rights, within the owner's bounds; each
//! call is bounded.

use std::fmt::Write as _;

use doorward_pgclient::blocking::{Client, ClientError, Param};

use super::CLASSES;
use crate::config::Retention;
use crate::rollup::tables::Level;

/// The schema's part; running it again changes nothing.
pub const SCHEMA: &str = include_str!("postgres.sql");

/// `$2` microseconds since 1970 as a time.
const TIME: &str = "'epoch'::timestamptz + $2::bigint * interval '1 microsecond'";

/// How long each class is kept at least, and how large the store may grow, as the owner's statements.
pub fn bounds(retention: &Retention) -> String {
    let mut sql = String::from("DELETE FROM doorward.retention;");
    for class in CLASSES {
        // A class that is kept for ever cannot be removed at all.
        let keep = retention
            .class_us(class)
            .map_or("INTERVAL '5000 years'".to_owned(), |us| format!("{us} * INTERVAL '1 microsecond'"));
        // Writing to a string does not fail.
        let _ = write!(sql, " INSERT INTO doorward.retention VALUES ('{class}', {keep});");
    }
    sql.push_str(" DELETE FROM doorward.setting WHERE name = 'size_max';");
    if let Some(size) = retention.size {
        let _ = write!(sql, " INSERT INTO doorward.setting VALUES ('size_max', '{}');", size.get());
    }
    sql
}

/// Removes what has expired within days that stay, a bounded number of rows. Whether there may be more.
pub(crate) fn expire(client: &mut Client, retention: &Retention, now_us: i64) -> Result<bool, ClientError> {
    let mut more = false;
    let held = "SELECT EXISTS (SELECT 1 FROM doorward.legal_hold WHERE released_us IS NULL)";
    let held = client.query(held, &[])?.first().and_then(|row| row.bool(0)) == Some(true);
    for group in retention.groups() {
        // Days that nothing keeps go as a whole, unless a hold keeps something of them.
        if !held && Some(group.keep_us) == retention.longest_us() {
            continue;
        }
        let classes = format!("{{{}}}", group.classes.join(","));
        let before = now_us.saturating_sub(group.keep_us);
        let sql = format!("SELECT doorward.expire_classes($1::text[], {TIME})");
        more |= truth(client, &sql, &[Param::Text(&classes), Param::Int(before)])?;
    }
    for level in Level::ALL {
        let Some(keep_us) = retention.level_us(level) else { continue };
        let before = now_us.saturating_sub(keep_us);
        let sql = format!("SELECT doorward.expire_rollups($1::text, {TIME})");
        more |= truth(client, &sql, &[Param::Text(level.as_str()), Param::Int(before)])?;
    }
    Ok(more)
}

fn truth(client: &mut Client, sql: &str, params: &[Param<'_>]) -> Result<bool, ClientError> {
    Ok(client.query(sql, params)?.first().and_then(|row| row.bool(0)) == Some(true))
}
