//! Short-lived client certificates against real servers, PostgreSQL 15 and 18, that log in by certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use doorward_core::{ClientIdentity, Login, Proof, ResourceName, RoleName, Secret};
use doorward_lease::{
    AuthorityError, Certificates, CredentialSource, NewAuthority, Wanted, authority_facts, new_authority,
};
use doorward_pgclient::blocking::{Client, Options};
use doorward_pgclient::{CertificatesConfig, Target};
use doorward_settings::Document;
use doorward_testkit::postgres::Cluster;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};

fn config(ttl: &str) -> Result<CertificatesConfig> {
    let yaml = format!("ca: \"file:ca.crt\"\nkey: \"file:ca.key\"\nttl: {ttl}");
    let document = Document::parse("doorward.yaml", &yaml).map_err(|problem| anyhow::anyhow!("{problem}"))?;
    document.root().deserialize().map_err(|problem| anyhow::anyhow!("{problem}"))
}

fn source(authority: &NewAuthority) -> Result<Certificates> {
    Ok(Certificates::new(&authority.certificate, &authority.key, &config("5m")?)?)
}

async fn issue(source: &Certificates, role: &str) -> Result<Arc<Login>> {
    let wanted =
        Wanted { resource: ResourceName::new("shop"), role: Some(RoleName::new(role)), principal: None };
    let issued = source.issue(&wanted).await?;
    assert_eq!(issued.good_for, Some(Duration::from_secs(300)));
    Ok(Arc::new(issued.login))
}

/// A server with TLS that believes the authority, and lets `analyst` and `loader` in by certificate only.
fn secure(cluster: &Cluster, authority: &NewAuthority) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let hba = "hostssl all analyst,loader 127.0.0.1/32 cert\nhostssl all analyst,loader ::1/128 cert\n\
               host all analyst,loader all reject\nhost all all 127.0.0.1/32 scram-sha-256\n";
    let files = [
        ("server.crt", made.cert.pem()),
        ("server.key", made.signing_key.serialize_pem()),
        ("clients.crt", authority.certificate.clone()),
        ("pg_hba.conf", hba.to_owned()),
    ];
    for (name, content) in files {
        cluster.write(name, &content)?;
    }
    cluster.sql("alter system set ssl = on")?;
    cluster.sql("alter system set ssl_ca_file = 'clients.crt'")?;
    cluster.sql("create role analyst login; create role loader login")?;
    cluster.restart()
}

/// Whom the server takes the login for, or why it does not.
fn connect(cluster: &Cluster, mode: &str, login: &Arc<Login>) -> Result<String, String> {
    let url = format!("postgres://127.0.0.1:{}/postgres?sslmode={mode}", cluster.port());
    let target = Target::parse(&url, false).map_err(|error| error.to_string())?;
    let mut client =
        Client::connect(&target, login, &Options::default()).map_err(|error| error.to_string())?;
    let reply = client.query("select session_user::text", &[]).map_err(|error| error.to_string())?;
    Ok(reply.first().and_then(|row| row.text(0).map(str::to_owned)).unwrap_or_default())
}

/// A login with a certificate that the authority has signed for another time.
fn ended(authority: &NewAuthority, role: &str) -> Result<Arc<Login>> {
    let issuer =
        Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(authority.key.expose())?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, role);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + (now - Duration::from_secs(600));
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + (now - Duration::from_secs(120));
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    let chain: Arc<[Box<[u8]>]> = Arc::new([certificate.der().to_vec().into()]);
    let identity = ClientIdentity { chain, key: Secret::new(key.serialize_der().into()) };
    Ok(Arc::new(Login::with(role, Proof::Certificate(identity))))
}

async fn the_server_lets_in_whom_the_certificate_names(cluster: &Cluster) -> Result<()> {
    let authority = new_authority("Doorward test", 30)?;
    secure(cluster, &authority)?;
    let certificates = source(&authority)?;
    let analyst = issue(&certificates, "analyst").await?;
    let stranger = issue(&source(&new_authority("Doorward test", 30)?)?, "analyst").await?;
    let identity = analyst.certificate().context("a certificate")?.clone();
    let as_loader = Arc::new(Login::with("loader", Proof::Certificate(identity)));
    let ended = ended(&authority, "analyst")?;
    tokio::task::block_in_place(|| {
        assert_eq!(connect(cluster, "require", &analyst), Ok("analyst".to_owned()));
        // Another role than the certificate's, one whose time is over, one of another authority, and none.
        assert!(connect(cluster, "require", &as_loader).is_err_and(|why| why.contains("loader")));
        assert!(connect(cluster, "require", &ended).is_err());
        assert!(connect(cluster, "require", &stranger).is_err());
        let password = Arc::new(Login::new("analyst", Secret::from("guess")));
        assert!(connect(cluster, "require", &password).is_err());
        // It is shown through TLS only.
        assert!(connect(cluster, "disable", &analyst).is_err_and(|why| why.contains("TLS")));
    });
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_on_debians_postgresql() -> Result<()> {
    the_server_lets_in_whom_the_certificate_names(&Cluster::debian()?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_on_a_newer_postgresql() -> Result<()> {
    the_server_lets_in_whom_the_certificate_names(&Cluster::newer()?).await
}

#[test]
fn an_authority_is_whole_and_good_now() -> Result<()> {
    let (one, two) = (new_authority("one", 30)?, new_authority("two", 30)?);
    let facts = authority_facts(&one.certificate)?;
    assert_eq!((&*facts.subject, facts.fingerprint.len()), ("CN=one", 64));
    assert!(facts.good.1 - facts.good.0 >= 30 * 86_400);
    let refused = |certificate: &str, key: &Secret| {
        Certificates::new(certificate, key, &config("5m")?).err().context("refused")
    };
    assert_eq!(refused(&one.certificate, &two.key)?, AuthorityError::OtherKey);
    assert_eq!(refused("no certificate", &one.key)?, AuthorityError::Certificate);
    assert_eq!(refused(&one.certificate, &Secret::from("no key"))?, AuthorityError::Key);
    let leaf = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = Secret::from(leaf.signing_key.serialize_pem());
    assert_eq!(refused(&leaf.cert.pem(), &key)?, AuthorityError::NotAuthority);
    let ended = new_authority("ended", 0)?;
    assert!(matches!(refused(&ended.certificate, &ended.key)?, AuthorityError::NotNow(_)));
    assert!(!format!("{one:?}").contains("PRIVATE"));
    Ok(())
}
