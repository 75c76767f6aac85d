//! What retention explains: how old a missing row of each class must have been.
//!
//! What the store says of retention is anybody's word who holds it. So its horizon counts only as far as the logs
//! allow it: the first leaf of each epoch says for how long that start kept each class, and nothing that was
//! younger when it ended can have been removed by it. What a store that was too large removed is told by a note in
//! a log beforehand, and counted apart.

use std::collections::BTreeMap;

use super::walk::Lost;
use super::{Evidence, Known, LogId, SLACK_US, Start, VerifyError, first_note};
use crate::log::logger::{SIZE_NOTE, parse_size_note};
use crate::log::tally::{Tally, late_at_most};
use crate::retention::CLASSES;

/// Classes of rows, and what is no row: gaps, which go when nothing else is kept as long.
pub(super) const KINDS: usize = CLASSES.len() + 1;
/// The place of what is no row.
pub(super) const OTHER: usize = CLASSES.len();

/// Bytes of words about one range, roughly.
const WORDS_MAX: usize = 200;

/// Up to when records may have been removed, microseconds, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Expiry {
    by_age: [Option<i64>; KINDS],
    by_size: Option<i64>,
}

/// For how long one start keeps each class; `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keep(pub(super) [Option<i64>; CLASSES.len()]);

impl Keep {
    fn of(&self, kind: usize) -> Option<i64> {
        match self.0.get(kind) {
            Some(keep) => *keep,
            None => self.0.iter().copied().collect::<Option<Vec<_>>>()?.into_iter().max(),
        }
    }
}

/// The first leaves of all logs.
pub(super) fn starts(
    evidence: &mut dyn Evidence,
    logs: &[LogId],
) -> Result<BTreeMap<LogId, Start>, VerifyError> {
    let mut starts = BTreeMap::new();
    for log in logs {
        if let Some(start) = first_note(evidence, log)? {
            starts.insert(log.clone(), start);
        }
    }
    Ok(starts)
}

impl Expiry {
    pub(super) fn read(
        evidence: &mut dyn Evidence,
        starts: &BTreeMap<LogId, Start>,
        now_us: i64,
    ) -> Result<Self, VerifyError> {
        let horizons = evidence.horizons()?;
        let said = |class: &str| {
            let of_class = horizons.iter().filter(|(of, _)| of == class || of.is_empty());
            of_class.map(|(_, before)| *before).max()
        };
        let mut expiry = Self::default();
        for (kind, by_age) in expiry.by_age.iter_mut().enumerate() {
            let said = said(CLASSES.get(kind).copied().unwrap_or_default());
            *by_age = said.min(allowed(starts, kind, now_us));
        }
        let noted = evidence.notes(SIZE_NOTE)?.into_iter().filter_map(|body| parse_size_note(&body)).max();
        expiry.by_size = noted.min(said(""));
        Ok(expiry)
    }

    /// How many of `missing` leaves of a kind, counted by a checkpoint of that time, may have been removed for
    /// their age. Of those that were late some may be older than they look.
    fn aged(&self, kind: usize, missing: u64, at_us: i64, counted: &Tally) -> u64 {
        let Some(Some(horizon)) = self.by_age.get(kind) else { return 0 };
        explained(*horizon, kind, missing, at_us, counted)
    }

    /// The same because the store was too large.
    fn outgrown(&self, kind: usize, missing: u64, at_us: i64, counted: &Tally) -> u64 {
        let Some(horizon) = self.by_size.filter(|_| kind != OTHER) else { return 0 };
        explained(horizon, kind, missing, at_us, counted)
    }

    /// What explains the leaves of a span that are missing.
    pub(super) fn explain(&self, span: &Span) -> Explained {
        let mut explained = Explained::default();
        let Some(at_us) = span.at_us else {
            explained.left = vec![(None, span.missing)];
            return explained;
        };
        let Some((counted, missing)) = &span.counted else {
            // Of which class they were is not known: the log is of a version that did not count them.
            let horizon = self.by_age.iter().flatten().max();
            let within = |horizon: i64| at_us <= horizon.saturating_add(SLACK_US);
            match (horizon.is_some_and(|horizon| within(*horizon)), self.by_size.is_some_and(within)) {
                (true, _) => explained.aged = span.missing,
                (false, true) => explained.outgrown = span.missing,
                (false, false) => explained.left = vec![(None, span.missing)],
            }
            return explained;
        };
        for (kind, missing) in missing.iter().enumerate().filter(|(_, missing)| **missing > 0) {
            let aged = self.aged(kind, *missing, at_us, counted);
            let outgrown = self.outgrown(kind, missing - aged, at_us, counted);
            explained.aged += aged;
            explained.outgrown += outgrown;
            if aged + outgrown < *missing {
                explained.left.push((CLASSES.get(kind).copied(), missing - aged - outgrown));
            }
        }
        explained
    }
}

/// What the logs allow: each start removes what is older than it keeps, until it ends.
fn allowed(starts: &BTreeMap<LogId, Start>, kind: usize, now_us: i64) -> Option<i64> {
    let next_of = |log: &LogId| {
        let mut later = starts.range((std::ops::Bound::Excluded(log.clone()), std::ops::Bound::Unbounded));
        later.next().filter(|(next, _)| next.gateway_id == log.gateway_id).map(|(_, start)| start)
    };
    let until = starts.iter().filter_map(|(log, start)| {
        // The next start has signed for this one's end. The newest may still run.
        let end = next_of(log).and_then(|next| next.previous.as_ref()?.1.time_us).unwrap_or(now_us);
        match start.keep {
            Some(keep) => Some(end.saturating_sub(keep.of(kind)?)),
            // A version before did not say.
            None => Some(end),
        }
    });
    until.max()
}

