//! Segments: their names, and reading their frames, damaged ones included.
//!
//! Invariant: frames are numbered without holes inside a segment, except where a frame is damaged; a
//! reader that meets damage looks for the next good frame of the same segment and says how many are gone. A frame
//! that is sealed and does not open counts as damaged. Sealed frames are opened here and nowhere else: readers take
//! payloads from [`Chunk::payload`].

use std::io;
use std::ops::Range;

use super::encryption::Opener;
use super::files::Files;
use crate::wire::{self, Frame, Malformed, PREFIX};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;
/// Bytes read at once by the log and by the shipper, whose transactions and syncs should serve many frames.
const LARGE_CHUNK: usize = 8 << 20;
/// Bytes read at once for a header alone; more when it is longer.
const HEAD: usize = 8 << 10;
/// A frame after damage counts as one of this segment only if its number is this near.
const SEQ_JUMP_MAX: u64 = 16 << 20;

/// How names of segments without a readable header end.
pub(crate) const BAD: &str = ".bad";
/// How names of files with damaged bytes end.
pub(crate) const DAMAGED: &str = ".damaged";

/// The name of a segment: `EPOCH-FIRSTSEQ.seg`, in hex digits, so that names sort as frames do.
pub(crate) fn name(epoch: u64, first_seq: u64) -> String {
    format!("{epoch:016x}-{first_seq:016x}.seg")
}

/// Epoch and first number of a segment, from its name.
pub(crate) fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (epoch, seq) = name.strip_suffix(".seg")?.split_once('-')?;
    let hex = |text: &str| (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
    Some((hex(epoch)?, hex(seq)?))
}

/// The name under which a segment that cannot be read is kept for the operator.
pub(crate) fn set_aside(name: &str) -> String {
    format!("{name}{BAD}")
}

/// The name of the file that keeps what a repair found damaged.
pub(crate) fn damaged(name: &str, number: u32) -> String {
    format!("{name}.{number}{DAMAGED}")
}

/// The name under which a repair writes a segment anew.
pub(crate) fn scratch(name: &str) -> String {
    format!("{name}.repairing")
}

/// A place in a segment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Cursor {
    /// Bytes before the next frame.
    pub(crate) offset: u64,
    /// The next frame's number, once one was read.
    pub(crate) next_seq: Option<u64>,
    /// The segment's salt and columns, once the header was read.
    pub(crate) salt: Option<u64>,
}

/// What a reader found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A good frame: where its payload is in the chunk ([`Chunk::payload`]), and where it ends in the file.
    Frame { start: usize, end: usize, file_end: u64 },
    /// Damage; the search for the next good frame goes on at this offset. That frame's number tells how
    /// many are gone.
    Damage { resume: u64 },
    /// No good frame between here and the end.
    Tail,
}

/// A chunk of a segment in memory.
pub(crate) struct Chunk {
    /// As they are in the file.
    bytes: Vec<u8>,
    base: u64,
    /// Whether it reaches the end of what may be read.
    last: bool,
    /// In an encrypted segment, its frames that could be opened.
    opened: Option<Opened>,
}

#[derive(Default)]
struct Opened {
    /// Payloads, one behind the other.
    payloads: Vec<u8>,
    /// Where a frame begins in the chunk, and where its payload stands in `payloads`; in order.
    places: Vec<(usize, Range<usize>)>,
}

impl Opened {
    fn payload(&self, start: usize) -> Option<&[u8]> {
        let index = self.places.binary_search_by_key(&start, |(start, _)| *start).ok()?;
        let (_, place) = self.places.get(index)?;
        self.payloads.get(place.clone())
    }
}

impl Chunk {
    /// Reads the chunk that begins at `offset`; at least one whole frame, if there is one. What is sealed is opened:
    /// an error of [`super::encryption::NoKey`] when its key is missing.
    pub(crate) fn load(files: &dyn Files, name: &str, offset: u64, length: u64) -> io::Result<Self> {
        Self::load_of(files, name, offset, length, CHUNK)
    }

    /// The same for threads that handle many frames at once.
    pub(crate) fn load_large(files: &dyn Files, name: &str, offset: u64, length: u64) -> io::Result<Self> {
        Self::load_of(files, name, offset, length, LARGE_CHUNK)
    }

