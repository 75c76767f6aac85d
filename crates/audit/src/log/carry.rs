//! A thread for each place outside the store: carries checkpoints there, and the tiles that they count.
//!
//! Constraints: it takes the newest checkpoint of each epoch, and leaves out those that came while it was busy; a
//! place that is away is tried again after a pause that grows to [`RETRY_MAX`], and delays no other place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use doorward_tlog::checkpoint::Checkpoint;
use doorward_tlog::note::{NOTE_MAX, Note};
use doorward_tlog::tile::{LEVELS, TILE, Tile};
use parking_lot::{Condvar, Mutex};

use super::place::{Objects, PlaceError, by_size, log_folder, note_key};
use super::{Log, Signed, journal};

/// How long a place that failed is left alone: at first, and at most.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The most bytes of a tile.
const TILE_BYTES_MAX: usize = TILE * 32;
/// The most bytes of a note.
pub(crate) const NOTE_BYTES_MAX: usize = 1 << 20;

/// A checkpoint with the cosignatures that it got.
#[derive(Debug)]
pub(crate) struct Cosigned {
    pub(crate) signed: Signed,
    /// The note, with all signatures.
    pub(crate) note: String,
}

/// How a place outside the store fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceStatus {
    /// The place: a directory, or a bucket's address.
    pub name: String,
    /// Leaves of the current epoch that it has a checkpoint of.
    pub kept: u64,
    /// Leaves under a checkpoint, of all epochs, that it does not have yet.
    pub behind: u64,
    /// Logs of earlier starts that it does not have yet.
    pub owed: u64,
    /// Those that were given up since this start began.
    pub given_up: u64,
    /// Why it does not take checkpoints.
    pub error: Option<String>,
}

/// What the publisher and the carrier of one place share.
#[derive(Debug)]
pub(crate) struct Desk {
    name: String,
    /// How often a checkpoint of the current epoch is carried, at most.
    every: Duration,
    state: Mutex<State>,
    told: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The newest checkpoint of each epoch that is on its way.
    wanted: BTreeMap<u64, Arc<Cosigned>>,
    /// Leaves that the place has, by epoch.
    kept: BTreeMap<u64, u64>,
    error: Option<String>,
    /// Epochs that were given up.
    given_up: u64,
    ending: bool,
    carrier: Option<JoinHandle<()>>,
}

impl Desk {
    pub(crate) fn new(name: String, every: Duration) -> Self {
        Self { name, every, state: Mutex::default(), told: Condvar::new() }
    }

    /// Leaves a checkpoint for the carrier; an older one of its epoch is not needed any more.
    pub(crate) fn hand(&self, cosigned: Arc<Cosigned>) {
        let mut state = self.state.lock();
        // One of the same size has more cosignatures.
        state.wanted.insert(cosigned.signed.epoch, cosigned);
        drop(state);
        self.told.notify_all();
    }

    /// Leaves of an epoch that the place has.
    pub(crate) fn kept(&self, epoch: u64) -> u64 {
        self.state.lock().kept.get(&epoch).copied().unwrap_or(0)
    }

    /// Whether it is not known yet what the place has of an epoch: the carrier has not come to it, and met no error.
    pub(crate) fn is_asking(&self, epoch: u64) -> bool {
        let state = self.state.lock();
        state.error.is_none() && !state.kept.contains_key(&epoch)
    }

    /// The place's name, if it lacks an epoch of this size that is now given up.
    pub(crate) fn give_up(&self, epoch: u64, size: u64) -> Option<String> {
        let mut state = self.state.lock();
        let lacks = state.kept.get(&epoch).copied().unwrap_or(0) < size;
        state.given_up += u64::from(lacks);
        lacks.then(|| self.name.clone())
    }

    /// An epoch is over, and everybody has it, or it was given up.
    pub(crate) fn forget(&self, epoch: u64) {
        let mut state = self.state.lock();
        state.kept.remove(&epoch);
        state.wanted.remove(&epoch);
    }

    pub(crate) fn status(&self, epoch: u64) -> PlaceStatus {
        let state = self.state.lock();
        let behind = state.wanted.iter().map(|(epoch, cosigned)| {
            let kept = state.kept.get(epoch).copied().unwrap_or(0);
            cosigned.signed.checkpoint.size.saturating_sub(kept)
        });
        let nobody = state.carrier.is_none().then(|| "nobody carries checkpoints there yet".to_owned());
        PlaceStatus {
            name: self.name.clone(),
            kept: state.kept.get(&epoch).copied().unwrap_or(0),
            behind: behind.sum(),
            owed: u64::try_from(state.wanted.keys().filter(|of| **of != epoch).count()).unwrap_or(0),
            given_up: state.given_up,
            error: state.error.clone().or(nobody),
        }
    }

