//! Somebody with the store in their hands: whatever they do to the timeline is found, and named.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::Setup;
use doorward_testkit::postgres::Cluster;
use serde_json::Value;

use crate::bed::{Bed, GRANTS, SHOP};
use crate::proof;

const CALLS: usize = 12;
/// The configuration's file, in the folder in which commands are run.
const CONFIG: &str = "doorward.yaml";

/// A gateway that was killed once, so that there are two epochs, with checkpoints kept in the store and in a
/// directory beside it.
struct Scene {
    bed: Bed,
    ids: Vec<String>,
    store: PathBuf,
    outside: PathBuf,
    vkey: String,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn play() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let outside = dir.path().join("outside");
        let more = format!(
            "{GRANTS}\nstore: 'sqlite:{}'\ncheckpoints: {{ interval: 200ms, to: ['file:{}'] }}\n",
            dir.path().join("audit.db").display(),
            outside.display()
        );
        let mut bed =
            Bed::start_with(Cluster::shared()?, SHOP, |_, config| Setup::new(&format!("{config}{more}")))?;
        let mut ids = proof::call(&bed, CALLS)?;
        bed.gateway.kill9()?;
        bed.gateway.again()?;
        ids.extend(proof::call(&bed, CALLS)?);
        let vkey = proof::vkey(&bed)?;
        let store = dir.path().join("audit.db");
        Ok(Self { bed, ids, store, outside, vkey, _dir: dir })
    }

    fn whole(&self) -> Result<()> {
        proof::whole(&self.bed, &self.vkey, self.ids.len())
    }

    /// Does something to a copy of the store and expects these findings and no other kind.
    fn attack(&self, name: &str, sql: &str, expected: &[&str]) -> Result<Vec<Value>> {
        let copied = self.store.with_extension("copy");
        copy(&self.store, &copied)?;
        rusqlite::Connection::open(&copied)?.execute_batch(sql).with_context(|| name.to_owned())?;
        let overlay = self.store.with_extension("yaml");
        std::fs::write(&overlay, format!("store: 'sqlite:{}'\n", copied.display()))?;
        let overlay = overlay.to_string_lossy();
        let copied = ["--config", CONFIG, "--config", &overlay];
        proof::find(&self.bed, &self.vkey, &copied, expected).with_context(|| name.to_owned())
    }
}

/// The content of a SQLite file, in one new file.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for end in ["", "-wal", "-shm"] {
        let mut path = to.as_os_str().to_owned();
        path.push(end);
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
    }
    rusqlite::Connection::open(from)?.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
    Ok(())
}

#[test]
fn whoever_holds_the_store_is_found_out() -> Result<()> {
    let scene = Scene::play()?;
    scene.whole()?;
    let row = |place: usize| format!("access_id = '{}'", scene.ids[place]);
    let (third, fifth, last) = (row(3), row(5), row(scene.ids.len() - 1));
    let names = |found: &[Value], id: &str| found.iter().any(|finding| finding["access_id"] == id);

    let sql = format!("UPDATE access_event SET outcome = 'denied' WHERE {third}");
    let found = scene.attack("a value is changed", &sql, &["changed"])?;
    ensure!(found.len() == 1 && names(&found, &scene.ids[3]), "{found:?}");

    let sql = format!("UPDATE access_event SET rows = 7, leaf_hash = zeroblob(32) WHERE {third}");
    scene.attack("the leaf's hash is changed with it", &sql, &["changed"])?;

    let sql = format!("DELETE FROM access_event WHERE {third}");
    let found = scene.attack("a row is deleted", &sql, &["missing"])?;
    ensure!(found[0]["first"] == found[0]["last"] && found[0]["after"].is_string(), "{found:?}");

    let sql = format!("DELETE FROM access_event WHERE {last}");
    scene.attack("the newest row is deleted", &sql, &["truncated"])?;

    // The database holds nothing any more that knows of the rows; what is kept outside does.
    let sql = format!(
        "CREATE TEMP TABLE cut AS SELECT gateway_id, epoch, log_index FROM access_event WHERE {last};
         DELETE FROM access_event WHERE {last};
         DELETE FROM checkpoint WHERE EXISTS (SELECT 1 FROM cut WHERE cut.epoch = checkpoint.epoch AND size > cut.log_index);
         DELETE FROM log_tile WHERE EXISTS (SELECT 1 FROM cut WHERE cut.epoch = log_tile.epoch);
         UPDATE high_water SET next_leaf = (SELECT log_index FROM cut) WHERE epoch = (SELECT epoch FROM cut)"
    );
    scene.attack("the newest row is deleted, and every trace of it in the store", &sql, &["truncated"])?;

    let sql = format!(
        "CREATE TEMP TABLE pair AS SELECT rowid AS id, log_index, leaf_hash FROM access_event WHERE {third} OR {fifth};
         UPDATE access_event SET
           log_index = (SELECT log_index FROM pair WHERE id <> access_event.rowid),
           leaf_hash = (SELECT leaf_hash FROM pair WHERE id <> access_event.rowid)
         WHERE rowid IN (SELECT id FROM pair)"
    );
    let found = scene.attack("two rows are swapped", &sql, &["reordered"])?;
    ensure!(found.len() == 2, "{found:?}");

    let forged = |changes: &str| {
        format!(
            "CREATE TEMP TABLE forged AS SELECT * FROM access_event WHERE {last};
             UPDATE forged SET access_id = '00000000-0000-4000-8000-000000000001', {changes};
             INSERT INTO access_event SELECT * FROM forged"
        )
    };
    scene.attack("a forged row takes a place that is taken", &forged("rows = 1"), &["duplicated"])?;
    scene.attack("a forged row has no place", &forged("log_index = NULL"), &["inserted"])?;
    scene.attack("a forged row of a start that never was", &forged("epoch = 7"), &["inserted"])?;
    scene.attack("a forged row of another gateway", &forged("gateway_id = 'other'"), &["inserted"])?;

    let first = "(SELECT min(epoch) FROM high_water)";
    let sql = format!("DELETE FROM access_event WHERE epoch = {first}");
    scene.attack("a whole chunk is dropped", &sql, &["truncated"])?;

    let tables = ["access_event", "high_water", "checkpoint", "log_tile", "log_note"];
    let drop: Vec<String> = tables
        .iter()
        .map(|table| format!("DELETE FROM {table} WHERE epoch = (SELECT epoch FROM gone)"))
        .collect();
    let sql = format!("CREATE TEMP TABLE gone AS SELECT {first} AS epoch; {}", drop.join("; "));
    scene.attack("an epoch is dropped with every trace", &sql, &["epoch-missing"])?;

    let forged_note = forged_checkpoint(&scene)?;
    let sql = format!("UPDATE checkpoint SET note = '{forged_note}' WHERE epoch = {first}");
    scene.attack("checkpoints are signed by another key", &sql, &["bad-signature"])?;

    scene.whole()?;
    rolled_back(scene)
}

