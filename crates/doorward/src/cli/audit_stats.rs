//! `doorward audit stats`: traffic, errors, latency, usage and quotas on the terminal.

use std::process::ExitCode;

use anyhow::bail;
use doorward_audit::query::Timeline;
use doorward_audit::query::stats::{By, LIST_MAX, Question};
use doorward_audit::render;
use doorward_core::{Clock, SystemClock, Timestamp};

use super::{EXIT_NOTHING, moment, one_of, out};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// From when: RFC 3339, a date, or a span back from now such as 15m, 24h, 7d.
    #[arg(long, default_value = "24h", value_parser = moment)]
    since: Timestamp,
    /// Until when: RFC 3339, a date, or a span back from now. The default is now.
    #[arg(long, value_parser = moment)]
    until: Option<Timestamp>,
    /// What calls are told apart by: endpoint, resource, principal, door, api_version, config or source.
    #[arg(long, default_value = "endpoint", value_parser = one_of(&By::ALL, By::as_str), hide_possible_values = true)]
    by: By,
    /// The most rows of each list.
    #[arg(long, default_value_t = 10)]
    limit: usize,
    /// One JSON object with everything; times in microseconds.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(timeline: &Timeline, args: &Args) -> anyhow::Result<ExitCode> {
    let (since, until) = (args.since, args.until.unwrap_or_else(|| SystemClock.now()));
    if since >= until {
        bail!("--since is not before --until: there is no time between them");
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
