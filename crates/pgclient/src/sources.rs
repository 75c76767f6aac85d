//! The configuration of credentials that the gateway makes or fetches by itself, for roles of sessions: logins that
//! it manages, certificates that it signs, tokens of its identity in a cloud. What it says is done by the lease organ.

use std::time::Duration;

use doorward_settings::{HumanDuration, SecretRef, Spanned};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use serde::de::{Error, MapAccess};
use serde_json::{Map, Value};

use crate::cloud::{AWS_RDS, AZURE_ENTRA, CloudConfig, GCP_CLOUD_SQL};

/// The key of each source under `roles`.
const MANAGED: &str = "managed";
const CERTIFICATES: &str = "certificates";

/// What has logins for all roles that are not named.
#[derive(Clone, Debug)]
pub enum RolesSource {
    /// The gateway makes them in the database.
    Managed(ManagedConfig),
    /// The gateway signs client certificates for them.
    Certificates(CertificatesConfig),
    /// The roles log in with tokens of the gateway's identity in a cloud.
    Cloud(CloudConfig),
}

impl RolesSource {
    /// The keys of sources; a role of such a name could not be told from the source, so there is none.
    pub const KEYS: [&str; 5] = [MANAGED, CERTIFICATES, AWS_RDS, AZURE_ENTRA, GCP_CLOUD_SQL];

    /// Reads the source under this key.
    pub(crate) fn read<'de, A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Spanned<Self>, A::Error> {
        match key {
            MANAGED => {
                let config: Spanned<ManagedConfig> = map.next_value()?;
                match config.get().problem() {
                    Some(problem) => Err(A::Error::custom(problem)),
                    None => Ok(config.map(Self::Managed)),
                }
            }
            CERTIFICATES => {
                let config: Spanned<CertificatesConfig> = map.next_value()?;
                Ok(config.map(Self::Certificates))
            }
            key => match CloudConfig::read(key, map)? {
                Some(config) => Ok(config.map(Self::Cloud)),
                None => Err(A::Error::custom(format_args!("`{key}` is not a source of logins"))),
            },
        }
    }

    /// Their schemas.
    pub(crate) fn properties(generator: &mut SchemaGenerator) -> Map<String, Value> {
        let own = [
            (MANAGED, generator.subschema_for::<ManagedConfig>()),
            (CERTIFICATES, generator.subschema_for::<CertificatesConfig>()),
        ];
        let all = own.into_iter().chain(CloudConfig::schemas(generator));
        all.map(|(key, schema)| (key.to_owned(), schema.into())).collect()
    }
}

/// Logins that the gateway makes in the database, each a member of the permitted role and of nothing else.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ManagedConfig {
    /// The administrative login: CREATEROLE and nothing more. On PostgreSQL 16 and later it holds the roles that
    /// grants name WITH ADMIN OPTION, INHERIT FALSE, SET FALSE.
    pub admin: AdminConfig,
    /// Whom a login is made for: `role` (default), one that all sessions of the role share; or `principal`, one
    /// for each person, whose name stays the same.
    #[serde(default)]
    pub per: Per,
    /// How long a login is good for; while it is needed it is made good for longer (default 1h, at least 10s).
    pub ttl: Option<HumanDuration>,
    /// How long a person's login that nobody needs is kept, unable to log in, before what it owns goes to the role
    /// and it is dropped (default 30d).
    pub keep: Option<HumanDuration>,
    /// Whether a session becomes the role when it begins, so that what it makes belongs to the role (default
    /// false). Only with `per: role`.
    #[serde(default)]
    pub set_role: bool,
    /// The most logins that gateways have in the database at a time (default 500).
    #[schemars(range(min = 1))]
    pub logins_max: Option<u32>,
    /// How often logins that nobody needs are looked for (default 10m).
    pub reap_every: Option<HumanDuration>,
}

/// A login that makes others.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// The database user.
    pub user: Box<str>,
    /// Where its password is: `env:NAME` or `file:PATH`.
    pub password: SecretRef,
}

/// Whom a login is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// All sessions of the role.
    #[default]
    Role,
    /// One person.
    Principal,
}

/// Client certificates, each for one role and good for minutes, signed by an authority of the gateway's own that the
/// database believes (`doorward ca init`).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificatesConfig {
    /// The authority's certificate, PEM.
    pub ca: SecretRef,
    /// The authority's private key, PEM (PKCS #8).
    pub key: SecretRef,
    /// How long a certificate is good for (default 15m, at least 1m). Sessions outlive it; new ones get a new one.
    pub ttl: Option<HumanDuration>,
}

impl CertificatesConfig {
    /// How long a certificate is good for.
    pub fn ttl(&self) -> Duration {
        self.ttl.map_or(CERTIFICATE_TTL, HumanDuration::get).max(CERTIFICATE_TTL_MIN)
    }
}

const CERTIFICATE_TTL: Duration = Duration::from_secs(900);
const CERTIFICATE_TTL_MIN: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(3600);
const TTL_MIN: Duration = Duration::from_secs(10);
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
const REAP_EVERY: Duration = Duration::from_secs(600);
const REAP_EVERY_MIN: Duration = Duration::from_secs(1);
const LOGINS_MAX: u32 = 500;

impl ManagedConfig {
    /// How long a login is good for.
    pub fn ttl(&self) -> Duration {
        self.ttl.map_or(TTL, HumanDuration::get).max(TTL_MIN)
    }

    /// How long a person's login is kept.
    pub fn keep(&self) -> Duration {
        self.keep.map_or(KEEP, HumanDuration::get)
    }

    /// How often logins that nobody needs are looked for.
    pub fn reap_every(&self) -> Duration {
        self.reap_every.map_or(REAP_EVERY, HumanDuration::get).max(REAP_EVERY_MIN)
    }

    /// The most logins at a time.
    pub fn logins_max(&self) -> u32 {
        self.logins_max.unwrap_or(LOGINS_MAX)
    }

    /// What contradicts itself.
    pub fn problem(&self) -> Option<&'static str> {
        (self.set_role && self.per == Per::Principal)
            .then_some("`set_role` would hide the person that `per: principal` shows; leave out one of them")
    }
}
