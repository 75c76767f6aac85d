//! `doorward audit stats`: traffic, errors, latency, usage and quotas on the terminal.

use std::process::ExitCode;

use anyhow::{Context, bail};
use doorward_audit::query::Timeline;
use doorward_audit::query::stats::{By, LIST_MAX, Question};
use doorward_audit::{render, time};
use doorward_core::{Clock, SystemClock};

use super::{EXIT_NOTHING, out};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// From when: RFC 3339, or a span back from now such as 15m, 24h, 7d.
    #[arg(long, default_value = "24h")]
    since: String,
    /// Until when: RFC 3339, or a span back from now. The default is now.
    #[arg(long)]
    until: Option<String>,
    /// What calls are told apart by: endpoint, resource, principal, door, api_version, config or source.
    #[arg(long, default_value = "endpoint", value_parser = by)]
    by: By,
    /// The most rows of each list.
    #[arg(long, default_value_t = 10)]
    limit: usize,
    /// One JSON object with everything; times in microseconds.
    #[arg(long)]
    json: bool,
}

fn by(text: &str) -> Result<By, String> {
    let found = By::ALL.into_iter().find(|by| by.as_str() == text);
    found.ok_or_else(|| format!("one of {}", By::ALL.map(By::as_str).join(", ")))
}

pub(super) fn run(timeline: &Timeline, args: &Args) -> anyhow::Result<ExitCode> {
    let now = SystemClock.now();
    let moment = |text: &str| {
        let moment = time::parse(text, now);
        moment.with_context(|| format!("{text:?} is neither a time (RFC 3339) nor a span such as 15m"))
    };
    let since = moment(&args.since)?;
    let until = args.until.as_deref().map_or(Ok(now), moment)?;
    if since >= until {
        bail!("--since {} is not before --until: there is no time between them", args.since);
    }
    let question = Question { since, until, by: args.by, limit: args.limit.clamp(1, LIST_MAX) };
    let stats = timeline.stats(&question)?;
    if args.json {
        out(&format!("{}\n", serde_json::to_string(&stats)?))?;
    } else {
        out(&render::stats(&stats))?;
    }
    Ok(if stats.total.calls == 0 { ExitCode::from(EXIT_NOTHING) } else { ExitCode::SUCCESS })
}
