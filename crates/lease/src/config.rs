//! The configuration of what credentials come from.

use std::path::PathBuf;
use std::time::Duration;

use doorward_settings::{HumanDuration, SecretRef, Spanned};
use schemars::JsonSchema;
use serde::Deserialize;

/// How often secrets in Vault are read again unless something is said.
const REFRESH: Duration = Duration::from_secs(300);
/// The least pause between two reads of a secret.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// HashiCorp Vault or OpenBao, from which backend logins come.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// Where it is: `https://vault.internal:8200`. `http://` reaches this machine only.
    pub url: Spanned<String>,
    /// A file with further certificate authorities to believe, PEM.
    pub ca: Option<PathBuf>,
    /// The namespace, where there are any.
    pub namespace: Option<Spanned<String>>,
    /// How the gateway proves itself.
    pub auth: VaultAuth,
    /// How often secrets that do not end by themselves (KV, static database roles) are read again (default 5m).
    /// A login that the backend refuses is read again at once.
    pub refresh: Option<Spanned<HumanDuration>>,
    /// The version of the KV engine, 1 or 2, where the gateway may not ask which it is.
    pub kv_version: Option<Spanned<u8>>,
    /// Lets `http://` reach other machines: tokens and secrets cross the network in the clear.
    #[serde(default)]
    pub dangerous_plaintext: bool,
}

/// How the gateway proves itself to Vault: one of these.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum VaultAuth {
    /// The AppRole method.
    Approle(AppRoleAuth),
    /// The JWT method, and those that are like it: `kubernetes`.
    Jwt(JwtAuth),
    /// A token that somebody else has made and may replace: `env:NAME` or `file:PATH`.
    Token(SecretRef),
}

/// AppRole.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppRoleAuth {
    /// Where the method is mounted (default `approle`).
    pub mount: Option<Spanned<String>>,
    /// The role's id: `env:NAME` or `file:PATH`.
    pub role_id: SecretRef,
    /// The secret id, for roles that bind one. Read again at each login, so that the file may be replaced.
    pub secret_id: Option<SecretRef>,
}

/// A JSON web token that somebody else keeps fresh.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JwtAuth {
    /// Where the method is mounted (default `jwt`; `kubernetes` for a service account's).
    pub mount: Option<Spanned<String>>,
    /// The role to log in as.
    pub role: Box<str>,
    /// The token, `file:/var/run/secrets/kubernetes.io/serviceaccount/token` for one. Read again at each login.
    pub token: SecretRef,
}

impl VaultConfig {
    /// What is wrong with it, offline: the key and a text.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let url = self.url.get();
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        match rest.map(|rest| rest.trim_end_matches('/')) {
            None => return Some(("vault.url", "expected https://HOST[:PORT]".to_owned())),
            Some(rest) if rest.is_empty() || rest.contains(['/', '?', '#', '@', ' ']) => {
                return Some((
                    "vault.url",
                    "expected https://HOST[:PORT], without a path and a user".to_owned(),
                ));
            }
            Some(host) if url.starts_with("http://") && !self.dangerous_plaintext && !is_loopback(host) => {
                let text = "a Vault on another machine is reached over https only";
                return Some(("vault.url", text.to_owned()));
            }
            Some(_) => {}
        }
        let mount = match &self.auth {
            VaultAuth::Approle(auth) => auth.mount.as_ref(),
            VaultAuth::Jwt(auth) => auth.mount.as_ref(),
            VaultAuth::Token(_) => None,
        };
        let plain = |text: &str| {
            let segment = |part: &str| {
                !matches!(part, "" | "." | "..")
                    && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            };
            text.split('/').all(segment)
        };
        if mount.is_some_and(|mount| !plain(mount.get())) {
            return Some(("vault.auth", "`mount` is a path of letters, digits, `-`, `_` and `.`".to_owned()));
        }
        if self.namespace.as_ref().is_some_and(|name| !plain(name.get().trim_end_matches('/'))) {
            return Some(("vault.namespace", "expected a namespace's path".to_owned()));
        }
        if self.refresh.as_ref().is_some_and(|refresh| refresh.get().get() < REFRESH_MIN) {
            return Some(("vault.refresh", "expected at least 1s".to_owned()));
        }
        if self.kv_version.as_ref().is_some_and(|version| !matches!(version.get(), 1 | 2)) {
            return Some(("vault.kv_version", "expected 1 or 2".to_owned()));
        }
        None
    }

    /// How often lasting secrets are read again.
    pub fn refresh(&self) -> Duration {
        self.refresh.as_ref().map_or(REFRESH, |refresh| refresh.get().get())
    }

    /// The method's name, for operators.
    pub fn method(&self) -> &'static str {
        match &self.auth {
            VaultAuth::Approle(_) => "approle",
            VaultAuth::Jwt(_) => "jwt",
            VaultAuth::Token(_) => "token",
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use doorward_settings::Document;

    use super::*;

    fn read(yaml: &str) -> Result<VaultConfig, String> {
        let document = Document::parse("doorward.yaml", yaml).map_err(|problem| problem.to_string())?;
        document.root().deserialize().map_err(|problem| problem.to_string())
    }

    #[test]
    fn each_method_is_read() {
        let url = "url: https://vault.internal:8200\n";
        for (auth, method) in [
            ("auth: { approle: { role_id: env:ROLE, secret_id: file:secret-id } }", "approle"),
            ("auth: { jwt: { mount: kubernetes, role: doorward, token: file:token } }", "jwt"),
            ("auth: { token: env:VAULT_TOKEN }", "token"),
        ] {
            let config =
                read(&format!("{url}{auth}\nnamespace: team/data\nkv_version: 1\nrefresh: 30s")).unwrap();
            assert_eq!((config.method(), config.problem()), (method, None), "{auth}");
            assert_eq!(config.refresh(), Duration::from_secs(30));
        }
        assert!(read(url).unwrap_err().contains("\"auth\" is missing"));
        assert!(read(&format!("{url}auth: {{ approle: {{ secret_id: env:S }} }}")).is_err());
        assert!(read(&format!("{url}auth: {{ ldap: {{ role: x }} }}")).is_err());
    }

    #[test]
    fn what_cannot_be_is_said_offline() {
        for (yaml, key) in [
            ("url: vault.internal", "vault.url"),
            ("url: http://vault.internal:8200", "vault.url"),
            ("url: https://vault.internal/v1", "vault.url"),
            ("url: https://gw:word@vault.internal", "vault.url"),
            ("url: https://vault.internal\nrefresh: 10ms", "vault.refresh"),
            ("url: https://vault.internal\nkv_version: 3", "vault.kv_version"),
            ("url: https://vault.internal\nnamespace: a/../b", "vault.namespace"),
        ] {
            let config = read(&format!("{yaml}\nauth: {{ token: env:T }}")).unwrap();
            assert_eq!(config.problem().map(|(key, _)| key), Some(key), "{yaml}");
        }
        for fine in ["http://127.0.0.1:8200", "http://[::1]:8200", "http://localhost", "https://vault/"] {
            let config = read(&format!("url: \"{fine}\"\nauth: {{ token: env:T }}")).unwrap();
            assert_eq!(config.problem(), None, "{fine}");
        }
    }
}
