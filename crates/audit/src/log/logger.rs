//! The log thread: makes leaves of what the spool has made durable, and signs checkpoints over them.
//!
//! Constraints: it reads committed frames only, at most [`BATCH_FRAMES`] before it syncs; an error puts it back
//! to what is durable, and it tries again each [`RETRY`] while records wait in the spool.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use doorward_core::{Clock, SystemClock};
use doorward_tlog::checkpoint::Checkpoint;
use doorward_tlog::note::{Note, Signer};
use doorward_tlog::tile::Tile;

use super::journal::{self, Entry, Journal};
use super::tally::Tag;
use super::{Final, Frontier, Log, Signed};
use crate::config::Retention;
use crate::leaf::{self, Hasher, RowOf};
use crate::retention::CLASSES;
use crate::spool::reader::{Event, Newer, Reader};
use crate::spool::segment::Chunk;
use crate::spool::{SegmentInfo, Shared};
use crate::store::{SignedCheckpoint, TooLarge};
use crate::wire::{Access, Gap};

/// Frames that are logged before the log is synced.
const BATCH_FRAMES: usize = 10_000;
/// Frames gather this long before they are logged, so that one sync serves many.
const GATHER: Duration = Duration::from_millis(50);
/// How long a log that failed is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// The kind of the first note of each epoch.
pub(crate) const EPOCH_NOTE: &str = "epoch";
/// The kind of a note that tells of damaged frames.
pub(crate) const GAP_NOTE: &str = "gap";
/// The kind of a note that tells of records that are about to be removed because the store is too large.
pub(crate) const SIZE_NOTE: &str = "removal";

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
enum LogError {
    #[error("the transparency log cannot be written: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Newer(#[from] Newer),
}

/// When checkpoints are signed, and by which key.
pub(crate) struct Signing {
    pub(crate) signer: Signer,
    pub(crate) interval: Duration,
    pub(crate) count: u64,
    /// What the first leaf says of retention: [`keep_lines`].
    pub(crate) keep: String,
}

/// The log thread's own state; [`Logger::run`] is its thread.
pub(crate) struct Logger {
    shared: Arc<Shared>,
    log: Arc<Log>,
    signing: Signing,
    hasher: Hasher,
    place: Option<Place>,
    /// The last segment that was passed over.
    passed: Option<String>,
    signed: Option<(u64, Instant)>,
    /// Epochs whose log is here and not over.
    unfinished: Option<BTreeSet<u64>>,
}

struct Place {
    reader: Reader,
    journal: Journal,
    /// The last frame that was read.
    seq: u64,
}

impl Logger {
    pub(crate) fn new(shared: Arc<Shared>, log: Arc<Log>, signing: Signing) -> Self {
        Self {
            shared,
            log,
            signing,
            hasher: Hasher::default(),
            place: None,
            passed: None,
            signed: None,
            unfinished: None,
        }
    }

    /// Works while `going` says so, and until everything is logged; then signs the last checkpoint.
    pub(crate) fn run(mut self, going: &AtomicBool) {
        loop {
            let stopping = !going.load(Ordering::Relaxed);
            match self.step() {
                Ok(true) => *self.log.error.lock() = None,
                Ok(false) if stopping => break,
                Ok(false) => {
                    *self.log.error.lock() = None;
                    self.wait(going);
                }
                Err(LogError::Io(error)) if self.shared.reserve.give_up(&error) => self.forget(),
                Err(_) if stopping => return,
                Err(error) => {
                    self.failed(&error);
                    std::thread::park_timeout(RETRY);
                }
            }
        }
        if let Err(error) = self.sign(true) {
            self.failed(&LogError::Io(error));
        }
    }

