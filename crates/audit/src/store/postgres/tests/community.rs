//! TimescaleDB's community edition: columnstore, continuous aggregates, their policies, and retention in them. This
//! build has no COPY, so rows go in by INSERT.

use doorward_testkit::timescale_community::TimescaleCommunity;

use super::*;
use crate::rollup::tables::TABLES;
use crate::rollup::{Cell, Rollups};

const DAY_US: i64 = 86_400_000_000;
/// A day lies in the columnstore after two, so some do and some do not.
const DAYS: i64 = 10;
const CALLS_A_DAY: u128 = 3;

/// Older than minutes are kept by default.
const LONG_AGO: i64 = 35;

/// Migrates, with minutes kept for so many days.
fn migrate_community(server: &TimescaleCommunity, minute_days: u64) {
    let target = Target::parse(&server.url(), false).unwrap();
    let mut migrator = Migrator::connect(&target, &login(SUPERUSER, "any")).unwrap();
    let edition = migrator.edition().unwrap();
    assert!(matches!(edition, Edition::Community(_)), "{edition}");
    migrator.lock().unwrap();
    let mut retention = Retention::default();
    let minute = std::time::Duration::from_secs(minute_days * 86_400);
    retention.rollups.minute = Some(doorward_settings::HumanDuration::new(minute));
    let migration = Migration { retention: Some(retention), ..usual() };
    for step in migrator.plan(&migration).unwrap() {
        migrator.run(&step).unwrap_or_else(|error| panic!("{}: {error}", step.title));
    }
}

/// A batch as INSERTs of the columns that the questions below are about.
fn inserts(batch: &Batch<'_>) -> Vec<String> {
    let mut statements = Vec::new();
    for record in &batch.records {
        let row = record.row(batch.gateway_id, batch.epoch, 0);
        let ts = record.access.values.iter().zip(CALL_COLUMNS.iter()).find(|(_, (name, _))| *name == "ts");
        let Some((Value::Int(ts), _)) = ts else { panic!("a call has a time") };
        let hash: String = record.leaf_hashes[0].iter().map(|byte| format!("{byte:02x}")).collect();
        statements.push(format!(
            "INSERT INTO doorward.access_event
                 (ts, gateway_id, epoch, seq, access_id, action_index, action_count, class, environment, outcome,
                  endpoint, log_index, leaf_hash)
             VALUES ('epoch'::timestamptz + {ts} * interval '1 microsecond', '{}', {}, {}, '{}', 0, 1, 'access',
                     'prod', 'allowed', 'GET /shop/orders', {}, '\\x{hash}')",
            batch.gateway_id, batch.epoch, row.seq, row.access.access_id, record.log_index
        ));
    }
    statements.extend(partial_rows(&batch.rollups));
    statements
}

fn partial_rows(rollups: &Rollups) -> Vec<String> {
    let text = |cell: &Cell| match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Int(number) => number.to_string(),
        Cell::Text(text) => format!("'{text}'"),
        Cell::Sketch(sketch) => {
            let packed: Vec<String> = sketch.packed().iter().map(i64::to_string).collect();
            format!("'{{{}}}'", packed.join(","))
        }
    };
    let rows = TABLES.into_iter().zip(rollups);
    rows.flat_map(|(table, rows)| {
        rows.iter().map(move |row| {
            let cells: Vec<String> = row.cells.iter().map(text).collect();
            format!(
                "INSERT INTO doorward.{} VALUES ('epoch'::timestamptz + {} * interval '1 microsecond', {})",
                table.part,
                row.bucket_us,
                cells.join(", ")
            )
        })
    })
    .collect()
}

fn run(server: &TimescaleCommunity, statements: &[String]) {
    let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
    server.sql(&statements).unwrap();
}

/// Runs the policies of one kind as a background worker would, which this build has none of.
fn run_policies(server: &TimescaleCommunity, procedure: &str) -> usize {
    let sql = format!(
        "SELECT format('CALL public.run_job(%s)', job_id) FROM timescaledb_information.jobs
         WHERE proc_name = '{procedure}' ORDER BY job_id"
    );
    let jobs: Vec<String> = server.sql(&[&sql]).unwrap().lines().map(str::to_owned).collect();
    run(server, &jobs);
    jobs.len()
}

fn calls(server: &TimescaleCommunity, view: &str) -> i64 {
    number(server, &format!("SELECT coalesce(sum(calls), 0) FROM timeline.{view}"))
}

fn number(server: &TimescaleCommunity, sql: &str) -> i64 {
    server.sql(&[sql]).unwrap().parse().unwrap()
}

/// Calls on each of some days before `now`.
fn kept(now: i64, days: &[i64], first_id: u128) -> Batch<'static> {
    let times = days.iter().flat_map(|day| (0..CALLS_A_DAY).map(move |_| now - day * DAY_US));
    let call = |(ts, id)| {
        access(id, |set| {
            set("ts", Value::Int(ts));
            set("endpoint", Value::Text("GET /shop/orders".into()));
            set("duration_us", Value::Int(2_000));
        })
    };
    batch(0, 0, times.zip(first_id..).map(call).collect())
}

