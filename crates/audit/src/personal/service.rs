//! The thread that talks to the key store, so that a store that is slow or away never holds up the spool.
//!
//! It answers the writer's questions for keys, hands over keys that were made while the store was away, and
//! looks every [`POLL`] for erasures, whose keys the writer then forgets.
//!
//! Invariants: the writer waits at most [`ANSWER_WAIT`] for an answer, and not at all while the store is
//! away; a master key that does not open the root key is never taken for a store that is away.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use doorward_core::{Clock, SystemClock};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::keys::{KeyId, Lookup, Masters, Root};
use super::pending::Pending;
use super::store::{Erasure, Imported, KeyStore, KeyStoreError, NewSubject, ROWS_MAX, SubjectRow};
use super::xaes::{self, Broken, KeyBytes};

/// How long the writer waits for an answer.
pub(crate) const ANSWER_WAIT: Duration = Duration::from_millis(500);
/// How often erasures are looked for. A running gateway has forgotten an erased key within twice that.
const POLL: Duration = Duration::from_secs(2);
/// How often keys of past days are destroyed.
const EXPIRE_EVERY: Duration = Duration::from_secs(60 * 60);
/// For how long an erasure's identity is remembered, so that keys that a gateway made while it was cut off
/// do not bring the person back.
const ERASED_IDENTITY_US: i64 = 30 * DAY_US;
/// E-mail addresses that are kept of one person: the first, and the latest.
const EMAILS_MAX: usize = 8;
pub(crate) const DAY_US: i64 = 86_400_000_000;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key store.
    #[error(transparent)]
    Store(#[from] KeyStoreError),
    /// The master key is another than the one that wrapped what is there.
    #[error(
        "{place} lie under the master key {needed}, and `personal.master_key` is {have}: \
         restore that key, or name it in `personal.old_master_keys`"
    )]
    WrongMaster {
        /// The configured master key.
        have: KeyId,
        /// The ids of those that would do.
        needed: String,
        /// What they wrap.
        place: String,
    },
    /// The master key cannot be had.
    #[error("personal.master_key: {0}")]
    Master(String),
    /// Keys that wait for the key store cannot be kept.
    #[error("keys that wait for the key store: {0}")]
    Pending(#[from] std::io::Error),
    /// Too many keys wait.
    #[error("the key store has been away for too long: no more keys can wait for it")]
    PendingFull,
    /// A key or a mapping does not open.
    #[error("a key or a mapping in the key store is damaged: {0}")]
    Damaged(#[from] DamagedKey),
}

/// What could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DamagedKey(Broken);

impl From<Broken> for KeyError {
    fn from(broken: Broken) -> Self {
        Self::Damaged(DamagedKey(broken))
    }
}

impl KeyError {
    /// Whether waiting may help.
    pub fn away(&self) -> bool {
        matches!(self, Self::Store(KeyStoreError::Away(_)))
    }
}

/// Whose key is wanted.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Who {
    /// A person's.
    Person { issuer: Box<str>, subject: Box<str>, email: Option<Box<str>> },
    /// That of a day's unknown callers.
    Day { environment: Box<str>, day: i64 },
}

impl fmt::Debug for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Who(..)")
    }
}

impl Who {
    /// Tells one from another, in memory.
    pub(crate) fn text(&self) -> Box<str> {
        match self {
            Self::Person { issuer, subject, .. } => format!("p\0{issuer}\0{subject}").into(),
            Self::Day { environment, day } => format!("d\0{environment}\0{day}").into(),
        }
    }

    pub(crate) fn identity(&self, root: &Root) -> Lookup {
        match self {
            Self::Person { issuer, subject, .. } => root.identity(issuer, subject),
            Self::Day { environment, day } => root.day(environment, *day),
        }
    }

    pub(crate) fn names(&self, root: &Root) -> Vec<Lookup> {
        match self {
            Self::Person { subject, email, .. } => {
                let email = email.as_deref().map(|email| root.email(email));
                std::iter::once(root.subject(subject)).chain(email).collect()
            }
            Self::Day { .. } => Vec::new(),
        }
    }

    pub(crate) const fn day(&self) -> Option<i64> {
        match self {
            Self::Person { .. } => None,
            Self::Day { day, .. } => Some(*day),
        }
    }

    pub(crate) fn person(&self) -> Person {
        match self {
            Self::Person { issuer, subject, email } => Person {
                issuer: issuer.to_string(),
                subject: subject.to_string(),
                emails: email.iter().map(ToString::to_string).collect(),
            },
            Self::Day { environment, .. } => {
                Person { issuer: environment.to_string(), subject: String::new(), emails: Vec::new() }
            }
        }
    }
}

