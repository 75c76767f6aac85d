//! TLS: what the listener shows, whom it believes, and whom the client believes. One stack: rustls over
//! aws-lc-rs.

use std::path::Path;
use std::sync::Arc;

use doorward_settings::{Problem, SecretRef};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::config::{ClientCertificates, ClientIdentity, TlsConfig};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// What the configuration names cannot be read.
    #[error("{0}")]
    Read(#[from] Problem),
    /// The texts do not make a usable identity.
    #[error("{what}: {cause}")]
    Unusable {
        /// Which of them.
        what: &'static str,
        /// Why.
        cause: String,
    },
}

fn unusable(what: &'static str, cause: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable { what, cause: cause.to_string() }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The listener's side, and the certificate that it shows.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// What the listener speaks.
    pub config: Arc<ServerConfig>,
    /// The leaf certificate, DER.
    pub leaf: Arc<[u8]>,
}

/// The listener's side. Blocks on the disk.
pub fn server_config(config: &TlsConfig) -> Result<Arc<ServerConfig>, TlsError> {
    Ok(server_tls(config)?.config)
}

/// The listener's side, with the certificate that it shows. Blocks on the disk.
pub fn server_tls(config: &TlsConfig) -> Result<ServerTls, TlsError> {
    let chain = certificates("tls.cert", &config.cert)?;
    let leaf: Arc<[u8]> = chain.first().map(|leaf| leaf.as_ref().into()).unwrap_or_default();
    let key = private_key("tls.key", &config.key)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("tls", error))?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let roots = Arc::new(roots("tls.client_ca", &certificates("tls.client_ca", authorities)?)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = match config.client_certificates {
                ClientCertificates::Optional => verifier.allow_unauthenticated(),
                ClientCertificates::Required => verifier,
            };
            builder.with_client_cert_verifier(
                verifier.build().map_err(|error| unusable("tls.client_ca", error))?,
            )
        }
    };
    let mut server =
        builder.with_single_cert(chain, key).map_err(|error| unusable("tls.cert and tls.key", error))?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(ServerTls { config: Arc::new(server), leaf })
}

/// The client's side: the system's authorities, and those of a PEM file. Blocks on the disk.
pub fn client_config(extra_ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    client_config_as(extra_ca, None)
}

/// The same, with the certificate that it shows to who asks for one. Blocks on the disk.
pub(crate) fn client_config_as(
    extra_ca: Option<&Path>,
    identity: Option<&ClientIdentity>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    // A system without authorities still reaches those of the file, and loopback.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = extra_ca {
        let pem = std::fs::read(path).map_err(|error| unusable("certificate authorities", error))?;
        let authorities: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let authorities = authorities.map_err(|error| unusable("certificate authorities", error))?;
        roots.add_parsable_certificates(authorities);
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("tls", error))?;
    let builder = builder.with_root_certificates(roots);
    let Some(identity) = identity else { return Ok(Arc::new(builder.with_no_client_auth())) };
    let chain = certificates("cert", &identity.cert)?;
    let config = builder.with_client_auth_cert(chain, private_key("key", &identity.key)?);
    Ok(Arc::new(config.map_err(|error| unusable("cert and key", error))?))
}

fn private_key(what: &'static str, source: &SecretRef) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key = source.read()?;
    PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
        .map_err(|_| unusable(what, "no PEM private key was found"))
}

fn certificates(what: &'static str, source: &SecretRef) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = source.read()?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.expose().as_bytes()).collect();
    let read = read.map_err(|_| unusable(what, "the PEM text is damaged"))?;
    if read.is_empty() { Err(unusable(what, "no PEM certificate was found")) } else { Ok(read) }
}

fn roots(what: &'static str, authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| unusable(what, error))?;
    }
    Ok(roots)
}
