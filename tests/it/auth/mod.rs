//! How clients of the Postgres door prove who they are, and the commands that give people credentials: over TLS, with
//! clients that others wrote.

mod certificates;
mod commands;
mod logins;
mod oauth;

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::{Running, Setup};
use doorward_testkit::issuer::Issuer;
use doorward_testkit::postgres::{Cluster, Database};
use doorward_testkit::program::Bounded;
use doorward_testkit::workspace_root;
use rcgen::CertificateParams;
use serde_json::Value;

use crate::bed::{PASSWORD, base, records_where, roles_turn};
use crate::identity::Authority;

const ROLE_PASSWORD: &str = "s3cret-of-the-auth-roles";
const CONTENT: &str = "
create table orders (id int primary key, customer text not null);
insert into orders select n, 'customer ' || n from generate_series(1, 20) n;
grant select on orders to auth_analyst, auth_loader;
";
const GRANTS: &str = "
grants:
  analysts: { to: group:analysts, allow: read shop/public/orders, as: auth_analyst, when: 'principal.claims.team == \"blue\"' }
  loaders: { to: group:loaders, allow: read shop/public/orders, as: auth_loader }
";

/// A gateway with the Postgres door behind TLS, in front of a shop.
pub(super) struct Shop {
    pub(super) gateway: Running,
    pub(super) issuer: Issuer,
    pub(super) authority: Authority,
    database: Database<'static>,
}

impl Shop {
    pub(super) fn start(more: &str) -> Result<Self> {
        Self::start_with(more, |setup, _| Ok(setup))
    }

    /// The same, for a test that has more to say about how the gateway is started.
    pub(super) fn start_with(
        more: &str,
        prepare: impl FnOnce(Setup, &Authority) -> Result<Setup>,
    ) -> Result<Self> {
        let issuer = Issuer::start()?;
        let authority = Authority::new("Ours")?;
        let database = database()?;
        let config = base(&issuer, &database);
        let gateway = prepare(setup(&config, more, &authority)?, &authority)?.start()?;
        Ok(Self { gateway, issuer, authority, database })
    }

    /// One whose tokens are those of another issuer.
    pub(super) fn start_at(url: &str) -> Result<Self> {
        let issuer = Issuer::start()?;
        let authority = Authority::new("Ours")?;
        let database = database()?;
        let config = base(&issuer, &database).replace(issuer.url(), url);
        let gateway = setup(&config, "", &authority)?.start()?;
        Ok(Self { gateway, issuer, authority, database })
    }

    pub(super) fn token(&self, subject: &str, groups: &[&str]) -> Result<String> {
        self.issuer.token(subject).claim("groups", groups).claim("team", "blue").sign()
    }

    /// Mints a login as any HTTP client may: what the gateway answers, and its status.
    pub(super) fn mint(&self, token: &str, wish: &str) -> Result<(u16, Value)> {
        let url = format!("https://127.0.0.1:{}/gateway/logins", self.gateway.address("http")?.port());
        let output = Command::new("curl")
            .current_dir(self.gateway.folder())
            .args(["-sS", "--max-time", "60", "--cacert", "ca.pem", "-w", "\n%{http_code}"])
            .args(["-H", &format!("Authorization: Bearer {token}"), "--data-binary", wish, &url])
            .run()?;
        let text = String::from_utf8(output.stdout)?;
        let (body, status) = text.rsplit_once('\n').context("no status")?;
        Ok((status.parse()?, serde_json::from_str(body).unwrap_or_default()))
    }

    /// A minted user name and its password.
    pub(super) fn minted(&self, token: &str, wish: &str) -> Result<(String, String)> {
        let (status, login) = self.mint(token, wish)?;
        ensure!(status == 200, "{status}: {login}");
        let text = |name: &str| login[name].as_str().map(str::to_owned).context("a text");
        Ok((text("user")?, text("password")?))
    }

    /// psql's answer to one statement, with these parameters of the connection beside its address.
    pub(super) fn psql(&self, parameters: &str, password: &str, statement: &str) -> Result<Output> {
        let address = self.gateway.address("postgres")?;
        let conninfo = format!("host={} port={} dbname=shop {parameters}", address.ip(), address.port());
        Command::new("psql")
            .current_dir(self.gateway.folder())
            .args(["-X", "-A", "-t", "-c", statement, &conninfo])
            .env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "60")
            .env("PGSSLROOTCERT", "ca.pem")
            .run()
    }

    /// A program of `tests/clients` in the interpreter that has the drivers.
    pub(super) fn python(&self, script: &str) -> Result<Command> {
        let address = self.gateway.address("postgres")?;
        let mut command = Command::new(workspace_root().join(".cache/clients/bin/python"));
        command
            .current_dir(self.gateway.folder())
            .arg(workspace_root().join("tests/clients").join(script))
            .env("DOORWARD_HOST", address.ip().to_string())
            .env("DOORWARD_PORT", address.port().to_string())
            .env("DOORWARD_CA", self.gateway.folder().join("ca.pem"));
        Ok(command)
    }

    /// The records that `is` finds, once there are as many.
    pub(super) fn records(&self, count: usize, is: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        records_where(&self.gateway, count, is)
    }

    /// The database lives as long as the gateway.
    pub(super) fn database(&self) -> &Database<'static> {
        &self.database
    }
}

/// The shop's database.
pub(super) fn database() -> Result<Database<'static>> {
    let cluster = Cluster::shared()?;
    {
        let _turn = roles_turn();
        for role in ["auth_analyst", "auth_loader"] {
            cluster.ensure_role(role, &format!("login noinherit password '{ROLE_PASSWORD}'"))?;
        }
        cluster.ensure_role("authenticator", &format!("login noinherit password '{PASSWORD}'"))?;
    }
    let database = cluster.database()?;
    database.sql(CONTENT)?;
    Ok(database)
}

/// A gateway's configuration in front of it, with a certificate of this authority.
pub(super) fn setup(base: &str, more: &str, authority: &Authority) -> Result<Setup> {
    let roles =
        "roles: { auth_analyst: { password: \"env:ROLE\" }, auth_loader: { password: \"env:ROLE\" } }";
    let config = base
        .replace("admin: 127.0.0.1:0", "admin: 127.0.0.1:0, postgres: 127.0.0.1:0")
        .replace("pool: { size: 8 }", &format!("pool: {{ size: 4, sessions: 20 }}\n    {roles}"));
    let server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let (certificate, key) = authority.sign(&server)?;
    let tls = "tls: { cert: \"file:server.crt\", key: \"file:server.key\", client_ca: \"file:ca.pem\" }\n";
    Setup::new(&format!("{config}{GRANTS}{tls}{more}"))?
        .file("ca.pem", &authority.pem)?
        .file("server.crt", certificate)?
        .file("server.key", key)
        .map(|setup| setup.env("SHOP_PASSWORD", PASSWORD).env("ROLE", ROLE_PASSWORD))
}

/// What a program said, on both streams.
pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}
