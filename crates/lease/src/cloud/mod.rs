//! Logins that stand on the identity which a cloud gives the gateway: a short-lived token takes the place of the
//! password, and no secret is stored anywhere.
//!
//! Who the gateway is comes from where it runs, in the ways in which the clouds' own libraries find it: environment
//! variables that the platform sets, files that it keeps fresh, and its metadata endpoints. What was fetched is shared
//! by all roles that stand on it (`shelf`); a token for a database is lent by the keeper like any other credential.
//!
//! Invariants:
//! - a token is asked for, and what proves the gateway is sent, over https, or on this machine and its link only;
//! - each request has a bound in time and in bytes, redirects are not followed, and there are few attempts;
//! - nothing of a token, and nothing that an endpoint answers where a token is expected, is shown.

mod ask;
mod aws;
mod azure;
mod federation;
mod fuzz;
mod gcp;
mod shelf;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use doorward_core::{BoxFuture, Login, Secret};
use doorward_http::{Client, ClientOptions, TlsError};
use doorward_pgclient::{CloudConfig, Impersonate, Target};
use parking_lot::Mutex;
use tokio::time::timeout;

pub use fuzz::cloud_answer;

use crate::source::{CredentialSource, Issued, SourceError, Wanted};
use ask::{Environment, Line};
use aws::{AwsCaller, DatabaseToken};
use azure::AzureIdentity;
use gcp::GcpIdentity;
use shelf::Given;

/// How long getting a token may take, with all that it needs. (A caller waits a little longer.)
const ISSUE_SPAN_MAX: Duration = Duration::from_secs(9);
/// The longest that a token is taken to be good, whatever it says.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
/// A token that ends sooner is of no use.
const LIFE_MIN: Duration = Duration::from_secs(5);
/// The longest token: PostgreSQL takes passwords of up to 64 KiB.
const TOKEN_BYTES_MAX: usize = 48 << 10;

/// A token, and for how long it is good from now on.
pub(crate) struct Token {
    secret: Secret,
    good_for: Duration,
}

impl Token {
    /// Looks at what an endpoint has given.
    fn new(from: &str, text: &str, good_for: Duration) -> Result<Self, SourceError> {
        let plain = text.len() <= TOKEN_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || !plain {
            return Err(SourceError::Away(format!("{from}: the answer's token is none")));
        }
        if good_for < LIFE_MIN {
            return Err(SourceError::Away(format!("{from}: the answer's token has ended, or is about to")));
        }
        Ok(Self { secret: Secret::from(text), good_for: good_for.min(LIFE_MAX) })
    }
}

impl From<Given<Secret>> for Token {
    fn from(given: Given<Secret>) -> Self {
        Self { secret: given.value, good_for: given.good_for.unwrap_or(LIFE_MAX) }
    }
}

impl From<Token> for Given<Secret> {
    fn from(token: Token) -> Self {
        Self { value: token.secret, good_for: Some(token.good_for) }
    }
}

/// The identities that clouds give a running gateway. A reload finds the same ones again.
pub struct Clouds {
    environment: Environment,
    line: Mutex<Option<Arc<Line>>>,
    aws: Shared<AwsCaller>,
    azure: Shared<AzureIdentity>,
    gcp: Shared<GcpIdentity>,
}

impl Default for Clouds {
    fn default() -> Self {
        Self::within(|name| std::env::var(name).ok())
    }
}

impl Clouds {
    /// With these environment variables instead of the process's own.
    pub fn within(variables: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let (line, aws, azure, gcp) = Default::default();
        Self { environment: Environment::new(variables), line, aws, azure, gcp }
    }

