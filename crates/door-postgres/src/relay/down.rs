//! From the backend to the client: passes messages on as they come, and settles the statements that they
//! answer.
//!
//! Invariants: rows and copied data stream through, whatever their size, and nothing is read while the client
//! takes nothing; a message that must be understood is whole, and bounded; whatever does not fit the queue of
//! expected replies ends the session; where records are required, nothing of an answer leaves before a frame of
//! its call is durable: the record when the answer came whole in one piece, the intent otherwise.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use doorward_core::{Durable, Fault};
use doorward_pgclient::{HEADER, affected, head, parameter, ready, server_error};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::gulp::gulp;
use super::link::{Expected, IDLE, Link, State};
use super::port::Port;
use super::trial::{ALONE_BYTES_MAX, Trial};
use super::{Ended, frontend};
use crate::codes;
use crate::desk::Desk;
use crate::pool::{Left, Origin};

/// The largest message, other than a row or copied data, that is accepted. PostgreSQL quotes the value that it
/// refuses, and callers send large values.
const CONTROL_BYTES_MAX: usize = 16 << 20;
/// The largest answer to a question of the gateway's own.
const PROBE_BYTES_MAX: usize = 64 << 20;

/// The half that carries answers.
pub(crate) struct Down<'l, W> {
    pub(crate) desk: &'l Desk,
    pub(crate) link: &'l Link,
    pub(crate) port: &'l Port,
    pub(crate) client: &'l mut W,
    /// What has come from the backend.
    pub(crate) input: BytesMut,
    /// How much of a row is still to be passed on.
    pub(crate) passing: usize,
    /// What must be durable before more is passed on; empty between two steps.
    pub(crate) owed: Vec<Durable>,
    /// What a replica has said and the client is not told yet.
    pub(crate) kept: BytesMut,
}

/// Why settling stops for something to be written first.
enum Pause {
    /// There is nothing more.
    Done,
    /// An answer of the gateway's own is due.
    Own(Bytes),
    /// So many bytes of the backend's are not for the client.
    Drop(usize),
    /// In the place of so many bytes the client is told this.
    Replace(Bytes, usize),
}

/// What becomes of a message.
pub(super) enum Fate {
    Pass,
    Drop,
    Replace(Bytes),
    End(Box<Fault>),
}

