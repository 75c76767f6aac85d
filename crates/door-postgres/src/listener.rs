//! The listener: accepts connections within their caps, speaks TLS, takes callers in, and runs their sessions.
//!
//! Invariants: a connection over a cap is closed before anything is read from it; start-up has bounds of bytes
//! and time; a cancel request costs a connection to the backend only with a key that is good; what is read
//! before TLS is exactly the request for it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::{BufMut, BytesMut};
use doorward_core::{Arrival, ClientCertificate, Fault, Gateway, Session};
use doorward_http::{Accepting, Connections, Guest as Accepted, Phase};
use doorward_pgclient::Server;
use doorward_sql::{Limits, Parser};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::authenticate::{Asking, DERIVATIONS_MAX, Exchanging, Shown};
use crate::call::{ConnectCall, Opened, Stray};
use crate::correlate::Client;
use crate::desk::Desk;
use crate::keys::{Cancels, Keys};
use crate::message::{Severity, error_bytes, parameter, put, ready};
use crate::oauth::OAuthOffer;
use crate::peer::BoxStream;
use crate::relay::sharing::Sharing;
use crate::relay::{self, Ends, gone};
use crate::replication::Replication;
use crate::settings;
use crate::startup::{self, First, PACKET_BYTES_MAX, Startup, Unread};
use crate::{DOOR, codes, end_point};

/// Packets before the start-up packet: two requests for encryption.
const PACKETS_MAX: usize = 3;
/// The name of the protocol in TLS.
const ALPN: &[u8] = b"postgresql";
/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// What statements are remembered in, of all sessions together.
const PARSER_CACHE_BYTES: u64 = 64 << 20;
/// How long a refused client is given to read why.
const FAREWELL_SPAN_MAX: Duration = Duration::from_secs(2);

/// TLS as another listener has it.
#[derive(Clone, Debug)]
pub struct WireTls {
    /// The listener's side of it.
    pub config: Arc<ServerConfig>,
    /// The certificate that it shows, DER: what channel binding binds to.
    pub leaf: Arc<[u8]>,
}

/// The same under the protocol's own name, and the hash of its certificate.
#[derive(Debug)]
struct Dressed {
    acceptor: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
}

/// What the configuration says of the listener.
#[derive(Clone, Debug)]
pub struct WireOptions {
    /// Caps on connections, and the time for start-up.
    pub limits: Arc<doorward_http::Limits>,
    /// Whether tokens are taken over a network without TLS.
    pub plaintext_tokens: bool,
    /// Where clients of OAUTHBEARER get their tokens, if it is offered.
    pub oauth: Option<OAuthOffer>,
}

/// A running listener.
#[derive(Debug)]
pub struct WireListener {
    shared: Arc<Shared>,
    accepting: Accepting,
}

#[derive(Debug)]
struct Shared {
    gateway: Arc<Gateway>,
    tls: ArcSwapOption<Dressed>,
    options: ArcSwap<WireOptions>,
    keys: Arc<Keys>,
    parser: Arc<Parser>,
    derivations: Semaphore,
}

impl WireListener {
    /// Begins to accept. Must be called on a runtime.
    pub fn start(
        listener: TcpListener,
        gateway: Arc<Gateway>,
        tls: Option<&WireTls>,
        options: WireOptions,
    ) -> Self {
        let shared = Arc::new(Shared {
            gateway,
            tls: ArcSwapOption::new(tls.map(dressed)),
            options: ArcSwap::from_pointee(options),
            keys: Arc::default(),
            parser: Arc::new(Parser::new(Limits::default(), PARSER_CACHE_BYTES)),
            derivations: Semaphore::new(DERIVATIONS_MAX),
        });
        let (options, guests) = (shared.clone(), shared.clone());
        let accepting = Accepting::start(
            listener,
            move || options.options.load().limits.clone(),
            move |guest| serve(guests.clone(), guest),
        );
        Self { shared, accepting }
    }

    /// Shows another certificate, and has other caps, for connections that come from now on.
    pub fn set(&self, tls: Option<&WireTls>, options: WireOptions) {
        self.shared.tls.store(tls.map(dressed));
        self.shared.options.store(Arc::new(options));
    }

