//! A store that refuses one thing takes the rest, and keeps what it refused beside it.

use rusqlite::Connection;

use super::*;
use crate::log::verify::{Scope, SqliteEvidence, check};
use crate::store::sqlite::SqliteStore;

/// A gateway whose store refuses what goes into one table.
fn world(disk: &FakeDisk, path: &std::path::Path, refused: &str) -> World {
    drop(SqliteStore::open(path).unwrap());
    let sql = format!(
        "CREATE TRIGGER IF NOT EXISTS no BEFORE INSERT ON {refused} BEGIN SELECT RAISE(ABORT, 'not this'); END"
    );
    Connection::open(path).unwrap().execute_batch(&sql).unwrap();
    let path = path.to_owned();
    World::start_on(disk, Box::new(move || Ok(Box::new(SqliteStore::open(&path)?))), 1 << 30).unwrap()
}

/// Dead letters by what they hold, and records.
fn kept(path: &std::path::Path) -> (Vec<String>, i64) {
    let store = Connection::open(path).unwrap();
    let sql = "SELECT key FROM dead_letter, json_each(payload) WHERE reason LIKE '%not this%'";
    let mut statement = store.prepare(sql).unwrap();
    let letters = statement.query_map([], |row| row.get(0)).unwrap();
    let records = store.query_row("SELECT count(*) FROM access_event", [], |row| row.get(0)).unwrap();
    (letters.collect::<Result<_, _>>().unwrap(), records)
}

#[test]
fn intents_that_a_store_refuses_block_nothing() {
    let (disk, dir) = (FakeDisk::default(), tempfile::tempdir().unwrap());
    let path = dir.path().join("audit.db");
    let mut world = world(&disk, &path, "open_intent");
    let mut slot = world.recorder.reserve().unwrap();
    let durable = slot.intent(&record());
    world.write();
    assert_eq!(now(durable), Some(Ok(())));
    // Alone, and then among records.
    world.ship().unwrap();
    assert_eq!(kept(&path), (vec!["intent".to_owned()], 0));
    world.keep(record()).unwrap();
    let mut other = world.recorder.reserve().unwrap();
    drop(other.intent(&record()));
    world.keep(record()).unwrap();
    world.ship().unwrap();
    assert_eq!(kept(&path), (vec!["intent".to_owned(); 2], 2));
}

#[test]
fn gaps_that_a_store_refuses_block_nothing_and_keep_their_place_in_the_log() {
    let (disk, dir) = (FakeDisk::default(), tempfile::tempdir().unwrap());
    let path = dir.path().join("audit.db");
    let mut first = World::start(&disk, &FakeStore::default()).unwrap();
    for _ in 0..3 {
        first.keep(record()).unwrap();
    }
    drop(first);
    let segments = disk.segments();
    disk.flip(&segments[0].0, segments[0].1 / 2);
    let mut world = world(&disk, &path, "audit_gap");
    world.ship().unwrap();
    assert_eq!(kept(&path), (vec!["gap".to_owned()], 2));
    let scope = Scope { now_us: 1_795_000_000_000_000, ..Scope::default() };
    let report = check(&mut SqliteEvidence::open(&path).unwrap(), &scope).unwrap();
    assert_eq!((report.findings, report.summary.dead_letters), (vec![], 1));
}
