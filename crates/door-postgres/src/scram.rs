//! The server's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677, RFC 5929), as PostgreSQL speaks it:
//! the user name of the start-up packet counts, the one inside the exchange does not.
//!
//! Invariants: pure functions over bounded bytes, which do not panic on any input; a proof is compared in constant
//! time; a client that believes that there is no channel binding, where there is, has been lied to and is refused.

use std::num::NonZeroU32;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The mechanisms' names.
pub(crate) const PLAIN: &str = "SCRAM-SHA-256";
pub(crate) const PLUS: &str = "SCRAM-SHA-256-PLUS";
/// Rounds of key derivation: the fewest that RFC 7677 allows and drivers accept. The passwords are 256 random bits, so
/// more would protect nothing.
pub(crate) const ROUNDS: NonZeroU32 = match NonZeroU32::new(4_096) {
    Some(rounds) => rounds,
    None => NonZeroU32::MIN,
};
/// The one kind of channel binding that PostgreSQL's clients know.
const END_POINT: &str = "tls-server-end-point";
/// The longest message of a client; PostgreSQL's are about a hundred bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4_096;
const KEY_BYTES: usize = 32;

type Key = [u8; KEY_BYTES];

/// Why an exchange ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScramError {
    /// A message is not what the RFC says.
    #[error("{0}")]
    Malformed(&'static str),
    /// The client sees no channel binding where some is offered: somebody between has taken the offer away.
    #[error("the client supports channel binding and was not offered it: somebody may be between")]
    Downgrade,
    /// The client is at the other end of another TLS connection.
    #[error("the channel binding does not match: somebody may be between")]
    Binding,
    /// The password is wrong.
    #[error("the proof is wrong")]
    Proof,
}

/// What the server keeps of a password (RFC 5802, 3).
pub(crate) struct Verifier {
    stored: Key,
    server: Key,
}

impl Verifier {
    /// Derives it. Takes milliseconds of pure computation.
    pub(crate) fn derive(password: &[u8], salt: &[u8], rounds: NonZeroU32) -> Self {
        let mut salted = [0; KEY_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, password, &mut salted);
        Self { stored: sha256(&mac(&salted, b"Client Key")), server: mac(&salted, b"Server Key") }
    }
}

/// What the server offers and knows.
#[derive(Clone, Copy)]
pub(crate) struct Offer<'a> {
    /// The hash of the certificate that this connection's TLS shows; -PLUS is offered with it.
    pub(crate) end_point: Option<&'a [u8]>,
    pub(crate) salt: &'a [u8],
    pub(crate) rounds: NonZeroU32,
    /// Random and printable.
    pub(crate) nonce: &'a str,
}

/// An exchange in which the server has answered the first message.
pub(crate) struct Exchange {
    /// What the server says.
    pub(crate) server_first: String,
    client_first_bare: String,
    nonce: String,
    /// What the client must repeat: its header, and the binding's data.
    binding: Vec<u8>,
}

impl Exchange {
    /// Reads the client's first message.
    pub(crate) fn begin(mechanism: &str, first: &[u8], offer: Offer<'_>) -> Result<Self, ScramError> {
        let first = text(first)?;
        let (flag, rest) = first.split_once(',').ok_or(ScramError::Malformed("no channel binding flag"))?;
        let (authzid, bare) =
            rest.split_once(',').ok_or(ScramError::Malformed("no authorization identity"))?;
        let header = first.get(..first.len() - bare.len()).unwrap_or_default();
        let mut binding = header.as_bytes().to_vec();
        match (flag, mechanism) {
            ("n", PLAIN) => {}
            ("y", PLAIN) if offer.end_point.is_none() => {}
            ("y", PLAIN) => return Err(ScramError::Downgrade),
            (flag, PLUS) if flag.strip_prefix("p=") == Some(END_POINT) => {
                let data =
                    offer.end_point.ok_or(ScramError::Malformed("a mechanism that was not offered"))?;
                binding.extend_from_slice(data);
            }
            (flag, PLUS) if flag.starts_with("p=") => {
                return Err(ScramError::Malformed(
                    "channel binding of another kind than tls-server-end-point",
                ));
            }
            (_, PLAIN | PLUS) => return Err(ScramError::Malformed("a channel binding flag out of place")),
            _ => return Err(ScramError::Malformed("a mechanism that was not offered")),
        }
        if !authzid.is_empty() {
            return Err(ScramError::Malformed("an authorization identity, which PostgreSQL does not have"));
        }
        let mut parts = bare.split(',');
        let name = parts.next().filter(|name| name.starts_with("n="));
        name.ok_or(ScramError::Malformed("no user name; extensions are not known here"))?;
        let nonce = parts.next().and_then(|part| part.strip_prefix("r=")).filter(|nonce| printable(nonce));
        let nonce = nonce.ok_or(ScramError::Malformed("no printable nonce"))?;
        let nonce = format!("{nonce}{}", offer.nonce);
        let server_first = format!("r={nonce},s={},i={}", STANDARD.encode(offer.salt), offer.rounds);
        Ok(Self { server_first, client_first_bare: bare.to_owned(), nonce, binding })
    }

