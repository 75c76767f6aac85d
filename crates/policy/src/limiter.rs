//! Limits: the generic cell rate algorithm (GCRA), counted in a sharded map of bounded size.
//!
//! A key's whole state is its theoretical arrival time: the moment at which the limit would be whole again
//! had nobody called since. A refused call changes nothing, so a caller who hammers is not locked out
//! longer. Keys are 128-bit hashes with a random seed: a caller can neither find out nor choose the shard
//! that it falls into.
//!
//! When a shard is full, keys whose limit is whole again are dropped (they are as good as new). When all
//! are in use, a new key is refused rather than let in uncounted. Everybody who shows nothing counts as one
//! principal.
//!
//! The counters are shared by all snapshots: a reload keeps them for a grant whose name and limit stay.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::time::Duration;

use doorward_core::{Actions, Allowance, Fault, GrantName, Principal, Timestamp};
use parking_lot::Mutex;

use crate::codes;
use crate::config::{LimitConfig, Per};

/// The most keys that are counted at the same time, over all grants.
pub const KEYS_MAX: usize = SHARDS * SHARD_KEYS_MAX;

const SHARDS: usize = 64;
const SHARD_KEYS_MAX: usize = 8_192;

/// A compiled limit: `burst` calls at once, one more each `interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Limit {
    interval_nanos: u64,
    burst: u64,
    per: Per,
}

impl Limit {
    /// One call each `period / count`, and `count` at once unless `burst` says otherwise.
    pub(crate) fn new(config: &LimitConfig) -> Self {
        let period_nanos = config.rate.period_seconds.saturating_mul(1_000_000_000);
        // The rate's largest number keeps this above zero.
        let interval_nanos = (period_nanos / config.rate.count.max(1)).max(1);
        Self { interval_nanos, burst: config.burst.unwrap_or(config.rate.count).max(1), per: config.per }
    }

    /// How long it takes from used up to whole again.
    fn window_nanos(self) -> u64 {
        self.interval_nanos.saturating_mul(self.burst)
    }
}

/// What became of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// It is counted; so long until the limit is whole again.
    Admitted { reset_nanos: u64 },
    /// It is not counted; so long until one more is admitted.
    Refused { wait_nanos: u64, reset_nanos: u64 },
    /// There is no room for a new key; so long until there is.
    NoRoom { wait_nanos: u64 },
}

/// The counters of all limits.
pub struct Limiter {
    shards: Vec<Mutex<Shard>>,
    shard_keys_max: usize,
    seeds: (RandomState, RandomState),
}

#[derive(Default)]
struct Shard {
    /// Key → theoretical arrival time, in nanoseconds since the epoch.
    arrivals: HashMap<u128, u64, BuildHasherDefault<KeyBits>>,
    /// No key is free before then, so a full shard is not searched again until then.
    full_until_nanos: u64,
}

/// Half of a key's bits. They are a keyed hash already, so they are not hashed again.
#[derive(Default)]
struct KeyBits(u64);

impl Hasher for KeyBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().copied().map_or(0, u64::from_ne_bytes);
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter").field("keys", &self.keys()).finish_non_exhaustive()
    }
}

impl Limiter {
    /// Counters that have counted nothing.
    pub fn new() -> Self {
        Self::with_room(SHARD_KEYS_MAX)
    }

