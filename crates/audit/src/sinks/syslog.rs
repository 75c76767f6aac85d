//! Messages for a syslog receiver: RFC 5424, over TLS (RFC 5425) or TCP (RFC 6587) with octet counting, or a
//! datagram each over UDP (RFC 5426).
//!
//! The protocol knows no acknowledgement. What was written is taken for received when the connection is found
//! open at the next write, or a while after the last one; when it broke, all since then comes again.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward_core::Timestamp;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::config::Road;
use super::format::{Formatter, Gravity, at_us};
use super::tail::Entry;
use super::worker::{Moment, Receiver, Taken, Trouble};
use crate::time::rfc3339;

/// How long connecting, and each read and write, may take.
const SPAN_MAX: Duration = Duration::from_secs(10);
/// How long after the last write a connection that is still open has delivered it.
const QUIET: Duration = Duration::from_secs(1);
/// The most bytes of one datagram.
const DATAGRAM_MAX: usize = 60_000;

/// Writes messages.
pub(crate) struct Syslog {
    pub(crate) formatter: Formatter,
    pub(crate) road: Road,
    /// `HOST:PORT`.
    pub(crate) authority: String,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) facility: u8,
    pub(crate) app_name: String,
    /// The sending gateway, in place of a host name.
    pub(crate) gateway_id: String,
    pub(crate) connection: Option<Connection>,
}

/// An open way to the receiver.
pub(crate) struct Connection {
    stream: Stream,
    written: Instant,
}

enum Stream {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Syslog {
    fn connect(&self) -> io::Result<Connection> {
        let address = self.authority.to_socket_addrs()?.next();
        let address = address.ok_or_else(|| io::Error::other("the receiver's name has no address"))?;
        let stream = match (self.road, &self.tls) {
            (Road::Udp, _) => {
                let any: SocketAddr =
                    if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                Stream::Udp(socket)
            }
            (Road::Tls, Some(tls)) => {
                let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                let mut tcp = tcp(address)?;
                let mut session = ClientConnection::new(tls.clone(), name).map_err(io::Error::other)?;
                while session.is_handshaking() {
                    session.complete_io(&mut tcp)?;
                }
                Stream::Tls(Box::new(StreamOwned::new(session, tcp)))
            }
            (Road::Tls, None) => return Err(io::Error::other("TLS is not set up")),
            (Road::Tcp, _) => Stream::Tcp(tcp(address)?),
        };
        Ok(Connection { stream, written: Instant::now() })
    }

    fn write(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        connection.check_open()?;
        let mut frames = Vec::new();
        for entry in entries {
            let message = self.message(entry);
            match &connection.stream {
                Stream::Udp(socket) => {
                    let end = message.floor_char_boundary(DATAGRAM_MAX);
                    socket.send(message.get(..end).unwrap_or_default().as_bytes())?;
                }
                Stream::Tcp(_) | Stream::Tls(_) => {
                    frames.extend_from_slice(message.len().to_string().as_bytes());
                    frames.push(b' ');
                    frames.extend_from_slice(message.as_bytes());
                }
            }
        }
        match &mut connection.stream {
            Stream::Udp(_) => {}
            Stream::Tcp(tcp) => tcp.write_all(&frames)?,
            Stream::Tls(tls) => {
                tls.write_all(&frames)?;
                tls.flush()?;
            }
        }
        connection.written = Instant::now();
        self.connection = Some(connection);
        Ok(())
    }

    /// `<PRI>1 TIMESTAMP GATEWAY APP EPOCH MSGID - JSON`.
    fn message(&self, entry: &Entry) -> String {
        let severity = match Gravity::of(entry) {
            Gravity::Informational => 6,
            Gravity::Notice => 5,
            Gravity::Warning => 4,
            Gravity::Error => 3,
        };
        let priority = u32::from(self.facility) * 8 + severity;
        let time = rfc3339(Timestamp::from_micros(at_us(entry)));
        let (epoch, id) = match entry {
            Entry::Row(row) => (row.get("epoch").and_then(serde_json::Value::as_u64).unwrap_or(0), "access"),
            Entry::Gap(gap) => (gap.epoch, "gap"),
        };
        let body = self.formatter.json(entry);
        format!("<{priority}>1 {time} {} {} {epoch} {id} - {body}", self.gateway_id, self.app_name)
    }
}

fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect_timeout(&address, SPAN_MAX)?;
    tcp.set_read_timeout(Some(SPAN_MAX))?;
    tcp.set_write_timeout(Some(SPAN_MAX))?;
    tcp.set_nodelay(true)?;
    // While nobody listens on a port of the local range, the kernel may connect it to itself.
    if tcp.local_addr()? == tcp.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(tcp)
}

impl Connection {
    /// Fails when the receiver has closed. It has nothing to say, so whatever can be read is an end.
    fn check_open(&mut self) -> io::Result<()> {
        let closed =
            || io::Error::new(io::ErrorKind::ConnectionAborted, "the receiver closed the connection");
        let tcp = match &self.stream {
            Stream::Udp(_) => return Ok(()),
            Stream::Tcp(tcp) => tcp,
            Stream::Tls(tls) => &tls.sock,
        };
        tcp.set_nonblocking(true)?;
        let read = match &mut self.stream {
            Stream::Udp(_) => Ok(1),
            Stream::Tcp(tcp) => tcp.read(&mut [0; 64]),
            // Session tickets come here too, and are no data.
            Stream::Tls(tls) => tls.read(&mut [0; 64]),
        };
        match &self.stream {
            Stream::Udp(_) => {}
            Stream::Tcp(tcp) => tcp.set_nonblocking(false)?,
            Stream::Tls(tls) => tls.sock.set_nonblocking(false)?,
        }
        match read {
            Ok(0) => Err(closed()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Receiver for Syslog {
    fn deliver(&mut self, entries: &[Entry]) -> Result<Taken, Trouble> {
        self.write(entries).map_err(|error| Trouble::Away(error.to_string()))?;
        Ok(if self.road == Road::Udp { Taken::All } else { Taken::AllBefore })
    }

    fn settle(&mut self, moment: Moment) -> Result<Taken, Trouble> {
        let Some(connection) = &mut self.connection else { return Ok(Taken::Held) };
        if moment == Moment::Stop {
            // The next start sends the last batch again.
            return Ok(Taken::Held);
        }
        if connection.written.elapsed() < QUIET {
            return Ok(Taken::Held);
        }
        connection.check_open().map_err(|error| Trouble::Away(error.to_string()))?;
        Ok(Taken::All)
    }

    fn reset(&mut self) {
        self.connection = None;
    }
}
