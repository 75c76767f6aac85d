//! An issuer's key set: cached, kept fresh in the background, and refetched when a token names a key
//! that is not in it.
//!
//! Invariants:
//! - One task of its own fetches, so there is never more than one fetch in flight, whoever hangs up.
//! - What callers send causes at most one fetch in [`COOLDOWN`], and a key id that was not found causes
//!   none for [`NEGATIVE_TTL`].
//! - While the issuer is away its last keys serve, for at most [`STALE_MAX`]; an issuer that was never
//!   reached makes its callers wait [`WAIT_MAX`] at most and then try again later. It stops nothing else.
//! - A key that the issuer withdraws is marked retired, and with it every token that it verified.
//! - The task ends when the last configuration that names the issuer is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::config::Algorithm;
use crate::discovery::{Loaded, SourceId, fetch_keys, find_jwks_url};
use crate::fetch::Fetch;
use crate::keys::Key;

/// What callers send causes no second fetch within this time.
pub const COOLDOWN: Duration = Duration::from_secs(30);
/// How long a key id that the issuer does not know causes no fetch.
pub const NEGATIVE_TTL: Duration = Duration::from_secs(300);
/// How many such key ids are remembered; the cooldown holds for the others.
pub const NEGATIVE_MAX: usize = 1024;
/// How long keys serve without a successful refresh.
pub const STALE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Refreshes are at least this far apart, whatever `Cache-Control` says …
const REFRESH_MIN: Duration = Duration::from_secs(5 * 60);
/// … and at most this far, so that a withdrawn key is gone within the hour.
const REFRESH_MAX: Duration = Duration::from_secs(3600);
/// One refresh, metadata and keys together.
const REFRESH_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a caller waits for a refresh.
pub const WAIT_MAX: Duration = Duration::from_secs(5);
/// Metadata is read again after this time, or after a failure.
const METADATA_TTL: Duration = Duration::from_secs(24 * 3600);
/// Pauses after failures: short while there are no keys at all, longer while the old ones serve.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX_WITHOUT_KEYS: Duration = Duration::from_secs(30);
const RETRY_MAX_WITH_KEYS: Duration = Duration::from_secs(300);
/// Keys that are tried for a token without `kid`.
const CANDIDATES_MAX: usize = 4;

/// Why there is no key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// The issuer does not publish it.
    Unknown,
    /// The issuer cannot be asked.
    Unavailable { cause: String, retry_after: Duration },
}

/// An issuer's keys. Dropped, it stops refreshing.
pub(crate) struct KeySource {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    id: SourceId,
    fetch: Arc<dyn Fetch>,
    state: RwLock<State>,
    wake: Notify,
    refreshed: watch::Sender<u64>,
    negative: Mutex<HashMap<Box<str>, Instant>>,
}

struct State {
    keys: Vec<Arc<Key>>,
    fetched_at: Option<Instant>,
    in_flight: bool,
    attempted_at: Instant,
    next_attempt_at: Instant,
    failures: u32,
    failure: Option<String>,
}

/// How an issuer's key set is, for readiness and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySourceHealth {
    /// How many keys serve.
    pub keys: usize,
    /// How long ago they were fetched.
    pub age: Option<Duration>,
    /// Why the last refresh failed, if it did.
    pub failure: Option<String>,
}

/// The key sets of all configured issuers, kept across reloads.
pub struct KeySources {
    fetch: Arc<dyn Fetch>,
    sources: Mutex<HashMap<SourceId, Weak<KeySource>>>,
}

impl KeySources {
    /// No key sets yet; they will be fetched with this.
    pub fn new(fetch: Arc<dyn Fetch>) -> Self {
        Self { fetch, sources: Mutex::new(HashMap::new()) }
    }

    pub(crate) fn fetch(&self) -> &Arc<dyn Fetch> {
        &self.fetch
    }

    /// The key set of an issuer: the one that a living configuration uses already, or a new one, which
    /// begins to fetch at once. Must be called within a tokio runtime.
    pub(crate) fn source(&self, id: SourceId) -> Arc<KeySource> {
        let mut sources = self.sources.lock();
        sources.retain(|_, source| source.strong_count() > 0);
        if let Some(source) = sources.get(&id).and_then(Weak::upgrade) {
            return source;
        }
        let source = Arc::new(KeySource::start(id.clone(), self.fetch.clone()));
        sources.insert(id, Arc::downgrade(&source));
        source
    }
}

impl std::fmt::Debug for KeySources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySources").field("sources", &self.sources.lock().len()).finish_non_exhaustive()
    }
}

