//! Organ audit: from a reserved place to a durable frame to a row of the timeline.
//!
//! The road reserves a place and hands records over ([`Audit::recorder`]); the spool makes them durable; the
//! shipper carries them to the store, exactly once; [`query`] and [`render`] read them back. Start with
//! [`Audit::open`], and read `columns.rs` to see what a record holds.
//!
//! Invariants: no call here blocks the async runtime but those that say so; a store that cannot be written
//! never stops the gateway, a spool that cannot be written closes what requires records.

pub mod admin;
pub mod columns;
pub mod config;
pub mod hold;
mod imports;
pub mod leaf;
pub mod log;
pub mod otlp;
pub mod personal;
pub mod query;
pub mod render;
pub mod retention;
pub mod rollup;
pub mod row;
pub mod s3;
mod shipper;
pub mod sinks;
mod spool;
pub mod store;
pub mod time;
pub mod transport;
pub mod wire;

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use doorward_core::Recorder;
use parking_lot::{Mutex, RwLock};

pub use config::AuditConfig;
pub use imports::GENERATION_MAX as IMPORTS_REMEMBERED;
pub use shipper::OpenStore;
pub use spool::{PLACES_MAX, State};
pub use spool::{inspect, repair, waiting};

use imports::Window;
use log::Log;
use log::carry::{Carrier, Desk};
use log::config::{CheckpointsConfig, Place};
use log::logger::{Logger, Signing, keep_lines};
use log::peers::Records;
use log::publish::{Cosigner, Published, Publisher};
use personal::pending::Pending;
use personal::service::Told;
use shipper::{Progress, Shipper};
use sinks::retained::Retained;
use sinks::start::{Sinks, Source};
use sinks::{Outside, SinkError, SinkStatus};
use spool::encryption::Keys;
use spool::files::{Directory, Files};
use spool::pressure::Level;
use spool::{Recovered, Settings, Shared, SpoolRecorder, Writer};
use transport::Reach;

/// The largest segment file.
const SEGMENT_SIZE_MAX: u64 = 64 << 20;
/// Segments that a spool of the configured size has at least, so that deleting one makes room.
const SEGMENTS_MIN: u64 = 8;
/// The lock file that keeps a second gateway out.
const LOCK_FILE: &str = "lock";

/// Why the record's organ cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A value of the configuration cannot be used.
    #[error("{key}: {text}")]
    Config {
        /// The configuration's key.
        key: &'static str,
        /// What is wrong.
        text: String,
    },
    /// Another gateway has the spool.
    #[error(
        "the spool {0} is in use by a running gateway; stop that one, or give each a directory of its own (`spool.dir`)"
    )]
    InUse(String),
    /// The spool cannot be used.
    #[error("the spool {dir} cannot be used: {cause}")]
    Spool {
        /// The directory.
        dir: String,
        /// Why.
        cause: String,
    },
    /// There are no keys for personal data.
    #[error("personal data cannot be sealed: {0}")]
    Keys(#[from] personal::KeyError),
    /// A thread cannot be started.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// How the spool and the store are, for status pages and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether the spool takes records.
    pub state: State,
    /// This gateway's name in its records.
    pub gateway_id: Arc<str>,
    /// This start's number.
    pub epoch: u64,
    /// Bytes in the spool.
    pub spool_bytes: u64,
    /// Bytes that it may hold.
    pub spool_bytes_max: u64,
    /// The share that is used of what it can hold: its bound, or what the disk leaves of it.
    pub spool_used_percent: u64,
    /// Whether it fills: `spool.alarm_percent` is reached, or the disk is nearly full.
    pub spool_alarm: bool,
    /// Bytes that its disk has left, where that can be known.
    pub spool_disk_free: Option<u64>,
    /// Calls with a place reserved: those in flight.
    pub reserved: usize,
    /// Frames made durable since the start.
    pub written_total: u64,
    /// The number of the last durable frame of this epoch.
    pub committed_seq: u64,
    /// The number of the last frame of this epoch in the store.
    pub shipped_seq: u64,
    /// Records shipped since the start, those of earlier epochs included.
    pub shipped_total: u64,
    /// Frames that are durable and not yet in the store.
    pub backlog: u64,
    /// Whether calls that earlier starts left open have their frames by now, with outcome `unknown`.
    pub settled: bool,
    /// Segment files; more than one is a sign that the store is behind.
    pub segments: usize,
    /// Records that could not be kept since the start.
    pub lost_total: u64,
    /// Damaged places found in the spool since the start.
    pub damaged_total: u64,
    /// Why the spool cannot be written.
    pub spool_error: Option<String>,
    /// Why the store cannot be written.
    pub store_error: Option<String>,
    /// Why the key store cannot be used.
    pub keys_error: Option<String>,
    /// Keys that wait for the key store.
    pub keys_pending: usize,
    /// How the sinks do.
    pub sinks: Vec<SinkStatus>,
}

