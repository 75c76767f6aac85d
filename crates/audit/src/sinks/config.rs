//! The configuration's section `sinks`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use doorward_settings::{ByteSize, HumanDuration, SecretRef};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::log::config::{BucketPlace, Place};
use crate::s3::{S3Config, check_url};

/// The most sinks.
pub const SINKS_MAX: usize = 16;
/// The smallest `lag_max`: a segment or two.
const LAG_MIN: u64 = 16 << 20;

/// A place that records go to beside the store. It names one of `stdout`, `otlp`, `syslog` and `s3`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    /// JSON lines on the gateway's standard output.
    pub stdout: Option<StdoutConfig>,
    /// Log records for an OpenTelemetry collector, by OTLP over HTTP with JSON bodies.
    pub otlp: Option<OtlpLogsConfig>,
    /// Messages for a syslog receiver (RFC 5424).
    pub syslog: Option<SyslogConfig>,
    /// Compressed JSON lines in a bucket.
    pub s3: Option<ArchiveConfig>,
    /// What a record looks like: `record` (the columns of the timeline; default) or `ocsf`.
    #[serde(default)]
    pub format: Format,
    /// What becomes of personal values: `omit` (default), or `sealed`: as the store has them.
    #[serde(default)]
    pub personal: PersonalValues,
    /// How many bytes of the spool's segments are kept for this sink while it cannot take records. What is
    /// older is lost to it, and it is told so.
    #[serde(default = "default_lag_max")]
    pub lag_max: ByteSize,
}

fn default_lag_max() -> ByteSize {
    ByteSize::new(1 << 30)
}

/// What a record looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The columns of the timeline, by name.
    #[default]
    Record,
    /// An event of the Open Cybersecurity Schema Framework.
    Ocsf,
}

/// What becomes of personal values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PersonalValues {
    /// They do not leave the gateway.
    #[default]
    Omit,
    /// They go as the store has them: sealed under a key for each person.
    Sealed,
}

/// JSON lines on standard output; there is nothing to say about them.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdoutConfig {}

/// Where log records are sent.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtlpLogsConfig {
    /// The collector's address, `https://otel.internal:4318`; `/v1/logs` is added when it has no path.
    pub endpoint: String,
    /// Headers that the collector asks for; each value is a secret reference.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretRef>,
}

/// Where messages are sent, and how.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyslogConfig {
    /// `tls://HOST:6514` (RFC 5425), `tcp://HOST:601` (RFC 6587, octet counting) or `udp://HOST:514` (RFC 5426).
    /// Over UDP nothing tells what is lost.
    pub address: String,
    /// The facility's number; 13, log audit, unless it is set.
    #[serde(default = "default_facility")]
    pub facility: u8,
    /// The application's name in messages.
    #[serde(default = "default_app_name")]
    pub app_name: String,
    /// A PEM file of authorities, beside the system's, that may vouch for the receiver.
    pub ca: Option<PathBuf>,
    /// Records may cross the network without TLS.
    #[serde(default)]
    pub dangerous_plaintext: bool,
}

fn default_facility() -> u8 {
    13
}

fn default_app_name() -> String {
    "doorward".to_owned()
}

/// Where archives go, and how often.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArchiveConfig {
    /// Where objects go: `https://s3.eu-west-1.amazonaws.com/BUCKET/PREFIX`, or `s3://BUCKET/PREFIX`.
    pub url: String,
    /// The region that signatures name.
    #[serde(default = "crate::s3::default_region")]
    pub region: String,
    /// The id of the access key; a secret reference.
    pub access_key_id: SecretRef,
    /// The secret of the access key; a secret reference.
    pub secret_access_key: SecretRef,
    /// The session's token, when the key is a temporary one; a secret reference.
    pub session_token: Option<SecretRef>,
    /// How long records gather before an object is written; one is also written when a segment of the spool
    /// ends.
    #[serde(default = "default_every")]
    pub every: HumanDuration,
}

fn default_every() -> HumanDuration {
    HumanDuration::new(Duration::from_secs(60 * 60))
}

