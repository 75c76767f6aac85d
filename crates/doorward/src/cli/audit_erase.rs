//! `doorward audit erase`: destroys a person's key and mapping, so that nobody can read who did what any more;
//! `doorward audit rewrap`: puts the keys under another master key.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use doorward_audit::admin::Deed;
use doorward_audit::hold::{Hold, HoldError, Holds};
use doorward_audit::personal::open::{Found, Opener};
use doorward_audit::query::{Cell, Filter, Row, Timeline};
use doorward_audit::time::rfc3339;
use doorward_audit::waiting;
use doorward_core::{Clock, SystemClock, Timestamp, Verb};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::audit_person::{WhomArgs, account, deeds, keys, subject_object};
use super::{EXIT_NOTHING, out};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    whom: WhomArgs,
    /// Does it. Without this, the command says what it would do.
    #[arg(long)]
    yes: bool,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RewrapArgs {
    /// Lets the keys be opened by the old master keys too, while some gateways still have only those.
    #[arg(long)]
    keep_old: bool,
}

/// How long records that are on their way to the store are waited for.
const SHIP_WAIT: Duration = Duration::from_secs(10);

/// What is there of a person.
#[derive(Default)]
struct Extent {
    records: u64,
    /// Records that hold a personal value in clear: they are of before values were sealed.
    clear: u64,
}

