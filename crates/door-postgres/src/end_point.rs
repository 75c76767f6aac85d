//! Channel binding `tls-server-end-point` (RFC 5929, 4): the hash of the certificate that a server shows.

use aws_lc_rs::digest::{self, Algorithm, SHA256, SHA384, SHA512};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// The hash of a certificate by the algorithm of its signature; `None` where the RFC says of none which one that is
/// (Ed25519).
pub(crate) fn of(der: &[u8]) -> Option<Box<[u8]>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let algorithm = &certificate.signature_algorithm;
    let hash = match algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.10" => match SignatureAlgorithm::try_from(algorithm).ok()? {
            SignatureAlgorithm::RSASSA_PSS(parameters) => {
                by_hash(&parameters.hash_algorithm_oid().to_id_string())?
            }
            _ => return None,
        },
        signature => by_signature(signature)?,
    };
    Some(digest::digest(hash, der).as_ref().into())
}

/// MD5 and SHA-1 count as SHA-256.
fn by_signature(oid: &str) -> Option<&'static Algorithm> {
    Some(match oid {
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" => &SHA256,
        "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => &SHA256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &SHA512,
        _ => return None,
    })
}

fn by_hash(oid: &str) -> Option<&'static Algorithm> {
    Some(match oid {
        "1.2.840.113549.2.5" | "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => &SHA256,
        "2.16.840.1.101.3.4.2.2" => &SHA384,
        "2.16.840.1.101.3.4.2.3" => &SHA512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn the_signature_says_which_hash() {
        for (algorithm, bytes) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(32)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(48)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key);
            let certificate = certificate.unwrap();
            assert_eq!(of(certificate.der()).map(|hash| hash.len()), bytes, "{algorithm:?}");
        }
        assert_eq!(of(b"no certificate"), None);
        assert_eq!(by_hash("2.16.840.1.101.3.4.2.3").map(Algorithm::output_len), Some(64));
    }
}
