//! Times as people read and write them: RFC 3339, in UTC.

use std::time::Duration;

use doorward_core::{Timestamp, calendar};
use doorward_settings::HumanDuration;

const DAY: i64 = 86_400;

/// `2026-11-22T03:57:41.123456Z`.
pub fn rfc3339(ts: Timestamp) -> String {
    let (seconds, micros) = (ts.seconds(), ts.micros().rem_euclid(1_000_000));
    let (year, month, day) = calendar::date(seconds.div_euclid(DAY));
    let second = seconds.rem_euclid(DAY);
    let (hours, minutes, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{second:02}.{micros:06}Z")
}

/// Reads a point in time: a span before now (`15m`), a date, or RFC 3339.
pub fn parse(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Some(span) = HumanDuration::parse(text) {
        let micros = i64::try_from(span.get().as_micros()).ok()?;
        return Some(Timestamp::from_micros(now.micros().saturating_sub(micros)));
    }
    let (date, rest) = text.split_at_checked(10)?;
    let days = parse_date(date)?;
    let Some(rest) = rest.strip_prefix(['T', 't', ' ']) else {
        return rest.is_empty().then(|| Timestamp::from_seconds(days * DAY));
    };
    let (clock, rest) = rest.split_at_checked(8)?;
    let (micros, zone) = parse_fraction(rest)?;
    let seconds = days * DAY + parse_clock(clock)? - parse_zone(zone)?;
    Some(Timestamp::from_micros(seconds * 1_000_000 + micros))
}

fn parse_date(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day) =
        (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let days = calendar::days(year, month, day);
    // A day that does not exist comes back as another one.
    (parts.next().is_none() && calendar::date(days) == (year, month, day)).then_some(days)
}

fn parse_clock(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let (h, m, s) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    (parts.next().is_none() && h < 24 && m < 60 && s <= 60).then_some(h * 3_600 + m * 60 + s)
}

fn parse_fraction(text: &str) -> Option<(i64, &str)> {
    let Some(rest) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (fraction, zone) = rest.split_at_checked(end)?;
    if fraction.is_empty() {
        return None;
    }
    let six: String = fraction.chars().chain("000000".chars()).take(6).collect();
    Some((digits(&six, 6)?, zone))
}

fn parse_zone(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    Some(sign * (digits(hours, 2)? * 3_600 + digits(minutes, 2)? * 60))
}

fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// A span in the unit that reads best: `840 µs`, `12.4 ms`, `3.2 s`.
pub(crate) fn span(span: Duration) -> String {
    let micros = span.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        let now = Timestamp::from_seconds(1_000_000);
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(parse(text, now).map(rfc3339).as_deref(), expected, "{text}");
        };
        check("15m", Some("1970-01-12T13:31:40.000000Z"));
        check("2026-11-22T03:57:41Z", Some("2026-11-22T03:57:41.000000Z"));
        check("2026-11-22 03:57:41.5+01:30", Some("2026-11-22T02:27:41.500000Z"));
        check("2024-02-29", Some("2024-02-29T00:00:00.000000Z"));
        check("1969-12-31T23:59:59.999999Z", Some("1969-12-31T23:59:59.999999Z"));
        for wrong in ["2023-02-29", "2026-13-01", "2026-11-22T24:00:00Z", "2026-11-22T03:57:41", "x", "", "é"]
        {
            check(wrong, None);
        }
    }
}
