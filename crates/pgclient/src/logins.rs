//! How the gateway logs in to a PostgreSQL resource: the configuration of its own login, and of the roles that
//! sessions of the Postgres door have. What it says is done by the lease organ.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use doorward_settings::{SecretRef, Spanned, VaultPath};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::cloud::{AwsRdsConfig, AzureEntraConfig, CloudConfig, GcpCloudSqlConfig};
use crate::sources::RolesSource;

/// The key of [`RolesConfig`] under which a Vault mount stands.
const VAULT: &str = "vault";
/// What is said of two sources for the same roles.
const ONE_SOURCE: &str = "the roles that are not named have one source of logins";

/// The gateway's login at the database.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "LoginFields")]
pub enum LoginConfig {
    /// A user with a password.
    Password {
        /// The database user.
        user: Box<str>,
        /// Where its password is.
        password: SecretRef,
    },
    /// A login of a Vault database engine.
    Vault {
        /// `MOUNT/creds/NAME` or `MOUNT/static-creds/NAME`.
        path: VaultPath,
    },
    /// A user that logs in with tokens of the gateway's identity in a cloud.
    Cloud {
        /// The database user.
        user: Box<str>,
        /// The cloud.
        cloud: CloudConfig,
    },
}

/// The gateway's login at the database: a user with a password, a login that Vault makes, or a user that logs in with
/// tokens of the gateway's identity in a cloud.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LoginConfig")]
struct LoginFields {
    /// The database user.
    user: Option<Box<str>>,
    /// Where its password is: `env:`, `file:` or `vault:MOUNT/PATH#FIELD`.
    password: Option<SecretRef>,
    /// A role of a Vault database engine, which makes user and password: `database/creds/NAME`.
    vault: Option<VaultPath>,
    /// Logs in with tokens of AWS RDS IAM authentication.
    aws_rds: Option<AwsRdsConfig>,
    /// Logs in with tokens of Microsoft Entra, at Azure Database for PostgreSQL.
    azure_entra: Option<AzureEntraConfig>,
    /// Logs in with tokens of Cloud SQL IAM authentication.
    gcp_cloud_sql: Option<GcpCloudSqlConfig>,
}

impl TryFrom<LoginFields> for LoginConfig {
    type Error = &'static str;

    fn try_from(fields: LoginFields) -> Result<Self, Self::Error> {
        let LoginFields { user, password, vault, aws_rds, azure_entra, gcp_cloud_sql } = fields;
        let cloud = CloudConfig::one_of(aws_rds, azure_entra, gcp_cloud_sql)?;
        match (user, password, vault, cloud) {
            (Some(user), Some(password), None, None) => Ok(Self::Password { user, password }),
            (None, None, Some(path), None) => Ok(Self::Vault { path }),
            (Some(user), None, None, Some(cloud)) => Ok(Self::Cloud { user, cloud }),
            (_, _, Some(_), None) => Err("`vault` brings user and password; leave out `user` and `password`"),
            (_, _, _, Some(_)) => {
                Err("the cloud's token is the password; leave out `password` and `vault`, and say `user`")
            }
            (None, _, None, None) => Err("the key \"user\" is missing"),
            (Some(_), None, None, None) => Err("the key \"password\" is missing"),
        }
    }
}

impl JsonSchema for LoginConfig {
    fn schema_name() -> Cow<'static, str> {
        LoginFields::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        LoginFields::json_schema(generator)
    }
}

/// How a session of the Postgres door logs in to the database as a role.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "RoleFields")]
pub enum RoleConfig {
    /// As the role itself, with its password.
    Password(SecretRef),
    /// With a login of a Vault database engine.
    Vault(VaultRole),
    /// As the role itself, with tokens of the gateway's identity in a cloud.
    Cloud(CloudConfig),
}

/// A role of a Vault database engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultRole {
    /// `MOUNT/creds/NAME` or `MOUNT/static-creds/NAME`.
    pub path: VaultPath,
    /// Whether a session becomes the role when it begins.
    pub set_role: bool,
}

