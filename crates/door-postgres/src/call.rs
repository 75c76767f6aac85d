//! The calls of the door on the main road: opening a session, and each statement in it.

use std::sync::Arc;

use bytes::Bytes;
use doorward_core::{
    Access, AccessId, Action, Actions, AuditMode, Call, Caller, Case, Completion, Credentials, Fault,
    Gateway, Lease, LoginWish, Pass, Principal, Refusal, ResourceName, RoleName, Session, Shaped, Stage,
    unknown_resource,
};
use doorward_pgclient::codes::BACKEND_UNAVAILABLE;
use doorward_pgclient::{Canceller, Server};
use tokio::sync::OwnedSemaphorePermit;

use crate::codes;
use crate::desk::Desk;
use crate::message::{Severity, error_bytes};
use crate::pool::{Bearer, Key, Left, Lent, Outfit, Parameters, Place, Wanted};
use crate::replication::{self, Replication};
use crate::resource::WireResource;
use crate::settings;
use crate::values::Bound;
use crate::vet::Vetted;

/// The most roles that a refusal names.
const ROLES_NAMED_MAX: usize = 16;

/// Opens a session at the backend. Its answer is the backend, or the refusal's bytes.
pub(crate) struct ConnectCall<'a> {
    pub(crate) gateway: &'a Gateway,
    pub(crate) session: &'a Session,
    /// The resource's name: the database that the client asks for.
    pub(crate) database: &'a str,
    /// The role, if it is one of several.
    pub(crate) user: &'a str,
    /// Settings of the start-up packet.
    pub(crate) settings: Result<Vec<(String, String)>, Fault>,
    /// Where the client wants to read.
    pub(crate) reads: Result<Option<Place>, Fault>,
    /// What the session's login was minted for.
    pub(crate) wish: Option<&'a LoginWish>,
    pub(crate) client: Option<&'a str>,
    /// What it replicates, if it is such a session.
    pub(crate) replication: Result<Option<Replication>, Fault>,
    pub(crate) role: Option<RoleName>,
    pub(crate) wire: Option<Arc<WireResource>>,
}

/// An open backend session.
pub(crate) struct Opened {
    /// The connection, where it is the session's own.
    pub(crate) lent: Option<Lent>,
    /// The settings that the server reports.
    pub(crate) parameters: Parameters,
    pub(crate) lease: Lease,
    pub(crate) key: Arc<Key>,
    pub(crate) outfit: Arc<Outfit>,
    pub(crate) who: Arc<str>,
    pub(crate) seat: OwnedSemaphorePermit,
    pub(crate) wire: Arc<WireResource>,
    pub(crate) resource: ResourceName,
    pub(crate) role: RoleName,
    /// Whether transactions that only read go to replicas.
    pub(crate) splits: bool,
}

impl ConnectCall<'_> {
    fn choose(&self, mut roles: Vec<RoleName>) -> Result<RoleName, Fault> {
        if let Some(wanted) = self.wish.and_then(|wish| wish.role.as_ref()) {
            let found = roles.into_iter().find(|role| role == wanted);
            return found.ok_or_else(|| {
                Fault::new(codes::ROLE, format!("no grant gives you the role {wanted} on {}", self.database))
                    .hint("The login was minted for this role; mint one for another role, or for none.")
            });
        }
        if let Some(named) = roles.iter().position(|role| role.as_str() == self.user) {
            return Ok(roles.swap_remove(named));
        }
        match roles.as_slice() {
            [] => {
                let hint = match self.replication {
                    Ok(Some(_)) => {
                        "Replication needs a grant of its own: allow: connect RESOURCE/replication, as: ROLE."
                    }
                    _ => "Ask the gateway's operator for a grant with a role (`as:`) on this resource.",
                };
                Err(Fault::new(codes::ROLE, format!("no grant gives you a role on {}", self.database))
                    .hint(hint))
            }
            [only] => Ok(only.clone()),
            several => {
                let names: Vec<&str> = several.iter().take(ROLES_NAMED_MAX).map(RoleName::as_str).collect();
                Err(Fault::new(codes::ROLE, format!("you have several roles on {}", self.database))
                    .hint(format!("Connect with one of these as the user: {}.", names.join(", "))))
            }
        }
    }
}

