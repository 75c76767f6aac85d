//! A small listener for the gateway's own pages (metrics, health) and for the witness: HTTP/1, a few connections,
//! small bodies or none, no calls.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

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
    accept(listener, move |request| {
        let answer = handler(request.method(), request.uri().path());
        async move { answer }
    })
    .await;
}

/// Answers a method, a path and a body; it may block.
pub type PostHandler = Arc<dyn Fn(&Method, &str, &[u8]) -> Response<Body> + Send + Sync>;

/// Serves requests with bodies of up to `body_bytes_max` until the task is dropped.
pub async fn serve_posts(listener: TcpListener, handler: PostHandler, body_bytes_max: usize) {
    accept(listener, move |request| {
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

async fn accept<F, A>(listener: TcpListener, answer: F)
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
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: http::Request<Incoming>| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let serve = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_SPAN_MAX)
                .serve_connection(TokioIo::new(stream), service);
            // A client that breaks off is its own affair here.
            let _ = tokio::time::timeout(CONNECTION_SPAN_MAX, serve).await;
            drop(place);
        });
    }
}
