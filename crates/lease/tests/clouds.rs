//! Tokens of clouds in the place of passwords, at real servers, PostgreSQL 15 and 18, which take them as a cloud's
//! database does: in clear, through TLS that was verified. The clouds are recorded.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use doorward_core::{Login, LoginSource, ResourceName, RoleName};
use doorward_lease::{Clouds, CredentialSource, Keepers, Wanted};
use doorward_pgclient::blocking::{Client, Options};
use doorward_pgclient::{
    AwsRdsConfig, AzureEntraConfig, CloudConfig, GcpCloudSqlConfig, Impersonate, Target,
};
use doorward_testkit::cloud::{CloudEndpoints, Recorded};
use doorward_testkit::postgres::Cluster;

/// A database user that a service account is named after.
const ROLE: &str = "reader@shop.iam";
/// How long a login that was refused may take to be replaced.
const SOON: Duration = Duration::from_secs(60);

/// A server that takes the role's password in clear, through TLS only; and the certificate that it shows.
fn secure(cluster: &Cluster) -> Result<String> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let hba = format!(
        "hostssl all \"{ROLE}\" all password\nhost all \"{ROLE}\" all reject\nhost all all 127.0.0.1/32 scram-sha-256\n"
    );
    cluster.write("server.crt", &made.cert.pem())?;
    cluster.write("server.key", &made.signing_key.serialize_pem())?;
    cluster.write("pg_hba.conf", &hba)?;
    cluster.sql("alter system set ssl = on")?;
    cluster.sql(&format!("create role \"{ROLE}\" login"))?;
    cluster.restart()?;
    Ok(made.cert.pem())
}

/// What the database takes for the role.
fn believe(cluster: &Cluster, token: &str) -> Result<()> {
    cluster.sql(&format!("alter role \"{ROLE}\" password '{token}'"))?;
    Ok(())
}

/// Whom the server takes the login for, or why it does not.
fn connect(target: &Target, login: &Arc<Login>) -> Result<String, String> {
    let mut client =
        Client::connect(target, login, &Options::default()).map_err(|error| error.to_string())?;
    let reply = client.query("select session_user::text", &[]).map_err(|error| error.to_string())?;
    Ok(reply.first().and_then(|row| row.text(0).map(str::to_owned)).unwrap_or_default())
}

/// Recorded clouds, in which the gateway has an identity of each kind.
fn clouds(endpoints: &CloudEndpoints) -> Clouds {
    let life = Duration::from_secs(3600);
    endpoints.aws_instance("doorward", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", life);
    endpoints.azure_instance(&format!("eyJ0eXAiOiJKV1Qi.{}.azure", "a".repeat(2_000)));
    endpoints.gcp_metadata("ya29.of-the-gateway");
    endpoints.gcp_credentials(
        "reader@shop.iam.gserviceaccount.com",
        "ya29.of-the-gateway",
        "ya29.of-the-reader",
    );
    let variables: HashMap<&str, String> = HashMap::from([
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoints.url()),
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", endpoints.url()),
        ("GCE_METADATA_HOST", endpoints.authority()),
        ("CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS", endpoints.url()),
    ]);
    Clouds::within(move |name| variables.get(name).cloned())
}

fn configs() -> [CloudConfig; 3] {
    let endpoint = Some("shop.c1.eu-west-1.rds.amazonaws.com:5432".into());
    [
        CloudConfig::AwsRds(AwsRdsConfig { region: None, endpoint }),
        CloudConfig::AzureEntra(AzureEntraConfig::default()),
        CloudConfig::GcpCloudSql(GcpCloudSqlConfig { impersonate: Some(Impersonate::ByRole) }),
    ]
}

async fn issue(source: &dyn CredentialSource) -> Result<Arc<Login>> {
    let role = Some(RoleName::new(ROLE));
    let issued = source.issue(&Wanted { resource: ResourceName::new("shop"), role, principal: None }).await?;
    Ok(Arc::new(issued.login))
}

