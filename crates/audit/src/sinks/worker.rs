//! The thread of one sink: follows the frames, gives them to the receiver, and keeps how far it has come.
//!
//! Invariants: a position is kept only when the receiver has taken everything before it, so each record comes at
//! least once; on any trouble the sink goes back to the position that was kept. A sink waits for nobody and
//! nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::retained::Retained;
use super::tail::{Batch, Entry, Position, Tail};
use crate::spool::Shared;
use crate::spool::files::Files;

/// The most rows given to a receiver at once.
pub(crate) const BATCH_ROWS: usize = 1_000;
/// How long a sink that has nothing to do waits before it looks around.
const TICK: Duration = Duration::from_millis(250);
/// How long rows gather.
const GATHER: Duration = Duration::from_millis(100);
/// How long a receiver that failed is left alone: at first, and at most.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Why a receiver did not take something.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// It may take it later.
    #[error("{0}")]
    Away(String),
    /// It will never take this, but it may take something else.
    #[error("{0}")]
    Refused(String),
}

/// What a receiver has taken for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// All that it was given.
    All,
    /// All that it was given before this.
    AllBefore,
    /// No more than before.
    Held,
}

/// The other end of a sink.
pub(crate) trait Receiver: Send {
    /// Takes entries, in order.
    fn deliver(&mut self, entries: &[Entry]) -> Result<Taken, Trouble>;

    /// Called when there is nothing to deliver for now, when a segment of the spool ended, and at the end.
    fn settle(&mut self, moment: Moment) -> Result<Taken, Trouble>;

    /// Forgets what it holds: it will come again.
    fn reset(&mut self);
}

/// When a receiver may settle what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Nothing to deliver for now.
    Idle,
    /// A segment ended.
    SegmentEnd,
    /// The gateway stops.
    Stop,
}

/// What a sink tells of itself.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) sent_total: AtomicU64,
    pub(crate) lost_total: AtomicU64,
    pub(crate) error: Mutex<Option<String>>,
    pub(crate) kept: Mutex<Position>,
}

/// Ends the threads of all sinks.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// After what is durable was delivered, or the first trouble.
    stop: AtomicBool,
    /// At once.
    give_up: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Ending {
    pub(crate) fn stop(&self) {
        self.tell(&self.stop);
    }

    pub(crate) fn give_up(&self) {
        self.tell(&self.give_up);
    }

    fn tell(&self, flag: &AtomicBool) {
        let lock = self.lock.lock();
        flag.store(true, Ordering::Relaxed);
        drop(lock);
        self.wake.notify_all();
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.given_up()
    }

    fn given_up(&self) -> bool {
        self.give_up.load(Ordering::Relaxed)
    }

    /// Sleeps, but not past the stop.
    fn pause(&self, span: Duration) {
        let deadline = Instant::now() + span;
        let mut lock = self.lock.lock();
        while !self.stopping() {
            if self.wake.wait_until(&mut lock, deadline).timed_out() {
                return;
            }
        }
    }
}

/// One sink at work.
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) lag_max: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) retained: Arc<Retained>,
    /// Where the cursor file is.
    pub(crate) folder: Arc<dyn Files>,
    pub(crate) tail: Tail,
    pub(crate) receiver: Box<dyn Receiver>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) ending: Arc<Ending>,
    pub(crate) rows_max: usize,
    /// The end of what was delivered before the last batch.
    pub(crate) delivered: Position,
    /// The last gap that was counted: its epoch and first frame.
    pub(crate) counted: (u64, u64),
}

/// The name of a sink's cursor file.
pub(crate) fn cursor_name(sink: &str) -> String {
    format!("{sink}.cursor")
}

