//! Places in a bucket that answers as it is told. The real server is asked by the binary's tests.

use std::time::Duration;

use doorward_core::Secret;
use doorward_settings::Document;
use doorward_testkit::wait_until;

use super::*;
use crate::Audit;
use crate::config::{AuditConfig, Retention};
use crate::log::peers::Records;
use crate::log::publish::Published;
use crate::log::verify::{self, Kind, Scope, SqliteEvidence};
use crate::log::{owed, place};
use crate::spool::model::record;
use crate::transport::bucket::Bucket;
use crate::transport::{Answer, Reach};

const SOON: Duration = Duration::from_secs(90);
const KEY: &str = "s3cret-of-the-bucket";

/// A bucket in memory.
#[derive(Default)]
struct FakeBucket {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// What it answers to everything: nothing at all when the status is 0.
    refuses: Mutex<Option<(u16, &'static str)>>,
    /// Keys that were put although there was an object.
    replaced: Mutex<Vec<String>>,
}

impl FakeBucket {
    fn answer(&self) -> Result<(), Result<Answer, String>> {
        match *self.refuses.lock() {
            None => Ok(()),
            Some((0, text)) => Err(Err(text.to_owned())),
            Some((status, code)) => {
                Err(Ok(Answer { status, body: format!("<Code>{code}</Code>").into_bytes() }))
            }
        }
    }

    fn keys(&self, part: &str) -> Vec<String> {
        self.objects.lock().keys().filter(|key| key.contains(part)).cloned().collect()
    }
}

/// What S3 answers to a listing: objects and folders right below a prefix.
fn listing(objects: &BTreeMap<String, Vec<u8>>, query: &str) -> String {
    let parameter = |name: &str| {
        let found = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
        found.unwrap_or_default().replace("%2F", "/")
    };
    let (prefix, after) = (parameter("prefix"), parameter("start-after"));
    let mut parts = Vec::new();
    for key in objects.keys() {
        let Some(rest) = key.strip_prefix(&prefix).filter(|_| *key > after) else { continue };
        parts.push(match rest.split_once('/') {
            Some((folder, _)) => {
                format!("<CommonPrefixes><Prefix>{prefix}{folder}/</Prefix></CommonPrefixes>")
            }
            None => format!("<Contents><Key>{key}</Key></Contents>"),
        });
    }
    parts.dedup();
    format!("<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>", parts.concat())
}

const BUCKET: &str = "http://bucket/records/";

fn key_of(url: &str) -> &str {
    url.strip_prefix(BUCKET).unwrap_or_else(|| url.strip_prefix("http://bucket/records").unwrap())
}

impl Bucket for FakeBucket {
    fn put_object(&self, url: &str, headers: &[(String, Secret)], body: Vec<u8>) -> Result<Answer, String> {
        if let Err(answer) = self.answer() {
            return answer;
        }
        let (key, mut objects) = (key_of(url), self.objects.lock());
        let answer = |status| Ok(Answer { status, body: Vec::new() });
        if objects.contains_key(key) {
            if headers.iter().any(|(name, _)| name == "if-none-match") {
                return answer(412);
            }
            self.replaced.lock().push(key.to_owned());
        }
        objects.insert(key.to_owned(), body);
        answer(200)
    }

    fn get_object(&self, url: &str) -> Result<Answer, String> {
        if let Err(answer) = self.answer() {
            return answer;
        }
        let objects = self.objects.lock();
        let key = key_of(url);
        Ok(match key.split_once('?') {
            Some((_, query)) => Answer { status: 200, body: listing(&objects, query).into_bytes() },
            None => match objects.get(key) {
                Some(bytes) => Answer { status: 200, body: bytes.clone() },
                None => Answer { status: 404, body: b"<Code>NoSuchKey</Code>".to_vec() },
            },
        })
    }
}

struct Bench {
    dir: tempfile::TempDir,
    config: AuditConfig,
    bucket: Arc<FakeBucket>,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["id", "secret"] {
            std::fs::write(dir.path().join(name), KEY).unwrap();
        }
        let yaml = "checkpoints:\n  interval: 100ms\n  to:\n    - file:outside\n    - { every: 0s, s3: { url: 'http://bucket/records', access_key_id: 'file:id', secret_access_key: 'file:secret' } }\n";
        let file = dir.path().join("doorward.yaml");
        let document = Document::parse(file.to_str().unwrap(), yaml).unwrap();
        let config: AuditConfig = document.root().deserialize().unwrap();
        let mut config = config.relative_to(dir.path());
        config.spool.gateway_id = Some("gw-1".to_owned());
        config.retention = Retention { age: None, size: None, ..Retention::default() };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { dir, config, bucket: Arc::default(), runtime }
    }

