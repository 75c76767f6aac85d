//! HashiCorp Vault and OpenBao: the gateway's own token, and the requests that are made with it.
//!
//! A task of its own logs in, renews the token at a third of its life, and logs in anew when it cannot be
//! renewed. Requests wait for a token within a bound; what came of the last attempt is told to readiness.
//!
//! Invariants:
//! - the token, and what proves the gateway, are sent to the configured address and shown to nobody;
//! - Vault revokes what a token has made when the token ends, so a credential is never taken to be good for longer
//!   than the token under which it was made;
//! - each request has a bound in time and in bytes; redirects are not followed.

mod database;
mod kv;
mod token;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use doorward_core::Secret;
use doorward_http::{Caps, Client, ClientOptions, TlsError};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::{Instant, timeout};

pub use database::VaultDatabase;
pub use kv::VaultPassword;

use crate::config::VaultConfig;
use crate::source::SourceError;
use token::{Token, Tokens};
use wire::{Answer, Errors};

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Marks requests that no web page can be made to send.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// How long one request may take.
const REQUEST_SPAN_MAX: Duration = Duration::from_secs(8);
/// The largest answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How much of Vault's own words an error repeats.
const ERROR_CHARS_MAX: usize = 400;
/// How long a request waits for a token.
const TOKEN_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long giving the token back may take.
const FAREWELL_SPAN_MAX: Duration = Duration::from_secs(3);

/// One Vault, as one configuration names it.
pub struct Vault {
    link: Arc<Link>,
    tokens: Tokens,
}

/// The way to Vault, without a token.
pub(crate) struct Link {
    pub(crate) config: VaultConfig,
    client: Client,
    base: String,
}

impl Vault {
    /// Reads the certificate authorities and begins to log in. Blocks on the disk; must be called within a tokio
    /// runtime.
    pub fn new(config: VaultConfig) -> Result<Self, TlsError> {
        let client = Client::new(ClientOptions { extra_ca: config.ca.as_deref(), identity: None })?;
        let base = format!("{}/v1/", config.url.get().trim_end_matches('/'));
        let link = Arc::new(Link { config, client, base });
        let tokens = Tokens::start(link.clone());
        Ok(Self { link, tokens })
    }

    /// Why there is no token, for readiness.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.tokens.trouble()
    }

    /// The token as it is now.
    pub(crate) async fn token(&self) -> Result<Token, SourceError> {
        self.tokens.current(TOKEN_WAIT_MAX).await
    }

    pub(crate) fn refresh(&self) -> Duration {
        self.link.config.refresh()
    }

    pub(crate) fn kv_version(&self) -> Option<u8> {
        self.link.config.kv_version.as_ref().map(|version| *version.get())
    }

    pub(crate) async fn read(&self, path: &str) -> Result<(Answer, Token), SourceError> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    pub(crate) async fn write(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(Answer, Token), SourceError> {
        let body = encode(body)?;
        self.ask(Method::PUT, path, body).await
    }

    /// Asks with the gateway's token. One that Vault does not know any more is replaced, once.
    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<(Answer, Token), SourceError> {
        let token = self.token().await?;
        let refused = match self.link.send(method.clone(), path, Some(&token.secret), body.clone()).await {
            Err(Refusal::Forbidden(error)) => error,
            other => return other.map(|answer| (answer, token)).map_err(Refusal::into_error),
        };
        // Vault says the same of a token that it does not know and of one that may not do this.
        if self.link.knows(&token.secret).await {
            return Err(refused);
        }
        self.tokens.replace(&token);
        let token = self.token().await?;
        let answer = self.link.send(method, path, Some(&token.secret), body).await;
        answer.map(|answer| (answer, token)).map_err(Refusal::into_error)
    }

    /// Gives the token back, if the gateway has made it: what is left of it ends.
    async fn close(&self) {
        if let Some(token) = self.tokens.end() {
            let farewell =
                self.link.send(Method::PUT, "auth/token/revoke-self", Some(&token.secret), Bytes::new());
            // A token that cannot be given back ends by itself.
            let _ = timeout(FAREWELL_SPAN_MAX, farewell).await;
        }
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("url", self.link.config.url.get()).finish_non_exhaustive()
    }
}

/// Why a request was not granted.
pub(crate) enum Refusal {
    /// 403: the token may not, or is not known.
    Forbidden(SourceError),
    /// Anything else.
    Other(SourceError),
}

