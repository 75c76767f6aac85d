//! What retention explains, and what it does not, when somebody has the store in their hands.

use std::time::{Duration, Instant};

use doorward_core::{AccessId, AccessRecord, Clock, Outcome, SystemClock, Timestamp};
use doorward_settings::{ByteSize, HumanDuration};
use doorward_testkit::wait_until;
use rusqlite::Connection;

use super::*;
use crate::Audit;
use crate::config::{AuditConfig, Retention, RetentionClasses};
use crate::log::config::Place;
use crate::log::journal::{Entry, Journal};
use crate::log::place;
use crate::log::tally::Tag;
use crate::spool::files::Directory;
use crate::spool::model::record;
use crate::store::Store;
use crate::store::sqlite::SqliteStore;

/// How long something that will happen may take.
const PATIENCE: Duration = Duration::from_secs(120);
const DAY_US: i64 = 24 * 60 * 60 * 1_000_000;

/// A store with records, and checkpoints beside it.
struct Scene {
    dir: tempfile::TempDir,
    config: AuditConfig,
}

impl Scene {
    /// Twenty records of now, kept for ever.
    fn play() -> Self {
        Self::of(Retention { age: None, size: None, ..Retention::default() }, now(20))
    }

    fn of(retention: Retention, records: Vec<AccessRecord>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = AuditConfig::default().relative_to(dir.path());
        config.spool.gateway_id = Some("gw-1".to_owned());
        config.retention = retention;
        config.checkpoints.to = vec![Place::Directory(dir.path().join("outside"))];
        let audit = Audit::open(&config).unwrap();
        let count = records.len() as u64;
        for record in records {
            drop(audit.recorder().reserve().unwrap().complete(Box::new(record)));
        }
        assert!(wait_until(PATIENCE, || audit.status().shipped_total == count), "{:?}", audit.status());
        assert!(audit.shutdown(Duration::from_secs(10)));
        Self { dir, config }
    }

    /// What is found after something was done to a copy of the store.
    fn after(&self, sql: &str) -> Report {
        let copy = self.dir.path().join("copy.db");
        drop(std::fs::remove_file(&copy));
        let store = Connection::open(self.config.store.path().unwrap()).unwrap();
        store.execute("VACUUM INTO ?1", [copy.to_string_lossy()]).unwrap();
        Connection::open(&copy).unwrap().execute_batch(sql).unwrap();
        let scope = Scope {
            outside: vec![place::open(&self.config.checkpoints.to[0], None).unwrap()],
            keys: crate::log::key::public_keys(&self.config).unwrap(),
            now_us: SystemClock.now().micros(),
            ..Scope::default()
        };
        check(&mut SqliteEvidence::open(&copy).unwrap(), &scope).unwrap()
    }
}

/// An age for all classes: an hour and so many days.
fn kept_for(days: u64) -> Retention {
    let age = HumanDuration::new(Duration::from_secs(60 * 60 + days * 24 * 60 * 60));
    Retention { age: Some(age), size: None, ..Retention::default() }
}

/// A record of a call that began so many days ago.
fn aged(days: i64, outcome: Outcome) -> AccessRecord {
    let mut record = *record();
    let ts = Timestamp::from_micros(SystemClock.now().micros() - days * DAY_US);
    (record.access_id, record.ts, record.outcome) = (AccessId::fresh(), ts, outcome);
    record
}

fn now(count: usize) -> Vec<AccessRecord> {
    (0..count).map(|_| aged(0, Outcome::Allowed)).collect()
}

/// Removes one row of a class.
fn remove(class: &str) -> String {
    format!(
        "DELETE FROM access_event WHERE log_index = (SELECT max(log_index) FROM access_event WHERE class = '{class}');"
    )
}

/// What the store says of its retention.
fn horizon(before_us: i64) -> String {
    format!("INSERT OR REPLACE INTO retention_horizon VALUES ('', {before_us});")
}

#[test]
fn each_class_goes_when_its_own_age_says_whatever_the_store_says() {
    let refused = HumanDuration::new(Duration::from_secs(100 * 24 * 60 * 60));
    let classes = RetentionClasses { refused: Some(refused), ..RetentionClasses::default() };
    let outcomes = (0..30).map(|n| if n % 3 == 0 { Outcome::Denied } else { Outcome::Allowed });
    let records = outcomes.map(|outcome| aged(0, outcome)).collect();
    let scene = Scene::of(Retention { classes, ..kept_for(0) }, records);
    let all_of_it = horizon(SystemClock.now().micros() + 1_000 * DAY_US);
    let report = scene.after(&(all_of_it.clone() + &remove("access").repeat(3)));
    assert_eq!((report.findings, report.summary.expired), (vec![], 3));
    let report = scene.after(&(all_of_it.clone() + &remove("access").repeat(3) + &remove("refused")));
    let texts: Vec<&str> = report.findings.iter().map(|finding| finding.text.as_str()).collect();
    assert!(!texts.is_empty() && texts.iter().all(|text| text.contains("1 of class refused")), "{texts:?}");
    // When everything is kept longer, nothing is explained, and an age cannot be taken from the first leaf.
    let scene = Scene::of(kept_for(30), now(2));
    let report = scene.after(&(all_of_it.clone() + &remove("access")));
    assert_eq!(report.findings.len(), 1, "{report:?}");
    let forged = "UPDATE log_note SET body = replace(body, 'keep access', 'keep access 1\nkept');";
    assert!(!scene.after(&(all_of_it + forged)).findings.is_empty());
}

