//! The values that a statement is bound to, as its record keeps them.
//!
//! They stand behind the statement's text, in the same sealed column, as PostgreSQL's own log has them:
//! `-- $1 = 42, $2 = 'eve'`; or, hashed, in `ext` where equal values can be found.
//!
//! Invariants:
//! - no more than [`FRONT_BYTES_MAX`] of a message is looked at, so that a large value streams;
//! - a value is kept as a literal in its place would be: what the redactor takes out of a literal there, because of
//!   its form, its column or the configuration, it takes out of the value;
//! - a text is cut after it is redacted, and one of which the end was not seen is not kept to where it was cut;
//! - nothing panics on any bytes.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use doorward_core::{Access, BoundValues, ConfigDigest, Form, Redactor, Snapshot, calendar};
use serde_json::Value as Json;

/// As much of Bind's values is looked at.
pub(crate) const FRONT_BYTES_MAX: usize = 4 << 10;
/// The longest value that a record keeps.
const VALUE_BYTES_MAX: usize = 256;
/// The most bytes of values that a record keeps.
const VALUES_BYTES_MAX: usize = 2 << 10;
/// What stands behind them when there are more, and before the last of them.
const ENDING_BYTES_MAX: usize = 64;
/// The most values that a record keeps.
const VALUES_MAX: usize = 64;
/// Of a text that goes on behind what was seen, at least this much must have been.
const SEEN_BYTES_MIN: usize = 2 << 10;
/// The longest text whose places are known; with a longer one, no value is kept.
const TEXT_BYTES_MAX: usize = 32 << 10;
/// Room for what is kept of a few short values.
const TEXT_BYTES_USUAL: usize = 64;
/// What stands in a place to be found again.
const MARK: &str = "the bound value ";
/// What no literal keeps.
const HIDDEN: &str = "?";

/// What a record keeps of a portal's values.
#[derive(Debug)]
pub(crate) enum Bound {
    /// A text for the end of the statement's.
    Text(Box<str>),
    /// A hash of each; NULL has none.
    Hashes(Vec<Option<Box<str>>>),
}

impl Bound {
    pub(crate) fn note(&self, access: &mut Access) {
        match self {
            Self::Text(text) => access.note_parameters(text),
            Self::Hashes(hashes) => {
                let hashes = hashes.iter().map(|hash| hash.as_deref().map_or(Json::Null, Json::from));
                access.note("parameters", hashes.collect::<Vec<Json>>());
            }
        }
    }
}

/// The places of a statement whose values are secret for what stands around them; remembered for one
/// configuration.
#[derive(Debug, Default)]
pub(crate) struct Places(OnceLock<(ConfigDigest, Box<[bool]>)>);

impl Places {
    /// Whether a literal in each place would be taken out of the text.
    fn of(&self, snapshot: &Snapshot, text: &str) -> Cow<'_, [bool]> {
        let redactor = &*snapshot.redactor;
        let (digest, hidden) =
            self.0.get_or_init(|| (snapshot.digest.clone(), hidden_places(redactor, text)));
        if *digest == snapshot.digest {
            return Cow::Borrowed(hidden);
        }
        Cow::Owned(hidden_places(redactor, text).into_vec())
    }
}

