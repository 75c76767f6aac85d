//! The lexical view of a text, by PostgreSQL's own scanner: literals, comments, and how deep it may nest.

use std::ops::Range;

use pg_query::protobuf::{ScanToken, Token};

/// One token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexeme {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) token: Token,
}

impl Lexeme {
    pub(crate) fn span(self) -> Range<usize> {
        self.start..self.end
    }

    pub(crate) fn is_comment(self) -> bool {
        matches!(self.token, Token::SqlComment | Token::CComment)
    }

    /// A number, string or bit string. TRUE, FALSE and NULL are words.
    pub(crate) fn is_literal(self) -> bool {
        matches!(
            self.token,
            Token::Iconst | Token::Fconst | Token::Sconst | Token::Usconst | Token::Bconst | Token::Xconst
        )
    }

    pub(crate) fn is_semicolon(self) -> bool {
        self.token == Token::Ascii59
    }

    pub(crate) fn text(self, of: &str) -> &str {
        of.get(self.span()).unwrap_or_default()
    }
}

/// The tokens of a text; `None` when it has an unfinished literal or the like.
pub(crate) fn scan(text: &str) -> Option<Vec<Lexeme>> {
    // The library makes a slice of a null pointer when there is no token at all.
    if text.bytes().all(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)) {
        return Some(Vec::new());
    }
    let tokens = pg_query::scan_tokens(text).ok()?;
    tokens.iter().map(|token| lexeme(text, token)).collect()
}

fn lexeme(text: &str, token: &ScanToken) -> Option<Lexeme> {
    let start = usize::try_from(token.start).ok()?;
    let end = usize::try_from(token.end).ok()?;
    text.get(start..end)?;
    Some(Lexeme { start, end, token: Token::try_from(token.token).ok()? })
}

/// An upper bound of how many levels the syntax tree has, in tokens that can make a level.
///
/// A path from the root of the tree to a leaf goes through one part of each list, one side of each AND, OR,
/// set operation and join, one clause of each select, and into one of the brackets that stand beside each
/// other. So what counts at one level of brackets is the longest run of tokens between two such separators, one
/// for each set operation and join that may stand above it, and the deepest bracket.
pub(crate) fn depth_bound(tokens: &[Lexeme]) -> usize {
    let mut open = vec![Level::default()];
    let mut deepest = 0;
    for lexeme in tokens.iter().filter(|lexeme| !lexeme.is_comment()) {
        match lexeme.token {
            Token::Ascii40 | Token::Ascii91 => open.push(Level::default()),
            Token::Case => open.push(Level { case: true, ..Level::default() }),
            Token::Ascii41 | Token::Ascii93 => {
                // An unfinished CASE inside of brackets is no statement; it closes with them.
                while open.len() > 1 && open.last().is_some_and(|level| level.case) {
                    close(&mut open);
                }
                close(&mut open);
            }
            Token::EndP if open.last().is_some_and(|level| level.case) => close(&mut open),
            Token::Ascii59 if open.len() == 1 => {
                deepest = open.first().map_or(deepest, |level| deepest.max(level.bound()));
                open = vec![Level::default()];
            }
            token => {
                if let Some(level) = open.last_mut() {
                    level.token(token);
                }
            }
        }
    }
    while open.len() > 1 {
        close(&mut open);
    }
    open.first().map_or(deepest, |level| deepest.max(level.bound()))
}

/// One level of brackets.
#[derive(Default)]
struct Level {
    case: bool,
    /// BETWEENs whose AND has not come.
    betweens: usize,
    /// Set operations and joins.
    chained: usize,
    /// Tokens since the last separator.
    run: usize,
    /// The deepest bracket since then.
    inner: usize,
    /// The deepest run before.
    before: usize,
}

impl Level {
    fn token(&mut self, token: Token) {
        match token {
            Token::Ascii44 | Token::Or | Token::Where | Token::Having => self.separate(),
            Token::And if self.betweens == 0 => self.separate(),
            Token::When | Token::Then | Token::Else if self.case => self.separate(),
            Token::Union | Token::Intersect | Token::Except | Token::Join => {
                self.chained += 1;
                self.separate();
            }
            Token::And => {
                self.betweens -= 1;
                self.run += 1;
            }
            Token::Between => {
                self.betweens += 1;
                self.run += 1;
            }
            _ => self.run += 1,
        }
    }

    fn separate(&mut self) {
        self.before = self.before.max(self.run + self.inner);
        self.run = 0;
        self.inner = 0;
    }

    fn bound(&self) -> usize {
        1 + self.chained + self.before.max(self.run + self.inner)
    }
}

fn close(open: &mut Vec<Level>) {
    if open.len() < 2 {
        return;
    }
    let inner = open.pop().map_or(0, |level| level.bound());
    if let Some(level) = open.last_mut() {
        level.inner = level.inner.max(inner);
        level.run += 1;
    }
}

/// The text with a mark in the place of each literal and of all space and comments: texts of one template
/// have one syntax tree but for their literals' values. `None` when a literal is part of a name, as the one
/// behind UESCAPE is.
pub(crate) fn template(text: &str, tokens: &[Lexeme]) -> Option<Vec<u8>> {
    const END: u8 = 0;
    const LITERAL: u8 = 1;
    if tokens.iter().any(|lexeme| lexeme.token == Token::Uescape) {
        return None;
    }
    let mut key = Vec::with_capacity(text.len());
    for lexeme in tokens.iter().filter(|lexeme| !lexeme.is_comment()) {
        if lexeme.is_literal() {
            // The kind of literal is part of the grammar.
            key.push(LITERAL);
            key.extend_from_slice(&(lexeme.token as i32).to_le_bytes());
        } else {
            key.extend_from_slice(lexeme.text(text).as_bytes());
        }
        key.push(END);
    }
    Some(key)
}
