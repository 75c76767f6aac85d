//! Cancel keys: what a client shows to have its statement cancelled.
//!
//! Invariants: the keys are the gateway's own and random, so that the backend's never reach a client; a key
//! is good for the one session that it was issued to, and for as long as that lives; a connection is lent to
//! nobody else while a cancel request for it is under way. There is one entry for each session, so the table is
//! as bounded as the connections are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use doorward_pgclient::Canceller;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::pool::{Left, Lent};

/// Cancels what a session runs, on whichever connection it has at the moment.
#[derive(Debug, Default)]
pub(crate) struct Cancels {
    /// Locked while a request is under way.
    bound: tokio::sync::Mutex<Option<Canceller>>,
    process: AtomicI32,
    /// A request has come while there was no connection: it is for who waits for one.
    asked: Notify,
    /// A request waits for the one under way; others would do no more.
    waiting: AtomicBool,
}

impl Cancels {
    /// The session has this connection now. Waits for requests that are meant for the last one.
    pub(crate) async fn bind(&self, lent: &Lent) {
        let canceller = lent.canceller().cloned();
        self.process.store(canceller.as_ref().map_or(0, Canceller::process), Ordering::Relaxed);
        *self.bound.lock().await = canceller;
    }

    /// Gives a session's connection back, as soon as no request for it is under way.
    pub(crate) fn give_back(self: &Arc<Self>, mut lent: Lent, left: Left) {
        self.process.store(0, Ordering::Relaxed);
        if let Ok(mut bound) = self.bound.try_lock() {
            *bound = None;
            lent.give_back(left);
            return;
        }
        let cancels = self.clone();
        tokio::spawn(async move {
            let mut bound = cancels.bound.lock().await;
            // The session may have another one by now.
            if bound.as_ref().map(Canceller::session) == lent.canceller().map(Canceller::session) {
                *bound = None;
            }
            drop(bound);
            // The request has been served; a round trip shows that nothing of it is left.
            if let Some(backend) = lent.backend() {
                backend.undress();
            }
            lent.give_back(left);
        });
    }

    /// Cancels what runs now; returns when the server has done so, or cannot be reached. Whoever asks may go meanwhile:
    /// the request is under way all the same, and the connection stays the session's until it has been served.
    pub(crate) async fn cancel(self: &Arc<Self>) {
        if self.waiting.swap(true, Ordering::AcqRel) {
            drop(self.bound.lock().await);
            return;
        }
        let cancels = self.clone();
        let serving = tokio::spawn(async move {
            let bound = cancels.bound.lock().await;
            cancels.waiting.store(false, Ordering::Release);
            match &*bound {
                Some(canceller) => canceller.cancel().await,
                None => cancels.asked.notify_waiters(),
            }
        });
        // It fails only with the runtime.
        let _ = serving.await;
    }

    /// Returns when somebody cancels what waits for a connection. What was asked for before is not remembered.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// The server's process; `None` while the session has no connection.
    pub(crate) fn process(&self) -> Option<i32> {
        Some(self.process.load(Ordering::Relaxed)).filter(|process| *process != 0)
    }
}

/// The length of a secret in protocol 3.0, and from 3.2 on.
const SHORT: usize = 4;
const LONG: usize = 32;
/// Two sessions with the same number are as good as impossible; trying again ends at the latest here.
const TRIES_MAX: usize = 16;

/// The keys of all sessions.
#[derive(Debug, Default)]
pub(crate) struct Keys(Mutex<HashMap<i32, Entry>>);

#[derive(Debug)]
struct Entry {
    secret: Box<[u8]>,
    cancels: Arc<Cancels>,
}

/// The key of one session. Dropped, it is good for nothing any more.
#[derive(Debug)]
pub(crate) struct Issued {
    keys: Arc<Keys>,
    pub(crate) process: i32,
    pub(crate) secret: Box<[u8]>,
}

impl Keys {
    /// Issues a key; `None` when there is no randomness.
    pub(crate) fn issue(self: &Arc<Self>, cancels: &Arc<Cancels>, minor: u16) -> Option<Issued> {
        let mut secret = vec![0; if minor >= 2 { LONG } else { SHORT }].into_boxed_slice();
        aws_lc_rs::rand::fill(&mut secret).ok()?;
        for _ in 0..TRIES_MAX {
            let mut number = [0; 4];
            aws_lc_rs::rand::fill(&mut number).ok()?;
            // Clients print it as the number of a process: positive, and not zero.
            let process = (i32::from_be_bytes(number) & i32::MAX).max(1);
            let mut keys = self.0.lock();
            if let std::collections::hash_map::Entry::Vacant(place) = keys.entry(process) {
                place.insert(Entry { secret: secret.clone(), cancels: cancels.clone() });
                drop(keys);
                return Some(Issued { keys: self.clone(), process, secret });
            }
        }
        None
    }

    /// Who can cancel for the bearer of this key.
    pub(crate) fn find(&self, process: i32, secret: &[u8]) -> Option<Arc<Cancels>> {
        let keys = self.0.lock();
        let entry = keys.get(&process)?;
        aws_lc_rs::constant_time::verify_slices_are_equal(&entry.secret, secret).ok()?;
        Some(entry.cancels.clone())
    }
}

impl Drop for Issued {
    fn drop(&mut self) {
        self.keys.0.lock().remove(&self.process);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn requests_that_wait_for_another_are_served_as_one() {
        let cancels = Arc::new(Cancels::default());
        let under_way = cancels.bound.lock().await;
        let first = tokio::spawn({
            let cancels = cancels.clone();
            async move { cancels.cancel().await }
        });
        while !cancels.waiting.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        // Who asked has gone; the request is there all the same, and another one waits with it.
        first.abort();
        let asked = cancels.asked();
        let mut asked = std::pin::pin!(asked);
        assert_eq!(asked.as_mut().now_or_never(), None);
        let second = cancels.cancel();
        let mut second = std::pin::pin!(second);
        assert_eq!(second.as_mut().now_or_never(), None);
        drop(under_way);
        futures_util::join!(asked, second);
        assert!(!cancels.waiting.load(Ordering::Acquire), "the next one is a request of its own");
    }
}
