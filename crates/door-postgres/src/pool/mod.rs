//! The connections of one resource to its database, which sessions use one after another.
//!
//! A connection is lent to whoever may use it as it is (same credential, same start-up parameters, see [`Key`]); how
//! many there are, who makes room for whom and who is next is the [`Room`]'s affair, which all pools of the resource share.
//!
//! Invariants: no connection without a lease, which takes a permit to make; a connection that is given back is
//! made to forget what was done in it, unless it is known that nothing was, and closed when that fails; each
//! connection holds a seat from before it is dialled until it is closed; nobody waits longer than `wait_max`.

mod backend;
mod known;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use doorward_core::{BoxFuture, Fault, Lease, Login, RoleName};
use doorward_pgclient::codes::{BACKEND_UNAVAILABLE, LOGIN_REFUSED};
use doorward_pgclient::{
    Claimed, Connector, Grant, Idle, Relayed, Replicas, Room, Seat, Seated, Server, Standing, Tenant,
};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::codes;
use crate::resource::too_powerful;

use backend::Unfit;
pub(crate) use backend::{Backend, Bearer, Key, Outfit, Parameters, Place};
pub(crate) use known::{Known, ORIGIN_PREFIX, Origin, Origins};

/// How long making a connection forget, or answer, may take before it is closed instead.
const RESCUE_MAX: Duration = Duration::from_secs(5);
/// How often idle connections are looked after.
const TENDING_PAUSE: Duration = Duration::from_secs(2);
/// The first and the longest pause between failing attempts to connect.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// The setting that says how often a server looks whether its client is still there (PostgreSQL 14 and later).
pub(crate) const CHECK_INTERVAL: &str = "client_connection_check_interval";
/// How many replicas are tried, all together for as long as one connection may take, before the primary is.
const REPLICA_TRIES_MAX: u32 = 2;
/// What the backend shows of a connection that nobody uses.
const APPLICATION_NAME: &str = "doorward";
/// How many start-up answers are remembered, each for one key.
const GREETINGS_MAX: usize = 256;

/// The bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The most connections, as far as the room has places.
    pub(crate) size: usize,
    pub(crate) wait_max: Duration,
    pub(crate) connect_span_max: Duration,
    pub(crate) idle_max: Duration,
    pub(crate) age_max: Duration,
    /// The most prepared statements of a connection.
    pub(crate) statements_max: usize,
    /// Whether a login that the server calls a superuser's is lent.
    pub(crate) dangerous_superuser: bool,
}

/// What a pool is doing, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WirePoolStats {
    /// The most connections of all doors together.
    pub size: usize,
    /// Connections that stand ready.
    pub idle: usize,
    /// Connections that are in use, are being made or cleaned.
    pub in_use: usize,
    /// Sessions that wait for one.
    pub waiting: usize,
    /// Sessions that keep theirs, in transaction mode.
    pub pinned: usize,
    /// Sessions that are open.
    pub sessions: usize,
}

/// Who wants a connection, and which.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) lease: &'a Lease,
    pub(crate) key: &'a Arc<Key>,
    pub(crate) outfit: &'a Arc<Outfit>,
    /// The principal, for the order of those who wait.
    pub(crate) who: &'a Arc<str>,
    /// A replica shows at least what was committed before.
    pub(crate) since: Option<Instant>,
}

/// The connections of a resource. A clone is the same pool.
#[derive(Clone, Debug)]
pub(crate) struct Backends(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connector: Connector,
    /// The replicas, where they serve anybody.
    replicas: Option<Arc<Replicas>>,
    bounds: Bounds,
    tenant: Tenant<Backend>,
    inner: Mutex<Inner>,
    /// Sessions that keep their connection.
    pinned: AtomicUsize,
    /// The server, or a pooler before it, does not take [`CHECK_INTERVAL`].
    unchecked: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    backoff: Backoff,
    greetings: Vec<(Arc<Key>, Arc<Parameters>)>,
}