/// The mapping of one id.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Person {
    /// The issuer that vouches for the subject.
    pub issuer: String,
    /// The issuer's name for the person.
    pub subject: String,
    /// E-mail addresses that the person has had, the latest last.
    pub emails: Vec<String>,
}

impl fmt::Debug for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Person(..)")
    }
}

impl Person {
    pub(crate) fn seal(&self, id: Uuid, key: &KeyBytes) -> Result<Vec<u8>, Broken> {
        let text = json!({"iss": self.issuer, "sub": self.subject, "emails": self.emails}).to_string();
        xaes::seal(key, &aad(id), Zeroizing::new(text).as_bytes())
    }

    pub(crate) fn open(id: Uuid, key: &KeyBytes, sealed: &[u8]) -> Result<Self, Broken> {
        let text = xaes::open(key, &aad(id), sealed)?;
        let json: Json = serde_json::from_slice(&text).map_err(|_| Broken)?;
        let text = |name: &str| json.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
        let emails = json.get("emails").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
        let emails = emails.iter().filter_map(Json::as_str).map(str::to_owned).collect();
        Ok(Self { issuer: text("iss"), subject: text("sub"), emails })
    }

    /// Adds an address as the latest. Whether that changed anything.
    fn add_email(&mut self, email: &str) -> bool {
        if self.emails.last().is_some_and(|last| last == email) {
            return false;
        }
        self.emails.retain(|known| known != email);
        if self.emails.len() >= EMAILS_MAX {
            self.emails.remove(1);
        }
        self.emails.push(email.to_owned());
        true
    }
}

fn aad(id: Uuid) -> [u8; 22] {
    let mut aad = *b"person................";
    for (to, from) in aad.iter_mut().skip(6).zip(id.as_bytes()) {
        *to = *from;
    }
    aad
}

/// An id and its key.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) id: Uuid,
    pub(crate) bytes: KeyBytes,
}

/// The keys of one caller.
#[derive(Clone)]
pub(crate) struct Keys {
    /// Of calls that began after the last erasure, if there was one; `None` when no such call was asked for.
    pub(crate) live: Option<Key>,
    /// Of calls that began before the last erasure, and when that was: the id is the one that was erased, and the key
    /// is kept nowhere, so what is sealed under it is erased too.
    pub(crate) gone: Option<(i64, Key)>,
}

impl Keys {
    /// Of somebody of whom no erasure is known.
    pub(crate) fn only(live: Key) -> Self {
        Self { live: Some(live), gone: None }
    }
}

/// Whose key is wanted, and for which of their calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) who: Who,
    /// When the latest of the calls began, microseconds.
    pub(crate) began_us: i64,
}

/// How to open the key store; tried again until it works.
pub(crate) type OpenKeys = Box<dyn Fn() -> Result<Box<dyn KeyStore>, KeyStoreError> + Send>;

/// A key store that is open, with its root key.
pub(crate) struct Opened {
    pub(crate) store: Box<dyn KeyStore>,
    pub(crate) root: Root,
}

impl Opened {
    /// Unwraps the root key with a master key at hand; draws one for a store that has none.
    pub(crate) fn new(mut store: Box<dyn KeyStore>, masters: &Masters) -> Result<Self, KeyError> {
        let mut roots = store.roots()?;
        if roots.is_empty() {
            let root = Root::generate()?;
            roots = store.found(masters.current.id(), &masters.current.wrap_root(&root)?)?;
        }
        let known = roots.iter().find_map(|(id, wrapped)| Some((masters.by_id(id.as_str())?, wrapped)));
        let Some((master, wrapped)) = known else {
            let ids: Vec<&str> = roots.iter().map(|(id, _)| id.as_str()).collect();
            return Err(KeyError::WrongMaster {
                have: masters.current.id().clone(),
                needed: ids.join(" or "),
                place: "the keys in the key store".to_owned(),
            });
        };
        let root = master.unwrap_root(wrapped)?;
        let mut opened = Self { store, root };
        opened.upgrade()?;
        Ok(opened)
    }

    fn upgrade(&mut self) -> Result<(), KeyError> {
        let Self { store, root } = self;
        let upgraded = store.upgrade(&|who| {
            let key = xaes::fresh_key().ok()?;
            let (issuer, subject, id) = who;
            let who =
                Who::Person { issuer: issuer.as_str().into(), subject: subject.as_str().into(), email: None };
            new_subject(&who, *id, &key, root).ok()
        })?;
        if upgraded > 0 {
            tracing::info!(subjects = upgraded, "the mapping of subjects was sealed");
        }
        Ok(())
    }

