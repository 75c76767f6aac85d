//! OpenTelemetry logs as they come over OTLP/HTTP: protobuf and JSON, into records for the mapping.
//!
//! A record for the mapping is an object of the log record's attributes, over the members of its body when
//! that is a map or the text of a JSON object. The log record's own fields, its resource and its scope stand
//! under `otlp`.

pub(crate) mod answer;
mod json;
mod proto;

use doorward_http::is_nested_deeper;
use serde_json::{Map, Value};

use crate::read::split::DEPTH_MAX;

/// The largest request: it is held whole, because resources may stand behind their records.
pub(crate) const REQUEST_BYTES_MAX: u64 = 4 << 20;
/// The most records in one request.
pub(crate) const RECORDS_MAX: usize = 50_000;
/// The deepest nesting of a value.
const VALUE_DEPTH_MAX: usize = 16;

/// In which form a request came, and its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Protobuf,
}

/// A request that cannot be read: why.
pub(crate) type Unreadable = &'static str;

/// One log record.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LogRecord {
    time_unix_nano: u64,
    observed_time_unix_nano: u64,
    severity_number: i64,
    severity_text: String,
    event_name: String,
    body: Value,
    attributes: Map<String, Value>,
    trace_id: String,
    span_id: String,
}

/// What a request's records share.
#[derive(Clone, Debug, Default, PartialEq)]
struct Shared {
    resource: Map<String, Value>,
    scope: Map<String, Value>,
}

/// Reads a request: each record as an object for the mapping.
pub(crate) fn read(encoding: Encoding, bytes: &[u8]) -> Result<Vec<Value>, Unreadable> {
    let mut records = Vec::new();
    let mut take = |shared: &Shared, record: LogRecord| {
        if records.len() >= RECORDS_MAX {
            return Err("the request has more than 50,000 records");
        }
        records.push(record.document(shared));
        Ok(())
    };
    match encoding {
        Encoding::Json => json::read(bytes, &mut take)?,
        Encoding::Protobuf => proto::read(bytes, &mut take)?,
    }
    Ok(records)
}

impl LogRecord {
    fn document(self, shared: &Shared) -> Value {
        let mut otlp = Map::new();
        let mut put = |name: &str, value: Value| {
            let empty = matches!(&value, Value::String(text) if text.is_empty())
                || matches!(&value, Value::Number(number) if number.as_u64() == Some(0))
                || matches!(&value, Value::Object(members) if members.is_empty());
            if !empty {
                otlp.insert(name.to_owned(), value);
            }
        };
        put("time_unix_nano", self.time_unix_nano.into());
        put("observed_time_unix_nano", self.observed_time_unix_nano.into());
        put("severity_number", self.severity_number.into());
        put("severity_text", self.severity_text.into());
        put("event_name", self.event_name.into());
        put("trace_id", self.trace_id.into());
        put("span_id", self.span_id.into());
        put("resource", shared.resource.clone().into());
        put("scope", shared.scope.clone().into());
        let (mut document, text) = members_of(self.body);
        if let Some(text) = text {
            otlp.insert("body".to_owned(), text);
        }
        document.extend(self.attributes);
        document.insert("otlp".to_owned(), otlp.into());
        Value::Object(document)
    }
}

/// What a repeat of a record has too: all but the time at which a collector saw it.
pub(crate) fn identity(record: &Value) -> String {
    let mut record = record.clone();
    if let Some(Value::Object(otlp)) = record.get_mut("otlp") {
        otlp.shift_remove("observed_time_unix_nano");
    }
    record.to_string()
}

/// The members of a body that is an object, or the text of one; otherwise the body itself.
pub(crate) fn members_of(body: Value) -> (Map<String, Value>, Option<Value>) {
    match body {
        Value::Object(members) => (members, None),
        Value::Null => (Map::new(), None),
        Value::String(text)
            if text.trim_start().starts_with('{') && !is_nested_deeper(text.as_bytes(), DEPTH_MAX) =>
        {
            match serde_json::from_str(&text) {
                Ok(members) => (members, None),
                Err(_) => (Map::new(), Some(text.into())),
            }
        }
        other => (Map::new(), Some(other)),
    }
}

#[cfg(test)]
mod tests;
