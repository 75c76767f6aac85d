//! What an inbound head says, and what of it is not let in: credentials, identity-like headers, trace
//! context, the client's address.

use std::net::IpAddr;

use doorward_core::{ClientCertificate, Credentials, Secret, TraceContext, TraceParent};
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

use crate::codes;
use crate::config::Limits;
use crate::front::Peer;
use crate::gate::Violation;

/// The methods that the gateway knows.
pub(crate) const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Headers that carry an API key where `Authorization` is not used; supabase-js sends the first one.
static KEY_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("apikey"), HeaderName::from_static("x-api-key")];
/// Query parameters that would put a token into logs and histories (RFC 6750 section 2.3).
const TOKEN_PARAMETERS: [&str; 2] = ["access_token", "apikey"];

const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers in which proxies vouch for an identity or an origin. None is believed, so none is let in.
const IDENTITY_PREFIXES: [&str; 38] = [
    "cf-access-",
    "doorward-",
    "forwarded",
    "impersonate-",
    "oidc-",
    "remote-",
    "ssl-client",
    "tailscale-",
    "x-access-token",
    "x-amzn-oidc-",
    "x-auth-",
    "x-authenticated-",
    "x-authentik-",
    "x-client-cert",
    "x-client-verify",
    "x-consumer-",
    "x-credential-",
    "x-doorward-",
    "x-email",
    "x-forwarded-",
    "x-goog-authenticated-",
    "x-goog-iap-",
    "x-group",
    "x-id-token",
    "x-impersonate",
    "x-jwt-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-pomerium-",
    "x-principal",
    "x-real-ip",
    "x-remote-",
    "x-role",
    "x-ssl-client",
    "x-sub",
    "x-user",
    "x-vouch-",
    "x-webauth-",
];

/// What HTTP/2 and the gate leave to be checked: one host, one length, a known method, a plain path.
pub(crate) fn check_message<B>(request: &Request<B>, limits: &Limits) -> Result<(), Violation> {
    let headers = request.headers();
    if !METHODS.contains(&request.method().as_str()) {
        return Err(Violation::new(codes::METHOD_UNKNOWN, "the method is none that the gateway knows"));
    }
    if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Violation::new(codes::MALFORMED_MESSAGE, "Content-Length stands twice"));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Violation::new(codes::BAD_HOST, "Host stands twice"));
    }
    let authority = request.uri().authority();
    match (authority, host) {
        (None, None) => return Err(Violation::new(codes::BAD_HOST, "Host is missing")),
        (Some(authority), _) if authority.as_str().contains('@') => {
            return Err(Violation::new(codes::BAD_HOST, "the authority holds user information"));
        }
        (Some(authority), Some(host))
            if !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
        {
            return Err(Violation::new(codes::BAD_HOST, "the target's authority contradicts Host"));
        }
        _ => {}
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    if target.len() > limits.uri_bytes_max {
        return Err(Violation::new(codes::URI_TOO_LONG, "the request's target is longer than its bound"));
    }
    check_path(request.uri().path())
}

/// A path that two readers could read differently is refused: dot segments, encoded or not, and empty
/// segments other than the last.
fn check_path(path: &str) -> Result<(), Violation> {
    let bad = |text| Err(Violation::new(codes::BAD_TARGET, text));
    if !path.starts_with('/') || !path.is_ascii() {
        return bad("the request's target is not a path of ASCII characters");
    }
    if path.contains("//") {
        return bad("the request's path has an empty segment");
    }
    if path.contains('\\') {
        return bad("the request's path holds a backslash");
    }
    if path.split('/').any(is_dot_segment) {
        return bad("the request's path has a dot segment");
    }
    Ok(())
}

fn is_dot_segment(segment: &str) -> bool {
    let one = |text: &str| text == "." || text.eq_ignore_ascii_case("%2e");
    if segment.len() > 6 {
        return false;
    }
    let second =
        |dot: &str| segment.get(..dot.len()).is_some_and(one) && segment.get(dot.len()..).is_some_and(one);
    one(segment) || second(".") || second("%2e")
}

/// Takes the credentials out of a head, so that no door can pass them on.
///
/// `Authorization: Bearer` decides when it is there; supabase-js sends its project key beside it as
/// `apikey`, which is then ignored. Without it, one `apikey` or `X-Api-Key` is the bearer. A verified client
/// certificate counts when neither is shown.
pub(crate) fn take_credentials(
    headers: &mut HeaderMap,
    query: Option<&str>,
    certificate: Option<&ClientCertificate>,
) -> Credentials {
    let credentials = read_credentials(headers, query);
    headers.remove(AUTHORIZATION);
    for name in &KEY_HEADERS {
        headers.remove(name);
    }
    match (credentials, certificate) {
        (Credentials::None, Some(certificate)) => Credentials::Certificate(certificate.clone()),
        (credentials, _) => credentials,
    }
}