    /// Keys for these callers' calls, in order; new ones where there are none. A call that began before its caller was
    /// erased makes no new mapping: it would bring them back.
    pub(crate) fn keys(&mut self, wanted: &[Wanted]) -> Result<Vec<Keys>, KeyError> {
        let identities: Vec<Lookup> = wanted.iter().map(|one| one.who.identity(&self.root)).collect();
        let erasures = self.store.erasures(&identities)?;
        let erased = |one: &Wanted, erasure: &Option<Erasure>| {
            erasure.is_some_and(|erasure| one.began_us <= erasure.at_us)
        };
        let pairs = || wanted.iter().zip(&erasures);
        let live: Vec<Who> =
            pairs().filter(|(one, erasure)| !erased(one, erasure)).map(|(one, _)| one.who.clone()).collect();
        let mut live = self.resolve(&live)?.into_iter();
        let keys = pairs().map(|(one, erasure)| {
            let live = if erased(one, erasure) { None } else { Some(live.next().ok_or(Broken)?) };
            let gone = match erasure {
                Some(Erasure { id, at_us }) => Some((*at_us, Key { id: *id, bytes: xaes::fresh_key()? })),
                None => None,
            };
            Ok(Keys { live, gone })
        });
        keys.collect::<Result<_, Broken>>().map_err(KeyError::from)
    }

    /// Keys for these callers, in order; new ones where there are none.
    pub(crate) fn resolve(&mut self, wanted: &[Who]) -> Result<Vec<Key>, KeyError> {
        let identities: Vec<Lookup> = wanted.iter().map(|who| who.identity(&self.root)).collect();
        let mut rows = self.store.find(&identities)?;
        let mut fresh = Vec::new();
        for (who, row) in wanted.iter().zip(&rows) {
            if row.is_none() {
                fresh.push(new_subject(who, Uuid::new_v4(), &xaes::fresh_key()?, &self.root)?);
            }
        }
        if !fresh.is_empty() {
            let mut agreed = self.store.agree(&fresh)?.into_iter();
            for row in rows.iter_mut().filter(|row| row.is_none()) {
                *row = agreed.next();
            }
        }
        let mut keys = Vec::with_capacity(rows.len());
        for (who, row) in wanted.iter().zip(rows) {
            let row = row.ok_or(Broken)?;
            let bytes = self.root.unwrap(row.id, &row.key)?;
            self.note_email(who, &row, &bytes)?;
            keys.push(Key { id: row.id, bytes });
        }
        Ok(keys)
    }

    fn note_email(&mut self, who: &Who, row: &SubjectRow, key: &KeyBytes) -> Result<(), KeyError> {
        let Who::Person { email: Some(email), .. } = who else { return Ok(()) };
        let mut person = Person::open(row.id, key, &row.person)?;
        if person.add_email(email) {
            self.store.rename(row.id, &[self.root.email(email)], &person.seal(row.id, key)?)?;
        }
        Ok(())
    }
}

fn new_subject(who: &Who, id: Uuid, key: &KeyBytes, root: &Root) -> Result<NewSubject, Broken> {
    let created_us = SystemClock.now().micros();
    super::pending::Entry { who: who.clone(), id, key: key.clone(), created_us }.sealed(root)
}

/// What the thread and the writer tell each other beside questions and answers.
#[derive(Default)]
pub(crate) struct Told {
    /// The key store is away: do not wait for it.
    pub(crate) away: AtomicBool,
    /// Ids whose keys are to be forgotten.
    dropped: Mutex<Vec<Uuid>>,
    any_dropped: AtomicBool,
    error: Mutex<Option<String>>,
}

impl Told {
    /// Takes the ids whose keys are to be forgotten.
    pub(crate) fn take_dropped(&self) -> Vec<Uuid> {
        match self.any_dropped.swap(false, Ordering::Relaxed) {
            true => std::mem::take(&mut *self.dropped.lock()),
            false => Vec::new(),
        }
    }

    fn drop_keys(&self, ids: impl IntoIterator<Item = Uuid>) {
        self.dropped.lock().extend(ids);
        self.any_dropped.store(true, Ordering::Relaxed);
    }

    /// What is wrong with the key store, if anything.
    pub(crate) fn error(&self) -> Option<String> {
        self.error.lock().clone()
    }
}

/// A question of the writer.
pub(crate) struct Ask {
    pub(crate) wanted: Vec<Wanted>,
    pub(crate) answer: SyncSender<Result<Vec<Keys>, KeyError>>,
}

/// For how long the keys of unknown callers are kept, and what may forbid to destroy them.
pub(crate) struct Expiry {
    /// Days that keys are kept; `None`: for ever.
    pub(crate) days: Option<i64>,
    /// Whether a legal hold covers callers who are not known; an error counts as one.
    pub(crate) held: Box<dyn Fn() -> Result<bool, String> + Send>,
}

