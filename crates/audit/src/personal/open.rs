//! Reading what was sealed, for those who hold the keys; finding a person's ids; destroying a person's keys.
//!
//! Constraints: blocks; one process's own connection to the key store, beside the gateways'. What it opens is
//! for the eyes of whoever may read the timeline, and is not written anywhere.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::LessSafeKey;
use uuid::Uuid;

use super::Fields;
use super::keys::{KeyId, Masters};
use super::pending::Pending;
use super::seal::{Kind, Parsed, Place};
use super::service::{KeyError, Opened, Person};
use super::start;
use super::store::{KeyStoreError, Known, ROWS_MAX};
use super::xaes::{self, Half, KeyBytes};
use crate::admin;
use crate::columns::{COLUMNS, Column, Source, Type};
use crate::config::{AuditConfig, StoreUrl};
use crate::query::{Cell, Filter, Row};
use crate::spool::files::Directory;

/// Stands for a value whose key is not at hand.
pub const SEALED: &str = "sealed";
/// Stands for a value whose key was destroyed.
pub const ERASED: &str = "erased";
/// Stands for a value that its key does not open: it was changed, or moved here from elsewhere.
pub const ALTERED: &str = "altered";

/// Keys that are kept ready; then it begins anew.
const READY_MAX: usize = 20_000;
/// For how long they are kept: somebody may be erased while a timeline is followed.
const READY_FOR: Duration = Duration::from_secs(5);

/// What is known of one key.
enum State {
    Key(KeyBytes),
    Erased,
    Unknown,
}

/// Whom somebody means.
#[derive(Clone, PartialEq, Eq)]
pub enum Whom {
    /// A subject, at one issuer or at any.
    Subject {
        /// The issuer's name for the person.
        subject: String,
        /// The issuer.
        issuer: Option<String>,
    },
    /// An e-mail address.
    Email(String),
    /// An id of the timeline.
    Id(Uuid),
}

/// One id of a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The id.
    pub id: Uuid,
    /// Whose it is; `None` when the person was erased, or the id is not known.
    pub person: Option<Person>,
    /// When it was made, microseconds.
    pub created_us: i64,
}

/// The keys, open.
pub struct Opener {
    opened: Opened,
    masters: Arc<Masters>,
    states: HashMap<Uuid, State>,
    ready: HashMap<(Uuid, Half), LessSafeKey>,
    since: Instant,
}

impl Opener {
    /// Opens the key store that the configuration names. It makes nothing that is not there.
    pub fn open(config: &AuditConfig) -> Result<Self, KeyError> {
        if let StoreUrl::Sqlite(path) = start::url(config)
            && !path.is_file()
        {
            let text = format!("there is no key store at {}", path.display());
            return Err(KeyStoreError::Away(text).into());
        }
        let masters = Arc::new(start::masters(config, false)?);
        let opened = Opened::new((start::opener(config))()?, &masters)?;
        let (states, ready) = (HashMap::new(), HashMap::new());
        Ok(Self { opened, masters, states, ready, since: Instant::now() })
    }

    /// Takes keys into the key store that were made while it was away and wait in this machine's spools, so that
    /// whoever has only such a key is found, and erased. Their files go when no gateway has the spool; a running one
    /// hands over what it has by itself, and an id that was erased meanwhile is not taken again.
    pub fn take_in_waiting(&mut self, config: &AuditConfig) -> Result<usize, KeyError> {
        let mut taken = 0;
        for dir in [config.spool.dir.clone(), admin::folder(&config.spool.dir)] {
            if !dir.is_dir() {
                continue;
            }
            let lock = crate::lock(&dir).ok();
            let files = Arc::new(Directory::existing(&dir));
            let pending = Pending::open(files, 0, self.masters.clone())?;
            let (entries, names) = pending.take_stock();
            for chunk in entries.chunks(ROWS_MAX) {
                let sealed = chunk.iter().map(|entry| entry.sealed(&self.opened.root));
                self.opened.store.import(&sealed.collect::<Result<Vec<_>, _>>()?)?;
            }
            taken += entries.len();
            if lock.is_some() {
                pending.settle(&entries, &names);
            }
        }
        Ok(taken)
    }