impl ArchiveConfig {
    /// The bucket as a place that is read.
    pub fn place(&self) -> Place {
        Place::Bucket(Box::new(BucketPlace { s3: self.bucket(), every: self.every }))
    }

    /// The bucket.
    pub(crate) fn bucket(&self) -> S3Config {
        S3Config {
            url: self.url.clone(),
            region: self.region.clone(),
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
            session_token: self.session_token.clone(),
        }
    }
}

/// How a syslog receiver is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Road {
    Udp,
    Tcp,
    Tls,
}

impl SyslogConfig {
    /// The road, and `HOST:PORT`.
    pub(crate) fn road(&self) -> Result<(Road, &str), String> {
        let (scheme, authority) = self.address.split_once("://").unwrap_or(("", &self.address));
        let road = match scheme {
            "tls" => Road::Tls,
            "tcp" => Road::Tcp,
            "udp" => Road::Udp,
            _ => return Err("expected `tls://HOST:6514`, `tcp://HOST:601` or `udp://HOST:514`".to_owned()),
        };
        let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) || authority.contains(['/', '@']) {
            return Err("expected HOST:PORT after the scheme".to_owned());
        }
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let loopback = host == "localhost" || host == "[::1]" || host.starts_with("127.");
        if road != Road::Tls && !loopback && !self.dangerous_plaintext {
            return Err("records would cross the network in the clear; use `tls://`, or say \
                        `dangerous_plaintext: true`"
                .to_owned());
        }
        Ok((road, authority))
    }

    fn problem(&self) -> Option<String> {
        if let Err(text) = self.road() {
            return Some(format!("syslog.address: {text}"));
        }
        if self.facility > 23 {
            return Some("syslog.facility: a number from 0 to 23 is expected".to_owned());
        }
        let name = &self.app_name;
        let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
        (name.is_empty() || name.len() > 48 || !printable).then(|| {
            "syslog.app_name: 1 to 48 printable ASCII characters without spaces are expected".to_owned()
        })
    }
}

impl SinkConfig {
    /// What kind of sink it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self { stdout: Some(_), .. } => "stdout",
            Self { otlp: Some(_), .. } => "otlp",
            Self { syslog: Some(_), .. } => "syslog",
            _ => "s3",
        }
    }

    /// What is wrong with it, if anything.
    fn problem(&self) -> Option<String> {
        let kinds = [self.stdout.is_some(), self.otlp.is_some(), self.syslog.is_some(), self.s3.is_some()];
        if kinds.iter().filter(|there| **there).count() != 1 {
            return Some("a sink names exactly one of `stdout`, `otlp`, `syslog` and `s3`".to_owned());
        }
        if self.lag_max.get() < LAG_MIN {
            return Some("lag_max: at least 16MiB are needed".to_owned());
        }
        let otlp = self.otlp.as_ref().and_then(|otlp| {
            let known = otlp.endpoint.starts_with("https://") || otlp.endpoint.starts_with("http://");
            (!known).then(|| "otlp.endpoint: expected `https://HOST:4318`".to_owned())
        });
        let s3 = self.s3.as_ref().and_then(|s3| check_url(&s3.url).err());
        otlp.or(s3.map(|text| format!("s3.url: {text}")))
            .or_else(|| self.syslog.as_ref().and_then(SyslogConfig::problem))
    }

    /// The same with relative paths taken from `base`.
    pub(crate) fn relative_to(mut self, base: &Path) -> Self {
        if let Some(ca) = self.syslog.as_mut().and_then(|syslog| syslog.ca.as_mut()) {
            *ca = base.join(&*ca);
        }
        self
    }
}

/// What is wrong with the sinks, if anything.
pub(crate) fn problem(sinks: &BTreeMap<String, SinkConfig>) -> Option<String> {
    if sinks.len() > SINKS_MAX {
        return Some(format!("at most {SINKS_MAX} sinks"));
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    sinks.iter().find_map(|(name, sink)| {
        if name.is_empty() || name.len() > 32 || !name.bytes().all(plain) {
            return Some(format!("{name:?}: a sink's name has 1 to 32 lower-case letters, digits and `-`"));
        }
        sink.problem().map(|text| format!("{name}: {text}"))
    })
}
