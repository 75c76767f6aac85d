//! From a text to its statements.

use std::ops::Range;
use std::sync::Arc;

use crate::error::ParseError;
use crate::statement::{Script, Shape, Statement};
use crate::tokens::{self, Lexeme};
use crate::{comment, deep, walk};

/// The most bytes of a text, unless it is said otherwise.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// The most statements of a text, unless it is said otherwise.
const STATEMENTS_MAX: usize = 1_000;

/// How large a text may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a text.
    pub text_bytes_max: usize,
    /// The most statements of a text.
    pub statements_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { text_bytes_max: TEXT_BYTES_MAX, statements_max: STATEMENTS_MAX }
    }
}

/// Reads a text as PostgreSQL would read it. Nothing is looked up and nothing is cached; see
/// [`Parser`](crate::Parser) for a cache.
pub fn parse(text: &str, limits: &Limits) -> Result<Script, ParseError> {
    check_size(text, limits)?;
    let Some(tokens) = tokens::scan(text) else { return Err(refused_by_grammar(text, None)) };
    let (read, _) = read(text, &tokens, limits)?;
    Ok(read)
}

pub(crate) fn check_size(text: &str, limits: &Limits) -> Result<(), ParseError> {
    if text.len() > limits.text_bytes_max {
        return Err(ParseError::new("54000", "the statement is too large")
            .hint("Send it in parts, or load the rows with COPY."));
    }
    if text.contains('\0') {
        return Err(ParseError::new("22021", "invalid byte sequence for encoding \"UTF8\": 0x00"));
    }
    Ok(())
}

/// What one statement of a text is, before it has its place.
struct Read {
    range: Range<usize>,
    shape: Shape,
    blind_to_literals: bool,
}

/// Reads a text; the second value tells whether all texts of its template have the shape of its only statement.
pub(crate) fn read(text: &str, tokens: &[Lexeme], limits: &Limits) -> Result<(Script, bool), ParseError> {
    let levels = tokens::depth_bound(tokens);
    if levels > deep::LEVELS_MAX {
        return Err(ParseError::too_complex());
    }
    let parsed = deep::run(levels, || read_tree(text)).unwrap_or(Err(Failed::Broken));
    let read = match parsed {
        Ok(read) => read,
        Err(Failed::Refused(message)) => return Err(refused_by_grammar(text, Some((&message, tokens)))),
        Err(Failed::Broken) => return Err(ParseError::too_complex()),
    };
    if read.len() > limits.statements_max {
        return Err(ParseError::new("54000", "the text holds too many statements")
            .hint("Send the statements in several messages."));
    }
    let blind = matches!(read.as_slice(), [Read { blind_to_literals: true, .. }]);
    let mut statements = Vec::with_capacity(read.len());
    let mut comments_from = 0;
    let last = read.len().saturating_sub(1);
    for (index, Read { range, shape, .. }) in read.into_iter().enumerate() {
        // What follows the last statement is its own: a comment behind the semicolon.
        let range = range.start..if index == last { text.len() } else { range.end };
        let place = Place::of(text, tokens, comments_from, range.clone());
        comments_from = range.end;
        statements.push(place.statement(Arc::new(shape)));
    }
    Ok((Script { statements }, blind))
}

enum Failed {
    Refused(String),
    Broken,
}

fn read_tree(text: &str) -> Result<Vec<Read>, Failed> {
    let parsed = match pg_query::parse(text, 0) {
        Ok(parsed) => parsed,
        Err(pg_query::Error::Parse(message)) => return Err(Failed::Refused(message)),
        Err(_) => return Err(Failed::Broken),
    };
    let mut read = Vec::with_capacity(parsed.protobuf.stmts.len());
    for raw in &parsed.protobuf.stmts {
        let Some(node) = raw.stmt.as_deref() else { return Err(Failed::Broken) };
        let start = usize::try_from(raw.stmt_location).unwrap_or(0);
        let end = match usize::try_from(raw.stmt_len) {
            Ok(0) | Err(_) => text.len(),
            Ok(length) => start.saturating_add(length).min(text.len()),
        };
        let mut walked = walk::read(node);
        walked.shape.fingerprint = text
            .get(start..end)
            .and_then(|text| pg_query::fingerprint(text, 0, 0).ok())
            .map(|fingerprint| fingerprint.value);
        let blind_to_literals = walked.blind_to_literals;
        read.push(Read { range: start..end, shape: walked.shape, blind_to_literals });
    }
    Ok(read)
}

