//! The configuration of a resource that the ingest door serves.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use doorward_settings::{AuditConfig, ByteSize, HumanDuration, OneOrMany};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::mapping::convert::As;

/// Another gateway, whose records are taken in.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IngestConfig {
    /// Which ready-made mapping its records are read by: `ingest:apigee`, `ingest:azure-apim`,
    /// `ingest:kong`, `ingest:envoy` or `ingest:generic`.
    pub url: String,
    /// Where columns are found in its records, in place of what the ready-made mapping says of them: a
    /// path (`request.method`, or a JSON pointer `/request/headers/user-agent`), or a mapping. `ext.NAME`
    /// keeps a value that has no column.
    #[serde(default)]
    pub fields: BTreeMap<Box<str>, FieldConfig>,
    /// Paths of further fields that are known and left out.
    #[serde(default)]
    pub ignore: Vec<Box<str>>,
    /// What becomes of fields that neither the mapping nor `ignore` knows. They are reported in any case.
    #[serde(default)]
    pub unknown_fields: UnknownFields,
    /// The paths whose values together tell a record from all others; a repeat is not stored again.
    #[serde(default)]
    pub idempotency_key: OneOrMany<Box<str>>,
    /// Records of calls that began longer ago are dead letters.
    #[serde(default = "default_age")]
    pub time_max_age: HumanDuration,
    /// Records of calls that begin further in the future are dead letters.
    #[serde(default = "default_ahead")]
    pub time_max_ahead: HumanDuration,
    /// The largest record, at most 1MiB.
    #[serde(default = "default_line")]
    pub line_size_max: ByteSize,
    /// The largest batch, before and after decompression. The listener's `http.body` bounds it too.
    #[serde(default = "default_batch")]
    pub batch_size_max: ByteSize,
    /// Whether the request that brings records needs a durable record of its own. What it brings is
    /// durable before it is acknowledged in any case.
    #[serde(default)]
    pub audit: AuditConfig,
    /// Which syslog messages are for this resource, when `listen.syslog` is set.
    pub syslog: Option<SyslogConfig>,
}

impl IngestConfig {
    /// What a bare `ingest:KIND` means.
    pub fn of_url(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            fields: BTreeMap::new(),
            ignore: Vec::new(),
            unknown_fields: UnknownFields::default(),
            idempotency_key: OneOrMany::default(),
            time_max_age: default_age(),
            time_max_ahead: default_ahead(),
            line_size_max: default_line(),
            batch_size_max: default_batch(),
            audit: AuditConfig::default(),
            syslog: None,
        }
    }
}

/// Where a column's value is found, and how it is read.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldRule {
    /// The path; of several the first that has a value.
    pub from: OneOrMany<Box<str>>,
    /// How the value is read; each column has a way of its own.
    #[serde(default, rename = "as")]
    pub read_as: Option<As>,
    /// Cuts a text at this separator …
    #[serde(default)]
    pub split: Option<Box<str>>,
    /// … and takes this part, from 0.
    #[serde(default)]
    pub part: usize,
    /// For durations: the path of a second value, which is taken away from the first.
    #[serde(default)]
    pub minus: Option<Box<str>>,
}

/// A path, or a whole rule.
#[derive(Clone, Debug)]
pub struct FieldConfig(pub FieldRule);

impl<'de> Deserialize<'de> for FieldConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = FieldConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path, or a mapping such as { from: PATH, as: ms }")
    }

    fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<Self::Value, E> {
        let from = OneOrMany::from(vec![path.into()]);
        Ok(FieldConfig(FieldRule { from, ..FieldRule::default() }))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        FieldRule::deserialize(MapAccessDeserializer::new(map)).map(FieldConfig)
    }
}

impl JsonSchema for FieldConfig {
    fn schema_name() -> Cow<'static, str> {
        "Field".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rule = generator.subschema_for::<FieldRule>();
        json_schema!({ "anyOf": [{ "type": "string" }, rule] })
    }
}

/// What becomes of fields that nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownFields {
    /// They are kept in `ext`, redacted and bounded.
    #[default]
    Keep,
    /// They are only counted: their values may be anything.
    Count,
}

/// Which syslog messages are for a resource.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyslogConfig {
    /// Those that name one of these applications (APP-NAME).
    #[serde(default)]
    pub app_name: OneOrMany<Box<str>>,
    /// Those of a sender who shows a certificate of one of these subjects: the SPIFFE ID or the
    /// distinguished name, as `principal_subject` shows it.
    #[serde(default)]
    pub certificate: OneOrMany<Box<str>>,
}

fn default_age() -> HumanDuration {
    HumanDuration::new(Duration::from_secs(7 * 24 * 60 * 60))
}

fn default_ahead() -> HumanDuration {
    HumanDuration::new(Duration::from_secs(5 * 60))
}

fn default_line() -> ByteSize {
    ByteSize::new(64 << 10)
}

fn default_batch() -> ByteSize {
    ByteSize::new(8 << 20)
}