    /// Logs all that is durable, and signs.
    #[cfg(test)]
    pub(crate) fn log_all(&mut self) -> Result<(), String> {
        loop {
            match self.step() {
                Ok(true) => {}
                Ok(false) => return self.sign(true).map_err(|error| error.to_string()),
                Err(LogError::Io(error)) if self.shared.reserve.give_up(&error) => self.forget(),
                Err(error) => {
                    self.forget();
                    return Err(error.to_string());
                }
            }
        }
    }

    fn failed(&mut self, error: &LogError) {
        let text = error.to_string();
        let mut last = self.log.error.lock();
        if last.as_deref() != Some(&text) {
            tracing::error!(error = %text, "records wait in the spool: they cannot be logged");
            *last = Some(text);
        }
        drop(last);
        self.forget();
    }

    /// Forgets what is not durable; it is read again.
    fn forget(&mut self) {
        (self.place, self.unfinished) = (None, None);
    }

    fn wait(&self, going: &AtomicBool) {
        let logged = self.place.as_ref().map_or(0, |place| place.seq);
        let due = self.signed.map_or(self.signing.interval, |(_, at)| {
            self.signing.interval.saturating_sub(at.elapsed()).max(Duration::from_millis(1))
        });
        if self.shared.committed_seq.load(Ordering::Relaxed) <= logged {
            let mut segments = self.shared.segments.lock();
            self.shared.committed.wait_for(&mut segments, due);
        }
        if going.load(Ordering::Relaxed) {
            std::thread::park_timeout(GATHER.min(due));
        }
    }

    /// Logs one batch. Whether there may be more.
    fn step(&mut self) -> Result<bool, LogError> {
        let files = self.log.files.clone();
        let segment = self.next_segment();
        let until = segment.as_ref().map_or(self.shared.settings.epoch, |segment| segment.epoch);
        self.finish_before(until)?;
        let Some(segment) = segment else {
            self.announce()?;
            self.sign(false)?;
            return Ok(false);
        };
        if self.pass_over(&segment)? {
            return Ok(true);
        }
        self.enter(&segment)?;
        let Some(place) = &mut self.place else { return Ok(false) };
        let chunk =
            Chunk::load_large(&*self.shared.files, &segment.name, place.reader.offset, segment.length)?;
        let mut frames = 0;
        while frames < BATCH_FRAMES
            && let Some((seq, event)) = place.reader.next(&chunk, segment.length)?
        {
            let mut writing = Writing { files: &*files, hasher: &mut self.hasher, shared: &self.shared };
            writing.event(&mut place.journal, seq, &event)?;
            if !matches!(event, Event::Damage(_)) {
                place.seq = seq;
            }
            frames += 1;
        }
        place.journal.sync(&*files)?;
        self.log.advance(Frontier {
            epoch: place.journal.epoch,
            segment: place.reader.segment.clone(),
            offset: place.reader.offset,
            seq: place.seq,
            size: place.journal.tree.size(),
        });
        place.journal.trim(&*files, self.log.free())?;
        self.announce()?;
        self.sign(false)?;
        Ok(true)
    }

    /// Notes what is about to be removed because the store is too large, once this start has a log.
    fn announce(&mut self) -> Result<(), LogError> {
        let current = self.shared.settings.epoch;
        let Some(place) = self.place.as_mut().filter(|place| place.journal.epoch == current) else {
            return Ok(());
        };
        let Some(wanted) = self.log.to_announce() else { return Ok(()) };
        let (files, gateway_id) = (self.log.files.clone(), &self.shared.settings.gateway_id);
        let body = size_note(wanted);
        let hash = self.hasher.note(gateway_id, current, SIZE_NOTE, &body);
        place.journal.put_note(&*files, SIZE_NOTE, &body)?;
        // It is of no frame; the last one's leaves are all there.
        let seq = place.journal.last_seq;
        place.journal.append(&*files, Entry { hash, seq, tag: Tag::OTHER })?;
        place.journal.sync(&*files)?;
        self.log.grow(current, place.journal.tree.size());
        self.log.was_announced(wanted);
        Ok(())
    }

