//! The log of one epoch on disk.
//!
//! ```text
//! EPOCH-START.leaves   entries of 44 bytes: leaf hash, frame's number in 7 bytes LE, what it adds to the counts in
//!                      one, crc32c u32 LE over place and entry
//! EPOCH-PLACE.note     what a leaf says that stands for no frame: kind, newline, text
//! EPOCH-LEVEL-INDEX.tile   full tiles of level 1 and up
//! EPOCH.tree           the tree at the start of the newest leaves file, the counts, and the last frame before it
//! EPOCH.final          the last checkpoint, when the epoch is over
//! ```
//!
//! Constraints: appended, never changed; after a crash the torn end is cut and made again from the spool's frames,
//! which are kept until their leaves are durable. A leaves file holds [`LEAVES_PER_FILE`] entries, so that what the
//! store and the places outside have can go while the epoch lasts.

use std::collections::BTreeSet;
use std::io;

use doorward_core::{Clock, SystemClock};
use doorward_tlog::tile::{TILE, Tile};
use doorward_tlog::tree::Tree;
use doorward_tlog::{Hash, tile};

use super::tally::{Tag, Tally};
use crate::spool::files::{Appender, Files};

/// Entries of one leaves file; whole tiles of level 1.
pub(crate) const LEAVES_PER_FILE: u64 = 65_536;
/// What the line of the last leaf's time begins with; it is there when that was so long before the signature.
pub(crate) const LOGGED: &str = "logged ";
const LOGGED_BEFORE_US: i64 = 60 * 1_000_000;
/// Bytes of an entry.
const ENTRY: usize = 44;
/// The most bytes of a note or a tree.
const SMALL_MAX: usize = 256 << 10;

/// A leaf, and the frame that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) hash: Hash,
    pub(crate) seq: u64,
    pub(crate) tag: Tag,
}

impl Entry {
    /// The frame's number and the tag, as they are kept.
    fn packed(&self) -> u64 {
        (self.seq & SEQ_MAX) | (u64::from(self.tag.byte()) << SEQ_BITS)
    }
}

/// Bits of a frame's number: at a million frames a second, they last for two thousand years.
const SEQ_BITS: u32 = 56;
const SEQ_MAX: u64 = (1 << SEQ_BITS) - 1;
/// What stands behind the counts in a tree's file; files of before have none.
const COUNTED: &[u8; 8] = b"DWtally1";

fn leaves_name(epoch: u64, start: u64) -> String {
    format!("{epoch:016x}-{start:016x}.leaves")
}

fn note_name(epoch: u64, index: u64) -> String {
    format!("{epoch:016x}-{index:016x}.note")
}

fn tile_name(epoch: u64, level: u8, index: u64) -> String {
    format!("{epoch:016x}-{level}-{index:016x}.tile")
}

fn tree_name(epoch: u64) -> String {
    format!("{epoch:016x}.tree")
}

fn final_name(epoch: u64) -> String {
    format!("{epoch:016x}.final")
}

/// The epoch of one of the log's files.
pub(crate) fn epoch_of(name: &str) -> Option<u64> {
    let (stem, kind) = name.rsplit_once('.')?;
    if !["leaves", "note", "tile", "tree", "final", "given-up"].contains(&kind) {
        return None;
    }
    let (epoch, rest) = stem.split_at_checked(16)?;
    (rest.is_empty() || rest.starts_with('-')).then(|| u64::from_str_radix(epoch, 16).ok()).flatten()
}

/// Epochs that have a log here, oldest first: whether each is over.
pub(crate) fn epochs(files: &dyn Files) -> io::Result<Vec<(u64, bool)>> {
    let listed = files.list()?;
    let mut epochs: Vec<u64> = listed.iter().filter_map(|(name, _)| epoch_of(name)).collect();
    epochs.sort_unstable();
    epochs.dedup();
    let over = |epoch: u64| listed.iter().any(|(name, _)| *name == final_name(epoch));
    let begun = |epoch: u64| {
        listed.iter().any(|(name, _)| *name == leaves_name(epoch, 0) || *name == tree_name(epoch))
    };
    Ok(epochs
        .into_iter()
        .filter(|epoch| begun(*epoch) || over(*epoch))
        .map(|epoch| (epoch, over(epoch)))
        .collect())
}

