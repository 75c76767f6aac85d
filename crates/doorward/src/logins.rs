//! Puts each resource's logins into the lease organ: secrets of files and the environment as they are now, and
//! whatever issues credentials, behind a keeper that a reload finds again.

use std::sync::Arc;

use doorward_core::{Login, OwnLogin, ResourceName, Secret};
use doorward_lease::{CredentialSource, Keeper, Logins, Vault, VaultDatabase, VaultPassword, Vaults};
use doorward_pgclient::{LoginConfig, RoleConfig, RolesSource, Target};
use doorward_settings::{Node, Problem, Problems, SecretRef};

use crate::config::{Config, ResourceEntry};
use crate::doors::Opened;
use crate::wiring::{Makers, blocking};
use crate::{clouds, role_sources};

/// The key of the section that says where Vault is.
const VAULT: &str = "vault";

/// What logins come from.
pub(crate) struct Sources<'a> {
    /// What outlives configurations.
    makers: Makers<'a>,
    /// This configuration's Vault, with what its section says.
    vault: Option<(Arc<Vault>, String)>,
}

impl<'a> Sources<'a> {
    /// Opens what the configuration names. Nothing is asked of it yet.
    pub(crate) async fn open(
        makers: Makers<'a>,
        vaults: &Arc<Vaults>,
        config: &Config,
    ) -> Result<Self, Problems> {
        let Some(section) = config.root.vault.clone() else { return Ok(Self { makers, vault: None }) };
        let fingerprint = config.section(VAULT).unwrap_or_default();
        let (vaults, id, problem) = (vaults.clone(), fingerprint.clone(), section.url.clone());
        let vault = blocking(move || vaults.vault(&id, &section)).await?;
        let vault = vault.map_err(|error| problem.problem(error.to_string()))?;
        Ok(Self { makers, vault: Some((vault, fingerprint)) })
    }

    /// Takes in the logins of a resource. The gateway's own one is returned, for the door.
    pub(crate) async fn hold(
        &self,
        entry: &ResourceEntry,
        logins: &mut Logins,
    ) -> Result<OwnLogin, Problems> {
        let backend = (entry.door.logins)(&entry.node)?;
        let name = || entry.name.clone();
        let own = match backend.own {
            None => {
                logins.hold_nothing(name());
                OwnLogin::Fixed(Arc::new(Login::new("", Secret::from(""))))
            }
            Some(LoginConfig::Password { user, password }) => match self.in_vault(entry, &user, &password)? {
                Some(keeper) => logins.keep(name(), keeper),
                None => logins.hold(name(), &user, read(password).await?),
            },
            Some(LoginConfig::Vault { path }) => {
                let identity = format!("vault own {path}");
                let source = |vault| Arc::new(VaultDatabase::role(vault, path, false)) as _;
                logins.keep(name(), self.vault_keeper(entry, &identity, source)?)
            }
            Some(LoginConfig::Cloud { user, cloud }) => {
                let target = target_of(entry, backend.target.as_ref())?;
                logins.keep(name(), clouds::keeper(self.makers, entry, target, cloud, Some(user)).await?)
            }
        };
        if let Some(path) = backend.roles.vault {
            let identity = format!("vault roles {path}");
            let source = |vault| Arc::new(VaultDatabase::mount(vault, path)) as _;
            logins.keep_roles(name(), self.vault_keeper(entry, &identity, source)?);
        }
        if let (Some(source), Some(target)) = (backend.roles.source, &backend.target) {
            let dangerous = backend.dangerous_superuser;
            let keeper = role_sources::keeper(self.makers, entry, target, dangerous, source).await?;
            logins.keep_roles(entry.name.clone(), keeper);
        }
        for (role, config) in backend.roles.named {
            let target = backend.target.as_ref();
            self.hold_role(entry, target, (&role, config.into_inner()), logins).await?;
        }
        Ok(own)
    }

