//! Rollups in PostgreSQL, with or without TimescaleDB: the schema's part, which `store migrate` applies as the
//! owner, and the way a batch's partial rows go in.
//!
//! Gateways may only insert partial rows. `doorward.fold_rollups()`, which runs with the owner's rights, moves them
//! into the levels: a partial row is deleted and added in one statement, so each counts once, however late it comes
//! and however many gateways call. With TimescaleDB's own licence the levels above a minute are continuous
//! aggregates; elsewhere the same function keeps them.
//!
//! Constraints: applying the schema again changes nothing but functions and views; every name is written with its
//! schema; a fold is bounded by [`FOLD_ROWS`].

use std::fmt::Write as _;

use doorward_pgclient::blocking::{Client, ClientError, Param};

use super::sketch::GROWTH;
use super::tables::{DimensionType, Fold, Level, TABLES, TRAFFIC, Table};
use super::views::VIEWS;
use super::{Cell, Rollups, Row};
use crate::config::{MINUTE_DAYS_MIN, QUARTER_DAYS_MIN, RollupRetention};

/// Functions on sketches and levels.
const FUNCTIONS: &str = include_str!("functions.sql");
/// Partial rows that one fold takes from each table.
pub const FOLD_ROWS: u32 = 20_000;
/// Rows that one step of retention removes from a level.
pub const EXPIRE_ROWS: u32 = 20_000;
/// 2000-01-01, in microseconds since 1970: where PostgreSQL's own times begin.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Functions, tables and views. The schema `doorward` and the roles are there already.
pub fn schema() -> String {
    let mut sql = FUNCTIONS.replace("GROWTH", &format!("{GROWTH:?}"));
    for table in TABLES {
        let (columns, key) = (column_definitions(table), dimension_names(table));
        // Writing to a string does not fail.
        let _ = writeln!(sql, "CREATE TABLE IF NOT EXISTS doorward.{} ({columns});", table.part);
        let _ = writeln!(sql, "GRANT INSERT ON doorward.{} TO doorward_writer;", table.part);
        // The levels above it are tables or continuous aggregates, by the edition.
        let name = table.level(Level::Minute);
        let _ = writeln!(
            sql,
            "CREATE TABLE IF NOT EXISTS doorward.{name} ({columns});
             CREATE UNIQUE INDEX IF NOT EXISTS {name}_key ON doorward.{name} ({key});"
        );
    }
    sql
}

/// The levels above a minute where there are no continuous aggregates.
pub fn plain_levels() -> String {
    let mut sql = String::new();
    for table in TABLES {
        let (columns, key) = (column_definitions(table), dimension_names(table));
        for level in [Level::Quarter, Level::Day] {
            let name = table.level(level);
            let _ = writeln!(
                sql,
                "CREATE TABLE IF NOT EXISTS doorward.{name} ({columns});
                 CREATE UNIQUE INDEX IF NOT EXISTS {name}_key ON doorward.{name} ({key});"
            );
        }
    }
    sql + &fold_function(&Level::ALL) + &expire_function(None)
}

/// The levels above a minute as continuous aggregates, refreshed by policies; one statement each, to be run outside
/// of a transaction. `extension` is the schema of TimescaleDB's functions. A refresh reaches back as far as the level
/// below is kept, for late records, and no further, or it would take from the level above what retention has taken
/// below; so a gateway cannot remove what is younger than `keep` says.
pub fn continuous_levels(extension: &str, keep: &RollupRetention) -> Vec<String> {
    let ext = quoted(extension);
    let mut statements = Vec::new();
    for table in TABLES {
        let minute = table.level(Level::Minute);
        statements.push(format!(
            "SELECT {ext}.create_hypertable('doorward.{minute}'::regclass, \
             {ext}.by_range('bucket', INTERVAL '1 day'), if_not_exists => true, migrate_data => true)"
        ));
        for (level, below, width, every) in [
            (Level::Quarter, Level::Minute, "15 minutes", "5 minutes"),
            (Level::Day, Level::Quarter, "1 day", "1 hour"),
        ] {
            let name = table.level(level);
            let (dimensions, sums) = (plain_dimensions(table), aggregates(table));
            statements.push(format!(
                "CREATE MATERIALIZED VIEW IF NOT EXISTS doorward.{name} \
                 WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS \
                 SELECT {ext}.time_bucket(INTERVAL '{width}', bucket) AS bucket, {dimensions}, {sums} \
                 FROM doorward.{} GROUP BY 1, {dimensions} WITH NO DATA",
                table.level(below)
            ));
            // Chunks of a day go when they are older as a whole.
            let reach = kept_days(keep, below)
                .map_or("NULL".to_owned(), |days| format!("INTERVAL '{} days'", days.saturating_sub(1)));
            // Made anew, because how long levels are kept may have changed.
            statements.push(format!(
                "DO $policy$ BEGIN
                   PERFORM {ext}.remove_continuous_aggregate_policy('doorward.{name}'::regclass, if_exists => true);
                   PERFORM {ext}.add_continuous_aggregate_policy('doorward.{name}'::regclass,
                     start_offset => {reach}, end_offset => INTERVAL '{width}',
                     schedule_interval => INTERVAL '{every}');
                 END $policy$"
            ));
        }
    }
    statements.push(fold_function(&[Level::Minute]));
    statements.push(expire_function(Some((&ext, keep))));
    statements
}