/// Whether an epoch is over, and its log was removed because the store and the places outside have it. A segment
/// of it may come back when power fails just after its removal.
pub(crate) fn is_closed(epochs: &[(u64, bool)], files: &dyn Files, epoch: u64) -> io::Result<bool> {
    let newest = epochs.iter().rfind(|(_, over)| *over).map(|(of, _)| *of);
    let begins = format!("{epoch:016x}");
    let here =
        |name: &str| name.starts_with(&begins) && (name.ends_with(".leaves") || name.ends_with(".tree"));
    Ok(newest.is_some_and(|newest| epoch <= newest) && !files.list()?.iter().any(|(name, _)| here(name)))
}

fn given_up_name(epoch: u64) -> String {
    format!("{epoch:016x}.given-up")
}

/// Gives an epoch up towards the places outside; the mark goes with its files.
pub(crate) fn give_up(files: &dyn Files, epoch: u64) -> io::Result<()> {
    files.put(&given_up_name(epoch), b"")
}

/// Whether an epoch was given up.
pub(crate) fn is_given_up(files: &dyn Files, epoch: u64) -> io::Result<bool> {
    match files.read(&given_up_name(epoch), 0, 1) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Keeps the last checkpoint of an epoch.
pub(crate) fn put_final(files: &dyn Files, epoch: u64, signed_us: i64, note: &str) -> io::Result<()> {
    files.put(&final_name(epoch), format!("{signed_us}\n{note}").as_bytes())
}

/// The last checkpoint of an epoch: when it was signed, and the note.
pub(crate) fn read_final(files: &dyn Files, epoch: u64) -> io::Result<(i64, String)> {
    let text = text(files, &final_name(epoch))?;
    let (signed_us, note) = text.split_once('\n').ok_or_else(|| bad(&final_name(epoch)))?;
    Ok((signed_us.parse().map_err(|_| bad(&final_name(epoch)))?, note.to_owned()))
}

/// Removes the files of an epoch that is over. Its last checkpoint stays while no later epoch is over, because
/// the next one commits it.
pub(crate) fn remove_epoch(files: &dyn Files, epoch: u64) -> io::Result<()> {
    let listed = files.list()?;
    let mut finals = Vec::new();
    let mut kept = BTreeSet::new();
    for (name, _) in &listed {
        match epoch_of(name) {
            Some(of) if name.ends_with(".final") => finals.push(of),
            Some(of) if of == epoch => files.remove(name)?,
            Some(of) => drop(kept.insert(of)),
            None => {}
        }
    }
    let newest = finals.iter().max().copied();
    for of in finals.into_iter().filter(|of| Some(*of) != newest && !kept.contains(of)) {
        files.remove(&final_name(of))?;
    }
    Ok(())
}

/// Entries from `from` on, as many as there are in one leaves file, up to `max`.
pub(crate) fn read(files: &dyn Files, epoch: u64, from: u64, max: usize) -> io::Result<Vec<Entry>> {
    let start = from / LEAVES_PER_FILE * LEAVES_PER_FILE;
    let offset = (from - start) * ENTRY as u64;
    let bytes = match files.read(&leaves_name(epoch, start), offset, max.saturating_mul(ENTRY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    Ok(decode(&bytes, from))
}

/// Entries up to the first that is torn.
fn decode(bytes: &[u8], from: u64) -> Vec<Entry> {
    let (entries, _) = bytes.as_chunks::<ENTRY>();
    let good = |(place, bytes): (u64, &[u8; ENTRY])| {
        let (entry, crc) = bytes.split_last_chunk::<4>()?;
        let (hash, seq) = entry.split_first_chunk::<32>()?;
        let packed = u64::from_le_bytes(*seq.first_chunk::<8>()?);
        let tag = Tag::from_byte(packed.to_le_bytes()[7]);
        let entry_of = Entry { hash: *hash, seq: packed & SEQ_MAX, tag };
        (checksum(place, entry) == u32::from_le_bytes(*crc)).then_some(entry_of)
    };
    (from..).zip(entries).map_while(good).collect()
}

fn checksum(place: u64, entry: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&place.to_le_bytes()), entry)
}

/// What the leaf at a place says, when it stands for no frame.
pub(crate) fn read_note(files: &dyn Files, epoch: u64, index: u64) -> io::Result<(String, String)> {
    let text = text(files, &note_name(epoch, index))?;
    let (kind, body) = text.split_once('\n').ok_or_else(|| bad(&note_name(epoch, index)))?;
    Ok((kind.to_owned(), body.to_owned()))
}

/// The places of an epoch's notes.
pub(crate) fn notes(files: &dyn Files, epoch: u64) -> io::Result<Vec<u64>> {
    let place = |name: &str| {
        let place = name.strip_suffix(".note")?.strip_prefix(&format!("{epoch:016x}-"))?;
        u64::from_str_radix(place, 16).ok()
    };
    Ok(files.list()?.iter().filter_map(|(name, _)| place(name)).collect())
}

/// A full tile of level 1 or up.
pub(crate) fn read_tile(
    files: &dyn Files,
    epoch: u64,
    level: u8,
    index: u64,
) -> io::Result<Option<Vec<Hash>>> {
    match files.read(&tile_name(epoch, level, index), 0, TILE * 32) {
        Ok(bytes) => Ok(tile::hashes(&bytes).filter(|hashes| hashes.len() == TILE)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn text(files: &dyn Files, name: &str) -> io::Result<String> {
    String::from_utf8(files.read(name, 0, SMALL_MAX)?).map_err(|_| bad(name))
}

fn bad(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("`{name}` cannot be read"))
}

/// The log of an epoch that grows.
pub(crate) struct Journal {
    pub(crate) epoch: u64,
    pub(crate) tree: Tree,
    /// The frame of the last leaf, and how many leaves it has.
    pub(crate) last_seq: u64,
    pub(crate) last_count: usize,
    tally: Tally,
    /// Whether the class of each row is known.
    counted: bool,
    /// When the last leaf was logged, microseconds, as far as it is known.
    logged_us: Option<i64>,
    file: Option<Box<dyn Appender>>,
    buffer: Vec<u8>,
    full: Vec<Tile>,
    /// The oldest leaves file that is still here.
    oldest: u64,
}

impl Journal {
    /// Opens an epoch's log, or begins it; cuts what is torn.
    pub(crate) fn open(files: &dyn Files, epoch: u64) -> io::Result<Self> {
        let mut journal = Self {
            epoch,
            tree: Tree::default(),
            last_seq: 0,
            last_count: 0,
            tally: Tally::default(),
            counted: true,
            logged_us: None,
            file: None,
            buffer: Vec::new(),
            full: Vec::new(),
            oldest: 0,
        };
        let listed = files.list()?;
        if listed.iter().any(|(name, _)| *name == tree_name(epoch)) {
            journal
                .load_tree(&files.read(&tree_name(epoch), 0, SMALL_MAX)?)
                .ok_or_else(|| bad(&tree_name(epoch)))?;
        }
        let mut starts: Vec<(u64, u64)> = listed
            .iter()
            .filter_map(|(name, length)| {
                let start = name.strip_suffix(".leaves")?.strip_prefix(&format!("{epoch:016x}-"))?;
                Some((u64::from_str_radix(start, 16).ok()?, *length))
            })
            .collect();
        starts.sort_unstable();
        journal.oldest = starts.first().map_or(journal.tree.size(), |(start, _)| *start);
        // It is asked before anything is cut.
        journal.logged_us = starts.last().and_then(|(start, _)| files.modified(&leaves_name(epoch, *start)));
        for (start, length) in starts {
            journal.replay(files, start, length)?;
        }
        Ok(journal)
    }

    fn replay(&mut self, files: &dyn Files, start: u64, length: u64) -> io::Result<()> {
        let name = leaves_name(self.epoch, start);
        if start < self.tree.size() {
            return Ok(());
        }
        if start > self.tree.size() {
            // Behind a torn end: it is made again.
            return files.remove(&name);
        }
        let entries = read(files, self.epoch, start, usize::try_from(LEAVES_PER_FILE).unwrap_or(usize::MAX))?;
        let good = (entries.len() * ENTRY) as u64;
        if entries.is_empty() {
            return files.remove(&name);
        }
        if good < length {
            files.truncate(&name, good)?;
        }
        for entry in entries {
            self.count(entry.seq);
            self.counted &= self.tally.add(entry.tag);
            self.tree.push(entry.hash, |tile| self.full.push(tile));
        }
        self.keep_tiles(files)?;
        if self.tree.size().is_multiple_of(LEAVES_PER_FILE) {
            return self.put_tree(files);
        }
        self.file = Some(files.append(&name)?);
        Ok(())
    }

    fn count(&mut self, seq: u64) {
        self.last_count = if self.last_seq == seq { self.last_count + 1 } else { 1 };
        self.last_seq = seq;
    }

    /// What a checkpoint that is signed now says beside size and root: the counts, and when the last leaf was logged
    /// when that is longer ago, as after a crash.
    pub(crate) fn told(&self, signed_us: i64) -> Vec<String> {
        let mut lines = if self.counted { self.tally.lines() } else { Vec::new() };
        if let Some(logged_us) = self.logged_us.filter(|at| at.saturating_add(LOGGED_BEFORE_US) < signed_us) {
            lines.push(format!("{LOGGED}{logged_us}"));
        }
        lines
    }

    /// Appends a leaf; it is durable after [`Self::sync`].
    pub(crate) fn append(&mut self, files: &dyn Files, entry: Entry) -> io::Result<()> {
        let place = self.tree.size();
        let from = self.buffer.len();
        self.buffer.extend_from_slice(&entry.hash);
        self.buffer.extend_from_slice(&entry.packed().to_le_bytes());
        let crc = checksum(place, self.buffer.get(from..).unwrap_or_default());
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.count(entry.seq);
        self.counted &= self.tally.add(entry.tag);
        let full = &mut self.full;
        self.tree.push(entry.hash, |tile| full.push(tile));
        if self.tree.size().is_multiple_of(LEAVES_PER_FILE) {
            self.sync(files)?;
            self.put_tree(files)?;
            self.file = None;
        }
        Ok(())
    }

    /// Keeps what a leaf says that stands for no frame; called before the leaf is appended.
    pub(crate) fn put_note(&self, files: &dyn Files, kind: &str, body: &str) -> io::Result<()> {
        files.put(&note_name(self.epoch, self.tree.size()), format!("{kind}\n{body}").as_bytes())
    }

    /// Makes what was appended durable.
    pub(crate) fn sync(&mut self, files: &dyn Files) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let appended = (self.buffer.len() / ENTRY) as u64;
        let start = (self.tree.size() - appended) / LEAVES_PER_FILE * LEAVES_PER_FILE;
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(files.create(&leaves_name(self.epoch, start), 0)?),
        };
        file.append(&self.buffer)?;
        file.sync()?;
        self.logged_us = Some(SystemClock.now().micros());
        self.buffer.clear();
        self.keep_tiles(files)
    }

    fn keep_tiles(&mut self, files: &dyn Files) -> io::Result<()> {
        for tile in self.full.drain(..).filter(|tile| tile.level > 0) {
            files.put(&tile_name(self.epoch, tile.level, tile.index), &tile.bytes())?;
        }
        Ok(())
    }

    /// Removes leaves files that nobody needs: all of whose leaves are below `free`.
    pub(crate) fn trim(&mut self, files: &dyn Files, free: u64) -> io::Result<()> {
        while self.oldest.saturating_add(LEAVES_PER_FILE) <= free.min(self.tree.size()) {
            files.remove(&leaves_name(self.epoch, self.oldest))?;
            self.oldest += LEAVES_PER_FILE;
        }
        Ok(())
    }

    fn put_tree(&self, files: &dyn Files) -> io::Result<()> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.last_seq.to_le_bytes());
        bytes.extend_from_slice(&(self.last_count as u64).to_le_bytes());
        bytes.extend_from_slice(&self.tree.to_bytes());
        if self.counted {
            let counts = self.tally.to_bytes();
            bytes.extend_from_slice(&counts);
            bytes.extend_from_slice(&u64::try_from(counts.len()).unwrap_or_default().to_le_bytes());
            bytes.extend_from_slice(COUNTED);
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        files.put(&tree_name(self.epoch), &bytes)
    }

    fn load_tree(&mut self, bytes: &[u8]) -> Option<()> {
        let (bytes, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(bytes) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (last_seq, rest) = bytes.split_first_chunk::<8>()?;
        let (last_count, tree) = rest.split_first_chunk::<8>()?;
        self.last_seq = u64::from_le_bytes(*last_seq);
        self.last_count = usize::try_from(u64::from_le_bytes(*last_count)).ok()?;
        let (tree, tally) =
            counts_of(tree).map_or((tree, None), |(tree, counts)| (tree, Tally::from_bytes(counts)));
        self.tree = Tree::from_bytes(tree)?;
        self.counted = tally.is_some();
        self.tally = tally.unwrap_or_default();
        Some(())
    }
}

/// The tree and the counts behind it; `None` when a version before has written it.
fn counts_of(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, length) = bytes.strip_suffix(COUNTED)?.split_last_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    rest.split_at_checked(rest.len().checked_sub(length)?)
}
