//! Analysis: what adding up costs the shipper, and how fast the dashboards' panels answer over the rollups of ten
//! million records in PostgreSQL.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use doorward_audit::columns::{COLUMNS, Source};
use doorward_audit::rollup::Aggregator;
use doorward_audit::row::Value;
use doorward_audit::store::postgres::{Grantee, Migration, Migrator, Scope};
use doorward_audit::time::rfc3339;
use doorward_audit::wire::{Access, ActionText};
use doorward_core::{Login, Secret, Timestamp};
use doorward_pgclient::Target as Place;
use doorward_pgclient::blocking::{Client, Options};
use doorward_testkit::grafana::{self, Fill};
use doorward_testkit::postgres::{Cluster, Database, SUPERUSER};
use doorward_testkit::workspace_root;

use crate::process::cpu_nanos;
use crate::table::{Table, Target, median};

/// Records in one of the shipper's batches.
const BATCH: usize = 10_000;
/// Batches that are added up.
const BATCHES: u32 = 40;
/// A week of ten endpoints with a hundred calls a minute each: ten million records.
const FILL: [(&str, &str); 3] = [("minutes", "10080"), ("endpoints", "10"), ("calls", "100")];
/// Times that each panel is asked.
const ASKED: usize = 3;
/// What a panel may take.
const PANEL_MS: f64 = 1_000.0;
const PASSWORD: &str = "bench-password";

pub fn run(table: &Table) -> Result<()> {
    table.heading("analysis: rollups");
    add_up(table)?;
    table.heading(
        "analysis: dashboards over the rollups of 10 million records, PostgreSQL, the slower of 6 h and 7 d",
    );
    panels(table)
}

/// A call as the shipper reads it from the spool.
fn call(number: usize) -> Access<'static> {
    let value = |name: &str| match name {
        "ts" => Value::Int(1_795_000_000_000_000 + i64::try_from(number).unwrap_or(0) * 1_000),
        "environment" => Value::Text("production".into()),
        "source" => Value::Text("gateway".into()),
        "door" => Value::Text("rest".into()),
        "endpoint" => Value::Text(format!("GET /shop/{{table}}/{}", number % 40).into()),
        "api_version" => Value::Text("v1".into()),
        "config_digest" => Value::Text("4f5f6b0c9a1d2e3f405162738495a6b7".into()),
        "outcome" => Value::Text("allowed".into()),
        "grant" => Value::Text("readers".into()),
        "principal_kind" => Value::Text("user".into()),
        "subject_id" => Value::Uuid(uuid::Uuid::from_u128(u128::try_from(number % 300 + 1).unwrap_or(1))),
        "status" => Value::Int(200),
        "rows" | "bytes_out" => Value::Int(100),
        "duration_us" => Value::Int(2_000 + i64::try_from(number * 7_919 % 50_000).unwrap_or(0)),
        "forward_us" => Value::Int(1_000 + i64::try_from(number * 7_919 % 40_000).unwrap_or(0)),
        _ => Value::Null,
    };
    let values = COLUMNS.iter().filter(|column| matches!(column.source, Source::Call(_)));
    let action = ActionText { verb: "read".into(), resource: "shop".into(), object: "public/items".into() };
    Access {
        access_id: uuid::Uuid::nil(),
        values: values.map(|column| value(column.name)).collect(),
        actions: vec![action],
    }
}

fn add_up(table: &Table) -> Result<()> {
    let calls: Vec<Access<'static>> = (0..BATCH).map(call).collect();
    let mut aggregator = Aggregator::default();
    let me = std::process::id();
    let cpu = cpu_nanos(me)?;
    for _ in 0..BATCHES {
        black_box(aggregator.add_up(black_box(&calls).iter()));
    }
    let nanos = Duration::from_nanos(cpu_nanos(me)? - cpu).as_secs_f64() * 1e9;
    let records = f64::from(u32::try_from(BATCH)?) * f64::from(BATCHES);
    table.judge("CPU a record of adding up", nanos / records / 1e3, "us", Target::AtMost(1.0));
    Ok(())
}

fn client(database: &Database<'_>, user: &str, password: &str) -> Result<Client> {
    let options = Options { statement_timeout: Duration::from_secs(600), ..Options::default() };
    Ok(Client::connect(&Place::parse(&database.url(), true)?, &login(user, password), &options)?)
}

fn login(user: &str, password: &str) -> Arc<Login> {
    Arc::new(Login::new(user, Secret::from(password.to_owned())))
}

/// A store with a week of traffic, folded.
fn filled<'c>(cluster: &'c Cluster, table: &Table) -> Result<Database<'c>> {
    let database = cluster.database()?;
    let mut migrator =
        Migrator::connect(&Place::parse(&database.url(), true)?, &login(SUPERUSER, cluster.password()))?;
    migrator.lock()?;
    let reader = Grantee { user: "bench_reader".into(), login: Some(login("bench_reader", PASSWORD)) };
    let migration = Migration { readers: vec![(reader, Scope::default())], ..Migration::default() };
    for step in migrator.plan(&migration)? {
        migrator.run(&step).with_context(|| step.title.clone())?;
    }
    cluster.script(
        database.name(),
        &workspace_root().join("tests/data/rollups.sql"),
        &FILL,
        &workspace_root(),
    )?;
    let mut owner = client(&database, SUPERUSER, cluster.password())?;
    let parts = owner.query("SELECT count(*) FROM doorward.rollup_part", &[])?;
    let parts = parts.first().and_then(|row| row.int(0)).unwrap_or(0);
    let start = Instant::now();
    while owner.query("SELECT doorward.fold_rollups()", &[])?.first().and_then(|row| row.bool(0))
        == Some(true)
    {}
    let rate = f64::from(i32::try_from(parts)?) / start.elapsed().as_secs_f64();
    table.tell("partial rows folded into three levels", rate, "rows/s");
    owner.batch(
        "INSERT INTO doorward.access_event (ts, gateway_id, epoch, seq, access_id, action_index, action_count)
         SELECT now() - n * interval '1 ms', 'gw', 1, n, gen_random_uuid(), 0, 1 FROM generate_series(1, 200000) n;
         ANALYZE",
    )?;
    Ok(database)
}

fn panels(table: &Table) -> Result<()> {
    let cluster = Cluster::debian()?;
    let database = filled(&cluster, table)?;
    let mut reader = client(&database, "bench_reader", PASSWORD)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs().cast_signed();
    let time = |ago: i64| rfc3339(Timestamp::from_seconds(now - ago));
    for panel in grafana::panels(&workspace_root().join("deploy/grafana/dashboards"))? {
        let mut slowest = 0.0f64;
        for (span, interval_seconds) in [(6 * 3_600, 60), (7 * 86_400, 900)] {
            let environments = vec!["production".to_owned()];
            let fill = Fill { from: time(span), to: time(0), interval_seconds, environments };
            let sql = grafana::expand(&panel.sql, &fill)?;
            let mut times = Vec::new();
            for _ in 0..ASKED {
                let start = Instant::now();
                ensure!(!reader.query(&sql, &[])?.is_empty(), "{}: no rows", panel.title);
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
            slowest = slowest.max(median(&mut times));
        }
        let name = format!("{}: {}", panel.dashboard, panel.title);
        table.judge(name, slowest, "ms", Target::AtMost(PANEL_MS));
    }
    Ok(())
}
