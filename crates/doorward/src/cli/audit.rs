//! `doorward audit`: reads the timeline from the store, while the gateway runs or when it does not.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use doorward_audit::personal::open::Reader;
use doorward_audit::query::{Filter, Row, Timeline};
use doorward_audit::{render, time};
use doorward_core::{Clock, Outcome, SystemClock, Verb};

use super::{EXIT_NOTHING, Source, note, out};
use crate::config::Config;

/// How often a follower looks for new rows; the gateway ships them within 250 ms.
const FOLLOW_EVERY: Duration = Duration::from_millis(300);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Shows the newest records, and then new ones as they come in.
    Tail {
        #[command(flatten)]
        which: Which,
        /// Shows what is there and ends.
        #[arg(long)]
        no_follow: bool,
    },
    /// Shows the records that match.
    Query {
        #[command(flatten)]
        which: Which,
    },
    /// Draws one call: each stage with its microseconds, and in words what went wrong.
    Trace {
        /// The access id: from an error, or the `Doorward-Access-Id` header.
        id: uuid::Uuid,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Not before: RFC 3339, or a span back from now such as 15m, 24h, 7d.
    #[arg(long)]
    since: Option<String>,
    /// Before: RFC 3339, or a span back from now.
    #[arg(long)]
    until: Option<String>,
    /// Subject, e-mail address, client id or subject id.
    #[arg(long)]
    principal: Option<String>,
    /// The resource's name.
    #[arg(long)]
    resource: Option<String>,
    /// read, list, write, delete, execute …
    #[arg(long, value_parser = verb)]
    verb: Option<String>,
    /// allowed, denied, limited, failed, abandoned or unknown.
    #[arg(long, value_parser = outcome)]
    outcome: Option<String>,
    /// The door's name.
    #[arg(long)]
    door: Option<String>,
    /// The most rows, the newest of those that match.
    #[arg(long)]
    limit: Option<usize>,
    /// One JSON object a line, keyed by the record's column names.
    #[arg(long)]
    json: bool,
}

fn verb(text: &str) -> Result<String, String> {
    let known = || Verb::ALL.map(Verb::as_str).join(", ");
    Verb::parse(text).map(|verb| verb.as_str().to_owned()).ok_or_else(|| format!("one of {}", known()))
}

fn outcome(text: &str) -> Result<String, String> {
    let known = Outcome::ALL.map(Outcome::as_str);
    let found = known.into_iter().find(|known| *known == text);
    found.map(str::to_owned).ok_or_else(|| format!("one of {}", known.join(", ")))
}

impl Which {
    fn filter(&self, reader: &mut Reader) -> anyhow::Result<Filter> {
        let moment =
            |text: &Option<String>| -> anyhow::Result<_> {
                let Some(text) = text else { return Ok(None) };
                let moment = time::parse(text, SystemClock.now());
                Ok(Some(moment.with_context(|| {
                    format!("{text:?} is neither a time (RFC 3339) nor a span such as 15m")
                })?))
            };
        let filter = Filter {
            since: moment(&self.since)?,
            until: moment(&self.until)?,
            principal: self.principal.clone(),
            resource: self.resource.clone(),
            verb: self.verb.clone(),
            outcome: self.outcome.clone(),
            door: self.door.clone(),
            limit: self.limit,
            ..Filter::default()
        };
        Ok(reader.filter(filter)?)
    }
}

pub(super) fn run(source: &Source, command: &Command) -> anyhow::Result<ExitCode> {
    let config = Config::read(&source.config, Arc::default())?;
    let Some(store) = config.root.store.path() else {
        bail!("reading a timeline that is kept in {} is not possible yet", config.root.store);
    };
    if !store.exists() {
        bail!("there is no store at {} yet; the gateway makes it when it first runs", store.display());
    }
    let timeline =
        Timeline::open(store).with_context(|| format!("the store {} cannot be read", store.display()))?;
    let mut reader = Reader::new(&config.root.audit());
    if let Some(why) = reader.trouble() {
        note(&format!("personal values stay sealed: {why}\n"));
    }
    match command {
        Command::Tail { which, no_follow } => tail(&timeline, &mut reader, which, !no_follow),
        Command::Query { which } => query(&timeline, &mut reader, which),
        Command::Trace { id, json } => trace(&timeline, &mut reader, *id, *json),
    }
}

fn query(timeline: &Timeline, reader: &mut Reader, which: &Which) -> anyhow::Result<ExitCode> {
    let filter = which.filter(reader)?;
    let (rows, gaps) = (reader.rows(&timeline.query(&filter)?), timeline.gaps(&filter)?);
    if which.json {
        out(&render::json_lines(&rows))?;
        for gap in &gaps {
            out(&render::gap_json(gap))?;
        }
    } else if rows.is_empty() && gaps.is_empty() {
        out("no records match\n")?;
    } else {
        out(&render::table(&rows, &gaps))?;
    }
    Ok(if rows.is_empty() { ExitCode::from(EXIT_NOTHING) } else { ExitCode::SUCCESS })
}

fn tail(timeline: &Timeline, reader: &mut Reader, which: &Which, follow: bool) -> anyhow::Result<ExitCode> {
    /// The rows that a tail begins with.
    const FIRST_ROWS: usize = 20;
    let mut filter = which.filter(reader)?;
    filter.limit = Some(which.limit.unwrap_or(FIRST_ROWS));
    let mut place = timeline.newest()?;
    show(&reader.rows(&timeline.query(&filter)?), which.json, true)?;
    if !follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        std::thread::park_timeout(FOLLOW_EVERY);
        let (rows, next) = timeline.follow(&filter, place)?;
        place = next;
        show(&reader.rows(&rows), which.json, false)?;
    }
}

fn show(rows: &[Row], json: bool, first: bool) -> anyhow::Result<()> {
    match (json, first) {
        (true, _) => out(&render::json_lines(rows)),
        (false, true) => out(&render::table(rows, &[])),
        (false, false) => out(&render::follow(rows)),
    }
}

fn trace(timeline: &Timeline, reader: &mut Reader, id: uuid::Uuid, json: bool) -> anyhow::Result<ExitCode> {
    let rows = reader.rows(&timeline.trace(id)?);
    if rows.is_empty() {
        out(&format!("no record of {id}; a call that has just ended arrives within a second\n"))?;
        return Ok(ExitCode::from(EXIT_NOTHING));
    }
    out(&if json { render::json_lines(&rows) } else { render::trace(&rows) })?;
    Ok(ExitCode::SUCCESS)
}