impl<W: AsyncWrite + Unpin> Down<'_, W> {
    pub(crate) async fn run(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.digest().await {
                return ended;
            }
            self.release(0);
            if !self.port.is_bound() {
                // A session without a backend holds no memory for one.
                self.input = BytesMut::new();
                tokio::select! {
                    () = self.port.turned.notified() => {}
                    () = self.link.local.notified() => {}
                }
                continue;
            }
            let mut backend = self.port.reader();
            let read = tokio::select! {
                biased;
                read = gulp(&mut backend, &mut self.input) => read,
                () = self.link.local.notified() => continue,
            };
            let cause = match read {
                Ok(0) => "the server closed the connection".to_owned(),
                Ok(_) => continue,
                Err(error) => error.to_string(),
            };
            if !self.lose_replica(&cause) {
                return Ended::BackendGone(cause);
            }
        }
    }

    /// A replica is lost. When it has answered nothing that counts, and nothing else was asked of it, the session goes on:
    /// the other half asks the primary.
    fn lose_replica(&mut self, cause: &str) -> bool {
        let mut state = self.link.state();
        if !state.sharing.as_mut().is_some_and(|sharing| sharing.trial.lost()) {
            return false;
        }
        state.forget_asked();
        drop(state);
        self.link.lose(cause);
        self.input.clear();
        self.kept.clear();
        if let Some(lent) = self.port.take() {
            let mut state = self.link.state();
            state.skipping = false;
            state.become_ready(IDLE);
            if let Some(sharing) = &mut state.sharing {
                sharing.leave();
            }
            drop(state);
            tracing::debug!(cause, "a replica is lost: its read is the primary's");
            // What is dead does not forget, and is closed.
            self.desk.cancels.give_back(lent, Left::Used { in_transaction: false });
        }
        self.link.turned.notify_waiters();
        true
    }

    /// Whether all that the backend has sent has been passed on.
    pub(crate) fn is_done(&self) -> bool {
        self.passing == 0 && self.input.is_empty()
    }

    /// Gives the backend back, when the transaction is over and nothing keeps it. So much of what it has said is
    /// still to be passed on, and understood already.
    fn release(&mut self, understood: usize) {
        if self.passing > 0 || self.input.len() > understood {
            return;
        }
        let mut state = self.link.state();
        if !state.is_free() {
            return;
        }
        let Some(mut lent) = self.port.take() else { return };
        if let (Some(sharing), Some(backend)) = (&mut state.sharing, lent.backend()) {
            std::mem::swap(&mut sharing.known, &mut backend.known);
            if sharing.redressed {
                backend.is_dressed(sharing.outfit.clone());
            }
            let left = sharing.leave();
            if std::mem::take(&mut state.nameless) {
                backend.undress();
            }
            drop(state);
            self.desk.cancels.give_back(lent, left);
            self.link.turned.notify_waiters();
        }
    }

    /// Passes on what has come, as far as it is whole; also what came before something that ends the session, so that
    /// the client can be told why.
    async fn digest(&mut self) -> Result<(), Ended> {
        let (mut from, mut at) = (0, 0);
        let digested = self.settle_all(&mut from, &mut at).await;
        if matches!(digested, Err(Ended::ClientGone)) {
            return digested;
        }
        // Others need not wait for this client.
        self.release(at);
        self.write(from, at).await?;
        self.client.flush().await.map_err(|_| Ended::ClientGone)?;
        self.input.advance(at);
        self.link.state().in_step = self.passing == 0;
        digested
    }

    /// Settles what has come. What is before `at` may be passed on; what is before `from` has been.
    async fn settle_all(&mut self, from: &mut usize, at: &mut usize) -> Result<(), Ended> {
        loop {
            let pause = self.settle_run(at)?;
            let (own, skipped) = match pause {
                Pause::Done => return Ok(()),
                Pause::Own(own) => (Some(own), 0),
                Pause::Drop(whole) => (None, whole),
                Pause::Replace(own, whole) => (Some(own), whole),
            };
            self.write(*from, *at).await?;
            if let Some(own) = own {
                self.write_own(&own).await?;
            }
            *at += skipped;
            *from = *at;
        }
    }

    /// Settles messages that are passed on as they are, up to one that is not; all under one lock, and whoever waits
    /// for replies is told once.
    fn settle_run(&mut self, at: &mut usize) -> Result<Pause, Ended> {
        let link = self.link;
        let mut state = link.state();
        let mut turned = false;
        let pause = self.settle_with(&mut state, at, &mut turned);
        drop(state);
        if turned {
            link.turned.notify_waiters();
        }
        pause
    }

    fn settle_with(&mut self, state: &mut State, at: &mut usize, turned: &mut bool) -> Result<Pause, Ended> {
        loop {
            // Not in the middle of a row.
            if self.passing > 0 {
                let step = self.passing.min(self.input.len() - *at);
                self.passing -= step;
                *at += step;
                if self.passing > 0 {
                    return Ok(Pause::Done);
                }
            }
            // The gateway's own answers stand between the backend's.
            if let Some(own) = state.take_local() {
                *turned = true;
                return Ok(Pause::Own(own));
            }
            let rest = self.input.get(*at..).unwrap_or_default();
            let Some(head) = head(rest).map_err(|error| not_followed(&error))? else {
                return Ok(Pause::Done);
            };
            let whole = HEADER + head.body;
            let probing = matches!(state.queue.front(), Some(Expected::Probe(_)));
            if matches!(head.tag, b'D' | b'd') && !probing {
                state.row(head.tag, whole)?;
                self.passing = whole;
                continue;
            }
            let bound = if probing { PROBE_BYTES_MAX } else { CONTROL_BYTES_MAX };
            if head.body > bound {
                return Err(not_followed(&"a message that is too large"));
            }
            if rest.len() < whole {
                return Ok(Pause::Done);
            }
            let body = rest.get(HEADER..whole).unwrap_or_default();
            let fate = state.settle(head.tag, body)?;
            *turned = true;
            if head.tag == b'S' {
                reported(state, self.port, body);
            }
            match fate {
                Fate::Pass => *at += whole,
                Fate::Drop => return Ok(Pause::Drop(whole)),
                Fate::Replace(own) => return Ok(Pause::Replace(own, whole)),
                Fate::End(fault) => return Err(Ended::Over(*fault)),
            }
        }
    }

    async fn write(&mut self, from: usize, to: usize) -> Result<(), Ended> {
        let bytes = self.input.get(from..to).unwrap_or_default();
        if self.desk.splits && keeps_back(self.link, &mut self.kept, bytes) {
            return Ok(());
        }
        if bytes.is_empty() && self.kept.is_empty() {
            return Ok(());
        }
        self.link.state().take_owed(&mut self.owed);
        for durable in self.owed.drain(..) {
            durable.await.map_err(|_| unrecorded())?;
        }
        self.link.state().in_step = false;
        if !self.kept.is_empty() {
            self.client.write_all(&std::mem::take(&mut self.kept)).await.map_err(|_| Ended::ClientGone)?;
        }
        self.client.write_all(bytes).await.map_err(|_| Ended::ClientGone)?;
        self.link.state().in_step = true;
        Ok(())
    }

    async fn write_own(&mut self, own: &[u8]) -> Result<(), Ended> {
        if self.desk.splits && keeps_back(self.link, &mut self.kept, own) {
            return Ok(());
        }
        if !self.kept.is_empty() {
            self.write(0, 0).await?;
        }
        self.link.state().in_step = false;
        self.client.write_all(own).await.map_err(|_| Ended::ClientGone)?;
        self.link.state().in_step = true;
        Ok(())
    }
}

