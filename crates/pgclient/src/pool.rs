//! A bounded pool of connections to one database under one login.
//!
//! Invariants:
//! - A connection is lent only for a [`Pass`], and only for the length of one request, or of a few reads
//!   that share it (`share.rs`); the role is the lease's and the correlation id is the access's.
//! - At most `size` connections exist: each holds a seat, from before it is dialled until it is closed,
//!   the ones that are being cancelled included. Seats are given in the order in which they were asked for.
//! - A connection that is given back in the midst of something is cancelled and drained before it is
//!   lent again, or closed.
//! - What only reads is asked once more on a fresh connection when the one at hand turns out to be
//!   dead. What changes something is asked again only if the server said that it did not begin.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use doorward_core::{AccessId, Fault, OwnLogin, Pass};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::codes;
use crate::conn::{Ask, Conn};
use crate::encoded::{self, ENCODED_MAX, Encoded};
use crate::error::{Failure, RETRY_AFTER, RunError, unavailable};
use crate::handshake;
use crate::hosts::Wanted;
use crate::request::{Reply, Request, SETTINGS_MAX};
use crate::share::{Queue, SHARE_FROM};
use crate::stream::Dialer;
use crate::target::Target;

/// How much longer than the statement's own timeout the gateway waits before it cancels.
pub(crate) const TIMEOUT_GRACE: Duration = Duration::from_secs(1);
/// How long cancelling and draining a connection may take before it is closed instead.
const RESCUE_MAX: Duration = Duration::from_secs(5);
/// How long what is owed from the last request may keep the next one waiting.
pub(crate) const SETTLE_MAX: Duration = Duration::from_secs(1);
/// The most calls that wait for a connection at one time.
pub(crate) const WAITERS_MAX: usize = 4_096;
/// The first and the longest pause between failing attempts to connect.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The bounds of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// The most connections.
    pub size: usize,
    /// How long a call may wait for a connection.
    pub wait_max: Duration,
    /// How long connecting and logging in may take.
    pub connect_timeout: Duration,
    /// How long a connection may stand idle.
    pub idle_max: Duration,
    /// How old a connection may become.
    pub age_max: Duration,
    /// How long a statement may run.
    pub statement_timeout: Duration,
    /// The most bytes of rows in one answer.
    pub answer_max: u64,
    /// Prepared statements that each connection keeps.
    pub statements_max: usize,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            size: 20,
            wait_max: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(5),
            idle_max: Duration::from_secs(600),
            age_max: Duration::from_secs(3600),
            statement_timeout: Duration::from_secs(30),
            answer_max: 64 << 20,
            statements_max: 256,
        }
    }
}

/// What a pool is doing, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// The most connections.
    pub size: usize,
    /// Connections that stand ready.
    pub idle: usize,
    /// Connections at work, or being cancelled.
    pub in_use: usize,
    /// Calls that wait for one.
    pub waiting: usize,
    /// Attempts to connect that failed in a row.
    pub connect_failures: u32,
}

/// A pool of connections. A clone is the same pool.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

pub(crate) struct Inner {
    dialer: Dialer,
    wanted: Wanted,
    login: OwnLogin,
    pub(crate) settings: PoolSettings,
    pub(crate) seats: Arc<Semaphore>,
    /// Reads that wait for company and a connection.
    pub(crate) queue: Mutex<Queue>,
    idle: Mutex<Vec<Conn>>,
    waiting: AtomicUsize,
    backoff: Mutex<Backoff>,
}

#[derive(Default)]
struct Backoff {
    failures: u32,
    until: Option<Instant>,
    cause: String,
}

impl Pool {
    /// A pool that connects when it is first asked. Blocks on the files of trusted certificates, so it
    /// is made at load only.
    pub fn new(target: Target, login: impl Into<OwnLogin>, settings: PoolSettings) -> std::io::Result<Self> {
        Ok(Self::of(Dialer::new(target)?, Wanted::Primary, login.into(), settings))
    }

