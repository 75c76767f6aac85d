//! Requests to a cloud's endpoints, each within its bounds, and what the environment says of where they are.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use doorward_core::Secret;
use doorward_http::{Caps, Client, ClientError};
use doorward_sigv4::encoded;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};
use serde::de::DeserializeOwned;

use super::wire;
use crate::source::SourceError;

/// How long one request may take.
const REQUEST_SPAN_MAX: Duration = Duration::from_secs(3);
/// The largest answer.
const ANSWER_BYTES_MAX: usize = 128 << 10;
/// The largest file that a platform keeps a token in.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// The most attempts at one request, and the pauses between them.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(1_000)];
/// How much of an endpoint's own words an error repeats.
const WORDS_CHARS_MAX: usize = 300;
/// The addresses, besides those of the link, at which AWS serves credentials by IPv6.
const AWS_LOCAL: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)];

type Variables = dyn Fn(&str) -> Option<String> + Send + Sync;

/// The environment variables that platforms set.
#[derive(Clone)]
pub(super) struct Environment(Arc<Variables>);

impl Environment {
    pub(super) fn new(variables: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(variables))
    }

    /// A variable that is set, and not to nothing.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }
}

/// The way to the endpoints.
pub(super) struct Line {
    pub(super) client: Client,
    pub(super) environment: Environment,
}

/// One request.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) headers: &'a [(&'static str, &'a str)],
    /// Its media type, and what it says.
    pub(super) body: Option<(&'static str, Secret)>,
    /// What proves the gateway there: no error repeats it.
    pub(super) proof: Option<&'a Secret>,
    /// What a refusal says to do, beside what the endpoint says.
    pub(super) hint: &'static str,
    /// Refusals that mend themselves, beside those that do so everywhere.
    pub(super) passing: &'static [StatusCode],
}

