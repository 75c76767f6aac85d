//! The real binary: a disk that fills, and a damaged spool in the operator's hands.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::Setup;
use doorward_testkit::http::StrictClient;
use doorward_testkit::postgres::Cluster;
use serde_json::Value;

use super::{SmallDisk, child};
use crate::bed::{Bed, GRANTS, SHOP, block_on, id_of, later, records};

/// Claims that fill a record.
const FILLING: usize = 9_000;
/// Calls after which a disk must have been found full.
const CALLS_MAX: usize = 5_000;
/// What no look into a spool may print.
const PERSONAL: [&str; 4] = ["annabel", "readers", "orders", "127.0.0.1"];

pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn a_full_disk_closes_what_requires_records_until_there_is_room() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(disk) = SmallDisk::mount(folder.path())? else {
        println!("no right to mount a small disk here; the spool's own tests fill a model of one");
        return Ok(());
    };
    let spool = disk.0.join("spool");
    let mut bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        let (_, shop) = config.split_once("  shop:\n").context("the resource")?;
        let lax = "  lax: { to: group:readers, allow: read lax/public/*, as: reader }\n  readers:\n";
        let grants = GRANTS.replace("  readers:\n", lax);
        let spool = format!("spool: {{ size_max: 16MiB, dir: {} }}\n", spool.display());
        Setup::new(&format!("{config}  lax:\n    audit: best-effort\n{shop}{grants}{spool}"))
    })?;
    let token = bed
        .issuer
        .token("ann")
        .claim("groups", vec!["readers"])
        .claim("filling", "x".repeat(FILLING))
        .sign()?;
    let ballast = disk.0.join("ballast");
    child::fill(&ballast)?;
    let mut answered = block_on(until_closed(&bed, &token))??;
    bed.gateway.kill9()?;
    bed.gateway.again()?;
    // What the killed gateway's segment did not use was given back, and is used up again.
    answered.extend(block_on(until_closed(&bed, &token))??);
    fs::remove_file(&ballast)?;
    answered.push(block_on(reopened(&bed, &token))??);
    let found = records(&bed.gateway, &answered)?;
    for id in &answered {
        ensure!(found[id].len() == 1, "{id} has {} records", found[id].len());
    }
    Ok(())
}

/// Reads until the gateway refuses; the ids of what was answered.
async fn until_closed(bed: &Bed, token: &str) -> Result<Vec<String>> {
    let ann = StrictClient::new(bed.gateway.url()?).bearer(token);
    let mut answered = Vec::new();
    for _ in 0..CALLS_MAX {
        let answer = ann.get("/shop/orders?limit=1&select=id").await?;
        if answer.status == 503 {
            ensure!(answer.text().contains("record.unavailable"), "{}", answer.text());
            closed(bed, token).await?;
            return Ok(answered);
        }
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        answered.push(id_of(&answer)?);
    }
    anyhow::bail!("the disk is never full")
}

/// Reads until it goes well again; the id of that.
async fn reopened(bed: &Bed, token: &str) -> Result<String> {
    let ann = StrictClient::new(bed.gateway.url()?).bearer(token);
    let open = later(|| async { Ok(ann.get("/shop/orders?limit=1").await?.status == 200) }).await;
    ensure!(open, "there is room, and it is still closed: {}", bed.gateway.log());
    id_of(&ann.get("/shop/orders?limit=1").await?)
}

/// What requires a record is closed, and says why; what does not goes on.
async fn closed(bed: &Bed, token: &str) -> Result<()> {
    let ann = StrictClient::new(bed.gateway.url()?).bearer(token);
    let admin = StrictClient::new(bed.gateway.admin_url()?);
    ensure!(ann.get("/shop/orders?limit=1").await?.status == 503, "it serves without a record");
    let lax = ann.get("/lax/orders?limit=1").await?;
    ensure!(lax.status == 200, "best effort: {}", lax.text());
    let ready = admin.get("/readyz").await?;
    let says = ready.json()?;
    let spool = &says["spool"];
    ensure!(ready.status == 503 && spool["open"] == false && spool["state"] == "full", "{says}");
    ensure!(spool["trouble"].as_str().is_some_and(|trouble| trouble.contains("the disk is full")), "{says}");
    ensure!(spool["lost"].as_u64() >= Some(1), "{says}");
    ensure!(
        later(|| async {
            let metrics = admin.get("/metrics").await?.text();
            Ok(metrics.contains("doorward_spool_open 0") && metrics.contains("doorward_spool_alarm 1"))
        })
        .await,
        "metrics say nothing"
    );
    ensure!(
        later(|| async { Ok(bed.gateway.log().contains("the spool is full")) }).await,
        "{}",
        bed.gateway.log()
    );
    Ok(())
}

