//! What a grant bounds in the database, and what the gateway learns of it while it runs.

use anyhow::{Context, Result, ensure};
use doorward_testkit::postgres::Cluster;
use serde_json::json;

use crate::bed::{Bed, SHOP, block_on, id_of, later, records};

const BOUNDED: &str = "
grants:
  hasty: { to: group:hasty, allow: execute shop/public/slow, as: writer, timeout: 200ms }
  small: { to: group:small, allow: read shop/public/orders, as: reader, max_bytes: 1KiB }
  short: { to: group:short, allow: read shop/public/orders, as: reader, max_rows: 3 }
  curious: { to: group:curious, allow: read shop/public/*, as: reader }
";

#[test]
fn grants_bound_time_bytes_and_rows() -> Result<()> {
    let bed = Bed::start(Cluster::shared()?, SHOP, BOUNDED)?;
    block_on(async {
        let hasty = bed.client("hal", &["hasty"])?;
        let long = hasty.post("/shop/rpc/slow", &json!({ "seconds": 30 })).await?;
        ensure!(long.status.is_server_error(), "{}: {}", long.status, long.text());
        let small = bed.client("sam", &["small"])?;
        let large = small.get("/shop/orders").await?;
        ensure!(large.status.is_client_error(), "{}: {}", large.status, large.text());
        ensure!(!large.text().contains("customer"), "nothing of the answer leaks: {}", large.text());
        let fits = small.get("/shop/orders?limit=2").await?;
        ensure!(fits.status == 200, "{}", fits.text());
        let short = bed.client("sue", &["short"])?.get("/shop/orders?order=id").await?;
        ensure!(short.json()?.as_array().is_some_and(|rows| rows.len() == 3), "{}", short.text());
        ensure!(short.header("content-range") == Some("0-2/*"), "{:?}", short.headers);

        let ids = [id_of(&long)?, id_of(&large)?, id_of(&fits)?, id_of(&short)?];
        let found = records(&bed.gateway, &ids)?;
        let code = |id: &String| found[id][0]["fault_code"].as_str().unwrap_or("none").to_owned();
        ensure!(code(&ids[0]) == "forward.rest-timeout", "{:?}", found[&ids[0]]);
        ensure!(code(&ids[1]) == "forward.answer-too-large", "{:?}", found[&ids[1]]);
        ensure!(found[&ids[2]][0]["rows"] == 2 && found[&ids[3]][0]["rows"] == 3, "{found:?}");
        ensure!(found[&ids[2]][0]["bytes_out"] == fits.body.len(), "{:?}", found[&ids[2]]);
        Ok(())
    })?
}

#[test]
fn the_catalogue_is_read_anew_when_the_database_says_so() -> Result<()> {
    let bed = Bed::start(Cluster::shared()?, SHOP, BOUNDED)?;
    block_on(async {
        let curious = bed.client("cat", &["curious"])?;
        let before = curious.get("/shop/later").await?;
        ensure!(before.status == 404, "{}", before.text());
        bed.database.sql("create table later (id int); insert into later values (7); grant select on later to reader; notify pgrst, 'reload schema'")?;
        let seen = later(|| async { Ok(curious.get("/shop/later").await?.text() == r#"[{"id":7}]"#) }).await;
        ensure!(seen, "the new table is not seen: {}", bed.gateway.log());
        // A column that is gone does not break a prepared statement for ever.
        bed.database.sql("alter table later add column more text default 'x'; notify pgrst")?;
        let seen = later(|| async { Ok(curious.get("/shop/later?select=more").await?.status == 200) }).await;
        ensure!(seen, "the new column is not seen");
        let whole = curious.get("/shop/later").await?;
        ensure!(whole.text() == r#"[{"id":7,"more":"x"}]"#, "{}", whole.text());
        let id = id_of(&whole)?;
        let found = records(&bed.gateway, std::slice::from_ref(&id))?;
        let row = found.get(&id).and_then(|rows| rows.first()).context("a row")?;
        ensure!(row["object"] == "public/later" && row["rows"] == 1, "{row}");
        Ok(())
    })?
}
