//! Redaction: takes passwords, tokens, keys, card numbers and the like out of texts before they enter a record.
//!
//! A [`Redactor`] is compiled of the configuration's section `redact` and lives in the snapshot; the open
//! access passes every text by it as it is noted, so that nothing downstream (spool, store, traces, sinks)
//! ever has the secret. What was taken out leaves its detector's name: `[redacted:card]`.
//!
//! Constraints and invariants:
//! - Pure: no I/O, no clock, no state but a bounded memory of texts in which nothing was found. Time is linear in
//!   the input, of which at most [`SCAN_BYTES_MAX`] are looked at.
//! - Idempotent: a redacted text is its own redaction. A pass is repeated until nothing changes; a text that
//!   does not settle within [`PASSES_MAX`] passes is redacted whole.
//! - Fail closed: a literal without an end, or one whose end depends on the session's settings, is redacted
//!   together with all that follows.
//! - What is cut for length is cut after the redaction, so that no half of a secret is left.
//! - Over-redaction is the lesser evil: where a literal holds a secret, the whole literal goes.

mod clean;
pub mod config;
mod decode;
mod detector;
mod json;
mod names;
mod numbers;
mod rules;
mod shapes;
mod span;
mod sql;
mod text;

use std::borrow::Cow;
use std::sync::OnceLock;

use aws_lc_rs::hmac;
use doorward_core::blind::Blinded;
use doorward_core::{BoundValues, Form, Secret};
use serde_json::Value;

pub use config::{BindValues, Keep, PatternConfig, RedactConfig};
pub use detector::Detector;
pub use rules::RedactError;

use clean::{Clean, PLAIN_DIGITS_MAX};
use rules::Rules;
use span::Span;
use text::Context;

/// The most bytes of one text that are looked at; what follows them is dropped, never kept unseen.
pub const SCAN_BYTES_MAX: usize = 64 << 10;
/// Of a text that is longer, the last bytes looked at are context only and are not kept: a secret that begins
/// there might not be recognized without what follows.
const MARGIN_BYTES: usize = 4 << 10;
/// How often a text is passed over until nothing more is found.
pub const PASSES_MAX: usize = 4;
/// The fewest bytes of a key of hashes.
const KEY_BYTES_MIN: usize = 16;
/// Stands for a text that did not settle.
const UNSETTLED: &str = "[redacted:unsettled]";

/// The compiled rules.
#[derive(Debug)]
pub struct Redactor {
    rules: Rules,
    clean: Clean,
    bound_values: BoundValues,
    /// The key of hashes, once it has been read.
    key: OnceLock<hmac::Key>,
}

impl Redactor {
    /// Compiles the configuration.
    pub fn new(config: &RedactConfig) -> Result<Self, RedactError> {
        let bound_values = config.bind_values.into();
        if bound_values == BoundValues::Hashed && config.hash_key.is_none() {
            let text = "`hashed` needs a key: name one in `redact.hash_key`";
            return Err(RedactError::new("redact.bind_values", text));
        }
        Ok(Self { rules: Rules::new(config)?, bound_values, ..Self::default() })
    }

    /// Takes the key of hashes, which is read when the configuration is opened. The first one stays.
    pub fn key(&self, key: &Secret) -> Result<(), RedactError> {
        let bytes = key.expose().as_bytes();
        if bytes.len() < KEY_BYTES_MIN {
            let text = format!("the key has at least {KEY_BYTES_MIN} bytes");
            return Err(RedactError::new("redact.hash_key", text));
        }
        self.key.get_or_init(|| hmac::Key::new(hmac::HMAC_SHA256, bytes));
        Ok(())
    }

