//! What can go wrong at the backend, and how it is said on the road.

use std::fmt;
use std::time::Duration;

use doorward_core::{Fault, Login};

use crate::codes;

/// How long a caller is asked to stay away when the backend cannot be reached.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An error that PostgreSQL answered (ErrorResponse): texts as the server wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`, never translated.
    pub severity: Box<str>,
    /// The five characters of the SQLSTATE.
    pub sqlstate: Box<str>,
    /// The primary message.
    pub message: Box<str>,
    /// More about the problem.
    pub detail: Option<Box<str>>,
    /// What to do about it.
    pub hint: Option<Box<str>>,
    /// Where in the statement, counted in characters from 1.
    pub position: Option<u32>,
    /// The schema of the object that the error is about.
    pub schema: Option<Box<str>>,
    /// The table that the error is about.
    pub table: Option<Box<str>>,
    /// The column that the error is about.
    pub column: Option<Box<str>>,
    /// The constraint that was violated.
    pub constraint: Option<Box<str>>,
    /// The server's function that raised it.
    pub routine: Option<Box<str>>,
}

impl ServerError {
    /// Whether the server closes the connection after this error.
    pub fn is_fatal(&self) -> bool {
        matches!(&*self.severity, "FATAL" | "PANIC")
    }

    /// Whether the server ended the statement because its time was over, or on a cancel request.
    pub fn is_timeout(&self) -> bool {
        &*self.sqlstate == "57014"
    }

    /// The error as a fault. The server's text is the public text of an `ERROR`, as PostgREST shows it.
    pub fn to_fault(&self) -> Fault {
        let fault = if self.is_timeout() {
            Fault::new(codes::TIMEOUT, "the database ended the statement because its time was over").hint(
                "Ask for less: a filter, a limit, fewer columns; or ask the operator for a longer timeout.",
            )
        } else if self.is_shutdown() {
            Fault::new(codes::BACKEND_UNAVAILABLE, "the database is starting, stopping or full")
                .hint("Try again in a moment.")
                .retry_after(RETRY_AFTER)
        } else {
            let fault = Fault::new(codes::BACKEND_REFUSED, self.message.to_string());
            match &self.hint {
                Some(hint) => fault.hint(hint.to_string()),
                None => fault,
            }
        };
        fault.cause(self).backend_code(self.sqlstate.clone())
    }

    /// A setting of the start-up packet has a wrong value, is not known, or not to a pooler before the server.
    fn is_of_settings(&self) -> bool {
        matches!(&*self.sqlstate, "22023" | "42704" | "08P01")
    }

    /// Shutdown, crash recovery, start-up, and "too many connections".
    pub(crate) fn is_shutdown(&self) -> bool {
        matches!(&*self.sqlstate, "57P01" | "57P02" | "57P03" | "57P05" | "53300")
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.sqlstate, self.message)
    }
}

impl std::error::Error for ServerError {}

/// Why a request has no reply.
#[derive(Debug)]
pub enum RunError {
    /// PostgreSQL answered with an error: the door may speak it in its own language.
    Server(Box<ServerError>),
    /// The gateway could not get an answer, or did not want it.
    Fault(Fault),
}

impl RunError {
    /// The error as the road takes it.
    pub fn into_fault(self) -> Fault {
        match self {
            Self::Server(error) => error.to_fault(),
            Self::Fault(fault) => fault,
        }
    }

    /// What the server said, if it said it.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Self::Server(error) => Some(error),
            Self::Fault(_) => None,
        }
    }
}

impl From<RunError> for Fault {
    fn from(error: RunError) -> Self {
        error.into_fault()
    }
}

