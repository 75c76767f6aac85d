//! What waiting for a record adds to a request, beside what a sync of the same disk costs on its own.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use doorward_audit::Audit;
use doorward_audit::config::AuditConfig;
use doorward_core::{AccessId, AccessRecord, Recorder};
use doorward_testkit::records::read_record;
use tokio::time::MissedTickBehavior;

use crate::table::{Table, Target};

/// Requests a second under load.
const RATE: u32 = 1_000;
const LOAD_SPAN: Duration = Duration::from_secs(10);
/// Requests one at a time, with a pause between them.
const IDLE_REQUESTS: usize = 600;
const IDLE_PAUSE: Duration = Duration::from_millis(2);
/// What an idle spool may add to one sync at the median.
const IDLE_EXTRA_MICROS: f64 = 200.0;
/// Bytes that a bare sync writes: about a record.
const SYNC_BYTES: usize = 640;
/// Room that a bare sync's file has beforehand, as a segment has.
const SYNC_ROOM: usize = 8 << 20;

/// Sorted microseconds.
struct Spans(Vec<f64>);

impl Spans {
    fn of(mut spans: Vec<Duration>) -> Self {
        spans.sort_unstable();
        Self(spans.into_iter().map(|span| span.as_secs_f64() * 1e6).collect())
    }

    fn at(&self, share: f64) -> f64 {
        let index = (self.0.len() as f64 * share) as usize;
        self.0.get(index.min(self.0.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }
}

/// A file that is written and synced as a segment is: its blocks are there beforehand.
struct Bare(File);

impl Bare {
    fn make(config: &AuditConfig) -> Result<Self> {
        let path = config.spool.dir.with_file_name("bare");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        file.write_all(&vec![0; SYNC_ROOM])?;
        file.sync_all()?;
        Ok(Self(OpenOptions::new().write(true).open(&path)?))
    }

    fn sync(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.0.write_all(&[0x55; SYNC_BYTES])?;
        self.0.sync_data()?;
        Ok(start.elapsed())
    }
}

/// Measures both, and prints them with the syncs beside them.
pub fn run(table: &Table, config: &AuditConfig) -> Result<()> {
    let audit = Audit::open(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let record = read_record()?;
    let recorder = audit.recorder();
    idle(table, config, &runtime, &recorder, &record)?;
    load(table, config, &runtime, &recorder, &record)?;
    audit.shutdown(Duration::from_secs(10));
    Ok(())
}

fn idle(
    table: &Table,
    config: &AuditConfig,
    runtime: &tokio::runtime::Runtime,
    recorder: &Arc<dyn Recorder>,
    record: &AccessRecord,
) -> Result<()> {
    let mut bare = Bare::make(config)?;
    let (mut waits, mut syncs) = (Vec::new(), Vec::new());
    // In turns, so that both see the same disk.
    for _ in 0..IDLE_REQUESTS {
        let (recorder, record) = (recorder.clone(), record.clone());
        // As on the road: inside a task of the runtime, not on the thread that drives it.
        waits.push(runtime.block_on(async { tokio::spawn(wait(recorder, record)).await })??);
        std::thread::park_timeout(IDLE_PAUSE);
        syncs.push(bare.sync()?);
        std::thread::park_timeout(IDLE_PAUSE);
    }
    let (waits, syncs) = (Spans::of(waits), Spans::of(syncs));
    table.tell("a bare sync, idle, p50", syncs.at(0.5), "us");
    table.tell("waiting for a record, idle, p50", waits.at(0.5), "us");
    let extra = waits.at(0.5) - syncs.at(0.5);
    let target = Target::AtMost(IDLE_EXTRA_MICROS);
    table.judge("waiting for a record, idle, p50, beyond one sync", extra, "us", target);
    Ok(())
}

fn load(
    table: &Table,
    config: &AuditConfig,
    runtime: &tokio::runtime::Runtime,
    recorder: &Arc<dyn Recorder>,
    record: &AccessRecord,
) -> Result<()> {
    let (spans, syncs) = runtime.block_on(async {
        let syncs = tokio::task::spawn_blocking({
            let mut bare = Bare::make(config)?;
            move || -> Result<Vec<Duration>> {
                let end = Instant::now() + LOAD_SPAN;
                let mut syncs = Vec::new();
                // Few enough not to be the load themselves.
                while Instant::now() < end {
                    syncs.push(bare.sync()?);
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                Ok(syncs)
            }
        });
        let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
        // Requests come when they come, however long others wait.
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let end = Instant::now() + LOAD_SPAN;
        let mut waiting = Vec::new();
        while Instant::now() < end {
            tick.tick().await;
            waiting.push(tokio::spawn(wait(recorder.clone(), record.clone())));
        }
        let mut spans = Vec::new();
        for wait in waiting {
            spans.push(wait.await??);
        }
        anyhow::Ok((Spans::of(spans), Spans::of(syncs.await??)))
    })?;
    let rate = format!("at {RATE} requests/s");
    table.tell(format!("a bare sync beside it, {rate}, p50"), syncs.at(0.5), "us");
    table.tell(format!("a bare sync beside it, {rate}, p99"), syncs.at(0.99), "us");
    table.tell(format!("waiting for a record, {rate}, p50"), spans.at(0.5), "us");
    let cap = config.spool.commit_delay.get().as_secs_f64() * 1e6 + 2.0 * syncs.at(0.99);
    let name = format!("waiting for a record, {rate}, p99");
    table.judge(name, spans.at(0.99), "us", Target::AtMost(cap.round()));
    Ok(())
}

/// One request's wait.
async fn wait(recorder: Arc<dyn Recorder>, mut record: AccessRecord) -> Result<Duration> {
    record.access_id = AccessId::fresh();
    let record = Box::new(record);
    let start = Instant::now();
    let slot = recorder.reserve().context("no room in the spool")?;
    slot.complete(record).await.ok().context("not durable")?;
    Ok(start.elapsed())
}
