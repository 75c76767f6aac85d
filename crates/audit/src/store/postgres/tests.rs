//! The store against real servers: PostgreSQL 15 and 18, and TimescaleDB.

mod community;

use std::sync::{Arc, OnceLock};

use doorward_core::{Login, Secret};
use doorward_pgclient::Target;
use doorward_testkit::postgres::{Cluster, Database, SUPERUSER};

use super::*;
use crate::columns::CALL_COLUMNS;
use crate::leaf;
use crate::leaf::Hasher;
use crate::row::Value;
use crate::store::{DeadLetter, HashTile, LogNote, LoggedGap, Record, Refused, SignedCheckpoint};
use crate::wire::{Access, ActionText, Gap};

const WRITER_PASSWORD: &str = "the writer's own";
const READER_PASSWORD: &str = "correct horse";

/// Both versions of PostgreSQL, and TimescaleDB where it can be had.
pub(crate) fn clusters() -> &'static [Cluster] {
    static CLUSTERS: OnceLock<Vec<Cluster>> = OnceLock::new();
    CLUSTERS.get_or_init(|| {
        let mut clusters = vec![Cluster::debian().unwrap(), Cluster::newer().unwrap()];
        clusters.extend(Cluster::timescale_if_possible().unwrap());
        clusters
    })
}

fn login(user: &str, password: &str) -> Arc<Login> {
    Arc::new(Login::new(user, Secret::from(password)))
}

fn migrator(database: &Database<'_>) -> Migrator {
    let target = Target::parse(&database.url(), false).unwrap();
    Migrator::connect(&target, &login(SUPERUSER, database.cluster().password())).unwrap()
}

/// What an operator asks for.
pub(crate) fn usual() -> Migration {
    let writer = Grantee { user: "gateway".into(), login: Some(login("gateway", WRITER_PASSWORD)) };
    let reader = |user: &str| Grantee { user: user.into(), login: Some(login(user, READER_PASSWORD)) };
    let scope =
        |environment: &str, group: &str| Scope { environment: environment.into(), group: group.into() };
    Migration {
        writers: vec![writer],
        readers: vec![
            (reader("auditor"), Scope::default()),
            (reader("prod_reader"), scope("prod", "*")),
            (reader("team_reader"), scope("*", "blue")),
        ],
        ..Migration::default()
    }
}

pub(crate) fn migrate(database: &Database<'_>, migration: &Migration) -> Vec<String> {
    let mut migrator = migrator(database);
    migrator.lock().unwrap();
    if let Some(step) = migrator.extension(migration).unwrap() {
        migrator.run(&step).unwrap();
    }
    let steps = migrator.plan(migration).unwrap();
    for step in &steps {
        migrator.run(step).unwrap_or_else(|error| panic!("{}: {error}", step.title));
    }
    steps.into_iter().filter(|step| step.version.is_some()).map(|step| step.title).collect()
}

pub(crate) fn server(database: &Database<'_>) -> Server {
    // Passwords come by reference; tests put them where no other test looks.
    let folder = tempfile::tempdir().unwrap().keep();
    std::fs::write(folder.join("password"), WRITER_PASSWORD).unwrap();
    std::fs::write(folder.join("reader"), READER_PASSWORD).unwrap();
    let yaml = format!(
        "store: {{ url: {}, password: 'file:{folder}/password',
                   reader: {{ user: auditor, password: 'file:{folder}/reader' }} }}",
        database.url().replace("postgres://", "postgres://gateway@"),
        folder = folder.display()
    );
    let document = doorward_settings::Document::parse("doorward.yaml", &yaml).unwrap();
    let config: crate::AuditConfig = document.root().deserialize().unwrap();
    config.store.server().unwrap().clone()
}

fn open(database: &Database<'_>) -> PostgresStore {
    PostgresStore::open(&server(database)).unwrap()
}

