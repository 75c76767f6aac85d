//! What the two halves of a session share: the queue of expected replies, and what is known of the backend
//! session.
//!
//! Invariants:
//! - each message that is forwarded and that the backend answers stands in the queue, in order, before its
//!   bytes are sent; so a reply belongs to the entry at the front;
//! - a prepared statement is known only while the backend may know it too, and a cursor as long as it may: one whose
//!   making is not confirmed is waited for before it is used in another batch;
//! - `stale` says that what names mean may have changed, and nothing is resolved until it has been asked.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use doorward_core::{Actions, Completion, Durable, Fault, Pass, Stage};
use doorward_pgclient::{ServerError, lost};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::sharing::{Made, Sharing};
use super::table::Table;
use super::undo::Undo;
use crate::codes;
use crate::names::Objects;
use crate::pool::Origin;
use crate::values::Bound;
use crate::vet::Vetted;

/// The most replies that may be expected.
pub(crate) const EXPECTED_MAX: usize = 1_024;

/// The transaction's state as ReadyForQuery tells it.
pub(crate) const IDLE: u8 = b'I';
pub(crate) const FAILED: u8 = b'E';

/// A reply that is expected of the backend, or of the gateway in its place.
#[derive(Debug)]
pub(crate) enum Expected {
    /// All of a simple query, until ReadyForQuery.
    Query(Box<Running>),
    /// A statement that is prepared under a name, in a batch; and what it is at backends.
    Parse(Box<str>, u64, Option<Arc<Origin>>, Option<Box<Undo>>),
    /// A portal's name, and the batch that it is bound in.
    Bind(Box<str>, u64),
    /// A description; of the prepared statement that is named.
    Describe(Option<Box<str>>),
    /// The end of a name; of a portal's, if it is one that SQL can use too.
    Close(Option<Box<str>>, Option<Box<Undo>>),
    Execute(Box<Running>),
    Sync,
    /// The backend was sent something that fails; the client is told this instead.
    Failing(Bytes),
    /// The same for a simple query: until ReadyForQuery.
    FailingQuery(Bytes),
    /// The gateway's own answer.
    Local(Bytes, Option<Box<Undo>>),
    /// A question of the gateway's own, until ReadyForQuery.
    Probe(Probe),
    /// A statement that the gateway prepares for the session, on a connection that does not have it.
    Prepared(Arc<Origin>),
    /// A statement that the gateway closes, to make room.
    Closed(Box<str>),
}

/// A question of the gateway's own to the session, and what has been answered.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    pub(crate) row: Vec<u8>,
    pub(crate) failed: Option<Box<ServerError>>,
}

/// Names that a statement makes in SQL, by PREPARE and DECLARE, and what else it leaves behind.
#[derive(Debug, Default)]
pub(crate) struct Makes {
    /// The batch that it is in.
    pub(crate) batch: u64,
    pub(crate) statements: Vec<Box<str>>,
    pub(crate) portals: Vec<Box<str>>,
    /// A setting that outlives the transaction, and the statement that makes it.
    pub(crate) setting: Option<Made>,
    /// Whether it leaves something that keeps the backend.
    pub(crate) stays: bool,
    /// The cursors that it closes.
    pub(crate) closes: Closes,
    /// What it does to the names of prepared statements.
    pub(crate) undo: Vec<Undo>,
}

/// Cursors that a statement closes in SQL.
#[derive(Debug, Default)]
pub(crate) struct Closes {
    pub(crate) all: bool,
    pub(crate) names: Vec<Box<str>>,
}

/// A statement that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) pass: Pass,
    pub(crate) rows: u64,
    /// Rows of the commands before this one in the same text.
    base: u64,
    /// Pieces of copied data.
    pub(crate) pieces: u64,
    pub(crate) bytes_out: u64,
    pub(crate) failed: Option<Fault>,
    pub(crate) since: Instant,
    pub(crate) answered: bool,
    pub(crate) cancelled: bool,
    /// Names that its text makes: forgotten when it fails.
    pub(crate) makes: Makes,
    /// The statements behind it in the same text.
    pub(crate) later: VecDeque<Pass>,
}

impl Running {
    pub(crate) fn new(pass: Pass, makes: Makes) -> Box<Self> {
        Box::new(Self {
            pass,
            rows: 0,
            base: 0,
            pieces: 0,
            bytes_out: 0,
            failed: None,
            since: Instant::now(),
            answered: false,
            cancelled: false,
            makes,
            later: VecDeque::new(),
        })
    }

