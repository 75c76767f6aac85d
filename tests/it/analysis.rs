//! The same calls in every kind of store: questions, statistics and retention answer alike.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doorward_audit::Audit;
use doorward_audit::config::AuditConfig;
use doorward_audit::query::stats::{By, Question};
use doorward_audit::query::{Filter, Row, Timeline};
use doorward_audit::store::postgres::{Grantee, Migration, Migrator, Scope};
use doorward_audit::{render, retention};
use doorward_core::{
    AccessId, AccessRecord, Action, Actions, Arrival, FaultRecord, GrantName, IssuerName, Login, Object,
    Outcome, Personal, Principal, PrincipalKind, ResourceName, Secret, SystemClock, TaskRef, Timestamp, Verb,
};
use doorward_pgclient::Target;
use doorward_settings::Document;
use doorward_testkit::organs::{self, MemoryRecorder, Rules, Tokens};
use doorward_testkit::postgres::{Cluster, Database, SUPERUSER};
use serde_json::Value;
use tempfile::TempDir;

/// Calls that are recorded; a multiple of what they differ by.
const CALLS: u64 = 240;
/// 2026-11-20 00:00 UTC, when the first of them is made; one every 30 seconds.
const START: i64 = 1_795_132_800;
const PASSWORD: &str = "analysis-password";

fn login(user: &str, password: &str) -> Arc<Login> {
    Arc::new(Login::new(user, Secret::from(password.to_owned())))
}

/// Makes the schema, a writer and a reader, as `store migrate` does.
pub(crate) fn migrate(database: &Database<'_>, migration: Migration) -> Result<()> {
    let target = Target::parse(&database.url(), true)?;
    let mut migrator = Migrator::connect(&target, &login(SUPERUSER, database.cluster().password()))?;
    migrator.lock()?;
    let grantee = |user: &str| Grantee { user: user.into(), login: Some(login(user, PASSWORD)) };
    let migration = Migration {
        writers: vec![grantee("analysis_writer")],
        readers: vec![(grantee("analysis_reader"), Scope::default())],
        ..migration
    };
    for step in migrator.plan(&migration)? {
        migrator.run(&step).with_context(|| step.title.clone())?;
    }
    Ok(())
}

/// The password of [`migrate`]'s logins.
pub(crate) const READER: (&str, &str) = ("analysis_reader", PASSWORD);

fn config(store: &str, folder: &Path) -> Result<AuditConfig> {
    let yaml = format!(
        "store: {store}\nspool: {{ dir: spool, gateway_id: gw-1 }}\nretention: {{ age: 3650d, size: 1TiB, rollups: {{ 1m: 3650d, 15m: 3650d, 1d: 3650d }} }}\n"
    );
    let document = Document::parse("doorward.yaml", &yaml).map_err(|problem| anyhow::anyhow!("{problem}"))?;
    let config: AuditConfig =
        document.root().deserialize().map_err(|problem| anyhow::anyhow!("{problem}"))?;
    Ok(config.relative_to(folder))
}

fn postgres_config(database: &Database<'_>, folder: &Path) -> Result<AuditConfig> {
    let file = folder.join("password");
    std::fs::write(&file, PASSWORD)?;
    let (url, file) = (database.url().replace("://", "://analysis_writer@"), file.display());
    config(
        &format!(
            "{{ url: '{url}', password: 'file:{file}', reader: {{ user: analysis_reader, password: 'file:{file}' }} }}"
        ),
        folder,
    )
}

