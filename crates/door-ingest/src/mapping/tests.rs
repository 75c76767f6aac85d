use doorward_core::{Outcome, Timestamp};
use doorward_settings::Document;
use serde_json::json;

use super::*;

/// 2026-11-22T03:57:41Z, the time of the samples.
const NOW: Timestamp = Timestamp::from_seconds(1_795_319_861);

fn config(yaml: &str) -> Result<IngestConfig, String> {
    let document = Document::parse("doorward.yaml", yaml).map_err(|problem| problem.to_string())?;
    document.root().deserialize().map_err(|problem| problem.to_string())
}

fn mapping(yaml: &str) -> Result<Mapping, MappingError> {
    Mapping::compile(&config(yaml).unwrap())
}

fn refused(yaml: &str) -> String {
    match config(yaml).map(|config| Mapping::compile(&config)) {
        Err(problem) => problem,
        Ok(Err(error)) => format!(
            "{}: {} {}",
            error.key.1.as_deref().unwrap_or(error.key.0),
            error,
            error.hint.as_deref().unwrap_or_default()
        ),
        Ok(Ok(_)) => "taken".to_owned(),
    }
}

#[test]
fn every_ready_made_mapping_compiles() {
    for preset in PRESETS {
        let mapping = mapping(&format!("url: ingest:{}", preset.name)).unwrap();
        assert!(!mapping.key.is_empty(), "{}", preset.name);
        for (column, _, read_as) in preset.lines.iter().chain(TRANSPORT) {
            let (_, ways) = target(column).unwrap();
            assert!(
                ways.contains(read_as) || column.starts_with("ext."),
                "{}: {column} as {read_as:?}",
                preset.name
            );
        }
    }
}

#[test]
fn a_mapping_of_ours_is_refused_where_it_is_wrong() {
    for (fields, told) in [
        ("{ source: a }", "the gateway says where a record comes from"),
        ("{ grant: a }", "it tells of this gateway's own decision"),
        ("{ backend_role: a }", "it tells of this gateway's own decision"),
        ("{ config_digest: a }", "it tells of this gateway's own decision"),
        ("{ leaf_hash: a }", "own place in the timeline"),
        ("{ access_id: a }", "`idempotency_key`"),
        ("{ principal_issuer: a }", "nothing of an imported caller is proven here"),
        ("{ auth_method: a }", "nothing of an imported caller is proven here"),
        ("{ resource: a }", "the gateway says where a record comes from"),
        ("{ ext: a }", "ext.NAME"),
        ("{ ext.unknown: a }", "the gateway's own"),
        ("{ \"ext.a b\": a }", "1 to 64 letters"),
        ("{ statsu: a }", "did you mean \"status\"?"),
        ("{ principal_subjct: a }", "did you mean \"principal_subject\"?"),
        ("{ duration_us: { from: a, as: rfc3339 } }", "it can be read as us, ms, s, ns"),
        ("{ status: { from: a, as: text } }", "it can be read as int"),
        ("{ status: { from: a, as: integer } }", "none of the words"),
        ("{ status: { from: a, minus: b } }", "`minus` is for durations"),
        ("{ status: { from: a, part: 2 } }", "`part` needs a `split`"),
        ("{ status: { from: a, split: \"\" } }", "`split` is empty"),
        ("{ status: { from: [] } }", "names no path"),
        ("{ status: { frm: a } }", "from"),
        ("{ status: a..b }", "a step of the path is empty"),
        ("{ status: [a] }", "a path, or a mapping"),
    ] {
        let problem = refused(&format!("url: ingest:kong\nfields: {fields}"));
        assert!(problem.contains(told), "{fields}: {problem}");
    }
    assert!(refused("url: ingest:kng").contains("did you mean \"kong\"?"));
    assert!(refused("url: ingest:kong\nidempotency_key: [\"\"]").contains("is no path"));
}

#[test]
fn own_fields_stand_in_place_of_ready_made_ones() {
    let yaml = "
url: ingest:kong
fields:
  ts: { from: at, as: epoch-s }
  principal_subject: [claims.sub]
";
    assert!(refused(yaml).contains("a path, or a mapping"), "a list of paths is written as `from`");
    let yaml = "
url: ingest:kong
fields:
  ts: { from: at, as: epoch-s }
  principal_subject: { from: [claims.sub, consumer.id] }
  verb: { from: line, split: ' ', part: 0 }
  object: { from: line, split: ' ', part: 1 }
  duration_us: { from: ended, minus: began, as: ms }
  ext.plan: consumer.plan
ignore: [noise]
idempotency_key: [id, at]
";
    let record = json!({
        "at": 1_795_319_860, "line": "DELETE /v1/orders/17?token=x HTTP/1.1", "began": 100, "ended": 112.5,
        "claims": { "sub": "ann" }, "consumer": { "plan": { "name": "gold" } }, "noise": { "a": 1 }, "id": "r1",
        "response": { "status": 204 }, "started_at": 5, "extra": true
    });
    let mapped = mapping(yaml).unwrap().map(&record, NOW).unwrap();
    let claimed = mapped.claimed;
    assert_eq!(claimed.ts, Timestamp::from_seconds(1_795_319_860));
    let (verb, object) = claimed.action.unwrap();
    assert_eq!((verb.as_str(), object.as_str()), ("delete", "v1/orders/17"));
    assert_eq!((claimed.duration_us, claimed.status), (12_500, Some(204)));
    assert_eq!(&**claimed.caller.unwrap().subject.reveal(), "ann");
    assert_eq!(claimed.ext.get("plan"), Some(&json!({ "name": "gold" })));
    assert_eq!(mapped.unknown, ["started_at", "extra"]);
    assert_eq!(claimed.ext.get("unknown"), Some(&json!({ "started_at": 5, "extra": true })));
    assert_eq!(mapped.key.as_deref(), Some("r1\u{0}1795319860\u{0}"));
}