    /// Reads the client's last message; what the server says to a proof that is right.
    pub(crate) fn finish(&self, verifier: &Verifier, last: &[u8]) -> Result<String, ScramError> {
        let last = text(last)?;
        let (without_proof, proof) =
            last.rsplit_once(",p=").ok_or(ScramError::Malformed("no proof at the end"))?;
        let mut parts = without_proof.split(',');
        let binding = parts.next().and_then(|part| part.strip_prefix("c="));
        let binding = binding.and_then(|binding| STANDARD.decode(binding).ok());
        let binding = binding.ok_or(ScramError::Malformed("no channel binding"))?;
        if parts.next().and_then(|part| part.strip_prefix("r=")) != Some(self.nonce.as_str()) {
            return Err(ScramError::Malformed("a nonce of another exchange"));
        }
        if verify_slices_are_equal(&binding, &self.binding).is_err() {
            return Err(ScramError::Binding);
        }
        let proof = STANDARD.decode(proof).ok().and_then(|proof| Key::try_from(proof).ok());
        let proof = proof.ok_or(ScramError::Malformed("a proof that is no hash"))?;

        let signed = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        let mut client = mac(&verifier.stored, signed.as_bytes());
        client.iter_mut().zip(proof).for_each(|(signature, proof)| *signature ^= proof);
        verify_slices_are_equal(&sha256(&client), &verifier.stored).map_err(|_| ScramError::Proof)?;
        Ok(format!("v={}", STANDARD.encode(mac(&verifier.server, signed.as_bytes()))))
    }
}

fn text(bytes: &[u8]) -> Result<&str, ScramError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(ScramError::Malformed("a message that is too long"));
    }
    std::str::from_utf8(bytes).map_err(|_| ScramError::Malformed("a message that is no text"))
}

