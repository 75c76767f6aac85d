//! Child processes that cannot outlive the test: each has a watchdog, a small shell that waits on a
//! pipe which only this process holds. When this process ends, in whatever way, the pipe closes, and the
//! watchdog ends the child and removes its folder.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait_until;

/// How long a child may take to end by itself before it is killed.
const STOP_SECONDS_MAX: Duration = Duration::from_secs(120);

/// What a watchdog does: `$1` signal, `$2` process (or its group, with a `-` before it), `$3` folder (may be empty).
/// The word `done` sends it home; the end of its input sends it to work.
const WATCH: &str = r#"
trap '' INT HUP TERM
read -r word
[ "$word" = done ] && exit 0
kill -s "$1" -- "$2" 2>/dev/null
tries=0
while kill -s 0 -- "$2" 2>/dev/null && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -s KILL -- "$2" 2>/dev/null
[ -n "$3" ] && rm -rf -- "$3"
exit 0
"#;

/// A signal, as `kill -s` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Reload.
    Hup,
    /// Interrupt, as Ctrl-C sends it.
    Int,
    /// Stop at once, but cleanly (PostgreSQL's immediate shutdown).
    Quit,
    /// Stop.
    Term,
    /// Stop without a chance to do anything.
    Kill,
}

impl Signal {
    const fn name(self) -> &'static str {
        match self {
            Self::Hup => "HUP",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Term => "TERM",
            Self::Kill => "KILL",
        }
    }
}

/// A running child process with its watchdog and its log.
#[derive(Debug)]
pub struct Guarded {
    name: &'static str,
    child: Child,
    watchdog: Watchdog,
    stop: Signal,
    log: PathBuf,
}

impl Guarded {
    /// Starts `command` with its output in `log`. `stop` is the signal that ends it when it is dropped;
    /// `folder` is removed by the watchdog when this process dies without dropping it.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(
        name: &'static str,
        command: &mut Command,
        log: &Path,
        stop: Signal,
        folder: Option<&Path>,
    ) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log).context("the child's log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}: {:?}", command.get_program()))?;
        let watchdog = Watchdog::over(stop, &child.id().to_string(), folder.unwrap_or(Path::new("")))?;
        Ok(Self { name, child, watchdog, stop, log: log.to_owned() })
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When `kill` cannot be run, or the child is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        send(signal, &self.pid().to_string())
            .with_context(|| format!("{} (process {}) takes no signal", self.name, self.pid()))
    }

    /// Waits until it has ended by itself; kills it when it does not.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let mut ended = None;
        wait_until(STOP_SECONDS_MAX, || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some()
        });
        match ended {
            Some(status) => Ok(status),
            None => {
                self.child.kill()?;
                self.child.wait()?;
                anyhow::bail!("{} did not end within {STOP_SECONDS_MAX:?}", self.name)
            }
        }
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn end(&mut self) {
        if self.alive() && self.signal(self.stop).is_ok() {
            // A child that must be killed has been killed; there is nobody to tell.
            let _ = self.wait();
        }
        let _ = self.child.wait();
        self.watchdog.dismiss();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.end();
    }
}

/// A small shell that ends a process, or a group of them, when this process is gone.
#[derive(Debug)]
pub(crate) struct Watchdog(Child);

impl Watchdog {
    /// Watches over a group of processes, by the id of the first.
    pub(crate) fn over_group(signal: Signal, leader: u32) -> Result<Self> {
        Self::over(signal, &format!("-{leader}"), Path::new(""))
    }

    fn over(signal: Signal, target: &str, folder: &Path) -> Result<Self> {
        let shell = Command::new("/bin/sh")
            .args(["-c", WATCH, "watchdog", signal.name(), target])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        Ok(Self(shell.context("cannot start the watchdog")?))
    }

    /// Sends it home: what it watches over has ended.
    pub(crate) fn dismiss(&mut self) {
        if let Some(mut input) = self.0.stdin.take() {
            let _ = input.write_all(b"done\n");
        }
        let _ = self.0.wait();
    }
}

/// Sends a signal to a group of processes, by the id of the first.
pub(crate) fn signal_group(signal: Signal, leader: u32) -> Result<()> {
    send(signal, &format!("-{leader}"))
}

fn send(signal: Signal, target: &str) -> Result<()> {
    let status = Command::new("/bin/sh")
        .args(["-c", "kill -s \"$1\" -- \"$2\"", "kill", signal.name(), target])
        .stderr(Stdio::null())
        .status()?;
    anyhow::ensure!(status.success(), "no process takes it");
    Ok(())
}
