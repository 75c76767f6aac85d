//! Logins that stand on the identity which a cloud gives the gateway: what is wrong with them offline, and their
//! keepers.

use std::sync::Arc;

use doorward_lease::Keeper;
use doorward_pgclient::{CloudConfig, Impersonate, LoginConfig, RoleConfig, RolesSource, Target};
use doorward_settings::Problems;

use crate::config::ResourceEntry;
use crate::doors::BackendLogins;
use crate::wiring::{Makers, blocking};

/// The keeper of logins at this database: of this user, or of each role that is wanted.
pub(crate) async fn keeper(
    makers: Makers<'_>,
    entry: &ResourceEntry,
    target: &Target,
    config: CloudConfig,
    user: Option<Box<str>>,
) -> Result<Arc<Keeper>, Problems> {
    let identity = format!("{config:?} {target} {user:?}");
    let (clouds, target) = (makers.clouds.clone(), target.clone());
    let source = blocking(move || clouds.source(&config, &target, user.as_deref())).await?;
    let source = source.map_err(|error| entry.node.problem(error.to_string()))?;
    Ok(makers.keepers.keeper(&identity, &entry.name, || source))
}

/// Says what is wrong with a resource's logins, offline.
pub(crate) fn check(entry: &ResourceEntry, backend: &BackendLogins, problems: &mut Problems) {
    let Some(target) = &backend.target else { return };
    let mut told = Vec::new();
    for (key, cloud) in logins(backend) {
        let Some(problem) = cloud.problem(target).filter(|problem| !told.contains(problem)) else { continue };
        problems.push(entry.node.get(key).unwrap_or(&entry.node).problem(problem.to_string()));
        told.push(problem);
    }
}

/// What a resource's logins stand on, a line for each, for `doorward check`.
pub(crate) fn told(entry: &ResourceEntry) -> Vec<String> {
    // What cannot be read has been said already.
    let Ok(backend) = (entry.door.logins)(&entry.node) else { return Vec::new() };
    let Some(target) = &backend.target else { return Vec::new() };
    let mut lines = Vec::new();
    for (key, cloud) in logins(&backend) {
        let of = match cloud {
            CloudConfig::AwsRds(config) => {
                let Some((host, port)) = config.signed_for(target) else { continue };
                let region = config.region(&host).unwrap_or_default();
                format!("tokens for {host}:{port} in {region}")
            }
            CloudConfig::AzureEntra(config) => match &config.client_id {
                Some(client) => format!("the identity {client}"),
                None => "the identity that the environment has".to_owned(),
            },
            CloudConfig::GcpCloudSql(config) => match &config.impersonate {
                Some(Impersonate::Account(account)) => format!("impersonating {account}"),
                Some(Impersonate::ByRole) => {
                    "impersonating the account that each role is named after".to_owned()
                }
                None => "the account that the environment has".to_owned(),
            },
        };
        let line = format!("resource {}: {key} by {}, {of}", entry.name, cloud.key());
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// The clouds that a resource's logins stand on, and the keys under which they stand.
fn logins(backend: &BackendLogins) -> impl Iterator<Item = (&'static str, &CloudConfig)> {
    let own = match &backend.own {
        Some(LoginConfig::Cloud { cloud, .. }) => Some(("login", cloud)),
        _ => None,
    };
    let source = backend.roles.source.as_ref().and_then(|source| match source.get() {
        RolesSource::Cloud(cloud) => Some(("roles", cloud)),
        RolesSource::Managed(_) | RolesSource::Certificates(_) => None,
    });
    let named = backend.roles.named.values().filter_map(|role| match role.get() {
        RoleConfig::Cloud(cloud) => Some(("roles", cloud)),
        RoleConfig::Password(_) | RoleConfig::Vault(_) => None,
    });
    own.into_iter().chain(source).chain(named)
}

#[cfg(test)]
mod tests {
    use doorward_settings::Document;

    use crate::config::Config;

    /// What is wrong with a resource of this URL, login and roles.
    fn said(url: &str, login: &str, roles: &str) -> String {
        let yaml =
            format!("version: 1\nresources:\n  shop: {{ url: \"{url}\", login: {login}, roles: {roles} }}\n");
        let document = Document::parse("doorward.yaml", &yaml).unwrap();
        let config = Config::compile(&document, std::sync::Arc::default());
        config.err().map(|problems| problems.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_token_needs_a_verified_server_and_a_region() {
        let (rds, azure) = (
            "postgres://shop.c1.eu-west-1.rds.amazonaws.com/shop",
            "postgres://shop.postgres.database.azure.com/shop",
        );
        let login = "{ user: gw, aws_rds: {} }";
        assert_eq!(said(rds, login, "{ aws_rds: {} }"), "");
        assert_eq!(said(rds, login, "{ analyst: { aws_rds: { region: eu-west-1 } } }"), "");
        assert_eq!(said(azure, "{ user: gw, azure_entra: {} }", "{ azure_entra: { client_id: c } }"), "");
        for (url, login, roles, key, text) in [
            ("postgres://127.0.0.1/shop", login, "{}", "resources.shop.login", "needs a `region`"),
            (rds, login, "{ aws_rds: { endpoint: shop } }", "resources.shop.roles", "HOST:PORT"),
            (
                "postgres://127.0.0.1/shop",
                "{ user: gw, password: \"env:PW\" }",
                "{ analyst: { azure_entra: {} } }",
                "resources.shop.roles",
                "verified server only",
            ),
        ] {
            let said = said(url, login, roles);
            assert!(said.contains(key) && said.contains(text), "{url} {login} {roles}: {said}");
        }
    }
}
