//! The framing of one HTTP/1 byte stream (RFC 9112), followed strictly. Pure: bytes in, lengths out.
//!
//! Invariant: how the stream is cut into reads changes nothing; a property test cuts it everywhere.

use std::mem::MaybeUninit;

use doorward_core::{Code, Fault};

use super::head;

/// The most header fields of one request; hyper's own bound is the same.
pub const HEADERS_MAX: usize = 100;
/// The longest chunk-size line with its extensions.
pub const CHUNK_LINE_BYTES_MAX: u32 = 256;
/// The largest trailer section.
pub const TRAILER_BYTES_MAX: u32 = 4 << 10;
/// Empty lines that are passed over before a request line (RFC 9112 section 2.2).
const BLANK_LINES_MAX: u8 = 2;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Violation {
    code: &'static Code,
    text: &'static str,
}

impl Violation {
    pub(crate) const fn new(code: &'static Code, text: &'static str) -> Self {
        Self { code, text }
    }

    /// The fault that refuses it.
    pub fn fault(&self) -> Fault {
        Fault::new(self.code, self.text).hint("Send one well-formed HTTP message (RFC 9110, RFC 9112).")
    }
}

/// Bounds of a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Request line and header fields together.
    pub head_bytes_max: usize,
    /// The request's target.
    pub uri_bytes_max: usize,
}

/// How far a stream may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// Bytes at the front that may pass.
    pub clean: usize,
    /// What comes after them.
    pub stop: Stop,
}

/// Why a stream does not pass further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All has passed, or the rest is the beginning of a head: more bytes are needed.
    More,
    /// A head is refused; it begins where the clean bytes end.
    Refused(Violation),
    /// A body is broken; its request has passed already.
    Broken(Violation),
}

/// The length of a request's body, as its head frames it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framed {
    Length(u64),
    Chunked,
}

/// Follows the framing of one stream.
#[derive(Debug)]
pub struct Framing {
    limits: HeadLimits,
    state: State,
    /// How much of the head under way has been searched for line ends already.
    scanned: usize,
    blank_lines: u8,
}

#[derive(Debug)]
enum State {
    Head,
    Fixed(u64),
    Chunked(Chunk),
    Over,
}

#[derive(Debug)]
enum Chunk {
    /// In the hexadecimal size.
    Size {
        size: u64,
        digits: u8,
    },
    /// In the extensions behind it.
    Extension {
        size: u64,
        bytes: u32,
    },
    /// The line's CR was seen.
    SizeEnd {
        size: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a trailer line.
    Trailer {
        bytes: u32,
    },
    /// Inside a trailer line.
    TrailerLine {
        bytes: u32,
        colon: bool,
    },
    /// A trailer line's CR was seen.
    TrailerEnd {
        bytes: u32,
    },
    /// The CR of the last, empty line was seen.
    LastLf,
}

impl Framing {
    /// The framing of a fresh connection.
    pub fn new(limits: HeadLimits) -> Self {
        Self { limits, state: State::Head, scanned: 0, blank_lines: 0 }
    }

    /// Whether the stream stands inside a body.
    pub fn in_body(&self) -> bool {
        matches!(self.state, State::Fixed(_) | State::Chunked(_))
    }

    /// Whether the stream has ended with a refusal or a break.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Examines the bytes that have not passed yet. The caller keeps what is behind the clean ones, and
    /// brings it again together with what comes next. After a refusal or a break nothing passes any more.
    pub fn advance(&mut self, bytes: &[u8]) -> Advance {
        let mut clean = 0;
        loop {
            let rest = bytes.get(clean..).unwrap_or_default();
            if rest.is_empty() {
                return Advance { clean, stop: Stop::More };
            }
            let step = match &mut self.state {
                State::Over => return Advance { clean, stop: Stop::More },
                State::Head => self.head(rest).map_err(Stop::Refused),
                State::Fixed(left) => Ok(take(left, rest.len())),
                State::Chunked(chunk) => chunk.advance(rest).map_err(Stop::Broken),
            };
            match step {
                Ok(0) => return Advance { clean, stop: Stop::More },
                Ok(passed) => clean += passed,
                Err(stop) => {
                    self.state = State::Over;
                    return Advance { clean, stop };
                }
            }
            if matches!(self.state, State::Fixed(0) | State::Chunked(Chunk::Data(u64::MAX))) {
                self.state = State::Head;
            }
        }
    }

