//! Where records are kept. A store is one type behind [`Store`]; SQLite is the first.
//!
//! Invariants: a batch is written in one transaction together with its high-water mark, so each frame
//! comes to the store exactly once, without a unique index. Intents that are still open when their batch
//! ends are kept beside the records, so that the spool's segments need not wait for long calls.

pub mod config;
pub mod postgres;
pub mod sqlite;

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use doorward_pgclient::blocking::ClientError;
use doorward_tlog::Hash;
use uuid::Uuid;

use crate::config::{Retention, StoreUrl};
use crate::leaf::{self, Field, RowOf};
use crate::rollup::Rollups;
use crate::wire::{Access, Gap};
use postgres::PostgresStore;
use sqlite::SqliteStore;

/// How long a store's lock is waited for.
pub(crate) const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Why the store cannot be used. The spool keeps the records until it can.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store's schema is not this version's.
    #[error("the store's schema is not the one that this version writes: {0}")]
    Schema(String),
    /// Another gateway writes under the same name and epoch.
    #[error(
        "the high-water mark of {gateway_id}, epoch {epoch} moved from {expected} to {found}: another gateway uses the same gateway_id"
    )]
    Moved {
        /// The gateway's name.
        gateway_id: String,
        /// Its start.
        epoch: u64,
        /// What this gateway wrote last.
        expected: u64,
        /// What the store has.
        found: u64,
    },
    /// The store refuses a value of the batch, and would refuse it again. The shipper looks for the frame
    /// and lays it down as a dead letter.
    #[error("the store refuses a value: {0}")]
    Rejected(String),
    /// SQLite says no.
    #[error("the store: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The database says no, or cannot be reached.
    #[error("the store: {0}")]
    Postgres(#[from] ClientError),
    /// The database login's password cannot be read.
    #[error("{0}")]
    Login(String),
    /// The store's directory cannot be made.
    #[error("the store's directory: {0}")]
    Io(#[from] std::io::Error),
}

/// Opens the store that the configuration names. Blocks; a database may take seconds.
pub fn open(url: &StoreUrl) -> Result<Box<dyn Store>, StoreError> {
    match url {
        StoreUrl::Sqlite(path) => Ok(Box::new(SqliteStore::open(path)?)),
        StoreUrl::Postgres(server) => Ok(Box::new(PostgresStore::open(server)?)),
    }
}

/// One call's record, ready for the store.
#[derive(Debug)]
pub struct Record<'a> {
    /// The frame's number.
    pub seq: u64,
    /// The call.
    pub access: Access<'a>,
    /// The place of its first row in the epoch's log; the others follow it.
    pub log_index: u64,
    /// The leaf of each of its rows.
    pub leaf_hashes: Vec<Hash>,
}

impl Record<'_> {
    /// One of its rows, of [`crate::leaf::rows`] many, as a batch of `gateway_id` and `epoch` has it.
    pub fn row<'r>(&'r self, gateway_id: &'r str, epoch: u64, action: usize) -> RowOf<'r> {
        let index = u64::try_from(action).map_or(u64::MAX, |action| self.log_index.saturating_add(action));
        let leaf = self.leaf_hashes.get(action).map(|hash| (index, hash));
        RowOf { gateway_id, epoch, seq: self.seq, access: &self.access, action, leaf }
    }
}

/// What the store refused, kept as JSON so that nothing is dropped and its leaves can be shown.
#[derive(Debug)]
pub struct DeadLetter<'a> {
    /// What it is.
    pub what: Refused<'a>,
    /// What the store said.
    pub reason: String,
}

