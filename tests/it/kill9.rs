//! `kill -9` under load: answers, committed rows and records are counted against each other.
//!
//! Each row keeps the id of the access that wrote it, so a row, an answer and a record can be told to be
//! of one call.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doorward_testkit::http::StrictClient;
use doorward_testkit::postgres::Cluster;
use doorward_testkit::{pause, wait_until};
use serde_json::{Value, json};

use crate::bed::{Bed, GRANTS, SHOP, block_on};

const WRITERS: usize = 16;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_millis(700);
/// What each round sees answered, of writes and of reads, before the gateway is killed.
const ANSWERED: usize = 50;
const LOADED_WITHIN: Duration = Duration::from_secs(90);
const SHIPPED_WITHIN: Duration = Duration::from_secs(90);

/// The access ids of answers that clients have seen, by status class.
#[derive(Default)]
struct Seen {
    written: Mutex<HashSet<String>>,
    read: Mutex<HashSet<String>>,
    sent: AtomicU64,
}

impl Seen {
    /// How many writes were answered, or reads if they were fewer.
    fn answered(&self) -> usize {
        let count = |ids: &Mutex<HashSet<String>>| ids.lock().map_or(0, |ids| ids.len());
        count(&self.written).min(count(&self.read))
    }
}

#[test]
fn kill_9_under_load_loses_nothing() -> Result<()> {
    let mut bed = Bed::start(Cluster::shared()?, SHOP, GRANTS)?;
    let token = bed.token("loader", &["writers"])?;
    let seen = Arc::new(Seen::default());
    for _ in 0..ROUNDS {
        let client = StrictClient::new(bed.gateway.url()?).bearer(token.clone());
        let loaders = std::thread::spawn({
            let seen = seen.clone();
            move || block_on(load(client, seen))
        });
        // A busy machine takes longer to answer enough of them.
        let before = seen.answered();
        pause(ROUND);
        ensure!(
            wait_until(LOADED_WITHIN, || seen.answered() >= before + ANSWERED),
            "there is hardly any load"
        );
        bed.gateway.kill9()?;
        loaders.join().ok().context("the load panicked")??;
        bed.gateway.again()?;
    }
    let committed: HashSet<String> = bed
        .database
        .sql("select access_id from orders where access_id <> ''")?
        .lines()
        .map(str::to_owned)
        .collect();
    let answered = seen.written.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
    let read = seen.read.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
    let wanted = committed.union(&answered).chain(&read).cloned().collect::<HashSet<_>>();
    let mut records = HashMap::new();
    wait_until(SHIPPED_WITHIN, || {
        records = outcomes(&bed).unwrap_or_default();
        wanted.iter().all(|id| records.contains_key(id))
    });
    let of = |outcome: &str| records.values().filter(|had| **had == [outcome]).count();
    println!(
        "sent {}, answered {} writes and {} reads, committed {}; records {}: {} allowed, {} unknown, {} abandoned, {} failed",
        seen.sent.load(Ordering::Relaxed),
        answered.len(),
        read.len(),
        committed.len(),
        records.len(),
        of("allowed"),
        of("unknown"),
        of("abandoned"),
        of("failed"),
    );
    ensure!(answered.len() > 100 && read.len() > 100, "there was hardly any load");

    for id in &answered {
        ensure!(committed.contains(id), "{id} was answered, and its row is not there");
    }
    for id in &wanted {
        let had = records.get(id).with_context(|| format!("{id} has no record"))?;
        ensure!(had.len() == 1, "{id} has {} records", had.len());
        // A completion that did not reach the disk leaves its intent: the outcome is then unknown.
        let expected: &[&str] = if read.contains(id) { &["allowed"] } else { &["allowed", "unknown"] };
        ensure!(expected.contains(&had[0].as_str()), "{id} is recorded as {}", had[0]);
    }
    Ok(())
}

async fn load(client: StrictClient, seen: Arc<Seen>) {
    let mut loaders = Vec::new();
    for _ in 0..WRITERS {
        let (client, seen) = (client.clone(), seen.clone());
        loaders.push(tokio::spawn(async move { while step(&client, &seen).await.is_ok() {} }));
    }
    for loader in loaders {
        let _ = loader.await;
    }
}

/// A write and a read; an error means that the gateway is gone.
async fn step(client: &StrictClient, seen: &Seen) -> Result<()> {
    seen.sent.fetch_add(2, Ordering::Relaxed);
    let answer = client.post("/shop/orders", &json!({ "customer": "ann" })).await?;
    ensure!(answer.status == 201, "{}: {}", answer.status, answer.text());
    let id = answer.header("doorward-access-id").context("no access id")?.to_owned();
    seen.written.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.insert(id);
    let answer = client.get("/shop/orders?limit=1&select=id").await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    let id = answer.header("doorward-access-id").context("no access id")?.to_owned();
    seen.read.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.insert(id);
    Ok(())
}

/// The outcomes in the store, by access id. A call of several actions has a row for each; they count once.
fn outcomes(bed: &Bed) -> Result<HashMap<String, Vec<String>>> {
    let output = bed.gateway.run(&["audit", "query", "--json", "--limit", "100000"])?;
    let mut outcomes: HashMap<String, Vec<String>> = HashMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        if row["action_index"].as_i64().unwrap_or(0) > 0 {
            continue;
        }
        let (Some(id), Some(outcome)) = (row["access_id"].as_str(), row["outcome"].as_str()) else {
            continue;
        };
        outcomes.entry(id.to_owned()).or_default().push(outcome.to_owned());
    }
    Ok(outcomes)
}
