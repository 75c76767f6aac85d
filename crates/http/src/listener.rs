//! The listener under the doors: accepts connections within their caps, speaks TLS, puts the gate before
//! HTTP/1, drains.
//!
//! Invariants: a handshake, a head and a pause have bounds; draining finishes what is under way and takes
//! nothing new.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use doorward_core::ClientCertificate;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::accepting::{Accepting, Guest, Phase};
use crate::body::{Body, RequestBody};
use crate::config::Limits;
use crate::front::{Front, Peer};
use crate::gate::{Gated, HeadLimits, Slot, Spans};
use crate::places::Connections;
use crate::taken::Answers;

/// Streams that one HTTP/2 connection may have open.
const H2_STREAMS_MAX: u32 = 128;
/// Streams that an HTTP/2 peer may reset before they were served (rapid reset, CVE-2023-44487).
const H2_RESETS_MAX: usize = 32;
/// How often an HTTP/2 peer is asked whether it is there, and how long it may take to say so.
const H2_PING_EVERY: Duration = Duration::from_secs(20);
const H2_PING_SPAN_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether an HTTP/2 peer takes its answers, and whether it is idle.
const H2_LOOK_EVERY: Duration = Duration::from_secs(1);
/// The buffer of a connection; heads are bounded by the gate.
const BUFFER_BYTES_MAX: usize = 128 << 10;

/// A running listener. Dropped, it stops accepting; connections go on until they end.
#[derive(Debug)]
pub struct Listener {
    tls: Arc<ArcSwapOption<ServerConfig>>,
    accepting: Accepting,
}

impl Listener {
    /// Begins to accept. Must be called on a runtime.
    pub fn start(listener: TcpListener, front: Arc<Front>, tls: Option<Arc<ServerConfig>>) -> Self {
        let tls = Arc::new(ArcSwapOption::new(tls));
        let (limits, shown) = (front.clone(), tls.clone());
        let serve = move |guest| connection(guest, front.clone(), shown.clone());
        let accepting = Accepting::start(listener, move || limits.limits(), serve);
        Self { tls, accepting }
    }

    /// Shows another certificate to connections that come from now on.
    pub fn set_tls(&self, tls: Option<Arc<ServerConfig>>) {
        self.tls.store(tls);
    }

    /// Counts of its connections, which outlive it.
    pub fn connections(&self) -> Connections {
        self.accepting.connections()
    }

    /// Accepts no more, lets calls under way end, and cuts what is left after `within`. How many were cut.
    pub async fn drain(&self, within: Duration) -> u32 {
        self.accepting.drain(within).await
    }
}

async fn connection(guest: Guest, front: Arc<Front>, tls: Arc<ArcSwapOption<ServerConfig>>) -> Served {
    let Guest { stream, ip, limits, phase } = guest;
    match tls.load_full() {
        None => {
            let peer = Peer { address: Some(ip), confidential: ip.is_loopback(), certificate: None };
            serve_h1(stream, front, peer, &limits, phase).await
        }
        Some(tls) => secure(stream, tls, ip, front, &limits, phase).await,
    }
}

type Served = Result<(), Box<dyn std::error::Error + Send + Sync>>;

async fn secure(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    ip: IpAddr,
    front: Arc<Front>,
    limits: &Limits,
    phase: watch::Receiver<Phase>,
) -> Served {
    let handshake = TlsAcceptor::from(tls).accept(stream);
    let stream = tokio::time::timeout(limits.head_span_max, handshake).await??;
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates().and_then(<[_]>::first);
    let certificate = leaf.map(|leaf| ClientCertificate { der: leaf.as_ref().into() });
    let h2 = session.alpn_protocol() == Some(b"h2");
    let peer = Peer { address: Some(ip), confidential: true, certificate };
    if h2 {
        serve_h2(stream, front, peer, limits, phase).await
    } else {
        serve_h1(stream, front, peer, limits, phase).await
    }
}