#[test]
fn what_was_late_goes_by_the_time_of_its_call_and_no_other_row_does() {
    let records = [0, 3, 40, 0, 400].map(|days| aged(days, Outcome::Allowed)).into();
    let scene = Scene::of(kept_for(30), records);
    let mut store = SqliteStore::open(scene.config.store.path().unwrap()).unwrap();
    while store.retain(&scene.config.retention, SystemClock.now().micros()).unwrap() {}
    let report = scene.after("");
    assert_eq!((report.findings, report.summary.expired, report.summary.rows), (vec![], 2, 3));
    // Which of the three was taken away cannot be told; that one was can.
    let report = scene.after("DELETE FROM access_event WHERE log_index = 1;");
    let one_too_many = |finding: &Finding| finding.text.contains("1 of class access");
    assert!(!report.findings.is_empty() && report.findings.iter().all(one_too_many), "{report:?}");
}

#[test]
fn a_log_that_waited_for_its_last_checkpoint_is_not_as_young_as_that() {
    let dir = tempfile::tempdir().unwrap();
    let files = Directory::open(dir.path()).unwrap();
    let mut journal = Journal::open(&files, 5).unwrap();
    journal.append(&files, Entry { hash: [1; 32], seq: 1, tag: Tag::OTHER }).unwrap();
    journal.sync(&files).unwrap();
    drop(journal);
    let died = std::time::SystemTime::now() - Duration::from_secs(3 * 24 * 60 * 60);
    let leaves = dir.path().join(format!("{:016x}-{:016x}.leaves", 5, 0));
    std::fs::File::options().append(true).open(leaves).unwrap().set_modified(died).unwrap();
    let now = SystemClock.now().micros();
    let extra = Journal::open(&files, 5).unwrap().told(now);
    let checkpoint = Checkpoint { origin: "log".into(), size: 1, root: [0; 32], time_us: Some(now), extra };
    let known = Known::of(&Checkpoint::parse(&checkpoint.to_string()).unwrap(), "here".into());
    let ago = now - known.signed_us.unwrap();
    assert!((3 * DAY_US - 60_000_000..3 * DAY_US + 60_000_000).contains(&ago), "{ago}");
}

#[test]
fn a_store_that_is_too_large_is_told_of_before_anything_goes() {
    let mut retention = kept_for(30);
    retention.size = Some(ByteSize::new(1));
    let scene = Scene::of(retention.clone(), now(2));
    // The next start finds it too large, notes it, and removes both.
    let audit = Audit::open(&scene.config).unwrap();
    drop(audit.recorder().reserve().unwrap().complete(Box::new(aged(0, Outcome::Allowed))));
    let store = Connection::open(scene.config.store.path().unwrap()).unwrap();
    let count = |sql: &str| store.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let rows = "SELECT count(*) FROM access_event WHERE ts < (SELECT max(ts) FROM access_event)";
    assert!(wait_until(PATIENCE, || count(rows) == 0));
    assert!(audit.shutdown(Duration::from_secs(20)));
    assert!(count("SELECT count(*) FROM log_note WHERE kind = 'removal'") > 0);
    let report = scene.after("");
    assert_eq!((report.findings, report.summary.expired), (vec![], 0));
    assert!(report.summary.outgrown >= 2, "{:?}", report.summary);
    // Without the note, the store's word explains nothing.
    let report = scene.after("DELETE FROM log_note WHERE kind = 'removal';");
    assert_eq!((report.findings.is_empty(), report.summary.outgrown), (false, 0));
}

