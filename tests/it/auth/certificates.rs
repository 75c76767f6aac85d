//! Client certificates at the Postgres door: whose they are, whose not, and when they end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use doorward_testkit::gateway::Running;
use doorward_testkit::program::Bounded;
use rcgen::{CertificateParams, DnType};

use super::{Shop, said};
use crate::identity::{Authority, named};

const ENTRIES: &str = "
session_grace: 1s
certificates:
  entries:
    - { cn: loader, groups: [loaders] }
";
/// For how long the certificate lives that ends during a session: long enough to connect on a busy machine.
const SHORT: Duration = Duration::from_secs(25);

/// Puts a certificate and its key into the gateway's folder, as a client wants them.
fn issue(gateway: &Running, name: &str, authority: &Authority, params: &CertificateParams) -> Result<()> {
    let (certificate, key) = authority.sign(params)?;
    gateway.write(&format!("{name}.crt"), certificate)?;
    gateway.write(&format!("{name}.key"), key)?;
    let file = gateway.folder().join(format!("{name}.key"));
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o600))?)
}

fn of(common_name: &str) -> CertificateParams {
    named(&[(DnType::CommonName, common_name)])
}

/// A certificate that is valid from an hour ago until so long from now.
fn until(common_name: &str, seconds: i64) -> Result<CertificateParams> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let at = |second: i64| {
        anyhow::Ok(rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(second)?))
    };
    let mut params = of(common_name);
    params.not_before = at(now - 3_600)?;
    params.not_after = at(now + seconds)?;
    Ok(params)
}

#[test]
fn certificates_of_the_wire_name_their_holders() -> Result<()> {
    let shop = Shop::start(ENTRIES)?;
    let others = Authority::new("Others")?;
    issue(&shop.gateway, "loader", &shop.authority, &of("loader"))?;
    issue(&shop.gateway, "stranger", &shop.authority, &of("stranger"))?;
    issue(&shop.gateway, "forged", &others, &of("loader"))?;
    issue(&shop.gateway, "over", &shop.authority, &until("loader", -60)?)?;
    let with = |name: &str, password: &str| {
        let parameters = format!("user=auth_loader sslmode=verify-full sslcert={name}.crt sslkey={name}.key");
        shop.psql(&parameters, password, "select current_user")
    };
    let output = with("loader", "")?;
    ensure!(output.stdout == b"auth_loader\n", "{}", said(&output));
    let records = shop.records(1, |row| {
        row["backend_role"] == "auth_loader" && row["operation"] == "select current_user"
    })?;
    ensure!(records[0]["auth_method"] == "certificate" && records[0]["grant"] == "loaders", "{records:?}");
    let logins = shop.records(1, |row| row["operation"] == "login")?;
    ensure!(
        logins[0]["principal_subject"] == "CN=loader" && logins[0]["principal_issuer"] == "certificate",
        "{logins:?}"
    );

    for (name, wanted) in [
        ("stranger", "names nobody who is known here"),
        // These do not come through the handshake.
        ("forged", ""),
        ("over", ""),
    ] {
        let output = with(name, "")?;
        ensure!(!output.status.success() && said(&output).contains(wanted), "{name}: {}", said(&output));
    }
    // Who says that it is a token that counts is asked for one, certificate or not.
    let token = shop.token("ann", &["analysts"])?;
    let output = shop.psql(
        "user=ann sslmode=verify-full sslcert=loader.crt sslkey=loader.key options='-c doorward.auth=password'",
        &token,
        "select current_user",
    )?;
    ensure!(output.stdout == b"auth_analyst\n", "{}", said(&output));
    Ok(())
}

#[test]
fn certificates_that_end_end_their_sessions() -> Result<()> {
    let shop = Shop::start(ENTRIES)?;
    issue(&shop.gateway, "short", &shop.authority, &until("loader", i64::try_from(SHORT.as_secs())?)?)?;
    // Statement after statement, until one is refused.
    let waits = "select count(*) from orders \\watch 1";
    let output = std::process::Command::new("sh")
        .current_dir(shop.gateway.folder())
        .args(["-c", &format!("printf '%s\\n' '{waits}' | timeout 120 psql -X -A -t -v VERBOSITY=verbose")])
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", shop.gateway.address("postgres")?.port().to_string())
        .env("PGDATABASE", "shop")
        .env("PGUSER", "auth_loader")
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", "ca.pem")
        .env("PGSSLCERT", "short.crt")
        .env("PGSSLKEY", "short.key")
        .run()?;
    let text = said(&output);
    ensure!(text.contains("20\n"), "statements ran before: {text}");
    ensure!(text.contains("57P01") || text.contains("has expired"), "{text}");
    Ok(())
}
