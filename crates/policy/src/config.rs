//! The `grants:` and `deny:` sections as they stand in the file.

use std::fmt;

use doorward_settings::{ByteSize, HumanDuration, OneOrMany, Spanned};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

/// One grant: to whom, which actions, under which conditions and limits, as which backend role.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantConfig {
    /// Who: `user:EMAIL|SUB`, `group:NAME`, `client:ID`, `issuer:NAME`, `task:PATTERN`, `agent:PATTERN`,
    /// `anyone` (authenticated) or `public`; one or a list.
    pub to: OneOrMany<Spanned<String>>,
    /// Which actions: `VERB[,VERB…] RESOURCE/OBJECT-PATTERN`; one or a list.
    pub allow: OneOrMany<Spanned<String>>,
    /// Under which condition: a CEL expression over `principal`, `request` and `action`.
    #[serde(default)]
    pub when: Option<Spanned<String>>,
    /// The backend role to act as; `${group}` is the group that matched `to`.
    #[serde(default, rename = "as")]
    pub role: Option<Spanned<String>>,
    /// How often: `50/s burst 100`, or a mapping.
    #[serde(default)]
    pub limit: Option<Spanned<LimitConfig>>,
    /// The most rows that one answer may have.
    #[serde(default)]
    pub max_rows: Option<u64>,
    /// The most bytes that one answer may have.
    #[serde(default)]
    pub max_bytes: Option<ByteSize>,
    /// How long the backend may work on one call.
    #[serde(default)]
    pub timeout: Option<HumanDuration>,
}

/// One deny rule. It beats every grant.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DenyConfig {
    /// Whom it holds for, written as in a grant.
    pub to: OneOrMany<Spanned<String>>,
    /// Which actions it forbids, written as in a grant's `allow`.
    pub what: OneOrMany<Spanned<String>>,
    /// Under which condition: a CEL expression. If it cannot be evaluated, the rule holds.
    #[serde(default)]
    pub when: Option<Spanned<String>>,
}

/// A limit: how many calls in how long, and how many of them at once.
#[derive(Clone, Debug)]
pub struct LimitConfig {
    /// Calls per unit of time.
    pub rate: Rate,
    /// The most calls at once; the rate's number when it is left out.
    pub burst: Option<u64>,
    /// What is counted by itself.
    pub per: Per,
}

/// What a limit counts by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// Each principal: issuer and subject.
    #[default]
    Principal,
    /// All calls under the grant together.
    Grant,
    /// All calls under the grant to one resource together.
    Resource,
}

/// A rate: `50/s`, `10/m`, `1000/h`, `10000/d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// In how many seconds.
    pub period_seconds: u64,
}

/// The largest number in a rate or a burst.
pub const COUNT_MAX: u64 = 1_000_000;

const RATE_FORM: &str = "a rate such as 50/s, 10/m, 1000/h or 10000/d";
const LIMIT_FORM: &str = "a limit such as \"50/s burst 100\", or a mapping of rate, burst and per";

impl Rate {
    /// Reads `COUNT/UNIT`.
    pub fn parse(text: &str) -> Option<Self> {
        let (count, unit) = text.split_once('/')?;
        let period_seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return None,
        };
        Some(Self { count: parse_count(count)?, period_seconds })
    }
}

fn parse_count(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let count = if digits { text.parse().ok()? } else { return None };
    (1..=COUNT_MAX).contains(&count).then_some(count)
}

impl LimitConfig {
    /// Reads `RATE [burst COUNT]`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let rate = Rate::parse(words.next()?)?;
        let burst = match (words.next(), words.next(), words.next()) {
            (None, ..) => None,
            (Some("burst"), Some(count), None) => Some(parse_count(count)?),
            _ => return None,
        };
        Some(Self { rate, burst, per: Per::default() })
    }
}

impl fmt::Display for LimitConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.rate.period_seconds {
            1 => "s",
            60 => "m",
            3_600 => "h",
            _ => "d",
        };
        write!(f, "{}/{unit}", self.rate.count)?;
        if let Some(burst) = self.burst {
            write!(f, " burst {burst}")?;
        }
        match self.per {
            Per::Principal => Ok(()),
            Per::Grant => f.write_str(" per grant"),
            Per::Resource => f.write_str(" per resource"),
        }
    }
}

/// The mapping form of a limit.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LimitMap {
    /// Calls per unit of time: `50/s`.
    rate: Rate,
    /// The most calls at once; the rate's number when it is left out.
    #[serde(default)]
    burst: Option<BurstCount>,
    /// What is counted by itself: each principal, the whole grant, or each resource.
    #[serde(default)]
    per: Per,
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format_args!("expected {RATE_FORM}")))
    }
}

impl JsonSchema for Rate {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+/[smhd]$" })
    }
}

#[derive(JsonSchema)]
struct BurstCount(u64);

impl<'de> Deserialize<'de> for BurstCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let count = u64::deserialize(deserializer)?;
        if (1..=COUNT_MAX).contains(&count) {
            return Ok(Self(count));
        }
        Err(D::Error::custom(format_args!("expected a number from 1 to {COUNT_MAX}")))
    }
}

impl<'de> Deserialize<'de> for LimitConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LimitVisitor)
    }
}

struct LimitVisitor;

impl<'de> Visitor<'de> for LimitVisitor {
    type Value = LimitConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(LIMIT_FORM)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<LimitConfig, E> {
        LimitConfig::parse(text).ok_or_else(|| E::custom(format_args!("expected {LIMIT_FORM}")))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LimitConfig, A::Error> {
        let map = LimitMap::deserialize(MapAccessDeserializer::new(map))?;
        Ok(LimitConfig { rate: map.rate, burst: map.burst.map(|burst| burst.0), per: map.per })
    }
}

impl JsonSchema for LimitConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Limit".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<LimitMap>();
        json_schema!({
            "description": "How often: 50/s burst 100, or a mapping of rate, burst and per.",
            "anyOf": [{ "type": "string", "pattern": "^[0-9]+/[smhd]( burst [0-9]+)?$" }, map],
        })
    }
}
