//! What the admin address tells: whether the gateway is ready, and under which configuration it serves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use doorward_audit::Audit;
use doorward_audit::log::publish::{PlaceStatus, Published};
use doorward_core::ResourceName;
use doorward_door_postgres::WireResource;
use doorward_door_rest::RestResource;
use doorward_http::Connections;
use parking_lot::Mutex;
use serde::Serialize;

use crate::doors::Opened;
use crate::metrics::{Metrics, PoolState, checkpoints};

/// The running gateway, as its operator sees it.
pub(crate) struct State {
    /// Counters and histograms.
    pub(crate) metrics: Arc<Metrics>,
    audit: Arc<Audit>,
    draining: AtomicBool,
    serving: Mutex<Serving>,
    connections: OnceLock<Connections>,
}

/// The configuration that serves.
struct Serving {
    digest: String,
    refused: Option<String>,
    resources: Vec<(ResourceName, Arc<Opened>)>,
}

/// What `/readyz` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness {
    ready: bool,
    draining: bool,
    config: ConfigReadiness,
    spool: SpoolReadiness,
    /// A sink that is away turns nothing red: records are kept for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sinks: Vec<SinkReadiness>,
    /// Nor does a place or a witness: checkpoints wait for it.
    checkpoints: CheckpointReadiness,
    resources: Vec<ResourceReadiness>,
}

#[derive(Debug, Serialize)]
struct SinkReadiness {
    name: String,
    kind: &'static str,
    lag_bytes: u64,
    lost: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

/// The transparency log of this start.
#[derive(Debug, Serialize)]
struct CheckpointReadiness {
    /// Leaves, and how many of them the newest checkpoint counts.
    leaves: u64,
    signed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    places: Vec<KeeperReadiness>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    witnesses: Vec<KeeperReadiness>,
    /// Leaves of the newest checkpoint that enough witnesses have cosigned.
    #[serde(skip_serializing_if = "Option::is_none")]
    witnessed: Option<u64>,
}

/// A place outside the store, or a witness.
#[derive(Debug, Serialize)]
struct KeeperReadiness {
    name: String,
    /// Leaves under a checkpoint that it does not have yet.
    behind: u64,
    /// Logs of earlier starts that it does not have yet.
    #[serde(skip_serializing_if = "is_none")]
    owed: u64,
    /// Those that it never gets: they were given up.
    #[serde(skip_serializing_if = "is_none")]
    given_up: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it on so")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

impl CheckpointReadiness {
    fn of(published: Published) -> Self {
        let age_seconds = checkpoints::age_seconds(&published);
        let Published { leaves, signed, places, witnesses, witnessed, .. } = published;
        let witnessed = (!witnesses.is_empty()).then_some(witnessed);
        let places = places.into_iter().map(|place| {
            let PlaceStatus { name, behind, owed, given_up, error: trouble, .. } = place;
            KeeperReadiness { name, behind, owed, given_up, trouble }
        });
        let witnesses = witnesses.into_iter().map(|witness| {
            let (name, behind, trouble) = (witness.name, witness.behind, witness.error);
            KeeperReadiness { name, behind, owed: 0, given_up: 0, trouble }
        });
        let (places, witnesses) = (places.collect(), witnesses.collect());
        Self { leaves, signed, age_seconds, places, witnesses, witnessed }
    }
}

#[derive(Debug, Serialize)]
struct ConfigReadiness {
    digest: String,
    /// Why the file as it is now does not serve; the older configuration goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

#[derive(Debug, Serialize)]
struct SpoolReadiness {
    open: bool,
    /// `ready`, `full`, `broken` or `closed`.
    state: &'static str,
    bytes: u64,
    used_percent: u64,
    /// It fills: the store is behind, or the disk is nearly full.
    alarm: bool,
    backlog: u64,
    lost: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    /// Why the store takes no records; they wait in the spool.
    #[serde(skip_serializing_if = "Option::is_none")]
    store_trouble: Option<String>,
    /// Why the key store of personal data cannot be used; keys are made locally until it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys_trouble: Option<String>,
}

#[derive(Debug, Serialize)]
struct ResourceReadiness {
    name: String,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

impl State {
    /// A gateway that has yet to serve a configuration.
    pub(crate) fn new(metrics: Arc<Metrics>, audit: Arc<Audit>) -> Self {
        let serving = Serving { digest: String::new(), refused: None, resources: Vec::new() };
        Self {
            metrics,
            audit,
            draining: AtomicBool::new(false),
            serving: Mutex::new(serving),
            connections: OnceLock::new(),
        }
    }

