//! Reads what a PostgreSQL backend sends (protocol 3.0, PostgreSQL documentation chapter "Message
//! Formats").
//!
//! Invariants: pure functions over bytes; every length is checked against what is there; nothing
//! panics on any input (`fuzz/` tries). A frame other than a row is at most [`FRAME_MAX`] bytes.

use std::sync::Arc;

use crate::error::ServerError;

/// The bytes of a frame before its body: tag and length.
pub const HEADER: usize = 5;
/// The largest frame other than a data row that is accepted.
pub(crate) const FRAME_MAX: usize = 1 << 20;
/// How much is kept of an error that is larger than that: PostgreSQL quotes the value that it refuses, and
/// callers send large values. What tells errors apart stands at the front.
pub(crate) const ERROR_KEPT: usize = 64 << 10;
/// The most columns that PostgreSQL gives (MaxTupleAttributeNumber).
const COLUMNS_MAX: usize = 1_664;

/// Bytes that are not the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed backend message: {0}")]
pub struct Malformed(pub(crate) &'static str);

/// The head of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its type.
    pub tag: u8,
    /// Bytes of body after the header.
    pub body: usize,
}

/// One column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name or alias.
    pub name: Box<str>,
    /// The OID of its type.
    pub type_oid: u32,
}

/// The head of the frame at the start of `bytes`; `None` until all five bytes of it are there.
pub fn head(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let [tag, a, b, c, d] = *header;
    let length = u32::from_be_bytes([a, b, c, d]);
    // A length is an Int32: what looks larger is negative, for the other side too.
    let length = i32::try_from(length).ok().and_then(|length| usize::try_from(length).ok());
    match length.and_then(|length| length.checked_sub(4)) {
        Some(body) => Ok(Some(Head { tag, body })),
        None => Err(Malformed("length of a frame")),
    }
}

/// Reads all frames of `bytes` and decodes each as far as this client ever does. For fuzzing and tests.
pub fn read_all(mut bytes: &[u8]) -> Result<usize, Malformed> {
    let mut count = 0;
    while let Some(head) = head(bytes)? {
        let Some(body) = bytes.get(HEADER..HEADER + head.body) else { break };
        match head.tag {
            b'T' => drop(fields(body)?),
            b'D' => {
                check_row(body)?;
                count += cells(body).count();
            }
            b'E' | b'N' => drop(server_error(body)?),
            b'C' => drop(affected(body)?),
            b'Z' => drop(ready(body)?),
            b'S' => drop(parameter(body)?),
            b'A' => drop(notification(body)?),
            b'K' => drop(backend_key(body)?),
            b'R' => drop(authentication(body)?),
            _ => {}
        }
        count += 1;
        bytes = bytes.get(HEADER + head.body..).unwrap_or_default();
    }
    Ok(count)
}

/// Takes values from the front of a body.
struct Taker<'a>(&'a [u8]);

impl<'a> Taker<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed("a body that ends too soon"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed("a body that ends too soon"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Malformed("a text without an end"))?;
        let text = self.bytes(end)?;
        self.bytes(1)?;
        std::str::from_utf8(text).map_err(|_| Malformed("a text that is not UTF-8"))
    }
}

/// RowDescription.
pub(crate) fn fields(body: &[u8]) -> Result<Arc<[Field]>, Malformed> {
    let mut taker = Taker(body);
    let count = usize::from(taker.u16()?);
    if count > COLUMNS_MAX {
        return Err(Malformed("more columns than PostgreSQL has"));
    }
    let mut fields = Vec::with_capacity(count);
    for _ in 0..count {
        let name = taker.text()?.into();
        // Table OID and column number come before the type, size, modifier and format after it.
        taker.bytes(6)?;
        let type_oid = taker.u32()?;
        taker.bytes(8)?;
        fields.push(Field { name, type_oid });
    }
    Ok(fields.into())
}

/// Checks that a DataRow's lengths add up to its body, so that [`cells`] need not fail.
pub(crate) fn check_row(body: &[u8]) -> Result<usize, Malformed> {
    let mut taker = Taker(body);
    let count = usize::from(taker.u16()?);
    for _ in 0..count {
        match taker.i32()? {
            -1 => {}
            length => {
                let length = usize::try_from(length).map_err(|_| Malformed("length of a value"))?;
                taker.bytes(length)?;
            }
        }
    }
    if taker.0.is_empty() { Ok(count) } else { Err(Malformed("bytes after the last value")) }
}

