//! The bytes of a frame, as segment files hold them.
//!
//! ```text
//! frame   := length u32 LE · crc32c u32 LE · payload          (crc over salt, length and payload)
//! payload := kind u8 · seq u64 LE · body
//! header  := format u16 · salt u64 · epoch u64 · gateway text · columns varint, text… · encryption
//! encryption := nothing in format 1 · (key id text · random 32 bytes) in format 2
//! access  := access id 16 bytes · values varint, value… · actions varint, (verb, resource, object texts)…
//! gap     := lost u64 · from µs i64 · until µs i64 · reason text
//! ```
//!
//! A segment describes itself: its header names the columns, each value carries its type. In a segment of format 2 the
//! body of each frame behind the header is sealed ([`crate::spool::encryption`]); [`decode`] reads it once it is opened.
//!
//! Constraints: decoding never panics and never allocates more than the bytes at hand justify; every
//! length is checked. The salt is random for each segment, so bytes that a caller manages to have recorded
//! can never pass for a frame.

use std::borrow::Cow;

use uuid::Uuid;

use crate::columns::CALL_COLUMNS;
use crate::personal::Sealed;
use crate::personal::seal::{Bytes, CallSeal};
use crate::row::{Input, OBJECT_MAX, TEXT_MAX, Value, bounded};

/// The version of this format, for plain segments.
pub const FORMAT: u16 = 1;
/// The version for segments that are encrypted. Plain ones keep theirs, so that older versions read them.
pub const FORMAT_ENCRYPTED: u16 = 2;
/// Random bytes in the header of an encrypted segment.
pub const RANDOM_BYTES: usize = 32;
/// Bytes of a payload before its body, which are always in clear.
pub(crate) const KIND_AND_SEQ: usize = 9;
/// The most bytes that one frame's payload may have: 1,024 actions with the longest objects fit.
pub const PAYLOAD_MAX: usize = 8 << 20;
/// Bytes before each payload.
pub const PREFIX: usize = 8;
/// The smallest payload: kind and number.
const PAYLOAD_MIN: usize = KIND_AND_SEQ;
/// The most values that an access frame may hold.
const VALUES_MAX: usize = 512;

const HEADER: u8 = 1;
const INTENT: u8 = 2;
const COMPLETION: u8 = 3;
const GAP: u8 = 4;

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// There are fewer bytes than the frame says.
    #[error("the frame is cut short")]
    Short,
    /// The length is impossible.
    #[error("the frame's length is impossible")]
    Length,
    /// The checksum does not match.
    #[error("the frame's checksum does not match")]
    Checksum,
    /// The payload cannot be read.
    #[error("the frame's payload cannot be read")]
    Payload,
}

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame<'a> {
    /// The first frame of each segment.
    Header(Header<'a>),
    /// What will be done.
    Intent(Access<'a>),
    /// What was done, or refused.
    Completion(Access<'a>),
    /// Records that could not be kept.
    Gap(Gap<'a>),
}

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Mixed into the checksum of every later frame of the segment.
    pub salt: u64,
    /// The gateway's start that wrote it.
    pub epoch: u64,
    /// The gateway that wrote it.
    pub gateway_id: Cow<'a, str>,
    /// The names of an access frame's values.
    pub columns: Vec<Cow<'a, str>>,
    /// How the frames behind the header are encrypted, if they are.
    pub encryption: Option<Encryption<'a>>,
}

/// How a segment's frames are encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption<'a> {
    /// Which of the configured keys it is.
    pub key_id: Cow<'a, str>,
    /// What makes the segment's key its own.
    pub random: [u8; RANDOM_BYTES],
}

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub struct Access<'a> {
    /// The call's id.
    pub access_id: Uuid,
    /// Its values, in the order of the segment's columns.
    pub values: Vec<Value<'a>>,
    /// Its actions.
    pub actions: Vec<ActionText<'a>>,
}

/// One action, as rows spell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionText<'a> {
    /// The verb.
    pub verb: Cow<'a, str>,
    /// The resource.
    pub resource: Cow<'a, str>,
    /// The object.
    pub object: Cow<'a, str>,
}

/// Records that could not be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap<'a> {
    /// How many.
    pub lost: u64,
    /// When the first was lost, microseconds.
    pub from_us: i64,
    /// When the last was lost, microseconds.
    pub until_us: i64,
    /// Why.
    pub reason: Cow<'a, str>,
}

/// Appends the header frame of a segment. Its own checksum has no salt.
pub fn put_header(out: &mut Vec<u8>, seq: u64, header: &Header<'_>) {
    put_frame(out, 0, HEADER, seq, |out| {
        let format = if header.encryption.is_some() { FORMAT_ENCRYPTED } else { FORMAT };
        out.extend_from_slice(&format.to_le_bytes());
        out.extend_from_slice(&header.salt.to_le_bytes());
        out.extend_from_slice(&header.epoch.to_le_bytes());
        put_text(out, &header.gateway_id);
        put_length(out, header.columns.len());
        for name in &header.columns {
            put_text(out, name);
        }
        if let Some(encryption) = &header.encryption {
            put_text(out, &encryption.key_id);
            out.extend_from_slice(&encryption.random);
        }
    });
}

