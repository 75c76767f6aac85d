//! What a read's answer waits for.

use anyhow::{Result, ensure};
use doorward_testkit::postgres::Cluster;
use doorward_testkit::wait_until;

use super::Shop;
use super::client::query;
use crate::bed::SOON;

/// A statement that changes something, and takes its time.
const SLOW: &str = "insert into orders (customer) select 'slow' from pg_sleep(60)";

#[test]
fn wire_what_has_left_is_on_the_record_after_kill_9() -> Result<()> {
    let mut shop = Shop::start(Cluster::shared()?)?;
    let mut writer = shop.connect(&["writers"])?;
    writer.send(&query(SLOW))?;
    let runs = || {
        let count = "select count(*) from pg_stat_activity where query like 'insert%pg_sleep(60)%' and state = 'active'";
        shop.database.sql(count).is_ok_and(|count| count.trim() == "1")
    };
    ensure!(wait_until(SOON, runs), "the change is under way");
    let mut large = shop.connect(&["readers"])?;
    large.send(&query("select n, filler from big"))?;
    ensure!(large.next()?.tag == 'T', "a part of the large answer has left");
    let mut small = shop.connect(&["readers"])?;
    let (tags, _) = small.ask(&query("select customer from orders limit 3"))?;
    ensure!(tags == "TDDDCZI", "{tags}");
    shop.gateway.kill9()?;
    shop.gateway.again()?;
    for (part, outcome) in [("limit", "allowed"), ("from big", "unknown"), ("insert into orders", "unknown")]
    {
        let is = |row: &serde_json::Value| {
            row["operation"].as_str().is_some_and(|text| text.contains(part)) && row["outcome"] == outcome
        };
        ensure!(shop.records(1, is)?.len() == 1, "{part}: {outcome}");
    }
    Ok(())
}
