//! Where a secret is: never the secret itself.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use doorward_core::Secret;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer};

use crate::problem::Problem;
use crate::spanned::Spanned;
use crate::vault_path::VaultPath;

/// The largest secret that is read, in bytes.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

/// The longest name of a field of a secret in Vault.
const FIELD_BYTES_MAX: usize = 128;

/// Schemes of the design that this version does not have.
const LATER_SCHEMES: &[&str] = &["aws-sm", "gcp-sm", "azure-kv", "exec"];

/// A reference to a secret: `env:NAME` or `file:PATH`. A relative path is relative to the folder of the
/// configuration file that names it. Text that is no reference is refused, and not repeated in the error.
///
/// `vault:MOUNT/PATH#FIELD` is a secret in HashiCorp Vault or OpenBao. It is not read here but by the lease
/// organ, for the logins of backends: see [`SecretRef::vault`].
#[derive(Clone)]
pub struct SecretRef {
    source: Spanned<Source>,
}

#[derive(Clone)]
enum Source {
    Env(Box<str>),
    File(PathBuf),
    Vault(VaultPath, Box<str>),
}

impl SecretRef {
    /// Reads the secret; one line ending at its end is not part of it. Blocks: at load only.
    pub fn read(&self) -> Result<Secret, Problem> {
        let text = match self.source.get() {
            Source::Env(name) => std::env::var(&**name).map_err(|error| {
                let what = match error {
                    std::env::VarError::NotPresent => "is not set",
                    std::env::VarError::NotUnicode(_) => "is not UTF-8 text",
                };
                self.problem(format!("the environment variable {name} {what}"))
            })?,
            Source::File(path) => self.read_file(path)?,
            Source::Vault(..) => {
                return Err(self
                    .problem("a secret in Vault is read for the logins and roles of resources only")
                    .hint("use env:NAME or file:PATH here"));
            }
        };
        let secret = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
        match secret.len() {
            0 => Err(self.problem(format!("the secret at {self} is empty"))),
            1..=SECRET_BYTES_MAX => Ok(Secret::from(secret)),
            _ => Err(self.problem(format!("the secret at {self} is larger than {SECRET_BYTES_MAX} bytes"))),
        }
    }

    /// What `doorward check` should say about how the secret is kept: a file that all users of the machine
    /// may read. (Mounted secrets of container platforms are often so; hence a warning.) Blocks.
    pub fn warning(&self) -> Option<Problem> {
        let Source::File(path) = self.source.get() else { return None };
        let open = mode(path)? & 0o004 != 0;
        open.then(|| {
            self.problem(format!("every user of this machine may read {}", path.display()))
                .hint(format!("chmod 600 {}", path.display()))
        })
    }

    /// The file that the secret is read from, for those who watch it.
    pub fn file(&self) -> Option<&Path> {
        match self.source.get() {
            Source::File(path) => Some(path),
            Source::Env(_) | Source::Vault(..) => None,
        }
    }

    /// Where in Vault the secret is: its path and field. [`SecretRef::read`] does not read such a one.
    pub fn vault(&self) -> Option<(&VaultPath, &str)> {
        match self.source.get() {
            Source::Vault(path, field) => Some((path, field)),
            Source::Env(_) | Source::File(_) => None,
        }
    }

    /// A problem with this reference.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        self.source.problem(message)
    }

    fn read_file(&self, path: &Path) -> Result<String, Problem> {
        let shown = path.display();
        let cannot =
            |error: std::io::Error| self.problem(format!("the secret in {shown} cannot be read: {error}"));
        let file = File::open(path).map_err(cannot)?;
        if !file.metadata().map_err(cannot)?.is_file() {
            return Err(self.problem(format!("{shown} is not a file")));
        }
        // Whoever may write the file can put a secret of their own there.
        if mode(path).is_some_and(|mode| mode & 0o002 != 0) {
            return Err(self
                .problem(format!("every user of this machine may change {shown}"))
                .hint(format!("chmod 600 {shown}")));
        }
        let mut bytes = Vec::new();
        let limit = u64::try_from(SECRET_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(3);
        file.take(limit).read_to_end(&mut bytes).map_err(cannot)?;
        String::from_utf8(bytes).map_err(|_| self.problem(format!("the secret in {shown} is not UTF-8 text")))
    }
}

#[cfg(unix)]
fn mode(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).ok().map(|metadata| metadata.permissions().mode())
}

#[cfg(not(unix))]
fn mode(_: &Path) -> Option<u32> {
    None
}

fn parse(text: &str, config_file: &str) -> Result<Source, String> {
    const HINT: &str = "write env:NAME or file:PATH, and keep the secret there";
    let literal = || format!("a reference to a secret is expected here, not the secret itself; {HINT}");
    let (scheme, rest) = text.split_once(':').ok_or_else(literal)?;
    match scheme {
        "env" => {
            let mut chars = rest.chars();
            let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
            if first && chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Ok(Source::Env(rest.into()));
            }
            Err("env: is followed by the name of an environment variable".to_owned())
        }
        "file" if rest.is_empty() || rest.contains('\0') => Err("file: is followed by a path".to_owned()),
        "file" => {
            let folder = Path::new(config_file).parent().unwrap_or(Path::new(""));
            Ok(Source::File(folder.join(rest)))
        }
        "vault" => {
            let parts = rest.split_once('#').filter(|(_, field)| is_field(field));
            let parsed = parts.and_then(|(path, field)| Some((VaultPath::parse(path)?, field)));
            let (path, field) =
                parsed.ok_or("vault: is followed by MOUNT/PATH#FIELD, for example vault:kv/shop#password")?;
            Ok(Source::Vault(path, field.into()))
        }
        scheme if LATER_SCHEMES.contains(&scheme) => Err(format!(
            "{scheme}: references are not available in this version yet; use env:NAME or file:PATH"
        )),
        _ => Err(literal()),
    }
}

/// Whether this names a field of a secret.
fn is_field(text: &str) -> bool {
    (1..=FIELD_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Shows where the secret is, as the file says it.
impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source.get() {
            Source::Env(name) => write!(f, "env:{name}"),
            Source::File(path) => write!(f, "file:{}", path.display()),
            Source::Vault(path, field) => write!(f, "vault:{path}#{field}"),
        }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretRef({self})")
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        let source = parse(text.get(), &text.position().file).map_err(serde::de::Error::custom)?;
        Ok(Self { source: text.map(|_| source) })
    }
}

impl JsonSchema for SecretRef {
    fn schema_name() -> Cow<'static, str> {
        "SecretRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+|vault:[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+#.+)$",
            "description": "Where a secret is: env:NAME, file:PATH (relative to this file's folder), or, for the logins and roles of resources, vault:MOUNT/PATH#FIELD.",
        })
    }
}
