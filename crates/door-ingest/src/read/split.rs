//! Cuts a stream into records: lines, or the elements of JSON values.
//!
//! In the second form a stream may be one object, an array of objects, several of these one after another,
//! or `{"records": [ … ]}`, which is how Azure wraps them. Only brackets and strings are followed here;
//! whether a piece is JSON is for the parser to say.
//!
//! Invariants: a piece is never longer than its bound, and what is beyond is skipped without being kept; how
//! the stream is cut by the network changes nothing of its pieces.

use doorward_http::is_nested_deeper;

/// The deepest nesting of a record.
pub(crate) const DEPTH_MAX: usize = 32;
/// Bytes of a piece beyond a bound that are kept as evidence.
pub(crate) const EVIDENCE_BYTES_MAX: usize = 4 << 10;

/// How a stream is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A record a line.
    Lines,
    /// JSON values.
    Json,
}

/// One piece: a record, or what stands in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The line, or the element's number, from 1.
    pub(crate) number: u64,
    /// The bytes; the first of them only when the piece is flawed.
    pub(crate) bytes: Vec<u8>,
    /// Why it cannot be a record.
    pub(crate) flaw: Option<Flaw>,
}

/// Why a piece cannot be a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It is longer than the bound.
    TooLong,
    /// It is nested deeper than [`DEPTH_MAX`].
    TooDeep,
    /// The stream ended in it.
    Cut,
    /// A bracket that closes nothing.
    Stray,
}

/// Where a JSON stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Between values.
    Between,
    /// In an object, an array or a string that begins an element.
    Inside,
    /// In a number, `true`, `null` or junk.
    Bare,
    /// Behind the records of a wrapper.
    Tail,
}

/// Cuts a stream.
#[derive(Debug)]
pub(crate) struct Splitter {
    form: Form,
    bytes_max: usize,
    piece: Vec<u8>,
    flaw: Option<Flaw>,
    number: u64,
    place: Place,
    /// Open brackets inside of an element, and those of lists around it.
    depth: usize,
    lists: usize,
    in_wrapper: bool,
    /// Whether the piece was looked at for a wrapper: the first list in it is the only one that may be the
    /// wrapper's, and to look costs a pass over the spaces before it.
    looked_at: bool,
    in_string: bool,
    escaped: bool,
}

impl Splitter {
    /// For pieces of at most so many bytes.
    pub(crate) fn new(form: Form, bytes_max: usize) -> Self {
        Self {
            form,
            bytes_max,
            piece: Vec::new(),
            flaw: None,
            number: 0,
            place: Place::Between,
            depth: 0,
            lists: 0,
            in_wrapper: false,
            looked_at: false,
            in_string: false,
            escaped: false,
        }
    }

