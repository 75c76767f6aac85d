//! OTLP's JSON form: protobuf's, but ids are hex digits, and 64-bit numbers may be texts.

use serde_json::{Map, Value};

use super::{LogRecord, Shared, Unreadable, VALUE_DEPTH_MAX};

/// Reads a request.
pub(super) fn read(
    bytes: &[u8],
    take: &mut dyn FnMut(&Shared, LogRecord) -> Result<(), Unreadable>,
) -> Result<(), Unreadable> {
    // The parser itself goes no deeper than 128 levels.
    let request: Value = serde_json::from_slice(bytes).map_err(|_| "the request is not JSON")?;
    if !request.is_object() {
        return Err("the request is no JSON object");
    }
    for of_resource in list(&request, "resourceLogs")? {
        let resource = of_resource.get("resource").map(attributes).transpose()?.unwrap_or_default();
        for of_scope in list(of_resource, "scopeLogs")? {
            let scope = of_scope.get("scope").map(scope).transpose()?.unwrap_or_default();
            let shared = Shared { resource: resource.clone(), scope };
            for record in list(of_scope, "logRecords")? {
                take(&shared, log_record(record)?)?;
            }
        }
    }
    Ok(())
}

fn list<'v>(value: &'v Value, name: &str) -> Result<&'v [Value], Unreadable> {
    match value.get(name) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err("a list of the request is none"),
    }
}

fn scope(value: &Value) -> Result<Map<String, Value>, Unreadable> {
    let mut scope = attributes(value)?;
    for name in ["name", "version"] {
        if let Some(Value::String(text)) = value.get(name) {
            scope.insert(name.to_owned(), Value::from(text.as_str()));
        }
    }
    Ok(scope)
}

fn attributes(value: &Value) -> Result<Map<String, Value>, Unreadable> {
    members(list(value, "attributes")?, 0)
}

fn members(pairs: &[Value], depth: usize) -> Result<Map<String, Value>, Unreadable> {
    let mut members = Map::new();
    for pair in pairs {
        let key = pair.get("key").and_then(Value::as_str).ok_or("an attribute has no key")?;
        let value = pair.get("value").map(|value| any(value, depth + 1)).transpose()?;
        members.insert(key.to_owned(), value.unwrap_or(Value::Null));
    }
    Ok(members)
}

fn any(value: &Value, depth: usize) -> Result<Value, Unreadable> {
    if depth > VALUE_DEPTH_MAX {
        return Err("a value is nested too deep");
    }
    let Value::Object(kinds) = value else { return Err("a value is of no kind") };
    let Some((kind, value)) = kinds.iter().next() else { return Ok(Value::Null) };
    Ok(match (kind.as_str(), value) {
        ("stringValue" | "bytesValue", Value::String(_)) | ("boolValue", Value::Bool(_)) => value.clone(),
        ("doubleValue", Value::Number(_)) => value.clone(),
        ("intValue", value) => Value::from(int64(value)?),
        ("arrayValue", value) => {
            let items = list(value, "values")?.iter().map(|item| any(item, depth + 1));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        ("kvlistValue", value) => Value::Object(members(list(value, "values")?, depth)?),
        _ => return Err("a value does not fit its kind"),
    })
}

fn int64(value: &Value) -> Result<i64, Unreadable> {
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    number.ok_or("a whole number is none")
}

fn nanos(record: &Value, name: &str) -> Result<u64, Unreadable> {
    match record.get(name) {
        None | Some(Value::Null) => Ok(0),
        Some(value) => {
            let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
            number.ok_or("a time is no whole number of nanoseconds")
        }
    }
}

fn text(record: &Value, name: &str) -> String {
    record.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn log_record(record: &Value) -> Result<LogRecord, Unreadable> {
    Ok(LogRecord {
        time_unix_nano: nanos(record, "timeUnixNano")?,
        observed_time_unix_nano: nanos(record, "observedTimeUnixNano")?,
        severity_number: record.get("severityNumber").and_then(Value::as_i64).unwrap_or_default(),
        severity_text: text(record, "severityText"),
        event_name: text(record, "eventName"),
        body: record.get("body").map(|body| any(body, 0)).transpose()?.unwrap_or_default(),
        attributes: attributes(record)?,
        trace_id: text(record, "traceId"),
        span_id: text(record, "spanId"),
    })
}