/// Whether the levels above a minute are tables, which `fold_rollups` keeps.
pub fn is_folded(client: &mut Client) -> Result<bool, ClientError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = 'doorward' AND c.relname = $1 AND c.relkind = 'r')";
    let reply = client.query(sql, &[Param::Text(&TRAFFIC.level(Level::Quarter))])?;
    Ok(reply.first().and_then(|row| row.bool(0)) == Some(true))
}

/// The views, for those who read. They come last: each edition's levels are there by then. `visible` is the
/// condition on a row that tells whether its reader may see it.
pub fn views(visible: &str) -> String {
    let mut sql = String::new();
    for table in TABLES {
        sql.push_str(&level_views(table, visible));
    }
    let mut latency = String::from(
        "SELECT level, time, environment, source, door, resource, verb, endpoint, api_version, config_digest, \
         outcome, calls",
    );
    for (name, sketch) in
        [("total", "duration_sketch"), ("gateway", "gateway_sketch"), ("backend", "backend_sketch")]
    {
        for (share, q) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
            let _ = write!(latency, ", timeline.quantile({sketch}, {q}) / 1000 AS {name}_{share}_ms");
        }
    }
    let _ = write!(latency, " FROM {}", TRAFFIC.view);
    for (name, query) in [("latency", latency.as_str())].iter().chain(VIEWS) {
        let query = TABLES.iter().fold((*query).to_owned(), |query, table| {
            query.replace(&format!("FROM {}", table.view), &format!("FROM timeline.{}", table.view))
        });
        put_view(&mut sql, name, &query);
    }
    sql
}

/// Partial rows of one table, as COPY takes them.
pub struct Part {
    sql: String,
    data: Vec<u8>,
}

/// Encodes a batch's partial rows.
pub fn parts(rollups: &Rollups) -> Vec<Part> {
    let some = TABLES.into_iter().zip(rollups).filter(|(_, rows)| !rows.is_empty());
    some.map(|(table, rows)| part(table, rows)).collect()
}

fn part(table: &Table, rows: &[Row]) -> Part {
    let columns = format!("{}, {}", dimension_names(table), measure_names(table));
    let sql = format!("COPY doorward.{} ({columns}) FROM STDIN (FORMAT binary)", table.part);
    let mut data = Vec::with_capacity(rows.len() * 1_024);
    data.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    for row in rows {
        data.extend_from_slice(&i16::try_from(row.cells.len() + 1).unwrap_or(i16::MAX).to_be_bytes());
        put_int(&mut data, row.bucket_us.saturating_sub(POSTGRES_EPOCH_US));
        for cell in &row.cells {
            put_cell(&mut data, cell);
        }
    }
    data.extend_from_slice(&(-1i16).to_be_bytes());
    Part { sql, data }
}

/// Writes them, in the batch's transaction.
pub fn append(client: &mut Client, parts: &[Part]) -> Result<(), ClientError> {
    for Part { sql, data } in parts {
        let mut copy = client.copy_in(sql)?;
        copy.write(data)?;
        copy.finish()?;
    }
    Ok(())
}

