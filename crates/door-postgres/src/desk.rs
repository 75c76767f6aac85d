//! What a session knows for as long as it lives.

use std::sync::Arc;

use doorward_core::{Arrival, Gateway, ResourceName, RoleName, Session};
use doorward_pgclient::Canceller;
use doorward_sql::Parser;
use parking_lot::Mutex;

use crate::correlate::Client;
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
    pub(crate) canceller: Canceller,
    /// The client, as it describes itself now.
    pub(crate) client: Mutex<Arc<Client>>,
}
