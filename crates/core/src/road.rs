//! The main road. Every door walks it, for every call:
//!
//! accept → authenticate → decode → authorize → limit → lease → forward → shape → record
//!
//! Read [`Gateway::walk`] and [`Gateway::pass`]: that is all of it.

use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::access::{Access, Answered, Completion, Pass};
use crate::action::Actions;
use crate::codes;
use crate::fault::Fault;
use crate::name::{AccessId, RoleName};
use crate::organs::{AuditMode, Observer, Recorder};
use crate::permit::{Case, Decision, Permit};
use crate::principal::{Arrival, Credentials, Principal};
use crate::record::{Stage, Timings};
use crate::session::{Session, Standing};
use crate::snapshot::Snapshot;
use crate::time::{Clock, Timestamp};

/// Who a call comes from: somebody who shows credentials, or a session that has shown them.
#[derive(Debug)]
pub enum Caller<'a> {
    /// What the client showed with this call.
    Credentials(&'a Credentials),
    /// The session that the call belongs to.
    Session {
        /// The session.
        session: &'a Session,
        /// Whether it stands inside an open transaction.
        mid_transaction: bool,
    },
}

/// What a door makes of a backend's reply.
pub enum Shaped<T> {
    /// The whole answer: its record is made durable before it leaves.
    Whole(T, Completion),
    /// An answer that lives on: a streamed body, a relay. The closure moves the pass into it, and
    /// whoever holds the pass ends it (or drops it, which records the call as abandoned).
    Live(Box<dyn FnOnce(Pass) -> T + Send>),
}

/// One call, as its door presents it to the road.
pub trait Call: Send {
    /// The answer in the door's own language.
    type Answer: Send;
    /// What comes back from the backend.
    type Reply: Send;

    /// Who calls.
    fn caller(&self) -> Caller<'_>;

    /// Whether the answer streams: then the intent is durable before anything is forwarded. A door that holds
    /// an answer back until a frame of its call is durable ([`Pass::begin_answer`], [`Pass::end_held`]) says no.
    fn streams(&self) -> bool {
        false
    }

    /// The backend role that the caller's session is logged in as. Only grants with this role count then,
    /// and what is lent is that role's own login.
    fn role(&self) -> Option<&RoleName> {
        None
    }

    /// Says which actions the call needs. Reads a bounded body if it must.
    fn decode(
        &mut self,
        access: &mut Access,
        principal: &Arc<Principal>,
    ) -> impl Future<Output = Result<Actions, Fault>> + Send;

    /// Does what is permitted, at the backend. Dropped when the caller hangs up.
    fn forward(&mut self, pass: &mut Pass) -> impl Future<Output = Result<Self::Reply, Fault>> + Send;

    /// Puts the reply in the door's form.
    fn shape(&mut self, reply: Self::Reply, pass: &mut Pass) -> Result<Shaped<Self::Answer>, Fault>;

    /// Says no in the door's own language.
    fn refuse(&mut self, refusal: &Refusal<'_>) -> (Self::Answer, Completion);
}

/// What a door needs for saying no.
#[derive(Debug)]
pub struct Refusal<'a> {
    /// What went wrong.
    pub fault: &'a Fault,
    /// The call's id: the caller may quote it to the operator.
    pub access_id: AccessId,
    /// Microseconds of each stage so far.
    pub timings: Timings,
}

/// The gateway: the current configuration, the recorder, and the road.
pub struct Gateway {
    snapshot: ArcSwap<Snapshot>,
    recorder: Arc<dyn Recorder>,
    observer: Arc<dyn Observer>,
    clock: Arc<dyn Clock>,
}

impl Gateway {
    /// Puts a gateway together.
    pub fn new(
        snapshot: Arc<Snapshot>,
        recorder: Arc<dyn Recorder>,
        observer: Arc<dyn Observer>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { snapshot: ArcSwap::new(snapshot), recorder, observer, clock }
    }

