//! The configuration of logins that stand on an identity which a cloud gives the gateway: AWS RDS, Azure Database for
//! PostgreSQL and Google Cloud SQL take a short-lived token of such an identity in the place of a password. What it
//! says is done by the lease organ.
//!
//! Invariant: none of it holds a secret, and a token goes to a database only that has proved who it is.

use std::borrow::Cow;

use doorward_settings::Spanned;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess};

use crate::target::{Endpoint, SslMode, Target};

/// The key of each cloud.
pub(crate) const AWS_RDS: &str = "aws_rds";
pub(crate) const AZURE_ENTRA: &str = "azure_entra";
pub(crate) const GCP_CLOUD_SQL: &str = "gcp_cloud_sql";
/// The endings of RDS's own host names, before which the region stands.
const RDS_ENDINGS: [&str; 2] = [".rds.amazonaws.com", ".rds.amazonaws.com.cn"];
/// The longest name of a region, host or account.
const NAME_BYTES_MAX: usize = 255;

/// An identity that a cloud gives the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloudConfig {
    /// AWS RDS and Aurora.
    AwsRds(AwsRdsConfig),
    /// Azure Database for PostgreSQL.
    AzureEntra(AzureEntraConfig),
    /// Google Cloud SQL.
    GcpCloudSql(GcpCloudSqlConfig),
}

/// Tokens of AWS RDS IAM authentication, signed with the credentials that the gateway's environment gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AwsRdsConfig {
    /// The instance's region (default: as its host name says, `NAME.ID.REGION.rds.amazonaws.com`).
    pub region: Option<Box<str>>,
    /// The instance's own name and port, `HOST:PORT`, where the resource's URL reaches it by another one: tokens are
    /// signed for the own one.
    pub endpoint: Option<Box<str>>,
}

/// Tokens of Microsoft Entra for Azure Database for PostgreSQL, of the gateway's managed identity or its workload
/// identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AzureEntraConfig {
    /// The client id of a user-assigned identity (default: the machine's own identity, or AZURE_CLIENT_ID of a
    /// workload identity).
    pub client_id: Option<Box<str>>,
    /// Which of Azure's clouds the database is in: `public` (default), `us-government` or `china`.
    #[serde(default)]
    pub cloud: AzureCloud,
}

/// One of Azure's clouds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AzureCloud {
    /// The public one.
    #[default]
    Public,
    /// That of the government of the United States.
    UsGovernment,
    /// That of China.
    China,
}

/// Tokens of Cloud SQL IAM authentication, of the service account that the gateway runs as or of one that it may
/// impersonate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GcpCloudSqlConfig {
    /// The service account that is impersonated: its e-mail address; or `by-role`, for the one that the database user
    /// is named after (`NAME@PROJECT.iam`). Default: none, the gateway's own.
    pub impersonate: Option<Impersonate>,
}

/// Which service account is impersonated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Impersonate {
    /// The one that the database user is named after.
    ByRole,
    /// This one.
    Account(Box<str>),
}

impl<'de> Deserialize<'de> for Impersonate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<str>::deserialize(deserializer)?;
        match &*text {
            "by-role" => Ok(Self::ByRole),
            account if is_account(account) => Ok(Self::Account(text)),
            _ => Err(D::Error::custom(
                "expected a service account's e-mail address, or `by-role` for the one that each role is named after",
            )),
        }
    }
}

impl JsonSchema for Impersonate {
    fn schema_name() -> Cow<'static, str> {
        "Impersonate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A service account's e-mail address, or `by-role` for the one that the database user is named after.",
        })
    }
}

/// Whether this may be a service account's e-mail address: it becomes part of a URL.
pub fn is_account(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    };
    text.len() <= NAME_BYTES_MAX
        && text
            .split_once('@')
            .is_some_and(|(name, domain)| plain(name) && plain(domain) && domain.contains('.'))
}

