//! The configuration of the transparency log.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use doorward_settings::{HumanDuration, SecretRef};
use doorward_tlog::note::{Kind, Vkey};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error};

/// The most places and witnesses.
pub const PLACES_MAX: usize = 16;
/// The shortest and the longest interval.
pub const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// The longest interval: for so long the newest rows may be taken away unnoticed.
pub const INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);

/// How the log of records is signed, and who keeps its checkpoints.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointsConfig {
    /// A checkpoint is signed this long after the last one, if there is anything new.
    pub interval: HumanDuration,
    /// A checkpoint is signed after so many rows, however soon.
    pub count: u64,
    /// The signing key, in the form of signed-note (`PRIVATE+KEY+…`). The default is a key that the gateway makes
    /// at its first start and keeps in the spool's directory.
    pub key: Option<SecretRef>,
    /// Where checkpoints and tiles are kept beside the store, best out of reach of whoever can change the store:
    /// `file:DIRECTORY`.
    pub to: Vec<Place>,
    /// Witnesses that cosign each checkpoint (tlog-witness).
    pub witnesses: Vec<WitnessConfig>,
    /// How many cosignatures a checkpoint needs to count as witnessed; the default is all witnesses.
    pub quorum: Option<usize>,
}

impl Default for CheckpointsConfig {
    fn default() -> Self {
        Self {
            interval: HumanDuration::new(Duration::from_secs(1)),
            count: 1_024,
            key: None,
            to: Vec::new(),
            witnesses: Vec::new(),
            quorum: None,
        }
    }
}

impl CheckpointsConfig {
    /// What is wrong with it, if anything: the key, and a sentence.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let interval = self.interval.get();
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
            return Some(("checkpoints.interval", "100ms to 1h are expected".to_owned()));
        }
        if self.count == 0 {
            return Some(("checkpoints.count", "at least 1 is expected".to_owned()));
        }
        if self.to.len() > PLACES_MAX || self.witnesses.len() > PLACES_MAX {
            return Some(("checkpoints", format!("at most {PLACES_MAX} places and witnesses are expected")));
        }
        if self.quorum.is_some_and(|quorum| quorum > self.witnesses.len()) {
            return Some(("checkpoints.quorum", "there are fewer witnesses than that".to_owned()));
        }
        self.witnesses.iter().find_map(WitnessConfig::problem)
    }

    /// The same with relative paths taken from `base`.
    pub(crate) fn relative_to(mut self, base: &Path) -> Self {
        for Place::Directory(path) in &mut self.to {
            *path = base.join(&*path);
        }
        self
    }

    /// Cosignatures that a checkpoint needs.
    pub(crate) fn quorum(&self) -> usize {
        self.quorum.unwrap_or(self.witnesses.len())
    }
}

/// A place outside the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory in the layout of tlog-tiles: `DIRECTORY/GATEWAY/EPOCH/checkpoint` and `…/tile/…`.
    Directory(PathBuf),
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        match text.strip_prefix("file:").filter(|path| !path.is_empty()) {
            Some(path) => Ok(Self::Directory(path.into())),
            None => Err(D::Error::custom("expected `file:DIRECTORY`, for example `file:/mnt/worm/doorward`")),
        }
    }
}

impl JsonSchema for Place {
    fn schema_name() -> Cow<'static, str> {
        "CheckpointPlace".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^file:.+",
            "description": "A place for checkpoints and tiles: `file:DIRECTORY`."
        })
    }
}

/// A witness that cosigns checkpoints.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// The prefix of its address; `/add-checkpoint` is added.
    pub url: String,
    /// Its public key, as `doorward witness` prints it.
    pub vkey: String,
    /// Speaks to it over plain HTTP although it is on another machine. What it answers is signed all the same.
    #[serde(default)]
    pub dangerous_plaintext: bool,
}

impl WitnessConfig {
    fn problem(&self) -> Option<(&'static str, String)> {
        let key = Vkey::parse(&self.vkey);
        if !key.is_ok_and(|key| key.kind() == Kind::Cosignature) {
            let text =
                format!("{:?} is not the public key of a witness: NAME+ID+KEY, of type 0x04", self.vkey);
            return Some(("checkpoints.witnesses.vkey", text));
        }
        let known = ["https://", "http://"].iter().any(|scheme| self.url.starts_with(scheme));
        (!known).then(|| ("checkpoints.witnesses.url", "an address with https:// is expected".to_owned()))
    }
}
