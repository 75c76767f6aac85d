//! What a single request head must be like to pass.

use doorward_core::Code;

use super::framing::{Framed, HeadLimits, Violation};
use crate::codes;
use crate::inbound::METHODS;

/// What httparse refuses, in our words.
pub(super) fn violation(error: httparse::Error) -> Violation {
    let (code, text): (&'static Code, _) = match error {
        httparse::Error::TooManyHeaders => (codes::HEAD_TOO_LARGE, "the request has too many header fields"),
        httparse::Error::Version => (codes::VERSION_UNSUPPORTED, "the protocol is not HTTP/1.0 or HTTP/1.1"),
        httparse::Error::HeaderName => {
            (codes::MALFORMED_MESSAGE, "a header field's name is malformed, or a header line is folded")
        }
        httparse::Error::HeaderValue => {
            (codes::MALFORMED_MESSAGE, "a header field's value holds a control character, or is folded")
        }
        httparse::Error::NewLine => (codes::MALFORMED_MESSAGE, "a line of the head does not end in CRLF"),
        httparse::Error::Token | httparse::Error::Status => {
            (codes::MALFORMED_MESSAGE, "the request line is malformed")
        }
    };
    Violation::new(code, text)
}

/// Every line ends in CR LF: no LF stands behind anything else. Runs over the bytes without branches.
pub(super) fn check_line_ends(head: &[u8]) -> Result<(), Violation> {
    let before = head.get(..head.len().saturating_sub(1)).unwrap_or_default();
    let behind = head.get(1..).unwrap_or_default();
    let bare = before
        .iter()
        .zip(behind)
        .fold(0_u8, |bare, (before, byte)| bare | (u8::from(*byte == b'\n') & u8::from(*before != b'\r')));
    if bare == 0 && !head.starts_with(b"\n") {
        return Ok(());
    }
    Err(Violation::new(codes::MALFORMED_MESSAGE, "a line of the head ends in a bare LF"))
}

/// Checks a whole head and says how its body is framed.
pub(super) fn check(request: &httparse::Request<'_, '_>, limits: &HeadLimits) -> Result<Framed, Violation> {
    let method = request.method.unwrap_or_default();
    if !METHODS.contains(&method) {
        return Err(Violation::new(codes::METHOD_UNKNOWN, "the method is none that the gateway knows"));
    }
    let fields = Fields::read(request.headers)?;
    let host = fields.host.ok_or(Violation::new(codes::BAD_HOST, "Host is missing"))?;
    if !is_host(host) {
        return Err(Violation::new(codes::BAD_HOST, "Host is not a host name or address"));
    }
    check_target(method, request.path.unwrap_or_default(), host, limits)?;
    let malformed = |text| Err(Violation::new(codes::MALFORMED_MESSAGE, text));
    match (fields.length, fields.encoding) {
        (Some(_), Some(_)) => malformed("Content-Length and Transfer-Encoding stand together"),
        (None, Some(_)) if request.version != Some(1) => {
            malformed("Transfer-Encoding in an HTTP/1.0 message")
        }
        (None, Some(encoding)) if !encoding.eq_ignore_ascii_case(b"chunked") => {
            malformed("Transfer-Encoding is other than chunked")
        }
        (None, Some(_)) => Ok(Framed::Chunked),
        (Some(length), None) => match decimal(length) {
            Some(length) => Ok(Framed::Length(length)),
            None => malformed("Content-Length is not a number"),
        },
        (None, None) => Ok(Framed::Length(0)),
    }
}

/// The fields that frame and route a message, each at most once.
struct Fields<'a> {
    host: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
    encoding: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn read(headers: &[httparse::Header<'a>]) -> Result<Self, Violation> {
        let mut fields = Self { host: None, length: None, encoding: None };
        for header in headers {
            // The length tells most names apart before a byte is compared.
            let (slot, code, text) = match header.name.len() {
                4 if header.name.eq_ignore_ascii_case("host") => {
                    (&mut fields.host, codes::BAD_HOST, "Host stands twice")
                }
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    (&mut fields.length, codes::MALFORMED_MESSAGE, "Content-Length stands twice")
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    (&mut fields.encoding, codes::MALFORMED_MESSAGE, "Transfer-Encoding stands twice")
                }
                _ => continue,
            };
            if slot.replace(header.value).is_some() {
                return Err(Violation::new(code, text));
            }
        }
        Ok(fields)
    }
}

/// Digits alone, and no more than a body can have.
fn decimal(text: &[u8]) -> Option<u64> {
    const DIGITS_MAX: usize = 18;
    let digits = !text.is_empty() && text.len() <= DIGITS_MAX && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// `name`, `name:port`, `192.0.2.1:port` or `[2001:db8::1]:port`.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let (name, port) = rest.split_at(end);
            let inside = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
            if !name.iter().all(inside) {
                return false;
            }
            (name, port.get(1..).unwrap_or_default())
        }
        None => {
            let end = host.iter().position(|byte| *byte == b':').unwrap_or(host.len());
            let (name, port) = host.split_at(end);
            if !name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte)) {
                return false;
            }
            (name, port)
        }
    };
    let port_fits = match port.strip_prefix(b":") {
        Some(digits) => digits.len() <= 5 && decimal(digits).is_some_and(|port| port <= 65_535),
        None => port.is_empty(),
    };
    !name.is_empty() && port_fits
}

/// Origin form, absolute form of the same host, or `*` for OPTIONS; characters as hyper takes them.
fn check_target(method: &str, target: &str, host: &[u8], limits: &HeadLimits) -> Result<(), Violation> {
    let bad = |text| Err(Violation::new(codes::BAD_TARGET, text));
    if target.len() > limits.uri_bytes_max {
        return Err(Violation::new(codes::URI_TOO_LONG, "the request's target is longer than its bound"));
    }
    if target == "*" && method == "OPTIONS" {
        return Ok(());
    }
    let path = if target.starts_with('/') {
        target
    } else {
        let scheme_end = target.find("://").map_or(0, |at| at + 3);
        let (scheme, rest) = target.split_at_checked(scheme_end).unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("http://") && !scheme.eq_ignore_ascii_case("https://") {
            return bad("the request's target is not a path or an http URL");
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).unwrap_or_default();
        if !authority.as_bytes().eq_ignore_ascii_case(host) {
            return Err(Violation::new(codes::BAD_HOST, "the target's authority contradicts Host"));
        }
        path
    };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    if path.contains('#') || query.contains('#') {
        return bad("the request's target holds a fragment");
    }
    let in_path = |byte: u8| byte.is_ascii_graphic() && !b"<>^`".contains(&byte);
    let in_query = |byte: u8| byte.is_ascii_graphic() && !b"\"<>".contains(&byte);
    if path.bytes().all(in_path) && query.bytes().all(in_query) {
        return Ok(());
    }
    bad("the request's target holds a character that must be percent-encoded")
}

/// A character of a token (RFC 9110 section 5.6.2): what a field's name consists of.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
