//! `doorward audit export`: a person's own data, for the person (GDPR Art. 15 and 20).
//!
//! What it gives: the mapping (issuer, subject, addresses, ids), and each record of the person's calls with its
//! values opened. What it leaves out: other people in those records (`on_behalf_of`, and `act` in the claims),
//! and what only the operator is told of a fault.

use std::process::ExitCode;

use doorward_audit::admin::Deed;
use doorward_audit::columns::COLUMNS;
use doorward_audit::personal::open::{Found, Opener};
use doorward_audit::query::{Cell, Row, Timeline};
use doorward_audit::render;
use doorward_audit::time::rfc3339;
use doorward_core::{Clock, SystemClock, Timestamp, Verb};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::audit_erase::records_of;
use super::audit_person::{WhomArgs, deeds, keys, subject_object};
use super::{EXIT_NOTHING, note, out};
use crate::config::Config;

/// Stands for what is about somebody else.
const REDACTED: &str = "redacted";
/// Claims that name others.
const CLAIMS_OF_OTHERS: &[&str] = &["act", "may_act"];

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    whom: WhomArgs,
    /// One JSON object a line (the mapping first), or comma-separated values (the mapping on standard error).
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Jsonl,
    Csv,
}

pub(super) fn run(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let mut opener = keys(config)?;
    let found = args.whom.find(&mut opener)?;
    if found.iter().all(|found| found.person.is_none()) {
        note("the key store knows nobody by that; who was erased cannot be exported\n");
        return Ok(ExitCode::from(EXIT_NOTHING));
    }
    let ids: Vec<Uuid> = found.iter().map(|found| found.id).collect();
    let deeds = deeds(config)?;
    let begun = deeds.begin(&Deed {
        endpoint: "audit export",
        verb: Verb::Read,
        objects: ids.iter().map(|id| subject_object(*id)).collect(),
        ext: Map::new(),
    })?;
    let written = write(config, &mut opener, &found, &ids, args.format);
    begun.end(written.is_ok(), written.as_ref().ok().copied())?;
    deeds.finish();
    let records = written?;
    note(&format!("{records} records\n"));
    Ok(ExitCode::SUCCESS)
}

fn write(
    config: &Config,
    opener: &mut Opener,
    found: &[Found],
    ids: &[Uuid],
    format: Format,
) -> anyhow::Result<u64> {
    let mapping = format!("{}\n", mapping(found));
    match format {
        Format::Jsonl => out(&mapping)?,
        Format::Csv => {
            note(&mapping);
            out(&render::csv_heading())?;
        }
    }
    let (mut records, mut failed) = (0, None);
    Timeline::connect(&config.root.store)?.each(&records_of(ids), &mut |row| {
        let row = own(&opener.row(&row));
        let line = match format {
            Format::Jsonl => render::json_lines(std::slice::from_ref(&row)),
            Format::Csv => render::csv(&row),
        };
        records += 1;
        failed = out(&line).err();
        failed.is_none()
    })?;
    failed.map_or(Ok(records), Err)
}

/// Who the person is to the timeline.
fn mapping(found: &[Found]) -> Value {
    let ids = found.iter().filter_map(|found| {
        let person = found.person.as_ref()?;
        Some(json!({
            "subject_id": found.id.to_string(), "since": rfc3339(Timestamp::from_micros(found.created_us)),
            "issuer": person.issuer, "subject": person.subject, "emails": person.emails,
        }))
    });
    json!({ "person": { "ids": ids.collect::<Vec<_>>(), "exported": rfc3339(SystemClock.now()) } })
}

/// The row without what is about others, or for the operator alone.
fn own(row: &Row) -> Row {
    let cells = COLUMNS.iter().zip(row.cells()).map(|(column, cell)| match (column.name, cell) {
        ("fault_cause", _) => Cell::Null,
        ("on_behalf_of", Cell::Text(text)) => Cell::Text(without_actors(text)),
        ("claims", Cell::Text(text)) => Cell::Text(without_others(text)),
        (_, cell) => cell.clone(),
    });
    Row::new(cells.collect())
}

fn without_actors(text: &str) -> String {
    let actors = serde_json::from_str::<Vec<Value>>(text).map_or(1, |actors| actors.len());
    json!(vec![REDACTED; actors]).to_string()
}

fn without_others(text: &str) -> String {
    let Ok(Value::Object(mut claims)) = serde_json::from_str(text) else { return text.to_owned() };
    for name in CLAIMS_OF_OTHERS {
        if let Some(claim) = claims.get_mut(*name) {
            *claim = Value::from(REDACTED);
        }
    }
    Value::Object(claims).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_left_out() {
        assert_eq!(
            without_actors(r#"[{"iss":"a","sub":"bob"},{"sub":"eve"}]"#),
            r#"["redacted","redacted"]"#
        );
        assert_eq!(without_actors("erased"), r#"["redacted"]"#);
        let claims = r#"{"sub":"ann","act":{"sub":"bob"},"groups":["x"]}"#;
        assert_eq!(without_others(claims), r#"{"sub":"ann","act":"redacted","groups":["x"]}"#);
        assert_eq!(without_others("\"erased\""), "\"erased\"");
    }
}
