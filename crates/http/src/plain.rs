//! A small listener for the gateway's own pages (metrics, health) and for the witness: HTTP/1, a few connections,
//! small bodies or none, no calls.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::body::{Body, full};

/// Answers a method and a path.
pub type PlainHandler = Arc<dyn Fn(&Method, &str) -> Response<Body> + Send + Sync>;

/// The most connections at once.
const CONNECTIONS_MAX: usize = 64;
/// How long a head may take.
const HEAD_SPAN_MAX: Duration = Duration::from_secs(10);
/// How long a connection may last.
const CONNECTION_SPAN_MAX: Duration = Duration::from_secs(300);
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the task is dropped.
pub async fn serve_plain(listener: TcpListener, handler: PlainHandler) {
    accept(listener, PlainTls::default(), move |request| {
        let answer = handler(request.method(), request.uri().path());
        async move { answer }
    })
    .await;
}

/// Answers a method, a path and a body; it may block.
pub type PostHandler = Arc<dyn Fn(&Method, &str, &[u8]) -> Response<Body> + Send + Sync>;

/// How a small listener speaks TLS, when it does; it may be replaced while the listener serves.
#[derive(Clone, Debug, Default)]
pub struct PlainTls(Arc<ArcSwapOption<ServerConfig>>);

impl PlainTls {
    /// From now on new connections speak it so. There is no other protocol than HTTP/1 here.
    pub fn set(&self, tls: Option<&ServerConfig>) {
        self.0.store(tls.map(|tls| {
            let mut tls = tls.clone();
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(tls)
        }));
    }
}

/// Serves requests with bodies of up to `body_bytes_max` until the task is dropped.
pub async fn serve_posts(listener: TcpListener, tls: PlainTls, handler: PostHandler, body_bytes_max: usize) {
    accept(listener, tls, move |request| {
        let handler = handler.clone();
        async move {
            let (head, body) = request.into_parts();
            #[expect(clippy::disallowed_methods, reason = "the body is limited")]
            let read = Limited::new(body, body_bytes_max).collect().await;
            let Ok(body) = read else { return refuse(StatusCode::PAYLOAD_TOO_LARGE) };
            let work = move || handler(&head.method, head.uri.path(), &body.to_bytes());
            let answered = tokio::task::spawn_blocking(work).await;
            answered.unwrap_or_else(|_| refuse(StatusCode::INTERNAL_SERVER_ERROR))
        }
    })
    .await;
}

fn refuse(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

async fn accept<F, A>(listener: TcpListener, tls: PlainTls, answer: F)
where
    F: Fn(http::Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (answer, tls) = (answer.clone(), tls.0.load_full());
        tokio::spawn(async move {
            let served = async {
                match tls {
                    None => serve(stream, answer).await,
                    Some(tls) => {
                        if let Some(stream) = shake_hands(stream, tls).await {
                            serve(stream, answer).await;
                        }
                    }
                }
            };
            // A client that breaks off is its own affair here.
            let _ = tokio::time::timeout(CONNECTION_SPAN_MAX, served).await;
            drop(place);
        });
    }
}

async fn shake_hands(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    let shaken = tokio::time::timeout(HEAD_SPAN_MAX, TlsAcceptor::from(tls).accept(stream)).await;
    match shaken {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a client does not get past the handshake");
            None
        }
        Err(_) => None,
    }
}

async fn serve<S, F, A>(stream: S, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(http::Request<Incoming>) -> A,
    A: Future<Output = Response<Body>>,
{
    let service = service_fn(move |request: http::Request<Incoming>| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_SPAN_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let _ = served.await;
}
