//! The shipper thread: carries durable frames from the spool to the store, in order, exactly once.
//!
//! Invariants: a store that is away, or refuses, never stops the spool: it is tried again soon, then
//! each [`RETRY`], and the spool absorbs. A segment is deleted after the commit that carried its last frame.
//! While the store is at one batch the next is read, across segments too; nothing counts as shipped before the store has
//! said so, and after any error the store is asked where it stands.
//! Damage is never passed over in silence: what is missing is written to the store as a gap. Only what the
//! transparency log has is shipped, each row with its place and leaf there.

mod reading;
mod settle;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use doorward_core::{Clock, SystemClock};
use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use crate::config::Retention;
use crate::log::Log;
use crate::rollup::Aggregator;
use crate::spool::reader::{Newer, Reader};
use crate::spool::segment::Chunk;
use crate::spool::{SegmentInfo, Shared};
use crate::store::{Batch, DeadLetter, HighWater, Refused, Shrink, SignedCheckpoint, Store, StoreError};
use reading::Reading;
use settle::Settling;

/// Records gather this long before they are shipped, unless there are many.
const GATHER: Duration = Duration::from_millis(100);
/// The longest wait before the shipper looks around.
const TICK: Duration = Duration::from_millis(250);
/// The most records in one transaction.
const BATCH_RECORDS: usize = 10_000;
/// How long a store that failed is left alone at most, and at first; the pause doubles in between, so that
/// a connection that was lost costs little.
const RETRY: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// How often retention looks at the store.
const RETAIN_EVERY: Duration = Duration::from_secs(30);

/// How to open the store; tried again until it works.
pub type OpenStore = Box<dyn Fn() -> Result<Box<dyn Store>, StoreError> + Send>;

/// What the shipper tells of itself.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) shipped_seq: AtomicU64,
    pub(crate) shipped_total: AtomicU64,
    pub(crate) damaged_total: AtomicU64,
    pub(crate) error: Mutex<Option<String>>,
    /// Whether calls that earlier starts left open have a frame of their own by now.
    pub(crate) settled: AtomicBool,
    /// Failures since the last success.
    failures: AtomicU32,
    /// Ends the thread when everything is shipped.
    stop: AtomicBool,
    /// Ends the thread after what it is doing.
    give_up: AtomicBool,
    ending: Mutex<()>,
    wake: Condvar,
}

impl Progress {
    /// Lets the shipper end when everything is shipped.
    pub(crate) fn stop(&self) {
        self.tell(&self.stop);
    }

    /// Lets the shipper end, whatever is left.
    pub(crate) fn give_up(&self) {
        self.tell(&self.give_up);
    }

    fn succeeded(&self) {
        *self.error.lock() = None;
        self.failures.store(0, Ordering::Relaxed);
    }

    /// One more failure: how long to pause.
    fn failed(&self) -> Duration {
        let doublings = self.failures.fetch_add(1, Ordering::Relaxed).min(10);
        (RETRY_FIRST * (1 << doublings)).min(RETRY)
    }

    fn tell(&self, flag: &AtomicBool) {
        let ending = self.ending.lock();
        flag.store(true, Ordering::Relaxed);
        drop(ending);
        self.wake.notify_all();
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.given_up()
    }

    fn given_up(&self) -> bool {
        self.give_up.load(Ordering::Relaxed)
    }
}

