//! Which imported records were taken already: a bounded window of their ids, over restarts.
//!
//! An importing door gives a record that can be repeated an id made of its source, key and content (a
//! UUIDv8; the gateway's own calls have UUIDv7s). The spool is the journal of these ids, and the file
//! `imports` beside its segments holds those whose segments are gone.
//!
//! Invariants: a segment is deleted only when its ids are in the file ([`Window::save`]), and a start reads
//! the file and the segments that are there, so a crash at any point forgets no id; a repeat is
//! acknowledged only when the first of its kind is durable; an id whose frame failed is forgotten. At least
//! the last [`GENERATION_MAX`] ids are known, at most twice as many.
//!
//! Constraints: a start reads every byte of the segments that wait, so at most `spool.size_max`; of them it keeps the ids
//! alone, 16 bytes each, in one segment at a time. Memory of a window is bounded by [`FILED_MAX`] ids four times over.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use doorward_core::{Durable, Import, NotDurable};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::spool::SegmentInfo;
use crate::spool::files::Files;
use crate::spool::segment::{Chunk, Cursor, Found};
use crate::wire;

/// Ids in one of the two generations that are known.
pub const GENERATION_MAX: usize = 262_144;
/// Ids in the file, and durable ones that wait to be written to it: older ones are not known any more.
const FILED_MAX: usize = 2 * GENERATION_MAX;
/// The file.
const FILE: &str = "imports";

type Id = [u8; 16];
/// How an id's frame fares: `None` while it is on its way.
type Fate = Option<Result<(), NotDurable>>;

/// The window. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Window(Arc<Shared>);

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    /// What the file holds, in order. Held while it is written: one writer at a time.
    filed: Mutex<Vec<Id>>,
}

#[derive(Default)]
struct Known {
    /// Ids with their frame on its way, or `None` when it is durable.
    young: HashMap<Id, Option<watch::Receiver<Fate>>>,
    old: HashMap<Id, Option<watch::Receiver<Fate>>>,
    /// Durable ids that are not in the file yet, in order.
    unsaved: VecDeque<Id>,
    /// How many of these were pushed out by newer ones.
    pushed_out: usize,
}

/// What the window says of an id.
pub(crate) enum Seen {
    /// It is new; the ticket goes with its frame.
    New(Ticket),
    /// It was there before.
    Before(Import),
}

/// Goes with a frame on its way. Dropped, the frame was not written.
pub(crate) struct Ticket {
    window: Window,
    id: Id,
    fate: watch::Sender<Fate>,
    kept: bool,
}

impl Ticket {
    /// The frame is durable.
    pub(crate) fn keep(mut self) {
        self.kept = true;
        self.window.settle(&self.id, true);
        self.fate.send_replace(Some(Ok(())));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.kept {
            self.window.settle(&self.id, false);
            self.fate.send_replace(Some(Err(NotDurable)));
        }
    }
}

impl Window {
    /// Reads the file, and the ids of the segments that are there.
    pub(crate) fn read<'s>(
        files: &dyn Files,
        segments: impl Iterator<Item = &'s SegmentInfo>,
    ) -> io::Result<Self> {
        let mut known = Known::default();
        let filed = file(files)?;
        for id in &filed {
            known.learn(*id);
        }
        for segment in segments {
            for id in ids(files, segment)? {
                if known.learn(id) {
                    known.file_later(id);
                }
            }
        }
        Ok(Self(Arc::new(Shared { known: Mutex::new(known), filed: Mutex::new(filed) })))
    }

    /// Notes an id; from then on its repeats are known.
    pub(crate) fn note(&self, id: Id) -> Seen {
        let mut known = self.0.known.lock();
        match known.get(&id) {
            Some(None) => Seen::Before(Import::Repeated(Box::pin(std::future::ready(Ok(()))))),
            Some(Some(fate)) => Seen::Before(Import::Repeated(wait(fate.clone()))),
            None => {
                let (fate, told) = watch::channel(None);
                known.insert(id, Some(told));
                Seen::New(Ticket { window: self.clone(), id, fate, kept: false })
            }
        }
    }

    /// Writes the ids of durable frames to the file, before a segment of theirs is deleted. Blocks.
    pub(crate) fn save(&self, files: &dyn Files) -> io::Result<()> {
        let mut filed = self.0.filed.lock();
        // Callers who note ids are not held up by the disk.
        let (unsaved, pushed_out) = {
            let known = self.0.known.lock();
            (known.unsaved.clone(), known.pushed_out)
        };
        if unsaved.is_empty() {
            return Ok(());
        }
        let surplus = (filed.len() + unsaved.len()).saturating_sub(FILED_MAX);
        let all: Vec<Id> = filed.iter().chain(&unsaved).skip(surplus).copied().collect();
        files.put(FILE, all.as_flattened())?;
        *filed = all;
        let mut known = self.0.known.lock();
        // While it was written, newer ids may have pushed some of these out of the queue.
        let left = unsaved.len().saturating_sub(known.pushed_out.wrapping_sub(pushed_out));
        known.unsaved.drain(..left);
        Ok(())
    }

    fn settle(&self, id: &Id, durable: bool) {
        let mut known = self.0.known.lock();
        if !durable {
            known.young.remove(id);
            known.old.remove(id);
            return;
        }
        if let Some(entry) = known.entry(id) {
            *entry = None;
        }
        known.file_later(*id);
    }
}

