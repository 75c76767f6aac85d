//! A witness (tlog-witness): cosigns checkpoints of logs that it knows, each only when it goes on from the last one.
//!
//! Invariants: what was cosigned is on disk before the answer leaves, and requests are taken one after another, so
//! that no answer contradicts an earlier one, whatever crashes; a log is known by its key, whose name its origin
//! begins with: `NAME` or `NAME/EPOCH`.

use std::io;
use std::path::{Path, PathBuf};

use doorward_core::hex;
use doorward_tlog::checkpoint::Checkpoint;
use doorward_tlog::note::{Kind, NOTE_MAX, Note, NoteError, Signer, Vkey};
use doorward_tlog::tree::{consistent, empty_root, leaf_hash};
use doorward_tlog::witness::AddCheckpoint;
use parking_lot::Mutex;

use super::place::put_file;
use crate::spool::files::make_private;

/// The most logs that a witness keeps in mind: one for each start of each gateway.
pub const LOGS_MAX: usize = 100_000;

/// Why a witness cannot work.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// A file cannot be used.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: String,
        /// Why.
        cause: io::Error,
    },
    /// The key cannot be used.
    #[error("{path}: {cause}")]
    Key {
        /// The file.
        path: String,
        /// Why.
        cause: NoteError,
    },
    /// The key signs logs.
    #[error("{0}: it is the key of a log, not of a witness")]
    Kind(String),
}

/// What a witness answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The media type.
    pub content_type: &'static str,
    /// The text.
    pub text: String,
}

/// Keeps a checkpoint that is about to be cosigned; whether it could.
pub type Keep<'k> = &'k dyn Fn(&Checkpoint) -> bool;

impl Answer {
    fn says(status: u16, text: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", text: format!("{text}\n") }
    }
}

/// A witness with its key and its memory.
pub struct Witness {
    signer: Signer,
    logs: Vec<Vkey>,
    dir: PathBuf,
    /// Logs that it has cosigned for; taken for the whole of a request.
    known: Mutex<usize>,
}

