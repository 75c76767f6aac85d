//! Rollups in SQLite: partial rows are appended with their batch and folded into the levels by and by.
//!
//! Constraints: one writer; a fold moves at most [`FOLD_ROWS`] partial rows in one transaction, so that the shipper
//! is not kept from its work. Times are microseconds, sketches JSON arrays; every view can be read by SQLite's own
//! shell.

use std::fmt::Write as _;

use rusqlite::functions::{Aggregate, Context, FunctionFlags};
use rusqlite::types::Null;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::sketch::{COUNT_BITS, GROWTH, Sketch};
use super::tables::{DimensionType, Fold, Level, TABLES, TRAFFIC, Table};
use super::views::VIEWS;
use super::{Cell, Rollups};

/// Partial rows that one fold takes.
const FOLD_ROWS: i64 = 10_000;
/// Rows that one step of retention removes from a level.
const RETAIN_ROWS: i64 = 5_000;

/// The tables and views; running it again changes nothing.
pub fn schema() -> String {
    let mut sql = String::new();
    for table in TABLES {
        let columns = column_definitions(table);
        let key = dimension_names(table);
        // Writing to a string does not fail.
        let _ = writeln!(sql, "CREATE TABLE IF NOT EXISTS {} ({columns});", table.part);
        for level in Level::ALL {
            let name = table.level(level);
            let _ = writeln!(sql, "CREATE TABLE IF NOT EXISTS {name} ({columns}, PRIMARY KEY ({key}));");
        }
        sql.push_str(&level_views(table));
    }
    sql.push_str(&analysis_views());
    sql
}

/// Makes the functions that fold and read sketches known to a connection: `sketch_sum(a, b)`, the aggregate
/// `sketch_merge(sketch)`, and `quantile(sketch, q)` in microseconds.
pub fn add_functions(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("sketch_sum", 2, flags, |context| {
        let mut sum = argument(context, 0)?;
        sum.merge(&argument(context, 1)?);
        Ok(sum.to_json())
    })?;
    connection.create_scalar_function("quantile", 2, flags, |context| {
        Ok(argument(context, 0)?.quantile(context.get(1)?))
    })?;
    // SQLite's own shell has it, the library that we carry does not.
    connection.create_scalar_function("pow", 2, flags, |context| {
        Ok(context.get::<f64>(0)?.powf(context.get::<f64>(1)?))
    })?;
    connection.create_aggregate_function("sketch_merge", 1, flags, Merge)
}

fn argument(context: &Context<'_>, index: usize) -> rusqlite::Result<Sketch> {
    let text: Option<String> = context.get(index)?;
    Ok(text.map(|text| Sketch::from_json(&text)).unwrap_or_default())
}

struct Merge;

impl Aggregate<Sketch, String> for Merge {
    fn init(&self, _: &mut Context<'_>) -> rusqlite::Result<Sketch> {
        Ok(Sketch::default())
    }

    fn step(&self, context: &mut Context<'_>, sum: &mut Sketch) -> rusqlite::Result<()> {
        sum.merge(&argument(context, 0)?);
        Ok(())
    }

    fn finalize(&self, _: &mut Context<'_>, sum: Option<Sketch>) -> rusqlite::Result<String> {
        Ok(sum.unwrap_or_default().to_json())
    }
}

/// Appends a batch's partial rows, in the batch's transaction.
pub fn append(transaction: &Transaction<'_>, rollups: &Rollups) -> rusqlite::Result<()> {
    for (table, rows) in TABLES.into_iter().zip(rollups) {
        if rows.is_empty() {
            continue;
        }
        let places = vec!["?"; 1 + table.dimensions.len() + table.measures.len()].join(", ");
        let mut statement =
            transaction.prepare_cached(&format!("INSERT INTO {} VALUES ({places})", table.part))?;
        for row in rows {
            statement.raw_bind_parameter(1, row.bucket_us)?;
            for (place, cell) in (2..).zip(&row.cells) {
                match cell {
                    Cell::Null => statement.raw_bind_parameter(place, Null)?,
                    Cell::Int(number) => statement.raw_bind_parameter(place, number)?,
                    Cell::Text(text) => statement.raw_bind_parameter(place, text)?,
                    Cell::Sketch(sketch) => statement.raw_bind_parameter(place, sketch.to_json())?,
                }
            }
            statement.raw_execute()?;
        }
    }
    Ok(())
}

/// Folds partial rows into the levels. Whether there are more.
pub fn fold(connection: &mut Connection) -> rusqlite::Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut more = false;
    for table in TABLES {
        let part = table.part;
        let last: Option<i64> = transaction.query_row(
            &format!("SELECT max(rowid) FROM (SELECT rowid FROM {part} ORDER BY rowid LIMIT ?1)"),
            [FOLD_ROWS],
            |row| row.get(0),
        )?;
        let Some(last) = last else { continue };
        for level in Level::ALL {
            transaction.prepare_cached(&fold_sql(table, level))?.execute([last])?;
        }
        transaction.prepare_cached(&format!("DELETE FROM {part} WHERE rowid <= ?1"))?.execute([last])?;
        more |= transaction
            .prepare_cached(&format!("SELECT EXISTS (SELECT 1 FROM {part})"))?
            .query_row([], |row| row.get::<_, bool>(0))?;
    }
    transaction.commit()?;
    Ok(more)
}

