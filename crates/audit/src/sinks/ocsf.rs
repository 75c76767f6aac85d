//! Rows of the timeline as events of the Open Cybersecurity Schema Framework, version 1.5.0: reads and writes of
//! a store are Datastore Activity (6005), everything else is API Activity (6003), missing records are Base
//! Events. What the schema has no place for is kept under `unmapped`.

use serde_json::{Map, Value as Json, json};

use super::tail::GapEntry;
use crate::query::GapRow;

/// The version of the schema that events follow.
pub const VERSION: &str = "1.5.0";

const API_ACTIVITY: u64 = 6003;
const DATASTORE_ACTIVITY: u64 = 6005;
const APPLICATION_CATEGORY: u64 = 6;
const UNKNOWN: u64 = 0;
const OTHER: u64 = 99;

/// The event of one row, columns by name.
pub fn event(row: &Map<String, Json>) -> Json {
    let text = |name: &str| row.get(name).and_then(Json::as_str);
    let verb = text("verb").unwrap_or_default();
    let datastore = matches!(text("door"), Some("rest" | "postgres" | "s3")) && text("object").is_some();
    let (class, activity) = if datastore {
        (DATASTORE_ACTIVITY, datastore_activity(verb))
    } else {
        (API_ACTIVITY, api_activity(verb))
    };
    let mut event = Map::new();
    let mut put = |name: &str, value: Json| {
        if !value.is_null() {
            event.insert(name.to_owned(), value);
        }
    };
    put("class_uid", class.into());
    put("category_uid", APPLICATION_CATEGORY.into());
    put("activity_id", activity.into());
    put("activity_name", if activity == OTHER { verb.into() } else { Json::Null });
    put("type_uid", (class * 100 + activity).into());
    put("time", (super::format::at_us(&super::tail::Entry::Row(row.clone())) / 1_000).into());
    put(
        "duration",
        row.get("duration_us").and_then(Json::as_u64).map_or(Json::Null, |us| (us / 1_000).into()),
    );
    let (severity, status) = match text("outcome") {
        Some("allowed") => (1, 1),
        Some("denied" | "limited") => (2, 2),
        Some("failed") => (3, 2),
        _ => (2, OTHER),
    };
    put("severity_id", severity.into());
    put("status_id", status.into());
    put("status", text("outcome").map_or(Json::Null, Json::from));
    put("status_code", text("fault_code").map_or(Json::Null, Json::from));
    put("status_detail", text("fault_public").map_or(Json::Null, Json::from));
    put("message", message(row).into());
    put("metadata", metadata(row));
    put("actor", actor(row));
    put("src_endpoint", source(row));
    put("dst_endpoint", text("resource").map_or(Json::Null, |resource| json!({"svc_name": resource})));
    put("http_response", row.get("status").map_or(Json::Null, |status| json!({"code": status})));
    if datastore {
        store(row, &mut put);
    } else {
        let operation = text("endpoint").unwrap_or(if verb.is_empty() { "unknown" } else { verb });
        let service = text("resource").map_or(Json::Null, |resource| json!({"name": resource}));
        put(
            "api",
            without_nulls(
                json!({"operation": operation, "service": service, "version": text("api_version")}),
            ),
        );
        let object = text("object").map_or(Json::Null, |object| json!([{"name": object, "type": "object"}]));
        put("resources", object);
    }
    put("unmapped", Json::Object(row.clone()));
    Json::Object(event)
}

/// The event of missing records, as a sink meets them.
pub(crate) fn gap(gap: &GapEntry) -> Json {
    let mut event = base_event(gap.at_us, gap.lost.unwrap_or(0), &gap.reason);
    if let Some(metadata) = event.get_mut("metadata").and_then(Json::as_object_mut) {
        metadata.insert("sequence".to_owned(), gap.seq.into());
    }
    event.insert(
        "unmapped".to_owned(),
        json!({"gateway_id": &*gap.gateway_id, "epoch": gap.epoch, "seq": gap.seq, "lost": gap.lost}),
    );
    Json::Object(event)
}

/// The event of missing records, as the store knows of them.
pub(crate) fn missing(gap: &GapRow) -> Json {
    let mut event = base_event(gap.until.micros(), gap.lost, &gap.reason);
    event.insert("start_time".to_owned(), (gap.from.micros() / 1_000).into());
    event.insert("end_time".to_owned(), (gap.until.micros() / 1_000).into());
    event.insert("unmapped".to_owned(), json!({"gateway_id": gap.gateway_id, "lost": gap.lost}));
    Json::Object(event)
}

