//! The shipper thread: carries durable frames from the spool to the store, in order, exactly once.
//!
//! Invariants: a store that is away, or refuses, never stops the spool: it is tried again soon, then
//! each [`RETRY`], and the spool absorbs. A segment is deleted after the commit that carried its last frame.
//! Damage is never passed over in silence: what is missing is written to the store as a gap.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use doorward_core::{Clock, Outcome, SystemClock};
use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use crate::columns::CALL_COLUMNS;
use crate::config::Retention;
use crate::leaf::{self, Hasher, RowOf};
use crate::rollup::Aggregator;
use crate::row::Value;
use crate::spool::segment::{Chunk, Cursor, Found};
use crate::spool::{SegmentInfo, Shared};
use crate::store::{Batch, HighWater, LoggedGap, OpenIntent, Record, Store, StoreError};
use crate::wire::{self, Frame, Gap};

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
enum ShipError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the spool cannot be read: {0}")]
    Spool(#[from] std::io::Error),
    #[error("segment {0} was written by a newer version; its records wait in the spool")]
    Newer(String),
}

/// The shipper's own state; [`Shipper::run`] is its thread.
pub(crate) struct Shipper {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    open_store: OpenStore,
    retention: Retention,
    store: Option<Box<dyn Store>>,
    place: Option<Place>,
    retained_at: Option<Instant>,
    settled: bool,
    aggregator: Aggregator,
}

/// Where the shipper stands: in which segment, and what it knows of the epoch.
struct Place {
    segment: String,
    epoch: u64,
    cursor: Cursor,
    columns: Option<Vec<Option<usize>>>,
    column_names: String,
    high_water: HighWater,
    open: HashSet<Uuid>,
}

/// What one step did.
enum Step {
    /// It shipped, or moved on to the next segment.
    Moved,
    /// All that is durable is shipped.
    Idle,
}

impl Shipper {
    pub(crate) fn new(
        shared: Arc<Shared>,
        progress: Arc<Progress>,
        open_store: OpenStore,
        retention: Retention,
    ) -> Self {
        let (store, place, retained_at) = (None, None, None);
        let aggregator = Aggregator::default();
        Self {
            shared,
            progress,
            open_store,
            retention,
            store,
            place,
            retained_at,
            settled: false,
            aggregator,
        }
    }

