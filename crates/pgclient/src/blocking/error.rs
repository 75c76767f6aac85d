//! What can go wrong for a blocking client.

use crate::error::{Failure, ServerError};

/// Why a statement has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// PostgreSQL answered with an error; the connection lives on. Within a transaction, it has failed.
    #[error("{0}")]
    Server(Box<ServerError>),
    /// The server cannot be reached, or is starting, stopping or full.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// The server does not accept the login, or is not who it should be.
    #[error("the database does not accept the login: {0}")]
    Login(String),
    /// The connection broke. What was not committed is undone.
    #[error("the connection to the database is lost: {0}")]
    Lost(String),
    /// The connection broke after COMMIT was sent and before it was answered.
    #[error("the connection to the database was lost during COMMIT; its outcome is not known: {0}")]
    CommitUnknown(String),
    /// COMMIT found a transaction that had failed.
    #[error("the database rolled the transaction back")]
    RolledBack,
    /// The answer passed its bound; the rest was not kept.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(u64),
    /// The statement cannot be sent.
    #[error("the statement cannot be sent: {0}")]
    Unsendable(String),
}

impl ClientError {
    /// What the server said, if it said it.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Self::Server(error) => Some(error),
            _ => None,
        }
    }

    /// The SQLSTATE of the server's error.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(|error| &*error.sqlstate)
    }

    pub(super) fn of_connecting(failure: Failure) -> Self {
        match failure {
            Failure::Fatal(error) | Failure::Server(error) if error.is_shutdown() => {
                Self::Unreachable(error.to_string())
            }
            Failure::Fatal(error) | Failure::Server(error) => Self::Login(error.to_string()),
            Failure::Login(reason) => Self::Login(reason.to_owned()),
            // A proof that does not fit, or a certificate that is not trusted, does not mend itself.
            Failure::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Self::Login(error.to_string())
            }
            other => Self::Unreachable(other.to_string()),
        }
    }

    pub(super) fn of_statement(failure: Failure) -> Self {
        match failure {
            Failure::Server(error) => Self::Server(error),
            Failure::TooLarge(max) => Self::TooLarge(max),
            Failure::RequestTooLarge(_) | Failure::Unsendable(_) => Self::Unsendable(failure.to_string()),
            other => Self::Lost(other.to_string()),
        }
    }
}