    /// The segment that holds what comes next, if there is more.
    fn next_segment(&self) -> Option<SegmentInfo> {
        let segments = self.shared.segments.lock();
        let next = match &self.place {
            None => {
                segments.iter().find(|segment| self.passed.as_ref().is_none_or(|name| segment.name > *name))
            }
            Some(place) => {
                let (name, offset) = (&place.reader.segment, place.reader.offset);
                segments.iter().find(|segment| {
                    segment.name > *name || (segment.name == *name && segment.length > offset)
                })
            }
        };
        next.cloned()
    }

    /// Passes over a segment that has come back after its epoch was closed: its log must not begin again.
    fn pass_over(&mut self, segment: &SegmentInfo) -> Result<bool, LogError> {
        if segment.epoch == self.shared.settings.epoch
            || self.place.as_ref().is_some_and(|place| place.reader.epoch == segment.epoch)
        {
            return Ok(false);
        }
        let files = &*self.log.files;
        if !journal::is_closed(&journal::epochs(files)?, files, segment.epoch)? {
            return Ok(false);
        }
        self.passed = Some(segment.name.clone());
        let (epoch, segment, offset) = (segment.epoch, segment.name.clone(), segment.length);
        self.log.advance(Frontier { epoch, segment, offset, seq: 0, size: 0 });
        Ok(true)
    }

    fn enter(&mut self, segment: &SegmentInfo) -> Result<(), LogError> {
        match &mut self.place {
            Some(place) if place.reader.segment == segment.name => return Ok(()),
            Some(place) if place.reader.epoch == segment.epoch => {
                place.reader = Reader::new(segment);
                return Ok(());
            }
            Some(_) | None => {}
        }
        let journal = self.open(segment.epoch)?;
        self.place = Some(Place { reader: Reader::new(segment), journal, seq: 0 });
        Ok(())
    }

    /// Opens an epoch's log; its first leaf commits the last checkpoint of the epoch before.
    fn open(&mut self, epoch: u64) -> Result<Journal, LogError> {
        let files = self.log.files.clone();
        let mut journal = Journal::open(&*files, epoch)?;
        if journal.tree.size() == 0 {
            let body = self.epoch_note(epoch)?;
            let hash = self.hasher.note(&self.shared.settings.gateway_id, epoch, EPOCH_NOTE, &body);
            journal.put_note(&*files, EPOCH_NOTE, &body)?;
            journal.append(&*files, Entry { hash, seq: 0, tag: Tag::OTHER })?;
            journal.sync(&*files)?;
        }
        self.signed = None;
        Ok(journal)
    }

    /// What the first leaf says: whose log it is, under which key, and after which checkpoint.
    fn epoch_note(&self, epoch: u64) -> io::Result<String> {
        let files = &*self.log.files;
        let before = journal::epochs(files)?.into_iter().rfind(|(of, over)| *of < epoch && *over);
        let previous = match before {
            Some((before, _)) => {
                let (_, note) = journal::read_final(files, before)?;
                let note = Note::parse(&note).map_err(io::Error::other)?;
                format!("previous {before}\n{}", note.text)
            }
            None => "previous none\n".to_owned(),
        };
        let gateway_id = &self.shared.settings.gateway_id;
        let vkey = self.signing.signer.vkey();
        let keep = &self.signing.keep;
        Ok(format!(
            "doorward-log-epoch/v1\ngateway {gateway_id}\nepoch {epoch}\nkey {vkey}\n{keep}{previous}"
        ))
    }