/// Which connection somebody waits for.
#[derive(Debug)]
pub(crate) struct Wish {
    key: Arc<Key>,
    since: Option<Instant>,
    replicas: Option<Arc<Replicas>>,
}

#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

/// A connection in use. Dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Lent {
    held: Option<Idle<Backend>>,
    pool: Backends,
}

/// How a connection is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nothing outlived the transaction.
    Clean,
    /// Something may have; and whether a transaction is open.
    Used { in_transaction: bool },
}

impl Backends {
    /// A pool that connects when it is first asked. Must be called on a runtime.
    pub(crate) fn new(room: &Room, connector: Connector, replicas: Option<Replicas>, bounds: Bounds) -> Self {
        let (tenant, replicas) = (room.tenant(crate::DOOR, bounds.size), replicas.map(Arc::new));
        let (inner, pinned, unchecked) = Default::default();
        let shared = Arc::new(Shared { connector, replicas, bounds, tenant, inner, pinned, unchecked });
        tokio::spawn(tend(Arc::downgrade(&shared)));
        Self(shared)
    }

    /// Lends a connection in the borrower's outfit: an idle one, or a new one, or one that somebody gives back
    /// in time.
    pub(crate) async fn checkout(&self, wanted: &Wanted<'_>) -> Result<Lent, Fault> {
        let seat = match self.claim(wanted).await? {
            Grant::Seat(seat) => seat,
            Grant::Connection(held) => match self.ready(held, wanted).await {
                Ok(lent) => return Ok(lent),
                Err(seat) => seat,
            },
        };
        Box::pin(self.dial(seat, wanted)).await
    }

    /// The same; where a replica is wanted and none can be had, on the primary. Where nobody waits for a connection, that
    /// is at once.
    pub(crate) async fn checkout_or_primary(&self, wanted: &Wanted<'_>) -> Result<Lent, Fault> {
        if wanted.key.place == Place::Replica {
            let replicas = self.0.replicas.as_ref();
            if replicas.is_some_and(|replicas| replicas.choose(wanted.since).is_some()) {
                match self.checkout(wanted).await {
                    // A replica may not have heard of a new login yet.
                    Err(fault) if matches!(fault.code(), code if code == BACKEND_UNAVAILABLE || code == LOGIN_REFUSED) =>
                        {}
                    lent => return lent,
                }
            }
        }
        let key = match wanted.key.place {
            Place::Primary => wanted.key.clone(),
            Place::Replica => Arc::new(Key { place: Place::Primary, ..Key::clone(wanted.key) }),
        };
        self.checkout(&Wanted { key: &key, ..*wanted }).await
    }

    async fn claim(&self, wanted: &Wanted<'_>) -> Result<Grant<Backend>, Fault> {
        match self.0.claim(wanted) {
            Claimed::Now(grant) => Ok(grant),
            Claimed::InPlaceOf(closing) => Ok(Grant::Seat(closing.await)),
            Claimed::Later(line) => {
                line.granted_within(self.0.bounds.wait_max).await.ok_or_else(|| self.busy())
            }
        }
    }

    fn busy(&self) -> Fault {
        Fault::new(codes::BACKENDS_BUSY, "all connections to the database are in use")
            .hint("Try again; the operator can raise the resource's `pool.size` or `pool.wait_max`.")
            .retry_after(self.0.bounds.wait_max.max(Duration::from_secs(1)))
    }

    /// Makes an idle connection ready; what is left of one that is dead is its seat.
    async fn ready(&self, held: Idle<Backend>, wanted: &Wanted<'_>) -> Result<Lent, Seat> {
        let Idle { conn: mut backend, seat } = held;
        if !backend.is_alive().await {
            return Err(seat);
        }
        match backend.dress(wanted.outfit, RESCUE_MAX).await {
            Ok(()) => Ok(Lent { held: Some(Idle { conn: backend, seat }), pool: self.clone() }),
            Err(unfit) => {
                tracing::debug!(cause = %unfit, "an idle connection is of no more use");
                backend.close().await;
                Err(seat)
            }
        }
    }