/// A setting has another value: the client is told, and so are the books.
fn reported(state: &mut State, port: &Port, body: &[u8]) {
    let Ok((name, value)) = parameter(body) else { return };
    port.with(|backend| backend.parameters.set(name, value));
    if let Some(sharing) = &mut state.sharing {
        sharing.told.set(name, value);
    }
}

/// Keeps back what a replica says that has answered nothing yet, and drops it when the primary is asked instead. Whether the
/// client is not told.
fn keeps_back(link: &Link, kept: &mut BytesMut, said: &[u8]) -> bool {
    let mut state = link.state();
    let Some(sharing) = &mut state.sharing else { return false };
    match sharing.trial {
        Trial::Over => return false,
        Trial::Open | Trial::Sent if kept.len() + said.len() > ALONE_BYTES_MAX => {
            sharing.trial.answered();
            return false;
        }
        Trial::Open | Trial::Sent => kept.extend_from_slice(said),
        Trial::Failed => kept.clear(),
    }
    true
}

/// The client gets nothing whose record could not be kept; what it has is no whole answer, so the session ends.
fn unrecorded() -> Ended {
    let fault = Fault::new(
        doorward_core::codes::RECORD_UNAVAILABLE,
        "the statement's record could not be kept, so it is not answered",
    );
    Ended::Over(fault.hint("Connect again later; the gateway's operator sees the spool's state in /readyz."))
}

fn not_followed(what: &dyn std::fmt::Display) -> Ended {
    Ended::Over(Fault::new(codes::OUT_OF_PLACE, "the database said something out of place").cause(what))
}

impl State {
    /// The gateway's own answer, when it is due.
    fn take_local(&mut self) -> Option<Bytes> {
        let Some(Expected::Local(own, undo)) = self.queue.front_mut() else { return None };
        let (own, undo) = (std::mem::take(own), undo.take());
        self.carried_out(undo);
        Some(own)
    }

    /// A row, or a piece of copied data, begins.
    fn row(&mut self, tag: u8, bytes: usize) -> Result<(), Ended> {
        self.answered();
        let Some(Expected::Query(running) | Expected::Execute(running)) = self.queue.front_mut() else {
            return Err(not_followed(&"a row that nobody asked for"));
        };
        running.heard();
        // CommandComplete tells how many rows were copied, when it is too late to stop them.
        running.rows += u64::from(tag == b'D');
        running.pieces += u64::from(tag == b'd');
        running.bytes_out += bytes as u64;
        if running.is_over() {
            let text = "the answer has more rows or bytes than the grant allows";
            return Err(Ended::Over(
                Fault::new(codes::ANSWER_LIMIT, text)
                    .hint("Ask for less: a filter, a LIMIT, fewer columns. The session ends here."),
            ));
        }
        Ok(())
    }

