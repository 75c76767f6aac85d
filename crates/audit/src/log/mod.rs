//! The transparency log: proof, kept by the gateway and by others, of what the timeline held.
//!
//! The log thread ([`logger`]) reads the spool's durable frames, makes a leaf of each row, gap and note, and
//! appends it to the log of its epoch ([`journal`]); at an interval and a count it signs a checkpoint. The
//! shipper ships only what is logged, with the places and leaves that stand in the log. The publisher
//! ([`publish`]) carries checkpoints and tiles to places outside the store; `verify` compares all of it with the rows.
//!
//! Invariants:
//! - a leaf is durable before its row is shipped and before a checkpoint that counts it is signed, so no crash
//!   makes the log contradict a checkpoint;
//! - the first leaf of each epoch commits the last checkpoint of the epoch before it;
//! - nothing here stops the spool: when the log cannot be written, records wait in the spool.

pub(crate) mod carry;
pub mod config;
pub(crate) mod journal;
pub mod key;
pub(crate) mod logger;
pub mod owed;
pub mod peers;
pub mod place;
pub mod publish;
pub(crate) mod tally;
pub mod verify;
pub mod witness;

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, OnceLock};

use doorward_tlog::tile::{TILE, Tile};
use doorward_tlog::{Hash, tile};
use parking_lot::{Condvar, Mutex};

use crate::spool::SegmentInfo;
use crate::spool::files::Files;
use crate::store::{HashTile, SignedCheckpoint, TooLarge};
use journal::{Entry, LEAVES_PER_FILE};
use peers::Records;
use publish::{Cosigner, Witnessing};

/// Checkpoints that wait for the store at one time; between them the older ones are left out.
const CHECKPOINTS_MAX: usize = 256;

/// How far the log has come: everything up to this frame is in it, durably.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frontier {
    pub(crate) epoch: u64,
    /// The segment, and how many of its bytes are logged.
    pub(crate) segment: String,
    pub(crate) offset: u64,
    /// The last frame.
    pub(crate) seq: u64,
    /// Leaves of that epoch.
    pub(crate) size: u64,
}

/// The last checkpoint of an epoch that is over.
#[derive(Clone, Debug)]
pub(crate) struct Final {
    pub(crate) checkpoint: SignedCheckpoint,
    /// The last tiles of its levels, those that are not full.
    pub(crate) edge: Vec<Tile>,
    /// Whether the store has it, with all that it counts.
    pub(crate) stored: bool,
    /// Whether each place outside has it.
    pub(crate) published: bool,
}

/// A checkpoint on its way to places outside the store.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    pub(crate) epoch: u64,
    pub(crate) checkpoint: SignedCheckpoint,
    /// The last tiles of its levels, those that are not full.
    pub(crate) edge: Vec<Tile>,
}

/// Removals by size: what is removed so is told by a note in the log first.
#[derive(Default)]
struct Announced {
    wanted: Option<TooLarge>,
    /// Records from before this time may go, microseconds; durable in the log.
    before_us: Option<i64>,
}

/// What places outside the store have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// There is none, and no witness: nobody takes checkpoints there.
    Nowhere,
    /// All have these leaves of this epoch, and none of a later one.
    Leaves { epoch: u64, count: u64 },
}

/// What the log thread shares with the shipper and the publisher.
pub(crate) struct Log {
    pub(crate) files: Arc<dyn Files>,
    frontier: Mutex<Frontier>,
    /// Told when the frontier moves.
    pub(crate) moved: Condvar,
    /// For the store, with their epochs.
    checkpoints: Mutex<VecDeque<(u64, SignedCheckpoint)>>,
    /// Epochs that are over.
    finals: Mutex<BTreeMap<u64, Final>>,
    /// The newest checkpoint of the current epoch, for the publisher, which takes it.
    latest: Mutex<Option<Signed>>,
    pub(crate) signed: Condvar,
    /// Leaves of the current epoch that the store has.
    stored: Mutex<u64>,
    /// Leaves that places outside have.
    published: Mutex<Kept>,
    /// The newest checkpoint of all: its epoch, its leaves, and when it was signed.
    newest: Mutex<(u64, u64, i64)>,
    pub(crate) error: Mutex<Option<String>>,
    /// What is to be told before the store removes records by its size, and up to when it was told.
    announce: Mutex<Announced>,
    /// Who speaks to witnesses, once there is somebody.
    pub(crate) cosigner: OnceLock<Arc<dyn Cosigner>>,
    pub(crate) witnessing: Mutex<Witnessing>,
    /// Where what the log does by itself is recorded, once there is a configuration to name.
    pub(crate) records: OnceLock<Records>,
}

