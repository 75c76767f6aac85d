//! Google's workload identity federation: a token of somebody else's issuer (a cluster, another cloud, a CI system) is
//! exchanged for one of Google's (RFC 8693), and that for one of a service account.
//!
//! What is exchanged where stands in the file that `GOOGLE_APPLICATION_CREDENTIALS` names, of the type
//! `external_account`, which holds no secret. A file with the key of a service account does, and is refused.

use doorward_core::Secret;
use http::Method;
use serde_json::Value;

use super::Token;
use super::ask::{Ask, FORM, Line, form, read_file, read_text};
use super::gcp::{IMPERSONATION_SCOPE, impersonated};
use super::wire::{ExternalAccount, TokenAnswer};
use crate::source::SourceError;

/// Names the file.
pub(super) const VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
/// RFC 8693.
const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// A token of the service account that the file names, with this scope.
pub(super) async fn token(line: &Line, file: String, scope: &str) -> Result<Token, SourceError> {
    let refused = |what: &str| SourceError::Refused(format!("the file that {VARIABLE} names {what}"));
    let text = read_text(VARIABLE, file).await?;
    let account: ExternalAccount = serde_json::from_str(&text)
        .map_err(|_| refused("is not what `gcloud iam workload-identity-pools create-cred-config` writes"))?;
    if account.kind != "external_account" {
        return Err(refused("is not of the type external_account: keys of service accounts are not taken"));
    }
    let url = account.service_account_impersonation_url;
    let url =
        url.ok_or_else(|| refused("has no service_account_impersonation_url: Cloud SQL knows accounts"))?;
    let source = account.credential_source.file;
    let source =
        source.ok_or_else(|| refused("has no credential_source.file; other sources are not read"))?;
    let subject = match account.credential_source.format.and_then(|format| format.subject_token_field_name) {
        None => read_file("credential_source.file", source).await?,
        Some(field) => {
            let text = read_text("credential_source.file", source).await?;
            let value: Value = serde_json::from_str(&text)
                .map_err(|_| SourceError::Refused("credential_source.file holds no JSON".to_owned()))?;
            let token = value.get(&field).and_then(Value::as_str).map(Secret::from);
            token.ok_or_else(|| {
                SourceError::Refused(format!("credential_source.file has no field {field:?}"))
            })?
        }
    };
    let form = form(&[
        ("grant_type", GRANT),
        ("audience", &account.audience),
        ("scope", IMPERSONATION_SCOPE),
        ("requested_token_type", ACCESS_TOKEN),
        ("subject_token", subject.expose()),
        ("subject_token_type", &account.subject_token_type),
    ]);
    let ask = Ask {
        method: Method::POST,
        url: account.token_url,
        headers: &[],
        body: Some((FORM, form)),
        proof: Some(&subject),
        hint: "; the workload identity pool must believe the issuer of the token",
        passing: &[],
    };
    let answer = line.send(&ask).await?;
    let said: TokenAnswer = answer.json()?;
    let federated = said.access_token.map(Secret::from).ok_or_else(|| answer.lacks("access_token"))?;
    impersonated(line, url, &federated, scope).await
}
