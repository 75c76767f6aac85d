//! A client for threads that may block: the store's shipper, key stores, the command line.
//!
//! [`Client`] is one connection with a small runtime of its own. Sessions are set up alike: text is UTF-8,
//! times are UTC, the search path is `pg_catalog` alone (name things with their schema), and the server
//! bounds each statement and each idle transaction. COPY IN streams what the caller encodes.
//!
//! Constraints: never to be used on an async runtime's thread; one statement at a time; a connection that
//! has failed stays failed, and its owner connects again. A commit whose answer is lost is told apart from
//! all other errors ([`ClientError::CommitUnknown`]), because only its caller can find out what became of it.

mod copy;
mod error;
mod row;
mod session;

use std::sync::Arc;
use std::time::Duration;

use doorward_core::Login;
use tokio::runtime::Runtime;

pub use copy::CopyIn;
pub use error::ClientError;

use crate::error::Failure;
use crate::handshake;
use crate::hosts::Wanted;
use crate::request::{Reply, Row};
use crate::stream::Dialer;
use crate::target::Target;
use session::Session;

/// How much longer than the server's own bound an answer is waited for.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// How a client connects, and what bounds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What the session calls itself in the server's views and logs.
    pub application_name: Box<str>,
    /// How long connecting and logging in may take.
    pub connect_timeout: Duration,
    /// How long a statement may run, a COPY with all of its data included.
    pub statement_timeout: Duration,
    /// How long a transaction may stand idle before the server ends the session.
    pub idle_timeout: Duration,
    /// The most bytes of rows that [`Client::query`] keeps.
    pub answer_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            application_name: "doorward".into(),
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            answer_max: 256 << 20,
        }
    }
}

