//! Whether the timeline is what was logged: each finding by its name.
//!
//! [`check`] makes the leaves again from what the store has now, in the order of their places, and compares them
//! with the tiles, and the tree over them with every signed checkpoint that it is given: the store's own, those
//! kept elsewhere, and those that later epochs have committed. Where a checkpoint holds, the tiles below it are
//! proved, and so a row that differs is named; where none holds, the range is.
//!
//! Constraints: reads the rows once, in a stream; memory is bounded by 32 bytes a leaf of one epoch, by
//! [`FINDINGS_MAX`] and by the epoch's gaps, notes and dead letters. What is missing because retention removed it is no finding, up to the horizon that the
//! store recorded, and [`SLACK_US`] after it: a call may be logged that much later than it began.

mod align;
mod archive;
mod bundle;
mod expiry;
mod postgres;
mod report;
mod sqlite;
mod walk;

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;
use std::vec;

use doorward_tlog::Hash;
use doorward_tlog::checkpoint::Checkpoint;
use doorward_tlog::note::{NOTE_MAX, Note, NoteError, Vkey};
use uuid::Uuid;

pub use archive::ArchiveEvidence;
pub use bundle::{BundleError, Proved, prove, verify_bundle};
pub use postgres::PostgresEvidence;
pub use report::{Finding, Kind, Report, Summary};
pub use sqlite::SqliteEvidence;
pub use walk::Tiles;

use super::journal::LOGGED;
use super::logger::{EPOCH_NOTE, FOR_EVER, origin};
use super::place::{Objects, PlaceError, larger, log_folder};
use super::tally::{Tally, class_of};
use crate::admin::is_of_commands;
use crate::retention::CLASSES;
use expiry::{Expiry, Keep};

/// The most findings that are kept; the rest is counted.
pub const FINDINGS_MAX: usize = 10_000;
/// The most gaps, notes and dead letters of one epoch.
pub const EXTRAS_MAX: usize = 1_000_000;
/// A record may come to the log this long after its call began: within it, the horizon of retention is taken
/// generously. An attacker gains a day of rows that were to go anyway.
const SLACK_US: i64 = 24 * 60 * 60 * 1_000_000;
/// The newest rows may be without a checkpoint for this long.
const UNSIGNED_US: i64 = 60 * 1_000_000;

/// Why evidence cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no store.
    #[error("there is no timeline at {0}")]
    Missing(String),
    /// SQLite says no.
    #[error("the timeline cannot be read: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL says no.
    #[error("the timeline cannot be read: {0}")]
    Client(#[from] doorward_pgclient::blocking::ClientError),
    /// The reader's password cannot be read.
    #[error("the store's login: {0}")]
    Login(String),
    /// The login does not see everything.
    #[error(
        "the login {0} does not see every record, and those that it does not see would count as missing: give it the scope of all environments and groups"
    )]
    Scope(String),
    /// A place outside the store cannot be read.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A note or a key is not one.
    #[error("{0}: {1}")]
    Note(String, NoteError),
    /// There is more than can be held.
    #[error("epoch {0} has more than {EXTRAS_MAX} gaps, notes and dead letters")]
    TooMany(u64),
}

/// What the store has at one place of the log, its leaf made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its place; `None` when it says none.
    pub index: Option<u64>,
    /// The leaf that the store says it has.
    pub stored: Option<Hash>,
    /// The leaf of what is there now; `None` when it cannot be made (a value is not of its column's type).
    pub leaf: Option<Hash>,
    /// What it is.
    pub what: What,
}

/// What stands at a place of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A row of a call.
    Row {
        /// The call.
        access_id: Option<Uuid>,
        /// When it began, microseconds.
        ts: Option<i64>,
        /// The place of its class among those that there are.
        class: usize,
        /// Whether it was kept by the version that had no log.
        before_log: bool,
    },
    /// Something that the store refused.
    DeadLetter {
        /// The place of its class; `None` when it is no row.
        class: Option<usize>,
    },
    /// Records that could not be kept.
    Gap,
    /// Something that the log says about itself.
    Note {
        /// What it is.
        kind: String,
        /// What it says.
        body: String,
    },
}

/// One log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId {
    /// The gateway.
    pub gateway_id: String,
    /// Its start.
    pub epoch: u64,
}

/// Rows that say they are of a start of a gateway which no high-water mark knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strangers {
    /// The log that they would be in.
    pub log: LogId,
    /// How many.
    pub rows: u64,
    /// How many of them say that they are of a version that logs.
    pub logged: u64,
}

