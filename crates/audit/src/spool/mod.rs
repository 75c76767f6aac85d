//! The spool: a local durable log that every record passes through.
//!
//! A call reserves its place before anything is parsed ([`SpoolRecorder`]). Frames go through a queue to
//! one writer thread, which encodes them, appends them to a segment file and syncs it for many at once;
//! whoever waits is told after the sync. The shipper reads what is durable and carries it to the store.
//!
//! Invariants:
//! - one gateway a directory: a lock file keeps a second one out;
//! - each start is a new epoch, and (gateway, epoch, number) names one frame for ever;
//! - a waiter that hears `Ok` finds its frame on disk after any crash;
//! - nothing here blocks the async runtime: reserving and handing over take a counter and a short lock;
//! - the queue is bounded by the places reserved ([`PLACES_MAX`]), two frames a place; the directory is
//!   bounded by `size_max` plus what the calls in flight at that moment write.

#[cfg(target_os = "linux")]
mod ahead;
pub(crate) mod encryption;
pub(crate) mod files;
pub mod inspect;
pub(crate) mod pressure;
pub(crate) mod reader;
mod recovery;
pub mod repair;
pub(crate) mod reserve;
pub(crate) mod segment;
pub mod waiting;
mod writer;

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use doorward_core::{
    AccessRecord, Durable, Import, ImportedRecord, NotDurable, Recorder, Slot, SystemClock, Timestamp,
};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

pub(crate) use recovery::{Recovered, gateway_id, ours_to_settle, small_files};
pub(crate) use writer::Writer;

use crate::imports::{Seen, Ticket, Window};
use crate::sinks::retained::Retained;
use crate::wire::Access;
use files::Files;
use pressure::{Level, Pressure};
pub(crate) use recovery::SmallFile;
use reserve::Reserve;

/// Calls whose records have a place reserved at one time.
pub const PLACES_MAX: usize = 65_536;
/// Bytes of the spool that each reserved place stands for.
const PLACE_BYTES: u64 = 2 << 10;
/// How long one sync may take before the spool counts as stalled and refuses new calls, and how long a
/// caller waits for its frame.
pub(crate) const STALL: Duration = Duration::from_secs(10);

/// How the spool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It takes records.
    Ready,
    /// It holds as much as it may, or the disk is full; the store has to catch up.
    Full,
    /// Writing fails, or takes too long; it tries again each second.
    Broken,
    /// The gateway is going down.
    Closed,
}

impl State {
    /// The state as status pages and metrics spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Full => "full",
            Self::Broken => "broken",
            Self::Closed => "closed",
        }
    }
}

/// What the spool needs to know.
pub(crate) struct Settings {
    pub(crate) gateway_id: Arc<str>,
    pub(crate) epoch: u64,
    pub(crate) size_max: u64,
    pub(crate) segment_size: u64,
    pub(crate) commit_delay: Duration,
    /// The share of what the spool can hold at which there is an alarm.
    pub(crate) alarm_percent: u8,
}

/// One segment, as far as it is durable.
#[derive(Clone, Debug)]
pub(crate) struct SegmentInfo {
    pub(crate) name: String,
    pub(crate) epoch: u64,
    /// Bytes that are durable.
    pub(crate) length: u64,
    /// Whether it will grow no more.
    pub(crate) sealed: bool,
}

/// What one frame is made of.
pub(crate) enum Content {
    /// A call that begins and must leave a trace.
    Intent(Box<AccessRecord>),
    /// A call that has ended.
    Completion(Box<AccessRecord>),
    /// The completion of a call that ended with an earlier start of the gateway, made of its intent.
    Unknown(Access<'static>),
}

impl Content {
    /// The road's record, if it is one.
    fn record(&self) -> Option<&AccessRecord> {
        match self {
            Self::Intent(record) | Self::Completion(record) => Some(record),
            Self::Unknown(_) => None,
        }
    }
}

/// What waits for the writer.
pub(crate) struct Item {
    content: Content,
    waiter: Option<oneshot::Sender<Result<(), NotDurable>>>,
    /// Settles the id of an imported record that can be repeated.
    ticket: Option<Ticket>,
    /// Given back when the frame is written.
    _place: Option<Place>,
}

impl Item {
    /// Tells whoever waits. A receiver that is gone did not wait: a streamed body's end, a hang-up.
    fn tell(&mut self, done: Result<(), NotDurable>) {
        if let Some(waiter) = self.waiter.take() {
            let _ = waiter.send(done);
        }
    }
}

#[derive(Default)]
struct Queue {
    items: Vec<Item>,
    /// How many of them somebody waits for.
    awaited: usize,
    /// The writer sleeps until then; `None` while it works.
    wake: Option<Wake>,
    closing: bool,
}

/// What the writer sleeps for: so many items that somebody waits for, or so many in all.
#[derive(Clone, Copy)]
struct Wake {
    awaited: usize,
    items: usize,
}

impl Queue {
    fn is_due(&self, wake: Wake) -> bool {
        self.closing || self.awaited >= wake.awaited || self.items.len() >= wake.items
    }
}

/// Records that could not be kept, and are not yet part of a gap frame.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Losses {
    pub(crate) count: u64,
    pub(crate) from_us: i64,
    pub(crate) until_us: i64,
}

