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

mod aim;
mod carry;
mod decide;
mod engage;
mod made;
mod refuse;
mod text;

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use doorward_core::{Fault, Lease};
use doorward_pgclient::HEADER;
use tokio::io::AsyncRead;

use super::Ended;
use super::frontend::{self, Inbox, Message, NAME_BYTES_MAX, NAMES_BYTES_MAX, SQL_BYTES_MAX, protocol};
use super::gulp::relax;
use super::link::{EXPECTED_MAX, Expected, IDLE, Link, Makes, Named, Running, State};
use super::port::Port;
use super::trial::Alone;
use super::undo::UNDO_BYTES_MAX;
use crate::call::Verdict;
use crate::codes;
use crate::desk::Desk;
use crate::message::ready;
use crate::names::Names;
use crate::pool::{Key, Place};
use crate::replication;
use crate::values::FRONT_BYTES_MAX;
use crate::vet::Vetted;
use decide::Permitted;
use text::Part;

/// As much is gathered before it is sent.
const GATHERED_MAX: usize = 64 << 10;

/// The half that carries statements.
pub(crate) struct Up<'l, R> {
    desk: &'l Desk,
    link: &'l Link,
    inbox: Inbox<R>,
    port: &'l Port,
    out: BytesMut,
    /// Messages are ignored until Sync: one before them was refused.
    skip: bool,
    /// Messages of the extended protocol have been forwarded since the last Sync.
    batch_open: bool,
    batch: u64,
    names: Arc<Names>,
    reread_at: Option<Instant>,
    permitted: Option<Permitted>,
    /// The last credential that was lent for a statement, and the connections that it opens.
    lease: Lease,
    key: Arc<Key>,
    /// The transaction at hand, if it is of one statement and all of it is there.
    alone: Option<Alone>,
    /// Where a transaction goes that begins.
    place: Place,
    /// The next transaction is for the primary, whatever it is.
    insists: bool,
}

type Step = Result<(), Ended>;

impl<'l, R: AsyncRead + Unpin> Up<'l, R> {
    pub(crate) fn new(desk: &'l Desk, link: &'l Link, inbox: Inbox<R>, port: &'l Port) -> Self {
        let (out, names) = (BytesMut::new(), Arc::default());
        let (lease, key) = (desk.lease.clone(), desk.key.clone());
        Self {
            desk,
            link,
            inbox,
            port,
            lease,
            place: key.place,
            key,
            alone: None,
            insists: false,
            out,
            skip: false,
            batch_open: false,
            batch: 0,
            names,
            reread_at: None,
            permitted: None,
        }
    }

    /// Whether nothing is under way to the backend.
    pub(crate) fn is_done(&self) -> bool {
        !self.batch_open && self.out.is_empty()
    }

