//! Object patterns: `*` within one segment, `**` for any number of segments, `${…}` for the caller's own.
//!
//! Patterns are compared with objects in core's canonical, percent-encoded form, and an escape such as
//! `%2F` is one character of it: a wildcard never matches half of one. `*` stands for at least one
//! character when it is a whole segment, so `daily/*` does not match `daily/`.

use doorward_core::{Principal, encode_segment};

use crate::template::{self, Part, Variable};
use crate::text::Text;

/// The longest pattern, in bytes, and the most segments that one may have.
const PATTERN_BYTES_MAX: usize = 1_024;
const SEGMENTS_MAX: usize = 64;

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    shape: Shape,
    has_variables: bool,
    whole: Box<Whole>,
}

/// What the common patterns need for messages and comparisons only.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Whole {
    segments: Vec<Segment>,
    source: Box<str>,
}

/// The common patterns are compared as one text, without a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    /// `public/orders`.
    Exact(Text),
    /// `public/*`: what stands before the `*`.
    Children(Text),
    /// `public/**`: what stands before the `/**`.
    Tree(Text),
    /// Anything else.
    Other,
}

impl Shape {
    fn of(segments: &[Segment]) -> Self {
        let literals = |segments: &[Segment]| {
            let texts: Option<Vec<&str>> = segments
                .iter()
                .map(|segment| match segment {
                    Segment::Literal(text) => Some(&**text),
                    Segment::Glob(_) | Segment::Deep => None,
                })
                .collect();
            texts.map(|texts| texts.join("/"))
        };
        let shape = match segments.split_last() {
            Some((Segment::Literal(_), _)) => literals(segments).map(|text| Self::Exact(text.into())),
            Some((Segment::Glob(pieces), before @ [_, ..])) if matches!(pieces.as_slice(), [Piece::Star]) => {
                literals(before).map(|text| Self::Children(format!("{text}/").into()))
            }
            Some((Segment::Deep, before @ [_, ..])) => literals(before).map(|text| Self::Tree(text.into())),
            _ => None,
        };
        shape.unwrap_or(Self::Other)
    }

