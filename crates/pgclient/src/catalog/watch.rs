//! Keeps a catalogue current: on `NOTIFY pgrst` (or `doorward`), on demand, and after the connection
//! was lost. Readers take the current snapshot and never wait.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::Catalog;
use super::load::{LoadError, load};
use crate::conn::Conn;
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

/// A catalogue that is kept current by a task of its own, on a connection of its own. Dropped, it stops.
pub struct CatalogWatch {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    current: ArcSwap<Catalog>,
    status: Mutex<CatalogStatus>,
    wanted: Notify,
    changed: Notify,
}

impl CatalogWatch {
    /// Begins to watch the given schemas. The catalogue is empty, with epoch 0, until the first load.
    /// Must be called on a tokio runtime.
    pub fn spawn(pool: Pool, schemas: Vec<Box<str>>) -> Self {
        let shared = Arc::new(Shared {
            current: ArcSwap::from_pointee(Catalog::default()),
            status: Mutex::default(),
            wanted: Notify::new(),
            changed: Notify::new(),
        });
        let task = tokio::spawn(keep_watch(shared.clone(), pool, schemas));
        Self { shared, task }
    }

    /// The current catalogue.
    pub fn current(&self) -> Arc<Catalog> {
        self.shared.current.load_full()
    }

    /// What the watch is doing.
    pub fn status(&self) -> CatalogStatus {
        self.shared.status.lock().clone()
    }

    /// Asks for a new load; does not wait for it.
    pub fn reload(&self) {
        self.shared.wanted.notify_one();
    }

    /// Waits for a catalogue of at least this epoch; `false` when the time is over.
    pub async fn wait_for(&self, epoch: u64, wait_max: Duration) -> bool {
        let arrived = async {
            loop {
                let changed = self.shared.changed.notified();
                if self.shared.current.load().epoch() >= epoch {
                    return;
                }
                changed.await;
            }
        };
        timeout(wait_max, arrived).await.is_ok()
    }
}

impl Drop for CatalogWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for CatalogWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogWatch").field("status", &self.status()).finish_non_exhaustive()
    }
}

async fn keep_watch(shared: Arc<Shared>, pool: Pool, schemas: Vec<Box<str>>) {
    let mut pause = PAUSE_MIN;
    loop {
        let before = shared.current.load().epoch();
        let why = match pool.own_connection().await {
            Ok(mut conn) => watch(&shared, &mut conn, &schemas).await,
            Err(fault) => fault.cause_text().unwrap_or(fault.public()).to_owned(),
        };
        if shared.current.load().epoch() > before {
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
async fn watch(shared: &Shared, conn: &mut Conn, schemas: &[Box<str>]) -> String {
    // Listening begins before the load, so that no change falls between the two.
    if let Err(failure) = conn.command("LISTEN pgrst; LISTEN doorward").await {
        return failure.to_string();
    }
    loop {
        conn.notified = false;
        if let Err(error) = load_once(shared, conn, schemas).await {
            return error;
        }
        if let Err(why) = wait_for_wish(shared, conn).await {
            return why;
        }
        // Migrations notify once for each statement: one load answers all that come close together.
        sleep(DEBOUNCE).await;
        if let Err(failure) = conn.settle().await {
            return failure.to_string();
        }
    }
}

async fn load_once(shared: &Shared, conn: &mut Conn, schemas: &[Box<str>]) -> Result<(), String> {
    let started = std::time::Instant::now();
    let epoch = shared.current.load().epoch() + 1;
    let loaded = timeout(LOAD_MAX, load(conn, schemas, epoch)).await;
    let catalog = match loaded {
        Ok(Ok(catalog)) => catalog,
        Ok(Err(LoadError::Failure(failure))) => return Err(failure.to_string()),
        Ok(Err(LoadError::Json(error))) => return Err(error.to_string()),
        Err(_) => return Err("loading the catalogue took too long".into()),
    };
    shared.current.store(Arc::new(catalog));
    *shared.status.lock() =
        CatalogStatus { epoch, connected: true, error: None, load_time: started.elapsed() };
    shared.changed.notify_waiters();
    Ok(())
}

/// Waits until somebody wants a new catalogue.
async fn wait_for_wish(shared: &Shared, conn: &mut Conn) -> Result<(), String> {
    while !conn.notified {
        tokio::select! {
            () = shared.wanted.notified() => return Ok(()),
            heard = conn.listen() => heard.map_err(|failure| failure.to_string())?,
            () = sleep(HEARTBEAT) => {
                match timeout(HEARTBEAT, conn.command("")).await {
                    Ok(result) => result.map_err(|failure| failure.to_string())?,
                    Err(_) => return Err("the connection is silent".into()),
                }
            }
        }
    }
    Ok(())
}
