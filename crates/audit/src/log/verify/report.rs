//! What was found.

use uuid::Uuid;

use super::{FINDINGS_MAX, LogId};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A row is not what was logged.
    Changed,
    /// A row stands at the place of another one.
    Reordered,
    /// Rows are not there any more.
    Missing,
    /// The newest rows are not there any more.
    Truncated,
    /// A row has a place that is taken.
    Duplicated,
    /// A row was never logged.
    Inserted,
    /// The tree over the rows is not the one that a checkpoint was signed for.
    RootMismatch,
    /// A checkpoint is not signed by the log's key.
    BadSignature,
    /// There are two histories of one log.
    Forked,
    /// A log does not go on from the one before.
    ChainBroken,
    /// A whole log is not there any more.
    EpochMissing,
    /// A part of an archive cannot be read.
    Damaged,
}

impl Kind {
    /// The name as reports spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Reordered => "reordered",
            Self::Missing => "missing",
            Self::Truncated => "truncated",
            Self::Duplicated => "duplicated",
            Self::Inserted => "inserted",
            Self::RootMismatch => "root-mismatch",
            Self::BadSignature => "bad-signature",
            Self::Forked => "forked",
            Self::ChainBroken => "chain-broken",
            Self::EpochMissing => "epoch-missing",
            Self::Damaged => "damaged",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// Where.
    pub log: LogId,
    /// The first and the last place in the log, when it is about places.
    pub places: Option<(u64, u64)>,
    /// The call, when it is known.
    pub access_id: Option<Uuid>,
    /// Between which times, microseconds, as far as it is known.
    pub between_us: (Option<i64>, Option<i64>),
    /// In words.
    pub text: String,
}

impl Finding {
    pub(super) fn of(log: &LogId, kind: Kind, text: &str) -> Self {
        Self {
            kind,
            log: log.clone(),
            places: None,
            access_id: None,
            between_us: (None, None),
            text: text.to_owned(),
        }
    }
}

/// How much was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Logs.
    pub logs: u64,
    /// Rows.
    pub rows: u64,
    /// Rows whose place and values a signed checkpoint proves.
    pub proved: u64,
    /// Rows that no checkpoint counts yet.
    pub unsigned: u64,
    /// Rows that retention has removed.
    pub expired: u64,
    /// Rows that were removed because the store was too large, as the gateways say.
    pub outgrown: u64,
    /// Rows of the version that had no log.
    pub before_log: u64,
    /// Records that the store refused and that are kept apart.
    pub dead_letters: u64,
    /// Records that could not be kept, as gaps say.
    pub gaps: u64,
    /// The newest rows of logs that go on, which an archive does not have yet.
    pub waiting: u64,
    /// Logs of administrators' commands, which no archive gets.
    pub elsewhere: u64,
    /// Checkpoints with a good signature.
    pub checkpoints: u64,
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How much was looked at.
    pub summary: Summary,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Findings beyond those that are kept.
    pub more: u64,
    /// Whether the last log had anything.
    pub(super) had_items: bool,
}

impl Report {
    pub(super) fn add(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }
}
