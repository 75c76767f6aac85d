//! The configuration of the transparency log.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use doorward_settings::{ByteSize, HumanDuration, SecretRef};
use doorward_tlog::note::{Kind, Vkey};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::s3::{S3Config, check_url};

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
    /// `file:DIRECTORY`, or a bucket.
    pub to: Vec<Place>,
    /// Witnesses that cosign each checkpoint (tlog-witness).
    pub witnesses: Vec<WitnessConfig>,
    /// How many bytes of logs of earlier starts are kept for places that do not take them. Beyond that, or beyond 256
    /// starts, the oldest are given up, and it is recorded.
    pub owed_max: ByteSize,
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
            owed_max: ByteSize::new(1 << 30),
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
        let mut names: Vec<String> = self.to.iter().map(Place::name).collect();
        names.sort_unstable();
        if let Some(twice) = names.iter().zip(names.iter().skip(1)).find(|(one, other)| one == other) {
            return Some(("checkpoints.to", format!("{} stands there twice", twice.0)));
        }
        let buckets = self.to.iter().enumerate().filter_map(|(place, to)| match to {
            Place::Directory(_) => None,
            Place::Bucket(bucket) => Some((place, bucket)),
        });
        for (place, bucket) in buckets {
            if let Some(text) = bucket.problem() {
                return Some(("checkpoints.to", format!("place {}: {text}", place + 1)));
            }
        }
        self.witnesses.iter().find_map(WitnessConfig::problem)
    }

    /// The same with relative paths taken from `base`.
    pub(crate) fn relative_to(mut self, base: &Path) -> Self {
        for place in &mut self.to {
            match place {
                Place::Directory(path) => *path = base.join(&*path),
                Place::Bucket(_) => {}
            }
        }
        for witness in &mut self.witnesses {
            if let Some(ca) = &mut witness.ca {
                *ca = base.join(&*ca);
            }
        }
        self
    }

    /// Cosignatures that a checkpoint needs.
    pub(crate) fn quorum(&self) -> usize {
        self.quorum.unwrap_or(self.witnesses.len())
    }
}

/// A place outside the store.
#[derive(Clone, Debug)]
pub enum Place {
    /// A directory in the layout of tlog-tiles: `DIRECTORY/GATEWAY/EPOCH/checkpoint` and `…/tile/…`.
    Directory(PathBuf),
    /// A bucket, in the same layout.
    Bucket(Box<BucketPlace>),
}

/// A bucket for checkpoints and tiles.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BucketPlace {
    /// The bucket, and the key with which it is written and read.
    pub s3: S3Config,
    /// A checkpoint is put at most so often, each with two or three requests for what is new.
    #[serde(default = "default_every")]
    pub every: HumanDuration,
}

fn default_every() -> HumanDuration {
    HumanDuration::new(Duration::from_secs(10))
}

impl BucketPlace {
    fn problem(&self) -> Option<String> {
        if let Err(text) = check_url(&self.s3.url) {
            return Some(format!("s3.url: {text}"));
        }
        (self.every.get() > INTERVAL_MAX).then(|| "every: at most 1h is expected".to_owned())
    }
}

impl Place {
    /// How often a checkpoint is put there, at most.
    pub(crate) fn every(&self) -> Duration {
        match self {
            Self::Directory(_) => Duration::ZERO,
            Self::Bucket(place) => place.every.get(),
        }
    }

    /// The place, as its operator knows it.
    pub fn name(&self) -> String {
        match self {
            Self::Directory(path) => path.display().to_string(),
            Self::Bucket(place) => place.s3.url.clone(),
        }
    }
}

/// What a place is.
const PLACE_FORM: &str = "`file:DIRECTORY`, for example `file:/mnt/worm/doorward`, or a mapping with `s3`";

struct PlaceVisitor;

