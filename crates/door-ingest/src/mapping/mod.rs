//! Mappings: from the fields of a foreign record to what the timeline keeps of it.
//!
//! [`Mapping::compile`] joins a ready-made mapping with the configuration's own fields and says what is
//! wrong with those; [`Mapping::map`] applies it. Both are pure.
//!
//! Invariants: a mapping fills no column that tells of a decision of this gateway; a value of the wrong form
//! is a reason to reject the record, never to leave the value out; a field that the mapping does not know is
//! reported.

mod apply;
pub(crate) mod convert;
mod known;
pub(crate) mod path;
mod presets;
mod target;
mod url;

use std::time::Duration;

use doorward_settings::suggest;

use crate::config::{FieldRule, IngestConfig, UnknownFields};
pub(crate) use apply::Rejection;
use convert::As;
use known::Known;
use path::Path;
use presets::{PRESETS, Preset, TRANSPORT, TRANSPORT_IGNORED};
use target::{EXT_WAYS, MAPPABLE, OURS, Target};

/// The most entries of `fields`, `ignore` and `idempotency_key`.
const ENTRIES_MAX: usize = 256;
/// The longest name behind `ext.`.
const EXT_NAME_BYTES_MAX: usize = 64;
/// Names in `ext` that the door itself writes.
const EXT_TAKEN: &[&str] = &["unknown", "left_out", "line"];

/// What is wrong with a mapping, and at which key of the resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct MappingError {
    /// The key, and the entry in it.
    pub key: (&'static str, Option<Box<str>>),
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl MappingError {
    fn new(key: &'static str, entry: Option<&str>, message: impl Into<String>) -> Self {
        Self { key: (key, entry.map(Into::into)), message: message.into(), hint: None }
    }

    fn hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }
}

/// A compiled mapping.
#[derive(Debug)]
pub(crate) struct Mapping {
    rules: Vec<Rule>,
    known: Known,
    key: Vec<Vec<Path>>,
    keep_unknown: bool,
    age_max: Duration,
    ahead_max: Duration,
}

/// Where a column's value is found.
#[derive(Debug)]
struct Rule {
    target: Target,
    from: Vec<Path>,
    read_as: As,
    cut: Option<(Box<str>, usize)>,
    minus: Option<Path>,
}

impl Mapping {
    /// Joins the ready-made mapping of the URL with the configuration's own fields.
    pub(crate) fn compile(config: &IngestConfig) -> Result<Self, MappingError> {
        let preset = preset(&config.url)?;
        check_counts(config)?;
        let mut own = Vec::new();
        for (column, field) in &config.fields {
            own.push(rule(column, &field.0)?);
        }
        let mut rules: Vec<Rule> = Vec::new();
        for line in preset.lines.iter().chain(TRANSPORT) {
            let rule = built_in(line)?;
            if !own.iter().any(|own: &Rule| own.target == rule.target) {
                rules.push(rule);
            }
        }
        rules.append(&mut own);
        let key = match config.idempotency_key.is_empty() {
            true => preset.key.iter().map(|paths| alternatives(paths)).collect::<Result<_, _>>()?,
            false => {
                let read = |text: &str| Ok(vec![parse(text, "idempotency_key", None)?]);
                config.idempotency_key.iter().map(|text| read(text)).collect::<Result<Vec<_>, _>>()?
            }
        };
        let mut known = Known::default();
        let ruled = rules.iter().flat_map(|rule| rule.from.iter().chain(&rule.minus));
        ruled.chain(key.iter().flatten()).for_each(|path| known.learn(path));
        for text in preset.ignore.iter().chain(TRANSPORT_IGNORED) {
            known.learn(&parse(text, "ignore", None)?);
        }
        for text in &config.ignore {
            known.learn(&parse(text, "ignore", Some(text))?);
        }
        Ok(Self {
            rules,
            known,
            key,
            keep_unknown: config.unknown_fields == UnknownFields::Keep,
            age_max: config.time_max_age.get(),
            ahead_max: config.time_max_ahead.get(),
        })
    }
}

/// Whether a column may be filled by a mapping.
pub fn is_mappable(column: &str) -> bool {
    MAPPABLE.iter().any(|(name, ..)| *name == column)
}

/// Whether a column is the gateway's own.
pub fn is_ours(column: &str) -> bool {
    OURS.iter().any(|(names, _)| names.contains(&column))
}

