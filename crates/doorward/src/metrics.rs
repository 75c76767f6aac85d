//! Metrics, in Prometheus' text format. They are made from finished records, so that what is counted
//! here and what stands in the timeline cannot disagree.
//!
//! Cardinality is bounded by the configuration: labels are doors, resources, verbs, outcomes, fault
//! codes and stages; never principals, objects or paths.

pub(crate) mod checkpoints;
mod pools;

use std::sync::atomic::{AtomicU64, Ordering};

use doorward_audit::Status;
use doorward_audit::log::publish::Published;
use doorward_audit::sinks::SinkStatus;
use doorward_core::hash::FixedMap;
use doorward_core::{AccessRecord, ImportTally, Observer, ResourceName, Stage};
use doorward_http::Connections;
use parking_lot::RwLock;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

pub(crate) use pools::PoolState;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Name(Option<ResourceName>);

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.as_ref().map_or("", |name| name.as_str()).encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    door: &'static str,
    resource: Name,
    verb: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DoorLabels {
    door: &'static str,
    resource: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ImportLabels {
    resource: Name,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    resource: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
    side: &'static str,
}

/// The series that one kind of call is counted in.
#[derive(Clone)]
struct Series {
    calls: Counter,
    seconds: Histogram,
}

/// Counters and histograms of calls, and of the configuration's reloads.
pub(crate) struct Metrics {
    /// The series by their labels, for one look at each call; there are as many as `calls` has.
    series: RwLock<FixedMap<CallLabels, Series>>,
    calls: Family<CallLabels, Counter>,
    faults: Family<CodeLabels, Counter>,
    seconds: Family<DoorLabels, Histogram, fn() -> Histogram>,
    imported: Family<ImportLabels, Counter>,
    unknown_fields: Family<ResourceLabels, Counter>,
    bytes_in: Counter,
    bytes_out: Counter,
    stages: [AtomicU64; Stage::ALL.len()],
    /// Reloads that were refused because the file was bad.
    pub(crate) reloads_failed: Counter,
    /// 1 while the configuration that serves is the one in the file.
    pub(crate) config_current: Gauge,
}

fn call_buckets() -> Histogram {
    // 100 µs to 52 s, doubling.
    Histogram::new(exponential_buckets(0.0001, 2.0, 20))
}

impl Default for Metrics {
    fn default() -> Self {
        let config_current = Gauge::default();
        config_current.set(1);
        Self {
            series: RwLock::default(),
            calls: Family::default(),
            faults: Family::default(),
            seconds: Family::new_with_constructor(call_buckets),
            imported: Family::default(),
            unknown_fields: Family::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            stages: Default::default(),
            reloads_failed: Counter::default(),
            config_current,
        }
    }
}

impl Metrics {
    fn count(&self, labels: CallLabels, duration_us: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a duration in seconds needs no 53rd bit")]
        let seconds = duration_us as f64 / 1e6;
        if let Some(series) = self.series.read().get(&labels) {
            series.calls.inc();
            series.seconds.observe(seconds);
            return;
        }
        let of_door = DoorLabels { door: labels.door, resource: labels.resource.clone() };
        let calls = self.calls.get_or_create_owned(&labels);
        let series = Series { calls, seconds: self.seconds.get_or_create_owned(&of_door) };
        series.calls.inc();
        series.seconds.observe(seconds);
        self.series.write().insert(labels, series);
    }
}

impl Observer for Metrics {
    fn completed(&self, record: &AccessRecord) {
        let action = record.actions.as_ref().and_then(|actions| actions.as_slice().first());
        // Only a configured resource becomes a label; what a caller made up does not.
        let known = record.rule.is_some() || record.backend_role.is_some();
        let resource = Name(action.filter(|_| known).map(|action| action.resource.clone()));
        let verb = action.map_or("", |action| action.verb.as_str());
        let outcome = record.outcome.as_str();
        self.count(CallLabels { door: record.door, resource, verb, outcome }, record.duration_us);
        if let Some(fault) = &record.fault {
            self.faults.get_or_create(&CodeLabels { code: fault.code, side: fault.side }).inc();
        }
        self.bytes_in.inc_by(record.bytes_in);
        self.bytes_out.inc_by(record.bytes_out);
        for (stage, micros) in record.timings.iter() {
            if let Some(sum) = self.stages.get(stage as usize) {
                sum.fetch_add(u64::from(micros), Ordering::Relaxed);
            }
        }
    }

    fn imported(&self, source: &ResourceName, tally: &ImportTally) {
        let resource = || Name(Some(source.clone()));
        for (result, count) in
            [("accepted", tally.accepted), ("duplicate", tally.duplicates), ("rejected", tally.rejected)]
        {
            self.imported.get_or_create(&ImportLabels { resource: resource(), result }).inc_by(count);
        }
        self.unknown_fields
            .get_or_create(&ResourceLabels { resource: resource() })
            .inc_by(tally.unknown_fields);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SinkLabels {
    sink: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
    config_digest: String,
}

impl Metrics {
    /// All metrics in the text format, with the state of the spool as it is now.
    pub(crate) fn render(
        &self,
        audit: (&Status, &Published),
        connections: Option<&Connections>,
        pools: &[PoolState],
        digest: &str,
    ) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("doorward");
        registry.register("calls", "Governed calls", self.calls.clone());
        registry.register("faults", "Refusals and failures by stable code", self.faults.clone());
        registry.register("call_duration_seconds", "First byte to record", self.seconds.clone());
        registry.register("imported_records", "Records of other gateways", self.imported.clone());
        registry.register(
            "imported_unknown_fields",
            "Fields that no mapping knows",
            self.unknown_fields.clone(),
        );
        registry.register("bytes_in", "Bytes of request bodies", self.bytes_in.clone());
        registry.register("bytes_out", "Bytes of answer bodies", self.bytes_out.clone());
        let stages = Family::<StageLabels, Counter>::default();
        for (stage, sum) in Stage::ALL.into_iter().zip(&self.stages) {
            let counter = stages.get_or_create(&StageLabels { stage: stage.as_str() });
            counter.inc_by(sum.load(Ordering::Relaxed));
        }
        registry.register("stage_microseconds", "Time spent in each stage of the road", stages);
        registry.register(
            "config_reloads_failed",
            "Reloads refused: a bad file",
            self.reloads_failed.clone(),
        );
        registry.register(
            "config_current",
            "1 while the file's configuration serves",
            self.config_current.clone(),
        );
        register_audit(&mut registry, audit.0);
        checkpoints::register(&mut registry, audit.1);
        pools::register(&mut registry, pools);
        if let Some(connections) = connections {
            let open = ConstGauge::new(i64::from(connections.open()));
            registry.register("connections", "Open connections", open);
            let turned_away = ConstCounter::new(connections.turned_away());
            registry.register("connections_turned_away", "Connections over a cap", turned_away);
        }
        let build = Family::<BuildLabels, Gauge>::default();
        let labels = BuildLabels { version: env!("CARGO_PKG_VERSION"), config_digest: digest.to_owned() };
        build.get_or_create(&labels).set(1);
        registry.register("build", "The running version and configuration", build);
        let mut out = String::with_capacity(8 * 1024);
        text::encode(&mut out, &registry)?;
        Ok(out)
    }
}

fn register_sinks(registry: &mut Registry, sinks: &[SinkStatus]) {
    if sinks.is_empty() {
        return;
    }
    let up = Family::<SinkLabels, Gauge>::default();
    let lag = Family::<SinkLabels, Gauge>::default();
    let sent = Family::<SinkLabels, Counter>::default();
    let lost = Family::<SinkLabels, Counter>::default();
    for sink in sinks {
        let labels = SinkLabels { sink: sink.name.clone(), kind: sink.kind };
        up.get_or_create(&labels).set(i64::from(sink.error.is_none()));
        lag.get_or_create(&labels).set(i64::try_from(sink.lag_bytes).unwrap_or(i64::MAX));
        sent.get_or_create(&labels).inc_by(sink.sent_total);
        lost.get_or_create(&labels).inc_by(sink.lost_total);
    }
    registry.register("sink_up", "1 while the sink takes records", up);
    registry.register("sink_lag_bytes", "Bytes of records that the sink has not taken", lag);
    registry.register("sink_rows_sent", "Rows delivered to the sink", sent);
    registry.register("sink_records_lost", "Records that the sink did not get", lost);
}

fn register_audit(registry: &mut Registry, audit: &Status) {
    let mut gauge = |name: &str, help: &str, value: u64| {
        registry.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
    };
    gauge("spool_bytes", "Bytes of records on local disk", audit.spool_bytes);
    gauge("spool_bytes_max", "Bytes of records that local disk may hold", audit.spool_bytes_max);
    gauge("spool_used_percent", "Share used of what the spool can hold", audit.spool_used_percent);
    gauge("spool_alarm", "1 while the spool fills", u64::from(audit.spool_alarm));
    if let Some(free) = audit.spool_disk_free {
        gauge("spool_disk_free_bytes", "Bytes that the spool's disk has left", free);
    }
    gauge("spool_backlog", "Durable frames that the store does not have yet", audit.backlog);
    gauge(
        "spool_open",
        "1 while records can be kept",
        u64::from(audit.state == doorward_audit::State::Ready),
    );
    gauge("store_reachable", "1 while the store takes records", u64::from(audit.store_error.is_none()));
    gauge("keys_reachable", "1 while the key store can be used", u64::from(audit.keys_error.is_none()));
    gauge(
        "keys_pending",
        "Keys of personal data that wait for the key store",
        u64::try_from(audit.keys_pending).unwrap_or(u64::MAX),
    );
    gauge(
        "calls_in_flight",
        "Calls with a place reserved for their record",
        u64::try_from(audit.reserved).unwrap_or(0),
    );
    let mut counter =
        |name: &str, help: &str, value: u64| registry.register(name, help, ConstCounter::new(value));
    counter("records_written", "Frames made durable", audit.written_total);
    counter("records_shipped", "Records brought to the store", audit.shipped_total);
    counter("records_lost", "Records for which there was no room", audit.lost_total);
    counter("spool_damaged", "Damaged places found in the spool", audit.damaged_total);
    register_sinks(registry, &audit.sinks);
}
