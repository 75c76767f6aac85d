//! What a statement needs, and whether it may go on: names are looked up as the backend looks them up, by
//! asking the session itself where only it can know.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use doorward_core::{Actions, Case, ConfigDigest, Decision, Fault, Timestamp};
use doorward_pgclient::claims;
use doorward_pgclient::codes::TIMEOUT;
use futures_util::FutureExt;
use tokio::io::AsyncRead;

use super::Up;
use super::text::Part;
use crate::call::{StatementCall, Verdict};
use crate::codes;
use crate::message::{put, put_text};
use crate::names::{self, Names, Objects};
use crate::own;
use crate::relay::Ended;
use crate::relay::link::{Closes, Expected, FAILED, Makes, Named, Probe};
use crate::relay::sharing::Sharing;
use crate::vet::{Vetted, is_missing, with_cursors};

/// A session may have the database's objects read for it this often, because of a name that is not known.
const REREAD_PAUSE: Duration = Duration::from_secs(1);
/// For so long the same parts of statements stay allowed without another decision.
const PERMITTED_SPAN_MAX: Duration = Duration::from_secs(1);
/// What the gateway's own questions are prepared as.
pub(super) const PROBE: &str = "doorward probe";

/// What the grants have allowed to a part of a statement.
#[derive(Debug)]
pub(super) struct Permitted {
    digest: ConfigDigest,
    actions: Actions,
    at: Timestamp,
}

impl Permitted {
    fn holds(&self, digest: &ConfigDigest, actions: &Actions, now: Timestamp) -> bool {
        self.digest == *digest
            && self.actions == *actions
            && self.at <= now
            && now.since(self.at) < PERMITTED_SPAN_MAX
    }
}

