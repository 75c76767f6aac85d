//! Around any source: what was issued is kept and lent again, asked for once however many wait, renewed before it
//! ends, and revoked when nobody needs it.
//!
//! Each credential has a task of its own (`tender.rs`), so that a caller who hangs up stops nothing. Here is what
//! callers do: find the credential, ask the task to go on, and wait for it within a bound.
//!
//! Invariants:
//! - a credential is lent to callers of its own resource, role and, where the source says so, principal only;
//! - nothing is lent after its end;
//! - while a source refuses or is away, callers are refused at once, and the source is asked at growing intervals;
//! - a keeper that no configuration needs any more revokes what it has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use doorward_core::{
    BoxFuture, Fault, IssuerName, LeaseId, Login, LoginSource, Principal, ResourceName, RoleName,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::source::{CredentialSource, SourceError, Wanted};
use crate::tender::Tender;
use crate::{SOURCE_AWAY, SOURCE_REFUSED, TOO_MANY};

/// The most credentials of one source at a time.
const CREDENTIALS_MAX: usize = 4_096;
/// How long a caller waits for a credential.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// What is about to end is not lent: logging in takes a moment.
pub(crate) const END_MARGIN: Duration = Duration::from_secs(1);
/// A credential that the backend does not accept is asked for anew, at most this often.
const REFUSED_COOLDOWN: Duration = Duration::from_secs(5);

/// Keeps the credentials of one source for one resource. Dropped, it revokes them.
pub struct Keeper {
    shared: Arc<Shared>,
    /// Told, or dropped, it ends the tasks.
    stop: watch::Sender<bool>,
}

pub(crate) struct Shared {
    pub(crate) resource: ResourceName,
    pub(crate) source: Arc<dyn CredentialSource>,
    entries: Mutex<HashMap<Key, Arc<Post>>>,
    /// Tasks that have not ended, of all keepers.
    alive: Arc<watch::Sender<usize>>,
}

/// What a credential is kept under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    role: Option<RoleName>,
    principal: Option<(IssuerName, Box<str>)>,
}

/// Where callers and the task of one credential meet.
pub(crate) struct Post {
    pub(crate) key: Key,
    pub(crate) wanted: Wanted,
    pub(crate) state: watch::Sender<State>,
    /// Somebody has asked since the task looked last.
    pub(crate) asked: AtomicBool,
    /// Somebody waits for the task to do something.
    pub(crate) wake: Notify,
}

#[derive(Clone)]
pub(crate) enum State {
    /// Nothing yet.
    Unknown,
    /// There is one.
    Good(Arc<Held>),
    /// There is none, and the source is not asked again before then.
    Failed { error: SourceError, until: Instant },
}

/// One issued credential.
pub(crate) struct Held {
    pub(crate) id: LeaseId,
    pub(crate) login: Arc<Login>,
    pub(crate) issued_at: Instant,
    /// When it ends; renewals move it.
    pub(crate) ends_at: Mutex<Option<Instant>>,
}

impl Held {
    pub(crate) fn is_good(&self, now: Instant) -> bool {
        self.ends_at.lock().is_none_or(|end| end > now + END_MARGIN)
    }

    /// Whether the backend has not accepted it, and the source has not been asked for another one just now.
    pub(crate) fn is_suspect(&self, now: Instant) -> bool {
        self.login.was_refused() && now.duration_since(self.issued_at) >= REFUSED_COOLDOWN
    }
}

impl Keeper {
    /// Lends the credential of this role, to this principal. Waits for the source within a bound. Must be called
    /// on a tokio runtime.
    pub async fn lend(
        &self,
        role: Option<&RoleName>,
        principal: &Arc<Principal>,
    ) -> Result<(LeaseId, Arc<Login>), Fault> {
        let whose = self.shared.source.is_per_principal().then(|| principal.clone());
        self.of(role.cloned(), whose).await
    }

    /// Whether each principal gets credentials of its own.
    pub fn is_per_principal(&self) -> bool {
        self.shared.source.is_per_principal()
    }

    /// Why it cannot lend now, for readiness; `None` when nothing is known to be wrong.
    pub fn trouble(&self) -> Option<String> {
        let of_source = self.shared.source.trouble();
        of_source
            .or_else(|| {
                let posts = self.shared.entries.lock();
                posts.values().find_map(|post| match &*post.state.borrow() {
                    State::Failed { error, .. } => Some(error.to_string()),
                    State::Unknown | State::Good(_) => None,
                })
            })
            .map(|text| format!("{}: {text}", self.shared.source.name()))
    }

    async fn of(
        &self,
        role: Option<RoleName>,
        principal: Option<Arc<Principal>>,
    ) -> Result<(LeaseId, Arc<Login>), Fault> {
        let post = self.post(role, principal)?;
        let mut seen = post.state.subscribe();
        let before = seen.borrow_and_update().clone();
        let now = Instant::now();
        match &before {
            State::Good(held) if held.is_good(now) && !held.is_suspect(now) => {
                return Ok((held.id, held.login.clone()));
            }
            State::Failed { error, until } if *until > now => return Err(self.fault(error, *until)),
            _ => post.wake.notify_one(),
        }
        // The task answers each wake with a new state, or ends the wait here.
        let _ = timeout(WAIT_MAX, seen.changed()).await;
        let after = seen.borrow().clone();
        match after {
            State::Good(held) if held.is_good(Instant::now()) => Ok((held.id, held.login.clone())),
            State::Failed { error, until } => Err(self.fault(&error, until)),
            _ => {
                let error = SourceError::Away(format!("no answer within {} s", WAIT_MAX.as_secs()));
                Err(self.fault(&error, Instant::now()))
            }
        }
    }

