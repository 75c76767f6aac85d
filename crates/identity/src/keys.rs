//! Public keys of issuers, and verification with them.
//!
//! Invariant: the key's type says which algorithms it can verify; a token can only name one of those. An
//! HMAC cannot be verified at all, so a public key can never be used as an HMAC secret.

use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest;
use aws_lc_rs::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::Algorithm;
use crate::token::KID_BYTES_MAX;
use crate::wire::Jwk;

/// RFC 7518, 3.3: "A key of size 2048 bits or larger MUST be used".
const RSA_BITS_MIN: usize = 2048;
/// Larger keys make verification slow, and nobody uses them.
const RSA_BITS_MAX: usize = 8192;

/// One public key of an issuer.
pub(crate) struct Key {
    kid: Option<Box<str>>,
    algorithm: Option<Algorithm>,
    material: Material,
    thumbprint: [u8; 32],
    /// Set when the issuer no longer publishes the key: what it verified no longer stands.
    retired: AtomicBool,
}

enum Material {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Key {
    /// Reads a signing key; the error says why it is passed over.
    pub(crate) fn from_jwk(jwk: &Jwk) -> Result<Self, &'static str> {
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err("its use is not sig");
        }
        if jwk.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err("its key_ops do not say verify");
        }
        if jwk.kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
            return Err("its kid is too long");
        }
        let algorithm = match jwk.alg.as_deref() {
            None => None,
            Some(alg) => Some(Algorithm::parse(alg).ok_or("its alg is not one for signatures that we know")?),
        };
        let material = Material::from_jwk(jwk)?;
        if algorithm.is_some_and(|algorithm| !material.fits(algorithm)) {
            return Err("its alg does not fit its kty");
        }
        let kid = jwk.kid.as_deref().map(Into::into);
        Ok(Self { kid, algorithm, material, thumbprint: thumbprint(jwk), retired: AtomicBool::new(false) })
    }

    /// Whether a token with this header can be signed with the key. A token without `kid` may be.
    pub(crate) fn fits(&self, kid: Option<&str>, algorithm: Algorithm) -> bool {
        kid.is_none_or(|kid| self.kid.as_deref() == Some(kid))
            && self.algorithm.is_none_or(|own| own == algorithm)
            && self.material.fits(algorithm)
    }

    /// Whether the signature is the key's.
    pub(crate) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let verified = match (&self.material, algorithm) {
            (Material::Rsa(key), Algorithm::RS256) => {
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            (Material::Rsa(key), Algorithm::RS384) => {
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA384, message, signature)
            }
            (Material::Rsa(key), Algorithm::RS512) => {
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA512, message, signature)
            }
            (Material::Rsa(key), Algorithm::PS256) => {
                key.verify(&signature::RSA_PSS_2048_8192_SHA256, message, signature)
            }
            (Material::P256(point), Algorithm::ES256) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Material::P384(point), Algorithm::ES384) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            (Material::Ed25519(point), Algorithm::EdDsa) => {
                UnparsedPublicKey::new(&signature::ED25519, point).verify(message, signature)
            }
            _ => return false,
        };
        verified.is_ok()
    }

    /// The same for the same key, name and use: tells which keys stayed when a set is fetched anew.
    pub(crate) fn thumbprint(&self) -> &[u8; 32] {
        &self.thumbprint
    }

    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub(crate) fn retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }
}

impl Material {
    fn from_jwk(jwk: &Jwk) -> Result<Self, &'static str> {
        match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => {
                let n = member(jwk.n.as_deref())?;
                let n: Vec<u8> = n.into_iter().skip_while(|byte| *byte == 0).collect();
                let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
                if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
                    return Err("its modulus is not of 2048 to 8192 bits");
                }
                Ok(Self::Rsa(RsaPublicKeyComponents { n, e: member(jwk.e.as_deref())? }))
            }
            ("EC", Some("P-256")) => Ok(Self::P256(point(jwk, 32)?)),
            ("EC", Some("P-384")) => Ok(Self::P384(point(jwk, 48)?)),
            ("OKP", Some("Ed25519")) => {
                let x = member(jwk.x.as_deref())?;
                if x.len() == 32 { Ok(Self::Ed25519(x)) } else { Err("its x is not of 32 bytes") }
            }
            _ => Err("its kty or crv is not one that we know"),
        }
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Rsa(_) => {
                matches!(algorithm, Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 | Algorithm::PS256)
            }
            Self::P256(_) => algorithm == Algorithm::ES256,
            Self::P384(_) => algorithm == Algorithm::ES384,
            Self::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }
}

/// An uncompressed point of SEC 1.
fn point(jwk: &Jwk, coordinate_bytes: usize) -> Result<Vec<u8>, &'static str> {
    let (x, y) = (member(jwk.x.as_deref())?, member(jwk.y.as_deref())?);
    if x.len() != coordinate_bytes || y.len() != coordinate_bytes {
        return Err("its coordinates are not of its curve's size");
    }
    Ok([[4].as_slice(), &x, &y].concat())
}

fn member(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let text = text.ok_or("a member of the key is missing")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a member of the key is not base64url")
}

fn thumbprint(jwk: &Jwk) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let members = [&jwk.kid, &jwk.alg, &jwk.crv, &jwk.n, &jwk.e, &jwk.x, &jwk.y];
    for text in std::iter::once(jwk.kty.as_str()).chain(members.map(|text| text.as_deref().unwrap_or(""))) {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    hash(context.finish())
}

/// SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    hash(digest::digest(&digest::SHA256, bytes))
}

fn hash(digest: digest::Digest) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    bytes
}
