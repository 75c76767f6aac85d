//! `doorward spool`: looks into the records that wait on local disk, repairs them, ships them.
//!
//! None of it prints a value of a record: counts, numbers, times and offsets only.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use doorward_audit::admin::{self, Deeds};
use doorward_audit::config::{SpoolConfig, StoreUrl};
use doorward_audit::inspect::{Inspection, Segment};
use doorward_audit::repair::Repaired;
use doorward_audit::{Audit, inspect, repair, store, time};
use doorward_core::{Clock, SystemClock, Timestamp};
use doorward_settings::HumanDuration;
use serde_json::{Value, json};

use super::{EXIT_DAMAGED, Source, out, read};

/// How often a drain looks whether it is done.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Shows what the spool holds and what is damaged; changes nothing, and works beside a running gateway.
    Inspect {
        #[command(flatten)]
        where_: Where,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Keeps every readable frame and sets damaged parts aside; for a spool whose gateway is stopped.
    Repair {
        #[command(flatten)]
        where_: Where,
        /// Does it; without this it only says what it would do.
        #[arg(long)]
        write: bool,
    },
    /// Brings what the spool holds to the store, without serving.
    Drain {
        /// How long it may take.
        #[arg(long, default_value = "10m", value_parser = span)]
        timeout: Duration,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Where {
    /// A spool's directory; the default is the configuration's.
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn span(text: &str) -> Result<Duration, String> {
    HumanDuration::parse(text).map(HumanDuration::get).ok_or_else(|| "for example 30s, 10m".to_owned())
}

pub(super) fn run(source: &Source, command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Inspect { where_, json } => show(source, where_, *json),
        Command::Repair { where_, write } => mend(source, where_, *write),
        Command::Drain { timeout } => drain(source, *timeout),
    }
}

/// The spool, and the store when the configuration was asked.
fn place(source: &Source, where_: &Where) -> anyhow::Result<(SpoolConfig, Option<StoreUrl>)> {
    if let Some(dir) = &where_.dir {
        return Ok((SpoolConfig { dir: dir.clone(), ..SpoolConfig::default() }, None));
    }
    let config = read(source, Arc::default())?;
    let audit = config.root.audit();
    Ok((audit.spool, Some(audit.store)))
}

fn show(source: &Source, where_: &Where, as_json: bool) -> anyhow::Result<ExitCode> {
    let (SpoolConfig { dir, encryption, .. }, url) = place(source, where_)?;
    // A file that is not there holds nothing, and is not made.
    let none = matches!(&url, Some(StoreUrl::Sqlite(path)) if !path.exists());
    let mut store = url.filter(|_| !none).and_then(|url| store::open(&url).ok());
    let mut shipped = |gateway_id: &str, epoch: u64| match &mut store {
        Some(store) => store.high_water(gateway_id, epoch).ok().map(|mark| mark.last_seq),
        None => none.then_some(0),
    };
    let mut look = |dir: &Path| match inspect::inspect(dir, encryption.as_ref(), &mut shipped) {
        Ok(found) => Ok(found),
        Err(error) => bail!("the spool {} cannot be read: {error}", dir.display()),
    };
    let found = look(&dir)?;
    // What administrators did is recorded by a spool of its own.
    let folder = admin::folder(&dir);
    let deeds = if folder.is_dir() { Some(look(&folder)?) } else { None };
    let now = SystemClock.now();
    let text = match (as_json, &deeds) {
        (true, deeds) => {
            let mut value = as_value(&found);
            if let Some(object) = value.as_object_mut() {
                let deeds = deeds.as_ref().map_or(Value::Null, as_value);
                object.insert("administration".to_owned(), deeds);
            }
            format!("{value}\n")
        }
        (false, None) => as_text(&found, now)?,
        (false, Some(deeds)) => {
            format!(
                "{}\nthe administration's own, {}:\n{}",
                as_text(&found, now)?,
                folder.display(),
                as_text(deeds, now)?
            )
        }
    };
    out(&text)?;
    let any = |what: fn(&Inspection) -> bool| what(&found) || deeds.as_ref().is_some_and(what);
    Ok(match (any(Inspection::is_damaged), any(Inspection::is_closed)) {
        (true, _) => ExitCode::from(EXIT_DAMAGED),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    })
}

fn as_value(found: &Inspection) -> Value {
    json!({
        "gateway_id": found.gateway_id,
        "epoch": found.epoch,
        "in_use": found.in_use,
        "damaged": found.is_damaged(),
        "unshipped": found.unshipped(),
        "oldest_us": oldest(found),
        "segments": found.segments.iter().map(segment_value).collect::<Vec<_>>(),
        "set_aside": found.set_aside.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect::<Vec<_>>(),
    })
}

fn segment_value(segment: &Segment) -> Value {
    let frames = &segment.frames;
    let damage = segment.damage.iter();
    let damage =
        damage.map(|place| json!({ "from": place.from, "until": place.until, "frames": place.frames }));
    json!({
        "name": segment.name,
        "epoch": segment.epoch,
        "bytes": segment.bytes,
        "good_bytes": segment.good_bytes,
        "torn_bytes": segment.torn_bytes,
        "newer": segment.newer,
        "encrypted": segment.encrypted,
        "closed": segment.closed,
        "frames": {
            "headers": frames.headers, "intents": frames.intents, "completions": frames.completions,
            "gaps": frames.gaps,
        },
        "first_seq": segment.first_seq,
        "last_seq": segment.last_seq,
        "oldest_us": segment.oldest_us,
        "newest_us": segment.newest_us,
        "unshipped": segment.unshipped,
        "damaged_places": segment.damaged_places,
        "damage": damage.collect::<Vec<_>>(),
    })
}

fn oldest(found: &Inspection) -> Option<i64> {
    found.segments.iter().filter_map(|segment| segment.oldest_us).min()
}

fn as_text(found: &Inspection, now: Timestamp) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let gateway = found.gateway_id.as_deref().unwrap_or("(none yet)");
    let used = if found.in_use { "in use by a running gateway" } else { "not in use" };
    writeln!(text, "gateway {gateway}, {used}")?;
    let unshipped = found
        .unshipped()
        .map_or("not known, for the store or the spool cannot be read".to_owned(), |n| n.to_string());
    writeln!(text, "{} segments; records that the store does not have: {unshipped}", found.segments.len())?;
    if let Some(oldest) = oldest(found) {
        let at = Timestamp::from_micros(oldest);
        let age = now.seconds().saturating_sub(at.seconds());
        writeln!(text, "oldest record {}, {age} s ago", time::rfc3339(at))?;
    }
    for segment in &found.segments {
        if segment.closed {
            let key = segment.encrypted.as_deref().unwrap_or_default();
            writeln!(
                text,
                "{}  {} bytes, encrypted under the spool key {key}, which was not given",
                segment.name, segment.bytes
            )?;
            continue;
        }
        let frames = &segment.frames;
        writeln!(
            text,
            "{}  {} bytes, frames {} to {}: {} completions, {} intents, {} gaps{}",
            segment.name,
            segment.good_bytes,
            number(segment.first_seq),
            number(segment.last_seq),
            frames.completions,
            frames.intents,
            frames.gaps,
            match (&segment.encrypted, segment.newer) {
                (_, true) => "; of a newer version".to_owned(),
                (Some(key), false) => format!("; encrypted under {key}"),
                (None, false) => String::new(),
            },
        )?;
        for place in &segment.damage {
            writeln!(
                text,
                "  damaged: bytes {} to {}, {} frames lost",
                place.from, place.until, place.frames
            )?;
        }
        let more = segment.damaged_places.saturating_sub(u64::try_from(segment.damage.len()).unwrap_or(0));
        if more > 0 && segment.torn_bytes == 0 {
            writeln!(text, "  and {more} more damaged places")?;
        }
        if segment.torn_bytes > 0 {
            let offset = segment.good_bytes;
            writeln!(text, "  unreadable: {} bytes from {offset} on, to the end", segment.torn_bytes)?;
        }
    }
    for (name, bytes) in &found.set_aside {
        writeln!(text, "{name}  {bytes} bytes, set aside")?;
    }
    let verdict = match (found.is_damaged(), found.is_closed()) {
        (true, _) => "damaged; see `doorward spool repair`",
        (false, true) => {
            "not all of it could be looked into: name the missing keys in `spool.encryption`, and give no --dir"
        }
        (false, false) => "sound",
    };
    writeln!(text, "{verdict}")?;
    Ok(text)
}

fn number(seq: Option<u64>) -> String {
    seq.map_or("-".to_owned(), |seq| seq.to_string())
}

fn mend(source: &Source, where_: &Where, write: bool) -> anyhow::Result<ExitCode> {
    let (SpoolConfig { dir, encryption, .. }, _) = place(source, where_)?;
    let repaired = repair::repair(&dir, encryption.as_ref(), write)?;
    let mut text = String::new();
    for Repaired { name, kept, lost, places, bytes, set_aside } in &repaired {
        let lost = lost
            .map_or("how many frames are lost is not known".to_owned(), |lost| format!("{lost} frames lost"));
        writeln!(
            text,
            "{name}: {kept} frames kept, {lost}; {bytes} bytes in {places} places go to {set_aside}"
        )?;
    }
    let verdict = match (repaired.is_empty(), write) {
        (true, _) => "sound; nothing to repair",
        (false, true) => "repaired; the next start ships what is kept and tells the gaps",
        (false, false) => "nothing was changed; give --write to do it",
    };
    writeln!(text, "{verdict}")?;
    out(&text)?;
    Ok(if repaired.is_empty() || write { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DAMAGED) })
}

fn drain(source: &Source, timeout: Duration) -> anyhow::Result<ExitCode> {
    let config = read(source, Arc::default())?;
    let started = Instant::now();
    let audit = Audit::open(&config.root.audit())?;
    // Settling calls that an earlier gateway left open makes frames of its own, which are shipped too.
    while !audit.status().settled && started.elapsed() < timeout {
        std::thread::park_timeout(LOOK_EVERY);
    }
    let all = audit.shutdown(timeout.saturating_sub(started.elapsed()));
    let status = audit.status();
    if !all {
        let why = status.store_error.unwrap_or_else(|| "the time is up".to_owned());
        bail!("{} records shipped, and not all of the spool: {why}", status.shipped_total);
    }
    let left = timeout.saturating_sub(started.elapsed());
    let deeds = match Deeds::drain(&config.root.audit(), left)? {
        None => String::new(),
        Some((shipped, true)) => format!(" (and {shipped} of the administration's own)"),
        Some((shipped, false)) => {
            bail!(
                "{shipped} records of the administration's own spool shipped, and not all of it: the time is up"
            )
        }
    };
    out(&format!("{} records shipped{deeds}; the spool is empty\n", status.shipped_total))?;
    Ok(ExitCode::SUCCESS)
}
