//! Texts on their way to the backend: those of several statements, those that the gateway answers itself, and the
//! values that are bound to one.
//!
//! A text of several statements is decided as a whole first. Then each statement walks the road by itself, with its
//! own piece of the text, and has a record of its own; the first one's access is the parent of the others'. All of
//! them pass, or nothing is forwarded: then those beside the one that was refused are recorded as not run.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use doorward_core::{AccessId, Actions, BoundValues, Fault, Pass};
use futures_util::future::join_all;
use tokio::io::AsyncRead;

use super::super::Ended;
use super::super::link::{Expected, Named, Running, not_run};
use super::super::undo::Undo;
use super::{Step, Up};
use crate::call::Verdict;
use crate::message::{Severity, error_bytes, put, put_text};
use crate::own;
use crate::values::{self, Bound, FRONT_BYTES_MAX};
use crate::vet::{Vetted, with_cursors};

/// The most statements of a text that walk the road at once: their intents are one write to the disk.
const AT_ONCE_MAX: usize = 64;

/// What a statement's record has beside its text.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// The first statement of the text that it is a part of.
    pub(super) parent: Option<AccessId>,
    /// The values that it is bound to.
    pub(super) bound: Option<Arc<Bound>>,
}

/// What has become of the statements of a text.
#[derive(Default)]
struct Walked {
    passes: Vec<Pass>,
    /// What the client is told of the first one that was refused.
    refused: Option<Bytes>,
    /// Why the session is over.
    over: Option<Fault>,
}

impl Walked {
    fn take(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Go(pass) => self.passes.push(*pass),
            Verdict::No(told) => self.refused = self.refused.take().or(Some(told)),
            Verdict::Over(fault) => self.over = Some(fault),
        }
    }
}

