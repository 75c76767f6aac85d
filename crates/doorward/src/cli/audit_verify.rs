//! `doorward audit verify|consistency|key`: whether the timeline is what was logged.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use doorward_audit::log::config::Place;
use doorward_audit::log::verify::{
    self, ArchiveEvidence, Evidence, Finding, LogId, PostgresEvidence, Proved, Report, Scope, SqliteEvidence,
};
use doorward_audit::{log, time};
use doorward_core::{Clock, SystemClock, Timestamp};
use doorward_tlog::checkpoint::Checkpoint;
use doorward_tlog::note::{Note, Vkey};
use serde_json::{Value, json};

use super::places::Places;
use super::{EXIT_TAMPERED, audit_archive, note, out, places};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Leaves out findings of rows before: RFC 3339, a date, or a span back from now such as 15m, 24h, 7d.
    #[arg(long, value_parser = super::moment)]
    since: Option<Timestamp>,
    /// Leaves out findings of rows from then on.
    #[arg(long, value_parser = super::moment)]
    until: Option<Timestamp>,
    /// One gateway alone.
    #[arg(long)]
    gateway: Option<String>,
    /// One start of a gateway alone.
    #[arg(long)]
    epoch: Option<u64>,
    /// A directory with checkpoints and tiles kept outside the store, beside those in `checkpoints.to`; may be
    /// given again.
    #[arg(long, value_name = "DIR")]
    checkpoints: Vec<PathBuf>,
    /// Leaves out the places in `checkpoints.to`.
    #[arg(long)]
    store_only: bool,
    /// The public keys of logs, one a line, as `doorward audit key` prints them; may be given again. Without it the
    /// store's own word is taken for the keys.
    #[arg(long, value_parser = vkey, value_delimiter = '\n')]
    vkey: Vec<Vkey>,
    /// The public key of a witness, to name its cosignature of a bundle; may be given again.
    #[arg(long, value_parser = vkey, requires = "bundle")]
    witness: Vec<Vkey>,
    /// Checks a proof bundle by itself, without the store.
    #[arg(long, value_name = "FILE", requires = "vkey")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    archive: audit_archive::ArchiveArgs,
    /// One JSON object a line: each finding, and then the summary.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ConsistencyArgs {
    /// A file with a signed checkpoint.
    a: PathBuf,
    /// A file with another checkpoint of the same log.
    b: PathBuf,
    /// The public key of the log, or the keys of several; without it the store's own word is taken for it.
    #[arg(long, value_parser = vkey, value_delimiter = '\n')]
    vkey: Vec<Vkey>,
    /// Leaves out the places in `checkpoints.to`.
    #[arg(long)]
    store_only: bool,
}

fn vkey(text: &str) -> Result<Vkey, String> {
    Vkey::parse(text).map_err(|error| error.to_string())
}

/// What the store has.
pub(super) fn evidence(config: &Config) -> anyhow::Result<Box<dyn Evidence>> {
    let store = &config.root.store;
    match (store.path(), store.server()) {
        (Some(path), _) => Ok(Box::new(SqliteEvidence::open(path)?)),
        (None, Some(server)) => Ok(Box::new(PostgresEvidence::connect(server)?)),
        (None, None) => bail!("the store {store} cannot be verified"),
    }
}

/// What needs no configuration: a bundle, or a directory with an archive beside directories with its logs.
pub(super) fn offline(args: &Args) -> Option<anyhow::Result<ExitCode>> {
    if let Some(path) = &args.bundle {
        return Some(bundle(path, args));
    }
    let folder = args.archive.folder().filter(|_| !args.checkpoints.is_empty())?;
    let directories = args.checkpoints.iter().cloned().map(Place::Directory);
    let places: Vec<Place> = directories.collect();
    Some(places::open_all(&places).and_then(|places| archived(folder, places, args)))
}

pub(super) fn run(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let places = places::open(config, &args.checkpoints, args.store_only)?;
    if let Some(archive) = args.archive.archive(config)? {
        return archived(archive, places, args);
    }
    tell(&mut *evidence(config)?, &scope(args, &places, None), args)
}

/// Verifies an archive.
fn archived(archive: audit_archive::Archive, places: Places, args: &Args) -> anyhow::Result<ExitCode> {
    if places.open.is_empty() {
        bail!(
            "an archive proves nothing by itself: name a place that has the logs, by --checkpoints or `checkpoints.to`"
        );
    }
    let opened = places::open_all(&[archive.place])?;
    let held = opened.open.first().cloned().context("the archive")?;
    let mut evidence = ArchiveEvidence::new(held, places.open.clone(), archive.hashes_only);
    if archive.hashes_only {
        note(
            "the values of the rows are not verified: without the personal ones no leaf can be made again\n",
        );
    }
    tell(&mut evidence, &scope(args, &places, Some(archive.lag)), args)
}

