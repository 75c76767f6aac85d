//! From the spool into TimescaleDB, against a bare COPY BINARY of the same rows into the same table, in turns.

use std::io::Write;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use doorward_audit::Audit;
use doorward_audit::config::{AuditConfig, Retention, SpoolConfig, StoreUrl};
use doorward_audit::store::postgres::{Migration, Migrator};
use doorward_core::{Login, Secret};
use doorward_pgclient::blocking::{Client, Options};
use doorward_testkit::postgres::{Cluster, Database, Durability, Installation, SUPERUSER};
use doorward_testkit::records::read_record;
use futures_util::StreamExt;

use crate::audit::{DRAIN_MAX, RECORDS, produce};
use crate::process::cpu_nanos;
use crate::table::{Table, Target, median};

/// Turns of each, one after the other.
const ROUNDS: usize = 3;
/// Rows of one transaction of the bare COPY: as many as the shipper takes.
const COPY_ROWS: usize = 10_000;
/// What a binary COPY begins with, and ends with.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: &[u8] = &[0xff, 0xff];
/// Removes the rows of a round. Only a superuser can, past the triggers that forbid it.
const EMPTY: &str = "set session_replication_role = replica; truncate doorward.access_event;
    truncate doorward.rollup_part, doorward.rollup_principal_part; checkpoint";

/// The part of the audit group that needs a database.
pub(crate) fn run(table: &Table) -> Result<()> {
    let installation = Installation::timescale().or_else(|error| {
        writeln!(std::io::stderr(), "NOT MEASURED with TimescaleDB: {error:#}")?;
        Installation::debian()
    })?;
    let cluster = Cluster::start_new(installation, Durability::Safe)?;
    let database = cluster.database()?;
    let login = Arc::new(Login::new(SUPERUSER, Secret::from(cluster.password())));
    let target = doorward_pgclient::Target::parse(&database.url(), false)?;
    let mut migrator = Migrator::connect(&target, &login)?;
    for step in migrator.plan(&Migration::default())? {
        migrator.run(&step)?;
    }
    // The bench's gateway logs in as the superuser, without a second role to make.
    table.heading(&format!(
        "audit: spool into {}, fsync on, in turns with bare COPY BINARY of the same rows",
        migrator.edition()?
    ));
    let mut client = Client::connect(&target, &login, &Options::default())?;
    let (mut shipped, mut copied, mut ratios, mut cpus) = (vec![], vec![], vec![], vec![]);
    let mut starts = vec![];
    let mut batches = Vec::new();
    for _ in 0..ROUNDS {
        let Shipped { start_ms, rate, cpu } = ship(&cluster, &database)?;
        if batches.is_empty() {
            batches = read_back(&database)?;
        }
        database.sql(EMPTY)?;
        let bare = copy(&mut client, &batches)?;
        database.sql(EMPTY)?;
        shipped.push(rate);
        copied.push(bare);
        ratios.push(rate / bare);
        cpus.push(cpu);
        starts.push(start_ms);
    }
    table.tell("bare COPY BINARY, 10,000 rows a transaction", median(&mut copied), "rows/s");
    table.tell("a start on all of these records in the spool", median(&mut starts), "ms");
    table.tell("spool to store, exactly once", median(&mut shipped), "rows/s");
    table.tell("CPU a record of shipping, the gateway's side", median(&mut cpus), "us");
    table.judge("shipping / bare COPY, same round", median(&mut ratios), "x", Target::AtLeast(0.8));
    Ok(())
}

/// How a spool was shipped.
struct Shipped {
    /// Milliseconds of the start before, which reads all of the spool.
    start_ms: f64,
    /// Rows a second from then on.
    rate: f64,
    /// Microseconds of this process a record.
    cpu: f64,
}

