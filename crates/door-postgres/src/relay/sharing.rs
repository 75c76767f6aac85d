//! What a session knows in transaction mode, where it has a backend only while a transaction needs one: its
//! settings, which it finds again on each backend; the prepared statements of the backend at hand; and whether
//! something keeps it there.
//!
//! Invariants: what was set in a transaction that is rolled back was not set, and what was made in one keeps no backend;
//! a backend on which anything may have been left behind is not lent on as it is.

use std::sync::Arc;
use std::time::Instant;

use crate::pool::{Known, Left, Origin, Origins, Outfit, Parameters, Pin};
use crate::relay::link::{IDLE, State};
use crate::relay::trial::Trial;

/// The most settings that a session finds again, and the longest statement that makes one.
pub(crate) const SETTINGS_MAX: usize = 32;
pub(crate) const SETTING_BYTES_MAX: usize = 1_024;
/// The name that stands for all settings.
const ALL: &str = "all";
/// The server's function that finds out that a plan's columns are not what they were.
const REVALIDATE: &str = "RevalidateCachedQuery";
const FEATURE_NOT_SUPPORTED: &str = "0A000";

/// A setting that a statement makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) name: Box<str>,
    /// The statement, to be said again; `None` when the setting is what it was at first.
    pub(crate) statement: Option<Box<str>>,
}

/// What keeps a session on its backend: statements that leave something there which the session has to find again.
#[derive(Debug, Default)]
struct Stay {
    pin: Option<Pin>,
    /// Something is there for certain.
    certain: bool,
    /// Statements that ask for it, of which it is not known yet whether they will have left something.
    asked: usize,
    /// Of these, the ones that were answered in the transaction that is open.
    answered: usize,
    /// The statement that is about to be forwarded is one of them.
    asking: bool,
}

/// What a session knows that shares its backends.
#[derive(Debug)]
pub(crate) struct Sharing {
    pub(crate) origins: Arc<Origins>,
    pub(crate) outfit: Arc<Outfit>,
    /// What the client has been told of settings.
    pub(crate) told: Parameters,
    /// The statements that the backend at hand has.
    pub(crate) known: Known,
    /// The half that sends is about to use the backend.
    pub(crate) engaged: bool,
    stay: Stay,
    /// Something may be left behind on the backend.
    pub(crate) used: bool,
    /// The outfit has changed since the backend was put into it.
    pub(crate) redressed: bool,
    /// A transaction on a replica.
    pub(crate) trial: Trial,
    /// Something in this transaction was not known to be a read.
    pub(crate) changes: bool,
    /// When the session's last transaction ended that was not known to be a read.
    pub(crate) changed_at: Option<Instant>,
    /// Settings of this transaction.
    made: Vec<Made>,
    /// A statement has failed since the last ReadyForQuery.
    failed: bool,
}

impl Sharing {
    pub(crate) fn new(origins: Arc<Origins>, outfit: Arc<Outfit>, told: Parameters) -> Self {
        Self {
            origins,
            outfit,
            told,
            known: Known::new(1),
            engaged: false,
            stay: Stay::default(),
            used: false,
            redressed: false,
            trial: Trial::Over,
            changes: false,
            changed_at: None,
            made: Vec::new(),
            failed: false,
        }
    }

    /// Whether the session keeps its backend, though nothing is under way.
    pub(crate) fn keeps(&self) -> bool {
        self.engaged || self.is_pinned()
    }

    /// Whether it keeps its backend beyond the transaction.
    pub(crate) fn is_pinned(&self) -> bool {
        self.stay.pin.is_some()
    }

    /// A statement is about to be forwarded that leaves something on the backend, or takes something there that even
    /// its failure does not give back: a lock. The backend is kept, if there is a right to it.
    pub(crate) fn stay(&mut self, takes_lock: bool, right: impl FnOnce() -> Option<Pin>) -> Option<()> {
        self.used = true;
        let stay = &mut self.stay;
        if stay.pin.is_none() {
            stay.pin = Some(right()?);
        }
        stay.certain |= takes_lock;
        stay.asked += 1;
        stay.asking = true;
        Some(())
    }

    /// Whether the statement that is about to be forwarded is one that stays; asked once of each.
    pub(crate) fn takes_asking(&mut self) -> bool {
        std::mem::take(&mut self.stay.asking)
    }

    /// Such a statement has been answered, or is not run any more.
    pub(crate) fn answered(&mut self) {
        self.stay.answered += 1;
    }

    /// Whether something in this transaction is not certain to last.
    pub(crate) fn has_made(&self) -> bool {
        !self.made.is_empty()
    }

    /// Whether one more setting can be kept.
    pub(crate) fn has_room(&self) -> bool {
        self.made.len() + self.outfit.settings.len() < SETTINGS_MAX
    }

    /// A command is complete, as its tag says.
    pub(crate) fn complete(&mut self, tag: &[u8], setting: Option<Made>, stays: bool) {
        self.made.extend(setting);
        match tag {
            b"COMMIT" => {
                self.settle();
                // What stands before it in the same text has no answer of its own.
                self.stay.certain |= stays;
                self.stay.over(false);
            }
            // It outlives its transaction, however that ends.
            b"PREPARE" => self.stay.certain = true,
            // Of a savepoint too: where settings have been made, that keeps the backend.
            b"ROLLBACK" => self.made.clear(),
            b"DISCARD ALL" => {
                self.made.clear();
                self.known.clear();
                self.stay.certain = false;
                self.stay.over(true);
                self.wear(Vec::new());
            }
            b"DEALLOCATE ALL" => self.known.clear(),
            _ => {}
        }
    }

