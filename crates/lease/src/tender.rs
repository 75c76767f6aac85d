//! The task that tends one credential: issues it, renews it at 80 % of its life, replaces it when it cannot be
//! renewed, and revokes it in the end.
//!
//! A credential that was replaced lives on for the connections that stand on it, until the last of them is closed
//! or its own end comes; no new connection gets it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use doorward_core::{Clock, LeaseId, SystemClock};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::keeper::{END_MARGIN, Held, Post, Shared, State};
use crate::source::{Handle, Issued, Renewed, SourceError};

/// How much of its life a credential has had when it is renewed: in tenths.
const RENEW_AT_TENTHS: u32 = 8;
/// Renewals are at least this far apart, however short a life is.
const RENEW_PAUSE_MIN: Duration = Duration::from_millis(500);
/// The first and the longest pause between attempts after failures.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long a failing credential that nobody asks for is remembered.
const FAILED_IDLE_MAX: Duration = Duration::from_secs(600);
/// How long a credential without an end that nobody asks for is kept.
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// How often replaced credentials are looked at: whether anybody still stands on them.
const RETIRED_LOOK: Duration = Duration::from_secs(10);
/// The most replaced credentials that connections stand on; the oldest is revoked under them beyond that.
const RETIRED_MAX: usize = 16;

/// Tends one credential.
pub(crate) struct Tender {
    shared: Arc<Shared>,
    post: Arc<Post>,
    stop: watch::Receiver<bool>,
    current: Option<Current>,
    retired: Vec<Retired>,
    failures: u32,
    told: Option<SourceError>,
}

struct Current {
    held: Arc<Held>,
    handle: Option<Handle>,
    /// What it lived for when it was issued; a renewal that gives much less is its last.
    life: Option<Duration>,
    /// When it is renewed, or asked for anew.
    due: Option<Instant>,
}

/// A credential that was replaced.
struct Retired {
    held: Arc<Held>,
    handle: Option<Handle>,
}

/// What the task waits for next.
enum Next {
    /// The credential is due then.
    Due(Instant),
    /// The source is asked again after this, if anybody wants it.
    Retry(Instant),
}

impl Tender {
    pub(crate) fn new(shared: Arc<Shared>, post: Arc<Post>, stop: watch::Receiver<bool>) -> Self {
        Self { shared, post, stop, current: None, retired: Vec::new(), failures: 0, told: None }
    }

    /// Goes on until nobody needs the credential.
    pub(crate) async fn run(mut self) {
        let mut next = self.work().await;
        while self.wait(next).await {
            next = self.work().await;
        }
        self.leave().await;
        self.shared.ended();
    }

    /// Waits until there is something to do; `false` when that is over.
    async fn wait(&mut self, next: Next) -> bool {
        let (at, backing_off) = match next {
            Next::Due(at) => (at, false),
            Next::Retry(at) => (at, true),
        };
        loop {
            let look = if self.retired.is_empty() { at } else { at.min(Instant::now() + RETIRED_LOOK) };
            tokio::select! {
                () = stopped(&mut self.stop) => return false,
                () = self.post.wake.notified(), if self.current.is_some() => {
                    if !backing_off && self.is_wanted_anew() {
                        return true;
                    }
                    // Whoever waits is told that nothing is to change.
                    self.post.state.send_modify(|_| ());
                }
                () = sleep_until(look) => {
                    if Instant::now() < at {
                        self.look_after_retired().await;
                    } else if backing_off {
                        return self.current.is_some() || self.wait_to_be_asked().await;
                    } else {
                        return self.is_needed() || !self.shared.give_up(&self.post);
                    }
                }
            }
        }
    }

    /// There is no credential, and the source may be asked again: it is, when somebody wants one.
    async fn wait_to_be_asked(&mut self) -> bool {
        loop {
            self.post.asked.store(false, Ordering::Relaxed);
            tokio::select! {
                () = stopped(&mut self.stop) => return false,
                () = self.post.wake.notified() => return true,
                () = tokio::time::sleep(FAILED_IDLE_MAX) => {
                    if self.shared.give_up(&self.post) {
                        return false;
                    }
                }
            }
        }
    }

