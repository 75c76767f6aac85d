//! What was found in a text, and the text without it.

use std::borrow::Cow;
use std::sync::Arc;

/// What stands in the place of something redacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum With {
    /// `[redacted:NAME]`.
    Name(&'static str),
    /// `[redacted:NAME]`, of the operator's own pattern.
    Pattern(Arc<str>),
    /// `?`: a literal, when all are redacted.
    Literal,
}

/// One place in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) with: With,
    /// What stands around the replacement: the quotes of a literal.
    pub(crate) quote: &'static str,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize, name: &'static str) -> Self {
        Self { start, end, with: With::Name(name), quote: "" }
    }
}

/// Puts the spans in order and makes one of those that touch each other's text. The first one's
/// name stands for all.
pub(crate) fn merge(spans: &mut Vec<Span>) {
    spans.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
    let mut kept: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans.drain(..) {
        match kept.last_mut() {
            Some(last) if span.start < last.end => {
                if span.end > last.end {
                    last.end = span.end;
                    last.quote = "";
                }
            }
            _ => kept.push(span),
        }
    }
    *spans = kept;
}

/// The text with its spans replaced; they are in order and do not overlap.
pub(crate) fn apply<'a>(text: &'a str, spans: &[Span]) -> Cow<'a, str> {
    if spans.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16 * spans.len());
    let mut at = 0;
    for span in spans {
        out.push_str(text.get(at..span.start).unwrap_or_default());
        out.push_str(span.quote);
        let name = match &span.with {
            With::Name(name) => name,
            With::Pattern(name) => &**name,
            With::Literal => {
                out.push('?');
                at = span.end;
                continue;
            }
        };
        out.push_str(MARK);
        out.push_str(name);
        out.push(']');
        out.push_str(span.quote);
        at = span.end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    Cow::Owned(out)
}

/// How each replacement begins.
pub(crate) const MARK: &str = "[redacted:";
/// The longest name in a mark.
pub(crate) const NAME_BYTES_MAX: usize = 32;

/// Where the mark that begins at `at` ends, if one does whose name is known.
pub(crate) fn mark_end(text: &str, at: usize, known: impl Fn(&str) -> bool) -> Option<usize> {
    let rest = text.get(at..)?.strip_prefix(MARK)?;
    let length = rest.bytes().take(NAME_BYTES_MAX + 1).position(|byte| byte == b']')?;
    let name = rest.get(..length)?;
    known(name).then_some(at + MARK.len() + length + 1)
}
