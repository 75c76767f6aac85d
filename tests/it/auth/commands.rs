//! `doorward login`, `token`, `connect`, `proxy` and `logout`, with an issuer that others wrote and psql.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use doorward_testkit::issuer::Alg;
use doorward_testkit::oidc_provider::Provider;
use doorward_testkit::program::{Bounded, Program};
use doorward_testkit::workspace_root;
use serde_json::Value;
use tempfile::TempDir;

use super::{Shop, said};

/// Somebody with an account on some machine.
struct Person<'a> {
    home: TempDir,
    shop: &'a Shop,
    provider: &'a Provider,
}

impl<'a> Person<'a> {
    fn new(shop: &'a Shop, provider: &'a Provider) -> Result<Self> {
        Ok(Self { home: tempfile::tempdir()?, shop, provider })
    }

    /// A command of theirs, in a folder that is nobody's.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.home.path()).env("HOME", self.home.path());
        for name in ["XDG_CONFIG_HOME", "DISPLAY", "WAYLAND_DISPLAY", "PGPASSWORD", "DOORWARD_CONFIG"] {
            command.env_remove(name);
        }
        command
    }

    fn doorward(&self, arguments: &[&str]) -> Result<Command> {
        let binary = doorward_testkit::gateway::binary()?;
        Ok(self.command(binary.to_str().context("a path")?, arguments))
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.doorward(arguments)?.run()
    }

    /// Runs a command that must succeed, and returns what it prints.
    fn done(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", said(&output));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join(".config/doorward/default")
    }

    /// Logs in, in one of the two ways; what the browser ends with.
    fn log_in(&self, way: &[&str], url_behind: &str) -> Result<String> {
        let gateway = format!("https://127.0.0.1:{}", self.shop.gateway.address("http")?.port());
        let postgres = self.shop.gateway.address("postgres")?.to_string();
        let ca = self.shop.gateway.folder().join("ca.pem");
        let mut command = self.doorward(&["login", "--client-id", "doorward-cli"])?;
        command
            .args(["--issuer", self.provider.url(), "--scope", "openid offline_access data"])
            .args(["--gateway", &gateway, "--postgres", &postgres, "--ca"])
            .arg(&ca)
            .args(way);
        let mut login = command.open()?;
        let url = loop {
            if let Some((_, url)) = login.error_line()?.split_once(url_behind) {
                break url.to_owned();
            }
        };
        let browser = Command::new(workspace_root().join(".cache/clients/bin/python"))
            .arg(workspace_root().join("tests/clients/browser.py"))
            .arg(&url)
            .run()?;
        ensure!(browser.status.success(), "{}", said(&browser));
        let login = login.end()?;
        ensure!(login.status.success(), "{} {}", said(&login), said(&browser));
        ensure!(said(&login).contains("Logged in at"), "{}", said(&login));
        Ok(String::from_utf8(browser.stdout)?)
    }

    fn tokens(&self) -> Result<Value> {
        Ok(serde_json::from_str(&fs::read_to_string(self.folder().join("tokens.json"))?)?)
    }

    /// Lets the token have ended a while ago.
    fn expire(&self) -> Result<()> {
        let mut tokens = self.tokens()?;
        tokens["expires_at"] = 1.into();
        Ok(fs::write(self.folder().join("tokens.json"), tokens.to_string())?)
    }
}

/// A gateway whose people are the provider's.
fn house() -> Result<(Provider, Shop)> {
    let provider = Provider::start("doorward", Alg::Es256)?;
    let shop = Shop::start_at(provider.url())?;
    Ok((provider, shop))
}

