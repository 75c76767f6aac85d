//! The settings that travel with a statement and end with its transaction.
//!
//! The role, the statement's timeout and `doorward.access_id` are the pool's to set. What a caller
//! showed to prove who it is never reaches the database.

use doorward_core::Principal;
use http::{HeaderMap, HeaderName, Method, header};

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
            path: ["/", rpc, request.target.name()].concat(),
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
    let mut name = String::with_capacity(APPLICATION_NAME_BYTES_MAX);
    name.push_str("doorward:");
    name.extend(subject.chars().map(plain).take(APPLICATION_NAME_BYTES_MAX - name.len()));
    name
}

/// Parts of names that credentials go by. A header of such a name is not shown to the database.
const CREDENTIAL_PARTS: [&str; 10] =
    ["auth", "cookie", "key", "token", "secret", "password", "session", "signature", "credential", "cert"];

/// What most requests bring; none of these holds a part of the above.
static PLAIN_HEADERS: [HeaderName; 13] = [
    header::HOST,
    header::ACCEPT,
    header::USER_AGENT,
    HeaderName::from_static("traceparent"),
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::ORIGIN,
    header::RANGE,
    header::REFERER,
    HeaderName::from_static("prefer"),
];

fn visible_headers(headers: &HeaderMap) -> String {
    let mut budget = HEADERS_BYTES_MAX;
    let visible = headers.iter().filter_map(|(name, value)| {
        let plain = PLAIN_HEADERS.contains(name);
        let name = name.as_str();
        if !plain && CREDENTIAL_PARTS.iter().any(|part| name.contains(part)) {
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
        headers.append("x-tenant", http::HeaderValue::from_static("\"south\""));
        headers.append("accept", http::HeaderValue::from_static("*/*"));
        assert_eq!(visible_headers(&headers), r#"{"x-tenant":"\"south\"","accept":"*/*"}"#);
        let credential = |name: &HeaderName| CREDENTIAL_PARTS.iter().any(|part| name.as_str().contains(part));
        assert!(!PLAIN_HEADERS.iter().any(credential));
    }
}