impl Losses {
    pub(crate) fn add(&mut self, count: u64, at: Timestamp) {
        if self.count == 0 {
            self.from_us = at.micros();
        }
        self.count = self.count.saturating_add(count);
        self.until_us = self.until_us.max(at.micros());
    }
}

/// What the recorder, the writer and the shipper share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) files: Arc<dyn Files>,
    queue: Mutex<Queue>,
    filled: Condvar,
    /// Segments from the oldest on; the shipper takes them from the front.
    pub(crate) segments: Mutex<VecDeque<SegmentInfo>>,
    /// Told when more is durable, and at the end.
    pub(crate) committed: Condvar,
    /// The imported records that were taken already.
    pub(crate) imports: Window,
    /// Takes segments that the store has, when there are sinks.
    pub(crate) retained: Option<Arc<Retained>>,
    places: AtomicUsize,
    bytes: AtomicU64,
    broken: AtomicBool,
    disk_full: AtomicBool,
    closed: AtomicBool,
    /// Microseconds since `born` at which the sync under way began; 0 when there is none.
    syncing_since: AtomicU64,
    born: Instant,
    pub(crate) losses: Mutex<Losses>,
    lost_total: AtomicU64,
    pub(crate) committed_seq: AtomicU64,
    pub(crate) written_total: AtomicU64,
    pub(crate) error: Mutex<Option<String>>,
    pub(crate) pressure: Pressure,
    /// Room on the disk for what empties the spool.
    pub(crate) reserve: Reserve,
    /// Small files that the start could not write; the writer does before its first segment.
    owed: Mutex<Vec<SmallFile>>,
}

impl Shared {
    pub(crate) fn new(settings: Settings, files: Arc<dyn Files>, segments: VecDeque<SegmentInfo>) -> Self {
        let bytes = segments.iter().map(|segment| segment.length).sum();
        // A leaf is never larger than what it is of.
        let reserve = Reserve::new(files.clone(), settings.segment_size);
        Self {
            settings,
            files,
            queue: Mutex::default(),
            filled: Condvar::new(),
            segments: Mutex::new(segments),
            committed: Condvar::new(),
            imports: Window::default(),
            retained: None,
            places: AtomicUsize::new(0),
            bytes: AtomicU64::new(bytes),
            broken: AtomicBool::new(false),
            disk_full: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            syncing_since: AtomicU64::new(0),
            born: Instant::now(),
            losses: Mutex::default(),
            lost_total: AtomicU64::new(0),
            committed_seq: AtomicU64::new(0),
            written_total: AtomicU64::new(0),
            error: Mutex::new(None),
            pressure: Pressure::default(),
            reserve,
            owed: Mutex::default(),
        }
    }

    /// The same with a window of imported records.
    pub(crate) fn with_imports(self, imports: Window) -> Self {
        Self { imports, ..self }
    }

    /// With small files that are still to be written.
    pub(crate) fn with_owed(mut self, owed: Vec<SmallFile>) -> Self {
        self.owed = Mutex::new(owed);
        self
    }

    /// Writes the small files that the start could not write.
    pub(crate) fn write_owed(&self) -> std::io::Result<()> {
        let mut owed = self.owed.lock();
        while let Some((name, content)) = owed.last() {
            self.files.put(name, content.as_bytes())?;
            owed.pop();
        }
        Ok(())
    }

    /// The same with a folder for segments that sinks need.
    pub(crate) fn with_retained(self, retained: Option<Arc<Retained>>) -> Self {
        Self { retained, ..self }
    }

    /// How the spool is.
    pub(crate) fn state(&self) -> State {
        if self.closed.load(Ordering::Relaxed) {
            State::Closed
        } else if self.disk_full.load(Ordering::Relaxed) || self.room_left() < PLACE_BYTES {
            State::Full
        } else if self.broken.load(Ordering::Relaxed) || self.stalled() {
            State::Broken
        } else {
            State::Ready
        }
    }