#[test]
fn retention_explains_only_what_is_as_old_as_it_says() {
    // Kept for an hour, so that what is a day old may go.
    let scene = Scene::of(kept_for(0), now(20));
    assert_eq!(scene.after("").findings, []);
    let now = SystemClock.now().micros();
    let (lawful, earlier) = (now + DAY_US, now - 3 * DAY_US);
    let removed = |horizon: i64| {
        format!(
            "INSERT OR REPLACE INTO retention_horizon VALUES ('access', {horizon});
             DELETE FROM retention_horizon WHERE class <> 'access';
             DELETE FROM access_event WHERE log_index BETWEEN 5 AND 8;"
        )
    };
    let report = scene.after(&removed(lawful));
    assert_eq!((report.findings.len(), report.summary.expired), (0, 4));
    let kinds = |more: &str| -> Vec<Kind> {
        let report = scene.after(&(removed(earlier) + more));
        assert_eq!(report.summary.expired, 0, "{more}");
        report.findings.iter().map(|finding| finding.kind).collect()
    };
    // Neither what the store says of a checkpoint's time nor a checkpoint that is gone makes rows older.
    for more in [
        "",
        "UPDATE checkpoint SET signed_us = 0;",
        "DELETE FROM checkpoint;",
        "DELETE FROM checkpoint; DELETE FROM log_tile;",
    ] {
        assert_eq!(kinds(more), [Kind::Missing], "{more}");
    }
    let all = "DELETE FROM checkpoint; DELETE FROM access_event;";
    assert_eq!(kinds(all), [Kind::Truncated], "{all}");
}

#[test]
fn a_forged_place_is_told_at_once() {
    let scene = Scene::play();
    for place in [i64::MAX, -1, 1 << 40] {
        let report = scene.after(&format!("UPDATE access_event SET log_index = {place} WHERE log_index = 7"));
        let mut kinds: Vec<&str> = report.findings.iter().map(|finding| finding.kind.as_str()).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["inserted", "missing"], "{place}");
    }
}

#[test]
fn a_row_that_says_it_is_older_than_the_log_is_found() {
    let scene = Scene::play();
    let audit = Audit::open(&scene.config).unwrap();
    drop(audit.recorder().reserve().unwrap().complete(record()));
    assert!(wait_until(PATIENCE, || audit.status().shipped_total == 1));
    assert!(audit.shutdown(PATIENCE));
    let forged = |epoch: &str, gateway: &str| {
        format!(
            "INSERT INTO access_event (ts, gateway_id, epoch, seq, access_id, outcome)
             SELECT 5, '{gateway}', {epoch}, 1, 'x', 'allowed' FROM high_water WHERE next_leaf > 0;"
        )
    };
    // A file that was made with a log has nothing of the time before it.
    let places =
        [("(SELECT max(epoch) FROM high_water)", "gw-1"), ("9000000000000000", "ghost"), ("1", "gw-1")];
    for (epoch, gateway) in places {
        let report = scene.after(&forged(epoch, gateway));
        let kinds: Vec<Kind> = report.findings.iter().map(|finding| finding.kind).collect();
        assert!(kinds.contains(&Kind::Inserted) && report.summary.before_log == 0, "{gateway}: {report:?}");
    }
}

#[test]
fn old_starts_are_passed_over_and_not_missed() {
    let scene = Scene::play();
    let audit = Audit::open(&scene.config).unwrap();
    let durable = audit.recorder().reserve().unwrap().complete(record());
    let deadline = Instant::now() + Duration::from_secs(20);
    while audit.status().shipped_total < 1 {
        assert!(Instant::now() < deadline, "{:?}", audit.status());
        std::thread::park_timeout(Duration::from_millis(5));
    }
    drop(durable);
    assert!(audit.shutdown(Duration::from_secs(10)));
    let scope = Scope { since_us: Some(SystemClock.now().micros() + DAY_US), ..Scope::default() };
    let mut evidence = SqliteEvidence::open(scene.config.store.path().unwrap()).unwrap();
    let report = check(&mut evidence, &scope).unwrap();
    assert_eq!((report.findings, report.summary.logs), (Vec::new(), 1));
}

#[test]
fn what_tells_the_age_of_removed_rows_stays() {
    let scene = Scene::play();
    let path = scene.config.store.path().unwrap();
    let forged = |size: i64, signed_us: i64| {
        format!("INSERT INTO checkpoint VALUES ('gw', 1, {size}, {signed_us}, '');")
    };
    let now = SystemClock.now().micros();
    let old = now - 40 * DAY_US;
    Connection::open(path)
        .unwrap()
        .execute_batch(&[forged(1, old), forged(2, old + 1), forged(3, now)].concat())
        .unwrap();
    let age = doorward_settings::HumanDuration::new(Duration::from_secs(30 * 24 * 60 * 60));
    let retention = Retention { age: Some(age), size: None, ..Retention::default() };
    SqliteStore::open(path).unwrap().retain(&retention, now).unwrap();
    let store = Connection::open(path).unwrap();
    let number = |sql: &str| store.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(number("SELECT sum(size) FROM checkpoint WHERE epoch = 1"), 2 + 3);
    assert_eq!(number("SELECT max(before_us) FROM retention_horizon"), now - 30 * DAY_US);
}
