//! Short-lived logins that the gateway mints for wire protocols: a user name and a password for clients that know
//! no tokens.

use std::fmt;

use crate::name::{ResourceName, RoleName};
use crate::secret::Secret;
use crate::time::Timestamp;

/// What a minted login is asked to be good for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoginWish {
    /// The one resource that it opens sessions of; `None` for any.
    pub resource: Option<ResourceName>,
    /// The backend role that its sessions have; `None` for the only one that grants give.
    pub role: Option<RoleName>,
}

/// A login, freshly minted: to be shown once, to whom it is for.
#[derive(Clone, Debug)]
pub struct NewLogin {
    /// The user name. No secret: without the password it opens nothing.
    pub user: Box<str>,
    /// The password.
    pub password: Secret,
    /// Until when it opens sessions.
    pub expires_at: Timestamp,
}

/// What a door needs to have a client prove that it knows a minted login's password (SCRAM, RFC 5802).
#[derive(Clone, Debug)]
pub struct MintedLogin {
    /// The password. A user name that was never minted has one too, which nobody knows: a door treats all names
    /// alike.
    pub password: Secret,
    /// The salt, always the same for one user name.
    pub salt: [u8; 16],
    /// What the login is good for.
    pub wish: LoginWish,
}

/// What a client has shown of a minted login. Doors say so of those who went through an exchange with them.
#[derive(Clone, PartialEq, Eq)]
pub struct MintedProof {
    /// The user name.
    pub user: Box<str>,
    /// Whether the client has proven that it knows the password.
    pub proven: bool,
}

impl fmt::Debug for MintedProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintedProof").field("proven", &self.proven).finish_non_exhaustive()
    }
}