impl<'de> Visitor<'de> for PlaceVisitor {
    type Value = Place;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PLACE_FORM)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Place, E> {
        match text.strip_prefix("file:").filter(|path| !path.is_empty()) {
            Some(path) => Ok(Place::Directory(path.into())),
            None => Err(E::custom(format!("expected {PLACE_FORM}"))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Place, A::Error> {
        BucketPlace::deserialize(MapAccessDeserializer::new(map)).map(|place| Place::Bucket(Box::new(place)))
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlaceVisitor)
    }
}

impl JsonSchema for Place {
    fn schema_name() -> Cow<'static, str> {
        "CheckpointPlace".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let bucket = generator.subschema_for::<BucketPlace>();
        json_schema!({
            "description": "A place for checkpoints and tiles: `file:DIRECTORY`, or a mapping with `s3`.",
            "anyOf": [{ "type": "string", "pattern": "^file:.+" }, bucket]
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
    /// A PEM file of authorities, beside the system's, that may vouch for it.
    pub ca: Option<PathBuf>,
    /// The certificate that the gateway shows to it, PEM; with `key`.
    pub cert: Option<SecretRef>,
    /// The private key of `cert`, PEM.
    pub key: Option<SecretRef>,
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
        if !known {
            return Some(("checkpoints.witnesses.url", "an address with https:// is expected".to_owned()));
        }
        if self.cert.is_some() != self.key.is_some() {
            return Some(("checkpoints.witnesses", "`cert` and `key` go together".to_owned()));
        }
        let tls = self.ca.is_some() || self.cert.is_some();
        (tls && !self.url.starts_with("https://")).then(|| {
            (
                "checkpoints.witnesses.url",
                "`ca`, `cert` and `key` are for an address with https://".to_owned(),
            )
        })
    }
}

/// How this gateway cosigns the checkpoints of others.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeersConfig {
    /// Where other gateways ask: `ADDRESS:PORT`; port 0 takes a free one. It speaks TLS when the gateway has `tls`, and
    /// is on loopback otherwise.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Who asks must show a certificate that `tls.client_ca` vouches for; a handshake without one fails.
    #[serde(default)]
    pub client_certificate_required: bool,
    /// Listens beyond loopback without TLS. What is asked and answered is signed all the same.
    #[serde(default)]
    pub dangerous_plaintext: bool,
    /// The public keys of the logs that it cosigns for, as `doorward audit key` prints them.
    pub logs: Vec<String>,
    /// The name of its key as a witness: a host name and a path, without a scheme. The default is
    /// `doorward-witness/GATEWAY`. The key is made at the first start, and kept with what was seen in `SPOOL/witness`.
    pub name: Option<String>,
    /// What is cosigned is recorded in this gateway's own timeline: the first checkpoint of each start of a peer, and
    /// then one so often.
    #[serde(default = "default_record_every")]
    pub record_every: HumanDuration,
}

fn default_record_every() -> HumanDuration {
    HumanDuration::new(Duration::from_secs(60 * 60))
}

/// The shortest `record_every`: two gateways that cosign for each other would otherwise write about each other
/// without end.
pub const RECORD_EVERY_MIN: Duration = Duration::from_secs(60);

impl PeersConfig {
    /// The keys of the logs.
    pub fn keys(&self) -> Result<Vec<Vkey>, String> {
        let key = |text: &String| {
            let key = Vkey::parse(text).ok().filter(|key| key.kind() == Kind::Ed25519);
            key.ok_or_else(|| {
                format!("{text:?} is not the public key of a log, as `doorward audit key` prints it")
            })
        };
        self.logs.iter().map(key).collect()
    }

    /// What is wrong with it, if anything: the key, and a sentence.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        if self.logs.is_empty() || self.logs.len() > LOGS_MAX {
            return Some(("peers.logs", format!("1 to {LOGS_MAX} keys are expected")));
        }
        if let Err(text) = self.keys() {
            return Some(("peers.logs", text));
        }
        (self.record_every.get() < RECORD_EVERY_MIN)
            .then(|| ("peers.record_every", "at least 1m is expected".to_owned()))
    }
}

/// The most logs that a gateway cosigns for.
pub const LOGS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use doorward_settings::Document;

    use super::*;

    fn read(yaml: &str) -> Result<CheckpointsConfig, String> {
        let document = Document::parse("doorward.yaml", yaml).map_err(|problem| problem.to_string())?;
        let config: CheckpointsConfig =
            document.root().deserialize().map_err(|problem| problem.to_string())?;
        match config.problem() {
            Some((key, text)) => Err(format!("{key}: {text}")),
            None => Ok(config),
        }
    }

    #[test]
    fn places_are_directories_and_buckets() {
        let key = "access_key_id: 'env:ID', secret_access_key: 'env:SECRET'";
        let config =
            read(&format!("to: ['file:a', {{ s3: {{ url: 's3://b/p', {key} }}, every: 1m }}]")).unwrap();
        let config = config.relative_to(Path::new("/etc"));
        let names: Vec<_> = config.to.iter().map(|place| (place.name(), place.every().as_secs())).collect();
        assert_eq!(names, [("/etc/a".to_owned(), 0), ("s3://b/p".to_owned(), 60)]);
        for (yaml, wanted) in [
            ("to: ['a']".to_owned(), "expected `file:DIRECTORY`"),
            ("to: ['s3://b/p']".to_owned(), "or a mapping with `s3`"),
            ("to: [{ every: 1m }]".to_owned(), "s3"),
            (
                format!("to: [{{ s3: {{ url: 'ftp://b', {key} }} }}]"),
                "checkpoints.to: place 1: s3.url: expected",
            ),
            (format!("to: [{{ every: 2h, s3: {{ url: 's3://b', {key} }} }}]"), "place 1: every: at most 1h"),
            (
                "to: [{ s3: { url: 's3://b', access_key_id: 'plain', secret_access_key: 'env:S' } }]"
                    .to_owned(),
                "not the secret itself",
            ),
            ("to: ['file:a', 'file:a']".to_owned(), "a stands there twice"),
            ("to: ['file:a', 'file:b']\nquorum: 1".to_owned(), "there are fewer witnesses"),
        ] {
            let error = read(&yaml).unwrap_err();
            assert!(error.contains(wanted), "{yaml}: {error}");
        }
    }

    #[test]
    fn peers_are_logs_and_not_witnesses() {
        use doorward_tlog::note::Signer;
        let key = |kind| Signer::generate("doorward/gw", kind).unwrap().0.vkey();
        let problem = |key: Vkey, every: &str| {
            let yaml = format!("listen: 127.0.0.1:0\nlogs: ['{key}']\nrecord_every: {every}");
            let document = Document::parse("doorward.yaml", &yaml).unwrap();
            let peers: PeersConfig = document.root().deserialize().unwrap();
            peers.problem().map(|(key, _)| key)
        };
        assert_eq!(problem(key(Kind::Ed25519), "1h"), None);
        assert_eq!(problem(key(Kind::Cosignature), "1h"), Some("peers.logs"));
        assert_eq!(problem(key(Kind::Ed25519), "1s"), Some("peers.record_every"));
    }
}
