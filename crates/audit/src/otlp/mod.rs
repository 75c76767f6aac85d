//! Traces of calls for a collector: OTLP over HTTP with JSON bodies (opentelemetry-proto 1.x,
//! `/v1/traces`).
//!
//! Each call is one root span, and one child span for each stage that it reached, named like the stage.
//! Nothing personal is told unless the configuration says so.
//!
//! Constraints: a slow or absent collector costs the gateway nothing but a bounded queue
//! ([`QUEUE_MAX`]); what does not fit is dropped and counted. The HTTP client is handed in as a
//! [`Transport`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use doorward_core::{AccessRecord, Observer, Outcome, Secret, Timestamp, hex};
use doorward_settings::Problem;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::config::OtlpConfig;
pub use crate::transport::Transport;

/// Calls that wait for the collector.
pub const QUEUE_MAX: usize = 8_192;
/// The most calls in one request.
const BATCH_MAX: usize = 512;
/// How long calls gather before they are sent.
const GATHER: Duration = Duration::from_secs(1);
/// How long one request may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How the export goes.
#[derive(Debug, Default)]
pub struct Counts {
    /// Calls sent and accepted.
    pub sent: AtomicU64,
    /// Calls dropped: the queue was full, or the collector refused or did not answer.
    pub dropped: AtomicU64,
}

/// Takes finished calls: an observer beside the metrics. It never waits.
#[derive(Debug)]
pub struct Exporter {
    queue: mpsc::Sender<Box<AccessRecord>>,
    counts: Arc<Counts>,
}

/// Sends what the exporter took; [`Worker::run`] is a task of the runtime.
#[derive(Debug)]
pub struct Worker {
    queue: mpsc::Receiver<Box<AccessRecord>>,
    counts: Arc<Counts>,
    personal: bool,
    url: String,
    headers: Vec<(String, Secret)>,
}

/// Prepares the export. Reads the headers' secrets: blocks, at load only.
pub fn exporter(config: &OtlpConfig) -> Result<(Exporter, Worker), Problem> {
    let headers = config
        .headers
        .iter()
        .map(|(name, value)| Ok((name.clone(), value.read()?)))
        .collect::<Result<_, Problem>>()?;
    let (send, receive) = mpsc::channel(QUEUE_MAX);
    let counts = Arc::new(Counts::default());
    let exporter = Exporter { queue: send, counts: counts.clone() };
    let (personal, url) = (config.personal, traces_url(&config.endpoint));
    Ok((exporter, Worker { queue: receive, counts, personal, url, headers }))
}

impl Exporter {
    /// How it goes.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }
}

