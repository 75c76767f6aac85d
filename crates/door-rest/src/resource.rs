//! A resource of the REST door, compiled: its pool, the watch over its catalogue, and its bounds.
//!
//! Invariant: no statement runs before the login has been found to be harmless. A database that is away
//! when the configuration is loaded does not keep the gateway from starting; the check is made up for as
//! soon as it is back, and until then the resource answers 503.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use doorward_core::{Fault, OwnLogin, ResourceName};
use doorward_pgclient::{Catalog, CatalogStatus, CatalogWatch, Pool, PoolStats, Room, Target};
use tokio::task::JoinHandle;

use crate::config::RestConfig;
use crate::request::grammar::NAME_BYTES_MAX;
use crate::sql;

/// The pause between attempts to check the login of a database that is away.
const CHECK_PAUSE: Duration = Duration::from_secs(1);
/// How long the first attempt may hold up loading a configuration.
const CHECK_MAX: Duration = Duration::from_secs(5);

/// Why a resource cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL cannot be used.
    #[error("{0}")]
    Url(#[from] doorward_pgclient::TargetError),
    /// The replicas cannot serve what they should.
    #[error("{0}")]
    Replicas(&'static str),
    /// A file that the URL names cannot be read.
    #[error("the certificates cannot be read: {0}")]
    Files(#[from] std::io::Error),
    /// No schema is served, or one has a name that cannot be.
    #[error("`schemas` names at least one schema, each by a name of 1 to 63 bytes")]
    Schemas,
    /// The login may do too much, or cannot log in.
    #[error("{}{}{}", .0.public(), part(" (", .0.cause_text(), ")"), part(". ", .0.hint_text(), ""))]
    Login(Fault),
}

fn part(before: &str, text: Option<&str>, after: &str) -> String {
    text.map(|text| format!("{before}{text}{after}")).unwrap_or_default()
}

/// A resource of the REST door.
#[derive(Debug)]
pub struct RestResource {
    pub(crate) name: ResourceName,
    pub(crate) pool: Pool,
    pub(crate) schemas: Vec<Box<str>>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) max_rows: Option<u64>,
    pub(crate) body_max: u64,
    /// The `search_path` of each schema, in the order of `schemas`.
    search_paths: Vec<String>,
    watch: CatalogWatch,
    checked: Arc<AtomicBool>,
    checker: Option<JoinHandle<()>>,
}

impl RestResource {
    /// Says what is wrong with a configuration, offline; where the database is when nothing is.
    pub fn check(config: &RestConfig) -> Result<Target, OpenError> {
        let mut named = config.schemas.iter().chain(&config.extra_search_path);
        let is_name = |schema: &str| (1..=NAME_BYTES_MAX).contains(&schema.len()) && !schema.contains('\0');
        if config.schemas.is_empty() || !named.all(|schema| is_name(schema)) {
            return Err(OpenError::Schemas);
        }
        let target = Target::parse(&config.url, config.dangerous_plaintext)?;
        match config.replicas.problem(&target, &config.pool) {
            Some(problem) => Err(OpenError::Replicas(problem)),
            None => Ok(target),
        }
    }

    /// Opens a resource: connects, checks the login, and begins to watch the catalogue. Fails when the
    /// login is refused; goes on when the database is away. Must be called on a tokio runtime.
    pub async fn open(
        name: ResourceName,
        room: &Room,
        config: &RestConfig,
        login: impl Into<OwnLogin>,
    ) -> Result<Self, OpenError> {
        let (target, login) = (Self::check(config)?, login.into());
        let (room, settings) = (room.clone(), config.pool.settings());
        let pool = tokio::task::spawn_blocking(move || Pool::in_room(&room, target, login, settings))
            .await
            .map_err(std::io::Error::other)??;
        let checked = Arc::new(AtomicBool::new(false));
        let check = Check {
            resource: name.clone(),
            pool: pool.clone(),
            schemas: config.schemas.clone(),
            dangerous_superuser: config.dangerous_superuser,
            checked: checked.clone(),
        };
        let checker = match tokio::time::timeout(CHECK_MAX, check.once()).await {
            Ok(Ok(())) => None,
            Ok(Err(fault)) if is_final(&fault) => return Err(OpenError::Login(fault)),
            Ok(Err(_)) | Err(_) => Some(tokio::spawn(check.until_done())),
        };
        Ok(Self {
            name,
            watch: CatalogWatch::spawn(pool.clone(), config.schemas.clone()),
            pool,
            search_paths: config.schemas.iter().map(|schema| search_path(schema, config)).collect(),
            schemas: config.schemas.clone(),
            timeout: config.timeout.map(doorward_settings::HumanDuration::get),
            max_rows: config.max_rows,
            body_max: config.body_max.get(),
            checked,
            checker,
        })
    }

    /// The catalogue, once there is one and the login has been checked.
    pub(crate) fn catalog(&self) -> Option<Arc<Catalog>> {
        let catalog = self.watch.current();
        (self.checked.load(Ordering::Acquire) && catalog.epoch() > 0).then_some(catalog)
    }

    pub(crate) fn search_path(&self, schema: &str) -> &str {
        let index = self.schemas.iter().position(|served| &**served == schema);
        index.and_then(|index| self.search_paths.get(index)).map_or("", String::as_str)
    }

    /// Reads the catalogue anew; does not wait for it.
    pub fn reload_catalog(&self) {
        self.watch.reload();
    }

    /// Waits until the resource can answer; `false` when the time is over.
    pub async fn wait_ready(&self, wait_max: Duration) -> bool {
        self.watch.wait_for(1, wait_max).await && self.is_ready()
    }

    /// Whether the login is checked and the catalogue known.
    pub fn is_ready(&self) -> bool {
        self.catalog().is_some()
    }

    /// Why the resource cannot answer now, for its operator; `None` when it can.
    pub fn trouble(&self) -> Option<String> {
        let status = self.watch.status();
        let away = || status.error.clone().unwrap_or_else(|| "its database cannot be reached".to_owned());
        (!self.is_ready() || !status.connected).then(away)
    }

    /// What the watch over the catalogue is doing, for readiness and metrics.
    pub fn catalog_status(&self) -> CatalogStatus {
        self.watch.status()
    }

    /// What the pool is doing, for metrics.
    pub fn pool_stats(&self) -> PoolStats {
        self.pool.stats()
    }
}

impl Drop for RestResource {
    fn drop(&mut self) {
        if let Some(checker) = &self.checker {
            checker.abort();
        }
    }
}

fn search_path(schema: &str, config: &RestConfig) -> String {
    let mut path = vec![sql::ident(schema)];
    for extra in config.extra_search_path.iter().filter(|extra| &***extra != schema) {
        path.push(sql::ident(extra));
    }
    path.join(", ")
}

/// A refused login is refused again; a database that is away may come back.
fn is_final(fault: &Fault) -> bool {
    fault.code().name == doorward_pgclient::codes::LOGIN_REFUSED.name
}

struct Check {
    resource: ResourceName,
    pool: Pool,
    schemas: Vec<Box<str>>,
    dangerous_superuser: bool,
    checked: Arc<AtomicBool>,
}

impl Check {
    async fn once(&self) -> Result<(), Fault> {
        let schemas: Vec<&str> = self.schemas.iter().map(|schema| &**schema).collect();
        let facts = self.pool.check_login(&schemas, self.dangerous_superuser).await?;
        for warning in &facts.warnings {
            tracing::warn!(resource = self.resource.as_str(), "{warning}");
        }
        self.checked.store(true, Ordering::Release);
        Ok(())
    }

    async fn until_done(self) {
        let mut told = String::new();
        loop {
            match self.once().await {
                Ok(()) => return,
                Err(fault) => {
                    // The same trouble is told once, not each second.
                    let trouble = format!("{fault} {}", fault.cause_text().unwrap_or_default());
                    if trouble != told {
                        let resource = self.resource.as_str();
                        tracing::warn!(resource, trouble, "the database login is not checked yet");
                        told = trouble;
                    }
                }
            }
            tokio::time::sleep(CHECK_PAUSE).await;
        }
    }
}