async fn serve_h1<S>(
    stream: S,
    front: Arc<Front>,
    peer: Peer,
    limits: &Limits,
    phase: watch::Receiver<Phase>,
) -> Served
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let head = HeadLimits { head_bytes_max: limits.head_bytes_max, uri_bytes_max: limits.uri_bytes_max };
    let spans = Spans { head_max: limits.head_span_max, write_stall_max: limits.stall_span_max };
    let gated = Gated::new(stream, head, spans);
    let handler = Arc::new(Handler { front, peer, slot: gated.slot(), answers: None });
    let service = service_fn(move |request| handler.clone().handle(request));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // hyper sees whole heads only, so this is the time between requests.
        .header_read_timeout(limits.idle_span_max)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(gated), service);
    let mut connection = std::pin::pin!(connection);
    let mut drain = std::pin::pin!(reaches(phase.clone(), Phase::Draining));
    // The connection stands first, and one phase at a time is waited for: this loop is gone through some
    // four times for each call.
    tokio::select! {
        biased;
        served = connection.as_mut() => return Ok(served?),
        () = &mut drain => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        biased;
        served = connection.as_mut() => Ok(served?),
        () = reaches(phase, Phase::Cut) => Ok(()),
    }
}

async fn serve_h2<S>(
    stream: S,
    front: Arc<Front>,
    peer: Peer,
    limits: &Limits,
    phase: watch::Receiver<Phase>,
) -> Served
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let answers = Answers::new();
    let handler = Arc::new(Handler { front, peer, slot: Slot::default(), answers: Some(answers.clone()) });
    let service = service_fn(move |request| handler.clone().handle(request));
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_pending_accept_reset_streams(H2_RESETS_MAX)
        .max_local_error_reset_streams(H2_RESETS_MAX)
        .max_header_list_size(u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX))
        .keep_alive_interval(H2_PING_EVERY)
        .keep_alive_timeout(H2_PING_SPAN_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut drain = std::pin::pin!(reaches(phase.clone(), Phase::Draining));
    let mut cut = std::pin::pin!(reaches(phase, Phase::Cut));
    let mut look = tokio::time::interval(H2_LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut draining = false;
    loop {
        tokio::select! {
            served = connection.as_mut() => return Ok(served?),
            _ = look.tick() => {
                if answers.are_stalled(limits.stall_span_max) {
                    return Err("the peer does not take its answers".into());
                }
                if !draining && answers.are_idle(limits.idle_span_max) {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
            () = &mut drain, if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut cut => return Ok(()),
        }
    }
}

/// Resolves when the listener reaches a phase. A listener that is gone drains no more.
async fn reaches(mut phase: watch::Receiver<Phase>, wanted: Phase) {
    let reached = |now: &Phase| *now == wanted || *now == Phase::Cut;
    if phase.wait_for(reached).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What every request of one connection is handed to.
struct Handler {
    front: Arc<Front>,
    peer: Peer,
    slot: Slot,
    /// What watches over the answers of HTTP/2; the gate does it for HTTP/1.
    answers: Option<Arc<Answers>>,
}

impl Handler {
    /// Takes the request in at once; the answer is the future.
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> {
        let violation = self.slot.violation_of(request.uri().path());
        let limits = self.front.limits();
        let request =
            request.map(|body| RequestBody::new(body, limits.body_bytes_max, limits.stall_span_max));
        let (h1, whole) = (request.version() <= Version::HTTP_11, request.body().whole());
        let admitted = self.front.admit(&self.peer, request, violation);
        async move {
            let _call = self.answers.as_ref().map(Answers::begin);
            let mut response = self.front.handle(&self.peer, admitted).await;
            if h1 && !whole.is_read() {
                // A refusal may leave the body unread. hyper then closes the connection; a client that
                // knows does not send its next call into the closing.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(match &self.answers {
                Some(answers) => response.map(|body| answers.watch(body)),
                None => response,
            })
        }
    }
}

/// Binds a listening socket; the error names the address.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| io::Error::new(error.kind(), format!("{address} cannot be listened on: {error}")))
}
