//! Short-lived client certificates: the gateway's own authority signs one for each role, good for minutes, and the
//! database believes the authority. There is no password anywhere, and nothing is written in the database.
//!
//! Constraints: keys are ECDSA P-256; the certificate's common name is the role (RFC 5280 bounds it to 64 characters,
//! PostgreSQL's names to 63); it is good for clients only.
//!
//! Invariants: a certificate's key never leaves the process but into the TLS handshake; nothing is signed that
//! outlives the authority, or by a key that is not the authority's.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use doorward_core::{BoxFuture, ClientIdentity, Login, Proof, RoleName, Secret};
use doorward_pgclient::CertificatesConfig;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::source::{CredentialSource, Issued, SourceError, Wanted};

/// How far the database's clock may be behind.
const CLOCK_BEHIND_MAX: Duration = Duration::from_secs(60);
/// The longest life of an authority.
const DAYS_MAX: u32 = 36_500;
/// The longest common name.
const NAME_CHARS_MAX: usize = 64;

/// Why there is no authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate cannot be read.
    #[error("the authority's certificate cannot be read: one certificate in PEM is expected")]
    Certificate,
    /// It is not for signing certificates.
    #[error("the certificate is not one of an authority; make one with `doorward ca init`")]
    NotAuthority,
    /// The key cannot be read.
    #[error("the authority's key cannot be read: PKCS #8 in PEM is expected")]
    Key,
    /// They are of two authorities.
    #[error("the key is not that of the authority's certificate")]
    OtherKey,
    /// The authority has ended, or has not begun.
    #[error("the authority's certificate is not good now: {0}")]
    NotNow(String),
    /// The making of keys or certificates failed.
    #[error("no certificate can be made: {0}")]
    Making(String),
}

/// Signs client certificates for roles.
pub struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    life: Duration,
    /// When the authority itself ends: seconds since the epoch.
    ends_at: u64,
}

/// A new authority.
#[derive(Debug)]
pub struct NewAuthority {
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its private key, PKCS #8 in PEM.
    pub key: Secret,
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityFacts {
    /// Its name.
    pub subject: String,
    /// When it is good, in seconds since the epoch.
    pub good: (i64, i64),
    /// SHA-256 of the whole, in hexadecimal digits.
    pub fingerprint: String,
}

impl Certificates {
    /// With an authority, as PEM.
    ///
    /// # Errors
    /// When certificate and key are not those of one authority that is good now.
    pub fn new(certificate: &str, key: &Secret, config: &CertificatesConfig) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key.expose()).map_err(|_| AuthorityError::Key)?;
        let der = pem(certificate)?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| AuthorityError::Certificate)?;
        if !parsed.is_ca() {
            return Err(AuthorityError::NotAuthority);
        }
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(AuthorityError::OtherKey);
        }
        let ends_at = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let begins_at = u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or(0);
        let now = now();
        if ends_at <= now || begins_at > now.saturating_add(CLOCK_BEHIND_MAX.as_secs()) {
            let validity = parsed.validity();
            return Err(AuthorityError::NotNow(format!(
                "from {} to {}",
                validity.not_before, validity.not_after
            )));
        }
        let issuer =
            Issuer::from_ca_cert_der(&der.as_slice().into(), key).map_err(|_| AuthorityError::Certificate)?;
        Ok(Self { issuer, life: config.ttl(), ends_at })
    }

    fn sign(&self, role: &RoleName) -> Result<Issued, SourceError> {
        let refused =
            |error: rcgen::Error| SourceError::Refused(format!("no certificate can be made: {error}"));
        if role.as_str().chars().count() > NAME_CHARS_MAX {
            return Err(SourceError::Refused(format!(
                "the role's name is longer than {NAME_CHARS_MAX} characters"
            )));
        }
        let now = now();
        let life = self.life.as_secs().min(self.ends_at.saturating_sub(now));
        if life == 0 {
            return Err(SourceError::Refused(
                "the authority's certificate has ended; `doorward ca rotate`".into(),
            ));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, role.as_str());
        set_validity(&mut params, now.saturating_sub(CLOCK_BEHIND_MAX.as_secs()), now + life);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        // While an authority is replaced, the database believes two of one name: this says which of them has signed.
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(refused)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(refused)?;
        let chain: Arc<[Box<[u8]>]> = Arc::new([certificate.der().to_vec().into()]);
        let identity = ClientIdentity { chain, key: Secret::new(key.serialize_der().into()) };
        Ok(Issued {
            login: Login::with(role.as_str(), Proof::Certificate(identity)),
            good_for: Some(Duration::from_secs(life)),
            refresh: None,
            handle: None,
        })
    }
}

impl CredentialSource for Certificates {
    fn name(&self) -> &str {
        "certificates"
    }

    fn trouble(&self) -> Option<String> {
        (self.ends_at <= now())
            .then(|| "the authority's certificate has ended; `doorward ca rotate`".to_owned())
    }

    fn issue<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Issued, SourceError>> {
        let issued = match &wanted.role {
            Some(role) => self.sign(role),
            None => Err(SourceError::Refused("certificates are for roles".into())),
        };
        Box::pin(std::future::ready(issued))
    }
}

/// Makes an authority of this name, good for this many days.
///
/// # Errors
/// When the name cannot stand in a certificate, or there is no randomness.
pub fn new_authority(name: &str, days: u32) -> Result<NewAuthority, AuthorityError> {
    let making = |error: rcgen::Error| AuthorityError::Making(error.to_string());
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = now();
    let ends_at = now + u64::from(days.min(DAYS_MAX)) * 24 * 3600;
    set_validity(&mut params, now.saturating_sub(CLOCK_BEHIND_MAX.as_secs()), ends_at);
    // It signs certificates of clients, and no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(making)?;
    let certificate = params.self_signed(&key).map_err(making)?;
    Ok(NewAuthority { certificate: certificate.pem(), key: Secret::from(key.serialize_pem()) })
}

/// What an authority's certificate says of itself.
///
/// # Errors
/// When it is none.
pub fn authority_facts(certificate: &str) -> Result<AuthorityFacts, AuthorityError> {
    let der = pem(certificate)?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| AuthorityError::Certificate)?;
    if !parsed.is_ca() {
        return Err(AuthorityError::NotAuthority);
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    Ok(AuthorityFacts {
        subject: parsed.subject().to_string(),
        good: (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp()),
        fingerprint: digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// The one certificate in a PEM text.
fn pem(text: &str) -> Result<Vec<u8>, AuthorityError> {
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(text.as_bytes()).map_err(|_| AuthorityError::Certificate)?;
    if pem.label != "CERTIFICATE" {
        return Err(AuthorityError::Certificate);
    }
    Ok(pem.contents)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// From when to when a certificate is good, in seconds since the epoch.
fn set_validity(params: &mut CertificateParams, from: u64, to: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from);
    params.not_after = epoch + Duration::from_secs(to);
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("life", &self.life).finish_non_exhaustive()
    }
}
