//! From the client to the backend: reads messages, has each statement walk the road, and forwards what may
//! pass.
//!
//! A refusal behaves as an error of PostgreSQL's own would: it comes in its place among the answers, what
//! follows it up to the next Sync is ignored, and an open transaction has failed. For that the backend is sent
//! something that fails in the place of what was refused, wherever it would otherwise not know.
//!
//! Invariants: nothing reaches the backend that was not looked at: a statement with a pass, or the parts of one
//! whose text was decided; a text of several statements is decided as a whole; what a name means is asked anew
//! before it is used, when it may have changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use doorward_core::{Actions, Case, Decision, Fault, Pass};
use doorward_pgclient::{HEADER, Stream};
use tokio::io::{AsyncRead, AsyncWriteExt, WriteHalf};

use super::Ended;
use super::frontend::{self, Inbox, Message, NAME_BYTES_MAX, NAMES_BYTES_MAX, SQL_BYTES_MAX, protocol};
use super::link::{
    EXPECTED_MAX, Expected, FAILED, IDLE, Link, Makes, NAMES_MAX, Named, Probe, Running, State,
};
use crate::call::{StatementCall, Verdict};
use crate::codes;
use crate::desk::Desk;
use crate::message::{Severity, error_bytes, put, put_text, ready};
use crate::names::{self, Names, Objects};
use crate::vet::{Vetted, is_missing};

/// As much is gathered before it is sent.
const GATHERED_MAX: usize = 64 << 10;
/// What is sent in the place of a refused query: it cannot be parsed, in any state of the transaction.
const REFUSED: &str = "refused by doorward";
/// A portal that does not exist, for the place of a refused message of the extended protocol.
const NO_PORTAL: &str = "doorward refused";
/// A session may have the database's objects read for it this often, because of a name that is not known.
const REREAD_PAUSE: Duration = Duration::from_secs(1);
/// What the gateway's own questions are prepared as.
const PROBE: &str = "doorward probe";

/// The half that carries statements.
pub(crate) struct Up<'l, R> {
    desk: &'l Desk,
    link: &'l Link,
    inbox: Inbox<R>,
    backend: &'l mut WriteHalf<Stream>,
    out: BytesMut,
    /// Messages are ignored until Sync: one before them was refused.
    skip: bool,
    /// Messages of the extended protocol have been forwarded since the last Sync.
    batch_open: bool,
    batch: u64,
    names: Arc<Names>,
    reread_at: Option<Instant>,
}

type Step = Result<(), Ended>;

impl<'l, R: AsyncRead + Unpin> Up<'l, R> {
    pub(crate) fn new(
        desk: &'l Desk,
        link: &'l Link,
        inbox: Inbox<R>,
        backend: &'l mut WriteHalf<Stream>,
    ) -> Self {
        let (out, names) = (BytesMut::new(), Arc::default());
        Self {
            desk,
            link,
            inbox,
            backend,
            out,
            skip: false,
            batch_open: false,
            batch: 0,
            names,
            reread_at: None,
        }
    }

    pub(crate) async fn run(mut self) -> Ended {
        loop {
            if let Err(ended) = self.step().await {
                return ended;
            }
        }
    }

    /// Takes one message.
    async fn step(&mut self) -> Step {
        if !self.inbox.has_next() || self.out.len() >= GATHERED_MAX {
            self.send().await?;
        }
        let message = match self.inbox.next().await.map_err(|_| Ended::ClientGone)? {
            None => return Err(Ended::ClientGone),
            Some(message) => message.map_err(Ended::Over)?,
        };
        // Replies are waited for when many are due: what is remembered of them has a bound.
        if self.link.state().queue.len() >= EXPECTED_MAX {
            // The backend keeps small replies to itself until it is asked for them.
            put(&mut self.out, b'H', |_| {});
            self.until(|state| state.queue.len() < EXPECTED_MAX).await?;
        }
        let copies = matches!(message.tag, b'd' | b'c' | b'f' | b'S' | b'H' | b'X');
        if !copies && self.link.state().taking_in {
            return Err(Ended::Over(protocol("another message than data during COPY")));
        }
        match message.tag {
            b'Q' => self.query(message).await,
            b'P' => self.parse(message).await,
            b'B' => self.bind(message).await,
            b'E' => self.execute(message).await,
            b'D' => self.describe(message).await,
            b'C' => self.close(message).await,
            b'S' => self.sync(message).await,
            b'H' => self.flush(message).await,
            b'd' | b'c' | b'f' => self.copy(message).await,
            b'F' => self.function_call(message).await,
            b'X' => Err(Ended::ClientGone),
            tag => Err(Ended::Over(protocol(format_args!("a message of type {tag}")))),
        }
    }

