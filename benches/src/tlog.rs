//! The transparency log: leaves hashed, and a timeline verified from the store.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use doorward_audit::Audit;
use doorward_audit::config::{AuditConfig, SpoolConfig, StoreUrl};
use doorward_audit::log::verify::{Scope, SqliteEvidence, check};
use doorward_core::{Clock, SystemClock};
use doorward_testkit::records::read_record;
use doorward_tlog::tree::{Tree, leaf_hash};

use crate::audit::{RECORDS, produce};
use crate::table::{Table, Target, median};

/// Bytes of a leaf: about those of a record of a read.
const LEAF_BYTES: usize = 512;
const LEAVES: u32 = 1_000_000;
const ROUNDS: usize = 3;
const SHIPPED_WITHIN: Duration = Duration::from_secs(120);

pub fn run(table: &Table) -> Result<()> {
    table.heading("tlog: SHA-256, RFC 6962, verified from SQLite");
    let mut rates: Vec<f64> = (0..ROUNDS).map(|_| hash()).collect();
    table.judge(
        "leaves hashed into the tree, one core",
        median(&mut rates),
        "leaves/s",
        Target::AtLeast(1e6),
    );
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("audit.db");
    fill(&AuditConfig {
        store: StoreUrl::sqlite(&path),
        spool: SpoolConfig { dir: folder.path().join("spool"), ..SpoolConfig::default() },
        ..AuditConfig::default()
    })?;
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let scope = Scope { now_us: SystemClock.now().micros(), ..Scope::default() };
        let report = check(&mut SqliteEvidence::open(&path)?, &scope)?;
        ensure!(report.findings.is_empty() && report.summary.rows == u64::from(RECORDS), "{report:?}");
        rates.push(f64::from(RECORDS) / start.elapsed().as_secs_f64());
    }
    table.judge("audit verify, from the store", median(&mut rates), "rec/s", Target::AtLeast(100_000.0));
    Ok(())
}

fn hash() -> f64 {
    let (mut tree, mut bytes) = (Tree::default(), [7; LEAF_BYTES]);
    let start = Instant::now();
    for number in 0..LEAVES {
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        tree.push(leaf_hash(&bytes), |_| ());
    }
    let span = start.elapsed().as_secs_f64();
    std::hint::black_box(tree.root());
    f64::from(LEAVES) / span
}

fn fill(config: &AuditConfig) -> Result<()> {
    let audit = Audit::open(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(produce(&audit.recorder(), &read_record()?));
    ensure!(audit.shutdown(SHIPPED_WITHIN), "not everything was shipped: {:?}", audit.status());
    Ok(())
}