impl CloudConfig {
    /// The key under which it stands.
    pub fn key(&self) -> &'static str {
        match self {
            Self::AwsRds(_) => AWS_RDS,
            Self::AzureEntra(_) => AZURE_ENTRA,
            Self::GcpCloudSql(_) => GCP_CLOUD_SQL,
        }
    }

    /// The one that is given; `Err` when several are.
    pub(crate) fn one_of(
        aws_rds: Option<AwsRdsConfig>,
        azure_entra: Option<AzureEntraConfig>,
        gcp_cloud_sql: Option<GcpCloudSqlConfig>,
    ) -> Result<Option<Self>, &'static str> {
        match (aws_rds, azure_entra, gcp_cloud_sql) {
            (None, None, None) => Ok(None),
            (Some(config), None, None) => Ok(Some(Self::AwsRds(config))),
            (None, Some(config), None) => Ok(Some(Self::AzureEntra(config))),
            (None, None, Some(config)) => Ok(Some(Self::GcpCloudSql(config))),
            _ => Err("a login stands on one cloud; leave out the others"),
        }
    }

    /// Reads the one under this key; `None` for any other key.
    pub(crate) fn read<'de, A: MapAccess<'de>>(
        key: &str,
        map: &mut A,
    ) -> Result<Option<Spanned<Self>>, A::Error> {
        Ok(match key {
            AWS_RDS => Some(map.next_value::<Spanned<AwsRdsConfig>>()?.map(Self::AwsRds)),
            AZURE_ENTRA => Some(map.next_value::<Spanned<AzureEntraConfig>>()?.map(Self::AzureEntra)),
            GCP_CLOUD_SQL => Some(map.next_value::<Spanned<GcpCloudSqlConfig>>()?.map(Self::GcpCloudSql)),
            _ => None,
        })
    }

    /// Their schemas, by key.
    pub(crate) fn schemas(generator: &mut SchemaGenerator) -> [(&'static str, Schema); 3] {
        [
            (AWS_RDS, generator.subschema_for::<AwsRdsConfig>()),
            (AZURE_ENTRA, generator.subschema_for::<AzureEntraConfig>()),
            (GCP_CLOUD_SQL, generator.subschema_for::<GcpCloudSqlConfig>()),
        ]
    }

    /// What is wrong with it for this database, offline.
    pub fn problem(&self, target: &Target) -> Option<CloudProblem> {
        if let Self::AwsRds(config) = self {
            if config.endpoint.as_deref().is_some_and(|endpoint| host_and_port(endpoint).is_none()) {
                return Some(CloudProblem::Endpoint);
            }
            match config.signed_for(target) {
                None => return Some(CloudProblem::Socket),
                Some(_) if !target.others.is_empty() => return Some(CloudProblem::Hosts),
                Some((host, _)) if config.region(&host).is_none() => return Some(CloudProblem::Region),
                Some(_) => {}
            }
        }
        let local = target.endpoints().all(|endpoint| matches!(endpoint, Endpoint::Unix(_)));
        let verified = match target.ssl {
            SslMode::VerifyFull => true,
            SslMode::Require => target.root_certificates.is_some(),
            SslMode::Prefer | SslMode::Disable => false,
        };
        (!local && !verified).then_some(CloudProblem::Unverified)
    }
}

/// What is wrong with a login that stands on a cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloudProblem {
    /// Neither the configuration nor the host's name has a region.
    #[error(
        "`aws_rds` needs a `region`: the host's name does not have one, as NAME.ID.REGION.rds.amazonaws.com does"
    )]
    Region,
    /// `endpoint` is not `HOST:PORT`.
    #[error("`endpoint` of `aws_rds` is the instance's own HOST:PORT")]
    Endpoint,
    /// RDS is not reached through a socket.
    #[error("`aws_rds` signs tokens for a host and a port; the URL names a socket, so say `endpoint`")]
    Socket,
    /// A token is for one server.
    #[error(
        "`aws_rds` signs a token for one host, and the URL names several: name the cluster's own endpoint"
    )]
    Hosts,
    /// The database could be anybody.
    #[error(
        "a token of the cloud goes to a verified server only: write sslmode=verify-full into the URL, and sslrootcert for an authority that is not the system's"
    )]
    Unverified,
}