    /// A pool of connections that are dialled like this.
    pub(crate) fn of(dialer: Dialer, wanted: Wanted, login: OwnLogin, settings: PoolSettings) -> Self {
        Self(Arc::new(Inner {
            dialer,
            wanted,
            login,
            settings,
            seats: Arc::new(Semaphore::new(settings.size)),
            queue: Mutex::default(),
            idle: Mutex::new(Vec::with_capacity(settings.size)),
            waiting: AtomicUsize::new(0),
            backoff: Mutex::default(),
        }))
    }

    /// Runs one statement as one transaction, under the pass's role, in one round trip.
    ///
    /// Dropping the future cancels the statement.
    pub async fn run(&self, pass: &mut Pass, request: &Request<'_>) -> Result<Reply, RunError> {
        check_settings(request)?;
        let inner = &self.0;
        let span = request.timeout.unwrap_or(Duration::MAX).min(inner.settings.statement_timeout);
        let span = span.max(Duration::from_millis(1));
        let millis = span.as_millis().to_string();
        let mut room = [0; AccessId::TEXT_BYTES];
        let access_id = pass.id().write(&mut room);
        let role = pass.lease().role().map_or("none", |role| role.as_str());
        let own = [
            ("statement_timeout", millis.as_str()),
            ("doorward.access_id", access_id),
            // `off` is what it is already, unless a default says otherwise: then a change fails, as it should.
            ("transaction_read_only", if request.read_only { "on" } else { "off" }),
            ("role", role),
        ];
        let bytes_max = request.bytes_max.unwrap_or(u64::MAX).min(inner.settings.answer_max);
        if inner.may_share(request, &own) {
            let encoded = Encoded::new(request, &own).map_err(|failure| failure.run_error(true))?;
            return inner.share(encoded, bytes_max, span).await;
        }
        let discard = !request.read_only || request.calls_function;
        let ask = Ask { request, own: &own, bytes_max, discard };
        // Boxed: the future of a read that is shared, which under load is nearly each, would have room for this.
        Box::pin(inner.ask_alone(&ask, span)).await
    }

    /// What the pool is doing.
    pub fn stats(&self) -> PoolStats {
        let inner = &self.0;
        PoolStats {
            size: inner.settings.size,
            idle: inner.idle.lock().len(),
            in_use: inner.settings.size.saturating_sub(inner.seats.available_permits()),
            waiting: inner.waiting.load(Ordering::Relaxed) + inner.queue.lock().len(),
            connect_failures: inner.backoff.lock().failures,
        }
    }

    /// Where the pool connects to.
    pub fn target(&self) -> &Target {
        self.0.dialer.target()
    }

    /// A connection of the gateway's own, outside of the pool's seats: for the login check and the catalogue.
    pub(crate) async fn own_connection(&self) -> Result<Conn, Fault> {
        self.0.connect().await
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("target", &self.0.dialer.target()).field("stats", &self.stats()).finish()
    }
}

