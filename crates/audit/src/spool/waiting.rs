//! Whether the store has what this machine's spools hold: asked before something is decided by the store alone.
//!
//! Constraints: it reads files only, beside a running gateway too; it waits for what was durable when it was asked,
//! and not for what comes meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::inspect;
use crate::admin;
use crate::config::{AuditConfig, SpoolEncryption};
use crate::store::{self, Store, StoreError};

/// How often the store is asked.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum WaitingError {
    /// The store cannot be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A spool cannot be read.
    #[error("the spool {0} cannot be read: {1}")]
    Spool(PathBuf, io::Error),
    /// Not all of a spool can be read.
    #[error("not all of the spool {0} can be read: see `doorward spool inspect`")]
    Closed(PathBuf),
}

/// Waits until the store has all that this machine's spools hold now, the gateway's and that of administrators'
/// commands: `None` then, and the spool whose records it does not have when that takes longer than `within`. Blocks.
pub fn waiting(config: &AuditConfig, within: Duration) -> Result<Option<PathBuf>, WaitingError> {
    let deadline = Instant::now() + within;
    for dir in [config.spool.dir.clone(), admin::folder(&config.spool.dir)] {
        if !dir.is_dir() {
            continue;
        }
        let mut store = store::open(&config.store)?;
        let (gateway_id, last) = unshipped(&dir, config.spool.encryption.as_ref(), &mut *store)?;
        for (epoch, seq) in last {
            while store.high_water(&gateway_id, epoch)?.last_seq < seq {
                if Instant::now() >= deadline {
                    return Ok(Some(dir));
                }
                std::thread::park_timeout(LOOK_EVERY);
            }
        }
    }
    Ok(None)
}

/// Whose spool it is, and the last frame of each epoch that has completions the store lacks.
fn unshipped(
    dir: &Path,
    encryption: Option<&SpoolEncryption>,
    store: &mut dyn Store,
) -> Result<(String, BTreeMap<u64, u64>), WaitingError> {
    let mut failed = None;
    let mut shipped = |gateway_id: &str, epoch| match store.high_water(gateway_id, epoch) {
        Ok(mark) => Some(mark.last_seq),
        Err(error) => {
            failed = Some(error);
            None
        }
    };
    let found = inspect::inspect(dir, encryption, &mut shipped);
    let found = found.map_err(|error| WaitingError::Spool(dir.to_owned(), error))?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if found.is_closed() {
        return Err(WaitingError::Closed(dir.to_owned()));
    }
    let lacking = found.segments.iter().filter(|segment| segment.unshipped != Some(0));
    let last = lacking.filter_map(|segment| Some((segment.epoch, segment.last_seq?))).collect();
    Ok((found.gateway_id.unwrap_or_default(), last))
}
