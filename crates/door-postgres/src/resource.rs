//! A resource of the Postgres door, compiled: how it is connected to, how many sessions it takes, and what its
//! database has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward_core::{Actions, Fault, Login, OwnLogin, ResourceName, RoleName};
use doorward_pgclient::codes::LOGIN_REFUSED;
use doorward_pgclient::{
    CatalogConfig, Connector, Pool, PoolClean, PoolConfig, PoolMode, PoolSettings, Replicas, ReplicasConfig,
    Room, Serve, SessionClaims, Standing, Target, Watch,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::codes;
use crate::names::{OBJECTS, Objects};
use crate::pool::{Backends, Bounds, CHECK_INTERVAL, Origins, Place, WirePoolStats};

/// How old what is known of the database's objects may become, though nobody tells of a change.
const OBJECTS_AGE_MAX: Duration = Duration::from_secs(60);
/// How long a session waits for the first load.
const OBJECTS_SPAN_MAX: Duration = Duration::from_secs(5);
/// The most sessions that wait for a seat.
const WAITING_MAX: usize = 1_024;

/// A database as the Postgres door serves it.
#[derive(Debug)]
pub struct WireResource {
    pub(crate) name: ResourceName,
    pub(crate) backends: Backends,
    /// Names of prepared statements, where sessions share connections.
    pub(crate) origins: Arc<Origins>,
    /// The most sessions that keep a connection, where sessions share them.
    pub(crate) pinned_max: usize,
    mode: PoolMode,
    clean: PoolClean,
    serve: Serve,
    wait_max: Duration,
    seats: Arc<Semaphore>,
    seats_max: usize,
    waiting: Arc<Semaphore>,
    watch: Watch<Objects>,
    /// The gateway's own login.
    own: Pool,
    dangerous_superuser: bool,
    /// Whether reading the catalogue needs a grant that names it.
    pub(crate) hides_catalog: bool,
    /// How often the server looks whether the gateway is still there.
    check_interval: Duration,
    /// Signs who sessions belong to.
    pub(crate) claims: Option<Arc<SessionClaims>>,
}

/// What a resource is opened with.
#[derive(Debug)]
pub struct WireConfig<'a> {
    /// The places for its connections, which other doors may share.
    pub room: &'a Room,
    /// Where the database is.
    pub target: Target,
    /// The bounds of its connections.
    pub pool: &'a PoolConfig,
    /// What its replicas are read for.
    pub replicas: &'a ReplicasConfig,
    /// Whether a role that the grants cannot bound is lent.
    pub dangerous_superuser: bool,
}

impl WireResource {
    /// Opens it: begins to watch the database's objects through the gateway's own login. Blocks on the files
    /// of trusted certificates only; must be called on a tokio runtime.
    ///
    /// # Errors
    /// When those files cannot be read.
    pub async fn open(name: ResourceName, config: WireConfig<'_>, login: OwnLogin) -> std::io::Result<Self> {
        let WireConfig { room, target, pool, replicas, dangerous_superuser } = config;
        let settings = pool.settings();
        let own = PoolSettings { size: 1, ..settings };
        let opened = tokio::task::spawn_blocking(move || Connector::new(target));
        let connector = opened.await.map_err(std::io::Error::other)??;
        let watched = (replicas.serve != Serve::Nothing)
            .then(|| Replicas::watch(&connector, login.clone(), replicas.lag_max()));
        let own = connector.pool(login, own);
        let read = |text: &str, _: u64, began: Instant| {
            Objects::read(text.as_bytes(), began).map_err(|error| error.to_string())
        };
        let watch = Watch::of_document(own.clone(), OBJECTS, Objects::none(), read, OBJECTS_AGE_MAX);
        let bounds = Bounds {
            size: pool.backends_max(),
            wait_max: settings.wait_max,
            connect_span_max: settings.connect_timeout,
            idle_max: settings.idle_max,
            age_max: settings.age_max,
            statements_max: settings.statements_max,
            dangerous_superuser,
        };
        Ok(Self {
            name,
            backends: Backends::new(room, connector, watched, bounds),
            origins: Arc::default(),
            pinned_max: pool.pinned_max(),
            mode: pool.mode,
            clean: pool.clean,
            serve: replicas.serve,
            wait_max: settings.wait_max,
            seats: Arc::new(Semaphore::new(pool.sessions_max())),
            seats_max: pool.sessions_max(),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            watch,
            own,
            dangerous_superuser,
            hides_catalog: false,
            check_interval: pool.connection_check(),
            claims: None,
        })
    }

    /// Tells each session's database who it belongs to.
    #[must_use]
    pub fn with_claims(self, claims: Option<SessionClaims>) -> Self {
        Self { claims: claims.map(Arc::new), ..self }
    }

    /// Lets reads of the catalogue come with any grant, or not.
    #[must_use]
    pub fn with_catalog(self, catalog: CatalogConfig) -> Self {
        Self { hides_catalog: catalog == CatalogConfig::Hide, ..self }
    }

