//! The organs in memory, for tests of the road and of doors without their real crates.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use doorward_core::{
    AccessRecord, Action, Allowance, Arrival, AuditMode, AuthMethod, Authenticator, BoxFuture, Case, Clock,
    ConfigDigest, Credentials, Deadlines, Decision, Durable, Fault, GrantName, IssuerName, Lease, LeaseId,
    Lessor, Login, NotDurable, Obligations, Observer, Permit, Personal, Policy, Principal, PrincipalKind,
    Recorder, Resource, ResourceName, RoleName, Slot, Snapshot, Timestamp,
};
use doorward_redact::Redactor;
use parking_lot::Mutex;

/// Fault codes of the organs in memory.
pub mod codes {
    doorward_core::codes! {
        /// Nobody of this name.
        UNKNOWN_TOKEN = "authenticate.test-unknown-token", Authenticate, Unauthenticated, Client, retry false, "Unknown token";
        /// No rule allows it.
        NO_RULE = "authorize.test-no-rule", Authorize, Denied, Client, retry false, "No rule allows it";
    }
}

/// An authenticator that knows tokens by heart.
#[derive(Debug, Default)]
pub struct Tokens {
    known: Mutex<HashMap<String, Arc<Principal>>>,
    revoked: AtomicBool,
}

impl Tokens {
    /// Nobody yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Knows `token` as this subject, until `expires_at`.
    pub fn know(&self, token: &str, subject: &str, expires_at: Option<Timestamp>) {
        let principal = Principal {
            issuer: IssuerName::new("test"),
            subject: Personal::from(subject),
            kind: PrincipalKind::User,
            auth_method: AuthMethod::Jwt,
            expires_at,
            ..Principal::public()
        };
        self.known.lock().insert(token.to_owned(), Arc::new(principal));
    }

    /// Revokes every proof that was given.
    pub fn revoke_all(&self) {
        self.revoked.store(true, Ordering::SeqCst);
    }
}

impl Authenticator for Tokens {
    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        _: &'a Arrival,
        _: Timestamp,
    ) -> BoxFuture<'a, Result<Arc<Principal>, Fault>> {
        Box::pin(async move {
            match credentials {
                Credentials::None => Ok(Arc::new(Principal::public())),
                Credentials::Bearer(token) => {
                    self.known.lock().get(&**token.expose()).cloned().ok_or_else(unknown)
                }
                Credentials::Certificate(_) | Credentials::Minted(_) | Credentials::Malformed(_) => {
                    Err(unknown())
                }
            }
        })
    }

    fn stands(&self, _: &Principal, _: Timestamp) -> Result<(), Fault> {
        if self.revoked.load(Ordering::SeqCst) { Err(unknown()) } else { Ok(()) }
    }
}

fn unknown() -> Fault {
    Fault::new(codes::UNKNOWN_TOKEN, "nobody vouches for this token").hint("Ask the test for a token.")
}

/// Says whether somebody may do something.
type Rule = dyn Fn(&Principal, &Action) -> bool + Send + Sync;

/// A policy of which rules are plain closures over one action.
pub struct Rules {
    name: GrantName,
    role: Option<RoleName>,
    allow: Box<Rule>,
}

impl Rules {
    /// Allows everything to everybody, as the grant `all`.
    pub fn allow_all() -> Arc<Self> {
        Self::new("all", |_, _| true)
    }

    /// Allows nothing.
    pub fn deny_all() -> Arc<Self> {
        Self::new("none", |_, _| false)
    }

    /// Allows the actions that `allow` says yes to.
    pub fn new(name: &str, allow: impl Fn(&Principal, &Action) -> bool + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            name: GrantName::new(name),
            role: Some(RoleName::new("tester")),
            allow: Box::new(allow),
        })
    }
}

impl Policy for Rules {
    fn decide(&self, case: &Case<'_>) -> Decision {
        let refused = case.actions.as_slice().iter().find(|action| !(self.allow)(case.principal, action));
        match refused {
            None => {
                let obligations = Obligations { role: self.role.clone(), ..Obligations::default() };
                Decision::Allow { grant: self.name.clone(), obligations }
            }
            Some(action) => {
                let fault = Fault::new(codes::NO_RULE, format!("no rule allows {action}"));
                Decision::Deny(fault.hint("Ask for a rule."))
            }
        }
    }

