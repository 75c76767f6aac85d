//! The bundle of tlog-proof: that a leaf is in a log, checked without the log.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::checkpoint::{decimal, hash};
use crate::note::{NOTE_MAX, Note, NoteError};
use crate::tree::{Hash, PROOF_MAX};

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
/// The most bytes of the extra data.
pub const EXTRA_MAX: usize = 16 << 20;
/// The most bytes of a bundle.
pub const BUNDLE_MAX: usize = EXTRA_MAX / 3 * 4 + NOTE_MAX + PROOF_MAX * 45 + 256;

/// An inclusion proof with its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// What the application needs to make the leaf again; not trusted by itself.
    pub extra: Vec<u8>,
    /// The leaf's place.
    pub index: u64,
    /// From the leaf's sibling up.
    pub proof: Vec<Hash>,
    /// The signed checkpoint with its cosignatures.
    pub note: Note,
}

impl Bundle {
    /// Reads a bundle.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        if text.len() > BUNDLE_MAX {
            return Err(NoteError::Form);
        }
        let (head, note) = text.split_once("\n\n").ok_or(NoteError::Form)?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(FIRST_LINE) {
            return Err(NoteError::Form);
        }
        let extra = match lines.peek().and_then(|line| line.strip_prefix("extra ")) {
            Some(encoded) => {
                lines.next();
                BASE64_STANDARD.decode(encoded).map_err(|_| NoteError::Form)?
            }
            None => Vec::new(),
        };
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).and_then(decimal);
        let proof: Vec<Hash> =
            lines.map(hash).take(PROOF_MAX + 1).collect::<Option<_>>().ok_or(NoteError::Form)?;
        if proof.len() > PROOF_MAX {
            return Err(NoteError::Form);
        }
        Ok(Self { extra, index: index.ok_or(NoteError::Form)?, proof, note: Note::parse(note)? })
    }
}

impl fmt::Display for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        if !self.extra.is_empty() {
            writeln!(f, "extra {}", BASE64_STANDARD.encode(&self.extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.proof {
            writeln!(f, "{}", BASE64_STANDARD.encode(hash))?;
        }
        write!(f, "\n{}", self.note)
    }
}