    pub(crate) async fn run(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.step().await {
                return ended;
            }
        }
    }

    /// Takes one message.
    async fn step(&mut self) -> Step {
        self.see_through().await?;
        if !self.inbox.has_next() || self.out.len() >= GATHERED_MAX {
            self.send().await?;
            relax(&mut self.out);
        }
        let message = match self.inbox.next().await.map_err(|_| Ended::ClientGone)? {
            None => return Err(Ended::ClientGone),
            Some(message) => message.map_err(Ended::Over)?,
        };
        // Replies are waited for when many are due: what is remembered of them has a bound.
        let many = |state: &State| state.queue.len() >= EXPECTED_MAX || state.undo_bytes > UNDO_BYTES_MAX;
        if many(&self.link.state()) {
            self.until_answered(|state| !many(state)).await?;
        }
        let copies = matches!(message.tag, b'd' | b'c' | b'f' | b'S' | b'H' | b'X');
        if !copies && self.link.state().taking_in {
            return Err(Ended::Over(protocol("another message than data during COPY")));
        }
        self.look_ahead(message);
        self.take(message).await?;
        self.sent(message);
        Ok(())
    }

    async fn take(&mut self, message: Message) -> Step {
        match message.tag {
            b'P' | b'B' | b'E' | b'D' | b'C' if self.desk.replication.is_some() => {
                self.refuse_in_replication(message).await
            }
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
        if let Some(kind) = self.desk.replication
            && let Ok(text) = frontend::query(body)
            && let Some(needs) = replication::needs(kind, &self.desk.resource, text)
        {
            return match self.walk(text, None, needs, frame.len()).await {
                Verdict::Go(pass) => {
                    self.forward_query(&frame, None, Running::new(*pass, Makes::default()));
                    Ok(())
                }
                Verdict::No(told) => self.refuse_query(&told),
                Verdict::Over(fault) => Err(Ended::Over(fault)),
            };
        }
        let (text, vetted) = match frontend::query(body) {
            Ok(text) => (text, Vetted::read(&self.desk.parser, text)),
            Err(fault) => ("", Err(fault)),
        };
        if let Ok(vetted) = &vetted
            && !self.settles_for(vetted).await?
        {
            return Ok(());
        }
        let needs = match &vetted {
            Ok(vetted) => self.needs_somewhere(vetted).await?,
            Err(fault) => Err(fault.clone()),
        };
        let known = vetted.as_ref().ok();
        if let (Some(vetted), Ok(all)) = (known, &needs)
            && vetted.is_several()
            && self.permits(all)
        {
            return Box::pin(self.query_of_several(&frame, vetted, all)).await;
        }
        match self.walk(text, known.map(|vetted| &**vetted), needs, frame.len()).await {
            Verdict::Go(pass) => {
                let Some(vetted) = known else { return Ok(()) };
                if self.deallocates_here(vetted) {
                    return self.deallocate(vetted, *pass, true).await;
                }
                let pass = match self.admit(vetted, pass).await? {
                    Ok(pass) => pass,
                    Err(told) => return self.refuse_query(&told),
                };
                let makes = self.take_effects(vetted, pass.permit().actions());
                let instead = self.instead(vetted, Some(pass.id()));
                self.forward_query(&frame, instead.as_deref(), Running::new(*pass, makes));
                self.await_forgetting(vetted).await
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
        let (name, text, types, vetted) = match frontend::parse(body) {
            Ok((name, text, types)) => {
                if !name.is_empty() && !self.settles(false, name).await? {
                    return Ok(());
                }
                let may = self.may_be_named(name, text.len() + types.len());
                (name, text, types, may.and_then(|()| Vetted::read_one(&self.desk.parser, text)))
            }
            Err(fault) => ("", "", &[][..], Err(fault)),
        };
        let mut needs = match &vetted {
            Ok(vetted) => self.needs_somewhere(vetted).await?,
            Err(fault) => Err(fault.clone()),
        };
        if let (Ok(vetted), Ok(actions)) = (&vetted, &needs)
            && self.permits(actions)
        {
            match self.engage_for(vetted).await? {
                Ok(()) => {
                    self.prepare((name, types), vetted, &frame);
                    return Ok(());
                }
                Err(fault) => needs = Err(fault),
            }
        }
        let known = vetted.as_ref().ok();
        let verdict = self.walk(text, known.map(|vetted| &**vetted), needs, frame.len()).await;
        self.refused(verdict)
    }

    async fn bind(&mut self, message: Message) -> Step {
        if self.ignored() {
            return self.discard(message).await;
        }
        let front_end = HEADER + message.body.min(NAMES_BYTES_MAX + FRONT_BYTES_MAX);
        self.want(front_end).await?;
        let (portal, statement, front) = match frontend::bind(self.inbox.body(message)) {
            Ok((portal, statement, behind)) => {
                (portal.to_owned(), statement.to_owned(), self.front_to_keep(behind))
            }
            Err(fault) => return self.refuse_message(message, "", &fault).await,
        };
        let named = self.named(&statement, false).await?;
        if self.ignored() {
            return self.discard(message).await;
        }
        let Some(named) = named else {
            let text = format!("prepared statement \"{statement}\" does not exist");
            return self.refuse_message(message, "", &Fault::new(codes::NAME, text)).await;
        };
        self.await_closing(&portal).await?;
        if self.ignored() || (!portal.is_empty() && !self.settles(true, &portal).await?) {
            return self.discard(message).await;
        }
        if let Err(fault) = self.may_be_portal(&portal, named.vetted.text().len()) {
            return self.refuse_message(message, named.vetted.text(), &fault).await;
        }
        let values = self.values(&named, front.as_deref());
        // What its names mean is looked up now, as the backend does.
        let mut needs = self.needs_somewhere(&named.vetted).await?;
        let permitted = needs.as_ref().is_ok_and(|actions| self.permits(actions));
        if permitted && let Err(fault) = self.engage_for(&named.vetted).await? {
            needs = Err(fault);
        }
        match needs {
            Ok(actions) if permitted => {
                let origin = named.origin.clone();
                let bound = Named { bound: values, ..Named::new(named.vetted, Some(actions), self.batch) };
                let bound = Named { origin: origin.clone(), ..bound };
                let skipped = self.bind_to(message, &portal, &statement, origin.as_ref());
                self.link.state().portals.insert(&portal, bound);
                self.link.expect(Expected::Bind(portal.into(), self.batch));
                self.batch_open = true;
                self.stream_from(message, skipped).await
            }
            needs => {
                self.discard(message).await?;
                let bytes = HEADER + message.body;
                let part = Part { bound: values, ..Part::default() };
                let verdict =
                    self.walk_as(named.vetted.text(), Some(&named.vetted), needs, bytes, part).await;
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
        let named = self.named(&portal, true).await?;
        if self.ignored() {
            return Ok(());
        }
        let Some(Named { vetted, actions: Some(actions), bound, .. }) = named else {
            let fault = Fault::new(codes::NAME, format!("portal \"{portal}\" does not exist"));
            return self.refuse_read("", &fault.backend_code("34000"), frame.len()).await;
        };
        if !self.settles_for(&vetted).await? {
            return Ok(());
        }
        // What is not planned when it is bound has its names looked up now.
        let needs = if vetted.resolves_late() { self.needs(&vetted).await? } else { Ok(actions) };
        let part = Part { bound, ..Part::default() };
        match self.walk_as(vetted.text(), Some(&vetted), needs, frame.len(), part).await {
            Verdict::Go(pass) => {
                if self.deallocates_here(&vetted) {
                    return self.deallocate(&vetted, *pass, false).await;
                }
                match self.admit(&vetted, pass).await? {
                    Ok(pass) => {
                        let makes = self.take_effects(&vetted, pass.permit().actions());
                        self.forward(&frame, Expected::Execute(Running::new(*pass, makes)));
                    }
                    Err(told) => self.refuse_extended(&told),
                }
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
            let named = self.named(&name, is_portal).await?;
            if self.ignored() {
                return Ok(());
            }
            if named.is_none() {
                let (what, code) =
                    if is_portal { ("portal", "34000") } else { ("prepared statement", "26000") };
                let fault = Fault::new(codes::NAME, format!("{what} \"{name}\" does not exist"));
                return self.refuse_read("", &fault.backend_code(code), frame.len()).await;
            }
            if let Err(fault) = self.engage().await? {
                return self.refuse_read("", &fault, frame.len()).await;
            }
            self.describe_as(is_portal, &name, &frame);
            return Ok(());
        }
        if self.settles(is_portal, &name).await? {
            self.close_as(is_portal, &name, &frame);
        }
        Ok(())
    }

    async fn sync(&mut self, message: Message) -> Step {
        let frame = self.small(message).await?;
        self.skip = false;
        self.batch_open = false;
        self.batch += 1;
        if !self.port.is_bound() {
            self.link.state().skipping = false;
            let mut own = BytesMut::new();
            ready(&mut own, IDLE);
            self.link.expect(Expected::Local(own.freeze(), None));
            return Ok(());
        }
        {
            let mut state = self.link.state();
            if !state.copying {
                state.skipping = false;
                state.queue.push_back(Expected::Sync);
            }
        }
        self.out.extend_from_slice(&frame);
        self.disengage();
        Ok(())
    }

    async fn flush(&mut self, message: Message) -> Step {
        let frame = self.small(message).await?;
        if self.port.is_bound() {
            self.out.extend_from_slice(&frame);
        }
        Ok(())
    }

    /// Data of a COPY. Outside of one the backend ignores it, so it need not be known here whether there is one.
    async fn copy(&mut self, message: Message) -> Step {
        if self.ignored() || !self.port.is_bound() {
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
