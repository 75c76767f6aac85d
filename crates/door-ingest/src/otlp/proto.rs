//! OTLP's protobuf form: a decoder of `ExportLogsServiceRequest` and nothing else.
//!
//! Constraints: every length is checked; nothing is allocated that the bytes at hand do not justify; unknown
//! fields are passed over, as protobuf asks; groups, which OTLP has none of, are refused.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use doorward_core::hex;
use serde_json::{Map, Value};

use super::{LogRecord, Shared, Unreadable, VALUE_DEPTH_MAX};

const BROKEN: Unreadable = "the request is not protobuf, or broken";

/// A field's content.
#[derive(Clone, Copy, Debug)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// Of no field that is read here.
    Fixed32,
}

/// Reads a message field by field.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, Unreadable> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(BROKEN)?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                return Ok(number);
            }
        }
        Err(BROKEN)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (bytes, rest) = self.0.split_first_chunk::<N>().ok_or(BROKEN)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = usize::try_from(self.varint()?).map_err(|_| BROKEN)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(BROKEN)?;
        self.0 = rest;
        Ok(bytes)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut read = || {
            let tag = self.varint()?;
            let wire = match tag & 7 {
                0 => Wire::Varint(self.varint()?),
                1 => Wire::Fixed64(u64::from_le_bytes(self.fixed()?)),
                2 => Wire::Bytes(self.bytes()?),
                5 => {
                    self.fixed::<4>()?;
                    Wire::Fixed32
                }
                _ => return Err(BROKEN),
            };
            Ok((tag >> 3, wire))
        };
        let field = read();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// The messages in a repeated field.
fn messages(message: &[u8], number: u64) -> impl Iterator<Item = Result<&[u8], Unreadable>> {
    Fields(message).filter_map(move |field| match field {
        Ok((found, Wire::Bytes(bytes))) if found == number => Some(Ok(bytes)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

fn text(bytes: &[u8]) -> Result<String, Unreadable> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text is not UTF-8")
}

/// Reads a request.
pub(super) fn read(
    bytes: &[u8],
    take: &mut dyn FnMut(&Shared, LogRecord) -> Result<(), Unreadable>,
) -> Result<(), Unreadable> {
    for of_resource in messages(bytes, 1) {
        let of_resource = of_resource?;
        // A resource, or a scope, may stand behind the records that it is of.
        let mut resource = Map::new();
        for message in messages(of_resource, 1) {
            resource = attributes(message?, 1)?;
        }
        for of_scope in messages(of_resource, 2) {
            let of_scope = of_scope?;
            let mut shared = Shared { resource: resource.clone(), scope: Map::new() };
            for message in messages(of_scope, 1) {
                shared.scope = scope(message?)?;
            }
            for record in messages(of_scope, 2) {
                take(&shared, log_record(record?)?)?;
            }
        }
    }
    Ok(())
}

fn scope(message: &[u8]) -> Result<Map<String, Value>, Unreadable> {
    let mut scope = attributes(message, 3)?;
    for field in Fields(message) {
        match field? {
            (1, Wire::Bytes(name)) => scope.insert("name".to_owned(), text(name)?.into()),
            (2, Wire::Bytes(version)) => scope.insert("version".to_owned(), text(version)?.into()),
            _ => None,
        };
    }
    Ok(scope)
}

fn attributes(message: &[u8], number: u64) -> Result<Map<String, Value>, Unreadable> {
    let mut members = Map::new();
    for pair in messages(message, number) {
        let (key, value) = key_value(pair?, 0)?;
        members.insert(key, value);
    }
    Ok(members)
}

fn key_value(message: &[u8], depth: usize) -> Result<(String, Value), Unreadable> {
    let (mut key, mut value) = (String::new(), Value::Null);
    for field in Fields(message) {
        match field? {
            (1, Wire::Bytes(bytes)) => key = text(bytes)?,
            (2, Wire::Bytes(bytes)) => value = any(bytes, depth + 1)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn any(message: &[u8], depth: usize) -> Result<Value, Unreadable> {
    if depth > VALUE_DEPTH_MAX {
        return Err("a value is nested too deep");
    }
    let mut value = Value::Null;
    for field in Fields(message) {
        value = match field? {
            (1, Wire::Bytes(bytes)) => text(bytes)?.into(),
            (2, Wire::Varint(truth)) => (truth != 0).into(),
            (3, Wire::Varint(number)) => number.cast_signed().into(),
            (4, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
            (5, Wire::Bytes(list)) => {
                let items = messages(list, 1).map(|item| any(item?, depth + 1));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            (6, Wire::Bytes(list)) => {
                let pairs = messages(list, 1).map(|pair| key_value(pair?, depth));
                Value::Object(pairs.collect::<Result<_, _>>()?)
            }
            (7, Wire::Bytes(bytes)) => BASE64_STANDARD.encode(bytes).into(),
            _ => value,
        };
    }
    Ok(value)
}

fn log_record(message: &[u8]) -> Result<LogRecord, Unreadable> {
    let mut record = LogRecord { attributes: attributes(message, 6)?, ..LogRecord::default() };
    for field in Fields(message) {
        match field? {
            (1, Wire::Fixed64(nanos)) => record.time_unix_nano = nanos,
            (2, Wire::Varint(number)) => record.severity_number = number.cast_signed(),
            (3, Wire::Bytes(bytes)) => record.severity_text = text(bytes)?,
            (5, Wire::Bytes(bytes)) => record.body = any(bytes, 0)?,
            (9, Wire::Bytes(bytes)) => record.trace_id = hex(bytes),
            (10, Wire::Bytes(bytes)) => record.span_id = hex(bytes),
            (11, Wire::Fixed64(nanos)) => record.observed_time_unix_nano = nanos,
            (12, Wire::Bytes(bytes)) => record.event_name = text(bytes)?,
            _ => {}
        }
    }
    Ok(record)
}