    /// Counts of its connections, which outlive it.
    pub fn connections(&self) -> Connections {
        self.accepting.connections()
    }

    /// Accepts no more, ends sessions at their next transaction boundary, and cuts what is left after `within`.
    /// How many were cut.
    pub async fn drain(&self, within: Duration) -> u32 {
        self.accepting.drain(within).await
    }
}

async fn serve(shared: Arc<Shared>, accepted: Accepted) -> io::Result<()> {
    let Accepted { stream, ip, phase, .. } = accepted;
    let options = shared.options.load_full();
    Guest { shared: &shared, options: &options, ip }.serve(stream, phase).await
}

fn dressed(tls: &WireTls) -> Arc<Dressed> {
    let mut config = ServerConfig::clone(&tls.config);
    config.alpn_protocols = vec![ALPN.to_vec()];
    let end_point = end_point::of(&tls.leaf).map(Arc::from);
    Arc::new(Dressed { acceptor: Arc::new(config), end_point })
}

/// A connection that is being taken in.
struct Guest<'a> {
    shared: &'a Arc<Shared>,
    options: &'a WireOptions,
    ip: IpAddr,
}

/// A client that has said what it wants.
struct Greeted {
    stream: BoxStream,
    startup: Startup,
    confidential: bool,
    certificate: Option<ClientCertificate>,
    /// The hash of the certificate that it was shown.
    end_point: Option<Arc<[u8]>>,
}

/// A client that has come in.
struct Entered {
    client: BoxStream,
    /// What it has sent since it proved who it is.
    early: BytesMut,
    session: Session,
    opened: Box<Opened>,
    startup: Startup,
    arrival: Arrival,
}

/// What becomes of a connection after its first packets.
enum Greeting {
    Client(Box<Greeted>),
    /// It cannot be followed: the client is told why, if it can be.
    Refused(BoxStream, Fault),
    /// It is done with.
    Done,
}

