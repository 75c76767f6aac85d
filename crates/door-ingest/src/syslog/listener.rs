//! The syslog listener: accepts senders, knows them by their certificates, and brings their messages in
//! batches to the resources that they are for.
//!
//! Invariants: a sender without an identity gets nowhere (over plain TCP, which is for loopback, everybody is
//! `public`); a batch is read only when the one before it is durable; messages that are for no resource, or
//! that their sender may not bring, leave a record of refusal.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use doorward_core::{
    Arrival, AuthMethod, ClientCertificate, Credentials, Fault, Gateway, Principal, Resource, Session,
    Snapshot,
};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::call::{BatchCall, Ending, Parcel, Stray};
use super::frame::{Framer, Unframed};
use crate::resource::IngestResource;
use crate::{DOOR, codes};

/// The most senders at once.
const CONNECTIONS_MAX: usize = 1_024;
/// The longest handshake.
const HANDSHAKE_SPAN_MAX: Duration = Duration::from_secs(10);
/// The longest silence of a sender.
const IDLE_SPAN_MAX: Duration = Duration::from_secs(3_600);
/// The most messages of one batch.
const BATCH_MAX: usize = 512;
/// The most bytes of one batch, but for its last message: a thousand senders may bring one each.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// How long the first message of a batch waits for company.
const GATHER_SPAN: Duration = Duration::from_millis(100);
/// The largest message, whatever the resources take.
const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Bytes read at once.
const READ_BYTES: usize = 16 << 10;
/// The pause after messages that are for nobody: their sender may be many.
const STRAY_PAUSE: Duration = Duration::from_secs(1);
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the listener shows, and whose certificates it believes.
pub type SyslogTls = Arc<ServerConfig>;

/// A running listener.
#[derive(Debug)]
pub struct SyslogListener {
    tls: Arc<ArcSwapOption<ServerConfig>>,
    draining: watch::Sender<bool>,
    accepting: tokio::task::JoinHandle<()>,
}

impl SyslogListener {
    /// Begins to accept. Without TLS only senders on loopback are heard. Must be called on a runtime.
    pub fn start(listener: TcpListener, gateway: Arc<Gateway>, tls: Option<SyslogTls>) -> Self {
        let tls = Arc::new(ArcSwapOption::new(tls));
        let (draining, watched) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, gateway, tls.clone(), watched));
        Self { tls, draining, accepting }
    }

    /// Shows another certificate to senders that come from now on.
    pub fn set_tls(&self, tls: Option<SyslogTls>) {
        self.tls.store(tls);
    }

    /// Accepts no more, and lets batches under way end.
    pub async fn drain(&self, within: Duration) {
        self.draining.send_replace(true);
        // Whoever is not done by then is cut with the process.
        let _ = tokio::time::timeout(within, self.draining.closed()).await;
    }
}

impl Drop for SyslogListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    tls: Arc<ArcSwapOption<ServerConfig>>,
    mut draining: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = draining.wait_for(|draining| *draining) => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a syslog sender cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (gateway, tls, draining) = (gateway.clone(), tls.load_full(), draining.clone());
        tokio::spawn(async move {
            if let Err(error) = connection(stream, address, gateway, tls, draining).await {
                tracing::debug!(%error, "a syslog sender's connection ended badly");
            }
            drop(place);
        });
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    gateway: Arc<Gateway>,
    tls: Option<SyslogTls>,
    draining: watch::Receiver<bool>,
) -> io::Result<()> {
    let ip = address.ip().to_canonical();
    match tls {
        Some(tls) => {
            let handshake = TlsAcceptor::from(tls).accept(stream);
            let stream = tokio::time::timeout(HANDSHAKE_SPAN_MAX, handshake).await??;
            let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let credentials = leaf.map_or(Credentials::None, |leaf| {
                Credentials::Certificate(ClientCertificate { der: leaf.as_ref().into() })
            });
            serve(stream, ip, &gateway, &credentials, draining).await
        }
        None if ip.is_loopback() => serve(stream, ip, &gateway, &Credentials::None, draining).await,
        None => Ok(()),
    }
}

