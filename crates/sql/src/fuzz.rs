//! One entry for fuzzers: bytes as a text of SQL.

use std::borrow::Cow;

use crate::{
    Catalog, FunctionFacts, Limits, Literals, OperatorFacts, Parser, RelationKind, parse, redact, resolve,
};

/// What the parser may remember meanwhile.
const CACHE_BYTES: u64 = 64 << 10;

/// A database that has everything.
struct Everything;

impl Catalog for Everything {
    fn relation(&self, _: &str, _: &str) -> Option<RelationKind> {
        Some(RelationKind::Table)
    }

    fn functions(&self, _: &str, _: &str) -> Cow<'_, [FunctionFacts]> {
        Cow::Owned(vec![FunctionFacts {
            procedure: false,
            volatile: true,
            security_definer: false,
            arguments_min: 0,
            arguments_max: u16::MAX,
            takes_row: true,
        }])
    }

    fn operators(&self, _: &str) -> Cow<'_, [OperatorFacts]> {
        Cow::Borrowed(&[])
    }
}

/// Reads bytes as a text, as often as it is remembered in another way. Panics only when this crate is broken.
pub fn fuzz_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let limits = Limits::default();
    let read = parse(text, &limits);
    let parser = Parser::new(limits, CACHE_BYTES);
    for _ in 0..2 {
        let remembered = parser.parse(text).map(|script| (*script).clone());
        assert_eq!(remembered, read, "what is remembered is what is read");
    }
    let _ = redact(text, Literals::Replace);
    let Ok(script) = read else { return };
    for statement in &script.statements {
        assert!(text.get(statement.span.clone()).is_some(), "a statement lies within its text");
        for literal in statement.literals.iter() {
            assert!(literal.start >= statement.span.start && literal.end <= statement.span.end);
        }
        // A parser that has seen the statement with other values says the same of it.
        if let Ok(needs) = resolve(statement, &Everything, &["public"]) {
            assert!(needs.needs.is_sorted(), "needs are sorted");
        }
    }
}
