//! Backend logins by an identity of a cloud, through the real gateway: its tokens in the place of passwords, replaced when
//! the database refuses them, and what is said when there are none. The cloud is recorded; the database is real.

use anyhow::{Context, Result, ensure};
use doorward_testkit::cloud::{CloudEndpoints, Recorded};
use doorward_testkit::gateway::{Running, Setup};
use doorward_testkit::http::StrictClient;
use doorward_testkit::issuer::Issuer;
use doorward_testkit::postgres::{Cluster, Database};
use doorward_testkit::wait_until;

use crate::bed::{SOON, block_on};
use crate::wire::client::Wire;

/// The gateway's own database user, and a role that a grant names: service accounts of Google Cloud.
const GATEWAY: &str = "gateway@shop.iam";
const READER: &str = "reader@shop.iam";
const TOKENS: [&str; 2] = ["ya29.s3cret-first-of-the-gateway", "ya29.s3cret-second-of-the-gateway"];
const READER_TOKENS: [&str; 2] = ["ya29.s3cret-first-of-the-reader", "ya29.s3cret-second-of-the-reader"];
const IAM: &str =
    "POST /v1/projects/-/serviceAccounts/reader@shop.iam.gserviceaccount.com:generateAccessToken";

/// A database that takes tokens, a recorded cloud, and an issuer.
struct Bed {
    cloud: CloudEndpoints,
    issuer: Issuer,
    database: Database<'static>,
    folder: tempfile::TempDir,
}

impl Bed {
    fn new(cluster: &'static Cluster) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("server-ca.pem"), made.cert.pem())?;
        let hba = format!(
            "hostssl all \"{GATEWAY}\",\"{READER}\" all password\nhost all \"{GATEWAY}\",\"{READER}\" all reject\n\
             host all all 127.0.0.1/32 scram-sha-256\n"
        );
        cluster.write("server.crt", &made.cert.pem())?;
        cluster.write("server.key", &made.signing_key.serialize_pem())?;
        cluster.write("pg_hba.conf", &hba)?;
        cluster.sql("alter system set ssl = on")?;
        cluster.sql(&format!("create role \"{GATEWAY}\" login noinherit; create role \"{READER}\" login"))?;
        cluster.sql(&format!("grant \"{READER}\" to \"{GATEWAY}\""))?;
        cluster.restart()?;
        let database = cluster.database()?;
        database.sql(
            "create table orders (id int primary key); insert into orders select generate_series(1, 20)",
        )?;
        database.sql(&format!("grant select on orders to \"{READER}\""))?;
        let bed = Self { cloud: CloudEndpoints::start()?, issuer: Issuer::start()?, database, folder };
        bed.turn(0)?;
        Ok(bed)
    }

    /// The cloud gives these tokens, and the database takes no others.
    fn turn(&self, number: usize) -> Result<()> {
        self.cloud.gcp_metadata(TOKENS[number]);
        let (own, reader) = (TOKENS[number], READER_TOKENS[number]);
        self.cloud.gcp_credentials("gateway@shop.iam.gserviceaccount.com", own, own);
        self.cloud.gcp_credentials("reader@shop.iam.gserviceaccount.com", own, reader);
        for (role, token) in [(GATEWAY, own), (READER, reader)] {
            self.database.cluster().sql(&format!("alter role \"{role}\" password '{token}'"))?;
        }
        Ok(())
    }