/// The newest checkpoint of the first epoch, under a key of the same name.
fn forged_checkpoint(scene: &Scene) -> Result<String> {
    use doorward_tlog::checkpoint::Checkpoint;
    use doorward_tlog::note::{Kind, Note, Signer, Vkey};
    let store = rusqlite::Connection::open(&scene.store)?;
    let sql = "SELECT note FROM checkpoint ORDER BY epoch, size DESC LIMIT 1";
    let note: String = store.query_row(sql, [], |row| row.get(0))?;
    let checkpoint = Checkpoint::parse(&Note::parse(&note)?.text)?;
    let (forger, _) = Signer::generate(Vkey::parse(&scene.vkey)?.name(), Kind::Ed25519)?;
    Ok(checkpoint.sign(&forger).to_string())
}

/// The whole store is put back to what it was, while the gateway is down: what came since is missed, until the
/// gateway brings it again.
fn rolled_back(mut scene: Scene) -> Result<()> {
    let saved = scene.store.with_extension("backup");
    copy(&scene.store, &saved)?;
    let more = proof::call(&scene.bed, CALLS)?;
    scene.ids.extend(more);
    scene.whole()?;
    scene.bed.gateway.kill9()?;
    copy(&saved, &scene.store)?;
    let (code, found) = proof::verify(&scene.bed, &scene.vkey, &[])?;
    ensure!(code == Some(6) && found[0]["finding"] == "truncated", "{found:?}");
    // What the spool still has comes again, each row at its place.
    scene.bed.gateway.again()?;
    let after = proof::call(&scene.bed, 1)?;
    scene.ids.extend(after);
    scene.whole()
}

#[test]
fn a_record_is_proved_without_the_store() -> Result<()> {
    let scene = Scene::play()?;
    scene.whole()?;
    let id = &scene.ids[4];
    let output = scene.bed.gateway.run(&["audit", "prove", id])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bundle = String::from_utf8(output.stdout)?;
    let path = scene.outside.join("bundle.tlog-proof");
    let check = |bundle: &str, vkey: &str| -> Result<(Option<i32>, String)> {
        std::fs::write(&path, bundle)?;
        let path = path.to_string_lossy();
        let output =
            scene.bed.gateway.run(&["audit", "verify", "--json", "--bundle", &path, "--vkey", vkey])?;
        Ok((output.status.code(), String::from_utf8(output.stdout)?))
    };
    let (code, said) = check(&bundle, &scene.vkey)?;
    ensure!(code == Some(0), "{said}");
    let proved: Value = serde_json::from_str(&said)?;
    ensure!(proved["row"]["access_id"] == **id && proved["row"]["outcome"] == "allowed", "{said}");

    use base64::prelude::{BASE64_STANDARD, Engine};
    let (head, rest) = bundle.split_once("extra ").context("the row")?;
    let (extra, rest) = rest.split_once('\n').context("the row")?;
    let row = String::from_utf8(BASE64_STANDARD.decode(extra)?)?.replace("\"allowed\"", "\"denied\"");
    let forged = format!("{head}extra {}\n{rest}", BASE64_STANDARD.encode(row));
    let (code, said) = check(&forged, &scene.vkey)?;
    ensure!(code == Some(6) && said.contains("does not show this row"), "{said}");
    let (other, _) =
        doorward_tlog::note::Signer::generate("doorward/other", doorward_tlog::note::Kind::Ed25519)?;
    let (code, said) = check(&bundle, &other.vkey().to_string())?;
    ensure!(code == Some(6) && said.contains("not signed by"), "{said}");
    Ok(())
}
