//! What a collector is sent, and what it is not.

use doorward_core::{AccessId, FaultRecord, Personal};
use expect_test::expect;
use uuid::Uuid;

use super::*;
use crate::sinks::collector::Collector;
use crate::spool::model::record;

fn call() -> AccessRecord {
    let mut record = record();
    record.access_id = AccessId::from(Uuid::from_u128(1));
    record.source_ip = Some(Personal::new("10.1.2.3".parse().unwrap()));
    record.operation = Some("select secret_column".into());
    *record
}

#[test]
fn a_failed_call_is_a_span_with_an_error() {
    let mut record = call();
    record.trace.parent_span_id = Some([9; 8]);
    record.outcome = Outcome::Failed;
    record.fault = Some(FaultRecord {
        code: "forward.backend-away",
        side: "backend",
        public: "the database does not answer".into(),
        cause: None,
    });
    let spans = spans(&record, false);
    assert_eq!(spans.len(), 1);
    expect![[r#"
        {
          "traceId": "07070707070707070707070707070707",
          "spanId": "0303030303030303",
          "name": "GET /shop/{table}",
          "kind": 2,
          "startTimeUnixNano": "1795000000000000000",
          "endTimeUnixNano": "1795000000000900000",
          "attributes": [
            {
              "key": "doorward.access_id",
              "value": {
                "stringValue": "00000000-0000-0000-0000-000000000001"
              }
            },
            {
              "key": "doorward.door",
              "value": {
                "stringValue": "rest"
              }
            },
            {
              "key": "doorward.outcome",
              "value": {
                "stringValue": "failed"
              }
            },
            {
              "key": "doorward.config_digest",
              "value": {
                "stringValue": "sha256:0123456789abcdef"
              }
            },
            {
              "key": "deployment.environment.name",
              "value": {
                "stringValue": "test"
              }
            },
            {
              "key": "doorward.verb",
              "value": {
                "stringValue": "read"
              }
            },
            {
              "key": "doorward.resource",
              "value": {
                "stringValue": "shop"
              }
            },
            {
              "key": "http.route",
              "value": {
                "stringValue": "GET /shop/{table}"
              }
            },
            {
              "key": "http.response.status_code",
              "value": {
                "intValue": "200"
              }
            },
            {
              "key": "db.response.returned_rows",
              "value": {
                "intValue": "1"
              }
            },
            {
              "key": "error.type",
              "value": {
                "stringValue": "forward.backend-away"
              }
            }
          ],
          "status": {
            "code": 2,
            "message": "forward.backend-away"
          },
          "parentSpanId": "0909090909090909"
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&spans[0]).unwrap());
}

#[test]
fn nothing_personal_is_told_unless_it_is_configured() {
    let told = |personal| Value::Array(spans(&call(), personal)).to_string();
    for personal in ["u-17", "analyst@corp.example", "10.1.2.3", "secret_column"] {
        assert!(!told(false).contains(personal), "{personal}");
        assert!(told(true).contains(personal), "{personal}");
    }
}

#[test]
fn stages_are_named_apart() {
    let ids: Vec<String> = (0..9).map(|stage| stage_id(&[1; 8], stage)).collect();
    assert!(ids.iter().all(|id| id.len() == 16 && *id != hex(&[1; 8])));
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 9);
}

#[test]
fn endpoints_are_completed() {
    assert_eq!(traces_url("http://127.0.0.1:4318"), "http://127.0.0.1:4318/v1/traces");
    assert_eq!(traces_url("http://127.0.0.1:4318/"), "http://127.0.0.1:4318/v1/traces");
    assert_eq!(traces_url("https://otel.example/custom"), "https://otel.example/custom");
}

fn config() -> OtlpConfig {
    OtlpConfig {
        endpoint: "http://collector".to_owned(),
        headers: std::collections::BTreeMap::new(),
        personal: false,
    }
}

#[tokio::test(start_paused = true)]
async fn calls_are_sent_and_counted() {
    for (status, sent, dropped) in [(200, 2, 0), (503, 0, 2)] {
        let (exporter, worker) = exporter(&config()).unwrap();
        let collector = Arc::new(Collector { status: status.into(), ..Collector::default() });
        exporter.completed(&call());
        let mut unsampled = call();
        unsampled.trace.parent_span_id = Some([9; 8]);
        exporter.completed(&unsampled);
        exporter.completed(&call());
        let counts = exporter.counts();
        drop(exporter);
        worker.run(collector.clone()).await;
        assert_eq!(counts.sent.load(Ordering::Relaxed), sent);
        assert_eq!(counts.dropped.load(Ordering::Relaxed), dropped);
        let taken = collector.taken.lock();
        assert_eq!(taken.len(), usize::from(status == 200));
        for (url, body) in &*taken {
            let body: Value = serde_json::from_str(body).unwrap();
            assert_eq!(url, "http://collector/v1/traces");
            assert_eq!(body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().len(), 2);
        }
    }
}

#[test]
fn a_collector_that_is_away_costs_a_bounded_queue() {
    let (exporter, _worker) = exporter(&config()).unwrap();
    for _ in 0..QUEUE_MAX + 5 {
        exporter.completed(&call());
    }
    assert_eq!(exporter.counts().dropped.load(Ordering::Relaxed), 5);
}