    /// Whether a message of the extended protocol, or a query among them, is ignored.
    fn ignored(&self) -> bool {
        self.skip || self.link.state().skipping
    }

    async fn query(&mut self, message: Message) -> Step {
        if self.ignored() {
            return self.discard(message).await;
        }
        if message.body > SQL_BYTES_MAX + 1 {
            return self.too_large(message, true).await;
        }
        let frame = self.whole(message).await?;
        let body = frame.get(HEADER..).unwrap_or_default();
        let (text, vetted) = match frontend::query(body) {
            Ok(text) => (text, Vetted::read(&self.desk.parser, text)),
            Err(fault) => ("", Err(fault)),
        };
        let needs = match &vetted {
            Ok(vetted) => self.needs(vetted).await?,
            Err(fault) => Err(fault.clone()),
        };
        let known = vetted.as_ref().ok();
        match self.walk(text, known.map(|vetted| &**vetted), needs, frame.len()).await {
            Verdict::Go(pass) => {
                let makes = known.map(|vetted| self.take_effects(vetted, &pass)).unwrap_or_default();
                self.link.expect(Expected::Query(Running::new(*pass, makes)));
                self.out.extend_from_slice(&frame);
                // The query ends the batch that was open, if one was.
                self.batch_open = false;
                self.batch += 1;
                Ok(())
            }
            Verdict::No(told) => self.refuse_query(&told),
            Verdict::Over(fault) => Err(Ended::Over(fault)),
        }
    }

    async fn parse(&mut self, message: Message) -> Step {
        if self.ignored() {
            return self.discard(message).await;
        }
        // Types of parameters stand behind the text: two bytes of count, four for each.
        if message.body > SQL_BYTES_MAX + NAME_BYTES_MAX + 4 + 4 * usize::from(u16::MAX) {
            return self.too_large(message, false).await;
        }
        let frame = self.whole(message).await?;
        let body = frame.get(HEADER..).unwrap_or_default();
        let (name, text, vetted) = match frontend::parse(body) {
            Ok((name, text)) => {
                let may = self.may_be_named(name);
                (name, text, may.and_then(|()| Vetted::read_one(&self.desk.parser, text)))
            }
            Err(fault) => ("", "", Err(fault)),
        };
        let needs = match &vetted {
            Ok(vetted) => self.needs(vetted).await?,
            Err(fault) => Err(fault.clone()),
        };
        if let (Ok(vetted), Ok(actions)) = (&vetted, &needs)
            && self.permits(actions)
        {
            let named = Named {
                vetted: vetted.clone(),
                actions: None,
                batch: self.batch,
                confirmed: false,
                held: false,
            };
            self.link.state().statements.insert(name.into(), named);
            self.forward(&frame, Expected::Parse(name.into()));
            return Ok(());
        }
        let known = vetted.as_ref().ok();
        let verdict = self.walk(text, known.map(|vetted| &**vetted), needs, frame.len()).await;
        self.refused(verdict)
    }

    /// A name that is taken stays what it was, as in PostgreSQL; and there is a bound to their number.
    fn may_be_named(&self, name: &str) -> Result<(), Fault> {
        let state = self.link.state();
        if !name.is_empty() && state.statements.contains_key(name) {
            let text = format!("prepared statement \"{name}\" already exists");
            return Err(Fault::new(codes::NAME, text).backend_code("42P05"));
        }
        if state.statements.len() >= NAMES_MAX {
            return Err(Fault::new(codes::MESSAGE_TOO_LARGE, "the session has too many prepared statements")
                .hint("Close or DEALLOCATE those that are not used any more."));
        }
        Ok(())
    }

