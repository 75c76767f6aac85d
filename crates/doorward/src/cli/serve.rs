//! `doorward serve`: runs the gateway.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::Source;
use crate::serve::{self, Options};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Writes the addresses to this file, as JSON, once the gateway listens.
    #[arg(long)]
    ready_file: Option<PathBuf>,
    /// The log's form; a terminal gets text unless told otherwise.
    #[arg(long, value_enum)]
    log: Option<LogForm>,
    /// Leaves records in the spool; for benchmarks.
    #[arg(long, hide = true)]
    leave_records_in_spool: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogForm {
    Text,
    Json,
}

pub(super) fn run(source: &Source, args: &Args) -> anyhow::Result<ExitCode> {
    log(args.log);
    let options =
        Options { ready_file: args.ready_file.clone(), leave_records_in_spool: args.leave_records_in_spool };
    // Worker threads: one a core, or TOKIO_WORKER_THREADS.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve::run(source.config.clone(), options))?;
    Ok(ExitCode::SUCCESS)
}

/// The operator's log goes to standard error; `RUST_LOG` says how much of it, `info` unless set.
fn log(form: Option<LogForm>) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let form = form.unwrap_or(if terminal { LogForm::Text } else { LogForm::Json });
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    match form {
        LogForm::Text => log.init(),
        LogForm::Json => log.json().flatten_event(true).init(),
    }
}
