//! Prepared statements of the protocol, where sessions share connections: a session's name for a statement is
//! the gateway's own name for it at the backend, the same for all sessions that prepare the same text with the
//! same types; each connection knows the statements that it has.
//!
//! Invariants: a name of the gateway's stands for one text and types for ever; a connection is believed to have
//! a statement only while it does; both tables are bounded, and forget what was used longest ago.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The most statements that have a name of the gateway's, and how many bytes of text they may have together.
const NAMED_MAX: usize = 4_096;
const NAMED_BYTES_MAX: usize = 32 << 20;
/// Longer texts are prepared for the one session, under a name of their own.
const NAMED_TEXT_BYTES_MAX: usize = 64 << 10;

/// How the gateway's names for statements begin.
pub(crate) const ORIGIN_PREFIX: &str = "doorward_";

/// A statement as it is prepared at backends.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The gateway's name for it; empty for the unnamed statement.
    pub(crate) name: Box<str>,
    /// Tells the unnamed ones apart.
    pub(crate) serial: u64,
    /// The text.
    pub(crate) text: Box<str>,
    /// What stands behind the text in Parse: the number of types, and the types.
    pub(crate) types: Box<[u8]>,
}

/// The gateway's names.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    serial: AtomicU64,
    named: Mutex<Table>,
}

/// Text and types.
type Content = (Box<str>, Box<[u8]>);

#[derive(Debug, Default)]
struct Table {
    /// With when it was asked for.
    by_text: HashMap<Content, (Arc<Origin>, u64)>,
    bytes: usize,
    clock: u64,
}

impl Origins {
    /// The statement of this text and these types; `named` tells whether the session gives it a name.
    pub(crate) fn find(&self, text: &str, types: &[u8], named: bool) -> Arc<Origin> {
        if !named {
            return Arc::new(self.origin(text, types, false));
        }
        if text.len() + types.len() > NAMED_TEXT_BYTES_MAX {
            return Arc::new(self.origin(text, types, true));
        }
        let mut table = self.named.lock();
        table.clock += 1;
        let now = table.clock;
        let key = (Box::from(text), Box::from(types));
        if let Some((origin, used)) = table.by_text.get_mut(&key) {
            *used = now;
            return origin.clone();
        }
        let origin = Arc::new(self.origin(text, types, true));
        table.bytes += text.len() + types.len();
        table.by_text.insert(key, (origin.clone(), now));
        table.shrink();
        origin
    }

    /// Its backends do not run it any more as it was prepared: the next one of the same text gets another name.
    pub(crate) fn retire(&self, origin: &Arc<Origin>) {
        let mut table = self.named.lock();
        let key = (origin.text.clone(), origin.types.clone());
        if table.by_text.get(&key).is_some_and(|(known, _)| Arc::ptr_eq(known, origin)) {
            table.by_text.remove(&key);
            table.bytes = table.bytes.saturating_sub(origin.text.len() + origin.types.len());
        }
    }

    fn origin(&self, text: &str, types: &[u8], named: bool) -> Origin {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed) + 1;
        let name = if named { format!("{ORIGIN_PREFIX}{serial}").into() } else { Box::default() };
        Origin { name, serial, text: text.into(), types: types.into() }
    }
}

impl Table {
    /// Forgets the older half when there are too many: rarely, so a scan is cheap.
    fn shrink(&mut self) {
        if self.by_text.len() <= NAMED_MAX && self.bytes <= NAMED_BYTES_MAX {
            return;
        }
        let mut ages: Vec<u64> = self.by_text.values().map(|(_, used)| *used).collect();
        ages.sort_unstable();
        let middle = ages.get(ages.len() / 2).copied().unwrap_or(u64::MAX);
        self.by_text.retain(|_, (_, used)| *used > middle);
        self.bytes = self.by_text.keys().map(|(text, types)| text.len() + types.len()).sum();
    }
}

/// The prepared statements that one connection has.
#[derive(Debug)]
pub(crate) struct Known {
    /// By the gateway's name, with when it was used.
    named: HashMap<Box<str>, u64>,
    /// The unnamed one's serial.
    unnamed: Option<u64>,
    clock: u64,
    max: usize,
}

