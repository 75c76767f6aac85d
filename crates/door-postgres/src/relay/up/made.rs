//! Names that a client makes: of prepared statements, and of portals and cursors.
//!
//! Invariants: what the backend knows under a name is what is known here under it, so that its use is decided; the
//! gateway's own names there are nobody else's.

use doorward_core::{Action, Fault, Verb};
use tokio::io::AsyncRead;

use super::decide::PROBE;
use super::{Step, Up};
use crate::codes;
use crate::pool::ORIGIN_PREFIX;
use crate::relay::Ended;
use crate::relay::link::Named;
use crate::relay::table::{Full, NAMES_MAX, TEXTS_BYTES_MAX};
use crate::vet::{Vetted, not_prepared};

impl<R: AsyncRead + Unpin> Up<'_, R> {
    /// Waits until it is known what stands under a name, unless that is the affair of this batch: within one, an error
    /// ends all, so that what was not made is not used either. Whether the message still counts: this batch may have
    /// failed meanwhile.
    pub(super) async fn settles(&mut self, portal: bool, name: &str) -> Result<bool, Ended> {
        if self.link.state().is_unsettled(portal, name, self.batch) {
            self.until_answered(|state| state.queue.is_empty()).await?;
        }
        Ok(!self.ignored())
    }

    /// The same before a text that takes names of prepared statements, or gives them, in SQL.
    pub(super) async fn settles_for(&mut self, vetted: &Vetted) -> Result<bool, Ended> {
        let pending = vetted.names_statements() && !self.link.state().queue.is_empty();
        if pending {
            self.until_answered(|state| state.queue.is_empty()).await?;
        }
        Ok(!self.ignored())
    }

    /// A name that is taken stays what it was, as in PostgreSQL; and there is a bound to their number, and to what their
    /// texts take together.
    pub(super) fn may_be_named(&self, name: &str, bytes: usize) -> Result<(), Fault> {
        let state = self.link.state();
        if name == PROBE || (!name.is_empty() && state.statements.contains(name)) {
            let text = format!("prepared statement \"{name}\" already exists");
            return Err(Fault::new(codes::NAME, text).backend_code("42P05"));
        }
        state.statements.has_room_for(name, bytes).map_err(|full| no_room(full, "prepared statements"))
    }

    /// The same for a portal.
    pub(super) fn may_be_portal(&self, name: &str, bytes: usize) -> Result<(), Fault> {
        let state = self.link.state();
        if name == PROBE || (!name.is_empty() && state.portals.contains(name)) {
            return Err(cursor_exists(name));
        }
        state.portals.has_room_for(name, bytes).map_err(|full| no_room(full, "portals"))
    }

    /// The same for what a text prepares and declares in SQL, on its way from statement to statement.
    pub(super) fn may_make(&self, vetted: &Vetted) -> Result<(), Fault> {
        let (mut prepares, mut declares) = ((0, 0), (0, 0));
        let state = self.link.state();
        let is_gateways =
            |name: &str| name == PROBE || (state.sharing.is_some() && name.starts_with(ORIGIN_PREFIX));
        for (name, prepared) in vetted.prepared() {
            prepares = (prepares.0 + 1, prepares.1 + name.len() + prepared.text().len());
            let of_protocol = state.statements.get(&name).is_some_and(|named| named.origin.is_some());
            if is_gateways(&name) || of_protocol {
                let text = format!("prepared statement \"{name}\" already exists");
                return Err(Fault::new(codes::NAME, text).backend_code("42P05"));
            }
        }
        if let Some(name) = vetted.deallocated().find(|name| is_gateways(name)) {
            return Err(not_prepared(name));
        }
        for (name, declared, _) in vetted.declared() {
            declares = (declares.0 + 1, declares.1 + name.len() + declared.text().len());
            // The end of a transaction within the text may have closed it, unless it is held.
            let stays =
                |known: &&Named| known.confirmed && !known.closing && (known.held || !vetted.is_of_several());
            let stays = state.portals.get(&name).filter(stays).is_some();
            if *name == *PROBE || (stays && !vetted.closes(&name)) {
                return Err(cursor_exists(&name));
            }
        }
        let (statements, portals) = (&state.statements, &state.portals);
        statements.room(prepares.0, prepares.1).map_err(|full| no_room(full, "prepared statements"))?;
        portals.room(declares.0, declares.1).map_err(|full| no_room(full, "cursors"))
    }

    /// A portal's end is on its way: it is known until it has come, because a failure before it leaves the portal there.
    /// The name for which to wait. SQL cannot spell the empty one.
    pub(super) fn close_portal(&self, name: &str, there: bool) -> Option<Box<str>> {
        let portals = &mut self.link.state().portals;
        if !there || name.is_empty() {
            portals.remove(name);
            return None;
        }
        portals.get_mut(name)?.closing = true;
        Some(name.into())
    }

    /// Waits until it is known whether a portal is still there whose end is on its way.
    pub(super) async fn await_closing(&mut self, name: &str) -> Step {
        if !self.link.state().portals.get(name).is_some_and(|named| named.closing) {
            return Ok(());
        }
        self.until_answered(|state| state.queue.is_empty()).await
    }

    /// What reads on from cursors, and then looks names up, is one text only if the cursors leave names what they are.
    pub(super) fn may_read_on(&self, vetted: &Vetted) -> Result<(), Fault> {
        if !vetted.is_several() || !vetted.asks_names() {
            return Ok(());
        }
        let state = self.link.state();
        let turns = |action: &Action| matches!(action.verb, Verb::Execute | Verb::Manage);
        let keeps_names = |name: &str| {
            let known = state.portals.get(name).and_then(|named| named.actions.as_ref());
            known.is_some_and(|actions| !actions.as_slice().iter().any(turns))
        };
        let own: Vec<_> = vetted.declared().map(|(name, _, _)| name).collect();
        match vetted.fetches().all(|name| own.iter().any(|own| **own == *name) || keeps_names(name)) {
            true => Ok(()),
            false => {
                let text = "a cursor that the text reads may change what its names mean";
                Err(Fault::new(codes::UNKNOWN_EFFECT, text).hint("Send the statements one by one."))
            }
        }
    }
}

/// The fault of a session that has no room for more of `what`.
fn no_room(full: Full, what: &str) -> Fault {
    let text = match full {
        Full::Names => format!("the session has {NAMES_MAX} {what}, and can have no more"),
        Full::Bytes => {
            format!("the texts of the session's {what} would be larger than {TEXTS_BYTES_MAX} bytes together")
        }
    };
    Fault::new(codes::MESSAGE_TOO_LARGE, text)
        .hint("Close those that are not used any more: DEALLOCATE, CLOSE, or the driver's statement cache set smaller.")
}

fn cursor_exists(name: &str) -> Fault {
    Fault::new(codes::NAME, format!("cursor \"{name}\" already exists")).backend_code("42P03")
}
