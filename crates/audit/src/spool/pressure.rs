//! How full the spool is: of what it may hold, and of what the disk has left. It says so before the end.
//!
//! Constraints: the disk is asked by the writer's thread alone, at most each [`LOOK_EVERY`]; everything else
//! is a few atomics. Each change of level is logged once, and an alarm ends only [`CLEAR_PERCENT`] below
//! where it began, so that a spool at the edge does not fill the log.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Shared, State};

/// How often the disk is asked for its free space.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How far below the alarm's share the spool must be for the alarm to end.
const CLEAR_PERCENT: u64 = 5;
/// Segments that the disk must have room for; below it there is an alarm, however little the spool holds.
const DISK_SEGMENTS_MIN: u64 = 2;
/// Free space that is not known.
const UNKNOWN: u64 = u64::MAX;

/// How full the spool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// There is room.
    Roomy,
    /// The configured share is reached, or the disk is nearly full.
    Alarm,
    /// It takes no more records.
    Full,
}

/// What the writer found last.
#[derive(Debug)]
pub(crate) struct Pressure {
    level: AtomicU8,
    disk_free: AtomicU64,
}

impl Default for Pressure {
    fn default() -> Self {
        Self { level: AtomicU8::new(0), disk_free: AtomicU64::new(UNKNOWN) }
    }
}

impl Pressure {
    pub(crate) fn level(&self) -> Level {
        match self.level.load(Ordering::Relaxed) {
            0 => Level::Roomy,
            1 => Level::Alarm,
            _ => Level::Full,
        }
    }

    /// Bytes that the disk has left, where that can be known.
    pub(crate) fn disk_free(&self) -> Option<u64> {
        Some(self.disk_free.load(Ordering::Relaxed)).filter(|free| *free != UNKNOWN)
    }

    /// The new level, if it is another.
    fn change(&self, level: Level) -> Option<(Level, Level)> {
        let before = self.level();
        self.level.store(level as u8, Ordering::Relaxed);
        (before != level).then_some((before, level))
    }
}

/// The writer's own part: when it last looked.
#[derive(Debug, Default)]
pub(crate) struct Watch(Option<Instant>);

impl Watch {
    /// Looks at the disk and the level, and logs what changed.
    pub(crate) fn look(&mut self, shared: &Shared) {
        if self.0.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.0 = Some(Instant::now());
            // A disk that does not tell is one that the writes will speak for.
            let free = shared.files.free().ok().flatten().unwrap_or(UNKNOWN);
            shared.pressure.disk_free.store(free, Ordering::Relaxed);
        }
        let Some((before, now)) = shared.pressure.change(shared.find_level()) else { return };
        let percent = shared.used_percent();
        let (bytes, bytes_max) = (shared.bytes(), shared.settings.size_max);
        let disk_free = shared.pressure.disk_free();
        match now {
            Level::Full => tracing::error!(
                bytes,
                bytes_max,
                disk_free,
                "the spool is full; resources that require records are closed until the store has caught up \
                 or the disk has room"
            ),
            Level::Alarm if before == Level::Full => {
                tracing::warn!(percent, bytes, bytes_max, disk_free, "the spool takes records again");
            }
            Level::Alarm => tracing::warn!(
                percent,
                bytes,
                bytes_max,
                disk_free,
                "the spool fills: the store is behind, or the disk is nearly full"
            ),
            Level::Roomy => tracing::info!(percent, bytes, disk_free, "the spool has room again"),
        }
    }
}

impl Shared {
    /// The share that is used of what the spool can hold: its bound, or what the disk leaves of it.
    pub(crate) fn used_percent(&self) -> u64 {
        let bytes = self.bytes();
        let on_disk = self.pressure.disk_free().map_or(u64::MAX, |free| bytes.saturating_add(free));
        let most = self.settings.size_max.min(on_disk);
        bytes.saturating_mul(100).checked_div(most).unwrap_or(100).min(100)
    }

    fn find_level(&self) -> Level {
        if self.state() == State::Full {
            return Level::Full;
        }
        let alarm = u64::from(self.settings.alarm_percent);
        let alarm =
            if self.pressure.level() == Level::Roomy { alarm } else { alarm.saturating_sub(CLEAR_PERCENT) };
        let disk_min = self.settings.segment_size.saturating_mul(DISK_SEGMENTS_MIN);
        let disk_low = self.pressure.disk_free().is_some_and(|free| free < disk_min);
        if self.used_percent() >= alarm || disk_low { Level::Alarm } else { Level::Roomy }
    }

    /// Why the spool takes no records, for people.
    pub(crate) fn trouble(&self) -> Option<String> {
        let error = self.error.lock().clone();
        error.or_else(|| match self.state() {
            State::Full => {
                Some("it holds all that `spool.size_max` allows; the store has to catch up".to_owned())
            }
            State::Broken => Some("the disk does not answer".to_owned()),
            State::Ready | State::Closed => None,
        })
    }
}
