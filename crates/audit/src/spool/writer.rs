//! The writer thread: takes what is queued, encodes it, appends it, syncs once for all, tells the waiters.
//!
//! The leader's rule: an idle log syncs at once. Under load ([`LOAD`] calls at one time or more) a batch
//! gathers until it holds [`GATHER_SHARE`] of the calls, but no longer than [`GATHER_SYNCS`] syncs take (at
//! least [`GATHER_MIN`]) and never longer than `commit_delay`. A sync costs as much CPU as dozens of records,
//! so callers in a closed loop should form large groups; a few callers never wait for company. The moment
//! after a batch has fewer calls in flight than any other, so what counts is how many there were when it was
//! taken: in a closed loop those that it let go are about to come back. When they do not, one batch waits in
//! vain and the next does not. Frames that nobody waits for gather for [`LEISURE_DELAYS`] times
//! `commit_delay`, or until somebody waits.
//!
//! Invariant: after a failed write or sync the file is cut back to what is durable and not written again;
//! a failed sync may have dropped pages that a later one would not report. The numbers of the failed
//! frames are not used again either. An encrypted segment's key goes with the segment.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;
use uuid::Uuid;

use super::encryption::Sealer;
use super::files::{Appender, is_full, is_unwritable};
use super::pressure::Watch;
use super::{Content, Item, Losses, Queue, SegmentInfo, Shared, Wake, segment};
use crate::columns::CALL_COLUMNS;
use crate::personal::keyring::Keyring;
use crate::personal::service::KeyError;
use crate::personal::xaes::Broken;
use crate::row::Input;
use crate::wire::{self, Gap, Header};
use doorward_core::NotDurable;

/// Calls in flight from which on the log counts as loaded.
const LOAD: usize = 8;
/// The share of the calls, in quarters, that a batch gathers under load.
const GATHER_SHARE: usize = 3;
/// The shortest time to gather under load.
const GATHER_MIN: Duration = Duration::from_micros(300);
/// How many times the last sync's span a batch may gather.
const GATHER_SYNCS: u32 = 8;
/// Frames that nobody waits for lie for so many times `commit_delay`, but not when there are so many of them.
const LEISURE_DELAYS: u32 = 4;
const LEISURE_ITEMS: usize = 1_024;
/// Encoded bytes after which a batch is written, whatever else is queued.
const BATCH_BYTES: usize = 4 << 20;
/// The most records of one batch, whose callers' keys are looked for together.
const BATCH_RECORDS: usize = 8_192;
/// How often a broken spool is tried again, and losses are looked for.
const PROBE: Duration = Duration::from_secs(1);

/// Why a batch could not be made durable.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("{}: {_0}", reason(_0))]
    Io(#[from] io::Error),
    #[error("{0}")]
    Keys(#[from] KeyError),
    #[error("a personal value could not be sealed")]
    Unsealed,
    #[error("a frame could not be encrypted")]
    Unencrypted,
}

impl WriteError {
    fn disk_full(&self) -> bool {
        match self {
            Self::Io(error) | Self::Keys(KeyError::Pending(error)) => is_full(error),
            Self::Keys(_) | Self::Unsealed | Self::Unencrypted => false,
        }
    }
}

impl From<Broken> for WriteError {
    fn from(_: Broken) -> Self {
        Self::Unencrypted
    }
}

/// What is wrong with the spool's files, and what ends it.
fn reason(error: &io::Error) -> &'static str {
    if is_full(error) {
        "the disk is full; records are taken again when it has room"
    } else if is_unwritable(error) {
        "the volume is read-only; records are taken again when it can be written"
    } else {
        "the spool's files cannot be written"
    }
}

struct Active {
    name: String,
    file: Box<dyn Appender>,
    salt: u64,
    length: u64,
    /// Seals each frame behind the header, when the segment is encrypted.
    sealer: Option<Sealer>,
}

impl Active {
    /// Makes the frame at the end of the buffer what the segment holds.
    fn seal(&mut self, buffer: &mut Vec<u8>, start: usize) -> Result<(), Broken> {
        self.sealer.as_mut().map_or(Ok(()), |sealer| sealer.seal(buffer, start))
    }
}