impl Observer for Exporter {
    fn completed(&self, record: &AccessRecord) {
        // A caller that keeps a trace and does not sample this call does not want it here either.
        if record.trace.parent_span_id.is_some() && !record.trace.sampled {
            return;
        }
        match self.queue.try_reserve() {
            // A copy; the spans are made of it elsewhere.
            Ok(place) => place.send(Box::new(record.clone())),
            Err(_) => {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Worker {
    /// Sends until the exporter is dropped and the queue is empty.
    pub async fn run(mut self, transport: Arc<dyn Transport>) {
        let mut told = false;
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while self.queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
            if batch.len() < BATCH_MAX {
                tokio::time::sleep(GATHER).await;
                while batch.len() < BATCH_MAX
                    && let Ok(call) = self.queue.try_recv()
                {
                    batch.push(call);
                }
            }
            let calls = u64::try_from(batch.len()).unwrap_or(u64::MAX);
            let body = body(&batch, self.personal);
            batch.clear();
            let sent =
                tokio::time::timeout(SEND_TIMEOUT, transport.post(&self.url, &self.headers, body)).await;
            let trouble = match sent {
                Ok(Ok(200..300)) => None,
                Ok(Ok(status)) => Some(format!("the collector answers {status}")),
                Ok(Err(error)) => Some(error),
                Err(_) => Some("the collector does not answer in time".to_owned()),
            };
            let count = if trouble.is_none() { &self.counts.sent } else { &self.counts.dropped };
            count.fetch_add(calls, Ordering::Relaxed);
            if let Some(trouble) = &trouble
                && !told
            {
                tracing::warn!(error = %trouble, "traces are dropped");
            }
            told = trouble.is_some();
        }
    }
}

fn traces_url(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    let has_path = endpoint.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    if has_path { endpoint.to_owned() } else { format!("{endpoint}/v1/traces") }
}

/// The request's body: all spans under one resource.
fn body(calls: &[Box<AccessRecord>], personal: bool) -> Vec<u8> {
    let spans: Vec<Value> = calls.iter().flat_map(|call| spans(call, personal)).collect();
    let resource = json!({"attributes": [attribute("service.name", "doorward")]});
    let scope = json!({"name": "doorward", "version": env!("CARGO_PKG_VERSION")});
    let body = json!({"resourceSpans": [{"resource": resource,
        "scopeSpans": [{"scope": scope, "spans": spans}]}]});
    body.to_string().into_bytes()
}

/// The spans of one call: the root, then the stages in order.
pub fn spans(record: &AccessRecord, personal: bool) -> Vec<Value> {
    let trace_id = hex(&record.trace.trace_id);
    let root_id = hex(&record.trace.span_id);
    let mut root = json!({
        "traceId": trace_id,
        "spanId": root_id,
        "name": root_name(record),
        "kind": SPAN_KIND_SERVER,
        "startTimeUnixNano": nanos(record.ts, 0),
        "endTimeUnixNano": nanos(record.ts, record.duration_us),
        "attributes": attributes(record, personal),
        "status": status(record),
    });
    if let (Some(parent), Some(root)) = (record.trace.parent_span_id, root.as_object_mut()) {
        root.insert("parentSpanId".to_owned(), Value::from(hex(&parent)));
    }
    let mut spans = vec![root];
    let mut elapsed = 0;
    for (stage, micros) in record.timings.iter() {
        let until = elapsed + u64::from(micros);
        spans.push(json!({
            "traceId": trace_id,
            "spanId": stage_id(&record.trace.span_id, stage as u8),
            "parentSpanId": root_id,
            "name": stage.as_str(),
            "kind": SPAN_KIND_INTERNAL,
            "startTimeUnixNano": nanos(record.ts, elapsed),
            "endTimeUnixNano": nanos(record.ts, until),
        }));
        elapsed = until;
    }
    spans
}

const SPAN_KIND_INTERNAL: u8 = 1;
const SPAN_KIND_SERVER: u8 = 2;
const STATUS_ERROR: u8 = 2;

fn root_name(record: &AccessRecord) -> String {
    match (&record.endpoint, &record.actions) {
        (Some(endpoint), _) => endpoint.to_string(),
        (None, Some(actions)) => match actions.as_slice().first() {
            Some(action) => format!("{} {}", action.verb, action.resource),
            None => record.door.to_owned(),
        },
        (None, None) => record.door.to_owned(),
    }
}

fn attributes(record: &AccessRecord, personal: bool) -> Vec<Value> {
    let mut list = vec![
        attribute("doorward.access_id", record.access_id.to_string()),
        attribute("doorward.door", record.door),
        attribute("doorward.outcome", record.outcome.as_str()),
        attribute(
            "doorward.config_digest",
            record.config_digest.as_ref().map_or("", |digest| digest.as_str()),
        ),
        attribute("deployment.environment.name", &*record.environment),
    ];
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            list.push(json!({"key": name, "value": value}));
        }
    };
    let text = |text: &str| json!({"stringValue": text});
    // OTLP's JSON spells 64-bit numbers as strings.
    let number = |number: u64| json!({"intValue": number.to_string()});
    if let Some(action) = record.actions.as_ref().and_then(|actions| actions.as_slice().first()) {
        add("doorward.verb", Some(text(action.verb.as_str())));
        add("doorward.resource", Some(text(action.resource.as_str())));
    }
    add("doorward.grant", record.rule.as_ref().map(|rule| text(rule.as_str())));
    add("doorward.backend_role", record.backend_role.as_ref().map(|role| text(role.as_str())));
    add("http.route", record.endpoint.as_deref().map(text));
    add("http.response.status_code", record.status.map(|status| number(u64::from(status))));
    add("db.response.status_code", record.sqlstate.as_deref().map(text));
    add("db.response.returned_rows", record.rows.map(number));
    add("error.type", record.fault.as_ref().map(|fault| text(fault.code)));
    add("user_agent.original", record.user_agent.as_deref().map(text));
    if personal {
        let principal = record.principal.as_ref();
        add("user.id", principal.map(|principal| text(principal.subject.reveal())));
        let email = principal.and_then(|principal| principal.email.as_ref());
        add("user.email", email.map(|email| text(email.reveal())));
        let address = record.source_ip.as_ref().map(|ip| ip.reveal().to_string());
        add("client.address", address.map(|address| text(&address)));
        add("db.query.text", record.operation.as_ref().map(|operation| text(operation.reveal())));
    }
    list
}

fn attribute(name: &str, value: impl Into<String>) -> Value {
    json!({"key": name, "value": {"stringValue": value.into()}})
}

/// By convention a server's span is an error when the server is at fault, not when it says no.
fn status(record: &AccessRecord) -> Value {
    match (record.outcome, &record.fault) {
        (Outcome::Failed, Some(fault)) => json!({"code": STATUS_ERROR, "message": fault.code}),
        (Outcome::Failed, None) => json!({"code": STATUS_ERROR}),
        _ => json!({}),
    }
}

fn nanos(ts: Timestamp, after_us: u64) -> String {
    let micros = u64::try_from(ts.micros()).unwrap_or(0).saturating_add(after_us);
    micros.saturating_mul(1_000).to_string()
}

/// A stage's span id: the call's own, with the stage mixed into its last byte.
fn stage_id(root: &[u8; 8], stage: u8) -> String {
    let [first @ .., last] = *root;
    let mut id = hex(&first);
    id.push_str(&hex(&[last ^ (stage + 1)]));
    id
}

#[cfg(test)]
mod tests;
