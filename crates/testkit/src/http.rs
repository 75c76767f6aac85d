//! A small HTTP/1.1 client that fails on a response header which nobody has allowed: a leak of the
//! backend's or the gateway's insides is then a failed test, not a surprise. And a raw socket, for
//! requests that no client would send.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Answers longer than this are a failed test.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// No answer takes longer.
const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(90);

/// The response headers that the gateway may send.
pub const ALLOWED: &[&str] = &[
    "accept-encoding",
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "allow",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-location",
    "content-profile",
    "content-range",
    "content-type",
    "date",
    "doorward-access-id",
    "etag",
    "last-modified",
    "location",
    "preference-applied",
    "proxy-status",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "server-timing",
    "strict-transport-security",
    "transfer-encoding",
    "vary",
    "www-authenticate",
    "x-content-type-options",
];

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, all of them allowed.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// With the body when it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A client of one gateway.
#[derive(Clone, Debug)]
pub struct StrictClient {
    base: String,
    token: Option<String>,
    strict: bool,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl StrictClient {
    /// A client of `base` (`http://127.0.0.1:PORT`), nobody in particular.
    pub fn new(base: impl Into<String>) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { base: base.into(), token: None, strict: true, client }
    }

    /// A client of somebody else's server, whose headers are its own affair.
    pub(crate) fn lenient(base: impl Into<String>) -> Self {
        Self { strict: false, ..Self::new(base) }
    }

    /// The same client with a bearer token, over the same connections.
    #[must_use]
    pub fn bearer(&self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self.clone() }
    }

    /// GET.
    ///
    /// # Errors
    /// When there is no answer in time, or one with a header that is not allowed.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, &[], "").await
    }

    /// POST with a JSON body.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::POST, path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// PATCH with a JSON body.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::PATCH, path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// DELETE.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.send(Method::DELETE, path, &[], "").await
    }

    /// Any request.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into()))?;
        tokio::time::timeout(ANSWER_SECONDS_MAX, self.exchange(request)).await.context("no answer in time")?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let (head, body) = self.client.request(request).await?.into_parts();
        for name in head.headers.keys().filter(|_| self.strict) {
            check_allowed(name)?;
        }
        let body = Limited::new(body, ANSWER_BYTES_MAX);
        #[expect(clippy::disallowed_methods, reason = "the body is limited")]
        let body = body.collect().await.map_err(|error| anyhow::anyhow!("the body broke off: {error}"))?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

fn check_allowed(name: &HeaderName) -> Result<()> {
    ensure!(ALLOWED.contains(&name.as_str()), "the response header {name} is not allowed; see {}", file!());
    Ok(())
}

/// Sends bytes as they are, and reads until the server closes or nothing has come for `quiet`.
///
/// # Errors
/// When the server cannot be reached, or talks without end.
pub fn raw(address: SocketAddr, bytes: &[u8], quiet: Duration) -> Result<Vec<u8>> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_SECONDS_MAX)?;
    stream.set_read_timeout(Some(quiet))?;
    stream.set_write_timeout(Some(ANSWER_SECONDS_MAX))?;
    // A server may refuse and close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend(chunk.iter().take(count)),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionReset => {
                    return Ok(answer);
                }
                ErrorKind::Interrupted => {}
                _ => return Err(error.into()),
            },
        }
        if answer.len() > ANSWER_BYTES_MAX || start.elapsed() > ANSWER_SECONDS_MAX {
            bail!("the server talks without end");
        }
    }
}

/// The statuses of the answers in raw bytes, in order: `[200, 400]`. Bodies must not look like answers.
pub fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    text.split("HTTP/1.").skip(1).filter_map(|answer| answer.get(2..5)?.parse().ok()).collect()
}
