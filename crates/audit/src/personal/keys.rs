//! The keys above the keys: master key → root key → a key for each person.
//!
//! The master key comes from the configuration. It wraps one root key, which the key store holds; the root
//! key wraps each person's key and makes the lookups by which a person is found. So another master key
//! means wrapping one key anew. Gateways that cannot reach the key store wrap under the master key itself.
//!
//! Invariants: without a master key nothing that is kept tells who somebody is; nothing here prints a key.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use doorward_settings::parse_key;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::xaes::{self, Broken, KEY_BYTES, KeyBytes};

/// Characters of a master key's id.
const ID_CHARS: usize = 11;

/// Which master key: a short fingerprint, which tells nothing of the key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyId(Box<str>);

impl KeyId {
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as the key store and messages spell it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A master key.
pub(crate) struct MasterKey {
    id: KeyId,
    wrap: KeyBytes,
    pending: KeyBytes,
}

impl MasterKey {
    /// Reads the secret's text: 32 random bytes, as base64 or as 64 hex digits.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let key = parse_key(text)?;
        let id = hmac::sign(&mac(&key), b"doorward master key id");
        let id = URL_SAFE_NO_PAD.encode(id.as_ref());
        let id = KeyId(id.get(..ID_CHARS).unwrap_or(&id).into());
        Ok(Self { id, wrap: part(&key, b"wrap root key"), pending: part(&key, b"wrap pending keys") })
    }

    /// Draws one, as text.
    pub(crate) fn generate() -> Result<Zeroizing<String>, Broken> {
        Ok(Zeroizing::new(STANDARD.encode(xaes::fresh_key()?.as_slice())))
    }

    /// Which one this is.
    pub(crate) fn id(&self) -> &KeyId {
        &self.id
    }

    pub(crate) fn wrap_root(&self, root: &Root) -> Result<Vec<u8>, Broken> {
        xaes::seal(&self.wrap, b"root", &root.bytes[..])
    }

    pub(crate) fn unwrap_root(&self, wrapped: &[u8]) -> Result<Root, Broken> {
        Ok(Root::of(key_bytes(&xaes::open(&self.wrap, b"root", wrapped)?)?))
    }

    pub(crate) fn seal_pending(&self, text: &[u8]) -> Result<Vec<u8>, Broken> {
        xaes::seal(&self.pending, b"pending", text)
    }

    pub(crate) fn open_pending(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Broken> {
        xaes::open(&self.pending, b"pending", sealed)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id)
    }
}

/// The master key in use, and those before it.
#[derive(Debug)]
pub(crate) struct Masters {
    pub(crate) current: MasterKey,
    pub(crate) old: Vec<MasterKey>,
}

impl Masters {
    pub(crate) fn all(&self) -> impl Iterator<Item = &MasterKey> {
        std::iter::once(&self.current).chain(&self.old)
    }

    pub(crate) fn by_id(&self, id: &str) -> Option<&MasterKey> {
        self.all().find(|master| master.id.as_str() == id)
    }
}

/// By what a person is found in the key store: a keyed hash, which tells nothing without the root key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lookup(pub(crate) [u8; KEY_BYTES]);

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup(..)")
    }
}

/// The root key of one key store.
pub(crate) struct Root {
    bytes: KeyBytes,
    wrap: KeyBytes,
    lookup: hmac::Key,
}

impl Root {
    /// Draws one.
    pub(crate) fn generate() -> Result<Self, Broken> {
        Ok(Self::of(xaes::fresh_key()?))
    }

    fn of(bytes: KeyBytes) -> Self {
        let wrap = part(&bytes, b"wrap subject keys");
        let lookup = mac(&part(&bytes, b"lookups"));
        Self { bytes, wrap, lookup }
    }

    /// The lookup of one person at one issuer.
    pub(crate) fn identity(&self, issuer: &str, subject: &str) -> Lookup {
        self.of_parts(b'i', &[issuer, subject])
    }

    /// The lookup of a subject at whichever issuer.
    pub(crate) fn subject(&self, subject: &str) -> Lookup {
        self.of_parts(b's', &[subject])
    }