impl Call for ConnectCall<'_> {
    type Answer = Result<Box<Opened>, Bytes>;
    type Reply = Box<Opened>;

    fn caller(&self) -> Caller<'_> {
        Caller::Session { session: self.session, mid_transaction: false }
    }

    fn role(&self) -> Option<&RoleName> {
        self.role.as_ref()
    }

    async fn decode(&mut self, access: &mut Access, principal: &Arc<Principal>) -> Result<Actions, Fault> {
        access.note_operation("connect", None);
        if let Some(client) = self.client {
            access.note_user_agent(client);
        }
        let meant = self.wish.and_then(|wish| wish.resource.as_ref());
        if let Some(meant) = meant.filter(|meant| meant.as_str() != self.database) {
            return Err(Fault::new(codes::ROLE, format!("this login was minted for {meant}")).hint(
                "Mint one for the resource that you connect to: doorward token --postgres --resource NAME.",
            ));
        }
        let snapshot = access.snapshot().clone();
        let resource = snapshot.resource(self.database);
        let wire = resource.and_then(|resource| resource.shared::<WireResource>());
        let (Some(resource), Some(wire)) = (resource, wire) else {
            return Err(unknown_resource(self.database));
        };
        let replicates = self.replication.clone()?.is_some();
        let action = if replicates { replication::action } else { Action::of_session };
        let actions = Actions::one(action(&resource.name));
        let case = Case {
            principal,
            actions: &actions,
            arrival: access.arrival(),
            now: self.gateway.now(),
            role: None,
        };
        self.role = Some(self.choose(snapshot.policy.session_roles(&case))?);
        self.wire = Some(wire);
        if let Err(fault) = &self.settings {
            return Err(fault.clone());
        }
        Ok(actions)
    }

    async fn forward(&mut self, pass: &mut Pass) -> Result<Box<Opened>, Fault> {
        let (Some(wire), Some(role), Ok(given)) = (&self.wire, &self.role, &self.settings) else {
            return Err(unknown_resource(self.database));
        };
        let replication = self.replication.clone()?;
        let replicates = replication.is_some();
        wire.check_role(role, replicates).await?;
        let seat = wire.seat().await?;
        let principal = pass.permit().principal();
        let who: Arc<str> = format!("{}\0{}", principal.issuer, principal.subject.reveal()).into();
        let name = settings::application_name(principal, self.client);
        // Policies have no part in replication.
        let bearer = wire.claims.clone().filter(|_| !replicates).map(|claims| Bearer {
            claims,
            principal: principal.clone(),
            until: self.session.cut_at(&self.gateway.snapshot()),
        });
        let application_name = name.as_str().into();
        let outfit = Arc::new(Outfit { application_name, settings: Vec::new(), bearer });
        let lease = pass.lease().clone();
        let person = wire.claims.is_some().then(|| who.clone());
        let own = wire.own_settings(role, lease.login().map(|login| &**login)).filter(|_| !replicates);
        let wish = self.reads.clone()?;
        // The log is streamed from the primary.
        let place = if replicates { Place::Primary } else { wire.place(wish)? };
        let settings = settings::at(place, given.iter().cloned().chain(own).collect()).into();
        let key = Arc::new(Key { lease: lease.id(), settings, place, replication, person });
        // The log is streamed for the length of a session.
        let shares = wire.shares() && replication.is_none();
        let splits = shares && wish.is_none() && wire.splits();
        let wanted = Wanted { lease: &lease, key: &key, outfit: &outfit, who: &who, since: None };
        let (lent, parameters) = match wire.backends.greeting(&key) {
            // What a session is told first is known, and a connection is not needed yet.
            Some(greeting) if shares => {
                let mut parameters = Parameters::clone(&greeting);
                parameters.set("application_name", &name);
                (None, parameters)
            }
            _ => {
                let lent = match wire.backends.checkout_or_primary(&wanted).await {
                    // Reads can be answered all the same.
                    Err(fault) if splits && fault.code() == BACKEND_UNAVAILABLE => {
                        let key = Arc::new(Key { place: Place::Replica, ..Key::clone(&key) });
                        wire.backends.checkout(&Wanted { key: &key, ..wanted }).await.map_err(|_| fault)?
                    }
                    lent => lent?,
                };
                if let Some(server) = lent.server().filter(Server::is_one_of_several) {
                    pass.access().note("backend_server", server.name());
                }
                let process = lent.canceller().map_or(0, Canceller::process);
                pass.access().note_backend_pid(process);
                if let Some(login) = lent.login().filter(|login| login.membership().is_some()) {
                    // The database's own log knows the session by this name.
                    pass.access().note("backend_login", &*login.user);
                }
                let parameters = lent.parameters();
                if shares {
                    lent.give_back(Left::Clean);
                    (None, parameters)
                } else {
                    (Some(lent), parameters)
                }
            }
        };
        let (wire, role) = (wire.clone(), role.clone());
        let resource = wire.name.clone();
        let opened = Opened { lent, parameters, lease, key, outfit, who, seat, resource, wire, role, splits };
        Ok(Box::new(opened))
    }

    fn shape(&mut self, opened: Box<Opened>, _: &mut Pass) -> Result<Shaped<Self::Answer>, Fault> {
        Ok(Shaped::Whole(Ok(opened), Completion::default()))
    }

    fn refuse(&mut self, refusal: &Refusal<'_>) -> (Self::Answer, Completion) {
        let told = error_bytes(Severity::Fatal, refusal.fault, Some(refusal.access_id));
        (Err(told), Completion::default())
    }
}