    /// The current configuration.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Swaps in a new configuration; calls in flight end under the one that they began under.
    pub fn swap(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(snapshot);
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Opens an access: reserves the place of its record before anything is parsed.
    pub fn open(&self, arrival: Arrival) -> Access {
        Access::new(
            arrival,
            self.clock.now(),
            self.snapshot.load_full(),
            self.recorder.clone(),
            self.observer.clone(),
        )
    }

    /// Walks one call down the road: from an open access to an answer whose record is safe.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn keeps access and call twice: as arguments and as variables"
    )]
    pub fn walk<C: Call>(
        &self,
        access: Access,
        mut call: C,
    ) -> impl Future<Output = Answered<C::Answer>> + Send {
        async move {
            // No backend without a pass: decisions first, credentials last.
            let mut pass = match self.pass(access, &mut call).await {
                Ok(pass) => pass,
                Err((access, fault)) => return refuse(access, &fault, &mut call).await,
            };

            pass.access().enter(Stage::Forward);
            let reply = match call.forward(&mut pass).await {
                Ok(reply) => reply,
                Err(fault) => return refuse(pass.into_access(), &fault, &mut call).await,
            };

            pass.access().enter(Stage::Shape);
            let (answer, completion) = match call.shape(reply, &mut pass) {
                Ok(Shaped::Whole(answer, completion)) => (answer, completion),
                // The road goes on inside the answer, and ends with its last byte.
                Ok(Shaped::Live(carry)) => return Answered::new(carry(pass)),
                Err(fault) => return refuse(pass.into_access(), &fault, &mut call).await,
            };

            // What was read may leave only with its record. What was changed has its intent on disk
            // already: its answer leaves even when the completion is lost, and recovery says `unknown`.
            let changed = pass.permit().actions().change();
            let mut access = pass.into_access();
            access.settle_well(&completion);
            access.enter(Stage::Record);
            let (access_id, timings) = (access.id(), access.timings());
            match access.complete().await {
                Err(_) if !changed => {
                    let fault = unrecorded();
                    Answered::new(call.refuse(&Refusal { fault: &fault, access_id, timings }).0)
                }
                Ok(()) | Err(_) => Answered::new(answer),
            }
        }
    }

    /// Lets a call pass, or says why not. The order is the order of cost and of disclosure: who,
    /// what, whether, how often; only then does the gateway touch a credential.
    async fn pass<C: Call>(&self, mut access: Access, call: &mut C) -> Result<Pass, (Access, Fault)> {
        macro_rules! or_refuse {
            ($step:expr) => {
                match $step {
                    Ok(value) => value,
                    Err(fault) => return Err((access, fault)),
                }
            };
        }

        // Who is calling stands first, so that every refusal after it has a name on it.
        access.enter(Stage::Authenticate);
        let principal = or_refuse!(self.identify(&mut access, call.caller()).await);

        // What they want, in the vocabulary of grants; malformed input ends here.
        access.enter(Stage::Decode);
        let actions = or_refuse!(call.decode(&mut access, &principal).await);
        let audit = or_refuse!(audit_mode(&access, &actions));
        access.know_actions(&actions, audit);

        // All actions of the call are decided together, before any is forwarded.
        access.enter(Stage::Authorize);
        let now = self.clock.now();
        let permit = or_refuse!(self.authorize(&access, principal, actions, call.role(), now));
        access.know_permit(&permit);

        // Refused calls have cost nothing up to here; this one now counts.
        access.enter(Stage::Limit);
        let allowance = or_refuse!(access.snapshot().policy.admit(&permit, now));
        if let Some(allowance) = &allowance {
            access.know_allowance(allowance);
        }

        // Without room for the record a resource that requires one lends nothing. What changes
        // something, or streams, is on disk as an intent before it is forwarded.
        access.enter(Stage::Lease);
        or_refuse!(access.check_room());
        let lessor = access.snapshot().lessor.clone();
        let lease = or_refuse!(lessor.lend(&permit).await);
        access.know_lease(&lease);
        if permit.actions().change() || call.streams() {
            access.enter(Stage::Record);
            or_refuse!(access.intend().await);
        }
        Ok(Pass::new(permit, lease, access, allowance))
    }

    /// Opens a long session. The login is a call of its own, with a record of its own.
    pub async fn login(&self, mut access: Access, credentials: &Credentials) -> Result<Session, Fault> {
        access.enter(Stage::Authenticate);
        access.note_operation("login", None);
        let caller = Caller::Credentials(credentials);
        match self.identify(&mut access, caller).await {
            Ok(principal) => {
                let session = Session::new(access.id(), principal);
                access.know_session(session.id());
                access.settle_well(&Completion::default());
                access.enter(Stage::Record);
                access.complete().await.map_err(|_| unrecorded())?;
                Ok(session)
            }
            Err(fault) => {
                access.settle_fault(&fault);
                // The refusal stands whether or not its record could be kept; `lost` counts it.
                let _ = access.complete().await;
                Err(fault)
            }
        }
    }

    /// Answers a caller who wants something of the gateway itself, which who they are decides alone (a minted
    /// login): a call without a resource, and a record like any other's.
    pub async fn attest<T>(
        &self,
        mut access: Access,
        credentials: &Credentials,
        operation: &str,
        answer: impl FnOnce(&Principal) -> Result<(T, Completion), Fault>,
        refuse: impl FnOnce(&Refusal<'_>) -> (T, Completion),
    ) -> Answered<T> {
        access.enter(Stage::Authenticate);
        access.note_operation(operation, None);
        let identified = self.identify(&mut access, Caller::Credentials(credentials)).await;
        let answered = identified.and_then(|principal| answer(&principal));
        match &answered {
            Ok((_, completion)) => access.settle_well(completion),
            Err(fault) => access.settle_fault(fault),
        }
        access.enter(Stage::Record);
        let (access_id, timings) = (access.id(), access.timings());
        let kept = access.complete().await;
        // A refusal gives nothing away, so it leaves even when its record is lost; `lost` counts it.
        let fault = match (answered, kept) {
            (Ok((answer, _)), Ok(())) => return Answered::new(answer),
            (Ok(_), Err(_)) => unrecorded(),
            (Err(fault), _) => fault,
        };
        Answered::new(refuse(&Refusal { fault: &fault, access_id, timings }).0)
    }

    async fn identify(&self, access: &mut Access, caller: Caller<'_>) -> Result<Arc<Principal>, Fault> {
        let now = self.clock.now();
        let principal = match caller {
            Caller::Credentials(credentials) => {
                let authenticator = access.snapshot().authenticator.clone();
                authenticator.authenticate(credentials, access.arrival(), now).await?
            }
            Caller::Session { session, mid_transaction } => {
                access.know_session(session.id());
                access.know_principal(session.principal());
                match session.standing(access.snapshot(), now, mid_transaction) {
                    Standing::Live | Standing::Ending { .. } => session.principal().clone(),
                    Standing::Over(fault) => return Err(fault),
                }
            }
        };
        access.know_principal(&principal);
        Ok(principal)
    }

    fn authorize(
        &self,
        access: &Access,
        principal: Arc<Principal>,
        actions: Actions,
        role: Option<&RoleName>,
        now: Timestamp,
    ) -> Result<Permit, Fault> {
        let case = Case { principal: &principal, actions: &actions, arrival: access.arrival(), now, role };
        match access.snapshot().policy.decide(&case) {
            Decision::Allow { grant, obligations } => {
                let session = role.is_some();
                Ok(Permit::new(principal, actions, grant, obligations).in_session(session))
            }
            Decision::Deny(fault) => Err(fault),
        }
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

async fn refuse<C: Call>(mut access: Access, fault: &Fault, call: &mut C) -> Answered<C::Answer> {
    access.settle_fault(fault);
    let refusal = Refusal { fault, access_id: access.id(), timings: access.timings() };
    let (answer, completion) = call.refuse(&refusal);
    access.note_end(&completion);
    access.enter(Stage::Record);
    // A refusal gives nothing away, so it leaves even when its record is lost; `lost` counts it.
    let _ = access.complete().await;
    Answered::new(answer)
}

fn audit_mode(access: &Access, actions: &Actions) -> Result<AuditMode, Fault> {
    let name = actions.resource();
    name.and_then(|name| access.snapshot().resource(name.as_str()))
        .map(|resource| resource.audit)
        .ok_or_else(|| unknown_resource(name.map_or("", |name| name.as_str())))
}

/// The fault for a name that no resource has; the same for all callers.
pub fn unknown_resource(name: &str) -> Fault {
    Fault::new(codes::UNKNOWN_RESOURCE, format!("there is no resource named {name:?} here"))
        .hint("Resources are named in the gateway's configuration; check the first path segment or the database name.")
}

fn unrecorded() -> Fault {
    Fault::new(codes::RECORD_UNAVAILABLE, "the call's record could not be kept, so it is not answered")
        .hint("Try again later; the gateway's operator sees the spool's state in /readyz.")
}
