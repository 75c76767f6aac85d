//! Signed notes (signed-note): Ed25519 signatures, and timestamped cosignatures (tlog-cosignature, `cosignature/v1`).
//!
//! Constraints: a signature of a known key that does not verify condemns the note; unknown keys are passed over;
//! a note has at most [`NOTE_MAX`] bytes and [`SIGNATURES_MAX`] signatures.

use std::fmt;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::tree::digest;

/// The most bytes of a note.
pub const NOTE_MAX: usize = 64 << 10;
/// The most signatures of a note.
pub const SIGNATURES_MAX: usize = 64;
/// The most bytes of a key's name.
pub const NAME_MAX: usize = 512;
const DASH: &str = "\u{2014} ";
const PRIVATE: &str = "PRIVATE+KEY+";

/// Why a note, a key or a signature is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The text is no signed note.
    #[error("it is not a signed note")]
    Form,
    /// The text is no key of a kind that is known.
    #[error("it is not a key of signed-note with Ed25519 (type 0x01 or 0x04)")]
    Key,
    /// The note has no signature of the key.
    #[error("it has no signature of this key")]
    Unsigned,
    /// The note has a signature of the key that does not match its text.
    #[error("its signature does not match its text")]
    Signature,
    /// The random generator of the system fails.
    #[error("the system gives no random bytes")]
    Random,
}

/// What a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The text itself (0x01): what a log does.
    Ed25519,
    /// The text with a time (0x04): what a witness does.
    Cosignature,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 1,
            Self::Cosignature => 4,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Ed25519),
            4 => Some(Self::Cosignature),
            _ => None,
        }
    }
}

/// One signature of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The key's name.
    pub name: String,
    /// The key's id.
    pub id: [u8; 4],
    /// What follows the id.
    pub bytes: Vec<u8>,
}

impl Signature {
    /// Reads one line, without its newline.
    pub fn parse(line: &str) -> Result<Self, NoteError> {
        let (name, encoded) =
            line.strip_prefix(DASH).and_then(|rest| rest.split_once(' ')).ok_or(NoteError::Form)?;
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| NoteError::Form)?;
        let (id, bytes) = bytes.split_first_chunk::<4>().ok_or(NoteError::Form)?;
        if !is_name(name) || bytes.is_empty() {
            return Err(NoteError::Form);
        }
        Ok(Self { name: name.to_owned(), id: *id, bytes: bytes.to_vec() })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id[..], &self.bytes].concat();
        writeln!(f, "{DASH}{} {}", self.name, BASE64_STANDARD.encode(bytes))
    }
}

/// A text with signatures that nobody has checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The text, with its last newline.
    pub text: String,
    /// The signatures.
    pub signatures: Vec<Signature>,
}

impl Note {
    /// Reads a note.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > NOTE_MAX || note.chars().any(|c| c < ' ' && c != '\n') {
            return Err(NoteError::Form);
        }
        let split = note.rfind("\n\n").ok_or(NoteError::Form)?;
        let (text, lines) = note.split_at_checked(split + 1).ok_or(NoteError::Form)?;
        let lines = lines.strip_prefix('\n').and_then(|lines| lines.strip_suffix('\n'));
        let lines: Vec<&str> = lines.ok_or(NoteError::Form)?.split('\n').collect();
        if lines.len() > SIGNATURES_MAX {
            return Err(NoteError::Form);
        }
        let signatures = lines.into_iter().map(Signature::parse).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), signatures })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| signature.fmt(f))
    }
}

/// A public key with its name, in the form `NAME+ID+KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vkey {
    name: String,
    kind: Kind,
    public: [u8; 32],
}

