//! A bounded pool of connections to one database under one login.
//!
//! Invariants:
//! - A connection is lent only for a [`Pass`], and only for the length of one request, or of a few reads
//!   that share it (`share.rs`); the role is the lease's and the correlation id is the access's.
//! - Each connection holds a seat of the resource's [`Room`], from before it is dialled until it is closed,
//!   the ones that stand idle or are being cancelled included; callers wait in the room's line.
//! - A connection that is given back in the midst of something is cancelled and drained before it is
//!   lent again, or closed.
//! - What only reads is asked once more on a fresh connection when the one at hand turns out to be
//!   dead. What changes something is asked again only if the server said that it did not begin.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use doorward_core::{AccessId, BoxFuture, Fault, OwnLogin, Pass, Principal};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::codes;
use crate::conn::{Ask, Conn};
use crate::encoded::{self, ENCODED_MAX, Encoded};
use crate::error::{Failure, RETRY_AFTER, RunError, unavailable};
use crate::handshake;
use crate::hosts::Wanted;
use crate::request::{Reply, Request, SETTINGS_MAX};
use crate::room::{Claimed, Grant, Idle, Room, Seat, Seated, Tenant};
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
/// The name under which a pool's callers share a room with others.
const DOOR: &str = "rest";

/// The bounds of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// The most connections, as far as the room has places.
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
    /// The places of the room, which the pool may share with others.
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
    pub(crate) tenant: Tenant<Conn>,
    /// Reads that wait for company and a connection.
    pub(crate) queue: Mutex<Queue>,
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
    /// A pool with a room of its own.
    ///
    /// # Errors
    /// See [`Pool::in_room`].
    pub fn new(target: Target, login: impl Into<OwnLogin>, settings: PoolSettings) -> std::io::Result<Self> {
        Self::in_room(&Room::new(settings.size), target, login, settings)
    }

    /// A pool that connects when it is first asked, with places of this room. Blocks on the files of trusted
    /// certificates, so it is made at load only.
    ///
    /// # Errors
    /// When those files cannot be read.
    pub fn in_room(
        room: &Room,
        target: Target,
        login: impl Into<OwnLogin>,
        settings: PoolSettings,
    ) -> std::io::Result<Self> {
        Ok(Self::of(room, Dialer::new(target)?, Wanted::Primary, login.into(), settings))
    }

    /// A pool of connections that are dialled like this.
    pub(crate) fn of(
        room: &Room,
        dialer: Dialer,
        wanted: Wanted,
        login: OwnLogin,
        settings: PoolSettings,
    ) -> Self {
        Self(Arc::new(Inner {
            dialer,
            wanted,
            login,
            settings,
            tenant: room.tenant(DOOR, settings.size),
            queue: Mutex::default(),
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
        let principal = pass.permit().principal().clone();
        // Boxed: the future of a read that is shared, which under load is nearly each, would have room for this.
        Box::pin(inner.ask_alone(&ask, span, &principal)).await
    }

    /// What the pool is doing.
    pub fn stats(&self) -> PoolStats {
        let inner = &self.0;
        let counts = inner.tenant.counts();
        PoolStats {
            size: counts.size,
            idle: counts.idle,
            in_use: counts.in_use,
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
    async fn ask_alone(
        self: &Arc<Self>,
        ask: &Ask<'_>,
        span: Duration,
        principal: &Principal,
    ) -> Result<Reply, RunError> {
        let mut lent = self.seat(principal).await?;
        lent.connection().await?;
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
                    lent.end().await;
                    lent.connection().await?;
                }
                _ => return Err(failure.run_error(read_only)),
            }
            again = false;
        }
    }

    /// Whether a request goes together with others: a small read, once some connections are at work.
    fn may_share(&self, request: &Request<'_>, own: &[(&str, &str)]) -> bool {
        request.read_only
            && !request.calls_function
            && encoded::size(request, own) <= ENCODED_MAX
            && self.is_at_work()
    }

    fn is_at_work(&self) -> bool {
        let counts = self.tenant.counts();
        counts.in_use >= SHARE_FROM.min(self.settings.size).min(counts.size) || counts.free == 0
    }

    /// An idle connection, or the right to open one.
    async fn seat(self: &Arc<Self>, principal: &Principal) -> Result<Lent, Fault> {
        let who = || format!("{}\0{}", principal.issuer, principal.subject.reveal()).into();
        let line = match self.tenant.claim(who, (), last) {
            Claimed::Now(grant) => return Ok(self.lend(grant)),
            Claimed::InPlaceOf(closing) => return Ok(self.lend(Grant::Seat(closing.await))),
            Claimed::Later(line) => line,
        };
        let waiting = Waiting::new(&self.waiting);
        let grant = match waiting.before < WAITERS_MAX {
            true => line.granted_within(self.settings.wait_max).await,
            false => None,
        };
        grant.map(|grant| self.lend(grant)).ok_or_else(|| exhausted(self.settings.wait_max))
    }

    pub(crate) fn lend(self: &Arc<Self>, grant: Grant<Conn>) -> Lent {
        let (conn, seat) = match grant {
            Grant::Connection(Idle { conn, seat }) => (Some(conn), seat),
            Grant::Seat(seat) => (None, seat),
        };
        Lent { inner: self.clone(), conn, seat: Some(seat) }
    }

    /// Whether an idle connection may be used again.
    async fn is_fit(&self, conn: &mut Conn) -> bool {
        conn.idle_since.elapsed() <= self.settings.idle_max
            && !conn.is_superseded()
            && is_done(timeout(SETTLE_MAX, conn.settle()).await)
            && conn.is_reusable()
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
    fn keep(&self, mut conn: Box<Conn>, seat: Seat) {
        let settings = &self.settings;
        if conn.born.elapsed() > settings.age_max || conn.is_superseded() {
            return Idle { conn, seat }.end();
        }
        conn.idle_since = Instant::now();
        self.tenant.keep(conn, seat);
        // The oldest stands first; one is looked at each time, so all are in time.
        let over = |oldest: &Conn| oldest.idle_since.elapsed() > settings.idle_max;
        if let Some(oldest) = self.tenant.take_oldest(over) {
            oldest.end();
        }
    }

    /// Cancels what runs on a connection and brings it back in step; closes it if that takes too long.
    async fn rescue(self: Arc<Self>, mut conn: Box<Conn>, seat: Seat) {
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
        match is_done(rescued.await) && conn.is_reusable() {
            true => self.keep(conn, seat),
            false => Idle { conn, seat }.end(),
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
    pub(crate) conn: Option<Box<Conn>>,
    pub(crate) seat: Option<Seat>,
}

impl Lent {
    /// Sees to it that the connection at hand is fit, or connects.
    pub(crate) async fn connection(&mut self) -> Result<(), Fault> {
        if let Some(conn) = &mut self.conn
            && self.inner.is_fit(conn).await
        {
            return Ok(());
        }
        self.end().await;
        // Boxed: every call's future would have room for a handshake.
        self.conn = Some(Box::new(Box::pin(self.inner.connect()).await?));
        Ok(())
    }

    /// Ends the connection; the seat is for the next one.
    pub(crate) async fn end(&mut self) {
        if let Some(conn) = self.conn.take() {
            conn.close().await;
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (Some(conn), Some(seat)) = (self.conn.take(), self.seat.take()) else { return };
        if conn.is_reusable() {
            self.inner.keep(conn, seat);
        } else if conn.is_busy()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Bounded by the seats: the task holds this one until it is done.
            runtime.spawn(self.inner.clone().rescue(conn, seat));
        } else {
            Idle { conn, seat }.end();
        }
    }
}

impl Seated for Conn {
    type Wish = ();

    fn fits(&self, (): &()) -> bool {
        true
    }

    fn idle_since(&self) -> Instant {
        self.idle_since
    }

    fn close(self) -> BoxFuture<'static, ()> {
        Box::pin(self.close())
    }
}

/// The idle connection that was used last, so that the others may age out.
pub(crate) fn last(idle: &[Idle<Conn>], _room: bool) -> Option<usize> {
    idle.len().checked_sub(1)
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
