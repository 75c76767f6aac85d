//! `doorward audit owed`: logs of earlier starts that wait for a place outside, and how they are given up.

use std::process::ExitCode;

use anyhow::{Context, bail};
use doorward_audit::log::owed::{self, Owed};
use doorward_audit::{admin, time};
use doorward_core::Timestamp;
use serde_json::{Value, json};

use super::places::{self, Places};
use super::{note, out};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Gives up the log of this start towards the places outside, for good; may be given again. The store keeps it.
    #[arg(long, value_name = "EPOCH", conflicts_with = "give_up_all")]
    give_up: Vec<u64>,
    /// Gives up all that are shown.
    #[arg(long)]
    give_up_all: bool,
    /// Does it; without this it only says what it would do.
    #[arg(long)]
    yes: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let own = config.root.audit().spool.dir;
    let mut found = Vec::new();
    // What commands record has a spool of its own.
    for dir in [own.clone(), admin::folder(&own)].into_iter().filter(|dir| dir.is_dir()) {
        let owed = owed::list(&dir).with_context(|| dir.display().to_string())?;
        found.extend(owed.into_iter().map(|owed| (dir.clone(), owed)));
    }
    let places = places::open(config, &[], false);
    if let Err(error) = &places {
        note(&format!("how far the places are is not known: {error:#}\n"));
    }
    found.iter().try_for_each(|(_, owed)| show(owed, places.as_ref().ok(), args.json))?;
    if found.is_empty() && !args.json {
        out("nothing is owed\n")?;
    }
    let known = |epoch: u64| found.iter().any(|(_, owed)| owed.epoch == epoch);
    if let Some(unknown) = args.give_up.iter().find(|epoch| !known(**epoch)) {
        bail!("no log of the start {unknown} is owed");
    }
    let chosen = |owed: &Owed| args.give_up_all || args.give_up.contains(&owed.epoch);
    let chosen: Vec<_> = found.iter().filter(|(_, owed)| chosen(owed) && !owed.given_up).collect();
    match (chosen.len(), args.yes) {
        (0, _) => {}
        (count, false) => note(&format!("{count} would be given up; give --yes to do it\n")),
        (count, true) => {
            for (dir, owed) in chosen {
                owed::give_up(dir, owed.epoch).with_context(|| dir.display().to_string())?;
            }
            note(&format!(
                "{count} given up: the gateway sees to it within seconds, or at its next start, and records it\n"
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(owed: &Owed, places: Option<&Places>, as_json: bool) -> anyhow::Result<()> {
    let open = places.map(|places| &*places.open).unwrap_or_default();
    let at: Vec<(String, Result<u64, String>)> = open
        .iter()
        .map(|place| (place.name(), owed::leaves_at(&**place, owed).map_err(|error| error.cause)))
        .collect();
    let signed = time::rfc3339(Timestamp::from_micros(owed.signed_us));
    let Owed { gateway_id, epoch, leaves, bytes, given_up, .. } = owed;
    if as_json {
        let place = |(name, has): &(String, Result<u64, String>)| json!({ "name": name, "leaves": has.as_ref().ok(), "trouble": has.as_ref().err() });
        let places: Vec<Value> = at.iter().map(place).collect();
        let line = json!({
            "gateway_id": gateway_id, "epoch": epoch, "leaves": leaves, "bytes": bytes, "signed": signed,
            "given_up": given_up, "places": places,
        });
        return out(&format!("{line}\n"));
    }
    let given_up = if *given_up { ", given up" } else { "" };
    let mut text =
        format!("{gateway_id} epoch {epoch}: {leaves} leaves, {bytes} bytes, signed {signed}{given_up}\n");
    for (name, has) in at {
        text += &match has {
            Ok(has) if has >= *leaves => format!("  {name} has it\n"),
            Ok(has) => format!("  {name} has {has} leaves of it\n"),
            Err(trouble) => format!("  {name} cannot be asked: {trouble}\n"),
        };
    }
    out(&text)
}
