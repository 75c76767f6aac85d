//! The publisher thread: carries checkpoints and tiles to places outside the store, and to witnesses.
//!
//! Constraints: it takes the newest checkpoint, and leaves out those that came while it was busy; a place or a
//! witness that is away stops nothing but itself. Leaves are kept for it in the spool's directory until every place
//! has them, but no more than [`LAG_MAX`] of them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use doorward_tlog::checkpoint::Checkpoint;
use doorward_tlog::note::{NOTE_MAX, Note, Signature, Vkey};
use doorward_tlog::tile::{LEVELS, TileNodes};
use doorward_tlog::tree;
use doorward_tlog::witness::{AddCheckpoint, cosignatures};

use super::config::{CheckpointsConfig, Place, WitnessConfig};
use super::{Log, Signed};
use crate::spool::files::private;

/// How often it looks around when nothing is signed.
const TICK: Duration = Duration::from_millis(500);
/// Leaves that are kept for a place that is away.
const LAG_MAX: u64 = 64 * super::journal::LEAVES_PER_FILE;

/// Speaks to witnesses. Called from a thread of its own, and may block, for ten seconds at most.
pub trait Cosigner: Send + Sync {
    /// Sends a request by POST: the answer's status and text.
    fn post(&self, url: &str, body: String, dangerous_plaintext: bool) -> Result<(u16, String), String>;
}

/// How checkpoints fare outside the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Leaves of the newest checkpoint.
    pub signed: u64,
    /// Leaves of the newest checkpoint that every place has.
    pub kept: u64,
    /// Leaves of the newest checkpoint that enough witnesses have cosigned.
    pub witnessed: u64,
    /// Witnesses that cosigned the newest checkpoint.
    pub witnesses: usize,
    /// What is in the way.
    pub error: Option<String>,
}

/// The publisher's own state; [`Publisher::run`] is its thread.
pub(crate) struct Publisher {
    log: Arc<Log>,
    gateway_id: Arc<str>,
    places: Vec<PathBuf>,
    /// Leaves that each place has, by epoch.
    kept: Vec<BTreeMap<u64, u64>>,
    witnesses: Vec<Witness>,
    quorum: usize,
}

struct Witness {
    config: WitnessConfig,
    key: Option<Vkey>,
    /// Leaves that it has cosigned, by epoch.
    seen: BTreeMap<u64, u64>,
}

impl Publisher {
    pub(crate) fn new(log: Arc<Log>, gateway_id: Arc<str>, config: &CheckpointsConfig) -> Self {
        let places: Vec<PathBuf> = config.to.iter().map(|Place::Directory(path)| path.clone()).collect();
        let witness = |config: &WitnessConfig| Witness {
            key: Vkey::parse(&config.vkey).ok(),
            config: config.clone(),
            seen: BTreeMap::new(),
        };
        Self {
            log,
            gateway_id,
            kept: vec![BTreeMap::new(); places.len()],
            places,
            witnesses: config.witnesses.iter().map(witness).collect(),
            quorum: config.quorum(),
        }
    }

    /// Works while `going` says so; at the end it takes what was signed last.
    pub(crate) fn run(mut self, going: &AtomicBool) {
        loop {
            let last = !going.load(Ordering::Relaxed);
            let wait = if last { Duration::ZERO } else { TICK };
            let latest = self.log.take_latest(wait);
            self.finish_epochs();
            if let Some(signed) = &latest {
                self.publish(signed);
                let least = self.kept.iter().map(|kept| kept.get(&signed.epoch).copied().unwrap_or(0)).min();
                let size = signed.checkpoint.size;
                self.log.published(least.unwrap_or(size).max(size.saturating_sub(LAG_MAX)));
            }
            if last {
                return;
            }
        }
    }

    /// The last checkpoints of epochs that are over.
    fn finish_epochs(&mut self) {
        for (epoch, last) in self.log.finals() {
            if last.published {
                continue;
            }
            let signed = Signed { epoch, checkpoint: last.checkpoint.clone(), edge: last.edge.clone() };
            if self.publish(&signed)
                && let Err(error) = self.log.done(epoch, |last| last.published = true)
            {
                tracing::warn!(epoch, %error, "the log of an epoch that is over could not be removed");
            }
        }
    }

    /// Brings a checkpoint to the witnesses and to all places. Whether each place has it.
    fn publish(&mut self, signed: &Signed) -> bool {
        let mut errors = Vec::new();
        let cosigned = self.cosign(signed, &mut errors);
        let mut checkpoint = signed.checkpoint.clone();
        for signature in &cosigned {
            checkpoint.note.push_str(&signature.to_string());
        }
        let mut everywhere = true;
        for (place, kept) in self.places.iter().zip(&mut self.kept) {
            let dir = place.join(&*self.gateway_id).join(signed.epoch.to_string());
            let from = match kept.get(&signed.epoch) {
                Some(from) => Ok(*from),
                None => size_at(&dir),
            };
            let done = from.and_then(|from| put(&self.log, &dir, signed, from, &checkpoint.note));
            match done {
                Ok(()) => drop(kept.insert(signed.epoch, signed.checkpoint.size)),
                Err(error) => {
                    everywhere = false;
                    errors.push(format!("{}: {error}", place.display()));
                }
            }
        }
        let mut status = self.log.publishing.lock();
        status.signed = checkpoint.size;
        status.witnesses = cosigned.len();
        if everywhere {
            status.kept = checkpoint.size;
        }
        if cosigned.len() >= self.quorum {
            status.witnessed = checkpoint.size;
        }
        let error = (!errors.is_empty()).then(|| errors.join("; "));
        if let Some(error) = error.as_ref().filter(|error| status.error.as_ref() != Some(error)) {
            tracing::warn!(%error, "a checkpoint could not be kept everywhere");
        }
        status.error = error;
        drop(status);
        if !cosigned.is_empty() {
            self.log.cosigned(signed.epoch, checkpoint);
        }
        everywhere
    }