/// Takes a new backend credential for a session whose last one is replaced or over. Its answer is the lease.
pub(crate) struct RenewCall<'a> {
    pub(crate) desk: &'a Desk,
}

impl Call for RenewCall<'_> {
    type Answer = Result<Lease, Fault>;
    type Reply = Lease;

    fn caller(&self) -> Caller<'_> {
        Caller::Session { session: &self.desk.session, mid_transaction: false }
    }

    fn role(&self) -> Option<&RoleName> {
        Some(&self.desk.role)
    }

    async fn decode(&mut self, access: &mut Access, _: &Arc<Principal>) -> Result<Actions, Fault> {
        access.note_operation("renew the credential", None);
        Ok(Actions::one(Action::of_session(&self.desk.resource)))
    }

    async fn forward(&mut self, pass: &mut Pass) -> Result<Lease, Fault> {
        Ok(pass.lease().clone())
    }

    fn shape(&mut self, lease: Lease, _: &mut Pass) -> Result<Shaped<Self::Answer>, Fault> {
        Ok(Shaped::Whole(Ok(lease), Completion::default()))
    }

    fn refuse(&mut self, refusal: &Refusal<'_>) -> (Self::Answer, Completion) {
        (Err(refusal.fault.clone()), Completion::default())
    }
}

/// What is refused before anybody has said who they are.
pub(crate) struct Stray {
    pub(crate) fault: Option<Fault>,
}

impl Call for Stray {
    type Answer = Bytes;
    type Reply = ();

    fn caller(&self) -> Caller<'_> {
        Caller::Credentials(&Credentials::None)
    }

    async fn decode(&mut self, _: &mut Access, _: &Arc<Principal>) -> Result<Actions, Fault> {
        Err(self.fault.take().unwrap_or_else(|| unknown_resource("")))
    }

    async fn forward(&mut self, _: &mut Pass) -> Result<(), Fault> {
        Err(unknown_resource(""))
    }

    fn shape(&mut self, (): (), _: &mut Pass) -> Result<Shaped<Bytes>, Fault> {
        Err(unknown_resource(""))
    }

    fn refuse(&mut self, refusal: &Refusal<'_>) -> (Bytes, Completion) {
        (error_bytes(Severity::Fatal, refusal.fault, Some(refusal.access_id)), Completion::default())
    }
}

