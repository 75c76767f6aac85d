//! What the clouds' endpoints say, as JSON and XML.

use std::time::Duration;

use doorward_core::{Clock, SystemClock, Timestamp, rfc3339};
use serde::Deserialize;
use serde_json::Value;

/// A token of Azure, of Google's metadata server, or of an OAuth 2.0 token endpoint (RFC 6749, section 5.1).
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    pub(super) access_token: Option<String>,
    expires_in: Option<Number>,
    expires_on: Option<Number>,
}

impl TokenAnswer {
    /// For how long it is good from now on.
    pub(super) fn good_for(&self) -> Option<Duration> {
        let until = |at: u64| i64::try_from(at).ok().map(|at| left(Timestamp::from_seconds(at)));
        let in_seconds = self.expires_in.as_ref().and_then(Number::value).map(Duration::from_secs);
        in_seconds.or_else(|| self.expires_on.as_ref().and_then(Number::value).and_then(until))
    }
}

/// A number, which Azure's endpoints write as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u64),
    Text(String),
}

impl Number {
    fn value(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

/// A token of a service account that was impersonated.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImpersonatedToken {
    pub(super) access_token: Option<String>,
    pub(super) expire_time: Option<String>,
}

/// The file that says how a token of another issuer becomes one of Google's.
#[derive(Deserialize)]
pub(super) struct ExternalAccount {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) audience: String,
    #[serde(default)]
    pub(super) subject_token_type: String,
    #[serde(default)]
    pub(super) token_url: String,
    pub(super) service_account_impersonation_url: Option<String>,
    #[serde(default)]
    pub(super) credential_source: CredentialSource,
}

/// Where the token of the other issuer is.
#[derive(Default, Deserialize)]
pub(super) struct CredentialSource {
    pub(super) file: Option<String>,
    pub(super) format: Option<CredentialFormat>,
}

/// How it stands there: as it is, or in a field of a JSON object.
#[derive(Deserialize)]
pub(super) struct CredentialFormat {
    pub(super) subject_token_field_name: Option<String>,
}

/// Credentials of AWS, from an instance's metadata or a container's endpoint.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AwsCredentials {
    /// Of an instance: `Success`, or why there are none.
    pub(super) code: Option<String>,
    pub(super) access_key_id: Option<String>,
    pub(super) secret_access_key: Option<String>,
    pub(super) token: Option<String>,
    pub(super) expiration: Option<String>,
}

impl AwsCredentials {
    /// From the answer of AWS STS, which is XML; base64 needs none of its escapes.
    pub(super) fn of_xml(text: &str) -> Self {
        let inside = text.split_once("<Credentials>").and_then(|(_, rest)| rest.split_once("</Credentials>"));
        let of = |tag: &str| inside.and_then(|(inside, _)| element(inside, tag)).map(str::to_owned);
        Self {
            code: None,
            access_key_id: of("AccessKeyId"),
            secret_access_key: of("SecretAccessKey"),
            token: of("SessionToken"),
            expiration: of("Expiration"),
        }
    }
}

/// The text of the first element of this name that holds nothing else.
fn element<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{tag}>"))?;
    let (inside, _) = rest.split_once(&format!("</{tag}>"))?;
    (!inside.contains(['<', '&'])).then_some(inside.trim())
}

/// How long until a point in time that is written as RFC 3339, with or without a fraction of a second.
pub(super) fn until(text: &str) -> Option<Duration> {
    let whole = match text.split_once('.') {
        Some((whole, fraction)) => {
            let digits = fraction.strip_suffix('Z')?;
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("{whole}Z"))?
        }
        None => text.to_owned(),
    };
    rfc3339::parse(&whole).map(left)
}

fn left(end: Timestamp) -> Duration {
    end.since(SystemClock.now())
}

/// What a refusal says of itself, in whichever of the clouds' forms; nothing of what is in none of them.
pub(super) fn words(body: &[u8]) -> String {
    if let Ok(value) = serde_json::from_slice::<Value>(body) {
        let error = value.get("error");
        let own = error.filter(|error| error.is_object()).unwrap_or(&value);
        let text = |key: &str| own.get(key).and_then(Value::as_str);
        let code = error.and_then(Value::as_str).or_else(|| text("status")).or_else(|| text("code"));
        let message = text("error_description").or_else(|| text("message")).or_else(|| text("Message"));
        return [code, message].into_iter().flatten().collect::<Vec<_>>().join(" ");
    }
    let text = String::from_utf8_lossy(body);
    let parts = [element(&text, "Code"), element(&text, "Message")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_in_each_clouds_form() {
        for (body, said) in [
            (
                r#"{"error":"invalid_request","error_description":"Identity not found"}"#,
                "invalid_request Identity not found",
            ),
            (
                r#"{"error":{"code":403,"message":"Permission 'iam.serviceAccounts.getAccessToken' denied","status":"PERMISSION_DENIED"}}"#,
                "PERMISSION_DENIED Permission 'iam.serviceAccounts.getAccessToken' denied",
            ),
            (
                "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>Not authorized</Message></Error></ErrorResponse>",
                "AccessDenied Not authorized",
            ),
            (r#"{"code":"AccessDenied","message":"no"}"#, "AccessDenied no"),
            ("<html><body>404 - Not Found</body></html>", ""),
            ("garbage \u{1}", ""),
            ("", ""),
        ] {
            assert_eq!(words(body.as_bytes()), said, "{body}");
        }
    }

    #[test]
    fn lives_are_read_in_each_clouds_form() {
        let of = |json: &str| {
            let answer: TokenAnswer = serde_json::from_str(json).unwrap();
            answer.good_for().map(|life| life.as_secs())
        };
        assert_eq!(of(r#"{"expires_in":3599}"#), Some(3599));
        assert_eq!(of(r#"{"expires_in":"86399","expires_on":"1"}"#), Some(86_399));
        assert_eq!(of(r#"{"expires_on":"1586984735"}"#), Some(0));
        assert_eq!(of(r#"{"expires_on":"06/20/2019 02:57:58 +00:00"}"#), None);
        assert_eq!(of("{}"), None);
        let soon = rfc3339::format(SystemClock.now().plus(Duration::from_secs(600)));
        let fraction = soon.replace('Z', ".123456789Z");
        for text in [soon, fraction] {
            let left = until(&text).unwrap().as_secs();
            assert!((500..=600).contains(&left), "{text}: {left}");
        }
        assert_eq!(until("soon"), None);
    }
}