impl Log {
    /// `publishes`: whether a publisher takes checkpoints to places outside.
    pub(crate) fn new(files: Arc<dyn Files>, publishes: bool) -> Self {
        Self {
            files,
            frontier: Mutex::default(),
            moved: Condvar::new(),
            checkpoints: Mutex::default(),
            finals: Mutex::default(),
            latest: Mutex::default(),
            signed: Condvar::new(),
            stored: Mutex::new(0),
            published: Mutex::new(if publishes {
                Kept::Leaves { epoch: 0, count: 0 }
            } else {
                Kept::Nowhere
            }),
            newest: Mutex::default(),
            error: Mutex::default(),
            announce: Mutex::default(),
            cosigner: OnceLock::new(),
            witnessing: Mutex::default(),
            records: OnceLock::new(),
        }
    }

    /// Waits until the log has more than this frame, but not for long.
    pub(crate) fn wait(&self, epoch: u64, seq: u64, span: std::time::Duration) {
        let mut frontier = self.frontier.lock();
        if frontier.epoch < epoch || (frontier.epoch == epoch && frontier.seq <= seq) {
            self.moved.wait_for(&mut frontier, span);
        }
    }

    /// Whether an epoch's log has, durably, more than these leaves.
    pub(crate) fn has_more(&self, epoch: u64, leaves: u64) -> bool {
        let frontier = self.frontier.lock();
        frontier.epoch == epoch && frontier.size > leaves
    }

    /// Asks the log thread to note that records will be removed because the store is too large.
    pub(crate) fn announce(&self, wanted: TooLarge) {
        self.announce.lock().wanted = Some(wanted);
    }

    /// Up to when such a removal was noted; `None` when it was not by this start.
    pub(crate) fn announced(&self) -> Option<i64> {
        self.announce.lock().before_us
    }

    fn to_announce(&self) -> Option<TooLarge> {
        self.announce.lock().wanted
    }

    fn was_announced(&self, told: TooLarge) {
        let mut announce = self.announce.lock();
        announce.before_us = announce.before_us.max(Some(told.before_us));
        announce.wanted = announce.wanted.filter(|wanted| *wanted != told);
    }

    pub(crate) fn frontier(&self) -> Frontier {
        self.frontier.lock().clone()
    }

    /// How many bytes of a segment are logged.
    pub(crate) fn logged(&self, segment: &SegmentInfo) -> u64 {
        let frontier = self.frontier.lock();
        match (frontier.epoch.cmp(&segment.epoch), frontier.segment.cmp(&segment.name)) {
            (Ordering::Greater, _) | (Ordering::Equal, Ordering::Greater) => segment.length,
            (Ordering::Equal, Ordering::Equal) => frontier.offset.min(segment.length),
            (Ordering::Less, _) | (Ordering::Equal, Ordering::Less) => 0,
        }
    }

    fn advance(&self, frontier: Frontier) {
        let mut now = self.frontier.lock();
        // After an error the log thread goes through what it has logged before.
        let further = |one: &Frontier, other: &Frontier| {
            (one.epoch, &one.segment, one.offset) > (other.epoch, &other.segment, other.offset)
        };
        if further(&frontier, &now) {
            *now = frontier;
        }
        drop(now);
        self.moved.notify_all();
    }