    /// It is done, and the next statement of its text begins, if there is one. What must be durable before its
    /// answer leaves.
    #[must_use = "its answer leaves when this is durable"]
    pub(crate) fn turn(&mut self) -> Option<Durable> {
        let pass = self.later.pop_front()?;
        let mut next = Self::new(pass, std::mem::take(&mut self.makes));
        next.later = std::mem::take(&mut self.later);
        std::mem::replace(self, *next).end_one()
    }

    /// Whether it, or a statement behind it, changes something.
    pub(crate) fn changes(&self) -> bool {
        std::iter::once(&self.pass).chain(&self.later).any(|pass| pass.permit().actions().change())
    }

    /// The first byte of its answer has come.
    pub(crate) fn heard(&mut self) {
        if !self.answered {
            self.answered = true;
            self.pass.access().enter(Stage::Shape);
        }
    }

    /// A command is complete, and tells how many rows it was about.
    pub(crate) fn complete(&mut self, affected: u64) {
        self.heard();
        self.rows = self.rows.max(self.base.saturating_add(affected));
        self.base = self.rows;
    }

    /// Whether its answer is larger than its grant allows.
    pub(crate) fn is_over(&self) -> bool {
        let obligations = self.pass.permit().obligations();
        obligations.rows_max.is_some_and(|max| self.rows.max(self.pieces) > max)
            || obligations.bytes_max.is_some_and(|max| self.bytes_out > max)
    }

    /// Whether it has run longer than its grant allows, and has not been cancelled for it.
    pub(crate) fn is_late(&self) -> bool {
        let timeout = self.pass.permit().obligations().timeout;
        !self.cancelled && timeout.is_some_and(|timeout| self.since.elapsed() > timeout)
    }

    /// Its text has ended as the backend says. What must be durable before the rest of the answer leaves.
    #[must_use = "its answer leaves when this is durable"]
    pub(crate) fn end(mut self: Box<Self>) -> Option<Durable> {
        for pass in std::mem::take(&mut self.later) {
            pass.fail(&not_run());
        }
        self.end_one()
    }

    fn end_one(mut self) -> Option<Durable> {
        self.pass.access().count_out(self.bytes_out);
        match self.failed.take() {
            Some(fault) => self.pass.fail_held(&fault),
            None => {
                let rows = Some(self.rows);
                self.pass.end_held(&Completion { rows, bytes_out: self.bytes_out, ..Completion::default() })
            }
        }
    }

    /// Its text has ended otherwise, and nothing of an answer leaves any more.
    pub(crate) fn fail(mut self: Box<Self>, fault: &Fault) {
        for pass in std::mem::take(&mut self.later) {
            pass.fail(fault);
        }
        self.pass.access().count_out(self.bytes_out);
        self.pass.fail(fault);
    }
}

/// The fault of a statement that stands behind one that failed.
pub(crate) fn not_run() -> Fault {
    Fault::new(codes::NOT_RUN, "a statement before it in the batch failed")
}

/// A prepared statement or portal.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) vetted: Arc<Vetted>,
    /// What a portal needs: what its names meant when it was bound.
    pub(crate) actions: Option<Actions>,
    /// The batch that it was made in.
    pub(crate) batch: u64,
    /// Whether the backend has said that it is made.
    pub(crate) confirmed: bool,
    /// Whether the text that makes it has failed, which may have made it before.
    pub(crate) failed: bool,
    /// Whether it is a cursor that outlives its transaction.
    pub(crate) held: bool,
    /// Whether it has outlived one.
    pub(crate) lasting: bool,
    /// Whether SQL that closes it has been forwarded: its name may be free, and who reads on it is decided as before.
    pub(crate) closing: bool,
    /// The types of a statement's parameters, as far as they have been told.
    pub(crate) types: Arc<[u32]>,
    /// The values that a portal is bound to.
    pub(crate) bound: Option<Arc<Bound>>,
    /// What it is at backends, where sessions share them.
    pub(crate) origin: Option<Arc<Origin>>,
}

impl Named {
    /// What has just been made, in this batch.
    pub(crate) fn new(vetted: Arc<Vetted>, actions: Option<Actions>, batch: u64) -> Self {
        Self {
            vetted,
            actions,
            batch,
            confirmed: false,
            failed: false,
            held: false,
            lasting: false,
            closing: false,
            types: Arc::default(),
            bound: None,
            origin: None,
        }
    }

