//! From an access record to the values that are kept of it.
//!
//! Constraints: no I/O; every text is bounded, so that a frame is; nothing here decides what a record
//! holds, the table of [`crate::columns`] does.

use std::borrow::Cow;
use std::net::IpAddr;

use doorward_core::{AccessRecord, Principal, Stage, TaskRef};
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use crate::personal::Sealed;

/// The most bytes of an operation's text that are kept.
pub const OPERATION_MAX: usize = 8 << 10;
/// The most bytes of `ext` that are kept.
pub const EXT_MAX: usize = 8 << 10;
/// The most bytes of an object's name that are kept.
pub const OBJECT_MAX: usize = 4 << 10;
/// The most bytes of the claims that are kept; they are an input of the decision.
pub const CLAIMS_MAX: usize = 32 << 10;
/// The most bytes of any other text.
pub const TEXT_MAX: usize = 2 << 10;

/// One value of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Not known, or does not apply.
    Null,
    /// A number, a count or a time in microseconds.
    Int(i64),
    /// A text that tells nothing about a person.
    Text(Cow<'a, str>),
    /// An id.
    Uuid(Uuid),
    /// JSON, as one text.
    Json(Cow<'a, str>),
    /// A personal value, sealed.
    Personal(Sealed<'a>),
}

impl Value<'_> {
    /// The same value on its own feet.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::Int(number) => Value::Int(number),
            Self::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Self::Uuid(id) => Value::Uuid(id),
            Self::Json(text) => Value::Json(Cow::Owned(text.into_owned())),
            Self::Personal(sealed) => Value::Personal(Sealed::stored(sealed.as_stored().to_owned())),
        }
    }
}

/// What the values of one call are made of.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The record, as the road left it.
    pub record: &'a AccessRecord,
    /// The caller's random id, once the caller is known.
    pub subject: Option<Uuid>,
}

impl<'a> Input<'a> {
    pub(crate) fn principal(self) -> Option<&'a Principal> {
        self.record.principal.as_deref()
    }

    pub(crate) fn personal(self, text: Option<&'a str>, max: usize) -> Value<'a> {
        text.map_or(Value::Null, |text| Value::Text(bounded(text, max)))
    }

    pub(crate) fn of_principal(self, read: impl FnOnce(&'a Principal) -> Option<&'a str>) -> Value<'a> {
        text(self.principal().and_then(read))
    }

    pub(crate) fn of_task(self, read: impl FnOnce(&'a TaskRef) -> Value<'a>) -> Value<'a> {
        self.record.task.as_deref().map_or(Value::Null, read)
    }

    pub(crate) fn source_ip(self) -> Value<'a> {
        let ip = self.record.source_ip.as_ref();
        ip.map_or(Value::Null, |ip| Value::Text(Cow::Owned(spelled(*ip.reveal()))))
    }

    pub(crate) fn groups(self) -> Value<'a> {
        match self.principal() {
            Some(principal) if !principal.groups.is_empty() => {
                let names: Vec<&str> = principal.groups.iter().map(|group| &**group).collect();
                // A list of texts is always JSON.
                let text = serde_json::to_string(&names).unwrap_or_default();
                Value::Json(Cow::Owned(bounded_json(text, CLAIMS_MAX)))
            }
            Some(_) | None => Value::Null,
        }
    }

    /// Who acts for the principal, nearest first: `[{"iss":…,"sub":…}]`.
    pub(crate) fn on_behalf_of(self) -> Value<'a> {
        match self.principal() {
            Some(principal) if !principal.actors.is_empty() => {
                let chain: Vec<Json> = principal.actors.iter().map(actor).collect();
                Value::Json(Cow::Owned(bounded_json(Json::from(chain).to_string(), CLAIMS_MAX)))
            }
            Some(_) | None => Value::Null,
        }
    }

    pub(crate) fn claims(self) -> Value<'a> {
        match self.principal() {
            Some(principal) if principal.authenticated() => {
                let claims = &*principal.claims_json;
                let text = match claims.len() {
                    0..=CLAIMS_MAX => Cow::Borrowed(claims),
                    length => Cow::Owned(too_long(length)),
                };
                Value::Json(text)
            }
            Some(_) | None => Value::Null,
        }
    }

    pub(crate) fn ext(self) -> Value<'a> {
        let process = self.record.backend_pid.map(|pid| format!("{{\"backend_pid\":{pid}"));
        if self.record.ext.is_empty() {
            return process.map_or(Value::Null, |process| Value::Json(Cow::Owned(process + "}")));
        }
        let Ok(mut text) = serde_json::to_string(&self.record.ext) else { return Value::Null };
        if let Some(process) = process {
            text.replace_range(..1, &(process + ","));
        }
        Value::Json(Cow::Owned(bounded_json(text, EXT_MAX)))
    }

    pub(crate) fn stage(self, stage: Stage) -> Value<'a> {
        self.record.timings.of(stage).map_or(Value::Null, |micros| Value::Int(i64::from(micros)))
    }
}

