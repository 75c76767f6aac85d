//! Where credentials come from. A new kind of source is one implementation of [`CredentialSource`]; caching,
//! renewal, backoff and revocation are the keeper's affair.
//!
//! Constraints: an implementation bounds the time of each of its calls, and its errors hold no secret.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use doorward_core::{BoxFuture, Login, Principal, ResourceName, RoleName};

/// What a credential is wanted for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The resource.
    pub resource: ResourceName,
    /// The permitted role; `None` for the resource's own login.
    pub role: Option<RoleName>,
    /// Who it is for, if the source makes one for each principal.
    pub principal: Option<Arc<Principal>>,
}

/// What a source knows an issued credential by, to renew and revoke it: Vault's lease id, a login's name. It is
/// shown to nobody.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Handle(Box<str>);

impl Handle {
    /// From the source's own words.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The source's own words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle(..)")
    }
}

/// A credential as a source issues it.
#[derive(Debug)]
pub struct Issued {
    /// The login.
    pub login: Login,
    /// For how long it is good from now on; `None` when it does not end by itself. At 80 % of that it is
    /// renewed.
    pub good_for: Option<Duration>,
    /// After what time it is asked for anew though it has not ended: it may have been changed at its source.
    pub refresh: Option<Duration>,
    /// What it is renewed and revoked by; `None` when it is neither.
    pub handle: Option<Handle>,
}

impl Issued {
    /// A credential that is good until it is changed at its source, and looked at again after this time.
    pub fn lasting(login: Login, refresh: Duration) -> Self {
        Self { login, good_for: None, refresh: Some(refresh), handle: None }
    }
}

/// What became of a wish to renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The same credential is good for this time from now on.
    For(Duration),
    /// It ends when it ends; a new one is to be issued.
    Not,
}

/// Why a source gives nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It cannot be asked now, or cannot answer now.
    #[error("{0}")]
    Away(String),
    /// It answers, and refuses: repeating does not mend it, somebody has to.
    #[error("{0}")]
    Refused(String),
}

/// Issues credentials.
pub trait CredentialSource: Send + Sync {
    /// What it is, for the operator's log: `vault database/creds`.
    fn name(&self) -> &str;

    /// Whether each principal gets credentials of its own.
    fn is_per_principal(&self) -> bool {
        false
    }

    /// Why it cannot issue now, if it knows that without being asked; for readiness.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Issues a credential.
    fn issue<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Issued, SourceError>>;

    /// The backend did not accept what was issued for this: what it was made of is not used for the next one.
    fn refused(&self, _: &Wanted) {}

    /// Makes a credential good for longer. [`SourceError::Refused`] is taken as [`Renewed::Not`].
    fn renew<'a>(&'a self, _: &'a Handle) -> BoxFuture<'a, Result<Renewed, SourceError>> {
        Box::pin(std::future::ready(Ok(Renewed::Not)))
    }

    /// Ends a credential before its time. Called once for each credential that was issued with a handle and has
    /// not ended.
    fn revoke<'a>(&'a self, _: &'a Handle) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
