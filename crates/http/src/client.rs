//! A small HTTP client for the gateway's own calls: key sets, introspection, traces.
//!
//! Invariants: an answer has a bound in bytes and in time; redirects are answers, never followed; plain
//! `http://` reaches loopback only, unless the caller says otherwise.

use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::body::BodyError;
use crate::config::ClientIdentity;
use crate::tls::{self, TlsError};

/// How long a connection may take.
const CONNECT_SPAN_MAX: Duration = Duration::from_secs(5);
/// Idle connections kept for each host, and how long.
const IDLE_PER_HOST_MAX: usize = 2;
const IDLE_SPAN_MAX: Duration = Duration::from_secs(30);

/// What the client believes, besides the system's certificate authorities.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientOptions<'a> {
    /// Further certificate authorities, PEM.
    pub extra_ca: Option<&'a Path>,
    /// What is shown to a server that asks for a certificate.
    pub identity: Option<&'a ClientIdentity>,
}

/// The bounds of one request.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// The largest answer.
    pub bytes_max: usize,
    /// The longest that the whole exchange may take.
    pub span_max: Duration,
    /// Lets `http://` reach other machines than this one.
    pub dangerous_plaintext: bool,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer. The texts name no header and no body.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL cannot be used.
    #[error("the URL is not usable: {0}")]
    Url(String),
    /// `http://` to another machine.
    #[error("plain http:// to another machine is refused")]
    Plaintext,
    /// The exchange failed.
    #[error("{0}")]
    Exchange(String),
    /// The answer is larger than its bound.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// The client. A clone shares its connections.
#[derive(Clone)]
pub struct Client {
    pool: Pool<Connector, Full<Bytes>>,
}

impl Client {
    /// Reads the certificate authorities: blocks, at start only.
    pub fn new(options: ClientOptions<'_>) -> Result<Self, TlsError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_SPAN_MAX));
        tcp.set_nodelay(true);
        let connector = Connector { tcp, tls: tls::client_config_as(options.extra_ca, options.identity)? };
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_SPAN_MAX)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .build(connector);
        Ok(Self { pool })
    }

    /// Sends one request and reads its answer whole.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        caps: Caps,
    ) -> Result<Reply, ClientError> {
        let uri = checked(url, caps.dangerous_plaintext)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let exchange = self.exchange(request, caps.bytes_max);
        tokio::time::timeout(caps.span_max, exchange)
            .await
            .map_err(|_| ClientError::Timeout(caps.span_max))?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, bytes_max: usize) -> Result<Reply, ClientError> {
        let response = self.pool.request(request).await;
        let (head, body) = response.map_err(|error| ClientError::Exchange(chain(&error)))?.into_parts();
        #[expect(clippy::disallowed_methods, reason = "the body is limited")]
        let body =
            Limited::new(body, bytes_max).collect().await.map_err(|error| too_large(&error, bytes_max))?;
        Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

fn checked(url: &str, dangerous_plaintext: bool) -> Result<Uri, ClientError> {
    let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| ClientError::Url(error.to_string()))?;
    let host = uri.host().ok_or_else(|| ClientError::Url("there is no host".to_owned()))?;
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if dangerous_plaintext || is_loopback(host) => Ok(uri),
        Some("http") => Err(ClientError::Plaintext),
        _ => Err(ClientError::Url("the scheme is neither https nor http".to_owned())),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn too_large(error: &BodyError, bytes_max: usize) -> ClientError {
    if error.is::<LengthLimitError>() {
        return ClientError::TooLarge(bytes_max);
    }
    ClientError::Exchange(chain(&**error))
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// TCP, and TLS over it for `https`.
#[derive(Clone)]
struct Connector {
    tcp: HttpConnector,
    tls: Arc<ClientConfig>,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = BodyError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let (connecting, tls) = (self.tcp.call(uri), self.tls.clone());
        Box::pin(async move {
            let tcp = connecting.await?.into_inner();
            if !secure {
                return Ok(TokioIo::new(Stream::Plain(tcp)));
            }
            let name = ServerName::try_from(host)?;
            let handshake = TlsConnector::from(tls).connect(name, tcp);
            let stream = tokio::time::timeout(CONNECT_SPAN_MAX, handshake).await??;
            Ok(TokioIo::new(Stream::Tls(Box::new(stream))))
        })
    }
}

/// A connection of either kind.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
