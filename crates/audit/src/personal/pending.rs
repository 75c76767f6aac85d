//! Keys that were made while the key store was away: wrapped under the master key, in the spool's directory,
//! until the key store takes them.
//!
//! ```text
//! file := line…            line := "m1." master key id "." base64url(sealed entry) "\n"
//! ```
//!
//! Invariants: an entry is synced before [`Pending::mint`] returns it; at most [`PENDING_MAX`] wait, and then
//! nothing is minted; a line that is torn or damaged is passed over (a torn one was never used), and a line
//! under a master key that is not at hand is an error, because others would then be lost.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorward_core::{Clock, SystemClock};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::keys::{Masters, Root};
use super::service::{Key, KeyError, Who};
use super::store::{NewSubject, SubjectRow};
use super::xaes::{self, Broken, KeyBytes};
use crate::spool::files::{Appender, Files};

/// Keys that may wait for the key store.
pub(crate) const PENDING_MAX: usize = 65_536;
/// Bytes of one file that are read.
const FILE_BYTES_MAX: usize = 256 << 20;
const SUFFIX: &str = ".pending";

/// One key that waits.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) who: Who,
    pub(crate) id: Uuid,
    pub(crate) key: KeyBytes,
    pub(crate) created_us: i64,
}

impl Entry {
    /// The row that the key store keeps of it.
    pub(crate) fn sealed(&self, root: &Root) -> Result<NewSubject, Broken> {
        let row = SubjectRow {
            id: self.id,
            identity: self.who.identity(root),
            day: self.who.day(),
            key: root.wrap(self.id, &self.key)?,
            person: self.who.person().seal(self.id, &self.key)?,
            created_us: self.created_us,
        };
        Ok(NewSubject { row, names: self.who.names(root) })
    }

    fn line(&self, masters: &Masters) -> Result<String, Broken> {
        let master = &masters.current;
        let sealed = master.seal_pending(self.json().as_bytes())?;
        Ok(format!("m1.{}.{}\n", master.id(), URL_SAFE_NO_PAD.encode(sealed)))
    }

    fn json(&self) -> Zeroizing<String> {
        let key = Zeroizing::new(URL_SAFE_NO_PAD.encode(&self.key[..]));
        let who = match &self.who {
            Who::Person { issuer, subject, email } => json!({"iss": issuer, "sub": subject, "email": email}),
            Who::Day { environment, day } => json!({"environment": environment, "day": day}),
        };
        let entry = json!({"id": self.id.to_string(), "key": *key, "at": self.created_us, "who": who});
        Zeroizing::new(entry.to_string())
    }

    fn read(line: &str, masters: &Masters) -> Result<Option<Self>, KeyError> {
        let Some((id, sealed)) = line.strip_prefix("m1.").and_then(|rest| rest.split_once('.')) else {
            return Ok(None);
        };
        let master = masters.by_id(id).ok_or_else(|| KeyError::WrongMaster {
            have: masters.current.id().clone(),
            needed: id.to_owned(),
            place: "keys in the spool".to_owned(),
        })?;
        let opened = URL_SAFE_NO_PAD.decode(sealed).ok().and_then(|sealed| master.open_pending(&sealed).ok());
        Ok(opened.and_then(|text| Self::of_json(&text)))
    }

    fn of_json(text: &[u8]) -> Option<Self> {
        let json: Json = serde_json::from_slice(text).ok()?;
        let text = |name: &str, of: &Json| of.get(name).and_then(Json::as_str).map(Box::<str>::from);
        let who = json.get("who")?;
        let who = match who.get("day").and_then(Json::as_i64) {
            Some(day) => Who::Day { environment: text("environment", who)?, day },
            None => Who::Person {
                issuer: text("iss", who)?,
                subject: text("sub", who)?,
                email: text("email", who),
            },
        };
        let key = Zeroizing::new(URL_SAFE_NO_PAD.decode(json.get("key")?.as_str()?).ok()?);
        Some(Self {
            who,
            id: Uuid::parse_str(json.get("id")?.as_str()?).ok()?,
            key: Zeroizing::new(key.as_slice().try_into().ok()?),
            created_us: json.get("at")?.as_i64()?,
        })
    }
}

