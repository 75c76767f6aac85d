//! The gateway's own token at Vault, and the task that keeps it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use doorward_core::Secret;
use doorward_settings::{Problem, SecretRef};
use http::Method;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::wire::{AppRoleLogin, JwtLogin, TokenFacts};
use super::{Link, Refusal, encode};
use crate::config::VaultAuth;
use crate::source::SourceError;

/// The first and the longest pause between attempts after failures.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A token is renewed at a third of its life, so that what is made under it is not short of life, and looked after
/// at least this often, and at most.
const LOOK_MAX: Duration = Duration::from_secs(3600);
const LOOK_MIN: Duration = Duration::from_millis(500);

/// A token that Vault knows.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) secret: Secret,
    /// Counts logins: what was made under another one ends with that one.
    pub(crate) generation: u64,
    /// When it ends unless it is renewed; `None` for one that does not.
    pub(crate) ends_at: Option<Instant>,
    renewable: bool,
    /// What it was to live for when it was made.
    life: Duration,
}

#[derive(Clone)]
enum State {
    /// The first login is under way.
    Unknown,
    Good(Token),
    /// There is none, and why.
    Failed(SourceError),
    /// The gateway has given it back.
    Ended,
}

/// Keeps a token. Dropped, it stops.
pub(crate) struct Tokens {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    link: Arc<Link>,
    state: watch::Sender<State>,
    /// The token is not good any more, or somebody wants one.
    wake: Notify,
}

impl Tokens {
    /// Begins to log in.
    pub(crate) fn start(link: Arc<Link>) -> Self {
        let shared =
            Arc::new(Shared { link, state: watch::Sender::new(State::Unknown), wake: Notify::new() });
        let task = tokio::spawn(keep(shared.clone())).abort_handle();
        Self { shared, task }
    }

    /// A token that is good now; waits for one if there is none.
    pub(crate) async fn current(&self, wait_max: Duration) -> Result<Token, SourceError> {
        let mut state = self.shared.state.subscribe();
        let found = timeout(wait_max, async {
            loop {
                let now = state.borrow_and_update().clone();
                match now {
                    State::Good(token) if token.is_good() => return Ok(token),
                    State::Failed(error) => return Err(error),
                    State::Ended => return Err(SourceError::Away("the gateway stops".to_owned())),
                    State::Good(_) | State::Unknown => {}
                }
                if state.changed().await.is_err() {
                    return Err(SourceError::Away("the gateway stops".to_owned()));
                }
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => Err(SourceError::Away(format!("no login within {} s", wait_max.as_secs()))),
        }
    }

    /// Vault does not know this token any more: another one is to be made.
    pub(crate) fn replace(&self, token: &Token) {
        let replaced = self.shared.state.send_if_modified(|state| {
            let this = matches!(state, State::Good(good) if good.generation == token.generation);
            if this {
                *state = State::Unknown;
            }
            this
        });
        if replaced {
            self.shared.wake.notify_one();
        }
    }

    /// Why there is none.
    pub(crate) fn trouble(&self) -> Option<String> {
        match &*self.shared.state.borrow() {
            State::Failed(error) => Some(error.to_string()),
            State::Good(_) | State::Unknown | State::Ended => None,
        }
    }

    /// Stops. The token is returned if the gateway has made it and so may end it.
    pub(crate) fn end(&self) -> Option<Token> {
        self.task.abort();
        let own = !matches!(self.shared.link.config.auth, VaultAuth::Token(_));
        match self.shared.state.send_replace(State::Ended) {
            State::Good(token) if own => Some(token),
            _ => None,
        }
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        let Some(token) = self.end() else { return };
        // The configuration that had it is gone: what is left of it ends now, not with its life.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let link = self.shared.link.clone();
            runtime.spawn(async move {
                let path = "auth/token/revoke-self";
                let given_back = link.send(Method::PUT, path, Some(&token.secret), Bytes::new()).await;
                if let Err(refusal) = given_back {
                    tracing::debug!(cause = %refusal.into_error(), "a token of Vault ends by itself");
                }
            });
        }
    }
}

impl Token {
    fn is_good(&self) -> bool {
        self.ends_at.is_none_or(|end| end > Instant::now())
    }

