//! `doorward connect`: runs psql as whoever has logged in, with the token in its environment.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Context;

use super::login::Which;
use crate::client::session::Session;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// The resource to connect to.
    resource: String,
    /// The backend role, where grants give several.
    #[arg(long)]
    role: Option<String>,
    /// The program to run.
    #[arg(long, default_value = "psql")]
    program: OsString,
    /// Arguments for it.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// The user that psql names where no role was: the gateway gives it the only one.
const USER: &str = "doorward";

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let session = Session::open(&args.which.profile)?;
    let (host, port) = session.profile.postgres_address()?;
    let token = session.token_now(false)?;
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let mut command = Command::new(&args.program);
    command
        .args(&args.arguments)
        .env("PGHOST", &host)
        .env("PGPORT", port.to_string())
        .env("PGDATABASE", &args.resource)
        .env("PGUSER", args.role.as_deref().unwrap_or(USER))
        // In the environment, which other users cannot read; arguments they can.
        .env("PGPASSWORD", &**token.token.expose())
        .env("PGOPTIONS", options());
    match (&session.profile.ca, local) {
        (Some(ca), _) => {
            command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", ca);
        }
        (None, true) => {
            command.env("PGSSLMODE", "prefer");
        }
        (None, false) => {
            command.env("PGSSLMODE", "verify-full");
            if std::env::var_os("PGSSLROOTCERT").is_none() {
                // The system's authorities, from libpq 16 on.
                command.env("PGSSLROOTCERT", "system");
            }
        }
    }
    run_in_place(command).with_context(|| format!("{} cannot be run", args.program.display()))
}

/// The options that are set already, and how the token is shown.
fn options() -> OsString {
    let mut options = std::env::var_os("PGOPTIONS").unwrap_or_default();
    options.push(" -c doorward.auth=password");
    options
}

/// The program takes this process's place: its exit code, its signals and its terminal are its own.
#[cfg(unix)]
fn run_in_place(mut command: Command) -> std::io::Result<ExitCode> {
    Err(std::os::unix::process::CommandExt::exec(&mut command))
}

#[cfg(not(unix))]
fn run_in_place(mut command: Command) -> std::io::Result<ExitCode> {
    let status = command.status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
