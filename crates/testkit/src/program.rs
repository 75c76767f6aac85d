//! Programs that a test runs to their end: clients that others wrote, PostgreSQL's tools, the gateway's own commands.
//!
//! Invariants: no wait for one is without a bound; one that takes too long is killed with all that it has started, and
//! the test is told what it has printed so far; none outlives the test, nor the test's process.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;

use crate::child::{Signal, Watchdog};
use crate::wait_until;

/// How long a program may take, on a busy machine.
const RUN_SECONDS_MAX: Duration = Duration::from_secs(300);
/// How long its next line may take.
const LINE_SECONDS_MAX: Duration = Duration::from_secs(120);
/// How long one that was killed may take to be gone.
const KILLED_SECONDS_MAX: Duration = Duration::from_secs(10);
/// How much of what it prints is kept; then nobody listens any more.
const PRINTED_BYTES_MAX: usize = 256 << 20;
/// How many texts wait for it to read them.
const SAYINGS_MAX: usize = 64;

/// What [`Command`] does not have: runs with a bound.
pub trait Bounded {
    /// Runs it to its end, with nothing to read.
    ///
    /// # Errors
    /// When it cannot be started, or does not end in time.
    fn run(&mut self) -> Result<Output>;

    /// Runs it to its end, with this to read.
    ///
    /// # Errors
    /// As [`Self::run`].
    fn run_with(&mut self, input: impl Into<Vec<u8>>) -> Result<Output>;

    /// Starts it, to talk with it.
    ///
    /// # Errors
    /// When it cannot be started.
    fn open(&mut self) -> Result<Program>;
}

impl Bounded for Command {
    fn run(&mut self) -> Result<Output> {
        self.stdin(Stdio::null());
        Program::start(self)?.end()
    }

    fn run_with(&mut self, input: impl Into<Vec<u8>>) -> Result<Output> {
        let mut program = self.open()?;
        program.say(input)?;
        program.end()
    }

    fn open(&mut self) -> Result<Program> {
        self.stdin(Stdio::piped());
        Program::start(self)
    }
}

/// A program that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    watchdog: Watchdog,
    input: Option<SyncSender<Vec<u8>>>,
    output: Printed,
    errors: Printed,
}

impl Program {
    /// Starts it in a process group of its own: what it starts ends with it.
    fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}; is it installed? (scripts/setup.sh test)"))?;
        // Held from here on: whatever fails, it is killed.
        let mut child = Unwatched(Some(child));
        let started = child.0.as_mut().context("it was started")?;
        let watchdog = Watchdog::over_group(Signal::Kill, started.id())?;
        let input = started.stdin.take().map(feed);
        let output = Printed::by(started.stdout.take().context("its output")?);
        let errors = Printed::by(started.stderr.take().context("its errors")?);
        let child = child.0.take().context("it was started")?;
        Ok(Self { name, child, watchdog, input, output, errors })
    }

    /// Gives it this to read.
    ///
    /// # Errors
    /// When too much waits for it already. That it has ended is no error: its end says why.
    pub fn say(&mut self, text: impl Into<Vec<u8>>) -> Result<()> {
        let Some(input) = &self.input else { bail!("{} reads nothing", self.name) };
        match input.try_send(text.into()) {
            Err(std::sync::mpsc::TrySendError::Full(_)) => bail!("{}", self.told("does not read")),
            _ => Ok(()),
        }
    }

    /// The next line that it prints, without its end.
    ///
    /// # Errors
    /// When none comes in time, or any more.
    pub fn line(&mut self) -> Result<String> {
        let line = self.output.line();
        line.with_context(|| self.told("prints no further line"))
    }

    /// The next line of its complaints.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn error_line(&mut self) -> Result<String> {
        let line = self.errors.line();
        line.with_context(|| self.told("complains of nothing further"))
    }

    /// Waits for its end, and returns what no [`Self::line`] has taken.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn end(mut self) -> Result<Output> {
        let status = self.wait()?;
        Ok(Output { status, stdout: self.output.rest(), stderr: self.errors.rest() })
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        // The end of its input.
        self.input = None;
        let mut ended = None;
        wait_until(RUN_SECONDS_MAX, || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some() && self.output.is_over() && self.errors.is_over()
        });
        match ended {
            Some(status) if self.output.is_over() && self.errors.is_over() => Ok(status),
            _ => bail!("{}", self.told(&format!("did not end within {RUN_SECONDS_MAX:?}"))),
        }
    }

    /// A complaint, with what it has printed so far.
    fn told(&self, what: &str) -> String {
        format!("{} {what}; it has printed:\n{}{}", self.name, self.output.all(), self.errors.all())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.alive() || !self.output.is_over() || !self.errors.is_over() {
            // Nobody is left to tell when it cannot be killed; the watchdog stays.
            let _ = crate::child::signal_group(Signal::Kill, self.child.id());
            if !wait_until(KILLED_SECONDS_MAX, || !self.alive()) {
                return;
            }
        }
        self.watchdog.dismiss();
    }
}