fn put_cell(data: &mut Vec<u8>, cell: &Cell) {
    /// The type `bigint`.
    const INT8: u32 = 20;
    match cell {
        Cell::Null => data.extend_from_slice(&(-1i32).to_be_bytes()),
        Cell::Int(number) => put_int(data, *number),
        Cell::Text(text) => {
            put_length(data, text.len());
            data.extend_from_slice(text.as_bytes());
        }
        Cell::Sketch(sketch) => {
            let entries = sketch.packed();
            let dimensions = i32::from(!entries.is_empty());
            put_length(data, 12 + entries.len() * 12 + if entries.is_empty() { 0 } else { 8 });
            data.extend_from_slice(&dimensions.to_be_bytes());
            data.extend_from_slice(&0i32.to_be_bytes());
            data.extend_from_slice(&INT8.to_be_bytes());
            if !entries.is_empty() {
                put_length(data, entries.len());
                data.extend_from_slice(&1i32.to_be_bytes());
            }
            for entry in entries {
                put_int(data, *entry);
            }
        }
    }
}

fn put_int(data: &mut Vec<u8>, number: i64) {
    data.extend_from_slice(&8i32.to_be_bytes());
    data.extend_from_slice(&number.to_be_bytes());
}

fn put_length(data: &mut Vec<u8>, length: usize) {
    data.extend_from_slice(&i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes());
}

/// Moves partial rows into the levels.
fn fold_function(levels: &[Level]) -> String {
    let mut body = String::new();
    for table in TABLES {
        let part = table.part;
        let inserts: Vec<String> = levels
            .iter()
            .map(|level| format!("level_{} AS ({})", level.as_str(), insert_level(table, *level)))
            .collect();
        let _ = write!(
            body,
            "WITH gone AS (DELETE FROM doorward.{part} WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM doorward.{part} LIMIT {FOLD_ROWS})) RETURNING *),
               {}
             SELECT count(*) INTO taken FROM gone;
             more := more OR taken = {FOLD_ROWS};
             ",
            inserts.join(", ")
        );
    }
    format!(
        "CREATE OR REPLACE FUNCTION doorward.fold_rollups() RETURNS boolean
           LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $fold$
         DECLARE taken bigint; more boolean := false;
         BEGIN
           -- Two folds would wait for each other's rows in different orders.
           IF NOT pg_try_advisory_xact_lock(hashtext('doorward.fold_rollups')) THEN
             RETURN false;
           END IF;
           {body}
           RETURN more;
         END $fold$;
         REVOKE ALL ON FUNCTION doorward.fold_rollups() FROM PUBLIC;
         GRANT EXECUTE ON FUNCTION doorward.fold_rollups() TO doorward_writer;"
    )
}

/// How many days a level is kept at least; nothing when it is kept for ever.
fn kept_days(keep: &RollupRetention, level: Level) -> Option<u64> {
    let (span, least) = match level {
        Level::Minute => (keep.minute, MINUTE_DAYS_MIN),
        Level::Quarter => (keep.quarter, QUARTER_DAYS_MIN),
        Level::Day => (keep.day, QUARTER_DAYS_MIN),
    };
    Some(span?.get().as_secs().div_ceil(24 * 60 * 60).max(least))
}

/// Removes a level's rows from before a time, within the bounds that late records need; with continuous aggregates
/// (the schema of TimescaleDB's functions, and how long levels are kept), whole chunks.
fn expire_function(continuous: Option<(&str, &RollupRetention)>) -> String {
    let mut body = String::new();
    for level in Level::ALL {
        let label = level.as_str();
        let bound = match (continuous, level) {
            (Some((_, keep)), _) => kept_days(keep, level),
            (None, Level::Minute) => Some(MINUTE_DAYS_MIN),
            (None, Level::Quarter | Level::Day) => Some(QUARTER_DAYS_MIN),
        };
        let bound = bound.map_or("'-infinity'".to_owned(), |days| format!("now() - INTERVAL '{days} days'"));
        let _ = write!(body, "IF level = '{label}' THEN reach := least(before, {bound});");
        for name in TABLES.map(|table| table.level(level)) {
            let _ = match continuous {
                Some((ext, _)) => write!(
                    body,
                    " PERFORM {ext}.drop_chunks('doorward.{name}'::regclass, older_than => reach);"
                ),
                None => write!(
                    body,
                    " DELETE FROM doorward.{name} WHERE ctid = ANY (ARRAY(SELECT ctid FROM doorward.{name} \
                     WHERE bucket < reach ORDER BY bucket LIMIT {EXPIRE_ROWS})); \
                     GET DIAGNOSTICS gone = ROW_COUNT; more := more OR gone = {EXPIRE_ROWS};"
                ),
            };
        }
        body.push_str(" END IF; ");
    }
    format!(
        "CREATE OR REPLACE FUNCTION doorward.expire_rollups(level text, before timestamptz) RETURNS boolean
           LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $expire$
         DECLARE reach timestamptz; gone bigint; more boolean := false;
         BEGIN
           {body}
           RETURN more;
         END $expire$;
         REVOKE ALL ON FUNCTION doorward.expire_rollups(text, timestamptz) FROM PUBLIC;
         GRANT EXECUTE ON FUNCTION doorward.expire_rollups(text, timestamptz) TO doorward_writer;"
    )
}

