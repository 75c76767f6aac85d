//! The places outside the store, for commands: what `checkpoints.to` names, and directories beside it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use doorward_audit::admin::Deeds;
use doorward_audit::log::config::Place;
use doorward_audit::log::place::{self, Objects};
use doorward_audit::transport::Reach;
use tokio::runtime::Runtime;

use crate::config::Config;
use crate::fetch::Outbound;
use crate::witnesses::Witnesses;

/// Places that are open while this lives.
pub(super) struct Places {
    pub(super) open: Vec<Arc<dyn Objects>>,
    /// Requests to buckets run on it.
    _runtime: Option<Runtime>,
}

/// The places that the configuration names, unless they are to be left out, and directories beside them. A bucket
/// that cannot be opened is an error: nobody shall think that it was looked at.
pub(super) fn open(config: &Config, more: &[PathBuf], store_only: bool) -> anyhow::Result<Places> {
    let configured = config.root.checkpoints.to.iter().filter(|_| !store_only);
    // A directory comes with the first checkpoint.
    let there = |place: &&Place| match place {
        Place::Directory(path) => path.is_dir(),
        Place::Bucket(_) => true,
    };
    let more = more.iter().cloned().map(Place::Directory);
    let places: Vec<Place> = configured.filter(there).cloned().chain(more).collect();
    open_all(&places).context("--store-only leaves out the places of `checkpoints.to`")
}

/// These places.
pub(super) fn open_all(places: &[Place]) -> anyhow::Result<Places> {
    let runtime = match places.iter().any(|place| matches!(place, Place::Bucket(_))) {
        true => Some(runtime()?),
        false => None,
    };
    let reach = match &runtime {
        Some(runtime) => Some(Reach { transport: Outbound::new()?, runtime: runtime.handle().clone() }),
        None => None,
    };
    let open = places.iter().map(|place| {
        place::open(place, reach.as_ref())
            .map_err(anyhow::Error::new)
            .with_context(|| format!("{} cannot be looked at", place.name()))
    });
    Ok(Places { open: open.collect::<anyhow::Result<_>>()?, _runtime: runtime })
}

/// Lets the log of a command's deeds go where the gateway's goes: to buckets and to witnesses too. What cannot be
/// reached now waits for the next command.
pub(super) fn reach(config: &Config, deeds: &Deeds) -> anyhow::Result<()> {
    let checkpoints = &config.root.checkpoints;
    let buckets = checkpoints.to.iter().any(|place| matches!(place, Place::Bucket(_)));
    if !buckets && checkpoints.witnesses.is_empty() {
        return Ok(());
    }
    let outbound = Outbound::new()?;
    let _on_it = deeds.runtime().enter();
    let reach = Reach { transport: outbound.clone(), runtime: deeds.runtime().clone() };
    if let Err(error) = deeds.reach(&config.root.audit(), Arc::new(Witnesses::new(outbound)), &reach) {
        super::note(&format!("checkpoints of this command's record wait: {error}\n"));
    }
    Ok(())
}

fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}