/// One server, because it takes seconds to start and half a gigabyte: its store lives a whole life.
#[test]
fn columns_and_continuous_aggregates_hold_what_was_recorded() {
    let server = TimescaleCommunity::start().unwrap();
    migrate_community(&server, 60);
    let shape = "SELECT string_agg(relname || relkind::text, ',' ORDER BY relname) FROM pg_class
        WHERE relnamespace IN ('doorward'::regnamespace, 'timeline'::regnamespace)";
    let jobs =
        "SELECT string_agg(proc_name || hypertable_name || config, ',' ORDER BY hypertable_name, proc_name)
        FROM timescaledb_information.jobs";
    let before = server.sql(&[shape, jobs]).unwrap();
    migrate_community(&server, 60);
    assert_eq!(server.sql(&[shape, jobs]).unwrap(), before);

    let now = SystemClock.now().micros();
    let days: Vec<i64> = (0..DAYS).chain([LONG_AGO]).collect();
    let batch = kept(now, &days, 1);
    run(&server, &inserts(&batch));
    let all = i64::try_from(batch.records.len()).unwrap();
    levels_agree(&server, all);
    columns_keep_records(&server, all, &kept(now, &[5, 6], 1_000));
    retention_removes_old_days(&server);
}

/// Every level says the same before anything is folded, before it is refreshed, and after.
fn levels_agree(server: &TimescaleCommunity, all: i64) {
    for view in ["traffic_1m", "traffic_15m", "traffic_1d"] {
        assert_eq!(calls(server, view), all, "{view}");
    }
    server.sql(&["SELECT doorward.fold_rollups()"]).unwrap();
    for view in ["traffic_1m", "traffic_15m", "traffic_1d", "principals_1d"] {
        assert_eq!(calls(server, view), all, "{view}, folded");
    }
    assert_eq!(run_policies(server, "policy_refresh_continuous_aggregate"), 2 * TABLES.len());
    for view in ["traffic_1m", "traffic_15m", "traffic_1d", "principals_1d"] {
        assert_eq!(calls(server, view), all, "{view}, refreshed");
    }
    let median = "SELECT round(total_p50_ms::numeric) FROM timeline.latency WHERE level = '1d' LIMIT 1";
    assert_eq!(number(server, median), 2);
}

/// What is in columns is as it was given, is not changed, and takes late records.
fn columns_keep_records(server: &TimescaleCommunity, before: i64, late: &Batch<'_>) {
    assert_eq!(run_policies(server, "policy_compression"), 1);
    let columns = "SELECT count(*) FROM timescaledb_information.chunks
        WHERE hypertable_name = 'access_event' AND is_compressed";
    assert!(number(server, columns) >= DAYS - 4, "{}", number(server, columns));
    run(server, &inserts(late));
    let all = before + i64::try_from(late.records.len()).unwrap();
    let hashes = "SELECT count(DISTINCT access_id) FROM timeline.access_event WHERE length(leaf_hash) = 32";
    assert_eq!(number(server, hashes), all);
    for sql in ["DELETE FROM doorward.access_event", "UPDATE doorward.access_event SET outcome = 'denied'"] {
        let refused = server.sql(&[sql]).unwrap_err().to_string();
        assert!(refused.contains("records are never changed"), "{sql}: {refused}");
    }
    server.sql(&["SELECT doorward.fold_rollups()"]).unwrap();
    assert_eq!(calls(server, "traffic_1m"), all);
}

/// Single classes within days that stay, whole days, and levels of rollups.
fn retention_removes_old_days(server: &TimescaleCommunity) {
    let all = calls(server, "traffic_1m");
    let reach = |days: u32| format!("now() - interval '{days} days'");
    let left = |days: u32| {
        number(server, &format!("SELECT count(*) FROM timeline.access_event WHERE ts < {}", reach(days)))
    };
    server.sql(&["UPDATE doorward.retention SET keep = interval '1 day'"]).unwrap();
    assert!(left(8) > 0);
    server.sql(&[&format!("SELECT doorward.expire_classes('{{access}}', {})", reach(8))]).unwrap();
    assert_eq!(left(8), 0);
    assert!(left(7) > 0);
    assert!(number(server, &format!("SELECT doorward.remove_days({})", reach(6))) > 0);
    assert_eq!(left(7), 0);
    assert!(left(0) > 0);

    // Minutes are kept for less time now; what they were added up to outlives them, refreshes included.
    migrate_community(server, 30);
    run_policies(server, "policy_refresh_continuous_aggregate");
    for level in ["1m", "15m", "1d"] {
        let sql = format!("SELECT doorward.expire_rollups('{level}', {})", reach(1));
        assert_eq!(server.sql(&[&sql]).unwrap(), "f", "{level}");
    }
    let long_ago = i64::try_from(CALLS_A_DAY).unwrap();
    assert_eq!(calls(server, "traffic_1m"), all - long_ago);
    run_policies(server, "policy_refresh_continuous_aggregate");
    assert_eq!((calls(server, "traffic_15m"), calls(server, "traffic_1d")), (all, all));
}