    /// Takes bytes from the front of `input`, up to the end of the next piece; `None` when there are none
    /// left and the piece is not whole.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Option<Piece> {
        match self.form {
            Form::Lines => self.next_line(input),
            Form::Json => self.next_value(input),
        }
    }

    /// What the stream ended in, if it did not end behind a piece.
    pub(crate) fn finish(&mut self) -> Option<Piece> {
        match (self.form, self.place) {
            (Form::Lines, _) => {
                self.number += 1;
                (!self.is_blank()).then(|| self.take())
            }
            (Form::Json, Place::Bare) => Some(self.take()),
            (Form::Json, Place::Inside) => {
                self.flaw = self.flaw.or(Some(Flaw::Cut));
                Some(self.take())
            }
            (Form::Json, Place::Tail) => None,
            (Form::Json, Place::Between) if self.lists > 0 => {
                self.number += 1;
                self.flaw = Some(Flaw::Cut);
                Some(self.take())
            }
            (Form::Json, Place::Between) => None,
        }
    }

    fn next_line(&mut self, input: &mut &[u8]) -> Option<Piece> {
        while !input.is_empty() {
            let end = input.iter().position(|byte| *byte == b'\n');
            let (line, rest) = input.split_at(end.unwrap_or(input.len()));
            self.keep(line);
            *input = rest.split_first().map_or(rest, |(_, rest)| rest);
            end?;
            self.number += 1;
            if !self.is_blank() {
                return Some(self.take());
            }
            self.piece.clear();
        }
        None
    }

    fn is_blank(&self) -> bool {
        self.flaw.is_none() && self.piece.iter().all(u8::is_ascii_whitespace)
    }

    fn next_value(&mut self, input: &mut &[u8]) -> Option<Piece> {
        while let Some((byte, rest)) = input.split_first() {
            let done = match self.place {
                Place::Between => self.between(*byte),
                Place::Inside => self.inside(*byte),
                Place::Bare => match byte {
                    // What ends it is looked at again.
                    b',' | b']' | b'}' | b'[' | b'{' | b'"' => return Some(self.take()),
                    byte if byte.is_ascii_whitespace() => true,
                    _ => {
                        self.keep(&[*byte]);
                        false
                    }
                },
                Place::Tail => self.tail(*byte),
            };
            *input = rest;
            if done {
                return Some(self.take());
            }
        }
        None
    }

    /// Whether a piece ends here.
    fn between(&mut self, byte: u8) -> bool {
        match byte {
            b',' => return false,
            byte if byte.is_ascii_whitespace() => return false,
            // A list of lists is no list of records: the inner one is an element, and no object.
            b'[' if self.lists == 0 => {
                self.lists = 1;
                return false;
            }
            b']' if self.lists > 0 => {
                self.lists = 0;
                if std::mem::take(&mut self.in_wrapper) {
                    (self.place, self.depth) = (Place::Tail, 1);
                }
                return false;
            }
            _ => {}
        }
        self.number += 1;
        self.keep(&[byte]);
        match byte {
            b'{' | b'[' => (self.place, self.depth) = (Place::Inside, 1),
            b'"' => (self.place, self.depth, self.in_string) = (Place::Inside, 0, true),
            b'}' | b']' => {
                self.flaw = Some(Flaw::Stray);
                return true;
            }
            _ => self.place = Place::Bare,
        }
        false
    }

    fn inside(&mut self, byte: u8) -> bool {
        self.keep(&[byte]);
        self.follow(byte);
        if self.depth > DEPTH_MAX {
            self.flaw = self.flaw.or(Some(Flaw::TooDeep));
        }
        let first_list = self.depth == 2 && byte == b'[' && self.lists == 0 && !self.in_string;
        if first_list && !std::mem::replace(&mut self.looked_at, true) && self.is_wrapper() {
            self.piece.clear();
            self.looked_at = false;
            self.number -= 1;
            (self.place, self.depth, self.lists, self.in_wrapper) = (Place::Between, 0, 1, true);
            return false;
        }
        self.depth == 0 && !self.in_string
    }

    /// What follows the records of a wrapper, up to its closing bracket.
    fn tail(&mut self, byte: u8) -> bool {
        self.follow(byte);
        if self.depth == 0 && !self.in_string {
            self.place = Place::Between;
        }
        false
    }

    fn follow(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_string => self.escaped = true,
            b'"' => self.in_string = !self.in_string,
            b'{' | b'[' if !self.in_string => self.depth = self.depth.saturating_add(1),
            b'}' | b']' if !self.in_string => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    /// Whether the piece so far is `{"records":[`.
    fn is_wrapper(&self) -> bool {
        let mut rest = self.piece.as_slice();
        for token in [&b"{"[..], b"\"records\"", b":", b"["] {
            rest = rest.trim_ascii_start();
            let Some(after) = rest.strip_prefix(token) else { return false };
            rest = after;
        }
        true
    }

    fn keep(&mut self, bytes: &[u8]) {
        let max = if self.flaw.is_some() { EVIDENCE_BYTES_MAX } else { self.bytes_max };
        let room = max.saturating_sub(self.piece.len());
        self.piece.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        if bytes.len() > room {
            self.flaw = self.flaw.or(Some(Flaw::TooLong));
            self.piece.truncate(EVIDENCE_BYTES_MAX);
        }
    }

    fn take(&mut self) -> Piece {
        self.place = Place::Between;
        (self.depth, self.in_string, self.escaped, self.looked_at) = (0, false, false, false);
        let mut flaw = self.flaw.take();
        if self.form == Form::Lines && flaw.is_none() && is_nested_deeper(&self.piece, DEPTH_MAX) {
            flaw = Some(Flaw::TooDeep);
        }
        Piece { number: self.number, bytes: std::mem::take(&mut self.piece), flaw }
    }
}

