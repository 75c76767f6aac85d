//! Leases: the backend credential for a permitted call.
//!
//! This organ is the only holder of backend secrets. A caller never sees one; a door sees a
//! [`doorward_core::Lease`], which takes a permit to make. Each resource has one login, which the REST door
//! narrows to the permitted role inside each transaction, and a login for each role that wire sessions may have.
//! Where a login comes from is a [`CredentialSource`]; the [`Keeper`] around it lends, renews and revokes, the
//! same way for every source. [`Logins`] knows which resource has which.
//!
//! Invariants: a resource without a login lends nothing; what cannot be renewed in time is lent while it is
//! good, and after that nothing is; nothing here prints a secret.

mod authority;
mod cloud;
pub mod config;
mod keeper;
mod logins;
mod managed;
mod source;
mod tender;
#[cfg(test)]
mod tests;
mod vault;

pub use authority::{
    AuthorityError, AuthorityFacts, Certificates, NewAuthority, authority_facts, new_authority,
};
pub use cloud::{CloudError, Clouds, cloud_answer};
pub use keeper::{Keeper, Keepers};
pub use logins::Logins;
pub use managed::ManagedLogins;
pub use source::{CredentialSource, Handle, Issued, Renewed, SourceError, Wanted};
pub use vault::{Vault, VaultDatabase, VaultPassword, Vaults};

doorward_core::codes! {
    /// The resource has no backend login.
    NO_LOGIN = "lease.no-login", Lease, Unavailable, Gateway, retry false, "No backend credential";
    /// The resource has no login for the role of a wire session.
    NO_ROLE_LOGIN = "lease.no-role-login", Lease, Unavailable, Gateway, retry false, "No backend credential for the role";
    /// Whoever issues the credential cannot be asked now, and the last one is not good any more.
    SOURCE_AWAY = "lease.source-away", Lease, Unavailable, Gateway, retry true, "The credential's source cannot be reached";
    /// Whoever issues the credential refuses to.
    SOURCE_REFUSED = "lease.source-refused", Lease, Unavailable, Gateway, retry false, "The credential's source refuses";
    /// There are as many credentials of one source as may be.
    TOO_MANY = "lease.too-many-credentials", Lease, Unavailable, Gateway, retry true, "Too many credentials at a time";
}