/// What waits, shared by the writer, which mints, and the thread that hands over to the key store.
pub(crate) struct Pending {
    files: Arc<dyn Files>,
    epoch: u64,
    masters: Arc<Masters>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: Vec<Entry>,
    /// Places in `entries`.
    by_who: HashMap<Box<str>, usize>,
    /// Files that hold the entries.
    names: Vec<String>,
    active: Option<Box<dyn Appender>>,
    made: u64,
}

impl Pending {
    /// Reads what earlier starts have left.
    pub(crate) fn open(files: Arc<dyn Files>, epoch: u64, masters: Arc<Masters>) -> Result<Self, KeyError> {
        let mut inner = Inner::default();
        for (name, length) in files.list()?.into_iter().filter(|(name, _)| name.ends_with(SUFFIX)) {
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(FILE_BYTES_MAX);
            let text = files.read(&name, 0, length)?;
            let text = Zeroizing::new(String::from_utf8_lossy(&text).into_owned());
            // What has no end of line was never used.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let mut damaged = 0_usize;
            for line in whole.lines() {
                match Entry::read(line, &masters)? {
                    Some(entry) => inner.put(entry),
                    None => damaged += 1,
                }
            }
            if damaged > 0 {
                tracing::warn!(file = name, lines = damaged, "lines of pending keys cannot be read");
            }
            inner.names.push(name);
        }
        Ok(Self { files, epoch, masters, inner: Mutex::new(inner) })
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().entries.len()
    }

    /// Keys for these callers, no two of whom are one, in order: those that wait already, and new ones, which
    /// are durable when this returns.
    pub(crate) fn mint(&self, wanted: &[Who]) -> Result<Vec<Key>, KeyError> {
        let mut inner = self.inner.lock();
        let mut fresh: Vec<Entry> = Vec::new();
        let mut keys = Vec::with_capacity(wanted.len());
        let mut lines = String::new();
        for who in wanted {
            let place = inner.by_who.get(&who.text());
            if let Some(entry) = place.and_then(|place| inner.entries.get(*place)) {
                keys.push(Key { id: entry.id, bytes: entry.key.clone() });
                continue;
            }
            let created_us = SystemClock.now().micros();
            let entry = Entry { who: who.clone(), id: Uuid::new_v4(), key: xaes::fresh_key()?, created_us };
            lines.push_str(&entry.line(&self.masters)?);
            keys.push(Key { id: entry.id, bytes: entry.key.clone() });
            fresh.push(entry);
        }
        if inner.entries.len() + fresh.len() > PENDING_MAX {
            return Err(KeyError::PendingFull);
        }
        if !fresh.is_empty() {
            self.append(&mut inner, lines.as_bytes())?;
        }
        for entry in fresh {
            inner.put(entry);
        }
        Ok(keys)
    }

    fn append(&self, inner: &mut Inner, lines: &[u8]) -> io::Result<()> {
        // A file whose writing failed is left: what follows a torn line could not be told from it.
        let mut active = match inner.active.take() {
            Some(active) => active,
            None => {
                inner.made += 1;
                let name = format!("keys-{:016x}-{:08x}{SUFFIX}", self.epoch, inner.made);
                let active = self.files.create(&name, 0)?;
                inner.names.push(name);
                active
            }
        };
        active.append(lines)?;
        active.sync()?;
        inner.active = Some(active);
        Ok(())
    }

    /// What waits now. Later ones go to another file.
    pub(crate) fn take_stock(&self) -> (Vec<Entry>, Vec<String>) {
        let mut inner = self.inner.lock();
        inner.active = None;
        (inner.entries.clone(), inner.names.clone())
    }

    /// Forgets entries that the key store has taken, and removes their files. A file that comes back after a
    /// crash is taken again, to no effect.
    pub(crate) fn settle(&self, entries: &[Entry], names: &[String]) {
        let mut inner = self.inner.lock();
        inner.names.retain(|name| !names.contains(name));
        let taken = entries.len().min(inner.entries.len());
        let rest = inner.entries.split_off(taken);
        inner.entries.clear();
        inner.by_who.clear();
        for entry in rest {
            inner.put(entry);
        }
        drop(inner);
        for name in names {
            if let Err(error) = self.files.remove(name) {
                tracing::warn!(file = name, %error, "pending keys that were handed over could not be removed");
            }
        }
    }
}

impl Inner {
    fn put(&mut self, entry: Entry) {
        self.by_who.insert(entry.who.text(), self.entries.len());
        self.entries.push(entry);
    }
}
