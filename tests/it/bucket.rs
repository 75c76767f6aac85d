//! Checkpoints in a bucket of a real S3 server: what is kept there finds what was taken from the store; buckets
//! that do not answer, or say no, are told and stop nothing.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::{Running, Setup};
use doorward_testkit::http::StrictClient;
use doorward_testkit::object_store::ObjectStore;
use doorward_testkit::postgres::Cluster;
use doorward_testkit::{free_port, wait_until};
use doorward_tlog::checkpoint::Checkpoint;
use doorward_tlog::note::Note;
use doorward_tlog::tile;
use doorward_tlog::tree::Tree;
use serde_json::Value;

use crate::bed::{Bed, GRANTS, SHOP, SOON, block_on, id_of, records};
use crate::sinks::archive;

fn place(url: &str, secret: &str) -> String {
    format!(
        "    - {{ every: 200ms, s3: {{ url: \"{url}\", access_key_id: \"env:BUCKET_ID\", secret_access_key: \"env:{secret}\" }} }}\n"
    )
}

/// The archive of records, in the same bucket.
fn sink(store: &ObjectStore) -> String {
    format!(
        "sinks:\n  archive:\n    personal: sealed\n    s3: {{ url: \"{}/records\", every: 1s, access_key_id: \"env:BUCKET_ID\", secret_access_key: \"env:BUCKET_SECRET\" }}\n",
        store.url()
    )
}

/// Whoever has the bucket alone knows that its archive is whole: each leaf of the log but the first, which says whose
/// log it is, is the leaf of a line, and there is no other line.
fn archive_is_whole(store: &ObjectStore) -> Result<()> {
    let keys = store.keys()?;
    let newest = keys.iter().find(|key| key.ends_with("/checkpoint")).context("no checkpoint")?;
    let note = Note::parse(&String::from_utf8(store.get(newest)?)?)?;
    let checkpoint = Checkpoint::parse(&note.text)?;
    let log = newest.strip_suffix("checkpoint").context("the log's folder")?;
    let (mut tree, mut leaves) = (Tree::default(), Vec::new());
    for index in 0..checkpoint.size.div_ceil(256) {
        let width = tile::width(checkpoint.size, 0, index);
        let bytes = store.get(&format!("{log}{}", tile::path(0, index, width)))?;
        for leaf in tile::hashes(&bytes).context("a tile")? {
            tree.push(leaf, |_| ());
            leaves.push(leaf.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        }
    }
    ensure!(tree.root() == checkpoint.root, "the tiles are those that the checkpoint was signed for");
    let lines = archive(store)?;
    let lines = lines.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let archived: BTreeSet<&str> = lines.iter().filter_map(|line| line["leaf_hash"].as_str()).collect();
    let logged: BTreeSet<&str> = leaves.iter().skip(1).map(String::as_str).collect();
    ensure!(archived == logged, "{archived:?} {logged:?}");
    Ok(())
}

/// Copies the bucket, with the archive and the logs of it, to a folder.
fn copied(store: &ObjectStore) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    for key in store.keys()? {
        let path = folder.path().join(&key);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(path, store.get(&key)?)?;
    }
    Ok(folder)
}

/// An archive is verified where it is, and as a copy for which nothing is configured; what is missing is named.
fn archive_verifies(store: &ObjectStore, gateway: &Running) -> Result<()> {
    let verify = |more: &[&str]| -> Result<(Option<i32>, String)> {
        let output = gateway.run(&[&["audit", "verify"], more].concat())?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8(text)?))
    };
    let key = String::from_utf8(gateway.run(&["audit", "key"])?.stdout)?;
    let (code, text) = verify(&["--archive", "archive", "--lag", "0s", "--vkey", key.trim()])?;
    ensure!(code == Some(0) && text.starts_with("verified: ") && text.contains("in 1 logs"), "{text}");
    let copy = copied(store)?;
    let place = |name: &str| copy.path().join(name).to_string_lossy().into_owned();
    let (archive, log) = (place("records"), place("log"));
    let offline = [
        "--config",
        "nothing.yaml",
        "--archive",
        &archive,
        "--checkpoints",
        &log,
        "--lag",
        "0s",
        "--vkey",
        key.trim(),
    ];
    let (code, text) = verify(&offline)?;
    ensure!(code == Some(0) && text.starts_with("verified: "), "{text}");
    let keys = store.keys()?;
    let object = keys.iter().find(|key| key.ends_with(".jsonl.gz")).context("no object")?;
    std::fs::remove_file(copy.path().join(object))?;
    let (code, text) = verify(&offline)?;
    ensure!(code == Some(6) && (text.contains("missing") || text.contains("truncated")), "{text}");
    for (arguments, wanted) in [
        (&["--archive", "siem"][..], "siem is neither a directory nor the name of a sink"),
        (&["--archive", "archive", "--store-only"], "an archive proves nothing by itself"),
    ] {
        let (code, text) = verify(arguments)?;
        ensure!(code == Some(1) && text.contains(wanted), "{text}");
    }
    Ok(())
}

fn readiness(bed: &Bed) -> Result<Value> {
    let ready = block_on(StrictClient::new(bed.gateway.admin_url()?).get("/readyz"))??;
    ensure!(ready.status == 200, "places turn nothing red: {}", ready.text());
    Ok(serde_json::from_str(&ready.text())?)
}

