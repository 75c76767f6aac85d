//! Encryption at rest: each segment's frames are sealed under a key of its own.
//!
//! ```text
//! segment key := HKDF-SHA256(ikm = the configured key, salt = 32 random bytes of the header,
//!                            info = "doorward spool segment" · SHA-256(header payload))
//! sealed frame := AES-256-GCM(segment key, nonce = 0 u32 · seq u64 BE, aad = kind · seq, body) · tag
//! ```
//!
//! A segment's header says under which key it is sealed; its own bytes are in clear and go into the segment
//! key, so that a changed header opens nothing. Kinds, numbers and lengths of frames are in clear: readers find their way
//! through damage by them.
//!
//! Invariants:
//! - one segment key never seals two frames of one number: it lives as long as the writer's hold on the file, a
//!   failed batch ends both, and [`Sealer`] refuses numbers that do not grow. Whoever writes a segment anew draws
//!   new random bytes;
//! - a frame that does not open is damage, whatever its checksum says;
//! - a segment whose key is missing is an error ([`NoKey`]), and nothing of it is cut, moved or deleted;
//! - nothing here prints a key.

use std::fmt;
use std::io;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hkdf, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorward_settings::parse_key;

use crate::AuditError;
use crate::config::SpoolEncryption;
use crate::personal::xaes::{Broken, HALF_BYTES, KEY_BYTES, KeyBytes, TAG_BYTES, random};
use crate::wire::{self, Frame, KIND_AND_SEQ, PREFIX, RANDOM_BYTES};

/// Characters of a key's id.
const ID_CHARS: usize = 11;

/// A segment is sealed under a key that the configuration does not name.
#[derive(Debug, thiserror::Error)]
#[error(
    "segment {segment} is encrypted under the spool key {key_id}, and the configuration does not name that key: give it as \
     `spool.encryption.key`, or in `spool.encryption.old_keys` until the segment is shipped"
)]
pub(crate) struct NoKey {
    pub(crate) segment: String,
    pub(crate) key_id: String,
}

/// The key that an error is about, if it is about a missing key.
pub(crate) fn missing_key(error: &io::Error) -> Option<&NoKey> {
    error.get_ref()?.downcast_ref()
}

/// One configured key.
pub(crate) struct SpoolKey {
    id: Box<str>,
    bytes: KeyBytes,
}

impl SpoolKey {
    /// Reads the secret's text: 32 random bytes, as base64 or as 64 hex digits.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let bytes = parse_key(text)?;
        let mac = hmac::Key::new(hmac::HMAC_SHA256, &bytes[..]);
        let id = URL_SAFE_NO_PAD.encode(hmac::sign(&mac, b"doorward spool key id").as_ref());
        Ok(Self { id: id.get(..ID_CHARS).unwrap_or(&id).into(), bytes })
    }

    /// The key of one segment, by its header's random bytes and payload.
    fn segment(&self, random: &[u8; RANDOM_BYTES], header: &[u8]) -> Result<LessSafeKey, Broken> {
        let header = digest::digest(&digest::SHA256, header);
        let info = [b"doorward spool segment".as_slice(), header.as_ref()];
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, random).extract(&self.bytes[..]);
        let mut derived = KeyBytes::default();
        extracted.expand(&info, KeyLength)?.fill(&mut derived[..])?;
        Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derived[..])?))
    }
}

impl fmt::Debug for SpoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpoolKey({})", self.id)
    }
}

struct KeyLength;

impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

/// The keys of one spool. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys(Arc<Named>);

#[derive(Debug, Default)]
struct Named {
    /// Under which new segments are sealed; without it they are plain.
    current: Option<SpoolKey>,
    old: Vec<SpoolKey>,
}

impl Keys {
    pub(crate) fn new(current: Option<SpoolKey>, old: Vec<SpoolKey>) -> Self {
        Self(Arc::new(Named { current, old }))
    }

