//! The backend under a statement: lent when one needs it, where sessions share backends; what a statement
//! leaves behind, and the names under which prepared statements stand there.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use doorward_core::{Action, Actions, Completion, Fault, Lease, Login, Pass};
use doorward_pgclient::{HEADER, Server};
use tokio::io::AsyncRead;

use super::{Step, Up};
use crate::call::RenewCall;
use crate::codes;
use crate::message::{Severity, error_bytes, parameter, put, put_text, ready};
use crate::pool::{Key, Origin, Place, Wanted};
use crate::relay::Ended;
use crate::relay::frontend::{self, Message, NAMES_BYTES_MAX};
use crate::relay::link::{Expected, FAILED, Named};
use crate::relay::sharing::{Made, SETTING_BYTES_MAX};
use crate::relay::trial::Trial;
use crate::vet::{Lasting, Vetted, only_reads};

/// The setting in which a server reports whether it is a replica.
const IN_HOT_STANDBY: &str = "in_hot_standby";

impl<R: AsyncRead + Unpin> Up<'_, R> {
    /// Sees to it that there is a backend until the batch is over.
    pub(super) async fn engage(&mut self) -> Result<Result<(), Fault>, Ended> {
        if self.port.is_bound() {
            if let Some(sharing) = &mut self.link.state().sharing {
                sharing.engaged = true;
            }
            return Ok(Ok(()));
        }
        let Some(outfit) = self.link.state().sharing.as_ref().map(|sharing| sharing.outfit.clone()) else {
            return Err(Ended::BackendGone("there is no connection to the database".to_owned()));
        };
        if let Err(fault) = self.renew().await {
            return Ok(Err(fault));
        }
        let since = self.link.state().sharing.as_ref().and_then(|sharing| sharing.changed_at);
        let key = match self.place == self.key.place {
            true => self.key.clone(),
            false => Arc::new(Key { place: self.place, ..Key::clone(&self.key) }),
        };
        let who = &self.desk.who;
        let wanted = Wanted { lease: &self.lease, key: &key, outfit: &outfit, who, since };
        let waited = tokio::select! {
            biased;
            lent = self.desk.wire.backends.checkout_or_primary(&wanted) => lent,
            () = self.inbox.gone() => return Err(Ended::ClientGone),
            () = self.desk.cancels.asked() => Err(cancelled()),
        };
        let mut lent = match waited {
            Ok(lent) => lent,
            Err(fault) => return Ok(Err(fault)),
        };
        self.desk.cancels.bind(&lent).await;
        let mut told = BytesMut::new();
        if let (Some(sharing), Some(backend)) = (&mut self.link.state().sharing, lent.backend()) {
            // Where it reads is the gateway's affair, transaction by transaction.
            let left_out = self.desk.splits.then_some(IN_HOT_STANDBY);
            let tell = |name: &str, value: &str| parameter(&mut told, name, value);
            sharing.told.follow(&mut backend.parameters, left_out, tell);
            std::mem::swap(&mut sharing.known, &mut backend.known);
            sharing.engaged = true;
            if let Some(alone) = self.alone.as_mut().filter(|_| backend.key.place == Place::Replica) {
                alone.placed = true;
                sharing.trial = Trial::Open;
            }
        }
        if !told.is_empty() {
            self.link.expect(Expected::Local(told.freeze(), None));
        }
        self.port.bind(lent);
        Ok(Ok(()))
    }

    /// The same, for a statement that is not on the road yet: should its client go meanwhile, that is on the record.
    pub(super) async fn engage_for(&mut self, vetted: &Vetted) -> Result<Result<(), Fault>, Ended> {
        let engaged = self.engage().await;
        self.unless_gone(vetted, engaged)
    }

    /// Connections are opened with this credential from now on.
    fn take_lease(&mut self, lease: &Lease) {
        if lease.id() != self.lease.id() {
            self.lease = lease.clone();
            self.key = Arc::new(Key { lease: lease.id(), ..Key::clone(&self.key) });
        }
    }

    /// Takes a new credential, if the one at hand has been replaced or is over: names are looked up before a
    /// statement walks the road and brings one.
    async fn renew(&mut self) -> Result<(), Fault> {
        let gateway = &self.desk.gateway;
        let over = |login: &Arc<Login>| {
            login.is_superseded() || login.expires_at().is_some_and(|end| end <= gateway.now())
        };
        if !self.lease.login().is_some_and(over) {
            return Ok(());
        }
        let access = gateway.open(self.desk.arrival.clone());
        let renewed = Box::pin(gateway.walk(access, RenewCall { desk: self.desk }));
        let lease = renewed.await.into_inner()?;
        self.take_lease(&lease);
        Ok(())
    }

    /// What is under way keeps the backend from now on, and nothing else does.
    pub(super) fn disengage(&self) {
        if let Some(sharing) = &mut self.link.state().sharing
            && std::mem::take(&mut sharing.engaged)
        {
            // The other half gives the backend back, if that is due.
            self.link.local.notify_one();
        }
    }

    /// Makes ready for a statement that may go on. Its pass again, or what the client is told.
    pub(super) async fn admit(
        &mut self,
        vetted: &Vetted,
        mut pass: Box<Pass>,
    ) -> Result<Result<Box<Pass>, Bytes>, Ended> {
        let actions = pass.permit().actions().clone();
        if let Err(fault) = self.make_ready(vetted, &actions, &mut pass).await? {
            let told = error_bytes(Severity::Error, &fault, Some(pass.id()));
            pass.fail(&fault);
            return Ok(Err(told));
        }
        Ok(Ok(pass))
    }

    /// A backend, and the right to keep it if the statement asks for that; `actions` are what it needs, and the
    /// pass is that of its text, or of the first statement in it.
    pub(super) async fn make_ready(
        &mut self,
        vetted: &Vetted,
        actions: &Actions,
        pass: &mut Pass,
    ) -> Result<Result<(), Fault>, Ended> {
        let shares = self.link.state().sharing.is_some();
        self.take_lease(pass.lease());
        if let Err(fault) = self.engage().await? {
            return Ok(Err(fault));
        }
        if let Some(process) = self.desk.cancels.process().filter(|_| shares) {
            pass.access().note_backend_pid(process);
            let several = |server: &Server| server.is_one_of_several().then(|| server.clone());
            if let Some(server) = self.port.with(|backend| several(&backend.server)).flatten() {
                pass.access().note("backend_server", server.name());
            }
        }
        let on_replica = self.desk.splits
            && self.port.with(|backend| backend.key.place == Place::Replica).unwrap_or_default();
        if self.desk.splits
            && !on_replica
            && !only_reads(vetted, actions)
            && !vetted.is_transaction_control()
            && let Some(sharing) = &mut self.link.state().sharing
        {
            sharing.changes = true;
        }
        Ok(self.keep_what_lasts(vetted, actions, on_replica))
    }

    /// Waits for the answer to a statement that makes the backend forget its prepared statements: only then is
    /// it known what it has.
    pub(super) async fn await_forgetting(&mut self, vetted: &Vetted) -> Step {
        match self.link.state().sharing.is_some() && vetted.deallocates_all() {
            true => self.until(|state| state.queue.is_empty()).await,
            false => Ok(()),
        }
    }

    /// Keeps the backend for the session, or has it cleaned behind it, if a statement leaves something there.
    fn keep_what_lasts(&self, vetted: &Vetted, actions: &Actions, on_replica: bool) -> Result<(), Fault> {
        let mut state = self.link.state();
        let Some(sharing) = &mut state.sharing else { return Ok(()) };
        let keeps = match vetted.lasting(actions) {
            Lasting::Nothing => vetted.rolls_back_to() && sharing.has_made(),
            Lasting::Setting(..) => !sharing.has_room() || vetted.text().len() > SETTING_BYTES_MAX,
            Lasting::Unknown => {
                sharing.used = true;
                false
            }
            Lasting::State => true,
        };
        sharing.used |= self.desk.wire.cleans_behind(actions);
        if keeps && on_replica {
            // What the session does next would find itself there.
            let text = "a transaction on a replica leaves nothing behind in the session";
            return Err(Fault::new(codes::UNSUPPORTED, text)
                .hint("Begin without READ ONLY, or connect with doorward.reads=primary."));
        }
        if keeps {
            let right = || self.desk.wire.backends.pin(self.desk.wire.pinned_max);
            sharing.stay(vetted.takes_session_lock(), right).ok_or_else(too_many_pinned)?;
        }
        Ok(())
    }

    /// The setting that a statement makes, and that the session finds again on other backends.
    pub(super) fn setting(&self, vetted: &Vetted) -> Option<Made> {
        self.link.state().sharing.as_ref()?;
        let Lasting::Setting(name, default) =
            vetted.lasting(&Actions::one(Action::of_session(&self.desk.resource)))
        else {
            return None;
        };
        let statement = self.instead(vetted, None).unwrap_or_else(|| vetted.text().to_owned());
        let statement = statement.trim_end_matches(|end: char| end == ';' || end.is_ascii_whitespace());
        Some(Made { name, statement: (!default).then(|| statement.into()) })
    }
}