    /// Whether the object matches; `None` when only a walk can tell.
    fn matches(&self, object: &str) -> Option<bool> {
        match self {
            Self::Exact(text) => Some(text.as_bytes() == object.as_bytes()),
            Self::Children(prefix) => {
                let rest = object.as_bytes().strip_prefix(prefix.as_bytes());
                Some(rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(&b'/')))
            }
            Self::Tree(prefix) => {
                let rest = object.as_bytes().strip_prefix(prefix.as_bytes());
                Some(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")))
            }
            Self::Other => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    /// Text, wildcards and variables within one segment.
    Glob(Vec<Piece>),
    /// `**`.
    Deep,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Box<str>),
    Star,
    Variable(Variable),
}

/// Why a pattern with variables cannot be used for this caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfilled;

impl Pattern {
    /// Reads the object part of a rule, without the resource.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!("a pattern has at most {PATTERN_BYTES_MAX} bytes"));
        }
        let segments = text.split('/').map(parse_segment).collect::<Result<Vec<_>, _>>()?;
        if segments.len() > SEGMENTS_MAX {
            return Err(format!("a pattern has at most {SEGMENTS_MAX} segments"));
        }
        Ok(Self::new(segments, text))
    }

    fn new(segments: Vec<Segment>, source: &str) -> Self {
        let variable = |piece: &Piece| matches!(piece, Piece::Variable(_));
        let has_variables = segments
            .iter()
            .any(|segment| matches!(segment, Segment::Glob(pieces) if pieces.iter().any(variable)));
        let shape = Shape::of(&segments);
        Self { shape, has_variables, whole: Box::new(Whole { segments, source: source.into() }) }
    }

    /// The one object that it matches, if it has no wildcard and no variable.
    pub(crate) fn literal(&self) -> Option<&str> {
        match &self.shape {
            Shape::Exact(text) => Some(text.as_str()),
            Shape::Children(_) | Shape::Tree(_) | Shape::Other => None,
        }
    }

    /// Whether it uses `${group}`.
    pub(crate) fn uses_group(&self) -> bool {
        self.pieces().any(|piece| matches!(piece, Piece::Variable(Variable::Group)))
    }

    /// Whether it matches every object.
    pub(crate) fn is_everything(&self) -> bool {
        matches!(self.whole.segments.as_slice(), [Segment::Deep])
    }

    /// The pattern as the rule spells it.
    pub(crate) fn source(&self) -> &str {
        &self.whole.source
    }

    /// Whether the canonical object matches, with variables filled from the caller.
    pub(crate) fn matches(
        &self,
        object: &str,
        principal: &Principal,
        group: Option<&str>,
    ) -> Result<bool, Unfilled> {
        if let Some(result) = self.shape.matches(object) {
            return Ok(result);
        }
        if !self.has_variables {
            return Ok(matches_segments(&self.whole.segments, object));
        }
        Ok(matches_segments(&self.filled(principal, group)?, object))
    }

    /// Whether some caller's object could be this one: a variable stands for any text in a segment.
    pub(crate) fn could_match(&self, object: &str) -> bool {
        let segments = self.whole.segments.iter().map(|segment| match segment {
            Segment::Glob(pieces) => Segment::Glob(pieces.iter().map(any_for_variable).collect()),
            other => other.clone(),
        });
        matches_segments(&segments.collect::<Vec<_>>(), object)
    }

    /// Whether every object that `other` matches is matched by this one. Errs on the side of `false`.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        !self.has_variables && covers(&self.whole.segments, &other.whole.segments)
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.whole.segments.iter().flat_map(|segment| match segment {
            Segment::Glob(pieces) => pieces.as_slice(),
            Segment::Literal(_) | Segment::Deep => &[],
        })
    }

    fn filled(&self, principal: &Principal, group: Option<&str>) -> Result<Vec<Segment>, Unfilled> {
        let fill = |piece: &Piece| match piece {
            Piece::Variable(variable) => {
                let value = variable.fill(principal, group).ok_or(Unfilled)?;
                let mut text = String::with_capacity(value.len());
                encode_segment(&value, &mut text);
                Ok(Piece::Literal(text.into()))
            }
            other => Ok(other.clone()),
        };
        let segments = self.whole.segments.iter().map(|segment| match segment {
            Segment::Glob(pieces) => Ok(Segment::Glob(pieces.iter().map(fill).collect::<Result<_, _>>()?)),
            other => Ok(other.clone()),
        });
        segments.collect()
    }
}

/// Walks both lists; the last `**` seen is where a mismatch takes up again, one segment further, so
/// that the work is at most the product of the two lengths.
fn matches_segments(segments: &[Segment], object: &str) -> bool {
    let mut wanted = segments;
    let mut rest = Some(object);
    let mut retry: Option<(&[Segment], Option<&str>)> = None;
    loop {
        match (wanted.split_first(), rest) {
            (Some((Segment::Deep, after)), _) => {
                retry = Some((after, rest));
                wanted = after;
                continue;
            }
            (Some((segment, after)), Some(text)) => {
                let (head, tail) = next_segment(text);
                if segment.matches(head) {
                    (wanted, rest) = (after, tail);
                    continue;
                }
            }
            (None, None) => return true,
            (Some(_), None) | (None, Some(_)) => {}
        }
        match retry {
            Some((after, Some(text))) => {
                let (_, tail) = next_segment(text);
                retry = Some((after, tail));
                (wanted, rest) = (after, tail);
            }
            Some((_, None)) | None => return false,
        }
    }
}

fn next_segment(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((head, tail)) => (head, Some(tail)),
        None => (text, None),
    }
}

fn any_for_variable(piece: &Piece) -> Piece {
    match piece {
        Piece::Variable(_) => Piece::Star,
        other => other.clone(),
    }
}

impl Segment {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Literal(literal) => **literal == *text,
            Self::Glob(pieces) if matches!(pieces.as_slice(), [Piece::Star]) => !text.is_empty(),
            Self::Glob(pieces) => glob(pieces, text),
            Self::Deep => true,
        }
    }
}

