//! Finds secrets in PostgreSQL statements, by their tokens: what stands after PASSWORD, in OPTIONS, in a
//! connection string, in a column or setting whose name says that it is secret, and literals altogether when
//! the configuration says so.
//!
//! Constraints: no parser, because what is refused by the server is recorded too. A literal that holds a
//! secret is redacted as a whole, so that no escape can hide a part of it. Where the end of a token is not
//! sure, all that follows goes.

mod lexer;

use crate::decode;
use crate::detector::Detector;
use crate::rules::{COMMENT, Rules, UNTERMINATED};
use crate::span::{Span, With, mark_end, merge};
use crate::text::{self, Context};
use lexer::{Kind, Literal, Token, lex};

/// How deep statements in literals are looked into: the body of a function, a string that it executes.
const DEPTH_MAX: u8 = 3;

/// What is to be redacted in statements. `depth` counts the literals around them.
pub(crate) fn find(text: &str, rules: &Rules, depth: u8) -> Vec<Span> {
    let tokens = lex(text, |name| rules.known_mark(name));
    let spans = text::find(text, rules, Context::NAMES_ONLY);
    let mut finder = Finder { text, rules, depth, spans, told: Vec::new() };
    finder.widen(&tokens);
    finder.by_themselves(&tokens);
    let significant: Vec<Token> =
        tokens.into_iter().filter(|token| !matches!(token.kind, Kind::Space | Kind::Comment)).collect();
    finder.by_context(&significant);
    // What stands around a literal tells more than what is in it, so it names the literal.
    let Finder { mut told, spans, .. } = finder;
    told.extend(spans);
    merge(&mut told);
    told
}

struct Finder<'a> {
    text: &'a str,
    rules: &'a Rules,
    depth: u8,
    spans: Vec<Span>,
    /// What the context of a token told.
    told: Vec<Span>,
}

