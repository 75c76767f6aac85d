//! What comes in as JSON: tokens, keys, metadata, the API key file.
//!
//! Constraint: tokens and introspection answers are read by [`strict_object`], which refuses a member
//! that stands twice, at any level. Two parsers that pick different ones of two `sub` members see two
//! different callers (RFC 8725, 2.4; RFC 7519, 4).

use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value};

/// Nesting that no real token comes near.
const DEPTH_MAX: u8 = 16;

/// Reads one JSON object and nothing after it; refuses duplicate members and deep nesting.
pub(crate) fn strict_object(bytes: &[u8]) -> Result<Map<String, Value>, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth_left: DEPTH_MAX }.deserialize(&mut reader)?;
    reader.end()?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(serde_json::Error::custom("not a JSON object")),
    }
}

#[derive(Clone, Copy)]
struct Strict {
    depth_left: u8,
}

impl Strict {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        let depth_left = self.depth_left.checked_sub(1).ok_or_else(|| E::custom("nested too deep"))?;
        Ok(Self { depth_left })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom("a member stands twice"));
            }
            let value = members.next_value_seed(inner)?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

/// An issuer's metadata, as far as it is used (OpenID Connect Discovery 1.0; RFC 8414).
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) issuer: String,
    pub(crate) jwks_uri: Option<String>,
}

/// A key set (RFC 7517). A key is read by itself, so that one that is odd does not spoil the others.
#[derive(Debug, Deserialize)]
pub(crate) struct JwkSet {
    pub(crate) keys: Vec<Value>,
}

/// A public key (RFC 7517, 7518, 8037). `x5u`, `x5c` and the like are not read.
#[derive(Debug, Deserialize)]
pub(crate) struct Jwk {
    pub(crate) kty: String,
    #[serde(rename = "use")]
    pub(crate) usage: Option<String>,
    pub(crate) key_ops: Option<Vec<String>>,
    pub(crate) alg: Option<String>,
    pub(crate) kid: Option<String>,
    pub(crate) crv: Option<String>,
    pub(crate) n: Option<String>,
    pub(crate) e: Option<String>,
    pub(crate) x: Option<String>,
    pub(crate) y: Option<String>,
}

/// What a minted user name holds, sealed. Short names: it is a part of a user name.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SealedLogin {
    #[serde(rename = "x")]
    pub(crate) expires: i64,
    #[serde(rename = "i")]
    pub(crate) issuer: String,
    #[serde(rename = "c")]
    pub(crate) claims: Map<String, Value>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub(crate) resource: Option<String>,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<String>,
}

/// One line of the API key file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKeyLine {
    pub(crate) id: String,
    pub(crate) sha256: String,
    pub(crate) subject: String,
    pub(crate) kind: crate::config::KindName,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_and_depth_are_refused_at_any_level() {
        for (text, refused) in [
            (r#"{"sub":"a","sub":"b"}"#, true),
            (r#"{"sub":"a","\u0073ub":"b"}"#, true),
            (r#"{"a":{"b":[{"c":1,"c":2}]}}"#, true),
            (r#"{"a":1} {"b":2}"#, true),
            (r#"["sub"]"#, true),
            (r#"{"exp":1e400}"#, true),
            (r#"{"a":{"c":1},"b":{"c":2}}"#, false),
        ] {
            assert_eq!(strict_object(text.as_bytes()).is_err(), refused, "{text}");
        }
        let nest = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(strict_object(nest(15).as_bytes()).is_ok());
        assert!(strict_object(nest(16).as_bytes()).is_err());
    }
}
