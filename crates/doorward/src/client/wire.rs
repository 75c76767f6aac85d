//! What issuers answer (RFC 6749, RFC 8414, RFC 8628), and the cache of tokens. None of it is printed.

use serde::{Deserialize, Serialize};

/// An issuer's metadata, as far as it is used.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) issuer: String,
    pub(crate) authorization_endpoint: Option<String>,
    pub(crate) token_endpoint: Option<String>,
    pub(crate) device_authorization_endpoint: Option<String>,
    pub(crate) revocation_endpoint: Option<String>,
}

/// A device authorization (RFC 8628, 3.2).
#[derive(Deserialize)]
pub(crate) struct DeviceAnswer {
    pub(crate) device_code: String,
    pub(crate) user_code: String,
    #[serde(alias = "verification_url")]
    pub(crate) verification_uri: String,
    pub(crate) verification_uri_complete: Option<String>,
    pub(crate) expires_in: u64,
    pub(crate) interval: Option<u64>,
}

/// An answer of a token endpoint, good or bad.
#[derive(Deserialize)]
pub(crate) struct TokenAnswer {
    pub(crate) access_token: Option<String>,
    pub(crate) id_token: Option<String>,
    pub(crate) refresh_token: Option<String>,
    pub(crate) token_type: Option<String>,
    pub(crate) expires_in: Option<i64>,
    pub(crate) error: Option<String>,
    pub(crate) error_description: Option<String>,
}

/// What is kept of a login.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct KeptTokens {
    /// What is shown to the gateway.
    pub(crate) token: String,
    /// Until when, in seconds since 1970.
    pub(crate) expires_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refresh_token: Option<String>,
}
