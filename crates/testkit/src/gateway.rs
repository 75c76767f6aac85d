//! The gateway's own binary as a child process: a configuration in a temporary folder, free ports, a
//! captured log. Whatever a test does, it ends with the value that holds it.
//!
//! The binary says that it is ready through the file named by `--ready-file`: one JSON object with the
//! addresses that it listens on (`{"http": "127.0.0.1:41023", "admin": "127.0.0.1:41024", "pid": 7}`).

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::child::{Guarded, Signal};
use crate::program::Bounded;
use crate::wait_until;

/// How long the gateway may take to get ready.
const READY_SECONDS_MAX: Duration = Duration::from_secs(120);
/// The configuration's name in the gateway's folder.
pub const CONFIG: &str = "doorward.yaml";
const READY: &str = "ready.json";

/// The binary under test: `DOORWARD_BIN`, or the one that cargo built beside this test.
///
/// # Errors
/// When it has not been built.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("DOORWARD_BIN") {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    // target/debug/deps/it-0123 and target/release/benches stand one or two folders below it.
    let found =
        here.ancestors().skip(1).take(2).map(|folder| folder.join("doorward")).find(|path| path.is_file());
    found.context("the doorward binary is not built; run `cargo build -p doorward` (make test does)")
}

/// What a gateway is started with.
#[derive(Debug)]
pub struct Setup {
    folder: TempDir,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
}

impl Setup {
    /// A gateway with this configuration. Relative paths in it are in the gateway's own folder; let it
    /// listen on `127.0.0.1:0`.
    ///
    /// # Errors
    /// When no folder can be made.
    pub fn new(config: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("doorward-gw-").tempdir()?;
        let setup = Self { folder, environment: Vec::new(), arguments: Vec::new() };
        setup.file(CONFIG, config)
    }

    /// Puts a file into the gateway's folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Result<Self> {
        fs::write(self.folder.path().join(name), content)?;
        Ok(self)
    }

    /// Sets an environment variable: where `env:NAME` secrets come from.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument to `serve`.
    #[must_use]
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// The gateway's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs another command of the binary in the gateway's folder with its environment, to its end.
    ///
    /// # Errors
    /// When the binary cannot be run, or does not end in time.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command()?.args(arguments).run()
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.current_dir(self.folder.path()).env("DOORWARD_CONFIG", CONFIG);
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        Ok(command)
    }

    /// Starts the gateway and waits until it is ready.
    ///
    /// # Errors
    /// With its log when it does not get ready.
    pub fn start(self) -> Result<Running> {
        let (child, ready) = self.launch()?;
        Ok(Running { child, ready, setup: self })
    }

    fn launch(&self) -> Result<(Guarded, Value)> {
        let ready_file = self.folder.path().join(READY);
        if ready_file.exists() {
            fs::remove_file(&ready_file)?;
        }
        let mut command = self.command()?;
        command.args(["serve", "--config", CONFIG, "--ready-file", READY]).args(&self.arguments);
        let log = self.folder.path().join("log");
        let mut child =
            Guarded::start("doorward", &mut command, &log, Signal::Term, Some(self.folder.path()))?;
        let mut ready = None;
        wait_until(READY_SECONDS_MAX, || {
            let text = fs::read_to_string(&ready_file).unwrap_or_default();
            ready = serde_json::from_str(&text).ok();
            ready.is_some() || !child.alive()
        });
        let ready = ready.with_context(|| format!("the gateway did not get ready:\n{}", child.log()))?;
        Ok((child, ready))
    }
}

/// A running gateway. Dropped, it is asked to stop, and killed if it does not.
#[derive(Debug)]
pub struct Running {
    // The child is stopped before its folder goes: fields drop in this order.
    child: Guarded,
    ready: Value,
    setup: Setup,
}

impl Running {
    /// Starts a gateway with this configuration.
    ///
    /// # Errors
    /// With its log when it does not get ready.
    pub fn start(config: &str) -> Result<Self> {
        Setup::new(config)?.start()
    }

    /// A listener's address by its key in the configuration: `http`, `admin`.
    ///
    /// # Errors
    /// When it does not listen there.
    pub fn address(&self, listener: &str) -> Result<SocketAddr> {
        let text = self.ready.get(listener).and_then(Value::as_str);
        Ok(text.with_context(|| format!("the gateway has no {listener} listener"))?.parse()?)
    }

    /// Where the doors are: `http://127.0.0.1:PORT`.
    ///
    /// # Errors
    /// When it does not listen there.
    pub fn url(&self) -> Result<String> {
        Ok(format!("http://{}", self.address("http")?))
    }

    /// Where metrics and health are.
    ///
    /// # Errors
    /// When it does not listen there.
    pub fn admin_url(&self) -> Result<String> {
        Ok(format!("http://{}", self.address("admin")?))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Its folder: configuration, spool, store, log.
    pub fn folder(&self) -> &Path {
        self.setup.folder()
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        self.child.log()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        self.child.alive()
    }

    /// Writes a file in its folder, in one step: a configuration that is reloaded is never half there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let next = self.folder().join(format!("{name}.next"));
        fs::write(&next, content)?;
        fs::rename(next, self.folder().join(name))?;
        Ok(())
    }

    /// Asks it to reload its configuration.
    ///
    /// # Errors
    /// When it is gone.
    pub fn sighup(&self) -> Result<()> {
        self.child.signal(Signal::Hup)
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn term(&mut self) -> Result<ExitStatus> {
        self.child.signal(Signal::Term)?;
        self.child.wait()
    }

    /// Kills it where it stands.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.signal(Signal::Kill)?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again in the same folder, after [`Self::kill9`] or [`Self::term`]; ports of `:0` change.
    ///
    /// # Errors
    /// When it still runs, or does not get ready.
    pub fn again(&mut self) -> Result<()> {
        ensure!(!self.alive(), "the gateway runs already");
        let (child, ready) = self.setup.launch()?;
        self.child = child;
        self.ready = ready;
        Ok(())
    }

    /// Runs another command of the binary with the same configuration and environment, to its end.
    ///
    /// # Errors
    /// When the binary cannot be run, or does not end in time.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.setup.run(arguments)
    }
}