impl Vkey {
    /// Reads the form in which keys are handed out.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key);
        };
        let key = BASE64_STANDARD.decode(key).map_err(|_| NoteError::Key)?;
        let (kind, public) = key.split_first().ok_or(NoteError::Key)?;
        let kind = Kind::of(*kind).ok_or(NoteError::Key)?;
        let public = public.try_into().map_err(|_| NoteError::Key)?;
        let vkey = Self { name: name.to_owned(), kind, public };
        if !is_name(name) || hex(vkey.id()) != id { Err(NoteError::Key) } else { Ok(vkey) }
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the key signs.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The key's id.
    pub fn id(&self) -> [u8; 4] {
        key_id(&self.name, self.kind, &self.public)
    }

    /// Checks this key's signature of the note; a cosignature tells its time, in seconds.
    pub fn verify(&self, note: &Note) -> Result<Option<u64>, NoteError> {
        let id = self.id();
        let mine =
            note.signatures.iter().filter(|signature| signature.name == self.name && signature.id == id);
        let mut found = Err(NoteError::Unsigned);
        for signature in mine {
            found = Ok(self.verify_one(&note.text, &signature.bytes)?);
        }
        found
    }

    /// Checks one signature, given without the key's id.
    pub fn verify_one(&self, text: &str, bytes: &[u8]) -> Result<Option<u64>, NoteError> {
        let key = UnparsedPublicKey::new(&ED25519, self.public);
        match self.kind {
            Kind::Ed25519 => {
                key.verify(text.as_bytes(), bytes).map_err(|_| NoteError::Signature)?;
                Ok(None)
            }
            Kind::Cosignature => {
                let (time, bytes) = bytes.split_first_chunk::<8>().ok_or(NoteError::Signature)?;
                let time = u64::from_be_bytes(*time);
                let message = cosigned(time, text);
                key.verify(message.as_bytes(), bytes).map_err(|_| NoteError::Signature)?;
                Ok(Some(time))
            }
        }
    }
}

impl fmt::Display for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[self.kind.byte()], &self.public[..]].concat();
        write!(f, "{}+{}+{}", self.name, hex(self.id()), BASE64_STANDARD.encode(key))
    }
}

/// A private key with its name. Prints nothing of itself.
pub struct Signer {
    name: String,
    kind: Kind,
    pair: Ed25519KeyPair,
}

impl Signer {
    /// A new key, and the text to keep of it: `PRIVATE+KEY+NAME+ID+SEED`.
    pub fn generate(name: &str, kind: Kind) -> Result<(Self, String), NoteError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| NoteError::Random)?;
        let signer = Self::from_seed(name, kind, &seed)?;
        let secret = [&[kind.byte()], &seed[..]].concat();
        let id = hex(signer.vkey().id());
        let text = format!("{PRIVATE}{name}+{id}+{}", BASE64_STANDARD.encode(secret));
        Ok((signer, text))
    }

    /// Reads the text that was kept.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let rest = text.trim().strip_prefix(PRIVATE).ok_or(NoteError::Key)?;
        let mut parts = rest.splitn(3, '+');
        let (Some(name), Some(id), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key);
        };
        let secret = BASE64_STANDARD.decode(secret).map_err(|_| NoteError::Key)?;
        let (kind, seed) = secret.split_first().ok_or(NoteError::Key)?;
        let kind = Kind::of(*kind).ok_or(NoteError::Key)?;
        let signer = Self::from_seed(name, kind, seed)?;
        if hex(signer.vkey().id()) == id { Ok(signer) } else { Err(NoteError::Key) }
    }

    fn from_seed(name: &str, kind: Kind, seed: &[u8]) -> Result<Self, NoteError> {
        if !is_name(name) {
            return Err(NoteError::Key);
        }
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| NoteError::Key)?;
        Ok(Self { name: name.to_owned(), kind, pair })
    }

    /// The public key.
    pub fn vkey(&self) -> Vkey {
        let mut public = [0; 32];
        public.iter_mut().zip(self.pair.public_key().as_ref()).for_each(|(to, from)| *to = *from);
        Vkey { name: self.name.clone(), kind: self.kind, public }
    }

    /// Signs a text, which ends with a newline. `time` (seconds) goes into cosignatures only.
    pub fn sign(&self, text: &str, time: u64) -> Signature {
        let bytes = match self.kind {
            Kind::Ed25519 => self.pair.sign(text.as_bytes()).as_ref().to_vec(),
            Kind::Cosignature => {
                let signature = self.pair.sign(cosigned(time, text).as_bytes());
                [&time.to_be_bytes()[..], signature.as_ref()].concat()
            }
        };
        Signature { name: self.name.clone(), id: self.vkey().id(), bytes }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("name", &self.name).finish_non_exhaustive()
    }
}

fn cosigned(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

fn key_id(name: &str, kind: Kind, public: &[u8; 32]) -> [u8; 4] {
    let hash = digest(&[name.as_bytes(), b"\n", &[kind.byte()], public]);
    let [a, b, c, d, ..] = hash;
    [a, b, c, d]
}

fn hex([a, b, c, d]: [u8; 4]) -> String {
    format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
}

fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}
