//! JSON lines on standard output, or on whatever stands in its place in a test.

use std::io::Write;

use super::format::Formatter;
use super::tail::Entry;
use super::worker::{Moment, Receiver, Taken, Trouble};

/// Writes a line for each entry.
pub(crate) struct Stdout<W> {
    formatter: Formatter,
    out: W,
}

impl<W: Write> Stdout<W> {
    pub(crate) fn new(formatter: Formatter, out: W) -> Self {
        Self { formatter, out }
    }
}

impl<W: Write + Send> Receiver for Stdout<W> {
    fn deliver(&mut self, entries: &[Entry]) -> Result<Taken, Trouble> {
        let mut lines = Vec::new();
        for entry in entries {
            self.formatter.line(entry, &mut lines);
        }
        let written = self.out.write_all(&lines).and_then(|()| self.out.flush());
        written.map(|()| Taken::All).map_err(|error| Trouble::Away(error.to_string()))
    }

    fn settle(&mut self, _: Moment) -> Result<Taken, Trouble> {
        Ok(Taken::All)
    }

    fn reset(&mut self) {}
}
