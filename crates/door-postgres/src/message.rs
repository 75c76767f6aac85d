//! What the gateway itself says to a client, as messages of the protocol.

use bytes::{BufMut, Bytes, BytesMut};
use doorward_core::{AccessId, Fault, Kind};

/// How bad it is: an error that the session survives, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Error,
    Fatal,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// Appends a message with the given tag, whose body `write` appends.
pub(crate) fn put(out: &mut BytesMut, tag: u8, write: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let at = out.len();
    out.put_u32(0);
    write(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends a text with its end. PostgreSQL's texts hold no zero byte.
pub(crate) fn put_text(out: &mut BytesMut, text: &str) {
    out.extend(text.bytes().filter(|byte| *byte != 0));
    out.put_u8(0);
}

/// ReadyForQuery.
pub(crate) fn ready(out: &mut BytesMut, status: u8) {
    put(out, b'Z', |out| out.put_u8(status));
}

/// ParameterStatus.
pub(crate) fn parameter(out: &mut BytesMut, name: &str, value: &str) {
    put(out, b'S', |out| {
        put_text(out, name);
        put_text(out, value);
    });
}

/// ErrorResponse for a fault.
pub(crate) fn error(out: &mut BytesMut, severity: Severity, fault: &Fault, access: Option<AccessId>) {
    put(out, b'E', |out| {
        let mut field = |kind: u8, text: &str| {
            out.put_u8(kind);
            put_text(out, text);
        };
        field(b'S', severity.as_str());
        field(b'V', severity.as_str());
        field(b'C', &sqlstate(fault));
        field(b'M', fault.public());
        let mut detail = format!("doorward {}", fault.code().name);
        if let Some(rule) = fault.rule_name() {
            detail.push_str(&format!(", rule \"{rule}\""));
        }
        if let Some(id) = access {
            detail.push_str(&format!(", access {id}"));
        }
        field(b'D', &detail);
        if let Some(hint) = hint(fault) {
            field(b'H', &hint);
        }
        out.put_u8(0);
    });
}

/// The same as bytes of their own.
pub(crate) fn error_bytes(severity: Severity, fault: &Fault, access: Option<AccessId>) -> Bytes {
    let mut out = BytesMut::with_capacity(256);
    error(&mut out, severity, fault, access);
    out.freeze()
}

fn hint(fault: &Fault) -> Option<String> {
    let wait = fault.retry_after_span().map(|wait| format!("Try again in {} s.", wait.as_secs().max(1)));
    match (fault.hint_text(), wait) {
        (Some(hint), Some(wait)) => Some(format!("{hint} {wait}")),
        (Some(hint), None) => Some(hint.to_owned()),
        (None, wait) => wait,
    }
}

/// The SQLSTATE of a fault (PostgreSQL documentation, appendix "Error Codes").
pub(crate) fn sqlstate(fault: &Fault) -> String {
    if let Some(code) = fault.backend_code_text().filter(|code| code.len() == 5) {
        return code.to_owned();
    }
    let name = fault.code().name;
    let by_name = [
        (doorward_core::codes::SESSION_EXPIRED.name, "57P01"),
        (doorward_core::codes::UNKNOWN_RESOURCE.name, "3D000"),
        (crate::codes::PROTOCOL.name, "08P01"),
        (crate::codes::OUT_OF_PLACE.name, "08P01"),
        (crate::codes::TLS_REQUIRED.name, "28000"),
        (crate::codes::SASL.name, "28000"),
        (crate::codes::TOKEN_REQUIRED.name, "28000"),
        (crate::codes::ROLE.name, "28000"),
        (crate::codes::NAME.name, "26000"),
        (crate::codes::UNKNOWN_EFFECT.name, "42501"),
        (crate::codes::SESSION_ENDED.name, "57P01"),
        (crate::codes::SESSIONS_EXHAUSTED.name, "53300"),
        (crate::codes::BACKENDS_BUSY.name, "53300"),
        (crate::codes::ANSWER_LIMIT.name, "53400"),
        (crate::codes::NO_CATALOG.name, "57P03"),
    ];
    if let Some((_, code)) = by_name.iter().find(|(known, _)| *known == name) {
        return (*code).to_owned();
    }
    match fault.code().kind {
        Kind::Malformed => "42601",
        Kind::TooLarge => "54000",
        Kind::Unauthenticated => "28P01",
        Kind::Denied => "42501",
        Kind::NotFound => "42704",
        Kind::Unsupported => "0A000",
        Kind::Limited => "53400",
        Kind::Backend => "08006",
        Kind::Timeout => "57014",
        Kind::Unavailable => "57P03",
        Kind::Internal => "XX000",
    }
    .to_owned()
}