impl Witness {
    /// Opens a witness that keeps what it has seen in `dir`, and knows the logs of these keys. A key is made, under
    /// this name, when there is none in the file.
    pub fn open(dir: &Path, key: &Path, name: &str, logs: Vec<Vkey>) -> Result<Self, WitnessError> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |cause| WitnessError::File { path: path.clone(), cause }
        };
        let bad = |cause| WitnessError::Key { path: key.display().to_string(), cause };
        std::fs::create_dir_all(dir).map_err(failed(dir))?;
        let known = std::fs::read_dir(dir).map_err(failed(dir))?.count();
        let signer = match std::fs::read_to_string(key) {
            Ok(text) => Signer::parse(&text).map_err(bad)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (signer, text) = Signer::generate(name, Kind::Cosignature).map_err(bad)?;
                make_private(key).and_then(|()| put_file(key, text.as_bytes())).map_err(failed(key))?;
                signer
            }
            Err(error) => return Err(failed(key)(error)),
        };
        if signer.vkey().kind() != Kind::Cosignature {
            return Err(WitnessError::Kind(key.display().to_string()));
        }
        Ok(Self { signer, logs, dir: dir.to_owned(), known: Mutex::new(known) })
    }

    /// The public key.
    pub fn vkey(&self) -> Vkey {
        self.signer.vkey()
    }

    /// Answers `add-checkpoint`; `now` in seconds. Blocks for as long as a sync takes.
    pub fn add_checkpoint(&self, body: &[u8], now: u64) -> Answer {
        self.add_checkpoint_if(body, now, &|_| true)
    }

    /// The same, for who keeps what is cosigned in another place too: `keep` is asked before the answer leaves, and
    /// nothing is cosigned when it says no.
    pub fn add_checkpoint_if(&self, body: &[u8], now: u64, keep: Keep<'_>) -> Answer {
        let request = std::str::from_utf8(body).ok().and_then(|body| AddCheckpoint::parse(body).ok());
        let Some(request) = request else { return Answer::says(400, "it is not a request of tlog-witness") };
        let Ok(checkpoint) = Checkpoint::parse(&request.note.text) else {
            return Answer::says(400, "it has no checkpoint");
        };
        let mut keys = self.logs.iter().filter(|key| is_of(&checkpoint.origin, key.name())).peekable();
        if keys.peek().is_none() {
            return Answer::says(404, "this log is not known");
        }
        if !keys.any(|key| key.verify(&request.note).is_ok()) {
            return Answer::says(403, "the checkpoint is not signed by a key of this log");
        }
        if request.old_size > checkpoint.size {
            return Answer::says(400, "the old size is larger than the new one");
        }
        let mut known = self.known.lock();
        match self.cosign(&request, &checkpoint, &mut known) {
            Ok(None) if keep(&checkpoint) => {
                let text = self.signer.sign(&request.note.text, now).to_string();
                Answer { status: 200, content_type: "text/plain; charset=utf-8", text }
            }
            Ok(None) => Answer::says(503, "what is cosigned cannot be recorded now"),
            Ok(Some(refusal)) => refusal,
            Err(error) => {
                tracing::error!(%error, "what was seen cannot be kept; nothing is cosigned");
                Answer::says(500, "what was seen cannot be kept")
            }
        }
    }

    /// Looks whether the checkpoint goes on from the last one, and keeps it. What is answered if it does not.
    fn cosign(
        &self,
        request: &AddCheckpoint,
        checkpoint: &Checkpoint,
        known: &mut usize,
    ) -> io::Result<Option<Answer>> {
        let path = self.dir.join(hex(&leaf_hash(checkpoint.origin.as_bytes())));
        let seen = last(&path)?;
        let (seen_size, seen_root) = seen.as_ref().map_or((0, empty_root()), |seen| (seen.size, seen.root));
        if request.old_size != seen_size {
            let text = format!("{seen_size}\n");
            return Ok(Some(Answer { status: 409, content_type: "text/x.tlog.size", text }));
        }
        let old_root = if seen_size == 0 { empty_root() } else { seen_root };
        if checkpoint.size == seen_size && checkpoint.root != old_root {
            tracing::error!(origin = checkpoint.origin, size = seen_size, "a log shows two histories");
            return Ok(Some(Answer::says(409, "another history of this size was cosigned")));
        }
        if !consistent(seen_size, &old_root, checkpoint.size, &checkpoint.root, &request.proof) {
            tracing::error!(
                origin = checkpoint.origin,
                size = checkpoint.size,
                "a log's history does not go on"
            );
            return Ok(Some(Answer::says(422, "the proof does not show that the log only grew")));
        }
        if seen.is_none() {
            if *known >= LOGS_MAX {
                return Ok(Some(Answer::says(503, "this witness knows as many logs as it can")));
            }
            *known += 1;
        }
        put_file(&path, request.note.to_string().as_bytes())?;
        Ok(None)
    }
}

/// Whether an origin is a log's name, or the name and the number of an epoch.
fn is_of(origin: &str, name: &str) -> bool {
    match origin.strip_prefix(name) {
        Some("") => true,
        Some(rest) => rest.strip_prefix('/').is_some_and(|epoch| epoch.parse::<u64>().is_ok()),
        None => false,
    }
}

