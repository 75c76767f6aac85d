//! A path in HashiCorp Vault or OpenBao.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error};

/// The longest path that is taken.
const PATH_BYTES_MAX: usize = 512;
/// What a path is, for those who wrote something else.
const EXPECTED: &str = "a path in Vault, MOUNT/PATH, of letters, digits, `-`, `_` and `.`";

/// A path in Vault without its API prefix: `kv/shop`, `database/creds/analyst`. Its segments need no encoding
/// in a URL, and none of them is `.` or `..`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct VaultPath(Box<str>);

impl VaultPath {
    /// Reads a path.
    pub fn parse(text: &str) -> Option<Self> {
        let good = text.len() <= PATH_BYTES_MAX && text.contains('/') && text.split('/').all(is_segment);
        good.then(|| Self(text.into()))
    }

    /// The path below this one that a name leads to; `None` for a name that cannot be a segment.
    pub fn join(&self, name: &str) -> Option<Self> {
        is_segment(name).then(|| Self(format!("{}/{name}", self.0).into()))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_segment(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(plain)
}

impl fmt::Display for VaultPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for VaultPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VaultPath({})", self.0)
    }
}

impl<'de> Deserialize<'de> for VaultPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format_args!("expected {EXPECTED}")))
    }
}

impl JsonSchema for VaultPath {
    fn schema_name() -> Cow<'static, str> {
        "VaultPath".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+$",
            "maxLength": PATH_BYTES_MAX,
            "description": "A path in Vault: MOUNT/PATH.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_plain() {
        for good in ["kv/shop", "database/creds/shop-analyst", "team_a/kv.v2/x"] {
            assert_eq!(VaultPath::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "kv",
            "/kv/shop",
            "kv//shop",
            "kv/../sys",
            "kv/./x",
            "kv/a b",
            "kv/a%2Fb",
            "kv/a?b",
            "kv/a#b",
        ] {
            assert!(VaultPath::parse(bad).is_none(), "{bad}");
        }
        let mount = VaultPath::parse("database/creds").unwrap();
        assert_eq!(mount.join("analyst").unwrap().as_str(), "database/creds/analyst");
        for bad in ["", "..", "a/b", "a b", "ä"] {
            assert!(mount.join(bad).is_none(), "{bad}");
        }
    }
}