pub(crate) fn text(text: Option<&str>) -> Value<'_> {
    text.map_or(Value::Null, |text| Value::Text(bounded(text, TEXT_MAX)))
}

pub(crate) fn int(number: impl TryInto<i64>) -> Value<'static> {
    Value::Int(number.try_into().unwrap_or(i64::MAX))
}

pub(crate) fn maybe_int(number: Option<impl TryInto<i64>>) -> Value<'static> {
    number.map_or(Value::Null, int)
}

pub(crate) fn hex(bytes: &[u8]) -> Value<'static> {
    Value::Text(Cow::Owned(doorward_core::hex(bytes)))
}

/// Cuts a text to `max` bytes and says so in its end. A zero byte, which PostgreSQL's texts cannot hold, becomes
/// the symbol for it here, before anything is hashed: so each store keeps the same values.
pub(crate) fn bounded(text: &str, max: usize) -> Cow<'_, str> {
    if text.as_bytes().contains(&0) {
        return Cow::Owned(bounded(&text.replace('\0', "\u{2400}"), max).into_owned());
    }
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let marker = format!("…[{} bytes in all]", text.len());
    let end = text.floor_char_boundary(max.saturating_sub(marker.len()));
    Cow::Owned(format!("{}{marker}", text.get(..end).unwrap_or_default()))
}

fn bounded_json(text: String, max: usize) -> String {
    if text.len() <= max { text } else { too_long(text.len()) }
}

/// Stands for JSON that was too long to keep: still JSON, and says how long it was.
fn too_long(length: usize) -> String {
    format!("{{\"truncated_bytes\":{length}}}")
}

/// An address as `Display` spells it. Each record has one, nearly always of version 4, and what formats anything takes
/// its time.
fn spelled(ip: IpAddr) -> String {
    let IpAddr::V4(ip) = ip else { return ip.to_string() };
    let mut text = String::with_capacity("255.255.255.255".len());
    for octet in ip.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        for (unit, shown) in [(100, octet >= 100), (10, octet >= 10), (1, true)] {
            if shown {
                text.push(char::from(b'0' + octet / unit % 10));
            }
        }
    }
    text
}

fn actor(actor: &doorward_core::Actor) -> Json {
    let mut link = Map::new();
    if let Some(issuer) = &actor.issuer {
        link.insert("iss".to_owned(), Json::from(&**issuer));
    }
    link.insert("sub".to_owned(), Json::from(&**actor.subject.reveal()));
    Json::Object(link)
}

#[cfg(test)]
mod tests {
    use doorward_core::{AccessId, Timestamp};

    use super::*;

    #[test]
    fn addresses_are_spelled_as_everywhere() {
        for octet in 0..=u8::MAX {
            let ip = IpAddr::from([octet, 10, 0, 255 - octet]);
            assert_eq!(spelled(ip), ip.to_string());
        }
        for ip in ["::1", "2001:db8::7", "::ffff:10.0.0.1"] {
            assert_eq!(spelled(ip.parse().unwrap()), ip);
        }
    }

    #[test]
    fn the_process_of_the_backend_stands_in_ext() {
        let (id, now) = (AccessId::fresh(), Timestamp::default());
        let mut record = AccessRecord::begin(id, now, "test".into(), "postgres");
        let mut check = |pid: Option<i32>, more: Option<&str>, wanted: &str| {
            record.backend_pid = pid;
            record.ext = more.map(|more| ("key".to_owned(), Json::from(more))).into_iter().collect();
            let ext = Input { record: &record, subject: None }.ext();
            assert_eq!(ext, if wanted.is_empty() { Value::Null } else { Value::Json(wanted.into()) });
        };
        check(None, None, "");
        check(Some(7), None, r#"{"backend_pid":7}"#);
        check(None, Some("value"), r#"{"key":"value"}"#);
        check(Some(7), Some("value"), r#"{"backend_pid":7,"key":"value"}"#);
    }

    #[test]
    fn texts_are_bounded_and_hold_nothing_that_a_store_refuses() {
        assert!(matches!(bounded("short", 5), Cow::Borrowed("short")));
        assert_eq!(bounded("a\0b\0", 20), "a\u{2400}b\u{2400}");
        for text in ["\0".repeat(100), "ü".repeat(100)] {
            let cut = bounded(&text, 50);
            assert!(cut.len() <= 50 && !cut.contains('\0') && cut.ends_with("bytes in all]"), "{cut}");
        }
    }
}