    /// Works until it is told to stop.
    pub(crate) fn run(mut self) {
        while !self.progress.given_up() {
            match self.step() {
                Ok(Step::Moved) => self.progress.succeeded(),
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
                Ok(Step::Moved) => {}
                Ok(Step::Idle) => return Ok(()),
                Err(error) => {
                    (self.store, self.place) = (None, None);
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
        // Whatever was half read is read again, from what the store has.
        self.store = None;
        self.place = None;
        self.pause(self.progress.failed(), Progress::given_up);
    }

    fn wait_for_more(&self) {
        let committed = self.shared.committed_seq.load(Ordering::Relaxed);
        let shipped = self.progress.shipped_seq.load(Ordering::Relaxed);
        if committed <= shipped {
            let mut segments = self.shared.segments.lock();
            self.shared.committed.wait_for(&mut segments, TICK);
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
        self.store = Some(store);
        done
    }

    fn step_with(&mut self, store: &mut dyn Store) -> Result<Step, ShipError> {
        let front = self.shared.segments.lock().front().cloned();
        // Once the segments of dead epochs are shipped, intents without completion stay so.
        if !self.settled && front.as_ref().is_none_or(|front| front.epoch == self.shared.settings.epoch) {
            self.settle_dead_epochs(store)?;
            self.settled = true;
        }
        self.retain(store)?;
        let Some(front) = front else { return Ok(Step::Idle) };
        self.enter(store, &front)?;
        let Some(mut place) = self.place.take() else { return Ok(Step::Idle) };
        let shipped = self.ship(store, &front, &mut place);
        self.place = Some(place);
        match shipped? {
            Step::Moved => Ok(Step::Moved),
            Step::Idle => self.leave(&front),
        }
    }

    /// Takes up the front segment, where the store says that it was left.
    fn enter(&mut self, store: &mut dyn Store, front: &SegmentInfo) -> Result<(), ShipError> {
        let gateway_id = &self.shared.settings.gateway_id;
        match &mut self.place {
            Some(place) if place.segment == front.name => {}
            Some(place) if place.epoch == front.epoch => {
                place.segment.clone_from(&front.name);
                place.cursor = Cursor::default();
                place.columns = None;
            }
            Some(_) | None => {
                let high_water = store.high_water(gateway_id, front.epoch)?;
                let open = store.open_intents(gateway_id, front.epoch)?;
                self.place = Some(Place {
                    segment: front.name.clone(),
                    epoch: front.epoch,
                    cursor: Cursor::default(),
                    columns: None,
                    column_names: String::new(),
                    high_water,
                    open: open.into_iter().map(|intent| intent.access_id).collect(),
                });
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
        if place.cursor.offset >= front.length {
            return Ok(Step::Idle);
        }
        let files = self.shared.files.clone();
        let chunk = Chunk::load(&*files, &front.name, place.cursor.offset, front.length)?;
        let gateway_id = self.shared.settings.gateway_id.clone();
        let mut reading = Reading::new(place, &chunk, &gateway_id);
        reading.read(front)?;
        let Reading { cursor, batch, open_now, columns, column_names, damaged, next_leaf, .. } = reading;
        let mut batch = Batch { gateway_id: &gateway_id, epoch: place.epoch, ..batch };
        batch.from_seq = place.high_water.last_seq;
        batch.to_seq = batch.to_seq.max(batch.from_seq);
        batch.leaf_from = place.high_water.next_leaf;
        batch.leaf_to = next_leaf;
        batch.opened = open_now.into_values().collect();
        batch.rollups = self.aggregator.add_up(batch.records.iter().map(|record| &record.access));
        if !batch.is_empty() {
            store.write(&batch)?;
        }
        let records = u64::try_from(batch.records.len()).unwrap_or(u64::MAX);
        self.progress.shipped_total.fetch_add(records, Ordering::Relaxed);
        self.progress.damaged_total.fetch_add(damaged, Ordering::Relaxed);
        if place.epoch == self.shared.settings.epoch {
            self.progress.shipped_seq.store(batch.to_seq, Ordering::Relaxed);
        }
        let (last_seq, opened, closed) = (batch.to_seq, batch.opened, batch.closed);
        place.high_water = HighWater { last_seq, next_leaf };
        place.open.extend(opened.iter().map(|intent| intent.access_id));
        for access_id in &closed {
            place.open.remove(access_id);
        }
        place.cursor = cursor;
        place.columns = columns;
        place.column_names = column_names;
        Ok(Step::Moved)
    }

    /// Deletes the front segment, if it will grow no more.
    fn leave(&mut self, front: &SegmentInfo) -> Result<Step, ShipError> {
        let is_finished =
            |now: &SegmentInfo| now.name == front.name && now.sealed && now.length == front.length;
        if !self.shared.segments.lock().front().is_some_and(is_finished) {
            return Ok(Step::Idle);
        }
        // A segment is the only witness of the imported records in it until their ids are in the file.
        self.shared.imports.save(&*self.shared.files)?;
        self.shared.segments.lock().pop_front();
        self.shared.freed(front.length);
        // If the deletion fails, the next start finds the segment, and the high-water mark says that it
        // was shipped.
        if let Err(error) = self.shared.files.remove(&front.name) {
            tracing::warn!(segment = %front.name, %error, "a shipped segment could not be deleted");
        }
        Ok(Step::Moved)
    }

    /// Makes records of outcome `unknown` of what dead epochs left open.
    fn settle_dead_epochs(&mut self, store: &mut dyn Store) -> Result<(), ShipError> {
        let gateway_id = self.shared.settings.gateway_id.clone();
        for epoch in store.unfinished_epochs(&gateway_id, self.shared.settings.epoch)? {
            let high_water = store.high_water(&gateway_id, epoch)?;
            let intents = store.open_intents(&gateway_id, epoch)?;
            let mut batch = Batch {
                gateway_id: &gateway_id,
                epoch,
                from_seq: high_water.last_seq,
                to_seq: high_water.last_seq,
                leaf_from: high_water.next_leaf,
                leaf_to: high_water.next_leaf,
                ..Batch::default()
            };
            let mut hasher = Hasher::default();
            for intent in &intents {
                batch.closed.push(intent.access_id);
                let map = column_map(intent.columns.split(','))
                    .ok_or_else(|| ShipError::Newer(format!("of epoch {epoch}")))?;
                if let Ok((seq, Frame::Intent(access))) = wire::decode(&intent.payload) {
                    let access = unknown(in_our_columns(access, &map));
                    let record = record(&mut hasher, (&gateway_id, epoch), batch.leaf_to, seq, access);
                    batch.leaf_to += length(record.leaf_hashes.len());
                    batch.records.push(record);
                }
            }
            tracing::warn!(
                epoch,
                calls = intents.len(),
                "calls ended with the gateway; their outcome is unknown"
            );
            batch.rollups = self.aggregator.add_up(batch.records.iter().map(|record| &record.access));
            store.write(&batch)?;
            let records = u64::try_from(batch.records.len()).unwrap_or(u64::MAX);
            self.progress.shipped_total.fetch_add(records, Ordering::Relaxed);
        }
        Ok(())
    }

    fn retain(&mut self, store: &mut dyn Store) -> Result<(), ShipError> {
        if self.retained_at.is_some_and(|at| at.elapsed() < RETAIN_EVERY) {
            return Ok(());
        }
        let more = store.retain(&self.retention, SystemClock.now().micros())?;
        self.retained_at = (!more).then(Instant::now);
        Ok(())
    }
}

/// One batch while it is read from a chunk.
struct Reading<'a> {
    chunk: &'a Chunk,
    cursor: Cursor,
    batch: Batch<'a>,
    open_before: &'a HashSet<Uuid>,
    open_now: HashMap<Uuid, OpenIntent>,
    columns: Option<Vec<Option<usize>>>,
    column_names: String,
    high_water: u64,
    damaged: u64,
    gateway_id: &'a str,
    epoch: u64,
    next_leaf: u64,
    hasher: Hasher,
}

impl<'a> Reading<'a> {
    fn new(place: &'a Place, chunk: &'a Chunk, gateway_id: &'a str) -> Self {
        Self {
            chunk,
            cursor: place.cursor.clone(),
            batch: Batch::default(),
            open_before: &place.open,
            open_now: HashMap::new(),
            columns: place.columns.clone(),
            column_names: place.column_names.clone(),
            high_water: place.high_water.last_seq,
            damaged: 0,
            gateway_id,
            epoch: place.epoch,
            next_leaf: place.high_water.next_leaf,
            hasher: Hasher::default(),
        }
    }

    fn read(&mut self, front: &SegmentInfo) -> Result<(), ShipError> {
        while self.batch.records.len() < BATCH_RECORDS && self.cursor.offset < front.length {
            match self.chunk.at(&self.cursor) {
                None => return Ok(()),
                Some(Found::Frame { start, end, file_end }) => {
                    let payload = self.chunk.bytes.get(start..end).unwrap_or_default();
                    self.frame(payload, front)?;
                    self.cursor.offset = file_end;
                }
                Some(Found::Damage { resume }) => {
                    tracing::error!(segment = %front.name, offset = self.cursor.offset, "the spool is damaged");
                    self.cursor.offset = resume;
                }
                Some(Found::Tail) => {
                    tracing::error!(
                        segment = %front.name, offset = self.cursor.offset,
                        "the rest of a segment cannot be read"
                    );
                    self.damage(None);
                    self.cursor.offset = front.length;
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, payload: &'a [u8], front: &SegmentInfo) -> Result<(), ShipError> {
        let Ok((seq, frame)) = wire::decode(payload) else {
            // Its checksum is right, so it is whole, and not of a format that we know.
            return Err(ShipError::Newer(front.name.clone()));
        };
        match self.cursor.next_seq {
            Some(expected) if seq > expected && seq > self.high_water => self.damage(Some(seq - expected)),
            Some(_) | None => {}
        }
        self.cursor.next_seq = Some(seq.saturating_add(1));
        if let Frame::Header(header) = &frame {
            self.cursor.salt = Some(header.salt);
            self.columns = column_map(header.columns.iter().map(|name| &**name));
            self.column_names = header.columns.join(",");
            if self.columns.is_none() {
                return Err(ShipError::Newer(front.name.clone()));
            }
        }
        if seq <= self.high_water {
            return Ok(());
        }
        self.batch.to_seq = seq;
        let map = self.columns.as_deref().unwrap_or_default();
        match frame {
            Frame::Header(_) => {}
            Frame::Gap(gap) => self.gap(seq, gap),
            Frame::Intent(access) => {
                let access_id = access.access_id;
                let columns = self.column_names.clone();
                let intent = OpenIntent { seq, access_id, payload: payload.to_vec(), columns };
                self.open_now.insert(access_id, intent);
            }
            Frame::Completion(access) => {
                let access_id = access.access_id;
                if self.open_now.remove(&access_id).is_none() && self.open_before.contains(&access_id) {
                    self.batch.closed.push(access_id);
                }
                let access = in_our_columns(access, map);
                let record =
                    record(&mut self.hasher, (self.gateway_id, self.epoch), self.next_leaf, seq, access);
                self.next_leaf += length(record.leaf_hashes.len());
                self.batch.records.push(record);
            }
        }
        Ok(())
    }

    fn damage(&mut self, lost: Option<u64>) {
        self.damaged += 1;
        let now = SystemClock.now().micros();
        let reason = match lost {
            Some(_) => "damaged frames in the spool",
            None => "the rest of a segment cannot be read; how many records it held is not known",
        };
        let gap = Gap { lost: lost.unwrap_or(0), from_us: now, until_us: now, reason: reason.into() };
        self.gap(self.cursor.next_seq.unwrap_or(0), gap);
    }

    fn gap(&mut self, seq: u64, gap: Gap<'a>) {
        let hash = self.hasher.gap(self.gateway_id, self.epoch, seq, &gap);
        self.batch.gaps.push(LoggedGap { seq, gap, leaf: Some((self.next_leaf, hash)) });
        self.next_leaf += 1;
    }
}

/// A record with its leaves.
fn record<'a>(
    hasher: &mut Hasher,
    (gateway_id, epoch): (&str, u64),
    log_index: u64,
    seq: u64,
    access: wire::Access<'a>,
) -> Record<'a> {
    let leaf_hashes = (0..leaf::rows(&access))
        .map(|action| hasher.row(&RowOf { gateway_id, epoch, seq, access: &access, action, leaf: None }))
        .collect();
    Record { seq, access, log_index, leaf_hashes }
}

fn length(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Where each of our columns is among a segment's; `None` when the segment has one that we do not know.
fn column_map<'n>(names: impl Iterator<Item = &'n str>) -> Option<Vec<Option<usize>>> {
    let names: Vec<&str> = names.collect();
    let known = |name: &&str| CALL_COLUMNS.iter().any(|(ours, _)| ours == name);
    if !names.iter().all(known) {
        return None;
    }
    Some(CALL_COLUMNS.iter().map(|(ours, _)| names.iter().position(|name| name == ours)).collect())
}

/// Puts the values of a frame in the order of our columns.
fn in_our_columns<'a>(mut access: wire::Access<'a>, map: &[Option<usize>]) -> wire::Access<'a> {
    let same = map.iter().enumerate().all(|(index, place)| *place == Some(index));
    if !same {
        let value = |place: &Option<usize>| place.and_then(|place| access.values.get(place).cloned());
        access.values = map.iter().map(|place| value(place).unwrap_or(Value::Null)).collect();
    }
    access
}

fn unknown(mut access: wire::Access<'_>) -> wire::Access<'_> {
    let outcome = CALL_COLUMNS.iter().position(|(name, _)| *name == "outcome");
    if let Some(value) = outcome.and_then(|place| access.values.get_mut(place)) {
        *value = Value::Text(Outcome::Unknown.as_str().into());
    }
    access
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Access;

    #[test]
    fn segments_of_other_versions_are_read_by_name_or_left_alone() {
        let access = |values| Access { access_id: Uuid::nil(), values, actions: Vec::new() };
        // An older version had two columns, in another order.
        let map = column_map(["door", "ts"].into_iter()).unwrap();
        let ours = in_our_columns(access(vec![Value::Text("rest".into()), Value::Int(5)]), &map);
        assert_eq!(ours.values.len(), CALL_COLUMNS.len());
        for ((name, _), value) in CALL_COLUMNS.iter().zip(&ours.values) {
            let expected = match *name {
                "ts" => Value::Int(5),
                "door" => Value::Text("rest".into()),
                _ => Value::Null,
            };
            assert_eq!(*value, expected, "{name}");
        }
        assert_eq!(column_map(["ts", "from_a_newer_version"].into_iter()), None);
    }
}