pub(super) fn run(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let mut opener = keys(config)?;
    let found = args.whom.find(&mut opener)?;
    let ids: Vec<Uuid> = found.iter().map(|found| found.id).collect();
    let open: Vec<Uuid> = found.iter().filter(|found| found.person.is_some()).map(|found| found.id).collect();
    if open.is_empty() {
        return nobody(&mut opener, &ids, args.yes);
    }
    let extent = extent(config, &ids)?;
    let holds = holds(config, &ids)?;
    let deed = Deed {
        endpoint: "audit erase",
        verb: Verb::Delete,
        objects: open.iter().map(|id| subject_object(*id)).collect(),
        ext: hold_ids(&holds),
    };
    if !holds.is_empty() {
        if args.yes {
            let deeds = deeds(config)?;
            deeds.refused(&deed)?;
            deeds.finish();
        }
        bail!("{}", refusal(&holds));
    }
    if !args.yes {
        out(&tell(args.json, "would erase", &found, &extent)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let deeds = deeds(config)?;
    let begun = deeds.begin(&deed)?;
    let done = opener.erase(&open, SystemClock.now().micros());
    begun.end(done.is_ok(), Some(u64::try_from(open.len()).unwrap_or(u64::MAX)))?;
    let shipped = deeds.finish();
    done.context("the erasure is not complete")?;
    out(&tell(args.json, "erased", &found, &extent)?)?;
    if !shipped {
        super::note("the record of this waits in the spool; the next such command carries it to the store\n");
    }
    Ok(ExitCode::SUCCESS)
}

fn nobody(opener: &mut Opener, ids: &[Uuid], wipe: bool) -> anyhow::Result<ExitCode> {
    for id in ids {
        if let Some(at) = opener.erased_at(*id)? {
            if wipe {
                // The first time may not have got as far as wiping the key store's files.
                opener.erase(&[*id], at)?;
            }
            out(&format!("{id} was erased at {}\n", rfc3339(Timestamp::from_micros(at))))?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    out("the key store knows nobody by that\n")?;
    Ok(ExitCode::from(EXIT_NOTHING))
}

/// The filter that finds all records of these ids.
pub(super) fn records_of(ids: &[Uuid]) -> Filter {
    let principal = ids.first().map(ToString::to_string);
    Filter { principal, subject_ids: ids.to_vec(), ..Filter::default() }
}

fn extent(config: &Config, ids: &[Uuid]) -> anyhow::Result<Extent> {
    let mut extent = Extent::default();
    if config.root.store.path().is_some_and(|path| !path.exists()) {
        return Ok(extent);
    }
    Timeline::connect(&config.root.store)?.each(&records_of(ids), &mut |row| {
        extent.records += 1;
        extent.clear += u64::from(clear(&row));
        true
    })?;
    Ok(extent)
}

/// Whether a personal value of the row is not sealed.
fn clear(row: &Row) -> bool {
    let cells = doorward_audit::columns::COLUMNS.iter().zip(row.cells());
    let sealed = |text: &str| {
        let text = text.trim_start_matches('"');
        text.starts_with("p1.") || text.starts_with("d1.")
    };
    cells
        .into_iter()
        .any(|(column, cell)| column.personal && matches!(cell, Cell::Text(text) if !sealed(text)))
}

fn holds(config: &Config, ids: &[Uuid]) -> anyhow::Result<Vec<Hold>> {
    match Holds::open(&config.root.store) {
        Ok(mut holds) => {
            shipped(config, &holds.list(false)?)?;
            Ok(holds.covering(ids)?)
        }
        // Without a store there is nothing to hold.
        Err(HoldError::Missing(_)) => Ok(Vec::new()),
        Err(error) => Err(error).context("whether a legal hold covers the person cannot be found out"),
    }
}

/// A hold over a resource or a time covers whoever has records there: those that are on their way to the store count.
fn shipped(config: &Config, holds: &[Hold]) -> anyhow::Result<()> {
    let by_records = |hold: &&Hold| {
        hold.subject_id.is_none() && (hold.resource.is_some() || hold.from.is_some() || hold.until.is_some())
    };
    let Some(hold) = holds.iter().find(by_records) else { return Ok(()) };
    let waits = waiting::waiting(&config.root.audit(), SHIP_WAIT)
        .context("whether a legal hold covers records that wait in the spool cannot be found out")?;
    if let Some(dir) = waits {
        bail!(
            "records wait in the spool {}, and the legal hold {} may cover some of them, so nothing is erased; when the \
             store has them (start the gateway, or `doorward spool drain`), do it again",
            dir.display(),
            hold.name
        );
    }
    Ok(())
}

fn hold_ids(holds: &[Hold]) -> Map<String, Value> {
    let ids: Vec<Value> = holds.iter().map(|hold| Value::from(hold.id.to_string())).collect();
    let mut ext = Map::new();
    if !ids.is_empty() {
        ext.insert("legal_holds".to_owned(), ids.into());
    }
    ext
}

fn refusal(holds: &[Hold]) -> String {
    let mut text = String::from("a legal hold covers the person, so nothing is erased:");
    for hold in holds {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n  {} ({}), laid by {} on {}",
            hold.name,
            hold.id,
            hold.created_by,
            rfc3339(hold.created)
        );
    }
    text.push_str("\nrelease it with `doorward audit hold release NAME` when it has ended");
    text
}

fn tell(as_json: bool, what: &str, found: &[Found], extent: &Extent) -> anyhow::Result<String> {
    let persons = found.iter().filter_map(|found| found.person.as_ref());
    let ids: Vec<String> = found.iter().map(|found| found.id.to_string()).collect();
    if as_json {
        let done = what == "erased";
        let line = json!({
            "erased": done, "subject_ids": ids, "records": extent.records, "records_in_clear": extent.clear,
        });
        return Ok(format!("{line}\n"));
    }
    let mut accounts: Vec<String> = persons.map(account).collect();
    accounts.dedup();
    let mut text = format!("{what}: {}\n", accounts.join(", "));
    writeln!(text, "ids: {}", ids.join(", "))?;
    writeln!(text, "records: {}, which stay, with their proofs, and name nobody", extent.records)?;
    if extent.clear > 0 {
        writeln!(
            text,
            "warning: {} of them are of before values were sealed, and hold them in clear until retention removes them",
            extent.clear
        )?;
    }
    if what != "erased" {
        text.push_str("nothing was done; add --yes to do it. It cannot be undone.\n");
    }
    Ok(text)
}

/// Puts the keys under the configured master key.
pub(super) fn rewrap(config: &Config, args: &RewrapArgs) -> anyhow::Result<ExitCode> {
    let mut opener = keys(config)?;
    let deeds = deeds(config)?;
    let begun = deeds.begin(&Deed {
        endpoint: "audit rewrap",
        verb: Verb::Manage,
        objects: vec![vec!["keys".to_owned()]],
        ext: Map::new(),
    })?;
    let done = opener.rewrap(args.keep_old);
    begun.end(done.is_ok(), None)?;
    deeds.finish();
    let id = done?;
    let others = if args.keep_old { "; the old master keys open them too" } else { " alone" };
    out(&format!("the keys lie under the master key {id}{others}\n"))?;
    Ok(ExitCode::SUCCESS)
}
