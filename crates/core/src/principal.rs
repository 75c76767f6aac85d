//! Who is calling, and what they showed to prove it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::minted::MintedProof;
use crate::name::IssuerName;
use crate::secret::{Personal, Secret};
use crate::time::Timestamp;

/// What kind of caller this is; policy may tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// A person.
    User,
    /// A service with an identity of its own.
    Service,
    /// One run of a pipeline's task.
    Task,
    /// An AI agent.
    Agent,
    /// Nobody in particular: only what a grant opens to `public`.
    Public,
}

impl PrincipalKind {
    /// The kind as records spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Service => "service",
            Self::Task => "task",
            Self::Agent => "agent",
            Self::Public => "public",
        }
    }

    /// Reads a kind as claims and records spell it.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::User, Self::Service, Self::Task, Self::Agent, Self::Public]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// How the caller proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthMethod {
    /// Nothing was shown.
    None,
    /// A signed access token (RFC 9068).
    Jwt,
    /// An opaque token, asked about at its issuer (RFC 7662).
    Introspection,
    /// An API key of the gateway.
    ApiKey,
    /// A client certificate.
    Certificate,
    /// A login that the gateway minted, proven by SCRAM.
    Scram,
    /// Proven nowhere here: the source of an imported record says so.
    Claimed,
}

impl AuthMethod {
    /// The method as records spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Jwt => "jwt",
            Self::Introspection => "introspection",
            Self::ApiKey => "api-key",
            Self::Certificate => "certificate",
            Self::Scram => "scram",
            Self::Claimed => "claimed",
        }
    }
}

/// One link of a delegation chain (RFC 8693 `act`): who acts for the principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The actor's `iss`, when its claim names one.
    pub issuer: Option<Box<str>>,
    /// The actor's `sub`.
    pub subject: Personal,
}

/// Who is calling. Identity is the pair (issuer, subject); everything else describes it.
#[derive(Clone, PartialEq)]
pub struct Principal {
    /// The configured issuer that vouches for the subject.
    pub issuer: IssuerName,
    /// The issuer's name for the caller.
    pub subject: Personal,
    /// Person, service, task or agent.
    pub kind: PrincipalKind,
    /// E-mail address, if the issuer vouches for one.
    pub email: Option<Personal>,
    /// Groups as the issuer spells them.
    pub groups: Vec<Box<str>>,
    /// The OAuth client that holds the token.
    pub client_id: Option<Box<str>>,
    /// Who acts for the principal, nearest first.
    pub actors: Vec<Actor>,
    /// All claims, for conditions and templates.
    pub claims: Map<String, Value>,
    /// The claims as one JSON text, serialized once, for backends that read them.
    pub claims_json: Arc<str>,
    /// How the caller proved it.
    pub auth_method: AuthMethod,
    /// Which credential: `jti`, key id or certificate fingerprint; never the credential itself.
    pub credential_id: Option<Box<str>>,
    /// When the proof ends; `None` for those that do not expire.
    pub expires_at: Option<Timestamp>,
}

impl Principal {
    /// The caller who showed nothing.
    pub fn public() -> Self {
        Self {
            issuer: IssuerName::new("none"),
            subject: Personal::from("public"),
            kind: PrincipalKind::Public,
            email: None,
            groups: Vec::new(),
            client_id: None,
            actors: Vec::new(),
            claims: Map::new(),
            claims_json: Arc::from("{}"),
            auth_method: AuthMethod::None,
            credential_id: None,
            expires_at: None,
        }
    }

    /// Whether somebody vouches for the caller.
    pub fn authenticated(&self) -> bool {
        self.kind != PrincipalKind::Public
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("issuer", &self.issuer)
            .field("kind", &self.kind)
            .field("auth_method", &self.auth_method)
            .finish_non_exhaustive()
    }
}

/// A client certificate that the TLS handshake has verified against the configured authorities.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The leaf certificate, DER.
    pub der: Arc<[u8]>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate(..)")
    }
}

/// What the client showed.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Nothing.
    None,
    /// A bearer token: an API key of the gateway, a JWT or an opaque token; identity tells them apart.
    Bearer(Secret),
    /// A certificate from the TLS handshake.
    Certificate(ClientCertificate),
    /// A login that the gateway minted, after an exchange in which its password was proven, or was not.
    Minted(MintedProof),
    /// Something that cannot be read as credentials, and why: two `Authorization` headers, Basic …
    Malformed(&'static str),
}

/// Where and how a call came in: known before anything is parsed.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The door's name.
    pub door: &'static str,
    /// The client's address, after trusted proxies are taken into account.
    pub source_ip: Option<IpAddr>,
    /// Whether the transport hides tokens: TLS, or loopback.
    pub confidential: bool,
}