    /// The length of a whole, clean head; zero when it is not whole yet.
    fn head(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        match rest {
            [b'\r', b'\n', ..] if self.blank_lines < BLANK_LINES_MAX => {
                self.blank_lines += 1;
                return Ok(2);
            }
            // Without this bound a stream of line ends would be searched again with each of them.
            [b'\r', b'\n', ..] | [b'\n', ..] => {
                return Err(Violation::new(
                    crate::codes::MALFORMED_MESSAGE,
                    "a line end stands for a request",
                ));
            }
            [b'\r'] => return Ok(0),
            _ => {}
        }
        // A head cannot end, and a complaint can wait, before the next line end.
        let fresh = rest.get(self.scanned..).unwrap_or_default();
        self.scanned = rest.len();
        if !fresh.contains(&b'\n') {
            return self.bounded(rest.len()).map(|()| 0);
        }
        let mut fields = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(rest, &mut fields).map_err(head::violation)?;
        let httparse::Status::Complete(length) = parsed else {
            return self.bounded(rest.len()).map(|()| 0);
        };
        self.bounded(length)?;
        head::check_line_ends(rest.get(..length).unwrap_or_default())?;
        self.state = match head::check(&request, &self.limits)? {
            Framed::Length(length) => State::Fixed(length),
            Framed::Chunked => State::Chunked(Chunk::Size { size: 0, digits: 0 }),
        };
        self.scanned = 0;
        self.blank_lines = 0;
        Ok(length)
    }

    fn bounded(&self, length: usize) -> Result<(), Violation> {
        if length > self.limits.head_bytes_max {
            return Err(Violation::new(
                crate::codes::HEAD_TOO_LARGE,
                "the request's head is larger than its bound",
            ));
        }
        Ok(())
    }
}

/// Takes as much of a counted body as is there.
fn take(left: &mut u64, available: usize) -> usize {
    let part = usize::try_from(*left).unwrap_or(usize::MAX).min(available);
    *left -= u64::try_from(part).unwrap_or(*left);
    part
}

impl Chunk {
    /// The end of the message: no chunk has this size, because sizes have at most 15 digits.
    const END: Self = Self::Data(u64::MAX);
    const SIZE_DIGITS_MAX: u8 = 15;

    /// Passes data in bulk and lines byte by byte; stops at the message's end.
    fn advance(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        if let Self::Data(left) = self {
            let passed = take(left, rest.len());
            if *left == 0 {
                *self = Self::DataCr;
            }
            return Ok(passed);
        }
        let mut passed = 0;
        for &byte in rest {
            *self = match self.next(byte) {
                Ok(next) => next,
                // What stands before the break passes; the next step finds the break at its start.
                Err(_) if passed > 0 => break,
                Err(violation) => return Err(violation),
            };
            passed += 1;
            if matches!(self, Self::Data(_)) {
                break;
            }
        }
        Ok(passed)
    }

    fn next(&self, byte: u8) -> Result<Self, Violation> {
        match (self, byte) {
            (Self::Size { size, digits }, _)
                if byte.is_ascii_hexdigit() && *digits < Self::SIZE_DIGITS_MAX =>
            {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                Ok(Self::Size { size: size << 4 | digit, digits: digits + 1 })
            }
            (Self::Size { size, digits: 1.. }, b'\r') => Ok(Self::SizeEnd { size: *size }),
            (Self::Size { size, digits: 1.. }, b';') => Ok(Self::Extension { size: *size, bytes: 0 }),
            (Self::Extension { size, .. }, b'\r') => Ok(Self::SizeEnd { size: *size }),
            (Self::Extension { size, bytes }, b'\t' | b' '..=b'~') if *bytes < CHUNK_LINE_BYTES_MAX => {
                Ok(Self::Extension { size: *size, bytes: bytes + 1 })
            }
            (Self::SizeEnd { size: 0 }, b'\n') => Ok(Self::Trailer { bytes: 0 }),
            (Self::SizeEnd { size }, b'\n') => Ok(Self::Data(*size)),
            (Self::DataCr, b'\r') => Ok(Self::DataLf),
            (Self::DataLf, b'\n') => Ok(Self::Size { size: 0, digits: 0 }),
            (Self::Trailer { .. }, b'\r') => Ok(Self::LastLf),
            (Self::Trailer { bytes }, _) if head::is_token(byte) => {
                Ok(Self::TrailerLine { bytes: bytes + 1, colon: false })
            }
            (Self::TrailerLine { bytes, .. }, _) if *bytes >= TRAILER_BYTES_MAX => Err(bad_chunk()),
            (Self::TrailerLine { bytes, colon: true }, b'\r') => Ok(Self::TrailerEnd { bytes: *bytes }),
            (Self::TrailerLine { bytes, colon: true }, b'\t' | b' '..=b'~' | 0x80..) => {
                Ok(Self::TrailerLine { bytes: bytes + 1, colon: true })
            }
            (Self::TrailerLine { bytes, colon: false }, _) if byte == b':' || head::is_token(byte) => {
                Ok(Self::TrailerLine { bytes: bytes + 1, colon: byte == b':' })
            }
            (Self::TrailerEnd { bytes }, b'\n') => Ok(Self::Trailer { bytes: *bytes }),
            (Self::LastLf, b'\n') => Ok(Self::END),
            _ => Err(bad_chunk()),
        }
    }
}

fn bad_chunk() -> Violation {
    Violation::new(crate::codes::MALFORMED_MESSAGE, "the body's chunked framing is broken")
}