impl Refusal {
    pub(crate) fn into_error(self) -> SourceError {
        match self {
            Self::Forbidden(error) | Self::Other(error) => error,
        }
    }
}

impl Link {
    /// Sends one request.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&Secret>,
        body: Bytes,
    ) -> Result<Answer, Refusal> {
        let away = |cause: String| Refusal::Other(SourceError::Away(cause));
        let headers = self.headers(token).map_err(|_| {
            let text = "the token or the namespace holds characters that a header cannot";
            Refusal::Other(SourceError::Refused(text.to_owned()))
        })?;
        let caps = Caps {
            bytes_max: ANSWER_BYTES_MAX,
            span_max: REQUEST_SPAN_MAX,
            dangerous_plaintext: self.config.dangerous_plaintext,
        };
        let url = format!("{}{path}", self.base);
        let reply = self.client.send(method, &url, headers, body, caps).await;
        let reply = reply.map_err(|error| away(format!("{path}: {error}")))?;
        if reply.status == StatusCode::NO_CONTENT {
            return serde_json::from_slice(b"{}").map_err(|error| away(error.to_string()));
        }
        if reply.status.is_success() {
            return serde_json::from_slice(&reply.body)
                .map_err(|_| away(format!("{path}: the answer is not what Vault says")));
        }
        let text = format!("{path}: {} {}", reply.status.as_u16(), words(&reply.body));
        Err(match reply.status {
            StatusCode::FORBIDDEN => Refusal::Forbidden(SourceError::Refused(text)),
            status if status.is_client_error() && !is_passing(status) => {
                Refusal::Other(SourceError::Refused(text))
            }
            _ => away(text),
        })
    }

    /// Whether Vault knows the token.
    async fn knows(&self, token: &Secret) -> bool {
        let looked = self.send(Method::GET, "auth/token/lookup-self", Some(token), Bytes::new()).await;
        // Where it cannot be told, it is not thrown away.
        !matches!(looked, Err(Refusal::Forbidden(_)))
    }

    fn headers(&self, token: Option<&Secret>) -> Result<HeaderMap, http::header::InvalidHeaderValue> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(REQUEST, HeaderValue::from_static("true"));
        if let Some(namespace) = &self.config.namespace {
            headers.insert(NAMESPACE, HeaderValue::from_str(namespace.get())?);
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose())?;
            value.set_sensitive(true);
            headers.insert(TOKEN, value);
        }
        Ok(headers)
    }
}

pub(crate) fn encode(body: &impl Serialize) -> Result<Bytes, SourceError> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| SourceError::Refused(error.to_string()))
}

/// Client errors that mend themselves.
fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::PRECONDITION_FAILED | StatusCode::TOO_MANY_REQUESTS
    )
}

/// Vault's own words, in one line.
fn words(body: &[u8]) -> String {
    let errors: Vec<String> =
        serde_json::from_slice(body).map(|errors: Errors| errors.errors).unwrap_or_default();
    let joined = errors.join("; ");
    let line: Vec<&str> =
        joined.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    line.join(" ").chars().take(ERROR_CHARS_MAX).collect()
}

/// The Vaults of a running gateway. A reload finds the same one again while its section has not changed.
#[derive(Default)]
pub struct Vaults(Mutex<HashMap<String, Weak<Vault>>>);

impl Vaults {
    /// The Vault that a living configuration has under this fingerprint, or a new one.
    pub fn vault(&self, fingerprint: &str, config: &VaultConfig) -> Result<Arc<Vault>, TlsError> {
        let mut vaults = self.0.lock();
        vaults.retain(|_, vault| vault.strong_count() > 0);
        if let Some(vault) = vaults.get(fingerprint).and_then(Weak::upgrade) {
            return Ok(vault);
        }
        let vault = Arc::new(Vault::new(config.clone())?);
        vaults.insert(fingerprint.to_owned(), Arc::downgrade(&vault));
        Ok(vault)
    }

    /// Gives the tokens back that the gateway has made. To be called when the keepers have ended.
    pub async fn close(&self) {
        let vaults: Vec<_> = self.0.lock().values().filter_map(Weak::upgrade).collect();
        for vault in vaults {
            vault.close().await;
        }
    }
}

impl std::fmt::Debug for Vaults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vaults").field("count", &self.0.lock().len()).finish()
    }
}

/// How long a credential is good that was made under this token.
fn within_token(span: Duration, token: &Token) -> Duration {
    token.ends_at.map_or(span, |end| span.min(end.saturating_duration_since(Instant::now())))
}