impl Known {
    pub(crate) fn new(max: usize) -> Self {
        Self { named: HashMap::new(), unnamed: None, clock: 0, max: max.max(1) }
    }

    /// Whether the connection has it. It counts as used.
    pub(crate) fn has(&mut self, origin: &Origin) -> bool {
        if origin.name.is_empty() {
            return self.unnamed == Some(origin.serial);
        }
        self.clock += 1;
        let now = self.clock;
        self.named.get_mut(&origin.name).map(|used| *used = now).is_some()
    }

    /// The connection is about to have it. What it must close for that.
    pub(crate) fn add(&mut self, origin: &Origin) -> Option<Box<str>> {
        if origin.name.is_empty() {
            self.unnamed = Some(origin.serial);
            return None;
        }
        self.clock += 1;
        let oldest = match self.named.len() >= self.max {
            true => self.named.iter().min_by_key(|(_, used)| **used).map(|(name, _)| name.clone()),
            false => None,
        };
        if let Some(oldest) = &oldest {
            self.named.remove(oldest);
        }
        self.named.insert(origin.name.clone(), self.clock);
        oldest
    }

    /// It was not prepared after all.
    pub(crate) fn failed(&mut self, origin: &Origin) {
        if origin.name.is_empty() {
            self.unnamed = None;
        } else {
            self.named.remove(&origin.name);
        }
    }

    /// It was not closed after all.
    pub(crate) fn kept(&mut self, name: Box<str>) {
        self.named.insert(name, 0);
    }

    /// A simple query is run, which does away with the unnamed one.
    pub(crate) fn query(&mut self) {
        self.unnamed = None;
    }

    /// The connection has none any more.
    pub(crate) fn clear(&mut self) {
        self.named = HashMap::new();
        self.unnamed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_and_types_have_one_name() {
        let origins = Origins::default();
        let one = origins.find("select $1", &[0, 0], true);
        assert_eq!(one.name, origins.find("select $1", &[0, 0], true).name);
        assert_ne!(one.name, origins.find("select $1", &[0, 1, 0, 0, 0, 23], true).name);
        let unnamed = origins.find("select $1", &[0, 0], false);
        assert!(unnamed.name.is_empty());
        assert_ne!(unnamed.serial, origins.find("select $1", &[0, 0], false).serial);
        origins.retire(&one);
        let again = origins.find("select $1", &[0, 0], true);
        assert_ne!(one.name, again.name);
        origins.retire(&one);
        assert_eq!(again.name, origins.find("select $1", &[0, 0], true).name, "only its own name is retired");
    }

    #[test]
    fn the_table_of_names_is_bounded() {
        let origins = Origins::default();
        for n in 0..2 * NAMED_MAX {
            origins.find(&format!("select {n}"), &[0, 0], true);
        }
        let table = origins.named.lock();
        assert!(table.by_text.len() <= NAMED_MAX, "{}", table.by_text.len());
        assert!(table.by_text.contains_key(&(format!("select {}", 2 * NAMED_MAX - 1).into(), [0, 0].into())));
        let bytes: usize = table.by_text.keys().map(|(text, types)| text.len() + types.len()).sum();
        assert_eq!(bytes, table.bytes);
    }

    #[test]
    fn a_connection_forgets_what_was_used_longest_ago() {
        let (origins, mut known) = (Origins::default(), Known::new(2));
        let [a, b, c] = ["a", "b", "c"].map(|text| origins.find(text, &[0, 0], true));
        assert!(!known.has(&a) && known.add(&a).is_none() && known.add(&b).is_none());
        assert!(known.has(&a));
        assert_eq!(known.add(&c), Some(b.name.clone()));
        assert!(known.has(&a) && known.has(&c) && !known.has(&b));
        known.kept(b.name.clone());
        known.failed(&c);
        assert!(known.has(&b) && !known.has(&c));
        let [one, other] = ["x", "x"].map(|text| origins.find(text, &[0, 0], false));
        assert!(known.add(&one).is_none() && known.has(&one) && !known.has(&other));
        known.query();
        assert!(known.has(&a) && !known.has(&one));
        known.clear();
        assert!(!known.has(&a));
    }
}
