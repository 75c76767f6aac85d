//! What a checkpoint says of its leaves beside their number: how many rows of each class, and how many were late.
//!
//! When a row is gone, its leaf does not tell its class or its age. These counts do, for the leaves between two
//! checkpoints: retention explains what is missing only as far as rows of a class that may have gone were there.
//! They stand in lines of the signed text:
//!
//! ```text
//! rows access 120 refused 3 admin 0 imported 7
//! late imported 3 5
//! ```
//!
//! A row is *late* when its call began more than a day before it was logged: an imported record, a call that the
//! gateway's end cut short. Its number, 3, says that this was at least 2² and less than 2³ days, and 5 how many.
//!
//! Constraints: counts only grow; the journal keeps what each leaf adds (its [`Tag`]), so that a crash loses none.

use doorward_core::{Clock, SystemClock};

use crate::columns::CALL_COLUMNS;
use crate::retention::CLASSES;
use crate::row::Value;
use crate::wire::Access;

/// Lines of lateness that a checkpoint may have.
const LATE_LINES_MAX: usize = CLASSES.len() * LATE_MAX;
/// A day, in microseconds.
pub(crate) const DAY_US: i64 = 24 * 60 * 60 * 1_000_000;
/// How many spans of lateness are told apart; the last one has no end.
pub(crate) const LATE_MAX: usize = 15;
/// What a leaf adds to the counts, in a byte: its class, and how late it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(u8);

impl Tag {
    /// A leaf that is no row.
    pub(crate) const OTHER: Self = Self(0x0f);

    pub(crate) const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    pub(crate) const fn byte(self) -> u8 {
        self.0
    }

    /// That of a call's rows, which are logged now.
    pub(crate) fn of(access: &Access<'_>) -> Self {
        let value = |name: &str| {
            let place = CALL_COLUMNS.iter().position(|(column, _)| *column == name);
            place.and_then(|place| access.values.get(place))
        };
        let class = match value("class") {
            Some(Value::Text(class)) => class_of(Some(class)),
            _ => class_of(None),
        };
        let late = match value("ts") {
            Some(Value::Int(ts)) => late(SystemClock.now().micros().saturating_sub(*ts)),
            _ => 0,
        };
        Self::new(class, late)
    }

    fn new(class: usize, late: usize) -> Self {
        Self(u8::try_from((late.min(LATE_MAX) << 4) | (class + 1)).unwrap_or_default())
    }
}

/// The place of a class; a record without one is of the first.
pub(crate) fn class_of(name: Option<&str>) -> usize {
    CLASSES.iter().position(|class| Some(*class) == name).unwrap_or(0)
}

/// The number of the span of lateness; 0 within a day.
fn late(after_us: i64) -> usize {
    let days = u64::try_from(after_us / DAY_US).unwrap_or(0);
    usize::try_from(u64::BITS - days.leading_zeros()).unwrap_or(LATE_MAX).min(LATE_MAX)
}

/// By how many microseconds the rows of a span of lateness were late at most.
pub(crate) fn late_at_most(span: usize) -> i64 {
    if span >= LATE_MAX { i64::MAX } else { DAY_US << span }
}

/// Rows by class, and by class and lateness, since a log began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) rows: [u64; CLASSES.len()],
    /// Class, span of lateness and rows, in this order; rarely any.
    pub(crate) late: Vec<(u8, u8, u64)>,
}

impl Tally {
    /// Counts a leaf. Whether its class is known: leaves of versions before did not keep it.
    pub(crate) fn add(&mut self, tag: Tag) -> bool {
        if tag == Tag::OTHER {
            return true;
        }
        let (class, span) = (tag.0 & 0x0f, tag.0 >> 4);
        let Some(class) = class.checked_sub(1) else { return false };
        let Some(rows) = self.rows.get_mut(usize::from(class)) else { return false };
        *rows += 1;
        if span > 0 {
            self.add_late(class, span, 1);
        }
        true
    }

