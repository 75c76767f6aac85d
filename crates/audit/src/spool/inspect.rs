//! Looks into a spool's directory without changing anything: what it holds, and what is damaged.
//!
//! Constraints: it reads files only, so it works beside a running gateway; what grows or goes meanwhile is
//! told as it was found. It counts frames and reads their times, and no value of a record beyond that. Memory is
//! bounded: one chunk of a segment, and [`DAMAGES_MAX`] damaged places of each.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::encryption::{Keys, missing_key};
use super::files::{Directory, Files};
use super::recovery::{self, small_files};
use super::segment::{self, Chunk, Cursor, Found};
use crate::config::SpoolEncryption;
use crate::row::Value;
use crate::wire::{self, Frame};

/// Damaged places of one segment that are told; more are counted.
pub const DAMAGES_MAX: usize = 100;

/// What a directory holds.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// The gateway whose records these are.
    pub gateway_id: Option<String>,
    /// The epoch that began last.
    pub epoch: Option<u64>,
    /// Whether a gateway has the directory locked.
    pub in_use: bool,
    /// Segments, oldest first.
    pub segments: Vec<Segment>,
    /// Files that were set aside: name and bytes.
    pub set_aside: Vec<(String, u64)>,
}

/// One segment.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    /// Its file.
    pub name: String,
    /// The gateway's start that wrote it.
    pub epoch: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes up to the end of the last good frame.
    pub good_bytes: u64,
    /// Good frames by kind.
    pub frames: Frames,
    /// The first good frame's number.
    pub first_seq: Option<u64>,
    /// The last good frame's number.
    pub last_seq: Option<u64>,
    /// When the oldest record was made, microseconds since 1970.
    pub oldest_us: Option<i64>,
    /// When the newest record was made.
    pub newest_us: Option<i64>,
    /// Completions that the store does not have; `None` when the store was not asked or cannot be.
    pub unshipped: Option<u64>,
    /// Damaged places, the first [`DAMAGES_MAX`] of them.
    pub damage: Vec<Damage>,
    /// All damaged places.
    pub damaged_places: u64,
    /// Bytes behind the last good frame that are not blank: a torn end, which was never reported as durable, or
    /// damage.
    pub torn_bytes: u64,
    /// It is whole, and was written by a newer version.
    pub newer: bool,
    /// Which spool key its frames are encrypted under; `None` when they are not.
    pub encrypted: Option<String>,
    /// It is encrypted under a key that was not given, so nothing behind its header is told.
    pub closed: bool,
}

/// Good frames by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// What segments say of themselves.
    pub headers: u64,
    /// What would be done.
    pub intents: u64,
    /// What was done, or refused.
    pub completions: u64,
    /// Records that could not be kept.
    pub gaps: u64,
}

impl Frames {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.headers + self.intents + self.completions + self.gaps
    }
}

/// A damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Bytes before it.
    pub from: u64,
    /// Bytes before the next good frame.
    pub until: u64,
    /// Frames that are gone.
    pub frames: u64,
}

/// Answers which frame of an epoch is the last in the store, if it can be told.
pub type Shipped<'a> = &'a mut dyn FnMut(&str, u64) -> Option<u64>;

impl Inspection {
    /// Whether something is damaged.
    pub fn is_damaged(&self) -> bool {
        self.segments.iter().any(Segment::is_damaged)
    }

    /// Whether something could not be looked into for want of its key.
    pub fn is_closed(&self) -> bool {
        self.segments.iter().any(|segment| segment.closed)
    }

    /// Completions that the store does not have, as far as it could be asked.
    pub fn unshipped(&self) -> Option<u64> {
        self.segments.iter().map(|segment| segment.unshipped).sum()
    }
}

impl Segment {
    /// Whether something is damaged. A torn end is none in the last segment of an epoch, which inspection
    /// sees to.
    pub fn is_damaged(&self) -> bool {
        self.damaged_places > 0 || (self.good_bytes == 0 && self.torn_bytes > 0)
    }
}

/// Looks into a spool's directory, under the configured keys. A segment whose key is not among them is told as closed.
///
/// # Errors
/// When it cannot be read, or a key that is configured.
pub fn inspect(
    dir: &Path,
    encryption: Option<&SpoolEncryption>,
    shipped: Shipped<'_>,
) -> io::Result<Inspection> {
    let keys = Keys::read(encryption).map_err(io::Error::other)?;
    if !dir.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such directory"));
    }
    let in_use = crate::is_locked(dir);
    let mut inspection = look(&Directory::existing(dir).with_keys(keys), shipped)?;
    inspection.in_use = in_use;
    Ok(inspection)
}

