//! What statements need, remembered by what they are and where their names are looked up.
//!
//! Invariants: the memory belongs to one reading of the database's objects, and goes with it; a statement is
//! known by the very parse that it was resolved from, which lives as long as the entry. Whether it is allowed is
//! decided each time.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use doorward_core::Actions;
use doorward_sql::Shape;
use quick_cache::Equivalent;
use quick_cache::sync::Cache;

/// The most statements of one reading.
const STATEMENTS_MAX: usize = 2_048;
/// Room to begin with: most readings are of few statements.
const STATEMENTS_AT_FIRST: usize = 16;

/// The schemas that are searched, in order.
pub(crate) type Path = Arc<[Box<str>]>;

/// The memory.
pub(crate) struct Resolved(Cache<Known, Actions>);

struct Known(Arc<Shape>, Path, bool);

/// What is looked for: a statement, where its names are looked up, and whether the catalogue is hidden.
type Asked<'a> = (&'a Arc<Shape>, &'a Path, bool);

/// The same as a key.
struct Key<'a>(Asked<'a>);

impl Resolved {
    pub(crate) fn find(&self, asked: Asked<'_>) -> Option<Actions> {
        self.0.get(&Key(asked))
    }

    pub(crate) fn keep(&self, (shape, path, hides_catalog): Asked<'_>, actions: &Actions) {
        self.0.insert(Known(shape.clone(), path.clone(), hides_catalog), actions.clone());
    }
}

impl Default for Resolved {
    fn default() -> Self {
        let most = u64::try_from(STATEMENTS_MAX).unwrap_or(u64::MAX);
        Self(Cache::with_weighter(STATEMENTS_AT_FIRST, most, quick_cache::UnitWeighter))
    }
}

impl Known {
    fn key(&self) -> Key<'_> {
        Key((&self.0, &self.1, self.2))
    }
}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Sessions of one database mostly search the same schemas.
        Arc::as_ptr(self.0.0).hash(state);
    }
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.key().equivalent(other)
    }
}

impl Eq for Known {}

impl Equivalent<Known> for Key<'_> {
    fn equivalent(&self, known: &Known) -> bool {
        let (shape, path, hides_catalog) = self.0;
        Arc::ptr_eq(shape, &known.0)
            && (Arc::ptr_eq(path, &known.1) || *path == known.1)
            && hides_catalog == known.2
    }
}

impl std::fmt::Debug for Resolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolved").field("statements", &self.0.len()).finish()
    }
}