    /// The same for a portal.
    fn may_be_portal(&self, name: &str) -> Result<(), Fault> {
        let state = self.link.state();
        if !name.is_empty() && state.portals.contains_key(name) {
            let text = format!("cursor \"{name}\" already exists");
            return Err(Fault::new(codes::NAME, text).backend_code("42P03"));
        }
        if state.portals.len() >= NAMES_MAX {
            return Err(Fault::new(codes::MESSAGE_TOO_LARGE, "the session has too many portals")
                .hint("Close those that are not used any more."));
        }
        Ok(())
    }

    async fn bind(&mut self, message: Message) -> Step {
        if self.ignored() {
            return self.discard(message).await;
        }
        let names_end = HEADER + message.body.min(NAMES_BYTES_MAX);
        self.want(names_end).await?;
        let (portal, statement) = match frontend::bind(self.inbox.body(message)) {
            Ok((portal, statement)) => (portal.to_owned(), statement.to_owned()),
            Err(fault) => return self.refuse_message(message, "", &fault).await,
        };
        let Some(named) = self.named(&statement, false).await? else {
            let text = format!("prepared statement \"{statement}\" does not exist");
            return self.refuse_message(message, "", &Fault::new(codes::NAME, text)).await;
        };
        if let Err(fault) = self.may_be_portal(&portal) {
            return self.refuse_message(message, named.vetted.text(), &fault).await;
        }
        // What its names mean is looked up now, as the backend does.
        let needs = self.needs(&named.vetted).await?;
        match needs {
            Ok(actions) if self.permits(&actions) => {
                let bound = Named {
                    vetted: named.vetted,
                    actions: Some(actions),
                    batch: self.batch,
                    confirmed: false,
                    held: false,
                };
                self.link.state().portals.insert(portal.as_str().into(), bound);
                self.link.expect(Expected::Bind(portal.into()));
                self.batch_open = true;
                self.stream(message).await
            }
            needs => {
                self.discard(message).await?;
                let bytes = HEADER + message.body;
                let verdict = self.walk(named.vetted.text(), Some(&named.vetted), needs, bytes).await;
                self.refused(verdict)
            }
        }
    }

    async fn execute(&mut self, message: Message) -> Step {
        if self.ignored() {
            return self.discard(message).await;
        }
        if message.body > NAME_BYTES_MAX + 5 {
            return self.too_large(message, false).await;
        }
        let frame = self.whole(message).await?;
        let portal = match frontend::execute(frame.get(HEADER..).unwrap_or_default()) {
            Ok(portal) => portal.to_owned(),
            Err(fault) => return self.refuse_read("", &fault, frame.len()).await,
        };
        let Some(Named { vetted, actions: Some(actions), .. }) = self.named(&portal, true).await? else {
            let fault = Fault::new(codes::NAME, format!("portal \"{portal}\" does not exist"));
            return self.refuse_read("", &fault.backend_code("34000"), frame.len()).await;
        };
        // What is not planned when it is bound has its names looked up now.
        let needs = if vetted.resolves_late() { self.needs(&vetted).await? } else { Ok(actions) };
        match self.walk(vetted.text(), Some(&vetted), needs, frame.len()).await {
            Verdict::Go(pass) => {
                let makes = self.take_effects(&vetted, &pass);
                self.forward(&frame, Expected::Execute(Running::new(*pass, makes)));
                Ok(())
            }
            verdict => self.refused(verdict),
        }
    }

    async fn describe(&mut self, message: Message) -> Step {
        self.about_a_name(message, true).await
    }

    async fn close(&mut self, message: Message) -> Step {
        self.about_a_name(message, false).await
    }