fn scope(args: &Args, places: &Places, lag: Option<Duration>) -> Scope {
    Scope {
        gateway_id: args.gateway.clone(),
        epoch: args.epoch,
        since_us: args.since.map(Timestamp::micros),
        until_us: args.until.map(Timestamp::micros),
        outside: places.open.clone(),
        keys: args.vkey.clone(),
        lag_us: lag.map(|lag| i64::try_from(lag.as_micros()).unwrap_or(i64::MAX)),
        now_us: SystemClock.now().micros(),
    }
}

/// Checks, and tells what was found.
fn tell(evidence: &mut dyn Evidence, scope: &Scope, args: &Args) -> anyhow::Result<ExitCode> {
    let report = verify::check(evidence, scope)?;
    let narrowed = scope.gateway_id.is_some() || scope.epoch.is_some();
    if narrowed && report.summary.logs == 0 && report.findings.is_empty() {
        bail!(
            "neither the store (or the archive) nor a place outside it has a log of that gateway and epoch"
        );
    }
    if args.json {
        report.findings.iter().try_for_each(|finding| out(&format!("{}\n", finding_json(finding))))?;
        out(&format!("{}\n", summary_json(&report)))?;
    } else {
        report.findings.iter().try_for_each(|finding| out(&finding_text(finding)))?;
        out(&summary_text(&report))?;
        if args.vkey.is_empty() {
            note(
                "the keys are those that the logs name themselves; give --vkey, kept elsewhere, to be sure of them\n",
            );
        }
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_TAMPERED) })
}

