//! Rows of the timeline as people and machines read them.
//!
//! Constraints: pure; each function returns text. Whatever a caller may have chosen (names, paths, user
//! agents) is printed with its control characters escaped, so that a record cannot steer the terminal that
//! shows it.

mod csv;
mod stats;

use std::fmt::Write as _;
use std::time::Duration;

use doorward_core::{Outcome, Stage, Timestamp};
use serde_json::{Map, Value};

use crate::columns::{COLUMNS, Type};
use crate::query::{Cell, GapRow, Row};
use crate::sinks::ocsf;
use crate::time::{rfc3339, span};

pub use csv::{csv, csv_heading};
pub use stats::{sparkline, stats};

/// The widest that a cell of a table becomes, in characters.
const CELL_MAX: usize = 48;
/// Characters of a timeline's bar.
const BAR: usize = 40;

const HEADINGS: [&str; 9] =
    ["TIME", "OUTCOME", "WHO", "ACTION", "STATUS", "ROWS", "TOOK", "WHY", "ACCESS ID"];

/// A table for a terminal, with gaps where they belong in time.
pub fn table(rows: &[Row], gaps: &[GapRow]) -> String {
    let lines: Vec<[String; 9]> = rows.iter().map(table_line).collect();
    let mut widths = HEADINGS.map(str::len);
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    put_line(&mut out, &HEADINGS.map(str::to_owned), &widths);
    let mut gaps = gaps.iter().peekable();
    for (row, line) in rows.iter().zip(&lines) {
        while let Some(gap) = gaps.next_if(|gap| Some(gap.from.micros()) <= row.int("ts")) {
            out.push_str(&self::gap(gap));
        }
        put_line(&mut out, line, &widths);
    }
    for gap in gaps {
        out.push_str(&self::gap(gap));
    }
    out
}

/// The lines of a table without its heading, for following; columns have fixed widths.
pub fn follow(rows: &[Row]) -> String {
    const WIDTHS: [usize; 9] = [27, 9, 28, 36, 6, 6, 8, 28, 36];
    let mut out = String::new();
    for row in rows {
        put_line(&mut out, &table_line(row), &WIDTHS);
    }
    out
}

/// One gap as a line of text.
pub fn gap(gap: &GapRow) -> String {
    let count = match gap.lost {
        0 => "an unknown number of records".to_owned(),
        1 => "1 record".to_owned(),
        many => format!("{many} records"),
    };
    let (from, until) = (rfc3339(gap.from), rfc3339(gap.until));
    let (gateway, reason) = (plain(&gap.gateway_id), plain(&gap.reason));
    format!("-- gap: {count} lost by {gateway} between {from} and {until}: {reason} --\n")
}

/// One JSON object a line, keyed by the columns' names; what is not known is left out.
pub fn json_lines(rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows {
        out.push_str(&json(row).to_string());
        out.push('\n');
    }
    out
}

/// A gap as one line of JSON; its keys are its own, so that it cannot be taken for a record.
pub fn gap_json(gap: &GapRow) -> String {
    let line = serde_json::json!({
        "gap": {"lost": gap.lost, "from": rfc3339(gap.from), "until": rfc3339(gap.until),
                "gateway_id": gap.gateway_id, "reason": gap.reason}
    });
    format!("{line}\n")
}

/// One OCSF event a line: the same events as a sink's with `format: ocsf`.
pub fn ocsf_lines(rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows {
        if let Value::Object(columns) = json(row) {
            out.push_str(&ocsf::event(&columns).to_string());
            out.push('\n');
        }
    }
    out
}

/// A gap as an OCSF event on one line.
pub fn ocsf_gap(gap: &GapRow) -> String {
    format!("{}\n", ocsf::missing(gap))
}

/// One row as a JSON object.
pub fn json(row: &Row) -> Value {
    let mut object = Map::new();
    for (column, cell) in COLUMNS.iter().zip(row.cells()) {
        let value = match (column.ty, cell) {
            (_, Cell::Null) => continue,
            (Type::Time, Cell::Int(micros)) => Value::from(rfc3339(Timestamp::from_micros(*micros))),
            (_, Cell::Int(number)) => Value::from(*number),
            (Type::Json, Cell::Text(text)) => {
                serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()))
            }
            (_, Cell::Text(text)) => Value::from(text.as_str()),
        };
        object.insert(column.name.to_owned(), value);
    }
    Value::Object(object)
}