    /// The text without what is secret in it, and at most `bytes_max` long.
    pub fn redact<'a>(&self, form: Form, text: &'a str, bytes_max: usize) -> Cow<'a, str> {
        let mut blinded = Blinded::new();
        // The operator's own patterns may look for any number.
        let blind = form == Form::Sql && self.rules.patterns.is_empty();
        let blinded = if blind { blinded.of(text, PLAIN_DIGITS_MAX) } else { None };
        let known = blinded.unwrap_or(text);
        let kept = if self.clean.has(form, known) {
            Cow::Borrowed(text)
        } else {
            let kept = self.unbounded(form, text);
            if matches!(kept, Cow::Borrowed(_)) {
                self.clean.keep(form, known);
            }
            kept
        };
        bounded(kept, text.len(), bytes_max)
    }

    /// The same, without a look at what is remembered: for texts that hardly ever come twice.
    pub fn redact_once<'a>(&self, form: Form, text: &'a str, bytes_max: usize) -> Cow<'a, str> {
        let plain = form == Form::Sql && self.rules.keep_values() && is_small_number(text);
        let kept = if plain { Cow::Borrowed(text) } else { self.unbounded(form, text) };
        bounded(kept, text.len(), bytes_max)
    }

    /// A header's value, by the header's name.
    pub fn header<'a>(&self, name: &str, value: &'a str, bytes_max: usize) -> Cow<'a, str> {
        match self.rules.secret_header(name) {
            Some(detector) => Cow::Owned(format!("{}{detector}]", span::MARK)),
            None => self.redact(Form::Text, value, bytes_max),
        }
    }

    /// All texts of a JSON value, which `key` names: strings, numbers and the keys of objects.
    pub fn json(&self, key: &str, value: &mut Value) {
        json::redact(self, key, value);
    }

    fn unbounded<'a>(&self, form: Form, text: &'a str) -> Cow<'a, str> {
        let mut kept = if text.len() > SCAN_BYTES_MAX {
            Cow::Owned(self.beginning(form, text))
        } else {
            Cow::Borrowed(text)
        };
        for _ in 0..PASSES_MAX {
            let spans = self.find(form, &kept);
            if spans.is_empty() {
                return kept;
            }
            let next = span::apply(&kept, &spans).into_owned();
            if next == *kept {
                return kept;
            }
            kept = Cow::Owned(next);
        }
        // Callers keep a text of their own when what they get is borrowed.
        if self.find(form, &kept).is_empty() { kept } else { Cow::Owned(UNSETTLED.to_owned()) }
    }

    /// The redacted beginning of a text that is too long to look at as a whole.
    fn beginning(&self, form: Form, text: &str) -> String {
        let seen = text.get(..text.floor_char_boundary(SCAN_BYTES_MAX)).unwrap_or_default();
        let mut end = seen.floor_char_boundary(seen.len().saturating_sub(MARGIN_BYTES));
        let mut spans = self.find(form, seen);
        spans.retain(|span| span.start < end);
        if let Some(last) = spans.last() {
            end = end.max(last.end);
        }
        let kept = seen.get(..end).unwrap_or_default();
        span::apply(kept, &spans).into_owned()
    }

    fn find(&self, form: Form, text: &str) -> Vec<Span> {
        match form {
            Form::Text | Form::Url => text::find(text, &self.rules, Context::FREE),
            Form::Template | Form::Path => text::find(text, &self.rules, Context::NAMES_ONLY),
            Form::Sql => sql::find(text, &self.rules, 0),
        }
    }
}

impl Default for Redactor {
    /// What is done when nothing is configured.
    fn default() -> Self {
        let (rules, clean) = (Rules::default(), Clean::default());
        Self { rules, clean, bound_values: BoundValues::default(), key: OnceLock::new() }
    }
}

impl doorward_core::Redactor for Redactor {
    fn redact<'a>(&self, form: Form, text: &'a str, bytes_max: usize) -> Cow<'a, str> {
        Self::redact(self, form, text, bytes_max)
    }

    fn redact_json(&self, key: &str, value: &mut Value) {
        self.json(key, value);
    }

    fn redact_once<'a>(&self, form: Form, text: &'a str, bytes_max: usize) -> Cow<'a, str> {
        Self::redact_once(self, form, text, bytes_max)
    }

    fn bound_values(&self) -> BoundValues {
        self.bound_values
    }

    fn hash(&self, value: &[u8]) -> Option<[u8; 16]> {
        let tag = hmac::sign(self.key.get()?, value);
        tag.as_ref().first_chunk().copied()
    }
}

/// Whether a text of SQL is one number, in quotes or not, that is too short for any detector.
fn is_small_number(text: &str) -> bool {
    let number = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')).unwrap_or(text);
    (1..=PLAIN_DIGITS_MAX).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Cuts a redacted text to `max` bytes and says so in its end. A replacement is not cut in two.
fn bounded(text: Cow<'_, str>, length: usize, max: usize) -> Cow<'_, str> {
    let dropped = length > SCAN_BYTES_MAX;
    if text.len() <= max && !dropped {
        return text;
    }
    let ending = format!("…[{length} bytes in all]");
    let room = text.floor_char_boundary(max.saturating_sub(ending.len()));
    let seen = text.floor_char_boundary(room + span::MARK.len());
    let mark = text.get(..seen).and_then(|seen| seen.rfind(span::MARK)).filter(|mark| *mark < room);
    let cuts = |mark: &usize| !text.get(*mark..room).unwrap_or_default().contains(']');
    let room = mark.filter(cuts).unwrap_or(room);
    Cow::Owned(format!("{}{ending}", text.get(..room).unwrap_or_default()))
}

#[cfg(test)]
mod tests;