    /// Signs the last checkpoints of epochs before `epoch` that are not over yet, oldest first.
    fn finish_before(&mut self, epoch: u64) -> Result<(), LogError> {
        let files = self.log.files.clone();
        if self.unfinished.is_none() {
            let epochs = journal::epochs(&*files)?;
            for (over, _) in epochs.iter().filter(|(_, over)| *over) {
                let (signed_us, note) = journal::read_final(&*files, *over)?;
                if let Some(size) = size_of(&note) {
                    let closed = journal::is_closed(&epochs, &*files, *over)?;
                    let edge = if closed { Vec::new() } else { self.edge_of(*over)? };
                    let kept = closed || journal::is_given_up(&*files, *over)?;
                    self.log.over(*over, SignedCheckpoint { size, signed_us, note }, edge, kept);
                }
            }
            let current = self.shared.settings.epoch;
            let open = epochs.into_iter().filter(|(of, over)| !over && *of < current).map(|(of, _)| of);
            self.unfinished = Some(open.collect());
        }
        if let Some(place) = self.place.take_if(|place| place.journal.epoch < epoch) {
            self.finish(&place.journal)?;
        }
        while let Some(first) = self.unfinished.as_ref().and_then(|open| open.first().copied())
            && first < epoch
        {
            // The files' segments may be gone already; what they held is in the log.
            let journal = Journal::open(&*files, first)?;
            if journal.tree.size() > 0 {
                self.finish(&journal)?;
            } else if let Some(open) = &mut self.unfinished {
                // It died before its first leaf was durable.
                open.remove(&first);
            }
        }
        Ok(())
    }

    fn edge_of(&self, epoch: u64) -> io::Result<Vec<Tile>> {
        Ok(Journal::open(&*self.log.files, epoch)?.tree.edge().collect())
    }

    fn finish(&mut self, journal: &Journal) -> io::Result<()> {
        let signed = self.checkpoint(journal);
        journal::put_final(
            &*self.log.files,
            journal.epoch,
            signed.checkpoint.signed_us,
            &signed.checkpoint.note,
        )?;
        self.log.over(journal.epoch, signed.checkpoint, signed.edge, false);
        if let Some(open) = &mut self.unfinished {
            open.remove(&journal.epoch);
        }
        Ok(())
    }

    /// Signs a checkpoint when it is due, or when `now` says so, and there is something new.
    fn sign(&mut self, now: bool) -> io::Result<()> {
        let Some(place) = &self.place else { return Ok(()) };
        let size = place.journal.tree.size();
        let due = match self.signed {
            None => true,
            Some((before, _)) if before == size => false,
            Some((before, at)) => {
                now || at.elapsed() >= self.signing.interval || size - before >= self.signing.count
            }
        };
        if due {
            let signed = self.checkpoint(&place.journal);
            self.signed = Some((size, Instant::now()));
            self.log.sign(signed);
        }
        Ok(())
    }

    fn checkpoint(&self, journal: &Journal) -> Signed {
        let signer = &self.signing.signer;
        let origin = origin(signer.vkey().name(), journal.epoch);
        let (size, root) = (journal.tree.size(), journal.tree.root());
        let signed_us = SystemClock.now().micros();
        // The time is signed too: whoever holds the store cannot make a checkpoint older than it is.
        let extra = journal.told(signed_us);
        let note =
            Checkpoint { origin, size, root, time_us: Some(signed_us), extra }.sign(signer).to_string();
        let checkpoint = SignedCheckpoint { size, signed_us, note };
        Signed { epoch: journal.epoch, checkpoint, edge: journal.tree.edge().collect() }
    }
}

/// For how long records of each class are kept, in microseconds, as the first leaf of an epoch says it.
pub(crate) fn keep_lines(retention: &Retention) -> String {
    let keep = |class: &str| match retention.class_us(class) {
        Some(keep_us) => format!("keep {class} {keep_us}\n"),
        None => format!("keep {class} {FOR_EVER}\n"),
    };
    CLASSES.into_iter().map(keep).collect()
}

/// What stands in the place of an age for what retention does not remove.
pub(crate) const FOR_EVER: &str = "for-ever";

/// What the note of a removal by size says.
fn size_note(TooLarge { before_us, bytes, limit }: TooLarge) -> String {
    format!("doorward-log-removal/v1\nbefore {before_us}\nbytes {bytes}\nlimit {limit}\n")
}