/// The record's organ at work.
pub struct Audit {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    pending: Arc<Pending>,
    told: Arc<Told>,
    log: Arc<Log>,
    /// Ends the log thread, when it is false, after all that is durable is logged.
    logging: Arc<AtomicBool>,
    /// What sinks read from, when there are any.
    source: Option<Source>,
    sinks: RwLock<Sinks>,
    /// The same for the publisher, once the last checkpoint is signed.
    publishing: Arc<AtomicBool>,
    /// Checkpoints on their way to the places outside the store, in the configuration's order.
    desks: Vec<Arc<Desk>>,
    threads: Mutex<Threads>,
    /// Unlocked by the operating system when the process ends, however it ends.
    _lock: File,
}

#[derive(Default)]
struct Threads {
    writer: Option<JoinHandle<()>>,
    logger: Option<JoinHandle<()>>,
    publisher: Option<JoinHandle<()>>,
    shipper: Option<JoinHandle<()>>,
    keys: Option<JoinHandle<()>>,
}

impl Audit {
    /// Locks and recovers the spool, and starts the writer and the shipper. Blocks for as long as reading
    /// the last segments takes.
    ///
    /// A store that cannot be opened is no error here: records wait in the spool, [`Audit::status`] says
    /// why, and it is tried again.
    pub fn open(config: &AuditConfig) -> Result<Self, AuditError> {
        let url = config.store.clone();
        Self::open_with_store(config, Box::new(move || store::open(&url)))
    }

    /// The same with a store that is opened in another way; for tests of stores that fail.
    pub fn open_with_store(config: &AuditConfig, open_store: OpenStore) -> Result<Self, AuditError> {
        if let Some((key, text)) = config.problem() {
            return Err(AuditError::Config { key, text });
        }
        let dir = &config.spool.dir;
        let spool_error = |error: std::io::Error| AuditError::Spool {
            dir: dir.display().to_string(),
            cause: error.to_string(),
        };
        let keys = Keys::read(config.spool.encryption.as_ref())?;
        let files: Arc<dyn Files> = Arc::new(Directory::open(dir).map_err(spool_error)?.with_keys(keys));
        let lock = lock(dir)?;
        // It and the recovery see to the keys first, and fail before anything is changed.
        let retained = match config.sinks.is_empty() {
            true => None,
            false => Some(Retained::open(dir, files.clone()).map_err(spool_error)?),
        };
        let recovered = Recovered::read(&*files, config.spool.gateway_id.as_deref()).map_err(spool_error)?;
        let size_max = config.spool.size_max.get();
        let settings = Settings {
            gateway_id: recovered.gateway_id,
            epoch: recovered.epoch,
            size_max,
            segment_size: (size_max / SEGMENTS_MIN).min(SEGMENT_SIZE_MAX),
            commit_delay: config.spool.commit_delay.get(),
            alarm_percent: config.spool.alarm_percent,
        };
        let imports = Window::read(&*files, recovered.segments.iter()).map_err(spool_error)?;
        let mut owed = recovered.owed;
        let signer = log::key::signer(&*files, &config.checkpoints, &settings.gateway_id, &mut owed)?;
        let shared = Shared::new(settings, files, recovered.segments);
        let shared = Arc::new(shared.with_imports(imports).with_owed(owed).with_retained(retained));
        let source = shared.retained.clone().map(|retained| {
            let needs = config.sinks.iter().map(|(name, sink)| (name.clone(), sink.lag_max.get()));
            Source::open(dir, shared.clone(), retained, needs).map_err(spool_error)
        });
        let source = source.transpose()?;
        let keys = personal::start::start(config, shared.files.clone(), shared.settings.epoch)?;
        let mut writer = Writer::new(shared.clone(), keys.keyring);
        writer.prove().map_err(|cause| AuditError::Spool { dir: dir.display().to_string(), cause })?;
        let progress = Arc::new(Progress::default());
        let checkpoints = &config.checkpoints;
        let alone = checkpoints.to.is_empty() && checkpoints.witnesses.is_empty();
        let publishes = !config.drain_disabled && !alone;
        let log = Arc::new(Log::new(shared.files.clone(), publishes));
        let desk = |place: &Place| Arc::new(Desk::new(place.name(), place.every()));
        let desks: Vec<_> = match publishes {
            true => checkpoints.to.iter().map(desk).collect(),
            false => Vec::new(),
        };
        let (logging, publishing) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
        let mut threads =
            Threads { writer: Some(spawn("audit-writer", move || writer.run())?), ..Threads::default() };
        threads.keys = Some(keys.thread);
        if !config.drain_disabled {
            let (interval, count) = (config.checkpoints.interval.get(), config.checkpoints.count);
            let signing = Signing { signer, interval, count, keep: keep_lines(&config.retention) };
            let logger = Logger::new(shared.clone(), log.clone(), signing);
            let going = logging.clone();
            threads.logger = Some(spawn("audit-log", move || logger.run(&going))?);
            if publishes {
                let publisher = Publisher::new(log.clone(), desks.clone(), checkpoints);
                let going = publishing.clone();
                threads.publisher = Some(spawn("audit-publisher", move || publisher.run(&going))?);
            }
            let shipper = Shipper::new(
                shared.clone(),
                log.clone(),
                progress.clone(),
                open_store,
                config.retention.clone(),
            );
            threads.shipper = Some(spawn("audit-shipper", move || shipper.run())?);
        }
        let (pending, told, threads) = (keys.pending, keys.told, Mutex::new(threads));
        let sinks = RwLock::default();
        let audit = Self {
            shared,
            progress,
            pending,
            told,
            log,
            logging,
            publishing,
            desks,
            source,
            sinks,
            threads,
            _lock: lock,
        };
        audit.carry(checkpoints, None)?;
        Ok(audit)
    }

