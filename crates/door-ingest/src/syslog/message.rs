//! One syslog message: RFC 5424, into a record for the mapping.
//!
//! A record for the mapping is an object of the members of the message's JSON, if it is a JSON object (with
//! or without the cookie `@cee:`). The header and the structured data stand under `syslog`:
//! `syslog.app_name`, `/syslog/data/request@32473/user`.

use serde_json::{Map, Value};

use crate::otlp::members_of;

/// The most parameters of structured data.
const PARAMETERS_MAX: usize = 256;
/// The longest name in structured data (RFC 5424, 6.3.2).
const NAME_BYTES_MAX: usize = 32;

/// Why a message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It is of the older form.
    Rfc3164,
    /// It is not syslog at all, or broken.
    Broken(&'static str),
}

/// A message that has been read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    /// The application that it names.
    pub(crate) app_name: Option<Box<str>>,
    /// The record for the mapping.
    pub(crate) document: Value,
}

/// Reads a message.
pub(crate) fn read(bytes: &[u8]) -> Result<Message, Unreadable> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::Broken("it is not UTF-8"))?;
    let broken = || Unreadable::Broken("its header is broken");
    let (priority, rest) = text.strip_prefix('<').and_then(|rest| rest.split_once('>')).ok_or_else(broken)?;
    let digits = (1..=3).contains(&priority.len()) && priority.bytes().all(|byte| byte.is_ascii_digit());
    let priority: u16 =
        priority.parse().ok().filter(|priority| digits && *priority <= 191).ok_or_else(broken)?;
    let rest = rest.strip_prefix("1 ").ok_or(Unreadable::Rfc3164)?;
    let mut header = rest.splitn(6, ' ');
    let mut part = || header.next().filter(|part| !part.is_empty()).ok_or_else(broken);
    let (timestamp, hostname, app_name, procid, msgid) = (part()?, part()?, part()?, part()?, part()?);
    let (data, body) = structured_data(part()?)?;
    let mut syslog = Map::new();
    syslog.insert("facility".to_owned(), (priority >> 3).into());
    syslog.insert("severity".to_owned(), (priority & 7).into());
    for (name, value) in [
        ("timestamp", timestamp),
        ("hostname", hostname),
        ("app_name", app_name),
        ("procid", procid),
        ("msgid", msgid),
    ] {
        if value != "-" {
            syslog.insert(name.to_owned(), value.into());
        }
    }
    if !data.is_empty() {
        syslog.insert("data".to_owned(), data.into());
    }
    let body = body.strip_prefix('\u{feff}').unwrap_or(body);
    let body = body.strip_prefix("@cee:").unwrap_or(body);
    let (mut document, text) = members_of(if body.is_empty() { Value::Null } else { body.into() });
    if let Some(text) = text {
        syslog.insert("message".to_owned(), text);
    }
    document.insert("syslog".to_owned(), syslog.into());
    let app_name = (app_name != "-").then(|| app_name.into());
    Ok(Message { app_name, document: document.into() })
}

/// Structured data, and what follows it: the message's text.
fn structured_data(text: &str) -> Result<(Map<String, Value>, &str), Unreadable> {
    const BROKEN: Unreadable = Unreadable::Broken("its structured data is broken");
    let mut data = Map::new();
    if let Some(rest) = text.strip_prefix('-') {
        return match rest.strip_prefix(' ') {
            Some(body) => Ok((data, body)),
            None if rest.is_empty() => Ok((data, "")),
            None => Err(BROKEN),
        };
    }
    let mut rest = text;
    let mut count = 0;
    while let Some(element) = rest.strip_prefix('[') {
        let (id, mut inner) = name(element).ok_or(BROKEN)?;
        let mut parameters = Map::new();
        rest = loop {
            if let Some(after) = inner.strip_prefix(']') {
                break after;
            }
            let (parameter, after) = inner.strip_prefix(' ').and_then(name).ok_or(BROKEN)?;
            let (value, after) = after.strip_prefix("=\"").and_then(value).ok_or(BROKEN)?;
            parameters.insert(parameter.to_owned(), value.into());
            count += 1;
            if count > PARAMETERS_MAX {
                return Err(Unreadable::Broken("its structured data has more than 256 parameters"));
            }
            inner = after;
        };
        data.insert(id.to_owned(), parameters.into());
    }
    if data.is_empty() {
        return Err(BROKEN);
    }
    match rest.strip_prefix(' ') {
        Some(body) => Ok((data, body)),
        None if rest.is_empty() => Ok((data, "")),
        None => Err(BROKEN),
    }
}

