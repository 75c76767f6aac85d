//! Logins that the gateway makes itself, through the real binary.

use doorward_testkit::wait_until;

use super::*;
use crate::bed::SOON;

const ADMIN_PASSWORD: &str = "s3cret-of-the-managing-login";

/// A gateway whose `roles` are managed; this is said of them.
struct Managed {
    gateway: Running,
    issuer: Issuer,
    database: Database<'static>,
}

impl Managed {
    fn start(cluster: &'static Cluster, more: &str) -> Result<Self> {
        Self::start_with(cluster, more, "environment: test")
    }

    /// With this laid over the configuration.
    fn start_with(cluster: &'static Cluster, more: &str, overlay: &str) -> Result<Self> {
        let newer = cluster.sql("show server_version_num")?.parse::<u32>()? >= 160_000;
        {
            let _turn = roles_turn();
            cluster.ensure_role("managed_reader", "nologin")?;
            cluster.ensure_role("managed_admin", &format!("login createrole password '{ADMIN_PASSWORD}'"))?;
            cluster.ensure_role("authenticator", &format!("login noinherit password '{PASSWORD}'"))?;
            if newer {
                cluster.sql(
                    "grant managed_reader to managed_admin with admin option, inherit false, set false",
                )?;
            }
        }
        let database = cluster.database()?;
        database.sql(
            "create table notes (owner text default current_user, body text); alter table notes enable row level security; \
             create policy own on notes using (owner = current_user); grant select, insert on notes to managed_reader",
        )?;
        let issuer = Issuer::start()?;
        let roles = format!(
            "roles: {{ managed: {{ admin: {{ user: managed_admin, password: \"env:ADMIN\" }}, {more} }} }}"
        );
        let config = base(&issuer, &database)
            .replace("admin: 127.0.0.1:0", "admin: 127.0.0.1:0, postgres: 127.0.0.1:0")
            .replace("pool: { size: 8 }", &format!("pool: {{ size: 4, sessions: 20 }}\n    {roles}"));
        let grants = "grants:\n  staff: { to: group:staff, allow: [\"read,write shop/public/notes\"], as: managed_reader }\n";
        let gateway = Setup::new(&format!("{config}{grants}"))?
            .file("overlay.yaml", overlay)?
            .arg("--config=overlay.yaml")
            .env("SHOP_PASSWORD", PASSWORD)
            .env("ADMIN", ADMIN_PASSWORD)
            .start()?;
        Ok(Self { gateway, issuer, database })
    }

    fn psql(&self, who: &str, script: &str) -> Result<(String, String)> {
        let token = self.issuer.token(who).claim("groups", ["staff"]).sign()?;
        quiet_psql(self.gateway.address("postgres")?.port(), "any", "shop", &token, script)
    }

    /// Logins that gateways have made in this database.
    fn logins(&self, that: &str) -> Result<String> {
        let here =
            format!("strpos(shobj_description(oid, 'pg_authid'), '\"db\":\"{}\"') > 0", self.database.name());
        self.database
            .sql(&format!("select count(*) from pg_roles where rolname like 'dw\\_%' and {here} and {that}"))
    }
}

fn a_role(cluster: &'static Cluster) -> Result<()> {
    let mut shop = Managed::start(cluster, "ttl: 1h")?;
    for _ in 0..2 {
        let (out, err) = shop
            .psql("ann", "select count(*) from notes;\nselect session_user like 'dw_managed_reader_%';\n")?;
        ensure!(out == "0\nt\n", "{out}{err}{}", shop.gateway.log());
    }
    ensure!(shop.logins("rolcanlogin")? == "1", "sessions share the login");
    let log = shop.gateway.log();
    ensure!(!log.contains(ADMIN_PASSWORD), "the log holds the administrative password");
    ensure!(shop.gateway.term()?.success());
    ensure!(shop.logins("true")? == "0", "a gateway that stops takes its logins with it");
    Ok(())
}

fn a_person(cluster: &'static Cluster) -> Result<()> {
    let mut shop = Managed::start(cluster, "per: principal")?;
    let (out, err) = shop.psql(
        "ann",
        "insert into notes (body) values ('of ann');\nselect body, owner = session_user from notes;\n",
    )?;
    ensure!(out == "of ann|t\n", "{out}{err}{}", shop.gateway.log());
    let (out, err) = shop.psql("ben", "select count(*) from notes;\n")?;
    ensure!(out == "0\n", "{out}{err}");
    let (out, err) = shop.psql("ann", "select body from notes;\n")?;
    ensure!(out == "of ann\n", "{out}{err}");
    ensure!(shop.logins("rolcanlogin")? == "2");
    ensure!(shop.gateway.term()?.success());
    ensure!(shop.logins("rolcanlogin")? == "0", "nobody can log in any more");
    ensure!(shop.logins("true")? == "2", "what persons own is still theirs");
    Ok(())
}

#[test]
fn wire_managed_logins_on_debians_postgresql() -> Result<()> {
    let cluster = Cluster::shared()?;
    a_role(cluster)?;
    a_person(cluster)
}