/// What a store may refuse.
#[derive(Debug)]
pub enum Refused<'a> {
    /// A call's record.
    Record(Record<'a>),
    /// The record of what could not be kept.
    Gap(LoggedGap<'a>),
    /// The beginning of a call. If the gateway dies before the call ends, this is all that is known of it.
    Intent(OpenIntent),
}

/// One row of a dead letter.
#[derive(Debug)]
pub struct LetterRow {
    /// The frame's number.
    pub seq: u64,
    /// The call; none for a gap.
    pub access_id: Uuid,
    /// Its place in the log and its leaf.
    pub leaf: Option<(u64, Hash)>,
    /// What it holds, as JSON; ASCII, whatever that is, so that each store takes it as text.
    pub payload: String,
}

impl DeadLetter<'_> {
    /// Its rows, in a batch of this gateway and epoch.
    pub fn rows(&self, gateway_id: &str, epoch: u64) -> Vec<LetterRow> {
        match &self.what {
            Refused::Record(record) => {
                let row = |action| record.row(gateway_id, epoch, action);
                (0..leaf::rows(&record.access)).map(row).map(|row| LetterRow::of_row(&row)).collect()
            }
            Refused::Gap(LoggedGap { seq, gap, leaf }) => {
                let (from_us, until_us, reason) = (gap.from_us, gap.until_us, &gap.reason);
                let gap = serde_json::json!({
                    "seq": seq, "lost": gap.lost, "from_us": from_us, "until_us": until_us, "reason": reason,
                });
                let payload = ascii(&serde_json::json!({ GAP_LETTER: gap }).to_string());
                vec![LetterRow { seq: *seq, access_id: Uuid::nil(), leaf: *leaf, payload }]
            }
            Refused::Intent(intent) => {
                let frame = BASE64_STANDARD.encode(&intent.payload);
                let intent_json = serde_json::json!({ "frame": frame, "columns": intent.columns });
                let payload = ascii(&serde_json::json!({ "intent": intent_json }).to_string());
                vec![LetterRow { seq: intent.seq, access_id: intent.access_id, leaf: None, payload }]
            }
        }
    }
}

/// The name under which a dead letter holds a gap.
pub(crate) const GAP_LETTER: &str = "gap";

impl LetterRow {
    /// A row as a JSON object, keyed by the columns' names.
    fn of_row(row: &RowOf<'_>) -> Self {
        let mut object = serde_json::Map::new();
        for (column, field) in row.fields() {
            let value = match field {
                Field::Null | Field::Hash(_) => continue,
                Field::Int(number) => number.into(),
                Field::Text(text) => text.into(),
                Field::Uuid(id) => id.to_string().into(),
            };
            object.insert(column.name.to_owned(), value);
        }
        let payload = ascii(&serde_json::Value::Object(object).to_string());
        let leaf = row.leaf.map(|(index, hash)| (index, *hash));
        Self { seq: row.seq, access_id: row.access.access_id, leaf, payload }
    }
}

/// JSON in which everything that is not ASCII is escaped.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// Records that could not be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedGap<'a> {
    /// The frame's number, or the first that is gone.
    pub seq: u64,
    /// What is known.
    pub gap: Gap<'a>,
    /// Its place in the log and its leaf; `None` when the frames were lost after they were logged, so that
    /// their own leaves stand in the log.
    pub leaf: Option<(u64, Hash)>,
}

/// Something that the log says about itself: the start of an epoch, a checkpoint of another gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogNote {
    /// Its place in the log.
    pub index: u64,
    /// What it is.
    pub kind: String,
    /// What it says.
    pub body: String,
    /// Its leaf.
    pub leaf_hash: Hash,
}

/// A signed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// Leaves.
    pub size: u64,
    /// When it was signed, microseconds.
    pub signed_us: i64,
    /// The signed note, cosignatures included.
    pub note: String,
}

/// Leaf hashes of one tile of level 0: all 256, or the first ones of the tile that is last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashTile {
    /// Which tile: its first leaf's place divided by 256.
    pub index: u64,
    /// 32 bytes each; a wider one replaces a narrower one of the same place.
    pub hashes: Vec<u8>,
}

