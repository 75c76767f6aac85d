//! Benchmarks. `make bench` runs all groups, `make bench ONLY=rest` one; `JSON=1` prints one JSON object a
//! line, `BRIEF=1` leaves out the run over a million requests. Nothing here is a test: a figure that misses its
//! bound says so, and the program ends well.

mod audit;
mod audit_pg;
mod core;
mod dashboards;
mod floor;
mod latency;
mod process;
mod rest;
mod table;
mod tlog;

use anyhow::{Result, bail};
use table::Table;

const GROUPS: &[&str] = &["core", "audit", "tlog", "rest"];

fn main() -> Result<()> {
    let mut only: Option<String> = None;
    let (mut json, mut brief) = (false, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "floor" => return floor::serve(),
            "--json" => json = true,
            "--brief" => brief = true,
            "--only" => only = arguments.next(),
            other => bail!("unknown argument {other:?}; known: --only GROUP, --json, --brief"),
        }
    }
    if let Some(group) = only.as_deref().filter(|group| !GROUPS.contains(group)) {
        bail!("no group {group:?}; groups: {}", GROUPS.join(", "));
    }
    let table = Table::new(json);
    let wanted = |group| only.as_deref().is_none_or(|only| only == group);
    if wanted("core") {
        core::run(&table)?;
    }
    if wanted("audit") {
        audit::run(&table)?;
        dashboards::run(&table)?;
    }
    if wanted("tlog") {
        tlog::run(&table)?;
    }
    if wanted("rest") {
        rest::run(&table, brief)?;
    }
    Ok(())
}