fn cancelled() -> Fault {
    Fault::new(codes::CANCELLED, "canceling statement due to user request").backend_code("57014")
}

fn too_many_pinned() -> Fault {
    Fault::new(codes::BACKENDS_BUSY, "too many sessions keep a connection to the database for themselves")
        .hint(
            "Temporary tables, LISTEN, PREPARE, cursors WITH HOLD and advisory locks of the session do. Close \
             sessions that are not used; the operator can raise the resource's `pool.pinned`.",
        )
}

/// Prepared statements.
impl<R: AsyncRead + Unpin> Up<'_, R> {
    /// Forwards Parse, or answers it when the backend has the statement.
    pub(super) fn prepare(&mut self, (name, types): (&str, &[u8]), vetted: &Arc<Vetted>, frame: &[u8]) {
        let instead = self.instead(vetted, None);
        let batch = self.batch;
        let named = |origin: Option<Arc<Origin>>, confirmed| {
            let named = Named::new(vetted.clone(), None, batch);
            Named { types: frontend::types(types), confirmed, origin, ..named }
        };
        let mut state = self.link.state();
        let Some(sharing) = &mut state.sharing else {
            let undo = state.put(name, batch, Some(named(None, false)));
            drop(state);
            self.forward_parse(frame, (name, types), instead.as_deref(), undo);
            return;
        };
        let origin =
            sharing.origins.find(instead.as_deref().unwrap_or(vetted.text()), types, !name.is_empty());
        if sharing.known.has(&origin) {
            let undo = state.put(name, batch, Some(named(Some(origin), false)));
            if let (None, Some(named)) = (&undo, state.statements.get_mut(name)) {
                named.confirmed = true;
            }
            drop(state);
            self.link.expect(Expected::Local(empty(b'1'), undo));
            return;
        }
        let oldest = sharing.known.add(&origin);
        let undo = state.put(name, batch, Some(named(Some(origin.clone()), false)));
        drop(state);
        self.close_oldest(oldest);
        parse_frame(&mut self.out, &origin);
        self.link.expect(Expected::Parse(name.into(), batch, Some(origin), undo));
        self.batch_open = true;
    }

    /// Sees to it that the backend has a statement which the session has prepared, maybe elsewhere.
    fn prepare_again(&mut self, origin: &Arc<Origin>) {
        let oldest = {
            let mut state = self.link.state();
            let Some(sharing) = &mut state.sharing else { return };
            if sharing.known.has(origin) {
                return;
            }
            sharing.known.add(origin)
        };
        self.close_oldest(oldest);
        parse_frame(&mut self.out, origin);
        self.link.expect(Expected::Prepared(origin.clone()));
        self.batch_open = true;
    }

    /// A simple query does away with the backend's unnamed statement.
    pub(super) fn forget_unnamed(&self) {
        if let Some(sharing) = &mut self.link.state().sharing {
            sharing.known.query();
        }
    }

    fn close_oldest(&mut self, oldest: Option<Box<str>>) {
        let Some(oldest) = oldest else { return };
        put(&mut self.out, b'C', |out| {
            out.put_u8(b'S');
            put_text(out, &oldest);
        });
        self.link.expect(Expected::Closed(oldest));
        self.batch_open = true;
    }

    /// Writes the front of Bind with the statement's name at the backend. How much of the client's message
    /// that replaces, which has been read as far.
    pub(super) fn bind_to(
        &mut self,
        message: Message,
        portal: &str,
        statement: &str,
        origin: Option<&Arc<Origin>>,
    ) -> usize {
        let Some(origin) = origin else { return 0 };
        self.prepare_again(origin);
        let theirs = HEADER + portal.len() + statement.len() + 2;
        debug_assert!(theirs <= HEADER + NAMES_BYTES_MAX);
        let body = message.body.saturating_sub(statement.len()) + origin.name.len();
        self.out.put_u8(b'B');
        self.out.put_u32(u32::try_from(body + 4).unwrap_or(u32::MAX));
        put_text(&mut self.out, portal);
        put_text(&mut self.out, &origin.name);
        self.inbox.skip(theirs)
    }

    /// Forwards Describe, under the name at the backend.
    pub(super) fn describe_as(&mut self, is_portal: bool, name: &str, frame: &[u8]) {
        let origin = match is_portal {
            true => None,
            false => self.link.state().statements.get(name).and_then(|named| named.origin.clone()),
        };
        let expected = Expected::Describe((!is_portal).then(|| name.into()));
        let Some(origin) = origin else { return self.forward(frame, expected) };
        self.prepare_again(&origin);
        put(&mut self.out, b'D', |out| {
            out.put_u8(b'S');
            put_text(out, &origin.name);
        });
        self.link.expect(expected);
        self.batch_open = true;
    }

    /// Closes a name: at the backend only if it is the session's own there. What is there under a name that the session
    /// does not know is the gateway's, for others to find.
    pub(super) fn close_as(&mut self, is_portal: bool, name: &str, frame: &[u8]) {
        let (shares, bound) = (self.link.state().sharing.is_some(), self.port.is_bound());
        let mut undo = None;
        let there = match is_portal {
            true => bound,
            false => {
                let mut state = self.link.state();
                let own = state.statements.get(name).is_some_and(|named| named.origin.is_none());
                undo = state.put(name, self.batch, None);
                bound && own
            }
        };
        let portal = if is_portal { self.close_portal(name, there) } else { None };
        if shares && !there {
            self.link.expect(Expected::Local(empty(b'3'), undo));
            return;
        }
        if let Some(sharing) = &mut self.link.state().sharing {
            sharing.engaged = true;
        }
        self.forward(frame, Expected::Close(portal, undo));
    }

    /// Whether a statement deallocates what is not the session's own at the backend.
    pub(super) fn deallocates_here(&self, vetted: &Vetted) -> bool {
        let state = self.link.state();
        let Some(sharing) = &state.sharing else { return false };
        // It fails there, as anything does.
        if state.status == FAILED {
            return false;
        }
        match vetted.deallocates() {
            Some(Some(name)) => state.statements.get(name).is_some_and(|named| named.origin.is_some()),
            Some(None) => !sharing.is_pinned() && state.is_local() && !self.batch_open,
            None => false,
        }
    }

    /// Deallocates it, and says so.
    pub(super) async fn deallocate(&mut self, vetted: &Vetted, pass: Pass, simple: bool) -> Step {
        let mut undo = None;
        let tag: &[u8] = match vetted.deallocates() {
            Some(Some(name)) => {
                undo = self.link.state().put(name, self.batch, None);
                b"DEALLOCATE\0"
            }
            _ => {
                self.link.state().statements.clear();
                b"DEALLOCATE ALL\0"
            }
        };
        pass.end(&Completion { rows: Some(0), ..Completion::default() });
        let mut own = BytesMut::new();
        put(&mut own, b'C', |out| out.extend_from_slice(tag));
        if simple {
            self.until(|state| state.queue.is_empty()).await?;
            let status = self.link.state().status;
            ready(&mut own, status);
        }
        self.link.expect(Expected::Local(own.freeze(), undo));
        if simple {
            self.batch_open = false;
            self.disengage();
        }
        Ok(())
    }
}

fn parse_frame(out: &mut BytesMut, origin: &Origin) {
    put(out, b'P', |out| {
        put_text(out, &origin.name);
        put_text(out, &origin.text);
        out.extend_from_slice(&origin.types);
    });
}

/// A message without a body.
fn empty(tag: u8) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER);
    put(&mut out, tag, |_| {});
    out.freeze()
}
