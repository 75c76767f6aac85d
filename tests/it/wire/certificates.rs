//! Roles that log in with certificates of the gateway's own authority: `doorward ca` and the whole gateway, against
//! servers that let them in by certificate alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use doorward_testkit::wait_until;

use super::*;
use crate::bed::SOON;

/// A server that believes an authority, and a gateway that signs with it.
struct Certified {
    gateway: Running,
    issuer: Issuer,
    cluster: &'static Cluster,
    database: Database<'static>,
}

const HBA: &str = "hostssl all certified_reader 127.0.0.1/32 cert\nhost all certified_reader all reject\n\
                   host all all 127.0.0.1/32 scram-sha-256\n";

/// What a command of the binary has said, which must have done its work.
fn done(output: &Output) -> Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout))
}

impl Certified {
    fn start(cluster: &'static Cluster) -> Result<Self> {
        cluster.ensure_role("certified_reader", "login noinherit")?;
        cluster.ensure_role("authenticator", &format!("login noinherit password '{PASSWORD}'"))?;
        let database = cluster.database()?;
        database.sql(&format!("{CERTIFIED}grant select on orders to certified_reader"))?;
        let issuer = Issuer::start()?;
        let roles = "roles: { certificates: { ca: \"file:ca/ca.crt\", key: \"file:ca/ca.key\", ttl: 5m } }";
        let config = base(&issuer, &database)
            .replace("admin: 127.0.0.1:0", "admin: 127.0.0.1:0, postgres: 127.0.0.1:0")
            .replace(&database.url(), &format!("{}?sslmode=require", database.url()))
            .replace("pool: { size: 8 }", &format!("pool: {{ size: 4, sessions: 20 }}\n    {roles}"));
        let grants = "grants:\n  readers: { to: group:readers, allow: [read shop/public/*, read shop/pg_catalog/pg_stat_ssl], \
                      as: certified_reader }\n";
        let setup = Setup::new(&format!("{config}{grants}"))?.env("SHOP_PASSWORD", PASSWORD);

        let made = done(&setup.run(&["ca", "init", "ca", "--name", "Doorward test"])?)?;
        let made: Value = serde_json::from_str(&made)?;
        ensure!(made["subject"] == "CN=Doorward test" && made["file"] == "ca/ca.crt", "{made}");
        let shown: Value = serde_json::from_str(&done(&setup.run(&["ca", "show", "ca"])?)?)?;
        ensure!(shown == made, "{shown}");
        let mode = |name: &str| {
            Ok::<_, anyhow::Error>(fs::metadata(setup.folder().join(name))?.permissions().mode())
        };
        ensure!(mode("ca/ca.key")? & 0o777 == 0o600, "the key is the gateway's alone");
        let key = fs::read(setup.folder().join("ca/ca.key"))?;
        let again = setup.run(&["ca", "init", "ca"])?;
        ensure!(!again.status.success() && fs::read(setup.folder().join("ca/ca.key"))? == key);
        ensure!(String::from_utf8_lossy(&again.stderr).contains("not written over"));

        let server = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        cluster.write("server.crt", &server.cert.pem())?;
        cluster.write("server.key", &server.signing_key.serialize_pem())?;
        cluster.write("pg_hba.conf", HBA)?;
        cluster.write("clients.crt", &fs::read_to_string(setup.folder().join("ca/ca.crt"))?)?;
        cluster.sql("alter system set ssl = on")?;
        cluster.sql("alter system set ssl_ca_file = 'clients.crt'")?;
        cluster.restart()?;
        Ok(Self { gateway: setup.start()?, issuer, cluster, database })
    }

    fn psql(&self, script: &str) -> Result<(String, String)> {
        let token = self.issuer.token("ann").claim("groups", ["readers"]).sign()?;
        quiet_psql(self.gateway.address("postgres")?.port(), "any", "shop", &token, script)
    }

    /// The serial number of the certificate that new sessions log in with, and who signed it.
    fn shown(&self) -> Result<String> {
        let (out, err) = self.psql(SHOWN)?;
        ensure!(
            err.is_empty() && out.starts_with("certified_reader|t|/CN=certified_reader|"),
            "{out}{err}\n{}",
            self.gateway.log()
        );
        Ok(out)
    }

    /// What the gateway's folder holds under this name, for the server to believe.
    fn believe(&self, name: &str) -> Result<()> {
        self.cluster.write("clients.crt", &fs::read_to_string(self.gateway.folder().join(name))?)?;
        self.cluster.sql("select pg_reload_conf()").map(drop)
    }
}

const CERTIFIED: &str = "create table orders (id int); insert into orders select generate_series(1, 20);\n";
const SHOWN: &str = "select session_user, ssl, client_dn, client_serial, issuer_dn from pg_stat_ssl where pid = pg_backend_pid();\n";

