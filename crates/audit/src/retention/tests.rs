//! Which records go, which stay, and what is told of those that went.

use std::time::Duration;

use doorward_settings::HumanDuration;
use rusqlite::Connection;

use crate::config::{Retention, RetentionClasses};
use crate::store::sqlite::SqliteStore;
use crate::store::{Shrink, Store, TooLarge};

const DAY_US: i64 = 86_400_000_000;

fn days(count: u64) -> Option<HumanDuration> {
    Some(HumanDuration::new(Duration::from_secs(count * 86_400)))
}

fn retention() -> Retention {
    let classes = RetentionClasses { refused: days(100), imported: days(7), ..RetentionClasses::default() };
    Retention { age: days(30), size: None, classes, ..Retention::default() }
}

struct Bed {
    _dir: tempfile::TempDir,
    store: SqliteStore,
    file: Connection,
}

impl Bed {
    /// A store with one record of each class on each of the first 200 days.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.db");
        let store = SqliteStore::open(&path).unwrap();
        let file = Connection::open(&path).unwrap();
        let bed = Self { _dir: dir, store, file };
        for day in 0..200 {
            for class in super::CLASSES {
                bed.keep(day, class, "shop");
            }
        }
        bed
    }

    fn keep(&self, day: i64, class: &str, resource: &str) {
        self.file
            .execute(
                "INSERT INTO access_event (ts, class, resource, subject_id) VALUES (?1, ?2, ?3, ?4)",
                (day * DAY_US, class, resource, format!("subject-{}", day % 2)),
            )
            .unwrap();
    }

    fn hold(&self, sql: &str) {
        self.file
            .execute_batch(&format!("INSERT INTO legal_hold (hold_id, name, created_us, created_by, {sql}"))
            .unwrap();
    }

    fn retain(&mut self, day: i64) {
        while self.store.retain(&retention(), day * DAY_US).unwrap() {}
    }

    fn shrink(&mut self, retention: &Retention) {
        let limit = retention.size.unwrap().get();
        while self.store.retain(retention, 200 * DAY_US).unwrap() {}
        while self.store.shrink(limit, Some(i64::MAX)).unwrap() == Shrink::Removed {}
    }

    fn number(&self, sql: &str) -> i64 {
        self.file.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn of(&self, class: &str) -> i64 {
        self.number(&format!("SELECT count(*) FROM access_event WHERE class = '{class}'"))
    }
}

#[test]
fn each_class_has_its_own_age_and_leaves_its_own_horizon() {
    let mut bed = Bed::new();
    bed.retain(200);
    assert_eq!(["access", "refused", "admin", "imported"].map(|class| bed.of(class)), [30, 100, 30, 7]);
    for (class, keep) in [("access", 30), ("refused", 100), ("imported", 7)] {
        let horizon = bed.number(&format!("SELECT before_us FROM retention_horizon WHERE class = '{class}'"));
        let last_removed = (200 - keep - 1) * DAY_US;
        assert_eq!(horizon, last_removed + 1, "{class}");
    }
    // What is younger than each age stays, however often the store is looked through.
    bed.retain(200);
    assert_eq!(bed.number("SELECT count(*) FROM access_event"), 167);
}

#[test]
fn a_late_record_of_a_day_that_was_looked_through_goes_within_a_day() {
    let mut bed = Bed::new();
    bed.retain(200);
    bed.keep(3, "access", "shop");
    bed.retain(200);
    assert_eq!(bed.of("access"), 31);
    bed.retain(201);
    assert_eq!(bed.of("access"), 29);
}

#[test]
fn what_a_hold_covers_stays_until_the_hold_is_released() {
    let mut bed = Bed::new();
    bed.keep(1, "access", "ledger");
    bed.hold("resource) VALUES ('1', 'ledger', 0, 'me', 'ledger')");
    bed.hold(&format!(
        "subject_id, from_us, until_us) VALUES ('2', 'person', 0, 'me', 'subject-1', {}, {})",
        10 * DAY_US,
        20 * DAY_US
    ));
    bed.retain(200);
    assert_eq!(bed.number("SELECT count(*) FROM access_event WHERE resource = 'ledger'"), 1);
    // The person's days are 11, 13, 15, 17 and 19, in four classes.
    assert_eq!(bed.number(&format!("SELECT count(*) FROM access_event WHERE ts < {}", 100 * DAY_US)), 21);
    bed.file.execute("UPDATE legal_hold SET released_us = 1", []).unwrap();
    bed.retain(202);
    assert_eq!(bed.number(&format!("SELECT count(*) FROM access_event WHERE ts < {}", 100 * DAY_US)), 0);
}

#[test]
fn a_hold_without_conditions_keeps_everything_even_in_a_store_that_is_too_large() {
    let mut bed = Bed::new();
    bed.hold("from_us) VALUES ('1', 'all', 0, 'me', NULL)");
    let tight = Retention { size: Some(doorward_settings::ByteSize::new(1)), ..retention() };
    bed.shrink(&tight);
    assert_eq!(bed.number("SELECT count(*) FROM access_event"), 800);
    bed.file.execute("UPDATE legal_hold SET released_us = 1", []).unwrap();
    // What is to go is told first, and nothing else goes.
    let told = bed.store.shrink(1, Some(DAY_US)).unwrap();
    assert_eq!((told, bed.number("SELECT min(ts) FROM access_event")), (Shrink::Removed, DAY_US));
    let told = bed.store.shrink(1, Some(DAY_US)).unwrap();
    assert!(matches!(told, Shrink::Tell(TooLarge { limit: 1, .. })), "{told:?}");
    bed.shrink(&tight);
    assert_eq!(bed.number("SELECT count(*) FROM access_event"), 0);
    // The horizon of what was too much is for every class.
    assert_eq!(bed.number("SELECT before_us FROM retention_horizon WHERE class = ''"), 199 * DAY_US + 1);
}