    /// Whether a portal outlives a transaction that is over, and was undone or not. What has not been answered yet
    /// belongs to a later one.
    fn outlives(&self, undone: bool) -> bool {
        !self.is_answered() || (self.held && (self.lasting || !undone))
    }

    fn is_answered(&self) -> bool {
        self.confirmed || self.failed
    }

    /// What it takes, but for its name.
    pub(crate) fn bytes(&self) -> usize {
        self.vetted.text().len() + size_of_val(&*self.types)
    }
}

/// What is shared.
pub(crate) struct State {
    pub(crate) queue: VecDeque<Expected>,
    /// The transaction's state, as far as the backend has told it.
    pub(crate) status: u8,
    /// The backend ignores what comes until the next Sync.
    pub(crate) skipping: bool,
    /// The backend takes in a COPY of the extended protocol, and ignores Sync.
    pub(crate) copying: bool,
    /// The backend waits for data of a COPY: nothing else may come.
    pub(crate) taking_in: bool,
    /// The backend streams its log, and may be interrupted at any time.
    pub(crate) streaming: bool,
    /// What names mean may have changed.
    pub(crate) stale: bool,
    /// The session's name at the backend is gone, with its other settings.
    pub(crate) nameless: bool,
    /// Something in this transaction may have changed what names mean: its end may change it back.
    pub(crate) touched: bool,
    /// A statement has failed, or the transaction was rolled back, since the last COMMIT: at the end of the
    /// transaction, what it has made is gone.
    pub(crate) undone: bool,
    /// Structure was changed in this transaction: only the session itself can see it.
    pub(crate) restructured: bool,
    /// When the session last knew better than the gateway what objects there are.
    pub(crate) restructured_at: Option<Instant>,
    pub(crate) statements: Table,
    pub(crate) portals: Table,
    /// What is kept to be put back into them.
    pub(crate) undo_bytes: usize,
    /// What the last question was answered.
    pub(crate) probed: Option<Probe>,
    /// Whether the client has got whole messages only.
    pub(crate) in_step: bool,
    /// What must be durable before more is sent to the client.
    pub(crate) owed: Vec<Durable>,
    /// What a session knows that shares its backends.
    pub(crate) sharing: Option<Sharing>,
}

/// What the two halves share. The lock is never held across an await.
pub(crate) struct Link {
    state: Mutex<State>,
    /// A reply has come.
    pub(crate) turned: Notify,
    /// The gateway's own answer may be due.
    pub(crate) local: Notify,
}