/// Appends the frame of one call, and seals what is personal in it: what the columns tell is in clear until
/// here.
pub(crate) fn put_access(
    out: &mut Vec<u8>,
    (salt, seq): (u64, u64),
    intent: bool,
    input: Input<'_>,
    mut seal: CallSeal<'_>,
) {
    let kind = if intent { INTENT } else { COMPLETION };
    put_frame(out, salt, kind, seq, |out| {
        out.extend_from_slice(input.record.access_id.as_bytes());
        put_length(out, CALL_COLUMNS.len());
        for ((_, value), field) in CALL_COLUMNS.iter().zip(seal.fields()) {
            match field {
                None => put_value(out, &value(input)),
                Some(field) => put_sealed(out, seal.value(field, &value(input))),
            }
        }
        let actions = input.record.actions.as_ref().map_or(&[][..], |actions| actions.as_slice());
        put_length(out, actions.len());
        for (index, action) in actions.iter().enumerate() {
            put_text(out, action.verb.as_str());
            put_text(out, &bounded(action.resource.as_str(), TEXT_MAX));
            put_text(out, &seal.object(index, bounded(action.object.as_str(), OBJECT_MAX)));
        }
    });
}

/// Appends the completion of a call that is known by its intent alone, in the order of our columns.
pub fn put_unknown(out: &mut Vec<u8>, salt: u64, seq: u64, access: &Access<'_>) {
    put_frame(out, salt, COMPLETION, seq, |out| {
        out.extend_from_slice(access.access_id.as_bytes());
        put_length(out, access.values.len());
        for value in &access.values {
            put_value(out, value);
        }
        put_length(out, access.actions.len());
        for action in &access.actions {
            put_text(out, &action.verb);
            put_text(out, &action.resource);
            put_text(out, &action.object);
        }
    });
}

/// Appends a gap.
pub fn put_gap(out: &mut Vec<u8>, salt: u64, seq: u64, gap: &Gap<'_>) {
    put_frame(out, salt, GAP, seq, |out| {
        out.extend_from_slice(&gap.lost.to_le_bytes());
        out.extend_from_slice(&gap.from_us.to_le_bytes());
        out.extend_from_slice(&gap.until_us.to_le_bytes());
        put_text(out, &gap.reason);
    });
}

/// Takes the frame at the start of `bytes`: its payload, checked. [`Malformed::Short`] means that more
/// bytes may make it whole.
pub fn payload(bytes: &[u8], salt: u64) -> Result<&[u8], Malformed> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(Malformed::Short)?;
    let (crc, rest) = rest.split_first_chunk::<4>().ok_or(Malformed::Short)?;
    let size = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| Malformed::Length)?;
    if !(PAYLOAD_MIN..=PAYLOAD_MAX).contains(&size) {
        return Err(Malformed::Length);
    }
    let payload = rest.get(..size).ok_or(Malformed::Short)?;
    if checksum(salt, *length, payload) != u32::from_le_bytes(*crc) {
        return Err(Malformed::Checksum);
    }
    Ok(payload)
}

/// The number of a frame, without a look at its checksum or its body.
pub fn peek_seq(bytes: &[u8]) -> Option<(usize, u64)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let size = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let kind = *rest.get(4)?;
    let seq = rest.get(5..)?.first_chunk::<8>()?;
    let plausible = (PAYLOAD_MIN..=PAYLOAD_MAX).contains(&size) && (HEADER..=GAP).contains(&kind);
    plausible.then(|| (size, u64::from_le_bytes(*seq)))
}

/// Reads a payload.
pub fn decode(payload: &[u8]) -> Result<(u64, Frame<'_>), Malformed> {
    let mut input = Reader(payload);
    let kind = input.byte()?;
    let seq = u64::from_le_bytes(input.array()?);
    let frame = match kind {
        HEADER => Frame::Header(input.header()?),
        INTENT => Frame::Intent(input.access()?),
        COMPLETION => Frame::Completion(input.access()?),
        GAP => Frame::Gap(Gap {
            lost: u64::from_le_bytes(input.array()?),
            from_us: i64::from_le_bytes(input.array()?),
            until_us: i64::from_le_bytes(input.array()?),
            reason: input.text()?,
        }),
        _ => return Err(Malformed::Payload),
    };
    if input.0.is_empty() { Ok((seq, frame)) } else { Err(Malformed::Payload) }
}

/// The number of a checked payload's frame.
pub(crate) fn seq(payload: &[u8]) -> Option<u64> {
    payload.get(1..)?.first_chunk::<8>().map(|seq| u64::from_le_bytes(*seq))
}

/// The call's id, when a checked payload is a completion.
pub(crate) fn completed_id(payload: &[u8]) -> Option<[u8; 16]> {
    let (kind, rest) = payload.split_first()?;
    (*kind == COMPLETION).then(|| rest.get(8..)?.first_chunk::<16>().copied())?
}

fn checksum(salt: u64, length: [u8; 4], payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &length);
    crc32c::crc32c_append(crc, payload)
}

