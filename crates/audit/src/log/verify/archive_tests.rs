//! Archives as the sink writes them, and as whoever holds them could leave them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use doorward_core::Secret;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value as Json, json};

use super::*;
use crate::Audit;
use crate::config::{AuditConfig, Retention};
use crate::log::config::Place;
use crate::log::place;
use crate::sinks::Outside;
use crate::spool::model::record;
use crate::transport::Answer;
use crate::transport::bucket::Bucket;

/// A leaf that nothing has.
const NO_LEAF: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const SOON: Duration = Duration::from_secs(90);
/// Records of each start: more than two tiles, and less than one.
const RECORDS: [usize; 2] = [600, 40];

/// A bucket that is a directory.
struct Disk(PathBuf);

impl Bucket for Disk {
    fn put_object(&self, url: &str, _: &[(String, Secret)], body: Vec<u8>) -> Result<Answer, String> {
        let path = self.0.join(url.strip_prefix("http://bucket/").unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, body).unwrap();
        Ok(Answer { status: 200, body: Vec::new() })
    }

    fn get_object(&self, _: &str) -> Result<Answer, String> {
        Err("nothing is asked for".to_owned())
    }
}

/// What two starts of a gateway leave: archives with personal values and without, and a place with the logs.
fn archived(dir: &Path) {
    fs::write(dir.join("key"), "an id").unwrap();
    for records in RECORDS {
        let mut config = AuditConfig::default().relative_to(dir);
        config.spool.gateway_id = Some("gw-1".to_owned());
        config.retention = Retention { age: None, size: None, ..Retention::default() };
        config.checkpoints.to = vec![Place::Directory(dir.join("place"))];
        let key = format!("file:{}", dir.join("key").display());
        let s3 = |bucket: &str| {
            json!({"url": format!("http://bucket/{bucket}"), "access_key_id": key, "secret_access_key": key,
                "every": "100ms"})
        };
        let sinks = json!({
            "sealed": {"s3": s3("sealed"), "personal": "sealed"}, "omitted": {"s3": s3("omitted")},
        });
        let document = doorward_settings::Document::parse("doorward.yaml", sinks.to_string()).unwrap();
        config.sinks = document.root().deserialize().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let audit = Audit::open(&config).unwrap();
        let tls = |_: Option<&Path>| Err("no TLS here".to_owned());
        let transport = Arc::new(Disk(dir.to_owned()));
        let outside = Outside { transport, tls, runtime: runtime.handle().clone() };
        audit.start_sinks(&config, &outside).unwrap();
        let recorder = audit.recorder();
        let kept = (0..records).map(|_| recorder.reserve().expect("there is room").complete(record()));
        for durable in kept.collect::<Vec<_>>() {
            runtime.block_on(durable).unwrap();
        }
        let there = || {
            let sinks = audit.status().sinks;
            sinks.iter().all(|sink| sink.lag_bytes == 0 && sink.sent_total == records as u64)
        };
        assert!(doorward_testkit::wait_until(SOON, there), "{:?}", audit.status());
        assert!(audit.shutdown(SOON));
    }
}

/// A copy of what was left, to be tampered with.
struct Copied {
    dir: tempfile::TempDir,
    archive: &'static str,
}

impl Copied {
    fn of(original: &Path, archive: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in [archive, "place"] {
            copy(&original.join(folder), &dir.path().join(folder));
        }
        Self { dir, archive }
    }

    /// The objects, oldest first.
    fn objects(&self) -> Vec<PathBuf> {
        let mut found = files(&self.dir.path().join(self.archive));
        found.sort();
        found
    }

    /// Changes the lines of the first start's last object, which has the most.
    fn edit(&self, edit: impl FnOnce(&mut Vec<String>)) {
        let object = self.objects().into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
        let mut lines = lines(&object);
        edit(&mut lines);
        write(&object, &lines);
    }

