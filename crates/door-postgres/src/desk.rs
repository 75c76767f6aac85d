//! What a session knows for as long as it lives.

use std::sync::Arc;

use doorward_core::{Arrival, Gateway, Lease, ResourceName, RoleName, Session};
use doorward_pgclient::Server;
use doorward_sql::Parser;
use parking_lot::Mutex;

use crate::correlate::Client;
use crate::keys::Cancels;
use crate::pool::Key;
use crate::replication::Replication;
use crate::resource::WireResource;

/// One open session.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) session: Session,
    pub(crate) arrival: Arrival,
    pub(crate) resource: ResourceName,
    pub(crate) role: RoleName,
    /// What it replicates, if it speaks the replication protocol.
    pub(crate) replication: Option<Replication>,
    /// The backend behind it, as it was configured when the session began.
    pub(crate) wire: Arc<WireResource>,
    /// Reads statements, and remembers those that it has read.
    pub(crate) parser: Arc<Parser>,
    /// Cancels what runs, wherever it does.
    pub(crate) cancels: Arc<Cancels>,
    /// The credential that was lent for opening the session, and the connections that it opens.
    pub(crate) lease: Lease,
    pub(crate) key: Arc<Key>,
    /// Whether transactions that only read go to replicas, and all others to the primary.
    pub(crate) splits: bool,
    /// The server that the session is on, where it is one of several, for as long as the session lives.
    pub(crate) server: Option<Server>,
    /// What the backend knows the session by, until the client says more.
    pub(crate) application_name: Box<str>,
    /// Whose turn it is when the session waits for a connection.
    pub(crate) who: Arc<str>,
    /// The client, as it describes itself now.
    pub(crate) client: Mutex<Arc<Client>>,
}