    async fn hold_role(
        &self,
        entry: &ResourceEntry,
        target: Option<&Target>,
        (role, config): (&str, RoleConfig),
        logins: &mut Logins,
    ) -> Result<(), Problems> {
        let name = entry.name.clone();
        match config {
            RoleConfig::Password(password) => match self.in_vault(entry, role, &password)? {
                Some(keeper) => logins.keep_role(name, role, keeper),
                // Wire sessions of a role log in anew: a rotated password needs nothing to be opened again.
                None => logins.hold_role(name, role, read(password).await?),
            },
            RoleConfig::Vault(vault_role) => {
                let identity = format!("vault role {role} {} {}", vault_role.path, vault_role.set_role);
                let source =
                    |vault| Arc::new(VaultDatabase::role(vault, vault_role.path, vault_role.set_role)) as _;
                logins.keep_role(name, role, self.vault_keeper(entry, &identity, source)?);
            }
            RoleConfig::Cloud(cloud) => {
                let target = target_of(entry, target)?;
                let keeper = clouds::keeper(self.makers, entry, target, cloud, None).await?;
                logins.keep_role(name, role, keeper);
            }
        }
        Ok(())
    }

    /// The keeper of a password that stands in Vault; `None` for one that stands elsewhere.
    fn in_vault(
        &self,
        entry: &ResourceEntry,
        user: &str,
        password: &SecretRef,
    ) -> Result<Option<Arc<Keeper>>, Problem> {
        let Some((path, field)) = password.vault() else { return Ok(None) };
        let identity = format!("vault password {user} {path} {field}");
        let source = |vault| Arc::new(VaultPassword::new(vault, user, path.clone(), field)) as _;
        self.vault_keeper(entry, &identity, source).map(Some)
    }

    fn vault_keeper(
        &self,
        entry: &ResourceEntry,
        identity: &str,
        source: impl FnOnce(Arc<Vault>) -> Arc<dyn CredentialSource>,
    ) -> Result<Arc<Keeper>, Problem> {
        let (vault, section) = self.vault.as_ref().ok_or_else(|| no_vault(&entry.node))?;
        let identity = format!("{identity} {section}");
        Ok(self.makers.keepers.keeper(&identity, &entry.name, || source(vault.clone())))
    }
}

/// An open resource whose trouble is told together with that of its logins. What is known of them belongs to the
/// configuration, and is forgotten with it.
pub(crate) fn watched(opened: &Arc<Opened>, name: &ResourceName, logins: &Arc<Logins>) -> Arc<Opened> {
    let (inner, name, logins) = (opened.trouble.clone(), name.clone(), Arc::downgrade(logins));
    let trouble = move || {
        let of_logins = logins.upgrade().and_then(|logins| logins.trouble(&name));
        of_logins.or_else(|| inner())
    };
    Arc::new(Opened { trouble: Arc::new(trouble), ..Opened::clone(opened) })
}

/// Says what is wrong with the logins, offline: a Vault that is needed and not named, and secrets of Vault in
/// places where they are not read.
pub(crate) fn check(root: &Node, resources: &[ResourceEntry]) -> Problems {
    let mut problems = Problems::new();
    let named = root.get(VAULT).is_some();
    for entry in resources {
        // What cannot be read has been said already.
        let Ok(backend) = (entry.door.logins)(&entry.node) else { continue };
        let own = backend.own.as_ref().is_some_and(|own| match own {
            LoginConfig::Vault { .. } => true,
            LoginConfig::Password { password, .. } => password.vault().is_some(),
            LoginConfig::Cloud { .. } => false,
        });
        let roles = backend.roles.named.values().any(|role| match role.get() {
            RoleConfig::Vault(_) => true,
            RoleConfig::Password(password) => password.vault().is_some(),
            RoleConfig::Cloud(_) => false,
        });
        if !named && (own || roles || backend.roles.vault.is_some()) {
            problems.push(no_vault(&entry.node));
        }
        clouds::check(entry, &backend, &mut problems);
    }
    misplaced(root, &mut problems);
    problems
}

