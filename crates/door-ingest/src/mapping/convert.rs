//! How a value of a foreign record is read: as a time, a span, an address, a status …
//!
//! Errors name the form that was expected and never the value, which may be anybody's secret.

use std::net::{IpAddr, SocketAddr};

use doorward_core::{Timestamp, Verb, calendar};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// How a value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum As {
    /// Text; a number or a truth value as it is spelled.
    Text,
    /// A list of texts, or one text with commas.
    List,
    /// A whole number, also as text.
    Int,
    /// A span in seconds.
    S,
    /// A span in milliseconds.
    Ms,
    /// A span in microseconds.
    Us,
    /// A span in nanoseconds.
    Ns,
    /// A time: RFC 3339.
    Rfc3339,
    /// A time: seconds since 1970, or RFC 3339.
    EpochS,
    /// A time: milliseconds since 1970, or RFC 3339.
    EpochMs,
    /// A time: microseconds since 1970, or RFC 3339.
    EpochUs,
    /// A time: nanoseconds since 1970, or RFC 3339.
    EpochNs,
    /// An address, with a port or without; of several with commas the first.
    Ip,
    /// An HTTP status, as an outcome.
    Status,
    /// An outcome by our own word.
    Outcome,
    /// An HTTP method, as a verb.
    Method,
    /// The path of a URL, as an object.
    Path,
    /// A URL, of which no query's value and no password is kept.
    Url,
    /// What a cache did: a word, a truth value, 0 or 1.
    Cache,
    /// A trace id: 32 hex digits, with hyphens or without.
    TraceId,
    /// A span id: 16 hex digits.
    SpanId,
    /// W3C `traceparent`, of which the trace's id is taken.
    Traceparent,
    /// Any value, as it is.
    Json,
}

impl As {
    /// The way as the configuration spells it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::List => "list",
            Self::Int => "int",
            Self::S => "s",
            Self::Ms => "ms",
            Self::Us => "us",
            Self::Ns => "ns",
            Self::Rfc3339 => "rfc3339",
            Self::EpochS => "epoch-s",
            Self::EpochMs => "epoch-ms",
            Self::EpochUs => "epoch-us",
            Self::EpochNs => "epoch-ns",
            Self::Ip => "ip",
            Self::Status => "status",
            Self::Outcome => "outcome",
            Self::Method => "method",
            Self::Path => "path",
            Self::Url => "url",
            Self::Cache => "cache",
            Self::TraceId => "trace-id",
            Self::SpanId => "span-id",
            Self::Traceparent => "traceparent",
            Self::Json => "json",
        }
    }
}

/// A value that does not have the expected form: what was expected.
pub(crate) type Expected = &'static str;

/// Text, as it is or as it is spelled.
pub(crate) fn text(value: &Value) -> Result<String, Expected> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        _ => Err("a text"),
    }
}

/// A list of texts.
pub(crate) fn list(value: &Value) -> Result<Vec<String>, Expected> {
    match value {
        Value::Array(items) => items.iter().map(|item| text(item).map_err(|_| "a list of texts")).collect(),
        Value::String(text) => Ok(text.split(',').map(|part| part.trim().to_owned()).collect()),
        _ => Err("a list of texts"),
    }
}

