//! Names inside string literals, as `regclass` reads them: `orders`, `Sales."Q1"`.

use crate::statement::Name;

/// Reads a name: parts are folded to lower case unless quoted. More than three parts, or anything else, is none.
pub(crate) fn parse(text: &str) -> Option<Name> {
    let mut parts: Vec<Box<str>> = Vec::new();
    let mut rest = text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    loop {
        let (part, after) = part(rest)?;
        parts.push(part);
        if parts.len() > 3 {
            return None;
        }
        let after = after.trim_start();
        match after.strip_prefix('.') {
            Some(next) => rest = next.trim_start(),
            None if after.is_empty() => break,
            None => return None,
        }
    }
    let name = parts.pop()?;
    Some(Name { schema: parts.pop(), name })
}

fn part(text: &str) -> Option<(Box<str>, &str)> {
    if let Some(mut rest) = text.strip_prefix('"') {
        let mut name = String::new();
        loop {
            let (before, after) = rest.split_once('"')?;
            name.push_str(before);
            match after.strip_prefix('"') {
                Some(more) => {
                    name.push('"');
                    rest = more;
                }
                None => return (!name.is_empty()).then(|| (name.into(), after)),
            }
        }
    }
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()))
        .unwrap_or(text.len());
    let (name, after) = text.split_at(end);
    let begins_well = name.chars().next().is_some_and(|c| !c.is_ascii_digit() && c != '$');
    begins_well.then(|| (name.to_ascii_lowercase().into(), after))
}
