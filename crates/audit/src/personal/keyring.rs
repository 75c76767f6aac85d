//! The writer's keys: ready to seal, one for each caller seen lately.
//!
//! Constraints: two generations of [`GENERATION_MAX`] keys, the older of which is forgotten when the younger
//! is full; a key in use by a batch outlives that. One question to the key store for all callers of a batch
//! that are not here.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};

use doorward_core::{AccessRecord, Clock, SystemClock};
use uuid::Uuid;

use super::pending::Pending;
use super::seal::{Kind, Sealing, SealingKey};
use super::service::{ANSWER_WAIT, Ask, DAY_US, Key, KeyError, Keys, Told, Wanted, Who};
use super::store::ROWS_MAX;
use super::xaes::Broken;

/// Callers in one generation of the cache; a key takes about a kilobyte.
const GENERATION_MAX: usize = 16_384;

/// A caller in the cache.
#[derive(Clone)]
struct Cached {
    /// For calls after the last erasure, if there was one.
    live: Option<Arc<SealingKey>>,
    /// For calls that began up to the last erasure, which was then, microseconds.
    gone: Option<(i64, Arc<SealingKey>)>,
    /// Fingerprint of the e-mail address that the key store knows to be the caller's latest.
    email: Option<u64>,
}

impl Cached {
    /// The key for a call that began then.
    fn of_call(&self, began_us: i64) -> Option<Arc<SealingKey>> {
        match &self.gone {
            Some((erased_us, gone)) if began_us <= *erased_us => Some(gone.clone()),
            _ => self.live.clone(),
        }
    }

    fn is_of(&self, ids: &[Uuid]) -> bool {
        let gone = self.gone.iter().map(|(_, gone)| gone);
        self.live.iter().chain(gone).any(|key| ids.contains(&key.id))
    }
}

/// A caller whose key is asked for.
struct Missing {
    name: Box<str>,
    email: Option<u64>,
    wanted: Wanted,
}

/// The keys.
pub(crate) struct Keyring {
    pub(crate) sealing: Sealing,
    ask: SyncSender<Ask>,
    pending: Arc<Pending>,
    told: Arc<Told>,
    young: HashMap<Box<str>, Cached>,
    old: HashMap<Box<str>, Cached>,
    emails: RandomState,
    text: String,
}

impl Keyring {
    pub(crate) fn new(
        sealing: Sealing,
        ask: SyncSender<Ask>,
        pending: Arc<Pending>,
        told: Arc<Told>,
    ) -> Self {
        Self {
            sealing,
            ask,
            pending,
            told,
            young: HashMap::new(),
            old: HashMap::new(),
            emails: RandomState::new(),
            text: String::new(),
        }
    }

    /// Forgets the keys of whoever was erased.
    pub(crate) fn refresh(&mut self) {
        let dropped = self.told.take_dropped();
        if !dropped.is_empty() {
            for generation in [&mut self.young, &mut self.old] {
                generation.retain(|_, cached| !cached.is_of(&dropped));
            }
        }
    }

