//! How HTTP says no: status, `application/problem+json` (RFC 9457), and the fields that go with a refusal
//! or an answer: `Server-Timing`, `Retry-After`, `RateLimit` and `RateLimit-Policy`
//! (draft-ietf-httpapi-ratelimit-headers-11), `WWW-Authenticate` (RFC 6750).
//!
//! A door with an error format of its own uses [`status_of`] and [`dress_refusal`] with its own body.

use std::time::Duration;

use doorward_core::{Allowance, Code, Completion, Fault, Kind, Pass, Refusal, Side, Timings};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::body::{Body, empty, full};
use crate::{codes, wire};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The status that speaks for a fault code.
pub fn status_of(code: &Code) -> StatusCode {
    // A few codes of this crate have a status of their own; all others go by their kind.
    match code.name {
        name if name == codes::HEAD_TOO_LARGE.name => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        name if name == codes::URI_TOO_LONG.name => StatusCode::URI_TOO_LONG,
        name if name == codes::METHOD_UNKNOWN.name => StatusCode::NOT_IMPLEMENTED,
        name if name == codes::VERSION_UNSUPPORTED.name => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        _ => match (code.kind, code.side) {
            (Kind::Malformed, _) => StatusCode::BAD_REQUEST,
            (Kind::TooLarge, _) => StatusCode::PAYLOAD_TOO_LARGE,
            (Kind::Unauthenticated, _) => StatusCode::UNAUTHORIZED,
            (Kind::Denied, _) => StatusCode::FORBIDDEN,
            (Kind::NotFound, _) => StatusCode::NOT_FOUND,
            (Kind::Unsupported, _) => StatusCode::METHOD_NOT_ALLOWED,
            (Kind::Limited, _) => StatusCode::TOO_MANY_REQUESTS,
            (Kind::Backend, _) => StatusCode::BAD_GATEWAY,
            (Kind::Timeout, Side::Client) => StatusCode::REQUEST_TIMEOUT,
            (Kind::Timeout, Side::Gateway | Side::Backend) => StatusCode::GATEWAY_TIMEOUT,
            (Kind::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
            (Kind::Internal, _) => StatusCode::INTERNAL_SERVER_ERROR,
        },
    }
}

/// A refusal as `application/problem+json`, dressed, with its completion for the record.
pub fn problem(refusal: &Refusal<'_>) -> (Response<Body>, Completion) {
    problem_with_status(refusal, status_of(refusal.fault.code()))
}

/// The same with a status that the door gives, for a code whose kind does not say it exactly.
pub fn problem_with_status(refusal: &Refusal<'_>, status: StatusCode) -> (Response<Body>, Completion) {
    let fault = refusal.fault;
    let body = wire::Problem {
        kind: format!("urn:doorward:fault:{}", fault.code().name),
        title: fault.code().title,
        status: status.as_u16(),
        detail: fault.public(),
        code: fault.code().name,
        access_id: refusal.access_id.to_string(),
        hint: fault.hint_text(),
    };
    // A struct of text serializes; should it not, the status still says no.
    let bytes = serde_json::to_vec(&body).unwrap_or_default();
    let bytes_out = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let mut response = Response::new(if bytes.is_empty() { empty() } else { full(bytes) });
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
    dress_refusal(response.headers_mut(), refusal);
    (response, Completion { status: Some(status.as_u16()), rows: None, bytes_out })
}

/// Puts on a refusal what goes with it, whatever its body's format.
pub fn dress_refusal(headers: &mut HeaderMap, refusal: &Refusal<'_>) {
    let fault = refusal.fault;
    if fault.code().kind == Kind::Unauthenticated {
        // Nothing is known of the caller, so the timings of the checks stay inside.
        put(headers, WWW_AUTHENTICATE, &challenge(fault));
    } else {
        put_timings(headers, &refusal.timings);
    }
    if let Some(allowance) = fault.limit_state() {
        put_allowance(headers, allowance);
    }
    let wait = fault.retry_after_span().or_else(|| {
        let limit = fault.limit_state().filter(|_| fault.code().kind == Kind::Limited);
        limit.map(|allowance| allowance.reset)
    });
    if let Some(wait) = wait {
        put(headers, RETRY_AFTER, &seconds_up(wait).to_string());
    }
}

/// Puts on an answer what the road knows of its call: stages so far, and the grant's limit.
pub fn dress_answer(headers: &mut HeaderMap, pass: &mut Pass) {
    put_timings(headers, &pass.access().timings());
    if let Some(allowance) = pass.allowance() {
        put_allowance(headers, allowance);
    }
}

/// The stages by their names, in milliseconds (W3C Server-Timing).
fn put_timings(headers: &mut HeaderMap, timings: &Timings) {
    let mut text = Vec::with_capacity(256);
    for (stage, micros) in timings.iter() {
        if !text.is_empty() {
            text.extend_from_slice(b", ");
        }
        text.extend_from_slice(stage.as_str().as_bytes());
        text.extend_from_slice(b";dur=");
        push_number(&mut text, u64::from(micros / 1_000), 1);
        text.push(b'.');
        push_number(&mut text, u64::from(micros % 1_000), 3);
    }
    if !text.is_empty() {
        put_bytes(headers, SERVER_TIMING, &text);
    }
}

fn put_allowance(headers: &mut HeaderMap, allowance: &Allowance) {
    // A structured-field string: grant names hold neither quotes nor backslashes; should one, no field.
    let name = allowance.name.as_str();
    if !name.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        return;
    }
    let (quota, window) = (allowance.quota, seconds_up(allowance.window));
    let (remaining, reset) = (allowance.remaining, seconds_up(allowance.reset));
    let mut text = Vec::with_capacity(name.len() + 48);
    for (field, parts) in [
        (RATE_LIMIT_POLICY, [(b";q=", quota), (b";w=", window)]),
        (RATE_LIMIT, [(b";r=", remaining), (b";t=", reset)]),
    ] {
        text.clear();
        text.push(b'"');
        text.extend_from_slice(name.as_bytes());
        text.push(b'"');
        for (key, number) in parts {
            text.extend_from_slice(key);
            push_number(&mut text, number, 1);
        }
        put_bytes(headers, field, &text);
    }
}

