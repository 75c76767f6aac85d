//! `doorward token`: prints a fresh token, or mints a login for the Postgres door with it.

use std::process::ExitCode;

use doorward_core::{Clock, SystemClock};
use serde_json::json;

use super::login::Which;
use super::out;
use crate::client::gateway;
use crate::client::session::{Session, runtime};
use crate::wire::{LoginAnswer, LoginRequest};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Print JSON: the token and when it expires, or the login.
    #[arg(long)]
    json: bool,
    /// Refresh the token in any case.
    #[arg(long)]
    refresh: bool,
    /// Mint a short-lived user name and password for the Postgres door, for clients that take no tokens.
    #[arg(long)]
    postgres: bool,
    /// The resource that the login is good for.
    #[arg(long, requires = "postgres")]
    resource: Option<String>,
    /// The backend role that the login has.
    #[arg(long, requires = "postgres")]
    role: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let session = Session::open(&args.which.profile)?;
    let fresh = session.token_now(args.refresh)?;
    if args.postgres {
        let request = LoginRequest { resource: args.resource.clone(), role: args.role.clone() };
        let login = runtime()?.block_on(gateway::mint(&session.profile, &fresh.token, &request))?;
        print_login(args, &session, &login)?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = match args.json {
        true => {
            let expires_in = fresh.expires_at.since(SystemClock.now()).as_secs();
            let expires_at = doorward_audit::time::rfc3339(fresh.expires_at);
            json!({ "access_token": fresh.token.expose(), "expires_at": expires_at, "expires_in": expires_in })
                .to_string()
        }
        false => fresh.token.expose().to_string(),
    };
    out(&format!("{text}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what a shell can evaluate, or JSON.
fn print_login(args: &Args, session: &Session, login: &LoginAnswer) -> anyhow::Result<()> {
    let (host, port) = session.profile.postgres_address()?;
    if args.json {
        let text = json!({
            "host": host, "port": port, "database": args.resource, "user": login.user, "password": login.password,
            "expires_at": login.expires_at, "expires_in": login.expires_in,
        });
        return out(&format!("{text}\n"));
    }
    let port = port.to_string();
    let mut lines: Vec<(&str, &str)> = vec![("PGHOST", &host), ("PGPORT", &port)];
    lines.extend(args.resource.as_deref().map(|resource| ("PGDATABASE", resource)));
    lines.extend([("PGUSER", login.user.as_str()), ("PGPASSWORD", &login.password)]);
    let quoted = |value: &str| format!("'{}'", value.replace('\'', "'\\''"));
    let lines: String =
        lines.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect();
    out(&format!("# Opens sessions until {}.\n{lines}", login.expires_at))
}
