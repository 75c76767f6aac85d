//! Names that a client makes: of prepared statements, and of portals and cursors.
//!
//! Invariant: what the backend knows under a name is what is known here under it, so that its use is decided.

use doorward_core::Fault;
use tokio::io::AsyncRead;

use super::Up;
use super::decide::PROBE;
use crate::codes;
use crate::relay::link::{NAMES_MAX, Named};
use crate::vet::Vetted;

impl<R: AsyncRead + Unpin> Up<'_, R> {
    /// A name that is taken stays what it was, as in PostgreSQL; and there is a bound to their number.
    pub(super) fn may_be_named(&self, name: &str) -> Result<(), Fault> {
        let state = self.link.state();
        if name == PROBE || (!name.is_empty() && state.statements.contains_key(name)) {
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
    pub(super) fn may_be_portal(&self, name: &str) -> Result<(), Fault> {
        let state = self.link.state();
        if name == PROBE || (!name.is_empty() && state.portals.contains_key(name)) {
            return Err(cursor_exists(name));
        }
        if state.portals.len() >= NAMES_MAX {
            return Err(Fault::new(codes::MESSAGE_TOO_LARGE, "the session has too many portals")
                .hint("Close those that are not used any more."));
        }
        Ok(())
    }

    /// The same for what a text prepares and declares in SQL, on its way from statement to statement.
    pub(super) fn may_make(&self, vetted: &Vetted) -> Result<(), Fault> {
        let (mut prepares, mut declares) = (0, 0);
        let state = self.link.state();
        for (name, _) in vetted.prepared() {
            prepares += 1;
            if *name == *PROBE {
                let text = format!("prepared statement \"{name}\" already exists");
                return Err(Fault::new(codes::NAME, text).backend_code("42P05"));
            }
        }
        for (name, _, _) in vetted.declared() {
            declares += 1;
            // The end of a transaction within the text may have closed it, unless it is held.
            let stays = |known: &&Named| known.confirmed && (known.held || !vetted.is_of_several());
            let stays = state.portals.get(&name).filter(stays).is_some();
            if *name == *PROBE || (stays && !vetted.closes(&name)) {
                return Err(cursor_exists(&name));
            }
        }
        let fits = |known: usize, new: usize| new == 0 || known + new <= NAMES_MAX;
        if fits(state.statements.len(), prepares) && fits(state.portals.len(), declares) {
            return Ok(());
        }
        let text = "the session has too many prepared statements or cursors";
        Err(Fault::new(codes::MESSAGE_TOO_LARGE, text)
            .hint("DEALLOCATE or CLOSE those that are not used any more."))
    }
}

fn cursor_exists(name: &str) -> Fault {
    Fault::new(codes::NAME, format!("cursor \"{name}\" already exists")).backend_code("42P03")
}