/// Why a step of the shipper did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShipError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the spool cannot be read: {0}")]
    Spool(#[from] std::io::Error),
    #[error(transparent)]
    Newer(#[from] Newer),
}

/// The shipper's own state; [`Shipper::run`] is its thread.
pub(crate) struct Shipper {
    shared: Arc<Shared>,
    log: Arc<Log>,
    progress: Arc<Progress>,
    open_store: OpenStore,
    retention: Retention,
    store: Option<Box<dyn Store>>,
    place: Option<Place>,
    retained_at: Option<Instant>,
    /// Up to when records are to be removed by size once the log has told of it.
    tells: Option<i64>,
    /// Whether the store is to be opened anew, because something of no consequence to records went wrong with it.
    stale: bool,
    settling: Settling,
    /// The batch that the store may still be at.
    handed: Option<Handed>,
    /// Segments that were read to their end while the store was at their last frames, oldest first.
    left: VecDeque<SegmentInfo>,
    /// How many of them the store has.
    left_there: usize,
    /// The most records of a batch.
    most: usize,
    /// The most records of the next batch: frame after frame while the store refuses a value.
    limit: usize,
    aggregator: Aggregator,
}

/// Where the shipper stands: in which segment, and what it knows of the epoch.
struct Place {
    reader: Reader,
    high_water: HighWater,
    open: HashSet<Uuid>,
}

/// A batch that was handed to the store, as far as it matters once it is there.
struct Handed {
    epoch: u64,
    to: HighWater,
    frames: usize,
    records: usize,
    damaged: u64,
    checkpoints: Vec<SignedCheckpoint>,
}

/// What became of a batch.
enum Written {
    /// The store has it.
    Kept,
    /// The store took it, and has the one before.
    Taken,
    /// A value of it is refused: it is read again, in part.
    Refused,
    /// The batch before it may be the one that is refused.
    Unclear,
}

/// What one step did.
enum Step {
    /// It shipped, or moved on to the next segment.
    Moved,
    /// It has to begin anew where the store stands.
    Back,
    /// All that is durable is shipped.
    Idle,
}

impl Shipper {
    pub(crate) fn new(
        shared: Arc<Shared>,
        log: Arc<Log>,
        progress: Arc<Progress>,
        open_store: OpenStore,
        retention: Retention,
    ) -> Self {
        let (store, place, retained_at) = (None, None, None);
        let aggregator = Aggregator::default();
        Self {
            shared,
            log,
            progress,
            open_store,
            retention,
            store,
            place,
            retained_at,
            tells: None,
            stale: false,
            settling: Settling::default(),
            handed: None,
            left: VecDeque::new(),
            left_there: 0,
            most: BATCH_RECORDS,
            limit: BATCH_RECORDS,
            aggregator,
        }
    }

    /// The same with batches of another size.
    #[cfg(test)]
    pub(crate) fn in_batches_of(self, records: usize) -> Self {
        Self { most: records, limit: records, ..self }
    }

    /// Works until it is told to stop.
    pub(crate) fn run(mut self) {
        while !self.progress.given_up() {
            match self.step() {
                Ok(Step::Moved | Step::Back) => self.progress.succeeded(),
                Ok(Step::Idle) => {
                    self.progress.succeeded();
                    if self.progress.stopping() {
                        return;
                    }
                    self.wait_for_more();
                }
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Ships all that is durable, or says what is in the way.
    #[cfg(test)]
    pub(crate) fn ship_all(&mut self) -> Result<(), String> {
        loop {
            match self.step() {
                Ok(Step::Moved | Step::Back) => {}
                Ok(Step::Idle) => return Ok(()),
                Err(error) => {
                    self.store = None;
                    self.begin_anew();
                    return Err(error.to_string());
                }
            }
        }
    }

    fn failed(&mut self, error: &ShipError) {
        let text = error.to_string();
        let mut last = self.progress.error.lock();
        if last.as_deref() != Some(&text) {
            tracing::error!(error = %text, "records wait in the spool: they cannot be shipped to the store");
            *last = Some(text);
        }
        drop(last);
        self.store = None;
        self.begin_anew();
        if let ShipError::Spool(error) = error
            && self.shared.reserve.give_up(error)
        {
            return;
        }
        self.pause(self.progress.failed(), Progress::given_up);
    }

    fn wait_for_more(&self) {
        let shipped = self.progress.shipped_seq.load(Ordering::Relaxed);
        self.log.wait(self.shared.settings.epoch, shipped, TICK);
        // A backlog of earlier starts is large already.
        let front = self.shared.segments.lock().front().map(|front| front.epoch);
        if front.is_some_and(|epoch| epoch < self.shared.settings.epoch) {
            return;
        }
        let waiting = self.shared.committed_seq.load(Ordering::Relaxed).saturating_sub(shipped);
        if usize::try_from(waiting).unwrap_or(usize::MAX) < BATCH_RECORDS {
            self.pause(GATHER, Progress::stopping);
        }
    }

    /// Sleeps, but not past the end.
    fn pause(&self, span: Duration, over: impl Fn(&Progress) -> bool) {
        let deadline = Instant::now() + span;
        let mut ending = self.progress.ending.lock();
        while !over(&self.progress) {
            if self.progress.wake.wait_until(&mut ending, deadline).timed_out() {
                return;
            }
        }
    }

    fn step(&mut self) -> Result<Step, ShipError> {
        let mut store = match self.store.take() {
            Some(store) => store,
            None => (self.open_store)()?,
        };
        let done = self.step_with(&mut *store);
        self.store = (!std::mem::take(&mut self.stale)).then_some(store);
        done
    }

    fn step_with(&mut self, store: &mut dyn Store) -> Result<Step, ShipError> {
        while self.left_there > 0
            && let Some(segment) = self.left.front().cloned()
        {
            self.delete(&segment)?;
            self.left.pop_front();
            self.left_there -= 1;
        }
        let front = self.shared.segments.lock().get(self.left.len()).cloned();
        // What else there is to do waits until the store is free, at the end of a segment at the latest.
        if self.handed.is_none() {
            self.close_epochs(store, front.as_ref())?;
            // Once the segments of dead epochs are shipped, intents without completion stay so.
            if front.as_ref().is_none_or(|front| front.epoch == self.shared.settings.epoch) {
                self.settle_dead_epochs(store)?;
            }
            self.retain(store);
        }
        let Some(front) = front else { return self.ship_rest(store) };
        self.enter(store, &front)?;
        let Some(mut place) = self.place.take() else { return Ok(Step::Idle) };
        match self.ship(store, &front, &mut place)? {
            Step::Back => {
                self.begin_anew();
                Ok(Step::Back)
            }
            Step::Moved => {
                self.place = Some(place);
                Ok(Step::Moved)
            }
            Step::Idle => {
                self.place = Some(place);
                self.leave(&front)
            }
        }
    }

    /// Takes up the front segment, where the store says that it was left.
    fn enter(&mut self, store: &mut dyn Store, front: &SegmentInfo) -> Result<(), ShipError> {
        let gateway_id = &self.shared.settings.gateway_id;
        match &mut self.place {
            Some(place) if place.reader.segment == front.name => {}
            Some(place) if place.reader.epoch == front.epoch => place.reader = Reader::new(front),
            Some(_) | None => {
                let high_water = store.high_water(gateway_id, front.epoch)?;
                // It may have come to the store although nobody heard so.
                let there = |handed: &Handed| {
                    handed.epoch == front.epoch && handed.to.last_seq <= high_water.last_seq
                };
                if self.handed.as_ref().is_some_and(there) {
                    self.shipped();
                }
                self.handed = None;
                let gateway_id = &self.shared.settings.gateway_id;
                let open = store.open_intents(gateway_id, front.epoch)?;
                let open = open.into_iter().map(|intent| intent.access_id).collect();
                self.place = Some(Place { reader: Reader::new(front), high_water, open });
            }
        }
        Ok(())
    }

    /// Ships one batch of the front segment. `Idle` when it holds nothing more for now.
    fn ship(
        &mut self,
        store: &mut dyn Store,
        front: &SegmentInfo,
        place: &mut Place,
    ) -> Result<Step, ShipError> {
        let (shared, log) = (self.shared.clone(), self.log.clone());
        let length = log.logged(front);
        // What the log says about itself may come after the last frame.
        let notes = log.has_more(front.epoch, place.high_water.next_leaf);
        if place.reader.offset >= length
            && self.checkpoints(front.epoch, place.high_water.next_leaf).is_empty()
            && !notes
        {
            return self.rest(store, front);
        }
        let chunk = Chunk::load_large(&*shared.files, &front.name, place.reader.offset, length)?;
        let mut reading = Reading::new(place, &log, &chunk, &shared.settings.gateway_id)?;
        reading.read(length, self.limit)?;
        let (reader, damaged, mut batch) = reading.finish(place.high_water)?;
        batch.checkpoints = self.checkpoints(front.epoch, batch.leaf_to);
        if batch.is_empty() && reader.offset == place.reader.offset {
            return self.rest(store, front);
        }
        batch.tiles = log.full_tiles(front.epoch, batch.leaf_from, batch.leaf_to)?;
        if !batch.checkpoints.is_empty() {
            // Retention may remove rows before their tile is full; their leaves must stay.
            batch.tiles.extend(log.last_tile(front.epoch, batch.leaf_to)?);
        }
        let written = self.write(store, &mut batch)?;
        match written {
            Written::Kept | Written::Taken => self.shipped(),
            Written::Refused => return Ok(Step::Moved),
            Written::Unclear => return Ok(Step::Back),
        }
        let to = HighWater { last_seq: batch.to_seq, next_leaf: batch.leaf_to };
        place.high_water = to;
        place.open.extend(batch.opened.iter().map(|intent| intent.access_id));
        for access_id in &batch.closed {
            place.open.remove(access_id);
        }
        place.reader = reader;
        let refused = batch.dead_letters.iter().filter(|letter| matches!(letter.what, Refused::Record(_)));
        let records = batch.records.len() + refused.count();
        let Batch { epoch, frames, checkpoints, .. } = batch;
        self.handed = Some(Handed { epoch, to, frames, records, damaged, checkpoints });
        if matches!(written, Written::Kept) {
            self.shipped();
        }
        Ok(Step::Moved)
    }

    /// Checkpoints that are due, but for those that the store is at.
    fn checkpoints(&self, epoch: u64, size: u64) -> Vec<SignedCheckpoint> {
        let mut due = self.log.checkpoints(epoch, size);
        let handed = self.handed.as_ref().filter(|handed| handed.epoch == epoch);
        due.retain(|checkpoint| handed.is_none_or(|handed| !handed.checkpoints.contains(checkpoint)));
        due
    }

    /// Begins where the store stands: whatever was half read, or read while the store was at it, is read again.
    fn begin_anew(&mut self) {
        self.place = None;
        self.left.clear();
        self.left_there = 0;
    }

    /// Nothing more of the front segment is to be shipped: goes on to the next while the store is at its last frames, or
    /// waits for the store.
    fn rest(&mut self, store: &mut dyn Store, front: &SegmentInfo) -> Result<Step, ShipError> {
        let next = self.shared.segments.lock().get(self.left.len().saturating_add(1)).cloned();
        // With the next epoch begins another place in the store.
        let more = next.is_some_and(|next| next.epoch == front.epoch && self.log.logged(&next) > 0);
        let before = front.epoch != self.shared.settings.epoch;
        let settled = before || self.progress.settled.load(Ordering::Relaxed);
        // What waits until the store is free must not wait for the end of a backlog.
        let free = settled && !self.retention_is_due();
        if self.handed.is_none() || !more || !free || !self.is_finished(front) {
            return self.confirm(store);
        }
        self.left.push_back(front.clone());
        Ok(Step::Moved)
    }

    /// Waits until the store has what was handed to it. `Idle` when that was nothing.
    fn confirm(&mut self, store: &mut dyn Store) -> Result<Step, ShipError> {
        if self.handed.is_none() {
            return Ok(Step::Idle);
        }
        match store.finish() {
            Ok(()) => {
                self.shipped();
                Ok(Step::Moved)
            }
            Err(StoreError::Rejected(_)) => {
                self.go_carefully();
                Ok(Step::Back)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The store has what was handed to it.
    fn shipped(&mut self) {
        let Some(handed) = self.handed.take() else { return };
        self.left_there = self.left.len();
        let records = u64::try_from(handed.records).unwrap_or(u64::MAX);
        self.progress.shipped_total.fetch_add(records, Ordering::Relaxed);
        self.progress.damaged_total.fetch_add(handed.damaged, Ordering::Relaxed);
        self.log.shipped(handed.epoch, handed.to.next_leaf, &handed.checkpoints);
        if handed.epoch == self.shared.settings.epoch {
            self.progress.shipped_seq.store(handed.to.last_seq, Ordering::Relaxed);
        }
    }

    /// Lets what was handed to the store be read again, half as much of it at first, and each batch be seen to its end.
    fn go_carefully(&mut self) {
        let frames = self.handed.as_ref().map_or(0, |handed| handed.frames);
        self.limit = (frames / 2).clamp(1, (self.most / 2).max(1));
    }

    /// Writes a batch. When the store refuses a value of it, the next batch is half as large, until the one
    /// frame is found, which becomes a dead letter.
    fn write(&mut self, store: &mut dyn Store, batch: &mut Batch<'_>) -> Result<Written, ShipError> {
        if batch.is_empty() {
            return Ok(match self.confirm(store)? {
                Step::Back => Written::Unclear,
                Step::Moved | Step::Idle => Written::Kept,
            });
        }
        batch.rollups = self.aggregator.add_up(batch.records.iter().map(|record| &record.access));
        let careful = self.limit < self.most;
        let written = store.write(batch).and_then(|()| if careful { store.finish() } else { Ok(()) });
        match written {
            Ok(()) => {
                self.limit = self.limit.saturating_mul(2).min(self.most);
                Ok(if careful { Written::Kept } else { Written::Taken })
            }
            Err(StoreError::Rejected(_)) if self.handed.is_some() => {
                self.go_carefully();
                Ok(Written::Unclear)
            }
            Err(StoreError::Rejected(_)) if batch.frames > 1 => {
                self.limit = batch.frames / 2;
                Ok(Written::Refused)
            }
            Err(StoreError::Rejected(reason)) if batch.frames == 1 => {
                tracing::error!(%reason, seq = batch.to_seq, "the store refuses a frame; it is laid down as a dead letter");
                lay_down(batch, &reason);
                batch.rollups = self.aggregator.add_up(std::iter::empty());
                store.write(batch)?;
                store.finish()?;
                Ok(Written::Kept)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes the front segment, if it will grow no more.
    fn leave(&mut self, front: &SegmentInfo) -> Result<Step, ShipError> {
        if !self.is_finished(front) {
            return Ok(Step::Idle);
        }
        self.delete(front)?;
        Ok(Step::Moved)
    }

    /// Whether a segment will grow no more, and all of it is logged.
    fn is_finished(&self, segment: &SegmentInfo) -> bool {
        let now = self.shared.segments.lock().get(self.left.len()).cloned();
        let same =
            now.is_some_and(|now| now.name == segment.name && now.sealed && now.length == segment.length);
        same && self.log.logged(segment) >= segment.length
    }

    /// Deletes the first segment, of which the store has all.
    fn delete(&self, front: &SegmentInfo) -> Result<(), ShipError> {
        // A segment is the only witness of the imported records in it until their ids are in the file.
        self.shared.imports.save(&*self.shared.files)?;
        if let Some(retained) = &self.shared.retained {
            // Sinks may still need it. It is among theirs before it leaves the spool's list, so that none misses it.
            retained.take(front)?;
            self.shared.segments.lock().pop_front();
            self.shared.freed(front.length);
            return Ok(());
        }
        self.shared.segments.lock().pop_front();
        self.shared.freed(front.length);
        // If the deletion fails, the next start finds the segment, and the high-water mark says that it
        // was shipped.
        if let Err(error) = self.shared.files.remove(&front.name) {
            tracing::warn!(segment = %front.name, %error, "a shipped segment could not be deleted");
        }
        Ok(())
    }

    fn retention_is_due(&self) -> bool {
        let told = self.tells.is_some() && self.tells <= self.log.announced();
        told || self.retained_at.is_none_or(|at| at.elapsed() >= RETAIN_EVERY)
    }

    /// Lets the store remove what has expired. What is in the way of that is in nobody else's: records are shipped all
    /// the same.
    fn retain(&mut self, store: &mut dyn Store) {
        if !self.retention_is_due() {
            return;
        }
        self.tells = None;
        let more = store.retain(&self.retention, SystemClock.now().micros());
        let more = more.and_then(|more| Ok(self.shrink(store)? || more));
        if let Err(error) = &more {
            tracing::error!(%error, "the store's housekeeping failed; it is tried again later");
            self.stale = true;
        }
        self.retained_at = (!matches!(more, Ok(true))).then(Instant::now);
    }
}

impl Shipper {
    /// Lets a store that is too large remove records, once the log has told of it. Whether there may be more.
    fn shrink(&mut self, store: &mut dyn Store) -> Result<bool, StoreError> {
        let Some(limit) = self.retention.size else { return Ok(false) };
        match store.shrink(limit.get(), self.log.announced())? {
            Shrink::Done => Ok(false),
            Shrink::Removed => Ok(true),
            Shrink::Tell(wanted) => {
                self.log.announce(wanted);
                self.tells = Some(wanted.before_us);
                Ok(false)
            }
        }
    }
}

/// Makes dead letters of the frames of a batch that the store refuses.
fn lay_down(batch: &mut Batch<'_>, reason: &str) {
    let records = batch.records.drain(..).map(Refused::Record);
    let gaps = batch.gaps.drain(..).map(Refused::Gap);
    let intents = batch.opened.drain(..).map(Refused::Intent);
    let refused = records.chain(gaps).chain(intents);
    batch.dead_letters.extend(refused.map(|what| DeadLetter { what, reason: reason.to_owned() }));
}
