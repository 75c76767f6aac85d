//! One batch, while it is read from a chunk of the spool and matched with the log.

use std::collections::{BTreeSet, HashMap, HashSet};

use doorward_core::Outcome;
use doorward_tlog::Hash;
use uuid::Uuid;

use super::{BATCH_RECORDS, Place, ShipError};
use crate::columns::CALL_COLUMNS;
use crate::leaf;
use crate::log::journal::{self, Entry};
use crate::log::logger::{GAP_NOTE, parse_gap};
use crate::log::{Leaves, Log};
use crate::row::Value;
use crate::spool::reader::{Event, Reader};
use crate::spool::segment::Chunk;
use crate::store::{Batch, HighWater, LogNote, LoggedGap, OpenIntent, Record};
use crate::wire::{Access, Gap};

/// What the log has of a frame.
enum Logged {
    /// Its leaves, from this place on.
    At(u64, Vec<Hash>),
    /// Nothing, because the log's files are gone: the record comes without, and `audit verify` says so.
    Without,
    /// Nothing, because nobody was told that the frame is durable: it was found after a write that failed.
    Never,
}

/// A batch that grows.
pub(super) struct Reading<'a, 'p> {
    log: &'a Log,
    chunk: &'a Chunk,
    reader: Reader,
    leaves: Leaves<'a>,
    /// Places of leaves that stand for no frame.
    notes: BTreeSet<u64>,
    batch: Batch<'a>,
    open_before: &'p HashSet<Uuid>,
    open_now: HashMap<Uuid, OpenIntent>,
    high_water: u64,
    damaged: u64,
}

impl<'a, 'p> Reading<'a, 'p> {
    pub(super) fn new(
        place: &'p Place,
        log: &'a Log,
        chunk: &'a Chunk,
        gateway_id: &'a str,
    ) -> Result<Self, ShipError> {
        let epoch = place.reader.epoch;
        Ok(Self {
            log,
            chunk,
            reader: place.reader.clone(),
            leaves: Leaves::new(log, epoch, place.high_water.next_leaf),
            notes: journal::notes(&*log.files, epoch)?.into_iter().collect(),
            batch: Batch { gateway_id, epoch, ..Batch::default() },
            open_before: &place.open,
            open_now: HashMap::new(),
            high_water: place.high_water.last_seq,
            damaged: 0,
        })
    }

    /// Reads up to `limit` records of the first `length` bytes of the segment, which the log has; so many frames of
    /// any kind, when it is less than usual, because the store refuses one of them.
    pub(super) fn read(&mut self, length: u64, limit: usize) -> Result<(), ShipError> {
        while self.read_so_far(limit) < limit
            && let Some((seq, event)) = self.reader.next(self.chunk, length)?
        {
            match event {
                Event::Damage(_) if seq > self.high_water => self.damaged += 1,
                Event::Damage(_) => {}
                _ if seq <= self.high_water => {}
                event => {
                    self.frame(seq, event)?;
                    self.batch.to_seq = seq;
                    self.batch.frames += 1;
                }
            }
        }
        self.notes_from_here()
    }

    fn read_so_far(&self, limit: usize) -> usize {
        if limit < BATCH_RECORDS { self.batch.frames } else { self.batch.records.len() }
    }

    /// The batch, and where the reader stands after it.
    pub(super) fn finish(mut self, from: HighWater) -> Result<(Reader, u64, Batch<'a>), ShipError> {
        self.batch.from_seq = from.last_seq;
        self.batch.to_seq = self.batch.to_seq.max(from.last_seq);
        self.batch.leaf_from = from.next_leaf;
        self.batch.leaf_to = self.leaves.next();
        self.batch.opened = self.open_now.into_values().collect();
        Ok((self.reader, self.damaged, self.batch))
    }