/// Of records that are missing; 0 when it is not known how many.
fn base_event(at_us: i64, lost: u64, reason: &str) -> Map<String, Json> {
    let event = json!({
        "class_uid": 0, "category_uid": 0, "activity_id": OTHER, "activity_name": "Gap", "type_uid": OTHER,
        "severity_id": 4, "time": at_us / 1_000, "count": lost.max(1),
        "message": format!("records are missing: {reason}"),
        "metadata": {"version": VERSION, "product": product(), "log_name": "access_event"},
    });
    match event {
        Json::Object(event) => event,
        _ => Map::new(),
    }
}

fn product() -> Json {
    json!({"name": "Doorward", "vendor_name": "Doorward", "version": env!("CARGO_PKG_VERSION")})
}

fn metadata(row: &Map<String, Json>) -> Json {
    let text = |name: &str| row.get(name).and_then(Json::as_str);
    let index = row.get("action_index").and_then(Json::as_u64).unwrap_or(0);
    let uid = text("access_id").map(|id| format!("{id}/{index}"));
    without_nulls(json!({
        "version": VERSION, "product": product(), "log_name": "access_event", "log_provider": text("gateway_id"),
        "uid": uid, "correlation_uid": text("trace_id"), "sequence": row.get("seq"),
        "tenant_uid": text("environment"),
    }))
}

/// A caller whom nobody knows is `unknown`: the schema wants one.
fn actor(row: &Map<String, Json>) -> Json {
    let text = |name: &str| row.get(name).and_then(Json::as_str);
    let groups = row.get("groups").and_then(Json::as_array);
    let groups = groups.map(|groups| groups.iter().map(|name| json!({"name": name})).collect::<Vec<_>>());
    let type_id = match text("principal_kind") {
        Some("user") => 1,
        Some("service" | "task" | "agent") => 3,
        _ => 0,
    };
    let user = without_nulls(json!({
        "uid": text("subject_id").unwrap_or("unknown"), "name": text("principal_subject"),
        "email_addr": text("principal_email"), "type_id": type_id, "groups": groups,
    }));
    let session = text("session_id").map(|id| json!({"uid": id}));
    let idp = text("principal_issuer").map(|issuer| json!({"name": issuer}));
    without_nulls(json!({"user": user, "session": session, "idp": idp, "app_name": text("client_id")}))
}

/// The caller's address when it may be told, otherwise what stands for the caller.
fn source(row: &Map<String, Json>) -> Json {
    let text = |name: &str| row.get(name).and_then(Json::as_str);
    let ip = text("source_ip").filter(|ip| ip.parse::<std::net::IpAddr>().is_ok());
    match ip {
        Some(ip) => json!({"ip": ip}),
        None => json!({"uid": text("subject_id").unwrap_or("unknown")}),
    }
}

fn store(row: &Map<String, Json>, put: &mut impl FnMut(&str, Json)) {
    let text = |name: &str| row.get(name).and_then(Json::as_str);
    let (resource, object) = (text("resource").unwrap_or("unknown"), text("object").unwrap_or_default());
    if text("door") == Some("s3") {
        put("databucket", json!({"name": resource, "type_id": 1, "file": {"name": object, "type_id": 1}}));
        put("type_id", 2.into());
    } else {
        put("database", json!({"name": resource, "type_id": 1}));
        put("table", json!({"name": object}));
        put("type_id", 3.into());
    }
    if let Some(operation) = text("operation") {
        put("query_info", json!({"query_string": operation}));
    }
}

fn message(row: &Map<String, Json>) -> String {
    let text = |name: &str| row.get(name).and_then(Json::as_str);
    let outcome = text("outcome").unwrap_or("unknown");
    match (text("verb"), text("resource"), text("object")) {
        (Some(verb), Some(resource), Some(object)) => format!("{verb} {resource}/{object}: {outcome}"),
        _ => format!("{}: {outcome}", text("endpoint").or_else(|| text("door")).unwrap_or("call")),
    }
}

fn datastore_activity(verb: &str) -> u64 {
    match verb {
        "read" | "read-versions" => 1,
        "write" => 5,
        "connect" => 3,
        "delete" => 7,
        "list" => 8,
        _ => OTHER,
    }
}

fn api_activity(verb: &str) -> u64 {
    match verb {
        "read" | "list" | "read-versions" => 2,
        "write" | "tag" | "manage" => 3,
        "trigger" => 1,
        "delete" => 4,
        // Refused before it was known what the call would do.
        "" => UNKNOWN,
        _ => OTHER,
    }
}

fn without_nulls(mut value: Json) -> Json {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    value
}