    /// Asks for one last try at what is on its way.
    pub(crate) fn end(&self) {
        self.state.lock().ending = true;
        self.told.notify_all();
    }

    /// The carrier's thread.
    pub(crate) fn carried_by(&self, carrier: JoinHandle<()>) {
        self.state.lock().carrier = Some(carrier);
    }

    /// Waits for the carrier's end; whether all is there that was handed.
    pub(crate) fn wait_for_end(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while state.carrier.as_ref().is_some_and(|carrier| !carrier.is_finished()) {
            if Instant::now() >= deadline {
                return false;
            }
            self.told.wait_for(&mut state, Duration::from_millis(5));
        }
        if state.carrier.take().is_some_and(|carrier| carrier.join().is_err()) {
            tracing::error!("the thread that carries checkpoints panicked");
        }
        state.wanted.is_empty()
    }

    /// What is to be carried next, once there is something and its time has come; `None` at the end.
    fn next(&self, not_before: Instant) -> Option<Vec<Arc<Cosigned>>> {
        let mut state = self.state.lock();
        loop {
            let wanted: Vec<_> = state.wanted.values().cloned().collect();
            match (state.ending, wanted.is_empty(), Instant::now() < not_before) {
                (true, true, _) => return None,
                (true, false, _) | (false, false, false) => return Some(wanted),
                (false, false, true) => drop(self.told.wait_until(&mut state, not_before)),
                (false, true, _) => self.told.wait(&mut state),
            }
        }
    }

    fn carried(&self, cosigned: &Cosigned, done: &Result<(), PlaceError>) {
        let (epoch, size) = (cosigned.signed.epoch, cosigned.signed.checkpoint.size);
        if done.is_ok() {
            let mut state = self.state.lock();
            state.kept.insert(epoch, size);
            if state.wanted.get(&epoch).is_some_and(|wanted| std::ptr::eq(&**wanted, cosigned)) {
                state.wanted.remove(&epoch);
            }
        }
    }

    /// Tells what is in the way, once.
    fn tell(&self, error: Option<String>) {
        let mut state = self.state.lock();
        match &error {
            Some(error) if state.error.as_ref() != Some(error) => {
                tracing::warn!(%error, "a checkpoint could not be kept at a place outside; it is tried again");
            }
            None if state.error.is_some() => {
                tracing::info!(place = self.name, "the place takes checkpoints again");
            }
            Some(_) | None => {}
        }
        state.error = error;
    }
}

/// Carries to one place; [`Carrier::run`] is its thread.
pub(crate) struct Carrier {
    log: Arc<Log>,
    place: Arc<dyn Objects>,
    gateway_id: Arc<str>,
    desk: Arc<Desk>,
}

impl Carrier {
    pub(crate) fn new(log: Arc<Log>, place: Arc<dyn Objects>, gateway_id: Arc<str>, desk: Arc<Desk>) -> Self {
        Self { log, place, gateway_id, desk }
    }

    /// Works until its desk ends.
    pub(crate) fn run(self) {
        let (mut not_before, mut retry) = (Instant::now(), RETRY_MIN);
        while let Some(wanted) = self.desk.next(not_before) {
            let mut errors = Vec::new();
            for cosigned in &wanted {
                let done = self.carry(cosigned);
                self.desk.carried(cosigned, &done);
                errors.extend(done.err().map(|error| error.to_string()));
            }
            // A bucket that is away says the same for each epoch.
            errors.dedup();
            let failed = !errors.is_empty();
            self.desk.tell(failed.then(|| errors.join("; ")));
            if failed && self.desk.state.lock().ending {
                break;
            }
            not_before = Instant::now() + if failed { retry } else { self.desk.every };
            retry = if failed { (retry * 2).min(RETRY_MAX) } else { RETRY_MIN };
            // The publisher sees how far the place is.
            self.log.signed.notify_all();
        }
    }

