//! Puts each resource's logins into the lease organ: secrets of files and the environment as they are now, and
//! whatever issues credentials, behind a keeper that a reload finds again.

use std::sync::Arc;

use doorward_core::{Login, OwnLogin, Secret};
use doorward_lease::{Keepers, Logins};
use doorward_pgclient::{LoginConfig, RoleConfig};
use doorward_settings::{Problem, Problems, SecretRef};

use crate::config::ResourceEntry;
use crate::role_sources;
use crate::wiring::blocking;

/// What logins come from.
pub(crate) struct Sources<'a> {
    /// The keepers of all configurations.
    pub(crate) keepers: &'a Keepers,
}

impl Sources<'_> {
    /// Takes in the logins of a resource. The gateway's own one is returned, for the door.
    pub(crate) async fn hold(
        &self,
        entry: &ResourceEntry,
        logins: &mut Logins,
    ) -> Result<OwnLogin, Problems> {
        let backend = (entry.door.logins)(&entry.node)?;
        let own = match backend.own {
            // There is nothing to log in to.
            None => OwnLogin::Fixed(Arc::new(Login::new("", Secret::from("")))),
            Some(LoginConfig::Password { user, password }) => {
                logins.hold(entry.name.clone(), &user, read(password).await?)
            }
            Some(LoginConfig::Vault { .. }) => return Err(no_vault(entry).into()),
        };
        if backend.roles.vault.is_some() {
            return Err(no_vault(entry).into());
        }
        if let (Some(source), Some(target)) = (backend.roles.source, &backend.target) {
            let dangerous = backend.dangerous_superuser;
            let keeper = role_sources::keeper(self.keepers, entry, target, dangerous, source).await?;
            logins.keep_roles(entry.name.clone(), keeper);
        }
        for (role, config) in backend.roles.named {
            self.hold_role(entry, &role, config.into_inner(), logins).await?;
        }
        Ok(own)
    }

    async fn hold_role(
        &self,
        entry: &ResourceEntry,
        role: &str,
        config: RoleConfig,
        logins: &mut Logins,
    ) -> Result<(), Problems> {
        match config {
            // Wire sessions of a role log in anew: a rotated password needs nothing to be opened again.
            RoleConfig::Password(password) => {
                logins.hold_role(entry.name.clone(), role, read(password).await?);
            }
            RoleConfig::Vault(_) => return Err(no_vault(entry).into()),
        }
        Ok(())
    }
}

async fn read(secret: SecretRef) -> Result<Secret, Problems> {
    Ok(blocking(move || secret.read()).await??)
}

fn no_vault(entry: &ResourceEntry) -> Problem {
    entry
        .node
        .problem("there is no Vault to ask")
        .hint("say where it is under `vault` at the top of the file")
}
