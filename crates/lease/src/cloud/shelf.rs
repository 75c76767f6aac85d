//! Keeps what a cloud has given until 80 % of its life are over, and has it fetched once however many wait.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::source::SourceError;

/// How much of its life something has had when it is fetched anew: in tenths.
const FRESH_TENTHS: u32 = 8;
/// What is about to end is not used.
const END_MARGIN: Duration = Duration::from_secs(2);
/// What has no end is fetched anew after this: the environment may have been given another one.
const LASTING_SPAN: Duration = Duration::from_secs(300);
/// For how long a failure is told again to those who waited meanwhile.
const FAILED_SPAN: Duration = Duration::from_secs(1);
/// When nothing new can be had, and the old one is good: how long until the next attempt.
const RETRY_SPAN: Duration = Duration::from_secs(15);

/// One thing, and for how long it is good.
#[derive(Clone)]
pub(super) struct Given<T> {
    pub(super) value: T,
    /// `None` when it does not end by itself.
    pub(super) good_for: Option<Duration>,
}

pub(super) struct Shelf<T> {
    // Held while one fetches: that is what the others wait for. Each has a bound of its own for the wait.
    state: Mutex<State<T>>,
}

enum State<T> {
    Empty,
    Kept { value: T, fresh_until: Instant, ends_at: Option<Instant> },
    Failed { error: SourceError, until: Instant },
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State::Empty) }
    }
}

impl<T: Clone> Shelf<T> {
    /// What there is while it is fresh; otherwise what is fetched.
    pub(super) async fn get(
        &self,
        fetch: impl Future<Output = Result<Given<T>, SourceError>>,
    ) -> Result<Given<T>, SourceError> {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        match &*state {
            State::Kept { value, fresh_until, ends_at } if *fresh_until > now => {
                return Ok(given(value, *ends_at, now));
            }
            State::Failed { error, until } if *until > now => return Err(error.clone()),
            _ => {}
        }
        let fetched = fetch.await;
        let now = Instant::now();
        match fetched {
            Ok(fetched) => {
                let fresh = fetched.good_for.map_or(LASTING_SPAN, |life| life * FRESH_TENTHS / 10);
                let ends_at = fetched.good_for.map(|life| now + life);
                *state = State::Kept { value: fetched.value.clone(), fresh_until: now + fresh, ends_at };
                Ok(fetched)
            }
            Err(error) => {
                if let State::Kept { value, fresh_until, ends_at: Some(end) } = &mut *state
                    && *end > now + END_MARGIN
                {
                    *fresh_until = (now + RETRY_SPAN).min(*end - END_MARGIN);
                    return Ok(given(value, Some(*end), now));
                }
                *state = State::Failed { error: error.clone(), until: now + FAILED_SPAN };
                Err(error)
            }
        }
    }

    /// Fetches anew at the next time. While somebody fetches, that is under way.
    pub(super) fn forget(&self) {
        if let Ok(mut state) = self.state.try_lock() {
            *state = State::Empty;
        }
    }
}

fn given<T: Clone>(value: &T, ends_at: Option<Instant>, now: Instant) -> Given<T> {
    Given { value: value.clone(), good_for: ends_at.map(|end| end.saturating_duration_since(now)) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::{advance, sleep};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn away<T>() -> Result<Given<T>, SourceError> {
        Err(SourceError::Away("away".to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_fetched_once_for_all_and_again_at_four_fifths() {
        let (shelf, count) = (Arc::new(Shelf::default()), Arc::new(AtomicU32::new(0)));
        let get = || {
            let (shelf, count) = (shelf.clone(), count.clone());
            async move {
                let fetch = async {
                    sleep(Duration::from_secs(1)).await;
                    Ok(Given { value: count.fetch_add(1, Ordering::Relaxed), good_for: Some(HOUR) })
                };
                shelf.get(fetch).await.map(|given| given.value)
            }
        };
        let all: Vec<_> = (0..50).map(|_| tokio::spawn(get())).collect();
        for one in all {
            assert_eq!(one.await.unwrap(), Ok(0));
        }
        advance(HOUR * 79 / 100).await;
        assert_eq!(get().await, Ok(0));
        advance(HOUR / 50).await;
        assert_eq!(get().await, Ok(1));
        shelf.forget();
        assert_eq!(get().await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_good_serves_while_nothing_new_can_be_had() {
        let shelf = Shelf::default();
        shelf.get(async { Ok(Given { value: 1, good_for: Some(HOUR) }) }).await.unwrap();
        advance(HOUR * 9 / 10).await;
        let given = shelf.get(async { away() }).await.unwrap();
        assert_eq!((given.value, given.good_for), (1, Some(HOUR / 10)));
        advance(HOUR / 10).await;
        assert!(shelf.get(async { away() }).await.is_err());
        // Those who waited hear the same, and nobody is asked for them.
        let asked = async { panic!("it was asked a moment ago") };
        assert!(shelf.get(asked).await.is_err());
        advance(Duration::from_secs(2)).await;
        assert_eq!(shelf.get(async { Ok(Given { value: 2, good_for: None }) }).await.unwrap().value, 2);
    }
}
