//! The organ as a whole, on real files: what an operator and a reader of the timeline see.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward_core::{
    AccessId, AccessRecord, Action, Actions, FaultRecord, GrantName, Object, Outcome, Personal, Recorder,
    ResourceName, RoleName, Timestamp, Verb,
};
use doorward_settings::{ByteSize, HumanDuration};
use expect_test::{Expect, expect};
use uuid::Uuid;

use crate::config::{AuditConfig, Retention, StoreUrl};
use crate::personal::open::{Opener, Reader};
use crate::query::{Filter, Timeline};
use crate::spool::model::record;
use crate::store::sqlite::SqliteStore;
use crate::store::{Shrink, Store};
use crate::{Audit, AuditError, Status, render};

fn config(dir: &Path) -> AuditConfig {
    let mut config = AuditConfig::default().relative_to(dir);
    config.spool.gateway_id = Some("gw-1".to_owned());
    // The records of these tests have a fixed time.
    config.retention = Retention { age: None, size: None, ..Retention::default() };
    config
}

fn keep(recorder: &Arc<dyn Recorder>, record: Box<AccessRecord>) {
    let durable = recorder.reserve().expect("there is room").complete(record);
    wait_for(durable).expect("the record is durable");
}

fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Waits until the status is as hoped.
fn until(audit: &Audit, hoped: impl Fn(&Status) -> bool) -> Status {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let status = audit.status();
        if hoped(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn at(mut record: Box<AccessRecord>, id: u128) -> Box<AccessRecord> {
    record.access_id = AccessId::from(Uuid::from_u128(id));
    record.source_ip = Some(Personal::new("10.1.2.3".parse().unwrap()));
    record
}

#[test]
fn a_record_comes_to_the_timeline_promptly() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::open(&config(dir.path())).unwrap();
    let started = Instant::now();
    keep(&audit.recorder(), record());
    until(&audit, |status| status.shipped_total == 1);
    assert!(started.elapsed() < Duration::from_secs(30));
    assert!(audit.shutdown(Duration::from_secs(60)));
    let rows = Timeline::open(&dir.path().join("data/audit.db")).unwrap().query(&Filter::default()).unwrap();
    assert_eq!(rows.len(), 1);
    // The person's id is random, and kept elsewhere.
    let id = rows[0].text("subject_id").unwrap().to_owned();
    assert_eq!(Uuid::parse_str(&id).unwrap().get_version_num(), 4);
    let ids = Opener::open(&config(dir.path())).unwrap().ids("u-17").unwrap();
    assert_eq!(ids, [Uuid::parse_str(&id).unwrap()]);
    let subjects = std::fs::read(dir.path().join("data/subjects.db")).unwrap();
    assert!(!subjects.windows(4).any(|window| window == b"u-17" || window == b"corp"));
}

#[cfg(unix)]
#[test]
fn files_are_for_the_gateways_own_eyes() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let audit = Audit::open(&config(dir.path())).unwrap();
    keep(&audit.recorder(), record());
    until(&audit, |status| status.shipped_total == 1);
    let mut files = Vec::new();
    for folder in ["data", "data/spool"] {
        files.extend(std::fs::read_dir(dir.path().join(folder)).unwrap().map(|entry| entry.unwrap().path()));
    }
    assert!(files.len() > 4, "{files:?}");
    for path in files {
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} {mode:o}", path.display());
    }
}

#[test]
fn a_second_gateway_on_the_same_spool_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = Audit::open(&config(dir.path())).unwrap();
    let error = Audit::open(&config(dir.path())).unwrap_err();
    assert!(matches!(error, AuditError::InUse(_)), "{error}");
    assert!(error.to_string().contains("spool.dir"), "{error}");
    drop(first);
    Audit::open(&config(dir.path())).unwrap();
}

