//! The bytes to and from a server: TCP, a socket, or TLS over TCP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use doorward_core::ClientIdentity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::hosts::Hosts;
use crate::target::{Endpoint, SslMode, Target};

/// SSLRequest: its length and the code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Terminate.
const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];

/// A connection to a server.
pub enum Stream {
    /// TCP in the clear.
    Tcp(TcpStream),
    /// A socket of this machine.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A target with the TLS client that belongs to it.
#[derive(Clone)]
pub(crate) struct Dialer {
    target: Target,
    tls: Option<Arc<ClientConfig>>,
    hosts: Arc<Hosts>,
}

impl Dialer {
    /// Reads the trusted certificates; blocks on files, so it is called at load only.
    pub(crate) fn new(target: Target) -> io::Result<Self> {
        let tls = match target.ssl {
            SslMode::Disable => None,
            mode => Some(Arc::new(client_config(&target, mode)?)),
        };
        let hosts = Arc::new(Hosts::of(&target));
        Ok(Self { target, tls, hosts })
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// What is known of the servers.
    pub(crate) fn hosts(&self) -> &Arc<Hosts> {
        &self.hosts
    }

    /// Connects to the server that stands at this place. Whoever must show a certificate does so to a server that
    /// speaks TLS only.
    pub(crate) async fn dial(&self, host: usize, identity: Option<&ClientIdentity>) -> io::Result<Stream> {
        let tls = match (&self.tls, identity) {
            (None, Some(_)) => {
                return Err(io::Error::other("a client certificate is shown through TLS only (sslmode)"));
            }
            (tls, None) => tls.clone(),
            (Some(tls), Some(identity)) => Some(Arc::new(identified(tls, identity)?)),
        };
        let endpoint = self.target.endpoints().nth(host).ok_or(io::ErrorKind::NotFound)?;
        match endpoint {
            Endpoint::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
            Endpoint::Tcp(host, port) => {
                let tcp = TcpStream::connect((&**host, *port)).await?;
                // A request is one write; waiting to fill a segment would only delay it.
                tcp.set_nodelay(true)?;
                match tls {
                    None => Ok(Stream::Tcp(tcp)),
                    Some(tls) => self.secure(tcp, &TlsConnector::from(tls), host, identity.is_none()).await,
                }
            }
        }
    }

    async fn secure(
        &self,
        mut tcp: TcpStream,
        tls: &TlsConnector,
        host: &str,
        may_be_plain: bool,
    ) -> io::Result<Stream> {
        tcp.write_all(&SSL_REQUEST).await?;
        // Exactly one byte is read in the clear, so nothing that was injected before TLS is ever used.
        match tcp.read_u8().await? {
            b'S' => {}
            b'N' if may_be_plain && self.target.ssl == SslMode::Prefer => return Ok(Stream::Tcp(tcp)),
            _ => return Err(io::Error::other("the server does not offer TLS")),
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = tls.connect(name, tcp).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

fn client_config(target: &Target, mode: SslMode) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    // With a named authority even `require` verifies: who names one wants it used.
    if mode == SslMode::VerifyFull || target.root_certificates.is_some() {
        let roots = Arc::new(roots(target)?);
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots, provider).build().map_err(io::Error::other)?;
        return Ok(builder.with_webpki_verifier(verifier).with_no_client_auth());
    }
    let verifier = Arc::new(AnyServer(provider));
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// The same client with a certificate of its own. Nothing is resumed: a session of TLS remembers who began it.
fn identified(tls: &ClientConfig, identity: &ClientIdentity) -> io::Result<ClientConfig> {
    let chain = identity.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.expose().to_vec()));
    let key = tls.crypto_provider().key_provider.load_private_key(key).map_err(io::Error::other)?;
    let mut tls = tls.clone();
    tls.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    tls.resumption = Resumption::disabled();
    Ok(tls)
}

fn roots(target: &Target) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match &target.root_certificates {
        Some(path) => {
            for certificate in CertificateDer::pem_file_iter(path).map_err(io::Error::other)? {
                roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(io::Error::other("no certificate authority to trust; name one with sslrootcert"));
    }
    Ok(roots)
}

/// `sslmode=require`: the server may be anybody, but it must hold the key that it shows.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// How long a goodbye may take.
const GOODBYE_SPAN_MAX: Duration = Duration::from_secs(1);

impl Stream {
    /// Ends a session: says goodbye, and waits a short while until the server has closed the connection, so that its
    /// process counts there no longer.
    pub async fn end(&mut self) {
        // A server that takes nothing any more sees the end of the connection all the same.
        let _ = timeout(GOODBYE_SPAN_MAX, async {
            self.write_all(&TERMINATE).await?;
            self.shutdown().await?;
            let mut rest = [0; 1024];
            while self.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        })
        .await;
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // Plain streams have nothing of their own to flush.
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
