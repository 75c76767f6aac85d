//! The real binary over an encrypted spool: killed, started under wrong and new keys, looked into without any.

use std::fs;

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::Setup;
use doorward_testkit::postgres::Cluster;
use serde_json::Value;

use super::binary::said;
use crate::bed::{Bed, GRANTS, SHOP, block_on, id_of};

const FIRST: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const SECOND: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
/// What records hold besides personal values.
const RECORDED: [&str; 4] = ["orders", "GET /shop", "readers", "sha256:"];
const CALLS: usize = 40;

#[test]
fn an_encrypted_spool_survives_kill_9_and_shows_nothing() -> Result<()> {
    let mut config = String::new();
    let mut bed = Bed::start_with(Cluster::shared()?, SHOP, |_, base| {
        config = format!("{base}{GRANTS}");
        let setup = Setup::new(&with(&config, "key: 'file:first.key'"))?;
        Ok(setup.file("first.key", FIRST)?.file("second.key", SECOND)?.arg("--leave-records-in-spool"))
    })?;
    let mut ids = calls(&bed)?;
    bed.gateway.kill9()?;
    let before = spool(&bed)?;
    ensure!(before.iter().any(|(name, _)| name.ends_with(".seg")), "no segment");
    for (name, bytes) in &before {
        for planted in RECORDED {
            let stands = bytes.windows(planted.len()).any(|window| window == planted.as_bytes());
            ensure!(!stands, "{planted:?} stands in {name}");
        }
    }

    // Without its key, or under another one, it is left as it is.
    for keys in ["key: 'file:second.key'", "old_keys: ['file:second.key']"] {
        bed.gateway.write("doorward.yaml", with(&config, keys))?;
        let error = format!("{:#}", bed.gateway.again().err().context("it has started")?);
        ensure!(
            error.contains("encrypted under the spool key") && error.contains("spool.encryption.old_keys"),
            "{error}"
        );
        ensure!(!error.contains(FIRST) && !error.contains(SECOND), "{error}");
        let refused = bed.gateway.run(&["spool", "repair", "--write"])?;
        ensure!(refused.status.code() == Some(1), "{}", said(&refused));
        ensure!(spool(&bed)? == before, "it was changed");
    }
    let folder = bed.gateway.folder().join("data/spool");
    let look = bed.gateway.run(&["spool", "inspect", "--dir", &folder.to_string_lossy()])?;
    ensure!(look.status.code() == Some(1) && said(&look).contains("which was not given"), "{}", said(&look));

    // A new key, with a backlog under the old one; then none for what comes.
    for keys in [
        "key: 'file:second.key', old_keys: ['file:first.key']",
        "old_keys: ['file:first.key', 'file:second.key']",
    ] {
        bed.gateway.write("doorward.yaml", with(&config, keys))?;
        bed.gateway.again()?;
        ids.extend(calls(&bed)?);
        bed.gateway.kill9()?;
    }
    let look = bed.gateway.run(&["spool", "inspect", "--json"])?;
    let found: Value = serde_json::from_slice(&look.stdout)?;
    let segments = found["segments"].as_array().context("segments")?;
    let under: Vec<&Value> = segments.iter().map(|segment| &segment["encrypted"]).collect();
    let [first, second, none] = under.as_slice() else { anyhow::bail!("{found}") };
    ensure!(first.is_string() && second.is_string() && first != second && none.is_null(), "{found}");
    let drained = bed.gateway.run(&["spool", "drain"])?;
    ensure!(drained.status.code() == Some(0), "{}", said(&drained));
    let rows = bed.gateway.run(&["audit", "query", "--json", "--limit", "1000"])?;
    let rows: Vec<Value> = said(&rows).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for id in &ids {
        let count = rows.iter().filter(|row| row["access_id"] == **id).count();
        ensure!(count == 1, "{id} has {count} records");
    }
    println!("{} calls answered over three keys and three kills, {} records", ids.len(), rows.len());
    Ok(())
}

fn with(config: &str, keys: &str) -> String {
    format!("{config}\nspool: {{ encryption: {{ {keys} }} }}\n")
}

fn calls(bed: &Bed) -> Result<Vec<String>> {
    let ann = bed.client("ann", &["readers"])?;
    block_on(async {
        let mut ids = Vec::new();
        for _ in 0..CALLS {
            ids.push(id_of(&ann.get("/shop/orders?limit=1").await?)?);
        }
        Ok(ids)
    })?
}

/// The files of the spool, by name.
fn spool(bed: &Bed) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(bed.gateway.folder().join("data/spool"))? {
        let path = entry?.path();
        if path.is_file() {
            found.push((path.display().to_string(), fs::read(&path)?));
        }
    }
    found.sort();
    Ok(found)
}