    /// Whether the one there is will not do: it has ended, or the backend does not accept it.
    fn is_wanted_anew(&self) -> bool {
        let Some(current) = &self.current else { return true };
        let now = Instant::now();
        !current.held.is_good(now) || current.held.is_suspect(now)
    }

    /// Whether somebody has asked for it since the last time, or stands on it.
    fn is_needed(&self) -> bool {
        let asked = self.post.asked.swap(false, Ordering::Relaxed);
        asked || self.current.as_ref().is_some_and(|current| is_in_use(&current.held))
    }

    /// Renews, or issues. What is lent meanwhile is the old one, while it is good.
    async fn work(&mut self) -> Next {
        let done = match self.try_renew().await {
            Ok(true) => Ok(()),
            Ok(false) => self.issue().await,
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {
                self.failures = 0;
                self.told = None;
                let due = self.current.as_ref().and_then(|current| current.due);
                Next::Due(due.unwrap_or_else(|| Instant::now() + IDLE_MAX))
            }
            Err(error) => self.failed(error),
        }
    }

    /// Renews what there is. `false` when a new one is to be issued.
    async fn try_renew(&mut self) -> Result<bool, SourceError> {
        if self.current.is_none() || self.is_wanted_anew() {
            return Ok(false);
        }
        let Some(current) = &mut self.current else { return Ok(false) };
        let (Some(handle), Some(life)) = (&current.handle, current.life) else { return Ok(false) };
        let renewed = match self.shared.source.renew(handle).await {
            Ok(renewed) => renewed,
            // Somebody has revoked it, or it has come to its longest life.
            Err(SourceError::Refused(_)) => Renewed::Not,
            Err(error) => return Err(error),
        };
        let Renewed::For(span) = renewed else { return Ok(false) };
        let now = Instant::now();
        *current.held.ends_at.lock() = Some(now + span);
        current.held.login.extend(SystemClock.now().plus(span));
        if span < life / 2 {
            return Ok(false);
        }
        current.due = Some(now + renew_after(span));
        let user = &*current.held.login.user;
        let (resource, seconds) = (self.shared.resource.as_str(), span.as_secs());
        tracing::debug!(resource, user, seconds, "credential renewed");
        self.post.state.send_modify(|_| ());
        Ok(true)
    }

    async fn issue(&mut self) -> Result<(), SourceError> {
        if self.current.as_ref().is_some_and(|current| current.held.login.was_refused()) {
            self.shared.source.refused(&self.post.wanted);
        }
        let issued = self.shared.source.issue(&self.post.wanted).await?;
        let now = Instant::now();
        if self.is_the_same(&issued, now) {
            self.keep(&issued, now);
            return Ok(());
        }
        let Issued { login, good_for, refresh, handle } = issued;
        let login = match good_for {
            Some(span) => login.until(SystemClock.now().plus(span)),
            None => login,
        };
        let held = Arc::new(Held {
            id: LeaseId::fresh(),
            login: Arc::new(login),
            issued_at: now,
            ends_at: Mutex::new(good_for.map(|span| now + span)),
        });
        tracing::info!(
            resource = self.shared.resource.as_str(),
            source = self.shared.source.name(),
            lease_id = %held.id,
            user = &*held.login.user,
            seconds = good_for.map(|span| span.as_secs()),
            "credential issued"
        );
        let due = due_after(good_for, refresh).map(|span| now + span);
        let new = Current { held: held.clone(), handle, life: good_for, due };
        let old = self.current.replace(new);
        self.post.state.send_replace(State::Good(held));
        if let Some(old) = old {
            old.held.login.supersede();
            self.retired.push(Retired { held: old.held, handle: old.handle });
            self.look_after_retired().await;
        }
        Ok(())
    }

    /// Whether the source has given out once more what there is: a secret that has not changed, a token that it keeps
    /// itself. What the backend does not accept is another matter.
    fn is_the_same(&self, issued: &Issued, now: Instant) -> bool {
        self.current.as_ref().is_some_and(|current| {
            let login = &current.held.login;
            let plain = current.handle.is_none() && issued.handle.is_none();
            plain && !login.was_refused() && current.held.is_good(now) && login.is_same(&issued.login)
        })
    }

