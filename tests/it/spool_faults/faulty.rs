//! A store that fails as it is told to, in front of a real one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use doorward_audit::OpenStore;
use doorward_audit::config::{Retention, StoreUrl};
use doorward_audit::store::{self, Batch, HighWater, OpenIntent, Shrink, Store, StoreError};
use doorward_testkit::pause;
use parking_lot::Mutex;

/// What goes wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    /// It cannot be reached.
    Away,
    /// The connection is lost before the batch is committed.
    LostBeforeCommit,
    /// The connection is lost when the batch is committed, and nobody hears of it.
    LostAfterCommit,
    /// It takes its time.
    Slow,
    /// It refuses some rows.
    RefusesRows,
    /// Its columns are others.
    OtherSchema,
}

impl Trouble {
    pub(super) const ALL: [Self; 6] = [
        Self::Away,
        Self::LostBeforeCommit,
        Self::LostAfterCommit,
        Self::Slow,
        Self::RefusesRows,
        Self::OtherSchema,
    ];
}

/// What the store is to do now. It is told once of each trouble that was met.
#[derive(Debug)]
pub(super) struct Plan {
    now: Mutex<Trouble>,
    met: AtomicBool,
}

impl Plan {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { now: Mutex::new(Trouble::None), met: AtomicBool::new(false) })
    }

    pub(super) fn set(&self, trouble: Trouble) {
        let mut now = self.now.lock();
        self.met.store(false, Ordering::Relaxed);
        *now = trouble;
    }

    /// Whether the trouble was met.
    pub(super) fn met(&self) -> bool {
        self.met.load(Ordering::Relaxed)
    }

    fn is(&self, trouble: Trouble) -> bool {
        let now = self.now.lock();
        if *now != trouble {
            return false;
        }
        if !self.met.swap(true, Ordering::Relaxed) {
            println!("fault store:{trouble:?}");
        }
        true
    }
}

/// Opens a real store behind the plan.
pub(super) fn opener(url: StoreUrl, plan: Arc<Plan>) -> OpenStore {
    Box::new(move || {
        if plan.is(Trouble::Away) {
            return Err(lost());
        }
        if plan.is(Trouble::OtherSchema) {
            return Err(StoreError::Schema("missing [outcome], unknown []".to_owned()));
        }
        Ok(Box::new(Faulty { inner: store::open(&url)?, plan: plan.clone() }))
    })
}

struct Faulty {
    inner: Box<dyn Store>,
    plan: Arc<Plan>,
}

fn lost() -> StoreError {
    StoreError::Io(io::ErrorKind::ConnectionReset.into())
}

/// Whether a record is one of those that the store refuses: one of 256.
fn refused(batch: &Batch<'_>) -> bool {
    batch.records.iter().any(|record| record.access.access_id.as_bytes()[15] == 7)
}

impl Store for Faulty {
    fn high_water(&mut self, gateway_id: &str, epoch: u64) -> Result<HighWater, StoreError> {
        if self.plan.is(Trouble::Away) {
            return Err(lost());
        }
        self.inner.high_water(gateway_id, epoch)
    }

    fn open_intents(&mut self, gateway_id: &str, epoch: u64) -> Result<Vec<OpenIntent>, StoreError> {
        self.inner.open_intents(gateway_id, epoch)
    }

    fn unfinished_epochs(&mut self, gateway_id: &str, epoch: u64) -> Result<Vec<u64>, StoreError> {
        self.inner.unfinished_epochs(gateway_id, epoch)
    }

    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        if self.plan.is(Trouble::Away) || self.plan.is(Trouble::LostBeforeCommit) {
            return Err(lost());
        }
        if refused(batch) && self.plan.is(Trouble::RefusesRows) {
            return Err(StoreError::Rejected("one of the rows".to_owned()));
        }
        if self.plan.is(Trouble::Slow) {
            pause(Duration::from_millis(60));
        }
        self.inner.write(batch)?;
        if self.plan.is(Trouble::LostAfterCommit) {
            return Err(lost());
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        self.inner.finish()
    }

    fn retain(&mut self, retention: &Retention, now_us: i64) -> Result<bool, StoreError> {
        self.inner.retain(retention, now_us)
    }

    fn shrink(&mut self, limit: u64, announced_us: Option<i64>) -> Result<Shrink, StoreError> {
        self.inner.shrink(limit, announced_us)
    }
}