/// Wildcards within one segment, with the same take-up as above; a step is a character or an escape.
fn glob(pieces: &[Piece], text: &str) -> bool {
    let mut wanted = pieces;
    let mut rest = text;
    let mut retry: Option<(&[Piece], &str)> = None;
    loop {
        match wanted.split_first() {
            Some((Piece::Star, after)) => {
                retry = Some((after, rest));
                wanted = after;
                continue;
            }
            Some((Piece::Literal(literal), after)) => {
                if let Some(tail) = rest.strip_prefix(&**literal) {
                    (wanted, rest) = (after, tail);
                    continue;
                }
            }
            // A variable that nobody has filled matches nothing.
            Some((Piece::Variable(_), _)) => return false,
            None if rest.is_empty() => return true,
            None => {}
        }
        let Some((after, from)) = retry else { return false };
        let step = if from.starts_with('%') { 3 } else { 1 };
        let Some(tail) = from.get(step..) else { return false };
        retry = Some((after, tail));
        (wanted, rest) = (after, tail);
    }
}

fn covers(wide: &[Segment], narrow: &[Segment]) -> bool {
    match (wide.split_first(), narrow.split_first()) {
        (None, None) => true,
        (Some((Segment::Deep, after)), None) => covers(after, &[]),
        (Some((Segment::Deep, after)), Some((_, narrow_after))) => {
            covers(after, narrow) || covers(wide, narrow_after)
        }
        (Some((segment, after)), Some((other, narrow_after))) => {
            segment_covers(segment, other) && covers(after, narrow_after)
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn segment_covers(wide: &Segment, narrow: &Segment) -> bool {
    match (wide, narrow) {
        (_, Segment::Deep) => false,
        (_, Segment::Literal(text)) => wide.matches(text),
        (Segment::Glob(pieces), Segment::Glob(_)) if matches!(pieces.as_slice(), [Piece::Star]) => true,
        (wide, narrow) => wide == narrow,
    }
}

fn parse_segment(text: &str) -> Result<Segment, String> {
    match text {
        "" => return Err("an empty segment matches nothing; to mean all objects write \"**\"".to_owned()),
        "**" => return Ok(Segment::Deep),
        "." | ".." => return Err(format!("\"{text}\" cannot be a segment")),
        _ if text.contains("**") => {
            return Err("\"**\" stands for whole segments, alone between slashes".to_owned());
        }
        _ => {}
    }
    let mut pieces = Vec::new();
    for part in template::split(text)? {
        match part {
            Part::Variable(variable) => pieces.push(Piece::Variable(variable)),
            Part::Text(text) => {
                for (index, literal) in text.split('*').enumerate() {
                    if index > 0 {
                        pieces.push(Piece::Star);
                    }
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(canonical(literal)?.into()));
                    }
                }
            }
        }
    }
    Ok(match pieces.as_slice() {
        [Piece::Literal(text)] => Segment::Literal(text.clone()),
        _ => Segment::Glob(pieces),
    })
}

/// What a rule writes → core's canonical form: escapes are decoded once and encoded again.
fn canonical(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '%' => {
                let digits = text.get(at + 1..at + 3).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(
                    byte.ok_or("\"%\" is followed by two hex digits, and a percent sign is written %25")?,
                );
                chars.next();
                chars.next();
            }
            c if c.is_ascii_alphanumeric() || "-_.~@$+=!,;&'()".contains(c) || !c.is_ascii() => {
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            c if c.is_ascii_control() => return Err("a control character stands in the pattern".to_owned()),
            c => return Err(format!("\"{c}\" is written %{:02X} in a pattern", u32::from(c))),
        }
    }
    let decoded = String::from_utf8(bytes).map_err(|_| "the escapes are not UTF-8 text".to_owned())?;
    let mut out = String::with_capacity(decoded.len());
    encode_segment(&decoded, &mut out);
    Ok(out)
}