#[test]
fn commands_from_a_device_code_to_a_refreshed_token() -> Result<()> {
    let (provider, shop) = house()?;
    let person = Person::new(&shop, &provider)?;
    let output = person.run(&["token"])?;
    ensure!(!output.status.success() && said(&output).contains("doorward login"), "{}", said(&output));

    let page = person.log_in(&["--device"], "Or open this: ")?;
    ensure!(page.contains("Success"), "{page}");
    let mode = |path: PathBuf| anyhow::Ok(fs::metadata(path)?.permissions().mode() & 0o777);
    ensure!(mode(person.folder())? == 0o700, "only the user reads the folder");
    ensure!(mode(person.folder().join("tokens.json"))? == 0o600, "only the user reads the tokens");

    // psql, with its arguments, in the place of the command.
    let who = "select current_user || ' ' || count(*) from orders";
    let psql = ["connect", "shop", "--", "-X", "-A", "-t", "-c"];
    let output = person.run(&[&psql[..], &[who]].concat())?;
    ensure!(output.stdout == b"auth_analyst 20\n", "{}", said(&output));
    let output = person.run(&[&psql[..], &["select nothing"]].concat())?;
    ensure!(output.status.code() == Some(1), "psql's exit code is the command's: {output:?}");

    // A file of services, and the token in place of the password.
    let address = shop.gateway.address("postgres")?;
    let ca = shop.gateway.folder().join("ca.pem");
    let service = format!(
        "[shop]\nhost={}\nport={}\ndbname=shop\nuser=auth_analyst\nsslmode=verify-full\nsslrootcert={}\n",
        address.ip(),
        address.port(),
        ca.display()
    );
    fs::write(person.home.path().join(".pg_service.conf"), service)?;
    let binary = doorward_testkit::gateway::binary()?;
    let script = format!("PGPASSWORD=$({} token) psql -X -A -t service=shop -c \"{who}\"", binary.display());
    let output = person.command("sh", &["-ec", &script]).run()?;
    ensure!(output.stdout == b"auth_analyst 20\n", "{}", said(&output));

    // A login, in the form that shells evaluate.
    let script = format!(
        "eval \"$({} token --postgres --resource shop --role auth_analyst)\"; psql -X -A -t -c \"{who}\"",
        binary.display()
    );
    let output = person.command("sh", &["-ec", &script]).env("PGSSLMODE", "require").run()?;
    ensure!(output.stdout == b"auth_analyst 20\n", "{}", said(&output));
    let login: Value = serde_json::from_str(&person.done(&["token", "--postgres", "--json"])?)?;
    ensure!(login["expires_in"].as_u64().is_some_and(|left| (1..=900).contains(&left)), "{login}");

    // Several processes at once refresh once: the issuer takes a refresh token that comes twice for a stolen one.
    let before = person.tokens()?;
    person.expire()?;
    let programs: Vec<Program> =
        (0..4).map(|_| person.doorward(&["token"])?.open()).collect::<Result<_>>()?;
    let outputs: Vec<Output> = programs.into_iter().map(Program::end).collect::<Result<_>>()?;
    for output in &outputs {
        ensure!(output.status.success() && output.stdout == outputs[0].stdout, "{}", said(output));
    }
    let after = person.tokens()?;
    ensure!(
        after["token"] != before["token"] && after["refresh_token"] != before["refresh_token"],
        "both are new"
    );
    let json: Value = serde_json::from_str(&person.done(&["token", "--refresh", "--json"])?)?;
    ensure!(
        json["access_token"] != after["token"] && json["expires_in"].as_u64() > Some(300),
        "refreshed again"
    );

    // Others could read it: then it is not used.
    fs::set_permissions(person.folder().join("tokens.json"), Permissions::from_mode(0o644))?;
    let output = person.run(&["token"])?;
    ensure!(!output.status.success() && said(&output).contains("chmod 600"), "{}", said(&output));
    fs::set_permissions(person.folder().join("tokens.json"), Permissions::from_mode(0o600))?;

    // A refresh token that was used already: the login is over, and says so.
    let mut stale = before;
    stale["expires_at"] = 1.into();
    fs::write(person.folder().join("tokens.json"), stale.to_string())?;
    let output = person.run(&["token"])?;
    ensure!(!output.status.success() && said(&output).contains("the login is over"), "{}", said(&output));
    ensure!(!person.folder().join("tokens.json").exists(), "it is not tried again");
    Ok(())
}