#[test]
fn a_gateway_that_is_killed_leaves_everything_that_was_durable() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut stopped = config(dir.path());
    stopped.drain_disabled = true;
    let audit = Audit::open(&stopped).unwrap();
    let recorder = audit.recorder();
    for _ in 0..50 {
        keep(&recorder, record());
    }
    let mut dying = recorder.reserve().unwrap();
    wait_for(dying.intent(&record())).unwrap();
    // What another process would find if this one ended here.
    copy_files(&dir.path().join("data/spool"), &copy.path().join("data/spool"));
    let after = Audit::open(&config(copy.path())).unwrap();
    assert!(after.status().epoch > audit.status().epoch);
    until(&after, |status| status.shipped_total == 51);
    let timeline = Timeline::open(&copy.path().join("data/audit.db")).unwrap();
    let unknown = Filter { outcome: Some("unknown".to_owned()), ..Filter::default() };
    assert_eq!(timeline.query(&unknown).unwrap().len(), 1);
    assert_eq!(timeline.query(&Filter::default()).unwrap().len(), 51);
}

#[test]
fn a_crash_between_commit_and_deletion_ships_nothing_twice() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut stopped = config(dir.path());
    stopped.drain_disabled = true;
    let audit = Audit::open(&stopped).unwrap();
    for _ in 0..20 {
        keep(&audit.recorder(), record());
    }
    drop(audit);
    copy_files(&dir.path().join("data/spool"), &copy.path().join("spool"));
    let audit = Audit::open(&config(dir.path())).unwrap();
    until(&audit, |status| status.shipped_total == 20);
    drop(audit);
    // The segments are back, as if their deletion had not come to the disk.
    copy_files(&copy.path().join("spool"), &dir.path().join("data/spool"));
    let audit = Audit::open(&config(dir.path())).unwrap();
    keep(&audit.recorder(), record());
    until(&audit, |status| status.shipped_total == 1);
    let timeline = Timeline::open(&dir.path().join("data/audit.db")).unwrap();
    assert_eq!(timeline.query(&Filter::default()).unwrap().len(), 21);
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name != "epoch" || !to.join(&name).exists() {
            std::fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

#[test]
fn a_store_of_another_shape_leaves_records_in_the_spool_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    drop(SqliteStore::open(config.store.path().unwrap()).unwrap());
    let store = rusqlite::Connection::open(config.store.path().unwrap()).unwrap();
    store.execute_batch("ALTER TABLE access_event RENAME COLUMN verb TO deed").unwrap();
    let audit = Audit::open(&config).unwrap();
    keep(&audit.recorder(), record());
    let status = until(&audit, |status| status.store_error.is_some());
    expect!["the store's schema is not the one that this version writes: missing [verb], unknown [deed]"]
        .assert_eq(status.store_error.as_deref().unwrap());
    assert_eq!((status.state, status.shipped_total), (crate::State::Ready, 0));
    // Mended, it takes what has waited.
    store.execute_batch("ALTER TABLE access_event RENAME COLUMN deed TO verb").unwrap();
    let status = until(&audit, |status| status.shipped_total == 1);
    assert_eq!(status.store_error, None);
}

