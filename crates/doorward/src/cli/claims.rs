//! `doorward claims`: what the database needs to check the signed claims of sessions.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Subcommand;
use doorward_door_rest::RestConfig;
use doorward_pgclient::SessionClaims;
use doorward_pgclient::claims::install_sql;

use super::{Source, note, out, read};

/// `doorward claims …`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Prints the SQL that makes the schema `doorward` with the functions that policies call. Pipe it to psql.
    Sql {
        /// The resource that has `claims`.
        resource: String,
        /// Puts the resource's key in, which is as secret as a password: pipe it to psql, and keep no copy.
        #[arg(long)]
        with_key: bool,
        /// Has the database forget all other keys: at the end of a rotation.
        #[arg(long, requires = "with_key")]
        forget_others: bool,
    },
}

pub(super) fn run(source: &Source, command: &Command) -> anyhow::Result<ExitCode> {
    let Command::Sql { resource, with_key, forget_others } = command;
    let config = read(source, Arc::default())?;
    let entry = config.resources.iter().find(|entry| entry.name.as_str() == resource);
    let entry = entry.with_context(|| format!("there is no resource {resource}"))?;
    let rest: RestConfig = entry.node.deserialize()?;
    let Some(claims) = rest.claims else {
        bail!("{resource} has no `claims`; add `claims: {{ key: \"file:…\" }}` to the resource");
    };
    let key = match with_key {
        true => {
            let signer = SessionClaims::new(&entry.name, &claims, &claims.key.read()?)
                .map_err(|error| claims.key.problem(error.to_string()))?;
            note(&format!("This holds the key {} of {resource}.\n", signer.kid()));
            Some(signer.key_sql(*forget_others))
        }
        false => None,
    };
    out(install_sql(key.as_ref()).expose())?;
    Ok(ExitCode::SUCCESS)
}
