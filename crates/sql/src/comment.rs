//! sqlcommenter: `/*action='list',traceparent='00-…'*/`, keys and values percent-encoded.

use percent_encoding::percent_decode_str;

/// The most pairs of one statement.
pub const TAGS_MAX: usize = 32;
/// The most bytes of a key or a value; a longer one is left out.
pub const TAG_BYTES_MAX: usize = 256;

/// Adds the pairs of one comment. A comment that is not in the form adds none.
pub(crate) fn tags(comment: &str, tags: &mut Vec<(Box<str>, Box<str>)>) {
    let Some(inner) = comment.strip_prefix("/*").and_then(|rest| rest.strip_suffix("*/")) else { return };
    let mut found = Vec::new();
    let mut rest = inner.trim();
    while !rest.is_empty() {
        let Some((pair, after)) = pair(rest) else { return };
        found.push(pair);
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(next) => rest = next.trim_start(),
            None if rest.is_empty() => {}
            None => return,
        }
    }
    for (key, value) in found {
        let fits = key.len() <= TAG_BYTES_MAX && value.len() <= TAG_BYTES_MAX;
        if fits && tags.len() < TAGS_MAX {
            tags.push((key, value));
        }
    }
}

type Tag = (Box<str>, Box<str>);

/// One `key='value'`, and what follows it.
fn pair(text: &str) -> Option<(Tag, &str)> {
    let (key, rest) = text.split_once("='")?;
    let key = key.trim();
    if key.is_empty() || key.contains(['\'', ',', ' ', '=']) {
        return None;
    }
    // A quote inside of the value stands behind a backslash.
    let mut escaped = false;
    let end = rest.find(|c: char| {
        let ends = c == '\'' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    let (value, after) = rest.split_at_checked(end)?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(|text| Box::from(&*text));
    Some(((decoded(key)?, decoded(&value.replace("\\'", "'"))?), after.get(1..)?))
}