/// A whole number that is not negative.
pub(crate) fn int(value: &Value) -> Result<u64, Expected> {
    const EXPECTED: Expected = "a whole number";
    match value {
        Value::Number(number) => number.as_u64().ok_or(EXPECTED),
        Value::String(text) => digits(text).ok_or(EXPECTED),
        _ => Err(EXPECTED),
    }
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A span in microseconds. A negative one means that there was none (Kong writes -1).
pub(crate) fn span(value: &Value, unit: As) -> Result<Option<u64>, Expected> {
    const EXPECTED: Expected = "a number of time units";
    let number = match value {
        Value::Number(number) => number.as_f64().ok_or(EXPECTED)?,
        Value::String(text) => text.parse().map_err(|_| EXPECTED)?,
        _ => return Err(EXPECTED),
    };
    let micros = match unit {
        As::S => number * 1e6,
        As::Ms => number * 1e3,
        As::Ns => number / 1e3,
        _ => number,
    };
    // A span beyond a century is none.
    if !(micros.is_finite() && micros < 4e15) {
        return Err(EXPECTED);
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is between 0 and 4e15")]
    Ok((micros >= 0.0).then(|| (micros.round() as i64).unsigned_abs()))
}

/// A time.
pub(crate) fn time(value: &Value, unit: As) -> Result<Timestamp, Expected> {
    let per_second = match unit {
        As::EpochS => 1_i64,
        As::EpochMs => 1_000,
        As::EpochUs => 1_000_000,
        As::EpochNs => 1_000_000_000,
        _ => return rfc3339(value.as_str().ok_or("a time (RFC 3339)")?).ok_or("a time (RFC 3339)"),
    };
    const EXPECTED: Expected = "a time since 1970 in the mapping's unit, or RFC 3339";
    let whole = |number: i64| match per_second {
        1_000_000_000 => number / 1_000,
        _ => number.saturating_mul(1_000_000 / per_second),
    };
    let micros = match value {
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => whole(number),
            (None, Some(number)) => fraction(number, per_second).ok_or(EXPECTED)?,
            (None, None) => return Err(EXPECTED),
        },
        Value::String(text) => match (text.parse(), text.parse()) {
            (Ok(number), _) => whole(number),
            (Err(_), Ok(number)) => fraction(number, per_second).ok_or(EXPECTED)?,
            (Err(_), Err(_)) => return rfc3339(text).ok_or(EXPECTED),
        },
        _ => return Err(EXPECTED),
    };
    Ok(Timestamp::from_micros(micros))
}

/// `1795000000.25` in some unit.
fn fraction(number: f64, per_second: i64) -> Option<i64> {
    #[expect(clippy::cast_precision_loss, reason = "a power of ten up to 1e9 is exact")]
    let micros = number / per_second as f64 * 1e6;
    #[expect(clippy::cast_possible_truncation, reason = "it is below 4e17")]
    (micros.is_finite() && micros.abs() < 4e17).then_some(micros.round() as i64)
}

/// RFC 3339, with any number of digits behind the second (Azure writes seven).
pub(crate) fn rfc3339(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_at_checked(10)?;
    let (clock, rest) = rest.strip_prefix(['T', 't', ' '])?.split_at_checked(8)?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let days = calendar::days(year, month, day);
    // A day that does not exist comes back as another one.
    if calendar::date(days) != (year, month, day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (micros, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (fraction, zone) = rest.split_at_checked(end)?;
            let six: String = fraction.chars().chain("000000".chars()).take(6).collect();
            (i64::try_from(digits(&six).filter(|_| end > 0)?).ok()?, zone)
        }
    };
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let [hours, minutes] = numbers(zone.strip_prefix(['+', '-'])?, ':', [2, 2])?;
            sign * (hours * 3_600 + minutes * 60)
        }
    };
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second - offset;
    Some(Timestamp::from_micros(seconds * 1_000_000 + micros))
}

fn numbers<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut values = [0; N];
    for (value, width) in values.iter_mut().zip(widths) {
        let part = parts.next().filter(|part| part.len() == width)?;
        *value = i64::try_from(digits(part)?).ok()?;
    }
    parts.next().is_none().then_some(values)
}

/// The first address of a list, without its port.
pub(crate) fn ip(text: &str) -> Result<IpAddr, Expected> {
    let first = text.split(',').next().unwrap_or_default().trim();
    let bare = first.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse().or_else(|_| first.parse().map(|socket: SocketAddr| socket.ip()));
    address.map(|address: IpAddr| address.to_canonical()).map_err(|_| "an IP address")
}

/// What a method does.
pub(crate) fn verb(method: &str) -> Verb {
    match &*method.to_ascii_uppercase() {
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PROPFIND" | "QUERY" => Verb::Read,
        "DELETE" => Verb::Delete,
        "CONNECT" => Verb::Connect,
        _ => Verb::Write,
    }
}

/// What a cache did, in our words.
pub(crate) fn cache(value: &Value) -> Result<Option<&'static str>, Expected> {
    let word = text(value).map_err(|_| "what a cache did")?;
    Ok(match &*word.to_ascii_lowercase() {
        "hit" | "true" | "1" | "refreshhit" => Some("hit"),
        "miss" | "false" | "0" => Some("miss"),
        "stale" => Some("stale"),
        "bypass" => Some("bypass"),
        "none" => None,
        _ => return Err("what a cache did"),
    })
}

