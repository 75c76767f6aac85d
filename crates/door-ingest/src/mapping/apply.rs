//! Applying a mapping to one record.

use std::net::IpAddr;
use std::time::Duration;

use doorward_core::{
    AccessId, Claimed, ClaimedCaller, ClaimedFault, ClaimedText, Code, Object, Outcome, Personal,
    PrincipalKind, TaskRef, Timestamp, TraceContext, Verb,
};
use serde_json::{Map, Value};

use super::convert::{self, As, Expected};
use super::known::Unknown;
use super::path::Path;
use super::target::Target;
use super::{Mapping, Rule, url};
use crate::codes;

/// The most bytes of `ext` that unknown fields take.
const UNKNOWN_BYTES_MAX: usize = 4 << 10;
/// The most bytes of one value that `ext` keeps.
const EXT_VALUE_BYTES_MAX: usize = 1 << 10;
/// The most bytes of a text of a column.
const TEXT_BYTES_MAX: usize = 2 << 10;
/// The most bytes of an idempotency key.
const KEY_BYTES_MAX: usize = 1 << 10;
/// The most groups.
const GROUPS_MAX: usize = 64;

/// A record that was mapped.
#[derive(Debug)]
pub(crate) struct Mapped {
    pub(crate) claimed: Claimed,
    /// The names of fields that the mapping does not know.
    pub(crate) unknown: Vec<String>,
    /// What tells the record from all others, if the record has it.
    pub(crate) key: Option<String>,
}

/// Why a record is a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) code: &'static Code,
    pub(crate) reason: String,
}