impl Link {
    pub(crate) fn new(sharing: Option<Sharing>) -> Self {
        let state = State {
            queue: VecDeque::new(),
            status: IDLE,
            skipping: false,
            copying: false,
            taking_in: false,
            streaming: false,
            stale: true,
            nameless: false,
            touched: false,
            undone: false,
            restructured: false,
            restructured_at: None,
            statements: Table::default(),
            portals: Table::default(),
            undo_bytes: 0,
            probed: None,
            in_step: true,
            owed: Vec::new(),
            sharing,
        };
        Self { state: Mutex::new(state), turned: Notify::new(), local: Notify::new() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Expects a reply.
    pub(crate) fn expect(&self, expected: Expected) {
        let local = matches!(expected, Expected::Local(..));
        let mut state = self.state();
        state.queue.push_back(expected);
        if state.skipping {
            // The error has come while the message was on the road.
            state.skip_to_sync(None);
        }
        drop(state);
        if local {
            self.local.notify_one();
        }
    }

    /// Waits until it is so. Woken by each reply.
    pub(crate) async fn wait(&self, so: impl Fn(&State) -> bool) {
        loop {
            let turned = self.turned.notified();
            if so(&self.state()) {
                return;
            }
            turned.await;
        }
    }

    /// Whether nothing is under way that should be finished: no reply is expected, and no transaction is open; or
    /// what streams has no end.
    pub(crate) fn is_at_rest(&self) -> bool {
        let state = self.state();
        state.streaming || (state.queue.is_empty() && state.status == IDLE)
    }

    /// Ends what is left when the session is over. `why` is told of each; without one the client has gone, and
    /// each is recorded as abandoned. Whether there was any.
    pub(crate) fn abandon(&self, why: Option<&Fault>) -> bool {
        let left = std::mem::take(&mut self.state().queue);
        let busy = !left.is_empty();
        for expected in left {
            if let (Expected::Query(running) | Expected::Execute(running), Some(why)) = (expected, why) {
                running.fail(why);
            }
        }
        busy
    }

    /// The backend is gone: what ran may have been done.
    pub(crate) fn lose(&self, cause: &str) {
        let left = std::mem::take(&mut self.state().queue);
        for expected in left {
            if let Expected::Query(running) | Expected::Execute(running) = expected {
                if let Some(fault) = running.failed.clone() {
                    running.fail(&fault);
                    continue;
                }
                let fault = lost(!running.changes(), cause);
                running.fail(&fault);
            }
        }
    }
}

impl State {
    /// What SQL has prepared under a name. What the protocol has prepared stands under another one where backends are shared.
    pub(crate) fn prepared_by_sql(&self, name: &str) -> Option<Arc<Vetted>> {
        let named = self.statements.get(name).filter(|named| named.origin.is_none())?;
        Some(named.vetted.clone())
    }

    /// What must be durable before more is sent to the client, put into `owed`, which is empty: records of
    /// answers that are whole, and the intent of one that has begun.
    pub(crate) fn take_owed(&mut self, owed: &mut Vec<Durable>) {
        std::mem::swap(&mut self.owed, owed);
        if let Some(Expected::Query(running) | Expected::Execute(running)) = self.queue.front_mut()
            && running.answered
        {
            owed.extend(running.pass.begin_answer());
        }
    }

    /// Whether the next answer can be the gateway's own: nothing is expected of a backend, and no transaction
    /// is open.
    pub(crate) fn is_local(&self) -> bool {
        self.status == IDLE && self.queue.iter().all(|expected| matches!(expected, Expected::Local(..)))
    }

    /// Whether the backend can be given back: nothing is under way on it, and nothing keeps it.
    pub(crate) fn is_free(&self) -> bool {
        let shared = self.sharing.as_ref().is_some_and(|sharing| !sharing.keeps());
        shared && self.queue.is_empty() && self.status == IDLE
    }

    /// Whether the gateway's own knowledge of the objects is as new as the session's.
    pub(crate) fn may_take(&self, shared: &Objects) -> bool {
        !self.restructured && self.restructured_at.is_none_or(|at| shared.began > at)
    }

    /// Forgets what the failed message at the front would have made, and all that the backend now ignores:
    /// everything up to the next Sync. With a `cause` it is a part of the statement behind it that has failed, and that
    /// one's record says why.
    pub(crate) fn skip_to_sync(&mut self, mut cause: Option<&Fault>) {
        let (mut undone, mut at_front, mut binds) = (Vec::new(), true, 0);
        // A Parse that fails does away with the statement without a name all the same.
        if let Some(Expected::Parse(name, _, _, Some(undo))) = self.queue.front_mut()
            && name.is_empty()
        {
            self.undo_bytes = self.undo_bytes.saturating_sub(undo.empty());
        }
        loop {
            match self.queue.front() {
                None => {
                    self.skipping = true;
                    break;
                }
                Some(Expected::Sync | Expected::Probe(_)) => break,
                Some(_) => {}
            }
            let Some(mut next) = self.queue.pop_front() else { break };
            binds += usize::from(matches!(next, Expected::Bind(..)));
            // Another statement begins.
            if binds > 1 || (matches!(next, Expected::Parse(..)) && !at_front) {
                cause = None;
            }
            at_front = false;
            self.take_back(&mut next, &mut undone);
            match next {
                Expected::Parse(_, _, Some(origin), _) | Expected::Prepared(origin) => {
                    self.not_prepared(&origin)
                }
                Expected::Execute(running) | Expected::Query(running) => {
                    running.fail(cause.take().unwrap_or(&not_run()));
                }
                Expected::Closed(name) => self.not_closed(name),
                _ => {}
            }
        }
        undone.into_iter().rev().for_each(|undo| self.undo(undo));
    }

    /// Forgets what the messages would have made that were not answered: their backend is lost.
    pub(crate) fn forget_asked(&mut self) {
        let mut undone = Vec::new();
        let mut asked = std::mem::take(&mut self.queue);
        asked.iter_mut().for_each(|expected| self.take_back(expected, &mut undone));
        self.queue = asked;
        undone.into_iter().rev().for_each(|undo| self.undo(undo));
    }

    /// Takes back what a message that was not carried out did to the tables; what is to be undone for it, in the order
    /// of the messages.
    fn take_back(&mut self, expected: &mut Expected, undone: &mut Vec<Undo>) {
        match expected {
            Expected::Parse(name, batch, _, undo) => {
                let undo = undo.take().map(|undo| *undo);
                undone.push(undo.unwrap_or_else(|| Undo::of_new(name.clone(), *batch)));
            }
            Expected::Bind(name, batch) => forget(&mut self.portals, name, *batch),
            Expected::Close(_, undo) | Expected::Local(_, undo) => {
                undone.extend(undo.take().map(|undo| *undo))
            }
            Expected::Execute(running) | Expected::Query(running) => {
                undone.append(&mut running.makes.undo);
                self.forget_made(&mut running.makes);
            }
            _ => {}
        }
    }

    /// A text that makes names has failed. What it prepared is not executed any more. A cursor may have come to be before
    /// the failure, and stay: what reading it needs is remembered, until the transaction's end closes it.
    pub(crate) fn forget_made(&mut self, makes: &mut Makes) {
        makes.statements.iter().for_each(|name| drop(self.statements.remove(name)));
        makes.undo.drain(..).rev().for_each(|undo| self.undo(undo));
        for name in &makes.portals {
            if let Some(named) = self.portals.get_mut(name).filter(|named| named.batch == makes.batch) {
                named.failed = true;
            }
        }
        self.note_answered(makes);
    }

    pub(crate) fn confirm_made(&mut self, makes: &mut Makes) {
        makes.undo.drain(..).for_each(|undo| self.done(&undo));
        for (names, known) in [(&makes.statements, &mut self.statements), (&makes.portals, &mut self.portals)]
        {
            for name in names {
                if let Some(named) = known.get_mut(name).filter(|named| named.batch == makes.batch) {
                    named.confirmed = true;
                }
            }
        }
        // One that was made behind it has the name again.
        let closed = |named: &Named| named.closing && named.batch <= makes.batch;
        if makes.closes.all {
            self.portals.retain(|named| !closed(named));
        }
        for name in &makes.closes.names {
            if self.portals.get(name).is_some_and(closed) {
                self.portals.remove(name);
            }
        }
        self.note_answered(makes);
    }

    fn note_answered(&mut self, makes: &Makes) {
        if let Some(sharing) = self.sharing.as_mut().filter(|_| makes.stays) {
            sharing.answered();
        }
    }

    /// A command is complete, which may be the end of a transaction; `stays` tells whether its text leaves something
    /// that keeps the backend.
    pub(crate) fn completed(&mut self, tag: &[u8], setting: Option<Made>, stays: bool) {
        let tag = tag.strip_suffix(&[0]).unwrap_or(tag);
        match tag {
            b"COMMIT" => {
                self.undone = false;
                // One that is still to be made may be taken for it, too: what is known for too long is decided all the
                // same.
                self.portals.values_mut().for_each(|named| named.lasting = named.held);
            }
            // To a savepoint, or of all.
            b"ROLLBACK" => self.undone = true,
            // All cursors are closed.
            b"DISCARD ALL" => self.portals.retain(|named| !named.is_answered()),
            _ => {}
        }
        if let Some(sharing) = &mut self.sharing {
            sharing.complete(tag, setting, stays);
        }
    }

    /// The transaction's state is told.
    pub(crate) fn become_ready(&mut self, status: u8) {
        self.status = status;
        self.copying = false;
        self.taking_in = false;
        self.streaming = false;
        if self.restructured {
            self.restructured_at = Some(Instant::now());
        }
        let undone = self.undone;
        if status == IDLE {
            // A cursor WITH HOLD outlives its transaction, unless that is rolled back.
            self.portals.retain(|named| {
                let outlives = named.outlives(undone);
                named.lasting |= outlives && named.held && named.confirmed;
                outlives
            });
            self.restructured = false;
            self.undone = false;
            self.stale |= std::mem::take(&mut self.touched);
        }
        if let Some(sharing) = &mut self.sharing {
            sharing.ready(status, undone);
        }
    }
}

/// Forgets what was made under a name in a batch; another batch may have taken the name since.
fn forget(known: &mut Table, name: &str, batch: u64) {
    if known.get(name).is_some_and(|named| named.batch == batch) {
        known.remove(name);
    }
}