impl KeySource {
    fn start(id: SourceId, fetch: Arc<dyn Fetch>) -> Self {
        let now = Instant::now();
        let state = State {
            keys: Vec::new(),
            fetched_at: None,
            in_flight: true,
            attempted_at: now,
            next_attempt_at: now,
            failures: 0,
            failure: None,
        };
        let shared = Arc::new(Shared {
            id,
            fetch,
            state: RwLock::new(state),
            wake: Notify::new(),
            refreshed: watch::Sender::new(0),
            negative: Mutex::new(HashMap::new()),
        });
        let task = tokio::spawn(keep_fresh(shared.clone())).abort_handle();
        Self { shared, task }
    }

    /// The keys with which a token of this header may be signed; never an empty list.
    pub(crate) async fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Vec<Arc<Key>>, NoKey> {
        if let Some(keys) = self.shared.fitting(kid, algorithm) {
            return Ok(keys);
        }
        let mut refreshed = match self.shared.ask_for_refresh(kid) {
            Ok(refreshed) => refreshed,
            // A refresh may have ended since the key was looked for.
            Err(no_key) => return self.shared.fitting(kid, algorithm).ok_or(no_key),
        };
        if tokio::time::timeout(WAIT_MAX, refreshed.changed()).await.is_err() {
            return Err(self.shared.unavailable("its keys take too long to come"));
        }
        if let Some(keys) = self.shared.fitting(kid, algorithm) {
            return Ok(keys);
        }
        Err(self.shared.not_found(kid))
    }

    pub(crate) fn health(&self) -> KeySourceHealth {
        let state = self.shared.state.read();
        KeySourceHealth {
            keys: state.keys.len(),
            age: state.fetched_at.map(|at| at.elapsed()),
            failure: state.failure.clone(),
        }
    }
}

impl Drop for KeySource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn fitting(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<Vec<Arc<Key>>> {
        let state = self.state.read();
        if state.fetched_at.is_none_or(|at| at.elapsed() >= STALE_MAX) {
            return None;
        }
        let fitting = state.keys.iter().filter(|key| key.fits(kid, algorithm));
        let keys: Vec<_> = fitting.take(CANDIDATES_MAX).cloned().collect();
        (!keys.is_empty()).then_some(keys)
    }

    /// Joins the refresh in flight or starts one, if it is time; the receiver hears of its end.
    fn ask_for_refresh(&self, kid: Option<&str>) -> Result<watch::Receiver<u64>, NoKey> {
        let now = Instant::now();
        let mut state = self.state.write();
        if !state.in_flight {
            let known_unknown = state.fetched_at.is_some() && self.remembered(kid, now);
            if known_unknown || now.duration_since(state.attempted_at) < COOLDOWN {
                drop(state);
                return Err(self.verdict());
            }
            state.in_flight = true;
            self.wake.notify_one();
        }
        // Subscribed under the lock: the end of this refresh cannot be missed.
        Ok(self.refreshed.subscribe())
    }

    fn not_found(&self, kid: Option<&str>) -> NoKey {
        let verdict = self.verdict();
        if verdict == NoKey::Unknown
            && let Some(kid) = kid
        {
            let now = Instant::now();
            let mut negative = self.negative.lock();
            if negative.len() >= NEGATIVE_MAX {
                negative.retain(|_, until| *until > now);
            }
            if negative.len() < NEGATIVE_MAX {
                negative.insert(kid.into(), now + NEGATIVE_TTL);
            }
        }
        verdict
    }

    fn remembered(&self, kid: Option<&str>, now: Instant) -> bool {
        kid.is_some_and(|kid| self.negative.lock().get(kid).is_some_and(|until| *until > now))
    }

    /// A key is unknown only if the issuer could be asked.
    fn verdict(&self) -> NoKey {
        let failure = self.state.read().failure.clone();
        match failure {
            None => NoKey::Unknown,
            Some(cause) => self.unavailable(&cause),
        }
    }

    fn unavailable(&self, cause: &str) -> NoKey {
        let wait = self.state.read().next_attempt_at.saturating_duration_since(Instant::now());
        NoKey::Unavailable { cause: cause.to_owned(), retry_after: wait.max(RETRY_MIN) }
    }

    /// Waits for the time, or for a caller. A wake-up that is left over from a refresh that had begun
    /// anyway is no reason for another.
    async fn wait_for_next(&self, time: Instant) {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(time) => return,
                () = self.wake.notified() => if self.state.read().in_flight { return },
            }
        }
    }

    fn take_over(&self, loaded: Loaded) -> Duration {
        let mut state = self.state.write();
        let mut old = std::mem::take(&mut state.keys);
        for key in loaded.keys {
            // A key that stays is the same object, so that what it verified stays too.
            let kept = old.iter().position(|old| old.thumbprint() == key.thumbprint());
            state.keys.push(kept.map_or_else(|| Arc::new(key), |index| old.swap_remove(index)));
        }
        old.iter().for_each(|key| key.retire());
        state.fetched_at = Some(Instant::now());
        state.failures = 0;
        state.failure = None;
        jittered(loaded.max_age.unwrap_or(REFRESH_MAX).clamp(REFRESH_MIN, REFRESH_MAX))
    }

    fn note_failure(&self, cause: String) -> Duration {
        tracing::warn!(issuer = &*self.id.issuer, cause, "cannot refresh the issuer's keys");
        let mut state = self.state.write();
        state.failure = Some(cause);
        state.failures = state.failures.saturating_add(1);
        let backoff = RETRY_MIN.saturating_mul(1 << state.failures.saturating_sub(1).min(16));
        let Some(age) = state.fetched_at.map(|at| at.elapsed()) else {
            return jittered(backoff.min(RETRY_MAX_WITHOUT_KEYS));
        };
        if age >= STALE_MAX {
            state.keys.drain(..).for_each(|key| key.retire());
            state.fetched_at = None;
            return jittered(RETRY_MAX_WITHOUT_KEYS);
        }
        // Not later than the moment at which the old keys must go.
        jittered(backoff.clamp(COOLDOWN, RETRY_MAX_WITH_KEYS)).min(STALE_MAX - age)
    }
}

