//! What the gateway's own paths take and answer, as JSON; the commands of clients read the same.

use serde::{Deserialize, Serialize};

/// What a login is asked to be good for: the body of `POST /gateway/logins`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LoginRequest {
    /// The resource; left out, all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resource: Option<String>,
    /// The backend role; left out, the only one that grants give.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<String>,
}

/// A minted login.
#[derive(Serialize, Deserialize)]
pub(crate) struct LoginAnswer {
    /// The user name.
    pub(crate) user: String,
    /// The password, shown this once.
    pub(crate) password: String,
    /// Until when it opens sessions: RFC 3339.
    pub(crate) expires_at: String,
    /// Seconds until then.
    pub(crate) expires_in: u64,
}
