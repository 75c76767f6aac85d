//! What Vault says and hears, as JSON.

use doorward_core::Secret;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Any answer.
#[derive(Deserialize)]
pub(crate) struct Answer {
    #[serde(default, deserialize_with = "nothing_is_default")]
    pub(crate) lease_id: String,
    #[serde(default, deserialize_with = "nothing_is_default")]
    pub(crate) lease_duration: u64,
    #[serde(default, deserialize_with = "nothing_is_default")]
    pub(crate) data: Map<String, Value>,
    pub(crate) auth: Option<Auth>,
}

/// What a login, or the renewal of a token, gives.
#[derive(Deserialize)]
pub(crate) struct Auth {
    client_token: String,
    #[serde(default)]
    pub(crate) lease_duration: u64,
    #[serde(default)]
    pub(crate) renewable: bool,
}

impl Auth {
    pub(crate) fn token(&self) -> Secret {
        Secret::from(self.client_token.as_str())
    }
}

/// An answer that is a refusal.
#[derive(Deserialize)]
pub(crate) struct Errors {
    #[serde(default)]
    pub(crate) errors: Vec<String>,
}

/// What `auth/token/lookup-self` tells.
#[derive(Deserialize)]
pub(crate) struct TokenFacts {
    #[serde(default)]
    pub(crate) ttl: u64,
    #[serde(default)]
    pub(crate) renewable: bool,
}

#[derive(Serialize)]
pub(crate) struct AppRoleLogin<'a> {
    pub(crate) role_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret_id: Option<&'a str>,
}

#[derive(Serialize)]
pub(crate) struct JwtLogin<'a> {
    pub(crate) role: &'a str,
    pub(crate) jwt: &'a str,
}

#[derive(Serialize)]
pub(crate) struct RenewLease<'a> {
    pub(crate) lease_id: &'a str,
}

#[derive(Serialize)]
pub(crate) struct RevokeLease<'a> {
    pub(crate) lease_id: &'a str,
    /// Answers when it is done.
    pub(crate) sync: bool,
}

/// Vault writes `null` where there is nothing.
fn nothing_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}