    /// The servers, where they are watched.
    pub(crate) fn standings(&self) -> Vec<Standing> {
        self.0.replicas.as_ref().map(|replicas| replicas.standings()).unwrap_or_default()
    }

    async fn dial(&self, seat: Seat, wanted: &Wanted<'_>) -> Result<Lent, Fault> {
        // A session of replication keeps its name: not all of them know SET.
        let replication = wanted.key.replication;
        let name = replication.map_or(APPLICATION_NAME, |_| &wanted.outfit.application_name);
        let own = [("application_name", name), ("standard_conforming_strings", "on")];
        let own = own.into_iter().chain(replication.map(|kind| ("replication", kind.as_str())));
        let given = wanted.key.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut settings: Vec<(&str, &str)> = own.chain(given).collect();
        if self.0.unchecked.load(Ordering::Relaxed) {
            settings.retain(|(name, _)| *name != CHECK_INTERVAL);
        }
        let mut connected = self.0.connect(wanted, &settings).await;
        if connected.as_ref().is_err_and(refuses_check) {
            settings.retain(|(name, _)| *name != CHECK_INTERVAL);
            connected = self.0.connect(wanted, &settings).await;
            self.0.unchecked.fetch_or(connected.is_ok(), Ordering::Relaxed);
        }
        let bounds = &self.0.bounds;
        let mut backend = Box::new(Backend::new(connected?, wanted.key.clone(), bounds.statements_max));
        // What is known of roles may be older than this login.
        if !bounds.dangerous_superuser && backend.parameters.iter().any(|told| told == ("is_superuser", "on"))
        {
            backend.close().await;
            return Err(too_powerful(wanted.lease.role().map_or("", RoleName::as_str)));
        }
        if replication.is_some() {
            return Ok(Lent { held: Some(Idle { conn: backend, seat }), pool: self.clone() });
        }
        self.0.greet(wanted.key, &backend.parameters);
        if let Err(unfit) = backend.dress(wanted.outfit, RESCUE_MAX).await {
            backend.close().await;
            if let Unfit::Claims(fault) = unfit {
                return Err(fault);
            }
            return Err(Fault::new(BACKEND_UNAVAILABLE, "the database does not take the session's settings")
                .hint("Connect again; leave out settings that the database does not have.")
                .cause(unfit));
        }
        Ok(Lent { held: Some(Idle { conn: backend, seat }), pool: self.clone() })
    }

    /// What the server has reported to the last one who logged in like this.
    pub(crate) fn greeting(&self, key: &Key) -> Option<Arc<Parameters>> {
        let inner = self.0.inner.lock();
        inner.greetings.iter().find(|(known, _)| **known == *key).map(|(_, parameters)| parameters.clone())
    }

    /// Keeps a connection for one session, while there are fewer than `max` that do so.
    pub(crate) fn pin(&self, max: usize) -> Option<Pin> {
        let pinned = &self.0.pinned;
        let more = |count: usize| (count < max).then_some(count + 1);
        pinned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Pin(self.0.clone()))
    }

    /// What the pool is doing; sessions are counted elsewhere.
    pub(crate) fn stats(&self) -> WirePoolStats {
        let counts = self.0.tenant.counts();
        WirePoolStats {
            size: counts.size,
            idle: counts.idle,
            in_use: counts.in_use,
            waiting: counts.waiting,
            pinned: self.0.pinned.load(Ordering::Relaxed),
            sessions: 0,
        }
    }
}