    /// Reads the configured secrets. Blocks.
    pub(crate) fn read(config: Option<&SpoolEncryption>) -> Result<Self, AuditError> {
        let Some(config) = config else { return Ok(Self::default()) };
        let one = |name: &'static str, reference: &doorward_settings::SecretRef| {
            let secret = reference.read().map_err(|problem| problem.message);
            let key = secret.and_then(|text| SpoolKey::parse(text.expose()).map_err(str::to_owned));
            key.map_err(|text| AuditError::Config { key: name, text })
        };
        let current = config.key.as_ref().map(|key| one("spool.encryption.key", key)).transpose()?;
        let old = config.old_keys.iter().map(|key| one("spool.encryption.old_keys", key));
        Ok(Self::new(current, old.collect::<Result<_, _>>()?))
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.current.is_none() && self.0.old.is_empty()
    }

    /// The id of the key for new segments, and random bytes for one of them; `None` when they are plain.
    pub(crate) fn draw(&self) -> Result<Option<wire::Encryption<'_>>, Broken> {
        let Some(key) = &self.0.current else { return Ok(None) };
        Ok(Some(wire::Encryption { key_id: (&*key.id).into(), random: random()? }))
    }

    /// What opens the frames of the segment with this header; `None` when they are plain, or of a format that we do not
    /// know.
    pub(crate) fn opener(&self, segment: &str, header: &[u8]) -> io::Result<Option<Opener>> {
        let Some((salt, key)) = self.segment_key(segment, header)? else { return Ok(None) };
        Ok(Some(Opener { key, salt }))
    }

    /// What seals the frames of the segment with this header.
    pub(crate) fn sealer(&self, segment: &str, header: &[u8]) -> io::Result<Option<Sealer>> {
        let Some((salt, key)) = self.segment_key(segment, header)? else { return Ok(None) };
        let last = wire::seq(header).unwrap_or(u64::MAX);
        Ok(Some(Sealer { key, salt, last }))
    }

    fn segment_key(&self, segment: &str, header: &[u8]) -> io::Result<Option<(u64, LessSafeKey)>> {
        let Ok((_, Frame::Header(wire::Header { salt, encryption: Some(encryption), .. }))) =
            wire::decode(header)
        else {
            return Ok(None);
        };
        let mut keys = self.0.current.iter().chain(&self.0.old);
        let key = keys.find(|key| *key.id == *encryption.key_id).ok_or_else(|| {
            let (segment, key_id) = (segment.to_owned(), encryption.key_id.clone().into_owned());
            io::Error::other(NoKey { segment, key_id })
        })?;
        let derived = key.segment(&encryption.random, header).map_err(io::Error::other)?;
        Ok(Some((salt, derived)))
    }
}

/// Opens the frames of one segment.
pub(crate) struct Opener {
    key: LessSafeKey,
    /// The segment's salt.
    pub(crate) salt: u64,
}

impl Opener {
    /// Appends what a sealed payload says to `out`, as it would stand in a plain segment. Otherwise `out` is as before.
    pub(crate) fn open(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        let from = out.len();
        let opened = self.open_behind(payload, out);
        if opened.is_err() {
            out.truncate(from);
        }
        opened
    }

    fn open_behind(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        let (clear, sealed) = payload.split_at_checked(KIND_AND_SEQ).ok_or(Broken)?;
        let (sealed, tag) =
            sealed.len().checked_sub(TAG_BYTES).and_then(|at| sealed.split_at_checked(at)).ok_or(Broken)?;
        let seq = wire::seq(payload).ok_or(Broken)?;
        out.extend_from_slice(clear);
        let from = out.len();
        out.resize(from + sealed.len(), 0);
        let body = out.get_mut(from..).ok_or(Broken)?;
        Ok(self.key.open_separate_gather(nonce(seq), Aad::from(clear), sealed, tag, body)?)
    }
}

/// Seals the frames of one segment that is being written.
pub(crate) struct Sealer {
    key: LessSafeKey,
    salt: u64,
    last: u64,
}

impl Sealer {
    /// Seals the frame that stands at the end of `out`, from `start` on. Numbers grow from call to call.
    pub(crate) fn seal(&mut self, out: &mut Vec<u8>, start: usize) -> Result<(), Broken> {
        let payload = start.saturating_add(PREFIX);
        let seq = out.get(payload..).and_then(wire::seq).ok_or(Broken)?;
        if seq <= self.last {
            return Err(Broken);
        }
        self.last = seq;
        let (clear, body) = out
            .get_mut(payload..)
            .and_then(|payload| payload.split_at_mut_checked(KIND_AND_SEQ))
            .ok_or(Broken)?;
        let tag = self.key.seal_in_place_separate_tag(nonce(seq), Aad::from(&*clear), body)?;
        out.extend_from_slice(tag.as_ref());
        wire::finish_frame(out, start, self.salt);
        Ok(())
    }
}

fn nonce(seq: u64) -> Nonce {
    let mut bytes = [0; HALF_BYTES];
    for (to, from) in bytes.iter_mut().rev().zip(seq.to_le_bytes()) {
        *to = from;
    }
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
pub(crate) mod tests;
