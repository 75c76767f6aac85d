//! The settings that travel with a statement and end with its transaction.
//!
//! The role, the statement's timeout and `doorward.access_id` are the pool's to set. What a caller
//! showed to prove who it is never reaches the database.

use doorward_core::Principal;
use http::{HeaderMap, Method};

use crate::request::{Request, Target};
use crate::resource::RestResource;
use crate::wire;

/// The longest `application_name`: PostgreSQL cuts longer ones.
const APPLICATION_NAME_BYTES_MAX: usize = 63;
/// How many bytes of headers a function may read.
const HEADERS_BYTES_MAX: usize = 8_192;

/// The settings of one request.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    claims: &'a str,
    search_path: &'a str,
    application_name: String,
    method: &'a str,
    path: String,
    headers: String,
}

impl<'a> Settings<'a> {
    pub(crate) fn of(
        headers: &HeaderMap,
        method: &'a Method,
        request: &Request,
        resource: &'a RestResource,
        principal: &'a Principal,
    ) -> Self {
        let rpc = if matches!(request.target, Target::Function(_)) { "rpc/" } else { "" };
        Self {
            claims: &principal.claims_json,
            search_path: resource.search_path(&request.schema),
            application_name: application_name(principal.subject.reveal()),
            method: method.as_str(),
            path: format!("/{rpc}{}", request.target.name()),
            headers: visible_headers(headers),
        }
    }

    /// Names and values, as the pool takes them.
    pub(crate) fn pairs(&self) -> [(&str, &str); 6] {
        [
            ("search_path", self.search_path),
            ("application_name", &self.application_name),
            ("request.jwt.claims", self.claims),
            ("request.method", self.method),
            ("request.path", &self.path),
            ("request.headers", &self.headers),
        ]
    }
}

/// `doorward:SUBJECT`, in the characters that PostgreSQL keeps.
fn application_name(subject: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    let mut name: String = "doorward:".chars().chain(subject.chars().map(plain)).collect();
    name.truncate(APPLICATION_NAME_BYTES_MAX);
    name
}

/// Parts of names that credentials go by. A header of such a name is not shown to the database.
const CREDENTIAL_PARTS: [&str; 10] =
    ["auth", "cookie", "key", "token", "secret", "password", "session", "signature", "credential", "cert"];

fn visible_headers(headers: &HeaderMap) -> String {
    let mut budget = HEADERS_BYTES_MAX;
    let visible = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str();
        if CREDENTIAL_PARTS.iter().any(|part| name.contains(part)) {
            return None;
        }
        let value = value.to_str().ok()?;
        budget = budget.checked_sub(name.len().saturating_add(value.len()))?;
        Some((name, value))
    });
    wire::write_headers(visible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_and_plain() {
        assert_eq!(application_name("ann@corp.example"), "doorward:ann@corp.example");
        assert_eq!(application_name("Zoë\n'; --"), "doorward:Zo??';?--");
        assert_eq!(application_name(&"x".repeat(100)).len(), 63);
    }

    #[test]
    fn credentials_are_not_shown() {
        let mut headers = HeaderMap::new();
        for name in
            ["authorization", "proxy-authorization", "cookie", "x-api-key", "apikey", "x-amz-security-token"]
        {
            headers.insert(name, http::HeaderValue::from_static("hush"));
        }
        headers.insert("x-tenant", http::HeaderValue::from_static("north"));
        assert_eq!(visible_headers(&headers), r#"{"x-tenant":"north"}"#);
    }
}