/// A statement, as far as it is known: its text, and what it needs or why it is refused.
pub(crate) struct StatementCall<'a> {
    pub(crate) desk: &'a Desk,
    pub(crate) mid_transaction: bool,
    /// Bytes of the message.
    pub(crate) bytes: u64,
    /// The statement's text, for the record.
    pub(crate) text: &'a str,
    /// The statement, if it can be read.
    pub(crate) vetted: Option<&'a Vetted>,
    /// What it needs; `None` when its client has gone before that was known: it is noted, and goes no further.
    pub(crate) needs: Option<Result<Actions, Fault>>,
    /// The first statement of the text that it is a part of.
    pub(crate) parent: Option<AccessId>,
    /// The values that it is bound to.
    pub(crate) bound: Option<Arc<Bound>>,
    /// Whether its resource answers nothing without a record.
    pub(crate) recorded: bool,
}

/// Whether a statement may go on.
pub(crate) enum Verdict {
    /// It may, with this pass.
    Go(Box<Pass>),
    /// It may not: what the client is told.
    No(Bytes),
    /// The session is over.
    Over(Fault),
}

impl Call for StatementCall<'_> {
    type Answer = Verdict;
    type Reply = ();

    fn caller(&self) -> Caller<'_> {
        Caller::Session { session: &self.desk.session, mid_transaction: self.mid_transaction }
    }

    fn role(&self) -> Option<&RoleName> {
        Some(&self.desk.role)
    }

    /// What may leave more behind than its answer has its intent on disk before it is forwarded; a read has a
    /// frame there before its answer leaves, which the relay sees to. Where records are kept as far as it goes, only
    /// what changes something waits.
    fn streams(&self) -> bool {
        self.recorded && !self.vetted.is_some_and(Vetted::only_answers)
    }

    async fn decode(&mut self, access: &mut Access, _: &Arc<Principal>) -> Result<Actions, Fault> {
        access.count_in(self.bytes);
        access.note_statement(self.text, self.vetted.and_then(Vetted::fingerprint));
        if let Some(bound) = &self.bound {
            bound.note(access);
        }
        if let Some(parent) = self.parent {
            access.note_parent(parent);
        }
        let client = self.desk.client.lock().clone();
        client.note(access, self.vetted.into_iter().flat_map(Vetted::tags));
        if let Some(process) = self.desk.cancels.process() {
            access.note_backend_pid(process);
        }
        if let Some(server) = &self.desk.server {
            access.note("backend_server", server.name());
        }
        let resource = access.snapshot().resource(self.desk.resource.as_str());
        self.recorded = resource.is_none_or(|resource| resource.audit == AuditMode::Required);
        match &self.needs {
            Some(needs) => needs.clone(),
            None => std::future::pending().await,
        }
    }

    async fn forward(&mut self, _: &mut Pass) -> Result<(), Fault> {
        // The relay sends it, in its place among the others.
        Ok(())
    }

    fn shape(&mut self, (): (), _: &mut Pass) -> Result<Shaped<Verdict>, Fault> {
        Ok(Shaped::Live(Box::new(|pass| Verdict::Go(Box::new(pass)))))
    }

    fn refuse(&mut self, refusal: &Refusal<'_>) -> (Verdict, Completion) {
        // Expired, or not vouched for any more under today's configuration.
        if refusal.fault.code().stage == Stage::Authenticate {
            return (Verdict::Over(refusal.fault.clone()), Completion::default());
        }
        let told = error_bytes(Severity::Error, refusal.fault, Some(refusal.access_id));
        (Verdict::No(told), Completion::default())
    }
}
