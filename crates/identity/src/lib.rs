//! Identity: credentials → principal. Implements [`doorward_core::Authenticator`].
//!
//! A bearer token is one of three things, told apart by its form: an API key of the gateway (`dw_…`), a
//! signed JWT of a configured issuer (RFC 9068, RFC 7519), or an opaque token that its issuer is asked
//! about (RFC 7662). A client certificate is known by its SPIFFE ID or its subject. A login that was minted for a
//! token is as good as the token.
//!
//! Constraints and invariants:
//! - RFC 8725: a token's issuer is chosen by its exact `iss`, and that issuer's rules and keys alone
//!   count; keys fix algorithms; nothing in a token makes the gateway fetch anything.
//! - Whatever is cheap to check is checked before a signature is, and before an issuer is asked.
//! - Whoever is not proven is refused, with a code of its own for each check; an issuer that cannot be
//!   reached is "try again later", never "come in".
//! - A token that expires, a key that is withdrawn, an API key that is removed: each ends what it proved.
//! - No cache, wait or input is without a named bound. Tokens and keys are never logged; caches hold
//!   hashes.

mod api_key;
mod certificate;
pub mod codes;
pub mod config;
mod discovery;
mod dn;
mod fetch;
mod identity;
mod introspect;
mod issuer;
mod jwks;
mod keys;
mod logins;
mod plan;
mod refusal;
#[cfg(test)]
mod tests;
pub mod token;
mod url;
mod verified;
mod wire;

pub use api_key::{
    API_KEY_ISSUER, API_KEY_PREFIX, API_KEYS_MAX, ApiKeyError, IssuedApiKey, NewApiKey, new_api_key,
};
pub use certificate::CERTIFICATE_ISSUER;
pub use config::IdentityConfig;
pub use fetch::{Fetch, FetchError, FetchRequest, Fetched};
pub use identity::Identity;
pub use introspect::{ACTIVE_TTL, INACTIVE_TTL};
pub use jwks::{COOLDOWN, KeySourceHealth, KeySources, NEGATIVE_MAX, NEGATIVE_TTL, STALE_MAX, WAIT_MAX};
pub use logins::{LOGIN_BYTES_MAX, LOGIN_PREFIX, new_login_key};
pub use plan::Plan;
pub use refusal::Refusal;
pub use verified::VERIFIED_BYTES_MAX;