impl Worker {
    /// Works until it is told to stop.
    pub(crate) fn run(mut self) {
        let mut retry = RETRY_MIN;
        while !self.ending.given_up() {
            match self.step() {
                Ok(true) => {
                    retry = RETRY_MIN;
                    self.well();
                }
                Ok(false) => {
                    retry = RETRY_MIN;
                    self.well();
                    if self.ending.stopping() {
                        if let Err(trouble) = self.settle(Moment::Stop) {
                            self.failed(&trouble);
                        }
                        return;
                    }
                    self.wait_for_more();
                }
                Err(trouble) => {
                    self.failed(&trouble);
                    if self.ending.stopping() {
                        return;
                    }
                    self.ending.pause(retry);
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Delivers one batch. Whether there was one.
    fn step(&mut self) -> Result<bool, Trouble> {
        let batch =
            self.tail.next(self.rows_max).map_err(|error| Trouble::Away(format!("the spool: {error}")))?;
        if !batch.entries.is_empty() {
            if self.delivered.segment.is_empty() {
                // Where it began is known even if the receiver never takes anything: what it misses is told.
                self.delivered = self.tail.position().beginning();
                self.keep(self.delivered.clone())?;
            }
            self.deliver(&batch)?;
        }
        if batch.segment_ended {
            self.settle(Moment::SegmentEnd)?;
            // The segment is not needed any more once everything in it was taken.
            return Ok(true);
        }
        if batch.entries.is_empty() {
            self.settle(Moment::Idle)?;
        }
        Ok(!batch.entries.is_empty())
    }

    fn deliver(&mut self, batch: &Batch) -> Result<(), Trouble> {
        let before = self.delivered.clone();
        let rows = batch.entries.iter().filter(|entry| matches!(entry, Entry::Row(_))).count();
        let mut sent = u64::try_from(rows).unwrap_or(0);
        let taken = match self.receiver.deliver(&batch.entries) {
            Ok(taken) => taken,
            Err(Trouble::Refused(text)) if self.rows_max == 1 => {
                // A call that is refused by itself would stop all that follow.
                tracing::error!(sink = %self.name, error = %text, "a sink refuses a record; it goes without it");
                self.progress.lost_total.fetch_add(1, Ordering::Relaxed);
                sent = 0;
                Taken::All
            }
            Err(trouble) => {
                if matches!(trouble, Trouble::Refused(_)) {
                    self.rows_max = 1;
                }
                return Err(trouble);
            }
        };
        for entry in &batch.entries {
            // One that comes again after trouble was counted.
            if let Entry::Gap(gap) = entry
                && (gap.epoch, gap.seq) > self.counted
            {
                self.counted = (gap.epoch, gap.seq);
                self.progress.lost_total.fetch_add(gap.lost.unwrap_or(1), Ordering::Relaxed);
            }
        }
        self.progress.sent_total.fetch_add(sent, Ordering::Relaxed);
        self.rows_max = (self.rows_max * 2).min(BATCH_ROWS);
        self.delivered = self.tail.position().clone();
        match taken {
            Taken::All => self.keep(self.delivered.clone()),
            Taken::AllBefore => self.keep(before),
            Taken::Held => Ok(()),
        }
    }

    fn settle(&mut self, moment: Moment) -> Result<(), Trouble> {
        match self.receiver.settle(moment)? {
            Taken::All => self.keep(self.tail.position().clone()),
            Taken::AllBefore | Taken::Held => Ok(()),
        }
    }

    /// Keeps a position, durably.
    fn keep(&mut self, position: Position) -> Result<(), Trouble> {
        if position.segment.is_empty() || *self.progress.kept.lock() == position {
            return Ok(());
        }
        let keep = || self.folder.put(&cursor_name(&self.name), position.text().as_bytes());
        let kept = match keep() {
            // What is retained for this sink may be what fills the disk.
            Err(error) if self.shared.reserve.give_up(&error) => keep(),
            kept => kept,
        };
        kept.map_err(|error| Trouble::Away(format!("its cursor cannot be kept: {error}")))?;
        self.retained.need(&self.name, &position.segment, self.lag_max);
        *self.progress.kept.lock() = position;
        Ok(())
    }

    fn well(&self) {
        let mut error = self.progress.error.lock();
        if error.is_some() {
            tracing::info!(sink = %self.name, "the sink takes records again");
            *error = None;
        }
    }

    fn failed(&mut self, trouble: &Trouble) {
        let text = trouble.to_string();
        let mut last = self.progress.error.lock();
        if last.as_deref() != Some(&text) {
            tracing::warn!(sink = %self.name, error = %text, "a sink does not take records; they are kept for it");
            *last = Some(text);
        }
        drop(last);
        self.receiver.reset();
        let kept = self.progress.kept.lock().clone();
        self.tail.rewind(&kept);
        self.delivered = kept;
    }

    fn wait_for_more(&self) {
        let mut segments = self.shared.segments.lock();
        self.shared.committed.wait_for(&mut segments, TICK);
        drop(segments);
        self.ending.pause(GATHER);
    }
}