    /// The listener whose connections are counted.
    pub(crate) fn count(&self, connections: Connections) {
        // There is one listener; a second one would not be counted.
        let _ = self.connections.set(connections);
    }

    /// A configuration serves from now on.
    pub(crate) fn serve(&self, digest: &str, resources: Vec<(ResourceName, Arc<Opened>)>) {
        self.metrics.config_current.set(1);
        *self.serving.lock() = Serving { digest: digest.to_owned(), refused: None, resources };
    }

    /// A configuration was refused; the older one goes on.
    pub(crate) fn refuse(&self, why: String) {
        self.metrics.reloads_failed.inc();
        self.metrics.config_current.set(0);
        self.serving.lock().refused = Some(why);
    }

    /// The gateway takes no new connections from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The state of readiness: red while draining, or while records cannot be kept. A backend that is away
    /// is told but does not turn it red: others may well be up.
    pub(crate) fn readiness(&self) -> Readiness {
        let mut spool = self.audit.status();
        let sinks = std::mem::take(&mut spool.sinks).into_iter().map(|sink| SinkReadiness {
            name: sink.name,
            kind: sink.kind,
            lag_bytes: sink.lag_bytes,
            lost: sink.lost_total,
            trouble: sink.error,
        });
        let sinks = sinks.collect();
        let open = spool.state == doorward_audit::State::Ready;
        let draining = self.draining.load(Ordering::Relaxed);
        let serving = self.serving.lock();
        let resources = serving.resources.iter().map(|(name, opened)| {
            let trouble = (opened.trouble)();
            ResourceReadiness { name: name.to_string(), ready: trouble.is_none(), trouble }
        });
        Readiness {
            ready: !draining && open,
            draining,
            config: ConfigReadiness { digest: serving.digest.clone(), refused: serving.refused.clone() },
            spool: SpoolReadiness {
                open,
                state: spool.state.as_str(),
                bytes: spool.spool_bytes,
                used_percent: spool.spool_used_percent,
                alarm: spool.spool_alarm,
                backlog: spool.backlog,
                lost: spool.lost_total,
                trouble: spool.spool_error,
                store_trouble: spool.store_error,
                keys_trouble: spool.keys_error,
            },
            sinks,
            checkpoints: CheckpointReadiness::of(self.audit.published()),
            resources: resources.collect(),
        }
    }

    /// The metrics' text.
    pub(crate) fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        let (digest, pools) = {
            let serving = self.serving.lock();
            let pool = |(name, opened): &(ResourceName, Arc<Opened>)| {
                let rest = opened.resource.backend::<RestResource>()?.pool_stats();
                let wired = opened.resource.backend::<WireResource>();
                let (wire, servers) = (wired.map(WireResource::stats), wired.map(WireResource::standings));
                Some(PoolState { resource: name.clone(), rest, wire, servers: servers.unwrap_or_default() })
            };
            (serving.digest.clone(), serving.resources.iter().filter_map(pool).collect::<Vec<_>>())
        };
        let audit = (&self.audit.status(), &self.audit.published());
        self.metrics.render(audit, self.connections.get(), &pools, &digest)
    }
}

impl Readiness {
    /// Whether the gateway can take calls.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }
}
