//! Starts the sinks of a gateway, and says how they do.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use doorward_settings::SecretRef;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::runtime::Handle;

use super::archive::Archive;
use super::config::SinkConfig;
use super::format::Formatter;
use super::otlp_logs::{OtlpLogs, logs_url};
use super::retained::{FOLDER, Retained};
use super::stdout::Stdout;
use super::syslog::Syslog;
use super::tail::{Position, Tail};
use super::worker::{BATCH_ROWS, Ending, Progress, Receiver, Worker, cursor_name};
use crate::s3::Bucket;
use crate::spool::Shared;
use crate::spool::files::{Directory, Files};
use crate::transport::Transport;

/// The longest text of a cursor file.
const CURSOR_BYTES_MAX: usize = 256;

/// What sinks need of the world outside.
#[derive(Clone)]
pub struct Outside {
    /// The gateway's HTTP client.
    pub transport: Arc<dyn Transport>,
    /// The client's side of TLS, with the authorities of a PEM file beside the system's.
    pub tls: fn(Option<&Path>) -> Result<Arc<ClientConfig>, String>,
    /// Where requests run.
    pub runtime: Handle,
}

/// Why a sink cannot start.
#[derive(Debug, thiserror::Error)]
#[error("sinks.{sink}: {cause}")]
pub struct SinkError {
    /// The sink.
    pub sink: String,
    /// Why.
    pub cause: String,
}

/// How a sink does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkStatus {
    /// Its name in the configuration.
    pub name: String,
    /// What kind it is: `s3`.
    pub kind: &'static str,
    /// Bytes of durable frames that it has not taken.
    pub lag_bytes: u64,
    /// Rows delivered since the start, repeated ones included.
    pub sent_total: u64,
    /// Records that it did not get since the start.
    pub lost_total: u64,
    /// Why it does not take records.
    pub error: Option<String>,
}

/// The sinks of a gateway.
#[derive(Default)]
pub(crate) struct Sinks {
    list: Vec<Sink>,
    ending: Arc<Ending>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Sink {
    name: String,
    kind: &'static str,
    progress: Arc<Progress>,
}

/// What the sinks read from.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) shared: Arc<Shared>,
    pub(crate) retained: Arc<Retained>,
    /// The folder of retained segments and cursors.
    pub(crate) folder: Arc<dyn Files>,
}

impl Source {
    /// Opens the folder under the spool's directory, and notes where each sink stands before the shipper gives
    /// its first segment away.
    pub(crate) fn open(
        spool: &Path,
        shared: Arc<Shared>,
        retained: Arc<Retained>,
        sinks: impl Iterator<Item = (String, u64)>,
    ) -> io::Result<Self> {
        let folder: Arc<dyn Files> = Arc::new(Directory::open(&spool.join(FOLDER))?);
        let source = Self { shared, retained, folder };
        let needs = sinks.map(|(name, lag_max)| {
            let position = source.position(&name)?;
            Ok((name, position.segment, lag_max))
        });
        let needs = needs.collect::<io::Result<Vec<_>>>()?;
        source.retained.begin(needs.into_iter());
        Ok(source)
    }

    fn position(&self, sink: &str) -> io::Result<Position> {
        let bytes = match self.folder.read(&cursor_name(sink), 0, CURSOR_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Position::default()),
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&bytes);
        Position::parse(&text)
            .ok_or_else(|| io::Error::other(format!("the cursor of sink {sink} is damaged")))
    }
}

impl Sinks {
    /// Starts a sink's thread. Reads its secrets: blocks, at start only.
    pub(crate) fn start(
        &mut self,
        name: &str,
        config: &SinkConfig,
        source: &Source,
        outside: &Outside,
    ) -> Result<(), SinkError> {
        let failed = |cause: String| SinkError { sink: name.to_owned(), cause };
        let receiver = receiver(config, source, outside).map_err(failed)?;
        let position = source.position(name).map_err(|error| failed(error.to_string()))?;
        let progress = Arc::new(Progress::default());
        *progress.kept.lock() = position.clone();
        let (shared, retained) = (source.shared.clone(), source.retained.clone());
        let worker = Worker {
            name: name.to_owned(),
            lag_max: config.lag_max.get(),
            tail: Tail::new(shared.clone(), retained.clone(), config.personal, position.clone()),
            shared,
            retained,
            folder: source.folder.clone(),
            receiver,
            progress: progress.clone(),
            ending: self.ending.clone(),
            rows_max: BATCH_ROWS,
            delivered: position,
            counted: (0, 0),
        };
        let thread = std::thread::Builder::new().name(format!("sink-{name}")).spawn(move || worker.run());
        self.threads.lock().push(thread.map_err(|error| failed(error.to_string()))?);
        self.list.push(Sink { name: name.to_owned(), kind: config.kind(), progress });
        Ok(())
    }

    /// How they do.
    pub(crate) fn status(&self, source: &Source) -> Vec<SinkStatus> {
        let status = |sink: &Sink| SinkStatus {
            name: sink.name.clone(),
            kind: sink.kind,
            lag_bytes: Tail::lag(&source.shared, &source.retained, &sink.progress.kept.lock()),
            sent_total: sink.progress.sent_total.load(Ordering::Relaxed),
            lost_total: sink.progress.lost_total.load(Ordering::Relaxed),
            error: sink.progress.error.lock().clone(),
        };
        self.list.iter().map(status).collect()
    }

    /// Lets them deliver what is durable until the deadline, and ends them. One that hangs in a call to its
    /// receiver is left behind: what it holds is kept for the next start.
    pub(crate) fn stop(&self, deadline: Instant) {
        self.ending.stop();
        let mut threads = std::mem::take(&mut *self.threads.lock());
        while threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        self.ending.give_up();
        for thread in threads.drain(..).filter(JoinHandle::is_finished) {
            if thread.join().is_err() {
                tracing::error!("the thread of a sink panicked");
            }
        }
    }
}

fn receiver(config: &SinkConfig, source: &Source, outside: &Outside) -> Result<Box<dyn Receiver>, String> {
    let formatter = Formatter(config.format);
    let (transport, runtime) = (outside.transport.clone(), outside.runtime.clone());
    if let Some(otlp) = &config.otlp {
        let read = |(name, value): (&String, &SecretRef)| {
            Ok((name.clone(), value.read().map_err(|problem| problem.to_string())?))
        };
        let headers = otlp.headers.iter().map(read).collect::<Result<_, String>>()?;
        let url = logs_url(&otlp.endpoint);
        return Ok(Box::new(OtlpLogs { formatter, url, headers, transport, runtime }));
    }
    if let Some(s3) = &config.s3 {
        let bucket = Bucket::open(&s3.bucket()).map_err(|problem| problem.to_string())?;
        return Ok(Box::new(Archive::new(formatter, bucket, s3.every.get(), transport, runtime)));
    }
    if let Some(syslog) = &config.syslog {
        let (road, authority) = syslog.road()?;
        let tls = match road {
            super::config::Road::Tls => Some((outside.tls)(syslog.ca.as_deref())?),
            super::config::Road::Tcp | super::config::Road::Udp => None,
        };
        return Ok(Box::new(Syslog {
            formatter,
            road,
            authority: authority.to_owned(),
            tls,
            facility: syslog.facility,
            app_name: syslog.app_name.clone(),
            gateway_id: source.shared.settings.gateway_id.to_string(),
            connection: None,
        }));
    }
    Ok(Box::new(Stdout::new(formatter, io::stdout())))
}