/// A value of a statement's `$1`, `$2` …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Param<'a> {
    /// NULL.
    Null,
    /// Text, or the text form of any type that the statement asks for.
    Text(&'a str),
    /// A number.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// Bytes, for `bytea`.
    Bytes(&'a [u8]),
}

/// One connection, used from one thread at a time.
pub struct Client {
    session: Session,
    answer_max: u64,
    /// Taken when the client is dropped: a runtime must not be dropped where blocking is forbidden.
    runtime: Option<Runtime>,
}

impl Client {
    /// Connects to the primary, logs in and sets the session up. Blocks.
    pub fn connect(target: &Target, login: &Arc<Login>, options: &Options) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ClientError::Unreachable(error.to_string()))?;
        let dialer = Dialer::new(target.clone()).map_err(|error| ClientError::Login(error.to_string()))?;
        let connecting = async {
            let name = [("application_name", &*options.application_name)];
            let span_max = options.connect_timeout;
            let logged_in = handshake::log_in(&dialer, Wanted::Primary, login, &name, span_max).await?;
            let mut session = Session::new(logged_in, options.statement_timeout + ANSWER_GRACE);
            session.simple(&set_up(options)).await?;
            Ok::<_, Failure>(session)
        };
        let connected =
            runtime.block_on(async { tokio::time::timeout(options.connect_timeout, connecting).await });
        let session = match connected {
            Ok(Ok(session)) => session,
            Ok(Err(failure)) => return Err(ClientError::of_connecting(failure)),
            Err(_) => return Err(ClientError::Unreachable("connecting took too long".to_owned())),
        };
        Ok(Self { session, answer_max: options.answer_max, runtime: Some(runtime) })
    }

    /// Runs one statement and answers how many rows it changed.
    pub fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64, ClientError> {
        Ok(self.query(sql, params)?.affected())
    }

    /// Runs one statement and keeps all of its rows.
    pub fn query(&mut self, sql: &str, params: &[Param<'_>]) -> Result<Reply, ClientError> {
        let answer_max = self.answer_max;
        let mut reply = Reply::default();
        let mut data = bytes::BytesMut::new();
        let answered = self.run(async |session| {
            session
                .ask(sql, params, &mut |row| {
                    if u64::try_from(data.len() + row.len()).unwrap_or(u64::MAX) > answer_max {
                        return Err(Failure::TooLarge(answer_max));
                    }
                    data.extend_from_slice(&row);
                    reply.ends.push(data.len());
                    Ok(())
                })
                .await
        })?;
        reply.data = data.freeze();
        reply.fields = answered.fields;
        reply.affected = answered.affected;
        Ok(reply)
    }

    /// Runs one statement and shows each row as it comes, so that an answer of any size needs little
    /// memory. When `each` says `false`, the rest is passed over.
    pub fn query_each(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
        mut each: impl FnMut(Row<'_>) -> bool,
    ) -> Result<(), ClientError> {
        let mut wanted = true;
        self.run(async |session| {
            session
                .ask(sql, params, &mut |data| {
                    wanted = wanted && each(Row::of(&data));
                    Ok(())
                })
                .await
        })?;
        Ok(())
    }

    /// Runs statements that take no values and answer no rows, separated by `;`: one implicit transaction,
    /// unless they say otherwise.
    pub fn batch(&mut self, sql: &str) -> Result<(), ClientError> {
        self.run(async |session| session.simple(sql).await.map(drop))
    }

    /// Begins a transaction.
    pub fn begin(&mut self) -> Result<(), ClientError> {
        self.batch("BEGIN")
    }

    /// Ends the transaction, and makes sure that it was committed: the server answers COMMIT of a failed
    /// transaction without an error.
    pub fn commit(&mut self) -> Result<(), ClientError> {
        match self.run(async |session| session.simple("COMMIT").await) {
            Ok(tag) if &*tag == "COMMIT" => Ok(()),
            Ok(_) => Err(ClientError::RolledBack),
            Err(ClientError::Lost(cause)) => Err(ClientError::CommitUnknown(cause)),
            Err(other) => Err(other),
        }
    }

    /// Undoes the transaction, if there is one and the connection still lives.
    pub fn rollback(&mut self) {
        if self.session.in_transaction() && !self.session.is_broken() {
            // A connection that fails here is broken, and the server undoes what it held.
            let _ = self.batch("ROLLBACK");
        }
    }

    /// Runs `work` in a transaction: committed when it succeeds, undone when it does not.
    pub fn transaction<T, E: From<ClientError>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.begin()?;
        match work(self) {
            Ok(done) => {
                self.commit()?;
                Ok(done)
            }
            Err(error) => {
                self.rollback();
                Err(error)
            }
        }
    }

    /// Begins a `COPY … FROM STDIN`; the data is written to what this answers.
    pub fn copy_in(&mut self, sql: &str) -> Result<CopyIn<'_>, ClientError> {
        self.run(async |session| session.copy_begin(sql).await)?;
        Ok(CopyIn::new(self))
    }

    /// Whether the connection has failed, and another one is needed.
    pub fn is_broken(&self) -> bool {
        self.session.is_broken()
    }

    fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, ClientError> {
        if self.session.is_broken() {
            return Err(ClientError::Lost("the connection has failed before".to_owned()));
        }
        let Some(runtime) = &self.runtime else {
            return Err(ClientError::Lost("the client is closed".to_owned()));
        };
        let done = runtime.block_on(work(&mut self.session));
        done.map_err(|failure| {
            self.session.note(&failure);
            ClientError::of_statement(failure)
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            let _inside = runtime.enter();
            self.session.say_goodbye();
            drop(_inside);
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("broken", &self.is_broken()).finish_non_exhaustive()
    }
}

/// What every session is set to. An object of the database cannot stand in for one of the system's, and
/// values come in one form.
fn set_up(options: &Options) -> String {
    format!(
        "SET search_path = pg_catalog; SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; \
         SET IntervalStyle = 'iso_8601'; SET bytea_output = 'hex'; SET standard_conforming_strings = on; \
         SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {}",
        options.statement_timeout.as_millis(),
        options.idle_timeout.as_millis(),
    )
}