async fn the_server_takes_tokens_for_passwords(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = folder.path().join("server-ca.pem");
    std::fs::write(&authority, secure(cluster)?)?;
    let at = |parameters: &str| format!("postgres://localhost:{}/postgres?{parameters}", cluster.port());
    let verified = at(&format!("sslmode=verify-full&sslrootcert={}", authority.display()));
    let target = Target::parse(&verified, false)?;
    let endpoints = CloudEndpoints::start()?;
    let clouds = clouds(&endpoints);
    for config in configs() {
        let login = issue(&*clouds.source(&config, &target, None)?).await?;
        let token = login.password().context("a token")?.expose();
        tokio::task::block_in_place(|| {
            believe(cluster, token)?;
            assert_eq!(connect(&target, &login), Ok(ROLE.to_owned()), "{config:?}");
            // A server that has not proved who it is gets no token.
            let unverified = Target::parse(&at("sslmode=require"), false)?;
            let refused = connect(&unverified, &login).err().context("it was given a token")?;
            assert!(refused.contains("not verified") && !refused.contains(&**token), "{refused}");
            assert!(!login.was_refused());
            believe(cluster, "another one")?;
            assert!(connect(&target, &login).is_err_and(|why| !why.contains(&**token)));
            assert!(login.was_refused());
            anyhow::Ok(())
        })?;
        for plain in ["sslmode=require", "sslmode=disable"] {
            let refused = clouds.source(&config, &Target::parse(&at(plain), false)?, None);
            assert!(refused.is_err_and(|why| why.to_string().contains("verified server only")), "{plain}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_on_debians_postgresql() -> Result<()> {
    the_server_takes_tokens_for_passwords(&Cluster::debian()?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_on_a_newer_postgresql() -> Result<()> {
    the_server_takes_tokens_for_passwords(&Cluster::newer()?).await
}

/// What was refused is forgotten: the next one is asked of the cloud, not of what was kept.
#[tokio::test]
async fn a_token_that_was_refused_is_fetched_anew() -> Result<()> {
    let endpoints = CloudEndpoints::start()?;
    let target = Target::parse("postgres://shop.postgres.database.azure.com/shop", false)?;
    let config = CloudConfig::AzureEntra(AzureEntraConfig::default());
    let source = clouds(&endpoints).source(&config, &target, Some("gateway"))?;
    let keepers = Keepers::default();
    let keeper = keepers.keeper("azure", &ResourceName::new("shop"), || source);
    let first = keeper.login().await.map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
    endpoints.azure_instance("eyJ0eXAiOiJKV1Qi.second.azure");
    // Nothing is asked while nothing is wrong.
    let again = keeper.login().await.map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
    assert!(Arc::ptr_eq(&first, &again) && endpoints.lines().len() == 1);
    first.refuse();
    let start = std::time::Instant::now();
    let second = loop {
        let login = keeper.login().await.map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
        if !Arc::ptr_eq(&login, &first) {
            break login;
        }
        assert!(start.elapsed() < SOON, "it was not replaced");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(second.password().map(|token| &**token.expose()), Some("eyJ0eXAiOiJKV1Qi.second.azure"));
    assert_eq!(endpoints.lines().len(), 1);
    // A source that fails is told with the endpoint and without a token.
    endpoints.answer("GET /metadata/identity/oauth2/token", Recorded::new(400, ""));
    let other = clouds_that_refuse(&endpoints, &target)?;
    let keeper = keepers.keeper("refusing", &ResourceName::new("shop"), || other);
    let fault = keeper.login().await.err().context("refused")?;
    assert_eq!(fault.code().name, "lease.source-refused");
    let cause = fault.cause_text().unwrap_or_default();
    assert!(cause.starts_with("azure_entra: 127.0.0.1:") && cause.contains("/metadata/identity"), "{cause}");
    assert!(keeper.trouble().is_some_and(|trouble| trouble.contains("400")));
    Ok(())
}

/// A source whose endpoint says no.
fn clouds_that_refuse(endpoints: &CloudEndpoints, target: &Target) -> Result<Arc<dyn CredentialSource>> {
    let url = endpoints.url();
    let clouds =
        Clouds::within(move |name| (name == "AZURE_POD_IDENTITY_AUTHORITY_HOST").then(|| url.clone()));
    let config = CloudConfig::AzureEntra(AzureEntraConfig::default());
    Ok(clouds.source(&config, target, Some("gateway"))?)
}
