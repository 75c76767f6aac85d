//! What retention explains, and what it does not, when somebody has the store in their hands.

use std::time::{Duration, Instant};

use doorward_core::{AccessId, Clock, SystemClock};
use rusqlite::Connection;

use super::*;
use crate::Audit;
use crate::config::{AuditConfig, Retention};
use crate::log::config::Place;
use crate::spool::model::record;
use crate::store::Store;
use crate::store::sqlite::SqliteStore;

const DAY_US: i64 = 24 * 60 * 60 * 1_000_000;

/// A store with records, and checkpoints beside it.
struct Scene {
    dir: tempfile::TempDir,
    config: AuditConfig,
}

impl Scene {
    fn play() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = AuditConfig::default().relative_to(dir.path());
        config.spool.gateway_id = Some("gw-1".to_owned());
        config.retention = Retention { age: None, size: None, ..Retention::default() };
        config.checkpoints.to = vec![Place::Directory(dir.path().join("outside"))];
        let audit = Audit::open(&config).unwrap();
        for _ in 0..20 {
            let mut record = record();
            (record.access_id, record.ts) = (AccessId::fresh(), SystemClock.now());
            drop(audit.recorder().reserve().unwrap().complete(record));
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while audit.status().shipped_total < 20 {
            assert!(Instant::now() < deadline, "{:?}", audit.status());
            std::thread::park_timeout(Duration::from_millis(5));
        }
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
            outside: vec![self.dir.path().join("outside")],
            keys: crate::log::key::public_keys(&self.config).unwrap(),
            now_us: SystemClock.now().micros(),
            ..Scope::default()
        };
        check(&mut SqliteEvidence::open(&copy).unwrap(), &scope).unwrap()
    }
}

#[test]
fn retention_explains_only_what_is_as_old_as_it_says() {
    let scene = Scene::play();
    assert_eq!(scene.after("").findings, []);
    let now = SystemClock.now().micros();
    let (lawful, earlier) = (now + DAY_US, now - 3 * DAY_US);
    let removed = |horizon: i64| {
        format!(
            "INSERT INTO retention_horizon VALUES ('access', {horizon});
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