/// Puts a mark in each place, as a literal, and sees which marks the redactor leaves.
fn hidden_places(redactor: &dyn Redactor, text: &str) -> Box<[bool]> {
    if text.len() > TEXT_BYTES_MAX {
        return Box::default();
    }
    let (mut marked, mut last) = (String::with_capacity(text.len() * 2), 0);
    let mut rest = text;
    let mut before = ' ';
    while let Some(at) = rest.find('$') {
        let (head, tail) = rest.split_at(at);
        marked.push_str(head);
        before = head.chars().next_back().unwrap_or(before);
        let digits = tail.bytes().skip(1).take_while(u8::is_ascii_digit).count();
        let number = tail.get(1..=digits).and_then(|digits| digits.parse::<u16>().ok());
        match number.filter(|number| *number > 0 && !before.is_alphanumeric() && !"_$\"".contains(before)) {
            Some(number) => {
                last = last.max(usize::from(number).min(VALUES_MAX));
                // The formatter of a String cannot fail.
                let _ = write!(marked, "'{MARK}{number}.'");
            }
            None => marked.push_str(tail.get(..=digits).unwrap_or_default()),
        }
        before = '0';
        rest = tail.get(digits + 1..).unwrap_or_default();
    }
    marked.push_str(rest);
    let kept = redactor.redact(Form::Sql, &marked, usize::MAX);
    // A place that stands twice is secret if it is so once.
    let (put, left) = (marks(&marked, last), marks(&kept, last));
    put.iter().zip(left).map(|(put, left)| *put != left).collect()
}

/// How often each mark stands in a text.
fn marks(text: &str, last: usize) -> Vec<u32> {
    let mut counts = vec![0; last];
    for after in text.split(MARK).skip(1) {
        let number = after.split_once('.').and_then(|(number, _)| number.parse::<usize>().ok());
        if let Some(count) = number.and_then(|number| counts.get_mut(number.checked_sub(1)?)) {
            *count += 1;
        }
    }
    counts
}

/// What a record keeps of the values of a Bind message. `text` is the statement's, `front` what there is of the
/// message behind the names.
pub(crate) fn read(
    snapshot: &Snapshot,
    text: &str,
    places: &Places,
    types: &[u32],
    front: &[u8],
) -> Option<Arc<Bound>> {
    let redactor = &*snapshot.redactor;
    let values = match redactor.bound_values() {
        BoundValues::Off => return None,
        BoundValues::Redacted | BoundValues::Hashed => Values::read(front, types)?,
    };
    if values.count == 0 {
        return None;
    }
    let bound = match redactor.bound_values() {
        BoundValues::Hashed => Bound::Hashes(values.map(|value| hash(redactor, &value)).collect()),
        _ => {
            let hidden = places.of(snapshot, text);
            Bound::Text(spelled(redactor, values, &hidden))
        }
    };
    Some(Arc::new(bound))
}

/// What a fuzzer says of a statement, of its parameters' types, and of Bind.
pub(crate) fn fuzz(redactor: &dyn Redactor, text: &str, types: &[u32], front: &[u8]) {
    let Some(values) = Values::read(front, types) else { return };
    let told = spelled(redactor, values, &hidden_places(redactor, text));
    assert!(
        told.starts_with("\n--") && !told[1..].contains(['\n', '\r']),
        "they stand on one line: {told:?}"
    );
    assert!(told.len() <= VALUES_BYTES_MAX + ENDING_BYTES_MAX, "there is a bound to them: {}", told.len());
}

/// `\n-- $1 = 42, $2 = 'eve'`, on one line.
fn spelled(redactor: &dyn Redactor, values: Values<'_>, hidden: &[bool]) -> Box<str> {
    let count = values.count;
    let mut text = String::with_capacity(TEXT_BYTES_USUAL);
    text.push_str("\n--");
    for (index, value) in values.enumerate() {
        // A place that is not in the text is not known.
        let shown = hidden.get(index) == Some(&false) || value == Value::Null;
        let mut kept = if shown { value.redacted(redactor) } else { Cow::Borrowed(HIDDEN) };
        if kept.bytes().any(|byte| matches!(byte, b'\n' | b'\r')) {
            kept = Cow::Owned(kept.replace(['\n', '\r'], " "));
        }
        if index >= VALUES_MAX || text.len() + kept.len() > VALUES_BYTES_MAX {
            let _ = write!(text, " …[{count} values in all]");
            break;
        }
        text.push_str(if index == 0 { " $" } else { ", $" });
        push_number(&mut text, index + 1);
        text.push_str(" = ");
        text.push_str(&kept);
    }
    text.into()
}