impl<R: AsyncRead + Unpin> Up<'_, R> {
    /// Forwards a simple query; `instead` is its text when it is not the client's.
    pub(super) fn forward_query(&mut self, frame: &[u8], instead: Option<&str>, running: Box<Running>) {
        self.link.expect(Expected::Query(running));
        self.forget_unnamed();
        match instead {
            None => self.out.extend_from_slice(frame),
            Some(text) => put(&mut self.out, b'Q', |out| put_text(out, text)),
        }
        // The query ends the batch that was open, if one was.
        self.batch_open = false;
        self.batch += 1;
        self.disengage();
    }

    /// Forwards Parse; `instead` is the statement's text when it is not the client's.
    pub(super) fn forward_parse(
        &mut self,
        frame: &[u8],
        (name, types): (&str, &[u8]),
        instead: Option<&str>,
        undo: Option<Box<Undo>>,
    ) {
        let expected = Expected::Parse(name.into(), self.batch, None, undo);
        let Some(instead) = instead else { return self.forward(frame, expected) };
        let mut other = BytesMut::new();
        put(&mut other, b'P', |out| {
            put_text(out, name);
            put_text(out, instead);
            out.extend_from_slice(types);
        });
        self.forward(&other, expected);
    }

    /// A simple query of several statements, which the grants allow together; `all` is what they need.
    pub(super) async fn query_of_several(
        &mut self,
        frame: &[u8],
        vetted: &Arc<Vetted>,
        all: &Actions,
    ) -> Step {
        let parts: Vec<_> = vetted.parts().zip(self.needs_each(vetted, all)).collect();
        let Some((first, rest)) = parts.split_first() else { return Ok(()) };
        let mut walked = Walked::default();
        walked.take(self.walk_part(first, frame.len(), None, false).await);
        let parent = walked.passes.first().map(Pass::id);
        for some in rest.chunks(AT_ONCE_MAX) {
            let refused = walked.refused.is_some();
            let walking = some.iter().map(|part| self.walk_part(part, 0, parent, refused));
            join_all(walking).await.into_iter().for_each(|verdict| walked.take(verdict));
        }
        let Walked { passes, refused, over } = walked;
        if let Some(fault) = over {
            passes.into_iter().for_each(|pass| pass.fail(&fault));
            return Err(Ended::Over(fault));
        }
        if let Some(told) = refused {
            passes.into_iter().for_each(|pass| pass.fail(&not_run()));
            return self.refuse_query(&told);
        }
        let access = passes.first().map(Pass::id);
        let mut passes = passes.into_iter();
        let Some(mut first) = passes.next() else { return Ok(()) };
        if let Err(fault) = self.make_ready(vetted, all, &mut first).await? {
            let told = error_bytes(Severity::Error, &fault, access);
            first.fail(&fault);
            passes.for_each(|pass| pass.fail(&not_run()));
            return self.refuse_query(&told);
        }
        let makes = self.take_effects(vetted, all);
        let mut running = Running::new(first, makes);
        running.later = passes.collect();
        let instead = self.instead(vetted, access);
        self.forward_query(frame, instead.as_deref(), running);
        self.await_forgetting(vetted).await
    }

    /// Has one statement of several walk the road; as not run, when another one was refused.
    async fn walk_part(
        &self,
        (part, actions): &(Arc<Vetted>, Actions),
        bytes: usize,
        parent: Option<AccessId>,
        refused: bool,
    ) -> Verdict {
        let needs = if refused { Err(not_run()) } else { Ok(actions.clone()) };
        self.walk_as(part.text(), Some(part), needs, bytes, Part { parent, bound: None }).await
    }

    /// What each statement needs. What they need together has just been looked up, with the same names.
    fn needs_each(&self, vetted: &Vetted, all: &Actions) -> Vec<Actions> {
        let prepared = |name: &str| self.link.state().prepared_by_sql(name);
        let each = vetted.needs_each(self.desk, &self.names, &prepared);
        let Ok(each) = each else { return vetted.parts().map(|_| all.clone()).collect() };
        let mut declared: HashMap<Box<str>, Actions> = HashMap::new();
        let with_cursors = |(part, own): (Arc<Vetted>, Actions)| {
            let cursors: Vec<Actions> = {
                let state = self.link.state();
                let known = |name| declared.get(name).or_else(|| state.portals.get(name)?.actions.as_ref());
                part.fetches().filter_map(known).cloned().collect()
            };
            let actions = with_cursors(&cursors, &own).unwrap_or_else(|_| all.clone());
            declared.extend(part.declared().map(|(name, _, _)| (name, actions.clone())));
            actions
        };
        vetted.parts().zip(each).map(with_cursors).collect()
    }

    /// The text to send in place of this one, if there is one; and the client is known by the name that it takes.
    pub(super) fn instead(&self, vetted: &Vetted, access: Option<AccessId>) -> Option<String> {
        let instead = vetted.replaced(|shape| own::instead(self.desk, shape, access))?;
        if let Some(client) = vetted.shapes().rev().find_map(own::renamed) {
            *self.desk.client.lock() = Arc::new(client);
        }
        Some(instead)
    }

    /// A copy of the front of a Bind message's values, where records keep something of them.
    pub(super) fn front_to_keep(&self, front: &[u8]) -> Option<Box<[u8]>> {
        let kept = self.desk.gateway.snapshot().redactor.bound_values() != BoundValues::Off;
        // Formats and values: two counts of two bytes; without values there is nothing more.
        let front = front.get(..front.len().min(FRONT_BYTES_MAX)).unwrap_or_default();
        (kept && front.len() > 6).then(|| front.into())
    }

    /// What the record keeps of the values that a portal of this statement is bound to.
    pub(super) fn values(&self, statement: &Named, front: Option<&[u8]>) -> Option<Arc<Bound>> {
        let snapshot = self.desk.gateway.snapshot();
        let vetted = &statement.vetted;
        values::read(&snapshot, vetted.text(), vetted.places(), &statement.types, front?)
    }
}