/// The thread's own state.
pub(crate) struct Service {
    pub(crate) open: OpenKeys,
    pub(crate) opened: Option<Opened>,
    pub(crate) masters: Arc<Masters>,
    pub(crate) pending: Arc<Pending>,
    pub(crate) told: Arc<Told>,
    pub(crate) expiry: Expiry,
    /// The last erasure that was seen.
    pub(crate) seen: i64,
    pub(crate) expired_at: Option<Instant>,
    /// Whether the store could be opened at all.
    pub(crate) was_open: bool,
}

impl Service {
    /// Works until nobody asks any more.
    pub(crate) fn run(mut self, asked: &Receiver<Ask>) {
        let mut polled: Option<Instant> = None;
        loop {
            if polled.is_none_or(|at| at.elapsed() >= POLL) {
                let done = self.poll();
                self.tell(done.err().as_ref());
                polled = Some(Instant::now());
            }
            match asked.recv_timeout(POLL) {
                Ok(ask) => {
                    let answer = self.opened().and_then(|opened| opened.keys(&ask.wanted));
                    self.tell(answer.as_ref().err());
                    // A writer that has not waited made a key of its own; both are the person's.
                    let _ = ask.answer.send(answer);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Opens the store, unless it is open.
    pub(crate) fn opened(&mut self) -> Result<&mut Opened, KeyError> {
        if self.opened.is_none() {
            let store = (self.open)().map_err(|error| match error {
                // What once worked and is now refused (a login, a file's rights) is a store that is away.
                KeyStoreError::Unusable(text) if self.was_open => KeyStoreError::Away(text),
                other => other,
            });
            self.opened = Some(Opened::new(store?, &self.masters)?);
            self.was_open = true;
        }
        self.opened.as_mut().ok_or_else(|| KeyStoreError::Away("not open".to_owned()).into())
    }

    fn tell(&mut self, error: Option<&KeyError>) {
        let text = error.map(ToString::to_string);
        let mut last = self.told.error.lock();
        if *last != text {
            match &text {
                Some(text) => tracing::error!(error = %text, "the key store cannot be used"),
                None => tracing::info!("the key store can be used again"),
            }
            last.clone_from(&text);
        }
        drop(last);
        if error.is_some() {
            self.opened = None;
        }
        self.told.away.store(error.is_some_and(KeyError::away), Ordering::Relaxed);
    }

    fn poll(&mut self) -> Result<(), KeyError> {
        self.opened()?;
        self.hand_over()?;
        self.see_erasures()?;
        self.expire()
    }

    /// Hands keys that were made while the store was away over to it.
    fn hand_over(&mut self) -> Result<(), KeyError> {
        if self.pending.len() == 0 {
            return Ok(());
        }
        let (pending, told) = (self.pending.clone(), self.told.clone());
        let (entries, files) = pending.take_stock();
        let opened = self.opened()?;
        for chunk in entries.chunks(ROWS_MAX) {
            let rows: Vec<NewSubject> =
                chunk.iter().map(|entry| entry.sealed(&opened.root)).collect::<Result<_, _>>()?;
            let became = opened.store.import(&rows)?;
            // From now on the writer uses the person's first id.
            let others = chunk.iter().zip(became).filter(|(_, became)| *became != Imported::First);
            told.drop_keys(others.map(|(entry, _)| entry.id));
        }
        pending.settle(&entries, &files);
        tracing::info!(
            keys = entries.len(),
            "keys that were made while the key store was away are in it now"
        );
        Ok(())
    }

    fn see_erasures(&mut self) -> Result<(), KeyError> {
        let seen = self.seen;
        let told = self.told.clone();
        let (mut number, mut ids) = self.opened()?.store.erased_since(seen)?;
        while !ids.is_empty() {
            told.drop_keys(ids);
            (number, ids) = self.opened()?.store.erased_since(number)?;
        }
        self.seen = number;
        Ok(())
    }

    fn expire(&mut self) -> Result<(), KeyError> {
        if self.expired_at.is_some_and(|at| at.elapsed() < EXPIRE_EVERY) {
            return Ok(());
        }
        let now_us = SystemClock.now().micros();
        let day = self.expiry.days.map(|days| now_us / DAY_US - days);
        let day = match (day, (self.expiry.held)()) {
            (Some(day), Ok(false)) => Some(day),
            (Some(_), Err(why)) => {
                tracing::warn!(%why, "keys of past days are kept: whether a legal hold covers them is not known");
                None
            }
            (_, Ok(_)) | (None, Err(_)) => None,
        };
        let expired = self.opened()?.store.expire(day, now_us.saturating_sub(ERASED_IDENTITY_US))?;
        if expired > 0 {
            tracing::info!(keys = expired, "keys of past days were destroyed");
        }
        self.expired_at = Some(Instant::now());
        Ok(())
    }
}
