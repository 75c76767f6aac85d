//! Opening the key store under the configured master key, and starting the thread that keeps it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::Fields;
use super::keyring::Keyring;
use super::keys::{MasterKey, Masters};
use super::pending::Pending;
use super::seal::Sealing;
use super::service::{DAY_US, Expiry, KeyError, OpenKeys, Opened, Service, Told};
use super::store::postgres::PostgresKeys;
use super::store::sqlite::SqliteKeys;
use super::store::{KeyStore, KeyStoreError};
use crate::config::{AuditConfig, StoreUrl};
use crate::spool::files::{Files, make_private, private};

/// The file of a master key that was generated.
pub(crate) const MASTER_FILE: &str = "master.key";
/// The most bytes of that file.
const MASTER_BYTES_MAX: u64 = 1_024;

/// The writer's keys, and what belongs to them.
pub(crate) struct Started {
    pub(crate) keyring: Keyring,
    pub(crate) pending: Arc<Pending>,
    pub(crate) told: Arc<Told>,
    pub(crate) thread: JoinHandle<()>,
}

/// Where the configuration says that keys are.
pub(crate) fn url(config: &AuditConfig) -> StoreUrl {
    let beside = || StoreUrl::Sqlite(config.store.subjects_path());
    config.personal.store.clone().unwrap_or_else(beside)
}

/// How to open the key store.
pub(crate) fn opener(config: &AuditConfig) -> OpenKeys {
    match url(config) {
        StoreUrl::Sqlite(path) => Box::new(move || {
            let keys = SqliteKeys::open(&path)?;
            Ok(Box::new(keys) as Box<dyn KeyStore>)
        }),
        StoreUrl::Postgres(server) => Box::new(move || {
            let keys = PostgresKeys::open(&server)?;
            Ok(Box::new(keys) as Box<dyn KeyStore>)
        }),
    }
}

/// Where a master key is generated when none is configured.
pub fn master_file(config: &AuditConfig) -> Option<PathBuf> {
    match (&config.personal.master_key, url(config)) {
        (None, StoreUrl::Sqlite(path)) => Some(path.with_file_name(MASTER_FILE)),
        _ => None,
    }
}

impl AuditConfig {
    /// What `doorward check` advises about personal data, beside what is wrong.
    pub fn personal_advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        if let Some(path) = master_file(self) {
            advice.push(format!(
                "the master key of personal data is made in {}, beside what it protects: name one that is kept \
                 elsewhere in `personal.master_key`, or keep that file out of the backups of its folder",
                path.display()
            ));
        }
        if self.store.server().is_some() && url(self).path().is_some() {
            advice.push(
                "the records are in a database that gateways share, and the keys of personal data in a file that \
                 only this machine has: name a database for them in `personal.store`"
                    .to_owned(),
            );
        }
        advice
    }
}

/// Reads the master keys; with `make`, generates one when none is configured and there are no keys yet.
pub(crate) fn masters(config: &AuditConfig, make: bool) -> Result<Masters, KeyError> {
    let personal = &config.personal;
    let current = match (&personal.master_key, master_file(config)) {
        (Some(reference), _) => parse(reference.read().map_err(|problem| problem.message)?.expose())?,
        (None, Some(path)) => generated(config, &path, make)?,
        (None, None) => return Err(KeyError::Master("it is not set".to_owned())),
    };
    let old = personal.old_master_keys.iter().map(|reference| {
        let text = reference.read().map_err(|problem| problem.message)?;
        MasterKey::parse(text.expose()).map_err(|why| format!("personal.old_master_keys: {why}"))
    });
    Ok(Masters { current, old: old.collect::<Result<_, String>>()? })
}

impl From<String> for KeyError {
    fn from(text: String) -> Self {
        Self::Master(text)
    }
}

fn parse(text: &str) -> Result<MasterKey, KeyError> {
    MasterKey::parse(text).map_err(|why| KeyError::Master(why.to_owned()))
}

fn generated(config: &AuditConfig, path: &Path, make: bool) -> Result<MasterKey, KeyError> {
    let cannot = |error: io::Error| KeyError::Master(format!("{}: {error}", path.display()));
    match read_small(path) {
        Ok(text) => return parse(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound && make => {}
        Err(error) => return Err(cannot(error)),
    }
    if let StoreUrl::Sqlite(keys) = url(config)
        && keys.exists()
        && !SqliteKeys::open(&keys)?.roots()?.is_empty()
    {
        return Err(KeyError::Master(format!(
            "{} is not there, and the key store has keys under it: restore it from its backup",
            path.display()
        )));
    }
    write_new(path, &MasterKey::generate()?).map_err(cannot)?;
    parse(&read_small(path).map_err(cannot)?)
}

fn read_small(path: &Path) -> io::Result<Zeroizing<String>> {
    use std::io::Read;
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(path)?.take(MASTER_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Puts a file in place, whole, unless another process was first.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension(format!("{}.new", Uuid::new_v4().simple()));
    make_private(&draft)?;
    let written = private(OpenOptions::new().write(true)).open(&draft).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        match std::fs::hard_link(&draft, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    });
    std::fs::remove_file(&draft)?;
    written?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Opens the key store and starts its thread. A store that is away is no error; a master key that does not
/// open it is.
pub(crate) fn start(config: &AuditConfig, files: Arc<dyn Files>, epoch: u64) -> Result<Started, KeyError> {
    let masters = Arc::new(masters(config, true)?);
    let pending = Arc::new(Pending::open(files, epoch, masters.clone())?);
    let span = config.personal.unknown_callers;
    let kept_us = span.map(|span| i64::try_from(span.get().as_micros()).unwrap_or(i64::MAX));
    let kept_us = kept_us.or_else(|| config.retention.longest_us());
    let days = kept_us.map(|kept| kept.saturating_add(DAY_US - 1) / DAY_US);
    let held = crate::hold::unknown_callers_held(&config.store);
    let sealing = Sealing::new(Fields::with(&config.personal.fields))?;
    start_with(opener(config), masters, pending, sealing, Expiry { days, held })
}

/// The same with all parts given.
pub(crate) fn start_with(
    open: OpenKeys,
    masters: Arc<Masters>,
    pending: Arc<Pending>,
    sealing: Sealing,
    expiry: Expiry,
) -> Result<Started, KeyError> {
    let told = Arc::new(Told::default());
    let opened = match open().map_err(KeyError::from).and_then(|store| Opened::new(store, &masters)) {
        Ok(opened) => Some(opened),
        Err(error) if error.away() => {
            tracing::error!(%error, "keys are made locally until the key store can be reached");
            told.away.store(true, std::sync::atomic::Ordering::Relaxed);
            None
        }
        Err(error) => return Err(error),
    };
    let was_open = opened.is_some();
    let (ask, asked) = sync_channel(1);
    let service = Service {
        open,
        opened,
        masters,
        pending: pending.clone(),
        told: told.clone(),
        expiry,
        seen: 0,
        expired_at: None,
        was_open,
    };
    let thread = std::thread::Builder::new()
        .name("audit-keys".to_owned())
        .spawn(move || service.run(&asked))
        .map_err(|error| KeyStoreError::Unusable(error.to_string()))?;
    Ok(Started { keyring: Keyring::new(sealing, ask, pending.clone(), told.clone()), pending, told, thread })
}
