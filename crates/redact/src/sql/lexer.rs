//! PostgreSQL's lexical rules, as far as they say where literals, comments and names begin and end.
//!
//! Every byte belongs to one token, whatever the text is. A token without an end goes on to the end of the
//! text and says so.

use crate::span::mark_end;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Spaces and line ends.
    Space,
    /// `-- …` or `/* … */`.
    Comment,
    /// A key word or a name without quotes.
    Word,
    /// A name in double quotes.
    Quoted,
    /// A string literal.
    Literal(Literal),
    /// A number.
    Number,
    /// What an earlier redaction left.
    Mark,
    /// Any other character.
    Other(u8),
}

/// How a literal spells its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Literal {
    /// `'…'`, and `B'…'`, `X'…'`, `N'…'`: a quote is doubled.
    Plain,
    /// `E'…'`: backslash escapes.
    Escaped,
    /// `U&'…'`: code points.
    Unicode,
    /// `$tag$…$tag$`: nothing is special.
    Dollar,
}

/// One token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Where its content begins and ends, between its quotes.
    pub(crate) inner: (usize, usize),
    /// Whether its end is where it is under all settings. An unterminated token's is not.
    pub(crate) sure: bool,
}

/// Takes a text apart.
pub(crate) fn lex(text: &str, known_mark: impl Fn(&str) -> bool) -> Vec<Token> {
    let mut lexer = Lexer { bytes: text.as_bytes() };
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let mark = if lexer.at(at) == b'[' { mark_end(text, at, &known_mark) } else { None };
        let token = match mark {
            Some(end) => Token { kind: Kind::Mark, start: at, end, inner: (at, end), sure: true },
            None => lexer.token(at),
        };
        at = token.end.max(at + 1);
        tokens.push(token);
    }
    tokens
}

struct Lexer<'a> {
    bytes: &'a [u8],
}

