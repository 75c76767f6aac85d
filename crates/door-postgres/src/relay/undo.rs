//! What messages did to names of prepared statements, to be taken back: the backend ignores all that comes behind an
//! error up to the next Sync, and messages are on their way before the error is known.
//!
//! Invariants: what is put back under a name is what the backend has there, or nothing is; a name that was taken by a
//! later batch meanwhile stays as that left it, to be decided as such; what is kept for this has a bound.

use super::link::{Expected, Named, State};
use super::table::kept;

/// As much may be kept to be taken back; more waits for answers.
pub(crate) const UNDO_BYTES_MAX: usize = 1 << 20;

/// What stood under a name before a message that the backend may ignore.
#[derive(Debug)]
pub(crate) struct Undo {
    name: Box<str>,
    /// The batch of the message.
    batch: u64,
    before: Option<Named>,
    /// Whether the message puts something there.
    makes: bool,
}

impl Undo {
    fn new(name: Box<str>, batch: u64, before: Option<Named>, makes: bool) -> Self {
        // What may be put back: what the backend has confirmed, or what an error in the batch undoes too.
        let before = before.filter(|named| named.confirmed || named.batch == batch);
        Self { name, batch, before, makes }
    }

    /// Of a message in whose place nothing stood.
    pub(crate) fn of_new(name: Box<str>, batch: u64) -> Self {
        Self::new(name, batch, None, true)
    }

    /// Keeps nothing any more; how much it kept.
    pub(crate) fn empty(&mut self) -> usize {
        self.before.take().map_or(0, |before| before.bytes())
    }

    fn bytes(&self) -> usize {
        self.before.as_ref().map_or(0, Named::bytes)
    }
}

impl State {
    /// Puts something under a name, or takes it away. What undoes that, if it may have to be undone: nothing need be
    /// where no error can be on its way before the message.
    pub(crate) fn put(&mut self, name: &str, batch: u64, named: Option<Named>) -> Option<Box<Undo>> {
        let first =
            !self.skipping && matches!(self.queue.back(), None | Some(Expected::Sync | Expected::Probe(_)));
        let makes = named.is_some();
        let before = self.swap(name, named);
        if first {
            return None;
        }
        let undo = Box::new(Undo::new(name.into(), batch, before, makes));
        self.undo_bytes += undo.bytes();
        Some(undo)
    }

    /// The same of a statement in SQL, which may fail itself. In a text of `several`, what was done before the failure is
    /// not known: then nothing is known of the name.
    pub(crate) fn put_by_sql(
        &mut self,
        name: &str,
        batch: u64,
        named: Option<Named>,
        several: bool,
    ) -> Option<Undo> {
        let makes = named.is_some();
        let before = self.swap(name, named);
        if several {
            return None;
        }
        let undo = Undo::new(name.into(), batch, before, makes);
        self.undo_bytes += undo.bytes();
        Some(undo)
    }

    /// What stood there before.
    fn swap(&mut self, name: &str, named: Option<Named>) -> Option<Named> {
        match named {
            Some(named) => self.statements.insert(name, named),
            None => self.statements.remove(name),
        }
    }

    /// The message at the front was carried out.
    pub(crate) fn carried_out(&mut self, undo: Option<Box<Undo>>) {
        self.queue.pop_front();
        if let Some(undo) = undo {
            self.done(&undo);
        }
    }

    /// A message was carried out: nothing is to be undone.
    pub(crate) fn done(&mut self, undo: &Undo) {
        self.undo_bytes = self.undo_bytes.saturating_sub(undo.bytes());
        if let Some(named) = self.statements.get_mut(&undo.name)
            && undo.makes
            && named.batch == undo.batch
        {
            named.confirmed = true;
        }
    }

    /// The message was ignored, or has failed.
    pub(crate) fn undo(&mut self, undo: Undo) {
        self.undo_bytes = self.undo_bytes.saturating_sub(undo.bytes());
        let Undo { name, batch, before, .. } = undo;
        let table = &mut self.statements;
        if table.get(&name).is_some_and(|now| now.batch > batch) {
            return;
        }
        match before {
            Some(before) => drop(table.insert(&name, before)),
            None => drop(table.remove(&name)),
        }
    }

