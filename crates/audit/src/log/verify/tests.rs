//! Both kinds of store give back what was logged; what retention may remove leaves a log that holds.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use doorward_tlog::checkpoint::Checkpoint;
use doorward_tlog::note::Signer;
use doorward_tlog::tree::Tree;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::columns::{CALL_COLUMNS, COLUMNS, Source, Type};
use crate::config::Retention;
use crate::leaf::tests::access;
use crate::leaf::{self, Hasher, RowOf};
use crate::log::logger::EPOCH_NOTE;
use crate::row::Value;
use crate::store::postgres::PostgresStore;
use crate::store::postgres::tests::{clusters, migrate, server, usual};
use crate::store::sqlite::SqliteStore;
use crate::store::{Batch, HashTile, LogNote, Record, SignedCheckpoint, Store};
use crate::wire::{Access, ActionText};

/// The years 1 to 9999, in microseconds since 1970; what is far beyond PostgreSQL takes for no time.
const TIMES: (i64, i64) = (-62_135_596_800_000_000, 253_402_300_799_999_999);
const DAY_US: i64 = 86_400_000_000;

/// A record as the road makes it: it has a time, and no text has a zero byte (the row's maker replaces it).
fn as_recorded(mut access: Access<'static>) -> Access<'static> {
    fn clean(text: Cow<'static, str>) -> Cow<'static, str> {
        text.replace('\0', "\u{2400}").into()
    }
    let columns = COLUMNS.iter().filter(|column| matches!(column.source, Source::Call(_)));
    for (column, value) in columns.zip(&mut access.values) {
        *value = match std::mem::replace(value, Value::Null) {
            Value::Int(micros) if column.ty == Type::Time => Value::Int(micros.clamp(TIMES.0, TIMES.1)),
            Value::Null if column.name == "ts" => Value::Int(0),
            Value::Text(text) => Value::Text(clean(text)),
            Value::Personal(sealed) => {
                let text = sealed.as_stored().replace('\0', "\u{2400}");
                Value::Personal(crate::personal::Sealed::stored(text))
            }
            other => other,
        };
    }
    for action in &mut access.actions {
        let ActionText { verb, resource, object } = action.clone();
        *action = ActionText { verb: clean(verb), resource: clean(resource), object: clean(object) };
    }
    access
}

/// One batch that begins an epoch, and its leaves.
fn batch(epoch: u64, calls: Vec<Access<'static>>) -> (Batch<'static>, Vec<Hash>) {
    let mut hasher = Hasher::default();
    let (mut records, mut leaves) = (Vec::new(), Vec::<Hash>::new());
    for (seq, access) in (1..).zip(calls) {
        let log_index = leaves.len() as u64;
        let leaf_hashes: Vec<Hash> = (0..leaf::rows(&access))
            .map(|action| RowOf { gateway_id: "gw", epoch, seq, access: &access, action, leaf: None })
            .map(|row| hasher.row(&row))
            .collect();
        leaves.extend(&leaf_hashes);
        records.push(Record { seq, access, log_index, leaf_hashes });
    }
    let (to_seq, leaf_to) = (records.len() as u64, leaves.len() as u64);
    (Batch { gateway_id: "gw", epoch, to_seq, leaf_to, records, ..Batch::default() }, leaves)
}

fn read_back(evidence: &mut dyn Evidence, epoch: u64) -> Vec<Option<Hash>> {
    let log = LogId { gateway_id: "gw".to_owned(), epoch };
    let mut leaves = Vec::new();
    evidence
        .items(&log, &mut |item| {
            assert_eq!(item.index, Some(leaves.len() as u64));
            assert_eq!(item.stored, item.leaf);
            leaves.push(item.leaf);
        })
        .unwrap();
    leaves
}

#[test]
fn what_any_store_gives_back_has_the_leaf_that_was_logged() {
    let databases: Vec<_> = clusters().iter().map(|cluster| cluster.database().unwrap()).collect();
    let servers: Vec<_> = databases
        .iter()
        .map(|database| {
            migrate(database, &usual());
            server(database)
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let mut stores: Vec<Box<dyn Store>> = vec![Box::new(SqliteStore::open(&path).unwrap())];
    stores.extend(
        servers.iter().map(|server| Box::new(PostgresStore::open(server).unwrap()) as Box<dyn Store>),
    );
    let epochs = std::cell::Cell::new(0);
    let stores = std::cell::RefCell::new(stores);
    let mut runner = TestRunner::new(ProptestConfig { cases: 40, ..ProptestConfig::default() });
    let calls = prop::collection::vec(access().prop_map(as_recorded), 1..6);
    runner
        .run(&calls, |mut calls| {
            let epoch = epochs.replace(epochs.get() + 1) + 1;
            // Times at the ends, and just before 1970, in each batch.
            let ts = CALL_COLUMNS.iter().position(|(name, _)| *name == "ts").unwrap();
            calls[0].values[ts] = Value::Int([TIMES.0, TIMES.1, -1, 1][usize::try_from(epoch % 4).unwrap()]);
            let (batch, leaves) = batch(epoch, calls);
            let expected: Vec<Option<Hash>> = leaves.into_iter().map(Some).collect();
            for store in stores.borrow_mut().iter_mut() {
                store.write(&batch).unwrap();
            }
            prop_assert_eq!(&read_back(&mut SqliteEvidence::open(&path).unwrap(), epoch), &expected);
            for server in &servers {
                prop_assert_eq!(
                    &read_back(&mut PostgresEvidence::connect(server).unwrap(), epoch),
                    &expected
                );
            }
            Ok(())
        })
        .unwrap();
}

/// A store whose one log has 20 rows of long ago and one of now, under a signed checkpoint, as the shipper writes
/// them: with the last tile or without it.
fn live_epoch(store: &mut dyn Store, now_us: i64, with_tile: bool) {
    let ts = CALL_COLUMNS.iter().position(|(name, _)| *name == "ts").unwrap();
    let call = |id: u128| {
        let mut values = vec![Value::Null; CALL_COLUMNS.len()];
        values[ts] = Value::Int(if id < 20 { now_us - 60 * DAY_US } else { now_us });
        Access { access_id: Uuid::from_u128(id), values, actions: Vec::new() }
    };
    let (mut batch, mut leaves) = batch(7, (0..=20).map(call).collect());
    let (signer, _) = Signer::generate("doorward/gw", doorward_tlog::note::Kind::Ed25519).unwrap();
    let body = format!("doorward-log-epoch/v1\ngateway gw\nepoch 7\nkey {}\nprevious none\n", signer.vkey());
    let leaf_hash = Hasher::default().note("gw", 7, EPOCH_NOTE, &body);
    leaves.insert(0, leaf_hash);
    batch.notes.push(LogNote { index: 0, kind: EPOCH_NOTE.to_owned(), body, leaf_hash });
    batch.records.iter_mut().for_each(|record| record.log_index += 1);
    batch.leaf_to += 1;
    let mut tree = Tree::default();
    leaves.iter().for_each(|leaf| tree.push(*leaf, |_| ()));
    let signed_us = now_us - 50 * DAY_US;
    let (size, root, time_us) = (tree.size(), tree.root(), Some(signed_us));
    let checkpoint = Checkpoint { origin: origin("doorward/gw", 7), size, root, time_us, extra: Vec::new() };
    let (size, note) = (tree.size(), checkpoint.sign(&signer).to_string());
    batch.checkpoints.push(SignedCheckpoint { size, signed_us, note });
    if with_tile {
        batch.tiles.push(HashTile { index: 0, hashes: leaves.concat() });
    }
    store.write(&batch).unwrap();
}

#[test]
fn rows_that_retention_removes_before_their_tile_is_full_are_no_finding() {
    let now_us = 1_795_000_000_000_000;
    let days = |days: u64| Some(doorward_settings::HumanDuration::new(Duration::from_secs(days * 86_400)));
    let retention = Retention { age: days(30), ..Retention::default() };
    for (with_tile, expected) in [(true, vec![]), (false, vec![Kind::RootMismatch])] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.db");
        let mut store = SqliteStore::open(&path).unwrap();
        live_epoch(&mut store, now_us, with_tile);
        let scope = Scope { now_us, ..Scope::default() };
        let report = |path: &Path| check(&mut SqliteEvidence::open(path).unwrap(), &scope).unwrap();
        assert_eq!((report(&path).findings, report(&path).summary.rows), (vec![], 21));
        while store.retain(&retention, now_us).unwrap() {}
        let after = report(&path);
        let kinds: Vec<Kind> = after.findings.iter().map(|finding| finding.kind).collect();
        assert_eq!((after.summary.rows, after.summary.expired, kinds), (1, 20, expected));
    }
}