    /// A key for each record, in order. Keys that are new are durable when this returns.
    pub(crate) fn keys<'r>(
        &mut self,
        records: impl Iterator<Item = &'r AccessRecord> + Clone,
    ) -> Result<Vec<Arc<SealingKey>>, KeyError> {
        self.refresh();
        if self.sealing.renew()? {
            self.young.clear();
            self.old.clear();
        }
        let today = SystemClock.now().micros() / DAY_US;
        let mut missing: Vec<Missing> = Vec::new();
        let mut keys: Vec<Result<Arc<SealingKey>, (usize, i64)>> = Vec::new();
        let mut asked: HashMap<Box<str>, usize> = HashMap::new();
        for record in records {
            let (email, began_us) = (self.spell(record, today), record.ts.micros());
            if let Some(key) = self.cached(email, began_us) {
                keys.push(Ok(key));
                continue;
            }
            let name: Box<str> = self.text.as_str().into();
            let place = *asked.entry(name.clone()).or_insert_with(|| {
                let wanted = Wanted { who: who(record, today), began_us };
                missing.push(Missing { name, email, wanted });
                missing.len() - 1
            });
            if let Some(Missing { wanted, .. }) = missing.get_mut(place) {
                wanted.began_us = wanted.began_us.max(began_us);
            }
            keys.push(Err((place, began_us)));
        }
        let found = self.find(&missing)?;
        let key = |key| match key {
            Ok(key) => Ok(key),
            // No key may come to another caller's record.
            Err((place, began_us)) => {
                found.get::<usize>(place).and_then(|found| found.of_call(began_us)).ok_or(Broken)
            }
        };
        Ok(keys.into_iter().map(key).collect::<Result<_, _>>()?)
    }

    /// Writes the cache's name of a record's caller to `self.text`.
    fn spell(&mut self, record: &AccessRecord, today: i64) -> Option<u64> {
        use std::fmt::Write;
        self.text.clear();
        match record.principal.as_deref().filter(|principal| principal.authenticated()) {
            Some(principal) => {
                self.text.push_str("p\0");
                self.text.push_str(principal.issuer.as_str());
                self.text.push('\0');
                self.text.push_str(principal.subject.reveal());
                principal.email.as_ref().map(|email| self.emails.hash_one(&**email.reveal()))
            }
            None => {
                // Writing to a string does not fail.
                let _ = write!(self.text, "d\0{}\0{today}", record.environment);
                None
            }
        }
    }

    fn cached(&mut self, email: Option<u64>, began_us: i64) -> Option<Arc<SealingKey>> {
        let fits = |cached: &&Cached| email.is_none() || cached.email == email;
        if let Some(cached) = self.young.get(self.text.as_str()) {
            return Some(cached).filter(fits)?.of_call(began_us);
        }
        let cached = self.old.get(self.text.as_str()).filter(fits)?.clone();
        let key = cached.of_call(began_us)?;
        self.put(self.text.as_str().into(), cached);
        Some(key)
    }

    fn put(&mut self, name: Box<str>, cached: Cached) {
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name, cached);
    }

    fn find(&mut self, missing: &[Missing]) -> Result<Vec<Cached>, KeyError> {
        let mut found = Vec::with_capacity(missing.len());
        for chunk in missing.chunks(ROWS_MAX) {
            let wanted: Vec<Wanted> = chunk.iter().map(|missing| missing.wanted.clone()).collect();
            for (missing, Keys { live, gone }) in chunk.iter().zip(self.resolve(&wanted)?) {
                let kind = if missing.wanted.who.day().is_some() { Kind::Day } else { Kind::Person };
                let ready = |key: Key| self.sealing.ready(key.id, kind, &key.bytes).map(Arc::new);
                let live = live.map(ready).transpose()?;
                let gone = gone.map(|(at_us, key)| ready(key).map(|key| (at_us, key))).transpose()?;
                let cached = Cached { live, gone, email: missing.email };
                self.put(missing.name.clone(), cached.clone());
                found.push(cached);
            }
        }
        Ok(found)
    }

    fn resolve(&self, wanted: &[Wanted]) -> Result<Vec<Keys>, KeyError> {
        if !self.told.away.load(Ordering::Relaxed) {
            let (answer, answered) = sync_channel(1);
            let sent = self.ask.try_send(Ask { wanted: wanted.to_vec(), answer });
            match sent.ok().and_then(|()| answered.recv_timeout(ANSWER_WAIT).ok()) {
                Some(Ok(keys)) if keys.len() == wanted.len() => return Ok(keys),
                Some(Err(error)) if !error.away() => return Err(error),
                // Away, or too slow; the thread says when that is over.
                Some(_) | None => self.told.away.store(true, Ordering::Relaxed),
            }
        }
        let callers: Vec<Who> = wanted.iter().map(|one| one.who.clone()).collect();
        Ok(self.pending.mint(&callers)?.into_iter().map(Keys::only).collect())
    }
}

fn who(record: &AccessRecord, today: i64) -> Who {
    match record.principal.as_deref().filter(|principal| principal.authenticated()) {
        Some(principal) => Who::Person {
            issuer: principal.issuer.as_str().into(),
            subject: principal.subject.reveal().clone(),
            email: principal.email.as_ref().map(|email| email.reveal().clone()),
        },
        None => Who::Day { environment: record.environment.as_ref().into(), day: today },
    }
}
