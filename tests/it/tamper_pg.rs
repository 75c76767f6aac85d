//! Somebody with the database's superuser in their hands: triggers, rights and views do not stop them, and whatever
//! they do to the timeline is found, and named. On PostgreSQL 15 and, where it can be had, on TimescaleDB.

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::Setup;
use doorward_testkit::postgres::{Cluster, Database};
use doorward_testkit::wait_until;
use serde_json::Value;

use crate::bed::{Bed, GRANTS, SHOP, SOON};
use crate::proof;

const CALLS: usize = 12;
const WRITER_PASSWORD: &str = "s3cret-of-the-stores-writer";
const READER_PASSWORD: &str = "s3cret-of-the-stores-reader";
/// The configuration's file, in the folder in which commands are run.
const CONFIG: &str = "doorward.yaml";
/// What an attacker may touch, and what is put back after each attack.
const TABLES: [&str; 7] =
    ["access_event", "high_water", "checkpoint", "log_tile", "log_note", "audit_gap", "dead_letter"];

/// A gateway that was killed once, so that there are two epochs, with checkpoints in the store and in a directory.
struct Scene<'c> {
    bed: Bed,
    store: Database<'c>,
    ids: Vec<String>,
    vkey: String,
    dir: tempfile::TempDir,
}

impl<'c> Scene<'c> {
    fn play(cluster: &'c Cluster) -> Result<Self> {
        let (store, dir) = (cluster.database()?, tempfile::tempdir()?);
        let sections = format!(
            "{GRANTS}
store:
  url: {}
  password: env:STORE_PASSWORD
  reader: {{ user: dw_reader, password: env:READER_PASSWORD }}
checkpoints: {{ interval: 200ms, to: ['file:{}'] }}
",
            store.url().replace("postgres://", "postgres://dw_gateway@"),
            dir.path().join("outside").display()
        );
        let mut bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
            let setup = Setup::new(&format!("{config}{sections}"))?
                .env("STORE_PASSWORD", WRITER_PASSWORD)
                .env("READER_PASSWORD", READER_PASSWORD)
                .env("DOORWARD_ADMIN_PASSWORD", cluster.password())
                .env("SHOP_PASSWORD", crate::bed::PASSWORD);
            let done = setup.run(&["store", "migrate", "--create-logins"])?;
            ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            Ok(setup)
        })?;
        let mut ids = proof::call(&bed, CALLS)?;
        bed.gateway.kill9()?;
        bed.gateway.again()?;
        ids.extend(proof::call(&bed, CALLS)?);
        // The store has its rows a moment before the checkpoint that counts them.
        let behind = "select exists (select from doorward.high_water h where next_leaf >
                      (select coalesce(max(size), 0) from doorward.checkpoint c where c.epoch = h.epoch))";
        let signed = wait_until(SOON, || store.sql(behind).is_ok_and(|behind| behind == "f"));
        ensure!(signed, "the checkpoints do not come; {}", bed.gateway.log());
        let vkey = proof::vkey(&bed)?;
        Ok(Self { bed, store, ids, vkey, dir })
    }

    fn whole(&self) -> Result<()> {
        proof::whole(&self.bed, &self.vkey, self.ids.len())
    }

    /// Keeps what the store has, for [`Self::put_back`].
    fn keep(&self) -> Result<()> {
        let copies: Vec<String> = TABLES
            .iter()
            .map(|table| format!("create table kept.{table} as select * from doorward.{table};"))
            .collect();
        self.store.sql(&format!("create schema kept; {}", copies.concat())).map(drop)
    }

    fn put_back(&self) -> Result<()> {
        let copies: Vec<String> = TABLES
            .iter()
            .map(|table| {
                format!(
                    "delete from doorward.{table}; insert into doorward.{table} select * from kept.{table};"
                )
            })
            .collect();
        let sql = format!(
            "select doorward.maintain(); set session_replication_role = replica; {}",
            copies.concat()
        );
        self.store.sql(&sql).map(drop)
    }

    /// Does something to the store with all guards off, expects these findings and no other kind, and puts the store
    /// back.
    fn attack(&self, name: &str, sql: &str, expected: &[&str]) -> Result<Vec<Value>> {
        self.attack_with(name, sql, &[], expected)
    }

    fn attack_with(&self, name: &str, sql: &str, args: &[&str], expected: &[&str]) -> Result<Vec<Value>> {
        self.store
            .sql(&format!("set session_replication_role = replica; {sql}"))
            .with_context(|| name.to_owned())?;
        let found = proof::find(&self.bed, &self.vkey, args, expected).with_context(|| name.to_owned())?;
        self.put_back().with_context(|| name.to_owned())?;
        Ok(found)
    }
}

