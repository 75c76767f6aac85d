//! Keys for the tests of other modules.

use std::sync::{Arc, LazyLock};

use uuid::Uuid;

use super::Fields;
use super::keyring::Keyring;
use super::keys::{MasterKey, Masters};
use super::pending::Pending;
use super::seal::{Kind, Sealing, SealingKey};
use super::service::{Expiry, OpenKeys};
use super::start::start_with;
use super::store::KeyStore;
use super::store::sqlite::SqliteKeys;
use super::xaes;
use crate::spool::files::Files;

/// A fresh master key.
pub(crate) fn masters() -> Arc<Masters> {
    let current = MasterKey::parse(&MasterKey::generate().unwrap()).unwrap();
    Arc::new(Masters { current, old: Vec::new() })
}

/// Nothing expires.
pub(crate) fn never() -> Expiry {
    Expiry { days: None, held: Box::new(|| Ok(false)) }
}

/// Writers of one test take turns on one disk. On a busy machine the key store answers late, and a key is left
/// in the spool: the next writer must be able to open it.
static MASTERS: LazyLock<Arc<Masters>> = LazyLock::new(masters);

/// Keys for a writer, over a key store in memory.
pub(crate) fn keyring(files: Arc<dyn Files>) -> Keyring {
    let open: OpenKeys = Box::new(|| Ok(Box::new(SqliteKeys::in_memory().unwrap()) as Box<dyn KeyStore>));
    let masters = MASTERS.clone();
    let pending = Arc::new(Pending::open(files, 1, masters.clone()).unwrap());
    let sealing = Sealing::new(Fields::with(&[])).unwrap();
    start_with(open, masters, pending, sealing, never()).unwrap().keyring
}

/// A sealing of the marked columns and of these, and a person's key.
pub(crate) fn sealing(more: &[&str]) -> (Sealing, SealingKey) {
    let more: Vec<String> = more.iter().map(ToString::to_string).collect();
    let sealing = Sealing::new(Fields::with(&more)).unwrap();
    let key = sealing.ready(Uuid::from_u128(5), Kind::Person, &xaes::fresh_key().unwrap()).unwrap();
    (sealing, key)
}
