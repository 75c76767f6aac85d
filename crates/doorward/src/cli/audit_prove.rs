//! `doorward audit prove`: an offline proof that a record is in the log.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use doorward_audit::log::verify;
use doorward_audit::query::Timeline;

use super::audit_verify::evidence;
use super::{EXIT_NOTHING, out, places};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The access id: from an error, or the `Doorward-Access-Id` header.
    id: uuid::Uuid,
    /// The directory for the bundles, one `ID-ACTION.tlog-proof` for each action; the default is standard output.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Leaves out the places in `checkpoints.to`.
    #[arg(long)]
    store_only: bool,
}

pub(super) fn run(config: &Config, timeline: &Timeline, args: &Args) -> anyhow::Result<ExitCode> {
    let rows = timeline.trace(args.id)?;
    if rows.is_empty() {
        out(&format!("no record of {}\n", args.id))?;
        return Ok(ExitCode::from(EXIT_NOTHING));
    }
    let mut evidence = evidence(config)?;
    let places = places::open(config, &[], args.store_only)?;
    for row in &rows {
        let bundle = verify::prove(&mut *evidence, &places.open, row)?.to_string();
        match &args.out {
            None => out(&bundle)?,
            Some(dir) => {
                let action = row.int("action_index").unwrap_or(0);
                let path = dir.join(format!("{}-{action}.tlog-proof", args.id));
                std::fs::write(&path, bundle).with_context(|| path.display().to_string())?;
                out(&format!("{}\n", path.display()))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