/// What a store has.
pub trait Evidence {
    /// The logs that it knows of.
    fn logs(&mut self) -> Result<Vec<LogId>, VerifyError>;
    /// Rows of logs that it may not know of.
    fn strangers(&mut self) -> Result<Vec<Strangers>, VerifyError>;
    /// Everything of one log, in the order of places; what has none comes first.
    fn items(&mut self, log: &LogId, each: &mut dyn FnMut(Item)) -> Result<(), VerifyError>;
    /// Whether it may hold rows of the version that had no log.
    fn may_predate_log(&self) -> bool;
    /// What is at the first place of one log, as far as it is no row.
    fn items_from_start(&mut self, log: &LogId, each: &mut dyn FnMut(Item)) -> Result<(), VerifyError>;
    /// Checkpoints of one log: when each was signed, and its note.
    fn checkpoints(&mut self, log: &LogId) -> Result<Vec<(i64, String)>, VerifyError>;
    /// The leaf hashes of one tile, as far as they are kept.
    fn tile(&mut self, log: &LogId, index: u64) -> Result<Vec<Hash>, VerifyError>;
    /// What the logs say about themselves in notes of one kind.
    fn notes(&mut self, kind: &str) -> Result<Vec<String>, VerifyError>;
    /// Classes, and up to when retention says that it has removed their rows, microseconds; the class without a name
    /// stands for all.
    fn horizons(&mut self) -> Result<Vec<(String, i64)>, VerifyError>;
    /// Told before the items of a log are asked for: its leaves as tiles have them, and how many a checkpoint counts. For
    /// evidence whose rows do not tell their places.
    fn beside(&mut self, _tiles: &Arc<Tiles>, _largest: u64) {}
    /// What could not be read of the items that were asked for last, in words.
    fn damage(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Hands on a row, behind the extras that stand before it; rows come in the order of places.
fn weave(extras: &mut Peekable<vec::IntoIter<Item>>, row: Item, each: &mut dyn FnMut(Item)) {
    while let Some(extra) = extras.next_if(|extra| row.index.is_some() && extra.index < row.index) {
        each(extra);
    }
    each(row);
}

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// One gateway alone.
    pub gateway_id: Option<String>,
    /// One of its starts alone.
    pub epoch: Option<u64>,
    /// Findings of rows that began before are left out, and logs that were over by then.
    pub since_us: Option<i64>,
    /// Findings of rows that began later are left out.
    pub until_us: Option<i64>,
    /// Places with checkpoints and tiles that were kept outside the store.
    pub outside: Vec<Arc<dyn Objects>>,
    /// The keys that checkpoints must be signed by. Without any, the key that each log names in its first leaf
    /// is taken, which whoever rewrote the whole store has chosen.
    pub keys: Vec<Vkey>,
    /// Of an archive: how long after its checkpoint a row may come to it, microseconds. `None` for a store, which is to
    /// have all that is under a checkpoint.
    pub lag_us: Option<i64>,
    /// Now, microseconds.
    pub now_us: i64,
}

/// A checkpoint that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) size: u64,
    pub(crate) root: Hash,
    /// When it was signed, or its last leaf was logged when that is earlier: microseconds, as the signature vouches
    /// for; what the store says beside the note is anybody's word.
    pub(crate) signed_us: Option<i64>,
    /// What it says of the classes of its rows.
    pub(crate) tally: Option<Tally>,
    /// Where it is from.
    pub(crate) from: Arc<str>,
}

impl Known {
    fn of(checkpoint: &Checkpoint, from: Arc<str>) -> Self {
        let logged = checkpoint.extra.iter().find_map(|line| line.strip_prefix(LOGGED)?.parse().ok());
        let signed_us = [checkpoint.time_us, logged].into_iter().flatten().min();
        let (size, root, tally) = (checkpoint.size, checkpoint.root, Tally::parse(&checkpoint.extra));
        Self { size, root, signed_us, tally, from }
    }
}