impl Inner {
    /// Asks on a connection of its own, for as long as `span`.
    async fn ask_alone(self: &Arc<Self>, ask: &Ask<'_>, span: Duration) -> Result<Reply, RunError> {
        let mut lent = self.seat().await?;
        lent.connection(true).await?;
        let read_only = ask.request.read_only;
        let mut again = true;
        loop {
            let conn = lent.conn.as_mut().ok_or_else(|| unavailable("no connection"))?;
            let failure = match timeout(span.saturating_add(TIMEOUT_GRACE), conn.exchange(ask)).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(failure)) => failure,
                // The guard cancels what still runs.
                Err(_) => return Err(deadline_passed(read_only).into()),
            };
            match may_repeat(&failure, conn, read_only) {
                Repeat::SameConnection if again && is_done(timeout(SETTLE_MAX, conn.discard()).await) => {}
                Repeat::Fresh if again => {
                    lent.conn = None;
                    lent.connection(false).await?;
                }
                _ => return Err(failure.run_error(read_only)),
            }
            again = false;
        }
    }

    /// Whether a request goes together with others: a small read, once some connections are at work.
    fn may_share(&self, request: &Request<'_>, own: &[(&str, &str)]) -> bool {
        let in_use = self.settings.size.saturating_sub(self.seats.available_permits());
        request.read_only
            && !request.calls_function
            && in_use >= SHARE_FROM.min(self.settings.size)
            && encoded::size(request, own) <= ENCODED_MAX
    }

    /// Waits for a seat: the right to hold one connection.
    async fn seat(self: &Arc<Self>) -> Result<Lent, Fault> {
        let seat = match self.seats.clone().try_acquire_owned() {
            Ok(seat) => seat,
            Err(_) => self.wait_for_seat().await?,
        };
        Ok(Lent { inner: self.clone(), conn: None, seat: Some(seat) })
    }

    async fn wait_for_seat(&self) -> Result<OwnedSemaphorePermit, Fault> {
        let waiting = Waiting::new(&self.waiting);
        if waiting.before >= WAITERS_MAX {
            return Err(exhausted(self.settings.wait_max));
        }
        let seat = timeout(self.settings.wait_max, self.seats.clone().acquire_owned()).await;
        match seat {
            Ok(Ok(seat)) => Ok(seat),
            Ok(Err(_)) | Err(_) => Err(exhausted(self.settings.wait_max)),
        }
    }

    /// Takes an idle connection that lives: the one used last, so that the others may age out.
    async fn idle_connection(&self) -> Option<Conn> {
        loop {
            let mut conn = self.idle.lock().pop()?;
            if conn.idle_since.elapsed() > self.settings.idle_max || conn.is_superseded() {
                continue;
            }
            if let Ok(Ok(())) = timeout(SETTLE_MAX, conn.settle()).await
                && conn.is_reusable()
            {
                return Some(conn);
            }
        }
    }

    async fn connect(&self) -> Result<Conn, Fault> {
        self.backoff.lock().check()?;
        let login = self.login.current().await?;
        let PoolSettings { statements_max, connect_timeout, .. } = self.settings;
        let connected =
            handshake::connect(&self.dialer, self.wanted, &login, statements_max, connect_timeout).await;
        let result = connected.map_err(|failure| failure.connect_fault());
        let mut backoff = self.backoff.lock();
        match &result {
            Ok(_) => *backoff = Backoff::default(),
            Err(fault) => {
                backoff.failed(fault.cause_text().unwrap_or_default());
                tracing::warn!(database = %self.dialer.target(), cause = fault.cause_text(), "cannot connect");
            }
        }
        result
    }

    /// Takes a connection back that is in step.
    fn keep(&self, mut conn: Conn) {
        if conn.born.elapsed() > self.settings.age_max || conn.is_superseded() {
            return;
        }
        conn.idle_since = Instant::now();
        let mut idle = self.idle.lock();
        // The oldest stands first; one is looked at each time, so all are in time.
        if idle.first().is_some_and(|oldest| oldest.idle_since.elapsed() > self.settings.idle_max) {
            idle.remove(0);
        }
        idle.push(conn);
    }

    /// Cancels what runs on a connection and brings it back in step; closes it if that takes too long.
    async fn rescue(self: Arc<Self>, mut conn: Conn, _seat: OwnedSemaphorePermit) {
        let (host, key) = (conn.host(), conn.cancel_key);
        let rescued = timeout(RESCUE_MAX, async {
            handshake::cancel(&self.dialer, host, key).await?;
            if !conn.can_drain() {
                return Ok(());
            }
            conn.drain().await?;
            // If the cancel comes late it hits this, and not the next borrower's statement.
            conn.discard().await
        });
        if is_done(rescued.await) && conn.is_reusable() {
            self.keep(conn);
        }
    }
}

impl Backoff {
    /// Refuses at once while the pause after a failed attempt lasts.
    fn check(&self) -> Result<(), Fault> {
        let wait = self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        if wait.is_zero() {
            return Ok(());
        }
        Err(unavailable(format_args!("a moment ago: {}", self.cause)).retry_after(wait.max(RETRY_AFTER)))
    }