/// The writer's own state; [`Writer::run`] is its thread.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    keyring: Keyring,
    active: Option<Active>,
    next_seq: u64,
    buffer: Vec<u8>,
    last_sync: Duration,
    /// How many calls were in flight when the last batch was taken, and when that was.
    last_taken: (usize, Instant),
    failed_at: Option<Instant>,
    watch: Watch,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, keyring: Keyring) -> Self {
        Self {
            shared,
            keyring,
            active: None,
            next_seq: 1,
            buffer: Vec::new(),
            last_sync: Duration::ZERO,
            last_taken: (0, Instant::now()),
            failed_at: None,
            watch: Watch::default(),
        }
    }

    /// Makes the first segment, so that a spool that cannot be written is known at the start. One for which
    /// there is no room is waited for: what does not require records goes on.
    pub(crate) fn prove(&mut self) -> Result<(), String> {
        let done = self.commit(&mut Vec::new());
        if let Err(WriteError::Io(error)) = &done
            && is_unwritable(error)
        {
            done.or_else(|error| {
                self.fail(&error, &mut Vec::new());
                Ok(())
            })
        } else {
            done.map_err(|error| error.to_string())
        }
    }

    /// Works until the spool is closed and the queue is empty.
    pub(crate) fn run(mut self) {
        while let Some(mut items) = self.gather() {
            self.write(&mut items);
            self.watch.look(&self.shared);
        }
        self.tell_losses();
        self.retire();
        self.shared.committed.notify_all();
    }

    /// Says what was lost before the end: in a gap frame, or at least in the log.
    fn tell_losses(&mut self) {
        let lost = self.shared.losses.lock().count;
        if lost > 0
            && let Err(error) = self.commit(&mut Vec::new())
        {
            tracing::error!(lost, %error, "records were lost, and no gap could be written to say so");
        }
    }

    /// Waits for frames, and for company under load. An empty batch is a tick: losses to write, or a
    /// broken spool to try. `None` at the end.
    fn gather(&mut self) -> Option<Vec<Item>> {
        let shared = &self.shared;
        let mut queue = shared.queue.lock();
        // Under load the first frame alone wakes nobody.
        self.wait_for_company(&mut queue);
        if queue.items.is_empty() && !queue.closing {
            queue.wake = Some(Wake { awaited: 1, items: 1 });
            shared.filled.wait_for(&mut queue, PROBE);
            if !queue.items.is_empty() {
                self.wait_at_leisure(&mut queue);
                self.wait_for_company(&mut queue);
            }
        }
        queue.wake = None;
        if queue.closing && queue.items.is_empty() {
            return None;
        }
        self.last_taken = (self.calls_now(&queue), Instant::now());
        queue.awaited = 0;
        let capacity = queue.items.len();
        Some(std::mem::replace(&mut queue.items, Vec::with_capacity(capacity)))
    }

    /// While nobody waits for what is queued, waits for more of it.
    fn wait_at_leisure(&self, queue: &mut MutexGuard<'_, Queue>) {
        let deadline = Instant::now() + self.shared.settings.commit_delay * LEISURE_DELAYS;
        self.sleep(queue, Wake { awaited: 1, items: LEISURE_ITEMS }, deadline);
    }

    /// Under load, waits until there is a batch that is worth a sync.
    fn wait_for_company(&self, queue: &mut MutexGuard<'_, Queue>) {
        let commit_delay = self.shared.settings.commit_delay;
        let longest = (self.last_sync.max(GATHER_MIN) * GATHER_SYNCS).min(commit_delay);
        let calls = self.calls(queue, longest);
        if calls >= LOAD {
            // Those that are not waited for are company too.
            let all = self.shared.places().max(calls);
            let wake = Wake { awaited: calls * GATHER_SHARE / 4, items: all * GATHER_SHARE / 4 };
            self.sleep(queue, wake, Instant::now() + longest);
        }
    }

    fn sleep(&self, queue: &mut MutexGuard<'_, Queue>, wake: Wake, deadline: Instant) {
        while !queue.is_due(wake) {
            queue.wake = Some(wake);
            if self.shared.filled.wait_until(queue, deadline).timed_out() {
                break;
            }
        }
    }

    /// How many calls there are at one time: now, or when the last batch was taken if that was just now.
    fn calls(&self, queue: &Queue, longest: Duration) -> usize {
        let (before, at) = self.last_taken;
        let now = self.calls_now(queue);
        if at.elapsed() < self.last_sync + longest { before.max(now) } else { now }
    }

    /// Calls that may still ask for a sync: those whose completion nobody waits for are over.
    fn calls_now(&self, queue: &Queue) -> usize {
        self.shared.places().saturating_sub(queue.items.len().saturating_sub(queue.awaited))
    }

    pub(super) fn write(&mut self, items: &mut Vec<Item>) {
        let broken = self.shared.broken.load(Ordering::Relaxed);
        let losses = self.shared.losses.lock().count > 0;
        // An idle gateway forgets erased keys too.
        self.keyring.refresh();
        if items.is_empty() && !broken && !losses {
            return;
        }
        if broken && self.failed_at.is_some_and(|at| at.elapsed() < PROBE) {
            self.shared.lose(count_records(items));
            return;
        }
        loop {
            if let Err(error) = self.commit(items) {
                self.fail(&error, items);
                return;
            }
            if items.is_empty() {
                return;
            }
        }
    }

    /// Writes as many of the items as one batch takes, makes them durable and tells their waiters.
    fn commit(&mut self, items: &mut Vec<Item>) -> Result<(), WriteError> {
        let shared = self.shared.clone();
        let _reserve = shared.reserve.hold()?;
        let salt = self.ready_segment()?;
        let mut seq = self.next_seq;
        let mut losses = None;
        self.buffer.clear();
        if let Some(active) = self.active.as_mut().filter(|active| active.length == 0) {
            active.sealer = put_header(&mut self.buffer, &self.shared, active, seq)?;
            seq += 1;
        }
        let pending = *self.shared.losses.lock();
        if pending.count > 0 {
            let start = self.buffer.len();
            put_losses(&mut self.buffer, salt, seq, &pending);
            if let Some(active) = &mut self.active {
                active.seal(&mut self.buffer, start)?;
            }
            losses = Some(pending);
            seq += 1;
        }
        let taken = self.encode(items, salt, &mut seq)?;
        // From here on the numbers are used, whatever comes of the write.
        self.next_seq = seq;
        self.sync()?;
        self.recovered(seq, losses);
        self.shared.written_total.fetch_add(u64::try_from(taken).unwrap_or(0), Ordering::Relaxed);
        // All hear it before the records are cleared away: that takes longer, and their threads would go to sleep
        // between one and the next.
        for item in items.iter_mut().take(taken) {
            if let Some(ticket) = item.ticket.take() {
                ticket.keep();
            }
            item.tell(Ok(()));
        }
        items.drain(..taken);
        Ok(())
    }

    /// Encodes as many of the items as one batch takes, under keys that are durable by now. How many.
    fn encode(&mut self, items: &[Item], salt: u64, seq: &mut u64) -> Result<usize, WriteError> {
        let items = || items.iter().take(BATCH_RECORDS).map(|item| &item.content);
        let keys = self.keyring.keys(items().filter_map(Content::record))?;
        let (mut keys, mut taken) = (keys.iter(), 0);
        for content in items() {
            let (place, start) = ((salt, *seq), self.buffer.len());
            match content {
                Content::Intent(record) | Content::Completion(record) => {
                    let Some(key) = keys.next() else { break };
                    let input = Input { record, subject: key.subject_id() };
                    let seal = self.keyring.sealing.call(key, record.access_id.as_bytes());
                    let intent = matches!(content, Content::Intent(_));
                    wire::put_access(&mut self.buffer, place, intent, input, seal);
                }
                // Its personal values are sealed already.
                Content::Unknown(access) => wire::put_unknown(&mut self.buffer, salt, *seq, access),
            }
            if let Some(active) = &mut self.active {
                active.seal(&mut self.buffer, start)?;
            }
            *seq += 1;
            taken += 1;
            if self.buffer.len() >= BATCH_BYTES {
                break;
            }
        }
        if self.keyring.sealing.take_failure() { Err(WriteError::Unsealed) } else { Ok(taken) }
    }

    /// The salt of a segment that has room, a new one if need be.
    fn ready_segment(&mut self) -> Result<u64, WriteError> {
        let settings = &self.shared.settings;
        if let Some(active) = &self.active {
            if active.length < settings.segment_size {
                return Ok(active.salt);
            }
            self.retire();
        }
        self.shared.write_owed()?;
        let name = segment::name(self.shared.settings.epoch, self.next_seq);
        // What is set aside is inside the bound too.
        let settings = &self.shared.settings;
        let room = settings.segment_size.min(settings.size_max.saturating_sub(self.shared.bytes()));
        let file = self.shared.files.create(&name, room)?;
        let (salt, _) = Uuid::new_v4().as_u64_pair();
        self.active = Some(Active { name, file, salt, length: 0, sealer: None });
        Ok(salt)
    }

    /// Ends the active segment: it is cut to what it holds, before another is made.
    fn retire(&mut self) {
        if let Some(active) = self.active.take()
            && let Err(error) = self.shared.files.truncate(&active.name, active.length)
        {
            tracing::warn!(segment = %active.name, %error, "the unused end of a segment could not be cut off");
        }
        if let Some(last) = self.shared.segments.lock().back_mut() {
            last.sealed = true;
        }
    }

    fn sync(&mut self) -> Result<(), WriteError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let started = Instant::now();
        let since = self.shared.born.elapsed().as_micros();
        self.shared.syncing_since.store(u64::try_from(since).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
        let done = active.file.append(&self.buffer).and_then(|()| active.file.sync());
        self.shared.syncing_since.store(0, Ordering::Relaxed);
        done?;
        self.last_sync = started.elapsed();
        let written = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
        let first = active.length == 0;
        active.length += written;
        self.shared.bytes.fetch_add(written, Ordering::Relaxed);
        let mut segments = self.shared.segments.lock();
        if first {
            let epoch = self.shared.settings.epoch;
            let name = active.name.clone();
            segments.push_back(SegmentInfo { name, epoch, length: active.length, sealed: false });
        } else if let Some(last) = segments.back_mut() {
            last.length = active.length;
        }
        Ok(())
    }

    fn recovered(&mut self, seq: u64, written: Option<Losses>) {
        if let Some(written) = written {
            let mut losses = self.shared.losses.lock();
            losses.count = losses.count.saturating_sub(written.count);
            losses.from_us = losses.until_us;
        }
        if self.shared.broken.swap(false, Ordering::Relaxed) {
            tracing::info!("the spool can be written again");
            *self.shared.error.lock() = None;
        }
        self.shared.disk_full.store(false, Ordering::Relaxed);
        self.failed_at = None;
        self.shared.committed_seq.store(seq.saturating_sub(1), Ordering::Relaxed);
        self.shared.committed.notify_all();
    }

    fn fail(&mut self, error: &WriteError, items: &mut Vec<Item>) {
        self.failed_at = Some(Instant::now());
        let text = error.to_string();
        if !self.shared.broken.swap(true, Ordering::Relaxed) {
            tracing::error!(error = %text, "the spool cannot be written; resources that require records are closed");
        }
        self.shared.disk_full.store(error.disk_full(), Ordering::Relaxed);
        *self.shared.error.lock() = Some(text);
        if let Some(active) = self.active.take() {
            self.cut_back(&active);
        }
        self.shared.lose(count_records(items));
        for mut item in items.drain(..) {
            item.tell(Err(NotDurable));
        }
    }

    /// Takes back what was appended but is not durable. When that fails too, the reader stops at the
    /// durable length, and a restart finds the rest: records of calls that were refused.
    fn cut_back(&self, active: &Active) {
        let done = match active.length {
            0 => self.shared.files.remove(&active.name),
            length => self.shared.files.truncate(&active.name, length),
        };
        if let Err(error) = done {
            tracing::warn!(segment = %active.name, %error, "a failed write could not be taken back");
        }
        if active.length > 0
            && let Some(last) = self.shared.segments.lock().back_mut()
        {
            last.sealed = true;
        }
    }
}

