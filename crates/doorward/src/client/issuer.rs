//! The client's side of OAuth: metadata (RFC 8414, OpenID Connect Discovery) and the token endpoint (RFC 6749).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use doorward_core::{Clock, SystemClock};
use doorward_http::{Caps, Client, ClientOptions, Reply};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::config::Profile;
use super::wire::{KeptTokens, Metadata, TokenAnswer};

/// How long an answer may take, and how large it may be. Plain http:// reaches loopback only.
pub(crate) const CAPS: Caps =
    Caps { bytes_max: 512 << 10, span_max: Duration::from_secs(20), dangerous_plaintext: false };
/// For how long a token is believed to count whose issuer does not say.
const LIFETIME_SECONDS: i64 = 300;
/// What stands in forms as it is.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An issuer that has been found.
pub(crate) struct Issuer {
    pub(crate) client: Client,
    pub(crate) metadata: Metadata,
    profile: Profile,
}

/// Why a token endpoint gave no token.
#[derive(Debug, thiserror::Error)]
#[error("the issuer refuses: {code}{}", detail(.description.as_deref()))]
pub(crate) struct TokenRefusal {
    /// The code of RFC 6749, 5.2 or RFC 8628, 3.5.
    pub(crate) code: String,
    /// The issuer's own words.
    pub(crate) description: Option<String>,
}

fn detail(description: Option<&str>) -> String {
    // An issuer's words go to a terminal: nothing in them may steer it.
    description.map_or(String::new(), |text| format!(" ({})", plain(text)))
}

/// A foreign text, as a terminal may show it.
pub(crate) fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// An HTTP client that believes these authorities too. Blocks on the disk.
pub(crate) fn client(ca: Option<&Path>) -> anyhow::Result<Client> {
    Ok(Client::new(ClientOptions { extra_ca: ca, identity: None })?)
}

impl Issuer {
    /// Finds the issuer of a profile.
    pub(crate) async fn find(profile: &Profile) -> anyhow::Result<Self> {
        let client = client(profile.ca.as_deref())?;
        let url = format!("{}/.well-known/openid-configuration", profile.issuer.trim_end_matches('/'));
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let reply = client.send(Method::GET, &url, headers, Bytes::new(), CAPS).await;
        let reply = reply.with_context(|| url.clone())?;
        ensure!(reply.status.is_success(), "{url} answers with status {}", reply.status);
        let metadata: Metadata =
            serde_json::from_slice(&reply.body).with_context(|| format!("{url} is no metadata"))?;
        // OpenID Connect Discovery, 4.3: MUST be identical, or somebody else's login would be taken.
        ensure!(
            metadata.issuer == profile.issuer,
            "{url} is of the issuer {}, not of {}",
            plain(&metadata.issuer),
            profile.issuer
        );
        Ok(Self { client, metadata, profile: profile.clone() })
    }

    /// An endpoint of the metadata.
    pub(crate) fn endpoint<'a>(&self, url: Option<&'a String>, what: &str) -> anyhow::Result<&'a str> {
        url.map(String::as_str)
            .with_context(|| format!("the issuer {} offers no {what}", self.profile.issuer))
    }

    /// What every request of this profile says beside its own.
    pub(crate) fn wanted(&self) -> Vec<(&'static str, &str)> {
        let profile = &self.profile;
        let mut wanted = vec![("client_id", profile.client_id.as_str()), ("scope", &profile.scope)];
        wanted.extend(profile.audience.as_deref().map(|audience| ("audience", audience)));
        wanted.extend(profile.resource_indicator.as_deref().map(|resource| ("resource", resource)));
        wanted
    }

    /// Whether a refresh token is asked for, in the words of OpenID Connect.
    pub(crate) fn wants_offline_access(&self) -> bool {
        self.profile.scope.split(' ').any(|scope| scope == "offline_access")
    }

    /// Sends a form.
    pub(crate) async fn post(&self, url: &str, form: &[(&str, &str)]) -> anyhow::Result<Reply> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let sent = self.client.send(Method::POST, url, headers, encode(form).into(), CAPS).await;
        sent.with_context(|| url.to_owned())
    }

    /// Asks the token endpoint.
    pub(crate) async fn token(&self, form: &[(&str, &str)]) -> anyhow::Result<KeptTokens> {
        let url = self.endpoint(self.metadata.token_endpoint.as_ref(), "tokens")?;
        let asked = SystemClock.now().seconds();
        let mut form = form.to_vec();
        form.push(("client_id", &self.profile.client_id));
        let reply = self.post(url, &form).await?;
        let status = reply.status;
        let answer: TokenAnswer = serde_json::from_slice(&reply.body)
            .map_err(|_| anyhow::anyhow!("the token endpoint answers with status {status}, and no JSON"))?;
        if let Some(code) = answer.error {
            let description = answer.error_description;
            return Err(TokenRefusal { code: plain(&code), description }.into());
        }
        let bearer = answer.token_type.is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
        ensure!(
            status.is_success() && bearer,
            "the token endpoint answers with status {status}, and no bearer token"
        );
        let (token, what) = match self.profile.id_token {
            true => (answer.id_token, "ID token (the scope needs openid)"),
            false => (answer.access_token, "access token"),
        };
        let token = token.with_context(|| format!("the issuer gave no {what}"))?;
        ensure!(
            token.bytes().all(|byte| byte.is_ascii_graphic()),
            "the issuer's token holds characters that no token has"
        );
        let lifetime = answer.expires_in.unwrap_or(LIFETIME_SECONDS).max(0);
        let expires_at = asked.saturating_add(lifetime);
        Ok(KeptTokens { token, expires_at, refresh_token: answer.refresh_token })
    }

    /// Gives a refresh token back (RFC 7009), so that nobody uses it any more.
    pub(crate) async fn revoke(&self, refresh_token: &str) -> anyhow::Result<()> {
        let Some(url) = &self.metadata.revocation_endpoint else { return Ok(()) };
        let client_id = self.profile.client_id.as_str();
        let form = [("token", refresh_token), ("token_type_hint", "refresh_token"), ("client_id", client_id)];
        let reply = self.post(url, &form).await?;
        if !reply.status.is_success() {
            bail!("the issuer answers with status {}", reply.status);
        }
        Ok(())
    }
}

/// `application/x-www-form-urlencoded`, which is also what a query is.
pub(crate) fn encode(pairs: &[(&str, &str)]) -> String {
    let encode = |text: &str| utf8_percent_encode(text, FORM).to_string();
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    pairs.join("&")
}

/// A URL with these parameters in its query.
pub(crate) fn with_query(url: &str, pairs: &[(&str, &str)]) -> anyhow::Result<String> {
    let uri: Uri = url.parse()?;
    let separator = if uri.query().is_some() { '&' } else { '?' };
    Ok(format!("{url}{separator}{}", encode(pairs)))
}