    fn reach(&self) -> Reach {
        Reach { transport: self.bucket.clone(), runtime: self.runtime.handle().clone() }
    }

    fn start(&self) -> Audit {
        let audit = Audit::open(&self.config).unwrap();
        audit.reach_buckets(&self.config, &self.reach()).unwrap();
        audit
    }

    fn verify(&self) -> verify::Report {
        let reach = self.reach();
        let outside = &self.config.checkpoints.to[1..];
        let scope = Scope {
            outside: outside.iter().map(|to| place::open(to, Some(&reach)).unwrap()).collect(),
            keys: crate::log::key::public_keys(&self.config).unwrap(),
            now_us: i64::MAX / 2,
            ..Scope::default()
        };
        verify::check(&mut SqliteEvidence::open(self.config.store.path().unwrap()).unwrap(), &scope).unwrap()
    }
}

fn keep(audit: &Audit, count: usize) {
    for _ in 0..count {
        drop(audit.recorder().reserve().unwrap().complete(record()));
    }
}

fn until(audit: &Audit, hoped: impl Fn(&Published) -> bool) -> Published {
    assert!(wait_until(SOON, || hoped(&audit.published())), "{:?}", audit.published());
    audit.published()
}

fn everywhere(published: &Published, leaves: u64) -> bool {
    published.places.iter().all(|place| place.kept >= leaves)
}

#[test]
fn a_bucket_gets_what_a_directory_gets_and_nothing_in_it_is_replaced() {
    let bench = Bench::new();
    let audit = bench.start();
    for wave in 1..=3_u64 {
        keep(&audit, 200);
        until(&audit, |published| everywhere(published, wave * 200 + 1));
    }
    let published = audit.published();
    assert_eq!(published.places[1].name, "http://bucket/records");
    assert!(published.places.iter().all(|place| place.error.is_none()), "{published:?}");
    let epoch = published.epoch;
    assert!(audit.shutdown(SOON));
    drop(audit);
    let read = |path: String| std::fs::read(bench.dir.path().join("outside").join(path)).unwrap();
    for name in ["checkpoint", "tile/0/000", "tile/0/001", "tile/0/002.p/89", "tile/1/000.p/2"] {
        let key = format!("gw-1/{epoch}/{name}");
        assert_eq!(bench.bucket.objects.lock().get(&key), Some(&read(key.clone())), "{key}");
    }
    assert!(bench.bucket.keys("/checkpoints/").len() >= 3);
    let replaced = bench.bucket.replaced.lock().clone();
    assert!(replaced.iter().all(|key| key.ends_with("/checkpoint")), "{replaced:?}");
    assert_eq!(bench.verify().findings, []);

    // The next start goes on beside it.
    let audit = bench.start();
    keep(&audit, 10);
    until(&audit, |published| everywhere(published, 11));
    assert!(audit.shutdown(SOON));
    assert_eq!(bench.verify().summary.logs, 2);
    assert_eq!(bench.verify().findings, []);
}

#[test]
fn a_bucket_that_refuses_is_told_and_stops_nothing() {
    let bench = Bench::new();
    for (refusal, told) in [
        ((403, "SignatureDoesNotMatch"), "the bucket answers 403 SignatureDoesNotMatch"),
        ((404, "NoSuchBucket"), "the bucket answers 404 NoSuchBucket"),
        ((0, "connection refused"), "connection refused"),
    ] {
        *bench.bucket.refuses.lock() = Some(refusal);
        let audit = bench.start();
        keep(&audit, 20);
        let published =
            until(&audit, |published| published.places[1].error.is_some() && published.places[0].kept >= 21);
        let place = &published.places[1];
        assert_eq!(place.error.as_deref(), Some(&*format!("http://bucket/records: {told}")));
        assert!(place.kept == 0 && place.behind >= 21, "{place:?}");
        assert!(!format!("{published:?}").contains(KEY));
        // What it has missed comes by itself, also what an earlier start owes it.
        *bench.bucket.refuses.lock() = None;
        let published = until(&audit, |published| published.places[1].behind == 0);
        assert_eq!((published.places[1].kept, &published.places[1].error), (published.signed, &None));
        *bench.bucket.refuses.lock() = Some(refusal);
        keep(&audit, 20);
        until(&audit, |published| published.signed >= 41);
        assert!(audit.shutdown(SOON), "the store has everything");
        drop(audit);
    }
    *bench.bucket.refuses.lock() = None;
    let audit = bench.start();
    keep(&audit, 1);
    until(&audit, |published| published.places[1].kept >= 2 && published.places[1].behind == 0);
    assert!(audit.shutdown(SOON));
    assert_eq!((bench.verify().findings, bench.verify().summary.logs), (vec![], 4));
}