    /// Describe and Close.
    async fn about_a_name(&mut self, message: Message, describes: bool) -> Step {
        if self.ignored() {
            return self.discard(message).await;
        }
        if message.body > NAME_BYTES_MAX + 2 {
            return self.too_large(message, false).await;
        }
        let frame = self.whole(message).await?;
        let (kind, name) = match frontend::named(frame.get(HEADER..).unwrap_or_default()) {
            Ok((kind, name)) => (kind, name.to_owned()),
            Err(fault) => return self.refuse_read("", &fault, frame.len()).await,
        };
        let is_portal = kind == b'P';
        if describes {
            if self.named(&name, is_portal).await?.is_none() {
                let (what, code) =
                    if is_portal { ("portal", "34000") } else { ("prepared statement", "26000") };
                let fault = Fault::new(codes::NAME, format!("{what} \"{name}\" does not exist"));
                return self.refuse_read("", &fault.backend_code(code), frame.len()).await;
            }
            self.forward(&frame, Expected::Describe);
            return Ok(());
        }
        {
            let mut state = self.link.state();
            if is_portal {
                state.portals.remove(name.as_str())
            } else {
                state.statements.remove(name.as_str())
            };
        }
        self.forward(&frame, Expected::Close);
        Ok(())
    }

    async fn sync(&mut self, message: Message) -> Step {
        let frame = self.small(message).await?;
        self.skip = false;
        self.batch_open = false;
        self.batch += 1;
        {
            let mut state = self.link.state();
            if !state.copying {
                state.skipping = false;
                state.queue.push_back(Expected::Sync);
            }
        }
        self.out.extend_from_slice(&frame);
        Ok(())
    }

    async fn flush(&mut self, message: Message) -> Step {
        let frame = self.small(message).await?;
        self.out.extend_from_slice(&frame);
        Ok(())
    }

    /// Data of a COPY. Outside of one the backend ignores it, so it need not be known here whether there is one.
    async fn copy(&mut self, message: Message) -> Step {
        if self.ignored() {
            return self.discard(message).await;
        }
        {
            let mut state = self.link.state();
            if message.tag != b'd' {
                state.copying = false;
                state.taking_in = false;
            }
            if let Some(Expected::Query(running) | Expected::Execute(running)) = state.queue.front_mut() {
                running.pass.access().count_in(message.body as u64);
            }
        }
        self.stream(message).await
    }

    async fn function_call(&mut self, message: Message) -> Step {
        if self.ignored() {
            return self.discard(message).await;
        }
        self.discard(message).await?;
        let fault = Fault::new(codes::UNSUPPORTED, "functions are not called by the fast path here")
            .hint("Call it in a statement: SELECT function(…). Large objects: lo_get, lo_put.");
        match self.walk("function call", None, Err(fault), HEADER + message.body).await {
            Verdict::Go(_) => Ok(()),
            Verdict::No(told) => self.refuse_query(&told),
            Verdict::Over(fault) => Err(Ended::Over(fault)),
        }
    }
}

