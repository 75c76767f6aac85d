//! Which archive `doorward audit verify` is to look at, and how.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use doorward_audit::log::config::Place;
use doorward_audit::sinks::config::{Format, PersonalValues};
use doorward_settings::HumanDuration;

use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct ArchiveArgs {
    /// Verifies an archive in place of the store: a directory with the objects of an S3 sink, or the name of such a sink.
    /// With a directory and --checkpoints, no configuration is read.
    #[arg(long, value_name = "DIR|SINK", conflicts_with = "bundle")]
    archive: Option<PathBuf>,
    /// The archive was written with `personal: omit`: its lines are counted by their own leaf hashes, and their values
    /// are not verified. Of a sink, the configuration says so.
    #[arg(long, requires = "archive")]
    hashes_only: bool,
    /// How long after its checkpoint a row may come to the archive of a gateway that runs; the default is 2h, of a sink
    /// twice its `every`.
    #[arg(long, value_parser = span, requires = "archive")]
    lag: Option<Duration>,
}

/// How long rows take to an archive whose configuration is not known: twice the default `every`.
const LAG: Duration = Duration::from_secs(2 * 60 * 60);

fn span(text: &str) -> Result<Duration, String> {
    let span = HumanDuration::parse(text).map(HumanDuration::get);
    span.ok_or_else(|| "a span such as 15m or 2h is expected".to_owned())
}

/// An archive to be verified.
pub(super) struct Archive {
    pub(super) place: Place,
    pub(super) hashes_only: bool,
    pub(super) lag: Duration,
}

impl ArchiveArgs {
    /// The archive, when it is a directory.
    pub(super) fn folder(&self) -> Option<Archive> {
        let path = self.archive.as_ref().filter(|path| path.is_dir())?;
        let lag = self.lag.unwrap_or(LAG);
        Some(Archive { place: Place::Directory(path.clone()), hashes_only: self.hashes_only, lag })
    }

    /// The archive, if one is meant: a directory, or what a sink of this name has put.
    pub(super) fn archive(&self, config: &Config) -> anyhow::Result<Option<Archive>> {
        let Some(named) = &self.archive else { return Ok(None) };
        if let Some(folder) = self.folder() {
            return Ok(Some(folder));
        }
        self.sink(config, named).map(Some)
    }

    fn sink(&self, config: &Config, named: &Path) -> anyhow::Result<Archive> {
        let sink = named.to_str().and_then(|name| config.root.sinks.get(name));
        let sink = sink
            .with_context(|| format!("{} is neither a directory nor the name of a sink", named.display()))?;
        let s3 = sink.s3.as_ref().with_context(|| format!("the sink {} is no archive", named.display()))?;
        if sink.format != Format::Record {
            bail!(
                "the sink {} writes events of OCSF, which are no rows: `format: record` can be verified",
                named.display()
            );
        }
        Ok(Archive {
            place: s3.place(),
            hashes_only: self.hashes_only || sink.personal != PersonalValues::Sealed,
            lag: self.lag.unwrap_or(s3.every.get().saturating_mul(2)),
        })
    }
}
