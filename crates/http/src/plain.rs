//! A small listener for the gateway's own pages (metrics, health): HTTP/1, a few connections, no bodies,
//! no calls.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::body::Body;

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
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: http::Request<Incoming>| {
                let answer = handler(request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(answer) }
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
