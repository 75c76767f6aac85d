//! Backend logins: who the gateway is at a backend, and how it proves that.
//!
//! Invariant: nothing of a proof is ever printed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::fault::Fault;
use crate::name::RoleName;
use crate::organs::BoxFuture;
use crate::secret::Secret;
use crate::time::Timestamp;

/// An end that never comes.
const NEVER: i64 = i64::MAX;

/// A backend login: who the gateway is at the backend. Whoever keeps a connection that stands on it keeps the
/// login too: that is how the lease organ knows that it is still needed.
pub struct Login {
    /// The login's name at the backend.
    pub user: Box<str>,
    proof: Proof,
    membership: Option<Membership>,
    /// Microseconds since the epoch; renewals move it.
    expires_at: AtomicI64,
    superseded: AtomicBool,
    refused: AtomicBool,
}

/// How a login proves itself.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A password, or a token that stands in its place.
    Password(Secret),
    /// A client certificate.
    Certificate(ClientIdentity),
}

/// A client certificate with its key.
#[derive(Clone)]
pub struct ClientIdentity {
    /// DER, the client's own certificate first.
    pub chain: Arc<[Box<[u8]>]>,
    /// The private key: PKCS #8, DER.
    pub key: Secret<Arc<[u8]>>,
}

/// What a login that was made for a role is a member of. Nobody has looked at such a login before it is used, so
/// whoever opens a session with it finds out that it can become this role and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The role.
    pub of: RoleName,
    /// Whether a session begins as the role itself (`SET ROLE`). Without it the session is the login, which
    /// inherits what the role may do.
    pub set_role: bool,
}

impl Login {
    /// A login with a password, good until somebody changes it.
    pub fn new(user: impl Into<Box<str>>, password: Secret) -> Self {
        Self::with(user, Proof::Password(password))
    }

    /// A login with this proof, good until something else is said.
    pub fn with(user: impl Into<Box<str>>, proof: Proof) -> Self {
        Self {
            user: user.into(),
            proof,
            membership: None,
            expires_at: AtomicI64::new(NEVER),
            superseded: AtomicBool::new(false),
            refused: AtomicBool::new(false),
        }
    }

    /// The same, made as a member of a role.
    #[must_use]
    pub fn member(self, membership: Membership) -> Self {
        Self { membership: Some(membership), ..self }
    }

    /// The same, good until then.
    #[must_use]
    pub fn until(self, end: Timestamp) -> Self {
        self.extend(end);
        self
    }

    /// How it proves itself.
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Its password, unless it has another proof.
    pub fn password(&self) -> Option<&Secret> {
        match &self.proof {
            Proof::Password(password) => Some(password),
            Proof::Certificate(_) => None,
        }
    }

    /// Its client certificate, if that is its proof.
    pub fn certificate(&self) -> Option<&ClientIdentity> {
        match &self.proof {
            Proof::Password(_) => None,
            Proof::Certificate(identity) => Some(identity),
        }
    }

    /// Whether both log in as the same user with the same password.
    pub fn is_same(&self, other: &Self) -> bool {
        let same_password = self.password().is_some() && self.password() == other.password();
        same_password && self.user == other.user && self.membership == other.membership
    }

    /// The role that it was made for; `None` for a login that is the role itself, or the gateway's own.
    pub fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }

    /// When the backend stops to accept it; `None` when that is not known to come. It may move.
    pub fn expires_at(&self) -> Option<Timestamp> {
        let micros = self.expires_at.load(Ordering::Relaxed);
        (micros != NEVER).then(|| Timestamp::from_micros(micros))
    }

    /// Whether the login itself has ended, for those too who are logged in: it was made for a role, and whoever made it
    /// takes it away at its end. (A password or a certificate that ends only keeps others from logging in.)
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.membership.is_some() && self.expires_at().is_some_and(|end| end <= now)
    }

    /// It was renewed, until then.
    pub fn extend(&self, end: Timestamp) {
        self.expires_at.store(end.micros(), Ordering::Relaxed);
    }

    /// There is a newer one: connections that stand on this one are not to be used again.
    pub fn supersede(&self) {
        self.superseded.store(true, Ordering::Relaxed);
    }

    /// Whether there is a newer one.
    pub fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Relaxed)
    }

    /// The backend did not accept it.
    pub fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether the backend did not accept it.
    pub fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity").finish_non_exhaustive()
    }
}

/// Where a login that changes comes from.
pub trait LoginSource: Send + Sync {
    /// The login as it is now.
    fn login(&self) -> BoxFuture<'_, Result<Arc<Login>, Fault>>;
}

/// The gateway's own login at a backend, for its pool and what it looks up there.
#[derive(Clone)]
pub enum OwnLogin {
    /// One that stays the same while the configuration does.
    Fixed(Arc<Login>),
    /// One that is asked for whenever a connection is opened.
    Lent(Arc<dyn LoginSource>),
}

impl OwnLogin {
    /// The login as it is now.
    pub async fn current(&self) -> Result<Arc<Login>, Fault> {
        match self {
            Self::Fixed(login) => Ok(login.clone()),
            Self::Lent(source) => source.login().await,
        }
    }

    /// Whether both are the same login: the same name and password, or of the same source.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fixed(one), Self::Fixed(two)) => one.is_same(two),
            (Self::Lent(one), Self::Lent(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

impl From<Arc<Login>> for OwnLogin {
    fn from(login: Arc<Login>) -> Self {
        Self::Fixed(login)
    }
}

impl fmt::Debug for OwnLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(login) => login.fmt(f),
            Self::Lent(_) => f.write_str("OwnLogin"),
        }
    }
}