fn insert_level(table: &Table, level: Level) -> String {
    let (name, key, dimensions) = (table.level(level), dimension_names(table), plain_dimensions(table));
    let width = match level {
        Level::Minute => "1 minute",
        Level::Quarter => "15 minutes",
        Level::Day => "1 day",
    };
    let updates: Vec<String> = table
        .measures
        .iter()
        .map(|(measure, fold)| match fold {
            Fold::Sum => format!("{measure} = l.{measure} + excluded.{measure}"),
            Fold::Max => format!("{measure} = greatest(l.{measure}, excluded.{measure})"),
            Fold::Min => format!("{measure} = least(l.{measure}, excluded.{measure})"),
            Fold::Sketch => format!("{measure} = timeline.sketch_sum(l.{measure}, excluded.{measure})"),
        })
        .collect();
    format!(
        "INSERT INTO doorward.{name} AS l ({key}, {})
           SELECT date_bin(INTERVAL '{width}', bucket, TIMESTAMPTZ 'epoch'), {dimensions}, {}
           FROM gone GROUP BY 1, {dimensions}
           ON CONFLICT ({key}) DO UPDATE SET {}",
        measure_names(table),
        aggregates(table),
        updates.join(", ")
    )
}

fn aggregates(table: &Table) -> String {
    let one = |(measure, fold): &(&str, Fold)| match fold {
        // A sum of bigint is numeric, and no column of ours is.
        Fold::Sum => format!("sum({measure})::bigint AS {measure}"),
        Fold::Max => format!("max({measure}) AS {measure}"),
        Fold::Min => format!("min({measure}) AS {measure}"),
        Fold::Sketch => format!("timeline.sketch_merge({measure}) AS {measure}"),
    };
    table.measures.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn level_views(table: &Table, visible: &str) -> String {
    let names = format!("{}, {}", plain_dimensions(table), measure_names(table));
    let (view, part) = (table.view, table.part);
    let mut sql = String::new();
    let mut all = Vec::new();
    for level in Level::ALL {
        let (name, seconds, level) = (table.level(level), level.micros() / 1_000_000, level.as_str());
        let one = format!(
            "SELECT '{level}'::text AS level, bucket AS time, {names} FROM doorward.{name} WHERE {visible}
             UNION ALL
             SELECT '{level}'::text, date_bin(INTERVAL '{seconds} seconds', bucket, TIMESTAMPTZ 'epoch'), {names}
             FROM doorward.{part} WHERE {visible}"
        );
        put_view(&mut sql, &format!("{view}_{level}"), &one);
        all.push(one);
    }
    put_view(&mut sql, view, &all.join(" UNION ALL "));
    sql
}

fn put_view(sql: &mut String, name: &str, query: &str) {
    let _ = writeln!(
        sql,
        "CREATE OR REPLACE VIEW timeline.{name} WITH (security_barrier) AS {query};
         GRANT SELECT ON timeline.{name} TO doorward_reader;"
    );
}

fn column_definitions(table: &Table) -> String {
    let mut sql = String::from("bucket timestamptz NOT NULL");
    for (name, ty) in table.dimensions {
        let ty = match ty {
            DimensionType::Text => "text",
            DimensionType::Int => "bigint",
        };
        let _ = write!(sql, ", {name} {ty} NOT NULL");
    }
    for (name, fold) in table.measures {
        let ty = match fold {
            Fold::Sum | Fold::Max => "bigint NOT NULL",
            Fold::Min => "bigint",
            Fold::Sketch => "bigint[] NOT NULL",
        };
        let _ = write!(sql, ", {name} {ty}");
    }
    sql
}

fn plain_dimensions(table: &Table) -> String {
    table.dimensions.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn dimension_names(table: &Table) -> String {
    format!("bucket, {}", plain_dimensions(table))
}

fn measure_names(table: &Table) -> String {
    table.measures.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