async fn serve(
    stream: impl AsyncRead + Unpin,
    ip: IpAddr,
    gateway: &Gateway,
    credentials: &Credentials,
    draining: watch::Receiver<bool>,
) -> io::Result<()> {
    let arrival = Arrival { door: DOOR, source_ip: Some(ip), confidential: true };
    // A login that is refused has its record; there is nothing to say to the sender.
    let Ok(session) = gateway.login(gateway.open(arrival.clone()), credentials).await else { return Ok(()) };
    let mut sender = Sender { gateway, session, arrival, draining, batches: 0 };
    let mut reader = Reader { stream, framer: Framer::new(MESSAGE_BYTES_MAX), buffer: Vec::new() };
    loop {
        let Some((parcels, framed)) = reader.batch(&mut sender.draining).await? else { return Ok(()) };
        if !sender.bring(&parcels).await {
            return Ok(());
        }
        if !framed {
            sender.stray(1, "what follows is not framed as RFC 6587 asks").await;
            return Ok(());
        }
    }
}

/// Reads batches off a stream.
struct Reader<S> {
    stream: S,
    framer: Framer,
    /// What was read and is not yet cut.
    buffer: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Reader<S> {
    /// The next messages, and whether the stream is still framed behind them; `None` at the end.
    async fn batch(
        &mut self,
        draining: &mut watch::Receiver<bool>,
    ) -> io::Result<Option<(Vec<Parcel>, bool)>> {
        let mut parcels = Vec::new();
        let mut deadline = None;
        loop {
            if self.cut(&mut parcels).is_err() {
                return Ok(Some((parcels, false)));
            }
            if is_full(&parcels) {
                return Ok(Some((parcels, true)));
            }
            let wait = match deadline {
                None if parcels.is_empty() => IDLE_SPAN_MAX,
                None => {
                    deadline = Some(tokio::time::Instant::now() + GATHER_SPAN);
                    GATHER_SPAN
                }
                Some(at) => at.saturating_duration_since(tokio::time::Instant::now()),
            };
            let mut chunk = [0; READ_BYTES];
            let read = tokio::select! {
                read = tokio::time::timeout(wait, self.stream.read(&mut chunk)) => read,
                _ = draining.wait_for(|draining| *draining) => return Ok(not_empty(parcels)),
            };
            match read {
                Err(_) => return Ok(not_empty(parcels)),
                Ok(Ok(0)) => {
                    parcels.extend(self.framer.finish().map(Parcel::read));
                    return Ok(not_empty(parcels));
                }
                Ok(Ok(count)) => self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Ok(Err(error)) if parcels.is_empty() => return Err(error),
                Ok(Err(_)) => return Ok(not_empty(parcels)),
            }
        }
    }

    /// Cuts what was read into messages, as many as a batch takes.
    fn cut(&mut self, parcels: &mut Vec<Parcel>) -> Result<(), Unframed> {
        let mut rest = self.buffer.as_slice();
        while !is_full(parcels) {
            match self.framer.next(&mut rest)? {
                Some(frame) => parcels.push(Parcel::read(frame)),
                None => break,
            }
        }
        let left = rest.len();
        self.buffer.drain(..self.buffer.len() - left);
        Ok(())
    }
}

fn is_full(parcels: &[Parcel]) -> bool {
    let bytes = || parcels.iter().map(|parcel| parcel.bytes.len()).sum::<usize>();
    parcels.len() >= BATCH_MAX || bytes() >= BATCH_BYTES_MAX
}

fn not_empty(parcels: Vec<Parcel>) -> Option<(Vec<Parcel>, bool)> {
    (!parcels.is_empty()).then_some((parcels, true))
}

/// One sender.
struct Sender<'g> {
    gateway: &'g Gateway,
    session: Session,
    arrival: Arrival,
    draining: watch::Receiver<bool>,
    batches: u64,
}

