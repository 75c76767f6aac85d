//! The statements that one connection has prepared: a bounded cache by SQL text, the least recently
//! used evicted first.

use std::sync::Arc;

use doorward_core::hash::FixedMap;

use crate::frames::Field;

/// Longer statements are parsed each time. A caller chooses how long they are and how many: the server
/// keeps some 25 times the text of each, so this bounds what one caller can make each connection cost.
pub(crate) const CACHED_SQL_MAX: usize = 4 * 1024;

pub(crate) struct Prepared {
    pub(crate) name: Arc<str>,
    pub(crate) fields: Option<Arc<[Field]>>,
    used: u64,
}

pub(crate) struct Statements {
    by_sql: FixedMap<Box<str>, Prepared>,
    max: usize,
    clock: u64,
    names: u64,
    /// Taken out, and to be closed at the server with the next request that is written.
    closing: Vec<Arc<str>>,
    /// Whether `RESET ALL` is prepared.
    pub(crate) reset: bool,
    /// For how many settings `set_config` is prepared: one bit each.
    pub(crate) settings: u32,
}

impl Statements {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            by_sql: FixedMap::default(),
            max: max.max(1),
            clock: 0,
            names: 0,
            closing: Vec::new(),
            reset: false,
            settings: 0,
        }
    }

    pub(crate) fn find(&mut self, sql: &str) -> Option<&Prepared> {
        self.clock += 1;
        let prepared = self.by_sql.get_mut(sql)?;
        prepared.used = self.clock;
        Some(prepared)
    }

    /// Whether the statement is prepared.
    pub(crate) fn knows(&self, sql: &str) -> bool {
        self.by_sql.contains_key(sql)
    }

    /// A name that this connection has not used before.
    pub(crate) fn fresh_name(&mut self) -> Arc<str> {
        self.names += 1;
        format!("dw{}", self.names).into()
    }

    /// Takes the least recently used statement out when there is no room for one more.
    pub(crate) fn make_room(&mut self) {
        if self.by_sql.len() < self.max {
            return;
        }
        let oldest = self.by_sql.iter().min_by_key(|(_, prepared)| prepared.used);
        if let Some(sql) = oldest.map(|(sql, _)| sql.clone())
            && let Some(evicted) = self.by_sql.remove(&sql)
        {
            self.closing.push(evicted.name);
        }
    }

    /// What is to be closed at the server; it stays until [`Self::closed`], because a request may fail to be encoded.
    pub(crate) fn closing(&self) -> &[Arc<str>] {
        &self.closing
    }

    /// A request that closes them is whole.
    pub(crate) fn closed(&mut self) {
        self.closing.clear();
    }

    pub(crate) fn insert(&mut self, sql: Box<str>, name: Arc<str>, fields: Option<Arc<[Field]>>) {
        self.clock += 1;
        self.by_sql.insert(sql, Prepared { name, fields, used: self.clock });
    }

    /// Forgets all: the server has, or will have.
    pub(crate) fn clear(&mut self) {
        self.by_sql.clear();
        self.closing.clear();
        self.reset = false;
        self.settings = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_evicted_is_closed_by_the_first_request_that_is_whole() {
        let mut statements = Statements::new(1);
        for sql in ["select 1", "select 2"] {
            statements.make_room();
            let name = statements.fresh_name();
            statements.insert(sql.into(), name, None);
        }
        assert!(!statements.knows("select 1"));
        // A request that failed to be encoded has closed nothing: the next one does.
        let closing = |statements: &Statements| {
            statements.closing().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(closing(&statements), ["dw1"]);
        statements.make_room();
        assert_eq!(closing(&statements), ["dw1", "dw2"]);
        statements.closed();
        assert!(closing(&statements).is_empty());
    }
}