fn bundle(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    match verify::verify_bundle(&text, &args.vkey, &args.witness) {
        Ok(proved) if args.json => out(&format!("{}\n", proved_json(&proved)))?,
        Ok(proved) => out(&proved_text(&proved))?,
        Err(error) => {
            out(&format!("not proved: {error}\n"))?;
            return Ok(ExitCode::from(EXIT_TAMPERED));
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn consistency(config: &Config, args: &ConsistencyArgs) -> anyhow::Result<ExitCode> {
    let (a, b) = (checkpoint(&args.a, &args.vkey)?, checkpoint(&args.b, &args.vkey)?);
    if a.origin != b.origin {
        bail!("the checkpoints are of two logs: {} and {}", a.origin, b.origin);
    }
    let mut evidence = evidence(config)?;
    let of_origin = |log: &LogId| a.origin.ends_with(&format!("/{}/{}", log.gateway_id, log.epoch));
    let found = evidence.logs()?.into_iter().find(of_origin);
    let log = found.with_context(|| format!("the store has no log {}", a.origin))?;
    let places = places::open(config, &[], args.store_only)?;
    let holds = verify::consistency(&mut *evidence, &log, &places.open, [&a, &b])?;
    if holds == [true, true] {
        out(&format!("consistent: {} leaves, and {} leaves of the same log\n", a.size, b.size))?;
        return Ok(ExitCode::SUCCESS);
    }
    let wrong: Vec<String> = [(&a, holds[0]), (&b, holds[1])]
        .into_iter()
        .filter(|(_, holds)| !holds)
        .map(|(checkpoint, _)| checkpoint.size.to_string())
        .collect();
    out(&format!(
        "not consistent: the store's log does not lead to the checkpoint of {} leaves\n",
        wrong.join(" and ")
    ))?;
    Ok(ExitCode::from(EXIT_TAMPERED))
}

fn checkpoint(path: &Path, keys: &[Vkey]) -> anyhow::Result<Checkpoint> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let note = Note::parse(&text).with_context(|| path.display().to_string())?;
    if !keys.is_empty() && !keys.iter().any(|key| key.verify(&note).is_ok()) {
        bail!("{}: it is not signed by the key given", path.display());
    }
    Checkpoint::parse(&note.text).with_context(|| path.display().to_string())
}

pub(super) fn key(config: &Config) -> anyhow::Result<ExitCode> {
    let mut audit = config.root.audit();
    audit.drain_disabled = true;
    log::key::public_keys(&audit)?.iter().try_for_each(|key| out(&format!("{key}\n")))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn witness_key(config: &Config) -> anyhow::Result<ExitCode> {
    let peers = config.root.peers.as_ref().context("this gateway cosigns for nobody: there is no `peers`")?;
    out(&format!("{}\n", log::peers::public_key(&config.root.audit(), peers)?))?;
    Ok(ExitCode::SUCCESS)
}

fn moment(us: Option<i64>) -> Value {
    us.map_or(Value::Null, |us| time::rfc3339(Timestamp::from_micros(us)).into())
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "finding": finding.kind.as_str(),
        "gateway_id": finding.log.gateway_id,
        "epoch": finding.log.epoch,
        "first": finding.places.map(|(first, _)| first),
        "last": finding.places.map(|(_, last)| last),
        "access_id": finding.access_id.map(|id| id.to_string()),
        "after": moment(finding.between_us.0),
        "before": moment(finding.between_us.1),
        "text": finding.text,
    })
}

fn finding_text(finding: &Finding) -> String {
    let mut line =
        format!("{:13} {} epoch {}", finding.kind.as_str(), finding.log.gateway_id, finding.log.epoch);
    match finding.places {
        Some((first, last)) if first == last => line.push_str(&format!(", place {first}")),
        Some((first, last)) => line.push_str(&format!(", places {first} to {last}")),
        None => {}
    }
    if let Some(id) = finding.access_id {
        line.push_str(&format!(", access {id}"));
    }
    let time = |us| time::rfc3339(Timestamp::from_micros(us));
    match finding.between_us {
        (Some(one), Some(other)) if one == other => line.push_str(&format!(", {}", time(one))),
        (Some(after), Some(before)) => {
            line.push_str(&format!(", between {} and {}", time(after), time(before)))
        }
        (Some(after), None) => line.push_str(&format!(", after {}", time(after))),
        (None, Some(before)) => line.push_str(&format!(", before {}", time(before))),
        (None, None) => {}
    }
    format!("{line}: {}\n", finding.text)
}

fn summary_json(report: &Report) -> Value {
    let summary = &report.summary;
    json!({
        "findings": report.findings.len() as u64 + report.more,
        "logs": summary.logs,
        "rows": summary.rows,
        "leaves_proved": summary.proved,
        "leaves_unsigned": summary.unsigned,
        "expired": summary.expired,
        "removed_by_size": summary.outgrown,
        "before_log": summary.before_log,
        "dead_letters": summary.dead_letters,
        "gaps": summary.gaps,
        "not_archived_yet": summary.waiting,
        "logs_of_commands": summary.elsewhere,
        "checkpoints": summary.checkpoints,
    })
}

fn summary_text(report: &Report) -> String {
    let summary = &report.summary;
    let mut text = match report.findings.len() as u64 + report.more {
        0 => "verified: ".to_owned(),
        1 => "1 finding: ".to_owned(),
        findings => format!("{findings} findings: "),
    };
    text.push_str(&format!(
        "{} rows in {} logs, {} leaves under {} checkpoints",
        summary.rows, summary.logs, summary.proved, summary.checkpoints
    ));
    let others = [
        (summary.unsigned, "not yet under a checkpoint"),
        (summary.expired, "removed by retention"),
        (summary.outgrown, "removed because the store was too large, by the gateway's own word"),
        (summary.before_log, "from before there was a log, without proof"),
        (summary.dead_letters, "dead letters"),
        (summary.gaps, "gaps"),
        (summary.waiting, "not yet in the archive"),
        (summary.elsewhere, "logs of commands, which no archive gets"),
    ];
    for (count, what) in others {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text + "\n"
}

fn proved_json(proved: &Proved) -> Value {
    let witnesses: Vec<Value> =
        proved.witnesses.iter().map(|(name, time)| json!({ "witness": name, "time": time })).collect();
    json!({
        "proved": true,
        "log": proved.origin,
        "index": proved.index,
        "size": proved.size,
        "witnesses": witnesses,
        "row": proved.row,
    })
}

fn proved_text(proved: &Proved) -> String {
    let mut text = format!("proved: place {} of {} in {}\n", proved.index, proved.size, proved.origin);
    for (name, seconds) in &proved.witnesses {
        let at = Timestamp::from_seconds(i64::try_from(*seconds).unwrap_or(i64::MAX));
        text.push_str(&format!("cosigned by {name} at {}\n", time::rfc3339(at)));
    }
    for (name, value) in &proved.row {
        text.push_str(&format!("  {name} = {value}\n"));
    }
    text
}