    /// Whether it is not known yet what stands under a name: a message of another batch is on its way.
    pub(crate) fn is_unsettled(&self, portal: bool, name: &str, batch: u64) -> bool {
        let table = if portal { &self.portals } else { &self.statements };
        match table.get(name) {
            Some(named) => !named.confirmed && named.batch != batch,
            None => !portal && self.queue.iter().any(|expected| expected.takes(name, batch)),
        }
    }
}

impl Expected {
    /// Whether it is the answer to a message of another batch that takes something from under a name.
    fn takes(&self, name: &str, batch: u64) -> bool {
        let is_it = |undo: &Undo| kept(&undo.name) == kept(name) && undo.batch != batch;
        match self {
            Self::Close(_, undo) | Self::Local(_, undo) => undo.as_deref().is_some_and(is_it),
            Self::Execute(running) | Self::Query(running) => running.makes.undo.iter().any(is_it),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use doorward_sql::{Limits, Parser};

    use super::super::link::Link;
    use super::*;
    use crate::vet::Vetted;

    fn named(text: &str, batch: u64) -> Named {
        let parser = Parser::new(Limits::default(), 1 << 20);
        Named { confirmed: batch == 0, ..Named::new(Vetted::read(&parser, text).unwrap(), None, batch) }
    }

    fn text(link: &Link, name: &str) -> String {
        let state = link.state();
        state.statements.get(name).map(|named| named.vetted.text().to_owned()).unwrap_or_default()
    }

    /// A session that has a statement, and something before it in this batch that may fail.
    fn link() -> Link {
        let link = Link::new(None);
        link.state().put("s", 0, Some(named("select 0", 0)));
        link.expect(Expected::Describe(None));
        link
    }

    fn parse(link: &Link, sql: &str, batch: u64) {
        let undo = link.state().put("s", batch, Some(named(sql, batch)));
        link.expect(Expected::Parse("s".into(), batch, None, undo));
    }

    fn close(link: &Link, batch: u64) {
        let undo = link.state().put("s", batch, None);
        link.expect(Expected::Close(None, undo));
    }

    #[test]
    fn what_is_ignored_is_taken_back_from_the_last_to_the_first() {
        let link = link();
        close(&link, 1);
        parse(&link, "select 1", 1);
        close(&link, 1);
        assert!(text(&link, "s").is_empty() && link.state().is_unsettled(false, "s", 2));
        assert!(!link.state().is_unsettled(false, "s", 1), "within a batch it is as it will be");
        parse(&link, "select 2", 1);
        link.state().skip_to_sync(None);
        assert_eq!((text(&link, "s"), link.state().undo_bytes), ("select 0".to_owned(), 0));
    }

    #[test]
    fn what_is_carried_out_stays() {
        let link = link();
        close(&link, 1);
        parse(&link, "select 1", 1);
        for tag in [b't', b'n', b'3', b'1'] {
            link.state().settle(tag, &[0; 2]).unwrap();
        }
        link.state().skip_to_sync(None);
        assert_eq!((text(&link, "s"), link.state().undo_bytes), ("select 1".to_owned(), 0));
    }

    #[test]
    fn what_a_later_batch_has_taken_stays_its_own() {
        let link = link();
        close(&link, 1);
        link.expect(Expected::Sync);
        parse(&link, "select 2", 2);
        link.state().skip_to_sync(None);
        assert_eq!(text(&link, "s"), "select 2");
    }

    #[test]
    fn nothing_is_put_back_of_which_the_backend_has_not_said_that_it_is_there() {
        let link = link();
        parse(&link, "select 1", 1);
        link.state().queue.push_back(Expected::Describe(None));
        close(&link, 2);
        link.state().skip_to_sync(None);
        assert_eq!(text(&link, "s"), "select 0", "both are ignored");
        let undo = link.state().put_by_sql("s", 3, Some(named("select 3", 3)), false).unwrap();
        let again = link.state().put_by_sql("s", 4, None, false).unwrap();
        link.state().undo(again);
        assert_eq!(text(&link, "s"), "", "whether it was made is not known");
        link.state().undo(undo);
        assert_eq!(text(&link, "s"), "select 0");
        assert!(link.state().put_by_sql("s", 5, None, true).is_none());
    }

    #[test]
    fn an_error_that_comes_while_a_message_is_on_the_road_takes_it_along() {
        let link = link();
        link.state().skip_to_sync(None);
        assert!(link.state().skipping);
        close(&link, 1);
        parse(&link, "select 1", 1);
        assert!(link.state().queue.is_empty());
        assert_eq!(text(&link, "s"), "select 0");
    }
}
