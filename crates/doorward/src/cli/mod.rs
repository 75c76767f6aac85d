//! The command line: one file a command.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 `explain` says no, 4 nothing found, 5 the spool is damaged,
//! 6 `audit verify` found something.

mod api_key;
mod audit;
mod audit_archive;
mod audit_erase;
mod audit_export;
mod audit_hold;
mod audit_owed;
mod audit_person;
mod audit_prove;
mod audit_stats;
mod audit_verify;
mod ca;
mod check;
mod claims;
mod connect;
mod doctor;
mod explain;
mod login;
mod places;
mod proxy;
mod schema;
mod serve;
mod spool;
mod store;
mod token;
mod who_can;
mod witness;

use std::io::{ErrorKind, Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory, Parser, Subcommand};
use doorward_core::{Clock, SystemClock, Timestamp};
use doorward_policy::Limiter;

use crate::config::Config;

/// An identity-aware gateway for data.
#[derive(Debug, Parser)]
#[command(name = "doorward", version, about, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    source: Source,
    #[command(subcommand)]
    command: Command,
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
pub struct Source {
    /// Configuration file; give it again for overlays, later ones win.
    #[arg(
        long,
        short,
        global = true,
        env = "DOORWARD_CONFIG",
        default_value = "doorward.yaml",
        value_delimiter = ':'
    )]
    pub config: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the gateway.
    Serve(serve::Args),
    /// Checks the configuration offline and prints the effective policy.
    Check(check::Args),
    /// Prints the configuration's JSON Schema, for editors.
    Schema,
    /// Says which grant decides a call, and why.
    Explain(explain::Args),
    /// Lists who may do something.
    WhoCan(who_can::Args),
    /// Reads the timeline, verifies it, and looks after personal data in it.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Looks into the records that wait on local disk, repairs them, ships them.
    #[command(subcommand)]
    Spool(spool::Command),
    /// Looks at what the gateway stands on, and says what is not well and what to do.
    Doctor(doctor::Args),
    /// Looks after the store in PostgreSQL, as its administrator.
    #[command(subcommand)]
    Store(store::Command),
    /// The authority of short-lived client certificates, with which roles log in to databases.
    #[command(subcommand)]
    Ca(ca::Command),
    /// What a database needs to check the signed claims of its sessions.
    #[command(subcommand)]
    Claims(claims::Command),
    /// Cosigns checkpoints of gateways' logs, as a witness on another machine.
    Witness(witness::Args),
    /// Makes an API key: prints it once, and the line to store.
    ApiKey(api_key::Args),
    /// Logs you in at your issuer, and keeps your token on this machine.
    Login(Box<login::Args>),
    /// Forgets your token.
    Logout(login::Which),
    /// Prints your token, fresh; or mints a login for the Postgres door.
    Token(token::Args),
    /// Runs psql on a resource, as you.
    Connect(connect::Args),
    /// Opens a port of this machine for programs that know no tokens, as you.
    Proxy(proxy::Args),
    /// Prints a completion script for a shell.
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: clap_complete::Shell,
    },
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Self { source, command } = self;
        match command {
            Command::Serve(args) => serve::run(&source, &args),
            Command::Check(args) => check::run(&source, &args),
            Command::Schema => schema::run(),
            Command::Explain(args) => explain::run(&source, &args),
            Command::WhoCan(args) => who_can::run(&source, &args),
            Command::Audit(command) => audit::run(&source, &command),
            Command::Spool(command) => spool::run(&source, &command),
            Command::Doctor(args) => doctor::run(&source, &args),
            Command::Store(command) => store::run(&source, &command),
            Command::Ca(command) => ca::run(&command),
            Command::Claims(command) => claims::run(&source, &command),
            Command::Witness(args) => witness::run(&args),
            Command::ApiKey(args) => api_key::run(&args),
            Command::Login(args) => login::run(&args),
            Command::Logout(which) => login::log_out(&which),
            Command::Token(args) => token::run(&args),
            Command::Connect(args) => connect::run(&args),
            Command::Proxy(args) => proxy::run(&args),
            Command::Completions { shell } => {
                clap_complete::generate(shell, &mut Self::command(), "doorward", &mut std::io::stdout());
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// The exit code of an `explain` that says no.
pub const EXIT_DENIED: u8 = 3;
/// The exit code of a query that finds nothing.
pub const EXIT_NOTHING: u8 = 4;
/// The exit code of a look into a spool that is damaged.
pub const EXIT_DAMAGED: u8 = 5;
/// The exit code of `audit verify` when the timeline is not what was logged.
pub const EXIT_TAMPERED: u8 = 6;

/// Prints to standard output; a reader that has gone away (`| head`) ends the program quietly.
fn out(text: &str) -> anyhow::Result<()> {
    match stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Tells something beside the output proper, on standard error.
fn note(text: &str) {
    // Whoever closed standard error does not want to know.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// A point in time, as options of the command line name it.
fn moment(text: &str) -> Result<Timestamp, String> {
    let found = doorward_audit::time::parse(text, SystemClock.now());
    found.ok_or_else(|| {
        "a time (RFC 3339), a date, or a span back from now such as 15m or 7d is expected".to_owned()
    })
}

/// Accepts these words, and names the closest one for another.
fn one_of<T: Copy + Send + Sync + 'static>(
    words: &'static [T],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words.iter().map(|word| name(*word))).try_map(move |text: String| {
        let found = words.iter().copied().find(|word| name(*word) == text);
        found.ok_or("no such word")
    })
}

/// Reads the configuration for a command that works offline.
fn read(source: &Source, limiter: Arc<Limiter>) -> anyhow::Result<Config> {
    Ok(Config::read(&source.config, limiter)?)
}