    fn report(&self, hashes_only: bool, lag: Duration) -> Report {
        let open = |folder: &str| place::open(&Place::Directory(self.dir.path().join(folder)), None).unwrap();
        let outside = vec![open("place")];
        let mut evidence = ArchiveEvidence::new(open(self.archive), outside.clone(), hashes_only);
        let now_us = doorward_core::Clock::now(&doorward_core::SystemClock).micros();
        let lag_us = Some(i64::try_from(lag.as_micros()).unwrap());
        check(&mut evidence, &Scope { outside, lag_us, now_us, ..Scope::default() }).unwrap()
    }

    /// The kinds of what is found in the archive with all its values, none of it late.
    fn kinds(&self) -> BTreeSet<&'static str> {
        let report = self.report(false, Duration::ZERO);
        report.findings.iter().map(|finding| finding.kind.as_str()).collect()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&path, target).unwrap();
    }
}

fn lines(object: &Path) -> Vec<String> {
    let mut text = String::new();
    MultiGzDecoder::new(fs::File::open(object).unwrap()).read_to_string(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn write(object: &Path, lines: &[String]) {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    lines.iter().for_each(|line| writeln!(encoder, "{line}").unwrap());
    fs::write(object, encoder.finish().unwrap()).unwrap();
}

/// The line with another value.
fn with(line: &str, name: &str, value: Json) -> String {
    let mut object: Json = serde_json::from_str(line).unwrap();
    object[name] = value;
    object.to_string()
}

#[test]
fn an_archive_that_is_whole_is_verified_and_what_was_done_to_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    archived(dir.path());
    let copied = || Copied::of(dir.path(), "sealed");

    let whole = copied().report(false, Duration::ZERO);
    assert_eq!(whole.findings, []);
    let rows = RECORDS.iter().sum::<usize>() as u64;
    // Beside the rows there is the first leaf of each start.
    assert_eq!((whole.summary.rows, whole.summary.proved, whole.summary.logs), (rows, rows + 2, 2));

    type Edit = fn(&mut Vec<String>);
    let edited = |edit: Edit| {
        let copied = copied();
        copied.edit(edit);
        copied.kinds()
    };
    let one = |kind: &'static str| BTreeSet::from([kind]);
    let cases: [(&str, Edit, BTreeSet<&str>); 14] = [
        ("a value", |lines| lines[9] = with(&lines[9], "status", json!(418)), one("changed")),
        (
            "a value and its leaf",
            |lines| lines[9] = with(&with(&lines[9], "status", json!(418)), "leaf_hash", json!(NO_LEAF)),
            one("changed"),
        ),
        ("a leaf", |lines| lines[9] = with(&lines[9], "leaf_hash", json!(NO_LEAF)), one("changed")),
        ("a value more", |lines| lines[9] = with(&lines[9], "note", json!("innocent")), one("changed")),
        ("a value twice", |lines| lines[9] = lines[9].replacen('{', "{\"status\":418,", 1), one("changed")),
        ("lines", |lines| drop(lines.drain(9..12)), one("missing")),
        ("the last lines", |lines| lines.truncate(lines.len() - 3), one("truncated")),
        ("two lines", |lines| lines.swap(9, 11), one("reordered")),
        (
            "a line at the end",
            |lines| {
                let line = lines.remove(9);
                lines.push(line)
            },
            one("reordered"),
        ),
        (
            "a line put in",
            |lines| {
                let line = with(&lines[9], "access_id", json!(Uuid::from_u128(7).to_string()));
                lines.insert(10, with(&line, "leaf_hash", json!(NO_LEAF)));
            },
            one("inserted"),
        ),
        (
            "a line changed and sent twice",
            |lines| lines.push(with(&lines[9], "status", json!(418))),
            one("duplicated"),
        ),
        ("no line at all", |lines| lines[9] = "no record".to_owned(), BTreeSet::from(["damaged", "missing"])),
        (
            "a line of another gateway",
            |lines| lines[9] = with(&lines[9], "gateway_id", json!("gw-2")),
            BTreeSet::from(["damaged", "missing"]),
        ),
        // Deliveries are repeated: that is no finding.
        ("a line twice", |lines| lines.push(lines[9].clone()), BTreeSet::new()),
    ];
    for (what, edit, expected) in cases {
        assert_eq!(edited(edit), expected, "{what}");
    }

    // Each finding says which call, and where.
    let copied_one = copied();
    let mut id = String::new();
    copied_one.edit(|lines| {
        id = serde_json::from_str::<Json>(&lines[9]).unwrap()["access_id"].as_str().unwrap().to_owned();
        lines[9] = with(&lines[9], "status", json!(418));
    });
    let found = copied_one.report(false, Duration::ZERO).findings;
    assert_eq!(
        (found.len(), found[0].access_id.unwrap().to_string(), found[0].places),
        (1, id, Some((10, 10)))
    );
}

#[test]
fn objects_that_go_or_break_and_logs_that_go_with_them_are_found() {
    let dir = tempfile::tempdir().unwrap();
    archived(dir.path());
    let copied = || Copied::of(dir.path(), "sealed");
    let epoch_of = |object: &Path| {
        let folder = object.parent().unwrap().file_name().unwrap().to_str().unwrap();
        u64::from_str_radix(folder, 16).unwrap()
    };

    let cut = copied();
    let object = cut.objects().remove(0);
    let bytes = fs::read(&object).unwrap();
    fs::write(&object, &bytes[..bytes.len() / 2]).unwrap();
    assert!(cut.kinds().contains("damaged") && cut.kinds().len() == 2, "{:?}", cut.kinds());

    // The newest rows may be on their way, as long as the log goes on; those of a start that is over may not.
    let newest = copied();
    fs::remove_file(newest.objects().pop().unwrap()).unwrap();
    let late = newest.report(false, Duration::from_secs(3_600));
    assert_eq!((late.findings, late.summary.waiting > 0), (vec![], true));
    assert_eq!(newest.kinds(), BTreeSet::from(["truncated"]));
    let oldest = copied();
    fs::remove_file(oldest.objects().remove(0)).unwrap();
    let report = oldest.report(false, Duration::from_secs(3_600));
    assert!(!report.findings.is_empty() && report.summary.waiting == 0, "{report:?}");

    // Whoever takes a start out of the archive and out of the place leaves the next one, which commits it.
    let gone = copied();
    let epoch = epoch_of(&gone.objects()[0]);
    fs::remove_dir_all(gone.objects()[0].parent().unwrap()).unwrap();
    fs::remove_dir_all(gone.dir.path().join(format!("place/gw-1/{epoch}"))).unwrap();
    assert_eq!(gone.kinds(), BTreeSet::from(["epoch-missing"]));
    // And who leaves only the rows of it has rows that nobody has signed for.
    let unsigned = copied();
    fs::remove_dir_all(unsigned.dir.path().join(format!("place/gw-1/{epoch}"))).unwrap();
    assert!(!unsigned.kinds().is_empty());

    // An object that was sent again under another name is no finding.
    let again = copied();
    let object = again.objects().remove(0);
    fs::copy(&object, object.with_file_name("0000000000000002-000000000000ffff.jsonl.gz")).unwrap();
    assert_eq!(again.kinds(), BTreeSet::new());

    // Without personal values the lines are all that can be counted.
    let omitted = Copied::of(dir.path(), "omitted");
    let report = omitted.report(true, Duration::ZERO);
    assert_eq!((report.findings, report.summary.rows), (vec![], RECORDS.iter().sum::<usize>() as u64));
    assert_eq!(omitted.kinds(), BTreeSet::from(["changed"]), "no leaf can be made again");
    omitted.edit(|lines| drop(lines.drain(9..12)));
    let kinds: Vec<_> = omitted.report(true, Duration::ZERO).findings.iter().map(|one| one.kind).collect();
    assert_eq!(kinds, [Kind::Missing]);
}
