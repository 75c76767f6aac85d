//! Sealing values, and opening them.
//!
//! ```text
//! value  := "p1." base64url(first half 12 · counter 6 · sealed · tag 16)
//!         | "d1." base64url(key id 16 · first half 12 · counter 6 · sealed · tag 16)
//! nonce  := first half 12 · counter 6 · zero 6                     (XAES-256-GCM)
//! aad    := "p1" | "d1" · key id 16 · access id 16 · column · 0 · action index u32 BE
//! ```
//!
//! Nonces: each start of a gateway draws a first half of 96 random bits and counts from there, so gateways
//! that share a person's key, and a gateway before and after a restart, never meet under one derived key,
//! and nobody has to remember how far he counted. A first half serves [`SEALS_MAX`] values; then another is
//! drawn. (Random 96-bit nonces under the person's key itself would have been used up within a day by one
//! busy service: NIST SP 800-38D allows 2^32.) Numbering by (gateway, epoch, frame) would need no random
//! bits, and would repeat a nonce when two gateways are given one name by mistake.

use aws_lc_rs::aead::LessSafeKey;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::borrow::Cow;
use uuid::Uuid;

use super::xaes::{self, Broken, HALF_BYTES, Half, KeyBytes, TAG_BYTES};
use super::{Field, Fields};
use crate::row::Value;

/// Values that one first half of a nonce serves.
pub(crate) const SEALS_MAX: u64 = 1 << 32;
/// Bytes of the counter that are kept with a value.
const COUNTER_BYTES: usize = 6;
/// Characters before the base64.
const MARK_CHARS: usize = 3;

/// Whose key sealed a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A person's, whose id is the record's `subject_id`.
    Person,
    /// A day's, for callers who are not known; its id stands in the value.
    Day,
}

impl Kind {
    const fn mark(self) -> &'static str {
        match self {
            Self::Person => "p1.",
            Self::Day => "d1.",
        }
    }
}

/// A key that is ready to seal under the current first half.
pub(crate) struct SealingKey {
    pub(crate) id: Uuid,
    kind: Kind,
    derived: LessSafeKey,
}

impl SealingKey {
    /// The person's id, in records under this key; unknown callers have none.
    pub(crate) fn subject_id(&self) -> Option<Uuid> {
        (self.kind == Kind::Person).then_some(self.id)
    }
}

/// The writer's nonces and buffers. One thread, one of these.
pub(crate) struct Sealing {
    fields: Fields,
    nonces: Nonces,
}

/// What sealing a value needs and changes.
struct Nonces {
    first: Half,
    counter: u64,
    aad: Vec<u8>,
    buffer: Vec<u8>,
    failed: bool,
}

impl Sealing {
    pub(crate) fn new(fields: Fields) -> Result<Self, Broken> {
        let first = xaes::random()?;
        let nonces = Nonces { first, counter: 0, aad: Vec::new(), buffer: Vec::new(), failed: false };
        Ok(Self { fields, nonces })
    }

    /// Makes a key ready. It is good until [`Self::renew`] says that it is not.
    pub(crate) fn ready(&self, id: Uuid, kind: Kind, key: &KeyBytes) -> Result<SealingKey, Broken> {
        Ok(SealingKey { id, kind, derived: xaes::derive(key, &self.nonces.first)? })
    }

    /// Draws another first half when this one has served; keys have to be made ready again.
    pub(crate) fn renew(&mut self) -> Result<bool, Broken> {
        if self.nonces.counter < SEALS_MAX {
            return Ok(false);
        }
        self.nonces.first = xaes::random()?;
        self.nonces.counter = 0;
        Ok(true)
    }

    /// Whether a value could not be sealed since this was last asked. Such a value is not kept, and what
    /// was made of it must not be either.
    pub(crate) fn take_failure(&mut self) -> bool {
        std::mem::take(&mut self.nonces.failed)
    }

    /// Begins to seal the values of one call.
    pub(crate) fn call<'s>(&'s mut self, key: &'s SealingKey, access_id: &[u8; 16]) -> CallSeal<'s> {
        let Self { fields, nonces } = self;
        put_aad(&mut nonces.aad, key.kind, key.id, access_id);
        let base = nonces.aad.len();
        CallSeal { fields, nonces, key, base }
    }
}

/// Seals the values of one call.
pub(crate) struct CallSeal<'s> {
    fields: &'s Fields,
    nonces: &'s mut Nonces,
    key: &'s SealingKey,
    base: usize,
}

