//! Checkpoints (tlog-checkpoint): the text of a note that tells a log's size and root.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::note::{Note, NoteError, Signer};
use crate::tree::Hash;

/// What the extension line of the time begins with.
const TIME: &str = "time ";

/// What a checkpoint tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log.
    pub origin: String,
    /// Leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// When it was signed, in microseconds since 1970: the extension line `time NUMBER`.
    pub time_us: Option<i64>,
    /// Other extension lines, which mean what the log's own people agree on; none is empty or holds an end of line.
    pub extra: Vec<String>,
}

impl Checkpoint {
    /// Reads the text of a note. Of the lines after the third, those that are not ours to understand are kept as they are.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.strip_suffix('\n').ok_or(NoteError::Form)?.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(NoteError::Form);
        };
        if origin.is_empty() || lines.clone().any(str::is_empty) {
            return Err(NoteError::Form);
        }
        let size = decimal(size).ok_or(NoteError::Form)?;
        let time = |line: &str| decimal(line.strip_prefix(TIME)?).map(u64::cast_signed);
        let (mut time_us, mut extra) = (None, Vec::new());
        for line in lines {
            match time(line) {
                Some(time) if time_us.is_none() => time_us = Some(time),
                _ => extra.push(line.to_owned()),
            }
        }
        Ok(Self { origin: origin.to_owned(), size, root: hash(root).ok_or(NoteError::Form)?, time_us, extra })
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
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, BASE64_STANDARD.encode(self.root))?;
        if let Some(time_us) = self.time_us {
            writeln!(f, "{TIME}{time_us}")?;
        }
        self.extra.iter().try_for_each(|line| writeln!(f, "{line}"))
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