fn roles_log_in_by_certificate(cluster: &'static Cluster) -> Result<()> {
    let mut shop = Certified::start(cluster)?;
    ensure!(shop.psql("select count(*) from orders;\n")?.0 == "20\n", "{}", shop.gateway.log());
    let first = shop.shown()?;
    // No password leads there, and the role has none.
    let port = shop.cluster.port();
    let (out, err) = quiet_psql(port, "certified_reader", shop.database.name(), "guess", "select 1;\n")?;
    ensure!(out.is_empty() && err.contains("FATAL"), "{out}{err}");

    // Another authority, as the documentation says it: the database believes both, then the gateway signs with the next.
    done(&shop.gateway.run(&["ca", "rotate", "ca"])?)?;
    ensure!(!shop.gateway.run(&["ca", "rotate", "ca"])?.status.success(), "the next one is not written over");
    ensure!(shop.psql("select count(*) from orders;\n")?.0 == "20\n");
    shop.believe("ca/ca-bundle.crt")?;
    done(&shop.gateway.run(&["ca", "rotate", "ca", "--finish"])?)?;
    ensure!(
        !shop.gateway.run(&["ca", "rotate", "ca", "--finish"])?.status.success(),
        "there is no other one"
    );
    shop.gateway.sighup()?;
    ensure!(
        wait_until(SOON, || shop.shown().is_ok_and(|shown| shown != first)),
        "sessions still log in with {first}\n{}",
        shop.gateway.log()
    );
    // The old one is believed no more, and is not needed.
    shop.believe("ca/ca.crt")?;
    ensure!(shop.gateway.term()?.success());
    shop.gateway.again()?;
    shop.shown()?;

    // A server that does not believe the authority lets nobody in, and the session is refused in words.
    let other = Setup::new("version: 1\n")?;
    done(&other.run(&["ca", "init", "ca"])?)?;
    shop.cluster.write("clients.crt", &fs::read_to_string(other.folder().join("ca/ca.crt"))?)?;
    shop.cluster.sql("select pg_reload_conf()")?;
    ensure!(shop.gateway.term()?.success());
    shop.gateway.again()?;
    let (out, err) = shop.psql("select 1;\n")?;
    ensure!(out.is_empty() && err.contains("FATAL"), "{out}{err}");
    let log = shop.gateway.log();
    ensure!(!log.contains("PRIVATE KEY"), "the log holds a key");
    Ok(())
}

#[test]
fn wire_certificates_for_roles_on_debians_postgresql() -> Result<()> {
    // A server of its own: the test changes how everybody logs in.
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::debian()?));
    let done = roles_log_in_by_certificate(cluster);
    cluster.stop()?;
    done
}

#[test]
fn wire_certificates_for_roles_on_a_newer_postgresql() -> Result<()> {
    on_newer(roles_log_in_by_certificate)
}

#[test]
fn wire_check_and_doctor_see_an_authority_s_end_coming() -> Result<()> {
    let issuer = Issuer::start()?;
    let database = Cluster::shared()?.database()?;
    let roles = "roles: { certificates: { ca: \"file:ca/ca.crt\", key: \"file:ca/ca.key\" } }";
    let config = base(&issuer, &database)
        .replace(&database.url(), &format!("{}?sslmode=require", database.url()))
        .replace("pool: { size: 8 }", &format!("pool: {{ size: 4 }}\n    {roles}"));
    let grants =
        "grants:\n  readers: { to: group:readers, allow: read shop/public/*, as: certified_reader }\n";
    let setup = Setup::new(&format!("{config}{grants}"))?.env("SHOP_PASSWORD", PASSWORD);
    let said = |command: &[&str]| {
        let output = setup.run(command)?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let warning = "resources.shop.roles.certificates.ca: ";
    // Where the gateway's files are not, nothing is said of them.
    ensure!(!said(&["check"])?.contains(warning));
    for (days, told) in [("3650", ""), ("7", "ends soon")] {
        let _ = fs::remove_dir_all(setup.folder().join("ca"));
        done(&setup.run(&["ca", "init", "ca", "--days", days])?)?;
        for command in ["check", "doctor"] {
            let said = said(&[command])?;
            ensure!(
                said.contains(warning) != told.is_empty() && said.contains(told),
                "{days} {command}: {said}"
            );
        }
    }
    fs::write(
        setup.folder().join("ca/ca.crt"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )?;
    ensure!(said(&["check"])?.contains("cannot be read"));
    let doctor = setup.run(&["doctor"])?;
    ensure!(!doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));
    Ok(())
}
