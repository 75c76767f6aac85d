//! Names that a client makes: of prepared statements, and of portals and cursors.
//!
//! Invariant: what the backend knows under a name is what is known here under it, so that its use is decided.

use doorward_core::Fault;
use tokio::io::AsyncRead;

use super::Up;
use super::decide::PROBE;
use crate::codes;
use crate::relay::link::Named;
use crate::relay::table::{Full, NAMES_MAX, TEXTS_BYTES_MAX};
use crate::vet::Vetted;

impl<R: AsyncRead + Unpin> Up<'_, R> {
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
        for (name, prepared) in vetted.prepared() {
            prepares = (prepares.0 + 1, prepares.1 + name.len() + prepared.text().len());
            if *name == *PROBE {
                let text = format!("prepared statement \"{name}\" already exists");
                return Err(Fault::new(codes::NAME, text).backend_code("42P05"));
            }
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