impl Known {
    fn get(&self, id: &Id) -> Option<&Option<watch::Receiver<Fate>>> {
        self.young.get(id).or_else(|| self.old.get(id))
    }

    fn entry(&mut self, id: &Id) -> Option<&mut Option<watch::Receiver<Fate>>> {
        self.young.get_mut(id).or_else(|| self.old.get_mut(id))
    }

    /// Learns of a durable id. Whether it is new.
    fn learn(&mut self, id: Id) -> bool {
        let new = self.get(&id).is_none();
        if new {
            self.insert(id, None);
        }
        new
    }

    fn file_later(&mut self, id: Id) {
        if self.unsaved.len() >= FILED_MAX {
            self.unsaved.pop_front();
            self.pushed_out = self.pushed_out.wrapping_add(1);
        }
        self.unsaved.push_back(id);
    }

    fn insert(&mut self, id: Id, fate: Option<watch::Receiver<Fate>>) {
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, fate);
    }
}

fn wait(mut fate: watch::Receiver<Fate>) -> Durable {
    Box::pin(async move {
        let told = tokio::time::timeout(crate::spool::STALL, fate.wait_for(Option::is_some)).await;
        match told {
            Ok(Ok(fate)) => fate.unwrap_or(Err(NotDurable)),
            Ok(Err(_)) | Err(_) => Err(NotDurable),
        }
    })
}

/// The ids in the file, the newest [`FILED_MAX`] of them.
fn file(files: &dyn Files) -> io::Result<Vec<Id>> {
    let Some((_, length)) = files.list()?.into_iter().find(|(name, _)| name == FILE) else {
        return Ok(Vec::new());
    };
    let size = u64::try_from(FILED_MAX * size_of::<Id>()).unwrap_or(u64::MAX);
    let bytes = files.read(FILE, length.saturating_sub(size), FILED_MAX * size_of::<Id>())?;
    Ok(bytes.as_chunks().0.to_vec())
}

/// The ids of repeatable imported records in a segment.
fn ids(files: &dyn Files, segment: &SegmentInfo) -> io::Result<Vec<Id>> {
    let mut found = Vec::new();
    let mut cursor = Cursor::default();
    while cursor.offset < segment.length {
        let chunk = Chunk::load(files, &segment.name, cursor.offset, segment.length)?;
        while cursor.offset < segment.length {
            match chunk.at(&cursor) {
                None => break,
                Some(Found::Frame { start, end, file_end }) => {
                    let payload = chunk.payload(start, end);
                    if cursor.salt.is_none()
                        && let Ok((_, wire::Frame::Header(header))) = wire::decode(payload)
                    {
                        cursor.salt = Some(header.salt);
                    }
                    cursor.next_seq = wire::seq(payload).map(|seq| seq.saturating_add(1));
                    found.extend(wire::completed_id(payload).filter(is_repeatable));
                    cursor.offset = file_end;
                }
                Some(Found::Damage { resume }) => cursor.offset = resume,
                Some(Found::Tail) => cursor.offset = segment.length,
            }
        }
    }
    Ok(found)
}

/// Ids made of content are UUIDs of version 8; the gateway's own are of version 7.
fn is_repeatable(id: &Id) -> bool {
    id[6] >> 4 == 8
}

#[cfg(test)]
mod tests;
