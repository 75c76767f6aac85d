//! The request of tlog-witness: `add-checkpoint`.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::checkpoint::{decimal, hash};
use crate::note::{NOTE_MAX, Note, NoteError, SIGNATURES_MAX, Signature};
use crate::tree::{Hash, PROOF_MAX};

/// The most bytes of a request: the old size, a proof and a note.
pub const REQUEST_MAX: usize = NOTE_MAX + 64 + PROOF_MAX * 45;

/// A checkpoint, and the proof that it goes on from the last one that the witness has cosigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size of the last checkpoint that the witness has cosigned; 0 when it has none.
    pub old_size: u64,
    /// The consistency proof.
    pub proof: Vec<Hash>,
    /// The signed checkpoint.
    pub note: Note,
}

impl AddCheckpoint {
    /// Reads a request's body.
    pub fn parse(body: &str) -> Result<Self, NoteError> {
        if body.len() > REQUEST_MAX {
            return Err(NoteError::Form);
        }
        let (head, note) = body.split_once("\n\n").ok_or(NoteError::Form)?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old ")).and_then(decimal);
        let proof: Vec<Hash> =
            lines.map(hash).take(PROOF_MAX + 1).collect::<Option<_>>().ok_or(NoteError::Form)?;
        if proof.len() > PROOF_MAX {
            return Err(NoteError::Form);
        }
        Ok(Self { old_size: old.ok_or(NoteError::Form)?, proof, note: Note::parse(note)? })
    }
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        for hash in &self.proof {
            writeln!(f, "{}", BASE64_STANDARD.encode(hash))?;
        }
        write!(f, "\n{}", self.note)
    }
}

/// Reads the answer of a witness: signature lines.
pub fn cosignatures(body: &str) -> Result<Vec<Signature>, NoteError> {
    if body.len() > NOTE_MAX {
        return Err(NoteError::Form);
    }
    body.lines().take(SIGNATURES_MAX).map(Signature::parse).collect()
}
