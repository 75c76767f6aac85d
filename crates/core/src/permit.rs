//! A decision, and the sealed types that only the road can make of it.

use std::sync::Arc;
use std::time::Duration;

use crate::action::Actions;
use crate::fault::Fault;
use crate::login::Login;
use crate::name::{GrantName, LeaseId, RoleName};
use crate::principal::{Arrival, Principal};
use crate::time::Timestamp;

/// All that a decision may look at. Pure input: replaying it gives the same decision.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// Who.
    pub principal: &'a Principal,
    /// What.
    pub actions: &'a Actions,
    /// From where, through which door.
    pub arrival: &'a Arrival,
    /// When.
    pub now: Timestamp,
    /// The backend role that the caller's session is logged in as: only its grants count.
    pub role: Option<&'a RoleName>,
}

/// What a grant adds to its permission.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Obligations {
    /// The backend role to act as.
    pub role: Option<RoleName>,
    /// The most rows that one answer may have.
    pub rows_max: Option<u64>,
    /// The most bytes that one answer may have.
    pub bytes_max: Option<u64>,
    /// How long the backend may work on it.
    pub timeout: Option<Duration>,
}

/// What policy says of a case.
#[derive(Debug)]
pub enum Decision {
    /// The named grant allows all actions, under these obligations.
    Allow {
        /// Which grant decided.
        grant: GrantName,
        /// What it asks for.
        obligations: Obligations,
    },
    /// No grant allows it, or a deny rule forbids it; the fault says which and what to do.
    Deny(Fault),
}

/// A grant, as its own caller may be told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionGrant {
    /// Its name.
    pub name: GrantName,
    /// What it allows on the session's resource, as the configuration says it.
    pub allow: Vec<String>,
    /// Its limit, as the configuration says it.
    pub limit: Option<String>,
    /// Calls left under the limit now.
    pub remaining: Option<u64>,
    /// What it asks for.
    pub obligations: Obligations,
}

/// An allowed set of actions with its obligations. Only the road makes one.
///
/// ```compile_fail,E0451
/// use doorward_core::{Actions, Obligations, Permit, Principal};
/// fn forge(principal: std::sync::Arc<Principal>, actions: Actions) -> Permit {
///     Permit { principal, actions, grant: doorward_core::GrantName::new("mine"), obligations: Obligations::default() }
/// }
/// ```
#[derive(Debug)]
pub struct Permit {
    principal: Arc<Principal>,
    actions: Actions,
    grant: GrantName,
    obligations: Obligations,
    session: bool,
}

impl Permit {
    pub(crate) fn new(
        principal: Arc<Principal>,
        actions: Actions,
        grant: GrantName,
        obligations: Obligations,
    ) -> Self {
        Self { principal, actions, grant, obligations, session: false }
    }

    pub(crate) fn in_session(self, session: bool) -> Self {
        Self { session, ..self }
    }

    /// The role that the backend itself is logged in as; `None` for a call whose login becomes the role.
    pub fn session_role(&self) -> Option<&RoleName> {
        self.obligations.role.as_ref().filter(|_| self.session)
    }

    /// Who may.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// What they may.
    pub fn actions(&self) -> &Actions {
        &self.actions
    }

    /// Which grant says so.
    pub fn grant(&self) -> &GrantName {
        &self.grant
    }

    /// Under which obligations.
    pub fn obligations(&self) -> &Obligations {
        &self.obligations
    }
}

/// The state of the limit that a call was counted against (draft-ietf-httpapi-ratelimit-headers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// The limit's name: the grant's.
    pub name: GrantName,
    /// Calls that a full window allows.
    pub quota: u64,
    /// The window.
    pub window: Duration,
    /// Calls left now.
    pub remaining: u64,
    /// When the limit is whole again.
    pub reset: Duration,
}

/// A backend credential lent for one permit. Making one takes a permit, so no lease without a decision.
#[derive(Clone, Debug)]
pub struct Lease {
    id: LeaseId,
    role: Option<RoleName>,
    login: Option<Arc<Login>>,
}

impl Lease {
    /// Lends `login` for the call that `permit` allows.
    pub fn new(permit: &Permit, id: LeaseId, login: Option<Arc<Login>>) -> Self {
        Self { id, role: permit.obligations.role.clone(), login }
    }

    /// The lease's id, for the record.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// The backend role that it acts as.
    pub fn role(&self) -> Option<&RoleName> {
        self.role.as_ref()
    }

    /// The login that it acts through.
    pub fn login(&self) -> Option<&Arc<Login>> {
        self.login.as_ref()
    }
}
