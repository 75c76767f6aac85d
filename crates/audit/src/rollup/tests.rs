//! Rollups against the records that they are made of.

use std::borrow::Cow;

use rusqlite::Connection;
use uuid::Uuid;

use doorward_core::{Login, Secret};
use doorward_pgclient::Target;
use doorward_pgclient::blocking::{Client, Options};
use doorward_testkit::postgres::{Cluster, Database, SUPERUSER};

use super::tables::{Level, TABLES, TRAFFIC};
use super::{Aggregator, KEYS_MAX, OTHER, postgres, sqlite};
use crate::columns::CALL_COLUMNS;
use crate::row::Value;
use crate::wire::{Access, ActionText};

const MINUTE: i64 = 60_000_000;

fn call(values: &[(&str, Value<'static>)]) -> Access<'static> {
    let value =
        |name: &str| values.iter().find(|(wanted, _)| *wanted == name).map(|(_, value)| value.clone());
    let action = ActionText { verb: "read".into(), resource: "shop".into(), object: "public/items".into() };
    Access {
        access_id: Uuid::nil(),
        values: CALL_COLUMNS.iter().map(|(name, _)| value(name).unwrap_or(Value::Null)).collect(),
        actions: vec![action],
    }
}

fn text(text: impl Into<Cow<'static, str>>) -> Value<'static> {
    Value::Text(text.into())
}

fn timed(ts: i64, endpoint: &str, took: i64, backend: i64) -> Access<'static> {
    call(&[
        ("ts", Value::Int(ts)),
        ("source", text("gateway")),
        ("door", text("rest")),
        ("endpoint", text(endpoint.to_owned())),
        ("outcome", text("allowed")),
        ("status", Value::Int(200)),
        ("duration_us", Value::Int(took)),
        ("forward_us", Value::Int(backend)),
        ("rows", Value::Int(3)),
        ("bytes_out", Value::Int(100)),
        ("grant", text("readers")),
        ("subject_id", Value::Uuid(Uuid::from_u128(7))),
        ("limit_remaining", Value::Int(took)),
    ])
}

fn store() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    sqlite::add_functions(&connection).unwrap();
    connection.execute_batch(&sqlite::schema()).unwrap();
    // The gateway runs it at each start.
    connection.execute_batch(&sqlite::schema()).unwrap();
    connection
}

fn keep(connection: &mut Connection, aggregator: &mut Aggregator, calls: &[Access<'static>]) {
    let transaction = connection.transaction().unwrap();
    sqlite::append(&transaction, &aggregator.add_up(calls.iter())).unwrap();
    transaction.commit().unwrap();
}

fn number(connection: &Connection, sql: &str) -> f64 {
    connection.query_row(&format!("SELECT cast(({sql}) AS REAL)"), [], |row| row.get(0)).unwrap()
}

#[test]
fn sums_are_those_of_the_records_before_and_after_folding_and_with_late_ones() {
    let (mut connection, mut aggregator) = (store(), Aggregator::default());
    let calls: Vec<_> =
        (0..3_000i64).map(|i| timed(i * 1_000_000, "GET /shop/{table}", i + 1, i / 2)).collect();
    for batch in calls.chunks(700) {
        keep(&mut connection, &mut aggregator, batch);
    }
    let check = |connection: &Connection, calls: f64| {
        for level in Level::ALL {
            let view = format!("traffic_{}", level.as_str());
            assert_eq!(number(connection, &format!("SELECT sum(calls) FROM {view}")), calls, "{view}");
            assert_eq!(number(connection, &format!("SELECT sum(rows) FROM {view}")), 3.0 * calls, "{view}");
            let minutes = number(connection, &format!("SELECT count(DISTINCT time) FROM {view}"));
            assert_eq!(minutes, (3_000.0 / (level.micros() as f64 / 1e6)).ceil(), "{view}");
        }
    };
    check(&connection, 3_000.0);
    while sqlite::fold(&mut connection).unwrap() {}
    assert_eq!(number(&connection, "SELECT count(*) FROM rollup_part"), 0.0);
    check(&connection, 3_000.0);
    // Ten records come late, into a minute that was folded.
    let late: Vec<_> = (0..10).map(|_| timed(5 * MINUTE, "GET /shop/{table}", 50, 10)).collect();
    keep(&mut connection, &mut aggregator, &late);
    check(&connection, 3_010.0);
    while sqlite::fold(&mut connection).unwrap() {}
    check(&connection, 3_010.0);
    assert_eq!(number(&connection, "SELECT count(*) FROM rollup_1m"), 50.0);
    let exact = number(&connection, "SELECT sum(calls) FROM top_principals WHERE level = '1d'");
    assert_eq!(exact, 3_010.0);
    assert_eq!(number(&connection, "SELECT min(limit_remaining_min) FROM quota_use"), 1.0);
}

#[test]
fn plain_sql_reads_the_quantiles_that_the_gateway_reads() {
    let (mut connection, mut aggregator) = (store(), Aggregator::default());
    let calls: Vec<_> = (1..=1_000).map(|i| timed(0, "GET /x", i * 1_000, i * 900)).collect();
    for batch in calls.chunks(300) {
        keep(&mut connection, &mut aggregator, batch);
    }
    while sqlite::fold(&mut connection).unwrap() {}
    for (column, exact) in [
        ("total_p50_ms", 500.0),
        ("total_p95_ms", 950.0),
        ("total_p99_ms", 990.0),
        ("backend_p50_ms", 450.0),
        ("gateway_p99_ms", 99.0),
    ] {
        let found = number(&connection, &format!("SELECT {column} FROM latency WHERE level = '1d'"));
        assert!((found - exact).abs() <= exact * 0.021, "{column}: {found} instead of {exact}");
    }
    let merged =
        number(&connection, "SELECT quantile(sketch_merge(duration_sketch), 0.95) / 1000 FROM traffic_15m");
    assert!((merged - 950.0).abs() < 20.0, "{merged}");
}

#[test]
fn callers_cannot_make_a_minute_grow_at_will() {
    let (mut connection, mut aggregator) = (store(), Aggregator::default());
    let many = KEYS_MAX + 500;
    for start in [0, many] {
        let calls: Vec<_> = (start..start + many)
            .map(|i| {
                let mut access =
                    timed(i64::try_from(i % 60).unwrap() * 1_000_000, &format!("GET /{i}"), 5, 1);
                access.values[CALL_COLUMNS.iter().position(|(name, _)| *name == "dag_id").unwrap()] =
                    text(format!("{i}\0{}", "x".repeat(1_000)));
                access
            })
            .collect();
        for batch in calls.chunks(999) {
            keep(&mut connection, &mut aggregator, batch);
        }
    }
    while sqlite::fold(&mut connection).unwrap() {}
    assert_eq!(number(&connection, "SELECT sum(calls) FROM traffic_1m"), 2.0 * many as f64);
    assert_eq!(number(&connection, "SELECT count(*) FROM rollup_1m"), KEYS_MAX as f64 + 1.0);
    let other = format!("SELECT calls FROM traffic_1m WHERE endpoint = '{OTHER}'");
    assert_eq!(number(&connection, &other), (2 * many - KEYS_MAX) as f64);
    assert_eq!(number(&connection, "SELECT count(*) FROM rollup_task_1m"), KEYS_MAX as f64 + 1.0);
    assert!(
        number(&connection, "SELECT max(length(dag_id)) FROM rollup_task_1m") <= super::DIMENSION_MAX as f64
    );
}

#[test]
fn old_rows_of_a_level_go_and_young_ones_stay() {
    let (mut connection, mut aggregator) = (store(), Aggregator::default());
    let calls: Vec<_> = (0..600).map(|minute| timed(minute * MINUTE, "GET /x", 5, 1)).collect();
    keep(&mut connection, &mut aggregator, &calls);
    while sqlite::fold(&mut connection).unwrap() {}
    while sqlite::expire(&connection, Level::Minute, 500 * MINUTE).unwrap() {}
    assert_eq!(number(&connection, "SELECT count(*) FROM rollup_1m"), 100.0);
    assert_eq!(number(&connection, "SELECT sum(calls) FROM traffic_15m"), 600.0);
}

#[test]
fn rows_have_a_cell_for_each_column_of_their_table() {
    let mut access = timed(0, "GET /x", 5, 1);
    access.values[CALL_COLUMNS.iter().position(|(name, _)| *name == "dag_id").unwrap()] = text("nightly");
    for (table, rows) in TABLES.into_iter().zip(Aggregator::default().add_up([&access].into_iter())) {
        assert_eq!(rows.len(), 1, "{}", table.stem);
        assert_eq!(rows[0].cells.len(), table.dimensions.len() + table.measures.len(), "{}", table.stem);
    }
    assert_eq!(TRAFFIC.level(Level::Quarter), "rollup_15m");
}

/// The rollups' part of the schema in a database of its own, as a plain PostgreSQL has it.
fn migrated(cluster: &'static Cluster) -> (Database<'static>, Client) {
    for role in ["doorward_writer", "doorward_reader"] {
        cluster.ensure_role(role, "NOLOGIN").unwrap();
    }
    let database = cluster.database().unwrap();
    let target = Target::parse(&database.url(), true).unwrap();
    let login = Login::new(SUPERUSER, Secret::from(cluster.password().to_owned()));
    let mut client = Client::connect(&target, &login.into(), &Options::default()).unwrap();
    client.batch("CREATE SCHEMA doorward; CREATE SCHEMA timeline").unwrap();
    for _ in 0..2 {
        client.batch(&postgres::schema()).unwrap();
        client.batch(&postgres::plain_levels()).unwrap();
        client.batch(&postgres::views("true")).unwrap();
    }
    (database, client)
}

fn answer(client: &mut Client, sql: &str) -> f64 {
    let reply = client.query(&format!("SELECT ({sql})::float8"), &[]).unwrap();
    reply.rows().next().unwrap().text(0).unwrap().parse().unwrap()
}

#[test]
fn postgresql_adds_up_to_the_same() {
    let (_database, mut client) = migrated(Cluster::shared().unwrap());
    let (mut connection, mut aggregator) = (store(), Aggregator::default());
    let calls: Vec<_> = (0..3_000i64)
        .map(|i| timed(i * 1_000_000, &format!("GET /{}", i % 7), (i * 7_919) % 100_000 + 1, i))
        .collect();
    for (place, batch) in calls.chunks(400).enumerate() {
        let rollups = aggregator.add_up(batch.iter());
        let transaction = connection.transaction().unwrap();
        sqlite::append(&transaction, &rollups).unwrap();
        transaction.commit().unwrap();
        postgres::append(&mut client, &postgres::parts(&rollups)).unwrap();
        if place == 3 {
            client.query("SELECT doorward.fold_rollups()", &[]).unwrap();
        }
    }
    for folded in [false, true] {
        for level in Level::ALL {
            let level = level.as_str();
            for question in [
                format!("SELECT sum(calls) FROM traffic_{level}"),
                format!("SELECT sum(duration_us) FROM traffic WHERE level = '{level}'"),
                format!("SELECT count(DISTINCT time) FROM traffic_{level}"),
                format!("SELECT quantile(sketch_merge(duration_sketch), 0.95) FROM traffic_{level}"),
                format!(
                    "SELECT quantile(sketch_merge(backend_sketch), 0.5) FROM traffic_{level} WHERE endpoint = 'GET /3'"
                ),
                format!("SELECT min(limit_remaining_min) FROM quota_use WHERE level = '{level}'"),
                format!("SELECT sum(bytes_out) FROM top_principals WHERE level = '{level}'"),
            ] {
                let expected = number(&connection, &question);
                let question = question
                    .replace("FROM ", "FROM timeline.")
                    .replace("quantile(sketch", "timeline.quantile(timeline.sketch");
                let found = answer(&mut client, &question);
                assert!((found - expected).abs() <= expected.abs() * 1e-9, "{question}: {found}, {expected}");
            }
        }
        assert_eq!(
            answer(&mut client, "SELECT count(*) FROM doorward.rollup_part").min(1.0),
            if folded { 0.0 } else { 1.0 }
        );
        client.query("SELECT doorward.fold_rollups()", &[]).unwrap();
        while sqlite::fold(&mut connection).unwrap() {}
    }
    assert_eq!(answer(&mut client, "SELECT count(*) FROM doorward.rollup_1m"), 50.0 * 7.0);
    let q = "SELECT total_p99_ms FROM timeline.latency WHERE level = '1d' AND endpoint = 'GET /1'";
    assert!((answer(&mut client, q) - 99.0).abs() < 3.0);
}
