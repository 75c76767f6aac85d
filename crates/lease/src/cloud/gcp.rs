//! Google Cloud: tokens of Cloud SQL IAM authentication, of the service account that the gateway runs as, or of one that
//! it may impersonate. Outside of Google Cloud the account is one that federation leads to (`federation`).

use std::sync::Arc;

use doorward_core::Secret;
use doorward_pgclient::is_account;
use doorward_sigv4::encoded;
use http::Method;

use super::Token;
use super::ask::{Ask, Line};
use super::federation;
use super::shelf::{Given, Shelf};
use super::wire::{self, ImpersonatedToken, TokenAnswer};
use crate::source::SourceError;

/// The metadata server, by its address: its name is what somebody's name server says.
const METADATA: &str = "169.254.169.254";
const METADATA_NAMES: [&str; 2] = ["metadata.google.internal", "metadata"];
/// Marks requests that no web page can be made to send, and answers of the metadata server.
const FLAVOR: (&str, &str) = ("metadata-flavor", "Google");
/// Where service accounts are impersonated.
const CREDENTIALS: &str = "https://iamcredentials.googleapis.com";
/// What a token may do: log in to Cloud SQL, or impersonate.
const LOGIN_SCOPE: &str = "https://www.googleapis.com/auth/sqlservice.login";
pub(super) const IMPERSONATION_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long an impersonated account's token is asked for.
const LIFETIME: &str = "3600s";
/// How a database user that is a service account is named, and what its e-mail address ends in beside.
const USER_ENDING: &str = ".iam";
const ACCOUNT_ENDING: &str = ".gserviceaccount.com";

/// The service account that the gateway runs as.
pub(super) struct GcpIdentity {
    line: Arc<Line>,
    scope: &'static str,
    shelf: Shelf<Secret>,
}

/// What the gateway's own token is for.
pub(super) fn scope(impersonates: bool) -> &'static str {
    if impersonates { IMPERSONATION_SCOPE } else { LOGIN_SCOPE }
}

/// The service account that a database user is named after.
pub(super) fn account_of(user: &str) -> Result<String, SourceError> {
    let account = format!("{user}{ACCOUNT_ENDING}");
    match user.ends_with(USER_ENDING) && is_account(&account) {
        true => Ok(account),
        false => Err(SourceError::Refused(format!(
            "the role {user} is not named after a service account (NAME@PROJECT{USER_ENDING}), as `impersonate: by-role` needs"
        ))),
    }
}

impl GcpIdentity {
    pub(super) fn new(line: Arc<Line>, scope: &'static str) -> Self {
        Self { line, scope, shelf: Shelf::default() }
    }

    pub(super) fn forget(&self) {
        self.shelf.forget();
    }

    /// The account's own token.
    pub(super) async fn token(&self) -> Result<Token, SourceError> {
        self.shelf.get(self.fetch()).await.map(Token::from)
    }

    /// A token of another account, which must let this one make it.
    pub(super) async fn impersonate(&self, account: &str) -> Result<Token, SourceError> {
        let own = self.token().await?;
        let base = self.line.environment.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS");
        let base = base.unwrap_or_else(|| CREDENTIALS.to_owned());
        let url = format!(
            "{}/v1/projects/-/serviceAccounts/{account}:generateAccessToken",
            base.trim_end_matches('/')
        );
        impersonated(&self.line, url, &own.secret, LOGIN_SCOPE).await
    }

    async fn fetch(&self) -> Result<Given<Secret>, SourceError> {
        match self.line.environment.get(federation::VARIABLE) {
            Some(file) => federation::token(&self.line, file, self.scope).await.map(Given::from),
            None => self.of_metadata().await,
        }
    }

    async fn of_metadata(&self) -> Result<Given<Secret>, SourceError> {
        let host = self.line.environment.get("GCE_METADATA_HOST");
        let host = host.filter(|host| !METADATA_NAMES.contains(&host.trim_end_matches(":80")));
        let host = host.unwrap_or_else(|| METADATA.to_owned());
        let ask = Ask {
            method: Method::GET,
            url: format!(
                "http://{host}/computeMetadata/v1/instance/service-accounts/default/token?scopes={}",
                encoded(self.scope, "")
            ),
            headers: &[FLAVOR],
            body: None,
            proof: None,
            hint: "; does the machine have a service account, with this scope?",
            passing: &[],
        };
        let answer = self.line.send(&ask).await?;
        if answer.headers.get(FLAVOR.0).is_none_or(|flavor| flavor != FLAVOR.1) {
            let text =
                format!("{}: the answer is not the metadata server's (no Metadata-Flavor)", answer.from);
            return Err(SourceError::Refused(text));
        }
        let said: TokenAnswer = answer.json()?;
        let good_for = said.good_for().ok_or_else(|| answer.lacks("expires_in"))?;
        let text = said.access_token.ok_or_else(|| answer.lacks("access_token"))?;
        Token::new(&answer.from, &text, good_for).map(Given::from)
    }
}

/// A token of the account whose IAM credentials are at this URL, for a token of an account that may impersonate it.
pub(super) async fn impersonated(
    line: &Line,
    url: String,
    own: &Secret,
    scope: &str,
) -> Result<Token, SourceError> {
    let bearer = format!("Bearer {}", own.expose());
    let body = serde_json::json!({ "scope": [scope], "lifetime": LIFETIME }).to_string();
    let ask = Ask {
        method: Method::POST,
        url,
        headers: &[("authorization", &bearer)],
        body: Some(("application/json", Secret::from(body))),
        proof: Some(own),
        hint: "; the gateway's account needs the role Service Account Token Creator on this one",
        passing: &[],
    };
    let answer = line.send(&ask).await?;
    let said: ImpersonatedToken = answer.json()?;
    let good_for = said.expire_time.as_deref().and_then(wire::until);
    let good_for = good_for.ok_or_else(|| answer.lacks("expireTime"))?;
    let text = said.access_token.ok_or_else(|| answer.lacks("accessToken"))?;
    Token::new(&answer.from, &text, good_for)
}