/// The right to keep a connection beyond the transaction.
#[derive(Debug)]
pub(crate) struct Pin(Arc<Shared>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.pinned.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    async fn connect(&self, wanted: &Wanted<'_>, settings: &[(&str, &str)]) -> Result<Relayed, Fault> {
        match wanted.key.place {
            Place::Primary => self.connect_primary(wanted, settings).await,
            Place::Replica => self.connect_replica(wanted, settings).await,
        }
    }

    async fn connect_primary(
        &self,
        wanted: &Wanted<'_>,
        settings: &[(&str, &str)],
    ) -> Result<Relayed, Fault> {
        self.inner.lock().backoff.check()?;
        let span_max = self.bounds.connect_span_max;
        let connected = self.connector.connect(None, wanted.lease, settings, span_max).await;
        match &connected {
            Ok(_) => self.inner.lock().backoff = Backoff::default(),
            Err(fault) => {
                tracing::warn!(cause = fault.cause_text(), "cannot connect to the database");
                // A login that is refused says nothing of the others.
                if fault.code() == BACKEND_UNAVAILABLE {
                    self.inner.lock().backoff.failed();
                }
            }
        }
        connected
    }

    /// Connects to a replica. One that fails is not tried again until it has answered who watches it.
    async fn connect_replica(
        &self,
        wanted: &Wanted<'_>,
        settings: &[(&str, &str)],
    ) -> Result<Relayed, Fault> {
        let none = || Fault::new(BACKEND_UNAVAILABLE, "no replica can be read from now");
        let Some(replicas) = &self.replicas else { return Err(none()) };
        let span_max = self.bounds.connect_span_max / REPLICA_TRIES_MAX;
        for _ in 0..REPLICA_TRIES_MAX {
            let Some(at) = replicas.choose(wanted.since) else { break };
            match self.connector.connect(Some(at), wanted.lease, settings, span_max).await {
                Err(fault) if fault.code() == BACKEND_UNAVAILABLE => {
                    tracing::warn!(cause = fault.cause_text(), "cannot connect to a replica");
                    replicas.failed(at);
                }
                connected => return connected,
            }
        }
        Err(none().hint("Try again in a moment."))
    }

    /// What somebody gets.
    fn claim(&self, wanted: &Wanted<'_>) -> Claimed<Backend> {
        let replicas = self.replicas.clone();
        let wish = Wish { key: wanted.key.clone(), since: wanted.since, replicas };
        // Replicas take turns, as far as there is room for connections to each.
        let turn = match wanted.key.place {
            Place::Primary => None,
            Place::Replica => self.replicas.as_ref().and_then(|replicas| replicas.next(wanted.since)),
        };
        let find = |idle: &[Idle<Backend>], room: bool| {
            let fits = |idle: &Idle<Backend>| {
                *idle.conn.key == **wanted.key
                    && !idle.conn.is_superseded()
                    && shows(self.replicas.as_deref(), &idle.conn, wanted.since)
            };
            let its = |idle: &Idle<Backend>| fits(idle) && turn.is_none_or(|at| idle.conn.server.at() == at);
            let dressed = idle.iter().rposition(|idle| its(idle) && idle.conn.wears(wanted.outfit));
            let found = dressed.or_else(|| idle.iter().rposition(its));
            found.or_else(|| if room { None } else { idle.iter().rposition(fits) })
        };
        self.tenant.claim(|| wanted.who.clone(), wish, find)
    }

    /// Takes a connection back that is as good as new: for the next one who waits, or to stand idle.
    fn keep(&self, held: Idle<Backend>) {
        let Idle { conn: mut backend, seat } = held;
        backend.rest();
        match backend.born.elapsed() > self.bounds.age_max || backend.is_superseded() {
            true => Idle { conn: backend, seat }.end(),
            false => self.tenant.keep(backend, seat),
        }
    }

    fn greet(&self, key: &Arc<Key>, parameters: &Parameters) {
        let mut inner = self.inner.lock();
        inner.greetings.retain(|(known, _)| known != key);
        if inner.greetings.len() >= GREETINGS_MAX {
            inner.greetings.remove(0);
        }
        inner.greetings.push((key.clone(), Arc::new(parameters.clone())));
    }

    /// Idle connections whose time is over, and one after another those that the server has ended.
    async fn tend(&self) {
        for Idle { conn: mut backend, seat } in self.tenant.take_idle() {
            let fresh = backend.idle_since.elapsed() <= self.bounds.idle_max
                && backend.born.elapsed() <= self.bounds.age_max
                && !backend.is_superseded();
            match fresh && backend.is_alive().await {
                true => self.tenant.keep(backend, seat),
                false => Idle { conn: backend, seat }.end(),
            }
        }
    }
}

