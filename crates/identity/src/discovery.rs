//! Finds and fetches an issuer's keys (OpenID Connect Discovery 1.0, 4; RFC 8414, 3; RFC 7517, 5).

use std::time::Duration;

use crate::fetch::{Fetch, FetchRequest, Fetched};
use crate::keys::Key;
use crate::refusal::shown;
use crate::url;
use crate::wire::{Jwk, JwkSet, Metadata};

/// Metadata and key sets of real issuers have a few KiB.
const DOCUMENT_BYTES_MAX: usize = 512 * 1024;
/// Real issuers publish two or three keys.
pub(crate) const KEYS_MAX: usize = 64;

/// Where keys come from. Two issuers of the same identity share their keys across reloads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SourceId {
    pub(crate) issuer: Box<str>,
    pub(crate) jwks_url: Option<Box<str>>,
    pub(crate) plaintext: bool,
}

/// A fetched key set.
pub(crate) struct Loaded {
    pub(crate) keys: Vec<Key>,
    /// How long the issuer says that it may be kept.
    pub(crate) max_age: Option<Duration>,
}

/// Finds the URL of the key set. The error is the operator's text.
pub(crate) async fn find_jwks_url(fetch: &dyn Fetch, source: &SourceId) -> Result<Box<str>, String> {
    if let Some(url) = &source.jwks_url {
        return Ok(url.clone());
    }
    let issuer =
        url::vet(&source.issuer, source.plaintext).map_err(|why| format!("the issuer's url {why}"))?;
    let mut last = String::new();
    for place in metadata_urls(&source.issuer) {
        let answer = get(fetch, &place).await?;
        if answer.status != 200 {
            last = format!("{place} answered with status {}", answer.status);
            continue;
        }
        check_content_type(&place, &answer, &["application/json"])?;
        let metadata: Metadata = serde_json::from_slice(&answer.body)
            .map_err(|error| format!("{place} is not metadata: {error}"))?;
        // OpenID Connect Discovery, 4.3: MUST be identical, or somebody else's keys would be taken.
        if metadata.issuer != *source.issuer {
            let got = shown(&metadata.issuer);
            return Err(format!("{place} says issuer {got}, expected exactly \"{}\"", source.issuer));
        }
        let jwks_url = metadata.jwks_uri.ok_or_else(|| format!("{place} names no jwks_uri"))?;
        url::vet_from_metadata(&jwks_url, source.plaintext, issuer)
            .map_err(|why| format!("the jwks_uri of {place} {why}"))?;
        return Ok(jwks_url.into());
    }
    Err(last)
}

/// Fetches the key set. The error is the operator's text.
pub(crate) async fn fetch_keys(fetch: &dyn Fetch, jwks_url: &str) -> Result<Loaded, String> {
    let answer = get(fetch, jwks_url).await?;
    if answer.status != 200 {
        return Err(format!("{jwks_url} answered with status {}", answer.status));
    }
    check_content_type(jwks_url, &answer, &["application/json", "application/jwk-set+json"])?;
    let set: JwkSet = serde_json::from_slice(&answer.body)
        .map_err(|error| format!("{jwks_url} is not a key set: {error}"))?;
    if set.keys.len() > KEYS_MAX {
        return Err(format!("{jwks_url} has {} keys, more than {KEYS_MAX}", set.keys.len()));
    }
    let mut keys = Vec::new();
    for value in set.keys {
        let key = serde_json::from_value::<Jwk>(value)
            .map_err(|_| "it is not a JWK")
            .and_then(|jwk| Key::from_jwk(&jwk));
        match key {
            Ok(key) => keys.push(key),
            Err(why) => tracing::debug!(jwks_url, why, "passed over a key"),
        }
    }
    if keys.is_empty() {
        return Err(format!("{jwks_url} has no key that can be used"));
    }
    Ok(Loaded { keys, max_age: answer.cache_control.as_deref().and_then(max_age) })
}

/// OpenID Connect appends to the issuer, RFC 8414 inserts before its path.
fn metadata_urls(issuer: &str) -> [String; 2] {
    let base = issuer.strip_suffix('/').unwrap_or(issuer);
    let path_at = base
        .find("://")
        .and_then(|at| base.get(at + 3..)?.find('/').map(|slash| at + 3 + slash))
        .unwrap_or(base.len());
    let (origin, path) = base.split_at_checked(path_at).unwrap_or((base, ""));
    [
        format!("{base}/.well-known/openid-configuration"),
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
    ]
}

async fn get(fetch: &dyn Fetch, url: &str) -> Result<Fetched, String> {
    let request =
        FetchRequest { url: url.into(), authorization: None, form: None, body_bytes_max: DOCUMENT_BYTES_MAX };
    let answer = fetch.fetch(request).await.map_err(|error| format!("{url}: {error}"))?;
    if answer.body.len() > DOCUMENT_BYTES_MAX {
        return Err(format!("{url} answered with more than {DOCUMENT_BYTES_MAX} bytes"));
    }
    Ok(answer)
}

pub(crate) fn check_content_type(url: &str, answer: &Fetched, accepted: &[&str]) -> Result<(), String> {
    let content_type = answer.content_type.as_deref().unwrap_or("missing");
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if accepted.iter().any(|accepted| essence.eq_ignore_ascii_case(accepted)) {
        return Ok(());
    }
    Err(format!("the content type of {url} is {}, expected {}", shown(content_type), accepted.join(" or ")))
}

/// The lifetime that `Cache-Control` gives; zero when the answer is not to be kept.
fn max_age(cache_control: &str) -> Option<Duration> {
    let mut found = None;
    for directive in cache_control.split(',').map(str::trim) {
        if directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache") {
            return Some(Duration::ZERO);
        }
        if let Some((name, value)) = directive.split_once('=')
            && name.eq_ignore_ascii_case("max-age")
        {
            found = value.trim_matches('"').parse().ok().map(Duration::from_secs);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_looked_for_where_the_standards_say() {
        for (issuer, oidc, oauth) in [
            (
                "https://a.example",
                "https://a.example/.well-known/openid-configuration",
                "https://a.example/.well-known/oauth-authorization-server",
            ),
            (
                "https://tenant.auth0.example/",
                "https://tenant.auth0.example/.well-known/openid-configuration",
                "https://tenant.auth0.example/.well-known/oauth-authorization-server",
            ),
            (
                "https://k.example/realms/corp",
                "https://k.example/realms/corp/.well-known/openid-configuration",
                "https://k.example/.well-known/oauth-authorization-server/realms/corp",
            ),
        ] {
            assert_eq!(metadata_urls(issuer), [oidc, oauth]);
        }
    }

    #[test]
    fn cache_control_is_read() {
        for (header, seconds) in [
            ("public, max-age=300", Some(300)),
            ("Max-Age=\"60\"", Some(60)),
            ("max-age=300, no-store", Some(0)),
            ("private", None),
            ("max-age=x", None),
        ] {
            assert_eq!(max_age(header), seconds.map(Duration::from_secs), "{header}");
        }
    }
}