/// Writes a number of up to two digits without the formatter: most statements have a few values, and each of them
/// pays for it.
fn push_number(text: &mut String, number: usize) {
    let digit = |of: usize| u8::try_from(of).map_or('?', |of| char::from(b'0' + of));
    if number >= 10 {
        text.push(digit(number / 10 % 10));
    }
    text.push(digit(number % 10));
}

fn hash(redactor: &dyn Redactor, value: &Value<'_>) -> Option<Box<str>> {
    let text = match value {
        Value::Null => return None,
        Value::Number(text) | Value::Word(text) => text.clone(),
        Value::Text { text, whole: true } => (*text).to_owned(),
        // What was not seen whole is like no other.
        Value::Text { whole: false, .. } => return Some("not hashed: too long".into()),
        Value::Opaque { .. } => return Some("not hashed: not read".into()),
    };
    let bytes = redactor.hash(text.as_bytes())?;
    // In letters alone: digits might pass for the number of a card.
    let letter = |half: u8| char::from(b'a' + half);
    let letters = bytes.iter().flat_map(|byte| [letter(byte >> 4), letter(byte & 15)]);
    Some("hmac:".chars().chain(letters).collect::<String>().into())
}

/// One value.
#[derive(Debug, PartialEq)]
enum Value<'a> {
    Null,
    /// A number, as SQL writes it.
    Number(String),
    /// What SQL writes as a quoted text of no secret's form: a time, a UUID, true.
    Word(String),
    /// A text, and whether all of it was seen.
    Text {
        text: &'a str,
        whole: bool,
    },
    /// Another one: its type and its length.
    Opaque {
        oid: u32,
        bytes: usize,
    },
}

impl Value<'_> {
    fn redacted(&self, redactor: &dyn Redactor) -> Cow<'_, str> {
        let literal = |text: &str| {
            let literal = quoted(text);
            match redactor.redact_once(Form::Sql, &literal, VALUE_BYTES_MAX) {
                Cow::Owned(kept) => kept,
                Cow::Borrowed(kept) if kept.len() == literal.len() => literal,
                Cow::Borrowed(kept) => kept.to_owned(),
            }
        };
        Cow::Owned(match self {
            Self::Null => return Cow::Borrowed("NULL"),
            Self::Number(text) => return redactor.redact_once(Form::Sql, text, VALUE_BYTES_MAX),
            Self::Word(text) => literal(text),
            Self::Text { text, whole: true } => literal(text),
            // The end of what was seen may be half of a secret.
            Self::Text { text, whole: false } if text.len() >= SEEN_BYTES_MIN => literal(text) + "…",
            Self::Text { text, .. } => format!("(text of more than {} bytes)", text.len()),
            Self::Opaque { oid: 0, bytes } => format!("({bytes} bytes)"),
            Self::Opaque { oid, bytes } => format!("({}, {bytes} bytes)", type_name(*oid)),
        })
    }
}

/// A text as SQL writes it.
fn quoted(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('\'');
    for (index, part) in text.split('\'').enumerate() {
        literal.push_str(if index == 0 { "" } else { "''" });
        literal.push_str(part);
    }
    literal.push('\'');
    literal
}

/// The values of a Bind message, as far as they can be seen.
struct Values<'a> {
    count: usize,
    index: usize,
    formats: &'a [u8],
    types: &'a [u32],
    rest: &'a [u8],
    /// Nothing more can be seen.
    blind: bool,
}

impl<'a> Values<'a> {
    fn read(mut front: &'a [u8], types: &'a [u32]) -> Option<Self> {
        let formats = usize::from(take_u16(&mut front)?);
        let (formats, rest) = front.split_at_checked(formats * 2)?;
        front = rest;
        let count = usize::from(take_u16(&mut front)?);
        Some(Self { count, index: 0, formats, types, rest: front, blind: false })
    }