    /// Puts the tiles that are new since the place's last checkpoint, and then the checkpoint.
    fn carry(&self, cosigned: &Cosigned) -> Result<(), PlaceError> {
        let signed = &cosigned.signed;
        let log = log_folder(&self.gateway_id, signed.epoch);
        let kept = self.desk.state.lock().kept.get(&signed.epoch).copied();
        let from = match kept {
            Some(from) => from,
            None => size_at(&*self.place, &log)?,
        };
        let size = signed.checkpoint.size;
        if from > size {
            return Err(self.failed(format!(
                "there is a checkpoint of {from} leaves, and the log has {size}: two gateways of one name?"
            )));
        }
        let tiles = |level: u8, size: u64| size.checked_shr(8 * (u32::from(level) + 1)).unwrap_or(0);
        for level in 0..LEVELS {
            for index in tiles(level, from)..tiles(level, size) {
                // What nobody has any more was kept no longer for a place that was away.
                let read = self.log.any_tile(signed, level, index);
                let Some(hashes) = read.map_err(|error| self.failed(error.to_string()))? else { continue };
                let path = format!("{log}/{}", self.put_tile(&log, Tile { level, index, hashes })?);
                self.place.superseded(&format!("{path}.p"))?;
            }
        }
        for tile in &signed.edge {
            self.put_tile(&log, tile.clone())?;
        }
        self.put_notes(&log, signed.epoch, from, size)?;
        self.put_by_size(&log, cosigned)?;
        self.place.put(&format!("{log}/checkpoint"), cosigned.note.as_bytes())
    }

    /// Puts a tile; its path below the log.
    fn put_tile(&self, log: &str, tile: Tile) -> Result<String, PlaceError> {
        let (path, bytes) = (tile.path(), tile.bytes());
        let key = format!("{log}/{path}");
        if !self.place.put_new(&key, &bytes)?
            && self.place.read(&key, TILE_BYTES_MAX)?.as_ref() != Some(&bytes)
        {
            return Err(self.failed(format!("another tile is at {key}: two gateways of one name?")));
        }
        Ok(path)
    }

    /// Puts what the log says about itself at places that are new: with it, whoever has the place alone knows what
    /// stands under each leaf that is of no record.
    fn put_notes(&self, log: &str, epoch: u64, from: u64, size: u64) -> Result<(), PlaceError> {
        let unread = |error: std::io::Error| self.failed(error.to_string());
        if from == size {
            return Ok(());
        }
        let places = journal::notes(&*self.log.files, epoch).map_err(unread)?;
        for index in places.into_iter().filter(|index| (from..size).contains(index)) {
            let (kind, body) = journal::read_note(&*self.log.files, epoch, index).map_err(unread)?;
            let (key, bytes) = (note_key(log, index), format!("{kind}\n{body}").into_bytes());
            if !self.place.put_new(&key, &bytes)?
                && self.place.read(&key, NOTE_BYTES_MAX)?.as_ref() != Some(&bytes)
            {
                return Err(self.failed(format!("another note is at {key}: two gateways of one name?")));
            }
        }
        Ok(())
    }

    /// Puts the checkpoint under its size, where such are kept. One of the same tree does as well: it was signed at
    /// another time, or by more witnesses.
    fn put_by_size(&self, log: &str, cosigned: &Cosigned) -> Result<(), PlaceError> {
        if !self.place.keeps_sizes() {
            return Ok(());
        }
        let key = by_size(log, cosigned.signed.checkpoint.size);
        if self.place.put_new(&key, cosigned.note.as_bytes())? {
            return Ok(());
        }
        let there = self.place.read(&key, NOTE_MAX)?;
        let root = |note: &str| Some(Checkpoint::parse(&Note::parse(note).ok()?.text).ok()?.root);
        let there = there.and_then(|bytes| root(&String::from_utf8(bytes).ok()?));
        match there == root(&cosigned.note) {
            true => Ok(()),
            false => Err(self.failed(format!("another checkpoint is at {key}: two gateways of one name?"))),
        }
    }

    fn failed(&self, cause: String) -> PlaceError {
        PlaceError { place: self.place.name(), cause }
    }
}

/// Leaves of the checkpoint that a place has of a log.
pub(crate) fn size_at(place: &dyn Objects, log: &str) -> Result<u64, PlaceError> {
    let failed =
        |cause: String| PlaceError { place: place.name(), cause: format!("{log}/checkpoint: {cause}") };
    let Some(bytes) = place.read(&format!("{log}/checkpoint"), NOTE_MAX)? else { return Ok(0) };
    let text = String::from_utf8(bytes).map_err(|error| failed(error.to_string()))?;
    let note = Note::parse(&text).map_err(|error| failed(error.to_string()))?;
    let checkpoint = Checkpoint::parse(&note.text).map_err(|error| failed(error.to_string()))?;
    Ok(checkpoint.size)
}

#[cfg(test)]
mod tests;