    /// A statement has failed.
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }

    /// ReadyForQuery; `undone` tells whether what was done since the last COMMIT was taken back.
    pub(crate) fn ready(&mut self, status: u8, undone: bool) {
        if status == IDLE {
            if std::mem::take(&mut self.failed) {
                self.made.clear();
            }
            self.settle();
            self.stay.over(undone);
        }
        self.failed = false;
    }

    /// What was set lasts.
    fn settle(&mut self) {
        if self.made.is_empty() {
            return;
        }
        let mut settings = self.outfit.settings.clone();
        for Made { name, statement } in std::mem::take(&mut self.made) {
            settings.retain(|(known, _)| *known != name && &*name != ALL);
            settings.extend(statement.map(|statement| (name, statement)));
        }
        self.wear(settings);
    }

    fn wear(&mut self, settings: Vec<(Box<str>, Box<str>)>) {
        let application_name = self.outfit.application_name.clone();
        let bearer = self.outfit.bearer.clone();
        self.outfit = Arc::new(Outfit { application_name, settings, bearer });
        self.redressed = true;
    }

    /// How the backend is given back, which it is now.
    pub(crate) fn leave(&mut self) -> Left {
        if std::mem::take(&mut self.changes) {
            self.changed_at = Some(Instant::now());
        }
        self.redressed = false;
        match std::mem::take(&mut self.used) {
            true => Left::Used { in_transaction: false },
            false => Left::Clean,
        }
    }
}

impl Stay {
    /// A transaction is over. What asked to stay in it has left something, unless it was undone.
    fn over(&mut self, undone: bool) {
        let answered = std::mem::take(&mut self.answered);
        self.asked = self.asked.saturating_sub(answered);
        self.certain |= answered > 0 && !undone;
        if self.asked == 0 && !self.certain {
            self.pin = None;
        }
    }
}

impl State {
    /// Marks a statement that failed because its columns are not what they were when it was prepared: it is
    /// prepared anew, under another name, by whoever prepares it next, and forgotten on this backend.
    pub(crate) fn note_failure(
        &mut self,
        sqlstate: &str,
        routine: Option<&str>,
        origin: Option<Arc<Origin>>,
    ) {
        let Some(sharing) = &mut self.sharing else { return };
        sharing.fail();
        if sqlstate == FEATURE_NOT_SUPPORTED && routine == Some(REVALIDATE) {
            sharing.used = true;
            if let Some(origin) = origin {
                sharing.origins.retire(&origin);
            }
        }
    }

    pub(crate) fn not_prepared(&mut self, origin: &Origin) {
        if let Some(sharing) = &mut self.sharing {
            sharing.known.failed(origin);
        }
    }

    pub(crate) fn not_closed(&mut self, name: Box<str>) {
        if let Some(sharing) = &mut self.sharing {
            sharing.known.kept(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sharing() -> Sharing {
        let outfit = Outfit { application_name: "doorward: ann".into(), settings: Vec::new(), bearer: None };
        Sharing::new(Arc::default(), Arc::new(outfit), Parameters::default())
    }

    fn set(name: &str, value: &str) -> Option<Made> {
        Some(Made { name: name.into(), statement: Some(format!("set {name} = {value}").into()) })
    }

    fn reset(name: &str) -> Option<Made> {
        Some(Made { name: name.into(), statement: None })
    }

    fn worn(sharing: &Sharing) -> Vec<&str> {
        sharing.outfit.settings.iter().map(|(_, statement)| &**statement).collect()
    }

    #[test]
    fn settings_last_when_their_transaction_does() {
        let mut session = sharing();
        session.complete(b"SET", set("a", "1"), false);
        assert!(session.has_made());
        session.ready(IDLE, false);
        assert_eq!(worn(&session), ["set a = 1"]);
        // A transaction that is rolled back, or a batch that fails, has set nothing.
        session.complete(b"SET", set("a", "2"), false);
        session.ready(b'T', false);
        session.complete(b"ROLLBACK", None, false);
        session.ready(IDLE, false);
        session.complete(b"SET", set("a", "3"), false);
        session.fail();
        session.ready(IDLE, false);
        assert_eq!(worn(&session), ["set a = 1"]);
        session.complete(b"SET", set("a", "4"), false);
        session.ready(b'T', false);
        session.complete(b"SET", set("b", "5"), false);
        session.ready(b'T', false);
        session.complete(b"COMMIT", None, false);
        session.ready(IDLE, false);
        assert_eq!(worn(&session), ["set a = 4", "set b = 5"]);
        session.complete(b"RESET", reset("a"), false);
        session.ready(IDLE, false);
        assert_eq!(worn(&session), ["set b = 5"]);
        session.complete(b"RESET", reset("all"), false);
        session.ready(IDLE, false);
        assert!(worn(&session).is_empty() && session.redressed);
    }

    #[test]
    fn a_backend_is_given_back_as_it_was_left() {
        let mut session = sharing();
        assert_eq!(session.leave(), Left::Clean);
        session.used = true;
        assert_eq!(session.leave(), Left::Used { in_transaction: false });
        assert_eq!(session.leave(), Left::Clean, "of the next one nothing is known");
    }
}