    fn is_binary(&self) -> bool {
        let formats = self.formats.as_chunks::<2>().0;
        // None: text; one: that for all; otherwise one for each.
        let format = if formats.len() == 1 { formats.first() } else { formats.get(self.index) };
        format == Some(&[0, 1])
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if self.index >= self.count {
            return None;
        }
        let (binary, oid) = (self.is_binary(), self.types.get(self.index).copied().unwrap_or(0));
        self.index += 1;
        let length = if self.blind { None } else { self.rest.split_first_chunk::<4>() };
        let Some((length, rest)) = length else {
            self.blind = true;
            return Some(Value::Opaque { oid, bytes: 0 });
        };
        let Ok(bytes) = usize::try_from(i32::from_be_bytes(*length)) else {
            self.rest = rest;
            return Some(Value::Null);
        };
        let whole = rest.len() >= bytes;
        let (seen, rest) = rest.split_at(bytes.min(rest.len()));
        self.rest = rest;
        self.blind = !whole;
        Some(value(oid, binary, seen, (bytes, whole)))
    }
}

fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    let (number, after) = rest.split_first_chunk::<2>()?;
    *rest = after;
    Some(u16::from_be_bytes(*number))
}

/// PostgreSQL's numbers of types (catalogue pg_type).
mod oid {
    pub(super) const BOOL: u32 = 16;
    pub(super) const BYTEA: u32 = 17;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const OID: u32 = 26;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIMESTAMP: u32 = 1114;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const NUMERIC: u32 = 1700;
    pub(super) const UUID: u32 = 2950;
    pub(super) const JSONB: u32 = 3802;
    /// Types whose binary form is their text: char, name, text, json, xml, unknown, bpchar, varchar.
    pub(super) const TEXTS: [u32; 8] = [18, 19, 25, 114, 142, 705, 1042, 1043];
}

fn type_name(oid: u32) -> String {
    match oid {
        oid::BYTEA => "bytea".to_owned(),
        other => format!("type {other}"),
    }
}

fn value(oid: u32, binary: bool, seen: &[u8], (bytes, whole): (usize, bool)) -> Value<'_> {
    let opaque = Value::Opaque { oid, bytes };
    if oid == oid::BYTEA {
        return opaque;
    }
    if !binary || oid::TEXTS.contains(&oid) {
        return text(oid, seen, whole).unwrap_or(opaque);
    }
    if oid == oid::JSONB {
        // A version stands before the text.
        return seen.get(1..).and_then(|seen| text(oid, seen, whole)).unwrap_or(opaque);
    }
    whole.then(|| binary_value(oid, seen)).flatten().unwrap_or(opaque)
}

