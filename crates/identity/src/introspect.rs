//! Asks an issuer about tokens (RFC 7662).
//!
//! Invariants: answers are cached by the token's hash, for at most [`ACTIVE_TTL`] or [`INACTIVE_TTL`], in
//! a cache of bounded size; one token is asked about once at a time, and an issuer by at most
//! [`CALLS_MAX`] calls at a time; a failure to ask is never an answer.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use doorward_core::{AuthMethod, Principal, Secret, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use quick_cache::sync::Cache;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::discovery::check_content_type;
use crate::fetch::{Fetch, FetchRequest};
use crate::issuer::Issuer;
use crate::refusal::Refusal;
use crate::wire;

/// A revoked token is refused after this time at the latest.
pub const ACTIVE_TTL: Duration = Duration::from_secs(60);
/// How long the issuer's "not active" counts.
pub const INACTIVE_TTL: Duration = Duration::from_secs(10);
/// Answers that are kept.
const ANSWERS_MAX: usize = 10_000;
/// Questions to one issuer at a time.
const CALLS_MAX: usize = 32;
/// One question, with waiting for its turn.
const ASK_TIME_MAX: Duration = Duration::from_secs(5);
/// A real answer has one or two KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// When to come back after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Unreserved characters stay as they are: some servers do not decode what need not be encoded.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One issuer's introspection endpoint.
pub(crate) struct Introspection {
    url: Box<str>,
    authorization: Secret,
    fetch: Arc<dyn Fetch>,
    answers: Cache<[u8; 32], Answer>,
    turns: Semaphore,
}

#[derive(Clone)]
struct Answer {
    verdict: Result<Arc<Principal>, Refusal>,
    until: Timestamp,
}

impl Introspection {
    pub(crate) fn new(url: &str, client_id: &str, client_secret: &Secret, fetch: Arc<dyn Fetch>) -> Self {
        // RFC 6749, 2.3.1: both are form-encoded before they are joined.
        let pair = format!("{}:{}", form(client_id), form(client_secret.expose()));
        Self {
            url: url.into(),
            authorization: Secret::from(format!("Basic {}", STANDARD.encode(pair))),
            fetch,
            answers: Cache::new(ANSWERS_MAX),
            turns: Semaphore::new(CALLS_MAX),
        }
    }

    /// Who holds the token, by the issuer's word or by its word of a moment ago.
    pub(crate) async fn ask(
        &self,
        issuer: &Issuer,
        token: &Secret,
        hash: [u8; 32],
        now: Timestamp,
    ) -> Result<Arc<Principal>, Refusal> {
        // The answer's time is over: whoever comes first asks anew, the others wait for them.
        self.answers.remove_if(&hash, |answer| answer.until <= now);
        let asked = tokio::time::timeout(ASK_TIME_MAX, self.answer(issuer, token, hash, now)).await;
        asked.unwrap_or_else(|_| Err(unavailable(issuer, "introspection takes too long".to_owned())))?.verdict
    }

    async fn answer(
        &self,
        issuer: &Issuer,
        token: &Secret,
        hash: [u8; 32],
        now: Timestamp,
    ) -> Result<Answer, Refusal> {
        match self.answers.get_value_or_guard_async(&hash).await {
            Ok(answer) => Ok(answer),
            // Dropped without an insert (a failure, or a caller who hung up), the guard lets the next one ask.
            Err(guard) => {
                let answer = self.question(issuer, token, now).await?;
                let _ = guard.insert(answer.clone());
                Ok(answer)
            }
        }
    }

    async fn question(&self, issuer: &Issuer, token: &Secret, now: Timestamp) -> Result<Answer, Refusal> {
        let _turn = self.turns.acquire().await.map_err(|error| unavailable(issuer, error.to_string()))?;
        let request = FetchRequest {
            url: self.url.clone(),
            authorization: Some(self.authorization.clone()),
            form: Some(Secret::from(format!("token={}&token_type_hint=access_token", form(token.expose())))),
            body_bytes_max: ANSWER_BYTES_MAX,
        };
        let answer = self
            .fetch
            .fetch(request)
            .await
            .map_err(|error| unavailable(issuer, format!("introspection: {error}")))?;
        if answer.status != 200 {
            return Err(unavailable(issuer, format!("introspection answered with status {}", answer.status)));
        }
        check_content_type("introspection", &answer, &["application/json"])
            .map_err(|cause| unavailable(issuer, cause))?;
        let claims = wire::strict_object(&answer.body)
            .map_err(|_| unavailable(issuer, "introspection answered with malformed JSON".to_owned()))?;
        let verdict = if claims.get("active") == Some(&Value::Bool(true)) {
            holder(issuer, claims, now).map(Arc::new)
        } else {
            Err(Refusal::Inactive(issuer.name.to_string()))
        };
        let until = match &verdict {
            Ok(principal) => now.plus(ACTIVE_TTL).min(principal.expires_at.unwrap_or(now)),
            Err(_) => now.plus(INACTIVE_TTL),
        };
        Ok(Answer { verdict, until })
    }
}

fn holder(
    issuer: &Issuer,
    mut claims: serde_json::Map<String, Value>,
    now: Timestamp,
) -> Result<Principal, Refusal> {
    issuer.check_answer(&claims, now)?;
    claims.remove("active");
    // `iss` is optional in the answer; a principal's claims always have it.
    claims.entry("iss").or_insert_with(|| Value::from(&*issuer.url));
    issuer.principal(claims, AuthMethod::Introspection)
}

fn unavailable(issuer: &Issuer, cause: String) -> Refusal {
    Refusal::IssuerUnavailable { issuer: issuer.name.to_string(), cause, retry_after: RETRY_AFTER }
}

fn form(text: &str) -> String {
    utf8_percent_encode(text, FORM).to_string()
}