/// Removes a level's rows from before a time, a bounded number. Whether there may be more.
pub fn expire(connection: &Connection, level: Level, before_us: i64) -> rusqlite::Result<bool> {
    let mut more = false;
    for table in TABLES {
        let (name, key) = (table.level(level), dimension_names(table));
        let removed = connection
            .prepare_cached(&format!(
                "DELETE FROM {name} WHERE ({key}) IN
                 (SELECT {key} FROM {name} WHERE bucket < ?1 ORDER BY bucket LIMIT ?2)"
            ))?
            .execute([before_us, RETAIN_ROWS])?;
        more |= i64::try_from(removed) == Ok(RETAIN_ROWS);
    }
    Ok(more)
}

fn fold_sql(table: &Table, level: Level) -> String {
    let (name, key, width) = (table.level(level), dimension_names(table), level.micros());
    let dimensions: Vec<&str> = table.dimensions.iter().map(|(name, _)| *name).collect();
    let (mut sums, mut updates) = (Vec::new(), Vec::new());
    for (measure, fold) in table.measures {
        sums.push(aggregate(measure, *fold));
        updates.push(match fold {
            Fold::Sum => format!("{measure} = {measure} + excluded.{measure}"),
            Fold::Max => format!("{measure} = max({measure}, excluded.{measure})"),
            Fold::Min => format!(
                "{measure} = min(coalesce({measure}, excluded.{measure}), coalesce(excluded.{measure}, {measure}))"
            ),
            Fold::Sketch => format!("{measure} = sketch_sum({measure}, excluded.{measure})"),
        });
    }
    format!(
        "INSERT INTO {name} SELECT bucket - bucket % {width}, {}, {} FROM {} WHERE rowid <= ?1
         GROUP BY bucket - bucket % {width}, {} ON CONFLICT ({key}) DO UPDATE SET {}",
        dimensions.join(", "),
        sums.join(", "),
        table.part,
        dimensions.join(", "),
        updates.join(", "),
    )
}

/// How a measure of several rows becomes one.
pub(crate) fn aggregate(measure: &str, fold: Fold) -> String {
    match fold {
        Fold::Sum => format!("sum({measure})"),
        Fold::Max => format!("max({measure})"),
        Fold::Min => format!("min({measure})"),
        Fold::Sketch => format!("sketch_merge({measure})"),
    }
}

fn column_definitions(table: &Table) -> String {
    let mut sql = String::from("bucket INTEGER NOT NULL");
    for (name, ty) in table.dimensions {
        let ty = match ty {
            DimensionType::Text => "TEXT",
            DimensionType::Int => "INTEGER",
        };
        let _ = write!(sql, ", {name} {ty} NOT NULL");
    }
    for (name, fold) in table.measures {
        let ty = match fold {
            Fold::Sum | Fold::Max => "INTEGER NOT NULL",
            Fold::Min => "INTEGER",
            Fold::Sketch => "TEXT NOT NULL",
        };
        let _ = write!(sql, ", {name} {ty}");
    }
    sql
}

fn dimension_names(table: &Table) -> String {
    let names: Vec<&str> = table.dimensions.iter().map(|(name, _)| *name).collect();
    format!("bucket, {}", names.join(", "))
}

/// Each level with the partial rows that are not folded yet, and all levels as one view.
fn level_views(table: &Table) -> String {
    let names =
        table.dimensions.iter().map(|(name, _)| *name).chain(table.measures.iter().map(|(name, _)| *name));
    let names = names.collect::<Vec<_>>().join(", ");
    let (view, part) = (table.view, table.part);
    let mut sql = String::new();
    for level in Level::ALL {
        let (name, width, level) = (table.level(level), level.micros(), level.as_str());
        let _ = writeln!(
            sql,
            "CREATE VIEW IF NOT EXISTS {view}_{level} AS
               SELECT '{level}' AS level, bucket AS time, {names} FROM {name} UNION ALL
               SELECT '{level}', bucket - bucket % {width}, {names} FROM {part};"
        );
    }
    let all = Level::ALL.map(|level| format!("SELECT * FROM {view}_{}", level.as_str()));
    let _ = writeln!(sql, "CREATE VIEW IF NOT EXISTS {view} AS {};", all.join(" UNION ALL "));
    sql
}

fn analysis_views() -> String {
    let quantile = |sketch: &str, q: f64| {
        format!(
            "(SELECT 2 * pow({GROWTH:?}, min(bucket)) / ({GROWTH:?} + 1) / 1000 FROM (
                SELECT bucket, sum(hits) OVER (ORDER BY bucket) AS seen, sum(hits) OVER () AS total FROM (
                  SELECT e.value >> {COUNT_BITS} AS bucket, sum(e.value & ((1 << {COUNT_BITS}) - 1)) AS hits
                  FROM json_each({sketch}) AS e GROUP BY 1))
              WHERE seen >= {q} * total)"
        )
    };
    let mut sql = String::from(
        "CREATE VIEW IF NOT EXISTS latency AS SELECT level, time, environment, source, door, resource, verb, endpoint, api_version, config_digest, outcome, calls",
    );
    for (name, sketch) in
        [("total", "duration_sketch"), ("gateway", "gateway_sketch"), ("backend", "backend_sketch")]
    {
        for (share, q) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
            let _ = write!(sql, ", {} AS {name}_{share}_ms", quantile(sketch, q));
        }
    }
    let _ = writeln!(sql, " FROM {};", TRAFFIC.view);
    for (name, query) in VIEWS {
        let _ = writeln!(sql, "CREATE VIEW IF NOT EXISTS {name} AS {query};");
    }
    sql
}
