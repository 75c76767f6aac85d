//! XAES-256-GCM (C2SP): AES-256-GCM with nonces of 192 bits.
//!
//! The first half of the nonce and the key make a key for AES-256-GCM, the second half is its nonce. So
//! nonces may be drawn at random by any number of writers that know nothing of each other, and one who
//! keeps to one first half pays for the derivation once.
//!
//! Invariant: no pair of key and nonce seals twice; callers say how they see to that.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{cmac, rand};
pub(crate) use doorward_settings::{KEY_BYTES, KeyBytes};
use zeroize::Zeroizing;

/// Bytes of each half of a nonce.
pub(crate) const HALF_BYTES: usize = 12;
/// Bytes by which what is sealed is longer.
pub(crate) const TAG_BYTES: usize = 16;
/// Bytes of a whole nonce.
const NONCE_BYTES: usize = 2 * HALF_BYTES;

/// One half of a nonce.
pub(crate) type Half = [u8; HALF_BYTES];

/// A seal that does not open, or a library that does not work: there is nothing more to say about either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the seal does not open")]
pub(crate) struct Broken;

impl From<aws_lc_rs::error::Unspecified> for Broken {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

/// Fresh random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Broken> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)?;
    Ok(bytes)
}

/// A fresh key.
pub(crate) fn fresh_key() -> Result<KeyBytes, Broken> {
    let mut key = KeyBytes::default();
    rand::fill(&mut *key)?;
    Ok(key)
}

/// The key of all nonces that begin with `first`: SP 800-108 in counter mode with CMAC.
pub(crate) fn derive(key: &KeyBytes, first: &Half) -> Result<LessSafeKey, Broken> {
    let key = cmac::Key::new(cmac::AES_256, &key[..])?;
    let mut derived = KeyBytes::default();
    for (number, half) in (1_u8..).zip(derived.chunks_exact_mut(KEY_BYTES / 2)) {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *first;
        let block = [0, number, b'X', 0, a, b, c, d, e, f, g, h, i, j, k, l];
        cmac::sign_to_buffer(&key, &block, half)?;
    }
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derived[..])?))
}

/// Seals what stands in `text` from `from` on under a derived key, and appends the tag.
pub(crate) fn seal_under(
    derived: &LessSafeKey,
    second: Half,
    aad: &[u8],
    text: &mut Vec<u8>,
    from: usize,
) -> Result<(), Broken> {
    let plain = text.get_mut(from..).ok_or(Broken)?;
    let nonce = Nonce::assume_unique_for_key(second);
    let tag = derived.seal_in_place_separate_tag(nonce, Aad::from(aad), plain)?;
    text.extend_from_slice(tag.as_ref());
    Ok(())
}

/// Opens what was sealed under a derived key, in place.
pub(crate) fn open_under<'t>(
    derived: &LessSafeKey,
    second: Half,
    aad: &[u8],
    sealed: &'t mut [u8],
) -> Result<&'t mut [u8], Broken> {
    Ok(derived.open_in_place(Nonce::assume_unique_for_key(second), Aad::from(aad), sealed)?)
}

/// Seals a text under a random nonce: nonce, sealed text, tag.
pub(crate) fn seal(key: &KeyBytes, aad: &[u8], text: &[u8]) -> Result<Vec<u8>, Broken> {
    let nonce: [u8; NONCE_BYTES] = random()?;
    let (first, second) = halves(&nonce)?;
    let mut sealed = Vec::with_capacity(NONCE_BYTES + text.len() + TAG_BYTES);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(text);
    seal_under(&derive(key, &first)?, second, aad, &mut sealed, NONCE_BYTES)?;
    Ok(sealed)
}

/// Opens what [`seal`] sealed.
pub(crate) fn open(key: &KeyBytes, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Broken> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or(Broken)?;
    let (first, second) = halves(nonce)?;
    let mut text = Zeroizing::new(sealed.to_vec());
    let length = open_under(&derive(key, &first)?, second, aad, &mut text)?.len();
    text.truncate(length);
    Ok(text)
}

fn halves(nonce: &[u8]) -> Result<(Half, Half), Broken> {
    let (first, second) = nonce.split_first_chunk().ok_or(Broken)?;
    Ok((*first, second.try_into().map_err(|_| Broken)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of the specification.
    #[test]
    fn other_implementations_would_read_it() {
        let check = |key: u8, aad: &[u8], expected: &str| {
            let key = KeyBytes::new([key; KEY_BYTES]);
            let derived = derive(&key, b"ABCDEFGHIJKL").unwrap();
            let mut text = b"XAES-256-GCM".to_vec();
            seal_under(&derived, *b"MNOPQRSTUVWX", aad, &mut text, 0).unwrap();
            let hex: String = text.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected);
            let whole = [b"ABCDEFGHIJKLMNOPQRSTUVWX".as_slice(), &text].concat();
            assert_eq!(open(&key, aad, &whole).unwrap().as_slice(), b"XAES-256-GCM");
        };
        check(1, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271");
        check(3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d");
    }

    #[test]
    fn what_is_changed_or_moved_does_not_open() {
        let key = fresh_key().unwrap();
        let sealed = seal(&key, b"here", b"a name").unwrap();
        assert_eq!(open(&key, b"here", &sealed).unwrap().as_slice(), b"a name");
        assert_eq!(open(&key, b"there", &sealed), Err(Broken));
        assert_eq!(open(&fresh_key().unwrap(), b"here", &sealed), Err(Broken));
        for byte in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[byte] ^= 1;
            assert_eq!(open(&key, b"here", &changed), Err(Broken), "{byte}");
            assert_eq!(open(&key, b"here", &sealed[..byte]), Err(Broken), "{byte}");
        }
        assert_ne!(seal(&key, b"here", b"a name").unwrap(), sealed);
    }
}
