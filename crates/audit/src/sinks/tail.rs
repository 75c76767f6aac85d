//! Follows the spool's durable frames for one sink, through the spool's own segments and those retained for
//! sinks.
//!
//! Invariants: frames come in order; where some are missing an [`Entry::Gap`] stands for them; a position that
//! was kept leads to the same next frame after a restart.

use std::io;
use std::sync::Arc;

use doorward_tlog::Hash;
use serde_json::{Map, Value as Json};

use super::config::PersonalValues;
use super::retained::Retained;
use super::row;
use crate::leaf::Hasher;
use crate::spool::Shared;
use crate::spool::reader::{column_map, in_our_columns};
use crate::spool::segment::{Chunk, Cursor, Found, parse_name};
use crate::wire::{self, Frame};

/// One thing that a sink is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    /// A row of the timeline.
    Row(Map<String, Json>),
    /// Records that this sink does not get, or that nobody has.
    Gap(GapEntry),
}

/// Records that are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GapEntry {
    pub(crate) gateway_id: Arc<str>,
    pub(crate) epoch: u64,
    /// The first frame that is missing.
    pub(crate) seq: u64,
    /// How many frames or records; `None` when that is not known.
    pub(crate) lost: Option<u64>,
    pub(crate) at_us: i64,
    pub(crate) reason: String,
    /// When the first of them was, and the leaf, of a gap that is in the log; what this sink alone does not get has none.
    pub(crate) logged: Option<(i64, Hash)>,
}

/// How far a sink has come; the text form is kept in its cursor file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// The segment; empty before the first.
    pub(crate) segment: String,
    offset: u64,
    next_seq: u64,
    /// Whether the segment has nothing more.
    finished: bool,
}

impl Position {
    /// Reads the text form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let segment = words.next()?.to_owned();
        parse_name(&segment)?;
        let (offset, next_seq) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let finished = words.next()? == "finished";
        Some(Self { segment, offset, next_seq, finished })
    }

    /// The beginning of the segment that this is in.
    pub(crate) fn beginning(&self) -> Self {
        let next_seq = parse_name(&self.segment).map_or(0, |(_, first_seq)| first_seq);
        Self { segment: self.segment.clone(), offset: 0, next_seq, finished: false }
    }

    /// The text form.
    pub(crate) fn text(&self) -> String {
        let finished = if self.finished { "finished" } else { "open" };
        format!("{} {} {} {finished}\n", self.segment, self.offset, self.next_seq)
    }
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry>,
    /// Whether a segment ended behind the last entry.
    pub(crate) segment_ended: bool,
}

/// Where a segment is.
struct Place {
    name: String,
    /// As the spool's directory sees it.
    path: String,
    length: u64,
    sealed: bool,
}

/// Follows the frames.
pub(crate) struct Tail {
    shared: Arc<Shared>,
    retained: Arc<Retained>,
    personal: PersonalValues,
    position: Position,
    /// The segment's salt and columns, once its header was read.
    header: Option<(u64, Vec<Option<usize>>)>,
}

impl Tail {
    pub(crate) fn new(
        shared: Arc<Shared>,
        retained: Arc<Retained>,
        personal: PersonalValues,
        position: Position,
    ) -> Self {
        Self { shared, retained, personal, position, header: None }
    }

    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// Goes back to a position that was kept.
    pub(crate) fn rewind(&mut self, position: &Position) {
        if self.position.segment != position.segment || position.offset == 0 {
            self.header = None;
        }
        self.position = position.clone();
    }

    /// Bytes that are durable and not read yet.
    pub(crate) fn lag(shared: &Shared, retained: &Retained, position: &Position) -> u64 {
        let segments = shared.segments.lock();
        let own = segments.iter().filter(|segment| segment.name >= position.segment);
        let own: u64 = own.map(|segment| segment.length).sum();
        let there = segments.iter().any(|segment| segment.name == position.segment);
        drop(segments);
        // Of a segment that is gone nothing is counted, so nothing is taken off either.
        let done = if there || retained.has(&position.segment) { position.offset } else { 0 };
        own.saturating_add(retained.bytes_from(&position.segment)).saturating_sub(done)
    }