impl<R: AsyncRead + Unpin> Up<'_, R> {
    /// Has a statement walk the road.
    pub(super) async fn walk(
        &self,
        text: &str,
        vetted: Option<&Vetted>,
        needs: Result<Actions, Fault>,
        bytes: usize,
    ) -> Verdict {
        self.walk_as(text, vetted, needs, bytes, Part::default()).await
    }

    /// The same, with more to record.
    pub(super) async fn walk_as(
        &self,
        text: &str,
        vetted: Option<&Vetted>,
        needs: Result<Actions, Fault>,
        bytes: usize,
        Part { parent, bound }: Part,
    ) -> Verdict {
        let access = self.desk.gateway.open(self.desk.arrival.clone());
        let (bytes, needs) = (bytes as u64, Some(needs));
        let call = StatementCall { bytes, needs, parent, bound, ..self.call(text, vetted) };
        self.desk.gateway.walk(access, call).await.into_inner()
    }

    /// A statement as a call, of which it is not known what it needs.
    fn call<'c>(&'c self, text: &'c str, vetted: Option<&'c Vetted>) -> StatementCall<'c> {
        StatementCall {
            desk: self.desk,
            mid_transaction: self.batch_open || !self.link.is_at_rest(),
            bytes: 0,
            text,
            vetted,
            needs: None,
            parent: None,
            bound: None,
            recorded: true,
        }
    }

    /// Whether the grants allow these actions now. Parts of a statement (Parse, Bind) are decided like this, and
    /// what was allowed a moment ago is not asked again; the statement itself walks the road when it is executed.
    pub(super) fn permits(&mut self, actions: &Actions) -> bool {
        let desk = self.desk;
        let (snapshot, now) = (desk.gateway.snapshot(), desk.gateway.now());
        if self.permitted.as_ref().is_some_and(|last| last.holds(&snapshot.digest, actions, now)) {
            return true;
        }
        let (principal, role) = (desk.session.principal(), Some(&desk.role));
        let case = Case { principal, actions, arrival: &desk.arrival, now, role };
        let allowed = matches!(snapshot.policy.decide(&case), Decision::Allow { .. });
        self.permitted =
            allowed.then(|| Permitted { digest: snapshot.digest.clone(), actions: actions.clone(), at: now });
        allowed
    }

    /// What a statement needs, with its names looked up as the backend would look them up now.
    pub(super) async fn needs(&mut self, vetted: &Arc<Vetted>) -> Result<Result<Actions, Fault>, Ended> {
        let needs = self.needs_now(vetted).await;
        self.unless_gone(vetted, needs)
    }

    /// Passes on what has been found out; a statement whose client has gone meanwhile is on the record.
    pub(super) fn unless_gone<T>(&self, vetted: &Vetted, found: Result<T, Ended>) -> Result<T, Ended> {
        if matches!(found, Err(Ended::ClientGone)) {
            let call = self.call(vetted.text(), Some(vetted));
            // It goes as far as who calls and what, and no further: dropped there, it is recorded as abandoned.
            let access = self.desk.gateway.open(self.desk.arrival.clone());
            drop(self.desk.gateway.walk(access, call).now_or_never());
        }
        found
    }

    async fn needs_now(&mut self, vetted: &Arc<Vetted>) -> Result<Result<Actions, Fault>, Ended> {
        // A batch begins with names that are current, whatever its first statement is.
        if (vetted.asks_names() || !self.batch_open)
            && let Err(fault) = self.refresh().await?
            && (vetted.asks_names() || fault.code() == codes::CANCELLED)
        {
            return Ok(Err(fault));
        }
        // A statement that SQL has prepared must be known for certain.
        for name in vetted.executes() {
            self.named(name, false).await?;
        }
        for name in vetted.fetches() {
            self.named(name, true).await?;
        }
        for (name, _, _) in vetted.declared() {
            self.named(&name, true).await?;
        }
        if let Err(fault) = self.may_make(vetted) {
            return Ok(Err(fault));
        }
        let needs = self.look_up(vetted);
        match &needs {
            // It may be newer than what is known; only the session can tell for certain.
            Err(fault) if is_missing(fault) && Box::pin(self.reread()).await? => Ok(self.look_up(vetted)),
            _ => Ok(needs),
        }
    }

    pub(super) fn look_up(&self, vetted: &Vetted) -> Result<Actions, Fault> {
        let prepared = |name: &str| self.link.state().prepared_by_sql(name);
        let own = vetted.needs(self.desk, &self.names, &prepared)?;
        self.may_read_on(vetted)?;
        // Reading on from a cursor is reading what it was made of, under the grants of today.
        let cursors: Vec<Actions> = {
            let state = self.link.state();
            vetted.fetches().filter_map(|name| state.portals.get(name)?.actions.clone()).collect()
        };
        if cursors.is_empty() { Ok(own) } else { with_cursors(&cursors, &own) }
    }

    /// Sees to it that what names mean is current; asks the backend session when it may have changed.
    pub(super) async fn refresh(&mut self) -> Result<Result<(), Fault>, Ended> {
        let shared = self.desk.wire.objects_now();
        let current = {
            let state = self.link.state();
            let same = Arc::ptr_eq(&shared, &self.names.objects) || !state.may_take(&shared);
            !state.stale && (same || self.batch_open)
        };
        if current { Ok(Ok(())) } else { Box::pin(self.look_again()).await }
    }

    async fn look_again(&mut self) -> Result<Result<(), Fault>, Ended> {
        if self.batch_open {
            let text = "what names mean may have changed in this batch, so the statement cannot be decided";
            let hint = "Send Sync after SET search_path, DISCARD, CREATE, DROP, EXECUTE or a function call.";
            return Ok(Err(Fault::new(codes::UNKNOWN_EFFECT, text).hint(hint)));
        }
        if let Err(fault) = self.engage().await? {
            return Ok(Err(fault));
        }
        self.until(|state| state.queue.is_empty()).await?;
        if self.link.state().status == FAILED {
            let text = "current transaction is aborted, commands ignored until end of transaction block";
            return Ok(Err(Fault::new(codes::UNKNOWN_EFFECT, text).backend_code("25P02")));
        }
        if std::mem::take(&mut self.link.state().nameless) {
            let named = match self.probe(&own::naming(self.desk)).await? {
                Ok(_) => self.claim_again().await?,
                Err(fault) => Err(fault),
            };
            if let Err(fault) = named {
                self.link.state().nameless = true;
                return Ok(Err(fault));
            }
        }
        // What others have committed is in the gateway's own catalogue; what this session has changed only the
        // session itself can see for certain.
        let shared = match self.desk.wire.objects().await {
            Ok(shared) => shared,
            Err(fault) => return Ok(Err(fault)),
        };
        let (may_take, committed) = {
            let state = self.link.state();
            (state.may_take(&shared), !state.restructured)
        };
        if !may_take && committed {
            self.desk.wire.objects_changed();
        }
        let objects = if may_take { Ok(shared) } else { self.own_objects().await? };
        let (objects, session) = match (objects, self.own_session().await?) {
            (Ok(objects), Ok(session)) => (objects, session),
            (Err(fault), _) | (_, Err(fault)) => return Ok(Err(fault)),
        };
        self.names = Arc::new(Names::new(objects, session));
        self.link.state().stale = false;
        Ok(Ok(()))
    }

    /// Reads the database's objects through the session, for a name that is not known. Whether it was done.
    pub(super) async fn reread(&mut self) -> Result<bool, Ended> {
        let recently = self.reread_at.is_some_and(|at| at.elapsed() < REREAD_PAUSE);
        if self.batch_open || recently || self.link.state().stale || self.engage().await?.is_err() {
            return Ok(false);
        }
        self.until(|state| state.queue.is_empty()).await?;
        if self.link.state().status == FAILED {
            return Ok(false);
        }
        self.reread_at = Some(Instant::now());
        let Ok(objects) = self.own_objects().await? else { return Ok(false) };
        // As long as the shared ones are older, these stay.
        self.link.state().restructured_at = Some(objects.began);
        self.desk.wire.objects_changed();
        let Ok(session) = self.own_session().await? else { return Ok(false) };
        self.names = Arc::new(Names::new(objects, session));
        Ok(true)
    }

    pub(super) async fn own_objects(&mut self) -> Result<Result<Arc<Objects>, Fault>, Ended> {
        let began = Instant::now();
        let row = self.probe(names::OBJECTS).await?;
        let read = |row: Vec<u8>| Objects::read(&row, began).map_err(|error| no_catalogue().cause(error));
        Ok(row.and_then(read).map(Arc::new))
    }

    async fn own_session(&mut self) -> Result<Result<names::Session, Fault>, Ended> {
        let row = self.probe(names::SESSION).await?;
        Ok(row.and_then(|row| names::Session::read(&row).ok_or_else(no_catalogue)))
    }

    /// Sets the session's signed claims again, which are gone. Nothing else is under way.
    async fn claim_again(&mut self) -> Result<Result<(), Fault>, Ended> {
        let token = self.port.with(|backend| backend.badge.token().cloned()).flatten();
        let Some(token) = token else { return Ok(Ok(())) };
        Ok(self.probe_with(claims::SET, Some(token.expose())).await?.map(drop))
    }

    /// Asks the session itself; the one value of the one row. Nothing else is under way.
    pub(super) async fn probe(&mut self, sql: &str) -> Result<Result<Vec<u8>, Fault>, Ended> {
        self.probe_with(sql, None).await
    }

    /// The same with a value, which does not stand in the statement's text.
    async fn probe_with(&mut self, sql: &str, value: Option<&str>) -> Result<Result<Vec<u8>, Fault>, Ended> {
        if self.desk.replication.is_some() {
            // Simple queries are all that such a session knows.
            put(&mut self.out, b'Q', |out| put_text(out, sql));
        } else {
            self.put_probe(sql, value);
        }
        self.link.expect(Expected::Probe(Probe::default()));
        self.send().await?;
        tokio::select! {
            biased;
            () = self.link.wait(|state| state.probed.is_some()) => {}
            // What waits for a lock waits for nobody.
            () = self.inbox.gone() => return Err(Ended::ClientGone),
        }
        let Probe { row, failed } = self.link.state().probed.take().unwrap_or_default();
        Ok(match failed {
            // The client's cancel request has met the question instead of the statement.
            Some(error) if error.is_timeout() => {
                let text = "the statement was cancelled while its names were looked up";
                Err(Fault::new(TIMEOUT, text).backend_code(error.sqlstate.clone()).cause(error))
            }
            Some(error) => Err(no_catalogue().cause(error)),
            // One column: its count, its length, its text.
            None => row.get(6..).map(<[u8]>::to_vec).ok_or_else(no_catalogue),
        })
    }

    fn put_probe(&mut self, sql: &str, value: Option<&str>) {
        let out = &mut self.out;
        let close = |out: &mut BytesMut, kind: u8| {
            put(out, b'C', |out| {
                out.put_u8(kind);
                put_text(out, PROBE);
            });
        };
        // A question that failed, or was cancelled, has not come to its end, and has left its statement behind.
        close(out, b'S');
        put(out, b'P', |out| {
            put_text(out, PROBE);
            put_text(out, sql);
            out.put_u16(0);
        });
        put(out, b'B', |out| {
            put_text(out, PROBE);
            put_text(out, PROBE);
            out.put_u16(0);
            out.put_u16(u16::from(value.is_some()));
            if let Some(value) = value {
                out.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
                out.extend_from_slice(value.as_bytes());
            }
            out.put_u16(0);
        });
        put(out, b'E', |out| {
            put_text(out, PROBE);
            out.put_u32(0);
        });
        close(out, b'P');
        close(out, b'S');
        put(out, b'S', |_| {});
    }

    /// A prepared statement or portal that the backend knows under this name, too.
    pub(super) async fn named(&mut self, name: &str, portal: bool) -> Result<Option<Named>, Ended> {
        if !self.settles(portal, name).await? {
            return Ok(None);
        }
        let state = self.link.state();
        Ok(if portal { state.portals.get(name).cloned() } else { state.statements.get(name).cloned() })
    }

    /// Keeps what a statement does to the session, before it is forwarded. The names that it makes.
    pub(super) fn take_effects(&self, vetted: &Arc<Vetted>, actions: &Actions) -> Makes {
        let effects = vetted.effects(actions);
        let setting = self.setting(vetted);
        let mut state = self.link.state();
        // A cursor that a function has opened may call anything.
        let unknown = vetted.fetches().any(|name| !state.portals.contains(name));
        if effects.changes_names || unknown || (effects.ends_or_rolls_back && state.touched) {
            state.stale = true;
            state.touched = true;
        }
        state.restructured |= effects.changes_structure;
        state.nameless |= effects.resets_all;
        let several = vetted.is_of_several();
        let mut undo = Vec::new();
        let gone = if effects.deallocates_all { state.statements.names() } else { effects.deallocates };
        undo.extend(gone.iter().filter_map(|name| state.put_by_sql(name, self.batch, None, several)));
        if effects.deallocates_all {
            state.statements.clear();
        }
        let closes = Closes { all: effects.closes_all, names: effects.closes };
        // They are known for as long as they may be there: the statement may fail.
        if closes.all {
            state.portals.values_mut().for_each(|named| named.closing = true);
        }
        for name in &closes.names {
            if let Some(named) = state.portals.get_mut(name) {
                named.closing = true;
            }
        }
        let stays = state.sharing.as_mut().is_some_and(Sharing::takes_asking);
        let mut makes = Makes { batch: self.batch, setting, stays, closes, ..Makes::default() };
        for (name, vetted) in vetted.prepared() {
            let named = Named::new(vetted, None, self.batch);
            undo.extend(state.put_by_sql(&name, self.batch, Some(named), several));
            makes.statements.push(name);
        }
        makes.undo = undo;
        for (name, vetted, held) in vetted.declared() {
            // One of the name may be there all the same, and this one fail: what is read on is either.
            let before = state.portals.get(&name).and_then(|named| named.actions.clone());
            let either = before.and_then(|before| with_cursors(&[before], actions).ok());
            let named = Named::new(vetted, Some(either.unwrap_or_else(|| actions.clone())), self.batch);
            state.portals.insert(&name, Named { held, ..named });
            makes.portals.push(name);
        }
        makes
    }
}

fn no_catalogue() -> Fault {
    Fault::new(codes::NO_CATALOG, "the database's catalogue cannot be read")
}