/// How a session of the Postgres door logs in to the database as a role: one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RoleConfig")]
struct RoleFields {
    /// Where the role's password is: `env:`, `file:` or `vault:MOUNT/PATH#FIELD`.
    password: Option<SecretRef>,
    /// A role of a Vault database engine: `database/creds/NAME`, whose logins are members of this role and of
    /// nothing else, or `database/static-creds/NAME`, which is this role.
    vault: Option<VaultPath>,
    /// With `vault`: whether a session becomes the role when it begins, so that what it makes belongs to the
    /// role (default true). Without it the session is Vault's login, which inherits what the role may do.
    set_role: Option<bool>,
    /// Logs in with tokens of AWS RDS IAM authentication.
    aws_rds: Option<AwsRdsConfig>,
    /// Logs in with tokens of Microsoft Entra, at Azure Database for PostgreSQL.
    azure_entra: Option<AzureEntraConfig>,
    /// Logs in with tokens of Cloud SQL IAM authentication.
    gcp_cloud_sql: Option<GcpCloudSqlConfig>,
}

impl TryFrom<RoleFields> for RoleConfig {
    type Error = &'static str;

    fn try_from(fields: RoleFields) -> Result<Self, Self::Error> {
        let RoleFields { password, vault, set_role, aws_rds, azure_entra, gcp_cloud_sql } = fields;
        let cloud = CloudConfig::one_of(aws_rds, azure_entra, gcp_cloud_sql)?;
        match (password, vault, cloud, set_role) {
            (Some(password), None, None, None) => Ok(Self::Password(password)),
            (None, Some(path), None, set_role) => {
                Ok(Self::Vault(VaultRole { path, set_role: set_role.unwrap_or(true) }))
            }
            (None, None, Some(cloud), None) => Ok(Self::Cloud(cloud)),
            (Some(_), None, None, Some(_)) | (None, None, Some(_), Some(_)) => {
                Err("`set_role` is for logins that Vault makes; a login with a password is the role itself")
            }
            _ => Err("a role has one of `password` and `vault`, or one cloud"),
        }
    }
}

impl JsonSchema for RoleConfig {
    fn schema_name() -> Cow<'static, str> {
        RoleFields::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        RoleFields::json_schema(generator)
    }
}

/// How sessions of the Postgres door log in as each role: roles by name, and a source for all others.
#[derive(Clone, Debug, Default)]
pub struct RolesConfig {
    /// A mount of Vault's database engine (`database/creds`) that has a role of the same name for each role.
    pub vault: Option<VaultPath>,
    /// What else has logins for each role.
    pub source: Option<Spanned<RolesSource>>,
    /// Roles with something of their own.
    pub named: BTreeMap<Box<str>, Spanned<RoleConfig>>,
}

impl RolesConfig {
    /// Whether sessions can log in as no role at all: the Postgres door does not serve the resource.
    pub fn is_empty(&self) -> bool {
        self.vault.is_none() && self.source.is_none() && self.named.is_empty()
    }
}

impl<'de> Deserialize<'de> for RolesConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RolesVisitor)
    }
}

struct RolesVisitor;

impl<'de> Visitor<'de> for RolesVisitor {
    type Value = RolesConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of roles")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RolesConfig, A::Error> {
        let mut roles = RolesConfig::default();
        while let Some(key) = map.next_key::<Box<str>>()? {
            match &*key {
                // A role of this name could not be told from the source, so there is none.
                VAULT => roles.vault = Some(map.next_value()?),
                key if RolesSource::KEYS.contains(&key) => {
                    if roles.source.replace(RolesSource::read(key, &mut map)?).is_some() {
                        return Err(A::Error::custom(ONE_SOURCE));
                    }
                }
                _ => drop(roles.named.insert(key, map.next_value()?)),
            }
        }
        match roles.vault.is_some() && roles.source.is_some() {
            true => Err(A::Error::custom(ONE_SOURCE)),
            false => Ok(roles),
        }
    }
}

impl JsonSchema for RolesConfig {
    fn schema_name() -> Cow<'static, str> {
        "RolesConfig".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let role = generator.subschema_for::<RoleConfig>();
        let mut vault = generator.subschema_for::<VaultPath>();
        vault.insert(
            "description".to_owned(),
            "A mount of Vault's database engine that has a role of the same name for each role: database/creds.".into(),
        );
        let mut properties = RolesSource::properties(generator);
        properties.insert(VAULT.to_owned(), vault.into());
        json_schema!({
            "type": "object",
            "properties": properties,
            "additionalProperties": role,
            "description": "How sessions of the Postgres door log in as each role that grants name (`as`).",
        })
    }
}