impl Guest<'_> {
    async fn serve(&self, stream: TcpStream, mut phase: watch::Receiver<Phase>) -> io::Result<()> {
        let opened = tokio::select! {
            // What it takes is given back when the client is in.
            opened = Box::pin(self.take_in(stream)) => opened?,
            // Who has not come in by now does not come in any more.
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => return Ok(()),
        };
        let Some(entered) = opened else { return Ok(()) };
        let Entered { mut client, early, session, opened, startup, arrival } = *entered;
        let Opened { lent, parameters, lease, key, outfit, who, seat, wire, resource, role, splits } =
            *opened;
        let cancels = Arc::new(Cancels::default());
        if let Some(lent) = &lent {
            cancels.bind(lent).await;
        }
        let Some(issued) = self.shared.keys.issue(&cancels, startup.spoken()) else { return Ok(()) };
        let mut out = BytesMut::with_capacity(1024);
        put(&mut out, b'R', |out| out.put_u32(0));
        for (name, value) in parameters.iter() {
            parameter(&mut out, name, value);
        }
        put(&mut out, b'K', |out| {
            out.put_i32(issued.process);
            out.extend_from_slice(&issued.secret);
        });
        ready(&mut out, b'I');
        client.write_all(&out).await?;
        client.flush().await?;
        drop(out);
        let application_name = outfit.application_name.clone();
        let shares = wire.shares() && key.replication.is_none();
        let sharing = shares.then(|| Sharing::new(wire.origins.clone(), outfit, parameters));
        let desk = Desk {
            gateway: self.shared.gateway.clone(),
            session,
            arrival,
            resource,
            role,
            replication: key.replication,
            wire,
            parser: self.shared.parser.clone(),
            cancels,
            lease,
            key,
            splits,
            server: lent.as_ref().and_then(|lent| lent.server()).filter(Server::is_one_of_several),
            application_name,
            who,
            client: Mutex::new(Arc::new(Client::new(startup.parameter("application_name")))),
        };
        let (client_reads, client_writes) = tokio::io::split(client);
        let ends = Ends { client_reads, early, client_writes, backend: lent, sharing };
        relay::run(&desk, ends, phase).await;
        drop((issued, seat));
        Ok(())
    }

    fn arrival(&self, confidential: bool) -> Arrival {
        Arrival { door: DOOR, source_ip: Some(self.ip), confidential }
    }

    /// From the first byte to an open session; `None` when the connection is done with.
    async fn take_in(&self, stream: TcpStream) -> io::Result<Option<Box<Entered>>> {
        let greeting = timeout(self.options.limits.head_span_max, self.greet(stream)).await??;
        let greeted = match greeting {
            Greeting::Client(greeted) => greeted,
            Greeting::Refused(stream, fault) => {
                self.turn_away(stream, fault, false).await?;
                return Ok(None);
            }
            Greeting::Done => return Ok(None),
        };
        let Greeted { mut stream, startup, confidential, certificate, end_point } = *greeted;
        let mut out = BytesMut::new();
        startup.negotiation(&mut out);
        stream.write_all(&out).await?;
        let snapshot = self.shared.gateway.snapshot();
        let asking = Asking {
            startup: &startup,
            certificate,
            confidential: confidential || self.options.plaintext_tokens,
            oauth: self.options.oauth.as_ref(),
            authenticator: &*snapshot.authenticator,
        };
        let shown = match asking.way() {
            Ok(way) => {
                let user = startup.parameter("user").unwrap_or_default();
                let (span_max, end_point) = (self.options.limits.head_span_max, end_point.as_deref());
                Exchanging {
                    stream: &mut stream,
                    user,
                    end_point,
                    derivations: &self.shared.derivations,
                    span_max,
                }
                .run(way)
                .await?
            }
            Err(fault) => Err(fault),
        };
        match shown {
            Ok(shown) => self.enter(stream, startup, &shown, self.arrival(confidential)).await,
            Err(fault) => {
                self.turn_away(stream, fault, confidential).await?;
                Ok(None)
            }
        }
    }

    /// From what the client has shown to an open session.
    async fn enter(
        &self,
        mut stream: BoxStream,
        startup: Startup,
        shown: &Shown,
        arrival: Arrival,
    ) -> io::Result<Option<Box<Entered>>> {
        let gateway = &self.shared.gateway;
        let client = startup.parameter("application_name");
        let mut access = gateway.open(arrival.clone());
        if let Some(client) = client {
            access.note_user_agent(client);
        }
        let id = access.id();
        let session = match gateway.login(access, &shown.credentials).await {
            Ok(session) => session,
            Err(fault) => {
                shown.deny(&mut stream, self.options.limits.head_span_max).await?;
                let told = error_bytes(Severity::Fatal, &fault, Some(id));
                farewell(stream, &told).await;
                return Ok(None);
            }
        };
        let user = startup.parameter("user").unwrap_or_default();
        let call = ConnectCall {
            gateway,
            session: &session,
            database: &settings::resource(&startup).unwrap_or_default(),
            user,
            settings: settings::passed(&startup),
            reads: settings::reads(&startup),
            wish: shown.wish.as_ref(),
            client,
            replication: Replication::read(startup.parameter("replication")),
            role: None,
            wire: None,
        };
        let mut early = BytesMut::new();
        let opened = tokio::select! {
            biased;
            opened = gateway.walk(gateway.open(arrival.clone()), call) => opened.into_inner(),
            // Dropped, the call is recorded as abandoned, and its place in the pool's line is the next one's.
            () = gone(&mut stream, &mut early) => return Ok(None),
        };
        match opened {
            Ok(opened) => {
                let client = stream;
                Ok(Some(Box::new(Entered { client, early, session, opened, startup, arrival })))
            }
            Err(told) => {
                farewell(stream, &told).await;
                Ok(None)
            }
        }
    }

    /// Reads packets until one starts a session.
    async fn greet(&self, stream: TcpStream) -> io::Result<Greeting> {
        let tls = self.shared.tls.load_full();
        let mut confidential = self.ip.is_loopback();
        let mut certificate = None;
        let mut first = [0; 1];
        let direct = stream.peek(&mut first).await? > 0 && first == [TLS_HANDSHAKE];
        let mut stream: BoxStream = if direct {
            let Some(tls) = &tls else { return Ok(Greeting::Done) };
            let stream = TlsAcceptor::from(tls.acceptor.clone()).accept(stream).await?;
            // Without the name, what comes might be meant for a server of another protocol.
            if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
                return Ok(Greeting::Done);
            }
            (confidential, certificate) = (true, leaf(stream.get_ref().1));
            Box::new(stream)
        } else {
            Box::new(stream)
        };
        let mut encrypted = direct;
        for _ in 0..PACKETS_MAX {
            let Some(packet) = packet(&mut stream).await? else {
                let fault = Fault::new(codes::PROTOCOL, "this is not the PostgreSQL protocol");
                return Ok(Greeting::Refused(stream, fault));
            };
            match startup::read(&packet) {
                Ok(First::Ssl) if !encrypted => match &tls {
                    None => stream.write_all(b"N").await?,
                    Some(tls) => {
                        stream.write_all(b"S").await?;
                        let secured = TlsAcceptor::from(tls.acceptor.clone()).accept(stream).await?;
                        (confidential, certificate) = (true, leaf(secured.get_ref().1));
                        stream = Box::new(secured);
                        encrypted = true;
                    }
                },
                Ok(First::Gssenc) if !encrypted => stream.write_all(b"N").await?,
                Ok(First::Cancel { process, secret }) => {
                    if let Some(cancels) = self.shared.keys.find(process, &secret) {
                        cancels.cancel().await;
                    }
                    // Through TLS a client wants to see a proper end; there is nothing else to say.
                    let _ = stream.shutdown().await;
                    return Ok(Greeting::Done);
                }
                Ok(First::Startup(startup)) => {
                    let end_point = tls.as_ref().filter(|_| encrypted).and_then(|tls| tls.end_point.clone());
                    let greeted = Greeted { stream, startup, confidential, certificate, end_point };
                    return Ok(Greeting::Client(Box::new(greeted)));
                }
                Ok(First::Ssl | First::Gssenc) => return Ok(Greeting::Done),
                Err(unread) => return Ok(Greeting::Refused(stream, unread_fault(unread))),
            }
            stream.flush().await?;
        }
        Ok(Greeting::Done)
    }

    /// Refuses somebody who has not said who they are; with a record.
    async fn turn_away(&self, stream: BoxStream, fault: Fault, confidential: bool) -> io::Result<()> {
        let access = self.shared.gateway.open(self.arrival(confidential));
        let call = Stray { fault: Some(fault) };
        let told = self.shared.gateway.walk(access, call).await.into_inner();
        farewell(stream, &told).await;
        Ok(())
    }
}