impl<'s> CallSeal<'s> {
    /// How each of a frame's columns is sealed, if it is, in order.
    pub(crate) fn fields(&self) -> impl Iterator<Item = Option<Field>> + use<'s> {
        self.fields.calls.iter().copied()
    }

    /// Seals the value of a column. `None` stands for no value.
    pub(crate) fn value(&mut self, field: Field, value: &Value<'_>) -> Option<Bytes<'_>> {
        match value {
            Value::Text(text) | Value::Json(text) => self.seal(field, 0, text),
            Value::Null => None,
            // Nothing in clear may pass: a number in a sealed column is a mistake of the table.
            Value::Personal(_) | Value::Int(_) | Value::Uuid(_) => {
                self.nonces.failed = true;
                None
            }
        }
    }

    /// Seals an action's object, if objects are sealed.
    pub(crate) fn object<'a>(&mut self, index: usize, object: Cow<'a, str>) -> Cow<'a, str> {
        let Some(field) = self.fields.object else { return object };
        let mut text = Vec::new();
        if let Some(sealed) = self.seal(field, index, &object) {
            sealed.put(&mut text);
        }
        Cow::Owned(String::from_utf8(text).unwrap_or_default())
    }

    fn seal(&mut self, field: Field, action: usize, text: &str) -> Option<Bytes<'_>> {
        if self.try_seal(field, action, text).is_err() {
            self.nonces.failed = true;
            return None;
        }
        Some(Bytes { kind: self.key.kind, json: field.json, bytes: &self.nonces.buffer })
    }

    fn try_seal(&mut self, field: Field, action: usize, text: &str) -> Result<(), Broken> {
        let Nonces { aad, buffer, counter, first, .. } = &mut *self.nonces;
        aad.truncate(self.base);
        put_place(aad, field.name, action);
        *counter += 1;
        let [_, _, count @ ..] = counter.to_be_bytes();
        buffer.clear();
        if self.key.kind == Kind::Day {
            buffer.extend_from_slice(self.key.id.as_bytes());
        }
        buffer.extend_from_slice(first);
        buffer.extend_from_slice(&count);
        let from = buffer.len();
        buffer.extend_from_slice(text.as_bytes());
        xaes::seal_under(&self.key.derived, second_half(count), aad, buffer, from)
    }
}

/// A value that is sealed, before it is spelled as text.
pub(crate) struct Bytes<'s> {
    kind: Kind,
    json: bool,
    bytes: &'s [u8],
}

impl Bytes<'_> {
    /// How long the text is.
    pub(crate) fn len(&self) -> usize {
        let quotes = if self.json { 2 } else { 0 };
        // Base64 without padding.
        quotes + MARK_CHARS + (self.bytes.len() * 4).div_ceil(3)
    }

    /// Appends the text.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let end = out.len() + self.len();
        if self.json {
            out.push(b'"');
        }
        out.extend_from_slice(self.kind.mark().as_bytes());
        let from = out.len();
        out.resize(end, b'"');
        let room = out.get_mut(from..).unwrap_or_default();
        // The room is as long as the text, or longer by the quote.
        let _ = URL_SAFE_NO_PAD.encode_slice(self.bytes, room);
    }
}

fn second_half(count: [u8; COUNTER_BYTES]) -> Half {
    let [a, b, c, d, e, f] = count;
    [a, b, c, d, e, f, 0, 0, 0, 0, 0, 0]
}

fn put_aad(aad: &mut Vec<u8>, kind: Kind, id: Uuid, access_id: &[u8; 16]) {
    aad.clear();
    aad.extend_from_slice(kind.mark().as_bytes());
    aad.extend_from_slice(id.as_bytes());
    aad.extend_from_slice(access_id);
}

fn put_place(aad: &mut Vec<u8>, column: &str, action: usize) {
    aad.extend_from_slice(column.as_bytes());
    aad.push(0);
    aad.extend_from_slice(&u32::try_from(action).unwrap_or(u32::MAX).to_be_bytes());
}

/// A value as it is kept, taken apart.
pub(crate) struct Parsed {
    pub(crate) kind: Kind,
    /// The key's id, where it stands in the value.
    pub(crate) key_id: Option<Uuid>,
    pub(crate) first: Half,
    count: [u8; COUNTER_BYTES],
    sealed: Vec<u8>,
}

impl Parsed {
    /// Reads a value; `None` when it does not look like one that was sealed.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let text = text.strip_prefix('"').map_or(Some(text), |text| text.strip_suffix('"'))?;
        let kind = [Kind::Person, Kind::Day].into_iter().find(|kind| text.starts_with(kind.mark()))?;
        let bytes = URL_SAFE_NO_PAD.decode(text.get(MARK_CHARS..)?).ok()?;
        let rest = bytes.as_slice();
        let (key_id, rest) = match kind {
            Kind::Person => (None, rest),
            Kind::Day => {
                let (id, rest) = rest.split_first_chunk::<16>()?;
                (Some(Uuid::from_bytes(*id)), rest)
            }
        };
        let (first, rest) = rest.split_first_chunk::<HALF_BYTES>()?;
        let (count, sealed) = rest.split_first_chunk::<COUNTER_BYTES>()?;
        let whole = sealed.len() >= TAG_BYTES;
        whole.then(|| Self { kind, key_id, first: *first, count: *count, sealed: sealed.to_vec() })
    }

    /// Opens it with the key that was derived for its first half.
    pub(crate) fn open(mut self, derived: &LessSafeKey, place: &Place<'_>) -> Result<String, Broken> {
        let mut aad = Vec::new();
        put_aad(&mut aad, self.kind, self.key_id.unwrap_or(place.subject_id), place.access_id.as_bytes());
        put_place(&mut aad, place.column, place.action);
        let text = xaes::open_under(derived, second_half(self.count), &aad, &mut self.sealed)?;
        String::from_utf8(text.to_vec()).map_err(|_| Broken)
    }
}

/// Where a value stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) subject_id: Uuid,
    pub(crate) access_id: Uuid,
    pub(crate) column: &'a str,
    /// The action's index, for the column `object`; 0 for all others.
    pub(crate) action: usize,
}
