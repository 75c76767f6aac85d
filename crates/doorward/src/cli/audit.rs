//! `doorward audit`: reads the timeline from the store, while the gateway runs or when it does not.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use doorward_audit::personal::open::Reader;
use doorward_audit::query::{Filter, GapRow, LIMIT_MAX, Row, Timeline};
use doorward_audit::render;
use doorward_core::{Outcome, Timestamp, Verb};

use super::{
    EXIT_NOTHING, Source, audit_erase, audit_export, audit_hold, audit_owed, audit_prove, audit_stats,
    audit_verify, moment, note, one_of, out,
};
use crate::config::Config;

/// How often a follower looks for new rows; the gateway ships them within 250 ms.
const FOLLOW_EVERY: Duration = Duration::from_millis(300);
/// Rows that a follower takes at once.
const FOLLOW_ROWS: usize = 1_000;

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
        /// Every record that matches, oldest first, however many there are; needs --format jsonl, csv or ocsf.
        #[arg(long, conflicts_with = "limit")]
        all: bool,
    },
    /// Adds up: traffic, errors by cause, latency of gateway and backend, usage and quotas.
    Stats(audit_stats::Args),
    /// Draws one call: each stage with its microseconds, and in words what went wrong.
    Trace {
        /// The access id: from an error, or the `Doorward-Access-Id` header.
        id: uuid::Uuid,
        /// One JSON object a line: the same as --format jsonl.
        #[arg(long, conflicts_with = "format")]
        json: bool,
        /// For programs, in place of the drawing.
        #[arg(long, value_enum)]
        format: Option<TraceFormat>,
    },
    /// Checks the timeline against its transparency log: what was changed, taken away, moved or put in is named.
    /// Exits with 6 when anything is.
    Verify(audit_verify::Args),
    /// Proves a record: a bundle that is checked without the store, by `audit verify --bundle`.
    Prove(audit_prove::Args),
    /// Whether two checkpoints are of one log that only grew.
    Consistency(audit_verify::ConsistencyArgs),
    /// Shows which logs of earlier starts wait for a place outside or for the store; gives up those that no place will take.
    Owed(audit_owed::Args),
    /// Prints the public keys of this gateway's logs, one a line: its own, and that of the `audit` commands that do
    /// something. Keep them elsewhere.
    Key {
        /// The key by which it cosigns for its peers instead: what they name in `checkpoints.witnesses`.
        #[arg(long)]
        witness: bool,
    },
    /// Erases a person: destroys the key to all that the timeline says of them. Says what it would do, unless
    /// --yes is given.
    Erase(audit_erase::Args),
    /// Gives a person's own data.
    Export(audit_export::Args),
    /// Legal holds, which retention and erasure honour.
    #[command(subcommand)]
    Hold(audit_hold::Command),
    /// Puts the keys of personal data under the configured master key.
    Rewrap(audit_erase::RewrapArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Not before: RFC 3339, a date, or a span back from now such as 15m, 24h, 7d.
    #[arg(long, value_parser = moment)]
    since: Option<Timestamp>,
    /// Before: RFC 3339, a date, or a span back from now.
    #[arg(long, value_parser = moment)]
    until: Option<Timestamp>,
    /// Subject, e-mail address, client id or subject id.
    #[arg(long, visible_alias = "user")]
    principal: Option<String>,
    /// Whose decision: gateway, or the resource that imports another gateway's records.
    #[arg(long)]
    source: Option<String>,
    /// access, refused, admin or imported.
    #[arg(long, value_parser = doorward_audit::retention::CLASSES)]
    class: Option<String>,
    /// The grant that decided.
    #[arg(long)]
    grant: Option<String>,
    /// The resource's name.
    #[arg(long)]
    resource: Option<String>,
    /// read, list, write, delete, execute …
    #[arg(long, value_parser = one_of(&Verb::ALL, Verb::as_str), hide_possible_values = true)]
    verb: Option<Verb>,
    /// allowed, denied, limited, failed, abandoned or unknown.
    #[arg(long, value_parser = one_of(&Outcome::ALL, Outcome::as_str), hide_possible_values = true)]
    outcome: Option<Outcome>,
    /// The door's name.
    #[arg(long)]
    door: Option<String>,
    /// The most rows, the newest of those that match; at most 100,000. The default is 100, of `tail` 20.
    #[arg(long, value_parser = limit)]
    limit: Option<usize>,
    /// One JSON object a line, keyed by the record's column names: the same as --format jsonl.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// How records are shown.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values, with a heading.
    Csv,
    /// One event of the Open Cybersecurity Schema Framework (1.5.0) a line.
    Ocsf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum TraceFormat {
    /// One JSON object a line.
    Jsonl,
    /// One event of the Open Cybersecurity Schema Framework (1.5.0) a line.
    Ocsf,
}

fn limit(text: &str) -> Result<usize, String> {
    let rows = text.parse().ok().filter(|rows| (1..=LIMIT_MAX).contains(rows));
    rows.ok_or_else(|| format!("1 to {LIMIT_MAX} is expected; `audit query --all` shows every record"))
}

impl Which {
    fn format(&self) -> Format {
        if self.json { Format::Jsonl } else { self.format }
    }

    fn filter(&self, reader: &mut Reader) -> anyhow::Result<Filter> {
        let filter = Filter {
            since: self.since,
            until: self.until,
            principal: self.principal.clone(),
            source: self.source.clone(),
            class: self.class.clone(),
            grant: self.grant.clone(),
            resource: self.resource.clone(),
            verb: self.verb.map(|verb| verb.as_str().to_owned()),
            outcome: self.outcome.map(|outcome| outcome.as_str().to_owned()),
            door: self.door.clone(),
            limit: self.limit,
            ..Filter::default()
        };
        Ok(reader.filter(filter)?)
    }
}

pub(super) fn run(source: &Source, command: &Command) -> anyhow::Result<ExitCode> {
    if let Command::Verify(args) = command
        && let Some(done) = audit_verify::offline(args)
    {
        return done;
    }
    let config = Config::read(&source.config, Arc::default())?;
    match command {
        Command::Tail { which, no_follow } => {
            let (timeline, mut reader) = open(&config)?;
            tail(&timeline, &mut reader, which, !no_follow)
        }
        Command::Query { which, all } => {
            let (timeline, mut reader) = open(&config)?;
            let query = if *all { query_all } else { query };
            query(&timeline, &mut reader, which)
        }
        Command::Stats(args) => audit_stats::run(&connect(&config)?, args),
        Command::Trace { id, json, format } => {
            let (timeline, mut reader) = open(&config)?;
            trace(&timeline, &mut reader, *id, format.or(json.then_some(TraceFormat::Jsonl)))
        }
        Command::Verify(args) => audit_verify::run(&config, args),
        Command::Prove(args) => audit_prove::run(&config, &connect(&config)?, args),
        Command::Consistency(args) => audit_verify::consistency(&config, args),
        Command::Key { witness: false } => audit_verify::key(&config),
        Command::Key { witness: true } => audit_verify::witness_key(&config),
        Command::Owed(args) => audit_owed::run(&config, args),
        Command::Erase(args) => audit_erase::run(&config, args),
        Command::Export(args) => audit_export::run(&config, args),
        Command::Hold(command) => audit_hold::run(&config, command),
        Command::Rewrap(args) => audit_erase::rewrap(&config, args),
    }
}

fn connect(config: &Config) -> anyhow::Result<Timeline> {
    let store = &config.root.store;
    if let Some(path) = store.path().filter(|path| !path.exists()) {
        bail!("there is no store at {} yet; the gateway makes it when it first runs", path.display());
    }
    Timeline::connect(store).with_context(|| format!("the store {store} cannot be read"))
}

/// The timeline, and the keys to its personal values if they are at hand.
fn open(config: &Config) -> anyhow::Result<(Timeline, Reader)> {
    let timeline = connect(config)?;
    let reader = Reader::new(&config.root.audit());
    if let Some(why) = reader.trouble() {
        note(&format!("personal values stay sealed: {why}\n"));
    }
    Ok((timeline, reader))
}

fn query(timeline: &Timeline, reader: &mut Reader, which: &Which) -> anyhow::Result<ExitCode> {
    let filter = which.filter(reader)?;
    let (rows, gaps) = (reader.rows(&timeline.query(&filter)?), timeline.gaps(&filter)?);
    match which.format() {
        Format::Table if rows.is_empty() && gaps.is_empty() => out("no records match\n")?,
        Format::Table => out(&render::table(&rows, &gaps))?,
        format @ (Format::Jsonl | Format::Ocsf) => {
            out(&lines(format, &rows))?;
            put_gaps(format, &gaps)?;
        }
        Format::Csv => {
            out(&render::csv_heading())?;
            rows.iter().try_for_each(|row| out(&render::csv(row)))?;
        }
    }
    Ok(if rows.is_empty() { ExitCode::from(EXIT_NOTHING) } else { ExitCode::SUCCESS })
}

/// Shows each record as it comes, so that an answer of any length needs little memory.
fn query_all(timeline: &Timeline, reader: &mut Reader, which: &Which) -> anyhow::Result<ExitCode> {
    let filter = which.filter(reader)?;
    let format = which.format();
    match format {
        Format::Table => bail!("--all is for programs: add --format jsonl, csv or ocsf"),
        Format::Csv => out(&render::csv_heading())?,
        Format::Jsonl | Format::Ocsf => {}
    }
    let (mut failed, mut found) = (None, false);
    timeline.each(&filter, &mut |row| {
        found = true;
        let rows = reader.rows(std::slice::from_ref(&row));
        failed = out(&lines(format, &rows)).err();
        failed.is_none()
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    put_gaps(format, &timeline.gaps(&filter)?)?;
    Ok(if found { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NOTHING) })
}

/// Rows for programs: one a line.
fn lines(format: Format, rows: &[Row]) -> String {
    match format {
        Format::Csv => rows.iter().map(render::csv).collect(),
        Format::Ocsf => render::ocsf_lines(rows),
        Format::Jsonl | Format::Table => render::json_lines(rows),
    }
}

/// What is missing, where the format has room for it.
fn put_gaps(format: Format, gaps: &[GapRow]) -> anyhow::Result<()> {
    gaps.iter().try_for_each(|gap| match format {
        Format::Jsonl => out(&render::gap_json(gap)),
        Format::Ocsf => out(&render::ocsf_gap(gap)),
        Format::Csv | Format::Table => Ok(()),
    })
}

fn tail(timeline: &Timeline, reader: &mut Reader, which: &Which, follow: bool) -> anyhow::Result<ExitCode> {
    /// The rows that a tail begins with.
    const FIRST_ROWS: usize = 20;
    let mut filter = which.filter(reader)?;
    let limit = which.limit.unwrap_or(FIRST_ROWS);
    filter.limit = Some(limit);
    let mut place = timeline.newest()?;
    show(&reader.rows(&timeline.query(&filter)?), which.format(), true)?;
    if !follow {
        return Ok(ExitCode::SUCCESS);
    }
    filter.limit = Some(limit.max(FOLLOW_ROWS));
    loop {
        std::thread::park_timeout(FOLLOW_EVERY);
        let (rows, next) = timeline.follow(&filter, &place)?;
        place = next;
        show(&reader.rows(&rows), which.format(), false)?;
    }
}

fn show(rows: &[Row], format: Format, first: bool) -> anyhow::Result<()> {
    match (format, first) {
        (format @ (Format::Jsonl | Format::Ocsf), _) => out(&lines(format, rows)),
        (Format::Csv, first) => {
            if first {
                out(&render::csv_heading())?;
            }
            rows.iter().try_for_each(|row| out(&render::csv(row)))
        }
        (Format::Table, true) => out(&render::table(rows, &[])),
        (Format::Table, false) => out(&render::follow(rows)),
    }
}

fn trace(
    timeline: &Timeline,
    reader: &mut Reader,
    id: uuid::Uuid,
    format: Option<TraceFormat>,
) -> anyhow::Result<ExitCode> {
    let rows = reader.rows(&timeline.trace(id)?);
    if rows.is_empty() {
        out(&format!("no record of {id}; a call that has just ended arrives within a second\n"))?;
        return Ok(ExitCode::from(EXIT_NOTHING));
    }
    out(&match format {
        None => render::trace(&rows),
        Some(TraceFormat::Jsonl) => render::json_lines(&rows),
        Some(TraceFormat::Ocsf) => render::ocsf_lines(&rows),
    })?;
    Ok(ExitCode::SUCCESS)
}
