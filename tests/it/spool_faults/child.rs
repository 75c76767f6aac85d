//! One life of a gateway's spool, in a process of its own that can be killed at any point. What callers do
//! and hear is printed, a line each: the parent counts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use doorward_audit::Audit;
use doorward_audit::config::{AuditConfig, Retention, SpoolConfig};
use doorward_core::{AccessId, AccessRecord, Personal, Recorder, Timestamp};
use doorward_settings::{ByteSize, Document};
use doorward_testkit::records::read_record;
use doorward_testkit::{pause, wait_until};

use super::Random;
use super::faulty::{Plan, Trouble, opener};

/// Callers at one time.
const CALLERS: u64 = 4;
const SPOOL_SIZE: u64 = 16 << 20;
/// How long a life's end may take.
const SHUTDOWN: Duration = Duration::from_secs(60);
/// How long a trouble waits for the shipper to come by.
const MEET: Duration = Duration::from_millis(400);
/// A record of a life that fills its disk is this much larger.
const PADDING: usize = 6 << 10;

/// What a life is to be like.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    pub(super) seed: u64,
    /// The configuration, in one line.
    pub(super) config: String,
    pub(super) spool: PathBuf,
    /// How long callers call; then the gateway stops.
    pub(super) calls: Duration,
    /// Whether the store has troubles.
    pub(super) troubles: bool,
    /// A file that fills the spool's disk, if that is to happen.
    pub(super) ballast: Option<PathBuf>,
}

impl Orders {
    pub(super) fn encode(&self) -> String {
        let ballast = self.ballast.as_deref().unwrap_or(Path::new(""));
        let (spool, millis) = (self.spool.display(), self.calls.as_millis());
        let Self { seed, config, troubles, .. } = self;
        format!("{seed}\n{config}\n{spool}\n{millis}\n{troubles}\n{}", ballast.display())
    }

    fn decode(text: &str) -> Result<Self> {
        let [seed, config, spool, millis, troubles, ballast] =
            text.splitn(6, '\n').collect::<Vec<_>>().try_into().ok().context("six orders")?;
        Ok(Self {
            seed: seed.parse()?,
            config: config.to_owned(),
            spool: spool.into(),
            calls: Duration::from_millis(millis.parse()?),
            troubles: troubles.parse()?,
            ballast: Some(PathBuf::from(ballast)).filter(|path| !path.as_os_str().is_empty()),
        })
    }
}

/// The configuration of every life.
pub(super) fn config(sections: &str, spool: &Path) -> Result<AuditConfig> {
    let document = Document::parse("doorward.yaml", sections)?;
    Ok(AuditConfig {
        spool: SpoolConfig {
            dir: spool.to_owned(),
            size_max: ByteSize::new(SPOOL_SIZE),
            gateway_id: Some("faulty".to_owned()),
            ..SpoolConfig::default()
        },
        // Clocks jump by years here.
        retention: Retention { age: None, size: None, ..Retention::default() },
        ..document.root().deserialize()?
    })
}

/// Lives.
pub(super) fn live(orders: &str) -> Result<()> {
    let orders = Orders::decode(orders)?;
    let config = config(&orders.config, &orders.spool)?;
    let plan = Plan::new();
    let audit = Audit::open_with_store(&config, opener(config.store.clone(), plan.clone()))?;
    println!("alive");
    let over = Arc::new(AtomicBool::new(false));
    let troubles = std::thread::spawn({
        let (over, orders) = (over.clone(), orders.clone());
        move || trouble(&orders, &plan, &over)
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let record = read_record()?;
    runtime.block_on(call(&audit, &orders, &record));
    over.store(true, Ordering::Relaxed);
    troubles.join().ok().context("the troubles panicked")??;
    ensure!(audit.shutdown(SHUTDOWN), "not all was shipped: {:?}", audit.status());
    println!("lost {}", audit.status().lost_total);
    Ok(())
}

/// Puts the store, and the disk, through one trouble after another.
fn trouble(orders: &Orders, plan: &Plan, over: &AtomicBool) -> Result<()> {
    let mut random = Random(orders.seed ^ 0xfa17);
    while !over.load(Ordering::Relaxed) {
        if orders.troubles {
            plan.set(Trouble::ALL[random.below(Trouble::ALL.len())]);
        }
        if let Some(ballast) = &orders.ballast
            && random.below(8) == 0
        {
            fill(ballast)?;
            println!("fault disk:full");
            pause(Duration::from_millis(300));
            std::fs::remove_file(ballast)?;
        }
        wait_until(MEET, || plan.met() || over.load(Ordering::Relaxed));
        // Some troubles last, most are short.
        let span = if random.below(8) == 0 { 300 } else { random.below(20) };
        pause(Duration::from_millis(span as u64));
        plan.set(Trouble::None);
        pause(Duration::from_millis(random.below(40) as u64));
    }
    Ok(())
}

/// Takes all that the disk has.
pub(super) fn fill(ballast: &Path) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(ballast)?;
    let block = vec![0x55; 64 << 10];
    while file.write_all(&block).is_ok() {}
    Ok(())
}

async fn call(audit: &Audit, orders: &Orders, record: &AccessRecord) {
    let end = Instant::now() + orders.calls;
    let mut callers = Vec::new();
    for caller in 0..CALLERS {
        let mut record = record.clone();
        if orders.ballast.is_some() {
            record.operation = Some(Personal::from("x".repeat(PADDING)));
        }
        let (recorder, random) = (audit.recorder(), Random(orders.seed.wrapping_mul(31) + caller));
        callers.push(tokio::spawn(calls(recorder, random, record, end)));
    }
    for caller in callers {
        // A caller that panics shows as a test that fails: its records are missing.
        let _ = caller.await;
    }
}

async fn calls(recorder: Arc<dyn Recorder>, mut random: Random, mut record: AccessRecord, end: Instant) {
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_micros(random.below(2_000) as u64)).await;
        record.access_id = AccessId::fresh();
        if random.below(50) == 0 {
            // The clock jumps.
            record.ts = Timestamp::from_seconds(1_000_000_000 + random.below(2_000_000_000) as i64);
        }
        let id = record.access_id;
        let Some(mut slot) = recorder.reserve() else {
            println!("refused");
            recorder.lost(&record);
            continue;
        };
        println!("sent {id}");
        if random.below(3) == 0 {
            if slot.intent(&record).await.is_err() {
                println!("refused");
                continue;
            }
            println!("intent {id}");
        }
        let told = slot.complete(Box::new(record.clone())).await;
        println!("{} {id}", if told.is_ok() { "kept" } else { "refused" });
    }
}