    /// Settles what a message of the backend answers.
    pub(super) fn settle(&mut self, tag: u8, body: &[u8]) -> Result<Fate, Ended> {
        // What may come at any time.
        match tag {
            b'N' => {
                if let Some(Expected::Query(running) | Expected::Execute(running)) = self.queue.front_mut() {
                    running.heard();
                }
                return Ok(Fate::Pass);
            }
            b'A' => return Ok(Fate::Pass),
            b'S' => {
                // PostgreSQL 18 and newer tell of it, also where code in the database has changed it.
                if matches!(parameter(body), Ok(("search_path", _))) {
                    self.stale = true;
                    self.touched = true;
                }
                return Ok(parameter_changed(body));
            }
            b'E' => return self.failed(body),
            b'Z' => return self.ready(body),
            _ => {}
        }
        if let Some(Expected::Probe(probe)) = self.queue.front_mut() {
            if tag == b'D' {
                probe.row = body.to_vec();
            }
            return Ok(Fate::Drop);
        }
        if matches!(tag, b'C' | b'I' | b's' | b'H' | b'G' | b'W') {
            self.answered();
        }
        let Some(front) = self.queue.front_mut() else { return Err(not_followed(&"an answer to nothing")) };
        match (front, tag) {
            (Expected::Query(running), b'G') => {
                running.heard();
                self.taking_in = true;
            }
            // Data both ways: the replication protocol.
            (Expected::Query(running), b'W') => {
                running.heard();
                self.taking_in = true;
                self.streaming = true;
            }
            (Expected::Query(running), b'C') => {
                running.complete(affected(body).unwrap_or(0));
                let (setting, stays) = (running.makes.setting.take(), running.makes.stays);
                self.owed.extend(running.turn());
                self.completed(body, setting, stays);
            }
            (Expected::Query(running), b'T' | b'I' | b'H' | b'c') => running.heard(),
            (Expected::Execute(running), b'C' | b'I' | b's') => {
                running.heard();
                if tag == b'C' {
                    running.complete(affected(body).unwrap_or(0));
                }
                self.copying = false;
                if let Some(Expected::Execute(mut running)) = self.queue.pop_front() {
                    if tag == b'C' {
                        self.completed(body, running.makes.setting.take(), running.makes.stays);
                    }
                    self.confirm_made(&mut running.makes);
                    self.owed.extend(running.end());
                }
            }
            (Expected::Execute(running), b'G') => {
                running.heard();
                self.copying = true;
                self.taking_in = true;
                // The backend ignores Sync while it takes data in; clients send one before they know.
                while matches!(self.queue.get(1), Some(Expected::Sync)) {
                    self.queue.remove(1);
                }
            }
            (Expected::Execute(running), b'H' | b'c') => running.heard(),
            (Expected::Parse(name, batch, _, undo), b'1') => {
                if let Some(named) = self.statements.get_mut(name).filter(|named| named.batch == *batch) {
                    named.confirmed = true;
                }
                let undo = undo.take();
                self.carried_out(undo);
            }
            (Expected::Bind(name, batch), b'2') => {
                if let Some(named) = self.portals.get_mut(name).filter(|named| named.batch == *batch) {
                    named.confirmed = true;
                }
                self.queue.pop_front();
            }
            (Expected::Prepared(_), b'1') | (Expected::Closed(_), b'3') => {
                self.queue.pop_front();
                return Ok(Fate::Drop);
            }
            (Expected::Close(portal, undo), b'3') => {
                // One that was made behind it has the name again.
                let closed =
                    portal.take().filter(|name| self.portals.get(name).is_some_and(|named| named.closing));
                let undo = undo.take();
                closed.map(|name| self.portals.remove(&name));
                self.carried_out(undo);
            }
            (Expected::Describe(_), b'T' | b'n') => drop(self.queue.pop_front()),
            (Expected::Describe(statement), b't') => {
                let named = statement.as_deref().and_then(|name| self.statements.get_mut(name));
                if let Some(named) = named {
                    named.types = frontend::types(body);
                }
            }
            _ => return Err(not_followed(&format_args!("a message of type {}", char::from(tag)))),
        }
        Ok(Fate::Pass)
    }

