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

/// The most digits of a number that tells nothing by itself: statements that differ in such numbers alone are one
/// text, and no rule looks at what they say.
pub(crate) const PLAIN_DIGITS_MAX: usize = 6;

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
