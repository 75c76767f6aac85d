//! Passwords in Vault's key-value engine, of both versions.

use std::sync::Arc;

use doorward_core::{BoxFuture, Login, Secret};
use doorward_settings::VaultPath;
use serde_json::Value;

use super::Vault;
use crate::source::{CredentialSource, Issued, SourceError, Wanted};

/// A login whose password is a field of a secret: `vault:MOUNT/PATH#FIELD`. It is read again from time to time,
/// and at once when the backend does not accept it; while Vault is away the last one serves.
pub struct VaultPassword {
    vault: Arc<Vault>,
    name: String,
    user: Box<str>,
    path: VaultPath,
    field: Box<str>,
}

impl VaultPassword {
    /// The password of this user.
    pub fn new(vault: Arc<Vault>, user: &str, path: VaultPath, field: &str) -> Self {
        let name = format!("vault {path}");
        Self { vault, name, user: user.into(), path, field: field.into() }
    }

    async fn issue(&self) -> Result<Issued, SourceError> {
        let (mount, version) = match self.vault.kv_version() {
            Some(version) => (self.first_segment(), version),
            None => self.mount().await?,
        };
        let rest =
            self.path.as_str().strip_prefix(mount.as_str()).unwrap_or_default().trim_start_matches('/');
        let path = if version == 1 { format!("{mount}/{rest}") } else { format!("{mount}/data/{rest}") };
        let (answer, _) = self.vault.read(&path).await?;
        let secret = if version == 1 {
            Some(&answer.data)
        } else {
            answer.data.get("data").and_then(Value::as_object)
        };
        let value = secret.and_then(|secret| secret.get(&*self.field)).and_then(Value::as_str);
        match value {
            Some(value) if !value.is_empty() => {
                Ok(Issued::lasting(Login::new(self.user.clone(), Secret::from(value)), self.vault.refresh()))
            }
            _ => Err(SourceError::Refused(format!("{path}: there is no text in the field {:?}", self.field))),
        }
    }

    /// Which mount the path is in, and of which version it is. Where the gateway may not ask, it is the first
    /// segment, and version 2.
    async fn mount(&self) -> Result<(String, u8), SourceError> {
        let asked = self.vault.read(&format!("sys/internal/ui/mounts/{}", self.path)).await;
        let answer = match asked {
            Ok((answer, _)) => answer,
            Err(SourceError::Refused(_)) => return Ok((self.first_segment(), 2)),
            Err(away) => return Err(away),
        };
        let mount = answer.data.get("path").and_then(Value::as_str).map(|path| path.trim_end_matches('/'));
        let mount = mount.filter(|mount| self.path.as_str().starts_with(&format!("{mount}/")));
        let version =
            answer.data.get("options").and_then(|options| options.get("version")).and_then(Value::as_str);
        Ok((
            mount.map_or_else(|| self.first_segment(), str::to_owned),
            if version == Some("2") { 2 } else { 1 },
        ))
    }

    fn first_segment(&self) -> String {
        self.path.as_str().split('/').next().unwrap_or_default().to_owned()
    }
}

impl CredentialSource for VaultPassword {
    fn name(&self) -> &str {
        &self.name
    }

    fn trouble(&self) -> Option<String> {
        self.vault.trouble()
    }

    fn issue<'a>(&'a self, _: &'a Wanted) -> BoxFuture<'a, Result<Issued, SourceError>> {
        Box::pin(self.issue())
    }
}
