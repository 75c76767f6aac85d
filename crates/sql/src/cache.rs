//! A parser that remembers what it has read.
//!
//! Three levels: by the text itself; by the text with a zero for each digit of its small numbers, where nothing
//! but such numbers could differ; and by the text without its literals, which finds the shape of a statement
//! that a driver without parameters sends with other values each time. The last two hold only statements
//! whose shape their literals have no part in. All are bounded by bytes; a long text is in none.

use std::sync::Arc;

use doorward_core::blind::Blinded;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::error::ParseError;
use crate::script::{self, Limits, Place};
use crate::statement::{Script, Shape};
use crate::tokens;

/// The longest text that is remembered.
pub const CACHED_TEXT_BYTES_MAX: usize = 16 << 10;
/// What an entry is counted for, beside its texts.
const ENTRY_BYTES: u64 = 512;
/// An entry of this size is what the number of entries is reckoned by.
const ENTRY_BYTES_USUAL: u64 = 1_024;
/// The most digits that make the same kind of number whatever they are: an integer of four bytes.
const INTEGER_DIGITS_MAX: usize = 9;

/// A parser with a cache, for all sessions of all resources: what it remembers depends on the text alone.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    scripts: Cache<Box<str>, Arc<Script>, ByBytes>,
    /// By the text with its small numbers blinded: what differs in them alone has everything at the same place.
    blinded: Cache<Box<str>, Arc<Script>, ByBytes>,
    shapes: Cache<Box<[u8]>, Arc<Shape>, ByBytes>,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Box<str>, Arc<Script>> for ByBytes {
    fn weight(&self, text: &Box<str>, script: &Arc<Script>) -> u64 {
        let literals: usize = script.statements.iter().map(|statement| statement.literals.len()).sum();
        let wants: usize = script.statements.iter().map(|statement| statement.wants.len()).sum();
        weight(text.len() + 16 * literals + 64 * wants)
    }
}

impl Weighter<Box<[u8]>, Arc<Shape>> for ByBytes {
    fn weight(&self, template: &Box<[u8]>, shape: &Arc<Shape>) -> u64 {
        weight(template.len() + 64 * shape.wants.len())
    }
}

fn weight(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(ENTRY_BYTES)
}

impl Parser {
    /// A parser that remembers up to that many bytes of texts, and as many of blinded texts and of templates.
    pub fn new(limits: Limits, cache_bytes: u64) -> Self {
        let entries = usize::try_from(cache_bytes / ENTRY_BYTES_USUAL).unwrap_or(usize::MAX).max(1);
        Self {
            limits,
            scripts: Cache::with_weighter(entries, cache_bytes, ByBytes),
            blinded: Cache::with_weighter(entries, cache_bytes, ByBytes),
            shapes: Cache::with_weighter(entries, cache_bytes, ByBytes),
        }
    }

    /// Reads a text, or remembers it. Errors are not remembered.
    pub fn parse(&self, text: &str) -> Result<Arc<Script>, ParseError> {
        if text.len() > CACHED_TEXT_BYTES_MAX {
            return script::parse(text, &self.limits).map(Arc::new);
        }
        let mut room = Blinded::new();
        let blinded = if is_bare(text) { room.of(text, INTEGER_DIGITS_MAX) } else { None };
        if let Some(script) = blinded.and_then(|blinded| self.blinded.get(blinded)) {
            return Ok(script);
        }
        if let Some(script) = self.scripts.get(text) {
            return Ok(script);
        }
        let (script, blind_to_literals) = self.read(text)?;
        let script = Arc::new(script);
        match blinded.filter(|_| blind_to_literals) {
            Some(blinded) => self.blinded.insert(blinded.into(), script.clone()),
            None => self.scripts.insert(text.into(), script.clone()),
        }
        Ok(script)
    }

    /// Reads a text; the second value tells whether its literals have no part in the shape of its only statement.
    fn read(&self, text: &str) -> Result<(Script, bool), ParseError> {
        script::check_size(text, &self.limits)?;
        let Some(tokens) = tokens::scan(text) else {
            return script::parse(text, &self.limits).map(|script| (script, false));
        };
        let template = tokens::template(text, &tokens);
        if let Some(shape) = template.as_deref().and_then(|template| self.shapes.get(template)) {
            let place = Place::of(text, &tokens, 0, 0..text.len());
            return Ok((Script { statements: vec![place.statement(shape)] }, true));
        }
        let (script, blind_to_literals) = script::read(text, &tokens, &self.limits)?;
        if let ([statement], true, Some(template)) =
            (script.statements.as_slice(), blind_to_literals, template)
        {
            self.shapes.insert(template.into(), statement.shape.clone());
        }
        Ok((script, blind_to_literals))
    }
}

/// Whether every byte of a text is the grammar's own: no part of a string, a quoted name or a comment.
fn is_bare(text: &str) -> bool {
    let bytes = text.as_bytes();
    let quotes = |byte: &u8| matches!(byte, b'\'' | b'"' | b'$' | b'\\');
    let comment = |pair: &&[u8]| matches!(pair, [b'-', b'-'] | [b'/', b'*']);
    !bytes.iter().any(quotes) && bytes.windows(2).find(comment).is_none()
}