#[cfg(test)]
mod tests {
    use doorward_settings::Document;

    use super::*;
    use crate::cloud::{AzureCloud, Impersonate};

    fn read<T: serde::de::DeserializeOwned>(yaml: &str) -> Result<T, String> {
        let document = Document::parse("doorward.yaml", yaml).map_err(|problem| problem.to_string())?;
        document.root().deserialize().map_err(|problem| problem.to_string())
    }

    #[test]
    fn roles_have_passwords_or_come_from_vault() {
        let roles: RolesConfig =
            read("analyst: { password: env:PW }\nloader: { vault: database/creds/shop-loader }").unwrap();
        assert!(roles.vault.is_none() && !roles.is_empty());
        let loader = roles.named.get("loader").unwrap().get();
        assert!(
            matches!(loader, RoleConfig::Vault(VaultRole { path, set_role: true }) if path.as_str() == "database/creds/shop-loader")
        );
        let roles: RolesConfig = read("vault: database/creds\nloader: { password: env:PW }").unwrap();
        assert_eq!(roles.vault.unwrap().as_str(), "database/creds");
        assert!(roles.named.contains_key("loader"));
        assert!(read::<RolesConfig>("{}").unwrap().is_empty());
    }

    #[test]
    fn logins_stand_on_a_cloud() {
        let login: LoginConfig = read("{ user: gw, aws_rds: { region: eu-west-1 } }").unwrap();
        assert!(
            matches!(login, LoginConfig::Cloud { user, cloud: CloudConfig::AwsRds(_) } if &*user == "gw")
        );
        let roles: RolesConfig = read(
            "gcp_cloud_sql: { impersonate: by-role }\nanalyst: { azure_entra: { client_id: c, cloud: us-government } }",
        )
        .unwrap();
        let by_role = GcpCloudSqlConfig { impersonate: Some(Impersonate::ByRole) };
        assert!(
            matches!(roles.source.unwrap().get(), RolesSource::Cloud(CloudConfig::GcpCloudSql(config)) if *config == by_role)
        );
        let analyst = roles.named.get("analyst").unwrap().get();
        assert!(
            matches!(analyst, RoleConfig::Cloud(CloudConfig::AzureEntra(azure)) if azure.cloud == AzureCloud::UsGovernment)
        );
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (yaml, said) in [
            ("analyst: { password: env:PW, vault: database/creds/a }", "one of `password` and `vault`"),
            ("analyst: {}", "one of `password` and `vault`"),
            ("analyst: { aws_rds: {}, gcp_cloud_sql: {} }", "one cloud"),
            ("analyst: { azure_entra: {}, password: env:PW }", "or one cloud"),
            ("analyst: { azure_entra: { cloud: moon } }", "cloud"),
            ("gcp_cloud_sql: { impersonate: somebody }", "e-mail address"),
            ("aws_rds: {}\nmanaged: { admin: { user: a, password: env:PW } }", "one source of logins"),
            ("aws_rds: { secret_access_key: x }", "secret_access_key"),
            ("analyst: { password: env:PW, set_role: false }", "`set_role` is for logins that Vault makes"),
            ("analyst: { pasword: env:PW }", "password"),
            ("analyst: { vault: ../creds }", "MOUNT/PATH"),
            ("vault: { path: database/creds }", "expected"),
        ] {
            let refused = read::<RolesConfig>(yaml).unwrap_err();
            assert!(refused.contains(said) && refused.contains("doorward.yaml:1:"), "{yaml}: {refused}");
        }
        for (yaml, said) in [
            ("{ user: gw }", "\"password\" is missing"),
            ("{ password: env:PW }", "\"user\" is missing"),
            ("{ user: gw, vault: database/creds/gw }", "brings user and password"),
            ("{ user: gw, password: env:PW, aws_rds: {} }", "the cloud's token is the password"),
            ("{ aws_rds: {} }", "say `user`"),
        ] {
            let refused = read::<LoginConfig>(yaml).unwrap_err();
            assert!(refused.contains(said), "{yaml}: {refused}");
        }
    }
}
