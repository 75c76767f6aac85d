//! The configuration of listeners: TLS, limits, trusted proxies.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use doorward_settings::{ByteSize, HumanDuration, SecretRef};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

/// TLS for the data listeners. Files are read again at each reload.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate chain, PEM, leaf first.
    pub cert: SecretRef,
    /// The private key, PEM (PKCS#8, PKCS#1 or SEC1).
    pub key: SecretRef,
    /// The authorities whose client certificates are believed, PEM. Without it none are asked for.
    #[serde(default)]
    pub client_ca: Option<SecretRef>,
    /// Whether a client without a certificate is turned away in the handshake.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
}

/// The certificate that the gateway shows where it is the client. Files are read again now and then.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientIdentity {
    /// The certificate chain, PEM, leaf first.
    pub cert: SecretRef,
    /// The private key, PEM (PKCS#8, PKCS#1 or SEC1).
    pub key: SecretRef,
}

/// Whether client certificates are asked for (`client_ca` says whose).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificates {
    /// A client may show one.
    #[default]
    Optional,
    /// A client must show one.
    Required,
}

/// Bounds on what clients of the data listener may ask for. Each has a default.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// The largest request head: request line and header fields together. At most 64KiB.
    pub head: ByteSize,
    /// The longest request target. At most 32KiB.
    pub uri: ByteSize,
    /// The largest request body.
    pub body: ByteSize,
    /// How long a client may take to send a request head.
    pub head_timeout: HumanDuration,
    /// How long a connection may stay open between requests.
    pub idle_timeout: HumanDuration,
    /// How long a client may pause within a request's body, or in taking an answer.
    pub stall_timeout: HumanDuration,
    /// The most connections of the listener.
    pub connections: u32,
    /// The most connections from one address (IPv6: from one /64). Trusted proxies are exempt.
    pub connections_per_ip: u32,
    /// How long connections may take to finish when the gateway stops.
    pub drain_timeout: HumanDuration,
    /// Networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed: `10.0.0.0/8`.
    pub trusted_proxies: Vec<Network>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        const KIB: u64 = 1 << 10;
        let seconds = |seconds| HumanDuration::new(Duration::from_secs(seconds));
        Self {
            head: ByteSize::new(HEAD_BYTES_MAX as u64),
            uri: ByteSize::new(8 * KIB),
            body: ByteSize::new(10 * KIB * KIB),
            head_timeout: seconds(10),
            idle_timeout: seconds(75),
            stall_timeout: seconds(30),
            connections: 10_000,
            connections_per_ip: 1_000,
            drain_timeout: seconds(30),
            trusted_proxies: Vec::new(),
        }
    }
}

/// The largest head that may be configured; also the default.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// The longest request target that may be configured (hyper's own bound is just under 64 KiB).
pub const URI_BYTES_MAX: usize = 32 << 10;

/// The bounds as the listener and the front use them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// See [`LimitsConfig::head`].
    pub head_bytes_max: usize,
    /// See [`LimitsConfig::uri`].
    pub uri_bytes_max: usize,
    /// See [`LimitsConfig::body`].
    pub body_bytes_max: u64,
    /// See [`LimitsConfig::head_timeout`].
    pub head_span_max: Duration,
    /// See [`LimitsConfig::idle_timeout`].
    pub idle_span_max: Duration,
    /// See [`LimitsConfig::stall_timeout`].
    pub stall_span_max: Duration,
    /// See [`LimitsConfig::connections`].
    pub connections_max: u32,
    /// See [`LimitsConfig::connections_per_ip`].
    pub connections_per_ip_max: u32,
    /// See [`LimitsConfig::drain_timeout`].
    pub drain_span_max: Duration,
    /// See [`LimitsConfig::trusted_proxies`].
    pub trusted_proxies: Vec<Network>,
}

impl LimitsConfig {
    /// The bounds in force; a size above its own bound is the bound.
    pub fn limits(&self) -> Limits {
        let bounded = |size: ByteSize, max: usize| usize::try_from(size.get()).unwrap_or(max).min(max);
        Limits {
            head_bytes_max: bounded(self.head, HEAD_BYTES_MAX),
            uri_bytes_max: bounded(self.uri, URI_BYTES_MAX),
            body_bytes_max: self.body.get(),
            head_span_max: self.head_timeout.get(),
            idle_span_max: self.idle_timeout.get(),
            stall_span_max: self.stall_timeout.get(),
            connections_max: self.connections,
            connections_per_ip_max: self.connections_per_ip,
            drain_span_max: self.drain_timeout.get(),
            trusted_proxies: self.trusted_proxies.clone(),
        }
    }
}

impl Limits {
    /// Whether an address is a trusted proxy's.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(address))
    }
}

impl Default for Limits {
    fn default() -> Self {
        LimitsConfig::default().limits()
    }
}

/// A network in CIDR notation, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    base: u128,
    mask: u128,
}

impl Network {
    /// Reads `10.0.0.0/8`, `fd00::/8` or a single address.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32_u32 } else { 128 };
        let bits = match bits {
            None => width,
            Some(bits) if bits.bytes().all(|digit| digit.is_ascii_digit()) => bits.parse().ok()?,
            Some(_) => return None,
        };
        let host_bits = width.checked_sub(bits)?;
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Self { base: widen(address) & mask, mask })
    }

    /// Whether the network holds an address.
    pub fn contains(&self, address: IpAddr) -> bool {
        widen(address) & self.mask == self.base
    }
}

/// One number space for both families: IPv4 as mapped addresses.
fn widen(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
            .ok_or_else(|| format!("{text:?} is not a network: write it as 10.0.0.0/8 or fd00::/8"))
    }
}

impl JsonSchema for Network {
    fn schema_name() -> Cow<'static, str> {
        "Network".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A network in CIDR notation, or one address.",
            "examples": ["10.0.0.0/8", "fd00::/8"],
        })
    }
}
