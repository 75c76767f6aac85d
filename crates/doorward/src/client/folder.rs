//! Where a client's machine keeps its profiles and tokens: `doorward/NAME/` in the user's configuration directory
//! (XDG Base Directory Specification), which only the user reads.
//!
//! Invariants: a file is whole or not there; a file of tokens that somebody else can read is not used.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
const PROFILE: &str = "profile.json";
const TOKENS: &str = "tokens.json";
const LOCK: &str = "lock";

/// One profile's folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

/// Whoever holds it may change the tokens.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Folder {
    /// The folder of this profile; it need not be there.
    pub(crate) fn of(name: &str) -> anyhow::Result<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        ensure!(
            (1..=64).contains(&name.len()) && name.bytes().all(plain),
            "a profile's name is of letters, digits, - and _"
        );
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
        let base = base.context("neither XDG_CONFIG_HOME nor HOME is set")?;
        Ok(Self { path: base.join("doorward").join(name) })
    }

    /// Makes it, for its user alone.
    pub(crate) fn make(&self) -> anyhow::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.path).with_context(|| self.path.display().to_string())
    }

    /// Waits for its turn to change the tokens. Blocks, for as long as another process refreshes.
    pub(crate) fn lock(&self) -> anyhow::Result<Lock> {
        self.make()?;
        let path = self.path.join(LOCK);
        let shown = || path.display().to_string();
        let file =
            private(OpenOptions::new().create(true).truncate(false)).open(&path).with_context(shown)?;
        file.lock().with_context(shown)?;
        Ok(Lock { _file: file })
    }

    /// The profile that was kept.
    pub(crate) fn profile<T: DeserializeOwned>(&self) -> anyhow::Result<Option<T>> {
        self.read(PROFILE)
    }

    /// Keeps a profile.
    pub(crate) fn keep_profile<T: Serialize>(&self, profile: &T) -> anyhow::Result<()> {
        self.write(PROFILE, profile)
    }

    /// The tokens that were kept.
    pub(crate) fn tokens<T: DeserializeOwned>(&self) -> anyhow::Result<Option<T>> {
        self.read(TOKENS)
    }

    /// Keeps tokens.
    pub(crate) fn keep_tokens<T: Serialize>(&self, _: &Lock, tokens: &T) -> anyhow::Result<()> {
        self.write(TOKENS, tokens)
    }

    /// Forgets the tokens; whether there were any.
    pub(crate) fn forget_tokens(&self, _: &Lock) -> anyhow::Result<bool> {
        match std::fs::remove_file(self.path.join(TOKENS)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            removed => Ok(removed.map(|()| true)?),
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<Option<T>> {
        let path = self.path.join(name);
        let shown = || path.display().to_string();
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.with_context(shown)?,
        };
        check_private(&file, &path)?;
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).with_context(shown)?;
        // serde's message names keys and places, and repeats no value of a text that is an object.
        let value = serde_json::from_str(&text);
        value.map(Some).map_err(|error| {
            anyhow::anyhow!("{}: line {} is not as doorward writes it; log in again", shown(), error.line())
        })
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> anyhow::Result<()> {
        self.make()?;
        let path = self.path.join(name);
        let draft = self.path.join(format!("{name}.{}", std::process::id()));
        let shown = || path.display().to_string();
        let mut file =
            private(OpenOptions::new().create(true).truncate(true)).open(&draft).with_context(shown)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.sync_all()?;
        std::fs::rename(&draft, &path).with_context(shown)
    }
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.write(true)
}

#[cfg(unix)]
fn check_private(file: &File, path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!("others may read {0}; run chmod 600 {0}, and log in again", path.display());
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_private(_: &File, _: &Path) -> anyhow::Result<()> {
    Ok(())
}