/// One call of many kinds, always the same for its number.
fn call(number: u64, template: &AccessRecord) -> AccessRecord {
    let mut record = template.clone();
    record.access_id = AccessId::from(uuid::Uuid::from_u128(u128::from(number)));
    record.ts = Timestamp::from_seconds(START + (number.cast_signed() - 1) * 30);
    record.principal = (!number.is_multiple_of(5)).then(|| {
        Arc::new(Principal {
            issuer: IssuerName::new("idp"),
            subject: Personal::from(format!("u-{}", number % 3)),
            kind: PrincipalKind::User,
            client_id: Some("spreadsheet".into()),
            ..Principal::public()
        })
    });
    let resource = ResourceName::new(if number.is_multiple_of(4) { "ledger" } else { "shop" });
    let action = |table| Action {
        verb: Verb::Read,
        resource: resource.clone(),
        object: Object::from_segments(["public", table]),
    };
    record.actions = match number % 6 {
        0 => Actions::new(vec![action("a"), action("b")]),
        _ => Some(Actions::one(action("items"))),
    };
    record.endpoint = Some(format!("GET /{}/{{table}}", resource.as_str()).into());
    record.rule = Some(GrantName::new("readers"));
    record.api_version = Some(format!("v{}", 1 + number / 120).into());
    (record.outcome, record.status) = match number % 10 {
        7 => (Outcome::Denied, Some(403)),
        8 => (Outcome::Limited, Some(429)),
        9 => (Outcome::Failed, Some(502)),
        _ => (Outcome::Allowed, Some(200)),
    };
    record.fault = (record.outcome == Outcome::Failed).then(|| FaultRecord {
        code: "forward.backend-down",
        side: "backend",
        public: "the backend does not answer".into(),
        cause: None,
    });
    record.limit_remaining = Some(100 - number % 50);
    record.cache_status = Some(if number.is_multiple_of(2) { "hit" } else { "miss" }.into());
    record.rows = Some(number);
    record.bytes_out = number * 100;
    record.duration_us = 1_000 + number * 10;
    record.task = number.is_multiple_of(8).then(|| {
        Box::new(TaskRef {
            dag_id: Some("nightly".into()),
            task_id: Some("load".into()),
            ..TaskRef::default()
        })
    });
    record
}

fn template() -> Result<AccessRecord> {
    let (tokens, rules, recorder) = (Tokens::new(), Rules::allow_all(), MemoryRecorder::new());
    let gateway =
        organs::gateway(organs::snapshot(&tokens, &rules, Vec::new()), &recorder, Arc::new(SystemClock));
    drop(gateway.open(Arrival { door: "rest", source_ip: Some([127, 0, 0, 1].into()), confidential: true }));
    recorder.records().pop().context("no record")
}

/// Records all calls through a gateway's audit organ, and opens the timeline that they are in.
fn recorded(config: &AuditConfig, template: &AccessRecord) -> Result<Timeline> {
    let audit = Audit::open(config)?;
    let recorder = audit.recorder();
    crate::bed::block_on(async {
        for number in 1..=CALLS {
            let slot = recorder.reserve().context("no room")?;
            ensure!(slot.complete(Box::new(call(number, template))).await.is_ok(), "not durable");
        }
        anyhow::Ok(())
    })??;
    ensure!(audit.shutdown(Duration::from_secs(60)), "not shipped: {:?}", audit.status());
    Ok(Timeline::connect(&config.store)?)
}

/// What two gateways write alike: not their starts, random ids, sealed values and hashes.
fn alike(rows: &[Row]) -> Vec<Value> {
    let mut rows: Vec<Value> = rows.iter().map(render::json).collect();
    for row in &mut rows {
        if let Some(row) = row.as_object_mut() {
            for own in ["epoch", "subject_id", "leaf_hash", "log_index", "seq"] {
                row.remove(own);
            }
            row.retain(|name, _| {
                !doorward_audit::columns::COLUMNS.iter().any(|c| c.name == name && c.personal)
            });
        }
    }
    rows
}

fn filters() -> Vec<Filter> {
    let some = |text: &str| Some(text.to_owned());
    let none = || Filter { limit: Some(1_000), ..Filter::default() };
    let at = |calls: i64| Some(Timestamp::from_seconds(START + calls * 30));
    vec![
        none(),
        Filter { limit: Some(7), ..none() },
        Filter { since: at(50), until: at(60), ..none() },
        Filter { resource: some("ledger"), outcome: some("denied"), ..none() },
        Filter { class: some("refused"), ..none() },
        Filter {
            source: some("gateway"),
            grant: some("readers"),
            verb: some("read"),
            door: some("rest"),
            ..none()
        },
        Filter { source: some("elsewhere"), ..none() },
        Filter { principal: some("spreadsheet"), ..none() },
        Filter { principal: some("' OR 1=1 --"), ..none() },
        Filter { access_id: Some(uuid::Uuid::from_u128(6)), ..none() },
    ]
}