impl Sender<'_> {
    /// Brings messages to their resources. Whether the sender may go on.
    async fn bring(&mut self, parcels: &[Parcel]) -> bool {
        let snapshot = self.gateway.snapshot();
        let mut groups: Vec<(Option<&Resource>, Vec<&Parcel>)> = Vec::new();
        for parcel in parcels {
            let resource = route(&snapshot, self.session.principal(), parcel);
            let name = |resource: Option<&Resource>| resource.map(|resource| resource.name.clone());
            match groups.iter_mut().find(|(of, _)| name(*of) == name(resource)) {
                Some((_, group)) => group.push(parcel),
                None => groups.push((resource, vec![parcel])),
            }
        }
        self.batches += 1;
        for (resource, group) in groups {
            let goes_on = match resource {
                Some(resource) => self.bring_to(resource, &group).await,
                None => {
                    let why = group.iter().find_map(|parcel| parcel.message.as_ref().err());
                    let why =
                        why.map_or("no resource is for their application or sender", |why| &*why.reason);
                    self.stray(group.len(), why).await;
                    tokio::time::sleep(STRAY_PAUSE).await;
                    true
                }
            };
            if !goes_on {
                return false;
            }
        }
        true
    }

    /// Brings one batch until it is taken or refused.
    async fn bring_to(&mut self, resource: &Resource, parcels: &[&Parcel]) -> bool {
        let key = format!("syslog {} {}", self.session.id(), self.batches);
        loop {
            let call = BatchCall {
                session: &self.session,
                resource,
                parcels,
                key: key.clone(),
                now: self.gateway.now(),
            };
            match self.gateway.walk(self.gateway.open(self.arrival.clone()), call).await.into_inner() {
                Ending::Done => return true,
                Ending::Refused => return false,
                // Nothing more is read meanwhile: the sender's own queue holds it.
                Ending::Again(wait) => tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    _ = self.draining.wait_for(|draining| *draining) => return false,
                },
            }
        }
    }

    async fn stray(&self, messages: usize, why: &str) {
        let fault =
            Fault::new(codes::SYSLOG, format!("{messages} syslog messages are for no resource: {why}")).hint(
                "Name the application or the sender's certificate under `syslog:` of an ingest resource.",
            );
        let call = Stray { session: &self.session, messages, fault: Some(fault) };
        self.gateway.walk(self.gateway.open(self.arrival.clone()), call).await.into_inner();
    }
}

/// The resource that a message is for: by its sender's certificate and by the application that it names,
/// where the resource asks for both; a certificate alone goes before an application alone.
fn route<'s>(snapshot: &'s Snapshot, principal: &Principal, parcel: &Parcel) -> Option<&'s Resource> {
    let app_name = parcel.message.as_ref().ok().and_then(|message| message.app_name.as_deref());
    let subject = (principal.auth_method == AuthMethod::Certificate).then(|| &**principal.subject.reveal());
    let named = |names: &[Box<str>], name: Option<&str>| {
        name.is_some_and(|name| names.iter().any(|one| &**one == name))
    };
    let fits = |resource: &&Resource| {
        let syslog = resource.backend::<IngestResource>().and_then(|ingest| ingest.syslog.as_ref())?;
        let by_certificate = named(&syslog.certificate, subject);
        let by_name = named(&syslog.app_name, app_name);
        let asks = (syslog.certificate.is_empty(), syslog.app_name.is_empty());
        match asks {
            // What cannot be read names no application; its sender's resource keeps it as a dead letter.
            (false, false) if by_certificate && parcel.message.is_err() => Some(2),
            (false, false) => (by_certificate && by_name).then_some(3),
            (false, true) => by_certificate.then_some(2),
            (true, _) => by_name.then_some(1),
        }
    };
    let ranked = snapshot.resources.values().filter_map(|resource| Some((fits(&resource)?, resource)));
    ranked.max_by(|a, b| a.0.cmp(&b.0).then_with(|| b.1.name.cmp(&a.1.name))).map(|(_, resource)| resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn large_messages_come_in_small_batches() {
        let message = format!("<13>1 - - app - - - {}", "x".repeat(200 << 10));
        let stream = format!("{} {message}", message.len()).repeat(12);
        let mut reader =
            Reader { stream: stream.as_bytes(), framer: Framer::new(MESSAGE_BYTES_MAX), buffer: Vec::new() };
        let (_draining, mut watched) = watch::channel(false);
        let mut counts = Vec::new();
        while let Some((parcels, framed)) = reader.batch(&mut watched).await.unwrap() {
            assert!(framed);
            counts.push(parcels.len());
        }
        assert_eq!(counts, [6, 6]);
    }
}