    fn load_of(files: &dyn Files, name: &str, offset: u64, length: u64, want: usize) -> io::Result<Self> {
        let mut chunk = Self::read(files, name, offset, length, want)?;
        let keys = files.keys();
        if offset > 0 && keys.is_empty() {
            // Without keys nobody comes beyond the header of an encrypted segment.
            return Ok(chunk);
        }
        let head = if offset > 0 { Some(Self::read(files, name, 0, length, HEAD)?) } else { None };
        let Ok(header) = wire::payload(&head.as_ref().unwrap_or(&chunk).bytes, 0) else { return Ok(chunk) };
        if let Some(opener) = keys.opener(name, header)? {
            let from = if offset > 0 { 0 } else { PREFIX.saturating_add(header.len()) };
            chunk.opened = Some(chunk.open(&opener, from));
        }
        Ok(chunk)
    }

    fn read(files: &dyn Files, name: &str, offset: u64, length: u64, want: usize) -> io::Result<Self> {
        let mut want = want;
        loop {
            let left = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX);
            let bytes = files.read(name, offset, want.min(left))?;
            let last = bytes.len() >= left || bytes.len() < want.min(left);
            let whole = wire::peek_seq(&bytes).is_none_or(|(size, _)| size + PREFIX <= bytes.len());
            if last || whole {
                return Ok(Self { bytes, base: offset, last, opened: None });
            }
            want = wire::PAYLOAD_MAX + PREFIX;
        }
    }

    /// Opens the frames behind `from`.
    fn open(&self, opener: &Opener, from: usize) -> Opened {
        let mut opened = Opened::default();
        let mut at = from;
        while let Some(bytes) = self.bytes.get(at..).filter(|bytes| !bytes.is_empty()) {
            let start = at + blank(bytes).saturating_sub(2);
            at = start + 1;
            let bytes = self.bytes.get(start..).unwrap_or_default();
            if wire::peek_seq(bytes).is_none() {
                continue;
            }
            let before = opened.payloads.len();
            if let Ok(payload) = wire::payload(bytes, opener.salt)
                && opener.open(payload, &mut opened.payloads).is_ok()
            {
                opened.places.push((start, before..opened.payloads.len()));
                at = start + PREFIX + payload.len();
            }
        }
        opened
    }

    /// The payload of a frame that was found, opened.
    pub(crate) fn payload(&self, start: usize, end: usize) -> &[u8] {
        let opened = self.opened.as_ref().and_then(|opened| opened.payload(start.checked_sub(PREFIX)?));
        opened.unwrap_or_else(|| self.bytes.get(start..end).unwrap_or_default())
    }

    /// A frame that was found, as the file has it.
    pub(crate) fn frame(&self, start: usize, end: usize) -> &[u8] {
        self.bytes.get(start.saturating_sub(PREFIX)..end).unwrap_or_default()
    }

    /// Whether the frame at `start` can be read: it is plain, a header, or opened.
    fn is_open(&self, start: usize, cursor: &Cursor) -> bool {
        let opened = |opened: &Opened| opened.payload(start).is_some();
        cursor.salt.is_none() || self.opened.as_ref().is_none_or(opened)
    }

    /// The frame at `offset`, or what is there instead. `None`: the next chunk begins there.
    pub(crate) fn at(&self, cursor: &Cursor) -> Option<Found> {
        let start = usize::try_from(cursor.offset.checked_sub(self.base)?).ok()?;
        let bytes = self.bytes.get(start..).unwrap_or_default();
        if bytes.is_empty() {
            return self.last.then_some(Found::Tail);
        }
        match wire::payload(bytes, cursor.salt.unwrap_or(0)) {
            Ok(payload) if self.is_open(start, cursor) => {
                let (from, to) = (start + PREFIX, start + PREFIX + payload.len());
                Some(Found::Frame { start: from, end: to, file_end: self.offset(to) })
            }
            // A frame at the edge of the chunk, unless its length itself is damaged.
            Err(Malformed::Short) if !self.last && start > 0 => None,
            Ok(_) | Err(_) => self.resume(cursor, start + 1),
        }
    }

    /// Looks for the next good frame.
    fn resume(&self, cursor: &Cursor, from: usize) -> Option<Found> {
        let (Some(salt), Some(next)) = (cursor.salt, cursor.next_seq) else { return Some(Found::Tail) };
        let mut at = from;
        while let Some(bytes) = self.bytes.get(at..).filter(|bytes| !bytes.is_empty()) {
            // No frame begins with three zeros, and a segment that was not filled ends in many.
            let skip = blank(bytes).saturating_sub(2);
            let start = at + skip;
            at = start + 1;
            let bytes = bytes.get(skip..).unwrap_or_default();
            let Some((size, seq)) = wire::peek_seq(bytes) else { continue };
            if seq < next || seq > next.saturating_add(SEQ_JUMP_MAX) {
                continue;
            }
            if wire::payload(bytes, salt).is_ok() && self.is_open(start, cursor) {
                return Some(Found::Damage { resume: self.offset(start) });
            }
            if !self.last && start > 0 && bytes.len() < size + PREFIX {
                return Some(Found::Damage { resume: self.offset(start) });
            }
        }
        // Nothing good in this chunk; go on with the next, which overlaps this one by a frame's prefix.
        match self.last {
            true => Some(Found::Tail),
            false => {
                let resume = self.bytes.len().saturating_sub(PREFIX * 4).max(from);
                Some(Found::Damage { resume: self.offset(resume) })
            }
        }
    }

    fn offset(&self, index: usize) -> u64 {
        self.base.saturating_add(u64::try_from(index).unwrap_or(u64::MAX))
    }
}