/// All answers of one store, by what was asked.
fn answers(timeline: &Timeline) -> Result<BTreeMap<String, Value>> {
    let mut answers = BTreeMap::new();
    for filter in filters() {
        let rows = timeline.query(&filter)?;
        let mut streamed = Vec::new();
        let all = Filter { limit: None, ..filter.clone() };
        timeline.each(&all, &mut |row| {
            streamed.push(row);
            true
        })?;
        // The newest rows of an answer without a bound are the answer with one.
        ensure!(streamed.ends_with(&rows), "{filter:?}: streamed {} and {} rows", streamed.len(), rows.len());
        answers.insert(format!("{filter:?}"), alike(&rows).into());
    }
    let trace = timeline.trace(uuid::Uuid::from_u128(6))?;
    ensure!(trace.len() == 2, "{} rows of a call with two actions", trace.len());
    answers.insert("trace".to_owned(), alike(&trace).into());
    for by in By::ALL {
        for hours in [2, 100, 1_000] {
            let since = Timestamp::from_seconds(START);
            let until = Timestamp::from_seconds(START + hours * 3_600);
            let stats = timeline.stats(&Question { since, until, by, limit: 10 })?;
            ensure!(
                stats.total.calls == CALLS.cast_signed(),
                "{by:?}, {hours} h: {} calls",
                stats.total.calls
            );
            ensure!(render::stats(&stats).contains("latency"), "nothing drawn");
            let mut value = serde_json::to_value(&stats)?;
            strip_ids(&mut value, by == By::Principal);
            answers.insert(format!("stats by {by:?}, {hours} h"), value);
        }
    }
    Ok(answers)
}

/// Random ids, the order that they make, and the configuration of a test's own.
fn strip_ids(value: &mut Value, principals: bool) {
    for list in ["principals", "quotas", "groups"] {
        let Some(rows) = value[list].as_array_mut() else { continue };
        for row in rows.iter_mut() {
            if let Some(row) = row.as_object_mut() {
                row.remove("subject_id");
                if principals {
                    row.remove("name");
                }
            }
        }
        rows.sort_by_key(ToString::to_string);
    }
}

fn stores() -> Result<Vec<Cluster>> {
    let mut clusters = vec![Cluster::debian()?];
    clusters.extend(Cluster::timescale_if_possible()?);
    Ok(clusters)
}

#[test]
fn every_store_answers_the_same() -> Result<()> {
    let template = template()?;
    let folder = TempDir::new()?;
    let expected = answers(&recorded(&config("sqlite:audit.db", folder.path())?, &template)?)?;
    ensure!(expected.len() > 20);
    for cluster in stores()? {
        let database = cluster.database()?;
        migrate(&database, Migration::default())?;
        let folder = TempDir::new()?;
        let timeline = recorded(&postgres_config(&database, folder.path())?, &template)?;
        for (question, answer) in answers(&timeline)? {
            assert_eq!(Some(&answer), expected.get(&question), "{question}");
        }
        // Folding changes nothing of an answer.
        while database.sql("set role doorward_owner; select doorward.fold_rollups()")? == "t" {}
        ensure!(database.sql("select count(*) from doorward.rollup_part")? == "0");
        for (question, answer) in answers(&timeline)? {
            assert_eq!(Some(&answer), expected.get(&question), "folded: {question}");
        }
        let from = timeline.newest()?;
        ensure!(timeline.follow(&Filter::default(), &from)?.0.is_empty());
    }
    Ok(())
}