async fn keep_fresh(shared: Arc<Shared>) {
    let mut jwks_url: Option<(Box<str>, Instant)> = None;
    loop {
        {
            let mut state = shared.state.write();
            state.in_flight = true;
            state.attempted_at = Instant::now();
        }
        let outcome = match tokio::time::timeout(REFRESH_TIME_MAX, load(&shared, &mut jwks_url)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} s", REFRESH_TIME_MAX.as_secs())),
        };
        let pause = match outcome {
            Ok(loaded) => shared.take_over(loaded),
            Err(cause) => {
                jwks_url = None;
                shared.note_failure(cause)
            }
        };
        {
            let mut state = shared.state.write();
            state.in_flight = false;
            state.next_attempt_at = Instant::now() + pause;
        }
        shared.refreshed.send_modify(|generation| *generation = generation.wrapping_add(1));
        shared.wait_for_next(Instant::now() + pause).await;
    }
}

async fn load(shared: &Shared, jwks_url: &mut Option<(Box<str>, Instant)>) -> Result<Loaded, String> {
    let fetch = &*shared.fetch;
    let url = match jwks_url {
        Some((url, at)) if at.elapsed() < METADATA_TTL => url.clone(),
        _ => {
            let url = find_jwks_url(fetch, &shared.id).await?;
            *jwks_url = Some((url.clone(), Instant::now()));
            url
        }
    };
    fetch_keys(fetch, &url).await
}

/// Up to a tenth shorter, so that the gateways of a fleet do not ask all at once.
fn jittered(span: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness there is no jitter, which is no harm.
    let _ = aws_lc_rs::rand::fill(&mut random);
    let share = f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX);
    span.mul_f64(1.0 - share / 10.0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tests::support::{ISSUER, Signer, Web};

    #[tokio::test(start_paused = true)]
    async fn the_memory_of_unknown_keys_is_bounded() {
        let web = Web::with_keys(&[&Signer::ed25519("k1")]);
        let id = SourceId { issuer: ISSUER.into(), jwks_url: None, plaintext: false };
        let source = KeySources::new(web.clone()).source(id);
        assert!(source.find(Some("k1"), Algorithm::EdDsa).await.is_ok());
        tokio::time::advance(COOLDOWN).await;
        // All of them wait for the same fetch, and all of their keys are unknown after it.
        web.slow_down(Duration::from_secs(1));
        let asks: Vec<_> = (0..3 * NEGATIVE_MAX)
            .map(|index| {
                let source: Arc<KeySource> = source.clone();
                tokio::spawn(
                    async move { source.find(Some(&index.to_string()), Algorithm::EdDsa).await.err() },
                )
            })
            .collect();
        for ask in asks {
            assert_eq!(ask.await.unwrap(), Some(NoKey::Unknown));
        }
        assert_eq!(web.count(), 3);
        assert_eq!(source.shared.negative.lock().len(), NEGATIVE_MAX);
    }
}
