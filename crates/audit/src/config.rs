//! The configuration of the record: where it is kept, for how long, and how it gets there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::log::config::CheckpointsConfig;
use doorward_settings::{ByteSize, HumanDuration, SecretRef};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::sinks::SinkConfig;

pub use crate::personal::config::PersonalConfig;
pub use crate::store::config::{Server, StoreLogin, StoreUrl};

/// The local durable log that records pass through on their way to the store.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// The directory of the segment files. One gateway at a time may use it.
    pub dir: PathBuf,
    /// The most bytes that the spool may hold. When it is full, a resource with `audit: required`
    /// answers 503 until the store has caught up.
    pub size_max: ByteSize,
    /// The longest that a record waits for others to be synced together with, under load; one that nobody waits
    /// for, four times as long. An idle log syncs at once what somebody waits for.
    pub commit_delay: HumanDuration,
    /// The share of `size_max`, or of what the disk leaves of it, at which the log and
    /// `doorward_spool_alarm` say that the spool fills; 1 to 100.
    pub alarm_percent: u8,
    /// The name of this gateway in its records; the default is a random one, kept in the directory.
    pub gateway_id: Option<String>,
    /// Encrypts what waits in the spool. The default is not to: personal values are sealed anyway.
    pub encryption: Option<SpoolEncryption>,
}

/// The keys under which the spool's segments are encrypted.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolEncryption {
    /// The key for new segments: 32 random bytes as base64 or hex. Without it new segments are plain, and those that
    /// are there are read under `old_keys`.
    pub key: Option<SecretRef>,
    /// Keys of before, until what is encrypted under them has been shipped; at most 16.
    pub old_keys: Vec<SecretRef>,
}

impl SpoolEncryption {
    fn problem(&self) -> Option<&'static str> {
        if self.key.is_none() && self.old_keys.is_empty() {
            return Some("no key is named: give `key`, or take `encryption` away");
        }
        (self.old_keys.len() > SPOOL_OLD_KEYS_MAX)
            .then_some("`old_keys` has more than 16 keys: take away those under which nothing waits any more")
    }
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("data/spool"),
            size_max: ByteSize::new(4 << 30),
            commit_delay: HumanDuration::new(Duration::from_millis(5)),
            alarm_percent: 80,
            gateway_id: None,
            encryption: None,
        }
    }
}

/// For how long records are kept in the store, and what is added up of them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Records that are older are removed. What a legal hold covers stays.
    pub age: Option<HumanDuration>,
    /// When the store is larger, its oldest records are removed.
    pub size: Option<ByteSize>,
    /// Another age for a class of records.
    pub classes: RetentionClasses,
    /// For how long the rollups are kept, which hold no record and name nobody.
    pub rollups: RollupRetention,
}

/// Ages by class of record.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionClasses {
    /// Calls that were carried.
    pub access: Option<HumanDuration>,
    /// Calls that were refused: no identity, no grant, or over a limit.
    pub refused: Option<HumanDuration>,
    /// What administrators did to the timeline itself.
    pub admin: Option<HumanDuration>,
    /// What other gateways say.
    pub imported: Option<HumanDuration>,
}

/// Ages by level of the rollups. A level without an age is kept for ever.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RollupRetention {
    /// Sums by the minute.
    #[serde(rename = "1m")]
    pub minute: Option<HumanDuration>,
    /// Sums by a quarter of an hour.
    #[serde(rename = "15m")]
    pub quarter: Option<HumanDuration>,
    /// Sums by the day.
    #[serde(rename = "1d")]
    pub day: Option<HumanDuration>,
}

impl Default for RollupRetention {
    fn default() -> Self {
        Self { minute: Some(days(30)), quarter: Some(days(180)), day: Some(days(5 * 365)) }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            age: Some(days(30)),
            size: Some(ByteSize::new(10 << 30)),
            classes: RetentionClasses::default(),
            rollups: RollupRetention::default(),
        }
    }
}

fn days(count: u64) -> HumanDuration {
    HumanDuration::new(Duration::from_secs(count * 24 * 60 * 60))
}