#[test]
fn records_without_a_usable_time_or_with_wrong_values_are_rejected() {
    let mapping = mapping("url: ingest:generic\ntime_max_age: 1h\ntime_max_ahead: 1m").unwrap();
    let good = json!({ "ts": "2026-11-22T03:57:41Z", "status": 200 });
    assert_eq!(mapping.map(&good, NOW).unwrap().claimed.outcome, Outcome::Allowed);
    for (record, told) in [
        (json!([]), "no JSON object"),
        (json!("text"), "no JSON object"),
        (json!({ "status": 200 }), "the record has no time"),
        (json!({ "ts": null }), "the record has no time"),
        (json!({ "ts": "yesterday" }), "`ts`, for ts: a time (RFC 3339) is expected"),
        (json!({ "ts": "2026-11-22T02:57:40Z" }), "more than 1h ago"),
        (json!({ "ts": "2026-11-22T03:58:42Z" }), "more than 1m ahead"),
        (
            json!({ "ts": "2026-11-22T03:57:41Z", "status": "OK" }),
            "`status`, for status: a whole number is expected",
        ),
        (json!({ "ts": "2026-11-22T03:57:41Z", "status": 70_000 }), "an HTTP status is expected"),
        (json!({ "ts": "2026-11-22T03:57:41Z", "duration_ms": {} }), "a number of time units"),
        (
            json!({ "ts": "2026-11-22T03:57:41Z", "client_ip": "nowhere" }),
            "`client_ip`, for source_ip: an IP address",
        ),
        (json!({ "ts": "2026-11-22T03:57:41Z", "outcome": "fine" }), "allowed, denied"),
        (
            json!({ "ts": "2026-11-22T03:57:41Z", "principal_kind": "public", "user": "a" }),
            "user, service, task or agent",
        ),
        (json!({ "ts": "2026-11-22T03:57:41Z", "trace_id": "xyz" }), "an id of hex digits"),
    ] {
        let rejection = mapping.map(&record, NOW).unwrap_err();
        assert!(rejection.reason.contains(told), "{record}: {}", rejection.reason);
    }
}

#[test]
fn statuses_become_outcomes() {
    let mapping = mapping("url: ingest:envoy").unwrap();
    for (status, outcome, code) in [
        (200, Outcome::Allowed, None),
        (304, Outcome::Allowed, None),
        (401, Outcome::Denied, Some("forward.import-refusal")),
        (403, Outcome::Denied, Some("forward.import-refusal")),
        (404, Outcome::Failed, Some("forward.import-refusal")),
        (429, Outcome::Limited, Some("forward.import-refusal")),
        (503, Outcome::Failed, Some("forward.import-failure")),
        (0, Outcome::Abandoned, Some("forward.import-refusal")),
    ] {
        let record = json!({ "start_time": "2026-11-22T03:57:41.000Z", "response_code": status });
        let claimed = mapping.map(&record, NOW).unwrap().claimed;
        assert_eq!(
            (claimed.outcome, claimed.fault.map(|fault| fault.code.name)),
            (outcome, code),
            "{status}"
        );
    }
    let silent = mapping.map(&json!({ "start_time": "2026-11-22T03:57:41.000Z" }), NOW).unwrap();
    assert_eq!(silent.claimed.outcome, Outcome::Unknown);
}

#[test]
fn unknown_fields_are_bounded_and_can_be_left_out() {
    let mut record = json!({ "ts": "2026-11-22T03:57:41Z" });
    for number in 0..100 {
        record[format!("field{number}")] = json!("x".repeat(100));
    }
    record["large"] = json!(["y".repeat(5_000)]);
    let mapped = mapping("url: ingest:generic").unwrap().map(&record, NOW).unwrap();
    let ext = &mapped.claimed.ext;
    let kept = ext["unknown"].as_object().unwrap().len();
    assert_eq!(mapped.unknown.len(), 101);
    assert!(kept < 101 && ext["left_out"].as_u64() == Some(101 - kept as u64), "{kept}");
    assert!(serde_json::to_string(ext).unwrap().len() < 8 << 10, "the recorder keeps all of it");

    let mapped = mapping("url: ingest:generic\nunknown_fields: count").unwrap().map(&record, NOW).unwrap();
    assert_eq!(
        (mapped.claimed.ext.get("unknown"), mapped.claimed.ext["left_out"].as_u64()),
        (None, Some(101))
    );
}

#[test]
fn the_key_with_which_an_application_calls_is_not_kept() {
    let record = json!({
        "client_received_start_timestamp": 1_795_319_861_000_u64, "client_id": "KxQm4Vq9hunter2",
        "developer_app": "shopfront", "request_uri": "/items?apikey=KxQm4Vq9hunter2",
    });
    let mapped = mapping("url: ingest:apigee").unwrap().map(&record, NOW).unwrap();
    let caller = mapped.claimed.caller.as_ref().unwrap();
    assert_eq!(caller.client_id.as_deref(), Some("shopfront"));
    assert_eq!(&**caller.subject.reveal(), "shopfront");
    assert!(!format!("{mapped:?}").contains("hunter2") && mapped.unknown.is_empty(), "{mapped:?}");
}