/// SD-NAME: printable characters but `=`, space, `]` and `"`.
fn name(text: &str) -> Option<(&str, &str)> {
    let ends = |c: char| !c.is_ascii_graphic() || matches!(c, '=' | ']' | '"');
    let (name, rest) = text.split_at_checked(text.find(ends).unwrap_or(text.len()))?;
    (1..=NAME_BYTES_MAX).contains(&name.len()).then_some((name, rest))
}

/// PARAM-VALUE up to its closing quote; `\"`, `\\` and `\]` stand for themselves.
fn value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, c)) = characters.next() {
        match c {
            '"' => return Some((value, text.get(index + 1..)?)),
            ']' => return None,
            '\\' => {
                let (_, escaped) = characters.next()?;
                if !matches!(escaped, '"' | '\\' | ']') {
                    value.push('\\');
                }
                value.push(escaped);
            }
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn headers_data_and_bodies_are_read() {
        let message = read(
            "<165>1 2026-11-22T03:57:41.003Z edge-1 kong 77 ID47 [a@1 user=\"ann\" note=\"say \\\"hi\\\" \\] \\x\"][b] {\"status\":200}"
                .as_bytes(),
        )
        .unwrap();
        assert_eq!(message.app_name.as_deref(), Some("kong"));
        assert_eq!(
            message.document,
            json!({
                "status": 200,
                "syslog": {
                    "facility": 20, "severity": 5, "timestamp": "2026-11-22T03:57:41.003Z", "hostname": "edge-1",
                    "app_name": "kong", "procid": "77", "msgid": "ID47",
                    "data": { "a@1": { "user": "ann", "note": "say \"hi\" ] \\x" }, "b": {} }
                }
            })
        );
        for (text, message) in [
            ("<0>1 - - - - - -", Value::Null),
            ("<0>1 - - - - - - plain text", json!("plain text")),
            ("<0>1 - - - - - - \u{feff}[1]", json!("[1]")),
            ("<0>1 - - - - - - {broken", json!("{broken")),
        ] {
            let read = read(text.as_bytes()).unwrap();
            assert_eq!(
                (read.app_name, read.document["syslog"]["message"].clone()),
                (None, message),
                "{text}"
            );
        }
        let cookie = read(b"<0>1 - - - - - - @cee: {\"a\":1}").unwrap();
        assert_eq!(cookie.document["a"], 1);
    }

    #[test]
    fn other_forms_are_told_apart() {
        for old in ["<13>Nov 22 03:57:41 host app[7]: text", "<13>text", "<13>2 - - - - - -"] {
            assert_eq!(read(old.as_bytes()), Err(Unreadable::Rfc3164), "{old}");
        }
        for broken in [
            "",
            "text",
            "<192>1 - - - - - -",
            "<1",
            "<>1 - - - - - -",
            "<+1>1 - - - - - -",
            "<1>1 - - - -",
            "<1>1 - - - -  -",
            "<1>1 - - - - - x",
            "<1>1 - - - - - [",
            "<1>1 - - - - - [a",
            "<1>1 - - - - - [a b]",
            "<1>1 - - - - - [a b=\"c]",
            "<1>1 - - - - - [a b=\"c\"]x",
            "<1>1 - - - - - []",
        ] {
            assert!(matches!(read(broken.as_bytes()), Err(Unreadable::Broken(_))), "{broken}");
        }
        assert!(matches!(read(b"<1>1 - - - - - - \xff"), Err(Unreadable::Broken(_))));
    }
}