fn on_every_server(test: impl Fn(&Cluster) -> Result<()>) -> Result<()> {
    test(&Cluster::debian()?)?;
    match Cluster::timescale_if_possible()? {
        Some(cluster) => test(&cluster),
        None => Ok(()),
    }
}

#[test]
fn whoever_holds_the_database_is_found_out() -> Result<()> {
    on_every_server(|cluster| {
        let scene = Scene::play(cluster)?;
        scene.whole()?;
        refusals(&scene)?;
        scene.keep()?;
        values(&scene)?;
        rows(&scene)?;
        forgeries(&scene)?;
        history(&scene)?;
        scene.whole()
    })
}

/// Nobody but a superuser gets as far as that.
fn refusals(scene: &Scene<'_>) -> Result<()> {
    for sql in ["delete from doorward.access_event", "update doorward.access_event set outcome = 'denied'"] {
        let refused = scene.store.sql(sql).err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(refused.contains("records are never changed"), "{sql}: {refused}");
    }
    Ok(())
}

fn of(scene: &Scene<'_>, place: usize) -> String {
    format!("access_id = '{}'", scene.ids[place])
}

fn values(scene: &Scene<'_>) -> Result<()> {
    let third = of(scene, 3);
    let named = |found: &[Value]| found.len() == 1 && found[0]["access_id"] == *scene.ids[3];
    for (name, change) in [
        ("a text", "outcome = 'denied'"),
        ("a number", "rows = 7"),
        ("a value is taken away", "duration_us = NULL"),
        ("JSON that means the same", "groups = (groups::text || ' ')::json"),
        ("the time, by a microsecond", "ts = ts + interval '1 microsecond'"),
        ("the id of the leaf's hash alone", "leaf_hash = decode(repeat('00', 32), 'hex')"),
        ("a hash that is none", "leaf_hash = 'x'"),
        ("a hash that is gone", "leaf_hash = NULL"),
    ] {
        let sql = format!("update doorward.access_event set {change} where {third}");
        let found = scene.attack(name, &sql, &["changed"])?;
        ensure!(named(&found), "{name}: {found:?}");
    }
    let sql = format!("update doorward.access_event set access_id = gen_random_uuid() where {third}");
    scene.attack("an id", &sql, &["changed"])?;
    Ok(())
}

fn rows(scene: &Scene<'_>) -> Result<()> {
    let (third, fifth, last) = (of(scene, 3), of(scene, 5), of(scene, scene.ids.len() - 1));
    let sql = format!("delete from doorward.access_event where {third}");
    let found = scene.attack("a row is deleted", &sql, &["missing"])?;
    ensure!(found[0]["first"] == found[0]["last"] && found[0]["after"].is_string(), "{found:?}");

    let sql = format!("delete from doorward.access_event where {last}");
    scene.attack("the newest row is deleted", &sql, &["truncated"])?;
    let sql = format!(
        "create temp table cut as select gateway_id, epoch, log_index from doorward.access_event where {last};
         delete from doorward.access_event where {last};
         delete from doorward.checkpoint c using cut where cut.epoch = c.epoch and size > cut.log_index;
         delete from doorward.log_tile t using cut where cut.epoch = t.epoch;
         update doorward.high_water h set next_leaf = cut.log_index from cut where cut.epoch = h.epoch"
    );
    scene.attack("the newest row is deleted, and every trace of it in the store", &sql, &["truncated"])?;

    let sql = format!(
        "create temp table pair as select access_id, log_index, leaf_hash from doorward.access_event
             where {third} or {fifth};
         update doorward.access_event e set log_index = p.log_index, leaf_hash = p.leaf_hash
             from pair p where e.access_id in (select access_id from pair) and p.access_id <> e.access_id"
    );
    let found = scene.attack("two rows are swapped", &sql, &["reordered"])?;
    ensure!(found.len() == 2, "{found:?}");

    let hypertable =
        scene.store.sql("select value from doorward.setting where name = 'layout'")? == "hypertable";
    let sql = match hypertable {
        true => "select public.drop_chunks('doorward.access_event', older_than => now() + interval '8 days')"
            .to_owned(),
        false => {
            let day = "select tableoid::regclass from doorward.access_event limit 1";
            format!("drop table {}", scene.store.sql(day)?)
        }
    };
    let found = scene.attack("the day's chunk is dropped", &sql, &["truncated"])?;
    ensure!(found.len() == 2, "of both epochs: {found:?}");
    Ok(())
}

