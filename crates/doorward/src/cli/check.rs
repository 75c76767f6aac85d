//! `doorward check`: validates the configuration offline and prints what it means.

use std::fmt::Write;
use std::process::ExitCode;
use std::sync::Arc;

use super::who_can::line;
use super::{Source, out, read};
use crate::{clouds, role_sources};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Fails on warnings too.
    #[arg(long)]
    strict: bool,
    /// Prints nothing but problems and warnings.
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn run(source: &Source, args: &Args) -> anyhow::Result<ExitCode> {
    let config = read(source, Arc::default())?;
    let mut text = String::new();
    if !args.quiet {
        writeln!(text, "configuration {}, environment {}", config.digest, config.root.environment)?;
        for entry in &config.resources {
            writeln!(text, "resource {}: door {}", entry.name, entry.door.name)?;
            for line in clouds::told(entry) {
                writeln!(text, "{line}")?;
            }
        }
        if let Some(vault) = &config.root.vault {
            writeln!(text, "vault {}: logs in by {}", vault.url.get(), vault.method())?;
        }
        let rules = config.policy.rules();
        for (kind, holders) in [("deny", &rules.denies), ("grant", &rules.grants)] {
            for holder in holders {
                line(&mut text, kind, holder, false)?;
            }
        }
    }
    let mut warnings: Vec<String> = config.policy.lints().iter().map(ToString::to_string).collect();
    let issuers = config.root.issuers.keys().map(String::as_str).chain(["api-key", "certificate"]);
    warnings.extend(config.policy.issuer_lints(&issuers.collect::<Vec<_>>()).iter().map(ToString::to_string));
    warnings.extend(config.shared_roles());
    warnings.extend(config.grants_without_role());
    warnings.extend(role_sources::advice(&config));
    if !args.quiet {
        for advice in config.root.audit().personal_advice() {
            writeln!(text, "advice: {advice}")?;
        }
    }
    for warning in &warnings {
        writeln!(text, "warning: {warning}")?;
    }
    if !args.quiet {
        writeln!(text, "ok: {} resources, {} warnings", config.resources.len(), warnings.len())?;
    }
    out(&text)?;
    Ok(if args.strict && !warnings.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
