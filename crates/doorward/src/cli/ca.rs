//! `doorward ca`: the authority that signs client certificates for backend roles.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use doorward_core::Timestamp;
use doorward_lease::{NewAuthority, authority_facts, new_authority};
use serde_json::json;

use super::{note, out};

/// The files of an authority in its folder.
const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
/// Those of the one that will follow it, and both certificates together.
const NEXT_CERTIFICATE: &str = "ca-next.crt";
const NEXT_KEY: &str = "ca-next.key";
const BUNDLE: &str = "ca-bundle.crt";
/// The largest certificate file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// `doorward ca …`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Makes an authority: DIR/ca.crt for the database, DIR/ca.key (mode 0600) for the gateway.
    Init {
        /// The folder.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The authority's name.
        #[arg(long, default_value = "Doorward backend authority")]
        name: String,
        /// How long it is good.
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Says what an authority's certificate says.
    Show {
        /// The folder.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Makes the next authority beside the one there is (DIR/ca-next.*), and DIR/ca-bundle.crt with both certificates.
    /// Once the database believes the bundle, `--finish` puts the next one in the place of the old.
    Rotate {
        /// The folder.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Puts the next authority in the place of the one there is.
        #[arg(long)]
        finish: bool,
        /// How long the next one is good.
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
}

pub(super) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Init { dir, name, days } => init(dir, name, *days)?,
        Command::Show { dir } => show(&dir.join(CERTIFICATE))?,
        Command::Rotate { dir, finish: false, days } => rotate(dir, *days)?,
        Command::Rotate { dir, finish: true, .. } => finish(dir)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn init(dir: &Path, name: &str, days: u32) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let made = new_authority(name, days)?;
    write_pair(dir, (CERTIFICATE, KEY), &made)?;
    show(&dir.join(CERTIFICATE))?;
    note(&format!(
        "In postgresql.conf:  ssl = on,  ssl_ca_file = '{CERTIFICATE}' (this file)\n\
         In pg_hba.conf:      hostssl DATABASE ROLE[,ROLE…] GATEWAY-ADDRESS cert\n\
         In doorward.yaml:    roles: {{ certificates: {{ ca: \"file:{}\", key: \"file:{}\" }} }}\n",
        dir.join(CERTIFICATE).display(),
        dir.join(KEY).display(),
    ));
    Ok(())
}

fn rotate(dir: &Path, days: u32) -> anyhow::Result<()> {
    let old = read(&dir.join(CERTIFICATE))?;
    let name = authority_facts(&old)?.subject;
    let name = name.strip_prefix("CN=").unwrap_or(&name);
    let made = new_authority(name, days)?;
    write_pair(dir, (NEXT_CERTIFICATE, NEXT_KEY), &made)?;
    replace(&dir.join(BUNDLE), &format!("{}\n{}", old.trim_end(), made.certificate))?;
    show(&dir.join(NEXT_CERTIFICATE))?;
    note(&format!(
        "Put {BUNDLE} in the place of ssl_ca_file, reload PostgreSQL, and then: doorward ca rotate {} --finish\n",
        dir.display()
    ));
    Ok(())
}

fn finish(dir: &Path) -> anyhow::Result<()> {
    authority_facts(&read(&dir.join(NEXT_CERTIFICATE))?)?;
    ensure!(dir.join(NEXT_KEY).exists(), "there is no {NEXT_KEY}; `doorward ca rotate` makes one");
    // The key first: between the two the gateway refuses to load a pair that does not fit, and keeps what it has.
    for (from, to) in [(NEXT_KEY, KEY), (NEXT_CERTIFICATE, CERTIFICATE)] {
        fs::rename(dir.join(from), dir.join(to)).with_context(|| from.to_owned())?;
    }
    show(&dir.join(CERTIFICATE))?;
    note(
        "Reload the gateway. When its old certificates have ended, ssl_ca_file may hold the new authority alone.\n",
    );
    Ok(())
}

fn show(path: &Path) -> anyhow::Result<()> {
    let facts = authority_facts(&read(path)?).with_context(|| path.display().to_string())?;
    let time = |seconds: i64| doorward_audit::time::rfc3339(Timestamp::from_seconds(seconds));
    let said = json!({
        "file": path.display().to_string(),
        "subject": facts.subject,
        "not_before": time(facts.good.0),
        "not_after": time(facts.good.1),
        "sha256": facts.fingerprint,
    });
    out(&format!("{said}\n"))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let size = fs::metadata(path).with_context(|| path.display().to_string())?.len();
    ensure!(size <= FILE_BYTES_MAX, "{} is larger than {FILE_BYTES_MAX} bytes", path.display());
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// Writes a new authority. What is there stays.
fn write_pair(dir: &Path, names: (&str, &str), made: &NewAuthority) -> anyhow::Result<()> {
    let (certificate, key) = (dir.join(names.0), dir.join(names.1));
    for path in [&certificate, &key] {
        if path.exists() {
            bail!("{} is there already; an authority is not written over", path.display());
        }
    }
    create(&key, made.key.expose(), 0o600)?;
    create(&certificate, &made.certificate, 0o644)
}

fn create(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = opened.with_context(|| path.display().to_string())?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(|| path.display().to_string())
}

/// Writes a file as a whole, in the place of one that may be there.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => bail!("{}: {error}", fresh.display()),
        _ => {}
    }
    create(&fresh, text, 0o644)?;
    fs::rename(&fresh, path).with_context(|| path.display().to_string())
}
