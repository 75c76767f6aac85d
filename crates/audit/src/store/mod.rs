//! Where records are kept. A store is one type behind [`Store`]; SQLite is the first.
//!
//! Invariants: a batch is written in one transaction together with its high-water mark, so each frame
//! comes to the store exactly once, without a unique index. Intents that are still open when their batch
//! ends are kept beside the records, so that the spool's segments need not wait for long calls.

pub mod sqlite;

use std::time::Duration;

use uuid::Uuid;

use crate::config::Retention;
use crate::wire::{Access, Gap};

/// How long a store's lock is waited for.
pub(crate) const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Why the store cannot be used. The spool keeps the records until it can.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store's columns are not this version's.
    #[error("the store's table `access_event` has other columns than this version writes: {0}")]
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
    /// SQLite says no.
    #[error("the store: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The store's directory cannot be made.
    #[error("the store's directory: {0}")]
    Io(#[from] std::io::Error),
}

/// One call's record, ready for the store.
#[derive(Debug)]
pub struct Record<'a> {
    /// The frame's number.
    pub seq: u64,
    /// The call.
    pub access: Access<'a>,
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
    /// Finished calls.
    pub records: Vec<Record<'a>>,
    /// Intents that are open at the batch's end.
    pub opened: Vec<OpenIntent>,
    /// Intents of earlier batches that are open no more.
    pub closed: Vec<Uuid>,
    /// Records that could not be kept, with their frames' numbers.
    pub gaps: Vec<(u64, Gap<'a>)>,
}

/// What a store does for the shipper. It is called from the shipper's thread alone, and may block.
pub trait Store: Send {
    /// The last frame that is in the store.
    fn high_water(&mut self, gateway_id: &str, epoch: u64) -> Result<u64, StoreError>;

    /// Intents of an epoch that are open.
    fn open_intents(&mut self, gateway_id: &str, epoch: u64) -> Result<Vec<OpenIntent>, StoreError>;

    /// Epochs before `epoch` that have open intents.
    fn unfinished_epochs(&mut self, gateway_id: &str, epoch: u64) -> Result<Vec<u64>, StoreError>;

    /// Writes a batch and its high-water mark: all of it, or nothing.
    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError>;

    /// Removes what is too old or too much, a little at a time. Whether there is more to remove.
    fn retain(&mut self, retention: &Retention, now_us: i64) -> Result<bool, StoreError>;
}