impl AwsRdsConfig {
    /// The region, where it is said, or the host's name has it.
    pub fn region<'a>(&'a self, host: &'a str) -> Option<&'a str> {
        let of_host = || {
            let before = RDS_ENDINGS.iter().find_map(|ending| host.strip_suffix(ending))?;
            let (_, region) = before.rsplit_once('.')?;
            Some(region)
        };
        let plain = |region: &&str| {
            !region.is_empty()
                && region.len() <= NAME_BYTES_MAX
                && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        self.region.as_deref().or_else(of_host).filter(plain)
    }

    /// The host and port that tokens are signed for.
    pub fn signed_for(&self, target: &Target) -> Option<(Box<str>, u16)> {
        match (&self.endpoint, &target.endpoint) {
            (Some(endpoint), _) => host_and_port(endpoint),
            (None, Endpoint::Tcp(host, port)) => Some((host.to_ascii_lowercase().into(), *port)),
            (None, Endpoint::Unix(_)) => None,
        }
    }
}

fn host_and_port(text: &str) -> Option<(Box<str>, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    let fine = !host.is_empty() && host.len() <= NAME_BYTES_MAX && host.bytes().all(plain);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    fine.then(|| (host.to_ascii_lowercase().into(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RDS: &str = "postgres://shop.c1.eu-west-1.rds.amazonaws.com/shop";

    fn aws(region: Option<&str>, endpoint: Option<&str>) -> CloudConfig {
        CloudConfig::AwsRds(AwsRdsConfig {
            region: region.map(Into::into),
            endpoint: endpoint.map(Into::into),
        })
    }

    #[test]
    fn a_region_is_said_or_in_the_hosts_name() {
        for (said, host, region) in [
            (None, "shop.c1.eu-west-1.rds.amazonaws.com", Some("eu-west-1")),
            (None, "p.proxy-c1.us-east-1.rds.amazonaws.com", Some("us-east-1")),
            (None, "shop.c1.cn-north-1.rds.amazonaws.com.cn", Some("cn-north-1")),
            (Some("us-west-2"), "shop.c1.eu-west-1.rds.amazonaws.com", Some("us-west-2")),
            (Some("us-west-2"), "db.internal", Some("us-west-2")),
            (Some("us west"), "db.internal", None),
            (Some("a/b"), "db.internal", None),
            (None, "db.internal", None),
            (None, "rds.amazonaws.com", None),
            (None, "eu-west-1.rds.amazonaws.com.evil.example", None),
        ] {
            let config = AwsRdsConfig { region: said.map(Into::into), endpoint: None };
            assert_eq!(config.region(host), region, "{said:?} {host}");
        }
    }

    #[test]
    fn a_token_goes_to_verified_servers_only() {
        let gcp = || CloudConfig::GcpCloudSql(GcpCloudSqlConfig::default());
        let azure = || CloudConfig::AzureEntra(AzureEntraConfig::default());
        let local = "postgres://127.0.0.1/shop";
        for (config, url, expected) in [
            (aws(None, None), RDS, None),
            (aws(None, None), &format!("{RDS}?sslmode=require") as &str, Some(CloudProblem::Unverified)),
            (aws(None, None), &format!("{RDS}?sslmode=require&sslrootcert=rds.pem"), None),
            (aws(None, None), &format!("{RDS}?sslmode=disable"), Some(CloudProblem::Unverified)),
            (aws(None, None), "postgres://db.internal/shop", Some(CloudProblem::Region)),
            (aws(Some("eu-west-1"), None), local, Some(CloudProblem::Unverified)),
            (aws(Some("eu-west-1"), None), "postgres:///shop?host=/run/pg", Some(CloudProblem::Socket)),
            (
                aws(None, None),
                &RDS.replace(".com/", ".com,b.c1.eu-west-1.rds.amazonaws.com/"),
                Some(CloudProblem::Hosts),
            ),
            (aws(None, Some("shop")), RDS, Some(CloudProblem::Endpoint)),
            (aws(None, Some("shop:0")), RDS, Some(CloudProblem::Endpoint)),
            (aws(None, Some("a/b:5432")), RDS, Some(CloudProblem::Endpoint)),
            (gcp(), local, Some(CloudProblem::Unverified)),
            (gcp(), "postgres:///shop?host=/cloudsql/p:r:shop", None),
            (
                azure(),
                "postgres://shop.postgres.database.azure.com,replica.postgres.database.azure.com/shop",
                None,
            ),
            (azure(), "postgres://db.internal/shop?sslmode=disable", Some(CloudProblem::Unverified)),
        ] {
            let target = Target::parse(url, true).unwrap();
            assert_eq!(config.problem(&target), expected, "{config:?} {url}");
        }
    }

    #[test]
    fn tokens_are_signed_for_the_instances_own_name() {
        let target = Target::parse(&RDS.replace("shop.c1", "Shop.C1"), false).unwrap();
        let own = Some(("shop.c1.eu-west-1.rds.amazonaws.com".into(), 5432));
        assert_eq!(AwsRdsConfig::default().signed_for(&target), own);
        let tunnel = Target::parse("postgres://127.0.0.1:6000/shop", false).unwrap();
        let config =
            AwsRdsConfig { region: None, endpoint: Some("Shop.C1.eu-west-1.rds.amazonaws.com:5432".into()) };
        assert_eq!(config.signed_for(&tunnel), own);
    }

    #[test]
    fn accounts_are_e_mail_addresses() {
        for (text, fine) in [
            ("reader@shop-1.iam.gserviceaccount.com", true),
            ("123-compute@developer.gserviceaccount.com", true),
            ("reader", false),
            ("reader@shop", false),
            ("a/b@shop.iam", false),
            ("a@b.c:x", false),
            ("@shop.iam", false),
        ] {
            assert_eq!(is_account(text), fine, "{text}");
        }
    }
}
