//! The record's way: from a reserved place to a durable frame, and from the spool to the store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use doorward_audit::Audit;
use doorward_audit::config::{AuditConfig, SpoolConfig, StoreUrl};
use doorward_core::{
    AccessRecord, Action, Actions, Arrival, IssuerName, Object, Outcome, Personal, Principal, PrincipalKind,
    Recorder, ResourceName, SystemClock, Verb,
};
use doorward_testkit::organs::{self, MemoryRecorder, Rules, Tokens};

use crate::process::cpu_nanos;
use crate::table::{Table, Target, median};

/// Calls in flight at once; each waits for its own record.
const IN_FLIGHT: u32 = 512;
/// Records that each of them writes, one after another.
const EACH: u32 = 800;
const RECORDS: u32 = IN_FLIGHT * EACH;
const ROUNDS: usize = 3;
const DRAIN_MAX: Duration = Duration::from_secs(120);

pub fn run(table: &Table) -> Result<()> {
    table.heading("audit: records of about 512 bytes, CRC32C, fdatasync");
    let (mut rates, mut cpus) = (Vec::new(), Vec::new());
    let mut bytes = 0.0;
    for _ in 0..ROUNDS {
        let written = write(true)?;
        rates.push(written.rate);
        cpus.push(written.cpu_micros);
        bytes = written.bytes;
    }
    table.tell("bytes of a record in the spool", bytes, "bytes");
    table.tell("spool, each call waiting for its record", median(&mut rates), "rec/s");
    table.tell("CPU a record, road side and spool", median(&mut cpus), "us");
    let per_core: f64 = 1e6 / median(&mut cpus);
    table.judge("spool, records a second and core", per_core, "rec/s", Target::AtLeast(200_000.0));
    let drained = write(false)?;
    table.judge("shipping to SQLite, sustained", drained.drain_rate, "rec/s", Target::AtLeast(50_000.0));
    table.tell("CPU a record of shipping", drained.drain_cpu_micros, "us");
    Ok(())
}

struct Written {
    rate: f64,
    cpu_micros: f64,
    bytes: f64,
    drain_rate: f64,
    drain_cpu_micros: f64,
}

/// Writes all records into a fresh spool, waiting for each; then, if asked, ships them by a second start.
fn write(leave: bool) -> Result<Written> {
    let folder = tempfile::tempdir()?;
    let config = |drain_disabled| AuditConfig {
        store: StoreUrl::sqlite(folder.path().join("audit.db")),
        spool: SpoolConfig { dir: folder.path().join("spool"), ..SpoolConfig::default() },
        drain_disabled,
        ..AuditConfig::default()
    };
    let audit = Audit::open(&config(true))?;
    let recorder = audit.recorder();
    let me = std::process::id();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let record = sample()?;
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
        let audit = Audit::open(&config(false))?;
        while audit.status().shipped_total < u64::from(RECORDS) {
            ensure!(start.elapsed() < DRAIN_MAX, "the spool does not drain: {:?}", audit.status());
            std::thread::park_timeout(Duration::from_millis(2));
        }
        written.drain_rate = f64::from(RECORDS) / start.elapsed().as_secs_f64();
        written.drain_cpu_micros = micros(cpu_nanos(me)? - cpu);
    }
    Ok(written)
}

async fn produce(recorder: &Arc<dyn Recorder>, record: &AccessRecord) {
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

/// A record as a read through the REST door leaves it.
fn sample() -> Result<AccessRecord> {
    let (tokens, rules, recorder) = (Tokens::new(), Rules::allow_all(), MemoryRecorder::new());
    let gateway =
        organs::gateway(organs::snapshot(&tokens, &rules, Vec::new()), &recorder, Arc::new(SystemClock));
    drop(gateway.open(Arrival { door: "rest", source_ip: Some([127, 0, 0, 1].into()), confidential: true }));
    let mut record = recorder.records().pop().context("no record")?;
    let claims =
        r#"{"iss":"https://id.example","sub":"u77","aud":"doorward","groups":["readers"],"exp":1795000000}"#;
    record.principal = Some(Arc::new(Principal {
        issuer: IssuerName::new("idp"),
        subject: Personal::from("u77"),
        kind: PrincipalKind::User,
        groups: vec!["readers".into()],
        claims_json: claims.into(),
        ..Principal::public()
    }));
    let object = Object::from_segments(["public", "items"]);
    record.actions =
        Some(Actions::one(Action { verb: Verb::Read, resource: ResourceName::new("shop"), object }));
    record.operation = Some(Personal::from("GET /shop/items?id=eq.?"));
    record.endpoint = Some("GET /shop/{table}".into());
    record.outcome = Outcome::Allowed;
    record.status = Some(200);
    Ok(record)
}