    fn with_room(shard_keys_max: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::default())).collect();
        Self { shards, shard_keys_max, seeds: (RandomState::new(), RandomState::new()) }
    }

    /// How many keys are counted now; a metric.
    pub fn keys(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().arrivals.len()).sum()
    }

    /// Counts a call against the limit of a grant.
    pub(crate) fn admit(
        &self,
        grant: &GrantName,
        limit: Limit,
        (principal, actions): (&Principal, &Actions),
        now: Timestamp,
    ) -> Result<Allowance, Fault> {
        let key = self.key(grant, limit, principal, actions);
        let now_nanos = u64::try_from(now.micros()).unwrap_or(0).saturating_mul(1_000);
        let allowance = |reset_nanos: u64| Allowance {
            name: grant.clone(),
            quota: limit.burst,
            window: Duration::from_nanos(limit.window_nanos()),
            remaining: limit.window_nanos().saturating_sub(reset_nanos) / limit.interval_nanos,
            reset: Duration::from_nanos(reset_nanos),
        };
        match self.count(key, limit, now_nanos) {
            Count::Admitted { reset_nanos } => Ok(allowance(reset_nanos)),
            Count::Refused { wait_nanos, reset_nanos } => Err(exceeded(Duration::from_nanos(wait_nanos))
                .rule(grant.clone())
                .limit(allowance(reset_nanos))),
            Count::NoRoom { wait_nanos } => {
                Err(no_room(Duration::from_nanos(wait_nanos)).rule(grant.clone()))
            }
        }
    }

    /// How many calls are left under the limit of a grant. Counts nothing.
    pub(crate) fn left(
        &self,
        grant: &GrantName,
        limit: Limit,
        (principal, actions): (&Principal, &Actions),
        now: Timestamp,
    ) -> u64 {
        let key = self.key(grant, limit, principal, actions);
        let now_nanos = u64::try_from(now.micros()).unwrap_or(0).saturating_mul(1_000);
        let arrival = self.shard(key).and_then(|shard| shard.lock().arrivals.get(&key).copied()).unwrap_or(0);
        let window = limit.window_nanos();
        let reset = arrival.saturating_sub(now_nanos).min(window);
        (window - reset) / limit.interval_nanos
    }

    fn shard(&self, key: u128) -> Option<&Mutex<Shard>> {
        // The shard's number comes from bits that the map inside does not depend on alone.
        self.shards.get(usize::try_from(key >> 96).unwrap_or(0) % SHARDS)
    }

    pub(crate) fn count(&self, key: u128, limit: Limit, now_nanos: u64) -> Count {
        let Some(shard) = self.shard(key) else {
            return Count::NoRoom { wait_nanos: limit.interval_nanos };
        };
        shard.lock().count(key, limit, now_nanos, self.shard_keys_max)
    }

    fn key(&self, grant: &GrantName, limit: Limit, principal: &Principal, actions: &Actions) -> u128 {
        let hash = |seed: &RandomState| match limit.per {
            Per::Principal => {
                seed.hash_one((grant, limit, principal.issuer.as_str(), &**principal.subject.reveal()))
            }
            Per::Grant => seed.hash_one((grant, limit)),
            Per::Resource => seed.hash_one((grant, limit, actions.resource())),
        };
        u128::from(hash(&self.seeds.0)) << 64 | u128::from(hash(&self.seeds.1))
    }
}

impl Shard {
    fn count(&mut self, key: u128, limit: Limit, now_nanos: u64, keys_max: usize) -> Count {
        let window = limit.window_nanos();
        let known = self.arrivals.get(&key).copied();
        if known.is_none() && self.arrivals.len() >= keys_max && !self.make_room(now_nanos) {
            let wait_nanos = self.full_until_nanos.saturating_sub(now_nanos).max(1);
            return Count::NoRoom { wait_nanos };
        }
        // A time further away than the window means that the clock was set back.
        let arrival = known.unwrap_or(0).clamp(now_nanos, now_nanos.saturating_add(window));
        let next = arrival.saturating_add(limit.interval_nanos);
        let reset_nanos = next - now_nanos;
        if reset_nanos > window {
            return Count::Refused { wait_nanos: reset_nanos - window, reset_nanos: arrival - now_nanos };
        }
        self.arrivals.insert(key, next);
        Count::Admitted { reset_nanos }
    }

    /// Drops the keys whose limit is whole again; says whether there were any.
    fn make_room(&mut self, now_nanos: u64) -> bool {
        if now_nanos < self.full_until_nanos {
            return false;
        }
        let before = self.arrivals.len();
        self.arrivals.retain(|_, arrival| *arrival > now_nanos);
        if self.arrivals.len() < before {
            return true;
        }
        self.full_until_nanos = self.arrivals.values().copied().min().unwrap_or(0);
        false
    }
}

fn exceeded(wait: Duration) -> Fault {
    let seconds = wait.as_secs_f64();
    Fault::new(codes::LIMIT_EXCEEDED, "the limit of the grant that allows this is used up for now")
        .hint(format!("Try again in {seconds:.3} seconds; calls that are refused do not count."))
        .retry_after(wait)
}

fn no_room(wait: Duration) -> Fault {
    Fault::new(codes::LIMIT_NO_ROOM, "the gateway counts the calls of as many callers as it can hold")
        .hint("Try again later.")
        .cause(format_args!("all {KEYS_MAX} counters of limits are in use"))
        .retry_after(wait)
}

#[cfg(test)]
mod tests;