fn preset(url: &str) -> Result<&'static Preset, MappingError> {
    let name = url.strip_prefix("ingest:").unwrap_or(url);
    PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
        MappingError::new("url", None, format!("there is no ready-made mapping {name:?}"))
            .hint(suggest(name, PRESETS.iter().map(|preset| preset.name)))
    })
}

fn check_counts(config: &IngestConfig) -> Result<(), MappingError> {
    let counts = [
        ("fields", config.fields.len()),
        ("ignore", config.ignore.len()),
        ("idempotency_key", config.idempotency_key.len()),
    ];
    match counts.into_iter().find(|(_, count)| *count > ENTRIES_MAX) {
        Some((key, _)) => Err(MappingError::new(key, None, format!("more than {ENTRIES_MAX} entries"))),
        None => Ok(()),
    }
}

fn parse(text: &str, key: &'static str, entry: Option<&str>) -> Result<Path, MappingError> {
    Path::parse(text).map_err(|why| {
        MappingError::new(key, entry, format!("{text:?} is no path: {why}")).hint(Some(
            "write it as `request.method`, or as a JSON pointer: `/request/headers/user-agent`".to_owned(),
        ))
    })
}

fn alternatives(paths: &str) -> Result<Vec<Path>, MappingError> {
    paths.split('|').map(|path| parse(path, "url", None)).collect()
}

fn built_in((column, paths, read_as): &presets::Line) -> Result<Rule, MappingError> {
    let (target, _) = target(column)?;
    Ok(Rule { target, from: alternatives(paths)?, read_as: *read_as, cut: None, minus: None })
}

/// The column that a name stands for, and the ways in which it can be read.
fn target(column: &str) -> Result<(Target, &'static [As]), MappingError> {
    if let Some(name) = column.strip_prefix("ext.") {
        return ext(column, name);
    }
    if let Some((_, target, ways)) = MAPPABLE.iter().find(|(name, ..)| *name == column) {
        return Ok((target.clone(), ways));
    }
    if let Some((_, why)) = OURS.iter().find(|(names, _)| names.contains(&column)) {
        return Err(MappingError::new(
            "fields",
            Some(column),
            format!("`{column}` is not a source's to say: {why}"),
        ));
    }
    let names = MAPPABLE.iter().map(|(name, ..)| *name);
    Err(MappingError::new("fields", Some(column), format!("there is no column `{column}`"))
        .hint(suggest(column, names).map(|hint| format!("{hint} What has no column is kept as `ext.NAME`"))))
}

fn ext(column: &str, name: &str) -> Result<(Target, &'static [As]), MappingError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > EXT_NAME_BYTES_MAX || !name.bytes().all(plain) {
        let text = "a name behind `ext.` has 1 to 64 letters, digits, `-`, `_` and `.`";
        return Err(MappingError::new("fields", Some(column), text));
    }
    if EXT_TAKEN.contains(&name) {
        return Err(MappingError::new("fields", Some(column), format!("`ext.{name}` is the gateway's own")));
    }
    Ok((Target::Ext(name.into()), EXT_WAYS))
}

fn rule(column: &str, field: &FieldRule) -> Result<Rule, MappingError> {
    let wrong = |message: String| MappingError::new("fields", Some(column), message);
    let (target, ways) = target(column)?;
    let read_as = field.read_as.or_else(|| ways.first().copied()).unwrap_or(As::Text);
    if !ways.contains(&read_as) {
        let known: Vec<&str> = ways.iter().map(|way| way.as_str()).collect();
        return Err(wrong(format!("`{column}` cannot be read as `{}`", read_as.as_str()))
            .hint(Some(format!("it can be read as {}", known.join(", ")))));
    }
    if field.from.is_empty() {
        return Err(wrong("`from` names no path".to_owned()));
    }
    let from = field.from.iter().map(|path| parse(path, "fields", Some(column))).collect::<Result<_, _>>()?;
    let cut = match &field.split {
        Some(separator) if separator.is_empty() => return Err(wrong("`split` is empty".to_owned())),
        Some(separator) => Some((separator.clone(), field.part)),
        None if field.part > 0 => return Err(wrong("`part` needs a `split`".to_owned())),
        None => None,
    };
    let minus = field.minus.as_deref().map(|path| parse(path, "fields", Some(column))).transpose()?;
    if minus.is_some() && !matches!(read_as, As::S | As::Ms | As::Us | As::Ns) {
        return Err(wrong("`minus` is for durations".to_owned()));
    }
    Ok(Rule { target, from, read_as, cut, minus })
}

#[cfg(test)]
pub(crate) mod tests;