/// Fills a spool and ships it.
fn ship(cluster: &Cluster, database: &Database<'_>) -> Result<Shipped> {
    let folder = tempfile::tempdir()?;
    let password = folder.path().join("password");
    std::fs::write(&password, cluster.password())?;
    let url = database.url().replace("postgres://", &format!("postgres://{SUPERUSER}@"));
    let yaml = format!("store: {{ url: '{url}', password: 'file:{}' }}", password.display());
    let document = doorward_settings::Document::parse("bench.yaml", &yaml)?;
    let store: StoreUrl = document.root().deserialize::<AuditConfig>()?.store;
    let config = |drain_disabled| {
        let mut config = AuditConfig {
            store: StoreUrl::sqlite(folder.path().join("unused.db")),
            spool: SpoolConfig { dir: folder.path().join("spool"), ..SpoolConfig::default() },
            retention: Retention { age: None, size: None, ..Retention::default() },
            drain_disabled,
            ..AuditConfig::default()
        };
        if !drain_disabled {
            config.store = store.clone();
        }
        config
    };
    let audit = Audit::open(&config(true))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(produce(&audit.recorder(), &read_record()?));
    audit.shutdown(Duration::from_secs(10));
    drop(audit);
    let start = Instant::now();
    let audit = Audit::open(&config(false))?;
    let start_ms = start.elapsed().as_secs_f64() * 1e3;
    let (me, start) = (std::process::id(), Instant::now());
    let cpu = cpu_nanos(me)?;
    while audit.status().shipped_total < u64::from(RECORDS) {
        ensure!(start.elapsed() < DRAIN_MAX, "the spool does not drain: {:?}", audit.status());
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let rate = f64::from(RECORDS) / start.elapsed().as_secs_f64();
    let cpu = Duration::from_nanos(cpu_nanos(me)? - cpu).as_secs_f64() * 1e6 / f64::from(RECORDS);
    Ok(Shipped { start_ms, rate, cpu })
}

/// The rows as the server gives them in binary, cut into transactions.
fn read_back(database: &Database<'_>) -> Result<Vec<Vec<u8>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let data = runtime.block_on(async {
        let (client, connection) =
            tokio_postgres::connect(&database.admin_url(), tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        let sql = "COPY (SELECT * FROM doorward.access_event) TO STDOUT BINARY";
        let mut stream = pin!(client.copy_out(sql).await?);
        let mut data = Vec::new();
        while let Some(part) = stream.next().await {
            data.extend_from_slice(&part?);
        }
        anyhow::Ok(data)
    })?;
    let mut rest = data.get(HEADER.len()..).context("no header")?;
    let mut batches = Vec::new();
    while !rest.is_empty() && !rest.starts_with(TRAILER) {
        let mut batch = HEADER.to_vec();
        for _ in 0..COPY_ROWS {
            if rest.starts_with(TRAILER) {
                break;
            }
            let length = row_length(rest).context("a row that ends too soon")?;
            let (row, more) = rest.split_at_checked(length).context("a row that ends too soon")?;
            batch.extend_from_slice(row);
            rest = more;
        }
        batch.extend_from_slice(TRAILER);
        batches.push(batch);
    }
    Ok(batches)
}

fn row_length(data: &[u8]) -> Option<usize> {
    let (count, _) = data.split_first_chunk::<2>()?;
    let mut length = 2;
    for _ in 0..u16::from_be_bytes(*count) {
        let (bytes, _) = data.get(length..)?.split_first_chunk::<4>()?;
        length += 4 + usize::try_from(i32::from_be_bytes(*bytes)).unwrap_or(0);
    }
    Some(length)
}

fn copy(client: &mut Client, batches: &[Vec<u8>]) -> Result<f64> {
    let start = Instant::now();
    let mut rows = 0;
    for batch in batches {
        let mut copy = client.copy_in("COPY doorward.access_event FROM STDIN BINARY")?;
        copy.write(batch)?;
        rows += copy.finish()?;
    }
    Ok(f64::from(u32::try_from(rows)?) / start.elapsed().as_secs_f64())
}