fn explained(horizon: i64, kind: usize, missing: u64, at_us: i64, counted: &Tally) -> u64 {
    if at_us <= horizon.saturating_add(SLACK_US) {
        return missing;
    }
    let old = |span: u8| at_us <= horizon.saturating_add(late_at_most(usize::from(span)));
    let late = counted.late.iter().filter(|(class, span, _)| usize::from(*class) == kind && old(*span));
    missing.min(late.map(|(_, _, rows)| *rows).sum())
}

/// The leaves between two checkpoints.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// Its first place.
    pub(super) from: u64,
    /// The first place behind it.
    pub(super) to: u64,
    /// When the last of them was logged at the latest, as signed.
    pub(super) at_us: Option<i64>,
    /// Leaves that have nothing to show.
    pub(super) missing: u64,
    /// What was logged in it, and how many of each kind are missing; `None` when the classes were not counted.
    pub(super) counted: Option<(Tally, [u64; KINDS])>,
}

/// What explains what is missing in a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Explained {
    /// Removed for their age.
    pub(super) aged: u64,
    /// Removed because the store was too large, as the gateway says.
    pub(super) outgrown: u64,
    /// Class, where it is known, and number of those that nothing explains.
    pub(super) left: Vec<(Option<&'static str>, u64)>,
}

impl Explained {
    /// What nothing explains, in words.
    pub(super) fn words(&self) -> String {
        let known =
            self.left.iter().filter_map(|(class, rows)| Some(format!("{rows} of class {}", (*class)?)));
        known.collect::<Vec<_>>().join(", ")
    }
}

/// The spans between checkpoints that lack something, in order. `marks` are what was there at each checkpoint's size;
/// the places that lack something come in order too.
pub(super) fn spans(
    known: &[Known],
    marks: &[(u64, [u64; KINDS])],
    missing: impl Iterator<Item = (u64, u64)>,
) -> Vec<Span> {
    let mut missing = missing.peekable();
    let mut spans = Vec::new();
    let mut before = (0, [0; KINDS], Some(Tally::default()));
    let (mut at, mut part) = (0, None);
    for (size, present) in marks {
        let here = known.iter().skip(at).skip_while(|known| known.size < *size);
        let here: Vec<&Known> = here.take_while(|known| known.size == *size).collect();
        at = known.partition_point(|known| known.size <= *size);
        let tally = here.iter().find_map(|known| known.tally.clone());
        let mut lacking = 0;
        while let Some((first, last)) = part.take().or_else(|| missing.next_if(|(first, _)| first < size)) {
            let until = last.min(size - 1);
            lacking += until - first + 1;
            if last > until {
                part = Some((until + 1, last));
                break;
            }
        }
        if lacking > 0 {
            let counted = tally.as_ref().zip(before.2.as_ref()).map(|(now, before_tally)| {
                let counted = now.since(before_tally);
                let lacks = lacks(&counted, size - before.0, present, &before.1);
                (counted, lacks)
            });
            let at_us = here.iter().filter_map(|known| known.signed_us).min();
            spans.push(Span { from: before.0, to: *size, at_us, missing: lacking, counted });
        }
        before = (*size, *present, tally);
    }
    let rest: u64 = part.into_iter().chain(missing).map(|(first, last)| last - first + 1).sum();
    if rest > 0 {
        spans.push(Span { from: before.0, to: u64::MAX, at_us: None, missing: rest, counted: None });
    }
    spans
}

/// How many of each kind a span lacks: what was logged less what is there.
fn lacks(counted: &Tally, leaves: u64, now: &[u64; KINDS], before: &[u64; KINDS]) -> [u64; KINDS] {
    let mut lacks = [0; KINDS];
    let rows: u64 = counted.rows.iter().sum();
    let logged = counted.rows.iter().copied().chain([leaves.saturating_sub(rows)]);
    for (lack, (logged, (now, before))) in lacks.iter_mut().zip(logged.zip(now.iter().zip(before))) {
        *lack = logged.saturating_sub(now - before);
    }
    lacks
}

/// The places of a range that nothing explains, those that follow each other as one; and of which classes rows are
/// missing there.
pub(super) fn unexplained(lost: &Lost, spans: &[Span], explained: &[Explained]) -> Vec<(u64, u64, String)> {
    let mut found: Vec<(u64, u64, String)> = Vec::new();
    let from = spans.partition_point(|span| span.to <= lost.first);
    for (span, explained) in spans.iter().zip(explained).skip(from) {
        if span.from > lost.last {
            break;
        }
        if explained.left.is_empty() {
            continue;
        }
        let (first, last) = (span.from.max(lost.first), lost.last.min(span.to - 1));
        match found.last_mut() {
            Some((_, before, words)) if *before + 1 == first => {
                *before = last;
                let more = explained.words();
                if !more.is_empty() && words.len() < WORDS_MAX {
                    words.push_str(if words.is_empty() { "" } else { ", " });
                    words.push_str(&more);
                }
            }
            _ => found.push((first, last, explained.words())),
        }
    }
    found
}
