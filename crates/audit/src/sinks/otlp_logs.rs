//! Log records for an OpenTelemetry collector: OTLP over HTTP with JSON bodies (opentelemetry-proto 1.x,
//! `/v1/logs`).

use std::sync::Arc;

use doorward_core::Secret;
use serde_json::{Map, Value as Json, json};
use tokio::runtime::Handle;

use super::config::Format;
use super::format::{Formatter, Gravity, at_us};
use super::tail::Entry;
use super::worker::{Moment, Receiver, Taken, Trouble};
use crate::transport::Transport;

/// Sends a request for each batch.
pub(crate) struct OtlpLogs {
    pub(crate) formatter: Formatter,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, Secret)>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) runtime: Handle,
}

/// The address with the path that the protocol names.
pub(crate) fn logs_url(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    let has_path = endpoint.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    if has_path { endpoint.to_owned() } else { format!("{endpoint}/v1/logs") }
}

impl Receiver for OtlpLogs {
    fn deliver(&mut self, entries: &[Entry]) -> Result<Taken, Trouble> {
        let records: Vec<Json> = entries.iter().map(|entry| log_record(self.formatter, entry)).collect();
        let service = json!({"key": "service.name", "value": {"stringValue": "doorward"}});
        let scope = json!({"name": "doorward", "version": env!("CARGO_PKG_VERSION")});
        let body = json!({"resourceLogs": [{"resource": {"attributes": [service]},
            "scopeLogs": [{"scope": scope, "logRecords": records}]}]});
        let post = self.transport.post(&self.url, &self.headers, body.to_string().into_bytes());
        match self.runtime.block_on(post) {
            Ok(200..300) => Ok(Taken::All),
            // What a collector will not take, it will not take later.
            Ok(status @ (400 | 413 | 422)) => {
                Err(Trouble::Refused(format!("the collector answers {status}")))
            }
            Ok(status) => Err(Trouble::Away(format!("the collector answers {status}"))),
            Err(text) => Err(Trouble::Away(text)),
        }
    }

    fn settle(&mut self, _: Moment) -> Result<Taken, Trouble> {
        Ok(Taken::All)
    }

    fn reset(&mut self) {}
}

fn log_record(formatter: Formatter, entry: &Entry) -> Json {
    let (number, text) = match Gravity::of(entry) {
        Gravity::Informational => (9, "INFO"),
        Gravity::Notice => (10, "INFO2"),
        Gravity::Warning => (13, "WARN"),
        Gravity::Error => (17, "ERROR"),
    };
    let nanos = u64::try_from(at_us(entry)).unwrap_or(0).saturating_mul(1_000).to_string();
    let mut record = json!({
        "timeUnixNano": nanos, "observedTimeUnixNano": nanos, "severityNumber": number, "severityText": text,
    });
    let whole = formatter.json(entry);
    let body = match (formatter.0, &whole) {
        // The columns are attributes, which collectors index.
        (Format::Record, Json::Object(fields)) => {
            insert(&mut record, "attributes", attributes(fields));
            json!({"stringValue": "access_event"})
        }
        _ => any_value(&whole),
    };
    insert(&mut record, "body", body);
    if let Entry::Row(row) = entry {
        for (name, column) in [("traceId", "trace_id"), ("spanId", "span_id")] {
            if let Some(id) = row.get(column) {
                insert(&mut record, name, id.clone());
            }
        }
    }
    record
}

fn insert(record: &mut Json, name: &str, value: Json) {
    if let Some(object) = record.as_object_mut() {
        object.insert(name.to_owned(), value);
    }
}

fn attributes(fields: &Map<String, Json>) -> Json {
    fields
        .iter()
        .map(|(name, value)| json!({"key": format!("doorward.{name}"), "value": any_value(value)}))
        .collect()
}

/// OTLP's own spelling of a value; 64-bit numbers are strings in it.
fn any_value(value: &Json) -> Json {
    match value {
        Json::Null => json!({}),
        Json::Bool(value) => json!({"boolValue": value}),
        Json::Number(number) if number.is_f64() => json!({"doubleValue": number}),
        Json::Number(number) => json!({"intValue": number.to_string()}),
        Json::String(text) => json!({"stringValue": text}),
        Json::Array(items) => {
            json!({"arrayValue": {"values": items.iter().map(any_value).collect::<Vec<_>>()}})
        }
        Json::Object(fields) => {
            let values: Vec<Json> =
                fields.iter().map(|(key, value)| json!({"key": key, "value": any_value(value)})).collect();
            json!({"kvlistValue": {"values": values}})
        }
    }
}
