//! Keeps a catalogue current: on `NOTIFY pgrst` (or `doorward`), on demand, and after the connection
//! was lost. Readers take the current snapshot and never wait.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use doorward_core::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::Catalog;
use super::load::{LoadError, load};
use crate::conn::Conn;
use crate::login::ask_json;
use crate::pool::Pool;

/// How long a wish for a new catalogue waits for others of its kind.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How long a load may take.
const LOAD_MAX: Duration = Duration::from_secs(60);
/// The first and the longest pause between attempts to connect.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A silent connection is asked for a sign of life this often.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// How long a replica is read from before the primary is looked for again.
const REPLICA_SPAN: Duration = Duration::from_secs(5);

/// What the watch is doing, for readiness and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogStatus {
    /// The current catalogue's epoch; 0 before the first one is loaded.
    pub epoch: u64,
    /// Whether the watch is connected, so that notifications arrive.
    pub connected: bool,
    /// Why the last load or connection failed, for the operator; `None` when it went well.
    pub error: Option<String>,
    /// How long the last load took.
    pub load_time: Duration,
}

/// Something that the database tells of itself, kept current by a task of its own on a connection of its own.
/// Dropped, it stops.
pub struct Watch<T> {
    shared: Arc<Shared<T>>,
    task: JoinHandle<()>,
}

/// The catalogue of the REST door.
pub type CatalogWatch = Watch<Catalog>;

struct Shared<T> {
    current: ArcSwap<T>,
    epoch: AtomicU64,
    status: Mutex<CatalogStatus>,
    wanted: Notify,
    changed: Notify,
}

/// Loads it once, as this epoch.
type Load<T> = Box<dyn for<'a> Fn(&'a mut Conn, u64) -> BoxFuture<'a, Result<T, String>> + Send + Sync>;

impl CatalogWatch {
    /// Begins to watch the given schemas. The catalogue is empty, with epoch 0, until the first load.
    /// Must be called on a tokio runtime.
    pub fn spawn(pool: Pool, schemas: Vec<Box<str>>) -> Self {
        let schemas: Arc<[Box<str>]> = schemas.into();
        let load_it: Load<Catalog> = Box::new(move |conn, epoch| {
            let schemas = schemas.clone();
            Box::pin(async move {
                load(conn, &schemas, epoch).await.map_err(|error| match error {
                    LoadError::Failure(failure) => failure.to_string(),
                    LoadError::Json(error) => error.to_string(),
                })
            })
        });
        Self::start(pool, Catalog::default(), load_it, None)
    }
}

impl<T: Send + Sync + 'static> Watch<T> {
    /// Begins to watch what one statement answers: one row, one JSON document. It is read with its epoch and
    /// the time at which its loading began, anew at least each `age_max`. Must be called on a tokio runtime.
    pub fn of_document(
        pool: Pool,
        sql: &'static str,
        empty: T,
        read: fn(&str, u64, Instant) -> Result<T, String>,
        age_max: Duration,
    ) -> Self {
        let load_it: Load<T> = Box::new(move |conn, epoch| {
            Box::pin(async move {
                let began = Instant::now();
                let text = ask_json(conn, sql, &[]).await.map_err(|failure| failure.to_string())?;
                read(&text, epoch, began)
            })
        });
        Self::start(pool, empty, load_it, Some(age_max))
    }

    fn start(pool: Pool, empty: T, load: Load<T>, age_max: Option<Duration>) -> Self {
        let shared = Arc::new(Shared {
            current: ArcSwap::from_pointee(empty),
            epoch: AtomicU64::new(0),
            status: Mutex::default(),
            wanted: Notify::new(),
            changed: Notify::new(),
        });
        let task = tokio::spawn(keep_watch(shared.clone(), pool, load, age_max));
        Self { shared, task }
    }
}

impl<T> Watch<T> {
    /// What is known now.
    pub fn current(&self) -> Arc<T> {
        self.shared.current.load_full()
    }