/// How many records are lost with these frames: an intent without its completion is one that recovery
/// calls unknown, and without either it is the completion that counts. What comes of recovery itself is still
/// in the store as an open intent.
fn count_records(items: &[Item]) -> u64 {
    let lost = items.iter().filter(|item| matches!(item.content, Content::Completion(_)));
    u64::try_from(lost.count()).unwrap_or(u64::MAX)
}

/// Puts the header; what seals the frames behind it, when they are to be sealed.
fn put_header(
    buffer: &mut Vec<u8>,
    shared: &Shared,
    active: &Active,
    seq: u64,
) -> Result<Option<Sealer>, WriteError> {
    let keys = shared.files.keys();
    let header = Header {
        salt: active.salt,
        epoch: shared.settings.epoch,
        gateway_id: (&*shared.settings.gateway_id).into(),
        columns: CALL_COLUMNS.iter().map(|(name, _)| (*name).into()).collect(),
        encryption: keys.draw()?,
    };
    let start = buffer.len();
    wire::put_header(buffer, seq, &header);
    if header.encryption.is_none() {
        return Ok(None);
    }
    let payload = buffer.get(start.saturating_add(wire::PREFIX)..).unwrap_or_default();
    // What was asked for and cannot be had is an error: no frame goes out in clear.
    Ok(Some(keys.sealer(&active.name, payload)?.ok_or(Broken)?))
}

fn put_losses(buffer: &mut Vec<u8>, salt: u64, seq: u64, losses: &Losses) {
    let reason = "no room in the spool, or it could not be written".into();
    let gap = Gap { lost: losses.count, from_us: losses.from_us, until_us: losses.until_us, reason };
    wire::put_gap(buffer, salt, seq, &gap);
}
