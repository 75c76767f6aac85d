//! Checkpoints (tlog-checkpoint): the text of a note that tells a log's size and root.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::note::{Note, NoteError, Signer};
use crate::tree::Hash;

/// What a checkpoint tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log.
    pub origin: String,
    /// Leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// Reads the text of a note. Lines after the third are not ours to understand, and are passed over.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.strip_suffix('\n').ok_or(NoteError::Form)?.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(NoteError::Form);
        };
        if origin.is_empty() || lines.any(str::is_empty) {
            return Err(NoteError::Form);
        }
        let size = decimal(size).ok_or(NoteError::Form)?;
        Ok(Self { origin: origin.to_owned(), size, root: hash(root).ok_or(NoteError::Form)? })
    }

    /// The signed note of this checkpoint.
    pub fn sign(&self, signer: &Signer) -> Note {
        let text = self.to_string();
        let signatures = vec![signer.sign(&text, 0)];
        Note { text, signatures }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, BASE64_STANDARD.encode(self.root))
    }
}

/// A number without leading zeroes.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let number = if plain { text.parse().ok() } else { None };
    number.filter(|number| *number < 1 << 63)
}

/// A hash in base64.
pub(crate) fn hash(text: &str) -> Option<Hash> {
    BASE64_STANDARD.decode(text).ok()?.try_into().ok()
}