impl From<Fault> for RunError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What ends an exchange on a connection, before it is told to the road.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The server answered an error; the connection is in step.
    #[error("{0}")]
    Server(Box<ServerError>),
    /// The server closed the connection with an error.
    #[error("{0}")]
    Fatal(Box<ServerError>),
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The server's bytes are not the protocol.
    #[error("{0}")]
    Protocol(#[from] crate::frames::Malformed),
    /// The answer passed its bound.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(u64),
    /// The request cannot be encoded within its bound.
    #[error("the request is larger than {0} bytes")]
    RequestTooLarge(usize),
    /// The request cannot be encoded at all.
    #[error("{0}")]
    Unsendable(&'static str),
    /// Login failed for a reason that repeating does not mend.
    #[error("{0}")]
    Login(&'static str),
    /// The login was made for a role, and can become more than that role.
    #[error("{0}")]
    Membership(String),
    /// None of several servers is the primary: what each of them said.
    #[error("no primary: {0}")]
    NoPrimary(String),
}

impl Failure {
    /// A server that has not answered in time.
    pub(crate) fn late() -> Self {
        Self::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "connecting took too long"))
    }

    /// Whether the server cannot be reached, or takes nobody now.
    pub(crate) fn is_away(&self) -> bool {
        match self {
            Self::Io(_) => true,
            Self::Fatal(error) | Self::Server(error) => error.is_shutdown(),
            _ => false,
        }
    }

    /// Whether it is the login's fault: the server does not know it, or not this proof of it (SQLSTATE class 28), or it
    /// was made for a role and does not fit it.
    pub(crate) fn is_refused_login(&self, login: &Login) -> bool {
        match self {
            Self::Fatal(error) | Self::Server(error) => {
                let of_login =
                    login.membership().is_some() && !error.is_shutdown() && !error.is_of_settings();
                error.sqlstate.starts_with("28") || of_login
            }
            Self::Membership(_) => true,
            _ => false,
        }
    }

    /// The fault of a failed attempt to connect.
    pub(crate) fn connect_fault(&self) -> Fault {
        match self {
            Self::Fatal(error) | Self::Server(error) if !error.is_shutdown() => {
                Fault::new(codes::LOGIN_REFUSED, "the database does not accept the gateway's login")
                    .cause(error)
                    .backend_code(error.sqlstate.clone())
            }
            Self::Login(reason) => {
                Fault::new(codes::LOGIN_REFUSED, "the gateway cannot log in at the database").cause(reason)
            }
            Self::Membership(cause) => {
                let what = "the login that was made for the role is not bounded by it";
                Fault::new(codes::LOGIN_REFUSED, what)
                    .hint("Whoever makes such logins grants each of them the one role, and nothing else.")
                    .cause(cause)
            }
            Self::NoPrimary(said) => Fault::new(
                codes::BACKEND_UNAVAILABLE,
                "the database has no server that takes changes now",
            )
            .hint("Try again in a moment; the gateway's operator sees in the record what each server said.")
            .retry_after(RETRY_AFTER)
            .cause(said),
            other => unavailable(other),
        }
    }

    /// The error of a read whose connection is lost.
    pub(crate) fn lost(&self) -> RunError {
        let kept = match self {
            Self::Protocol(cause) => Self::Protocol(*cause),
            Self::Fatal(error) => Self::Fatal(error.clone()),
            other => Self::Io(std::io::Error::other(other.to_string())),
        };
        kept.run_error(true)
    }

    /// The error of a failed exchange. A change whose answer is lost has an unknown outcome.
    pub(crate) fn run_error(self, read_only: bool) -> RunError {
        let fault = match self {
            Self::Server(error) => return RunError::Server(error),
            // It was cut off before its end: the change may have been committed, or rolled back by the cancel.
            Self::TooLarge(max) if !read_only => Fault::new(
                codes::OUTCOME_UNKNOWN,
                format!("the answer to the change is larger than {max} bytes and was cut off"),
            )
            .hint("Read the rows back before you send the change again, and ask for a smaller answer."),
            Self::TooLarge(max) => {
                Fault::new(codes::ANSWER_TOO_LARGE, format!("the answer is larger than {max} bytes"))
                    .hint("Ask for fewer rows or columns: `limit`, `select`, a filter.")
            }
            Self::RequestTooLarge(max) => {
                Fault::new(codes::REQUEST_TOO_LARGE, format!("the request is larger than {max} bytes"))
                    .hint("Send it in smaller parts.")
            }
            Self::Unsendable(what) => {
                Fault::new(codes::REQUEST_INVALID, "the request cannot be sent to the database").cause(what)
            }
            Self::Protocol(cause) if read_only => {
                Fault::new(codes::PROTOCOL, "the database answered with something that is not understood")
                    .cause(cause)
            }
            other if read_only => {
                Fault::new(codes::BACKEND_LOST, "the connection to the database was lost in mid-answer")
                    .hint("Nothing was changed; try again.")
                    .retry_after(RETRY_AFTER)
                    .cause(other)
            }
            other => Fault::new(
                codes::OUTCOME_UNKNOWN,
                "the connection to the database was lost before it confirmed the change",
            )
            .hint("Read the rows back before you send the change again: it may have been committed.")
            .cause(other),
        };
        RunError::Fault(fault)
    }
}

/// The fault of a database that cannot be reached.
pub(crate) fn unavailable(cause: impl fmt::Display) -> Fault {
    Fault::new(codes::BACKEND_UNAVAILABLE, "the database cannot be reached")
        .hint("Try again in a moment; the gateway's operator sees the cause in the record.")
        .retry_after(RETRY_AFTER)
        .cause(cause)
}