/// An id of hex digits.
pub(crate) fn hex<const N: usize>(text: &str) -> Result<[u8; N], Expected> {
    const EXPECTED: Expected = "an id of hex digits, not all of them 0";
    let mut out = [0; N];
    let mut digits = text.bytes().filter(|byte| *byte != b'-').map(|byte| char::from(byte).to_digit(16));
    for to in &mut out {
        let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else {
            return Err(EXPECTED);
        };
        *to = u8::try_from(high << 4 | low).map_err(|_| EXPECTED)?;
    }
    if digits.next().is_some() || out == [0; N] { Err(EXPECTED) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_read_in_their_units() {
        let at = |micros| Ok(Timestamp::from_micros(micros));
        for (value, unit, expected) in [
            (json!("2026-11-22T03:57:41.1234567Z"), As::Rfc3339, at(1_795_319_861_123_456)),
            (json!("2026-11-22T05:27:41+01:30"), As::EpochMs, at(1_795_319_861_000_000)),
            (json!(1_795_319_861), As::EpochS, at(1_795_319_861_000_000)),
            (json!(1_795_319_861.25), As::EpochS, at(1_795_319_861_250_000)),
            (json!("1795319861.25"), As::EpochS, at(1_795_319_861_250_000)),
            (json!(1_795_319_861_123_i64), As::EpochMs, at(1_795_319_861_123_000)),
            (json!("1795319861123456789"), As::EpochNs, at(1_795_319_861_123_456)),
            (json!(5), As::EpochUs, at(5)),
        ] {
            assert_eq!(time(&value, unit), expected, "{value} as {unit:?}");
        }
        for (value, unit) in [
            (json!(5), As::Rfc3339),
            (json!("2026-02-29T00:00:00Z"), As::Rfc3339),
            (json!("2026-11-22T24:00:00Z"), As::Rfc3339),
            (json!("2026-11-22T03:57:41."), As::Rfc3339),
            (json!("2026-11-22T03:57:41.Z"), As::Rfc3339),
            (json!("2026-11-22T03:57:41"), As::Rfc3339),
            (json!("2026-11-22"), As::Rfc3339),
            (json!("é"), As::Rfc3339),
            (json!([1]), As::EpochS),
            (json!("nan"), As::EpochS),
            (json!(1e300), As::EpochS),
        ] {
            assert!(time(&value, unit).is_err(), "{value} as {unit:?}");
        }
    }

    #[test]
    fn spans_are_microseconds() {
        for (value, unit, expected) in [
            (json!(12), As::Ms, Ok(Some(12_000))),
            (json!(12.5), As::Ms, Ok(Some(12_500))),
            (json!("0.25"), As::S, Ok(Some(250_000))),
            (json!(1_500), As::Ns, Ok(Some(2))),
            (json!(7), As::Us, Ok(Some(7))),
            (json!(-1), As::Ms, Ok(None)),
            (json!("soon"), As::Ms, Err("a number of time units")),
            (json!("inf"), As::Ms, Err("a number of time units")),
            (json!(1e300), As::Ms, Err("a number of time units")),
            (json!(true), As::Ms, Err("a number of time units")),
        ] {
            assert_eq!(span(&value, unit), expected, "{value} as {unit:?}");
        }
    }

    #[test]
    fn addresses_lose_their_ports() {
        for (text, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:443", Some("192.0.2.1")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("203.0.113.7, 10.0.0.1", Some("203.0.113.7")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(ip(text).ok().map(|ip| ip.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn ids_are_hex() {
        assert_eq!(hex::<2>("0aFf"), Ok([0x0a, 0xff]));
        assert!(hex::<16>("01a2019f-9b37-75bc-a60d-7978df8570b4").is_ok());
        for wrong in ["", "0", "0000", "0aff0", "0aff00", "zzzz"] {
            assert!(hex::<2>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn caches_are_spelled_in_many_ways() {
        assert_eq!(cache(&json!("HIT")), Ok(Some("hit")));
        assert_eq!(cache(&json!(0)), Ok(Some("miss")));
        assert_eq!(cache(&json!("none")), Ok(None));
        assert!(cache(&json!("perhaps")).is_err() && cache(&json!({})).is_err());
    }
}
