//! Reads a JWT before anything is believed of it (RFC 7515, 7519, 8725).
//!
//! Invariants: no cryptography and no I/O happens here; what comes out is well-formed, within bounds, and
//! names an asymmetric algorithm. `jku`, `x5u`, `jwk` and `x5c` are not even read: keys come from the
//! issuer's own key set, never from a token.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::config::Algorithm;
use crate::refusal::{Refusal, shown};
use crate::wire;

/// Real access tokens have one to four KiB; those with very many groups about ten.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// A `kid` is a name; one that is longer is an attack on whatever looks it up.
pub const KID_BYTES_MAX: usize = 128;
/// The largest signature that is accepted is one of RSA with 8192 bits.
const SIGNATURE_BYTES_MAX: usize = 1024;

/// A well-formed JWT of which nothing is proven.
#[derive(Debug)]
pub struct Unverified<'a> {
    /// The algorithm that its header names.
    pub algorithm: Algorithm,
    /// The key that its header names.
    pub kid: Option<String>,
    /// The type that its header names, in lower case and without `application/`.
    pub typ: Option<String>,
    /// Its claims.
    pub claims: Map<String, Value>,
    /// What the signature is over.
    pub signed: &'a [u8],
    /// The signature.
    pub signature: Vec<u8>,
}

/// Reads a compact JWS that holds a JSON object. Any text may be given; none makes it panic.
pub fn parse(token: &str) -> Result<Unverified<'_>, Refusal> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Refusal::TooLarge(token.len()));
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Refusal::Malformed("a signed JWT has three parts"));
    };
    match parts.count() {
        0 => {}
        2 => return Err(Refusal::Malformed("it is encrypted (JWE), and only signed tokens are accepted")),
        _ => return Err(Refusal::Malformed("a signed JWT has three parts")),
    }

    let header = wire::strict_object(&decode(header)?)
        .map_err(|_| Refusal::Malformed("its header is not a JSON object of distinct members"))?;
    let algorithm = algorithm(&header)?;
    // `crit` and `b64` change what a signature means; nothing that we accept needs them.
    if header.contains_key("crit") || header.contains_key("b64") {
        return Err(Refusal::Malformed("its header has critical extensions"));
    }
    let kid = text_member(&header, "kid")?;
    if kid.is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
        return Err(Refusal::Malformed("its kid is too long"));
    }
    let typ = text_member(&header, "typ")?.map(|typ| {
        let typ = typ.to_ascii_lowercase();
        typ.strip_prefix("application/").map(str::to_owned).unwrap_or(typ)
    });

    let claims = wire::strict_object(&decode(payload)?)
        .map_err(|_| Refusal::Malformed("its payload is not a JSON object of distinct members"))?;
    let signature_bytes = decode(signature)?;
    if signature_bytes.is_empty() || signature_bytes.len() > SIGNATURE_BYTES_MAX {
        return Err(Refusal::Malformed("its signature is missing or too long"));
    }
    let signed_len = token.len().saturating_sub(signature.len()).saturating_sub(1);
    let signed = token.as_bytes().get(..signed_len).unwrap_or_default();
    Ok(Unverified { algorithm, kid: kid.map(str::to_owned), typ, claims, signed, signature: signature_bytes })
}

fn algorithm(header: &Map<String, Value>) -> Result<Algorithm, Refusal> {
    let Some(alg) = text_member(header, "alg")? else {
        return Err(Refusal::Malformed("its header has no alg"));
    };
    Algorithm::parse(alg).ok_or_else(|| Refusal::AlgorithmUnknown(shown(alg)))
}

fn text_member<'a>(header: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Refusal> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Refusal::Malformed("its header has a member of the wrong type")),
    }
}

/// Strict: no padding, no other alphabet, no bits left over, so that each token has one spelling.
fn decode(part: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed("a part of it is not base64url"))
}
