//! A loopback port in front of the gateway's Postgres door, for programs that know no tokens: who connects to it is
//! whoever has logged in on this machine.
//!
//! Invariants: it listens on loopback only; the token goes through verified TLS, or to loopback; connections have a cap,
//! and start-up has bounds of bytes and time; what comes after it passes as it is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::issuer::plain;
use super::session::Session;
use super::startup::{self, First, PACKET_BYTES_MAX, SSL, Startup};

/// The most connections at once.
pub(crate) const CONNECTIONS_MAX: usize = 128;
/// How long a client may take to say what it wants, and a gateway to answer.
const SPAN_MAX: Duration = Duration::from_secs(60);
/// Packets before the start: two wishes for encryption.
const PACKETS_MAX: usize = 3;
/// The longest message of the gateway before it has let somebody in.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The request for a password in the clear.
const CLEARTEXT: [u8; 4] = 3_u32.to_be_bytes();

/// What the proxy is in front of.
pub(crate) struct Proxy {
    pub(crate) session: Session,
    /// The resource that every connection is to.
    pub(crate) resource: String,
    /// The role of every connection; `None` leaves it to the client's user name.
    pub(crate) role: Option<String>,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Arc<ClientConfig>,
}

/// A stream to the gateway.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// Listens; only on loopback, because whoever can connect is let in.
pub(crate) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    ensure!(address.ip().is_loopback(), "{address} is not loopback: whoever connects there would be you");
    TcpListener::bind(address).await.with_context(|| address.to_string())
}

impl Proxy {
    /// Serves until the task is dropped.
    pub(crate) async fn serve(self, listener: TcpListener, tell: fn(&str)) {
        let (proxy, places) = (Arc::new(self), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let proxy = proxy.clone();
            tokio::spawn(async move {
                if let Err(error) = proxy.guest(stream).await {
                    tell(&format!("doorward: {error:#}\n"));
                }
                drop(place);
            });
        }
    }

    async fn guest(&self, mut client: TcpStream) -> anyhow::Result<()> {
        client.set_nodelay(true)?;
        let Some((first, packet)) = timeout(SPAN_MAX, greet(&mut client)).await?? else { return Ok(()) };
        let startup = match first {
            First::Startup(startup) => startup,
            First::Encryption => return Ok(()),
            First::Cancel => {
                let mut gateway = timeout(SPAN_MAX, self.dial()).await??;
                gateway.write_all(&packet).await?;
                gateway.flush().await?;
                // The gateway closes when it has passed the request on.
                let _ = timeout(SPAN_MAX, gateway.read(&mut [0; 1])).await?;
                return Ok(());
            }
        };
        let mut gateway = match timeout(SPAN_MAX, self.open(startup, &mut client)).await {
            Ok(Ok(Some(gateway))) => gateway,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return farewell(&mut client, error).await,
            Err(_) => return farewell(&mut client, anyhow::anyhow!("the gateway does not answer")).await,
        };
        // Either side may break off; that is no failure of the proxy.
        let _ = copy_bidirectional(&mut client, &mut gateway).await;
        Ok(())
    }

    /// Starts a session at the gateway, and shows the token; `None` when the gateway has refused, and the client was
    /// told so in the gateway's words.
    async fn open(
        &self,
        mut startup: Startup,
        client: &mut TcpStream,
    ) -> anyhow::Result<Option<Box<dyn Duplex>>> {
        let token = self.session.token(false).await?;
        let mut gateway = self.dial().await?;
        startup.set("database", &self.resource);
        if let Some(role) = &self.role {
            startup.set("user", role);
        }
        startup.set("doorward.auth", "password");
        gateway.write_all(&startup.packet()).await?;
        gateway.flush().await?;
        loop {
            let (tag, body) = message(&mut gateway).await?;
            match (tag, body.as_slice()) {
                (b'R', code) if code == CLEARTEXT => break,
                // A newer client learns which protocol is spoken.
                (b'v', body) => client.write_all(&framed(tag, body)).await?,
                (b'E', body) => {
                    client.write_all(&framed(tag, body)).await?;
                    client.shutdown().await?;
                    return Ok(None);
                }
                _ => bail!("the gateway asks for something else than a token"),
            }
        }
        let password = [token.token.expose().as_bytes(), b"\0"].concat();
        gateway.write_all(&framed(b'p', &password)).await?;
        gateway.flush().await?;
        Ok(Some(gateway))
    }

    /// Connects to the gateway, through TLS unless it is on this machine and has none.
    async fn dial(&self) -> anyhow::Result<Box<dyn Duplex>> {
        let address = (self.host.as_str(), self.port);
        let shown = || format!("the gateway at {}:{}", self.host, self.port);
        let mut stream = TcpStream::connect(address).await.with_context(shown)?;
        stream.set_nodelay(true)?;
        let local = stream.peer_addr()?.ip().is_loopback();
        stream.write_all(&startup::with_length(&SSL.to_be_bytes())).await?;
        match stream.read_u8().await.with_context(shown)? {
            b'S' => {
                let name = ServerName::try_from(self.host.clone())?;
                let tls =
                    TlsConnector::from(self.tls.clone()).connect(name, stream).await.with_context(shown)?;
                Ok(Box::new(tls))
            }
            b'N' if local => Ok(Box::new(stream)),
            b'N' => bail!("{} speaks no TLS, and a token is not sent without", shown()),
            _ => bail!("{} does not speak PostgreSQL's protocol", shown()),
        }
    }
}

/// Reads packets until one says what the client wants; `None` when it is no client of PostgreSQL.
async fn greet(client: &mut TcpStream) -> io::Result<Option<(First, Vec<u8>)>> {
    for _ in 0..PACKETS_MAX {
        let length = usize::try_from(client.read_u32().await?).unwrap_or(usize::MAX);
        if !(8..=PACKET_BYTES_MAX).contains(&length) {
            return Ok(None);
        }
        let mut body = vec![0; length - 4];
        client.read_exact(&mut body).await?;
        match startup::read(&body) {
            None => return Ok(None),
            // Loopback hides what goes over it.
            Some(First::Encryption) => client.write_all(b"N").await?,
            Some(first) => return Ok(Some((first, startup::with_length(&body)))),
        }
    }
    Ok(None)
}

async fn message(stream: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<(u8, Vec<u8>)> {
    let tag = stream.read_u8().await?;
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    let length = length.checked_sub(4).filter(|length| *length <= MESSAGE_BYTES_MAX);
    let mut body = vec![0; length.context("the gateway sends something else than a message")?];
    stream.read_exact(&mut body).await?;
    Ok((tag, body))
}

fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &startup::with_length(body)].concat()
}

/// Tells the client why there is no session, and hands the reason on.
async fn farewell(client: &mut TcpStream, error: anyhow::Error) -> anyhow::Result<()> {
    let text = plain(&format!("doorward proxy: {error:#}"));
    let body = format!("SFATAL\0VFATAL\0C08006\0M{text}\0\0");
    // A client that does not take it has only itself to blame.
    let _ = client.write_all(&framed(b'E', body.as_bytes())).await;
    let _ = client.shutdown().await;
    Err(error)
}