    fn setup(&self) -> Result<Setup> {
        let port = self.database.cluster().port();
        let (name, authority) = (self.database.name(), self.folder.path().join("server-ca.pem"));
        let config = format!(
            "version: 1
environment: test
listen: {{ http: 127.0.0.1:0, admin: 127.0.0.1:0, postgres: 127.0.0.1:0 }}
issuers: {{ idp: {{ url: \"{}\", audience: doorward }} }}
resources:
  shop:
    url: \"postgres://localhost:{port}/{name}?sslmode=verify-full&sslrootcert={}\"
    login: {{ user: {GATEWAY}, gcp_cloud_sql: {{}} }}
    roles: {{ gcp_cloud_sql: {{ impersonate: by-role }} }}
grants:
  readers: {{ to: group:readers, allow: read shop/public/*, as: {READER} }}
",
            self.issuer.url(),
            authority.display(),
        );
        let setup = Setup::new(&config)?.env("GCE_METADATA_HOST", &self.cloud.authority());
        Ok(setup.env("CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS", &self.cloud.url()))
    }

    fn token(&self) -> Result<String> {
        self.issuer.token("ann").claim("groups", ["readers"]).sign()
    }

    /// What a session of the Postgres door answers, or why there is none.
    fn session(&self, gateway: &Running) -> Result<String> {
        let mut wire = Wire::connect(gateway.address("postgres")?, "ann", "shop", &self.token()?)?;
        let answer = wire.value("select session_user::text || ' ' || count(*) from orders")?;
        wire.leave()?;
        Ok(answer)
    }

    /// Waits until both doors serve.
    fn serves(&self, gateway: &Running) -> Result<()> {
        let client = StrictClient::new(gateway.url()?).bearer(self.token()?);
        let mut last = String::new();
        let well = wait_until(SOON, || {
            let wire = self.session(gateway).unwrap_or_else(|error| format!("{error:#}"));
            let rest = block_on(client.get("/shop/orders?select=id&limit=1")).flatten();
            let rest = rest.map_or_else(|error| error.to_string(), |answer| answer.text());
            last = format!("{wire} / {rest}");
            wire == format!("{READER} 20") && rest == "[{\"id\":1}]"
        });
        ensure!(well, "{last}\n{}", gateway.log());
        Ok(())
    }
}

#[test]
fn a_clouds_tokens_stand_in_the_place_of_passwords() -> Result<()> {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::debian()?));
    let done = sessions_stand_on_tokens(cluster);
    cluster.stop()?;
    done
}

fn sessions_stand_on_tokens(cluster: &'static Cluster) -> Result<()> {
    let bed = Bed::new(cluster)?;
    let setup = bed.setup()?;
    let text = |output: std::process::Output| {
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let checked = text(setup.run(&["check"])?);
    for line in [
        "resource shop: login by gcp_cloud_sql, the account that the environment has",
        "resource shop: roles by gcp_cloud_sql, impersonating the account that each role is named after",
    ] {
        ensure!(checked.contains(line), "{checked}");
    }
    let doctor = text(setup.run(&["doctor"])?);
    let well = format!("role {READER} of shop");
    let line = doctor.lines().find(|line| line.contains(&well)).context("a line of the role")?;
    ensure!(line.contains("its source issues credentials"), "{doctor}");

    let mut gateway = setup.start()?;
    bed.serves(&gateway)?;
    // The identity is given another token, and the database takes the old one no more.
    bed.turn(1)?;
    cluster.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename like '%@shop.iam'")?;
    bed.serves(&gateway)?;
    let log = gateway.log();
    ensure!(gateway.term()?.success(), "{}", gateway.log());
    for token in TOKENS.into_iter().chain(READER_TOKENS) {
        ensure!(!log.contains(token) && !checked.contains(token) && !doctor.contains(token), "{log}");
    }

    // The account may not be impersonated: nobody is let in, and the operator reads where and why.
    let denied = serde_json::json!({ "error": {
        "code": 403, "message": "Permission 'iam.serviceAccounts.getAccessToken' denied on resource",
        "status": "PERMISSION_DENIED" } });
    bed.cloud.answer(IAM, Recorded::json(403, &denied));
    let setup = bed.setup()?;
    let doctor = text(setup.run(&["doctor"])?);
    for part in [
        &bed.cloud.authority(),
        "generateAccessToken: 403 PERMISSION_DENIED Permission 'iam.serviceAccounts.getAccessToken' denied",
        "Service Account Token Creator",
    ] {
        ensure!(doctor.contains(part), "{part}: {doctor}");
    }
    let gateway = setup.start()?;
    let mut refused = String::new();
    let told = wait_until(SOON, || {
        refused = bed.session(&gateway).unwrap_or_else(|error| format!("{error:#}"));
        refused.contains("is refused a credential")
    });
    ensure!(told && !refused.contains("iam.serviceAccounts"), "{refused}\n{}", gateway.log());
    Ok(())
}