/// Appends a number with at least so many digits. Every answer has a dozen of them, so they do not go
/// through the formatting machinery; nearly all are small.
fn push_number(text: &mut Vec<u8>, mut number: u64, digits_min: usize) {
    if number < 10 && digits_min == 1 {
        return text.push(b'0' + number as u8);
    }
    let mut digits = [b'0'; 20];
    let mut used = 0;
    for place in digits.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
        used += 1;
        if number == 0 && used >= digits_min {
            break;
        }
    }
    text.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

/// RFC 6750 section 3: no error code for a caller who showed nothing.
fn challenge(fault: &Fault) -> String {
    if fault.code().name == codes::CREDENTIALS_MISSING.name {
        return "Bearer realm=\"doorward\"".to_owned();
    }
    let safe = |c: &char| matches!(c, ' '..='~') && *c != '"' && *c != '\\';
    let text: String = fault.public().chars().filter(safe).collect();
    format!("Bearer realm=\"doorward\", error=\"invalid_token\", error_description=\"{text}\"")
}

fn put(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

fn put_bytes(headers: &mut HeaderMap, name: HeaderName, text: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(text) {
        headers.insert(name, value);
    }
}

/// Whole seconds, rounded up: who waits that long has waited enough.
fn seconds_up(span: Duration) -> u64 {
    span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_with_their_least_digits() {
        for (number, digits_min, wanted) in [
            (0, 1, "0"),
            (0, 3, "000"),
            (7, 3, "007"),
            (1_234, 3, "1234"),
            (u64::MAX, 1, "18446744073709551615"),
        ] {
            let mut text = Vec::new();
            push_number(&mut text, number, digits_min);
            assert_eq!(String::from_utf8(text).unwrap(), wanted);
        }
    }
}