/// Up to when such a note says that records may have gone.
pub(crate) fn parse_size_note(body: &str) -> Option<i64> {
    let rest = body.strip_prefix("doorward-log-removal/v1\nbefore ")?;
    rest.split('\n').next()?.parse().ok()
}

/// The origin of an epoch's checkpoints.
pub(crate) fn origin(key_name: &str, epoch: u64) -> String {
    format!("{key_name}/{epoch}")
}

pub(crate) fn size_of(note: &str) -> Option<u64> {
    Some(Checkpoint::parse(&Note::parse(note).ok()?.text).ok()?.size)
}

/// What one event is written with.
struct Writing<'a> {
    files: &'a dyn crate::spool::files::Files,
    hasher: &'a mut Hasher,
    shared: &'a Shared,
}

impl Writing<'_> {
    fn event(&mut self, journal: &mut Journal, seq: u64, event: &Event<'_>) -> io::Result<()> {
        let (gateway_id, epoch) = (&*self.shared.settings.gateway_id, journal.epoch);
        if seq < journal.last_seq {
            return Ok(());
        }
        // The rows of a call that a crash cut apart: those that are durable stay.
        let there = if seq == journal.last_seq { journal.last_count } else { 0 };
        match event {
            Event::Header | Event::Intent(..) => Ok(()),
            Event::Completion(access) => self.rows(journal, seq, access, there),
            Event::Gap(_) | Event::Damage(_) if there > 0 => Ok(()),
            Event::Gap(gap) => {
                let hash = self.hasher.gap(gateway_id, epoch, seq, gap);
                journal.append(self.files, Entry { hash, seq, tag: Tag::OTHER })
            }
            Event::Damage(lost) => {
                let gap = damage(*lost);
                journal.put_note(self.files, GAP_NOTE, &gap_body(seq, &gap))?;
                let hash = self.hasher.gap(gateway_id, epoch, seq, &gap);
                journal.append(self.files, Entry { hash, seq, tag: Tag::OTHER })
            }
        }
    }

    fn rows(&mut self, journal: &mut Journal, seq: u64, access: &Access<'_>, there: usize) -> io::Result<()> {
        let (gateway_id, epoch) = (&*self.shared.settings.gateway_id, journal.epoch);
        let tag = Tag::of(access);
        for action in there..leaf::rows(access) {
            let row = RowOf { gateway_id, epoch, seq, access, action, leaf: None };
            let hash = self.hasher.row(&row);
            journal.append(self.files, Entry { hash, seq, tag })?;
        }
        Ok(())
    }
}

fn damage(lost: Option<u64>) -> Gap<'static> {
    let now = SystemClock.now().micros();
    let reason = match lost {
        Some(_) => "damaged frames in the spool",
        None => "the rest of a segment cannot be read; how many records it held is not known",
    };
    Gap { lost: lost.unwrap_or(0), from_us: now, until_us: now, reason: reason.into() }
}

/// A gap as a note keeps it.
fn gap_body(seq: u64, gap: &Gap<'_>) -> String {
    format!("{seq} {} {} {} {}", gap.lost, gap.from_us, gap.until_us, gap.reason)
}

/// Reads what a note keeps of a gap.
pub(crate) fn parse_gap(body: &str) -> Option<(u64, Gap<'static>)> {
    let mut parts = body.splitn(5, ' ');
    let seq = parts.next()?.parse().ok()?;
    let lost = parts.next()?.parse().ok()?;
    let from_us = parts.next()?.parse().ok()?;
    let until_us = parts.next()?.parse().ok()?;
    let reason = parts.next()?.to_owned().into();
    Some((seq, Gap { lost, from_us, until_us, reason }))
}

impl Final {
    /// Leaves that it counts.
    pub(crate) fn size(&self) -> u64 {
        self.checkpoint.size
    }
}