/// Checks everything in the scope.
pub fn check(evidence: &mut dyn Evidence, scope: &Scope) -> Result<Report, VerifyError> {
    let mut report = Report::default();
    let mut logs = evidence.logs()?;
    for log in outside_logs(&scope.outside)? {
        if !logs.contains(&log) {
            logs.push(log);
        }
    }
    logs.sort();
    if scope.lag_us.is_some() {
        // No sink gets what commands record; their logs are at the places outside all the same.
        let held = evidence.logs()?;
        let before = logs.len();
        logs.retain(|log| !is_of_commands(&log.gateway_id) || held.contains(log));
        report.summary.elsewhere = u64::try_from(before - logs.len()).unwrap_or(0);
    }
    let mut starts = expiry::starts(evidence, &logs)?;
    let expiry = Expiry::read(evidence, &starts, scope.now_us)?;
    // What was kept without a log was kept before there was one.
    let first = logs.iter().map(|log| log.epoch).min();
    let predates = |log: &LogId, evidence: &dyn Evidence| {
        evidence.may_predate_log() && first.is_none_or(|first| log.epoch <= first)
    };
    logs.retain(|log| scope.gateway_id.as_ref().is_none_or(|gateway| *gateway == log.gateway_id));
    strangers(evidence, scope, &logs, &predates, &mut report)?;
    let mut committed: BTreeMap<LogId, Known> = BTreeMap::new();
    // The newest first: each commits the last checkpoint of the one before.
    for (place, log) in logs.iter().enumerate().rev() {
        let older = place.checked_sub(1).and_then(|place| logs.get(place));
        let newest = logs.get(place + 1).is_none_or(|next| next.gateway_id != log.gateway_id);
        let older = older.filter(|older| older.gateway_id == log.gateway_id);
        let notes = starts.remove(log);
        if let Some(start) = &notes {
            chain(log, older, start, &mut committed, &mut report);
        }
        if scope.epoch.is_some_and(|epoch| epoch != log.epoch) {
            continue;
        }
        let keys = keys_of(scope, notes.as_ref());
        let mut known = checkpoints(evidence, log, scope, &keys, &mut report)?;
        known.extend(committed.remove(log));
        if let Some(lag_us) = scope.lag_us.filter(|_| newest) {
            known.extend(settled(log, scope, &keys, scope.now_us.saturating_sub(lag_us))?);
        }
        let last = known.iter().map(|known| known.signed_us.unwrap_or(i64::MAX)).max();
        if !newest && scope.since_us.is_some_and(|since| last.is_some_and(|last| last < since)) {
            continue;
        }
        forks(log, &mut known, &mut report);
        let predates = predates(log, evidence);
        let with = walk::With { known, newest, predates, expiry: &expiry, scope };
        walk::walk(evidence, log, with, &mut report)?;
        if notes.is_none() && report.had_items {
            report.add(Finding::of(
                log,
                Kind::ChainBroken,
                "the first leaf, which tells whose log it is, is not there",
            ));
        }
    }
    // What later epochs have committed, and the store knows nothing of.
    for (log, known) in committed {
        if scope.epoch.is_none_or(|epoch| epoch == log.epoch) {
            let text = format!("the whole epoch is gone: {} rows and notes, by {}", known.size, known.from);
            report.add(Finding::of(&log, Kind::EpochMissing, &text));
        }
    }
    Ok(report)
}

/// Rows of logs that there are none of: put in, or of the version that had no log.
fn strangers(
    evidence: &mut dyn Evidence,
    scope: &Scope,
    logs: &[LogId],
    predates: &dyn Fn(&LogId, &dyn Evidence) -> bool,
    report: &mut Report,
) -> Result<(), VerifyError> {
    for Strangers { log, rows, logged } in evidence.strangers()? {
        let logged = if predates(&log, evidence) { logged } else { rows };
        let wanted = scope.gateway_id.as_ref().is_none_or(|gateway| *gateway == log.gateway_id)
            && scope.epoch.is_none_or(|epoch| epoch == log.epoch);
        if !wanted || logs.contains(&log) {
            continue;
        }
        report.summary.rows += rows;
        report.summary.before_log += rows.saturating_sub(logged);
        if logged > 0 {
            let text = format!("{logged} rows of a start that has no log");
            report.add(Finding::of(&log, Kind::Inserted, &text));
        }
    }
    Ok(())
}

/// What the first leaf of a log says.
pub(crate) struct Start {
    key: Option<Vkey>,
    /// For how long it keeps each class; `None` when it was made by a version that did not say.
    keep: Option<Keep>,
    previous: Option<(u64, Checkpoint)>,
}

fn first_note(evidence: &mut dyn Evidence, log: &LogId) -> Result<Option<Start>, VerifyError> {
    let mut found = None;
    evidence.items_from_start(log, &mut |item| {
        if let (Some(0), What::Note { kind, body }) = (item.index, item.what)
            && kind == EPOCH_NOTE
        {
            found = parse_start(log, &body);
        }
    })?;
    Ok(found)
}