    fn frame(&mut self, seq: u64, event: Event<'a>) -> Result<(), ShipError> {
        match event {
            Event::Header | Event::Damage(_) => {}
            Event::Intent(access, payload) => {
                let access_id = access.access_id;
                let columns = self.reader.column_names.clone();
                let intent = OpenIntent { seq, access_id, payload: payload.to_vec(), columns };
                self.open_now.insert(access_id, intent);
            }
            Event::Completion(access) => {
                let (log_index, leaf_hashes) = match self.leaves_of(seq, leaf::rows(&access))? {
                    Logged::At(index, hashes) => (index, hashes),
                    Logged::Without => (0, Vec::new()),
                    Logged::Never => return Ok(()),
                };
                let access_id = access.access_id;
                let open =
                    self.open_now.remove(&access_id).is_none() && self.open_before.contains(&access_id);
                // An unknown outcome closes an intent of an earlier epoch.
                if open || is_unknown(&access) {
                    self.batch.closed.push(access_id);
                }
                self.batch.records.push(Record { seq, access, log_index, leaf_hashes });
            }
            Event::Gap(gap) => {
                let leaf = match self.leaves_of(seq, 1)? {
                    Logged::At(index, hashes) => hashes.first().map(|hash| (index, *hash)),
                    Logged::Without => None,
                    Logged::Never => return Ok(()),
                };
                self.batch.gaps.push(LoggedGap { seq, gap, leaf });
            }
        }
        Ok(())
    }

    /// The leaves that the log has of a frame.
    fn leaves_of(&mut self, seq: u64, rows: usize) -> Result<Logged, ShipError> {
        let mut orphans = 0;
        let first = loop {
            let Some(entry) = self.leaves.peek()? else { break None };
            let index = self.leaves.next();
            if self.notes.contains(&index) {
                self.note(index, entry)?;
            } else if entry.seq < seq {
                orphans += 1;
            } else {
                break Some(entry);
            }
            self.leaves.skip();
        };
        if orphans > 0 {
            self.lost_since(seq, orphans);
        }
        match first {
            None => {
                tracing::error!(seq, "the log has no leaf of a record: it comes to the store without one");
                return Ok(Logged::Without);
            }
            Some(entry) if entry.seq > seq => {
                tracing::warn!(seq, "a record that was never told to be durable is left out");
                return Ok(Logged::Never);
            }
            Some(_) => {}
        }
        let index = self.leaves.next();
        let mut hashes = Vec::with_capacity(rows);
        while hashes.len() < rows
            && let Some(entry) = self.leaves.peek()?
            && entry.seq == seq
        {
            hashes.push(entry.hash);
            self.leaves.skip();
        }
        Ok(Logged::At(index, hashes))
    }

    /// Leaves that stand for no frame and come next.
    fn notes_from_here(&mut self) -> Result<(), ShipError> {
        while self.notes.contains(&self.leaves.next())
            && let Some(entry) = self.leaves.peek()?
        {
            self.note(self.leaves.next(), entry)?;
            self.leaves.skip();
        }
        Ok(())
    }

    fn note(&mut self, index: u64, entry: Entry) -> Result<(), ShipError> {
        put_note(self.log, &mut self.batch, index, entry)
    }

    /// Frames were lost after they were logged: their leaves stay, and nothing is there to show for them.
    fn lost_since(&mut self, seq: u64, lost: u64) {
        self.damaged += 1;
        let now = doorward_core::Clock::now(&doorward_core::SystemClock).micros();
        let reason = "rows that the log has are gone from the spool or the store".into();
        let gap = Gap { lost, from_us: now, until_us: now, reason };
        self.batch.gaps.push(LoggedGap { seq, gap, leaf: None });
    }
}

fn put_note(log: &Log, batch: &mut Batch<'_>, index: u64, entry: Entry) -> Result<(), ShipError> {
    let (kind, body) = journal::read_note(&*log.files, batch.epoch, index)?;
    match parse_gap(&body).filter(|_| kind == GAP_NOTE) {
        Some((seq, gap)) => batch.gaps.push(LoggedGap { seq, gap, leaf: Some((index, entry.hash)) }),
        None => batch.notes.push(LogNote { index, kind, body, leaf_hash: entry.hash }),
    }
    Ok(())
}

/// Adds what the log of an epoch that is over says about itself after the last frame.
pub(super) fn last_notes(log: &Log, batch: &mut Batch<'_>) -> Result<(), ShipError> {
    let notes: BTreeSet<u64> = journal::notes(&*log.files, batch.epoch)?.into_iter().collect();
    let mut leaves = Leaves::new(log, batch.epoch, batch.leaf_to);
    while notes.contains(&leaves.next())
        && let Some(entry) = leaves.peek()?
    {
        put_note(log, batch, leaves.next(), entry)?;
        leaves.skip();
    }
    batch.leaf_to = leaves.next();
    Ok(())
}

fn is_unknown(access: &Access<'_>) -> bool {
    let place = CALL_COLUMNS.iter().position(|(name, _)| *name == "outcome");
    let outcome = place.and_then(|place| access.values.get(place));
    matches!(outcome, Some(Value::Text(outcome)) if outcome == Outcome::Unknown.as_str())
}
