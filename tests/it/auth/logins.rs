//! Minted logins: SCRAM-SHA-256 and -PLUS, with psql and the drivers of Python.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Result, ensure};
use doorward_testkit::program::Bounded;
use serde_json::json;

use super::{Shop, said};

#[test]
fn minted_logins_open_sessions_of_whom_they_were_minted_for() -> Result<()> {
    let shop = Shop::start("")?;
    let token = shop.token("ann", &["analysts"])?;
    let (user, password) = shop.minted(&token, "")?;
    ensure!(user.starts_with("dw1.") && user.len() < 1_000 && !user.contains("ann"), "{user}");

    let who = "select current_user || ' ' || count(*) from orders";
    for parameters in [
        // Without TLS too: the password does not cross the wire.
        "sslmode=disable",
        "sslmode=require channel_binding=disable",
        "sslmode=verify-full channel_binding=require",
    ] {
        let output = shop.psql(&format!("user={user} {parameters}"), &password, who)?;
        ensure!(output.stdout == b"auth_analyst 20\n", "{parameters}: {}", said(&output));
    }
    let records = shop.records(3, |row| row["door"] == "postgres" && row["verb"] == "read")?;
    for record in &records {
        ensure!(record["principal_subject"] == "ann" && record["auth_method"] == "scram", "{record}");
        ensure!(record["grant"] == "analysts" && record["principal_issuer"] == "idp", "{record}");
        ensure!(record["credential_id"].is_string(), "which token it was minted for: {record}");
    }
    let minting = shop.records(1, |row| row["operation"] == "mint login")?;
    ensure!(minting[0]["principal_subject"] == "ann" && minting[0]["outcome"] == "allowed", "{minting:?}");

    // A token at the same door asks for the password in the clear; plaintext over loopback is no network.
    let output = shop.psql("user=ann sslmode=require", &token, who)?;
    ensure!(output.stdout == b"auth_analyst 20\n", "{}", said(&output));
    shop.database().sql("select 1")?;
    Ok(())
}

#[test]
fn minted_logins_of_drivers_and_of_their_strictest_settings() -> Result<()> {
    let shop = Shop::start("")?;
    let (user, password) = shop.minted(&shop.token("ann", &["analysts"])?, r#"{"resource":"shop"}"#)?;
    let output =
        shop.python("scram.py")?.env("DOORWARD_USER", &user).env("DOORWARD_PASSWORD", &password).run()?;
    let text = said(&output);
    ensure!(
        output.status.success() && text.lines().filter(|line| line.starts_with("ok ")).count() == 9,
        "{text}"
    );
    Ok(())
}

#[test]
fn minted_logins_that_do_not_count() -> Result<()> {
    let shop = Shop::start("")?;
    let token = shop.token("ann", &["analysts", "loaders"])?;
    let (user, password) = shop.minted(&token, r#"{"role":"auth_loader"}"#)?;
    let (elsewhere, word) = shop.minted(&token, r#"{"resource":"other"}"#)?;
    let (roleless, roleless_word) = shop.minted(&token, r#"{"role":"nobody"}"#)?;
    let output = shop.psql(&format!("user={user}"), &password, "select current_user")?;
    ensure!(output.stdout == b"auth_loader\n", "the role was minted in: {}", said(&output));

    let swapped = format!("{}A", &user[..user.len() - 1]);
    let swapped = if swapped == user { format!("{}B", &user[..user.len() - 1]) } else { swapped };
    for (user, password, wanted) in [
        (user.as_str(), "wrong", "this user name and password are not known here"),
        (swapped.as_str(), password.as_str(), "this user name and password are not known here"),
        ("dw1.AAAAAA.AAAA", password.as_str(), "this user name and password are not known here"),
        (user.as_str(), word.as_str(), "this user name and password are not known here"),
        (elsewhere.as_str(), word.as_str(), "this login was minted for other"),
        (roleless.as_str(), roleless_word.as_str(), "no grant gives you the role nobody on shop"),
    ] {
        let output = shop.psql(&format!("user={user}"), password, "select 1")?;
        ensure!(!output.status.success() && said(&output).contains(wanted), "{user}: {}", said(&output));
    }
    shop.records(4, |row| row["fault_code"] == "authenticate.wrong-password")?;
    // The user name is not a password, and is none when it is shown as one.
    let output = shop.psql("user=ann sslmode=require", &user, "select 1")?;
    ensure!(!output.status.success(), "{}", said(&output));

    // Who mints: the bearers of tokens, and nobody else.
    for (token, wish, status, code) in [
        ("nonsense", "", 401, json!("authenticate.opaque-token")),
        (&*token, "{\"resource\":7}", 400, json!("decode.own-request")),
        (&*token, "{\"nothing\":\"x\"}", 400, json!("decode.own-request")),
        (&*token, "{\"role\":\"\"}", 400, json!("decode.own-request")),
    ] {
        let (answered, body) = shop.mint(token, wish)?;
        ensure!(
            answered == status && body["code"] == code && body.get("password").is_none(),
            "{wish}: {body}"
        );
    }
    Ok(())
}

#[test]
fn minted_logins_end_and_their_key_is_the_gateways_own() -> Result<()> {
    let mut shop = Shop::start("minted_logins: { ttl: 1s }\n")?;
    let token = shop.token("ann", &["analysts"])?;
    let (user, password) = shop.minted(&token, "")?;
    doorward_testkit::pause(std::time::Duration::from_millis(2_500));
    let output = shop.psql(&format!("user={user}"), &password, "select 1")?;
    ensure!(said(&output).contains("the login has expired"), "{}", said(&output));
    ensure!(said(&output).contains("doorward token --postgres"), "the hint: {}", said(&output));

    let file = shop.gateway.folder().join("data/login.key");
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600, "only the gateway reads its key");
    let key = fs::read_to_string(&file)?;
    ensure!(shop.gateway.term()?.success(), "{}", shop.gateway.log());
    shop.gateway.again()?;
    ensure!(fs::read_to_string(&file)? == key, "the key outlives a restart");
    ensure!(shop.gateway.term()?.success(), "{}", shop.gateway.log());
    // The key stands in its file alone, and the password nowhere.
    let found = Command::new("grep")
        .args(["-rlaF", "-e", key.trim(), "-e", &password])
        .arg(shop.gateway.folder())
        .run()?;
    ensure!(String::from_utf8_lossy(&found.stdout).trim() == file.to_string_lossy(), "{}", said(&found));
    Ok(())
}