    /// The row with its sealed values opened, as far as the keys go.
    pub fn row(&mut self, row: &Row) -> Row {
        let full = self.ready.len() > READY_MAX || self.states.len() > READY_MAX;
        if full || self.since.elapsed() > READY_FOR {
            self.forget();
        }
        let cells = COLUMNS.iter().zip(row.cells());
        Row::new(cells.map(|(column, cell)| self.cell(row, column, cell)).collect())
    }

    fn forget(&mut self) {
        self.states.clear();
        self.ready.clear();
        self.since = Instant::now();
    }

    fn cell(&mut self, row: &Row, column: &Column, cell: &Cell) -> Cell {
        let Some((text, parsed)) = sealed(column, cell) else { return cell.clone() };
        let id = |name| row.text(name).and_then(|text| Uuid::parse_str(text).ok()).unwrap_or_default();
        let place = Place {
            subject_id: id("subject_id"),
            access_id: id("access_id"),
            column: column.name,
            action: match column.source {
                Source::Object => row.int("action_index").and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
                _ => 0,
            },
        };
        let (kind, key_id) = (parsed.kind, parsed.key_id.unwrap_or(place.subject_id));
        match self.state(key_id) {
            State::Erased => stand_in(column, ERASED),
            // The keys of past days are destroyed without a trace.
            State::Unknown if kind == Kind::Day => stand_in(column, ERASED),
            State::Unknown => stand_in(column, SEALED),
            State::Key(_) => match self.value(key_id, parsed, &place) {
                Some(text) => Cell::Text(text),
                // Outside of the marked columns a caller may have written what looks sealed.
                None if !column.personal => Cell::Text(text.to_owned()),
                None => stand_in(column, ALTERED),
            },
        }
    }

    fn state(&mut self, id: Uuid) -> &State {
        let Self { opened, states, .. } = self;
        states.entry(id).or_insert_with(|| match opened.store.known(id) {
            Ok(Known::Kept(row)) => opened.root.unwrap(id, &row.key).map_or(State::Unknown, State::Key),
            Ok(Known::Erased(_)) => State::Erased,
            Ok(Known::Unknown) | Err(_) => State::Unknown,
        })
    }

    fn value(&mut self, id: Uuid, parsed: Parsed, place: &Place<'_>) -> Option<String> {
        let Some(State::Key(key)) = self.states.get(&id) else { return None };
        let derived = match self.ready.entry((id, parsed.first)) {
            Entry::Occupied(ready) => ready.into_mut(),
            Entry::Vacant(place) => place.insert(xaes::derive(key, &parsed.first).ok()?),
        };
        parsed.open(derived, place).ok()
    }