fn text(oid: u32, seen: &[u8], whole: bool) -> Option<Value<'_>> {
    let text = match std::str::from_utf8(seen) {
        Ok(text) => text,
        // A character that is cut in two.
        Err(error) if !whole && seen.len() - error.valid_up_to() < 4 => {
            std::str::from_utf8(seen.get(..error.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    use oid::{FLOAT4, FLOAT8, INT2, INT4, INT8, NUMERIC, OID};
    let numeric = [INT2, INT4, INT8, OID, FLOAT4, FLOAT8, NUMERIC].contains(&oid);
    if numeric && whole && text.parse::<f64>().is_ok() && !text.contains(char::is_alphabetic) {
        return Some(Value::Number(text.to_owned()));
    }
    Some(Value::Text { text, whole })
}

fn binary_value(oid: u32, seen: &[u8]) -> Option<Value<'static>> {
    let number = |text: String| Some(Value::Number(text));
    match oid {
        oid::BOOL => Some(Value::Word(match seen {
            [0] => "f".to_owned(),
            [1] => "t".to_owned(),
            _ => return None,
        })),
        oid::INT2 => number(i16::from_be_bytes(seen.try_into().ok()?).to_string()),
        oid::INT4 => number(i32::from_be_bytes(seen.try_into().ok()?).to_string()),
        oid::INT8 => number(i64::from_be_bytes(seen.try_into().ok()?).to_string()),
        oid::OID => number(u32::from_be_bytes(seen.try_into().ok()?).to_string()),
        oid::FLOAT4 => number(f32::from_be_bytes(seen.try_into().ok()?).to_string()),
        oid::FLOAT8 => number(f64::from_be_bytes(seen.try_into().ok()?).to_string()),
        oid::NUMERIC => numeric(seen).map(Value::Number),
        oid::UUID => Some(Value::Word(uuid(seen.try_into().ok()?))),
        oid::DATE => date(i32::from_be_bytes(seen.try_into().ok()?).into()).map(Value::Word),
        oid::TIMESTAMP => timestamp(seen).map(Value::Word),
        oid::TIMESTAMPTZ => timestamp(seen).map(|text| Value::Word(text + "+00")),
        _ => None,
    }
}

fn uuid(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Days from 1970-01-01 to 2000-01-01, from which PostgreSQL counts.
const DAYS_TO_2000: i64 = 10_957;
const MICROS_OF_A_DAY: i64 = 86_400_000_000;

/// A day, counted from 2000-01-01; `None` for infinity.
fn date(days: i64) -> Option<String> {
    if days == i64::from(i32::MAX) || days == i64::from(i32::MIN) {
        return None;
    }
    let (year, month, day) = calendar::date(days + DAYS_TO_2000);
    Some(format!("{year:04}-{month:02}-{day:02}"))
}

/// Microseconds from 2000-01-01; `None` for infinity.
fn timestamp(seen: &[u8]) -> Option<String> {
    let micros = i64::from_be_bytes(seen.try_into().ok()?);
    if micros == i64::MAX || micros == i64::MIN {
        return None;
    }
    let day = date(micros.div_euclid(MICROS_OF_A_DAY))?;
    let rest = micros.rem_euclid(MICROS_OF_A_DAY);
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    let time = format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let fraction = if fraction == 0 { String::new() } else { format!(".{fraction:06}") };
    Some(format!("{day} {time}{fraction}"))
}

/// Groups of four digits that a numeric may have here.
const NUMERIC_GROUPS_MAX: usize = 32;

/// The binary form of numeric: groups of four digits, the weight of the first, the sign, the scale.
fn numeric(mut seen: &[u8]) -> Option<String> {
    let groups = usize::from(take_u16(&mut seen)?);
    let weight = take_u16(&mut seen)?.cast_signed();
    let (sign, scale) = (take_u16(&mut seen)?, usize::from(take_u16(&mut seen)?));
    let weight = i32::from(weight);
    let negative = match sign {
        0 => false,
        0x4000 => true,
        0xc000 => return Some("NaN".to_owned()),
        _ => return None,
    };
    let within = i32::try_from(NUMERIC_GROUPS_MAX).unwrap_or(0);
    if groups > NUMERIC_GROUPS_MAX || weight.abs() > within || scale > 4 * NUMERIC_GROUPS_MAX {
        return None;
    }
    let digits: Vec<u16> = std::iter::from_fn(|| take_u16(&mut seen)).take(groups).collect();
    let group = |place: i32| {
        usize::try_from(weight - place).ok().and_then(|index| digits.get(index)).copied().unwrap_or(0)
    };
    let mut text = String::from(if negative { "-" } else { "" });
    let mut whole = String::new();
    for place in (0..=weight.max(0)).rev() {
        let _ = write!(whole, "{:04}", group(place));
    }
    let whole = whole.trim_start_matches('0');
    text.push_str(if whole.is_empty() { "0" } else { whole });
    if scale > 0 {
        let mut fraction = String::new();
        for place in 1..=i32::try_from(scale.div_ceil(4)).ok()? {
            let _ = write!(fraction, "{:04}", group(-place));
        }
        text.push('.');
        text.push_str(fraction.get(..scale)?);
    }
    Some(text)
}

#[cfg(test)]
mod tests;