/// The values of a checked DataRow; `None` is NULL.
pub(crate) fn cells(body: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut taker = Taker(body);
    let mut left = taker.u16().unwrap_or(0);
    std::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let length = usize::try_from(taker.i32().ok()?).ok();
        match length {
            None => Some(None),
            Some(length) => taker.bytes(length).ok().map(Some),
        }
    })
}

/// ErrorResponse or NoticeResponse. Text that is not UTF-8 (before the encoding is agreed) is mended.
pub fn server_error(body: &[u8]) -> Result<ServerError, Malformed> {
    let mut error = ServerError::default();
    let mut rest = body;
    while let Some((&kind, after)) = rest.split_first() {
        if kind == 0 {
            return Ok(error);
        }
        let end = after.iter().position(|byte| *byte == 0).ok_or(Malformed("an error without an end"))?;
        let text = || Box::<str>::from(String::from_utf8_lossy(after.get(..end).unwrap_or_default()));
        match kind {
            b'V' => error.severity = text(),
            b'S' if error.severity.is_empty() => error.severity = text(),
            b'C' => error.sqlstate = text(),
            b'M' => error.message = text(),
            b'D' => error.detail = Some(text()),
            b'H' => error.hint = Some(text()),
            b'P' => error.position = text().parse().ok(),
            b's' => error.schema = Some(text()),
            b't' => error.table = Some(text()),
            b'c' => error.column = Some(text()),
            b'n' => error.constraint = Some(text()),
            b'R' => error.routine = Some(text()),
            _ => {}
        }
        rest = after.get(end + 1..).unwrap_or_default();
    }
    Err(Malformed("an error without an end"))
}

/// The beginning of an ErrorResponse: its last text is cut where the bytes end.
pub(crate) fn cut_server_error(front: &[u8]) -> Result<ServerError, Malformed> {
    server_error(&[front, &[0, 0]].concat())
}

/// CommandComplete: the last number of the tag is the count of rows (`INSERT 0 5`, `SELECT 3`).
pub fn affected(body: &[u8]) -> Result<u64, Malformed> {
    let tag = Taker(body).text()?;
    Ok(tag.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0))
}

/// ReadyForQuery: `I` idle, `T` in a transaction, `E` in a failed one.
pub fn ready(body: &[u8]) -> Result<u8, Malformed> {
    match body {
        [status] => Ok(*status),
        _ => Err(Malformed("length of ReadyForQuery")),
    }
}

/// ParameterStatus: name and value.
pub fn parameter(body: &[u8]) -> Result<(&str, &str), Malformed> {
    let mut taker = Taker(body);
    Ok((taker.text()?, taker.text()?))
}

/// NotificationResponse: channel and payload.
pub(crate) fn notification(body: &[u8]) -> Result<(&str, &str), Malformed> {
    let mut taker = Taker(body);
    taker.bytes(4)?;
    Ok((taker.text()?, taker.text()?))
}

/// BackendKeyData of protocol 3.0: process and secret.
pub(crate) fn backend_key(body: &[u8]) -> Result<(i32, i32), Malformed> {
    let mut taker = Taker(body);
    let key = (taker.i32()?, taker.i32()?);
    if taker.0.is_empty() { Ok(key) } else { Err(Malformed("length of BackendKeyData")) }
}

/// What the server asks for before it lets the gateway in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authentication<'a> {
    Ok,
    Cleartext,
    Sasl(&'a [u8]),
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
    Other(i32),
}

/// An Authentication message.
pub(crate) fn authentication(body: &[u8]) -> Result<Authentication<'_>, Malformed> {
    let mut taker = Taker(body);
    Ok(match taker.i32()? {
        0 => Authentication::Ok,
        3 => Authentication::Cleartext,
        10 => Authentication::Sasl(taker.0),
        11 => Authentication::SaslContinue(taker.0),
        12 => Authentication::SaslFinal(taker.0),
        other => Authentication::Other(other),
    })
}