    fn failed(&mut self, body: &[u8]) -> Result<Fate, Ended> {
        let error = server_error(body).map_err(|error| not_followed(&error))?;
        self.taking_in = false;
        if let Some(sharing) = &mut self.sharing
            && !matches!(self.queue.front(), Some(Expected::Probe(_)))
        {
            match error.is_fatal() {
                true => sharing.trial.ends(),
                false => sharing.trial.failed(&error.sqlstate),
            }
        }
        self.note_failure(&error.sqlstate, error.routine.as_deref(), self.origin_at_front());
        // A question of the gateway's own stands in no transaction of the session's.
        self.undone |= !matches!(self.queue.front(), Some(Expected::Probe(_)));
        let mut fate = Fate::Pass;
        match self.queue.front_mut() {
            Some(Expected::Query(running)) => {
                running.heard();
                running.failed = Some(error.to_fault());
            }
            Some(Expected::Probe(probe)) => {
                // A fatal error is the client's to know.
                let fate = if error.is_fatal() { Fate::Pass } else { Fate::Drop };
                probe.failed = Some(Box::new(error));
                return Ok(fate);
            }
            Some(Expected::FailingQuery(own)) if !error.is_fatal() => fate = Fate::Replace(own.clone()),
            Some(Expected::Failing(own)) if !error.is_fatal() => {
                fate = Fate::Replace(own.clone());
                self.skip_to_sync(None);
            }
            Some(Expected::Execute(_)) => {
                self.copying = false;
                if let Some(Expected::Execute(mut running)) = self.queue.pop_front() {
                    running.heard();
                    self.forget_made(&mut running.makes);
                    running.failed = Some(error.to_fault());
                    self.owed.extend(running.end());
                }
                self.skip_to_sync(None);
            }
            // Between statements only the end of the session is told.
            None | Some(Expected::Sync) if error.is_fatal() => {}
            Some(_) => self.skip_to_sync(Some(&error.to_fault())),
            None => self.skipping = true,
        }
        Ok(fate)
    }

    /// What is answered counts.
    fn answered(&mut self) {
        if let Some(sharing) = &mut self.sharing {
            sharing.trial.answered();
        }
    }

    /// The prepared statement that what is answered now is about.
    fn origin_at_front(&self) -> Option<Arc<Origin>> {
        match self.queue.front()? {
            Expected::Bind(portal, batch) => {
                let named = self.portals.get(portal).filter(|named| named.batch == *batch);
                named?.origin.clone()
            }
            Expected::Describe(Some(statement)) => self.statements.get(statement)?.origin.clone(),
            _ => None,
        }
    }

    fn ready(&mut self, body: &[u8]) -> Result<Fate, Ended> {
        let status = ready(body).map_err(|error| not_followed(&error))?;
        let fate = match self.queue.pop_front() {
            Some(Expected::Query(mut running)) => {
                match running.failed {
                    Some(_) => self.forget_made(&mut running.makes),
                    None => self.confirm_made(&mut running.makes),
                }
                self.owed.extend(running.end());
                Fate::Pass
            }
            Some(Expected::Sync | Expected::FailingQuery(_)) => {
                self.answered();
                Fate::Pass
            }
            Some(Expected::Probe(probe)) => {
                self.probed = Some(probe);
                Fate::Drop
            }
            _ => return Err(not_followed(&"the end of an answer to nothing")),
        };
        self.become_ready(status);
        Ok(fate)
    }
}

/// Statements are read in here as the backend reads them only while these stay as they are.
fn parameter_changed(body: &[u8]) -> Fate {
    let followed = match parameter(body) {
        Ok(("client_encoding", value)) => value == "UTF8",
        Ok(("standard_conforming_strings", value)) => value == "on",
        Ok(_) => true,
        Err(_) => false,
    };
    if followed {
        return Fate::Pass;
    }
    let fault = Fault::new(
        codes::UNFOLLOWED,
        "client_encoding and standard_conforming_strings must stay UTF8 and on in this session",
    );
    Fate::End(Box::new(fault.hint("Connect again, and leave them as they are.")))
}
