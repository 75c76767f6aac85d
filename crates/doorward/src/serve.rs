//! Runs the gateway: opens what the configuration names, listens, reloads, drains.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use doorward_audit::log::peers::Records;
use doorward_audit::sinks::Outside;
use doorward_audit::transport::Reach;
use doorward_audit::{Audit, AuditConfig, otlp};
use doorward_core::{AccessRecord, Gateway, ImportTally, Observer, ResourceName, SystemClock};
use doorward_door_ingest::SyslogListener;
use doorward_door_postgres::WireListener;
use doorward_http::{Front, Listener, PlainTls, bind, client_config, serve_plain, server_config};
use doorward_settings::{Problem, Problems};
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Root;
use crate::fetch::Outbound;
use crate::metrics::Metrics;
use crate::minting::Gatekeeper;
use crate::state::State;
use crate::wiring::{Wired, Wiring, blocking};
use crate::witnesses::Witnesses;
use crate::{admin, doors, minting, peers, postgres, reload, syslog};

/// How long records may take to reach the store when the gateway stops; the rest waits in the spool.
const SHIP_AT_STOP: Duration = Duration::from_secs(10);

/// How long credentials may take to be revoked when the gateway stops; the rest ends by itself.
const REVOKE_AT_STOP: Duration = Duration::from_secs(10);

/// What `doorward serve` is told on the command line.
#[derive(Debug)]
pub(crate) struct Options {
    /// Where the addresses are written once the gateway listens.
    pub(crate) ready_file: Option<PathBuf>,
    /// Leaves records in the spool; for benchmarks.
    pub(crate) leave_records_in_spool: bool,
}

/// The running gateway.
pub(crate) struct Running {
    pub(crate) wiring: Arc<Wiring>,
    pub(crate) state: Arc<State>,
    gateway: Arc<Gateway>,
    front: Arc<Front>,
    listener: Listener,
    syslog: Option<SyslogListener>,
    peers: Option<PlainTls>,
    wire: Option<WireListener>,
}

/// Runs until SIGTERM or SIGINT, and drains.
pub(crate) async fn run(files: Vec<PathBuf>, options: Options) -> anyhow::Result<()> {
    let outbound = blocking(Outbound::new).await??;
    let wiring = Arc::new(Wiring::new(files, outbound.clone()));
    let config = wiring.read().await?;

    // Records first: without a place for them nothing is served.
    let audit_config = AuditConfig { drain_disabled: options.leave_records_in_spool, ..config.root.audit() };
    let audit = Arc::new(open_audit(audit_config, outbound.clone()).await?);
    audit.speak_to_witnesses(Arc::new(Witnesses::new(outbound.clone())));
    let metrics = Arc::new(Metrics::default());
    let observer = observer(&config.root, metrics.clone(), outbound).await?;
    let state = Arc::new(State::new(metrics, audit.clone()));

    let config = blocking(move || minting::ensure_key(&config.root).map(|()| config)).await??;
    let wired = wiring.open(config).await?;
    let root = &wired.config.root;
    let tls = load_tls(root).await?;
    let (http, admin) = (bind(root.listen.http).await?, bind(root.listen.admin).await?);
    let mut addresses = json!({
        "http": http.local_addr()?.to_string(), "admin": admin.local_addr()?.to_string(), "pid": std::process::id(),
    });
    let gateway =
        Arc::new(Gateway::new(wired.snapshot.clone(), audit.recorder(), observer, Arc::new(SystemClock)));
    let doors = doors::DOORS.iter().map(|door| (door.name, (door.http)()));
    let front = Front::new(gateway.clone(), doors, root.http.limits());
    let front = Arc::new(front.with_own(minting::SEGMENT, Arc::new(Gatekeeper)));
    tokio::spawn(serve_plain(admin, admin::handler(state.clone())));
    state.serve(wired.snapshot.digest.as_str(), wired.resources.clone());
    let listener = Listener::start(http, front.clone(), tls);
    state.count(listener.connections());
    let syslog = syslog::start(root, gateway.clone()).await?.map(|(listener, address)| {
        if let Some(addresses) = addresses.as_object_mut() {
            addresses.insert("syslog".to_owned(), address.to_string().into());
        }
        listener
    });
    let records = Records {
        recorder: audit.recorder(),
        environment: root.environment.as_str().into(),
        digest: wired.snapshot.digest.clone(),
        runtime: tokio::runtime::Handle::current(),
    };
    audit.record_in(records.clone());
    let peers = peers::start(root, &audit, records).await?.map(|(tls, address)| {
        if let Some(addresses) = addresses.as_object_mut() {
            addresses.insert("witness".to_owned(), address.to_string().into());
        }
        tls
    });
    let wire = postgres::start(root, gateway.clone()).await?.map(|(listener, address)| {
        if let Some(addresses) = addresses.as_object_mut() {
            addresses.insert("postgres".to_owned(), address.to_string().into());
        }
        listener
    });
    let running = Arc::new(Running { wiring, state, gateway, front, listener, syslog, peers, wire });
    let watch = tokio::spawn(reload::watch(running.clone(), wired));

    tracing::info!(%addresses, "listening");
    if let Some(path) = &options.ready_file {
        write_whole(path, &addresses).await.with_context(|| path.display().to_string())?;
    }
    stop_signal().await?;

    tracing::info!("stopping: no new connections, calls under way may end");
    watch.abort();
    running.state.drain();
    let within = running.front.limits().drain_span_max;
    let syslog = async {
        if let Some(syslog) = &running.syslog {
            syslog.drain(within).await;
        }
    };
    let wire = async {
        match &running.wire {
            Some(wire) => wire.drain(within).await,
            None => 0,
        }
    };
    let (cut, (), sessions_cut) = tokio::join!(running.listener.drain(within), syslog, wire);
    let cut = cut + sessions_cut;
    if cut > 0 {
        tracing::warn!(connections = cut, "connections were cut: the time to drain was over");
    }
    if !running.wiring.revoke(REVOKE_AT_STOP).await {
        tracing::warn!("some backend credentials were not revoked in time; they end by themselves");
    }
    if !blocking(move || audit.shutdown(SHIP_AT_STOP)).await? {
        tracing::warn!("records wait in the spool; the next start ships them");
    }
    Ok(())
}