    /// A note came to the log; it is of no frame.
    fn grow(&self, epoch: u64, size: u64) {
        let mut now = self.frontier.lock();
        if now.epoch == epoch {
            now.size = now.size.max(size);
        }
    }

    fn sign(&self, signed: Signed) {
        let mut waiting = self.checkpoints.lock();
        if waiting.len() >= CHECKPOINTS_MAX {
            // The newer one covers what the older one did. Some of each time stay: they tell how old leaves are.
            let mut keep = true;
            waiting.retain(|_| {
                keep = !keep;
                keep
            });
        }
        waiting.push_back((signed.epoch, signed.checkpoint.clone()));
        drop(waiting);
        *self.newest.lock() = (signed.epoch, signed.checkpoint.size, signed.checkpoint.signed_us);
        if *self.published.lock() != Kept::Nowhere {
            *self.latest.lock() = Some(signed);
            self.signed.notify_all();
        }
    }

    /// Checkpoints of an epoch that count no more than `size` leaves; they stay until [`Self::shipped`].
    pub(crate) fn checkpoints(&self, epoch: u64, size: u64) -> Vec<SignedCheckpoint> {
        let waiting = self.checkpoints.lock();
        let ready = waiting.iter().filter(|(of, checkpoint)| *of == epoch && checkpoint.size <= size);
        ready.map(|(_, checkpoint)| checkpoint.clone()).collect()
    }

    /// A checkpoint with more cosignatures goes to the store once more.
    pub(crate) fn cosigned(&self, epoch: u64, checkpoint: SignedCheckpoint) {
        let mut waiting = self.checkpoints.lock();
        waiting.retain(|(of, other)| *of != epoch || other.size != checkpoint.size);
        if waiting.len() >= CHECKPOINTS_MAX {
            waiting.pop_back();
        }
        waiting.push_back((epoch, checkpoint));
    }

    /// The store has these leaves, and these checkpoints.
    pub(crate) fn shipped(&self, epoch: u64, leaves: u64, checkpoints: &[SignedCheckpoint]) {
        self.checkpoints.lock().retain(|(of, waiting)| *of != epoch || !checkpoints.contains(waiting));
        if epoch == self.frontier().epoch {
            *self.stored.lock() = leaves;
        }
    }

    /// Places outside have these leaves of an epoch.
    pub(crate) fn published(&self, epoch: u64, count: u64) {
        *self.published.lock() = Kept::Leaves { epoch, count };
    }

    /// Leaves and time of the newest checkpoint, if it is of this epoch.
    pub(crate) fn newest(&self, epoch: u64) -> Option<(u64, i64)> {
        let (of, leaves, signed_us) = *self.newest.lock();
        (of == epoch && signed_us != 0).then_some((leaves, signed_us))
    }

    /// Leaves of the current epoch that nobody needs to read again.
    fn free(&self) -> u64 {
        let stored = *self.stored.lock();
        match *self.published.lock() {
            Kept::Nowhere => stored,
            Kept::Leaves { epoch, count } if epoch == self.frontier().epoch => stored.min(count),
            Kept::Leaves { .. } => 0,
        }
    }

    /// The newest checkpoint, if there is one that was not taken yet.
    pub(crate) fn take_latest(&self, wait: std::time::Duration) -> Option<Signed> {
        let mut latest = self.latest.lock();
        if latest.is_none() {
            self.signed.wait_for(&mut latest, wait);
        }
        latest.take()
    }

    pub(crate) fn finals(&self) -> BTreeMap<u64, Final> {
        self.finals.lock().clone()
    }

    /// An epoch is over. `kept`: places outside have its last checkpoint already.
    fn over(&self, epoch: u64, checkpoint: SignedCheckpoint, edge: Vec<Tile>, kept: bool) {
        let published = kept || *self.published.lock() == Kept::Nowhere;
        self.finals.lock().insert(epoch, Final { checkpoint, edge, stored: false, published });
    }