/// Cuts a whole text; for tests and fuzzers, `step` bytes at a time.
pub(crate) fn pieces(form: Form, bytes_max: usize, bytes: &[u8], step: usize) -> Vec<Piece> {
    let mut splitter = Splitter::new(form, bytes_max);
    let mut found = Vec::new();
    for mut chunk in bytes.chunks(step.max(1)) {
        while let Some(piece) = splitter.next(&mut chunk) {
            found.push(piece);
        }
    }
    found.extend(splitter.finish());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(form: Form, input: &str) -> Vec<(u64, String, Option<Flaw>)> {
        let whole = pieces(form, 64, input.as_bytes(), usize::MAX);
        for step in 1..5 {
            assert_eq!(pieces(form, 64, input.as_bytes(), step), whole, "in steps of {step}: {input}");
        }
        let text = |piece: Piece| (piece.number, String::from_utf8(piece.bytes).unwrap(), piece.flaw);
        whole.into_iter().map(text).collect()
    }

    fn good(pieces: &[(u64, &str)]) -> Vec<(u64, String, Option<Flaw>)> {
        pieces.iter().map(|(number, text)| (*number, (*text).to_owned(), None)).collect()
    }

    #[test]
    fn lines_are_counted_and_blank_ones_passed_over() {
        assert_eq!(
            texts(Form::Lines, "{\"a\":1}\n\n  \r\n{\"b\":2}"),
            good(&[(1, "{\"a\":1}"), (4, "{\"b\":2}")])
        );
        assert_eq!(texts(Form::Lines, ""), good(&[]));
        assert_eq!(texts(Form::Lines, "\n"), good(&[]));
        let long = "x".repeat(65);
        let cut = texts(Form::Lines, &format!("{long}\n1\n"));
        assert_eq!((cut[0].2, cut[0].1.len()), (Some(Flaw::TooLong), 64));
        assert_eq!(cut[1], (2, "1".to_owned(), None));
        assert_eq!(texts(Form::Lines, &"[".repeat(33))[0].2, Some(Flaw::TooDeep));
    }

    #[test]
    fn json_is_cut_into_its_elements() {
        for (input, expected) in [
            ("{\"a\":\n1}", &[(1, "{\"a\":\n1}")][..]),
            ("[{\"a\":1},\n {\"b\":\"]}\"}]", &[(1, "{\"a\":1}"), (2, "{\"b\":\"]}\"}")]),
            ("{}{} {}", &[(1, "{}"), (2, "{}"), (3, "{}")]),
            (
                "{\"records\" : [ {\"a\":1}, {\"b\":2} ], \"x\": {\"y\":\"}\"}} {}",
                &[(1, "{\"a\":1}"), (2, "{\"b\":2}"), (3, "{}")],
            ),
            ("[{\"records\":[1]}]", &[(1, "{\"records\":[1]}")]),
            ("{\"a\":{\"records\":[1]}}", &[(1, "{\"a\":{\"records\":[1]}}")]),
            ("[1, true,\"a,b\"]", &[(1, "1"), (2, "true"), (3, "\"a,b\"")]),
            ("[[{}]]", &[(1, "[{}]")]),
            ("[]", &[]),
            ("junk{}", &[(1, "junk"), (2, "{}")]),
            ("{\"a\":\"\\\"}\"}", &[(1, "{\"a\":\"\\\"}\"}")]),
        ] {
            assert_eq!(texts(Form::Json, input), good(expected), "{input}");
        }
    }

    #[test]
    fn spaces_and_lists_cost_no_more_than_their_length() {
        let spaces = " ".repeat(512 << 10);
        let lists = "\"a\":[],".repeat(60_000);
        let started = std::time::Instant::now();
        let record = format!("{{{spaces}{lists}\"b\":1}}");
        let found = pieces(Form::Json, 1 << 20, record.as_bytes(), 4 << 10);
        assert_eq!((found.len(), found[0].bytes.len(), found[0].flaw), (1, record.len(), None));
        assert!(started.elapsed() < std::time::Duration::from_secs(30), "{:?}", started.elapsed());
        let wrappers = format!("{{ {spaces}\"records\" : [{{\"a\":[1]}}]}}").repeat(2);
        let found = pieces(Form::Json, 1 << 20, wrappers.as_bytes(), 4 << 10);
        let texts: Vec<_> = found.iter().map(|piece| (piece.number, &*piece.bytes)).collect();
        assert_eq!(texts, [(1, &b"{\"a\":[1]}"[..]), (2, &b"{\"a\":[1]}"[..])]);
    }

    #[test]
    fn flawed_json_is_told_and_what_follows_is_read() {
        for (input, expected) in [
            ("{\"a\":1", vec![Some(Flaw::Cut)]),
            ("[{},", vec![None, Some(Flaw::Cut)]),
            ("{\"records\":[{}", vec![None, Some(Flaw::Cut)]),
            ("}{}", vec![Some(Flaw::Stray), None]),
            ("\"never closed", vec![Some(Flaw::Cut)]),
        ] {
            let flaws: Vec<_> = texts(Form::Json, input).into_iter().map(|piece| piece.2).collect();
            assert_eq!(flaws, expected, "{input}");
        }
        let deep = format!("[{}{},{{}}]", "[".repeat(33), "]".repeat(33));
        let flaws: Vec<_> =
            pieces(Form::Json, 1 << 20, deep.as_bytes(), 7).into_iter().map(|piece| piece.flaw).collect();
        assert_eq!(flaws, [Some(Flaw::TooDeep), None]);
        let long = format!("[{{\"a\":\"{}\"}},{{}}]", "x".repeat(10_000));
        let found = pieces(Form::Json, 64, long.as_bytes(), 7);
        assert_eq!((found[0].flaw, found[1].flaw), (Some(Flaw::TooLong), None));
        assert!(found[0].bytes.len() <= EVIDENCE_BYTES_MAX);
    }
}