impl Running {
    /// Lets a newly opened configuration serve. Addresses, spool and store are those of the start.
    pub(crate) async fn apply(&self, wired: &Wired) -> Result<(), Problems> {
        let root = &wired.config.root;
        self.listener.set_tls(load_tls(root).await?);
        if let Some(syslog) = &self.syslog {
            syslog.set_tls(syslog::tls(root).await?);
        }
        if let Some(peers) = &self.peers {
            peers::set_tls(peers, root).await?;
        }
        if let Some(wire) = &self.wire {
            wire.set(postgres::tls(root).await?.as_ref(), postgres::options(root));
        }
        self.front.set_limits(root.http.limits());
        self.gateway.swap(wired.snapshot.clone());
        self.state.serve(wired.snapshot.digest.as_str(), wired.resources.clone());
        Ok(())
    }
}

async fn load_tls(root: &Root) -> Result<Option<Arc<ServerConfig>>, Problems> {
    let Some(tls) = root.tls.clone() else { return Ok(None) };
    let loaded = blocking(move || server_config(&tls)).await?;
    loaded.map(Some).map_err(|error| Problem::of_file("tls", error.to_string()).into())
}

/// Opens the record's organ, and starts its sinks.
async fn open_audit(config: AuditConfig, outbound: Arc<Outbound>) -> anyhow::Result<Audit> {
    let outside = Outside {
        transport: outbound,
        tls: |ca| client_config(ca).map_err(|error| error.to_string()),
        runtime: tokio::runtime::Handle::current(),
    };
    let reach = Reach { transport: outside.transport.clone(), runtime: outside.runtime.clone() };
    let opened = blocking(move || -> anyhow::Result<Audit> {
        let audit = Audit::open(&config)?;
        audit.start_sinks(&config, &outside)?;
        audit.reach_buckets(&config, &reach)?;
        Ok(audit)
    });
    opened.await?
}

/// What sees finished calls: metrics, and traces when they are configured.
async fn observer(
    root: &Root,
    metrics: Arc<Metrics>,
    outbound: Arc<Outbound>,
) -> Result<Arc<dyn Observer>, Problems> {
    let Some(config) = root.otlp.clone() else { return Ok(metrics) };
    let (exporter, worker) = blocking(move || otlp::exporter(&config)).await??;
    tokio::spawn(worker.run(outbound));
    Ok(Arc::new(Both(metrics, exporter)))
}

struct Both(Arc<Metrics>, otlp::Exporter);

impl Observer for Both {
    fn completed(&self, record: &AccessRecord) {
        self.0.completed(record);
        self.1.completed(record);
    }

    fn imported(&self, source: &ResourceName, tally: &ImportTally) {
        self.0.imported(source, tally);
    }
}

/// Whoever waits for the file sees all of it or nothing.
async fn write_whole(path: &Path, value: &Value) -> std::io::Result<()> {
    let draft = path.with_extension("draft");
    tokio::fs::write(&draft, value.to_string()).await?;
    tokio::fs::rename(&draft, path).await
}

async fn stop_signal() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}
