//! What is done before the spool takes its first record: the epoch, and what the last one left behind.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use doorward_core::{Clock, SystemClock, Timestamp};
use uuid::Uuid;

use super::files::{Files, is_unwritable};
use super::{SegmentInfo, segment};

const EPOCH_FILE: &str = "epoch";
const GATEWAY_FILE: &str = "gateway-id";
/// The most bytes of one of these files.
const SMALL_FILE_MAX: usize = 1_024;
/// Bits of an epoch that are the directory's own. With the seconds it stays below 2^53, which every JSON
/// reader takes.
const DIRECTORY_BITS: u32 = 20;
const DIRECTORY: u64 = (1 << DIRECTORY_BITS) - 1;
/// How long a call of another gateway of the same name may go on before its outcome counts as unknown.
const FOREIGN_OPEN: Duration = Duration::from_secs(24 * 60 * 60);

/// What the directory holds.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) gateway_id: Arc<str>,
    pub(crate) epoch: u64,
    /// Segments of earlier epochs, oldest first, each cut to its last good frame.
    pub(crate) segments: VecDeque<SegmentInfo>,
    /// Small files that could not be written for want of room; they must be before the first segment is.
    pub(crate) owed: Vec<SmallFile>,
}

/// Name and content.
pub(crate) type SmallFile = (&'static str, String);

impl Recovered {
    /// Reads the directory and begins a new epoch.
    ///
    /// Epochs grow with the wall clock's seconds, so that a directory that was wiped does not begin again
    /// at numbers that the store has seen. Their low [`DIRECTORY_BITS`] are the directory's own: two gateways
    /// that were given one name do not write under one epoch, and know each other's from theirs.
    pub(crate) fn read(files: &dyn Files, gateway_id: Option<&str>) -> io::Result<Self> {
        let seconds = u64::try_from(SystemClock.now().seconds()).unwrap_or(0);
        Self::read_at(files, gateway_id, seconds)
    }

    pub(crate) fn read_at(files: &dyn Files, gateway_id: Option<&str>, seconds: u64) -> io::Result<Self> {
        let listed = files.list()?;
        // Before anything is changed: under a wrong key each frame would look torn.
        for (_, _, name, length) in named_segments(&listed) {
            segment::check_key(files, &name, length)?;
        }
        let mut owed = Vec::new();
        let gateway_id = own_id(files, &listed, gateway_id, &mut owed)?;
        let segments = segments(files, &listed)?;
        let before = small_file(files, &listed, EPOCH_FILE)?.and_then(|text| text.trim().parse().ok());
        let newest = segments.back().map(|segment| segment.epoch);
        let epoch = next_epoch(before.max(newest), seconds);
        put(files, EPOCH_FILE, epoch.to_string(), &mut owed)?;
        Ok(Self { gateway_id, epoch, segments, owed })
    }
}

/// The gateway's name in a directory, which is given one when it has none.
pub(crate) fn gateway_id(files: &dyn Files, configured: Option<&str>) -> io::Result<Arc<str>> {
    let mut owed = Vec::new();
    let id = own_id(files, &files.list()?, configured, &mut owed)?;
    if owed.is_empty() { Ok(id) } else { Err(io::ErrorKind::StorageFull.into()) }
}

/// Whether a call that an earlier epoch left open is ours to settle: it was ours, or another directory's so long
/// ago that its gateway does not live beside us under the same name.
pub(crate) fn ours_to_settle(epoch: u64, own: u64, access_id: Uuid, now: Timestamp) -> bool {
    let began = access_id.get_timestamp().map_or(0, |began| began.to_unix().0);
    let age = u64::try_from(now.seconds()).unwrap_or(0).saturating_sub(began);
    epoch & DIRECTORY == own & DIRECTORY || age > FOREIGN_OPEN.as_secs()
}

fn next_epoch(before: Option<u64>, seconds: u64) -> u64 {
    let count = before.map_or(0, |before| (before >> DIRECTORY_BITS).saturating_add(1)).max(seconds);
    let directory = match before {
        Some(before) if before > DIRECTORY << DIRECTORY_BITS => before,
        // A new directory, or one of a version whose epochs were seconds.
        Some(_) | None => Uuid::new_v4().as_u64_pair().1,
    };
    (count << DIRECTORY_BITS) | (directory & DIRECTORY)
}

/// The gateway's name, which a directory keeps: what it holds is in the store under that name, and would
/// be shipped twice under another.
fn own_id(
    files: &dyn Files,
    listed: &[(String, u64)],
    configured: Option<&str>,
    owed: &mut Vec<SmallFile>,
) -> io::Result<Arc<str>> {
    let kept = small_file(files, listed, GATEWAY_FILE)?;
    match (configured, kept.as_deref().map(str::trim)) {
        (Some(configured), Some(kept)) if configured != kept => Err(io::Error::other(format!(
            "it belongs to gateway `{kept}` and `spool.gateway_id` is `{configured}`; \
             give a gateway of another name a directory of its own"
        ))),
        (_, Some(kept)) => Ok(Arc::from(kept)),
        (configured, None) => {
            let random = Uuid::new_v4().simple().to_string();
            let random = format!("gw-{}", random.get(..8).unwrap_or(&random));
            let id = configured.unwrap_or(&random);
            put(files, GATEWAY_FILE, id.to_owned(), owed)?;
            Ok(Arc::from(id))
        }
    }
}

/// Writes a small file, or owes it when there is no room: a gateway comes up on a full disk, and waits.
fn put(files: &dyn Files, name: &'static str, content: String, owed: &mut Vec<SmallFile>) -> io::Result<()> {
    match files.put(name, content.as_bytes()) {
        Err(error) if is_unwritable(&error) => {
            owed.push((name, content));
            Ok(())
        }
        done => done,
    }
}

fn small_file(files: &dyn Files, listed: &[(String, u64)], name: &str) -> io::Result<Option<String>> {
    if !listed.iter().any(|(listed, _)| listed == name) {
        return Ok(None);
    }
    let bytes = files.read(name, 0, SMALL_FILE_MAX)?;
    let text = String::from_utf8(bytes).map_err(|_| io::Error::other(format!("`{name}` is not text")))?;
    Ok(Some(text).filter(|text| !text.trim().is_empty()))
}

/// A segment: epoch, first number, name and bytes.
pub(crate) type Named = (u64, u64, String, u64);

/// The segments of a directory, oldest first.
pub(crate) fn named_segments(listed: &[(String, u64)]) -> Vec<Named> {
    let mut found: Vec<Named> = listed
        .iter()
        .filter_map(|(name, length)| {
            segment::parse_name(name).map(|(epoch, seq)| (epoch, seq, name.clone(), *length))
        })
        .collect();
    found.sort();
    found
}

/// The gateway's name and the last epoch, as the directory keeps them.
pub(crate) fn small_files(
    files: &dyn Files,
    listed: &[(String, u64)],
) -> io::Result<(Option<String>, Option<u64>)> {
    let gateway_id = small_file(files, listed, GATEWAY_FILE)?.map(|id| id.trim().to_owned());
    let epoch = small_file(files, listed, EPOCH_FILE)?.and_then(|text| text.trim().parse().ok());
    Ok((gateway_id, epoch))
}

fn segments(files: &dyn Files, listed: &[(String, u64)]) -> io::Result<VecDeque<SegmentInfo>> {
    let found = named_segments(listed);
    let mut segments = VecDeque::new();
    for (index, (epoch, _, name, length)) in found.iter().enumerate() {
        let last = found.get(index + 1).is_none_or(|next| next.0 != *epoch);
        // Only the last segment of an epoch can have a torn end; the others were synced, and cut to what
        // they hold, before the next one was made. If that cut failed, one ends in zeros.
        let cut = last || ends_blank(files, name, *length)?;
        let length = if cut { cut_tail(files, name, *length)? } else { *length };
        if length > 0 {
            segments.push_back(SegmentInfo { name: name.clone(), epoch: *epoch, length, sealed: true });
        }
    }
    Ok(segments)
}

/// Whether a segment ends in more zeros than a frame does.
fn ends_blank(files: &dyn Files, name: &str, length: u64) -> io::Result<bool> {
    const MANY: usize = 64;
    let from = length.saturating_sub(u64::try_from(MANY).unwrap_or(0));
    let end = files.read(name, from, MANY)?;
    Ok(end.len() == MANY && end.iter().all(|byte| *byte == 0))
}

/// Cuts a segment behind its last good frame; what is cut was never reported as durable.
fn cut_tail(files: &dyn Files, name: &str, length: u64) -> io::Result<u64> {
    let written = segment::written_end(files, name, length)?;
    let (good, _) = segment::good_end(files, name, length)?;
    let done = if written == 0 {
        files.remove(name)
    } else if good == 0 {
        // Torn in its first batch, or damaged at its start: it is kept for whoever wants to look.
        tracing::warn!(segment = name, bytes = written, "a segment without a readable header was set aside");
        files.truncate(name, written).and_then(|()| files.rename(name, &segment::set_aside(name)))
    } else if good < length {
        if good < written {
            tracing::warn!(segment = name, bytes = written - good, "a torn end was cut off the spool");
        }
        files.truncate(name, good)
    } else {
        Ok(())
    };
    match done {
        // It is read up to its good end; a later start cuts it.
        Err(error) if is_unwritable(&error) => Ok(good),
        done => done.map(|()| good),
    }
}
