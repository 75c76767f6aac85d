//! `doorward schema`: the configuration's JSON Schema, for editors.

use std::process::ExitCode;

use super::out;
use crate::config::Root;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    let schema = schemars::schema_for!(Root);
    out(&format!("{}\n", serde_json::to_string_pretty(&schema)?))?;
    Ok(ExitCode::SUCCESS)
}
