//! `doorward who-can`: the grants by which somebody may do something, and the deny rules against them.

use std::fmt::Write;
use std::process::ExitCode;
use std::sync::Arc;

use doorward_policy::Holder;
use serde_json::json;

use super::explain::Wanted;
use super::{EXIT_NOTHING, Source, out, read};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    wanted: Wanted,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(source: &Source, args: &Args) -> anyhow::Result<ExitCode> {
    let config = read(source, Arc::default())?;
    let action = args.wanted.action()?;
    let found = config.policy.who_can(action.verb, &action.resource, &action.object);
    let mut text = String::new();
    for (kind, holders) in [("grant", &found.grants), ("deny", &found.denies)] {
        for holder in holders {
            line(&mut text, kind, holder, args.json)?;
        }
    }
    let nobody = found.grants.is_empty();
    if nobody && !args.json {
        writeln!(text, "nobody may {action}")?;
    }
    out(&text)?;
    Ok(if nobody { ExitCode::from(EXIT_NOTHING) } else { ExitCode::SUCCESS })
}

/// One rule: who may (or may not) do what, and how.
pub(super) fn line(text: &mut String, kind: &str, holder: &Holder, as_json: bool) -> std::fmt::Result {
    if as_json {
        let object = json!({
            "kind": kind, "rule": holder.name.as_str(), "to": holder.to, "actions": holder.actions,
            "when": holder.when, "role": holder.role, "at": holder.position.to_string(),
        });
        return writeln!(text, "{object}");
    }
    let verb = if kind == "grant" { "may" } else { "may not" };
    write!(text, "{} {verb} {}", holder.to.join(", "), holder.actions.join(", "))?;
    write!(text, ", by {kind} {} ({})", holder.name, holder.position)?;
    if let Some(role) = &holder.role {
        write!(text, ", as {role}")?;
    }
    if let Some(when) = &holder.when {
        write!(text, ", when {when}")?;
    }
    writeln!(text)
}