/// The last checkpoint that was cosigned.
fn last(path: &Path) -> io::Result<Option<Checkpoint>> {
    let text = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(found) if found.len() > NOTE_MAX as u64 => {
            return Err(io::Error::other("what was seen is too long"));
        }
        Ok(_) => std::fs::read_to_string(path)?,
    };
    let note = Note::parse(&text).map_err(io::Error::other)?;
    Checkpoint::parse(&note.text).map(Some).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use doorward_tlog::Hash;
    use doorward_tlog::tree;
    use doorward_tlog::witness::cosignatures;

    use super::*;

    struct Bed {
        dir: tempfile::TempDir,
        log: Signer,
    }

    impl Bed {
        fn new() -> Self {
            let (log, _) = Signer::generate("doorward/gw", Kind::Ed25519).unwrap();
            Self { dir: tempfile::tempdir().unwrap(), log }
        }

        fn witness(&self) -> Witness {
            let (dir, key) = (self.dir.path().join("seen"), self.dir.path().join("key"));
            Witness::open(&dir, &key, "witness.example/w1", vec![self.log.vkey()]).unwrap()
        }

        fn request(&self, origin: &str, signer: &Signer, old: usize, leaves: &[Hash]) -> String {
            let (old_size, size) = (old as u64, leaves.len() as u64);
            let root = tree::root(&mut &*leaves, size).unwrap();
            let (time_us, extra) = (Some(1), Vec::new());
            let note = Checkpoint { origin: origin.to_owned(), size, root, time_us, extra }.sign(signer);
            let proof = tree::consistency(&mut &*leaves, old_size.min(size), size).unwrap();
            AddCheckpoint { old_size, proof, note }.to_string()
        }
    }

    #[test]
    fn a_witness_cosigns_one_history_only() {
        let bed = Bed::new();
        let leaves: Vec<Hash> = (0..9_u8).map(|n| leaf_hash(&[n])).collect();
        let mut other = leaves.clone();
        other[1] = [7; 32];
        let (origin, log) = ("doorward/gw/5", &bed.log);
        let (forger, _) = Signer::generate("doorward/gw", Kind::Ed25519).unwrap();
        let ask = |body: String| {
            // Each time it is started anew: it remembers.
            let answer = bed.witness().add_checkpoint(body.as_bytes(), 1_700_000_000);
            (answer.status, answer.text)
        };
        assert_eq!(ask("old 0\n".to_owned()).0, 400);
        assert_eq!(ask(bed.request("doorward/gw2", log, 0, &leaves)).0, 404);
        assert_eq!(ask(bed.request("doorward/gw/x", log, 0, &leaves)).0, 404);
        assert_eq!(ask(bed.request(origin, &forger, 0, &leaves)).0, 403);
        assert_eq!(ask(bed.request(origin, log, 3, &leaves)), (409, "0\n".to_owned()));
        let body = bed.request(origin, log, 0, &leaves[..4]);
        let (status, lines) = ask(body.clone());
        assert_eq!(status, 200);
        let text = AddCheckpoint::parse(&body).unwrap().note.text;
        let note = Note { text, signatures: cosignatures(&lines).unwrap() };
        assert_eq!(bed.witness().vkey().verify(&note), Ok(Some(1_700_000_000)));
        assert_eq!(ask(bed.request(origin, log, 4, &leaves[..4])).0, 200, "the same again");
        assert_eq!(ask(bed.request(origin, log, 4, &other[..4])).0, 409, "another root");
        assert_eq!(ask(bed.request(origin, log, 4, &other)).0, 422, "another history");
        assert_eq!(ask(bed.request(origin, log, 0, &other)), (409, "4\n".to_owned()));
        assert_eq!(ask(bed.request(origin, log, 9, &leaves[..4])).0, 400, "it shrank");
        // Nothing is cosigned that cannot be kept elsewhere, and it may be asked for again.
        let body = bed.request(origin, log, 4, &leaves);
        let refused = bed.witness().add_checkpoint_if(body.as_bytes(), 1, &|_| false);
        assert_eq!((refused.status, refused.text.contains("cannot be recorded")), (503, true));
        assert_eq!(ask(body), (409, "9\n".to_owned()));
        assert_eq!(ask(bed.request(origin, log, 9, &leaves)).0, 200);
        assert_eq!(ask(bed.request("doorward/gw/6", log, 0, &other)).0, 200, "another epoch");
    }

    #[test]
    fn the_witness_key_is_for_its_own_eyes() {
        use std::os::unix::fs::PermissionsExt;
        let bed = Bed::new();
        let first = bed.witness().vkey();
        assert_eq!(bed.witness().vkey(), first);
        let mode = bed.dir.path().join("key").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
}
