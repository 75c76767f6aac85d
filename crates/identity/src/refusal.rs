//! Why credentials are refused: one variant for each check.
//!
//! `Display` is the operator's text, and says what was expected and what came. The caller's text names
//! the check and what to do next; it repeats nothing of a token that has not been verified, and does not
//! tell one unknown API key from another.

use std::time::Duration;

use doorward_core::{Code, Fault};

use crate::codes;
use crate::config::Algorithm;

/// A claim's value is cut after so many bytes before the operator reads it.
const SHOWN_BYTES_MAX: usize = 200;

/// A refusal of credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Two `Authorization` headers, another scheme than Bearer …
    #[error("malformed credentials: {0}")]
    MalformedCredentials(&'static str),
    /// A token over plain HTTP from another machine.
    #[error("a token came over a transport that is not confidential; see dangerous_plaintext_tokens")]
    Plaintext,
    /// The token's form is broken.
    #[error("malformed token: {0}")]
    Malformed(&'static str),
    /// The token is too large.
    #[error("the token has {0} bytes, more than {max}", max = crate::token::TOKEN_BYTES_MAX)]
    TooLarge(usize),
    /// `none`, a symmetric or an unknown algorithm.
    #[error("the token says alg {0}, which is never accepted")]
    AlgorithmUnknown(String),
    /// An algorithm that this issuer may not use.
    #[error("the token says alg {alg}, which issuers.{issuer}.algorithms does not list", alg = .1.as_str(), issuer = .0)]
    AlgorithmNotListed(String, Algorithm),
    /// No configured issuer has this `iss`.
    #[error("no configured issuer has the url {0}; the token's iss must equal it to the last character")]
    UnknownIssuer(String),
    /// The audience does not match.
    #[error("{claim} is {got}, expected {expected}")]
    WrongAudience {
        /// Where the audience was looked for.
        claim: String,
        /// What the token says.
        got: String,
        /// What the configuration says.
        expected: String,
    },
    /// A claim is missing or unusable.
    #[error("the claim {0} {1}")]
    BadClaim(String, &'static str),
    /// `exp` has passed.
    #[error("the token expired at {exp}, now is {now} (Unix seconds), leeway {leeway} s")]
    Expired {
        /// The claim.
        exp: i64,
        /// The clock.
        now: i64,
        /// The configured leeway in seconds.
        leeway: i64,
    },
    /// `nbf` or `iat` is in the future.
    #[error("{claim} is {at}, now is {now} (Unix seconds), leeway {leeway} s")]
    NotYet {
        /// Which claim.
        claim: &'static str,
        /// Its value.
        at: i64,
        /// The clock.
        now: i64,
        /// The configured leeway in seconds.
        leeway: i64,
    },
    /// The token lives too long.
    #[error("the token lives {lifetime} s, more than lifetime_max {max} s")]
    Lifetime {
        /// From `iat`, `nbf` or now to `exp`.
        lifetime: i64,
        /// The cap.
        max: i64,
    },
    /// `typ` or a claim says that it is something else than an access token.
    #[error("the token's type is {got}, expected {expected}")]
    WrongType {
        /// What the token says.
        got: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// It looks like an ID token.
    #[error("the token has {0}, so it is an ID token")]
    IdToken(&'static str),
    /// `cnf`: the token is bound to a key (DPoP) or a certificate.
    #[error("the token is sender-constrained (cnf) and came as a bearer token")]
    Bound,
    /// The client is not listed.
    #[error("the token's client is {0}, which issuers.*.clients does not list")]
    WrongClient(String),
    /// Entra ID leaves groups out when there are too many.
    #[error("the issuer moved the groups claim out of the token (overage)")]
    GroupsOverage,
    /// The issuer's key set has no key of this `kid` that fits.
    #[error("the issuer {0} publishes no key that fits kid {1}")]
    UnknownKey(String, String),
    /// The signature does not match the key.
    #[error("the signature does not match the key of issuer {0}")]
    BadSignature(String),
    /// The issuer cannot be asked.
    #[error("issuer {issuer}: {cause}")]
    IssuerUnavailable {
        /// Its name.
        issuer: String,
        /// Why.
        cause: String,
        /// When it is asked again.
        retry_after: Duration,
    },
    /// Nobody to ask about an opaque token.
    #[error("the token is not a JWT, and no issuer has introspection configured")]
    Opaque,
    /// Introspection said `active: false`.
    #[error("issuer {0} says that the token is not active")]
    Inactive(String),
    /// No such key, or a wrong secret.
    #[error("API key: {0}")]
    UnknownApiKey(String),
    /// The key has expired.
    #[error("API key {0} has expired")]
    ApiKeyExpired(String),
    /// The certificate breaks a rule.
    #[error("malformed certificate: {0}")]
    MalformedCertificate(&'static str),
    /// The certificate is outside its validity.
    #[error("the certificate is valid from {not_before} to {not_after}, now is {now} (Unix seconds)")]
    CertificateExpired {
        /// Its beginning.
        not_before: i64,
        /// Its end.
        not_after: i64,
        /// The clock.
        now: i64,
    },
    /// Nobody configured.
    #[error("no entry of certificates matches {0}")]
    UnknownCertificate(String),
    /// The password of a minted login was not proven.
    #[error("the client did not prove the password of a minted login")]
    WrongPassword,
    /// A minted login is over.
    #[error("the login expired at {at}, now is {now} (Unix seconds)")]
    LoginExpired {
        /// Its end.
        at: i64,
        /// The clock.
        now: i64,
    },
    /// No login can be minted for this caller.
    #[error("no login is minted: {0}")]
    NotMintable(&'static str),
    /// The session's proof no longer counts.
    #[error("{0}")]
    NoLongerAccepted(&'static str),
}

impl Refusal {
    /// The stable code.
    pub fn code(&self) -> &'static Code {
        match self {
            Self::MalformedCredentials(_) => codes::MALFORMED_CREDENTIALS,
            Self::Plaintext => codes::PLAINTEXT,
            Self::Malformed(_) => codes::MALFORMED_TOKEN,
            Self::TooLarge(_) => codes::TOKEN_TOO_LARGE,
            Self::AlgorithmUnknown(_) | Self::AlgorithmNotListed(..) => codes::ALGORITHM_NOT_ALLOWED,
            Self::UnknownIssuer(_) => codes::UNKNOWN_ISSUER,
            Self::WrongAudience { .. } => codes::WRONG_AUDIENCE,
            Self::BadClaim(..) => codes::BAD_CLAIM,
            Self::Expired { .. } => codes::TOKEN_EXPIRED,
            Self::NotYet { .. } => codes::TOKEN_NOT_YET_VALID,
            Self::Lifetime { .. } => codes::TOKEN_LIFETIME,
            Self::WrongType { .. } => codes::WRONG_TOKEN_TYPE,
            Self::IdToken(_) => codes::ID_TOKEN,
            Self::Bound => codes::BOUND_TOKEN,
            Self::WrongClient(_) => codes::WRONG_CLIENT,
            Self::GroupsOverage => codes::GROUPS_OVERAGE,
            Self::UnknownKey(..) => codes::UNKNOWN_KEY,
            Self::BadSignature(_) => codes::BAD_SIGNATURE,
            Self::IssuerUnavailable { .. } => codes::ISSUER_UNAVAILABLE,
            Self::Opaque => codes::OPAQUE_TOKEN,
            Self::Inactive(_) => codes::TOKEN_INACTIVE,
            Self::UnknownApiKey(_) => codes::UNKNOWN_API_KEY,
            Self::ApiKeyExpired(_) => codes::API_KEY_EXPIRED,
            Self::MalformedCertificate(_) => codes::MALFORMED_CERTIFICATE,
            Self::CertificateExpired { .. } => codes::CERTIFICATE_EXPIRED,
            Self::UnknownCertificate(_) => codes::UNKNOWN_CERTIFICATE,
            Self::WrongPassword => codes::WRONG_PASSWORD,
            Self::LoginExpired { .. } => codes::LOGIN_EXPIRED,
            Self::NotMintable(_) => codes::NOT_MINTABLE,
            Self::NoLongerAccepted(_) => codes::NO_LONGER_ACCEPTED,
        }
    }

    /// What the caller reads: what is wrong, and what to do next.
    fn public(&self) -> (&'static str, &'static str) {
        const FRESH: &str = "Get a fresh access token from your issuer.";
        const OPERATOR: &str = "Ask the gateway's operator; the record of this call says more.";
        match self {
            Self::MalformedCredentials(why) => (why, "Send one header: Authorization: Bearer TOKEN."),
            Self::Plaintext => {
                ("a token was sent over an unencrypted connection", "Use https; treat this token as exposed.")
            }
            Self::Malformed(_) => ("the token is not a well-formed signed JWT", FRESH),
            Self::TooLarge(_) => {
                ("the token is too large", "Ask your issuer's administrator to put fewer claims into it.")
            }
            Self::AlgorithmUnknown(_) | Self::AlgorithmNotListed(..) => {
                ("the token's signature algorithm is not accepted here", OPERATOR)
            }
            Self::UnknownIssuer(_) => (
                "the token's issuer is not one that this gateway trusts",
                "Check that the token comes from the issuer that the gateway's operator named, character by character.",
            ),
            Self::WrongAudience { .. } => (
                "the token was not issued for this gateway",
                "Request a token with the gateway's audience (the `audience`, `resource` or scope that its operator gave you).",
            ),
            Self::BadClaim(..) => {
                ("the token lacks a claim that is required, or has it in a wrong form", OPERATOR)
            }
            Self::Expired { .. } => ("the token has expired", FRESH),
            Self::NotYet { .. } => (
                "the token is not valid yet",
                "Check the clocks of the issuer and of the gateway, then try again.",
            ),
            Self::Lifetime { .. } => (
                "the token lives longer than this gateway accepts",
                "Request a token with a shorter lifetime.",
            ),
            Self::WrongType { .. } => ("the token is not an access token", "Send the access token."),
            Self::IdToken(_) => {
                ("an ID token was sent in place of an access token", "Send the access token.")
            }
            Self::Bound => (
                "the token is bound to a key or certificate, and this gateway takes bearer tokens",
                "Request a token without DPoP or certificate binding.",
            ),
            Self::WrongClient(_) => ("tokens of this OAuth client are not accepted here", OPERATOR),
            Self::GroupsOverage => (
                "the issuer left the groups out of the token because there are too many",
                "Ask your issuer's administrator to emit only the groups assigned to the application.",
            ),
            Self::UnknownKey(..) => {
                ("the token is signed with a key that its issuer does not publish", FRESH)
            }
            Self::BadSignature(_) => ("the token's signature is wrong", FRESH),
            Self::IssuerUnavailable { .. } => {
                ("the token cannot be checked because its issuer does not answer", "Try again later.")
            }
            Self::Opaque => {
                ("this gateway takes signed JWTs, and the token is not one", "Send a JWT access token.")
            }
            Self::Inactive(_) => ("the issuer says that the token is not active", FRESH),
            Self::UnknownApiKey(_) => ("the API key is not known", "Check the key, or ask for a new one."),
            Self::ApiKeyExpired(_) => {
                ("the API key has expired", "Ask the gateway's operator for a new one.")
            }
            Self::MalformedCertificate(_) => ("the client certificate cannot be used", OPERATOR),
            Self::CertificateExpired { .. } => {
                ("the client certificate is not valid at this time", "Renew the certificate.")
            }
            Self::UnknownCertificate(_) => {
                ("the client certificate names nobody who is known here", OPERATOR)
            }
            Self::WrongPassword => (
                "this user name and password are not known here",
                "Mint a fresh login: doorward token --postgres.",
            ),
            Self::LoginExpired { .. } => {
                ("the login has expired", "Mint a fresh login: doorward token --postgres.")
            }
            Self::NotMintable(why) => {
                (why, "Use the token itself, or the API key, as the password through TLS.")
            }
            Self::NoLongerAccepted(_) => (
                "what proved this session's identity is no longer accepted",
                "Reconnect with fresh credentials.",
            ),
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let (public, hint) = refusal.public();
        let fault = Self::new(refusal.code(), public).hint(hint).cause(&refusal);
        match refusal {
            Refusal::IssuerUnavailable { retry_after, .. } => fault.retry_after(retry_after),
            _ => fault,
        }
    }
}

/// A foreign value as the operator may read it: escaped, quoted and cut.
pub(crate) fn shown(text: &str) -> String {
    let end = text.floor_char_boundary(SHOWN_BYTES_MAX);
    let cut = text.get(..end).unwrap_or_default();
    format!("{cut:?}{}", if cut.len() < text.len() { "…" } else { "" })
}
