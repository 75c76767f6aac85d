//! Tokens that were verified a while ago, by their SHA-256.
//!
//! Invariants: an entry counts until the token expires or the key that verified it is retired, whichever
//! comes first. The cache belongs to one [`Identity`](crate::Identity), so that a reload, which may change
//! what claims mean, starts with an empty one. Only successes are kept; tokens themselves are not.

use std::sync::Arc;

use doorward_core::{Principal, Timestamp};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::keys::Key;

/// All entries together, roughly.
pub const VERIFIED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What the cache is laid out for at first; it grows up to [`VERIFIED_BYTES_MAX`].
const ENTRIES_EXPECTED: usize = 4096;
/// An entry without its claims.
const ENTRY_BYTES: u64 = 1024;
/// Parsed claims and their JSON text take about so many times the text's size.
const CLAIMS_FACTOR: u64 = 4;

/// The cache.
pub(crate) struct VerifiedTokens(Cache<[u8; 32], Verified, Weight>);

#[derive(Clone)]
struct Verified {
    principal: Arc<Principal>,
    key: Arc<Key>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<[u8; 32], Verified> for Weight {
    fn weight(&self, _: &[u8; 32], verified: &Verified) -> u64 {
        ENTRY_BYTES + CLAIMS_FACTOR * verified.principal.claims_json.len() as u64
    }
}

impl VerifiedTokens {
    pub(crate) fn new() -> Self {
        Self(Cache::with_weighter(ENTRIES_EXPECTED, VERIFIED_BYTES_MAX, Weight))
    }

    pub(crate) fn find(&self, hash: &[u8; 32], now: Timestamp) -> Option<Arc<Principal>> {
        let verified = self.0.get(hash)?;
        let expired = verified.principal.expires_at.is_none_or(|expires_at| expires_at <= now);
        if expired || verified.key.retired() {
            self.0.remove(hash);
            return None;
        }
        Some(verified.principal)
    }

    pub(crate) fn keep(&self, hash: [u8; 32], principal: Arc<Principal>, key: Arc<Key>) {
        self.0.insert(hash, Verified { principal, key });
    }

    #[cfg(test)]
    pub(crate) fn weight(&self) -> u64 {
        self.0.weight()
    }
}