/// Fails when a segment is encrypted under a key that is not at hand. Nothing behind its header is read.
pub(crate) fn check_key(files: &dyn Files, name: &str, length: u64) -> io::Result<()> {
    let head = Chunk::read(files, name, 0, length, HEAD)?;
    let Ok(header) = wire::payload(&head.bytes, 0) else { return Ok(()) };
    files.keys().opener(name, header).map(|_| ())
}

/// Zeros to compare with.
const BLANK: [u8; 4096] = [0; 4096];

/// How many zeros the bytes begin with.
fn blank(bytes: &[u8]) -> usize {
    let whole = bytes.chunks_exact(BLANK.len()).take_while(|chunk| **chunk == BLANK).count() * BLANK.len();
    let rest = bytes.get(whole..).unwrap_or_default();
    whole + rest.iter().take_while(|byte| **byte == 0).count()
}

/// The end of what was written into a segment: behind it are only zeros, of room that was set aside and not
/// used. A last frame that ends in zeros itself may reach a little further.
pub(crate) fn written_end(files: &dyn Files, name: &str, length: u64) -> io::Result<u64> {
    let step = u64::try_from(CHUNK).unwrap_or(u64::MAX);
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(step);
        let bytes = files.read(name, start, usize::try_from(end - start).unwrap_or(CHUNK))?;
        if blank(&bytes) < bytes.len() {
            let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
            return Ok(end.saturating_sub(u64::try_from(zeros).unwrap_or(0)));
        }
        end = start;
    }
    Ok(0)
}

/// Walks a segment to its last good frame: the offset behind it, and its number.
pub(crate) fn good_end(files: &dyn Files, name: &str, length: u64) -> io::Result<(u64, Option<u64>)> {
    let mut cursor = Cursor::default();
    let (mut good, mut last) = (0, None);
    let mut chunk = Chunk::load(files, name, 0, length)?;
    loop {
        match chunk.at(&cursor) {
            None => chunk = Chunk::load(files, name, cursor.offset, length)?,
            Some(Found::Tail) => return Ok((good, last)),
            Some(Found::Damage { resume }) => cursor.offset = resume,
            Some(Found::Frame { start, end, file_end }) => {
                let Ok((seq, frame)) = wire::decode(chunk.payload(start, end)) else {
                    // Whole, but of another format: it is not ours to cut.
                    return Ok((length, last));
                };
                if let Frame::Header(header) = &frame {
                    cursor.salt = Some(header.salt);
                }
                cursor.offset = file_end;
                cursor.next_seq = Some(seq.saturating_add(1));
                (good, last) = (file_end, Some(seq));
            }
        }
    }
}