    fn admit(&self, _: &Permit, _: Timestamp) -> Result<Option<Allowance>, Fault> {
        Ok(None)
    }
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A lessor with one login for all.
#[derive(Debug, Default)]
pub struct StaticLessor {
    login: Option<Arc<Login>>,
}

impl StaticLessor {
    /// Lends no login: for backends that ask for none.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// Lends this login.
    pub fn lending(login: Login) -> Arc<Self> {
        Arc::new(Self { login: Some(Arc::new(login)) })
    }
}

impl Lessor for StaticLessor {
    fn lend<'a>(&'a self, permit: &'a Permit) -> BoxFuture<'a, Result<Lease, Fault>> {
        Box::pin(async move { Ok(Lease::new(permit, LeaseId::fresh(), self.login.clone())) })
    }
}

/// What the memory recorder has kept.
#[derive(Debug, Default)]
struct Kept {
    records: Mutex<Vec<AccessRecord>>,
    intents: Mutex<Vec<AccessRecord>>,
    full: AtomicBool,
    reserved: AtomicU64,
    lost: AtomicU64,
}

/// A recorder that keeps records and intents, and can be full. It is the observer too.
#[derive(Clone, Debug, Default)]
pub struct MemoryRecorder(Arc<Kept>);

impl MemoryRecorder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The finished records, in order.
    pub fn records(&self) -> Vec<AccessRecord> {
        self.0.records.lock().clone()
    }

    /// The intents, in order.
    pub fn intents(&self) -> Vec<AccessRecord> {
        self.0.intents.lock().clone()
    }

    /// How many records there was no room for.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::SeqCst)
    }

    /// How many places are reserved and not yet used or freed.
    pub fn reserved(&self) -> u64 {
        self.0.reserved.load(Ordering::SeqCst)
    }

    /// Fills it up, or empties it.
    pub fn set_full(&self, full: bool) {
        self.0.full.store(full, Ordering::SeqCst);
    }
}

impl Recorder for MemoryRecorder {
    fn reserve(&self) -> Option<Box<dyn Slot>> {
        if self.0.full.load(Ordering::SeqCst) {
            return None;
        }
        self.0.reserved.fetch_add(1, Ordering::SeqCst);
        Some(Box::new(MemorySlot(self.0.clone())))
    }

    fn lost(&self, _: &AccessRecord) {
        self.0.lost.fetch_add(1, Ordering::SeqCst);
    }
}

impl Observer for MemoryRecorder {
    fn completed(&self, _: &AccessRecord) {}
}

struct MemorySlot(Arc<Kept>);

impl Slot for MemorySlot {
    fn intent(&mut self, record: &AccessRecord) -> Durable {
        self.0.intents.lock().push(record.clone());
        Box::pin(std::future::ready(Ok::<(), NotDurable>(())))
    }

    fn complete(self: Box<Self>, record: Box<AccessRecord>) -> Durable {
        self.0.records.lock().push(*record);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Drop for MemorySlot {
    fn drop(&mut self) {
        self.0.reserved.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A snapshot of the organs in memory, with these resources.
pub fn snapshot(tokens: &Arc<Tokens>, rules: &Arc<Rules>, resources: Vec<Resource>) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        digest: ConfigDigest::new("sha256:0000000000000000"),
        environment: Arc::from("test"),
        authenticator: tokens.clone(),
        policy: rules.clone(),
        lessor: StaticLessor::none(),
        redactor: Arc::new(Redactor::default()),
        resources: resources.into_iter().map(|resource| (resource.name.clone(), resource)).collect(),
        deadlines: Deadlines::default(),
    })
}

/// A resource of the echo door or another one.
pub fn resource(
    name: &str,
    door: &'static str,
    audit: AuditMode,
    backend: Arc<dyn std::any::Any + Send + Sync>,
) -> Resource {
    Resource { name: ResourceName::new(name), door, audit, backend, beside: None }
}

/// A gateway of the organs in memory.
pub fn gateway(
    snapshot: Arc<Snapshot>,
    recorder: &MemoryRecorder,
    clock: Arc<dyn Clock>,
) -> Arc<doorward_core::Gateway> {
    Arc::new(doorward_core::Gateway::new(
        snapshot,
        Arc::new(recorder.clone()),
        Arc::new(recorder.clone()),
        clock,
    ))
}