/// Whether a connection, if it is to a replica, shows what was committed before.
fn shows(replicas: Option<&Replicas>, backend: &Backend, since: Option<Instant>) -> bool {
    match backend.key.place {
        Place::Primary => true,
        Place::Replica => replicas.is_some_and(|replicas| replicas.is_usable(backend.server.at(), since)),
    }
}

impl Seated for Backend {
    type Wish = Wish;

    fn fits(&self, wish: &Wish) -> bool {
        self.key == wish.key && shows(wish.replicas.as_deref(), self, wish.since)
    }

    fn idle_since(&self) -> Instant {
        self.idle_since
    }

    fn close(self) -> BoxFuture<'static, ()> {
        Box::pin(self.close())
    }
}

/// Whether a connection was refused for the setting that not every server takes, and no pooler.
fn refuses_check(fault: &Fault) -> bool {
    fault.cause_text().is_some_and(|cause| cause.contains(CHECK_INTERVAL))
}

async fn tend(shared: Weak<Shared>) {
    loop {
        sleep(TENDING_PAUSE).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.tend().await;
    }
}

impl Backoff {
    fn check(&self) -> Result<(), Fault> {
        let Some(left) = self.until.and_then(|until| until.checked_duration_since(Instant::now())) else {
            return Ok(());
        };
        Err(Fault::new(BACKEND_UNAVAILABLE, "the database cannot be reached")
            .hint("Try again in a moment.")
            .retry_after(left.max(Duration::from_secs(1))))
    }

    fn failed(&mut self) {
        let pause = BACKOFF_MIN.saturating_mul(1 << self.failures.min(8)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(Instant::now() + pause);
    }
}

impl Lent {
    /// The connection.
    pub(crate) fn backend(&mut self) -> Option<&mut Backend> {
        self.held.as_mut().map(|held| &mut *held.conn)
    }

    fn held(&self) -> Option<&Backend> {
        self.held.as_ref().map(|held| &*held.conn)
    }

    /// What the server has reported.
    pub(crate) fn parameters(&self) -> Parameters {
        self.held().map(|backend| backend.parameters.clone()).unwrap_or_default()
    }

    /// The server that it is to.
    pub(crate) fn server(&self) -> Option<Server> {
        self.held().map(|backend| backend.server.clone())
    }

    /// What it is logged in with.
    pub(crate) fn login(&self) -> Option<&Login> {
        self.held().map(|backend| &*backend.login)
    }

    /// The server's process behind it, and what cancels it.
    pub(crate) fn canceller(&self) -> Option<&doorward_pgclient::Canceller> {
        self.held().map(|backend| &backend.canceller)
    }

    /// Gives it back. Must be called on a runtime.
    pub(crate) fn give_back(mut self, left: Left) {
        let Some(mut held) = self.held.take() else { return };
        let pool = self.pool.clone();
        match left {
            _ if held.conn.key.replication.is_some() => held.end(),
            Left::Clean => pool.0.keep(held),
            Left::Used { in_transaction } => {
                tokio::spawn(async move {
                    match held.conn.forget(in_transaction, RESCUE_MAX).await {
                        Ok(()) => pool.0.keep(held),
                        Err(unfit) => {
                            tracing::debug!(cause = %unfit, "a connection does not forget, and is closed");
                            held.end();
                        }
                    }
                });
            }
        }
    }

    /// Ends it, instead of giving it back.
    pub(crate) async fn close(mut self) {
        if let Some(Idle { conn, seat }) = self.held.take() {
            conn.close().await;
            drop(seat);
        }
    }
}