/// What the rest of the test calls a place's trouble.
fn troubles(ready: &Value) -> Vec<String> {
    let places = ready["checkpoints"]["places"].as_array().cloned().unwrap_or_default();
    places.iter().map(|place| place["trouble"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_bucket_keeps_checkpoints_and_those_that_refuse_are_told() -> Result<()> {
    let store = ObjectStore::start()?;
    let url = format!("{}/log", store.url());
    let good = place(&url, "BUCKET_SECRET");
    let nowhere = format!("http://127.0.0.1:{}/records", free_port()?);
    let bad = [
        place(&url.replace(ObjectStore::BUCKET, "nobody-has-this"), "BUCKET_SECRET"),
        place(&format!("{url}/other"), "WRONG_SECRET"),
        place(&nowhere, "BUCKET_SECRET"),
    ]
    .concat();
    let mut written = String::new();
    let mut bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        written = format!("{config}{GRANTS}{}checkpoints:\n  interval: 100ms\n  to:\n{good}", sink(&store));
        Ok(Setup::new(&format!("{written}{bad}"))?
            .env("BUCKET_ID", ObjectStore::ACCESS_KEY_ID)
            .env("BUCKET_SECRET", ObjectStore::SECRET_ACCESS_KEY)
            .env("WRONG_SECRET", "s3cret-of-somebody-else"))
    })?;
    let client = bed.client("ann", &["readers"])?;
    let call =
        || -> Result<String> { block_on(async { id_of(&client.get("/shop/orders?limit=1").await?) })? };
    let ids = (0..20).map(|_| call()).collect::<Result<Vec<_>>>()?;
    records(&bed.gateway, &ids)?;

    let expected = ["", "404 NoSuchBucket", "403 SignatureDoesNotMatch", "127.0.0.1"];
    let told = || {
        let Ok(ready) = readiness(&bed) else { return false };
        let troubles = troubles(&ready);
        let known = troubles.len() == expected.len()
            && troubles.iter().zip(expected).all(|(is, should)| is.is_empty() == should.is_empty());
        let checkpoints = &ready["checkpoints"];
        // A leaf for each call, and the first one.
        known && checkpoints["signed"].as_u64() >= Some(21) && checkpoints["places"][0]["behind"] == 0
    };
    ensure!(wait_until(SOON, told), "{}", readiness(&bed)?);
    let ready = readiness(&bed)?;
    for (is, should) in troubles(&ready).iter().zip(expected) {
        ensure!(is.contains(should), "{is} says nothing of {should}");
    }
    ensure!(ready["checkpoints"]["places"][1]["behind"].as_u64() > Some(0), "{ready}");
    let metrics = block_on(StrictClient::new(bed.gateway.admin_url()?).get("/metrics"))??.text();
    for line in [
        format!("doorward_checkpoint_place_up{{place=\"{nowhere}\"}} 0"),
        format!("doorward_checkpoint_unpublished_leaves{{place=\"{url}\"}} 0"),
        "doorward_checkpoint_age_seconds ".to_owned(),
        "doorward_log_leaves ".to_owned(),
    ] {
        ensure!(metrics.contains(&line), "{line} is not in {metrics}");
    }
    let archived = || ids.iter().all(|id| archive(&store).is_ok_and(|lines| lines.contains(id.as_str())));
    ensure!(wait_until(SOON, archived), "the archive: {}", bed.gateway.log());
    bed.gateway.term()?;
    let log = bed.gateway.log();
    for text in ["NoSuchBucket", "SignatureDoesNotMatch"] {
        // It is told when it changes: a busy machine may say something else in between.
        ensure!((1..4).contains(&log.matches(text).count()), "{text} is told, and not each time: {log}");
    }
    for secret in [ObjectStore::SECRET_ACCESS_KEY, "s3cret-of-somebody-else"] {
        ensure!(!log.contains(secret) && !metrics.contains(secret), "a secret is told");
    }

    // Whoever verifies names the bucket that they trust.
    bed.gateway.write("doorward.yaml", &written)?;
    let verify = |more: &[&str]| -> Result<(Option<i32>, String)> {
        let output = bed.gateway.run(&[&["audit", "verify"], more].concat())?;
        Ok((output.status.code(), String::from_utf8(output.stdout)?))
    };
    let (code, text) = verify(&[])?;
    ensure!(code == Some(0), "{text}");
    archive_is_whole(&store)?;
    archive_verifies(&store, &bed.gateway)?;
    let keys = store.keys()?;
    let newest = keys.iter().find(|key| key.ends_with("/checkpoint")).context("no checkpoint")?.clone();
    let by_size: Vec<_> = keys.iter().filter(|key| key.contains("/checkpoints/")).collect();
    ensure!(!by_size.is_empty() && keys.iter().any(|key| key.contains("/tile/0/000.p/")), "{keys:?}");
    ensure!(store.get(by_size[by_size.len() - 1])? == store.get(&newest)?, "the last one is the newest");

    let database = rusqlite::Connection::open(bed.gateway.folder().join("data/audit.db"))?;
    database.execute_batch(
        "DELETE FROM access_event WHERE log_index > 15; DELETE FROM checkpoint WHERE size > 16; DELETE FROM log_tile;
         UPDATE access_event SET status = 418 WHERE log_index = 7;",
    )?;
    drop(database);
    let (code, text) = verify(&[])?;
    ensure!(code == Some(6) && text.contains("truncated") && text.contains("changed"), "{text}");
    let (_, text) = verify(&["--store-only"])?;
    ensure!(!text.contains("truncated"), "the store alone does not know what it had: {text}");
    // A bucket that cannot be asked is not passed over.
    bed.gateway.write("doorward.yaml", format!("{written}{bad}"))?;
    let output = bed.gateway.run(&["audit", "verify"])?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1) && said.contains("NoSuchBucket"), "{said}");
    Ok(())
}
