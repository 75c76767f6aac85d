//! Doorward: an identity-aware gateway for data.
//!
//! The story: `cli` reads the command; `serve` reads the configuration (`config`), opens what it names
//! (`wiring`, with the table of `doors`), makes a `core::Gateway` of it, and listens. A change of the file
//! or SIGHUP swaps in a new snapshot (`reload`); SIGTERM drains. `admin` answers metrics and health.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use doorward::cli::Cli;

// Threads free what others have allocated all the time here; mimalloc is made for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            // A closed standard error leaves nothing to say it with.
            let _ = writeln!(std::io::stderr(), "doorward: {error:#}");
            ExitCode::FAILURE
        }
    }
}
