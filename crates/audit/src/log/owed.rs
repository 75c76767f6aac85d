//! Logs of starts that are over and that a place outside does not have yet: what is owed, and how it is given up.
//!
//! A place that never comes back would have every start's log kept for it. So no more than [`EPOCHS_MAX`] are, and no
//! more bytes than `checkpoints.owed_max`: beyond that the oldest are given up, which is said in the log, in the timeline,
//! in the metrics and at `/readyz`. Whoever administers the gateway may give up one before; a marker beside it says so.
//!
//! Invariant: what is given up is given up towards places outside alone. A log that the store does not have stays.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use doorward_core::{
    AccessId, AccessRecord, Action, Actions, Clock, Object, Outcome, ResourceName, SystemClock, Verb,
};
use serde_json::{Map, json};

use super::peers::Records;
use super::place::{Objects, PlaceError, log_folder};
use super::{carry, journal};
use crate::spool::files::{Directory, Files};

/// The most logs of starts that are over.
pub(crate) const EPOCHS_MAX: usize = 256;

/// A log that is over, and waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// The gateway.
    pub gateway_id: String,
    /// The start.
    pub epoch: u64,
    /// Its leaves.
    pub leaves: u64,
    /// When its last checkpoint was signed, microseconds.
    pub signed_us: i64,
    /// What it takes on the disk.
    pub bytes: u64,
    /// Whether it was given up already; the gateway has not seen to it yet.
    pub given_up: bool,
}

/// The logs in a spool's directory that are over and wait for the store or for a place, oldest first. Works beside a
/// running gateway. Blocks.
pub fn list(dir: &Path) -> io::Result<Vec<Owed>> {
    let files = Directory::open(dir)?;
    let (gateway_id, _) = crate::spool::small_files(&files, &files.list()?)?;
    let gateway_id = gateway_id.unwrap_or_default();
    let bytes = bytes(&files)?;
    let epochs = journal::epochs(&files)?;
    let mut owed = Vec::new();
    for (epoch, _) in epochs.iter().filter(|(_, over)| *over) {
        if journal::is_closed(&epochs, &files, *epoch)? {
            continue;
        }
        let (signed_us, note) = journal::read_final(&files, *epoch)?;
        owed.push(Owed {
            gateway_id: gateway_id.clone(),
            epoch: *epoch,
            leaves: super::logger::size_of(&note).unwrap_or(0),
            signed_us,
            bytes: bytes.get(epoch).copied().unwrap_or(0),
            given_up: journal::is_given_up(&files, *epoch)?,
        });
    }
    Ok(owed)
}

/// Gives up a log towards the places outside, for good: the gateway sees to it within seconds, or at its next start.
/// Blocks.
pub fn give_up(dir: &Path, epoch: u64) -> io::Result<()> {
    journal::give_up(&Directory::open(dir)?, epoch)
}

/// Leaves of the checkpoint that a place has of a log. Blocks.
pub fn leaves_at(place: &dyn Objects, owed: &Owed) -> Result<u64, PlaceError> {
    carry::size_at(place, &log_folder(&owed.gateway_id, owed.epoch))
}

/// What the files of each start's log take.
pub(crate) fn bytes(files: &dyn Files) -> io::Result<BTreeMap<u64, u64>> {
    let mut bytes = BTreeMap::new();
    for (name, length) in files.list()? {
        if let Some(epoch) = journal::epoch_of(&name) {
            *bytes.entry(epoch).or_default() += length;
        }
    }
    Ok(bytes)
}

/// A log that was given up.
#[derive(Clone, Debug)]
pub(crate) struct GivenUp {
    pub(crate) epoch: u64,
    pub(crate) leaves: u64,
    /// Those that do not have it.
    pub(crate) places: Vec<String>,
    pub(crate) reason: &'static str,
}

impl GivenUp {
    /// Writes it into the timeline. Whether there was room.
    pub(crate) fn record(&self, records: &Records) -> bool {
        let Some(slot) = records.recorder.reserve() else { return false };
        let action = Action {
            verb: Verb::Delete,
            resource: ResourceName::new(crate::admin::RESOURCE),
            object: Object::from_segments(["checkpoints", "owed", &self.epoch.to_string()]),
        };
        let given_up = json!({
            "epoch": self.epoch, "leaves": self.leaves, "places": self.places, "reason": self.reason,
        });
        let (now, environment) = (SystemClock.now(), records.environment.clone());
        let record = AccessRecord {
            actions: Actions::new(vec![action]),
            endpoint: Some("checkpoints given up".into()),
            outcome: Outcome::Allowed,
            config_digest: Some(records.digest.clone()),
            ext: Map::from_iter([("given_up".to_owned(), given_up)]),
            ..AccessRecord::begin(AccessId::fresh(), now, environment, "admin")
        };
        // It is durable with the next group; nobody waits for it.
        drop(slot.complete(Box::new(record)));
        true
    }
}