    /// Refuses a role that the grants cannot bound, unless the resource's operator wants it so.
    /// A session of replication, which a grant names, is of a role that may replicate.
    pub(crate) async fn check_role(&self, role: &RoleName, replicates: bool) -> Result<(), Fault> {
        let objects = self.objects().await?;
        let role_name = role.as_str();
        // Whatever that other one may do, records would name a role that the session does not have.
        if objects.shifts(role_name) {
            let what = format!("sessions of the role {role} begin as another role");
            return Err(Fault::new(LOGIN_REFUSED, what).hint(format!(
                "The database's administrator runs ALTER ROLE … RESET role (or RESET session_authorization), or ALTER \
                 DATABASE, whichever sets it; \\drds shows that. Or name the other role in the grant instead of {role}."
            )));
        }
        if self.dangerous_superuser {
            return Ok(());
        }
        if !objects.is_powerful(role_name) || (replicates && objects.only_replicates(role_name)) {
            return Ok(());
        }
        Err(too_powerful(role_name))
    }

    /// Settings of the gateway's own for sessions of this login, which stands for this role: the server looks by itself
    /// whether the gateway is still there, so that nothing runs on for one that was killed. What the server, the
    /// database or the role says of it stands.
    pub(crate) fn own_settings(&self, role: &RoleName, login: Option<&Login>) -> Option<(String, String)> {
        let objects = self.objects_now();
        let mut names = login.map(|login| &*login.user).into_iter().chain([role.as_str()]);
        let may = !self.check_interval.is_zero() && names.all(|name| objects.may_check(name));
        may.then(|| (CHECK_INTERVAL.to_owned(), format!("{}ms", self.check_interval.as_millis())))
    }

    /// A seat for one session, held for as long as it lives.
    pub(crate) async fn seat(&self) -> Result<OwnedSemaphorePermit, Fault> {
        let exhausted = || {
            Fault::new(codes::SESSIONS_EXHAUSTED, "all sessions of this resource are taken")
                .hint("Close sessions that are not used; the operator can raise the resource's `pool.sessions`.")
                .retry_after(Duration::from_secs(1))
        };
        let Ok(_waiting) = self.waiting.try_acquire() else { return Err(exhausted()) };
        match timeout(self.wait_max, self.seats.clone().acquire_owned()).await {
            Ok(Ok(seat)) => Ok(seat),
            Ok(Err(_)) | Err(_) => Err(exhausted()),
        }
    }

    /// The database's objects, as far as they are known to the gateway.
    pub(crate) async fn objects(&self) -> Result<Arc<Objects>, Fault> {
        if self.watch.epoch() == 0 && !self.watch.wait_for(1, OBJECTS_SPAN_MAX).await {
            let cause = self.watch.status().error.unwrap_or_default();
            return Err(Fault::new(codes::NO_CATALOG, "the database's catalogue is not known yet")
                .hint("Try again in a moment.")
                .cause(cause));
        }
        Ok(self.watch.current())
    }

    /// The same, without waiting.
    pub(crate) fn objects_now(&self) -> Arc<Objects> {
        self.watch.current()
    }

    /// A session has changed the database's structure: what is known is loaded anew.
    pub(crate) fn objects_changed(&self) {
        self.watch.reload();
    }

    /// Whether sessions share connections, transaction by transaction.
    pub(crate) fn shares(&self) -> bool {
        self.mode == PoolMode::Transaction
    }

    /// Whether a connection is cleaned behind a statement that needs these actions, though nothing is known to be left.
    pub(crate) fn cleans_behind(&self, actions: &Actions) -> bool {
        match self.clean {
            PoolClean::Known => false,
            PoolClean::Changes => actions.change(),
            PoolClean::Always => true,
        }
    }

    /// Where a session reads that wants to read there: on the primary, unless it may read from replicas.
    pub(crate) fn place(&self, wish: Option<Place>) -> Result<Place, Fault> {
        match wish {
            Some(Place::Replica) if self.serve == Serve::Nothing => {
                Err(Fault::new(codes::UNSUPPORTED, "this resource has no replicas to read from")
                    .hint("Leave out doorward.reads; the operator can set the resource's `replicas.serve`."))
            }
            wish => Ok(wish.unwrap_or(Place::Primary)),
        }
    }

    /// Whether transactions that only read go to replicas.
    pub(crate) fn splits(&self) -> bool {
        self.serve == Serve::Reads
    }

    /// Its servers and how far they are behind, where replicas serve anybody.
    pub fn standings(&self) -> Vec<Standing> {
        self.backends.standings()
    }

    /// What its connections are doing.
    pub fn stats(&self) -> WirePoolStats {
        let sessions = self.seats_max.saturating_sub(self.seats.available_permits());
        WirePoolStats { sessions, ..self.backends.stats() }
    }

    /// Whether its database believes the claims that sessions have; `None` when they have none.
    pub async fn check_claims(&self) -> Option<Result<(), Fault>> {
        let claims = self.claims.as_ref()?;
        Some(self.own.check_claims(claims).await)
    }

    /// Why the resource cannot answer now, for its operator; `None` when it can.
    pub fn trouble(&self) -> Option<String> {
        let status = self.watch.status();
        (!status.connected)
            .then(|| status.error.unwrap_or_else(|| "its catalogue is not loaded yet".to_owned()))
    }
}

pub(crate) fn too_powerful(role: &str) -> Fault {
    Fault::new(LOGIN_REFUSED, format!("the role {role} is too powerful to be lent")).hint(
        "Its operator can name a role that is not, and cannot become one that is, SUPERUSER, BYPASSRLS, REPLICATION, \
         CREATEROLE or allowed to use the server's files and programs; or set `dangerous_superuser: true` on the \
         resource.",
    )
}
