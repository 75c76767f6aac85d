//! Reloads the configuration on SIGHUP and when a file changes. A bad file never replaces a good
//! configuration: the old one goes on, and the log, `/metrics` and `/readyz` say so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use doorward_settings::Problems;
use tokio::signal::unix::{SignalKind, signal};

use crate::serve::Running;
use crate::wiring::Wired;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What tells two states of a file apart: an editor that renames a new file over the old one changes the
/// inode, one that writes in place the time or the length.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// Watches and reloads until the gateway ends. The files watched are those of the configuration, and those
/// that it refers to.
pub(crate) async fn watch(running: Arc<Running>, first: Wired) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut serving = first;
    let mut known = marks(&files(&running, &serving)).await;
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = tick.tick() => false,
        };
        let now = marks(&files(&running, &serving)).await;
        if !asked && now == known {
            continue;
        }
        // The marks are those of before the files are read: what changes meanwhile is seen next time.
        known = now;
        if let Some(wired) = reload(&running).await {
            tell_what_waits(&serving, &wired);
            if files(&running, &serving) != files(&running, &wired) {
                known = marks(&files(&running, &wired)).await;
            }
            serving = wired;
        }
    }
}

fn files(running: &Running, serving: &Wired) -> Vec<PathBuf> {
    running.wiring.files().iter().cloned().chain(serving.config.root.files()).collect()
}

/// Names the keys whose change is not in force before the next start.
fn tell_what_waits(old: &Wired, new: &Wired) {
    for key in ["listen", "store", "spool", "retention", "personal", "checkpoints", "peers", "sinks", "otlp"]
    {
        if old.config.section(key) != new.config.section(key) {
            tracing::warn!(key, "this change takes effect at the next start");
        }
    }
}

/// One reload, whatever becomes of it.
async fn reload(running: &Arc<Running>) -> Option<Wired> {
    match try_reload(running).await {
        Ok(wired) => {
            tracing::info!(digest = wired.snapshot.digest.as_str(), "the configuration is reloaded");
            Some(wired)
        }
        Err(problems) => {
            let text = problems.to_string();
            tracing::error!(problems = %text, "the new configuration is refused; the old one goes on");
            running.state.refuse(text);
            None
        }
    }
}

async fn try_reload(running: &Arc<Running>) -> Result<Wired, Problems> {
    let config = running.wiring.read().await?;
    let wired = running.wiring.open(config).await?;
    running.apply(&wired).await?;
    Ok(wired)
}

async fn marks(files: &[PathBuf]) -> Vec<Option<Mark>> {
    let mut marks = Vec::with_capacity(files.len());
    for file in files {
        marks.push(mark(file).await);
    }
    marks
}

async fn mark(file: &Path) -> Option<Mark> {
    use std::os::unix::fs::MetadataExt;
    // A file that is away for a moment, while it is replaced, is a change when it is back.
    let metadata = tokio::fs::metadata(file).await.ok()?;
    Some(Mark { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() })
}