    /// Finds the credential's post, or makes it, with its task.
    fn post(&self, role: Option<RoleName>, principal: Option<Arc<Principal>>) -> Result<Arc<Post>, Fault> {
        let whose = principal.as_ref().map(|who| (who.issuer.clone(), who.subject.reveal().clone()));
        let key = Key { role: role.clone(), principal: whose };
        let mut entries = self.shared.entries.lock();
        let count = entries.len();
        let post = match entries.entry(key.clone()) {
            Entry::Occupied(post) => post.get().clone(),
            Entry::Vacant(_) if count >= CREDENTIALS_MAX => {
                return Err(Fault::new(TOO_MANY, "too many backend credentials are in use at a time")
                    .hint("Try again when other sessions have ended.")
                    .retry_after(REFUSED_COOLDOWN));
            }
            Entry::Vacant(place) => {
                let wanted = Wanted { resource: self.shared.resource.clone(), role, principal };
                let post = Arc::new(Post {
                    key,
                    wanted,
                    state: watch::Sender::new(State::Unknown),
                    asked: AtomicBool::new(true),
                    wake: Notify::new(),
                });
                self.shared.alive.send_modify(|count| *count += 1);
                let tender = Tender::new(self.shared.clone(), post.clone(), self.stop.subscribe());
                tokio::spawn(tender.run());
                place.insert(post).clone()
            }
        };
        // Under the lock: a task that is about to end sees it.
        post.asked.store(true, Ordering::Relaxed);
        Ok(post)
    }

    fn fault(&self, error: &SourceError, until: Instant) -> Fault {
        let wait = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let fault = match error {
            SourceError::Away(_) => Fault::new(
                SOURCE_AWAY,
                "the gateway cannot get a credential for this resource's backend at the moment",
            )
            .hint("Try again in a moment; the gateway's operator sees the cause in its log and in /readyz."),
            SourceError::Refused(_) => {
                Fault::new(SOURCE_REFUSED, "the gateway is refused a credential for this resource's backend")
                    .hint("The gateway's operator sees the cause in its log and in /readyz.")
            }
        };
        fault.cause(format_args!("{}: {error}", self.shared.source.name())).retry_after(wait)
    }
}

impl LoginSource for Keeper {
    fn login(&self) -> BoxFuture<'_, Result<Arc<Login>, Fault>> {
        Box::pin(async { Ok(self.of(None, None).await?.1) })
    }
}

impl Shared {
    /// Takes a post out that nobody has asked at since the task looked last. `false` when somebody has.
    pub(crate) fn give_up(&self, post: &Arc<Post>) -> bool {
        let mut entries = self.entries.lock();
        if post.asked.load(Ordering::Relaxed) {
            return false;
        }
        entries.remove(&post.key);
        true
    }

    /// A task has ended.
    pub(crate) fn ended(&self) {
        self.alive.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("source", &self.shared.source.name()).finish_non_exhaustive()
    }
}

/// All keepers of a running gateway. A reload finds those again whose source has not changed.
#[derive(Default)]
pub struct Keepers {
    by_identity: Mutex<HashMap<String, Weak<Keeper>>>,
    alive: Arc<watch::Sender<usize>>,
}

impl Keepers {
    /// The keeper that a living configuration has under this identity, or a new one around this source.
    /// Whatever changes what the source issues is part of the identity.
    pub fn keeper(
        &self,
        identity: &str,
        resource: &ResourceName,
        source: impl FnOnce() -> Arc<dyn CredentialSource>,
    ) -> Arc<Keeper> {
        let mut keepers = self.by_identity.lock();
        keepers.retain(|_, keeper| keeper.strong_count() > 0);
        let identity = format!("{resource} {identity}");
        if let Some(keeper) = keepers.get(&identity).and_then(Weak::upgrade) {
            return keeper;
        }
        let shared = Arc::new(Shared {
            resource: resource.clone(),
            source: source(),
            entries: Mutex::default(),
            alive: self.alive.clone(),
        });
        let keeper = Arc::new(Keeper { shared, stop: watch::Sender::new(false) });
        keepers.insert(identity, Arc::downgrade(&keeper));
        keeper
    }

    /// Revokes what was issued, and waits until that is done or the time is over. `false` when it was over:
    /// what is left ends by itself.
    pub async fn shutdown(&self, within: Duration) -> bool {
        let keepers: Vec<_> = self.by_identity.lock().values().filter_map(Weak::upgrade).collect();
        for keeper in &keepers {
            keeper.stop.send_replace(true);
        }
        let mut alive = self.alive.subscribe();
        timeout(within, alive.wait_for(|count| *count == 0)).await.is_ok()
    }
}
