//! AWS: who the gateway is there, and the tokens of RDS IAM authentication.
//!
//! A token for a database is a presigned URL without its scheme, which the gateway signs by itself: RDS looks at it
//! at login, for fifteen minutes. The credentials that sign it come from where AWS's own libraries look, in this
//! order: environment variables, a web identity (EKS service accounts), a container's endpoint (ECS, EKS Pod
//! Identity), an instance's metadata (version 2 only).

use std::sync::Arc;
use std::time::Duration;

use doorward_core::{Clock, Secret, SystemClock};
use doorward_sigv4::{Presigned, Signer, date, encoded, sha256_hex};
use http::{Method, StatusCode};

use super::ask::{Answer, Ask, FORM, Line, form, read_file};
use super::shelf::{Given, Shelf};
use super::wire::{self, AwsCredentials};
use super::{LIFE_MAX, Token};
use crate::source::SourceError;

/// How long RDS takes a token for.
const TOKEN_SPAN: Duration = Duration::from_secs(900);
/// Where an instance's metadata are.
const METADATA: &str = "http://169.254.169.254";
const METADATA_V6: &str = "http://[fd00:ec2::254]";
/// Where a container's credentials are, when only a path is said.
const CONTAINER: &str = "http://169.254.170.2";
/// What the gateway calls its sessions, where the environment does not say.
const SESSION_NAME: &str = "doorward";
/// How long a session with an instance's metadata is asked for.
const METADATA_SESSION_SECONDS: &str = "300";

/// The credentials of a caller of AWS.
#[derive(Clone)]
pub(super) struct Credentials {
    access_key_id: Box<str>,
    secret_access_key: Secret,
    session_token: Option<Secret>,
}

/// Who the gateway is at AWS.
pub(super) struct AwsCaller {
    line: Arc<Line>,
    /// Whose STS is asked.
    region: Box<str>,
    shelf: Shelf<Credentials>,
}

/// Makes tokens for one database.
pub(super) struct DatabaseToken {
    pub(super) caller: Arc<AwsCaller>,
    pub(super) region: Box<str>,
    /// Host and port.
    pub(super) endpoint: Box<str>,
}

impl DatabaseToken {
    pub(super) async fn token(&self, user: &str) -> Result<Token, SourceError> {
        let given = self.caller.credentials().await?;
        let Credentials { access_key_id, secret_access_key, session_token } = &given.value;
        let signer = Signer { access_key_id, secret_access_key, region: &self.region, service: "rds-db" };
        let presigned = Presigned {
            method: "GET",
            host: &self.endpoint,
            path: "/",
            query: &[("Action", "connect"), ("DBUser", user)],
            expires_seconds: TOKEN_SPAN.as_secs(),
            session_token: session_token.as_ref(),
            body_hash: &sha256_hex(b""),
        };
        let query = signer.presigned_query(&presigned, &date(SystemClock.now()));
        // It is good for as long as what signed it is.
        let good_for = given.good_for.map_or(TOKEN_SPAN, |life| life.min(TOKEN_SPAN));
        Token::new("the token of RDS", &format!("{}/?{query}", self.endpoint), good_for)
    }
}

impl AwsCaller {
    pub(super) fn new(line: Arc<Line>, region: Box<str>) -> Self {
        Self { line, region, shelf: Shelf::default() }
    }

    pub(super) fn forget(&self) {
        self.shelf.forget();
    }

    async fn credentials(&self) -> Result<Given<Credentials>, SourceError> {
        self.shelf.get(self.fetch()).await
    }

