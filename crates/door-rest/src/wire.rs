//! JSON as it comes in and goes out: the shape of bodies, and the error object.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// The outer shape of a JSON text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// An object with these keys.
    Object(BTreeSet<String>),
    /// An array of objects; the keys are the first one's.
    Objects { keys: BTreeSet<String>, uniform: bool },
    /// Anything else.
    Other,
}

/// Reads the outer shape of a JSON text and checks all of its syntax; the error says where it is broken.
pub(crate) fn read_shape(json: &[u8]) -> Result<Shape, String> {
    let said = |error: serde_json::Error| match error.line() {
        0 => "the body is not UTF-8 JSON".to_owned(),
        line => format!("the JSON is broken at line {line}, column {}", error.column()),
    };
    let text = std::str::from_utf8(json).map_err(|_| "the body is not UTF-8 text".to_owned())?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let shape = deserializer.deserialize_any(ShapeVisitor).map_err(said)?;
    deserializer.end().map_err(said)?;
    Ok(shape)
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Shape, A::Error> {
        keys_of(map).map(Shape::Object)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut first: Option<BTreeSet<String>> = None;
        let (mut uniform, mut objects) = (true, true);
        while let Some(element) = seq.next_element::<Element>()? {
            match (element, &first) {
                (Element(None), _) => objects = false,
                (Element(Some(keys)), None) => first = Some(keys),
                (Element(Some(keys)), Some(first)) => uniform &= keys == *first,
            }
        }
        Ok(if objects { Shape::Objects { keys: first.unwrap_or_default(), uniform } } else { Shape::Other })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Other)
    }
}

fn keys_of<'de, A: MapAccess<'de>>(mut map: A) -> Result<BTreeSet<String>, A::Error> {
    let mut keys = BTreeSet::new();
    while let Some(key) = map.next_key::<String>()? {
        keys.insert(key);
        map.next_value::<IgnoredAny>()?;
    }
    Ok(keys)
}

/// An element of an array: the keys of an object, or `None` for anything else.
struct Element(Option<BTreeSet<String>>);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match deserializer.deserialize_any(ShapeVisitor)? {
            Shape::Object(keys) => Self(Some(keys)),
            Shape::Objects { .. } | Shape::Other => Self(None),
        })
    }
}

/// PostgREST's error object. The last two members are Doorward's; clients pass over them.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorBody<'a> {
    pub(crate) code: &'a str,
    pub(crate) details: Option<&'a str>,
    pub(crate) hint: Option<&'a str>,
    pub(crate) message: &'a str,
    pub(crate) fault: &'a str,
    pub(crate) access_id: &'a str,
}

impl ErrorBody<'_> {
    /// The object as JSON.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        // A structure of strings always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The key columns of a new row, as names and texts.
pub(crate) fn read_key(json: &[u8]) -> Option<Vec<(String, Option<String>)>> {
    let map: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(json).ok()?;
    Some(map.into_iter().map(|(name, value)| (name, value.as_str().map(str::to_owned))).collect())
}

/// The `response.headers` setting: an array of objects with one member each.
pub(crate) fn read_headers(json: &[u8]) -> Option<Vec<(String, String)>> {
    let objects: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(json).ok()?;
    objects
        .into_iter()
        .map(|object| {
            let mut members = object.into_iter();
            match (members.next(), members.next()) {
                (Some((name, serde_json::Value::String(value))), None) => Some((name, value)),
                _ => None,
            }
        })
        .collect()
}

/// The headers that a function may read, as one JSON object.
pub(crate) fn write_headers<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut members: Vec<(&str, &str)> = Vec::with_capacity(8);
    for (name, value) in headers {
        // Of a header that stands several times the last value counts.
        match members.iter_mut().find(|(known, _)| *known == name) {
            Some(member) => member.1 = value,
            None => members.push((name, value)),
        }
    }
    let mut json = String::with_capacity(HEADERS_ROOM);
    let mut separator = '{';
    for (name, value) in members {
        json.push(separator);
        push_text(&mut json, name);
        json.push(':');
        push_text(&mut json, value);
        separator = ',';
    }
    if separator == '{' {
        json.push('{');
    }
    json.push('}');
    json
}

/// Room that headers find at once.
const HEADERS_ROOM: usize = 256;

/// Appends a text as JSON. Nearly none has anything in it to escape.
fn push_text(json: &mut String, text: &str) {
    let plain = |byte: u8| (byte >= b' ') & (byte != b'"') & (byte != b'\\');
    if text.bytes().fold(true, |all, byte| all & plain(byte)) {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        // A text always has a JSON form.
        json.push_str(&serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned()));
    }
}

/// What `RAISE SQLSTATE 'PGRST'` carries in its message.
#[derive(Debug, Deserialize)]
pub(crate) struct RaisedError {
    pub(crate) code: String,
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) details: Option<String>,
    #[serde(default)]
    pub(crate) hint: Option<String>,
}

/// What `RAISE SQLSTATE 'PGRST'` carries in its detail.
#[derive(Debug, Deserialize)]
pub(crate) struct RaisedStatus {
    pub(crate) status: u16,
}

/// Reads a raised error of the form that gives a function the whole answer.
pub(crate) fn read_raised(message: &str, detail: &str) -> Option<(RaisedError, RaisedStatus)> {
    Some((serde_json::from_str(message).ok()?, serde_json::from_str(detail).ok()?))
}