pub(crate) fn look(files: &dyn Files, shipped: Shipped<'_>) -> io::Result<Inspection> {
    let listed = files.list()?;
    let (gateway_id, epoch) = small_files(files, &listed)?;
    let mut inspection = Inspection { gateway_id, epoch, ..Inspection::default() };
    for (name, bytes) in &listed {
        if name.ends_with(segment::BAD) || name.ends_with(segment::DAMAGED) {
            inspection.set_aside.push((name.clone(), *bytes));
        }
    }
    inspection.set_aside.sort();
    let mut high_waters = BTreeMap::new();
    let found = recovery::named_segments(&listed);
    for (index, (epoch, _, name, bytes)) in found.iter().enumerate() {
        let high_water = *high_waters
            .entry(*epoch)
            .or_insert_with(|| shipped(inspection.gateway_id.as_deref().unwrap_or_default(), *epoch));
        let last = found.get(index + 1).is_none_or(|next| next.0 != *epoch);
        match walk(files, name, *bytes, high_water, &mut |_| Ok(())) {
            Ok(mut segment) => {
                segment.epoch = *epoch;
                if !last && segment.torn_bytes > 0 {
                    segment.damaged_places += 1;
                }
                inspection.segments.push(segment);
            }
            // Shipped and deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let Some(missing) = missing_key(&error) else { return Err(error) };
                let encrypted = Some(missing.key_id.clone());
                let (name, epoch, bytes) = (name.clone(), *epoch, *bytes);
                let closed = Segment { name, epoch, bytes, encrypted, closed: true, ..Segment::default() };
                inspection.segments.push(closed);
            }
        }
    }
    Ok(inspection)
}

/// What a walk meets, in order.
pub(crate) enum Met<'a> {
    /// A good frame: its bytes with length and checksum, and its payload, opened.
    Frame { bytes: &'a [u8], payload: &'a [u8] },
    /// Bytes between two good frames.
    Damage(Damage),
}

/// Walks through a segment from its start to its end.
pub(crate) fn walk(
    files: &dyn Files,
    name: &str,
    bytes: u64,
    high_water: Option<u64>,
    meet: &mut dyn FnMut(Met<'_>) -> io::Result<()>,
) -> io::Result<Segment> {
    let mut segment = Segment { name: name.to_owned(), bytes, ..Segment::default() };
    segment.unshipped = high_water.map(|_| 0);
    let mut walk = Walk { cursor: Cursor::default(), ts: None, broken_from: None };
    let mut chunk = Chunk::load(files, name, 0, bytes)?;
    loop {
        match chunk.at(&walk.cursor) {
            None => chunk = Chunk::load(files, name, walk.cursor.offset, bytes)?,
            Some(Found::Tail) => break,
            Some(Found::Damage { resume }) => {
                walk.broken_from.get_or_insert(walk.cursor.offset);
                walk.cursor.offset = resume;
            }
            Some(Found::Frame { start, end, file_end }) => {
                let payload = chunk.payload(start, end);
                let Some(seq) = walk.count(payload, high_water, &mut segment) else {
                    segment.newer = true;
                    segment.good_bytes = bytes;
                    return Ok(segment);
                };
                if let Some(damage) = walk.damage(seq, &mut segment) {
                    meet(Met::Damage(damage))?;
                }
                meet(Met::Frame { bytes: chunk.frame(start, end), payload })?;
                (walk.cursor.offset, walk.cursor.next_seq) = (file_end, Some(seq.saturating_add(1)));
                segment.good_bytes = file_end;
            }
        }
    }
    let written = segment::written_end(files, name, bytes)?;
    segment.torn_bytes = written.saturating_sub(segment.good_bytes);
    Ok(segment)
}

struct Walk {
    cursor: Cursor,
    /// Where a record's time is among its values.
    ts: Option<usize>,
    /// Where the damage began that is being passed.
    broken_from: Option<u64>,
}

impl Walk {
    /// Counts a frame; `None` when it is of a format that we do not know.
    fn count(&mut self, payload: &[u8], high_water: Option<u64>, segment: &mut Segment) -> Option<u64> {
        let (seq, frame) = wire::decode(payload).ok()?;
        segment.first_seq.get_or_insert(seq);
        segment.last_seq = Some(seq);
        match frame {
            Frame::Header(header) => {
                self.cursor.salt = Some(header.salt);
                self.ts = header.columns.iter().position(|name| name == "ts");
                segment.encrypted = header.encryption.map(|encryption| encryption.key_id.into_owned());
                segment.frames.headers += 1;
            }
            Frame::Gap(_) => segment.frames.gaps += 1,
            Frame::Intent(access) => {
                segment.frames.intents += 1;
                self.time(&access.values, segment);
            }
            Frame::Completion(access) => {
                segment.frames.completions += 1;
                self.time(&access.values, segment);
                if let (Some(unshipped), Some(high_water)) = (&mut segment.unshipped, high_water)
                    && seq > high_water
                {
                    *unshipped += 1;
                }
            }
        }
        Some(seq)
    }

    fn time(&self, values: &[Value<'_>], segment: &mut Segment) {
        if let Some(Value::Int(ts)) = self.ts.and_then(|place| values.get(place)) {
            segment.oldest_us = Some(segment.oldest_us.map_or(*ts, |oldest| oldest.min(*ts)));
            segment.newest_us = Some(segment.newest_us.map_or(*ts, |newest| newest.max(*ts)));
        }
    }

    /// The damage before this good frame, if there is any.
    fn damage(&mut self, seq: u64, segment: &mut Segment) -> Option<Damage> {
        let from = self.broken_from.take()?;
        let frames = self.cursor.next_seq.map_or(0, |expected| seq.saturating_sub(expected));
        let damage = Damage { from, until: self.cursor.offset, frames };
        segment.damaged_places += 1;
        if segment.damage.len() < DAMAGES_MAX {
            segment.damage.push(damage);
        }
        Some(damage)
    }
}
