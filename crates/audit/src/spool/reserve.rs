//! Room on the spool's disk for what makes room: a record leaves the spool when the store has it, and before that its
//! leaf is written to the log on the same disk. On a disk that the records themselves have filled nothing could ever
//! leave; so a file holds room for the leaves of one segment, and is removed when somebody needs it.
//!
//! Invariant: while the room is given up, the spool takes no records, and it takes it back only when the disk has as
//! much again beside it. So what was given up is not filled with records.

use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::files::{Files, is_full};

/// The file that holds the room.
pub(crate) const FILE: &str = "reserve";

/// The room that is kept, and whether it is.
pub(crate) struct Reserve {
    files: Arc<dyn Files>,
    bytes: u64,
    state: Mutex<State>,
}

/// What is known of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nobody has looked yet.
    Unknown,
    Held,
    GivenUp,
}

impl Reserve {
    pub(crate) fn new(files: Arc<dyn Files>, bytes: u64) -> Self {
        Self { files, bytes, state: Mutex::new(State::Unknown) }
    }

    /// Makes sure that the room is there. Whoever needs it waits while the guard lives, so that a record under way does
    /// not take it. Fails as a full disk does while the room cannot be had.
    pub(crate) fn hold(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        if *state == State::GivenUp {
            let free = self.files.free()?.unwrap_or(u64::MAX);
            if free < self.bytes.saturating_mul(2) {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        if *state != State::Held {
            self.files.set_aside(FILE, self.bytes)?;
            *state = State::Held;
        }
        Ok(state)
    }

    /// Gives the room to whom a full disk stopped, who tries again. Whether that is any use.
    pub(crate) fn give_up(&self, error: &io::Error) -> bool {
        if !is_full(error) {
            return false;
        }
        let mut state = self.state.lock();
        *state = State::GivenUp;
        match self.files.remove(FILE) {
            Ok(()) => {
                tracing::warn!("the disk is full; the spool's reserve is used to empty it");
                true
            }
            Err(_) => false,
        }
    }
}