#[test]
fn a_store_of_the_first_version_is_upgraded_in_place() {
    use crate::columns::{COLUMNS, Type};
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let old = rusqlite::Connection::open(config.store.path().unwrap()).unwrap();
    let first = |name: &str| crate::leaf::number(name).is_some_and(|n| n <= crate::leaf::NUMBER_MAX_V1);
    let columns: Vec<String> = COLUMNS
        .iter()
        .filter(|column| first(column.name))
        .map(|column| {
            let ty = if matches!(column.ty, Type::Time | Type::Int) { "INTEGER" } else { "TEXT" };
            format!("\"{}\" {ty}", column.name)
        })
        .collect();
    old.execute_batch(&format!(
        "CREATE TABLE access_event ({});
         INSERT INTO access_event (ts, gateway_id, epoch, seq, access_id)
         VALUES (1, 'gw-1', 1, 2, '00000000-0000-0000-0000-000000000001');
         CREATE TABLE high_water (
             gateway_id TEXT NOT NULL, epoch INTEGER NOT NULL, last_seq INTEGER NOT NULL,
             PRIMARY KEY (gateway_id, epoch)) WITHOUT ROWID;
         INSERT INTO high_water VALUES ('gw-1', 1, 2);
         CREATE TABLE audit_gap (
             from_us INTEGER NOT NULL, until_us INTEGER NOT NULL, gateway_id TEXT NOT NULL,
             epoch INTEGER NOT NULL, seq INTEGER NOT NULL, lost INTEGER NOT NULL, reason TEXT NOT NULL)",
        columns.join(", ")
    ))
    .unwrap();
    drop(old);
    for _ in 0..2 {
        let audit = Audit::open(&config).unwrap();
        keep(&audit.recorder(), record());
        until(&audit, |status| status.shipped_total == 1);
    }
    let rows = Timeline::open(config.store.path().unwrap()).unwrap().query(&Filter::default()).unwrap();
    let rows = Reader::new(&config).rows(&rows);
    let versions: Vec<_> = rows.iter().map(|row| row.int("schema_version")).collect();
    assert_eq!(versions, [None, Some(2), Some(2)]);
    assert_eq!(rows[0].int("log_index"), None);
    // Of the time before the log there may be some in such a file, and in no other.
    use crate::log::verify::{Scope, SqliteEvidence, check};
    let mut evidence = SqliteEvidence::open(config.store.path().unwrap()).unwrap();
    assert_eq!(check(&mut evidence, &Scope::default()).unwrap().summary.before_log, 1);
}

#[test]
fn two_gateways_of_one_name_do_not_overwrite_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let audit = Audit::open(&config).unwrap();
    keep(&audit.recorder(), record());
    let status = until(&audit, |status| status.shipped_total == 1);
    let store = rusqlite::Connection::open(config.store.path().unwrap()).unwrap();
    store.execute("UPDATE high_water SET last_seq = last_seq + 5", []).unwrap();
    keep(&audit.recorder(), record());
    let status = until(&audit, |now| now.store_error.is_some() || now.shipped_seq > status.shipped_seq);
    assert!(status.store_error.unwrap().contains("another gateway uses the same gateway_id"));
}

#[test]
fn retention_removes_what_is_old_and_what_is_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let audit = Audit::open(&config).unwrap();
    let recorder = audit.recorder();
    let day = |day: i64| Timestamp::from_seconds(86_400 * day);
    let mut durables = Vec::new();
    for number in 0..3_000 {
        let mut record = record();
        record.ts = day(number / 100);
        durables.push(recorder.reserve().unwrap().complete(record));
    }
    until(&audit, |status| status.shipped_total == 3_000);
    audit.shutdown(Duration::from_secs(60));
    let mut store = SqliteStore::open(config.store.path().unwrap()).unwrap();
    let timeline = Timeline::open(config.store.path().unwrap()).unwrap();
    let all = Filter { limit: Some(10_000), ..Filter::default() };
    let age = HumanDuration::new(Duration::from_secs(86_400 * 10));
    let by_age = Retention { age: Some(age), size: None, ..Retention::default() };
    while store.retain(&by_age, day(30).micros()).unwrap() {}
    let rows = timeline.query(&all).unwrap();
    assert_eq!(rows.len(), 1_000);
    assert_eq!(rows[0].int("ts"), Some(day(20).micros()));
    let by_size = Retention { age: None, size: Some(ByteSize::new(1 << 20)), ..Retention::default() };
    while store.shrink(by_size.size.unwrap().get(), Some(i64::MAX)).unwrap() == Shrink::Removed {}
    assert!(timeline.query(&all).unwrap().len() < 3_000);
}

