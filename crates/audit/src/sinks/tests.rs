//! Sinks over the whole organ, on real files, with receivers that come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use doorward_core::{AccessRecord, Personal, Recorder};
use doorward_settings::ByteSize;
use serde_json::{Value as Json, json};

use super::collector::Collector;
use super::{Outside, SinkConfig, SinkStatus};
use crate::config::{AuditConfig, Retention};
use crate::spool::model::record;
use crate::{Audit, AuditError};

const SOON: Duration = Duration::from_secs(90);

/// The bodies that a collector took, in order of arrival.
fn bodies(collector: &Collector) -> Vec<Json> {
    let taken = collector.taken.lock();
    assert!(taken.iter().all(|(url, _)| url == "http://collector/v1/logs"), "{taken:?}");
    taken.iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect()
}

/// The log records in them.
fn logs(collector: &Collector) -> Vec<Json> {
    let logs =
        |body: &Json| body["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap().clone();
    bodies(collector).iter().flat_map(logs).collect()
}

/// The access ids that they tell of.
fn ids(collector: &Collector) -> Vec<String> {
    logs(collector).iter().filter_map(|log| attribute(log, "doorward.access_id")).collect()
}

fn attribute(log: &Json, name: &str) -> Option<String> {
    let attributes = log["attributes"].as_array()?;
    let found = attributes.iter().find(|attribute| attribute["key"] == name)?;
    found["value"]["stringValue"].as_str().map(str::to_owned)
}

/// A gateway's organ with sinks.
struct Bench {
    audit: Audit,
    recorder: Arc<dyn Recorder>,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn start(dir: &Path, sinks: Json, collector: &Arc<Collector>) -> Self {
        Self::start_behind(dir, sinks, collector, 0)
    }

    /// Keeps so many records before its sinks start.
    fn start_behind(dir: &Path, sinks: Json, collector: &Arc<Collector>, count: usize) -> Self {
        let mut config = AuditConfig::default().relative_to(dir);
        config.spool.gateway_id = Some("gw-1".to_owned());
        config.spool.size_max = ByteSize::new(16 << 20);
        // Sinks read an encrypted spool as the shipper does; plain ones are read by the real binary's tests.
        let key = dir.join("spool.key");
        std::fs::write(&key, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff").unwrap();
        let encryption = format!("key: 'file:{}'", key.display());
        let encryption = doorward_settings::Document::parse("doorward.yaml", encryption).unwrap();
        config.spool.encryption = Some(encryption.root().deserialize().unwrap());
        config.retention = Retention { age: None, size: None, ..Retention::default() };
        config.sinks = serde_json::from_value(sinks).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let audit = Audit::open(&config).unwrap();
        let tls = |_: Option<&Path>| Err("no TLS here".to_owned());
        let outside = Outside { transport: collector.clone(), tls, runtime: runtime.handle().clone() };
        let bench = Self { recorder: audit.recorder(), audit, runtime };
        bench.keep(count, "select 1");
        bench.audit.start_sinks(&config, &outside).unwrap();
        bench
    }

    /// Keeps records, and says their ids.
    fn keep(&self, count: usize, operation: &str) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        for _ in 0..count {
            let mut record: Box<AccessRecord> = record();
            record.operation = Some(Personal::new(operation.into()));
            ids.insert(record.access_id.to_string());
            let durable = self.recorder.reserve().expect("there is room").complete(record);
            self.runtime.block_on(durable).unwrap();
        }
        ids
    }

    fn until(&self, hoped: impl Fn(&SinkStatus) -> bool) -> SinkStatus {
        let deadline = Instant::now() + SOON;
        loop {
            let status = self.audit.status().sinks.remove(0);
            if hoped(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{status:?}");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn until_stored(&self, count: u64) {
        let deadline = Instant::now() + SOON;
        while self.audit.status().shipped_total < count {
            assert!(Instant::now() < deadline, "{:?}", self.audit.status());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

fn otlp() -> Json {
    json!({"siem": {"otlp": {"endpoint": "http://collector"}, "lag_max": "16MiB"}})
}

#[test]
fn a_collector_that_comes_and_goes_gets_each_record_and_nothing_personal() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Arc::new(Collector::default());
    collector.status.store(503, Ordering::Relaxed);
    let bench = Bench::start(dir.path(), otlp(), &collector);
    let mut wanted = bench.keep(30, "select 1");
    let status = bench.until(|status| status.error.is_some());
    assert_eq!(status.error.as_deref(), Some("the collector answers 503"));
    assert!(status.lag_bytes > 0 && status.kind == "otlp", "{status:?}");
    bench.until_stored(30);
    collector.status.store(200, Ordering::Relaxed);
    bench.until(|status| status.lag_bytes == 0 && status.error.is_none());
    assert_eq!(ids(&collector).iter().cloned().collect::<BTreeSet<_>>(), wanted);

    // What it took is not sent again by the next start, and what was left is.
    collector.status.store(503, Ordering::Relaxed);
    wanted = bench.keep(20, "select 2");
    bench.until(|status| status.error.is_some());
    assert!(bench.audit.shutdown(SOON), "the store does not wait for the sink");
    drop(bench);
    collector.taken.lock().clear();
    collector.status.store(200, Ordering::Relaxed);
    let bench = Bench::start(dir.path(), otlp(), &collector);
    bench.until(|status| status.lag_bytes == 0 && status.sent_total == 20);
    assert_eq!(ids(&collector).len(), 20);
    assert_eq!(ids(&collector).into_iter().collect::<BTreeSet<_>>(), wanted);
    // Retained segments go when nobody needs them.
    let more = bench.keep(1, "select 3");
    bench.until(|status| status.sent_total == 21 && status.lag_bytes == 0);
    assert_eq!(ids(&collector).last(), more.first());

    let bodies = Json::Array(bodies(&collector)).to_string();
    for personal in ["u-17", "analyst@corp.example", "select 2", "claims"] {
        assert!(!bodies.contains(personal), "{personal}");
    }
    let log = logs(&collector).remove(0);
    assert_eq!(attribute(&log, "doorward.resource").as_deref(), Some("shop"));
    assert_eq!(attribute(&log, "doorward.outcome").as_deref(), Some("allowed"));
    assert_eq!(attribute(&log, "doorward.leaf_hash").map(|hash| hash.len()), Some(64));
    assert_eq!((&log["severityText"], &log["timeUnixNano"]), (&json!("INFO"), &json!("1795000000000000000")));
    assert_eq!(log["traceId"].as_str().map(str::len), Some(32));
}

#[test]
fn what_one_sink_has_is_kept_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Arc::new(Collector::default());
    collector.status.store(200, Ordering::Relaxed);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    // By name the one that takes records comes first.
    let sinks = json!({"a": {"otlp": {"endpoint": "http://collector"}},
        "b": {"syslog": {"address": format!("tcp://{address}")}}});
    let mut wanted = BTreeSet::new();
    for _ in 0..3 {
        let bench = Bench::start(dir.path(), sinks.clone(), &collector);
        wanted.extend(bench.keep(4, "select 1"));
        bench.until(|status| status.lag_bytes == 0 && status.sent_total == 4);
        assert!(bench.audit.shutdown(SOON));
    }
    let listener = TcpListener::bind(address).unwrap();
    let bench = Bench::start(dir.path(), sinks, &collector);
    let (mut stream, _) = listener.accept().unwrap();
    let seen = read_messages(&mut stream, |seen| seen.len() == 12);
    let ids: BTreeSet<String> =
        seen.iter().map(|(_, body)| body["access_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, wanted);
    drop(bench);
}

#[test]
fn a_record_that_is_refused_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Arc::new(Collector::default());
    collector.status.store(503, Ordering::Relaxed);
    let bench = Bench::start(dir.path(), otlp(), &collector);
    let mut wanted = bench.keep(40, "x");
    let poison = wanted.iter().nth(17).unwrap().clone();
    *collector.refuses.lock() = Some(poison.clone());
    collector.status.store(200, Ordering::Relaxed);
    let status = bench.until(|status| status.lag_bytes == 0 && status.error.is_none());
    assert_eq!(status.lost_total, 1);
    wanted.remove(&poison);
    assert_eq!(ids(&collector).into_iter().collect::<BTreeSet<_>>(), wanted);
    assert_eq!(
        status.sent_total,
        u64::try_from(logs(&collector).len()).unwrap(),
        "what is refused is not sent"
    );
}

#[test]
fn a_sink_that_hangs_delays_nobody_and_is_told_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Arc::new(Collector::default());
    // It hangs from the first record on, which is there before it starts.
    let bench = Bench::start_behind(dir.path(), otlp(), &collector, 1);
    // About 40 MB, of which 16 MB may be kept for the sink; the store takes all of it meanwhile.
    let text = "x".repeat(8_000);
    for wave in 1..=20 {
        bench.keep(250, &text);
        bench.until_stored(250 * wave);
    }
    let folder = dir.path().join("data/spool/sinks");
    let kept: u64 =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(kept <= 16 << 20, "{kept} bytes are kept");
    assert!(!bench.audit.shutdown(Duration::from_millis(200)) || collector.taken.lock().is_empty());
    bench.runtime.shutdown_background();
    drop(bench.recorder);
    drop(bench.audit);

    collector.status.store(200, Ordering::Relaxed);
    let bench = Bench::start(dir.path(), otlp(), &collector);
    let status = bench.until(|status| status.lag_bytes == 0 && status.sent_total > 0);
    let all = logs(&collector);
    let gaps: Vec<&Json> = all.iter().filter(|log| log["severityText"] == "ERROR").collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(gaps[0].to_string().contains("`lag_max` was reached"), "{}", gaps[0]);
    let rows = all.len() - 1;
    assert!(rows > 1_000 && status.lost_total > 1_000, "{rows} {status:?}");
    // Frames that are headers of segments are among those that it counts.
    let total = u64::try_from(rows).unwrap() + status.lost_total;
    assert!((5_000..5_040).contains(&total), "{total}");
}

#[test]
fn syslog_messages_are_framed_and_come_again_when_the_connection_broke() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sinks = json!({"siem": {"syslog": {"address": format!("tcp://{address}")}, "personal": "sealed"}});
    let collector = Arc::new(Collector::default());
    let bench = Bench::start(dir.path(), sinks, &collector);
    let mut wanted = bench.keep(5, "select 1");
    let (mut stream, _) = listener.accept().unwrap();
    let first = read_messages(&mut stream, |seen| seen.len() == wanted.len());
    // The connection goes before the sink could know that all had come. On a machine so busy that it knew, the next
    // one goes.
    let mut came_again = false;
    for _ in 0..10 {
        drop(stream);
        let more = bench.keep(5, "select 2");
        (stream, _) = listener.accept().unwrap();
        let seen = read_messages(&mut stream, |seen| all_are_in(&more, seen));
        let again = seen.iter().filter(|(_, body)| wanted.contains(id_of(body))).count();
        came_again = again == 5 && seen.len() == 10;
        if came_again {
            break;
        }
        assert_eq!((again, seen.len()), (0, 5), "either all come again or none");
        wanted = more;
    }
    assert!(came_again, "what may not have come comes again");
    let (head, body) = &first[0];
    assert_eq!(&head[..12], "<110>1 2026-");
    let epoch = body["epoch"].as_u64().unwrap();
    assert!(head.ends_with(&format!("Z gw-1 doorward {epoch} access - ")), "{head}");
    // Sealed values are those of the store.
    let sealed = body["principal_email"].as_str().unwrap();
    assert!(sealed.starts_with("p1.") && !sealed.contains("corp"), "{sealed}");
    bench.until(|status| status.lag_bytes == 0);
}

fn id_of(body: &Json) -> &str {
    body["access_id"].as_str().unwrap()
}

fn all_are_in(ids: &BTreeSet<String>, messages: &[(String, Json)]) -> bool {
    ids.iter().all(|id| messages.iter().any(|(_, body)| id_of(body) == id))
}

/// Reads messages with octet counting, head and JSON, until there are enough.
fn read_messages(stream: &mut impl Read, enough: impl Fn(&[(String, Json)]) -> bool) -> Vec<(String, Json)> {
    let mut messages = Vec::new();
    while !enough(&messages) {
        let mut length = String::new();
        loop {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            if byte[0] == b' ' {
                break;
            }
            length.push(char::from(byte[0]));
        }
        let mut message = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut message).unwrap();
        let message = String::from_utf8(message).unwrap();
        let body = message.find('{').unwrap();
        messages.push((message[..body].to_owned(), serde_json::from_str(&message[body..]).unwrap()));
    }
    messages
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (sink, wanted) in [
        (json!({"stdout": {}, "otlp": {"endpoint": "http://c"}}), "exactly one of"),
        (json!({}), "exactly one of"),
        (json!({"syslog": {"address": "tcp://siem.example:601"}}), "in the clear"),
        (json!({"syslog": {"address": "siem.example:601"}}), "expected `tls://HOST:6514`"),
        (json!({"syslog": {"address": "tls://siem.example"}}), "HOST:PORT"),
        (json!({"syslog": {"address": "tls://h:6514", "facility": 24}}), "0 to 23"),
        (json!({"syslog": {"address": "tls://h:6514", "app_name": "a b"}}), "without spaces"),
        (json!({"otlp": {"endpoint": "collector:4318"}}), "expected `https://"),
        (json!({"stdout": {}, "lag_max": "5KB"}), "16MiB"),
    ] {
        let mut config = AuditConfig::default().relative_to(dir.path());
        let sink: SinkConfig = serde_json::from_value(sink).unwrap();
        config.sinks = BTreeMap::from([("siem".to_owned(), sink)]);
        match Audit::open(&config) {
            Err(AuditError::Config { key: "sinks", text }) => assert!(text.contains(wanted), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

/// The attributes that the schema's version 1.5.0 requires of each class, and of the objects in them.
#[test]
fn ocsf_events_have_what_the_schema_requires() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let sinks = json!({"siem": {"syslog": {"address": address}, "format": "ocsf"}});
    let bench = Bench::start(dir.path(), sinks, &Arc::new(Collector::default()));
    bench.keep(1, "select 1");
    let mut nameless = record();
    (nameless.principal, nameless.actions) = (None, None);
    nameless.outcome = doorward_core::Outcome::Denied;
    bench.runtime.block_on(bench.recorder.reserve().unwrap().complete(nameless)).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let seen = read_messages(&mut stream, |seen| seen.len() == 2);
    let mut events: Vec<Json> = seen.into_iter().map(|(_, event)| event).collect();
    events.push(super::ocsf::gap(&super::tail::GapEntry {
        gateway_id: "gw-1".into(),
        epoch: 1,
        seq: 5,
        lost: Some(3),
        at_us: 1_795_000_000_000_000,
        reason: "a test".to_owned(),
        logged: None,
    }));
    let classes: Vec<u64> = events.iter().map(|event| event["class_uid"].as_u64().unwrap()).collect();
    assert_eq!(classes, [6005, 6003, 0]);
    for event in &events {
        let class = event["class_uid"].as_u64().unwrap();
        let more: &[&str] = match class {
            6003 => &["actor", "api", "src_endpoint"],
            6005 => &["actor", "src_endpoint"],
            _ => &[],
        };
        let base =
            ["activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"];
        for name in base.iter().chain(more) {
            assert!(!event[name].is_null(), "{name} is missing of {event}");
        }
        assert_eq!(event["category_uid"].as_u64().unwrap(), class / 1_000);
        let activity = event["activity_id"].as_u64().unwrap();
        assert_eq!(event["type_uid"].as_u64().unwrap(), class * 100 + activity);
        assert_eq!(event["time"], 1_795_000_000_000_u64);
        assert_eq!(event["metadata"]["version"], "1.5.0");
        assert!(event["metadata"]["product"]["vendor_name"].is_string());
        if class == 6003 {
            assert!(event["api"]["operation"].is_string());
        }
        if class == 6005 {
            assert!(["database", "databucket", "table"].iter().any(|name| event[name].is_object()));
            assert!(event["database"]["type_id"].is_u64() && event["table"]["name"] == "public/orders");
            assert_eq!((&event["activity_id"], &event["status_id"]), (&json!(1), &json!(1)));
        }
        if class != 0 {
            assert!(
                event["actor"]["user"]["uid"].is_string()
                    && event["src_endpoint"].as_object().unwrap().len() == 1
            );
        }
    }
}
