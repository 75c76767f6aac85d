//! The parts work: clusters start, crash and come back; issuers sign what they publish; nothing is left.

use std::time::Duration;

use anyhow::Result;
use doorward_testkit::http::{StrictClient, raw, statuses};
use doorward_testkit::issuer::{Alg, Issuer, Misbehaviour, PEOPLE};
use doorward_testkit::oidc_provider::Provider;
use doorward_testkit::postgres::{Cluster, Durability, Installation};

#[test]
fn a_cluster_survives_a_stop_and_a_crash() -> Result<()> {
    let cluster = Cluster::start_new(Installation::debian()?, Durability::Safe)?;
    cluster.sql("create table kept (n int)")?;
    for round in 0..3 {
        cluster.sql(&format!("insert into kept values ({round})"))?;
        if round % 2 == 0 {
            cluster.kill9()?
        } else {
            cluster.stop()?
        }
        assert!(cluster.sql("select 1").is_err(), "it is down");
        cluster.start()?;
    }
    assert_eq!(cluster.sql("select count(*) from kept")?, "3");
    Ok(())
}

#[test]
fn both_versions_run_and_passwords_are_checked() -> Result<()> {
    for (cluster, least) in [(Cluster::debian()?, 13), (Cluster::newer()?, 18)] {
        let major: u32 = cluster.sql("show server_version_num")?.parse::<u32>()? / 10_000;
        assert!(major >= least, "{major}");
        let refused = cluster.sql_as("postgres", "wrong", "postgres", "select 1");
        assert!(format!("{:#}", refused.unwrap_err()).contains("password authentication failed"));
    }
    Ok(())
}

#[test]
fn tests_share_a_cluster_and_have_databases_of_their_own() -> Result<()> {
    let cluster = Cluster::shared()?;
    let (one, two) = (cluster.database()?, cluster.database()?);
    cluster.ensure_role("authenticator", "LOGIN NOINHERIT PASSWORD 'first'")?;
    cluster.ensure_role("authenticator", "LOGIN NOINHERIT PASSWORD 'second'")?;
    one.sql("create table t ()")?;
    assert!(two.sql("select from t").is_err());
    let name = one.name().to_owned();
    drop(one);
    assert_eq!(cluster.sql(&format!("select count(*) from pg_database where datname = '{name}'"))?, "0");
    assert_eq!(cluster.sql_as("authenticator", "second", two.name(), "select 1")?, "1");
    Ok(())
}

#[tokio::test]
async fn an_issuer_publishes_what_it_signs_with_and_counts() -> Result<()> {
    let mut issuer = Issuer::start()?;
    let url = issuer.url().to_owned();
    let client = || StrictClient::new(url.clone());
    let discovery = client().get("/.well-known/openid-configuration").await?.json()?;
    assert_eq!(discovery["issuer"], url.as_str());
    let keys = client().get("/jwks").await?.json()?;
    let algs: Vec<_> = keys["keys"].as_array().unwrap().iter().map(|key| key["alg"].clone()).collect();
    assert_eq!(algs, ["ES256", "RS256", "EdDSA"]);

    let old = issuer.key(Alg::Rs256)?;
    issuer.rotate(Alg::Rs256)?;
    let keys = client().get("/jwks").await?.text();
    assert!(!keys.contains(old.kid()));
    assert_eq!(issuer.fetches().jwks, 2);

    issuer.misbehave_jwks(Some(Misbehaviour::Status(503)));
    assert_eq!(client().get("/jwks").await?.status, 503);
    issuer.stop();
    assert!(client().get("/jwks").await.is_err());
    issuer.misbehave_jwks(None);
    issuer.restart()?;
    assert_eq!(client().get("/jwks").await?.status, 200);
    for person in PEOPLE {
        assert_eq!(person.token(&issuer, Duration::from_secs(60))?.split('.').count(), 3);
    }
    Ok(())
}

#[tokio::test]
async fn oidc_provider_issues_jwt_access_tokens() -> Result<()> {
    let provider = Provider::start("doorward", Alg::Es256)?;
    let token = provider.token("analyst").await?;
    let payload = token.split('.').nth(1).unwrap();
    use base64::Engine as _;
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload)?;
    let claims: serde_json::Value = serde_json::from_slice(&payload)?;
    assert_eq!(claims["iss"], provider.url());
    assert_eq!(claims["aud"], "doorward");
    assert_eq!(claims["groups"], serde_json::json!(["analysts"]));
    Ok(())
}

#[test]
fn a_raw_socket_reads_what_comes() -> Result<()> {
    let issuer = Issuer::start()?;
    let address = issuer.url().strip_prefix("http://").unwrap().parse()?;
    let two = b"GET /jwks HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = raw(address, two, Duration::from_secs(2))?;
    assert_eq!(statuses(&answer), [200, 404]);
    Ok(())
}
