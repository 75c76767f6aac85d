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
use doorward_core::{Arrival, ClientCertificate, Credentials, Fault, Gateway, Secret, Session};
use doorward_http::{Accepting, Connections, Guest as Accepted, Phase};
use doorward_sql::{Limits, Parser};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::call::{ConnectCall, Opened, Stray};
use crate::correlate::Client;
use crate::desk::Desk;
use crate::keys::Keys;
use crate::message::{Severity, error_bytes, parameter, put, ready};
use crate::peer::BoxStream;
use crate::relay::{self, Ends};
use crate::replication::Replication;
use crate::settings;
use crate::startup::{self, First, PACKET_BYTES_MAX, Startup, Unread};
use crate::{DOOR, codes};

/// Packets before the start-up packet: two requests for encryption.
const PACKETS_MAX: usize = 3;
/// The name of the protocol in TLS.
const ALPN: &[u8] = b"postgresql";
/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// The longest password: tokens may be long, and PgBouncer takes as much.
const PASSWORD_BYTES_MAX: usize = 65_535;
/// What statements are remembered in, of all sessions together.
const PARSER_CACHE_BYTES: u64 = 64 << 20;
/// How long a refused client is given to read why.
const FAREWELL_SPAN_MAX: Duration = Duration::from_secs(2);

/// TLS as another listener has it.
pub type WireTls = Arc<ServerConfig>;

/// What the configuration says of the listener.
#[derive(Clone, Debug)]
pub struct WireOptions {
    /// Caps on connections, and the time for start-up.
    pub limits: Arc<doorward_http::Limits>,
    /// Whether tokens are taken over a network without TLS.
    pub plaintext_tokens: bool,
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
    tls: ArcSwapOption<ServerConfig>,
    options: ArcSwap<WireOptions>,
    keys: Arc<Keys>,
    parser: Arc<Parser>,
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

/// The same certificate under the protocol's own name.
fn dressed(tls: &WireTls) -> Arc<ServerConfig> {
    let mut tls = ServerConfig::clone(tls);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(tls)
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
}

/// A client that has come in.
struct Entered {
    client: BoxStream,
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
            opened = self.take_in(stream) => opened?,
            // Who has not come in by now does not come in any more.
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => return Ok(()),
        };
        let Some(entered) = opened else { return Ok(()) };
        let Entered { mut client, session, opened, startup, arrival } = *entered;
        let Opened { relayed, seat, wire, resource, role } = *opened;
        let Some(key) = self.shared.keys.issue(&relayed.canceller, startup.spoken()) else { return Ok(()) };
        let mut out = BytesMut::with_capacity(1024);
        put(&mut out, b'R', |out| out.put_u32(0));
        for (name, value) in &relayed.parameters {
            parameter(&mut out, name, value);
        }
        put(&mut out, b'K', |out| {
            out.put_i32(key.process);
            out.extend_from_slice(&key.secret);
        });
        ready(&mut out, b'I');
        client.write_all(&out).await?;
        client.flush().await?;
        let desk = Desk {
            gateway: self.shared.gateway.clone(),
            session,
            arrival,
            resource,
            role,
            replication: Replication::read(startup.parameter("replication")).ok().flatten(),
            wire,
            parser: self.shared.parser.clone(),
            canceller: relayed.canceller,
            client: Mutex::new(Arc::new(Client::new(startup.parameter("application_name")))),
        };
        let (client_reads, client_writes) = tokio::io::split(client);
        let ends = Ends { client_reads, client_writes, backend: relayed.stream, input: relayed.input };
        relay::run(&desk, ends, phase).await;
        drop((key, seat));
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
        let Greeted { mut stream, startup, confidential, certificate } = *greeted;
        if !confidential && !self.options.plaintext_tokens {
            let fault = Fault::new(codes::TLS_REQUIRED, "this gateway takes tokens over TLS only")
                .hint("Connect with sslmode=require or, better, verify-full.");
            self.turn_away(stream, fault, confidential).await?;
            return Ok(None);
        }
        let mut out = BytesMut::new();
        startup.negotiation(&mut out);
        let credentials = match certificate {
            Some(certificate) => {
                stream.write_all(&out).await?;
                Credentials::Certificate(certificate)
            }
            None => {
                put(&mut out, b'R', |out| out.put_u32(3));
                stream.write_all(&out).await?;
                stream.flush().await?;
                let password = timeout(self.options.limits.head_span_max, password(&mut stream)).await??;
                let Some(password) = password else {
                    let fault = Fault::new(codes::PROTOCOL, "a password message was expected");
                    self.turn_away(stream, fault, confidential).await?;
                    return Ok(None);
                };
                password
            }
        };
        self.enter(stream, startup, &credentials, self.arrival(confidential)).await
    }

    /// From what the client has shown to an open session.
    async fn enter(
        &self,
        stream: BoxStream,
        startup: Startup,
        credentials: &Credentials,
        arrival: Arrival,
    ) -> io::Result<Option<Box<Entered>>> {
        let gateway = &self.shared.gateway;
        let client = startup.parameter("application_name");
        let mut access = gateway.open(arrival.clone());
        if let Some(client) = client {
            access.note_user_agent(client);
        }
        let id = access.id();
        let session = match gateway.login(access, credentials).await {
            Ok(session) => session,
            Err(fault) => {
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
            client,
            replication: Replication::read(startup.parameter("replication")),
            role: None,
            wire: None,
        };
        let opened = gateway.walk(gateway.open(arrival.clone()), call).await.into_inner();
        match opened {
            Ok(opened) => Ok(Some(Box::new(Entered { client: stream, session, opened, startup, arrival }))),
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
            let stream = TlsAcceptor::from(tls.clone()).accept(stream).await?;
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
                        let secured = TlsAcceptor::from(tls.clone()).accept(stream).await?;
                        (confidential, certificate) = (true, leaf(secured.get_ref().1));
                        stream = Box::new(secured);
                        encrypted = true;
                    }
                },
                Ok(First::Gssenc) if !encrypted => stream.write_all(b"N").await?,
                Ok(First::Cancel { process, secret }) => {
                    if let Some(canceller) = self.shared.keys.find(process, &secret) {
                        canceller.cancel().await;
                    }
                    // Through TLS a client wants to see a proper end; there is nothing else to say.
                    let _ = stream.shutdown().await;
                    return Ok(Greeting::Done);
                }
                Ok(First::Startup(startup)) => {
                    let greeted = Greeted { stream, startup, confidential, certificate };
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

/// What the client shows as its password; `None` when it says something else.
async fn password(stream: &mut BoxStream) -> io::Result<Option<Credentials>> {
    if stream.read_u8().await? != b'p' {
        return Ok(None);
    }
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if !(5..=PASSWORD_BYTES_MAX + 5).contains(&length) {
        return Ok(None);
    }
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await?;
    if body.pop() != Some(0) {
        return Ok(None);
    }
    Ok(Some(match String::from_utf8(body) {
        Ok(token) if token.is_empty() => Credentials::Malformed("the password is empty; it is your token"),
        Ok(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Credentials::Bearer(Secret::from(token))
        }
        Ok(_) | Err(_) => Credentials::Malformed("the password holds characters that no token has"),
    }))
}