/// The timeline's records of what was given up.
fn recorded(bench: &Bench) -> Vec<serde_json::Value> {
    let store = rusqlite::Connection::open(bench.config.store.path().unwrap()).unwrap();
    let sql = "SELECT ext FROM access_event WHERE endpoint = 'checkpoints given up' AND class = 'admin' ORDER BY seq";
    let mut found = store.prepare(sql).unwrap();
    let texts = found.query_map([], |row| row.get::<_, String>(0)).unwrap();
    texts
        .map(|ext| serde_json::from_str::<serde_json::Value>(&ext.unwrap()).unwrap()["given_up"].clone())
        .collect()
}

#[test]
fn a_place_that_never_comes_back_is_owed_a_bounded_part_of_the_disk() {
    let mut bench = Bench::new();
    let refusal = Some((403, "AccessDenied"));
    *bench.bucket.refuses.lock() = refusal;
    let spool = bench.config.spool.dir.clone();
    let owed = || owed::list(&spool).unwrap();
    let of = |audit: &Audit| audit.published().places[1].clone();
    let begin = |bench: &Bench| {
        let audit = bench.start();
        audit.record_in(Records {
            recorder: audit.recorder(),
            environment: "test".into(),
            digest: doorward_core::ConfigDigest::new("sha256:0"),
            runtime: bench.runtime.handle().clone(),
        });
        keep(&audit, 20);
        until(&audit, |published| published.places[0].kept >= 21);
        audit
    };
    // Each start leaves a log that the bucket does not have.
    for starts in 1..=3 {
        let audit = begin(&bench);
        until(&audit, |published| published.places[1].owed == starts - 1);
        assert_eq!(of(&audit).given_up, 0);
        assert!(audit.shutdown(SOON));
    }
    // An administrator gives up one of them, beside a gateway that runs.
    let audit = begin(&bench);
    until(&audit, |published| published.places[1].owed == 3);
    let first = owed().remove(0);
    assert_eq!((&*first.gateway_id, first.leaves, first.given_up), ("gw-1", 21, false));
    owed::give_up(&spool, first.epoch).unwrap();
    until(&audit, |published| published.places[1].given_up == 1);
    assert!(wait_until(SOON, || owed().iter().all(|owed| owed.epoch != first.epoch)), "{:?}", owed());
    let bytes: u64 = owed().iter().take(2).map(|owed| owed.bytes).sum();
    assert!(audit.shutdown(SOON));
    drop(audit);

    // Beyond the bound the oldest go, and nothing else does.
    bench.config.checkpoints.owed_max = doorward_settings::ByteSize::new(bytes * 5 / 4);
    let second = owed().remove(0).epoch;
    let audit = begin(&bench);
    until(&audit, |published| published.places[1].given_up == 1);
    assert!(of(&audit).error.is_some_and(|error| error.contains("403 AccessDenied")));
    assert!(wait_until(SOON, || owed().iter().all(|owed| owed.epoch != second)), "{:?}", owed());
    assert_eq!(owed().iter().filter(|owed| owed.epoch > second).count(), 2, "{:?}", owed());
    assert!(audit.shutdown(SOON), "the records of it are in the store");
    drop(audit);
    let told = recorded(&bench);
    let reasons: Vec<_> =
        told.iter().map(|one| (one["epoch"].as_u64().unwrap(), one["reason"].as_str().unwrap())).collect();
    assert_eq!(
        reasons,
        [(first.epoch, "an administrator gave it up"), (second, "checkpoints.owed_max was reached")]
    );
    assert!(told.iter().all(|one| one["places"] == serde_json::json!(["http://bucket/records"])), "{told:?}");

    // The store has all of them; a place that is back gets what was not given up.
    *bench.bucket.refuses.lock() = None;
    let audit = begin(&bench);
    until(&audit, |published| published.places[1].owed == 0 && published.places[1].behind == 0);
    assert!(audit.shutdown(SOON));
    assert_eq!((bench.verify().findings, bench.verify().summary.logs), (vec![], 6));
    assert_eq!(bench.bucket.keys("/checkpoint").iter().filter(|key| key.ends_with("/checkpoint")).count(), 4);
}