fn parse_start(log: &LogId, body: &str) -> Option<Start> {
    let (head, previous) = body.split_once("\nprevious ")?;
    let mut lines = head.split('\n');
    let head = [lines.next()?, lines.next()?, lines.next()?];
    let (gateway, epoch) = (format!("gateway {}", log.gateway_id), format!("epoch {}", log.epoch));
    if head != ["doorward-log-epoch/v1", &gateway, &epoch] {
        return None;
    }
    let key = lines.next()?.strip_prefix("key ").and_then(|key| Vkey::parse(key).ok());
    let keep = parse_keep(lines);
    let (previous, checkpoint) = previous.split_once('\n')?;
    let previous = match previous.parse() {
        Ok(epoch) => Some((epoch, Checkpoint::parse(checkpoint).ok()?)),
        Err(_) => None,
    };
    Some(Start { key, keep, previous })
}

/// For how long each class is kept; `None` when not all are named.
fn parse_keep<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Keep> {
    let mut keep = [None; CLASSES.len()];
    for line in lines {
        let (class, span) = line.strip_prefix("keep ")?.split_once(' ')?;
        let place = CLASSES.iter().position(|known| *known == class)?;
        *keep.get_mut(place)? = Some(if span == FOR_EVER { None } else { Some(span.parse().ok()?) });
    }
    let [Some(access), Some(refused), Some(admin), Some(imported)] = keep else { return None };
    Some(Keep([access, refused, admin, imported]))
}

/// Whether a log goes on from the one before.
fn chain(
    log: &LogId,
    older: Option<&LogId>,
    start: &Start,
    committed: &mut BTreeMap<LogId, Known>,
    report: &mut Report,
) {
    match (&start.previous, older) {
        (Some((epoch, checkpoint)), _) => {
            let before = LogId { gateway_id: log.gateway_id.clone(), epoch: *epoch };
            if older.is_some_and(|older| older.epoch > *epoch) {
                let text = format!("it commits epoch {epoch}, and there is a later one between them");
                report.add(Finding::of(log, Kind::ChainBroken, &text));
            }
            let from = format!("the first leaf of epoch {}", log.epoch);
            committed.insert(before, Known::of(checkpoint, from.into()));
        }
        (None, Some(older)) => {
            let text = format!(
                "it does not commit epoch {}, which was before it: was the spool's directory new?",
                older.epoch
            );
            report.add(Finding::of(log, Kind::ChainBroken, &text));
        }
        (None, None) => {}
    }
}

fn keys_of(scope: &Scope, start: Option<&Start>) -> Vec<Vkey> {
    match scope.keys.is_empty() {
        false => scope.keys.clone(),
        true => start.and_then(|start| start.key.clone()).into_iter().collect(),
    }
}

/// The checkpoints of a log whose signatures hold.
fn checkpoints(
    evidence: &mut dyn Evidence,
    log: &LogId,
    scope: &Scope,
    keys: &[Vkey],
    report: &mut Report,
) -> Result<Vec<Known>, VerifyError> {
    let store: Arc<str> = "the store".into();
    let mut notes: Vec<(String, Arc<str>)> =
        evidence.checkpoints(log)?.into_iter().map(|(_, note)| (note, store.clone())).collect();
    for place in &scope.outside {
        for (key, note) in outside_notes(&**place, log)? {
            notes.push((note, format!("{}/{key}", place.name()).into()));
        }
    }
    let mut known = Vec::new();
    for (note, from) in notes {
        match signed_by(&note, keys, log.epoch) {
            Ok(checkpoint) => known.push(Known::of(&checkpoint, from)),
            Err(text) => {
                report.add(Finding::of(log, Kind::BadSignature, &format!("a checkpoint from {from}: {text}")))
            }
        }
    }
    report.summary.checkpoints += known.len() as u64;
    Ok(known)
}

