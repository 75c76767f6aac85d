//! What an entry looks like outside: the timeline's own columns, or OCSF.

use doorward_core::{Timestamp, hex};
use serde_json::{Value as Json, json};

use super::config::Format;
use super::ocsf;
use super::tail::{Entry, GapEntry};
use crate::time::rfc3339;

/// Puts entries in the configured form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Formatter(pub(crate) Format);

impl Formatter {
    /// The entry as JSON.
    pub(crate) fn json(self, entry: &Entry) -> Json {
        match (entry, self.0) {
            (Entry::Row(row), Format::Record) => Json::Object(row.clone()),
            (Entry::Row(row), Format::Ocsf) => ocsf::event(row),
            (Entry::Gap(gap), Format::Record) => gap_json(gap),
            (Entry::Gap(gap), Format::Ocsf) => ocsf::gap(gap),
        }
    }

    /// Appends the entry as one line.
    pub(crate) fn line(self, entry: &Entry, out: &mut Vec<u8>) {
        out.extend_from_slice(self.json(entry).to_string().as_bytes());
        out.push(b'\n');
    }
}

/// Missing records, in the form of a row: `gap` tells the two apart. A gap that is in the log has all that its leaf is
/// made of.
fn gap_json(gap: &GapEntry) -> Json {
    let time = |us: i64| rfc3339(Timestamp::from_micros(us));
    let mut line = json!({
        "ts": time(gap.at_us),
        "gateway_id": &*gap.gateway_id,
        "epoch": gap.epoch,
        "seq": gap.seq,
        "gap": {"lost": gap.lost, "reason": gap.reason},
    });
    if let (Some((from_us, leaf)), Some(object)) = (gap.logged, line.as_object_mut()) {
        object.insert("leaf_hash".to_owned(), hex(&leaf).into());
        if let Some(gap) = object.get_mut("gap").and_then(Json::as_object_mut) {
            gap.insert("from".to_owned(), time(from_us).into());
        }
    }
    line
}

/// How grave an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gravity {
    /// A call that went well.
    Informational,
    /// A call that was refused or broke off.
    Notice,
    /// A call that failed.
    Warning,
    /// Records are missing.
    Error,
}

impl Gravity {
    /// Of an entry.
    pub(crate) fn of(entry: &Entry) -> Self {
        let Entry::Row(row) = entry else { return Self::Error };
        match row.get("outcome").and_then(Json::as_str) {
            Some("allowed") => Self::Informational,
            Some("failed" | "unknown") => Self::Warning,
            Some(_) | None => Self::Notice,
        }
    }
}

/// When an entry was, microseconds.
pub(crate) fn at_us(entry: &Entry) -> i64 {
    match entry {
        Entry::Gap(gap) => gap.at_us,
        Entry::Row(row) => {
            let ts = row.get("ts").and_then(Json::as_str);
            let ts = ts.and_then(|ts| crate::time::parse(ts, Timestamp::default()));
            ts.map_or(0, Timestamp::micros)
        }
    }
}