    /// Goes on with what there is: connections that stand on it need not be opened anew.
    fn keep(&mut self, issued: &Issued, now: Instant) {
        let Some(current) = &mut self.current else { return };
        *current.held.ends_at.lock() = issued.good_for.map(|span| now + span);
        if let Some(span) = issued.good_for {
            current.held.login.extend(SystemClock.now().plus(span));
        }
        current.life = issued.good_for;
        current.due = due_after(issued.good_for, issued.refresh).map(|span| now + span);
        self.post.state.send_modify(|_| ());
    }

    fn failed(&mut self, error: SourceError) -> Next {
        let pause = RETRY_MIN.saturating_mul(1 << self.failures.min(8)).min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        let now = Instant::now();
        let mut until = now + pause;
        let resource = self.shared.resource.as_str();
        // The same trouble is told once, not at each attempt.
        if self.told.as_ref() != Some(&error) {
            let source = self.shared.source.name();
            tracing::warn!(resource, source, cause = %error, "no credential can be had");
            self.told = Some(error.clone());
        }
        match &self.current {
            // What there is serves on; its end is not slept over.
            Some(current) if current.held.is_good(now) => {
                let end = *current.held.ends_at.lock();
                until = end.map_or(until, |end| until.min(end - END_MARGIN).max(now + RENEW_PAUSE_MIN));
            }
            _ => {
                if let Some(old) = self.current.take() {
                    old.held.login.supersede();
                    let lease_id = old.held.id;
                    tracing::error!(resource, %lease_id, "the credential has ended, and there is no other");
                }
                self.post.state.send_replace(State::Failed { error, until });
                return Next::Retry(until);
            }
        }
        // Whoever waits gets what there is.
        self.post.state.send_modify(|_| ());
        Next::Retry(until)
    }

    /// Revokes replaced credentials on which nobody stands any more.
    async fn look_after_retired(&mut self) {
        let now = Instant::now();
        let crowd = self.retired.len().saturating_sub(RETIRED_MAX);
        let mut kept = Vec::with_capacity(self.retired.len());
        for (index, retired) in std::mem::take(&mut self.retired).into_iter().enumerate() {
            let over = retired.held.ends_at.lock().is_some_and(|end| end <= now);
            if over {
                continue;
            }
            if index >= crowd && is_in_use(&retired.held) {
                kept.push(retired);
                continue;
            }
            self.revoke(retired).await;
        }
        self.retired = kept;
    }

    async fn revoke(&self, retired: Retired) {
        let Some(handle) = &retired.handle else { return };
        let (resource, lease_id) = (self.shared.resource.as_str(), retired.held.id);
        match self.shared.source.revoke(handle).await {
            Ok(()) => tracing::info!(resource, %lease_id, "credential revoked"),
            Err(error) => {
                tracing::warn!(resource, %lease_id, cause = %error, "a credential could not be revoked; it ends by itself");
            }
        }
    }

    /// Revokes all there is.
    async fn leave(&mut self) {
        if let Some(current) = self.current.take() {
            current.held.login.supersede();
            self.retired.push(Retired { held: current.held, handle: current.handle });
        }
        let now = Instant::now();
        for retired in std::mem::take(&mut self.retired) {
            if retired.held.ends_at.lock().is_none_or(|end| end > now) {
                self.revoke(retired).await;
            }
        }
    }
}

/// Until the keeper wants it, or is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Both ways the task ends.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Whether a connection, or a call that is about to make one, has the login.
fn is_in_use(held: &Arc<Held>) -> bool {
    Arc::strong_count(&held.login) > 1
}

/// After what time a credential is renewed, or asked for anew.
fn due_after(good_for: Option<Duration>, refresh: Option<Duration>) -> Option<Duration> {
    good_for.map(renew_after).into_iter().chain(refresh).min()
}

fn renew_after(span: Duration) -> Duration {
    (span * RENEW_AT_TENTHS / 10).max(RENEW_PAUSE_MIN)
}