    /// Lets checkpoints go to the buckets that the configuration names; [`Audit::open`] was given the same. Reads
    /// their secrets: blocks.
    pub fn reach_buckets(&self, config: &AuditConfig, reach: &Reach) -> Result<(), AuditError> {
        self.carry(&config.checkpoints, Some(reach))
    }

    /// Starts the carriers of places that are reached by this, or of those that need nothing.
    fn carry(&self, config: &CheckpointsConfig, reach: Option<&Reach>) -> Result<(), AuditError> {
        for (place, desk) in config.to.iter().zip(&self.desks) {
            if matches!(place, Place::Bucket(_)) != reach.is_some() {
                continue;
            }
            let opened = log::place::open(place, reach)
                .map_err(|problem| AuditError::Config { key: "checkpoints.to", text: problem.to_string() })?;
            let gateway_id = self.shared.settings.gateway_id.clone();
            let carrier = Carrier::new(self.log.clone(), opened, gateway_id, desk.clone());
            // It ends with its desk, which the publisher ends; one that hangs in a request is left behind.
            desk.carried_by(spawn("audit-carrier", move || carrier.run())?);
        }
        Ok(())
    }

    /// Starts the sinks that the configuration names; [`Audit::open`] was given the same. Reads their secrets:
    /// blocks.
    pub fn start_sinks(&self, config: &AuditConfig, outside: &Outside) -> Result<(), SinkError> {
        let Some(source) = &self.source else { return Ok(()) };
        let mut sinks = self.sinks.write();
        config.sinks.iter().try_for_each(|(name, sink)| sinks.start(name, sink, source, outside))
    }

    /// Where the road sends records.
    pub fn recorder(&self) -> Arc<dyn Recorder> {
        Arc::new(SpoolRecorder(self.shared.clone()))
    }

    /// Lets checkpoints be cosigned by the configured witnesses. Once is enough.
    pub fn speak_to_witnesses(&self, cosigner: Arc<dyn Cosigner>) {
        // A second one would say the same.
        let _ = self.log.cosigner.set(cosigner);
    }

    /// Lets what the log does by itself be recorded. Once is enough.
    pub fn record_in(&self, records: Records) {
        let _ = self.log.records.set(records);
    }

