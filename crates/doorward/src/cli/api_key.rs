//! `doorward api-key`: makes a key, prints it once, and the line that the key file stores.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use doorward_core::{Clock, SystemClock};
use doorward_identity::config::KindName;
use doorward_identity::{NewApiKey, new_api_key};
use doorward_settings::HumanDuration;

use super::out;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Who holds the key: the principal's subject.
    subject: String,
    /// The holder's groups, separated by commas.
    #[arg(long, value_delimiter = ',')]
    groups: Vec<String>,
    /// What the holder is.
    #[arg(long, value_enum, default_value_t = Kind::Service)]
    kind: Kind,
    /// When the key ends, from now: 90d. Without it the key does not expire.
    #[arg(long)]
    expires: Option<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    User,
    Service,
    Task,
    Agent,
}

impl From<Kind> for KindName {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::User => Self::User,
            Kind::Service => Self::Service,
            Kind::Task => Self::Task,
            Kind::Agent => Self::Agent,
        }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let lifetime = args
        .expires
        .as_deref()
        .map(|text| HumanDuration::parse(text).context("--expires takes a span such as 90d"));
    let expires_at = lifetime.transpose()?.map(|span| SystemClock.now().plus(span.get()));
    let new = NewApiKey {
        subject: args.subject.clone(),
        kind: args.kind.into(),
        groups: args.groups.clone(),
        expires_at,
    };
    let issued = new_api_key(&new)?;
    let mut err = std::io::stderr().lock();
    writeln!(err, "The key, which is shown only now, and the line for the file that `api_keys.file` names:")?;
    out(&format!("{}\n{}\n", issued.key.expose(), issued.line))?;
    Ok(ExitCode::SUCCESS)
}