    async fn fetch(&self) -> Result<Given<Credentials>, SourceError> {
        let env = &self.line.environment;
        if let Some(id) = env.get("AWS_ACCESS_KEY_ID") {
            let secret = env.get("AWS_SECRET_ACCESS_KEY").ok_or_else(|| {
                SourceError::Refused("AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not".to_owned())
            })?;
            let session_token = env.get("AWS_SESSION_TOKEN").map(Secret::from);
            let value = Credentials {
                access_key_id: id.into(),
                secret_access_key: Secret::from(secret),
                session_token,
            };
            return Ok(Given { value, good_for: None });
        }
        if let Some(file) = env.get("AWS_WEB_IDENTITY_TOKEN_FILE") {
            return self.of_web_identity(file).await;
        }
        let relative =
            env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map(|path| format!("{CONTAINER}{path}"));
        if let Some(url) = relative.or_else(|| env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
            return self.of_container(url).await;
        }
        if env.get("AWS_EC2_METADATA_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Err(SourceError::Refused(
                "no credentials of AWS: neither the environment, nor a web identity, nor a container's endpoint has \
                 any, and AWS_EC2_METADATA_DISABLED is set"
                    .to_owned(),
            ));
        }
        self.of_instance().await
    }

    /// A role, for a token of the platform's own issuer (`AssumeRoleWithWebIdentity`).
    async fn of_web_identity(&self, file: String) -> Result<Given<Credentials>, SourceError> {
        let env = &self.line.environment;
        let role = env.get("AWS_ROLE_ARN").ok_or_else(|| {
            SourceError::Refused("AWS_WEB_IDENTITY_TOKEN_FILE is set, and AWS_ROLE_ARN is not".to_owned())
        })?;
        let session = env.get("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| SESSION_NAME.to_owned());
        let token = read_file("AWS_WEB_IDENTITY_TOKEN_FILE", file).await?;
        let form = form(&[
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", &role),
            ("RoleSessionName", &session),
            ("WebIdentityToken", token.expose()),
        ]);
        let china = if self.region.starts_with("cn-") { ".cn" } else { "" };
        let of_region = || format!("https://sts.{}.amazonaws.com{china}", self.region);
        let base = env.get("AWS_ENDPOINT_URL_STS").unwrap_or_else(of_region);
        let ask = Ask {
            method: Method::POST,
            url: format!("{}/", base.trim_end_matches('/')),
            headers: &[],
            body: Some((FORM, form)),
            proof: Some(&token),
            hint: "; the role that AWS_ROLE_ARN names must trust the issuer of the token in AWS_WEB_IDENTITY_TOKEN_FILE",
            passing: &[],
        };
        let answer = self.line.send(&ask).await?;
        checked(&answer, AwsCredentials::of_xml(answer.text()?))
    }

    async fn of_container(&self, url: String) -> Result<Given<Credentials>, SourceError> {
        let env = &self.line.environment;
        let authorization = match env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(file) => Some(read_file("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file).await?),
            None => env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Secret::from),
        };
        let headers: Vec<(&'static str, &str)> =
            authorization.iter().map(|token| ("authorization", &**token.expose())).collect();
        let hint = "; does the task or the service account have a role?";
        let proof = authorization.as_ref();
        let ask = Ask { method: Method::GET, url, headers: &headers, body: None, proof, hint, passing: &[] };
        let answer = self.line.send(&ask).await?;
        checked(&answer, answer.json()?)
    }

    /// The role of the machine. Metadata of version 1 would tell anybody who can make the gateway fetch a URL.
    async fn of_instance(&self) -> Result<Given<Credentials>, SourceError> {
        let env = &self.line.environment;
        let v6 = env
            .get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")
            .is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
        let default = || if v6 { METADATA_V6 } else { METADATA }.to_owned();
        let base = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(default);
        let base = base.trim_end_matches('/');
        let opening = Ask {
            method: Method::PUT,
            url: format!("{base}/latest/api/token"),
            headers: &[("x-aws-ec2-metadata-token-ttl-seconds", METADATA_SESSION_SECONDS)],
            body: None,
            proof: None,
            hint: "; in a container the instance's hop limit must be 2 or more",
            passing: &[],
        };
        let opened = self.line.send(&opening).await?;
        let session = Secret::from(opened.text()?);
        let headers = [("x-aws-ec2-metadata-token", &**session.expose())];
        let roles = format!("{base}/latest/meta-data/iam/security-credentials/");
        let get = |url: String| Ask {
            method: Method::GET,
            url,
            headers: &headers,
            body: None,
            proof: Some(&session),
            hint: "; does the instance have a role?",
            passing: &[StatusCode::UNAUTHORIZED],
        };
        let listed = self.line.send(&get(roles.clone())).await?;
        let role = listed.text()?.lines().next().unwrap_or_default().trim();
        if role.is_empty() {
            return Err(SourceError::Refused(format!("{}: the instance has no role", listed.from)));
        }
        let answer = self.line.send(&get(format!("{roles}{}", encoded(role, "+=,@")))).await?;
        checked(&answer, answer.json()?)
    }
}

/// Looks at credentials that an endpoint has given.
fn checked(answer: &Answer, given: AwsCredentials) -> Result<Given<Credentials>, SourceError> {
    if let Some(code) = given.code.as_deref().filter(|code| *code != "Success") {
        let code: String = code.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
        return Err(SourceError::Refused(format!("{}: {code}", answer.from)));
    }
    let text = |value: Option<String>, field: &str| {
        value.filter(|value| !value.is_empty()).ok_or_else(|| answer.lacks(field))
    };
    let access_key_id = text(given.access_key_id, "AccessKeyId")?.into();
    let secret_access_key = Secret::from(text(given.secret_access_key, "SecretAccessKey")?);
    let session_token = Some(Secret::from(text(given.token, "session token")?));
    let expiration = text(given.expiration, "Expiration")?;
    let good_for = wire::until(&expiration).ok_or_else(|| answer.lacks("readable Expiration"))?;
    Ok(Given {
        value: Credentials { access_key_id, secret_access_key, session_token },
        good_for: Some(good_for.min(LIFE_MAX)),
    })
}