    /// How the log and its checkpoints fare, outside the store too. Cheap.
    pub fn published(&self) -> Published {
        let epoch = self.shared.settings.epoch;
        let frontier = self.log.frontier();
        let leaves = if frontier.epoch == epoch { frontier.size } else { 0 };
        let (signed, signed_us) = self.log.newest(epoch).unwrap_or_default();
        let places = self.desks.iter().map(|desk| desk.status(epoch)).collect();
        let (witnesses, witnessed) = self.log.witnessing.lock().status(epoch, signed);
        Published { epoch, leaves, signed, signed_us, places, witnesses, witnessed }
    }

    /// How it goes. Cheap.
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        // Each lock is given back before the next one is taken.
        let segments = shared.segments.lock().len();
        let sinks = self.source.as_ref().map(|source| self.sinks.read().status(source)).unwrap_or_default();
        let committed_seq = shared.committed_seq.load(Ordering::Relaxed);
        let shipped_seq = self.progress.shipped_seq.load(Ordering::Relaxed);
        Status {
            state: shared.state(),
            gateway_id: shared.settings.gateway_id.clone(),
            epoch: shared.settings.epoch,
            spool_bytes: shared.bytes(),
            spool_bytes_max: shared.settings.size_max,
            reserved: shared.places(),
            written_total: shared.written_total.load(Ordering::Relaxed),
            committed_seq,
            shipped_seq,
            shipped_total: self.progress.shipped_total.load(Ordering::Relaxed),
            backlog: committed_seq.saturating_sub(shipped_seq),
            segments,
            settled: self.progress.settled.load(Ordering::Relaxed),
            lost_total: shared.lost_total(),
            damaged_total: self.progress.damaged_total.load(Ordering::Relaxed),
            spool_error: shared.trouble(),
            spool_alarm: shared.pressure.level() != Level::Roomy,
            spool_used_percent: shared.used_percent(),
            spool_disk_free: shared.pressure.disk_free(),
            store_error: self.progress.error.lock().clone().or_else(|| self.log.error.lock().clone()),
            keys_error: self.told.error(),
            keys_pending: self.pending.len(),
            sinks,
        }
    }

    /// Takes no more calls, makes what is queued durable, and ships what it can within the deadline; the
    /// rest waits in the spool for the next start. Blocks. Whether everything was shipped.
    pub fn shutdown(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        self.shared.close();
        let mut threads = self.threads.lock();
        join(threads.writer.take());
        // It ends when the writer no longer asks it.
        join(threads.keys.take());
        self.logging.store(false, Ordering::Relaxed);
        self.shared.committed.notify_all();
        join(threads.logger.take());
        self.publishing.store(false, Ordering::Relaxed);
        self.log.signed.notify_all();
        self.progress.stop();
        self.log.moved.notify_all();
        if let Some(shipper) = threads.shipper.take() {
            while !shipper.is_finished() && Instant::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            self.progress.give_up();
            join(Some(shipper));
        }
        self.sinks.read().stop(deadline);
        join(threads.publisher.take());
        self.shared.segments.lock().is_empty()
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// Whether a gateway has a spool's directory.
fn is_locked(dir: &Path) -> bool {
    // Opened for reading: nothing is made, and a lock that we get goes with the file.
    File::open(dir.join(LOCK_FILE))
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock)))
}

fn lock(dir: &Path) -> Result<File, AuditError> {
    let spool = |cause: String| AuditError::Spool { dir: dir.display().to_string(), cause };
    let mut options = OpenOptions::new();
    let path = dir.join(LOCK_FILE);
    let file = spool::files::private(options.write(true).create(true).truncate(false))
        .open(&path)
        // On a volume that is read-only for now, the lock of an earlier start does.
        .or_else(|error| match error.kind() {
            ErrorKind::ReadOnlyFilesystem => File::open(&path).map_err(|_| error),
            _ => Err(error),
        })
        .map_err(|error| spool(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(AuditError::InUse(dir.display().to_string())),
        Err(std::fs::TryLockError::Error(error)) => Err(spool(error.to_string())),
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread
        && thread.join().is_err()
    {
        tracing::error!("a thread of the record's organ panicked");
    }
}

#[cfg(test)]
mod tests;
