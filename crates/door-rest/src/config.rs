//! The configuration of a resource that the REST door serves.

use doorward_pgclient::{CatalogConfig, ClaimsConfig, LoginConfig, PoolConfig, ReplicasConfig, RolesConfig};
use doorward_settings::{AuditConfig, ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::Deserialize;

/// A PostgreSQL database that the REST door serves.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestConfig {
    /// Where the database is: `postgres://HOST[:PORT]/DATABASE`, without user and password. Over a
    /// network it is reached by TLS; `?sslmode=` and `?sslrootcert=` say how it is verified. Several hosts, separated by
    /// commas, are a primary and its replicas, in any order: which is which, they are asked.
    pub url: String,
    /// The login that becomes the grants' roles. It should be NOINHERIT, own nothing, and be a member of
    /// those roles and of nothing else.
    pub login: LoginConfig,
    /// How sessions of the Postgres door log in as each role that grants name (`as`): with the role's own
    /// password, or with logins that Vault makes. The roles are members of nothing that they must not become,
    /// and own nothing. Without any, the Postgres door does not serve the resource.
    #[serde(default)]
    pub roles: RolesConfig,
    /// Whether sessions of the Postgres door may read the database's catalogue with any grant (`show`, the default), or
    /// only with one that names it (`hide`).
    #[serde(default)]
    pub catalog: CatalogConfig,
    /// Signs who the caller is for each session of the Postgres door, for row-level security by person.
    pub claims: Option<ClaimsConfig>,
    /// The schemas that are served; the first one is the default, a caller chooses by `Accept-Profile`
    /// and `Content-Profile`.
    #[serde(default = "default_schemas")]
    #[schemars(length(min = 1, max = 64))]
    pub schemas: Vec<Box<str>>,
    /// Schemas that are searched for types, operators and functions behind the served one.
    #[serde(default = "default_schemas")]
    #[schemars(length(max = 64))]
    pub extra_search_path: Vec<Box<str>>,
    /// The bounds of the connections to the database.
    #[serde(default)]
    pub pool: PoolConfig,
    /// What the replicas are read for, where `url` names several hosts.
    #[serde(default)]
    pub replicas: ReplicasConfig,
    /// How long a statement may run, when the grant does not say (default: the pool's bound).
    pub timeout: Option<HumanDuration>,
    /// The most rows that one answer has; further rows are left out and `Content-Range` tells so. A
    /// grant may say less.
    pub max_rows: Option<u64>,
    /// The largest body of a request.
    #[serde(default = "default_body_max")]
    pub body_max: ByteSize,
    /// Whether a call without a durable record is refused.
    #[serde(default)]
    pub audit: AuditConfig,
    /// Accepts a login that is SUPERUSER, BYPASSRLS or REPLICATION, or owns what it serves.
    #[serde(default)]
    pub dangerous_superuser: bool,
    /// Accepts an unencrypted connection over a network.
    #[serde(default)]
    pub dangerous_plaintext: bool,
}

fn default_schemas() -> Vec<Box<str>> {
    vec!["public".into()]
}

fn default_body_max() -> ByteSize {
    ByteSize::new(1 << 20)
}

#[cfg(test)]
mod tests {
    use doorward_settings::Document;

    use super::*;

    fn read(yaml: &str) -> Result<RestConfig, String> {
        let document = Document::parse("doorward.yaml", yaml).map_err(|problem| problem.to_string())?;
        document.root().deserialize().map_err(|problem| problem.to_string())
    }

    #[test]
    fn little_has_to_be_said() {
        let config = read("url: postgres://db/shop\nlogin: { user: gw, password: env:PW }").unwrap();
        assert_eq!(config.schemas, ["public".into()]);
        assert_eq!(
            (config.body_max.get(), config.max_rows, config.audit),
            (1 << 20, None, AuditConfig::Required)
        );
        assert!(!config.dangerous_superuser && !config.dangerous_plaintext);
    }

    #[test]
    fn unknown_keys_are_refused_with_a_suggestion() {
        let login = "url: postgres://db/shop\nlogin: { user: gw, password: env:PW }\n";
        let refused = read(&format!("{login}max_row: 5")).unwrap_err();
        assert!(refused.contains("max_row") && refused.contains("max_rows"), "{refused}");
        assert!(read(&format!("{login}audit: never")).is_err());
        assert!(read("url: postgres://db/shop").is_err());
    }
}