fn printable(nonce: &str) -> bool {
    !nonce.is_empty() && nonce.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

fn mac(key: &[u8], text: &[u8]) -> Key {
    fixed(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref())
}

fn sha256(text: &[u8]) -> Key {
    fixed(digest::digest(&digest::SHA256, text).as_ref())
}

/// A hash of SHA-256 has as many bytes.
fn fixed(hash: &[u8]) -> Key {
    let mut key = [0; KEY_BYTES];
    key.iter_mut().zip(hash).for_each(|(to, from)| *to = *from);
    key
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use proptest::prelude::*;

    use super::*;

    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const END: &[u8] = b"the hash of a certificate";

    fn offer(end_point: Option<&'static [u8]>) -> Offer<'static> {
        const SALT: [u8; 16] =
            [0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa, 0x81];
        Offer { end_point, salt: &SALT, rounds: ROUNDS, nonce: NONCE }
    }

    fn verifier(password: &str) -> Verifier {
        Verifier::derive(password.as_bytes(), offer(None).salt, ROUNDS)
    }

    /// RFC 7677, section 3.
    #[test]
    fn the_example_of_the_standard() {
        let exchange = Exchange::begin(PLAIN, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", offer(None)).unwrap();
        assert_eq!(
            exchange.server_first,
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let said = exchange.finish(&verifier("pencil"), last.as_bytes());
        assert_eq!(said.unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(exchange.finish(&verifier("pencil2"), last.as_bytes()), Err(ScramError::Proof));
        for (last, expected) in [
            (last.replace("c=biws", "c=eSws"), ScramError::Binding),
            (last.replace("k0,p=", "k1,p="), ScramError::Malformed("a nonce of another exchange")),
            (last.replace("VQ=", "VR="), ScramError::Malformed("a proof that is no hash")),
            (last.replace("p=dH", "p=eH"), ScramError::Proof),
            (last.replace(",p=", ",x="), ScramError::Malformed("no proof at the end")),
            (last.replace("c=biws,", ""), ScramError::Malformed("no channel binding")),
        ] {
            assert_eq!(exchange.finish(&verifier("pencil"), last.as_bytes()), Err(expected), "{last}");
        }
    }

    #[test]
    fn flags_of_channel_binding() {
        let out_of_place = ScramError::Malformed("a channel binding flag out of place");
        let no_such = ScramError::Malformed("a mechanism that was not offered");
        let end = "p=tls-server-end-point,,n=,r=abc";
        for (mechanism, first, offered, expected) in [
            (PLAIN, "n,,n=,r=abc", None, None),
            (PLAIN, "n,,n=,r=abc", Some(END), None),
            (PLAIN, "y,,n=,r=abc", None, None),
            (PLAIN, "y,,n=,r=abc", Some(END), Some(ScramError::Downgrade)),
            (PLUS, end, Some(END), None),
            (PLUS, end, None, Some(no_such)),
            (PLAIN, end, Some(END), Some(out_of_place)),
            (PLUS, "n,,n=,r=abc", Some(END), Some(out_of_place)),
            (PLUS, "y,,n=,r=abc", Some(END), Some(out_of_place)),
            ("SCRAM-SHA-1", "n,,n=,r=abc", None, Some(no_such)),
        ] {
            let begun = Exchange::begin(mechanism, first.as_bytes(), offer(offered));
            assert_eq!(begun.err(), expected, "{mechanism} {first} {offered:?}");
        }
        for first in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=",
            "n,,n=,r=",
            "n,,r=abc,n=",
            "n,,m=x,n=,r=abc",
            "n,a=bob,n=,r=abc",
            "x,,n=,r=abc",
            "n,,n=,r=a\u{7f}b",
            "p=tls-unique,,n=,r=abc",
        ] {
            assert!(Exchange::begin(PLAIN, first.as_bytes(), offer(None)).is_err(), "{first}");
        }
        assert!(Exchange::begin(PLUS, b"p=tls-unique,,n=,r=abc", offer(Some(END))).is_err());
        assert!(Exchange::begin(PLAIN, b"n,,n=,r=\xff", offer(None)).is_err());
    }

    /// An exchange with a client that others wrote; whether both sides were content.
    fn exchange(binding: ChannelBinding, end_point: Option<&[u8]>, theirs: &str, ours: &str) -> bool {
        let mechanism = if end_point.is_some() { PLUS } else { PLAIN };
        let mut client = ScramSha256::new(theirs.as_bytes(), binding);
        let offer = Offer { end_point, ..offer(None) };
        let begun = Exchange::begin(mechanism, client.message(), offer).unwrap();
        client.update(begun.server_first.as_bytes()).unwrap();
        match begun.finish(&verifier(ours), client.message()) {
            Ok(said) => client.finish(said.as_bytes()).is_ok(),
            Err(_) => false,
        }
    }

    #[test]
    fn a_client_of_others_is_content() {
        let end = || ChannelBinding::tls_server_end_point(END.to_vec());
        assert!(exchange(ChannelBinding::unsupported(), None, "right", "right"));
        assert!(!exchange(ChannelBinding::unsupported(), None, "wrong", "right"));
        assert!(exchange(end(), Some(END), "right", "right"));
        assert!(!exchange(end(), Some(b"another certificate"), "right", "right"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_bytes_make_it_panic(first in any::<Vec<u8>>(), text in ".{0,80}", last in ".{0,120}") {
            let _ = Exchange::begin(PLAIN, &first, offer(None));
            let _ = Exchange::begin(PLUS, format!("p=tls-server-end-point,,{text}").as_bytes(), offer(Some(END)));
            if let Ok(begun) = Exchange::begin(PLAIN, format!("n,,n={text},r=abc").as_bytes(), offer(None)) {
                let verifier = Verifier { stored: [1; KEY_BYTES], server: [2; KEY_BYTES] };
                let _ = begun.finish(&verifier, last.as_bytes());
                let last = format!("c=biws,r={},p={last}", begun.nonce);
                prop_assert!(begun.finish(&verifier, last.as_bytes()).is_err());
            }
        }

        #[test]
        fn only_the_same_password_is_the_same(theirs in "[a-zA-Z0-9_-]{1,20}", ours in "[a-zA-Z0-9_-]{1,20}") {
            prop_assert_eq!(exchange(ChannelBinding::unsupported(), None, &theirs, &ours), theirs == ours);
        }
    }
}