    /// Asks all witnesses at once.
    fn cosign(&mut self, signed: &Signed, errors: &mut Vec<String>) -> Vec<Signature> {
        let Some(cosigner) = self.log.cosigner.get().cloned() else {
            if !self.witnesses.is_empty() {
                errors.push("nobody speaks to the witnesses yet".to_owned());
            }
            return Vec::new();
        };
        let log = &*self.log;
        let answers = std::thread::scope(|scope| {
            let asked: Vec<_> = self
                .witnesses
                .iter_mut()
                .map(|witness| {
                    let cosigner = &*cosigner;
                    scope.spawn(move || (witness.config.url.clone(), witness.ask(log, cosigner, signed)))
                })
                .collect();
            asked.into_iter().filter_map(|asked| asked.join().ok()).collect::<Vec<_>>()
        });
        let mut cosigned = Vec::new();
        for (url, answer) in answers {
            match answer {
                Ok(signature) => cosigned.push(signature),
                Err(error) => errors.push(format!("witness {url}: {error}")),
            }
        }
        cosigned
    }
}

impl Witness {
    /// Asks for a cosignature; once more when the witness has seen another size than we thought.
    fn ask(&mut self, log: &Log, cosigner: &dyn Cosigner, signed: &Signed) -> Result<Signature, String> {
        let key = self.key.clone().ok_or("its key cannot be read")?;
        let note = Note::parse(&signed.checkpoint.note).map_err(|error| error.to_string())?;
        let size = signed.checkpoint.size;
        for _ in 0..2 {
            let old_size = self.seen.get(&signed.epoch).copied().unwrap_or(0);
            if old_size > size {
                return Err(format!("it has seen {old_size} leaves, and there are {size}"));
            }
            let read = |level, index, _| log.any_tile(signed, level, index).ok().flatten();
            let proof = tree::consistency(&mut TileNodes::new(size, read), old_size, size)
                .map_err(|missing| format!("it is too far behind to be shown a proof: {missing}"))?;
            let body = AddCheckpoint { old_size, proof, note: note.clone() }.to_string();
            let url = format!("{}/add-checkpoint", self.config.url.trim_end_matches('/'));
            let (status, text) = cosigner.post(&url, body, self.config.dangerous_plaintext)?;
            match status {
                200 => {
                    let found = cosignatures(&text).map_err(|error| error.to_string())?;
                    let note = Note { text: note.text.clone(), signatures: found };
                    key.verify(&note).map_err(|error| error.to_string())?;
                    self.seen.insert(signed.epoch, size);
                    let own = note.signatures.into_iter();
                    let mut own =
                        own.filter(|signature| signature.name == key.name() && signature.id == key.id());
                    return own.next().ok_or_else(|| "it has not signed".to_owned());
                }
                409 => {
                    let seen = text.trim().parse().map_err(|_| "it refuses this history".to_owned())?;
                    self.seen.insert(signed.epoch, seen);
                }
                _ => return Err(format!("it answers {status}: {}", text.trim())),
            }
        }
        Err("it does not agree about what it has seen".to_owned())
    }
}

/// Leaves of the checkpoint that is in a log's directory.
fn size_at(dir: &Path) -> io::Result<u64> {
    let path = dir.join("checkpoint");
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
        Ok(found) if found.len() > NOTE_MAX as u64 => {
            return Err(io::Error::other("its checkpoint is too long"));
        }
        Ok(_) => {}
    }
    let note = Note::parse(&fs::read_to_string(&path)?).map_err(io::Error::other)?;
    Ok(Checkpoint::parse(&note.text).map_err(io::Error::other)?.size)
}

/// Writes the tiles that are new since `from`, and then the checkpoint.
fn put(log: &Log, dir: &Path, signed: &Signed, from: u64, note: &str) -> io::Result<()> {
    let size = signed.checkpoint.size;
    if from > size {
        return Err(io::Error::other(format!(
            "there is a checkpoint of {from} leaves, and the log has {size}: two gateways of one name?"
        )));
    }
    for level in 0..LEVELS {
        let tiles = |size: u64| size.checked_shr(8 * (u32::from(level) + 1)).unwrap_or(0);
        for index in tiles(from)..tiles(size) {
            // What nobody has any more was kept no longer for a place that was away.
            let Some(hashes) = log.any_tile(signed, level, index)? else { continue };
            let tile = doorward_tlog::tile::Tile { level, index, hashes };
            let path = dir.join(tile.path());
            put_file(&path, &tile.bytes())?;
            let mut partial = path.into_os_string();
            partial.push(".p");
            match fs::remove_dir_all(PathBuf::from(partial)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }
    for tile in &signed.edge {
        put_file(&dir.join(tile.path()), &tile.bytes())?;
    }
    put_file(&dir.join("checkpoint"), note.as_bytes())
}

/// Puts a file in place: all of it or nothing, durably.
pub(super) fn put_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let draft = path.with_extension("new");
    let mut file = private(OpenOptions::new().write(true).create(true).truncate(true)).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&draft, path)?;
    File::open(folder)?.sync_all()
}