#[test]
fn a_damaged_spool_is_inspected_repaired_and_drained() -> Result<()> {
    let mut bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        Ok(Setup::new(&format!("{config}{GRANTS}"))?.arg("--leave-records-in-spool"))
    })?;
    let ann = bed.client("annabel", &["readers"])?;
    let ids = block_on(async {
        let mut ids = Vec::new();
        for _ in 0..60 {
            ids.push(id_of(&ann.get("/shop/orders?limit=1").await?)?);
        }
        Ok::<_, anyhow::Error>(ids)
    })??;
    // Beside the running gateway it reads; it does not repair.
    let look = bed.gateway.run(&["spool", "inspect", "--json"])?;
    ensure!(look.status.code() == Some(0), "{}", said(&look));
    let found: Value = serde_json::from_slice(&look.stdout)?;
    ensure!(found["in_use"] == true && found["damaged"] == false, "{found}");
    let completions: u64 = found["segments"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|s| s["frames"]["completions"].as_u64())
        .sum();
    ensure!(completions == 60, "{found}");
    let refused = bed.gateway.run(&["spool", "repair", "--write"])?;
    ensure!(refused.status.code() == Some(1) && said(&refused).contains("in use"), "{}", said(&refused));

    bed.gateway.kill9()?;
    let segment = damage(&bed)?;
    let look = bed.gateway.run(&["spool", "inspect"])?;
    ensure!(look.status.code() == Some(5) && said(&look).contains("damaged: bytes"), "{}", said(&look));
    for personal in PERSONAL {
        ensure!(!said(&look).contains(personal), "it tells {personal}: {}", said(&look));
    }
    let before = fs::read(&segment)?;
    let plan = bed.gateway.run(&["spool", "repair"])?;
    ensure!(plan.status.code() == Some(5) && said(&plan).contains("1 frames lost"), "{}", said(&plan));
    ensure!(fs::read(&segment)? == before, "it changed what it was not told to");
    let done = bed.gateway.run(&["spool", "repair", "--write"])?;
    ensure!(done.status.code() == Some(0) && said(&done).contains("repaired"), "{}", said(&done));
    let look = bed.gateway.run(&["spool", "inspect"])?;
    ensure!(look.status.code() == Some(0) && said(&look).contains("set aside"), "{}", said(&look));

    let drained = bed.gateway.run(&["spool", "drain"])?;
    ensure!(drained.status.code() == Some(0), "{}", said(&drained));
    let rows = bed.gateway.run(&["audit", "query", "--json", "--limit", "1000"])?;
    let rows: Vec<Value> = said(&rows).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let kept = ids.iter().filter(|id| rows.iter().any(|row| row["access_id"] == **id)).count();
    let lost: u64 = rows.iter().filter_map(|row| row["gap"]["lost"].as_u64()).sum();
    ensure!((kept, lost) == (59, 1), "{kept} of 60 records, and gaps tell of {lost}");
    let look = bed.gateway.run(&["spool", "inspect"])?;
    ensure!(look.status.code() == Some(0) && said(&look).contains("does not have: 0"), "{}", said(&look));
    Ok(())
}

/// Spoils a byte in the middle of the segment.
fn damage(bed: &Bed) -> Result<PathBuf> {
    let spool = bed.gateway.folder().join("data/spool");
    let paths = fs::read_dir(spool)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut segments = paths.filter(|path| path.extension().is_some_and(|extension| extension == "seg"));
    let segment = segments.next().context("no segment")?;
    let mut bytes = fs::read(&segment)?;
    let written = bytes.iter().rposition(|byte| *byte != 0).context("an empty segment")?;
    bytes[written / 2] ^= 0x10;
    fs::write(&segment, bytes)?;
    Ok(segment)
}