    /// The source of logins at this database: of this user, or of whatever role is wanted. Nothing is asked of the
    /// cloud yet. Blocks on the disk at first: reads the system's certificate authorities.
    ///
    /// # Errors
    /// When those cannot be read.
    pub fn source(
        &self,
        config: &CloudConfig,
        target: &Target,
        user: Option<&str>,
    ) -> Result<Arc<dyn CredentialSource>, CloudError> {
        if let Some(problem) = config.problem(target) {
            return Err(CloudError::Config(problem.to_string()));
        }
        let line = self.line()?;
        let of = match config {
            CloudConfig::AwsRds(config) => {
                let unclear = || CloudError::Config("there is no region, or no host and port".to_owned());
                let (host, port) = config.signed_for(target).ok_or_else(unclear)?;
                let region: Box<str> = config.region(&host).ok_or_else(unclear)?.into();
                let caller = self.aws.get(&region, || AwsCaller::new(line, region.clone()));
                Of::Rds(DatabaseToken { caller, region, endpoint: format!("{host}:{port}").into() })
            }
            CloudConfig::AzureEntra(config) => {
                let client = config.client_id.as_deref().unwrap_or_default();
                let key = format!("{:?} {client}", config.cloud);
                Of::Azure(self.azure.get(&key, || AzureIdentity::new(line, config.clone())))
            }
            CloudConfig::GcpCloudSql(config) => {
                let scope = gcp::scope(config.impersonate.is_some());
                let identity = self.gcp.get(scope, || GcpIdentity::new(line, scope));
                Of::Gcp(identity, config.impersonate.clone())
            }
        };
        Ok(Arc::new(CloudLogins { name: config.key(), user: user.map(Into::into), of }))
    }

    fn line(&self) -> Result<Arc<Line>, TlsError> {
        let mut line = self.line.lock();
        if let Some(line) = &*line {
            return Ok(line.clone());
        }
        let client = Client::new(ClientOptions::default())?;
        let new = Arc::new(Line { client, environment: self.environment.clone() });
        Ok(line.insert(new).clone())
    }
}

impl std::fmt::Debug for Clouds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clouds")
    }
}

/// Why there is no source.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// The configuration cannot be.
    #[error("{0}")]
    Config(String),
    /// The certificate authorities cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What living sources share, by what tells them apart.
struct Shared<T>(Mutex<HashMap<String, Weak<T>>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Shared<T> {
    fn get(&self, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut all = self.0.lock();
        all.retain(|_, one| one.strong_count() > 0);
        if let Some(one) = all.get(key).and_then(Weak::upgrade) {
            return one;
        }
        let one = Arc::new(make());
        all.insert(key.to_owned(), Arc::downgrade(&one));
        one
    }
}

/// Logins of one database.
struct CloudLogins {
    name: &'static str,
    /// Whose; `None` for whatever role is wanted.
    user: Option<Box<str>>,
    of: Of,
}

/// What gives the tokens.
enum Of {
    Rds(DatabaseToken),
    Azure(Arc<AzureIdentity>),
    Gcp(Arc<GcpIdentity>, Option<Impersonate>),
}

impl CloudLogins {
    async fn issue(&self, wanted: &Wanted) -> Result<Issued, SourceError> {
        let role = wanted.role.as_ref().map(|role| role.as_str());
        let user = role.or(self.user.as_deref());
        let user = user.ok_or_else(|| SourceError::Refused("no user is named".to_owned()))?;
        let token = timeout(ISSUE_SPAN_MAX, self.token(user)).await;
        let token = token.map_err(|_| {
            SourceError::Away(format!("there is no token within {} s", ISSUE_SPAN_MAX.as_secs()))
        })??;
        let login = Login::new(user, token.secret);
        Ok(Issued { login, good_for: Some(token.good_for), refresh: None, handle: None })
    }

    async fn token(&self, user: &str) -> Result<Token, SourceError> {
        match &self.of {
            Of::Rds(database) => database.token(user).await,
            Of::Azure(identity) => identity.token().await,
            Of::Gcp(identity, None) => identity.token().await,
            Of::Gcp(identity, Some(Impersonate::Account(account))) => identity.impersonate(account).await,
            Of::Gcp(identity, Some(Impersonate::ByRole)) => {
                identity.impersonate(&gcp::account_of(user)?).await
            }
        }
    }
}

impl CredentialSource for CloudLogins {
    fn name(&self) -> &str {
        self.name
    }

    fn issue<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Issued, SourceError>> {
        Box::pin(self.issue(wanted))
    }

    fn refused(&self, _: &Wanted) {
        match &self.of {
            Of::Rds(database) => database.caller.forget(),
            Of::Azure(identity) => identity.forget(),
            Of::Gcp(identity, _) => identity.forget(),
        }
    }
}