fn access(id: u128, change: impl FnOnce(&mut dyn FnMut(&str, Value<'static>))) -> Access<'static> {
    let mut values = vec![Value::Null; CALL_COLUMNS.len()];
    let mut set = |name: &str, value: Value<'static>| {
        let place = CALL_COLUMNS.iter().position(|(column, _)| *column == name).unwrap();
        values[place] = value;
    };
    set("ts", Value::Int(SystemClock.now().micros()));
    set("environment", Value::Text("prod".into()));
    set("class", Value::Text("access".into()));
    set("outcome", Value::Text("allowed".into()));
    change(&mut set);
    let action = ActionText { verb: "read".into(), resource: "shop".into(), object: "public/orders".into() };
    Access { access_id: Uuid::from_u128(id), values, actions: vec![action] }
}

fn plain(id: u128) -> Access<'static> {
    access(id, |_| {})
}

/// A batch of whole records, as the shipper makes it.
fn batch(from_seq: u64, leaf_from: u64, calls: Vec<Access<'static>>) -> Batch<'static> {
    let (mut seq, mut leaf) = (from_seq, leaf_from);
    let mut hasher = Hasher::default();
    let rollups = crate::rollup::Aggregator::default().add_up(calls.iter());
    let records = calls
        .into_iter()
        .map(|access| {
            seq += 1;
            let mut record = Record { seq, access, log_index: leaf, leaf_hashes: Vec::new() };
            let rows = leaf::rows(&record.access);
            record.leaf_hashes = (0..rows).map(|action| hasher.row(&record.row("gw", 1, action))).collect();
            leaf += rows as u64;
            record
        })
        .collect();
    Batch {
        gateway_id: "gw",
        epoch: 1,
        from_seq,
        to_seq: seq,
        leaf_from,
        leaf_to: leaf,
        records,
        rollups,
        ..Batch::default()
    }
}

fn count(database: &Database<'_>, what: &str) -> i64 {
    database.sql(&format!("select count(*) from {what}")).unwrap().parse().unwrap()
}

#[test]
fn migrating_twice_changes_nothing() {
    for cluster in clusters() {
        let database = cluster.database().unwrap();
        let titles = migrate(&database, &usual());
        assert_eq!(titles.len(), usize::try_from(SCHEMA_VERSION).unwrap(), "{titles:?}");
        open(&database).write(&batch(0, 0, vec![plain(1)])).unwrap();
        let shape = "select string_agg(n.nspname || '.' || relname || ' ' || relkind::text, ',' order by n.nspname, relname) from pg_class c
            join pg_namespace n on n.oid = relnamespace where nspname in ('doorward', 'timeline')";
        let before = database.sql(shape).unwrap();
        assert_eq!(migrate(&database, &usual()), Vec::<String>::new());
        assert_eq!(database.sql(shape).unwrap(), before);
        assert_eq!(count(&database, "doorward.access_event"), 1);
        let owners = "select string_agg(distinct pg_get_userbyid(relowner), ',') from pg_class c
            join pg_namespace n on n.oid = relnamespace where nspname in ('doorward', 'timeline')";
        assert_eq!(database.sql(owners).unwrap(), "doorward_owner");
    }
}

#[test]
fn an_older_schema_is_refused_by_the_gateway_and_brought_up_to_date() {
    for cluster in clusters() {
        let database = cluster.database().unwrap();
        assert!(PostgresStore::open(&server(&database)).is_err());
        migrate(&database, &Migration { to: Some(1), ..usual() });
        database.sql("insert into doorward.high_water values ('gw', 1, 0, 0)").unwrap();
        let refused = PostgresStore::open(&server(&database)).unwrap_err().to_string();
        assert!(refused.contains("version 1") && refused.contains("doorward store migrate"), "{refused}");
        let titles = migrate(&database, &usual());
        assert_eq!(titles.len(), usize::try_from(SCHEMA_VERSION).unwrap() - 1, "{titles:?}");
        open(&database).write(&batch(0, 0, vec![plain(1)])).unwrap();
    }
}

#[test]
fn migrations_at_once_take_turns() {
    let cluster = Cluster::debian().unwrap();
    let (one, other) = (cluster.database().unwrap(), cluster.database().unwrap());
    let (cluster_port, password) = (cluster.port(), cluster.password().to_owned());
    let runs: Vec<_> = [one.name(), other.name(), one.name(), other.name()]
        .map(|name| (name.to_owned(), password.clone()))
        .into_iter()
        .map(|(name, password)| {
            std::thread::spawn(move || {
                let target =
                    Target::parse(&format!("postgres://127.0.0.1:{cluster_port}/{name}"), false).unwrap();
                let mut migrator = Migrator::connect(&target, &login(SUPERUSER, &password)).unwrap();
                migrator.lock().unwrap();
                for step in migrator.plan(&Migration::default()).unwrap() {
                    migrator.run(&step).unwrap_or_else(|error| panic!("{}: {error}", step.title));
                }
            })
        })
        .collect();
    for run in runs {
        run.join().unwrap();
    }
    assert_eq!(count(&one, "doorward.schema_version"), i64::from(SCHEMA_VERSION));
    assert_eq!(count(&other, "doorward.schema_version"), i64::from(SCHEMA_VERSION));
}

#[test]
fn everything_of_a_batch_is_there_and_once() {
    for cluster in clusters() {
        let database = cluster.database().unwrap();
        migrate(&database, &usual());
        let mut store = open(&database);
        assert_eq!(store.high_water("gw", 1).unwrap(), HighWater::default());
        let mut first = batch(0, 0, vec![plain(1), plain(2)]);
        let intent = |id: u128| OpenIntent {
            seq: 3,
            access_id: Uuid::from_u128(id),
            payload: vec![0, 1, 255],
            columns: "ts,door".to_owned(),
        };
        first.opened = vec![intent(7), intent(8)];
        first.gaps = vec![LoggedGap {
            seq: 4,
            gap: Gap { lost: 3, from_us: 1, until_us: 2, reason: "no room".into() },
            leaf: Some((2, [1; 32])),
        }];
        first.notes =
            vec![LogNote { index: 3, kind: "epoch".into(), body: "start".into(), leaf_hash: [2; 32] }];
        first.checkpoints = vec![SignedCheckpoint { size: 3, signed_us: 5, note: "one".into() }];
        first.tiles = vec![HashTile { index: 0, hashes: vec![3; 64] }];
        (first.to_seq, first.leaf_to) = (4, 4);
        store.write(&first).unwrap();
        assert_eq!(store.high_water("gw", 1).unwrap(), HighWater { last_seq: 4, next_leaf: 4 });
        assert_eq!(store.open_intents("gw", 1).unwrap(), [intent(7), intent(8)]);
        assert_eq!(store.unfinished_epochs("gw", 2).unwrap(), [1]);

        // The same batch again, and one that begins elsewhere, change nothing.
        for wrong in [&first, &batch(2, 2, vec![plain(3)])] {
            let refused = store.write(wrong).unwrap_err();
            assert!(matches!(refused, StoreError::Moved { found: 4, .. }), "{refused}");
        }
        let mut second = batch(4, 4, vec![plain(3)]);
        second.closed = vec![Uuid::from_u128(7)];
        second.checkpoints = vec![SignedCheckpoint { size: 3, signed_us: 5, note: "one, cosigned".into() }];
        second.tiles = vec![HashTile { index: 0, hashes: vec![3; 96] }];
        second.dead_letters = vec![DeadLetter {
            what: Refused::Record(Record {
                seq: 6,
                access: plain(9),
                log_index: 5,
                leaf_hashes: vec![[9; 32]],
            }),
            reason: "no".to_owned(),
        }];
        store.write(&second).unwrap();
        assert_eq!(count(&database, "doorward.access_event"), 3);
        assert_eq!(count(&database, "doorward.audit_gap"), 1);
        assert_eq!(count(&database, "doorward.log_note"), 1);
        assert_eq!(store.open_intents("gw", 1).unwrap(), [intent(8)]);
        assert_eq!(database.sql("select note from doorward.checkpoint").unwrap(), "one, cosigned");
        assert_eq!(database.sql("select length(hashes) from doorward.log_tile").unwrap(), "96");
        let letter = database.sql("select payload::json ->> 'access_id' from doorward.dead_letter").unwrap();
        assert_eq!(letter, Uuid::from_u128(9).to_string());
        assert_eq!(database.sql("select sum(calls) from timeline.traffic_1m").unwrap(), "3");
        assert!(!store.retain(&Retention::default(), SystemClock.now().micros()).unwrap());
        assert_eq!(database.sql("select sum(calls) from timeline.traffic_1d").unwrap(), "3");
        // A tile does not change what it has.
        let mut third = batch(5, 5, vec![plain(4)]);
        third.tiles = vec![HashTile { index: 0, hashes: vec![4; 128] }];
        assert!(store.write(&third).is_err());
    }
}

#[test]
fn the_writer_only_adds() {
    for cluster in clusters() {
        let database = cluster.database().unwrap();
        migrate(&database, &usual());
        open(&database).write(&batch(0, 0, vec![plain(1)])).unwrap();
        let as_writer = |sql: &str| cluster.sql_as("gateway", WRITER_PASSWORD, database.name(), sql);
        for table in ["access_event", "audit_gap", "dead_letter", "log_note"] {
            for sql in [
                format!("select 1 from doorward.{table}"),
                format!("update doorward.{table} set epoch = 2"),
                format!("delete from doorward.{table}"),
                format!("truncate doorward.{table}"),
                format!("alter table doorward.{table} add column x int"),
            ] {
                let refused = as_writer(&sql).unwrap_err().to_string();
                let denied = refused.contains("permission denied") || refused.contains("must be owner");
                assert!(denied, "{sql}: {refused}");
            }
        }
        for sql in [
            "select 1 from timeline.access_event",
            "select 1 from doorward.rollup_1m",
            "delete from doorward.high_water",
            "update doorward.high_water set gateway_id = 'x'",
            "insert into doorward.reader_scope values ('gateway', '*', '*')",
            "insert into doorward.schema_version values (99)",
            "update doorward.setting set value = '0 days'",
            "update doorward.legal_hold set released_us = 1",
            "delete from doorward.legal_hold",
            "insert into doorward.size_removal values ('-infinity')",
            "set role doorward_owner",
        ] {
            assert!(as_writer(sql).is_err(), "{sql}");
        }
        // Retention within the owner's floor removes nothing that is younger.
        assert_eq!(as_writer("select doorward.remove_days('infinity')").unwrap(), "0");
        // Whoever may everything is stopped by the triggers, until they are taken away.
        for sql in [
            "update doorward.access_event set outcome = 'denied'",
            "delete from doorward.access_event",
            "truncate doorward.access_event",
            "delete from doorward.high_water",
            "delete from doorward.log_tile; truncate doorward.checkpoint",
        ] {
            let refused = database.sql(sql).unwrap_err().to_string();
            assert!(refused.contains("records are never changed"), "{sql}: {refused}");
        }
        assert_eq!(count(&database, "doorward.access_event"), 1);
        assert!(facts(&server(&database)).unwrap().powers.is_empty());
    }
}

#[test]
fn whoever_fills_the_store_does_not_empty_it() {
    for cluster in clusters() {
        let database = cluster.database().unwrap();
        let tight = Retention { size: Some(doorward_settings::ByteSize::new(1)), ..Retention::default() };
        migrate(&database, &Migration { retention: Some(tight), ..usual() });
        let mut store = open(&database);
        let now = SystemClock.now().micros();
        let days = [0, 3, 5, 7, 9].into_iter().enumerate();
        let at = |(id, days): (usize, i64)| {
            access(id as u128 + 1, |set| set("ts", Value::Int(now - days * DAY_US)))
        };
        store.write(&batch(0, 0, days.map(at).collect())).unwrap();
        let as_writer = |sql: &str| cluster.sql_as("gateway", WRITER_PASSWORD, database.name(), sql).unwrap();
        // Whatever it asks for, the oldest day goes, and for an hour no other.
        for _ in 0..3 {
            as_writer("select doorward.remove_days('infinity')");
            as_writer("select doorward.remove_log('infinity')");
        }
        assert_eq!(count(&database, "doorward.access_event"), 4);
        database.sql("update doorward.size_removal set at = now() - interval '2 hours'").unwrap();
        as_writer("select doorward.remove_days('infinity')");
        assert_eq!(count(&database, "doorward.access_event"), 3);
    }
}

#[test]
fn whoever_reads_for_long_stops_no_writer() {
    let database = clusters()[0].database().unwrap();
    migrate(&database, &usual());
    let mut store = open(&database);
    let ahead = "doorward.access_event_p' || to_char((now() at time zone 'utc')::date + 7, 'YYYYMMDD')";
    database.sql(&format!("do $$ begin execute 'drop table {ahead}; end $$")).unwrap();
    let there = || database.sql(&format!("select to_regclass('{ahead}) is not null")).unwrap();
    let target = Target::parse(&database.url(), false).unwrap();
    let admin = login(SUPERUSER, database.cluster().password());
    let mut reader = Client::connect(&target, &admin, &Options::default()).unwrap();
    reader.batch("BEGIN; SELECT count(*) FROM doorward.access_event").unwrap();
    let (keep, started) = (Retention { age: None, size: None, ..Retention::default() }, Instant::now());
    store.retain(&keep, SystemClock.now().micros()).unwrap();
    store.write(&batch(0, 0, vec![plain(1)])).unwrap();
    assert!(started.elapsed() < STATEMENT_TIMEOUT / 4, "{:?}", started.elapsed());
    assert_eq!(there(), "f");
    reader.batch("COMMIT").unwrap();
    store.retain(&keep, SystemClock.now().micros()).unwrap();
    assert_eq!(there(), "t");
}

#[test]
fn readers_see_their_scopes_and_nothing_else() {
    for cluster in clusters() {
        let database = cluster.database().unwrap();
        migrate(&database, &usual());
        database.cluster().ensure_role("nobody", &format!("login password '{READER_PASSWORD}'")).unwrap();
        database.sql("grant doorward_reader to nobody").unwrap();
        let call = |id: u128, environment: &'static str, groups: &'static str| {
            access(id, |set| {
                set("environment", Value::Text(environment.into()));
                if !groups.is_empty() {
                    set("groups", Value::Json(groups.into()));
                }
            })
        };
        let calls = vec![
            call(1, "prod", r#"["blue","red"]"#),
            call(2, "prod", r#"["red"]"#),
            call(3, "test", r#"["blue"]"#),
            call(4, "test", ""),
            // JSON that is no list of groups is nobody's.
            call(5, "test", r#"{"blue":1}"#),
        ];
        open(&database).write(&batch(0, 0, calls)).unwrap();
        let seen = |user: &str| {
            let sql = "select coalesce(string_agg(right(access_id::text, 1), '' order by access_id), '') from timeline.access_event";
            cluster.sql_as(user, READER_PASSWORD, database.name(), sql).unwrap()
        };
        assert_eq!(seen("auditor"), "12345");
        assert_eq!(seen("prod_reader"), "12");
        assert_eq!(seen("team_reader"), "13");
        assert_eq!(seen("nobody"), "");
        let sums = |user: &str| {
            let sql = "select coalesce(sum(calls), 0) from timeline.traffic_1m";
            cluster.sql_as(user, READER_PASSWORD, database.name(), sql).unwrap()
        };
        assert_eq!((sums("auditor").as_str(), sums("prod_reader").as_str()), ("5", "2"));
        assert_eq!((sums("team_reader").as_str(), sums("nobody").as_str()), ("0", "0"));
        for user in ["auditor", "prod_reader", "nobody"] {
            for sql in [
                "select 1 from doorward.access_event",
                "select 1 from doorward.reader_scope",
                "insert into timeline.access_event (ts) values (now())",
                "select doorward.remove_days(now())",
            ] {
                assert!(
                    cluster.sql_as(user, READER_PASSWORD, database.name(), sql).is_err(),
                    "{user}: {sql}"
                );
            }
        }
        // A function of correct horse, cheap as it says, is not shown what the view leaves out.
        let leak = "create function pg_temp.leak(text) returns boolean language plpgsql cost 0.0000001
                    as $$ begin raise notice 'leaked %', $1; return true; end $$;
                    select count(*) from timeline.access_event where pg_temp.leak(environment)";
        let said = cluster.sql_as("prod_reader", READER_PASSWORD, database.name(), leak).unwrap();
        assert_eq!(said, "2");
    }
}

#[test]
fn a_row_that_is_refused_is_told_apart_from_a_schema_that_has_changed() {
    for cluster in clusters() {
        let database = cluster.database().unwrap();
        migrate(&database, &usual());
        let mut store = open(&database);
        let poison = |id, column: &'static str, value: Value<'static>| access(id, |set| set(column, value));
        for bad in [
            poison(1, "door", Value::Text("a\0b".into())),
            poison(2, "ext", Value::Json("no json".into())),
            poison(3, "ts", Value::Int(i64::MIN)),
        ] {
            let refused = store.write(&batch(0, 0, vec![plain(9), bad])).unwrap_err();
            assert!(matches!(refused, StoreError::Rejected(_)), "{refused}");
        }
        assert_eq!(count(&database, "doorward.access_event"), 0);
        store.write(&batch(0, 0, vec![plain(1)])).unwrap();

        for (change, undo, words) in [
            (
                "alter table doorward.access_event rename column door to gate",
                "alter table doorward.access_event rename column gate to door",
                vec!["no door text", "gate text, which"],
            ),
            (
                "alter table doorward.access_event add column mine int",
                "alter table doorward.access_event drop column mine",
                vec!["mine integer"],
            ),
            (
                "alter table doorward.access_event alter column status type int",
                "alter table doorward.access_event alter column status type bigint",
                vec!["status integer and not status bigint"],
            ),
            (
                "alter table doorward.high_water rename to low_water",
                "alter table doorward.low_water rename to high_water",
                vec!["doorward.high_water is missing"],
            ),
        ] {
            // Views stand in the way of some changes; who makes them takes the views away first.
            database
                .sql("drop schema timeline cascade; create schema timeline authorization doorward_owner")
                .unwrap();
            database.sql(change).unwrap();
            match PostgresStore::open(&server(&database)) {
                Err(StoreError::Schema(said)) => {
                    assert!(words.iter().all(|word| said.contains(word)), "{change}: {said}");
                }
                other => panic!("{change}: {other:?}"),
            }
            // One that is open calls no row refused because of it.
            let numbered = access(7, |set| set("status", Value::Int(200)));
            if !change.contains("add column") {
                let error = store.write(&batch(1, 1, vec![numbered])).unwrap_err();
                assert!(!matches!(error, StoreError::Rejected(_)), "{change}: {error}");
            }
            database.sql(undo).unwrap();
        }
    }
}

#[test]
fn records_from_any_time_are_kept_until_retention_takes_them() {
    for cluster in clusters() {
        let database = cluster.database().unwrap();
        migrate(&database, &usual());
        let mut store = open(&database);
        let now = SystemClock.now().micros();
        let at = |id: u128, days: i64| access(id, |set| set("ts", Value::Int(now + days * DAY_US)));
        store.write(&batch(0, 0, vec![at(1, 0)])).unwrap();
        // From before the first day that is laid out, and from after the last one; in one batch with today's.
        store.write(&batch(1, 1, vec![at(2, -400), at(3, 0), at(4, -12), at(5, 90)])).unwrap();
        assert_eq!(count(&database, "timeline.access_event"), 5);
        let ids = "select string_agg(right(access_id::text, 1), '' order by ts) from timeline.access_event
                   where leaf_hash is not null";
        assert_eq!(database.sql(ids).unwrap(), "24135");
        assert_eq!(database.sql("select sum(calls) from timeline.traffic_1m").unwrap(), "5");
        store.retain(&Retention::default(), now).unwrap();
        assert_eq!(database.sql("select sum(calls) from timeline.traffic_1d").unwrap(), "5");
        // A month is kept: what is a year old went, and whoever verifies is told up to when.
        assert_eq!(database.sql(ids).unwrap(), "4135");
        let told = format!("select max(before_us) > {} from doorward.retention_horizon", now - 400 * DAY_US);
        assert_eq!(database.sql(&told).unwrap(), "t");
        // Later ones of a day that went are taken as well.
        store.write(&batch(5, 5, vec![at(6, -400)])).unwrap();
        assert_eq!(database.sql(ids).unwrap(), "64135");
    }
}

#[test]
fn days_are_split_by_endpoint_where_it_is_asked_for() {
    let Some(cluster) = clusters().get(2) else { return };
    let database = cluster.database().unwrap();
    migrate(&database, &Migration { hash_partitions: Some(4), ..usual() });
    let partitions = "select num_partitions from timescaledb_information.dimensions
        where hypertable_name = 'access_event' and column_name = 'endpoint'";
    assert_eq!(database.sql(partitions).unwrap(), "4");
    let mut store = open(&database);
    // What failed before it had an endpoint has none.
    let mut calls = vec![plain(1)];
    calls.extend(
        (2..40).map(|id| access(id, |set| set("endpoint", Value::Text(format!("GET /{id}").into())))),
    );
    store.write(&batch(0, 0, calls)).unwrap();
    assert_eq!(count(&database, "timeline.access_event"), 39);
    assert_eq!(count(&database, "timeline.access_event where endpoint is null"), 1);
    let chunks = count(&database, "timescaledb_information.chunks where hypertable_name = 'access_event'");
    assert!(chunks >= 4, "{chunks}");
    // All chunks of a day go together.
    let removed = "update doorward.setting set value = '-3 days' where name = 'retention_floor';
        update doorward.retention set keep = '-3 days'; select doorward.remove_days('infinity')";
    database.sql(removed).unwrap();
    assert_eq!(count(&database, "timeline.access_event"), 0);
}