    fn failed(&mut self, cause: &str) {
        self.cause = cause.to_owned();
        let pause = BACKOFF_MIN.saturating_mul(1 << self.failures.min(8)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(Instant::now() + pause);
    }
}

/// A connection out of the pool, with its seat.
pub(crate) struct Lent {
    pub(crate) inner: Arc<Inner>,
    pub(crate) conn: Option<Conn>,
    pub(crate) seat: Option<OwnedSemaphorePermit>,
}

impl Lent {
    /// Takes an idle connection, or connects.
    pub(crate) async fn connection(&mut self, idle: bool) -> Result<(), Fault> {
        let at_hand = if idle { self.inner.idle_connection().await } else { None };
        self.conn = Some(match at_hand {
            Some(conn) => conn,
            // Boxed: every call's future would have room for a handshake.
            None => Box::pin(self.inner.connect()).await?,
        });
        Ok(())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (Some(conn), Some(seat)) = (self.conn.take(), self.seat.take()) else { return };
        if conn.is_reusable() {
            self.inner.keep(conn);
        } else if conn.is_busy()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Bounded by the seats: the task holds this one until it is done.
            runtime.spawn(self.inner.clone().rescue(conn, seat));
        }
    }
}

/// Counts one waiting call.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Repeat {
    No,
    SameConnection,
    Fresh,
}

fn may_repeat(failure: &Failure, conn: &Conn, read_only: bool) -> Repeat {
    match failure {
        // Refused before it ran: the statement must be prepared anew.
        Failure::Server(error) if is_stale_plan(error) => Repeat::SameConnection,
        // What an earlier request left in the session, such as a timeout of a millisecond, ended this one
        // within its reset.
        Failure::Server(_) if conn.is_unbegun() => Repeat::Fresh,
        // The server ended the session before it answered anything: nothing was begun.
        Failure::Fatal(error) if error.is_shutdown() && (read_only || conn.is_first_word()) => Repeat::Fresh,
        Failure::Io(_) if read_only && conn.is_unheard() => Repeat::Fresh,
        _ => Repeat::No,
    }
}

/// A prepared statement whose result type has changed, or that code in the database has deallocated
/// or forestalled.
pub(crate) fn is_stale_plan(error: &crate::error::ServerError) -> bool {
    match &*error.sqlstate {
        "0A000" => error.routine.as_deref() == Some("RevalidateCachedQuery"),
        "26000" | "42P05" => true,
        _ => false,
    }
}

/// Names that the pool sets itself, or that nobody sets.
fn check_settings(request: &Request<'_>) -> Result<(), Fault> {
    const RESERVED: [&str; 9] = [
        "role",
        "session_authorization",
        "statement_timeout",
        "transaction_read_only",
        "transaction_isolation",
        "transaction_deferrable",
        "default_transaction_read_only",
        "client_encoding",
        "doorward.access_id",
    ];
    if request.settings.len() > SETTINGS_MAX {
        return Err(Fault::new(codes::REQUEST_INVALID, "the request brings too many settings"));
    }
    let reserved = |name: &str| RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name));
    match request.settings.iter().find(|(name, _)| reserved(name)) {
        None => Ok(()),
        Some((name, _)) => {
            Err(Fault::new(codes::REQUEST_INVALID, format!("the setting {name} is the pool's to set")))
        }
    }
}

pub(crate) fn is_done<E>(result: Result<Result<(), Failure>, E>) -> bool {
    matches!(result, Ok(Ok(())))
}

pub(crate) fn exhausted(waited: Duration) -> Fault {
    Fault::new(codes::POOL_EXHAUSTED, "all connections to the database are busy")
        .hint("Try again in a moment; the operator can raise the resource's `pool.size`.")
        .retry_after(waited.max(Duration::from_secs(1)))
}

pub(crate) fn deadline_passed(read_only: bool) -> Fault {
    if read_only {
        Fault::new(codes::TIMEOUT, "the database did not answer in time, and was told to stop")
            .hint("Ask for less: a filter, a limit, fewer columns.")
    } else {
        Fault::new(codes::OUTCOME_UNKNOWN, "the database did not confirm the change in time")
            .hint("Read the rows back before you send the change again: it may have been committed.")
    }
}