/// The checkpoint of a note that one of the keys has signed.
fn signed_by(note: &str, keys: &[Vkey], epoch: u64) -> Result<Checkpoint, String> {
    let note = Note::parse(note).map_err(|error| error.to_string())?;
    let mut last = "no key is known to check it by".to_owned();
    let names = || keys.iter().map(Vkey::name).collect::<Vec<_>>().join(" or ");
    for key in keys {
        match key.verify(&note) {
            Ok(_) => {
                let checkpoint = Checkpoint::parse(&note.text).map_err(|error| error.to_string())?;
                let expected = origin(key.name(), epoch);
                if checkpoint.origin != expected {
                    return Err(format!("it is of the log {:?} and not of {expected:?}", checkpoint.origin));
                }
                return Ok(checkpoint);
            }
            Err(NoteError::Unsigned) => {
                let by: Vec<&str> = note.signatures.iter().map(|signature| &*signature.name).collect();
                last = match by.iter().find(|name| keys.iter().any(|key| key.name() == **name)) {
                    Some(name) => format!("it is signed by another key of the name {name}"),
                    None => format!("it is not signed by {}, but by {}", names(), by.join(", ")),
                };
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

/// Two checkpoints of one size must have one root.
fn forks(log: &LogId, known: &mut [Known], report: &mut Report) {
    known.sort_by_key(|known| known.size);
    let mut forked = Vec::new();
    for (one, other) in known.iter().zip(known.iter().skip(1)) {
        if one.size == other.size && one.root != other.root {
            forked.push(format!(
                "two checkpoints of {} leaves differ: from {} and from {}",
                one.size, one.from, other.from
            ));
        }
    }
    for text in forked {
        report.add(Finding::of(log, Kind::Forked, &text));
    }
}

/// The checkpoints that a place has of a log: the newest, and those by size that are newer than what calls itself
/// the newest. There are none, unless somebody put an older one in its place.
fn outside_notes(place: &dyn Objects, log: &LogId) -> Result<Vec<(String, String)>, VerifyError> {
    /// The most checkpoints that are read beside the newest: the last ones.
    const MORE_MAX: usize = 16;
    let folder = log_folder(&log.gateway_id, log.epoch);
    let newest = format!("{folder}/checkpoint");
    let read = |key: String| -> Result<Option<(String, String)>, VerifyError> {
        // What is no text is no checkpoint, and is told as one that is not signed.
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(place.read(&key, NOTE_MAX)?.map(|bytes| (key, text(bytes))))
    };
    let mut notes: Vec<_> = read(newest)?.into_iter().collect();
    let size = notes.first().and_then(|(_, note)| size_of(note)).unwrap_or(0);
    let more = larger(place, &folder, size)?;
    for key in more.into_iter().rev().take(MORE_MAX) {
        notes.extend(read(key)?);
    }
    Ok(notes)
}

/// The newest checkpoint of a log that was signed by then, of each place that keeps them by their sizes.
fn settled(log: &LogId, scope: &Scope, keys: &[Vkey], by_us: i64) -> Result<Vec<Known>, VerifyError> {
    let mut found = Vec::new();
    for place in &scope.outside {
        let sizes = larger(&**place, &log_folder(&log.gateway_id, log.epoch), 0)?;
        let read = |key: &String| -> Result<Option<Known>, VerifyError> {
            let Some(bytes) = place.read(key, NOTE_MAX)? else { return Ok(None) };
            let from = format!("{}/{key}", place.name()).into();
            let signed = signed_by(&String::from_utf8_lossy(&bytes), keys, log.epoch);
            Ok(signed.ok().map(|checkpoint| Known::of(&checkpoint, from)))
        };
        // They grow with time: halves are looked at.
        let (mut from, mut to, mut best) = (0, sizes.len(), None);
        while from < to {
            let middle = usize::midpoint(from, to);
            let known = sizes.get(middle).map(read).transpose()?.flatten();
            if known.as_ref().is_some_and(|known| known.signed_us.is_some_and(|at| at > by_us)) {
                to = middle;
            } else {
                best = known.or(best);
                from = middle + 1;
            }
        }
        found.extend(best);
    }
    Ok(found)
}

/// Leaves that a checkpoint says it counts.
fn size_of(note: &str) -> Option<u64> {
    Some(Checkpoint::parse(&Note::parse(note).ok()?.text).ok()?.size)
}

/// The logs that places outside have.
fn outside_logs(places: &[Arc<dyn Objects>]) -> Result<Vec<LogId>, VerifyError> {
    let mut logs = Vec::new();
    for place in places {
        for gateway_id in place.folders("")? {
            for epoch in place.folders(&gateway_id)? {
                let Ok(epoch) = epoch.parse() else { continue };
                let log = LogId { gateway_id: gateway_id.clone(), epoch };
                if !outside_notes(&**place, &log)?.is_empty() {
                    logs.push(log);
                }
            }
        }
    }
    Ok(logs)
}

/// Whether two checkpoints are of one log that only grew: both roots are made again from what is kept.
pub fn consistency(
    evidence: &mut dyn Evidence,
    log: &LogId,
    outside: &[Arc<dyn Objects>],
    checkpoints: [&Checkpoint; 2],
) -> Result<[bool; 2], VerifyError> {
    let mut holds = [false; 2];
    let largest = checkpoints.iter().map(|checkpoint| checkpoint.size).max().unwrap_or(0);
    walk::roots(evidence, log, outside, largest, &mut |size, root| {
        for (hold, checkpoint) in holds.iter_mut().zip(checkpoints) {
            *hold |= checkpoint.size == size && checkpoint.root == root();
        }
    })?;
    Ok(holds)
}

#[cfg(test)]
mod archive_tests;
#[cfg(test)]
mod retention_tests;
#[cfg(test)]
mod tests;