impl Lexer<'_> {
    fn at(&self, index: usize) -> u8 {
        self.bytes.get(index).copied().unwrap_or(0)
    }

    fn rest(&self, from: usize) -> &[u8] {
        self.bytes.get(from..).unwrap_or_default()
    }

    fn run(&self, from: usize, of: impl Fn(u8) -> bool) -> usize {
        from + self.rest(from).iter().take_while(|byte| of(**byte)).count()
    }

    fn token(&mut self, at: usize) -> Token {
        let byte = self.at(at);
        match (byte, self.at(at + 1), self.at(at + 2)) {
            (b'-', b'-', _) => whole(Kind::Comment, at, self.run(at, |byte| byte != b'\n' && byte != b'\r')),
            (b'/', b'*', _) => self.block_comment(at),
            (b'\'', ..) => self.string(at, at, Literal::Plain),
            (b'e' | b'E', b'\'', _) => self.string(at, at + 1, Literal::Escaped),
            (b'b' | b'B' | b'x' | b'X' | b'n' | b'N', b'\'', _) => self.string(at, at + 1, Literal::Plain),
            (b'u' | b'U', b'&', b'\'') => self.string(at, at + 2, Literal::Unicode),
            (b'u' | b'U', b'&', b'"') => self.quoted_name(at, at + 2),
            (b'"', ..) => self.quoted_name(at, at),
            (b'$', ..) => self.dollar(at),
            _ if byte.is_ascii_whitespace() || byte == 0x0b => {
                whole(Kind::Space, at, self.run(at, |byte| byte.is_ascii_whitespace() || byte == 0x0b))
            }
            _ if is_word_start(byte) => whole(Kind::Word, at, self.run(at, is_word)),
            (b'0'..=b'9', ..) | (b'.', b'0'..=b'9', _) => {
                let number = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_';
                whole(Kind::Number, at, self.run(at, number))
            }
            _ => whole(Kind::Other(byte), at, at + 1),
        }
    }

    /// Block comments nest.
    fn block_comment(&self, start: usize) -> Token {
        let mut depth = 0u32;
        let mut at = start;
        while at < self.bytes.len() {
            match (self.at(at), self.at(at + 1)) {
                (b'/', b'*') => {
                    depth += 1;
                    at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        return whole(Kind::Comment, start, at);
                    }
                }
                _ => at += 1,
            }
        }
        unsure(Kind::Comment, start, self.bytes.len(), start)
    }

    /// A string whose first quote is at `quote`. Parts with only a line end between them are one literal.
    fn string(&self, start: usize, quote: usize, literal: Literal) -> Token {
        let kind = Kind::Literal(literal);
        let mut at = quote + 1;
        loop {
            let Some(close) = self.closing_quote(at, literal) else {
                return unsure(kind, start, self.bytes.len(), quote + 1);
            };
            // Under `standard_conforming_strings = off` a backslash before the quote takes its meaning away.
            if literal == Literal::Plain && close > at && self.at(close - 1) == b'\\' {
                return unsure(kind, start, self.bytes.len(), quote + 1);
            }
            match self.continuation(close + 1) {
                Some(next) => at = next + 1,
                None => {
                    let inner = (quote + 1, close);
                    return Token { kind, start, end: close + 1, inner, sure: true };
                }
            }
        }
    }

    fn closing_quote(&self, from: usize, literal: Literal) -> Option<usize> {
        let mut at = from;
        while at < self.bytes.len() {
            match (self.at(at), self.at(at + 1)) {
                (b'\\', _) if literal == Literal::Escaped => at += 2,
                (b'\'', b'\'') => at += 2,
                (b'\'', _) => return Some(at),
                _ => at += 1,
            }
        }
        None
    }

    /// The quote with which a literal goes on after a line end.
    fn continuation(&self, from: usize) -> Option<usize> {
        let next = self.run(from, |byte| byte.is_ascii_whitespace());
        let between = self.bytes.get(from..next)?;
        (self.at(next) == b'\'' && between.iter().any(|byte| matches!(byte, b'\n' | b'\r'))).then_some(next)
    }

    fn quoted_name(&self, start: usize, quote: usize) -> Token {
        let mut at = quote + 1;
        while at < self.bytes.len() {
            match (self.at(at), self.at(at + 1)) {
                (b'"', b'"') => at += 2,
                (b'"', _) => {
                    return Token {
                        kind: Kind::Quoted,
                        start,
                        end: at + 1,
                        inner: (quote + 1, at),
                        sure: true,
                    };
                }
                _ => at += 1,
            }
        }
        unsure(Kind::Quoted, start, self.bytes.len(), quote + 1)
    }

    fn dollar(&self, start: usize) -> Token {
        let digits = self.run(start + 1, |byte| byte.is_ascii_digit());
        if digits > start + 1 {
            return whole(Kind::Word, start, digits);
        }
        let tag_end = self.run(start + 1, |byte| is_word(byte) && byte != b'$');
        if self.at(tag_end) != b'$' {
            return whole(Kind::Other(b'$'), start, start + 1);
        }
        let (from, tag) = (tag_end + 1, self.bytes.get(start..=tag_end).unwrap_or_default());
        let kind = Kind::Literal(Literal::Dollar);
        match find(self.rest(from), tag) {
            Some(length) => {
                let inner = (from, from + length);
                Token { kind, start, end: inner.1 + tag.len(), inner, sure: true }
            }
            None => unsure(kind, start, self.bytes.len(), from),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    // Both ends of a tag are dollar signs, so a false start costs no more than the tag is long.
    let mut at = 0;
    while let Some(offset) = bytes.get(at..)?.iter().position(|byte| *byte == b'$') {
        if bytes.get(at + offset..)?.starts_with(what) {
            return Some(at + offset);
        }
        at += offset + 1;
    }
    None
}

fn whole(kind: Kind, start: usize, end: usize) -> Token {
    Token { kind, start, end, inner: (start, end), sure: true }
}

fn unsure(kind: Kind, start: usize, end: usize, inner: usize) -> Token {
    Token { kind, start, end, inner: (inner.min(end), end), sure: false }
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

fn is_word(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}