#[test]
fn what_was_taken_away_or_put_back_is_found_by_the_bucket() {
    let bench = Bench::new();
    let audit = bench.start();
    keep(&audit, 20);
    until(&audit, |published| everywhere(published, 21));
    let newest = bench.bucket.keys("/checkpoint").remove(0);
    let early = bench.bucket.objects.lock().get(&newest).cloned().unwrap();
    keep(&audit, 20);
    until(&audit, |published| everywhere(published, 41));
    let epoch = audit.published().epoch;
    assert!(audit.shutdown(SOON));
    let store = rusqlite::Connection::open(bench.config.store.path().unwrap()).unwrap();
    store
        .execute_batch(
            "DELETE FROM access_event WHERE log_index > 25; DELETE FROM checkpoint WHERE size > 26;",
        )
        .unwrap();
    let kinds = || -> Vec<Kind> { bench.verify().findings.iter().map(|finding| finding.kind).collect() };
    assert_eq!(kinds(), [Kind::Truncated]);
    // Somebody who can write there puts the older checkpoint back: those by size are still there.
    bench.bucket.objects.lock().insert(format!("gw-1/{epoch}/checkpoint"), early);
    assert_eq!(kinds(), [Kind::Truncated]);
    // One that is forged is told as well.
    bench.bucket.objects.lock().insert(by_size(&format!("gw-1/{epoch}"), 1 << 30), b"forged".to_vec());
    assert!(kinds().contains(&Kind::BadSignature), "{:?}", bench.verify());
    // A bucket that cannot be asked is an error, and not a bucket without findings.
    *bench.bucket.refuses.lock() = Some((503, "SlowDown"));
    let reach = bench.reach();
    let outside = vec![place::open(&bench.config.checkpoints.to[1], Some(&reach)).unwrap()];
    let scope = Scope { outside, ..Scope::default() };
    let mut evidence = SqliteEvidence::open(bench.config.store.path().unwrap()).unwrap();
    let error = verify::check(&mut evidence, &scope).unwrap_err();
    assert_eq!(error.to_string(), "http://bucket/records: the bucket answers 503 SlowDown");
}

#[test]
fn two_gateways_of_one_name_are_told_apart() {
    let bench = Bench::new();
    let audit = bench.start();
    keep(&audit, 20);
    let epoch = until(&audit, |published| everywhere(published, 21)).epoch;
    // Another history is where the next tile goes.
    for width in 22..=256 {
        let key = format!("gw-1/{epoch}/tile/0/000.p/{width}");
        bench.bucket.objects.lock().insert(key, vec![7; 32 * width]);
    }
    keep(&audit, 1);
    let published = until(&audit, |published| published.places[1].error.is_some());
    let error = published.places[1].error.clone().unwrap_or_default();
    assert!(
        error.contains("another tile is at gw-1/") && error.contains("two gateways of one name?"),
        "{error}"
    );
    assert_eq!(published.places[1].kept, 21);
    assert_eq!(
        bench.bucket.objects.lock().get(&format!("gw-1/{epoch}/tile/0/000.p/22")),
        Some(&vec![7; 32 * 22])
    );
    assert!(audit.shutdown(SOON));
}

#[test]
fn a_bucket_whose_key_cannot_be_read_is_refused_at_the_start() {
    let bench = Bench::new();
    std::fs::remove_file(bench.dir.path().join("secret")).unwrap();
    let audit = Audit::open(&bench.config).unwrap();
    let error = audit.reach_buckets(&bench.config, &bench.reach()).unwrap_err().to_string();
    assert!(error.starts_with("checkpoints.to: ") && error.contains("secret"), "{error}");
    assert!(!error.contains(KEY));
}