/// Decisions.
impl<R: AsyncRead + Unpin> Up<'_, R> {
    /// Has a statement walk the road.
    async fn walk(
        &self,
        text: &str,
        vetted: Option<&Vetted>,
        needs: Result<Actions, Fault>,
        bytes: usize,
    ) -> Verdict {
        let desk = self.desk;
        let access = desk.gateway.open(desk.arrival.clone());
        let mid_transaction = self.batch_open || !self.link.is_at_rest();
        let bytes = bytes as u64;
        let call = StatementCall { desk, mid_transaction, bytes, text, vetted, needs, recorded: true };
        desk.gateway.walk(access, call).await.into_inner()
    }

    /// Whether the grants allow these actions now. Parts of a statement (Parse, Bind) are decided like this;
    /// the statement itself walks the road when it is executed.
    fn permits(&self, actions: &Actions) -> bool {
        let desk = self.desk;
        let case = Case {
            principal: desk.session.principal(),
            actions,
            arrival: &desk.arrival,
            now: desk.gateway.now(),
            role: Some(&desk.role),
        };
        matches!(desk.gateway.snapshot().policy.decide(&case), Decision::Allow { .. })
    }

    /// What a statement needs, with its names looked up as the backend would look them up now.
    async fn needs(&mut self, vetted: &Arc<Vetted>) -> Result<Result<Actions, Fault>, Ended> {
        // A batch begins with names that are current, whatever its first statement is.
        if (vetted.asks_names() || !self.batch_open)
            && let Err(fault) = self.refresh().await?
            && vetted.asks_names()
        {
            return Ok(Err(fault));
        }
        // A statement that SQL has prepared must be known for certain.
        for name in vetted.executes() {
            self.named(name, false).await?;
        }
        let needs = self.look_up(vetted);
        match &needs {
            // It may be newer than what is known; only the session can tell for certain.
            Err(fault) if is_missing(fault) && self.reread().await? => Ok(self.look_up(vetted)),
            _ => Ok(needs),
        }
    }

    fn look_up(&self, vetted: &Vetted) -> Result<Actions, Fault> {
        let prepared = |name: &str| self.link.state().statements.get(name).map(|named| named.vetted.clone());
        vetted.needs(&self.desk.resource, &self.names, &prepared)
    }

    /// Sees to it that what names mean is current; asks the backend session when it may have changed.
    async fn refresh(&mut self) -> Result<Result<(), Fault>, Ended> {
        let shared = self.desk.wire.objects_now();
        let current = {
            let state = self.link.state();
            let same = Arc::ptr_eq(&shared, &self.names.objects) || !state.may_take(&shared);
            !state.stale && (same || self.batch_open)
        };
        if current {
            return Ok(Ok(()));
        }
        if self.batch_open {
            let text = "what names mean may have changed in this batch, so the statement cannot be decided";
            let hint = "Send Sync after SET search_path, DISCARD, CREATE, DROP, EXECUTE or a function call.";
            return Ok(Err(Fault::new(codes::UNKNOWN_EFFECT, text).hint(hint)));
        }
        self.until(|state| state.queue.is_empty()).await?;
        if self.link.state().status == FAILED {
            let text = "current transaction is aborted, commands ignored until end of transaction block";
            return Ok(Err(Fault::new(codes::UNKNOWN_EFFECT, text).backend_code("25P02")));
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
        let objects = if may_take { Some(shared) } else { self.own_objects().await? };
        let session = self.probe(names::SESSION).await?.and_then(|row| names::Session::read(&row));
        let (Some(objects), Some(session)) = (objects, session) else {
            return Ok(Err(Fault::new(codes::NO_CATALOG, "the database's catalogue cannot be read")));
        };
        self.names = Arc::new(Names::new(objects, session));
        self.link.state().stale = false;
        Ok(Ok(()))
    }

    /// Reads the database's objects through the session, for a name that is not known. Whether it was done.
    async fn reread(&mut self) -> Result<bool, Ended> {
        let recently = self.reread_at.is_some_and(|at| at.elapsed() < REREAD_PAUSE);
        if self.batch_open || recently || self.link.state().stale {
            return Ok(false);
        }
        self.until(|state| state.queue.is_empty()).await?;
        if self.link.state().status == FAILED {
            return Ok(false);
        }
        self.reread_at = Some(Instant::now());
        let Some(objects) = self.own_objects().await? else { return Ok(false) };
        // As long as the shared ones are older, these stay.
        self.link.state().restructured_at = Some(objects.began);
        self.desk.wire.objects_changed();
        let session = self.probe(names::SESSION).await?.and_then(|row| names::Session::read(&row));
        let Some(session) = session else { return Ok(false) };
        self.names = Arc::new(Names::new(objects, session));
        Ok(true)
    }

    async fn own_objects(&mut self) -> Result<Option<Arc<Objects>>, Ended> {
        let began = Instant::now();
        let row = self.probe(names::OBJECTS).await?;
        Ok(row.and_then(|row| Objects::read(&row, began).ok()).map(Arc::new))
    }

    /// Asks the session itself; the one value of the one row. Nothing else is under way.
    async fn probe(&mut self, sql: &str) -> Result<Option<Vec<u8>>, Ended> {
        let out = &mut self.out;
        put(out, b'P', |out| {
            put_text(out, PROBE);
            put_text(out, sql);
            out.put_u16(0);
        });
        put(out, b'B', |out| {
            put_text(out, PROBE);
            put_text(out, PROBE);
            out.extend_from_slice(&[0; 6]);
        });
        put(out, b'E', |out| {
            put_text(out, PROBE);
            out.put_u32(0);
        });
        for kind in [b'P', b'S'] {
            put(out, b'C', |out| {
                out.put_u8(kind);
                put_text(out, PROBE);
            });
        }
        put(out, b'S', |_| {});
        self.link.expect(Expected::Probe(Probe::default()));
        self.send().await?;
        self.link.wait(|state| state.probed.is_some()).await;
        let probe = self.link.state().probed.take();
        let Some(probe) = probe.filter(|probe| !probe.failed) else { return Ok(None) };
        // One column: its count, its length, its text.
        Ok(probe.row.get(6..).map(<[u8]>::to_vec))
    }

    /// A prepared statement or portal that the backend knows under this name, too.
    async fn named(&mut self, name: &str, portal: bool) -> Result<Option<Named>, Ended> {
        let find = |link: &Link| {
            let state = link.state();
            if portal { state.portals.get(name).cloned() } else { state.statements.get(name).cloned() }
        };
        match find(self.link) {
            // Within a batch an error ends all: what was not made is not used either.
            Some(named) if !named.confirmed && named.batch != self.batch => {
                self.until(|state| state.queue.is_empty()).await?;
                Ok(find(self.link))
            }
            found => Ok(found),
        }
    }

    /// Keeps what a statement does to the session, before it is forwarded. The names that it makes.
    fn take_effects(&self, vetted: &Arc<Vetted>, pass: &Pass) -> Makes {
        let effects = vetted.effects(pass.permit().actions());
        let mut state = self.link.state();
        if effects.changes_names || (effects.ends_or_rolls_back && state.touched) {
            state.stale = true;
            state.touched = true;
        }
        state.restructured |= effects.changes_structure;
        if effects.deallocates_all {
            state.statements.clear();
        }
        for name in &effects.deallocates {
            state.statements.remove(name);
        }
        if effects.closes_all {
            state.portals.clear();
        }
        for name in &effects.closes {
            state.portals.remove(name);
        }
        let mut makes = Makes::default();
        // What is over the bound is not remembered, and so not to be executed.
        let room = NAMES_MAX.saturating_sub(state.statements.len());
        for (name, vetted) in vetted.prepared().take(room) {
            makes.statements.push(name.clone());
            let named = Named { vetted, actions: None, batch: self.batch, confirmed: false, held: false };
            state.statements.insert(name, named);
        }
        let room = NAMES_MAX.saturating_sub(state.portals.len());
        for (name, held) in vetted.declared().take(room) {
            makes.portals.push(name.clone());
            let (vetted, actions) = (vetted.clone(), Some(pass.permit().actions().clone()));
            let named = Named { vetted, actions, batch: self.batch, confirmed: false, held };
            state.portals.insert(name, named);
        }
        makes
    }
}