    /// When it is renewed, or replaced.
    fn look_at(&self) -> Instant {
        let now = Instant::now();
        let left = self.ends_at.map_or(LOOK_MAX, |end| end.saturating_duration_since(now));
        now + (left / 3).clamp(LOOK_MIN, LOOK_MAX)
    }
}

async fn keep(shared: Arc<Shared>) {
    let mut generation = 0;
    let mut failures: u32 = 0;
    let mut told: Option<SourceError> = None;
    loop {
        let held = match &*shared.state.borrow() {
            State::Good(token) => Some(token.clone()),
            _ => None,
        };
        let next = match shared.renew_or_log_in(held, &mut generation).await {
            Ok(token) => {
                (failures, told) = (0, None);
                let next = token.look_at();
                shared.state.send_replace(State::Good(token));
                next
            }
            Err(error) => {
                let pause = RETRY_MIN.saturating_mul(1 << failures.min(8)).min(RETRY_MAX);
                failures = failures.saturating_add(1);
                if told.as_ref() != Some(&error) {
                    tracing::warn!(url = shared.link.config.url.get(), cause = %error, "Vault does not let the gateway in");
                    told = Some(error.clone());
                }
                // The old one serves while it is good.
                shared.state.send_if_modified(|state| {
                    let over = !matches!(state, State::Good(token) if token.is_good());
                    if over {
                        *state = State::Failed(error);
                    }
                    over
                });
                Instant::now() + pause
            }
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = shared.wake.notified() => {}
        }
    }
}

impl Shared {
    /// Renews the token if that gives it a life worth having; logs in otherwise.
    async fn renew_or_log_in(&self, held: Option<Token>, generation: &mut u64) -> Result<Token, SourceError> {
        let Some(token) = held else { return self.log_in(generation).await };
        if token.ends_at.is_none() {
            return self.look_at_lasting(token, generation).await;
        }
        if token.renewable && token.is_good() {
            let renewed = self.renew(&token).await;
            match renewed {
                Ok(renewed) if renewed.left() >= token.life / 2 => return Ok(renewed),
                // Its longest life is near, or Vault does not want to.
                Ok(_) | Err(Refusal::Forbidden(_) | Refusal::Other(SourceError::Refused(_))) => {}
                Err(Refusal::Other(error)) => return Err(error),
            }
        }
        self.log_in(generation).await
    }

    async fn renew(&self, token: &Token) -> Result<Token, Refusal> {
        let path = "auth/token/renew-self";
        let answer = self.link.send(Method::PUT, path, Some(&token.secret), Bytes::new()).await?;
        let auth = answer.auth.ok_or_else(|| Refusal::Other(unclear(path)))?;
        let span = Duration::from_secs(auth.lease_duration);
        let ends_at = Some(Instant::now() + span);
        Ok(Token { ends_at, renewable: auth.renewable, ..token.clone() })
    }

    /// A token without an end serves as long as Vault knows it.
    async fn look_at_lasting(&self, token: Token, generation: &mut u64) -> Result<Token, SourceError> {
        match self.facts(&token.secret).await {
            Ok(_) => Ok(token),
            Err(Refusal::Forbidden(_)) => self.log_in(generation).await,
            Err(Refusal::Other(error)) => Err(error),
        }
    }

    async fn facts(&self, token: &Secret) -> Result<TokenFacts, Refusal> {
        let path = "auth/token/lookup-self";
        let answer = self.link.send(Method::GET, path, Some(token), Bytes::new()).await?;
        serde_json::from_value(Value::Object(answer.data)).map_err(|_| Refusal::Other(unclear(path)))
    }

    async fn log_in(&self, generation: &mut u64) -> Result<Token, SourceError> {
        let config = &self.link.config;
        let (path, body) = match &config.auth {
            VaultAuth::Token(token) => return self.take_token(token, generation).await,
            VaultAuth::Approle(auth) => {
                let role_id = read(&auth.role_id).await?;
                let secret_id = match &auth.secret_id {
                    Some(secret_id) => Some(read(secret_id).await?),
                    None => None,
                };
                let secret_id = secret_id.as_ref().map(|secret| &**secret.expose());
                let body = encode(&AppRoleLogin { role_id: role_id.expose(), secret_id })?;
                let mount = auth.mount.as_ref().map_or("approle", |mount| mount.get());
                (format!("auth/{mount}/login"), body)
            }
            VaultAuth::Jwt(auth) => {
                let jwt = read(&auth.token).await?;
                let body = encode(&JwtLogin { role: &auth.role, jwt: jwt.expose() })?;
                let mount = auth.mount.as_ref().map_or("jwt", |mount| mount.get());
                (format!("auth/{mount}/login"), body)
            }
        };
        let answer = self.link.send(Method::POST, &path, None, body).await.map_err(Refusal::into_error)?;
        let auth = answer.auth.ok_or_else(|| unclear(&path))?;
        *generation += 1;
        let token = Token::new(auth.token(), *generation, auth.lease_duration, auth.renewable);
        let (method, seconds) = (config.method(), auth.lease_duration);
        tracing::info!(url = config.url.get(), method, seconds, "logged in to Vault");
        Ok(token)
    }

    /// Somebody else makes this token; what it is now is asked of Vault.
    async fn take_token(&self, token: &SecretRef, generation: &mut u64) -> Result<Token, SourceError> {
        let secret = read(token).await?;
        let facts = self.facts(&secret).await.map_err(Refusal::into_error)?;
        *generation += 1;
        Ok(Token::new(secret, *generation, facts.ttl, facts.renewable))
    }
}

impl Token {
    fn new(secret: Secret, generation: u64, seconds: u64, renewable: bool) -> Self {
        let life = Duration::from_secs(seconds);
        // A root token has no life to count.
        let ends_at = (seconds > 0).then(|| Instant::now() + life);
        Self { secret, generation, ends_at, renewable, life }
    }

    fn left(&self) -> Duration {
        self.ends_at.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()))
    }
}

async fn read(secret: &SecretRef) -> Result<Secret, SourceError> {
    let secret = secret.clone();
    let read = tokio::task::spawn_blocking(move || secret.read()).await;
    let refused = |problem: Problem| SourceError::Refused(problem.to_string());
    read.map_err(|error| SourceError::Away(error.to_string()))?.map_err(refused)
}

fn unclear(path: &str) -> SourceError {
    SourceError::Away(format!("{path}: the answer is not what Vault says"))
}
