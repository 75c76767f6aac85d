//! The store in PostgreSQL, with or without TimescaleDB.

use doorward_pgclient::blocking::{Client, Options};

use super::config::Server;
use super::{Store, StoreError};

/// Connects and checks the schema.
pub(super) fn open(server: &Server) -> Result<Box<dyn Store>, StoreError> {
    let login = server.login.read().map_err(|problem| StoreError::Login(problem.to_string()))?;
    Client::connect(&server.target, &login, &Options::default())?;
    Err(StoreError::Schema("there is no schema `doorward`".to_owned()))
}
