//! Benchmarks. `make bench` runs all groups, `make bench ONLY=rest` one, `ONLY=audit/spool` a part of one; `JSON=1`
//! prints one JSON object a line, `BRIEF=1` makes the longest ones shorter. Nothing here is a test: a figure
//! that misses its bound says so, and the program ends well.

mod audit;
mod audit_pg;
mod core;
mod dashboards;
mod floor;
mod latency;
mod postgres;
mod process;
mod rest;
mod table;
mod tlog;

use anyhow::{Result, anyhow, bail};
use table::Table;

// What is measured inside this process should run as it does in the gateway, which has the same one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The flag: whether it is to be brief.
type Part = fn(&Table, bool) -> Result<()>;

/// What there is to measure, in order. A group is what stands before the slash.
const PARTS: &[(&str, Part)] = &[
    ("core", |table, _| core::run(table)),
    ("audit/spool", |table, _| audit::spool(table)),
    ("audit/sqlite", |table, _| audit::sqlite(table)),
    ("audit/latency", |table, _| audit::waiting(table)),
    ("audit/postgres", |table, _| audit_pg::run(table)),
    ("audit/dashboards", |table, _| dashboards::run(table)),
    ("tlog", |table, _| tlog::run(table)),
    ("rest", rest::run),
    ("postgres/simple", |table, brief| postgres::transactions(table, brief, "simple")),
    ("postgres/extended", |table, brief| postgres::transactions(table, brief, "extended")),
    ("postgres/prepared", |table, brief| postgres::transactions(table, brief, "prepared")),
    ("postgres/latency", postgres::latency),
    ("postgres/shipping", postgres::shipping),
    ("postgres/bulk", postgres::bulk),
    ("postgres/idle", postgres::idle),
];

fn main() -> Result<()> {
    let mut only: Option<String> = None;
    let (mut json, mut brief) = (false, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "floor" => return floor::serve(),
            "--json" => json = true,
            "--brief" => brief = true,
            "--only" => only = Some(arguments.next().ok_or_else(|| anyhow!("--only wants a group"))?),
            other => bail!("unknown argument {other:?}; known: --only GROUP, --json, --brief"),
        }
    }
    let group = |name: &'static str| name.split('/').next().unwrap_or(name);
    let wanted = |name: &'static str| only.as_deref().is_none_or(|only| only == name || only == group(name));
    let parts: Vec<Part> = PARTS.iter().filter(|(name, _)| wanted(name)).map(|(_, part)| *part).collect();
    if parts.is_empty() {
        let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
        bail!("nothing is called {:?}; parts: {}", only.unwrap_or_default(), names.join(", "));
    }
    let table = Table::new(json);
    parts.into_iter().try_for_each(|part| part(&table, brief))
}
