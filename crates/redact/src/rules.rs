//! The configuration, compiled.

use std::collections::HashSet;
use std::sync::Arc;

use regex_automata::meta::Regex;
use regex_automata::util::syntax;

use crate::config::{Keep, PatternConfig, RedactConfig};
use crate::decode;
use crate::detector::{Detector, Set};
use crate::names::{HEADERS, NAME_BYTES_MAX, Plain, QUERY};
use crate::span;

/// The most patterns of the operator's own.
pub(crate) const PATTERNS_MAX: usize = 64;
/// The most bytes that one compiled pattern may take.
const PATTERN_SIZE_MAX: usize = 1 << 20;
/// The most names, headers or parameters of the operator's own.
const NAMES_MAX: usize = 256;

/// Why the configuration cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {text}")]
pub struct RedactError {
    /// The key: `redact.patterns[2].match`.
    pub key: String,
    /// What is wrong with it.
    pub text: String,
}

impl RedactError {
    /// The key directly under `redact` that is wrong: `patterns`.
    pub fn section(&self) -> &str {
        let key = self.key.strip_prefix("redact.").unwrap_or(&self.key);
        key.split(['[', '.']).next().unwrap_or(key)
    }

    pub(crate) fn new(key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { key: key.into(), text: text.into() }
    }
}

#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) name: Arc<str>,
    pub(crate) regex: Regex,
}

#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) on: Set,
    pub(crate) redact_literals: bool,
    pub(crate) redact_numbers: bool,
    pub(crate) patterns: Vec<Pattern>,
    names: HashSet<Box<[u8]>>,
    headers: HashSet<Box<[u8]>>,
    query: HashSet<Box<[u8]>>,
}

impl Rules {
    pub(crate) fn new(config: &RedactConfig) -> Result<Self, RedactError> {
        let mut on = Set::default();
        for (detector, state) in &config.detectors {
            on.switch(*detector, *state);
        }
        if config.patterns.len() > PATTERNS_MAX {
            return Err(RedactError::new("redact.patterns", format!("at most {PATTERNS_MAX} patterns")));
        }
        let mut patterns = Vec::with_capacity(config.patterns.len());
        for (index, pattern) in config.patterns.iter().enumerate() {
            patterns.push(compile(index, pattern)?);
        }
        let redact_literals = config.literals == Keep::Redact;
        Ok(Self {
            on,
            redact_literals,
            redact_numbers: config.numbers.map_or(redact_literals, |keep| keep == Keep::Redact),
            patterns,
            names: plain_names("redact.names", &config.names)?,
            headers: plain_names("redact.headers", &config.headers)?,
            query: plain_names("redact.query_parameters", &config.query_parameters)?,
        })
    }

    /// Whether literals and numbers are kept, as far as no detector finds something in them.
    pub(crate) fn keep_values(&self) -> bool {
        self.patterns.is_empty() && !self.redact_literals && !self.redact_numbers
    }

    /// Whether a name of a setting, a column or a field names a secret.
    pub(crate) fn secret_name(&self, name: &[u8]) -> bool {
        if !self.on.has(Detector::Secret) {
            return false;
        }
        let secret = |plain: Plain| plain.secret() || self.names.contains(plain.as_bytes());
        // Of a name that is too long its end is looked at, and its beginning too.
        secret(Plain::of(name)) || name.get(..NAME_BYTES_MAX).is_some_and(|front| secret(Plain::of(front)))
    }

    /// The detector that redacts a header of this name.
    pub(crate) fn secret_header(&self, name: &str) -> Option<Detector> {
        let known = || HEADERS.iter().any(|header| header.eq_ignore_ascii_case(name));
        if self.on.has(Detector::Header)
            && (known() || self.headers.contains(Plain::of(name.as_bytes()).as_bytes()))
        {
            return Some(Detector::Header);
        }
        self.secret_name(name.as_bytes()).then_some(Detector::Secret)
    }

    /// Whether a parameter of a URL carries a credential.
    pub(crate) fn secret_parameter(&self, name: &str) -> bool {
        if !self.on.has(Detector::Query) {
            return false;
        }
        let name = decode::percent(name);
        let known = QUERY.iter().any(|parameter| parameter.eq_ignore_ascii_case(&name));
        known || self.query.contains(Plain::of(name.as_bytes()).as_bytes())
    }

    /// Whether a mark may bear this name. A text in the form of a mark with another name is text.
    pub(crate) fn known_mark(&self, name: &str) -> bool {
        Detector::ALL.iter().any(|(_, known, _)| *known == name)
            || OTHER_MARKS.contains(&name)
            || self.patterns.iter().any(|pattern| &*pattern.name == name)
    }
}

/// The names of marks that are no detector's.
pub(crate) const UNTERMINATED: &str = "unterminated";
pub(crate) const COMMENT: &str = "comment";
const OTHER_MARKS: &[&str] = &[UNTERMINATED, COMMENT, "unsettled"];

fn compile(index: usize, pattern: &PatternConfig) -> Result<Pattern, RedactError> {
    let key = |part: &str| format!("redact.patterns[{index}].{part}");
    let name = &pattern.name;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > span::NAME_BYTES_MAX || !name.bytes().all(plain) {
        let text = format!("1 to {} lower-case letters, digits and `-` are expected", span::NAME_BYTES_MAX);
        return Err(RedactError::new(key("name"), text));
    }
    let regex = Regex::builder()
        .configure(Regex::config().nfa_size_limit(Some(PATTERN_SIZE_MAX)))
        .syntax(syntax::Config::new().unicode(true).utf8(true))
        .build(&pattern.matches)
        .map_err(|error| {
            let text = error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string);
            RedactError::new(key("match"), text)
        })?;
    if regex.is_match("") {
        return Err(RedactError::new(key("match"), "it matches the empty text, so it would redact nothing"));
    }
    Ok(Pattern { name: Arc::from(name.as_str()), regex })
}

fn plain_names(key: &str, names: &[String]) -> Result<HashSet<Box<[u8]>>, RedactError> {
    if names.len() > NAMES_MAX {
        return Err(RedactError::new(key, format!("at most {NAMES_MAX} names")));
    }
    names
        .iter()
        .map(|name| match Plain::of(name.as_bytes()).as_bytes() {
            b"" => Err(RedactError::new(key, "a name has letters or digits")),
            _ if name.len() > NAME_BYTES_MAX => {
                Err(RedactError::new(key, format!("a name has at most {NAME_BYTES_MAX} bytes")))
            }
            plain => Ok(plain.into()),
        })
        .collect()
}
