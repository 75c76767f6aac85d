//! Framing of syslog over a stream (RFC 6587): octet counting, which RFC 5425 asks for over TLS, and lines.
//! Each frame may choose: one that begins with a digit is counted, one that begins with `<` is a line.
//!
//! Invariants: no more than a message's bound is kept; how the network cuts the stream changes nothing.

use crate::read::split::EVIDENCE_BYTES_MAX;

/// The most digits of an octet count.
const COUNT_DIGITS_MAX: usize = 7;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A message.
    Message(Vec<u8>),
    /// The first bytes of a message beyond the bound.
    TooLong(Vec<u8>),
    /// What there is of a message in which the stream ended.
    Cut(Vec<u8>),
}

/// The stream is not framed: nothing behind this can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unframed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Between,
    Count { count: usize, digits: usize },
    Counted { left: usize },
    Line,
}

/// Cuts a stream into frames.
#[derive(Debug)]
pub(crate) struct Framer {
    bytes_max: usize,
    place: Place,
    message: Vec<u8>,
    too_long: bool,
}

impl Framer {
    /// For messages of at most so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, place: Place::Between, message: Vec::new(), too_long: false }
    }

    /// Takes bytes from the front of `input`, up to the end of the next frame; `None` when there are none
    /// left and the frame is not whole.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, Unframed> {
        while let Some((byte, rest)) = input.split_first() {
            match self.place {
                Place::Between => {
                    self.place = match byte {
                        b'1'..=b'9' => Place::Count { count: usize::from(byte - b'0'), digits: 1 },
                        b'<' => {
                            self.keep(b"<");
                            Place::Line
                        }
                        b'\n' | b'\r' | b' ' | b'\0' => Place::Between,
                        _ => return Err(Unframed),
                    };
                    *input = rest;
                }
                Place::Count { count, digits } => {
                    self.place = match byte {
                        b'0'..=b'9' if digits < COUNT_DIGITS_MAX => {
                            Place::Count { count: count * 10 + usize::from(byte - b'0'), digits: digits + 1 }
                        }
                        b' ' => Place::Counted { left: count },
                        _ => return Err(Unframed),
                    };
                    *input = rest;
                }
                Place::Counted { left } => {
                    let (part, rest) = input.split_at(left.min(input.len()));
                    self.keep(part);
                    *input = rest;
                    let left = left - part.len();
                    self.place = Place::Counted { left };
                    if left == 0 {
                        return Ok(Some(self.take()));
                    }
                }
                Place::Line => {
                    let end = input.iter().position(|byte| *byte == b'\n');
                    let (part, rest) = input.split_at(end.unwrap_or(input.len()));
                    self.keep(part);
                    *input = rest.split_first().map_or(rest, |(_, rest)| rest);
                    if end.is_some() {
                        return Ok(Some(self.take()));
                    }
                }
            }
        }
        Ok(None)
    }

    /// What the stream ended in. The last line needs no end.
    pub(crate) fn finish(&mut self) -> Option<Frame> {
        match self.place {
            Place::Between => None,
            Place::Line => Some(self.take()),
            Place::Count { .. } | Place::Counted { .. } => {
                self.place = Place::Between;
                Some(Frame::Cut(std::mem::take(&mut self.message)))
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let max = if self.too_long { EVIDENCE_BYTES_MAX.min(self.bytes_max) } else { self.bytes_max };
        let room = max.saturating_sub(self.message.len());
        self.message.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        if bytes.len() > room {
            self.too_long = true;
            self.message.truncate(EVIDENCE_BYTES_MAX);
        }
    }

    fn take(&mut self) -> Frame {
        self.place = Place::Between;
        let mut message = std::mem::take(&mut self.message);
        if std::mem::take(&mut self.too_long) {
            return Frame::TooLong(message);
        }
        while message.last().is_some_and(|last| matches!(last, b'\r' | b'\n' | b'\0')) {
            message.pop();
        }
        Frame::Message(message)
    }
}

/// Cuts a whole stream, `step` bytes at a time; for tests and fuzzers.
pub(crate) fn frames(bytes_max: usize, bytes: &[u8], step: usize) -> (Vec<Frame>, bool) {
    let mut framer = Framer::new(bytes_max);
    let mut found = Vec::new();
    for mut chunk in bytes.chunks(step.max(1)) {
        loop {
            match framer.next(&mut chunk) {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(Unframed) => return (found, false),
            }
        }
    }
    found.extend(framer.finish());
    (found, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_or_lines() {
        let message = |text: &str| Frame::Message(text.as_bytes().to_vec());
        let stream = b"5 <1>ab\n<2>cd\r\n6 <3>\nef<4>g\n\n 4 <5>h";
        let expected =
            vec![message("<1>ab"), message("<2>cd"), message("<3>\nef"), message("<4>g"), message("<5>h")];
        for step in [1, 2, 3, 7, 1_000] {
            assert_eq!(frames(64, stream, step), (expected.clone(), true), "in steps of {step}");
        }
    }

    #[test]
    fn what_is_too_long_is_skipped_and_what_is_not_framed_ends_the_stream() {
        let long = format!("100 {}<2>b\n<{}\n3 <3>", "x".repeat(100), "y".repeat(100));
        let (found, whole) = frames(16, long.as_bytes(), 5);
        assert!(whole);
        assert!(matches!(found[0], Frame::TooLong(_)), "{found:?}");
        assert_eq!(found[1], Frame::Message(b"<2>b".to_vec()));
        assert!(matches!(found[2], Frame::TooLong(_)));
        assert_eq!(found[3], Frame::Message(b"<3>".to_vec()));
        assert_eq!(frames(16, b"<1>a", 1).0, [Frame::Message(b"<1>a".to_vec())]);
        assert_eq!(frames(16, b"9 <1>a", 1).0, [Frame::Cut(b"<1>a".to_vec())]);
        for broken in ["x", "0 ", "12345678 ", "5x", "GET / HTTP/1.1\r\n"] {
            assert_eq!(frames(16, broken.as_bytes(), 1), (Vec::new(), false), "{broken}");
        }
    }
}
