//! Texts in which nothing was found lately.
//!
//! Endpoints, operations without their values, objects and user agents are few, and each call brings the same
//! ones again. What is kept is whole texts and never hashes alone, so that no text passes for another one.
//!
//! Constraints: at most [`TEXTS_MAX`] texts of [`TEXT_BYTES_MAX`] bytes. The memory belongs to one set of rules:
//! other rules, another memory.

use std::hash::{Hash, Hasher};

use doorward_core::Form;
use quick_cache::Equivalent;
use quick_cache::sync::Cache;

/// The most texts.
const TEXTS_MAX: usize = 1_024;
/// The longest text that is kept.
const TEXT_BYTES_MAX: usize = 256;

/// The memory.
pub(crate) struct Clean(Cache<Known, ()>);

#[derive(PartialEq, Eq)]
struct Known(Form, Box<str>);

/// A text that is looked for.
struct Asked<'a>(Form, &'a str);

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Asked(self.0, &self.1).hash(state);
    }
}

impl Hash for Asked<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(self.0 as u8);
        self.1.hash(state);
    }
}

impl Equivalent<Known> for Asked<'_> {
    fn equivalent(&self, known: &Known) -> bool {
        self.0 == known.0 && self.1 == &*known.1
    }
}

/// The most digits of a number that tells nothing by itself.
const PLAIN_DIGITS_MAX: usize = 6;

/// Statements that differ in small numbers alone are one text: callers without parameters send a new one each time.
pub(crate) struct Blinded([u8; TEXT_BYTES_MAX]);

impl Blinded {
    pub(crate) const fn new() -> Self {
        Self([0; TEXT_BYTES_MAX])
    }

    /// The statement with a zero for each digit of its small numbers; as it is, when it has none or is too long. A
    /// number that stands alone between an operator, bracket or comma and the end of a value is no part of a larger
    /// one, and no rule looks at what it says.
    pub(crate) fn of<'t>(&'t mut self, text: &'t str) -> &'t str {
        let bytes = text.as_bytes();
        let Some(room) = self.0.get_mut(..bytes.len()) else { return text };
        room.copy_from_slice(bytes);
        let mut at = 0;
        let mut found = false;
        while let Some(start) = bytes.get(at..).and_then(|rest| rest.iter().position(u8::is_ascii_digit)) {
            let start = at + start;
            let digits = bytes.get(start..).unwrap_or_default();
            let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
            at = start + count;
            let before = bytes.get(..start).unwrap_or_default();
            let before = before.strip_suffix(b" ").unwrap_or(before);
            let begins = before.last().is_some_and(|byte| b"=<>(,".contains(byte));
            let ends = match bytes.get(at..).unwrap_or_default() {
                [] | [b';' | b')' | b',', ..] => true,
                [b' ', next @ ..] => {
                    !next.first().is_some_and(|byte| byte.is_ascii_digit() || b"-+".contains(byte))
                }
                _ => false,
            };
            if begins && ends && count <= PLAIN_DIGITS_MAX {
                found = true;
                room.get_mut(start..at).unwrap_or_default().fill(b'0');
            }
        }
        let blinded: &'t [u8] = room;
        if found { std::str::from_utf8(blinded).unwrap_or(text) } else { text }
    }
}

impl Clean {
    /// Whether nothing was found in this very text.
    pub(crate) fn has(&self, form: Form, text: &str) -> bool {
        text.len() <= TEXT_BYTES_MAX && self.0.get(&Asked(form, text)).is_some()
    }

    /// Nothing was found in this text.
    pub(crate) fn keep(&self, form: Form, text: &str) {
        if text.len() <= TEXT_BYTES_MAX {
            self.0.insert(Known(form, text.into()), ());
        }
    }
}

impl Default for Clean {
    fn default() -> Self {
        Self(Cache::new(TEXTS_MAX))
    }
}

impl std::fmt::Debug for Clean {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clean").field("texts", &self.0.len()).finish()
    }
}