fn put_frame(out: &mut Vec<u8>, salt: u64, kind: u8, seq: u64, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    out.push(kind);
    out.extend_from_slice(&seq.to_le_bytes());
    body(out);
    finish_frame(out, start, salt);
}

/// Writes length and checksum of the frame that stands at the end of `out`, from `start` on.
pub(crate) fn finish_frame(out: &mut [u8], start: usize, salt: u64) {
    let Some((prefix, payload)) =
        out.get_mut(start..).and_then(|frame| frame.split_first_chunk_mut::<PREFIX>())
    else {
        return;
    };
    // Every text and count is bounded before it gets here, so the length fits.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let crc = checksum(salt, length, payload).to_le_bytes();
    let [a, b, c, d] = length;
    let [e, f, g, h] = crc;
    *prefix = [a, b, c, d, e, f, g, h];
}

const NULL: u8 = 0;
const INT: u8 = 1;
const TEXT: u8 = 2;
const UUID: u8 = 3;
const JSON: u8 = 4;
const PERSONAL: u8 = 5;

fn put_value(out: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Null => out.push(NULL),
        Value::Int(number) => {
            out.push(INT);
            put_varint(out, ((number << 1) ^ (number >> 63)).cast_unsigned());
        }
        Value::Text(text) => put_tagged(out, TEXT, text),
        Value::Uuid(id) => {
            out.push(UUID);
            out.extend_from_slice(id.as_bytes());
        }
        Value::Json(text) => put_tagged(out, JSON, text),
        Value::Personal(sealed) => put_tagged(out, PERSONAL, sealed.as_stored()),
    }
}

fn put_sealed(out: &mut Vec<u8>, sealed: Option<Bytes<'_>>) {
    match sealed {
        None => out.push(NULL),
        Some(sealed) => {
            out.push(PERSONAL);
            put_length(out, sealed.len());
            sealed.put(out);
        }
    }
}

fn put_tagged(out: &mut Vec<u8>, tag: u8, text: &str) {
    out.push(tag);
    put_text(out, text);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_length(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    put_varint(out, u64::try_from(length).unwrap_or(u64::MAX));
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed::Payload)?;
        self.0 = rest;
        Ok(*first)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed::Payload)?;
        self.0 = rest;
        Ok(*first)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f).checked_shl(shift).ok_or(Malformed::Payload)?;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed::Payload)
    }

    /// A count of things that take a byte each at least, so that no count makes us allocate.
    fn count(&mut self) -> Result<usize, Malformed> {
        let count = usize::try_from(self.varint()?).map_err(|_| Malformed::Payload)?;
        if count <= self.0.len() { Ok(count) } else { Err(Malformed::Payload) }
    }

    fn text(&mut self) -> Result<Cow<'a, str>, Malformed> {
        let length = self.count()?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Malformed::Payload)?;
        self.0 = rest;
        std::str::from_utf8(text).map(Cow::Borrowed).map_err(|_| Malformed::Payload)
    }

    fn value(&mut self) -> Result<Value<'a>, Malformed> {
        Ok(match self.byte()? {
            NULL => Value::Null,
            INT => {
                let number = self.varint()?;
                Value::Int((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
            }
            TEXT => Value::Text(self.text()?),
            UUID => Value::Uuid(Uuid::from_bytes(self.array()?)),
            JSON => Value::Json(self.text()?),
            PERSONAL => Value::Personal(Sealed::stored(self.text()?)),
            _ => return Err(Malformed::Payload),
        })
    }

    fn access(&mut self) -> Result<Access<'a>, Malformed> {
        let access_id = Uuid::from_bytes(self.array()?);
        let count = self.count()?;
        if count > VALUES_MAX {
            return Err(Malformed::Payload);
        }
        // Both are made as large as they get: millions are read, and none should grow step by step.
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(self.value()?);
        }
        let count = self.count()?;
        if count > doorward_core::Actions::MAX {
            return Err(Malformed::Payload);
        }
        let mut actions = Vec::with_capacity(count);
        for _ in 0..count {
            actions.push(self.action()?);
        }
        Ok(Access { access_id, values, actions })
    }

    fn action(&mut self) -> Result<ActionText<'a>, Malformed> {
        Ok(ActionText { verb: self.text()?, resource: self.text()?, object: self.text()? })
    }

    fn header(&mut self) -> Result<Header<'a>, Malformed> {
        let format = u16::from_le_bytes(self.array()?);
        if ![FORMAT, FORMAT_ENCRYPTED].contains(&format) {
            return Err(Malformed::Payload);
        }
        let salt = u64::from_le_bytes(self.array()?);
        let epoch = u64::from_le_bytes(self.array()?);
        let gateway_id = self.text()?;
        let count = self.count()?;
        if count > VALUES_MAX {
            return Err(Malformed::Payload);
        }
        let columns = (0..count).map(|_| self.text()).collect::<Result<_, _>>()?;
        let encryption = match format {
            FORMAT_ENCRYPTED => Some(Encryption { key_id: self.text()?, random: self.array()? }),
            _ => None,
        };
        Ok(Header { salt, epoch, gateway_id, columns, encryption })
    }
}

#[cfg(test)]
mod tests;
