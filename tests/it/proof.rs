//! What `audit verify` finds in a store, for those who tamper with one.

use anyhow::{Context, Result, ensure};
use doorward_testkit::wait_until;
use serde_json::Value;

use crate::bed::{Bed, SOON, block_on, id_of, records};

/// The gateway's key as `--vkey` takes it.
pub(crate) fn vkey(bed: &Bed) -> Result<String> {
    let keys = String::from_utf8(bed.gateway.run(&["audit", "key"])?.stdout)?;
    Ok(keys.lines().next().context("the gateway's key comes first")?.to_owned())
}

/// The ids of so many calls, which have been answered and are in the store.
pub(crate) fn call(bed: &Bed, calls: usize) -> Result<Vec<String>> {
    let client = bed.client("ann", &["readers"])?;
    let mut ids = Vec::new();
    block_on(async {
        for _ in 0..calls {
            let answer = client.get("/shop/orders?limit=1").await?;
            ensure!(answer.status == 200, "{}", answer.text());
            ids.push(id_of(&answer)?);
        }
        Ok(())
    })??;
    records(&bed.gateway, &ids)?;
    Ok(ids)
}

/// The exit code, and the findings with the summary behind them.
pub(crate) fn verify(bed: &Bed, vkey: &str, more: &[&str]) -> Result<(Option<i32>, Vec<Value>)> {
    let args = [&["audit", "verify", "--json", "--vkey", vkey], more].concat();
    let output = bed.gateway.run(&args)?;
    let lines = String::from_utf8(output.stdout)?;
    let found: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(!found.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok((output.status.code(), found))
}

/// Waits until nothing is found, and all of at least so many rows are proved.
pub(crate) fn whole(bed: &Bed, vkey: &str, rows: usize) -> Result<()> {
    let mut last = String::new();
    let whole = wait_until(SOON, || match verify(bed, vkey, &[]) {
        Ok((code, found)) => {
            last = format!("exit {code:?}, {found:?}");
            let summary = found.last().cloned().unwrap_or_default();
            code == Some(0)
                && summary["leaves_unsigned"] == 0
                && summary["rows"].as_u64() >= Some(rows as u64)
        }
        Err(error) => {
            last = format!("{error:#}");
            false
        }
    });
    ensure!(whole, "{last}; {}", bed.gateway.log());
    Ok(())
}

/// Verifies a store that was tampered with: these findings and no other kind. What was found.
pub(crate) fn find(bed: &Bed, vkey: &str, more: &[&str], expected: &[&str]) -> Result<Vec<Value>> {
    let (code, mut found) = verify(bed, vkey, more)?;
    found.pop();
    let mut kinds: Vec<&str> = found.iter().filter_map(|finding| finding["finding"].as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    ensure!(code == Some(6) && kinds == expected, "exit {code:?}, {found:?}");
    Ok(found)
}
