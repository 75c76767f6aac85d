//! OAUTHBEARER, with libpq 18 itself.
//!
//! libpq gets its token by a device flow in a library of its own (`libpq-oauth`), which the packages here do not have.
//! So the client hands libpq the token through the hook that libpq has for applications (`PQsetAuthDataHook`);
//! everything on the wire is libpq's.

use anyhow::{Result, ensure};
use doorward_testkit::program::Bounded;

use super::{Shop, said};

#[test]
fn oauthbearer_of_libpq() -> Result<()> {
    let shop = Shop::start("oauth: { scope: \"openid data\" }\n")?;
    let output = shop
        .python("oauth.py")?
        .env("PGOAUTHDEBUG", "UNSAFE")
        .env("DOORWARD_ISSUER", shop.issuer.url())
        .env("DOORWARD_TOKEN", shop.token("ann", &["analysts"])?)
        .env("DOORWARD_BAD_TOKEN", shop.issuer.token("ann").expires_in(-600).sign()?)
        .run()?;
    let text = said(&output);
    ensure!(
        output.status.success() && text.lines().filter(|line| line.starts_with("ok ")).count() == 6,
        "{text}"
    );
    let records = shop.records(1, |row| row["fault_code"] == "authenticate.token-expired")?;
    ensure!(records[0]["door"] == "postgres", "{records:?}");
    // A client that asks where to get a token is refused until it has one, and that has a record too.
    shop.records(1, |row| row["fault_code"] == "authenticate.wire-token-required")?;
    Ok(())
}

#[test]
fn oauthbearer_for_all_leaves_passwords_to_those_who_ask() -> Result<()> {
    let shop = Shop::start("oauth: { offer: always }\n")?;
    let token = shop.token("ann", &["analysts"])?;
    // psql of PostgreSQL 15 knows no OAUTHBEARER.
    let output = shop.psql("user=ann sslmode=require", &token, "select 1")?;
    ensure!(!output.status.success() && said(&output).contains("SASL"), "{}", said(&output));
    let asks = "user=ann sslmode=require options='-c doorward.auth=password'";
    let output = shop.psql(asks, &token, "select current_user")?;
    ensure!(output.stdout == b"auth_analyst\n", "{}", said(&output));
    let (user, password) = shop.minted(&token, "")?;
    let output = shop.psql(&format!("user={user} sslmode=require"), &password, "select current_user")?;
    ensure!(output.stdout == b"auth_analyst\n", "{}", said(&output));
    let output =
        shop.psql("user=ann sslmode=require options='-c doorward.auth=magic'", &token, "select 1")?;
    ensure!(said(&output).contains("It is password, scram or oauth"), "{}", said(&output));
    Ok(())
}