/// References to Vault outside of resources' logins and roles.
fn misplaced(node: &Node, problems: &mut Problems) {
    let reference = node.as_str().is_some_and(|text| text.starts_with("vault:") && text.contains('#'));
    if reference && !is_login(&node.path()) {
        problems.push(
            node.problem("a secret in Vault is read for the logins and roles of resources only")
                .hint("use env:NAME or file:PATH here"),
        );
    }
    // The tree is as deep as the file may be.
    node.entries()
        .iter()
        .map(|entry| &entry.value)
        .chain(node.items())
        .for_each(|inner| misplaced(inner, problems));
}

/// Whether a login's or a role's password stands at this path.
fn is_login(path: &str) -> bool {
    let Some((_, at)) = path.strip_prefix("resources.").and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    let of_source = |role: &str| RolesSource::KEYS.iter().any(|key| role.split('.').next() == Some(key));
    match at.strip_suffix(".password") {
        Some("login") => true,
        Some(role) => role.strip_prefix("roles.").is_some_and(|role| !of_source(role)),
        None => false,
    }
}

/// The database that logins are of: doors that have logins have one.
fn target_of<'t>(entry: &ResourceEntry, target: Option<&'t Target>) -> Result<&'t Target, Problem> {
    target.ok_or_else(|| entry.node.problem("it has logins, and no database"))
}

async fn read(secret: SecretRef) -> Result<Secret, Problems> {
    Ok(blocking(move || secret.read()).await??)
}

fn no_vault(node: &Node) -> Problem {
    node.problem("its logins come from Vault, and there is no Vault")
        .hint("say where it is under `vault`, at the top of the file")
}

#[cfg(test)]
mod tests {
    use doorward_settings::Document;

    use super::*;

    const VAULT: &str = "vault: { url: \"https://vault.internal\", auth: { token: env:T } }\n";

    /// What is wrong with a resource of this login and these roles, under these further sections.
    fn said(login: &str, roles: &str, more: &str) -> String {
        let yaml = format!(
            "version: 1\n{more}resources:\n  shop: {{ url: postgres://127.0.0.1/shop, login: {login}, roles: {roles} }}\n"
        );
        let document = Document::parse("doorward.yaml", &yaml).unwrap();
        Config::compile(&document, Arc::default())
            .err()
            .map(|problems| problems.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn vault_is_named_where_it_is_needed() {
        let (password, in_vault) =
            ("{ user: gw, password: env:PW }", "{ user: gw, password: \"vault:kv/shop#password\" }");
        for (login, roles) in [
            (in_vault, "{}"),
            ("{ vault: database/creds/gw }", "{}"),
            (password, "{ vault: database/creds }"),
            (password, "{ analyst: { vault: database/creds/a } }"),
            (password, "{ analyst: { password: \"vault:kv/a#b\" } }"),
        ] {
            let without = said(login, roles, "");
            assert!(
                without.contains("resources.shop: its logins come from Vault"),
                "{login} {roles}: {without}"
            );
            assert_eq!(said(login, roles, VAULT), "", "{login} {roles}");
        }
        assert_eq!(said(password, "{ analyst: { password: env:PW } }", ""), "");
    }

    #[test]
    fn a_secret_of_vault_stands_only_where_it_is_read() {
        let login = "{ user: gw, password: env:PW }";
        for more in [
            "tls: { cert: file:a.crt, key: \"vault:kv/tls#key\" }\n",
            "vault: { url: \"https://vault.internal\", auth: { token: \"vault:kv/a#b\" } }\n",
        ] {
            let said = said(login, "{}", more);
            assert!(said.contains("a secret in Vault is read for the logins and roles"), "{more}: {said}");
        }
        let managed = "{ managed: { admin: { user: admin, password: \"vault:kv/a#b\" } } }";
        assert!(said(login, managed, VAULT).contains("roles.managed.admin.password"));
    }
}