#[test]
fn wire_managed_logins_on_a_newer_postgresql() -> Result<()> {
    on_newer(|cluster| a_role(cluster).and_then(|()| a_person(cluster)))
}

#[test]
fn wire_managed_logins_come_to_replicas_as_they_replay() -> Result<()> {
    // Beds borrow their cluster for good.
    let primary: &'static Cluster = Box::leak(Box::new(Cluster::debian()?));
    let replica = primary.standby()?;
    let overlay = format!(
        "resources: {{ shop: {{ url: \"postgres://127.0.0.1:{},127.0.0.1:{}/test_0\", \
         pool: {{ mode: transaction, wait_max: 60s }}, replicas: {{ serve: reads, max_lag: 1h }} }} }}",
        replica.port(),
        primary.port()
    );
    let shop = Managed::start_with(primary, "per: principal", &overlay)?;
    ensure!(shop.database.name() == "test_0", "{}", shop.database.name());
    let reads = |who: &str| shop.psql(who, "select pg_is_in_recovery() from notes limit 1;\n");
    // Logins are made on the primary, and the replica is read from once it has heard of them.
    let (out, err) = shop.psql("ann", "insert into notes (body) values ('a');\n")?;
    ensure!(err.is_empty(), "{out}{err}{}", shop.gateway.log());
    ensure!(wait_until(SOON, || reads("ann").is_ok_and(|(out, _)| out == "t\n")), "{}", shop.gateway.log());
    // It does not hear of this one: its reads are the primary's meanwhile, and nobody is refused.
    replica.sql("select pg_wal_replay_pause()")?;
    let (out, err) =
        shop.psql("ben", "insert into notes (body) values ('b');\nselect count(*) from notes;\n")?;
    ensure!(out == "1\n", "{out}{err}{}", shop.gateway.log());
    for _ in 0..3 {
        let (out, err) = reads("ben")?;
        ensure!(out == "f\n", "{out}{err}{}", shop.gateway.log());
    }
    replica.sql("select pg_wal_replay_resume()")?;
    ensure!(wait_until(SOON, || reads("ben").is_ok_and(|(out, _)| out == "t\n")), "{}", shop.gateway.log());
    Ok(())
}

/// `doctor` says what the administrative login lacks, before anybody who wants to work finds out.
fn doctor_finds_out(cluster: &'static Cluster) -> Result<()> {
    let newer = cluster.sql("show server_version_num")?.parse::<u32>()? >= 160_000;
    {
        let _turn = roles_turn();
        cluster.ensure_role("authenticator", &format!("login noinherit password '{PASSWORD}'"))?;
        cluster.ensure_role("doctored_admin", &format!("login nocreaterole password '{ADMIN_PASSWORD}'"))?;
    }
    let database = cluster.database()?;
    let issuer = Issuer::start()?;
    let roles = "roles: { managed: { admin: { user: doctored_admin, password: \"env:ADMIN\" } } }";
    let config =
        base(&issuer, &database).replace("pool: { size: 8 }", &format!("pool: {{ size: 4 }}\n    {roles}"));
    let grants = "grants:\n  staff: { to: group:staff, allow: read shop/public/*, as: doctored_reader }\n";
    let setup =
        Setup::new(&format!("{config}{grants}"))?.env("SHOP_PASSWORD", PASSWORD).env("ADMIN", ADMIN_PASSWORD);
    let granted = "grant doctored_reader to doctored_admin with admin option, inherit false, set false";
    let cases = [
        ("alter role doctored_admin superuser", "is SUPERUSER; it needs CREATEROLE only"),
        ("alter role doctored_admin nosuperuser", "is not CREATEROLE: ALTER ROLE doctored_admin CREATEROLE"),
        ("alter role doctored_admin createrole", "the database has no role doctored_reader"),
        ("create role doctored_reader nologin", if newer { "WITH ADMIN OPTION" } else { "" }),
        (if newer { granted } else { "select 1" }, ""),
    ];
    for (done, told) in cases {
        cluster.sql(done)?;
        let output = setup.run(&["doctor", "--json"])?;
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let findings = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let found = findings.into_iter().find(|found| found["part"] == "role doctored_reader of shop");
        let found = found.unwrap_or_default();
        let (state, text) = if told.is_empty() { ("ok", "issues credentials") } else { ("fail", told) };
        let said = found["text"].as_str().unwrap_or_default();
        ensure!(found["state"] == state && said.contains(text), "{done}: {lines}");
        ensure!(
            !lines.contains(ADMIN_PASSWORD) && output.status.success() == told.is_empty(),
            "{done}: {lines}"
        );
    }
    let left = "select count(*) from pg_roles where rolname like 'dw\\_doctored%'";
    ensure!(cluster.sql(left)? == "0", "what was made for the look is given back");
    cluster.sql("drop role doctored_admin, doctored_reader").map(drop)
}

#[test]
fn wire_doctor_says_what_managed_logins_lack() -> Result<()> {
    doctor_finds_out(Cluster::shared()?)?;
    on_newer(doctor_finds_out)
}