    /// The last checkpoint of an epoch came to the store, or to all places outside. When both have it, the
    /// epoch's files are removed; its last checkpoint stays until the next epoch is over.
    pub(crate) fn done(&self, epoch: u64, change: impl FnOnce(&mut Final)) -> io::Result<()> {
        let mut finals = self.finals.lock();
        let Some(last) = finals.get_mut(&epoch) else { return Ok(()) };
        change(last);
        if last.stored && last.published {
            finals.remove(&epoch);
            drop(finals);
            journal::remove_epoch(&*self.files, epoch)?;
        }
        Ok(())
    }

    /// The leaf hashes of one tile of level 0, as far as they are there.
    pub(crate) fn tile(&self, epoch: u64, index: u64, width: usize) -> io::Result<Vec<Hash>> {
        let entries = journal::read(&*self.files, epoch, index.saturating_mul(256), width.min(TILE))?;
        Ok(entries.into_iter().map(|entry| entry.hash).collect())
    }

    /// A tile of any level: from the leaves, from the tiles kept, or from the edge of a checkpoint.
    pub(crate) fn any_tile(&self, signed: &Signed, level: u8, index: u64) -> io::Result<Option<Vec<Hash>>> {
        let edge = signed.edge.iter().find(|tile| tile.level == level && tile.index == index);
        if let Some(tile) = edge {
            return Ok(Some(tile.hashes.clone()));
        }
        if level == 0 {
            let hashes = self.tile(signed.epoch, index, TILE)?;
            return Ok((hashes.len() == TILE).then_some(hashes));
        }
        journal::read_tile(&*self.files, signed.epoch, level, index)
    }

    /// Full tiles of level 0 that end in the range, for the store.
    pub(crate) fn full_tiles(&self, epoch: u64, from: u64, to: u64) -> io::Result<Vec<HashTile>> {
        (from / 256..to / 256)
            .map(|index| {
                let hashes = self.tile(epoch, index, TILE)?;
                Ok(HashTile { index, hashes: hashes.concat() })
            })
            // A tile whose beginning is gone from the spool was lost with it; its rows' own leaves remain.
            .filter(|tile| tile.as_ref().map_or(true, |tile: &HashTile| tile.hashes.len() == TILE * 32))
            .collect()
    }

    /// The last tile of level 0 of a log of this size, when it is not full.
    pub(crate) fn last_tile(&self, epoch: u64, size: u64) -> io::Result<Option<HashTile>> {
        let index = size / 256;
        let width = tile::width(size, 0, index);
        if width == 0 {
            return Ok(None);
        }
        let hashes = self.tile(epoch, index, width)?;
        Ok((hashes.len() == width).then(|| HashTile { index, hashes: hashes.concat() }))
    }
}

/// The leaves of an epoch from one place on, read a piece at a time.
pub(crate) struct Leaves<'l> {
    log: &'l Log,
    epoch: u64,
    next: u64,
    read: VecDeque<Entry>,
}

/// Leaves read at once.
const PIECE: usize = 8_192;

impl<'l> Leaves<'l> {
    pub(crate) fn new(log: &'l Log, epoch: u64, next: u64) -> Self {
        Self { log, epoch, next, read: VecDeque::new() }
    }

    /// The place of the next leaf.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The next leaf; `None` when the log has no more, durably.
    pub(crate) fn peek(&mut self) -> io::Result<Option<Entry>> {
        if self.read.is_empty() {
            let frontier = self.log.frontier();
            let durable = if self.epoch == frontier.epoch { frontier.size } else { u64::MAX };
            let left = usize::try_from(durable.saturating_sub(self.next)).unwrap_or(usize::MAX);
            let in_file = LEAVES_PER_FILE - self.next % LEAVES_PER_FILE;
            let piece = PIECE.min(left).min(usize::try_from(in_file).unwrap_or(PIECE));
            if piece > 0 {
                self.read = journal::read(&*self.log.files, self.epoch, self.next, piece)?.into();
            }
        }
        Ok(self.read.front().copied())
    }

    /// Goes on behind the next leaf.
    pub(crate) fn skip(&mut self) {
        self.read.pop_front();
        self.next += 1;
    }
}