fn read_credentials(headers: &HeaderMap, query: Option<&str>) -> Credentials {
    if query.is_some_and(holds_token) {
        return Credentials::Malformed(
            "a token stands in the query string; send it as Authorization: Bearer",
        );
    }
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    if let Some(value) = shown.next() {
        return match shown.next() {
            Some(_) => Credentials::Malformed("more than one Authorization header"),
            None => bearer(value.as_bytes()),
        };
    }
    let mut keys = KEY_HEADERS.iter().flat_map(|name| headers.get_all(name));
    let Some(key) = keys.next() else { return Credentials::None };
    if keys.any(|other| other != key) {
        return Credentials::Malformed("two API keys that differ");
    }
    token(key.as_bytes()).unwrap_or(Credentials::Malformed("the API key holds characters that no key has"))
}

fn holds_token(query: &str) -> bool {
    query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        TOKEN_PARAMETERS.iter().any(|token| name.eq_ignore_ascii_case(token))
    })
}

fn bearer(value: &[u8]) -> Credentials {
    let Some((scheme, rest)) = value.split_at_checked(7) else {
        return Credentials::Malformed("the Authorization header is not of the form Bearer TOKEN");
    };
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Credentials::Malformed("the Authorization header's scheme is not Bearer");
    }
    token(rest.trim_ascii())
        .unwrap_or(Credentials::Malformed("the bearer token holds characters that no token has"))
}

/// Which bytes [`token`] takes.
#[expect(clippy::indexing_slicing, reason = "the compiler does it, and would say so")]
const TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] =
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
        byte += 1;
    }
    table
};

/// `token68` of RFC 9110: what a bearer token may consist of.
fn token(text: &[u8]) -> Option<Credentials> {
    // A look into a table for each byte: tokens are long.
    let good = !text.is_empty() && text.iter().all(|byte| TOKEN_BYTES.get(usize::from(*byte)) == Some(&true));
    let text = std::str::from_utf8(text).ok().filter(|_| good)?;
    Some(Credentials::Bearer(Secret::from(text)))
}

/// Removes what belongs to this hop alone and what could pass for identity behind the gateway. A name with
/// an underscore goes too: many backends read `X_User` as `X-User`.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let mut doomed: Vec<HeaderName> = Vec::new();
    for nominated in headers.get_all(CONNECTION) {
        for name in nominated.as_bytes().split(|byte| *byte == b',') {
            doomed.extend(HeaderName::from_bytes(name.trim_ascii()));
        }
    }
    doomed.extend(headers.keys().filter(|name| unwelcome(name.as_str())).cloned());
    for name in doomed {
        headers.remove(name);
    }
}

fn unwelcome(name: &str) -> bool {
    name.as_bytes().contains(&b'_')
        || HOP_BY_HOP.contains(&name)
        || IDENTITY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The client's address: the nearest one that is not a trusted proxy's.
pub(crate) fn source_ip(headers: &HeaderMap, peer: Option<IpAddr>, limits: &Limits) -> Option<IpAddr> {
    let mut client = peer?;
    let hops = headers.get_all(FORWARDED_FOR).iter().rev();
    let hops = hops.flat_map(|value| value.to_str().unwrap_or("?").rsplit(','));
    for hop in hops {
        if !limits.trusts(client) {
            break;
        }
        // An address that cannot be read ends the chain: what stands before it is anybody's word.
        let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
        client = address.to_canonical();
    }
    Some(client)
}

/// Whether the way to the caller hides tokens. Behind a trusted proxy that is the proxy's to say, however
/// near the proxy itself is.
pub(crate) fn confidential(headers: &HeaderMap, peer: &Peer, limits: &Limits) -> bool {
    let trusted = peer.address.is_some_and(|address| limits.trusts(address));
    if trusted && (headers.contains_key(FORWARDED_FOR) || headers.contains_key(FORWARDED_PROTO)) {
        return single(headers, &FORWARDED_PROTO) == Some("https");
    }
    peer.confidential
}

/// Puts this call's own place in the trace where the caller's was.
pub(crate) fn put_traceparent(headers: &mut HeaderMap, trace: &TraceContext) {
    let mut text = [b'-'; 55];
    put_hex(text.get_mut(..2), &[0]);
    put_hex(text.get_mut(3..35), &trace.trace_id);
    put_hex(text.get_mut(36..52), &trace.span_id);
    put_hex(text.get_mut(53..), &[u8::from(trace.sampled)]);
    if let Ok(value) = HeaderValue::from_bytes(&text) {
        headers.insert(TRACEPARENT, value);
    }
}

/// Writes two digits for each byte.
fn put_hex(places: Option<&mut [u8]>, bytes: &[u8]) {
    // Without a branch or a table, so that the compiler takes many digits at once.
    let digit = |nibble: u8| nibble + b'0' + u8::from(nibble > 9) * (b'a' - b'0' - 10);
    let (pairs, _) = places.unwrap_or_default().as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
}

/// The caller's place in a trace; anything that is not in the form is ignored.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<TraceParent> {
    TraceParent::read(single(headers, &TRACEPARENT)?)
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()
}

/// Whether this is a load balancer's question whether the listener lives.
pub(crate) fn is_health_check<B>(request: &Request<B>) -> bool {
    request.uri().path() == "/healthz" && matches!(*request.method(), Method::GET | Method::HEAD)
}

#[cfg(test)]
mod tests;
