//! TLS to a real server: who is trusted, and who is not.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use doorward_core::{ClientIdentity, Login, Proof, Secret};
use doorward_pgclient::{Pool, Target};
use doorward_testkit::postgres::Cluster;

use crate::support::{LOGIN, clusters, login, read, small, text};
use rcgen::{CertificateParams, DnType, KeyPair};

/// Gives a cluster a key and a certificate for `localhost`; returns the certificate.
fn secure(cluster: &Cluster) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for (name, pem) in [("server.crt", &certificate), ("server.key", &key)] {
        cluster.write(name, pem).unwrap();
    }
    cluster.sql("alter system set ssl = on").unwrap();
    cluster.sql("grant pg_read_all_stats to alice").unwrap();
    cluster.restart().unwrap();
    certificate
}

async fn connect(cluster: &Cluster, host: &str, parameters: &str) -> Result<String, String> {
    connect_as(cluster, host, parameters, login()).await
}

async fn connect_as(
    cluster: &Cluster,
    host: &str,
    parameters: &str,
    login: Arc<Login>,
) -> Result<String, String> {
    let url = format!("postgres://{host}:{}/postgres?{parameters}", cluster.port());
    let target = Target::parse(&url, false).unwrap();
    let pool = Pool::new(target, login, small(1)).map_err(|error| error.to_string())?;
    let sql = "select coalesce(version, 'plain') from pg_stat_ssl where pid = pg_backend_pid()";
    match read(&pool, "alice", sql).await {
        Ok(reply) => Ok(text(&reply)),
        Err(error) => Err(error.into_fault().cause_text().unwrap_or_default().to_owned()),
    }
}

#[tokio::test]
async fn the_server_is_verified_when_asked() {
    for cluster in clusters() {
        let certificate = secure(&cluster);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, certificate).unwrap();
        let roots = format!("sslrootcert={}", file.display());
        let tls = Ok("TLSv1.3".to_owned());
        assert_eq!(connect(&cluster, "localhost", &format!("sslmode=verify-full&{roots}")).await, tls);
        assert_eq!(connect(&cluster, "localhost", "sslmode=require").await, tls);
        assert_eq!(connect(&cluster, "localhost", "sslmode=prefer").await, tls);
        assert_eq!(connect(&cluster, "localhost", "sslmode=disable").await, Ok("plain".into()));
        // Another name than the certificate's, and an authority that nobody knows.
        let wrong_name = connect(&cluster, "127.0.0.1", &format!("sslmode=verify-full&{roots}")).await;
        assert!(wrong_name.is_err_and(|why| why.contains("certificate")));
        assert!(connect(&cluster, "localhost", "sslmode=verify-full").await.is_err());
        // Cancelling goes the same way.
        let url = format!("postgres://localhost:{}/postgres?sslmode=verify-full&{roots}", cluster.port());
        let pool = Pool::new(Target::parse(&url, false).unwrap(), login(), small(1)).unwrap();
        let sleeping = read(&pool, "alice", "select pg_sleep(30)");
        tokio::time::timeout(std::time::Duration::from_millis(400), sleeping).await.unwrap_err();
        assert_eq!(text(&read(&pool, "alice", "select 1").await.unwrap()), "1");
    }
}

/// A certificate in the name of the login, and its PEM.
fn identity() -> (ClientIdentity, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, LOGIN);
    let certificate = params.self_signed(&key).unwrap();
    let chain: Vec<Box<[u8]>> = vec![certificate.der().to_vec().into()];
    let key = Secret::new(Arc::from(key.serialize_der()));
    (ClientIdentity { chain: chain.into(), key }, certificate.pem())
}

#[tokio::test]
async fn a_client_certificate_is_a_login() {
    for cluster in clusters() {
        secure(&cluster);
        let (known, pem) = identity();
        let hba = "hostssl all authenticator all cert\n";
        for (text, program) in [
            (pem.as_str(), "base64 -d > client-ca.crt"),
            (hba, "base64 -d > hba.next && cat pg_hba.conf >> hba.next && mv hba.next pg_hba.conf"),
        ] {
            let text = STANDARD.encode(text);
            cluster.sql(&format!("copy (select '{text}') to program '{program}'")).unwrap();
        }
        cluster.sql("alter system set ssl_ca_file = 'client-ca.crt'").unwrap();
        cluster.restart().unwrap();
        let of = |identity| Arc::new(Login::with(LOGIN, Proof::Certificate(identity)));
        let tls = Ok("TLSv1.3".to_owned());
        assert_eq!(connect_as(&cluster, "localhost", "sslmode=require", of(known.clone())).await, tls);
        // The same name with another key.
        let other = connect_as(&cluster, "localhost", "sslmode=require", of(identity().0)).await;
        assert!(other.is_err(), "{other:?}");
        // A password does not stand in for it.
        let password = connect_as(&cluster, "localhost", "sslmode=require", login()).await;
        assert!(password.as_ref().is_err_and(|why| why.contains("certificate")), "{password:?}");
        // It is never shown in the clear, and never left out.
        let plain = connect_as(&cluster, "localhost", "sslmode=disable", of(known)).await;
        assert!(plain.as_ref().is_err_and(|why| why.contains("through TLS only")), "{plain:?}");
    }
}