/// Refusals.
impl<R: AsyncRead + Unpin> Up<'_, R> {
    /// A simple query is refused: an error, and the transaction's state.
    fn refuse_query(&mut self, told: &[u8]) -> Step {
        let local = {
            let state = self.link.state();
            state.queue.is_empty() && state.status == IDLE && !self.batch_open
        };
        let mut own = BytesMut::from(told);
        if local {
            ready(&mut own, IDLE);
            self.link.expect(Expected::Local(own.freeze()));
            return Ok(());
        }
        put(&mut self.out, b'Q', |out| put_text(out, REFUSED));
        self.link.expect(Expected::FailingQuery(own.freeze()));
        self.batch_open = false;
        self.batch += 1;
        Ok(())
    }

    /// A message of the extended protocol is refused: an error, and nothing until Sync.
    fn refuse_extended(&mut self, told: &[u8]) {
        self.skip = true;
        let own = BytesMut::from(told).freeze();
        let local = {
            let state = self.link.state();
            state.queue.is_empty() && state.status == IDLE && !self.batch_open
        };
        if local {
            self.link.expect(Expected::Local(own));
            return;
        }
        put(&mut self.out, b'E', |out| {
            put_text(out, NO_PORTAL);
            out.put_u32(0);
        });
        self.link.expect(Expected::Failing(own));
        self.batch_open = true;
    }

    fn refused(&mut self, verdict: Verdict) -> Step {
        match verdict {
            Verdict::No(told) => {
                self.refuse_extended(&told);
                Ok(())
            }
            Verdict::Over(fault) => Err(Ended::Over(fault)),
            // A new configuration has just allowed it. The client may ask again; this call is abandoned.
            Verdict::Go(pass) => {
                let fault = Fault::new(codes::UNKNOWN_EFFECT, "the configuration has just changed");
                let told = error_bytes(Severity::Error, &fault, Some(pass.id()));
                pass.fail(&fault);
                self.refuse_extended(&told);
                Ok(())
            }
        }
    }

    /// Refuses a message whose bytes have been taken.
    async fn refuse_read(&mut self, text: &str, fault: &Fault, bytes: usize) -> Step {
        let verdict = self.walk(text, None, Err(fault.clone()), bytes).await;
        self.refused(verdict)
    }

    /// Refuses a message of the extended protocol.
    async fn refuse_message(&mut self, message: Message, text: &str, fault: &Fault) -> Step {
        self.discard(message).await?;
        self.refuse_read(text, fault, HEADER + message.body).await
    }

    async fn too_large(&mut self, message: Message, simple: bool) -> Step {
        self.discard(message).await?;
        let fault =
            Fault::new(codes::MESSAGE_TOO_LARGE, format!("a statement has at most {SQL_BYTES_MAX} bytes"))
                .hint("Send values as parameters, or with COPY, and many statements one by one.");
        let verdict = self.walk("", None, Err(fault), HEADER + message.body).await;
        match verdict {
            Verdict::No(told) if simple => self.refuse_query(&told),
            verdict => self.refused(verdict),
        }
    }
}

