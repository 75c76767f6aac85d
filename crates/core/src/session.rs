//! A long session: one proof of identity, many calls. Each call is decided under today's rules.

use std::sync::Arc;

use crate::codes;
use crate::fault::Fault;
use crate::name::AccessId;
use crate::principal::Principal;
use crate::snapshot::Snapshot;
use crate::time::Timestamp;

/// A caller who has proven who it is and stays connected. Only the road makes one, at login.
#[derive(Debug)]
pub struct Session {
    id: AccessId,
    principal: Arc<Principal>,
}

/// Whether a session may go on.
#[derive(Debug)]
pub enum Standing {
    /// It may.
    Live,
    /// Its time is over, but the open transaction may be finished until then.
    Ending {
        /// When it is cut in any case.
        until: Timestamp,
    },
    /// It ends now.
    Over(Fault),
}

impl Session {
    pub(crate) fn new(id: AccessId, principal: Arc<Principal>) -> Self {
        Self { id, principal }
    }

    /// The session's id: that of its login's record.
    pub fn id(&self) -> AccessId {
        self.id
    }

    /// Who it belongs to.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// Whether it may go on, under the given configuration. `mid_transaction` grants the grace.
    /// A wire door also asks when nothing comes in: at [`Session::cut_at`].
    pub fn standing(&self, snapshot: &Snapshot, now: Timestamp, mid_transaction: bool) -> Standing {
        if let Err(fault) = snapshot.authenticator.stands(&self.principal, now) {
            return Standing::Over(fault);
        }
        let Some(expires_at) = self.principal.expires_at.filter(|at| *at <= now) else {
            return Standing::Live;
        };
        let until = expires_at.plus(snapshot.deadlines.session_grace);
        if mid_transaction && now < until {
            return Standing::Ending { until };
        }
        Standing::Over(
            Fault::new(codes::SESSION_EXPIRED, "the token that opened this session has expired")
                .hint("Reconnect with a fresh token."),
        )
    }

    /// When the session is cut in any case; `None` for a proof that does not expire.
    pub fn cut_at(&self, snapshot: &Snapshot) -> Option<Timestamp> {
        self.principal.expires_at.map(|at| at.plus(snapshot.deadlines.session_grace))
    }
}