/// A child of which nobody knows yet.
struct Unwatched(Option<Child>);

impl Drop for Unwatched {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Hands texts to a program in a thread: it may not read them, or not yet.
fn feed(mut stdin: ChildStdin) -> SyncSender<Vec<u8>> {
    let (say, said): (_, Receiver<Vec<u8>>) = sync_channel(SAYINGS_MAX);
    std::thread::spawn(move || {
        // A program that has ended reads nothing.
        while let Ok(text) = said.recv() {
            if stdin.write_all(&text).and_then(|()| stdin.flush()).is_err() {
                return;
            }
        }
    });
    say
}

/// What a program has printed to one of its pipes so far.
#[derive(Debug)]
struct Printed {
    bytes: Arc<Mutex<Vec<u8>>>,
    taken: usize,
    reader: JoinHandle<()>,
}

impl Printed {
    fn by(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let kept = bytes.clone();
        let reader = std::thread::spawn(move || {
            let mut piece = vec![0; 64 << 10];
            while let Ok(count @ 1..) = pipe.read(&mut piece) {
                let mut kept = kept.lock();
                kept.extend_from_slice(piece.get(..count).unwrap_or_default());
                if kept.len() > PRINTED_BYTES_MAX {
                    return;
                }
            }
        });
        Self { bytes, taken: 0, reader }
    }

    fn is_over(&self) -> bool {
        self.reader.is_finished()
    }

    fn all(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock()).into_owned()
    }

    fn rest(&self) -> Vec<u8> {
        self.bytes.lock().get(self.taken..).unwrap_or_default().to_vec()
    }

    fn line(&mut self) -> Option<String> {
        let mut line = None;
        wait_until(LINE_SECONDS_MAX, || {
            // Asked first: what came before the end is there.
            let over = self.is_over();
            line = self.next_line();
            line.is_some() || over
        });
        line
    }

    fn next_line(&mut self) -> Option<String> {
        let bytes = self.bytes.lock();
        let rest = bytes.get(self.taken..)?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let line = String::from_utf8_lossy(rest.get(..end)?).into_owned();
        self.taken += end + 1;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn programs_are_fed_heard_and_reaped() -> Result<()> {
        let output = sh("cat; echo complaint >&2; exit 3").run_with(vec![b'x'; 1 << 20])?;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 1 << 20));
        assert_eq!(output.stderr, b"complaint\n");
        // One that reads nothing is not waited for.
        assert!(sh("exit 0").run_with(vec![b'x'; 1 << 20])?.status.success());
        assert_eq!(sh("cat").run()?.stdout, b"");

        let mut program = sh("read -r word; echo \"$word\"; echo two >&2; cat").open()?;
        program.say("one\n")?;
        assert_eq!((program.line()?, program.error_line()?), ("one".to_owned(), "two".to_owned()));
        program.say("three")?;
        assert_eq!(program.end()?.stdout, b"three");
        let silent = sh("exit 0").open()?.line().unwrap_err().to_string();
        assert!(silent.starts_with("sh prints no further line"), "{silent}");
        Ok(())
    }

    #[test]
    fn what_a_program_has_started_ends_with_it() -> Result<()> {
        let began = Instant::now();
        let mut program = sh("sleep 1000 & echo $!; wait").open()?;
        let grandchild = program.line()?;
        drop(program);
        let gone = || {
            let state = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z")
        };
        assert!(wait_until(KILLED_SECONDS_MAX, gone), "process {grandchild} is left");
        assert!(began.elapsed() < LINE_SECONDS_MAX);
        Ok(())
    }
}
