//! Reads and writes times as `2027-01-31T12:00:00Z`: RFC 3339 in UTC with whole seconds, no other form.

use crate::calendar;
use crate::time::Timestamp;

/// Reads a time; `None` for any other form, and for days that do not exist.
pub fn parse(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    if !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = calendar::days(year, month, day);
    // A day that does not exist comes back as another one.
    if calendar::date(days) != (year, month, day) {
        return None;
    }
    Some(Timestamp::from_seconds(((days * 24 + hour) * 60 + minute) * 60 + second))
}

/// Writes a time, cut to the second.
pub fn format(time: Timestamp) -> String {
    let (days, second) = (time.seconds().div_euclid(86_400), time.seconds().rem_euclid(86_400));
    let (year, month, day) = calendar::date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn numbers(text: &str, separator: char, widths: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(separator);
    let mut values = [0; 3];
    for (value, width) in values.iter_mut().zip(widths) {
        let part = parts.next().filter(|part| part.len() == width)?;
        if !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *value = part.parse().ok()?;
    }
    parts.next().is_none().then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T23:59:59Z", Some(951_868_799)),
            ("2027-01-31T12:00:00Z", Some(1_801_396_800)),
            ("1969-12-31T23:59:59Z", Some(-1)),
            ("2027-02-29T00:00:00Z", None),
            ("2027-13-01T00:00:00Z", None),
            ("2027-01-00T00:00:00Z", None),
            ("2027-01-31T24:00:00Z", None),
            ("2027-01-31T12:00:00+01:00", None),
            ("2027-01-31 12:00:00Z", None),
            ("2027-1-31T12:00:00Z", None),
            ("+027-01-31T12:00:00Z", None),
            ("2027-01-31", None),
        ] {
            assert_eq!(parse(text).map(Timestamp::seconds), seconds, "{text}");
            if let Some(seconds) = seconds {
                assert_eq!(format(Timestamp::from_seconds(seconds)), text);
            }
        }
    }
}