/// An answer that is no refusal, and where it is from.
pub(super) struct Answer {
    pub(super) from: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Line {
    /// Sends a request, a few times if its refusal may mend itself.
    pub(super) async fn send(&self, ask: &Ask<'_>) -> Result<Answer, SourceError> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let failed = match self.send_once(ask).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            match pauses.next().filter(|_| failed.passes) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(failed.error),
            }
        }
    }

    async fn send_once(&self, ask: &Ask<'_>) -> Result<Answer, Failed> {
        let from = place(&ask.url)?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/plain, */*"));
        for (name, value) in ask.headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| {
                SourceError::Refused(format!("{from}: the header {name} would hold what a header cannot"))
            })?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
        let mut body = Bytes::new();
        if let Some((kind, content)) = &ask.body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            body = Bytes::copy_from_slice(content.expose().as_bytes());
        }
        // Which hosts plain http reaches was decided with the place.
        let caps =
            Caps { bytes_max: ANSWER_BYTES_MAX, span_max: REQUEST_SPAN_MAX, dangerous_plaintext: true };
        let reply = self.client.send(ask.method.clone(), &ask.url, headers, body, caps).await;
        let reply = reply.map_err(|error| Failed {
            // Whoever does not answer at all is not asked again while somebody waits.
            passes: matches!(error, ClientError::Exchange(_)),
            error: SourceError::Away(format!("{from}: {error}")),
        })?;
        if reply.status.is_success() {
            return Ok(Answer { from, headers: reply.headers, body: reply.body });
        }
        let text = format!("{from}: {}{}{}", reply.status.as_u16(), words(&reply.body, ask), ask.hint);
        let passes = is_passing(reply.status) || ask.passing.contains(&reply.status);
        let error = if passes { SourceError::Away(text) } else { SourceError::Refused(text) };
        Err(Failed { error, passes })
    }
}

/// Why an attempt failed, and whether another one may not.
struct Failed {
    error: SourceError,
    passes: bool,
}

impl From<SourceError> for Failed {
    fn from(error: SourceError) -> Self {
        Self { error, passes: false }
    }
}

impl Answer {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, SourceError> {
        serde_json::from_slice(&self.body).map_err(|_| {
            SourceError::Away(format!("{}: the answer is not the JSON that it should be", self.from))
        })
    }

    pub(super) fn text(&self) -> Result<&str, SourceError> {
        std::str::from_utf8(&self.body)
            .map(str::trim)
            .map_err(|_| SourceError::Away(format!("{}: the answer is not text", self.from)))
    }

    /// That something is missing from it.
    pub(super) fn lacks(&self, field: &str) -> SourceError {
        SourceError::Away(format!("{}: the answer has no {field}", self.from))
    }
}

/// Refusals that mend themselves.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// Where a request goes, as errors name it; `Err` when it must not go there.
fn place(url: &str) -> Result<String, SourceError> {
    let refused = |why: &str| SourceError::Refused(format!("the endpoint's URL {why}"));
    let uri: Uri = url.parse().map_err(|_| refused("cannot be read"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(refused("is not an absolute one"));
    };
    if authority.as_str().contains('@') {
        return Err(refused("has a user in it"));
    }
    match scheme {
        "https" => {}
        "http" if is_near(authority.host()) => {}
        "http" => {
            let host = authority.host();
            let text = format!("{host}: plain http reaches this machine and its link only; use https");
            return Err(SourceError::Refused(text));
        }
        _ => return Err(refused("is neither https nor http")),
    }
    Ok(format!("{authority}{}", uri.path()))
}

/// Whether what is sent there stays on this machine and its link.
fn is_near(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unicast_link_local() || AWS_LOCAL.contains(&ip),
        Err(_) => bare == "localhost",
    }
}

/// What an endpoint says of its refusal, in one line; nothing when it repeats what proves the gateway.
fn words(body: &[u8], ask: &Ask<'_>) -> String {
    let said = wire::words(body);
    let line = one_line(&said);
    match line.is_empty() || ask.proof.is_some_and(|proof| said.contains(&**proof.expose())) {
        true => String::new(),
        false => format!(" {line}"),
    }
}

/// A text without line breaks and control characters, of bounded length.
pub(super) fn one_line(said: &str) -> String {
    let line: Vec<&str> =
        said.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    line.join(" ").chars().take(WORDS_CHARS_MAX).collect()
}

/// The media type of [`form`].
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

/// A form, as a body.
pub(super) fn form(pairs: &[(&str, &str)]) -> Secret {
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encoded(name, ""), encoded(value, ""))).collect();
    Secret::from(pairs.join("&"))
}

/// Reads a token that the platform keeps in a file.
pub(super) async fn read_file(variable: &str, path: String) -> Result<Secret, SourceError> {
    let text = read_text(variable, path).await?;
    let token = text.trim();
    match !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(Secret::from(token)),
        false => Err(SourceError::Refused(format!("the file that {variable} names holds no token"))),
    }
}

/// Reads a file of the platform.
pub(super) async fn read_text(variable: &str, path: String) -> Result<String, SourceError> {
    let read = tokio::task::spawn_blocking(move || {
        let path = PathBuf::from(path);
        // Opening what is not a file may wait for ever.
        if !std::fs::metadata(&path)?.is_file() {
            return Err(std::io::Error::other("it is not a file"));
        }
        let mut text = String::new();
        File::open(&path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        match u64::try_from(text.len()).is_ok_and(|length| length <= FILE_BYTES_MAX) {
            true => Ok(text),
            false => Err(std::io::Error::other("it is too large")),
        }
    });
    let read = read.await.map_err(|error| SourceError::Away(error.to_string()))?;
    read.map_err(|error| {
        SourceError::Refused(format!("the file that {variable} names cannot be read: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_cross_no_network_in_the_clear() {
        for (url, fine) in [
            ("http://169.254.169.254/latest/api/token", true),
            ("http://169.254.170.2/v2/credentials", true),
            ("http://[fd00:ec2::23]/v1/credentials", true),
            ("http://[fd00:ec2::254]/latest", true),
            ("http://127.0.0.1:41000/msi/token", true),
            ("http://localhost:42356/msi/token", true),
            ("https://sts.eu-west-1.amazonaws.com/", true),
            ("http://sts.eu-west-1.amazonaws.com/", false),
            ("http://metadata.google.internal/", false),
            ("http://10.0.0.1/", false),
            ("http://[fd00:ec2::1]/", false),
            ("http://169.254.169.254.evil.example/", false),
            ("http://user@127.0.0.1/", false),
            ("ftp://127.0.0.1/", false),
            ("/latest", false),
            ("", false),
        ] {
            assert_eq!(place(url).is_ok(), fine, "{url}");
        }
        assert_eq!(place("https://h.example/a?token=x").as_deref(), Ok("h.example/a"));
    }
}