#[test]
fn who_may_not_read_is_told_what_to_do() -> Result<()> {
    let cluster = Cluster::debian()?;
    let database = cluster.database()?;
    let folder = TempDir::new()?;
    migrate(&database, Migration { to: Some(1), ..Migration::default() })?;
    let said = |config: &AuditConfig| {
        let timeline = Timeline::connect(&config.store)?;
        Ok::<_, anyhow::Error>(timeline.query(&Filter::default()).err().context("it was read")?.to_string())
    };
    let words = said(&postgres_config(&database, folder.path())?)?;
    ensure!(words.contains("store migrate") || words.contains("doorward_reader"), "{words}");
    migrate(&database, Migration::default())?;
    // The gateway's own login writes; it does not read.
    let (url, file) = (database.url().replace("://", "://analysis_writer@"), folder.path().join("password"));
    let writer = config(&format!("{{ url: '{url}', password: 'file:{}' }}", file.display()), folder.path())?;
    let words = said(&writer)?;
    ensure!(words.contains("doorward_reader") && words.contains("analysis_writer"), "{words}");
    Ok(())
}

#[test]
fn classes_expire_by_themselves_in_postgresql_and_holds_keep_what_they_cover() -> Result<()> {
    for cluster in stores()? {
        let database = cluster.database()?;
        let days =
            |count: u64| Some(doorward_settings::HumanDuration::new(Duration::from_secs(count * 86_400)));
        let mut keep = doorward_audit::config::Retention { age: days(30), size: None, ..Default::default() };
        keep.classes.imported = days(7);
        keep.classes.refused = days(3_650);
        migrate(&database, Migration { retention: Some(keep), ..Migration::default() })?;
        database.sql(
            "insert into doorward.access_event (ts, gateway_id, epoch, seq, access_id, action_index, action_count,
                 class, resource, subject_id)
             select now() - d * interval '1 day', 'gw', 1, d, gen_random_uuid(), 0, 1, c, 'shop',
                 case when d % 2 = 0 then 'aaaaaaaa-0000-4000-8000-000000000000'::uuid end
             from generate_series(0, 59) d, unnest(array['access', 'refused', 'admin', 'imported']) c;
             insert into doorward.legal_hold (hold_id, name, subject_id, created_us, created_by)
             values (gen_random_uuid(), 'matter', 'aaaaaaaa-0000-4000-8000-000000000000', 0, 'counsel')",
        )?;
        let as_writer = |sql: &str| cluster.sql_as("analysis_writer", PASSWORD, database.name(), sql);
        let of = |class: &str| {
            database.sql(&format!("select count(*) from doorward.access_event where class = '{class}'"))
        };
        as_writer("select doorward.expire_classes(array['imported'], now() - interval '7 days')")?;
        // Days 0 to 6 stay (day 7 is a moment older), and every second day of the rest is held.
        let held = (7..60).filter(|day| day % 2 == 0).count();
        assert_eq!(of("imported")?, (7 + held).to_string());
        assert_eq!(of("access")?, "60");
        let horizon = "select to_timestamp(before_us / 1000000.0) > now() - interval '7 days 1 hour'
            from doorward.retention_horizon where class = 'imported'";
        assert_eq!(database.sql(horizon)?, "t");
        // A gateway that was taken over asks for more than the owner allows.
        as_writer("select doorward.expire_classes(array['access'], now())")?;
        assert_eq!(of("access")?, (30 + (30..60).filter(|day| day % 2 == 0).count()).to_string());
        // Whole days stay as long as the class that is kept longest, but in a store that is too large.
        let all = "select count(*) from doorward.access_event";
        let before = database.sql(all)?;
        as_writer("select doorward.remove_days(now())")?;
        assert_eq!(database.sql(all)?, before);
        database.sql(
            "update doorward.legal_hold set released_us = 1; set role doorward_owner;
            insert into doorward.setting values ('size_max', '1')",
        )?;
        as_writer("select doorward.remove_days(now())")?;
        assert_ne!(database.sql(all)?, before);
        as_writer("select doorward.expire_rollups('1m', now())")?;
        for refused in ["delete from doorward.access_event", "delete from doorward.retention"] {
            assert!(as_writer(refused).is_err(), "{refused}");
        }
    }
    assert_eq!(retention::CLASSES.len(), 4);
    Ok(())
}
