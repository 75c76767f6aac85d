//! Segments that the store has and a sink still needs.
//!
//! The shipper gives a segment away when its last frame is in the store. With sinks configured it goes to the
//! folder `sinks` of the spool instead of being deleted, and stays there for as long as some sink is before its
//! end and within that sink's `lag_max`. So a sink that is away costs a bounded part of the disk, and neither
//! the spool nor the store waits for it.
//!
//! Invariant: a segment is in one of the two folders, under one name, or gone.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::spool::SegmentInfo;
use crate::spool::files::{Directory, Files};
use crate::spool::segment;

/// The folder under the spool.
pub(crate) const FOLDER: &str = "sinks";

/// What one sink needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Need {
    /// The segment that it is in; empty before its first.
    segment: String,
    lag_max: u64,
}

/// The folder of segments that sinks still need.
pub(crate) struct Retained {
    /// The spool's directory.
    spool: Arc<dyn Files>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Names and lengths, oldest first.
    segments: BTreeMap<String, u64>,
    needs: BTreeMap<String, Need>,
}

impl Retained {
    /// Makes the folder in the spool's directory when it is not there, and reads what it holds.
    pub(crate) fn open(dir: &Path, spool: Arc<dyn Files>) -> io::Result<Arc<Self>> {
        let listed = Directory::open(&dir.join(FOLDER))?.list()?.into_iter();
        let segments: BTreeMap<_, _> =
            listed.filter(|(name, _)| segment::parse_name(name).is_some()).collect();
        for (name, length) in &segments {
            segment::check_key(&*spool, &Self::path(name), *length)?;
        }
        Ok(Arc::new(Self { spool, state: Mutex::new(State { segments, needs: BTreeMap::new() }) }))
    }

    /// The name of a segment of the folder, as the spool's directory sees it.
    pub(crate) fn path(name: &str) -> String {
        format!("{FOLDER}/{name}")
    }

    /// Takes over a segment that the store has.
    pub(crate) fn take(&self, given: &SegmentInfo) -> io::Result<()> {
        // Under the lock, so that a reader who misses it under its old name finds it under the new one.
        let mut state = self.state.lock();
        self.spool.rename(&given.name, &Self::path(&given.name))?;
        state.segments.insert(given.name.clone(), given.length);
        self.sweep(&mut state);
        Ok(())
    }

    /// Says where all sinks are, at once: between two of them nothing is deleted that the second one needs.
    pub(crate) fn begin(&self, sinks: impl Iterator<Item = (String, String, u64)>) {
        let mut state = self.state.lock();
        for (sink, segment, lag_max) in sinks {
            state.needs.insert(sink, Need { segment, lag_max });
        }
        self.sweep(&mut state);
    }

    /// Says that a sink is in a segment, and how far it may be behind.
    pub(crate) fn need(&self, sink: &str, segment: &str, lag_max: u64) {
        let mut state = self.state.lock();
        state.needs.insert(sink.to_owned(), Need { segment: segment.to_owned(), lag_max });
        self.sweep(&mut state);
    }

    /// The first segment from this name on, and its length.
    pub(crate) fn first_from(&self, name: &str) -> Option<(String, u64)> {
        let state = self.state.lock();
        state.segments.range(name.to_owned()..).next().map(|(name, length)| (name.clone(), *length))
    }

    /// Whether it holds this segment.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.state.lock().segments.contains_key(name)
    }

    /// Bytes of the segments from this name on.
    pub(crate) fn bytes_from(&self, name: &str) -> u64 {
        self.state.lock().segments.range(name.to_owned()..).map(|(_, length)| *length).sum()
    }

    /// Deletes what no sink needs.
    fn sweep(&self, state: &mut State) {
        let mut behind = 0u64;
        let mut dropped = Vec::new();
        for (name, length) in state.segments.iter().rev() {
            behind = behind.saturating_add(*length);
            let needed = |need: &Need| need.segment <= *name && behind <= need.lag_max;
            if !state.needs.values().any(needed) {
                dropped.push(name.clone());
            }
        }
        for name in dropped {
            match self.spool.remove(&Self::path(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(segment = %name, %error, "a segment that no sink needs could not be deleted");
                }
                Ok(()) | Err(_) => {
                    state.segments.remove(&name);
                }
            }
        }
    }
}