impl Finder<'_> {
    fn slice(&self, (start, end): (usize, usize)) -> &str {
        self.text.get(start..end).unwrap_or_default()
    }

    /// What was found in the text as it stands takes the whole of the literals that it touches.
    fn widen(&mut self, tokens: &[Token]) {
        let mut literals = tokens.iter().filter(|token| matches!(token.kind, Kind::Literal(_))).peekable();
        for span in &mut self.spans {
            while literals.next_if(|literal| literal.end <= span.start).is_some() {}
            while let Some(literal) = literals.next_if(|literal| literal.start < span.end) {
                if span.start >= literal.start && span.end <= literal.end {
                    (span.start, span.end, span.quote) = (literal.start, literal.end, "'");
                } else {
                    (span.start, span.end) = (span.start.min(literal.start), span.end.max(literal.end));
                    span.quote = "";
                }
                // The next span may touch the same literal; merging makes one of them.
            }
        }
    }

    /// What a token says by itself.
    fn by_themselves(&mut self, tokens: &[Token]) {
        for token in tokens {
            match token.kind {
                _ if !token.sure && self.depth == 0 => {
                    self.spans.push(Span::new(token.start, token.end, UNTERMINATED));
                }
                Kind::Comment if self.rules.redact_literals && self.depth == 0 => {
                    self.spans.push(Span::new(token.start, token.end, COMMENT));
                }
                Kind::Comment => {
                    let found = text::find(self.slice((token.start, token.end)), self.rules, Context::FREE);
                    self.spans.extend(found.into_iter().map(|span| Span {
                        start: span.start + token.start,
                        end: span.end + token.start,
                        ..span
                    }));
                }
                Kind::Literal(literal) => self.literal(token, literal),
                Kind::Number if self.rules.redact_numbers && self.depth == 0 => {
                    let (start, end) = (token.start, token.end);
                    self.spans.push(Span { start, end, with: With::Literal, quote: "" });
                }
                _ => {}
            }
        }
    }

    fn literal(&mut self, token: &Token, literal: Literal) {
        let content = self.content(token, literal);
        if is_mark(&content, self.rules) {
            return;
        }
        let hit = text::find(&content, self.rules, Context::FREE).into_iter().next();
        let hit = hit.map(|span| span.with).or_else(|| self.statement_in(&content));
        let (start, end) = (token.start, token.end);
        match hit {
            Some(with) => self.spans.push(Span { start, end, with, quote: "'" }),
            None if self.rules.redact_literals && self.depth == 0 => {
                self.spans.push(Span { start, end, with: With::Literal, quote: "" });
            }
            None => {}
        }
    }

    /// What a literal's content hides, if it is a statement with literals of its own.
    fn statement_in(&self, content: &str) -> Option<With> {
        let quotes = content.contains('\'') || content.contains("$$");
        if !quotes {
            return None;
        }
        if self.depth >= DEPTH_MAX {
            return Some(With::Name(Detector::Secret.name()));
        }
        let inner = find(content, self.rules, self.depth + 1);
        inner.into_iter().map(|span| span.with).next()
    }

    fn content(&self, token: &Token, literal: Literal) -> String {
        let inner = self.slice(token.inner);
        match literal {
            Literal::Plain => decode::doubled(inner, '\''),
            Literal::Escaped => decode::escaped(inner),
            Literal::Unicode => decode::unicode_escaped(inner),
            Literal::Dollar => inner.to_owned(),
        }
    }

    /// What stands beside a token says what it is.
    fn by_context(&mut self, tokens: &[Token]) {
        let mut at = 0;
        let mut statement = 0;
        while let Some(token) = tokens.get(at) {
            match token.kind {
                Kind::Other(b';') => {
                    statement = at + 1;
                    at += 1;
                }
                Kind::Word if self.is(token, "PROGRAM") && self.rules.on.has(Detector::Program) => {
                    at = self.redact_literals_at(tokens, at + 1, Detector::Program);
                }
                Kind::Word if self.is(token, "INSERT") && at == statement => {
                    self.insert(tokens, at + 1);
                    at += 1;
                }
                Kind::Word | Kind::Quoted | Kind::Literal(_) if self.names_secret(token) => {
                    at = self.secret_value(tokens, at, statement);
                }
                Kind::Literal(Literal::Unicode) if self.word_at(tokens, at + 1, "UESCAPE") => {
                    self.redact(token, Detector::Secret);
                    at += 1;
                }
                _ => at += 1,
            }
        }
    }

    fn is(&self, token: &Token, word: &str) -> bool {
        token.kind == Kind::Word && self.slice((token.start, token.end)).eq_ignore_ascii_case(word)
    }

    fn word_at(&self, tokens: &[Token], at: usize, word: &str) -> bool {
        tokens.get(at).is_some_and(|token| self.is(token, word))
    }

    fn names_secret(&self, token: &Token) -> bool {
        if self.is(token, "AUTHORIZATION") {
            return false;
        }
        let name = self.slice(token.inner);
        if is_mark(name, self.rules) {
            return false;
        }
        // A literal that is a name is short; a long one that ends like a name is not one.
        let plain = match token.kind {
            Kind::Literal(_) => {
                name.len() <= 64 && !name.contains(|char: char| char.is_whitespace() || char == '=')
            }
            _ => true,
        };
        plain && self.rules.secret_name(name.rsplit('.').next().unwrap_or(name).as_bytes())
    }

    /// Redacts the value beside the name at `at`; says where to go on.
    fn secret_value(&mut self, tokens: &[Token], at: usize, statement: usize) -> usize {
        let named_by_literal = tokens.get(at).is_some_and(|token| matches!(token.kind, Kind::Literal(_)));
        let mut next = at + 1;
        let mut operator = false;
        while let Some(token) = tokens.get(next) {
            let known = match token.kind {
                Kind::Other(byte) => b"=:><!~-@".contains(&byte),
                Kind::Word => ["TO", "LIKE", "ILIKE", "IN", "NOT", "SIMILAR", "ANY", "IS", "DEFAULT"]
                    .iter()
                    .any(|word| self.is(token, word)),
                _ => false,
            };
            if !known {
                break;
            }
            operator = true;
            next += 1;
        }
        if !operator {
            let comma = matches!(tokens.get(next), Some(Token { kind: Kind::Other(b','), .. }));
            let next = if named_by_literal && comma { next + 1 } else { next };
            return self.redact_literals_at(tokens, next, Detector::Secret);
        }
        let setting = ["SET", "ALTER"].iter().any(|word| self.word_at(tokens, statement, word));
        self.redact_expression(tokens, next, setting)
    }

    /// Redacts the literals that follow each other from `at` on.
    fn redact_literals_at(&mut self, tokens: &[Token], mut at: usize, detector: Detector) -> usize {
        while let Some(token) = tokens.get(at) {
            if !matches!(token.kind, Kind::Literal(_)) {
                break;
            }
            self.redact(token, detector);
            at += 1;
        }
        at
    }

    /// Redacts the literals and numbers of the expression that begins at `at`; of a setting, everything.
    fn redact_expression(&mut self, tokens: &[Token], mut at: usize, setting: bool) -> usize {
        const ENDS: &[&str] = &[
            "WHERE",
            "FROM",
            "AND",
            "OR",
            "RETURNING",
            "ON",
            "GROUP",
            "ORDER",
            "LIMIT",
            "THEN",
            "ELSE",
            "END",
            "UNION",
        ];
        let mut depth = 0u32;
        while let Some(token) = tokens.get(at) {
            match token.kind {
                Kind::Other(b'(') => depth += 1,
                Kind::Other(b')') if depth == 0 => break,
                Kind::Other(b')') => depth -= 1,
                Kind::Other(b';') => break,
                Kind::Other(b',') if depth == 0 => break,
                Kind::Word if depth == 0 && ENDS.iter().any(|word| self.is(token, word)) => break,
                Kind::Literal(_) | Kind::Number => self.redact(token, Detector::Secret),
                Kind::Word | Kind::Quoted if setting => self.redact(token, Detector::Secret),
                _ => {}
            }
            at += 1;
        }
        at
    }

    /// `INSERT INTO t (a, password) VALUES (…)`: the columns are named once, for all rows.
    fn insert(&mut self, tokens: &[Token], from: usize) {
        const TARGET_TOKENS_MAX: usize = 16;
        let open = |token: &Token| token.kind == Kind::Other(b'(');
        let Some(list) = tokens.iter().skip(from).take(TARGET_TOKENS_MAX).position(open) else { return };
        let mut at = from + list + 1;
        let (mut column, mut secret) = (0usize, Vec::new());
        while let Some(token) = tokens.get(at).filter(|token| token.kind != Kind::Other(b')')) {
            match token.kind {
                Kind::Other(b',') => column += 1,
                Kind::Word | Kind::Quoted if self.names_secret(token) => secret.push(column),
                Kind::Word | Kind::Quoted => {}
                _ => return,
            }
            at += 1;
        }
        let mut rest = tokens.iter().skip(at).take_while(|token| token.kind != Kind::Other(b';'));
        let values = rest.position(|token| self.is(token, "VALUES"));
        let (Some(values), false) = (values, secret.is_empty()) else { return };
        let (mut depth, mut column) = (0u32, 0usize);
        for token in tokens.iter().skip(at + values + 1) {
            match token.kind {
                Kind::Other(b';') => return,
                Kind::Other(b'(') => {
                    depth += 1;
                    column = if depth == 1 { 0 } else { column };
                }
                Kind::Other(b')') => depth = depth.saturating_sub(1),
                Kind::Other(b',') if depth == 1 => column += 1,
                Kind::Word if depth == 0 => return,
                Kind::Literal(_) | Kind::Number if secret.contains(&column) => {
                    self.redact(token, Detector::Secret);
                }
                _ => {}
            }
        }
    }

    fn redact(&mut self, token: &Token, detector: Detector) {
        let inner = self.slice(token.inner);
        let over = is_mark(inner, self.rules)
            || self.slice((token.start, token.end)).starts_with('$') && token.kind == Kind::Word;
        if over
            || !token.sure && self.depth == 0
            || matches!(token.kind, Kind::Literal(_)) && inner.is_empty()
        {
            return;
        }
        let quote = if matches!(token.kind, Kind::Literal(_)) { "'" } else { "" };
        let (start, end) = (token.start, token.end);
        self.told.push(Span { start, end, with: With::Name(detector.name()), quote });
    }
}

fn is_mark(text: &str, rules: &Rules) -> bool {
    text.starts_with('[') && mark_end(text, 0, |name| rules.known_mark(name)) == Some(text.len())
}