fn forgeries(scene: &Scene<'_>) -> Result<()> {
    let last = of(scene, scene.ids.len() - 1);
    let forged = |changes: &str| {
        format!(
            "create temp table forged as select * from doorward.access_event where {last};
             update forged set access_id = gen_random_uuid(), {changes};
             insert into doorward.access_event select * from forged"
        )
    };
    scene.attack("a forged row takes a place that is taken", &forged("rows = 1"), &["duplicated"])?;
    scene.attack("a forged row has no place", &forged("log_index = NULL"), &["inserted"])?;
    scene.attack("a forged row of a start that never was", &forged("epoch = 7"), &["inserted"])?;
    scene.attack("a forged row of another gateway", &forged("gateway_id = 'other'"), &["inserted"])?;
    scene.attack("a forged row at the end of time", &forged("ts = 'infinity'"), &["duplicated"])?;
    let sql = format!(
        "insert into doorward.audit_gap select 1, 2, gateway_id, epoch, seq, 5, 'nothing to see here', log_index
         from doorward.access_event where {last}"
    );
    scene.attack("a forged gap", &sql, &["duplicated"])?;
    let sql =
        "insert into doorward.log_note select gateway_id, epoch, log_index, kind, body || ' ', leaf_hash
               from doorward.log_note";
    scene.attack("forged notes beside the true ones", sql, &["chain-broken", "duplicated"])?;

    // One row is written over another one, with its leaf and the tile: only what was signed tells.
    let (one, other) = (of(scene, 3), of(scene, 5));
    let places = "create temp table pair as select a.log_index as there, b.* from doorward.access_event a,
                  doorward.access_event b";
    let sql = format!(
        "{places} where a.{one} and b.{other};
         delete from doorward.access_event where {one};
         update pair set log_index = there;
         update doorward.log_tile t set hashes = overlay(hashes placing leaf_hash from (32 * there + 1)::int)
             from pair where t.epoch = pair.epoch and tile = 0;
         alter table pair drop column there;
         insert into doorward.access_event select * from pair"
    );
    let overlay = scene.dir.path().join("alone.yaml");
    std::fs::write(&overlay, "checkpoints: { to: [] }\n")?;
    let overlay = overlay.to_string_lossy();
    let alone = ["--config", CONFIG, "--config", &overlay];
    scene.attack_with("a row, its leaf and its tile are rewritten", &sql, &alone, &["root-mismatch"])?;
    scene.attack("the same, with tiles kept outside", &sql, &["changed"])?;
    Ok(())
}

fn history(scene: &Scene<'_>) -> Result<()> {
    let first = "(select min(epoch) from kept.high_water)";
    let drops: Vec<String> = ["access_event", "high_water", "checkpoint", "log_tile", "log_note"]
        .iter()
        .map(|table| format!("delete from doorward.{table} where epoch = {first};"))
        .collect();
    scene.attack("an epoch is dropped with every trace", &drops.concat(), &["epoch-missing"])?;
    let sql = format!(
        "update doorward.checkpoint set note = replace(note, 'doorward/', 'doorwood/') where epoch = {first}"
    );
    scene.attack("checkpoints are rewritten", &sql, &["bad-signature"])?;
    Ok(())
}

#[test]
fn records_are_proved_out_of_a_database() -> Result<()> {
    on_every_server(|cluster| {
        let scene = Scene::play(cluster)?;
        scene.whole()?;
        let run = |args: &[&str]| -> Result<(Option<i32>, String)> {
            let output = scene.bed.gateway.run(args)?;
            let said = [&output.stdout[..], &output.stderr[..]].concat();
            Ok((output.status.code(), String::from_utf8(said)?))
        };
        let output = scene.bed.gateway.run(&["audit", "prove", &scene.ids[4]])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let bundle = scene.dir.path().join("record.tlog-proof");
        std::fs::write(&bundle, &output.stdout)?;
        let bundle = bundle.to_string_lossy();
        let (code, said) = run(&["audit", "verify", "--json", "--bundle", &bundle, "--vkey", &scene.vkey])?;
        let proved: Value = serde_json::from_str(&said)?;
        ensure!(code == Some(0) && proved["row"]["access_id"] == *scene.ids[4], "{said}");

        let notes =
            "select note from doorward.checkpoint where epoch = (select max(epoch) from doorward.checkpoint)
                     order by size";
        let mut files = Vec::new();
        for (name, order) in [("first", "limit 1"), ("last", "desc limit 1")] {
            let path = scene.dir.path().join(name);
            std::fs::write(&path, format!("{}\n", scene.store.sql(&format!("{notes} {order}"))?.trim_end()))?;
            files.push(path.to_string_lossy().into_owned());
        }
        let (code, said) = run(&["audit", "consistency", &files[0], &files[1], "--vkey", &scene.vkey])?;
        ensure!(code == Some(0) && said.starts_with("consistent"), "{said}");

        // Who sees a part cannot tell what is missing from what is not theirs to see.
        scene.store.sql("update doorward.reader_scope set environment = 'elsewhere'")?;
        let (code, said) = run(&["audit", "verify", "--vkey", &scene.vkey])?;
        ensure!(code == Some(1) && said.contains("does not see every record"), "exit {code:?}: {said}");
        Ok(())
    })
}