/// Where a statement stands in its text.
pub(crate) struct Place {
    span: Range<usize>,
    literals: Vec<Range<usize>>,
    tags: Vec<(Box<str>, Box<str>)>,
}

impl Place {
    /// The place of the statement of a range. Comments before it, after the one before, are its own.
    pub(crate) fn of(text: &str, tokens: &[Lexeme], comments_from: usize, range: Range<usize>) -> Self {
        let first = tokens.partition_point(|lexeme| lexeme.start < comments_from);
        let mut place = Self { span: range.clone(), literals: Vec::new(), tags: Vec::new() };
        let mut words: Option<Range<usize>> = None;
        for lexeme in tokens.iter().skip(first).take_while(|lexeme| lexeme.end <= range.end) {
            if lexeme.is_comment() {
                comment::tags(lexeme.text(text), &mut place.tags);
            } else if lexeme.start >= range.start && !lexeme.is_semicolon() {
                let start = words.as_ref().map_or(lexeme.start, |words| words.start);
                words = Some(start..lexeme.end);
                if lexeme.is_literal() {
                    place.literals.push(lexeme.span());
                }
            }
        }
        if let Some(words) = words {
            place.span = words;
        }
        place
    }

    pub(crate) fn statement(self, shape: Arc<Shape>) -> Statement {
        Statement { span: self.span, literals: self.literals.into(), tags: self.tags.into(), shape }
    }
}

/// The error that PostgreSQL would answer. `said` is what the parser says; without it, the scanner failed, and
/// the parser fails in the same place.
fn refused_by_grammar(text: &str, said: Option<(&str, &[Lexeme])>) -> ParseError {
    let message = match said {
        Some((message, _)) => message.to_owned(),
        None => match pg_query::fingerprint(text, 0, 0) {
            Err(pg_query::Error::Parse(message)) => message,
            _ => "syntax error".to_owned(),
        },
    };
    let exhausted = ["stack depth limit exceeded", "memory exhausted", "nested too deeply"];
    if exhausted.iter().any(|exhausted| message.contains(exhausted)) {
        return ParseError::too_complex();
    }
    let unsupported = ["not supported", "not yet implemented", "not implemented"];
    let sqlstate =
        if unsupported.iter().any(|unsupported| message.contains(unsupported)) { "0A000" } else { "42601" };
    let position = position(text, &message, said.map_or(&[], |(_, tokens)| tokens));
    ParseError { position, ..ParseError::new(sqlstate, message) }
}

/// Where the parser stopped: the library keeps it to itself, but the message names the token, and a text
/// that is cut behind a token fails at it if it is the one, or one that came before.
fn position(text: &str, message: &str, tokens: &[Lexeme]) -> Option<u32> {
    if message.ends_with(" at end of input") {
        return characters(text, text.len());
    }
    let near = message.split_once(" at or near \"")?.1.strip_suffix('"')?;
    let candidates: Vec<Lexeme> = tokens.iter().filter(|lexeme| lexeme.text(text) == near).copied().collect();
    if candidates.is_empty() {
        // The scanner names all that follows.
        let start = text.len().checked_sub(near.len())?;
        return text.ends_with(near).then(|| characters(text, start))?;
    }
    let fails_by = |lexeme: &Lexeme| {
        let cut = text.get(..lexeme.end).unwrap_or(text);
        matches!(pg_query::fingerprint(cut, 0, 0), Err(pg_query::Error::Parse(said)) if said == message)
    };
    let index = candidates.partition_point(|lexeme| !fails_by(lexeme));
    let found = candidates.get(index).or(candidates.last())?;
    characters(text, found.start)
}

/// The position of a byte, counted in characters from 1.
fn characters(text: &str, byte: usize) -> Option<u32> {
    u32::try_from(text.get(..byte)?.chars().count() + 1).ok()
}