    /// The lookup of an e-mail address; its case does not count.
    pub(crate) fn email(&self, email: &str) -> Lookup {
        self.of_parts(b'e', &[&email.to_lowercase()])
    }

    /// The lookup of a day's callers who are not known.
    pub(crate) fn day(&self, environment: &str, day: i64) -> Lookup {
        self.of_parts(b'd', &[environment, &day.to_string()])
    }

    fn of_parts(&self, kind: u8, parts: &[&str]) -> Lookup {
        let mut context = hmac::Context::with_key(&self.lookup);
        context.update(&[kind]);
        for part in parts {
            // The length keeps ("a", "bc") and ("ab", "c") apart.
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut lookup = [0; KEY_BYTES];
        for (to, from) in lookup.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        Lookup(lookup)
    }

    pub(crate) fn wrap(&self, id: Uuid, key: &KeyBytes) -> Result<Vec<u8>, Broken> {
        xaes::seal(&self.wrap, id.as_bytes(), &key[..])
    }

    pub(crate) fn unwrap(&self, id: Uuid, wrapped: &[u8]) -> Result<KeyBytes, Broken> {
        key_bytes(&xaes::open(&self.wrap, id.as_bytes(), wrapped)?)
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Root(..)")
    }
}

fn key_bytes(bytes: &[u8]) -> Result<KeyBytes, Broken> {
    Ok(Zeroizing::new(bytes.try_into().map_err(|_| Broken)?))
}

fn mac(key: &KeyBytes) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &key[..])
}

/// A key for one purpose, from a key for all: one block of HKDF-Expand.
fn part(key: &KeyBytes, purpose: &[u8]) -> KeyBytes {
    let mut context = hmac::Context::with_key(&mac(key));
    context.update(b"doorward personal data: ");
    context.update(purpose);
    context.update(&[1]);
    let mut out = KeyBytes::default();
    for (to, from) in out.iter_mut().zip(context.sign().as_ref()) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn master_keys_are_32_random_bytes() {
        let hex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeefF";
        let base64 = "ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v8=";
        let ids: Vec<_> =
            [hex, base64, base64.trim_end_matches('='), "ABEiM0RVZneImaq7zN3u_wARIjNEVWZ3iJmqu8zd7v8"]
                .map(|text| MasterKey::parse(text).unwrap().id().to_string())
                .into();
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
        for bad in ["", "correct horse battery staple", &hex[2..], &"0".repeat(64), &"ab".repeat(32)] {
            assert!(MasterKey::parse(bad).unwrap_err().contains("32 random bytes"), "{bad}");
        }
        let drawn = MasterKey::generate().unwrap();
        assert!(!format!("{:?}", MasterKey::parse(&drawn).unwrap()).contains(drawn.as_str()));
    }

    #[test]
    fn a_root_key_opens_under_its_master_alone_and_tells_people_apart() {
        let masters: Vec<_> =
            (0..2).map(|_| MasterKey::parse(&MasterKey::generate().unwrap()).unwrap()).collect();
        let root = Root::generate().unwrap();
        let wrapped = masters[0].wrap_root(&root).unwrap();
        let again = masters[0].unwrap_root(&wrapped).unwrap();
        assert!(masters[1].unwrap_root(&wrapped).is_err());
        let lookups = [
            root.identity("a", "bc"),
            root.identity("ab", "c"),
            root.subject("abc"),
            root.email("abc"),
            root.day("abc", 1),
            Root::generate().unwrap().identity("a", "bc"),
        ];
        for (index, lookup) in lookups.iter().enumerate() {
            assert!(!lookups[..index].contains(lookup), "{index}");
        }
        assert_eq!(again.identity("a", "bc"), lookups[0]);
        assert_eq!(root.email("Ann@Example.com"), root.email("ann@example.COM"));
        let (key, id) = (xaes::fresh_key().unwrap(), Uuid::from_u128(7));
        let wrapped = root.wrap(id, &key).unwrap();
        assert_eq!(again.unwrap(id, &wrapped).unwrap(), key);
        assert!(again.unwrap(Uuid::from_u128(8), &wrapped).is_err());
    }
}