#[test]
fn rows_are_found_by_what_people_ask_for() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let audit = Audit::open(&config).unwrap();
    let recorder = audit.recorder();
    keep(&recorder, at(record(), 1));
    let mut write = at(record(), 2);
    write.ts = Timestamp::from_seconds(1_795_000_100);
    write.outcome = Outcome::Denied;
    write.principal = None;
    let action = |table| Action {
        verb: Verb::Write,
        resource: ResourceName::new("ledger"),
        object: Object::from_segments(["public", table]),
    };
    write.actions = Actions::new(vec![action("a"), action("b")]);
    keep(&recorder, write);
    let timeline = Timeline::open(config.store.path().unwrap());
    until(&audit, |status| status.shipped_total == 2);
    let timeline = timeline.or_else(|_| Timeline::open(config.store.path().unwrap())).unwrap();

    let check = |filter: Filter, expected: &[u128]| {
        let filter = Reader::new(&config).filter(filter).unwrap();
        let rows = timeline.query(&filter).unwrap();
        let ids: Vec<u128> = rows
            .iter()
            .map(|row| Uuid::parse_str(row.text("access_id").unwrap()).unwrap().as_u128())
            .collect();
        assert_eq!(ids, expected, "{filter:?}");
    };
    let none = Filter::default;
    let some = |text: &str| Some(text.to_owned());
    check(none(), &[1, 2, 2]);
    check(Filter { limit: Some(1), ..none() }, &[2]);
    check(Filter { since: Some(Timestamp::from_seconds(1_795_000_050)), ..none() }, &[2, 2]);
    check(Filter { until: Some(Timestamp::from_seconds(1_795_000_050)), ..none() }, &[1]);
    check(Filter { principal: some("analyst@corp.example"), ..none() }, &[1]);
    check(Filter { principal: some("u-17"), ..none() }, &[1]);
    check(Filter { principal: some("' OR 1=1 --"), ..none() }, &[]);
    check(Filter { resource: some("ledger"), ..none() }, &[2, 2]);
    check(Filter { verb: some("read"), ..none() }, &[1]);
    check(Filter { outcome: some("denied"), door: some("rest"), ..none() }, &[2, 2]);
    check(Filter { access_id: Some(Uuid::from_u128(1)), ..none() }, &[1]);

    let rows = timeline.trace(Uuid::from_u128(2)).unwrap();
    let actions: Vec<_> = rows.iter().map(|row| (row.int("action_index"), row.int("action_count"))).collect();
    assert_eq!(actions, [(Some(0), Some(2)), (Some(1), Some(2))]);

    let from = timeline.newest().unwrap();
    assert_eq!(timeline.follow(&none(), &from).unwrap(), (vec![], from.clone()));
    keep(&recorder, at(record(), 3));
    until(&audit, |status| status.shipped_total == 3);
    let (rows, after) = timeline.follow(&none(), &from).unwrap();
    assert_eq!(rows.len(), 1);
    assert_ne!(after, from);
}

#[test]
fn what_was_lost_stands_in_the_timeline() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let audit = Audit::open(&config).unwrap();
    audit.recorder().lost(&record());
    audit.recorder().lost(&record());
    keep(&audit.recorder(), record());
    let status = until(&audit, |status| status.shipped_total == 1);
    assert_eq!(status.lost_total, 2);
    let timeline = Timeline::open(config.store.path().unwrap()).unwrap();
    let gaps = timeline.gaps(&Filter::default()).unwrap();
    assert_eq!(gaps.iter().map(|gap| gap.lost).sum::<u64>(), 2);
    assert!(render::gap(&gaps[0]).contains("lost by gw-1"));
    let before = Filter { until: Some(Timestamp::from_seconds(1_700_000_000)), ..Filter::default() };
    assert_eq!(timeline.gaps(&before).unwrap(), []);
}

fn story(record: Box<AccessRecord>, expected: Expect) {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let audit = Audit::open(&config).unwrap();
    let id = Uuid::from_bytes(*record.access_id.as_bytes());
    keep(&audit.recorder(), record);
    until(&audit, |status| status.shipped_total == 1);
    let rows = Timeline::open(config.store.path().unwrap()).unwrap().trace(id).unwrap();
    let rows = Reader::new(&config).rows(&rows);
    expected.assert_eq(&render::trace(&rows));
}