/// Where traces of calls are sent, by OTLP over HTTP with JSON bodies.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtlpConfig {
    /// The collector's address, `http://127.0.0.1:4318`; `/v1/traces` is added when it has no path.
    pub endpoint: String,
    /// Headers that the collector asks for; each value is a secret reference.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretRef>,
    /// Whether spans tell who called, and the operation's text. Off unless set.
    #[serde(default)]
    pub personal: bool,
}

/// All of the record's configuration.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// Where records are kept.
    pub store: StoreUrl,
    /// The log that they pass through.
    pub spool: SpoolConfig,
    /// For how long they are kept.
    pub retention: Retention,
    /// Whose personal data they hold, and under which keys.
    pub personal: PersonalConfig,
    /// How the log of them is signed, and who keeps its checkpoints.
    pub checkpoints: CheckpointsConfig,
    /// Where they go beside the store.
    pub sinks: BTreeMap<String, SinkConfig>,
    /// Leaves records in the spool; for benchmarks.
    #[serde(skip)]
    pub drain_disabled: bool,
}

/// The longest `commit_delay`: callers wait for it.
pub const COMMIT_DELAY_MAX: Duration = Duration::from_secs(1);
/// The smallest spool.
pub const SPOOL_SIZE_MIN: u64 = 16 << 20;
/// The most keys of before for the spool.
pub const SPOOL_OLD_KEYS_MAX: usize = 16;
/// The longest `gateway_id`, in bytes.
pub const GATEWAY_ID_MAX: usize = 64;

/// The shortest that sums by the minute are kept, in days.
pub const MINUTE_DAYS_MIN: u64 = 4;
/// The shortest that sums by a quarter of an hour are kept, in days.
pub const QUARTER_DAYS_MIN: u64 = 7;

impl AuditConfig {
    /// What is wrong with it, if anything: the key, and a sentence.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        if self.spool.commit_delay.get() > COMMIT_DELAY_MAX {
            return Some(("spool.commit_delay", "callers wait for it, so it is at most 1s".to_owned()));
        }
        if self.spool.size_max.get() < SPOOL_SIZE_MIN {
            return Some(("spool.size_max", "the spool needs at least 16MiB".to_owned()));
        }
        if !(1..=100).contains(&self.spool.alarm_percent) {
            return Some(("spool.alarm_percent", "1 to 100 is expected".to_owned()));
        }
        if let Some(text) = self.spool.encryption.as_ref().and_then(SpoolEncryption::problem) {
            return Some(("spool.encryption", text.to_owned()));
        }
        if let Some(text) = crate::sinks::config::problem(&self.sinks) {
            return Some(("sinks", text));
        }
        let id = self.spool.gateway_id.as_deref().unwrap_or("gateway");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if id.is_empty() || id.len() > GATEWAY_ID_MAX || !id.bytes().all(plain) {
            let text = "1 to 64 letters, digits, `-`, `_` and `.` are expected";
            return Some(("spool.gateway_id", text.to_owned()));
        }
        let least = |keep: Option<HumanDuration>, days: u64| {
            keep.is_some_and(|keep| keep.get() < Duration::from_secs(days * 24 * 60 * 60))
        };
        if least(self.retention.rollups.minute, MINUTE_DAYS_MIN)
            || least(self.retention.rollups.quarter, QUARTER_DAYS_MIN)
        {
            let text = "late records are added up for days: `1m` is at least 4d, `15m` at least 7d";
            return Some(("retention.rollups", text.to_owned()));
        }
        self.personal.problem().or_else(|| self.checkpoints.problem())
    }

    /// The same with relative paths taken from `base`.
    #[must_use]
    pub fn relative_to(mut self, base: &Path) -> Self {
        self.store = self.store.relative_to(base);
        self.spool.dir = base.join(&self.spool.dir);
        self.sinks = self.sinks.into_iter().map(|(name, sink)| (name, sink.relative_to(base))).collect();
        self.personal = self.personal.relative_to(base);
        self.checkpoints = self.checkpoints.relative_to(base);
        self
    }
}
