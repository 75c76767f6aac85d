//! Connections that a door relays: logged in as the role of a lease, then only bytes.
//!
//! Invariants: no connection without a lease, which takes a permit to make, as the login that it lends; whoever holds a [`Canceller`] can
//! cancel what runs on that one connection and nothing else.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use doorward_core::{Fault, Lease, Login, OwnLogin};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::codes;
use crate::conn::CancelKey;
use crate::handshake;
use crate::hosts::{Server, Wanted};
use crate::pool::{Pool, PoolSettings};
use crate::room::Room;
use crate::stream::{Dialer, Stream};
use crate::target::Target;

/// How long a cancel request may take, its turn included.
const CANCEL_SPAN_MAX: Duration = Duration::from_secs(5);
/// The most cancel requests to one database that are under way at a time: each is a connection beside the pool's.
const CANCELS_MAX: usize = 32;

/// Connects to one database. A clone is the same.
#[derive(Clone)]
pub struct Connector {
    dialer: Dialer,
    cancels: Arc<Semaphore>,
}

/// A connection that has logged in and is ready for a query.
#[derive(Debug)]
pub struct Relayed {
    /// Its bytes.
    pub stream: Stream,
    /// What has been read beyond the login.
    pub input: BytesMut,
    /// The settings that the server reported.
    pub parameters: Vec<(Box<str>, Box<str>)>,
    /// Cancels what runs on it.
    pub canceller: Canceller,
    /// The login that it stands on: kept for as long as the connection is, so that it is not revoked.
    pub login: Arc<Login>,
    /// The server that it is to.
    pub server: Server,
}

/// Cancels what runs on one connection.
#[derive(Clone)]
pub struct Canceller {
    dialer: Dialer,
    host: usize,
    turns: Arc<Semaphore>,
    key: CancelKey,
}

impl Connector {
    /// Reads the trusted certificates; blocks on files, so it is called at load only.
    pub fn new(target: Target) -> std::io::Result<Self> {
        Ok(Self { dialer: Dialer::new(target)?, cancels: Arc::new(Semaphore::new(CANCELS_MAX)) })
    }

    /// A pool of the gateway's own, which knows what this knows of the servers. While there is no primary, it
    /// connects to a replica: it is for reading the catalogue.
    pub fn pool(&self, login: OwnLogin, settings: PoolSettings) -> Pool {
        Pool::of(&Room::new(settings.size), self.dialer.clone(), Wanted::PrimaryFirst, login, settings)
    }

    pub(crate) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Connects to the primary, or to the server at this place, and logs in as the lease says, with these settings of
    /// the session.
    pub async fn connect(
        &self,
        to: Option<usize>,
        lease: &Lease,
        settings: &[(&str, &str)],
        span_max: Duration,
    ) -> Result<Relayed, Fault> {
        let login = lease.login().cloned().ok_or_else(|| {
            Fault::new(codes::REQUEST_INVALID, "there is no login for the connection to the database")
        })?;
        let wanted = to.map_or(Wanted::Primary, Wanted::Host);
        let connected = handshake::log_in(&self.dialer, wanted, &login, settings, span_max).await;
        let connected = connected.map_err(|failure| failure.connect_fault())?;
        let handshake::LoggedIn { stream, input, cancel_key, parameters, server } = connected;
        let (dialer, turns) = (self.dialer.clone(), self.cancels.clone());
        let canceller = Canceller { dialer, host: server.at(), turns, key: cancel_key };
        Ok(Relayed { stream, input, parameters, canceller, login, server })
    }
}

impl Canceller {
    /// The server's process.
    pub fn process(&self) -> i32 {
        self.key.process
    }

    /// The server's place and its process: no two sessions have the same ones.
    pub fn session(&self) -> (usize, i32) {
        (self.host, self.key.process)
    }

    /// Asks the server to cancel; returns when it has done so, or cannot be reached, or there are too many others.
    pub async fn cancel(&self) {
        // A cancel request is never answered: whether it was of use shows on the connection itself.
        let _ = timeout(CANCEL_SPAN_MAX, async {
            let _turn = self.turns.acquire().await;
            handshake::cancel(&self.dialer, self.host, self.key).await
        })
        .await;
    }
}

/// The fault of a call whose connection broke before its answer was complete.
pub fn lost(read_only: bool, cause: impl fmt::Display) -> Fault {
    if read_only {
        Fault::new(codes::BACKEND_LOST, "the connection to the database was lost in mid-answer").cause(cause)
    } else {
        Fault::new(
            codes::OUTCOME_UNKNOWN,
            "the connection to the database was lost before it confirmed the change",
        )
        .hint("Read the rows back before you send the change again: it may have been committed.")
        .cause(cause)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connector").field(self.dialer.target()).finish()
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("process", &self.key.process).finish_non_exhaustive()
    }
}
