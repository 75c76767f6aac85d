//! Where the demo keeps its timeline: TimescaleDB where the tests' one is installed and can run
//! (`scripts/setup.sh test`, as root), and otherwise a database of its own in the PostgreSQL that the demo starts
//! anyway, so that a fresh machine downloads nothing more.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::{CONFIG, Setup, binary};
use doorward_testkit::postgres::{Cluster, Durability, Installation, SUPERUSER};
use doorward_testkit::program::Bounded;

/// Its database.
const DATABASE: &str = "timeline";
/// The gateway's login, which only adds records.
const WRITER: &str = "gateway";
/// The login that only reads, which `doorward audit` and the printed SQL use.
const READER: &str = "auditor";
/// psql's passwords, in the gateway's folder.
const PASSFILE: &str = "pgpass";

/// The server that the timeline is in.
pub(crate) struct Store {
    port: u16,
    password: String,
    /// A server of its own; without one, the demo's other one keeps the timeline as well.
    _timescale: Option<Cluster>,
}

impl Store {
    /// Starts TimescaleDB if it can be had, and makes an empty database.
    pub(crate) fn start(other: &Cluster) -> Result<Self> {
        let timescale = match Installation::timescale() {
            Ok(installation) => {
                println!("Starting TimescaleDB for the timeline …");
                Some(Cluster::start_new(installation, Durability::Safe)?)
            }
            Err(why) => {
                println!("The timeline goes into the same PostgreSQL: {why}.");
                None
            }
        };
        let cluster = timescale.as_ref().unwrap_or(other);
        cluster.sql(&format!("create database {DATABASE}"))?;
        Ok(Self { port: cluster.port(), password: cluster.password().to_owned(), _timescale: timescale })
    }

    /// Points the gateway to it, and makes the schema as an administrator does. `overlay` is the configuration's
    /// last file.
    pub(crate) fn prepare(&self, setup: Setup, overlay: &str) -> Result<Setup> {
        let password = &self.password;
        let setup = setup
            .file("store.password", password)?
            .file(PASSFILE, format!("127.0.0.1:{}:*:*:{password}\n", self.port))?
            .file(overlay, self.section())?;
        let passfile = setup.folder().join(PASSFILE);
        std::fs::set_permissions(passfile, PermissionsExt::from_mode(0o600))?;

        let mut migrate = Command::new(binary()?);
        migrate.args(["store", "migrate", "--create-logins", "--config", CONFIG, "--config", overlay]);
        let done = migrate.current_dir(setup.folder()).env("DOORWARD_ADMIN_PASSWORD", password).run()?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "doorward store migrate failed: {said}");
        let edition = String::from_utf8(done.stdout)?;
        let edition = edition.split_once(": ").context("what `store migrate` has made")?.1;
        println!("doorward store migrate: {}", edition.trim_end());
        Ok(setup)
    }

    /// The configuration's part.
    fn section(&self) -> String {
        format!(
            "store:\n  url: \"postgres://{WRITER}@127.0.0.1:{}/{DATABASE}\"\n  \
             password: \"file:store.password\"\n  \
             reader: {{ user: {READER}, password: \"file:store.password\" }}\n",
            self.port
        )
    }

    /// The variables that the printed lines use, as shell text; they run in the gateway's folder.
    pub(crate) fn environment(&self) -> String {
        let url = |user: &str| format!("'host=127.0.0.1 port={} dbname={DATABASE} user={user}'", self.port);
        format!(
            "export PGPASSFILE=\"$PWD/{PASSFILE}\"\nexport TIMELINE={}\nexport SUPERUSER={}\n",
            url(READER),
            url(SUPERUSER)
        )
    }
}