    /// How often it has been loaded.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::Acquire)
    }

    /// What the watch is doing.
    pub fn status(&self) -> CatalogStatus {
        self.shared.status.lock().clone()
    }

    /// Asks for a new load; does not wait for it.
    pub fn reload(&self) {
        self.shared.wanted.notify_one();
    }

    /// Waits for at least this epoch; `false` when the time is over.
    pub async fn wait_for(&self, epoch: u64, wait_max: Duration) -> bool {
        let arrived = async {
            loop {
                let changed = self.shared.changed.notified();
                if self.epoch() >= epoch {
                    return;
                }
                changed.await;
            }
        };
        timeout(wait_max, arrived).await.is_ok()
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("status", &*self.shared.status.lock()).finish_non_exhaustive()
    }
}

async fn keep_watch<T>(shared: Arc<Shared<T>>, pool: Pool, load: Load<T>, age_max: Option<Duration>) {
    let mut pause = PAUSE_MIN;
    loop {
        let before = shared.epoch.load(Ordering::Acquire);
        let why = match pool.own_connection().await {
            Ok(mut conn) => watch(&shared, &mut conn, &load, age_max).await,
            Err(fault) => fault.cause_text().unwrap_or(fault.public()).to_owned(),
        };
        if shared.epoch.load(Ordering::Acquire) > before {
            pause = PAUSE_MIN;
        }
        tracing::warn!(database = %pool.target(), cause = why, "the catalogue is not being watched");
        {
            let mut status = shared.status.lock();
            status.connected = false;
            status.error = Some(why);
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Watches over one connection; returns why it ended.
async fn watch<T>(shared: &Shared<T>, conn: &mut Conn, load: &Load<T>, age_max: Option<Duration>) -> String {
    let replica = conn.is_to_replica();
    // Listening begins before the load, so that no change falls between the two. A replica is told of nothing.
    if !replica && let Err(failure) = conn.command("LISTEN pgrst; LISTEN doorward").await {
        return failure.to_string();
    }
    loop {
        conn.notified = false;
        if let Err(error) = load_once(shared, conn, load).await {
            return error;
        }
        if replica {
            sleep(REPLICA_SPAN).await;
            return "the database has no primary: its catalogue is a replica's".into();
        }
        if let Err(why) = wait_for_wish(shared, conn, age_max).await {
            return why;
        }
        // Migrations notify once for each statement: one load answers all that come close together.
        sleep(DEBOUNCE).await;
        if let Err(failure) = conn.settle().await {
            return failure.to_string();
        }
    }
}

async fn load_once<T>(shared: &Shared<T>, conn: &mut Conn, load: &Load<T>) -> Result<(), String> {
    let started = std::time::Instant::now();
    let epoch = shared.epoch.load(Ordering::Acquire) + 1;
    let loaded = match timeout(LOAD_MAX, load(conn, epoch)).await {
        Ok(loaded) => loaded?,
        Err(_) => return Err("loading the catalogue took too long".into()),
    };
    shared.current.store(Arc::new(loaded));
    shared.epoch.store(epoch, Ordering::Release);
    *shared.status.lock() =
        CatalogStatus { epoch, connected: true, error: None, load_time: started.elapsed() };
    shared.changed.notify_waiters();
    Ok(())
}

/// Waits until somebody wants a new catalogue.
async fn wait_for_wish<T>(
    shared: &Shared<T>,
    conn: &mut Conn,
    age_max: Option<Duration>,
) -> Result<(), String> {
    let since = Instant::now();
    while !conn.notified && age_max.is_none_or(|max| since.elapsed() < max) {
        tokio::select! {
            () = shared.wanted.notified() => return Ok(()),
            heard = conn.listen() => heard.map_err(|failure| failure.to_string())?,
            () = sleep(HEARTBEAT) => {
                if conn.is_superseded() {
                    return Err("there is a newer login".into());
                }
                match timeout(HEARTBEAT, conn.command("")).await {
                    Ok(result) => result.map_err(|failure| failure.to_string())?,
                    Err(_) => return Err("the connection is silent".into()),
                }
            }
        }
    }
    Ok(())
}