    fn add_late(&mut self, class: u8, span: u8, rows: u64) {
        match self.late.binary_search_by_key(&(class, span), |(class, span, _)| (*class, *span)) {
            Ok(place) => {
                if let Some((_, _, known)) = self.late.get_mut(place) {
                    *known += rows;
                }
            }
            Err(place) => self.late.insert(place, (class, span, rows)),
        }
    }

    /// The lines of a checkpoint.
    pub(crate) fn lines(&self) -> Vec<String> {
        let rows: Vec<String> =
            CLASSES.iter().zip(self.rows).map(|(class, rows)| format!("{class} {rows}")).collect();
        let late = self.late.iter().filter_map(|(class, span, rows)| {
            Some(format!("late {} {span} {rows}", CLASSES.get(usize::from(*class))?))
        });
        std::iter::once(format!("rows {}", rows.join(" "))).chain(late).collect()
    }

    /// What the lines of a checkpoint say; `None` when it counts no classes.
    pub(crate) fn parse(lines: &[String]) -> Option<Self> {
        let class_at = |name: &str| CLASSES.iter().position(|known| *known == name);
        let mut tally = Self::default();
        let rows = lines.iter().find_map(|line| line.strip_prefix("rows "))?;
        let mut words = rows.split(' ');
        while let (Some(class), Some(rows)) = (words.next(), words.next()) {
            *tally.rows.get_mut(class_at(class)?)? = rows.parse().ok()?;
        }
        for line in lines.iter().filter_map(|line| line.strip_prefix("late ")).take(LATE_LINES_MAX) {
            let mut words = line.split(' ');
            let class = u8::try_from(class_at(words.next()?)?).ok()?;
            let (span, rows) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            tally.add_late(class, span, rows);
        }
        Some(tally)
    }

    /// What was added since an earlier count.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        for (now, before) in since.rows.iter_mut().zip(before.rows) {
            *now = now.saturating_sub(before);
        }
        for (class, span, now) in &mut since.late {
            let earlier = before.late.iter().find(|(of, late, _)| (of, late) == (class, span));
            *now = now.saturating_sub(earlier.map_or(0, |(_, _, rows)| *rows));
        }
        since.late.retain(|(_, _, rows)| *rows > 0);
        since
    }

    /// The counts as the journal keeps them.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.lines().join("\n").into_bytes()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let lines: Vec<String> = std::str::from_utf8(bytes).ok()?.lines().map(str::to_owned).collect();
        Self::parse(&lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_back_from_lines_and_bytes() {
        let mut tally = Tally::default();
        let hours = |hours: i64| late(hours * DAY_US / 24);
        let spans: Vec<usize> = [-5, 0, 23, 24, 47, 48, 95, 96, 24 * 400, 24 * 20_000].map(hours).into();
        assert_eq!(spans, [0, 0, 0, 1, 1, 2, 2, 3, 9, 15]);
        for (class, late) in [(0, 0), (0, 0), (3, 3), (3, 15), (1, 0)] {
            assert!(tally.add(Tag::from_byte(Tag::new(class, late).byte())));
        }
        assert!(tally.add(Tag::OTHER));
        assert!(!tally.add(Tag::from_byte(0)));
        let lines = tally.lines();
        let expected =
            ["rows access 2 refused 1 admin 0 imported 2", "late imported 3 1", "late imported 15 1"];
        assert_eq!(lines, expected);
        assert_eq!(Tally::parse(&lines), Some(tally.clone()));
        assert_eq!(Tally::from_bytes(&tally.to_bytes()), Some(tally.clone()));
        assert_eq!(tally.since(&tally), Tally::default());
        // What a store says of its own accord is no count.
        for bad in ["rows access -1", "rows nobody 3", "rows access x"] {
            assert_eq!(Tally::parse(&[bad.to_owned()]), None, "{bad}");
        }
        assert_eq!(Tally::parse(&["logged 5".to_owned()]), None);
    }

    #[test]
    fn lateness_is_bounded_from_above() {
        for days in [1, 2, 3, 4, 7, 8, 1_000, 16_000] {
            assert!(late_at_most(late(days * DAY_US)) > days * DAY_US, "{days}");
        }
    }
}
