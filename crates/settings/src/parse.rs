//! YAML text → tree. The grammar is `saphyr-parser`'s; what is refused on top of it is refused here.

use std::collections::HashSet;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput};

use crate::node::{Entry, Node, NodeKind, Position, Trail};
use crate::problem::Problem;

/// The largest configuration file, in bytes.
pub const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The most levels that a configuration may nest.
pub const DEPTH_MAX: usize = 32;

pub(crate) fn parse(file: &Arc<str>, text: &str) -> Result<Node, Problem> {
    if text.len() > FILE_BYTES_MAX {
        return Err(too_large(file));
    }
    refuse_tabs(file, text)?;
    let mut builder = Builder { file: file.clone(), parser: Parser::new_from_str(text) };
    builder.document()
}

/// Bytes → text, with the place of what is not UTF-8.
pub(crate) fn utf8<'a>(file: &Arc<str>, bytes: &'a [u8]) -> Result<&'a str, Problem> {
    std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = good.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        Problem::at(&place(file, line, column), "", "the file is not UTF-8 text from here on")
    })
}

pub(crate) fn too_large(file: &Arc<str>) -> Problem {
    Problem::of_file(file, format!("the file is larger than {} MiB", FILE_BYTES_MAX / 1024 / 1024))
}

/// YAML forbids tabs in the indentation, and parsers differ in what they make of one.
fn refuse_tabs(file: &Arc<str>, text: &str) -> Result<(), Problem> {
    for (index, line) in text.lines().enumerate() {
        let content = line.trim_start_matches([' ', '\t']);
        let indent = line.len() - content.len();
        if content.is_empty() {
            continue;
        }
        if let Some(column) = line.get(..indent).and_then(|blank| blank.find('\t')) {
            let position = place(file, index + 1, column + 1);
            return Err(
                Problem::at(&position, "", "a tab stands in the indentation").hint("indent with spaces")
            );
        }
    }
    Ok(())
}

struct Builder<'a> {
    file: Arc<str>,
    parser: Parser<'a, StrInput<'a>>,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Node, Problem> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if root.is_some() => {
                    return Err(self
                        .problem(span.start, &Trail::default(), "a second document begins here")
                        .hint("keep one document a file; further files are overlays"));
                }
                event => root = Some(self.node(event, span, &Trail::default(), 0)?),
            }
        }
        Ok(root.unwrap_or_else(|| Node {
            position: place(&self.file, 1, 1),
            trail: Trail::default(),
            kind: NodeKind::Mapping(Vec::new()),
        }))
    }

    fn node(&mut self, event: Event<'a>, span: Span, trail: &Trail, depth: usize) -> Result<Node, Problem> {
        if depth > DEPTH_MAX {
            return Err(self.problem(
                span.start,
                trail,
                format!("more than {DEPTH_MAX} levels are nested here"),
            ));
        }
        let kind = match event {
            Event::Scalar(text, style, 0, None) => {
                NodeKind::Scalar { text: text.into(), plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(0, None) => NodeKind::Sequence(self.sequence(trail, depth)?),
            Event::MappingStart(0, None) => NodeKind::Mapping(self.mapping(trail, depth)?),
            Event::Alias(_) => {
                return Err(self
                    .problem(span.start, trail, "aliases (*name) are not supported")
                    .hint("write the value out"));
            }
            Event::Scalar(_, _, 0, Some(_))
            | Event::SequenceStart(0, Some(_))
            | Event::MappingStart(0, Some(_)) => {
                return Err(self.problem(span.start, trail, "tags (!name) are not supported"));
            }
            Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                return Err(self
                    .problem(span.start, trail, "anchors (&name) are not supported")
                    .hint("write the value out where it is needed"));
            }
            _ => return Err(self.problem(span.start, trail, "a value was expected here")),
        };
        Ok(Node { position: self.place(span.start), trail: trail.clone(), kind })
    }

    fn sequence(&mut self, trail: &Trail, depth: usize) -> Result<Vec<Node>, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => {
                    items.push(self.node(event, span, &trail.index(items.len()), depth + 1)?);
                }
            }
        }
    }

    fn mapping(&mut self, trail: &Trail, depth: usize) -> Result<Vec<Entry>, Problem> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashSet<Box<str>> = HashSet::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(text, style, 0, None) => {
                    if style == ScalarStyle::Plain && text == "<<" {
                        return Err(self
                            .problem(span.start, trail, "merge keys (<<) are not supported")
                            .hint("write the keys out"));
                    }
                    text
                }
                _ => return Err(self.problem(span.start, trail, "a key must be plain text")),
            };
            let key_position = self.place(span.start);
            let key_trail = trail.key(&key);
            if !seen.insert(key.as_ref().into()) {
                return Err(Problem::at(&key_position, key_trail.to_string(), "this key stands here twice"));
            }
            let (event, span) = self.next()?;
            let value = self.node(event, span, &key_trail, depth + 1)?;
            entries.push(Entry { key: key.into(), key_position, value });
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.problem(
                *error.marker(),
                &Trail::default(),
                format!("this is not valid YAML: {}", error.info()),
            )),
            None => Err(Problem::of_file(&self.file, "the file ends too early")),
        }
    }

    fn place(&self, marker: Marker) -> Position {
        place(&self.file, marker.line(), marker.col() + 1)
    }

    fn problem(&self, marker: Marker, trail: &Trail, message: impl Into<String>) -> Problem {
        Problem::at(&self.place(marker), trail.to_string(), message)
    }
}

fn place(file: &Arc<str>, line: usize, column: usize) -> Position {
    let cap = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Position { file: file.clone(), line: cap(line), column: cap(column) }
}