    /// The next entries, about `max` of them; none when all that is durable was read.
    pub(crate) fn next(&mut self, max: usize) -> io::Result<Batch> {
        let mut batch = Batch::default();
        loop {
            let Some(place) = self.place() else { return Ok(batch) };
            if place.name != self.position.segment {
                self.enter(&place, &mut batch);
            }
            if self.position.offset >= place.length {
                if place.sealed && !self.position.finished {
                    self.position.finished = true;
                    batch.segment_ended = true;
                }
                return Ok(batch);
            }
            match self.read(&place, max, &mut batch) {
                // The shipper has just moved it.
                Err(error) if error.kind() == io::ErrorKind::NotFound && batch.entries.is_empty() => {
                    if self.place().is_some_and(|now| now.path == place.path) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
                Ok(()) if batch.entries.is_empty() => {}
                Ok(()) => return Ok(batch),
            }
        }
    }

    /// The segment that the position is in, or the next one when there is nothing more in it.
    fn place(&self) -> Option<Place> {
        let wanted = |name: &str| match self.position.finished {
            true => *name > *self.position.segment,
            false => *name >= *self.position.segment,
        };
        let from = match self.position.finished {
            // The first name after this one.
            true => format!("{}\0", self.position.segment),
            false => self.position.segment.clone(),
        };
        // The spool first: a segment is in the folder before it leaves the spool's list.
        let segments = self.shared.segments.lock();
        let own = segments.iter().find(|segment| wanted(&segment.name)).map(|segment| Place {
            name: segment.name.clone(),
            path: segment.name.clone(),
            length: segment.length,
            sealed: segment.sealed,
        });
        drop(segments);
        let retained = self.retained.first_from(&from).map(|(name, length)| Place {
            path: Retained::path(&name),
            name,
            length,
            sealed: true,
        });
        match (retained, own) {
            (Some(retained), Some(own)) if own.name < retained.name => Some(own),
            (Some(retained), _) => Some(retained),
            (None, own) => own,
        }
    }

    /// Begins a segment, and says what lies between it and the last one.
    fn enter(&mut self, place: &Place, batch: &mut Batch) {
        let (epoch, first_seq) = parse_name(&place.name).unwrap_or_default();
        if let Some((old_epoch, _)) = parse_name(&self.position.segment) {
            let missing = match (epoch == old_epoch, self.position.finished) {
                (true, _) if first_seq > self.position.next_seq => {
                    Some((self.position.next_seq, Some(first_seq - self.position.next_seq)))
                }
                (true, _) => None,
                // The rest of an epoch is gone.
                (false, false) => Some((self.position.next_seq, None)),
                // Each epoch begins with frame 1.
                (false, true) if first_seq > 1 => Some((1, Some(first_seq - 1))),
                (false, true) => None,
            };
            if let Some((seq, lost)) = missing {
                let epoch = if epoch == old_epoch || lost.is_none() { old_epoch } else { epoch };
                self.gap(batch, epoch, seq, lost, "the sink was too far behind: `lag_max` was reached");
            }
        }
        let segment = place.name.clone();
        self.position = Position { segment, offset: 0, next_seq: first_seq, finished: false };
        self.header = None;
    }

    fn gap(&self, batch: &mut Batch, epoch: u64, seq: u64, lost: Option<u64>, reason: &str) {
        batch.entries.push(Entry::Gap(GapEntry {
            gateway_id: self.shared.settings.gateway_id.clone(),
            epoch,
            seq,
            lost,
            at_us: doorward_core::Clock::now(&doorward_core::SystemClock).micros(),
            reason: reason.to_owned(),
            logged: None,
        }));
    }

    /// Reads frames of one chunk.
    fn read(&mut self, place: &Place, max: usize, batch: &mut Batch) -> io::Result<()> {
        let files = self.shared.files.clone();
        if self.header.is_none() && self.position.offset > 0 {
            self.read_header(place)?;
        }
        let chunk = Chunk::load(&*files, &place.path, self.position.offset, place.length)?;
        let epoch = parse_name(&place.name).map_or(0, |(epoch, _)| epoch);
        while batch.entries.len() < max && self.position.offset < place.length {
            let cursor = Cursor {
                offset: self.position.offset,
                next_seq: Some(self.position.next_seq),
                salt: self.header.as_ref().map(|(salt, _)| *salt),
            };
            match chunk.at(&cursor) {
                None => return Ok(()),
                // The number of the next good frame tells how many are gone.
                Some(Found::Damage { resume }) => self.position.offset = resume,
                Some(Found::Tail) => {
                    let rest = usize::try_from(place.length - self.position.offset).unwrap_or(usize::MAX);
                    let rest = files.read(&place.path, self.position.offset, rest.min(wire::PAYLOAD_MAX))?;
                    if rest.iter().any(|byte| *byte != 0) {
                        let reason = "the rest of a segment cannot be read";
                        self.gap(batch, epoch, self.position.next_seq, None, reason);
                    }
                    self.position.offset = place.length;
                }
                Some(Found::Frame { start, end, file_end }) => {
                    let payload = chunk.payload(start, end);
                    self.frame(payload, epoch, place, batch)?;
                    self.position.offset = file_end;
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, payload: &[u8], epoch: u64, place: &Place, batch: &mut Batch) -> io::Result<()> {
        let newer = || io::Error::other(format!("segment {} was written by a newer version", place.name));
        let (seq, frame) = wire::decode(payload).map_err(|_| newer())?;
        if seq > self.position.next_seq {
            let lost = seq - self.position.next_seq;
            self.gap(batch, epoch, self.position.next_seq, Some(lost), "damaged frames in the spool");
        }
        self.position.next_seq = seq.saturating_add(1);
        match frame {
            Frame::Header(header) => {
                let columns = column_map(header.columns.iter().map(|name| &**name)).ok_or_else(newer)?;
                self.header = Some((header.salt, columns));
            }
            Frame::Completion(access) => {
                let columns = self.header.as_ref().map(|(_, columns)| &**columns).unwrap_or_default();
                let access = in_our_columns(access, columns);
                let gateway_id = &self.shared.settings.gateway_id;
                let rows = row::rows(gateway_id, epoch, seq, &access, self.personal);
                batch.entries.extend(rows.map(Entry::Row));
            }
            Frame::Gap(gap) => {
                let gateway_id = self.shared.settings.gateway_id.clone();
                let leaf = Hasher::default().gap(&gateway_id, epoch, seq, &gap);
                let (lost, at_us, logged) = (Some(gap.lost), gap.until_us, Some((gap.from_us, leaf)));
                let reason = gap.reason.into_owned();
                batch.entries.push(Entry::Gap(GapEntry {
                    gateway_id,
                    epoch,
                    seq,
                    lost,
                    at_us,
                    reason,
                    logged,
                }));
            }
            // An intent is told when its call has ended.
            _ => {}
        }
        Ok(())
    }

    fn read_header(&mut self, place: &Place) -> io::Result<()> {
        let chunk = Chunk::load(&*self.shared.files, &place.path, 0, place.length)?;
        let unreadable = || io::Error::other(format!("the header of segment {} cannot be read", place.name));
        let Some(Found::Frame { start, end, .. }) = chunk.at(&Cursor::default()) else {
            return Err(unreadable());
        };
        match wire::decode(chunk.payload(start, end)) {
            Ok((_, Frame::Header(header))) => {
                let columns = column_map(header.columns.iter().map(|name| &**name)).ok_or_else(unreadable)?;
                self.header = Some((header.salt, columns));
                Ok(())
            }
            _ => Err(unreadable()),
        }
    }
}