    /// The ids of whoever a person's name, e-mail address or id may mean, for a filter.
    pub fn ids(&mut self, who: &str) -> Result<Vec<Uuid>, KeyError> {
        let mut whom =
            vec![Whom::Subject { subject: who.to_owned(), issuer: None }, Whom::Email(who.to_owned())];
        whom.extend(Uuid::parse_str(who).ok().map(Whom::Id));
        let mut ids = Vec::new();
        for whom in whom {
            ids.extend(self.find(&whom)?.into_iter().map(|found| found.id));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// All ids of whoever is meant, those that gateways made while they were cut off too.
    pub fn find(&mut self, whom: &Whom) -> Result<Vec<Found>, KeyError> {
        let Opened { store, root } = &mut self.opened;
        let ids = match whom {
            Whom::Subject { subject, issuer: Some(issuer) } => {
                store.all_of(&root.identity(issuer, subject))?.into_iter().map(|row| row.id).collect()
            }
            Whom::Subject { subject, issuer: None } => store.named(&root.subject(subject))?,
            Whom::Email(email) => store.named(&root.email(email))?,
            Whom::Id(id) => vec![*id],
        };
        let mut all: Vec<Found> = Vec::new();
        for id in ids {
            let Known::Kept(row) = store.known(id)? else {
                all.push(Found { id, person: None, created_us: 0 });
                continue;
            };
            for row in store.all_of(&row.identity)? {
                let key = root.unwrap(row.id, &row.key)?;
                let person = match row.day {
                    None => Some(Person::open(row.id, &key, &row.person)?),
                    Some(_) => None,
                };
                all.push(Found { id: row.id, person, created_us: row.created_us });
            }
        }
        all.sort_by_key(|found| (found.created_us, found.id));
        all.dedup_by_key(|found| found.id);
        Ok(all)
    }

    /// When an id was erased, microseconds.
    pub fn erased_at(&mut self, id: Uuid) -> Result<Option<i64>, KeyError> {
        Ok(match self.opened.store.known(id)? {
            Known::Erased(at) => Some(at),
            Known::Kept(_) | Known::Unknown => None,
        })
    }

    /// Destroys the keys and mappings of these ids. Running gateways forget them within seconds.
    pub fn erase(&mut self, ids: &[Uuid], at_us: i64) -> Result<(), KeyError> {
        self.forget();
        Ok(self.opened.store.erase(ids, at_us)?)
    }

    /// Wraps the root key under the configured master key. The forms under other master keys go, but those
    /// of keys that are still named in `personal.old_master_keys` if `keep` says so. Which one is in use.
    pub fn rewrap(&mut self, keep: bool) -> Result<KeyId, KeyError> {
        let Self { opened, masters, .. } = self;
        let current = &masters.current;
        let kept: Vec<KeyId> =
            if keep { masters.old.iter().map(|old| old.id().clone()).collect() } else { Vec::new() };
        opened.store.rewrap(current.id(), &current.wrap_root(&opened.root)?, &kept)?;
        Ok(current.id().clone())
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

/// The row as it is shown to whoever has no keys.
pub fn closed(row: &Row) -> Row {
    let cells = COLUMNS.iter().zip(row.cells());
    let cell = |(column, cell): (&Column, &Cell)| match sealed(column, cell) {
        Some(_) => stand_in(column, SEALED),
        None => cell.clone(),
    };
    Row::new(cells.map(cell).collect())
}

/// A cell's text, when it looks like a value that was sealed and stands where such values may stand.
fn sealed<'c>(column: &Column, cell: &'c Cell) -> Option<(&'c str, Parsed)> {
    let Cell::Text(text) = cell else { return None };
    let parsed = Parsed::read(text)?;
    Fields::sealable(column.name).then_some((text.as_str(), parsed))
}

fn stand_in(column: &Column, word: &str) -> Cell {
    Cell::Text(if column.ty == Type::Json { format!("\"{word}\"") } else { word.to_owned() })
}

/// Reads the timeline with the keys, if they are at hand, and without them otherwise.
#[derive(Debug)]
pub struct Reader {
    keys: Result<Opener, KeyError>,
}

impl Reader {
    /// Takes the keys that the configuration names.
    pub fn new(config: &AuditConfig) -> Self {
        Self { keys: Opener::open(config) }
    }

    /// Why values stay sealed, if they do.
    pub fn trouble(&self) -> Option<&KeyError> {
        self.keys.as_ref().err()
    }

    /// The rows with their sealed values opened, or told to be sealed.
    pub fn rows(&mut self, rows: &[Row]) -> Vec<Row> {
        match &mut self.keys {
            Ok(opener) => rows.iter().map(|row| opener.row(row)).collect(),
            Err(_) => rows.iter().map(closed).collect(),
        }
    }

    /// The filter with the ids of its principal.
    pub fn filter(&mut self, mut filter: Filter) -> Result<Filter, KeyError> {
        if let (Ok(opener), Some(principal)) = (&mut self.keys, &filter.principal) {
            filter.subject_ids = opener.ids(principal)?;
        }
        Ok(filter)
    }
}