impl Rejection {
    pub(crate) fn new(code: &'static Code, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

/// What is known of a record so far.
#[derive(Default)]
struct Draft {
    ts: Option<Timestamp>,
    subject: Option<String>,
    email: Option<String>,
    kind: Option<PrincipalKind>,
    groups: Option<Vec<String>>,
    client_id: Option<String>,
    source_ip: Option<IpAddr>,
    user_agent: Option<String>,
    verb: Option<(Verb, String)>,
    object: Option<Object>,
    endpoint: Option<String>,
    operation: Option<ClaimedText>,
    api_version: Option<String>,
    outcome: Option<Outcome>,
    fault: Option<String>,
    cache_status: Option<&'static str>,
    status: Option<u16>,
    rows: Option<u64>,
    bytes_in: Option<u64>,
    bytes_out: Option<u64>,
    duration: Option<u64>,
    forward: Option<u64>,
    trace_id: Option<[u8; 16]>,
    span_id: Option<[u8; 8]>,
    parent_span_id: Option<[u8; 8]>,
    task: TaskRef,
    ext: Map<String, Value>,
}

impl Mapping {
    /// Maps one record.
    pub(crate) fn map(&self, document: &Value, now: Timestamp) -> Result<Mapped, Rejection> {
        let Value::Object(members) = document else {
            return Err(Rejection::new(codes::RECORD_FORM, "the record is no JSON object"));
        };
        if holds_nothing(members) {
            return Err(Rejection::new(
                codes::RECORD_FORM,
                "the record is text: neither JSON nor named values",
            ));
        }
        let mut draft = Draft::default();
        for rule in &self.rules {
            if draft.has(&rule.target) {
                continue;
            }
            let Some((path, value)) = rule.from.iter().find_map(|path| Some((path, path.find(document)?)))
            else {
                continue;
            };
            draft.take(rule, value, document).map_err(|expected| wrong(rule, path, expected))?;
        }
        let ts = self.time(draft.ts, now)?;
        let unknown = self.known.unknown(members);
        let names = unknown.iter().map(|(name, _)| name.clone()).collect();
        keep_unknown(&mut draft.ext, unknown, self.keep_unknown);
        let key = self.key(document);
        Ok(Mapped { claimed: draft.finish(ts), unknown: names, key })
    }

    fn time(&self, ts: Option<Timestamp>, now: Timestamp) -> Result<Timestamp, Rejection> {
        let ts = ts.ok_or_else(|| Rejection::new(codes::RECORD_TIME, "the record has no time"))?;
        if now.since(ts) > self.age_max {
            let why = format!("the record's time is more than {} ago", human(self.age_max));
            return Err(Rejection::new(codes::RECORD_TIME, why));
        }
        if ts.since(now) > self.ahead_max {
            let why = format!("the record's time is more than {} ahead", human(self.ahead_max));
            return Err(Rejection::new(codes::RECORD_TIME, why));
        }
        Ok(ts)
    }

    /// The values of the idempotency key's paths; `None` when one of them is not there.
    fn key(&self, document: &Value) -> Option<String> {
        if self.key.is_empty() {
            return None;
        }
        let mut key = String::new();
        for alternatives in &self.key {
            let value = alternatives.iter().find_map(|path| path.find(document))?;
            let part = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if part.len() > KEY_BYTES_MAX {
                return None;
            }
            key.push_str(&part);
            key.push('\0');
        }
        Some(key)
    }
}

/// Whether all that there is comes from the transport: a line of text in a syslog or OTLP record.
fn holds_nothing(members: &Map<String, Value>) -> bool {
    let has_data = members.get("syslog").is_some_and(|syslog| syslog.get("data").is_some());
    !members.is_empty() && !has_data && members.keys().all(|name| matches!(&**name, "syslog" | "otlp"))
}

fn human(span: Duration) -> doorward_settings::HumanDuration {
    doorward_settings::HumanDuration::new(span)
}

fn wrong(rule: &Rule, path: &Path, expected: Expected) -> Rejection {
    let name = super::MAPPABLE.iter().find(|(_, target, _)| *target == rule.target).map(|(name, ..)| *name);
    let column = match (&rule.target, name) {
        (Target::Ext(name), _) => format!("ext.{name}"),
        (_, name) => name.unwrap_or_default().to_owned(),
    };
    let path = path.as_str();
    Rejection::new(codes::RECORD_VALUE, format!("`{path}`, for {column}: {expected} is expected"))
}

impl Draft {
    fn has(&self, target: &Target) -> bool {
        match target {
            Target::Ts => self.ts.is_some(),
            Target::Subject => self.subject.is_some(),
            Target::Email => self.email.is_some(),
            Target::Kind => self.kind.is_some(),
            Target::Groups => self.groups.is_some(),
            Target::ClientId => self.client_id.is_some(),
            Target::SourceIp => self.source_ip.is_some(),
            Target::UserAgent => self.user_agent.is_some(),
            Target::Verb => self.verb.is_some(),
            Target::Object => self.object.is_some(),
            Target::Endpoint => self.endpoint.is_some(),
            Target::Operation => self.operation.is_some(),
            Target::ApiVersion => self.api_version.is_some(),
            Target::Outcome => self.outcome.is_some(),
            Target::FaultText => self.fault.is_some(),
            Target::CacheStatus => self.cache_status.is_some(),
            Target::Status => self.status.is_some(),
            Target::Rows => self.rows.is_some(),
            Target::BytesIn => self.bytes_in.is_some(),
            Target::BytesOut => self.bytes_out.is_some(),
            Target::Duration => self.duration.is_some(),
            Target::Forward => self.forward.is_some(),
            Target::TraceId => self.trace_id.is_some(),
            Target::SpanId => self.span_id.is_some(),
            Target::ParentSpanId => self.parent_span_id.is_some(),
            Target::DagId => self.task.dag_id.is_some(),
            Target::RunId => self.task.run_id.is_some(),
            Target::TaskId => self.task.task_id.is_some(),
            Target::TryNumber => self.task.try_number.is_some(),
            Target::MapIndex => self.task.map_index.is_some(),
            Target::Ext(name) => self.ext.contains_key(&**name),
        }
    }

    /// Reads a value for a column.
    fn take(&mut self, rule: &Rule, value: &Value, document: &Value) -> Result<(), Expected> {
        let cut;
        let value = match &rule.cut {
            None => value,
            Some((separator, part)) => {
                let whole = convert::text(value)?;
                let Some(text) = whole.split(&**separator).nth(*part) else { return Ok(()) };
                cut = Value::from(text);
                &cut
            }
        };
        let text = || convert::text(value).map(|text| bounded(text, TEXT_BYTES_MAX));
        let small = || convert::text(value).map(|text| Some(bounded(text, 256).into()));
        let number = || u32::try_from(convert::int(value)?).map_err(|_| "a small whole number");
        match &rule.target {
            Target::Ts => self.ts = Some(convert::time(value, rule.read_as)?),
            Target::Subject => self.subject = Some(text()?),
            Target::Email => self.email = Some(text()?),
            Target::Kind => self.kind = Some(kind(&text()?)?),
            Target::Groups => self.groups = Some(convert::list(value)?),
            Target::ClientId => self.client_id = Some(text()?),
            Target::SourceIp => self.source_ip = Some(convert::ip(&convert::text(value)?)?),
            Target::UserAgent => self.user_agent = Some(bounded(convert::text(value)?, 256)),
            Target::Verb => {
                let method = bounded(text()?.to_ascii_uppercase(), 32);
                let verb = Verb::parse(&method.to_ascii_lowercase());
                self.verb = Some((verb.unwrap_or_else(|| convert::verb(&method)), method));
            }
            Target::Object => self.object = Some(url::object(&convert::text(value)?)),
            Target::Endpoint => self.endpoint = Some(text()?),
            Target::Operation => {
                let text = convert::text(value)?;
                self.operation = Some(match rule.read_as {
                    As::Url => ClaimedText::Template(url::without_values(&text)),
                    _ => ClaimedText::Raw(text),
                });
            }
            Target::ApiVersion => self.api_version = Some(text()?),
            Target::Outcome => self.outcome = Some(outcome(value, rule.read_as)?),
            Target::FaultText => self.fault = Some(text()?),
            Target::CacheStatus => self.cache_status = convert::cache(value)?,
            Target::Status => self.status = Some(status(value)?),
            Target::Rows => self.rows = Some(convert::int(value)?),
            Target::BytesIn => self.bytes_in = Some(convert::int(value)?),
            Target::BytesOut => self.bytes_out = Some(convert::int(value)?),
            Target::Duration => self.duration = span(rule, value, document)?,
            Target::Forward => self.forward = span(rule, value, document)?,
            Target::TraceId => self.trace_id = trace_id(value, rule.read_as)?,
            Target::SpanId => self.span_id = Some(convert::hex(&convert::text(value)?)?),
            Target::ParentSpanId => self.parent_span_id = Some(convert::hex(&convert::text(value)?)?),
            Target::DagId => self.task.dag_id = small()?,
            Target::RunId => self.task.run_id = small()?,
            Target::TaskId => self.task.task_id = small()?,
            Target::TryNumber => self.task.try_number = Some(number()?),
            Target::MapIndex => self.task.map_index = Some(number()?),
            Target::Ext(name) => {
                let kept = ext(value, rule, document)?;
                self.ext.insert(name.to_string(), kept);
            }
        }
        Ok(())
    }

    fn finish(self, ts: Timestamp) -> Claimed {
        let outcome = self.outcome.or_else(|| self.status.map(outcome_of)).unwrap_or(Outcome::Unknown);
        let fault = fault(outcome, self.status, self.fault);
        let method = self.verb.as_ref().map(|(_, method)| method.clone());
        let operation = match (method, self.operation) {
            (Some(method), Some(ClaimedText::Template(url))) => {
                Some(ClaimedText::Template(format!("{method} {url}")))
            }
            (method, operation) => operation.or(method.map(ClaimedText::Template)),
        };
        let object = self.object;
        let action =
            self.verb.map(|(verb, _)| verb).map(|verb| (verb, object.unwrap_or_else(|| url::object(""))));
        // An application is named by its own id when nobody else is.
        let subject = self.subject.or_else(|| self.client_id.clone());
        let caller = subject.map(|subject| ClaimedCaller {
            subject: Personal::from(subject),
            kind: self.kind.unwrap_or(PrincipalKind::Service),
            email: self.email.map(Personal::from),
            groups: self.groups.unwrap_or_default().into_iter().take(GROUPS_MAX).map(Into::into).collect(),
            client_id: self.client_id.map(Into::into),
        });
        let task = (self.task != TaskRef::default()).then(|| Box::new(self.task));
        let trace = self.trace_id.map(|trace_id| TraceContext {
            trace_id,
            span_id: self.span_id.unwrap_or_else(|| TraceContext::own(AccessId::fresh()).span_id),
            parent_span_id: self.parent_span_id,
            sampled: false,
        });
        Claimed {
            caller,
            source_ip: self.source_ip.map(Personal::new),
            user_agent: self.user_agent.map(Into::into),
            action,
            endpoint: self.endpoint.map(Into::into),
            operation,
            api_version: self.api_version.map(Into::into),
            fault,
            cache_status: self.cache_status.map(Into::into),
            status: self.status,
            rows: self.rows,
            bytes_in: self.bytes_in.unwrap_or_default(),
            bytes_out: self.bytes_out.unwrap_or_default(),
            duration_us: self.duration.unwrap_or_default(),
            forward_us: self.forward.map(|micros| u32::try_from(micros).unwrap_or(u32::MAX)),
            trace,
            task,
            ext: self.ext,
            ..Claimed::new(ts, outcome)
        }
    }
}

fn kind(word: &str) -> Result<PrincipalKind, Expected> {
    PrincipalKind::parse(&word.to_ascii_lowercase())
        .filter(|kind| *kind != PrincipalKind::Public)
        .ok_or("user, service, task or agent")
}

fn status(value: &Value) -> Result<u16, Expected> {
    u16::try_from(convert::int(value)?).ok().filter(|status| *status < 1_000).ok_or("an HTTP status")
}

fn outcome(value: &Value, read_as: As) -> Result<Outcome, Expected> {
    if read_as == As::Status {
        return Ok(outcome_of(status(value)?));
    }
    let word = convert::text(value)?;
    Outcome::ALL
        .into_iter()
        .find(|outcome| outcome.as_str() == word)
        .ok_or("allowed, denied, limited, failed, abandoned or unknown")
}

/// What a status says of how a call ended. 0 is Envoy's, 499 nginx's word for a client who has gone.
fn outcome_of(status: u16) -> Outcome {
    match status {
        0 | 499 => Outcome::Abandoned,
        401 | 403 | 407 => Outcome::Denied,
        429 => Outcome::Limited,
        100..=399 => Outcome::Allowed,
        _ => Outcome::Failed,
    }
}

/// Why it did not end well: what the source says, or its status.
fn fault(outcome: Outcome, status: Option<u16>, text: Option<String>) -> Option<ClaimedFault> {
    let clients = status.is_some_and(|status| (400..500).contains(&status));
    let code = match outcome {
        Outcome::Allowed | Outcome::Unknown => return None,
        Outcome::Denied | Outcome::Limited | Outcome::Abandoned => codes::REPORTED_REFUSAL,
        Outcome::Failed if clients => codes::REPORTED_REFUSAL,
        Outcome::Failed => codes::REPORTED_FAILURE,
    };
    let text = text.or_else(|| status.map(|status| format!("the source reports status {status}")));
    Some(ClaimedFault { code, text: text.unwrap_or_else(|| "the source gives no reason".to_owned()).into() })
}

fn span(rule: &Rule, value: &Value, document: &Value) -> Result<Option<u64>, Expected> {
    let span = convert::span(value, rule.read_as)?;
    let Some(minus) = &rule.minus else { return Ok(span) };
    let Some(less) = minus.find(document) else { return Ok(None) };
    let less = convert::span(less, rule.read_as)?;
    Ok(span.zip(less).and_then(|(span, less)| span.checked_sub(less)))
}

fn trace_id(value: &Value, read_as: As) -> Result<Option<[u8; 16]>, Expected> {
    let text = convert::text(value)?;
    if read_as != As::Traceparent {
        // B3 also has ids of half the length.
        let padded = if text.len() == 16 { format!("{text:0>32}") } else { text };
        return convert::hex(&padded).map(Some);
    }
    // A caller may send anything under this name; what is no trace context is nobody's fault here.
    Ok(text.split('-').nth(1).filter(|id| id.len() == 32).and_then(|id| convert::hex(id).ok()))
}

fn ext(value: &Value, rule: &Rule, document: &Value) -> Result<Value, Expected> {
    Ok(match rule.read_as {
        As::Int => Value::from(convert::int(value)?),
        As::List => Value::from(convert::list(value)?),
        As::Url => Value::from(bounded(url::without_values(&convert::text(value)?), EXT_VALUE_BYTES_MAX)),
        As::Path => Value::from(url::object(&convert::text(value)?).as_str()),
        As::Ip => Value::from(convert::ip(&convert::text(value)?)?.to_string()),
        As::S | As::Ms | As::Us | As::Ns => Value::from(span(rule, value, document)?),
        As::Json => small(value.clone()),
        _ => Value::from(bounded(convert::text(value)?, EXT_VALUE_BYTES_MAX)),
    })
}

/// A value that is not too large to keep, or how large it was.
fn small(value: Value) -> Value {
    if let Value::String(text) = value {
        return Value::from(bounded(text, EXT_VALUE_BYTES_MAX));
    }
    match value.to_string().len() {
        0..=EXT_VALUE_BYTES_MAX => value,
        length => serde_json::json!({ "truncated_bytes": length }),
    }
}

fn bounded(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
    }
    text
}

/// Keeps unknown fields under `unknown`, as long as there is room; `left_out` counts the others.
fn keep_unknown(ext: &mut Map<String, Value>, unknown: Unknown, keep: bool) {
    let (mut kept, mut left_out, mut room) = (Map::new(), 0_u64, UNKNOWN_BYTES_MAX);
    for (name, value) in unknown {
        let value = small(value);
        let size = name.len() + value.to_string().len();
        match room.checked_sub(size).filter(|_| keep) {
            Some(left) => {
                room = left;
                kept.insert(name, value);
            }
            None => left_out += 1,
        }
    }
    if !kept.is_empty() {
        ext.insert("unknown".to_owned(), Value::Object(kept));
    }
    if left_out > 0 {
        ext.insert("left_out".to_owned(), Value::from(left_out));
    }
}
