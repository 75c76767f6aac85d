//! Answers to those who bring records.

use bytes::Bytes;
use doorward_core::{Code, Fault, Kind};
use http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::codes;
use crate::intake::Report;
use crate::otlp::{Encoding, answer as otlp};

/// What became of each record: `{"accepted":…,"duplicates":…,"rejected":…}`, and why.
pub(crate) fn records(report: &Report) -> Response<Bytes> {
    let mut body = Map::new();
    for (name, count) in
        [("accepted", report.accepted), ("duplicates", report.duplicates), ("rejected", report.rejected)]
    {
        body.insert(name.to_owned(), count.into());
    }
    if !report.rejections.is_empty() {
        let told = report.rejections.iter();
        let told = told.map(|told| json!({ "line": told.line, "code": told.code, "reason": told.reason }));
        body.insert("rejections".to_owned(), told.collect());
    }
    if !report.unknown.is_empty() {
        let fields = report.unknown.iter().map(|(name, count)| (name.to_string(), Value::from(*count)));
        body.insert("unknown_fields".to_owned(), Value::Object(fields.collect()));
    }
    if report.unknown_others > 0 {
        body.insert("unknown_fields_others".to_owned(), report.unknown_others.into());
    }
    with_type("application/json", Value::Object(body).to_string())
}

/// The same as OTLP exporters read it.
pub(crate) fn logs(encoding: Encoding, report: &Report) -> Response<Bytes> {
    let why = report
        .rejections
        .first()
        .map_or_else(String::new, |told| format!("record {}: {} ({})", told.line, told.reason, told.code));
    with_type(otlp::media_type(encoding), otlp::response(encoding, report.rejected, &why))
}

/// A refusal as OTLP exporters read it.
pub(crate) fn logs_refusal(encoding: Encoding, fault: &Fault) -> Response<Bytes> {
    let code = match fault.code().kind {
        Kind::Malformed | Kind::TooLarge | Kind::Unsupported => 3,
        Kind::Timeout => 4,
        Kind::NotFound => 5,
        Kind::Denied => 7,
        Kind::Limited => 8,
        Kind::Internal | Kind::Backend => 13,
        Kind::Unavailable => 14,
        Kind::Unauthenticated => 16,
    };
    let hint = fault.hint_text().map(|hint| format!(". {hint}")).unwrap_or_default();
    let text = format!("{} ({}){hint}", fault.public(), fault.code().name);
    let mut response = with_type(otlp::media_type(encoding), otlp::status(encoding, code, &text));
    *response.status_mut() = status(fault.code());
    response
}

/// The status of a refusal; one code of this door has a status of its own.
pub(crate) fn status(code: &Code) -> StatusCode {
    match code.name == codes::MEDIA_TYPE.name {
        true => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        false => doorward_http::status_of(code),
    }
}

/// Says what would have been read instead.
pub(crate) fn put_hints<B>(response: &mut Response<B>) {
    match response.status() {
        StatusCode::METHOD_NOT_ALLOWED => {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            // RFC 9110, 12.5.3: which encodings a request may have.
            response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, identity"));
        }
        _ => {}
    }
}

fn with_type(media_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