/// How far the store has come with an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HighWater {
    /// The last frame.
    pub last_seq: u64,
    /// The place in the log of the next row.
    pub next_leaf: u64,
}

/// An intent without its completion so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenIntent {
    /// The frame's number.
    pub seq: u64,
    /// The call's id.
    pub access_id: Uuid,
    /// The frame's payload.
    pub payload: Vec<u8>,
    /// The names of its values.
    pub columns: String,
}

/// Frames of one epoch, in order.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    /// The gateway.
    pub gateway_id: &'a str,
    /// Its start.
    pub epoch: u64,
    /// The high-water mark before.
    pub from_seq: u64,
    /// The high-water mark after.
    pub to_seq: u64,
    /// The next leaf before.
    pub leaf_from: u64,
    /// The next leaf after.
    pub leaf_to: u64,
    /// Finished calls.
    pub records: Vec<Record<'a>>,
    /// Intents that are open at the batch's end.
    pub opened: Vec<OpenIntent>,
    /// Intents of earlier batches, those of earlier epochs included, that are open no more.
    pub closed: Vec<Uuid>,
    /// Records that could not be kept.
    pub gaps: Vec<LoggedGap<'a>>,
    /// What the log says about itself.
    pub notes: Vec<LogNote>,
    /// Checkpoints that were signed meanwhile; the same one may come again with more cosignatures.
    pub checkpoints: Vec<SignedCheckpoint>,
    /// Tiles of level 0 that became full, and the last one at the epoch's end.
    pub tiles: Vec<HashTile>,
    /// What the store refused.
    pub dead_letters: Vec<DeadLetter<'a>>,
    /// What the records add to the rollups.
    pub rollups: Rollups,
    /// Frames that were read for it.
    pub frames: usize,
}

impl Batch<'_> {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.to_seq == self.from_seq
            && self.leaf_to == self.leaf_from
            && self.gaps.is_empty()
            && self.checkpoints.is_empty()
            && self.tiles.is_empty()
    }
}

/// A store that is larger than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// Records from before this time would have to go next, microseconds.
    pub before_us: i64,
    /// Its bytes.
    pub bytes: u64,
    /// The bytes that it may have.
    pub limit: u64,
}

/// What came of a look at a store's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shrink {
    /// It is small enough, or nothing of it may be removed.
    Done,
    /// Some records were removed; there may be more to remove.
    Removed,
    /// Records are to be removed, and this is to be told first.
    Tell(TooLarge),
}

/// What a store does for the shipper. It is called from the shipper's thread alone, and may block.
pub trait Store: Send {
    /// How far the store has come with an epoch.
    fn high_water(&mut self, gateway_id: &str, epoch: u64) -> Result<HighWater, StoreError>;

    /// Intents of an epoch that are open.
    fn open_intents(&mut self, gateway_id: &str, epoch: u64) -> Result<Vec<OpenIntent>, StoreError>;

    /// Epochs before `epoch` that have open intents.
    fn unfinished_epochs(&mut self, gateway_id: &str, epoch: u64) -> Result<Vec<u64>, StoreError>;

    /// Writes a batch and its high-water mark: all of it, or nothing. The store may still be at it when this returns;
    /// then it is durable once the next call succeeds. An error may be the batch's before, and then nothing of this
    /// one is written: whoever does not know which asks for the high-water mark.
    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError>;

    /// Sees the last batch to its end: it is durable when this succeeds.
    fn finish(&mut self) -> Result<(), StoreError>;

    /// Keeps house, a little at a time: folds rollups, and removes what is too old. Whether there is more to do.
    fn retain(&mut self, retention: &Retention, now_us: i64) -> Result<bool, StoreError>;

    /// Removes the oldest records, a little at a time, while the store is larger than `limit` bytes; of those only
    /// what is older than `announced_us`, because the log tells of it first.
    fn shrink(&mut self, limit: u64, announced_us: Option<i64>) -> Result<Shrink, StoreError>;
}
