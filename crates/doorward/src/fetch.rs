//! The organs' requests to the outside, over the HTTP tool's client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use doorward_audit::transport::{Answer, Transport};
use doorward_core::{BoxFuture, Secret};
use doorward_http::{Caps, Client, ClientOptions};
use doorward_identity::{Fetch, FetchError, FetchRequest, Fetched};
use http::Method;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

/// How long an issuer may take to answer.
const FETCH_SPAN_MAX: Duration = Duration::from_secs(10);
/// How long a collector may take, and how much of its answer is read.
const POST_SPAN_MAX: Duration = Duration::from_secs(10);
/// How long an object may take to be put.
const PUT_SPAN_MAX: Duration = Duration::from_secs(60);
const POST_BYTES_MAX: usize = 64 << 10;
pub(crate) const POST_CAPS: Caps =
    Caps { bytes_max: POST_BYTES_MAX, span_max: POST_SPAN_MAX, dangerous_plaintext: false };

/// The gateway's own HTTP client, for identity and for traces. Identity has decided already which issuers
/// may be plain `http://`, each under a key of its own; traces go to other machines by TLS only.
#[derive(Debug)]
pub struct Outbound(Client);

impl Outbound {
    /// Reads the system's certificate authorities: blocks, at start only.
    pub fn new() -> Result<Arc<Self>, doorward_http::TlsError> {
        Ok(Arc::new(Self(Client::new(ClientOptions::default())?)))
    }

    /// The client itself.
    pub(crate) fn client(&self) -> &Client {
        &self.0
    }

    async fn fetch(&self, request: FetchRequest) -> Result<Fetched, FetchError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &request.authorization {
            headers.insert(AUTHORIZATION, sensitive(authorization)?);
        }
        let (method, body) = match &request.form {
            None => (Method::GET, Bytes::new()),
            Some(form) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                (Method::POST, Bytes::copy_from_slice(form.expose().as_bytes()))
            }
        };
        let caps =
            Caps { bytes_max: request.body_bytes_max, span_max: FETCH_SPAN_MAX, dangerous_plaintext: true };
        let reply = self.0.send(method, &request.url, headers, body, caps).await;
        let reply = reply.map_err(|error| FetchError(error.to_string()))?;
        let text =
            |name: HeaderName| reply.headers.get(name).and_then(|value| value.to_str().ok()).map(Into::into);
        Ok(Fetched {
            status: reply.status.as_u16(),
            content_type: text(CONTENT_TYPE),
            cache_control: text(CACHE_CONTROL),
            body: reply.body,
        })
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(String, Secret)],
        body: Vec<u8>,
        caps: Caps,
    ) -> Result<Answer, String> {
        let mut map = HeaderMap::new();
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header name"))?;
            map.insert(name, sensitive(value).map_err(|error| error.0)?);
        }
        let reply = self.0.send(method, url, map, body.into(), caps).await;
        let reply = reply.map_err(|error| error.to_string())?;
        Ok(Answer { status: reply.status.as_u16(), body: reply.body.to_vec() })
    }
}

fn sensitive(secret: &Secret) -> Result<HeaderValue, FetchError> {
    let mut value = HeaderValue::from_str(secret.expose())
        .map_err(|_| FetchError("a secret holds characters that a header cannot".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Fetch for Outbound {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(self.fetch(request))
    }
}

impl Transport for Outbound {
    fn post<'a>(
        &'a self,
        url: &'a str,
        headers: &'a [(String, Secret)],
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<u16, String>> {
        let sent = self.send(Method::POST, url, headers, body, POST_CAPS);
        Box::pin(async { Ok(sent.await?.status) })
    }

    fn put<'a>(
        &'a self,
        url: &'a str,
        headers: &'a [(String, Secret)],
        body: Vec<u8>,
    ) -> BoxFuture<'a, Result<Answer, String>> {
        let caps = Caps { span_max: PUT_SPAN_MAX, ..POST_CAPS };
        Box::pin(self.send(Method::PUT, url, headers, body, caps))
    }

    fn get<'a>(
        &'a self,
        url: &'a str,
        headers: &'a [(String, Secret)],
        bytes_max: usize,
    ) -> BoxFuture<'a, Result<Answer, String>> {
        let caps = Caps { bytes_max, ..POST_CAPS };
        Box::pin(self.send(Method::GET, url, headers, Vec::new(), caps))
    }
}