fn leaf(session: &rustls::ServerConnection) -> Option<ClientCertificate> {
    let leaf = session.peer_certificates().and_then(<[_]>::first)?;
    Some(ClientCertificate { der: leaf.as_ref().into() })
}

fn unread_fault(unread: Unread) -> Fault {
    match unread {
        Unread::Version(major, minor) => {
            let text = format!("protocol {major}.{minor} is not spoken here; 3.0 to 3.2 are");
            Fault::new(codes::UNSUPPORTED, text)
        }
        Unread::Malformed(what) => {
            Fault::new(codes::PROTOCOL, "the start-up packet is malformed").cause(what)
        }
    }
}

/// The last word to a client.
async fn farewell(mut stream: BoxStream, told: &[u8]) {
    // A client that does not take it has only itself to blame.
    let _ = timeout(FAREWELL_SPAN_MAX, async {
        stream.write_all(told).await?;
        stream.shutdown().await
    })
    .await;
}

/// One packet of start-up, without its length; `None` when the length is impossible.
async fn packet(stream: &mut BoxStream) -> io::Result<Option<Vec<u8>>> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if !(8..=PACKET_BYTES_MAX).contains(&length) {
        return Ok(None);
    }
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await?;
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT_BYTES_MAX: usize = 8 << 10;

    /// What the future of a function takes.
    fn bytes_of<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_a_silent_session_takes_is_small() {
        let bytes = bytes_of(serve);
        assert!(bytes <= SILENT_BYTES_MAX, "{bytes}");
    }
}
