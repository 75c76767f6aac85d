//! The text of statements for a record: without its values.

use std::borrow::Cow;

use crate::tokens::{self, Lexeme};

/// Stands for a literal.
const LITERAL: &str = "?";
/// Stands for a text that cannot be read as SQL: nobody knows where its values are.
const UNREADABLE: &str = "[unreadable]";

/// What becomes of the literals of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Literals {
    /// They stay; what is secret among them is for the record's own redaction to find.
    Keep,
    /// Each becomes `?`, and comments go.
    #[default]
    Replace,
}

/// The text as a record may keep it.
pub fn redact(text: &str, literals: Literals) -> Cow<'_, str> {
    match literals {
        Literals::Keep => Cow::Borrowed(text),
        Literals::Replace => match tokens::scan(text) {
            Some(tokens) => replace(text, &tokens),
            None => Cow::Borrowed(UNREADABLE),
        },
    }
}

fn replace<'a>(text: &'a str, tokens: &[Lexeme]) -> Cow<'a, str> {
    if !tokens.iter().any(|lexeme| lexeme.is_literal() || lexeme.is_comment()) {
        return Cow::Borrowed(text);
    }
    let mut kept = String::with_capacity(text.len());
    let mut end = 0;
    for lexeme in tokens.iter().filter(|lexeme| lexeme.is_literal() || lexeme.is_comment()) {
        kept.push_str(text.get(end..lexeme.start).unwrap_or_default());
        if lexeme.is_literal() {
            kept.push_str(LITERAL);
        }
        end = lexeme.end;
    }
    kept.push_str(text.get(end..).unwrap_or_default());
    Cow::Owned(kept.trim().to_owned())
}