#[test]
fn commands_from_a_browser_to_programs_that_know_no_tokens() -> Result<()> {
    let (provider, shop) = house()?;
    let person = Person::new(&shop, &provider)?;
    let page = person.log_in(&["--browser", "--no-open"], "Log in with your browser: ")?;
    ensure!(page.contains("You are logged in"), "{page}");

    for address in ["0.0.0.0:0", "[::]:0"] {
        let output = person.run(&["proxy", "shop", "--listen", address])?;
        ensure!(!output.status.success() && said(&output).contains("is not loopback"), "{}", said(&output));
    }
    let mut proxy = person.doorward(&["proxy", "shop"])?.open()?;
    let port = proxy.line()?.trim().rsplit_once(':').context("an address")?.1.to_owned();
    // Another database, a password, a wish for TLS: whatever the program has been told.
    let psql = |user: &str, statement: &str, prefix: &[&str]| {
        let conninfo = format!(
            "host=127.0.0.1 port={port} dbname=postgres user={user} sslmode=prefer connect_timeout=60"
        );
        let arguments = [prefix, &["psql", "-X", "-A", "-t", "-c", statement, &conninfo]].concat();
        let (program, arguments) = arguments.split_first().context("a program")?;
        person.command(program, arguments).env("PGPASSWORD", "none").run()
    };
    let output = psql("tool", "select current_user || ' ' || count(*) from orders", &[])?;
    ensure!(output.stdout == b"auth_analyst 20\n", "{}", said(&output));
    let output = psql("tool", "select * from nowhere", &[])?;
    ensure!(said(&output).contains("nowhere"), "{}", said(&output));

    // A token that ends while the proxy runs is refreshed.
    let before = person.tokens()?;
    person.expire()?;
    let output = psql("tool", "select 1", &[])?;
    ensure!(output.stdout == b"1\n" && person.tokens()?["token"] != before["token"], "{}", said(&output));

    // Ctrl-C in psql: the cancel request finds its way through the proxy.
    let many =
        "select count(*) from orders a, orders b, orders c, orders d, orders e, orders f, orders g, orders h";
    let output = psql("tool", many, &["timeout", "-s", "INT", "3"])?;
    ensure!(said(&output).contains("canceling statement"), "{}", said(&output));

    // Logged out, there is nobody to connect as; the program is told.
    ensure!(person.done(&["logout"])? == "logged out\n", "logged out");
    ensure!(person.done(&["logout"])? == "nobody was logged in\n", "twice");
    let output = psql("tool", "select 1", &[])?;
    ensure!(!output.status.success() && said(&output).contains("run: doorward login"), "{}", said(&output));
    let output = person.run(&["connect", "shop"])?;
    ensure!(!output.status.success() && said(&output).contains("doorward login"), "{}", said(&output));
    Ok(())
}

#[test]
fn commands_trust_the_gateway_that_its_certificate_says() -> Result<()> {
    let (provider, shop) = house()?;
    let person = Person::new(&shop, &provider)?;
    person.log_in(&["--device"], "Or open this: ")?;
    // From now on somebody else's authority is believed.
    let other = crate::identity::Authority::new("Others")?;
    let ca = person.home.path().join("other.pem");
    fs::write(&ca, &other.pem)?;
    let file = person.folder().join("profile.json");
    let mut profile: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    profile["ca"] = ca.to_string_lossy().into_owned().into();
    fs::write(&file, profile.to_string())?;
    let output = person.run(&["connect", "shop", "--", "-c", "select 1"])?;
    ensure!(
        !output.status.success() && said(&output).contains("certificate verify failed"),
        "{}",
        said(&output)
    );
    let output = person.run(&["token", "--postgres"])?;
    ensure!(
        !output.status.success() && said(&output).to_lowercase().contains("certificate"),
        "{}",
        said(&output)
    );
    let mut proxy = person.doorward(&["proxy", "shop"])?.open()?;
    let port = proxy.line()?.trim().rsplit_once(':').context("an address")?.1.to_owned();
    let conninfo = format!("host=127.0.0.1 port={port} dbname=shop user=tool connect_timeout=60");
    let output = person.command("psql", &["-X", "-c", "select 1", &conninfo]).run()?;
    ensure!(!output.status.success() && said(&output).contains("doorward proxy"), "{}", said(&output));
    // Nothing of the token has come to the gateway since the login.
    let failed = shop.gateway.run(&["audit", "query", "--json", "--limit", "1000"])?;
    ensure!(!said(&failed).contains("\"postgres\""), "{}", said(&failed));
    Ok(())
}