/// Bytes.
impl<R: AsyncRead + Unpin> Up<'_, R> {
    fn forward(&mut self, frame: &[u8], expected: Expected) {
        self.link.expect(expected);
        self.out.extend_from_slice(frame);
        self.batch_open = true;
    }

    /// Sends what is gathered.
    async fn send(&mut self) -> Step {
        if self.out.is_empty() {
            return Ok(());
        }
        let sent = async {
            self.backend.write_all(&self.out).await?;
            self.backend.flush().await
        };
        if sent.await.is_err() {
            // The other half reads why, or that the backend is gone.
            std::future::pending::<()>().await;
        }
        self.out.clear();
        Ok(())
    }

    /// Sends what is gathered, and waits until it is so. A backend that waits for data meanwhile would wait
    /// forever: the client has sent something else.
    async fn until(&mut self, so: impl Fn(&State) -> bool) -> Step {
        self.send().await?;
        self.link.wait(|state| so(state) || state.taking_in).await;
        if so(&self.link.state()) {
            return Ok(());
        }
        Err(Ended::Over(protocol("another message than data during COPY")))
    }

    async fn want(&mut self, bytes: usize) -> Step {
        if !self.inbox.has(bytes) {
            // The client may wait for the answers to what came before.
            self.send().await?;
        }
        match self.inbox.want(bytes).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Ended::ClientGone),
        }
    }

    /// All of a message whose size has been looked at.
    async fn whole(&mut self, message: Message) -> Result<BytesMut, Ended> {
        let bytes = HEADER + message.body;
        self.want(bytes).await?;
        Ok(self.inbox.take(bytes))
    }

    /// All of a message without a body.
    async fn small(&mut self, message: Message) -> Result<BytesMut, Ended> {
        if message.body != 0 {
            return Err(Ended::Over(protocol("a body where there is none")));
        }
        self.whole(message).await
    }

    /// Passes a message on as it comes, whatever its size.
    async fn stream(&mut self, message: Message) -> Step {
        let mut left = HEADER + message.body;
        loop {
            let piece = self.inbox.take(left);
            left -= piece.len();
            self.out.extend_from_slice(&piece);
            if left == 0 {
                return Ok(());
            }
            if self.out.len() >= GATHERED_MAX {
                self.send().await?;
            }
            self.want(1).await?;
        }
    }

    /// Drops a message as it comes.
    async fn discard(&mut self, message: Message) -> Step {
        let mut left = HEADER + message.body;
        loop {
            left -= self.inbox.skip(left);
            if left == 0 {
                return Ok(());
            }
            self.want(1).await?;
        }
    }
}