#[test]
fn the_story_of_a_read() {
    let mut read = at(record(), 17);
    read.rule = Some(GrantName::new("analysts"));
    read.backend_role = Some(RoleName::new("analyst"));
    read.limit_remaining = Some(41);
    story(
        read,
        expect![[r#"
        00000000-0000-0000-0000-000000000011  allowed  2026-11-18T11:06:40.000000Z

          who         analyst@corp.example (user, corp, jwt) from 10.1.2.3
          what        read shop/public/orders
          through     rest: GET /shop/{table}
          decided by  rule analysts, role analyst, 41 calls left, configuration sha256:0123456789abcdef
          result      status 200, 1 rows, 0 bytes in, 120 bytes out
          trace       07070707070707070707070707070707

          total            900 µs
    "#]],
    );
}

#[test]
fn the_story_of_an_expired_token() {
    let mut refused = at(record(), 18);
    refused.principal = None;
    refused.actions = None;
    refused.outcome = Outcome::Denied;
    refused.status = Some(401);
    refused.fault = Some(FaultRecord {
        code: "authenticate.token-expired",
        side: "client",
        public: "the token has expired".into(),
        cause: Some("exp 1794999000 is before 1795000000".into()),
    });
    story(
        refused,
        expect![[r#"
        00000000-0000-0000-0000-000000000012  denied  2026-11-18T11:06:40.000000Z

          who         - from 10.1.2.3
          what        GET /shop/{table}
          through     rest: GET /shop/{table}
          decided by  configuration sha256:0123456789abcdef
          result      status 401, 1 rows, 0 bytes in, 120 bytes out
          trace       07070707070707070707070707070707

          total            900 µs

        Refused at stage authenticate (authenticate.token-expired), on the caller's side.
        What failed: token expired.
        The caller was told: the token has expired
        The cause: exp 1794999000 is before 1795000000
        Next: `doorward check` shows the issuers; compare them with the token's `iss`, `aud` and `exp`.
    "#]],
    );
}

#[test]
fn the_story_of_a_missing_grant() {
    let mut refused = at(record(), 19);
    refused.outcome = Outcome::Denied;
    refused.status = Some(403);
    refused.rows = None;
    refused.fault = Some(FaultRecord {
        code: "authorize.no-grant",
        side: "client",
        public: "no grant allows read shop/public/orders".into(),
        cause: None,
    });
    story(
        refused,
        expect![[r#"
        00000000-0000-0000-0000-000000000013  denied  2026-11-18T11:06:40.000000Z

          who         analyst@corp.example (user, corp, jwt) from 10.1.2.3
          what        read shop/public/orders
          through     rest: GET /shop/{table}
          decided by  configuration sha256:0123456789abcdef
          result      status 403, 0 bytes in, 120 bytes out
          trace       07070707070707070707070707070707

          total            900 µs

        Refused at stage authorize (authorize.no-grant), on the caller's side.
        What failed: no grant.
        The caller was told: no grant allows read shop/public/orders
        No grant allows all actions of this call. Next: `doorward explain --as analyst@corp.example --groups analysts read shop/public/orders`
    "#]],
    );
}

#[test]
fn a_record_does_not_steer_the_terminal() {
    let mut hostile = at(record(), 20);
    hostile.actions = None;
    hostile.endpoint = Some("\u{1b}]0;owned\u{7}\r\nallowed\u{202e}".into());
    hostile.user_agent = Some("\u{1b}[2J".into());
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let audit = Audit::open(&config).unwrap();
    keep(&audit.recorder(), hostile);
    until(&audit, |status| status.shipped_total == 1);
    let rows = Timeline::open(config.store.path().unwrap()).unwrap().query(&Filter::default()).unwrap();
    let rows = Reader::new(&config).rows(&rows);
    for text in
        [render::table(&rows, &[]), render::trace(&rows), render::json_lines(&rows), render::follow(&rows)]
    {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
    assert!(!render::table(&rows, &[]).contains('\u{202e}'));
}

#[test]
fn rows_for_machines_and_for_people() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let audit = Audit::open(&config).unwrap();
    keep(&audit.recorder(), at(record(), 21));
    until(&audit, |status| status.shipped_total == 1);
    let rows = Timeline::open(config.store.path().unwrap()).unwrap().query(&Filter::default()).unwrap();
    let rows = Reader::new(&config).rows(&rows);
    expect![[r#"
        TIME                         OUTCOME  WHO                   ACTION                   STATUS  ROWS  TOOK    WHY  ACCESS ID
        2026-11-18T11:06:40.000000Z  allowed  analyst@corp.example  read shop/public/orders  200     1     900 µs  -    00000000-0000-0000-0000-000000000015
    "#]].assert_eq(&render::table(&rows, &[]));
    let mut line = render::json(&rows[0]);
    for changing in ["epoch", "subject_id", "leaf_hash"] {
        line[changing] = "…".into();
    }
    expect![[r#"
        {
          "ts": "2026-11-18T11:06:40.000000Z",
          "gateway_id": "gw-1",
          "epoch": "…",
          "seq": 2,
          "access_id": "00000000-0000-0000-0000-000000000015",
          "action_index": 0,
          "action_count": 1,
          "schema_version": 2,
          "source": "gateway",
          "class": "access",
          "environment": "test",
          "subject_id": "…",
          "principal_issuer": "corp",
          "principal_subject": "u-17",
          "principal_email": "analyst@corp.example",
          "principal_kind": "user",
          "groups": [
            "analysts"
          ],
          "claims": {
            "sub": "u-17"
          },
          "auth_method": "jwt",
          "source_ip": "10.1.2.3",
          "door": "rest",
          "verb": "read",
          "resource": "shop",
          "object": "public/orders",
          "endpoint": "GET /shop/{table}",
          "outcome": "allowed",
          "config_digest": "sha256:0123456789abcdef",
          "status": 200,
          "rows": 1,
          "bytes_in": 0,
          "bytes_out": 120,
          "duration_us": 900,
          "trace_id": "07070707070707070707070707070707",
          "span_id": "0303030303030303",
          "log_index": 1,
          "leaf_hash": "…"
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&line).unwrap());
}

#[test]
fn configurations_are_read_strictly() {
    let check = |text: &str, expected: Expect| {
        let document = doorward_settings::Document::parse("doorward.yaml", text).unwrap();
        let said = match document.root().deserialize::<AuditConfig>() {
            Ok(config) => match config.problem() {
                Some((key, text)) => format!("{key}: {text}"),
                None => format!("{} {}", config.store.path().unwrap().display(), config.spool.size_max),
            },
            Err(problem) => problem.message.clone(),
        };
        expected.assert_eq(&said);
    };
    check("store: sqlite:x/y.db", expect!["x/y.db 4GiB"]);
    check(
        "store: postgres://db/audit",
        expect![
            "the URL names no user; write postgres://USER@HOST/DATABASE, with a login that is a member of doorward_writer"
        ],
    );
    check(
        "store: mysql://db",
        expect![
            "expected `sqlite:PATH`, `postgres://USER@HOST/DATABASE`, or a mapping with `url` and `password`"
        ],
    );
    check(
        "store: 'sqlite:'",
        expect![
            "expected `sqlite:PATH`, `postgres://USER@HOST/DATABASE`, or a mapping with `url` and `password`"
        ],
    );
    check("spool: { size_max: 1MiB }", expect!["spool.size_max: the spool needs at least 16MiB"]);
    check(
        "spool: { commit_delay: 5s }",
        expect!["spool.commit_delay: callers wait for it, so it is at most 1s"],
    );
    check(
        "spool: { gateway_id: 'a b' }",
        expect!["spool.gateway_id: 1 to 64 letters, digits, `-`, `_` and `.` are expected"],
    );
    check("spool: { sise_max: 1GiB }", expect!["unknown key"]);
    check("retention: { age: soon }", expect!["expected a duration such as 500ms, 30s, 15m, 1h30m or 1d"]);
    assert_eq!(StoreUrl::parse("sqlite:a/b.db").unwrap().subjects_path(), Path::new("a/subjects.db"));
}
