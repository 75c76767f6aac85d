//! The configuration's section `redact`.

use std::collections::BTreeMap;

use doorward_core::BoundValues;
use doorward_settings::SecretRef;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::detector::Detector;

/// What becomes of literals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// They stay, but for what a detector finds.
    #[default]
    Keep,
    /// Each becomes `?`.
    Redact,
}

/// What a record keeps of the values that a PostgreSQL statement is bound to (`$1`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BindValues {
    /// Nothing.
    Off,
    /// Each value behind the statement's text, redacted as a literal in its place would be.
    #[default]
    Redacted,
    /// A keyed hash of each: equal values are found, and none is read.
    Hashed,
}

impl From<BindValues> for BoundValues {
    fn from(values: BindValues) -> Self {
        match values {
            BindValues::Off => Self::Off,
            BindValues::Redacted => Self::Redacted,
            BindValues::Hashed => Self::Hashed,
        }
    }
}

/// What is taken out of texts before they enter a record.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RedactConfig {
    /// What becomes of string literals and comments in SQL: `keep` (default) or `redact`.
    pub literals: Keep,
    /// What becomes of numbers in SQL; unless it is set, the same as of literals.
    pub numbers: Option<Keep>,
    /// What becomes of the values that a statement of the Postgres door is bound to: `redacted` (default), `hashed`
    /// or `off`.
    pub bind_values: BindValues,
    /// The key of `bind_values: hashed`, at least 16 bytes. Under another key the same value has another hash.
    pub hash_key: Option<SecretRef>,
    /// Switches single detectors on or off, by name: `{ email: true, iban: false }`.
    pub detectors: BTreeMap<Detector, bool>,
    /// Names, beside the known ones, whose values are secret: of settings, columns, JSON fields, options.
    pub names: Vec<String>,
    /// Headers, beside the known ones, whose values are secret.
    pub headers: Vec<String>,
    /// Parameters of URLs, beside the known ones, whose values are secret.
    pub query_parameters: Vec<String>,
    /// Your own rules.
    pub patterns: Vec<PatternConfig>,
}

/// A rule of the operator's own: what matches is redacted.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PatternConfig {
    /// Stands in the text in place of what matched: `[redacted:NAME]`. Lower-case letters, digits and `-`.
    pub name: String,
    /// A regular expression in the syntax of Rust's `regex` crate: it has no look-around and no
    /// back-references, and takes linear time.
    #[serde(rename = "match")]
    pub matches: String,
}
