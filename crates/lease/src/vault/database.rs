//! Logins that Vault's database engine makes.
//!
//! A role of `creds/` gives a login of its own for each lease, a member of the permitted role; one of
//! `static-creds/` gives the password of a login that exists, which Vault changes from time to time.

use std::sync::Arc;
use std::time::Duration;

use doorward_core::{BoxFuture, Login, Membership, Secret};
use doorward_settings::VaultPath;
use serde_json::Value;

use super::wire::{Answer, RenewLease, RevokeLease};
use super::{Token, Vault, within_token};
use crate::source::{CredentialSource, Handle, Issued, Renewed, SourceError, Wanted};

/// Vault changes a static role's password when its time is over; it is read again this much later.
const ROTATION_MARGIN: Duration = Duration::from_secs(1);

/// A role of Vault's database engine, or a mount that has one for each role of the gateway.
pub struct VaultDatabase {
    vault: Arc<Vault>,
    name: String,
    path: VaultPath,
    /// Whether the permitted role's name is the last part of the path.
    by_role: bool,
    set_role: bool,
}

impl VaultDatabase {
    /// The role at this path. A session becomes the permitted role when it begins, if `set_role`.
    pub fn role(vault: Arc<Vault>, path: VaultPath, set_role: bool) -> Self {
        Self { vault, name: format!("vault {path}"), path, by_role: false, set_role }
    }

    /// The mount at this path, with a role of the same name for each permitted role.
    pub fn mount(vault: Arc<Vault>, path: VaultPath) -> Self {
        Self { vault, name: format!("vault {path}"), path, by_role: true, set_role: true }
    }

    async fn issue(&self, wanted: &Wanted) -> Result<Issued, SourceError> {
        let joined = match (&wanted.role, self.by_role) {
            (Some(role), true) => {
                let no_name =
                    || SourceError::Refused(format!("the name {role} cannot stand in a path of Vault"));
                Some(self.path.join(role.as_str()).ok_or_else(no_name)?)
            }
            _ => None,
        };
        let path = joined.as_ref().unwrap_or(&self.path).as_str();
        let (answer, token) = self.vault.read(path).await?;
        let text = |key: &str| answer.data.get(key).and_then(Value::as_str);
        let (Some(user), Some(password)) = (text("username"), text("password")) else {
            return Err(SourceError::Refused(format!("{path}: the answer has no username and password")));
        };
        let login = Login::new(user, Secret::from(password));
        let login = match &wanted.role {
            Some(role) if role.as_str() != user => {
                login.member(Membership { of: role.clone(), set_role: self.set_role })
            }
            _ => login,
        };
        if answer.lease_id.is_empty() {
            return Ok(Issued::lasting(login, self.rotation(&answer)));
        }
        let good_for = Some(within_token(Duration::from_secs(answer.lease_duration), &token));
        let handle = Some(handle(&answer.lease_id, &token));
        Ok(Issued { login, good_for, refresh: None, handle })
    }

    /// When a static role's password is read again.
    fn rotation(&self, answer: &Answer) -> Duration {
        let ttl = answer.data.get("ttl").and_then(Value::as_u64).map(Duration::from_secs);
        ttl.map_or(self.vault.refresh(), |ttl| (ttl + ROTATION_MARGIN).min(self.vault.refresh()))
    }

    async fn renew(&self, handle: &Handle) -> Result<Renewed, SourceError> {
        let (generation, lease_id) = parts(handle);
        // It ends with the token under which it was made, whatever Vault would say of it now.
        if self.vault.token().await?.generation != generation {
            return Ok(Renewed::Not);
        }
        let (answer, token) = self.vault.write("sys/leases/renew", &RenewLease { lease_id }).await?;
        Ok(Renewed::For(within_token(Duration::from_secs(answer.lease_duration), &token)))
    }

    async fn revoke(&self, handle: &Handle) -> Result<(), SourceError> {
        let (_, lease_id) = parts(handle);
        self.vault.write("sys/leases/revoke", &RevokeLease { lease_id, sync: true }).await.map(drop)
    }
}

/// A lease of Vault's, with the login under whose token it was made.
fn handle(lease_id: &str, token: &Token) -> Handle {
    Handle::new(format!("{} {lease_id}", token.generation))
}

fn parts(handle: &Handle) -> (u64, &str) {
    let (generation, lease_id) = handle.as_str().split_once(' ').unwrap_or_default();
    (generation.parse().unwrap_or_default(), lease_id)
}

impl CredentialSource for VaultDatabase {
    fn name(&self) -> &str {
        &self.name
    }

    fn trouble(&self) -> Option<String> {
        self.vault.trouble()
    }

    fn issue<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Issued, SourceError>> {
        Box::pin(self.issue(wanted))
    }

    fn renew<'a>(&'a self, handle: &'a Handle) -> BoxFuture<'a, Result<Renewed, SourceError>> {
        Box::pin(self.renew(handle))
    }

    fn revoke<'a>(&'a self, handle: &'a Handle) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(self.revoke(handle))
    }
}