    fn room_left(&self) -> u64 {
        let reserved = u64::try_from(self.places.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        let used = self.bytes.load(Ordering::Relaxed).saturating_add(reserved.saturating_mul(PLACE_BYTES));
        self.settings.size_max.saturating_sub(used)
    }

    fn stalled(&self) -> bool {
        match self.syncing_since.load(Ordering::Relaxed) {
            0 => false,
            since => self.born.elapsed().saturating_sub(Duration::from_micros(since)) > STALL,
        }
    }

    /// Bytes in the directory's segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Calls with a place reserved.
    pub(crate) fn places(&self) -> usize {
        self.places.load(Ordering::Relaxed)
    }

    /// Records lost since the start.
    pub(crate) fn lost_total(&self) -> u64 {
        self.lost_total.load(Ordering::Relaxed)
    }

    pub(crate) fn freed(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn lose(&self, count: u64) {
        let now = doorward_core::Clock::now(&SystemClock);
        self.lost_total.fetch_add(count, Ordering::Relaxed);
        self.losses.lock().add(count, now);
    }

    /// Takes no more calls, and lets the writer end when it has written what is queued.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.queue.lock().closing = true;
        self.filled.notify_one();
    }

    /// Appends a frame that no call waits for. The receiver hears `Ok` when it is durable, an error when it may be
    /// or may not, and nothing (it is closed) when it was never written. Bounded by whoever appends: none is
    /// appended while an earlier one of the same kind waits.
    pub(crate) fn append(&self, content: Content) -> oneshot::Receiver<Result<(), NotDurable>> {
        let (waiter, durable) = oneshot::channel();
        self.push(Item { content, waiter: Some(waiter), ticket: None, _place: None });
        durable
    }

    fn push(&self, item: Item) {
        let mut queue = self.queue.lock();
        if queue.closing {
            drop(queue);
            self.lose(u64::from(matches!(item.content, Content::Completion(_))));
            // Dropping the item drops its waiter, which hears `NotDurable`.
            return;
        }
        queue.awaited += usize::from(item.waiter.is_some());
        queue.items.push(item);
        if queue.wake.is_some_and(|wake| queue.is_due(wake)) {
            queue.wake = None;
            drop(queue);
            self.filled.notify_one();
        }
    }
}

/// A reserved place; dropped, it is free again.
pub(crate) struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The spool, as the road sees it.
pub(crate) struct SpoolRecorder(pub(crate) Arc<Shared>);

impl SpoolRecorder {
    /// A place for one record, if there is room.
    fn place(&self) -> Option<Place> {
        let shared = &self.0;
        let refused = shared.closed.load(Ordering::Relaxed)
            || shared.broken.load(Ordering::Relaxed)
            || shared.room_left() < PLACE_BYTES
            || shared.stalled();
        if refused {
            return None;
        }
        if shared.places.fetch_add(1, Ordering::Relaxed) >= PLACES_MAX {
            shared.places.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(shared.clone()))
    }
}

impl Recorder for SpoolRecorder {
    fn reserve(&self) -> Option<Box<dyn Slot>> {
        Some(Box::new(SpoolSlot { place: self.place()? }))
    }

    fn import(&self, imported: ImportedRecord) -> Import {
        let (id, repeatable) = (*imported.id().as_bytes(), imported.is_repeatable());
        let Some(place) = self.place() else { return Import::NoRoom };
        let ticket = match repeatable.then(|| self.0.imports.note(id)) {
            Some(Seen::Before(import)) => return import,
            Some(Seen::New(ticket)) => Some(ticket),
            None => None,
        };
        let (waiter, durable) = oneshot::channel();
        let record = imported.into_record();
        self.0.push(Item {
            content: Content::Completion(record),
            waiter: Some(waiter),
            ticket,
            _place: Some(place),
        });
        Import::Taken(wait(durable))
    }

    fn is_crowded(&self) -> bool {
        self.0.pressure.level() != Level::Roomy
    }

    fn lost(&self, _record: &AccessRecord) {
        self.0.lose(1);
    }
}

struct SpoolSlot {
    place: Place,
}

impl Slot for SpoolSlot {
    fn intent(&mut self, record: &AccessRecord) -> Durable {
        let (waiter, durable) = oneshot::channel();
        let content = Content::Intent(Box::new(record.clone()));
        self.place.0.push(Item { content, waiter: Some(waiter), ticket: None, _place: None });
        wait(durable)
    }

    fn complete(self: Box<Self>, record: Box<AccessRecord>) -> Durable {
        let (waiter, durable) = oneshot::channel();
        let shared = self.place.0.clone();
        let content = Content::Completion(record);
        shared.push(Item { content, waiter: Some(waiter), ticket: None, _place: Some(self.place) });
        wait(durable)
    }

    fn leave(self: Box<Self>, record: Box<AccessRecord>) {
        let shared = self.place.0.clone();
        let content = Content::Completion(record);
        shared.push(Item { content, waiter: None, ticket: None, _place: Some(self.place) });
    }
}

fn wait(durable: oneshot::Receiver<Result<(), NotDurable>>) -> Durable {
    Box::pin(async move {
        // A disk that hangs must not hold callers for ever. Their records may still be written.
        match tokio::time::timeout(STALL, durable).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) | Err(_) => Err(NotDurable),
        }
    })
}
