//! The record's way: from a reserved place to a durable frame, and from the spool to the store.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use doorward_audit::Audit;
use doorward_audit::config::{AuditConfig, SpoolConfig, SpoolEncryption, StoreUrl};
use doorward_core::{AccessRecord, Recorder};
use doorward_settings::Document;
use doorward_testkit::records::read_record;

use crate::latency;
use crate::process::cpu_nanos;
use crate::table::{Table, Target, median};

/// Calls in flight at once; each waits for its own record.
const IN_FLIGHT: u32 = 512;
/// Records that each of them writes, one after another.
const EACH: u32 = 800;
pub(crate) const RECORDS: u32 = IN_FLIGHT * EACH;
const ROUNDS: usize = 3;
/// A key for a spool that holds nothing of anybody.
const SPOOL_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(120);

/// Into the spool, plain and encrypted in turns.
pub fn spool(table: &Table) -> Result<()> {
    table.heading("audit: records of about 512 bytes, CRC32C, fdatasync");
    let (mut rates, mut cpus) = (Vec::new(), Vec::new());
    let (mut sealed_rates, mut sealed_cpus) = (Vec::new(), Vec::new());
    let mut bytes = 0.0;
    for _ in 0..ROUNDS {
        let written = write(true, false)?;
        rates.push(written.rate);
        cpus.push(written.cpu_micros);
        bytes = written.bytes;
        let written = write(true, true)?;
        sealed_rates.push(written.rate);
        sealed_cpus.push(written.cpu_micros);
    }
    table.tell("bytes of a record in the spool", bytes, "bytes");
    table.tell("spool, each call waiting for its record", median(&mut rates), "rec/s");
    table.tell("CPU a record, road side and spool", median(&mut cpus), "us");
    let per_core: f64 = 1e6 / median(&mut cpus);
    table.judge("spool, records a second and core", per_core, "rec/s", Target::AtLeast(200_000.0));
    table.tell("encrypted spool, each call waiting for its record", median(&mut sealed_rates), "rec/s");
    let per_core = 1e6 / median(&mut sealed_cpus);
    table.judge("encrypted spool, records a second and core", per_core, "rec/s", Target::AtLeast(200_000.0));
    Ok(())
}

/// From the spool into SQLite.
pub fn sqlite(table: &Table) -> Result<()> {
    table.heading("audit: spool into SQLite, fsync on");
    let drained = write(false, false)?;
    table.judge("shipping to SQLite, sustained", drained.drain_rate, "rec/s", Target::AtLeast(50_000.0));
    table.tell("CPU a record of shipping", drained.drain_cpu_micros, "us");
    Ok(())
}

/// What waiting for a record costs a request.
pub fn waiting(table: &Table) -> Result<()> {
    table.heading("audit: waiting for a record");
    let folder = tempfile::tempdir()?;
    latency::run(table, &config(folder.path(), true, false)?)
}

struct Written {
    rate: f64,
    cpu_micros: f64,
    bytes: f64,
    drain_rate: f64,
    drain_cpu_micros: f64,
}

/// Writes all records into a fresh spool, waiting for each; then, if asked, ships them by a second start.
fn write(leave: bool, encrypted: bool) -> Result<Written> {
    let folder = tempfile::tempdir()?;
    let audit = Audit::open(&config(folder.path(), true, encrypted)?)?;
    let recorder = audit.recorder();
    let me = std::process::id();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let record = read_record()?;
    let (start, cpu) = (Instant::now(), cpu_nanos(me)?);
    runtime.block_on(produce(&recorder, &record));
    let (span, cpu) = (start.elapsed(), cpu_nanos(me)? - cpu);
    let spool_bytes = audit.status().spool_bytes;
    audit.shutdown(Duration::from_secs(10));
    drop((recorder, audit));
    let mut written = Written {
        rate: f64::from(RECORDS) / span.as_secs_f64(),
        cpu_micros: micros(cpu),
        bytes: f64::from(u32::try_from(spool_bytes / u64::from(RECORDS))?),
        drain_rate: 0.0,
        drain_cpu_micros: 0.0,
    };
    if !leave {
        let (start, cpu) = (Instant::now(), cpu_nanos(me)?);
        let audit = Audit::open(&config(folder.path(), false, encrypted)?)?;
        while audit.status().shipped_total < u64::from(RECORDS) {
            ensure!(start.elapsed() < DRAIN_MAX, "the spool does not drain: {:?}", audit.status());
            std::thread::park_timeout(Duration::from_millis(2));
        }
        written.drain_rate = f64::from(RECORDS) / start.elapsed().as_secs_f64();
        written.drain_cpu_micros = micros(cpu_nanos(me)? - cpu);
    }
    Ok(written)
}

fn config(folder: &Path, drain_disabled: bool, encrypted: bool) -> Result<AuditConfig> {
    let mut spool = SpoolConfig { dir: folder.join("spool"), ..SpoolConfig::default() };
    if encrypted {
        let path = folder.join("spool.key");
        fs::write(&path, SPOOL_KEY)?;
        let encryption = format!("key: 'file:{}'", path.display());
        let encryption: SpoolEncryption =
            Document::parse("doorward.yaml", encryption)?.root().deserialize()?;
        spool.encryption = Some(encryption);
    }
    let store = StoreUrl::sqlite(folder.join("audit.db"));
    Ok(AuditConfig { store, spool, drain_disabled, ..AuditConfig::default() })
}

pub(crate) async fn produce(recorder: &Arc<dyn Recorder>, record: &AccessRecord) {
    let mut producers = Vec::new();
    for _ in 0..IN_FLIGHT {
        let (recorder, record) = (recorder.clone(), record.clone());
        producers.push(tokio::spawn(async move {
            for _ in 0..EACH {
                if let Some(slot) = recorder.reserve() {
                    // A record that is not durable shows in the count of shipped ones.
                    let _ = slot.complete(Box::new(record.clone())).await;
                }
            }
        }));
    }
    for producer in producers {
        let _ = producer.await;
    }
}

fn micros(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64() * 1e6 / f64::from(RECORDS)
}