/// The story of one call: who, what, the decision, the result, the timeline, and what went wrong.
pub fn trace(rows: &[Row]) -> String {
    let Some(row) = rows.first() else { return String::new() };
    let mut out = String::new();
    let heading = [row.text("access_id").unwrap_or("-"), row.text("outcome").unwrap_or("-"), &time(row)];
    let _ = writeln!(out, "{}", heading.map(plain).join("  "));
    out.push('\n');
    put_fact(&mut out, "who", &who_at_length(row));
    for (index, row) in rows.iter().enumerate() {
        put_fact(&mut out, if index == 0 { "what" } else { "" }, &action(row));
    }
    put_fact(&mut out, "through", &through(row));
    put_fact(&mut out, "decided by", &decision(row));
    put_fact(&mut out, "result", &result(row));
    put_fact(&mut out, "trace", &row.text("trace_id").map(plain).unwrap_or_default());
    out.push('\n');
    put_timeline(&mut out, row);
    let words = explanation(row);
    if !words.is_empty() {
        out.push('\n');
        for line in words {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

/// What went wrong with a call, in sentences; nothing when it went well.
pub fn explanation(row: &Row) -> Vec<String> {
    let mut words = Vec::new();
    match row.text("outcome") {
        Some(outcome) if outcome == Outcome::Abandoned.as_str() => {
            let stage = reached(row).map_or("accept", |(stage, _)| stage.as_str());
            words.push(format!("The caller went away while the call was in stage {stage}."));
        }
        Some(outcome) if outcome == Outcome::Unknown.as_str() => {
            words.push(
                "The gateway ended between this call's intent and its completion. \
                 Whether the backend did it is not known; look there."
                    .to_owned(),
            );
        }
        _ => {}
    }
    let Some(code) = row.text("fault_code") else { return words };
    let (stage, slug) = code.split_once('.').unwrap_or(("", code));
    let side = match row.text("fault_side") {
        Some("client") => "the caller's",
        Some("backend") => "the backend's",
        _ => "the gateway's",
    };
    words.push(format!("{} at stage {} ({}), on {side} side.", verdict(row), plain(stage), plain(code)));
    words.push(format!("What failed: {}.", plain(&slug.replace('-', " "))));
    if let Some(public) = row.text("fault_public") {
        words.push(format!("The caller was told: {}", plain(public)));
    }
    if let Some(cause) = row.text("fault_cause") {
        words.push(format!("The cause: {}", plain(cause)));
    }
    if let Some(sqlstate) = row.text("sqlstate") {
        words.push(format!("The backend's code: {}", plain(sqlstate)));
    }
    words.extend(hint(row, stage));
    words
}

fn verdict(row: &Row) -> &'static str {
    match row.text("outcome") {
        Some("failed") => "Failed",
        Some("limited") => "Held back",
        _ => "Refused",
    }
}

/// What to do next, by the stage that said no.
fn hint(row: &Row, stage: &str) -> Option<String> {
    let text = match (stage, row.text("grant")) {
        ("authenticate", _) => {
            "Next: `doorward check` shows the issuers; compare them with the token's `iss`, `aud` and `exp`."
                .to_owned()
        }
        ("authorize", rule) => {
            let rule = match rule {
                Some(rule) => format!("The rule `{}` decided. ", plain(rule)),
                None => "No grant allows all actions of this call. ".to_owned(),
            };
            format!("{rule}Next: `{}`", explain_command(row))
        }
        ("limit", Some(grant)) => {
            format!("The limit of grant `{}` was used up. Next: wait, or raise its `limit`.", plain(grant))
        }
        ("lease" | "forward", _) if row.text("fault_side") == Some("backend") => {
            "Next: look at the backend's own log at this time.".to_owned()
        }
        ("record", _) => "Next: /readyz says how the spool and the store are.".to_owned(),
        _ => return None,
    };
    Some(text)
}

/// The command that shows how this decision comes about.
fn explain_command(row: &Row) -> String {
    let who = row.text("principal_email").or_else(|| row.text("principal_subject"));
    let mut command = "doorward explain".to_owned();
    if let Some(who) = who {
        let _ = write!(command, " --as {}", quoted(who));
    }
    let groups: Vec<String> =
        row.text("groups").and_then(|groups| serde_json::from_str(groups).ok()).unwrap_or_default();
    if !groups.is_empty() {
        let _ = write!(command, " --groups {}", quoted(&groups.join(",")));
    }
    let _ = write!(command, " {}", row.text("verb").unwrap_or("VERB"));
    let _ = write!(command, " {}", quoted(&path(row)));
    command
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    let safe = |c: char| c.is_alphanumeric() || "-_.,/@:+%=".contains(c);
    let text = plain(text);
    if text.chars().all(safe) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn table_line(row: &Row) -> [String; 9] {
    let text = |column: &str| row.text(column).map(plain);
    let number = |column: &str| row.int(column).map(|number| number.to_string());
    let why = text("fault_code").or_else(|| text("grant"));
    let cells = [
        Some(time(row)),
        text("outcome"),
        Some(who(row)),
        Some(action(row)),
        number("status"),
        number("rows"),
        Some(took(row)),
        why,
        text("access_id"),
    ];
    cells.map(|cell| cut(&cell.unwrap_or_else(|| "-".to_owned())))
}

fn put_line(out: &mut String, cells: &[String; 9], widths: &[usize; 9]) {
    let line: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    out.push_str(line.join("  ").trim_end());
    out.push('\n');
}

fn put_fact(out: &mut String, name: &str, fact: &str) {
    if !fact.is_empty() {
        let _ = writeln!(out, "  {name:<12}{fact}");
    }
}

/// Each stage as a bar on the time of the whole call.
fn put_timeline(out: &mut String, row: &Row) {
    let stages: Vec<(Stage, u64)> = stages(row).collect();
    let total = stages.iter().map(|(_, micros)| micros).sum::<u64>().max(1);
    let place = |micros: u64| {
        usize::try_from(micros.saturating_mul(u64::try_from(BAR).unwrap_or(0)) / total).unwrap_or(BAR)
    };
    let mut before = 0;
    for (stage, micros) in stages {
        let (start, end) = (place(before).min(BAR - 1), place(before + micros));
        let (indent, bar) = (" ".repeat(start), "█".repeat(end.saturating_sub(start).max(1)));
        let _ = writeln!(
            out,
            "  {:<13}{:>10}  {indent}{bar}",
            stage.as_str(),
            span(Duration::from_micros(micros))
        );
        before += micros;
    }
    let _ = writeln!(out, "  {:<13}{:>10}", "total", took(row));
}

fn stages(row: &Row) -> impl Iterator<Item = (Stage, u64)> + '_ {
    Stage::ALL.into_iter().filter_map(|stage| {
        let micros = row.int(&format!("{}_us", stage.as_str()))?;
        Some((stage, u64::try_from(micros).ok()?))
    })
}

fn reached(row: &Row) -> Option<(Stage, u64)> {
    stages(row).last()
}

fn time(row: &Row) -> String {
    row.int("ts").map_or_else(|| "-".to_owned(), |micros| rfc3339(Timestamp::from_micros(micros)))
}

fn took(row: &Row) -> String {
    let micros = row.int("duration_us").and_then(|micros| u64::try_from(micros).ok());
    micros.map_or_else(|| "-".to_owned(), |micros| span(Duration::from_micros(micros)))
}

fn who(row: &Row) -> String {
    let name = row.text("principal_email").or_else(|| row.text("principal_subject"));
    plain(name.or_else(|| row.text("principal_kind")).unwrap_or("-"))
}

fn who_at_length(row: &Row) -> String {
    let mut text = who(row);
    let details: Vec<String> = ["principal_kind", "principal_issuer", "auth_method"]
        .iter()
        .filter_map(|column| row.text(column).map(plain))
        .collect();
    if !details.is_empty() {
        let _ = write!(text, " ({})", details.join(", "));
    }
    if let Some(chain) = row.text("on_behalf_of") {
        let _ = write!(text, ", acted for by {}", plain(chain));
    }
    if let Some(ip) = row.text("source_ip") {
        let _ = write!(text, " from {}", plain(ip));
    }
    text
}

fn path(row: &Row) -> String {
    match (row.text("resource"), row.text("object")) {
        (Some(resource), Some(object)) => format!("{resource}/{object}"),
        (Some(resource), None) => resource.to_owned(),
        (None, _) => "-".to_owned(),
    }
}

fn action(row: &Row) -> String {
    match row.text("verb") {
        Some(verb) => plain(&format!("{verb} {}", path(row))),
        None => plain(row.text("operation").or_else(|| row.text("endpoint")).unwrap_or("-")),
    }
}

fn through(row: &Row) -> String {
    let parts = ["door", "endpoint", "operation"].iter().filter_map(|column| row.text(column).map(plain));
    parts.collect::<Vec<_>>().join(": ")
}

fn decision(row: &Row) -> String {
    let mut parts = Vec::new();
    if let Some(grant) = row.text("grant") {
        parts.push(format!("rule {}", plain(grant)));
    }
    if let Some(role) = row.text("backend_role") {
        parts.push(format!("role {}", plain(role)));
    }
    if let Some(left) = row.int("limit_remaining") {
        parts.push(format!("{left} calls left"));
    }
    if let Some(digest) = row.text("config_digest") {
        parts.push(format!("configuration {}", plain(digest)));
    }
    parts.join(", ")
}

fn result(row: &Row) -> String {
    let mut parts = Vec::new();
    if let Some(status) = row.int("status") {
        parts.push(format!("status {status}"));
    }
    if let Some(rows) = row.int("rows") {
        parts.push(format!("{rows} rows"));
    }
    for (column, words) in [("bytes_in", "bytes in"), ("bytes_out", "bytes out")] {
        if let Some(bytes) = row.int(column) {
            parts.push(format!("{bytes} {words}"));
        }
    }
    parts.join(", ")
}

/// Text without control characters and without marks that turn the direction of writing.
fn plain(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || turns(c) {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(CELL_MAX) {
        None => text.to_owned(),
        Some(_) => text.chars().take(CELL_MAX - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests;
