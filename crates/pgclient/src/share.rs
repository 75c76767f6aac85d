//! Reads that share a connection: several of them in one write, answered one after the other.
//!
//! A round trip of its own costs a read more than its encoding and decoding, on both sides. So once some
//! connections are at work ([`SHARE_FROM`]), the reads of one moment wait in a queue, and a courier takes a
//! few of them ([`SHARED_MAX`] at most) to one connection.
//!
//! Invariants:
//! - How many go together follows how long reads last ([`Pace`]): while connections are idle nobody stands behind
//!   others for longer than about [`EASE_MAX`]. When all are at work, the queue is shared out among them.
//! - Only what reads by statements of the gateway's own making is shared; a change or a call of a function
//!   has a connection for itself. Each read has a Sync, a reset and settings of its own, so the next one
//!   finds what it would have found had the connection been given back in between, and an error ends with
//!   the read that made it.
//! - A read that takes longer than [`PATIENCE`] goes on alone: those behind it are asked on another connection,
//!   and what they left in this one is cancelled and drained before the connection is lent again.
//! - A cancel request is sent only when nothing that somebody waits for is on the connection.
//! - Whoever waits in the queue waits for `wait_max` at most. The queue is first come, first served, and its
//!   couriers stand in line for connections with everybody else.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use doorward_core::Fault;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use crate::conn::{Conn, Gather};
use crate::encoded::Encoded;
use crate::error::{Failure, RunError, unavailable};
use crate::pool::{
    Inner, Lent, SETTLE_MAX, TIMEOUT_GRACE, WAITERS_MAX, deadline_passed, exhausted, is_done, is_stale_plan,
    last,
};
use crate::request::Reply;
use crate::room::{Claimed, Grant};

/// Connections at work from which on reads share one.
pub(crate) const SHARE_FROM: usize = 2;
/// The most reads in one write.
const SHARED_MAX: usize = 8;
/// How long the last of them may have to wait for those before it while other connections are idle.
const EASE_MAX: Duration = Duration::from_millis(4);
/// How long a read is taken to last before there was one.
const PACE_AT_FIRST: Duration = Duration::from_millis(1);
/// How long one read may keep those behind it waiting before they go elsewhere. Going elsewhere costs a
/// cancel request and a discarded connection, so a machine that is merely busy should seldom come to it.
const PATIENCE: Duration = Duration::from_millis(50);

/// Who couriers are, among those who wait for connections.
const READS: &str = "";

/// A read that waits for its answer.
pub(crate) struct Asked {
    encoded: Encoded,
    bytes_max: u64,
    span: Duration,
    since: Instant,
    /// Whether it has failed once for a reason of the connection's.
    again: bool,
    answer: oneshot::Sender<Result<Reply, RunError>>,
}

impl Asked {
    fn tell(self, result: Result<Reply, RunError>) {
        // Whoever is gone does not hear it.
        let _ = self.answer.send(result);
    }
}

/// Reads that no courier has taken yet.
#[derive(Default)]
pub(crate) struct Queue {
    asked: VecDeque<Asked>,
    /// Whether a courier is on its way to them. There is one at a time.
    courier: bool,
    pace: Pace,
}

/// How long a read has lasted lately.
struct Pace(Duration);

impl Default for Pace {
    fn default() -> Self {
        Self(PACE_AT_FIRST)
    }
}

impl Pace {
    /// So many reads were waited for, one after the other, within `span`.
    fn learn(&mut self, span: Duration, count: u32) {
        // Three parts of what was known and one of what is new: one slow read does not part those that are quick.
        self.0 = (self.0 * 3 + span / count.max(1)) / 4;
    }

    /// How many reads go together while other connections are idle.
    fn at_ease(&self) -> usize {
        let count = EASE_MAX.as_nanos() / self.0.as_nanos().max(1);
        usize::try_from(count).unwrap_or(SHARED_MAX).clamp(1, SHARED_MAX)
    }
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.asked.len()
    }
}

/// What is left of a batch, and where it is to be asked again.
enum Left {
    /// On the same connection, once it has been discarded.
    Stale(Vec<Asked>),
    /// On a fresh connection: this one is lost, or spoilt by what was left in its session.
    Fresh(Vec<Asked>),
}

/// A courier on its way to the queue. If it is lost there, those who wait hear so, and the next read sends another.
struct OnItsWay<'q> {
    queue: &'q Mutex<Queue>,
    ended: bool,
}

impl<'q> OnItsWay<'q> {
    fn to(queue: &'q Mutex<Queue>) -> Self {
        Self { queue, ended: false }
    }

    fn ended(mut self) {
        self.ended = true;
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut queue = self.queue.lock();
        let lost = std::mem::take(&mut queue.asked);
        queue.courier = false;
        drop(queue);
        // Their answers go with them.
        drop(lost);
    }
}

/// How the wait for one answer ended.
enum End {
    Whole(Result<(), Failure>),
    /// Its caller is gone.
    Gone,
    Late,
}

impl Inner {
    /// Asks together with others.
    pub(crate) async fn share(
        self: &Arc<Self>,
        encoded: Encoded,
        bytes_max: u64,
        span: Duration,
    ) -> Result<Reply, RunError> {
        let (answer, answered) = oneshot::channel();
        let asked = Asked { encoded, bytes_max, span, since: Instant::now(), again: false, answer };
        self.stand_in_line(asked)?;
        answered.await.unwrap_or_else(|_| Err(unavailable("the call's courier was lost").into()))
    }

    fn stand_in_line(self: &Arc<Self>, asked: Asked) -> Result<(), Fault> {
        let mut queue = self.queue.lock();
        if queue.asked.len() >= WAITERS_MAX {
            return Err(exhausted(self.settings.wait_max));
        }
        queue.asked.push_back(asked);
        let courier = std::mem::replace(&mut queue.courier, true);
        drop(queue);
        if !courier {
            tokio::spawn(self.clone().carry());
        }
        Ok(())
    }

    /// Carries one batch. Couriers are bounded by the connections, and one more that waits for the next.
    async fn carry(self: Arc<Self>) {
        // The calls of the same moment come along.
        behind_the_others().await;
        let way = OnItsWay::to(&self.queue);
        let lent = self.lent_in_time().await;
        let batch = lent.as_ref().map(|_| self.take_batch());
        way.ended();
        let (Some(mut lent), Some(mut batch)) = (lent, batch) else { return };
        let mut fit = false;
        while !batch.is_empty() {
            if !std::mem::replace(&mut fit, true)
                && let Err(fault) = lent.connection().await
            {
                return tell_all(batch, &fault);
            }
            let Some(conn) = lent.conn.as_mut() else { return };
            batch = match self.exchange_all(conn, batch).await {
                Left::Stale(stale) if stale.is_empty() => return,
                Left::Stale(stale) if is_done(timeout(SETTLE_MAX, conn.discard()).await) => stale,
                Left::Stale(left) | Left::Fresh(left) => {
                    lent.end().await;
                    fit = false;
                    left
                }
            };
        }
    }

    /// Waits for a connection, and meanwhile refuses those who have waited too long. `None` when nobody is left.
    async fn lent_in_time(self: &Arc<Self>) -> Option<Lent> {
        // Reads share what they get, whoever they are of.
        let mut line = match self.tenant.claim(|| READS.into(), (), last) {
            Claimed::Now(grant) => return Some(self.lend(grant)),
            Claimed::InPlaceOf(closing) => return Some(self.lend(Grant::Seat(closing.await))),
            Claimed::Later(line) => line,
        };
        let mut granted = pin!(line.granted());
        loop {
            let until = self.refuse_late()?;
            tokio::select! {
                biased;
                grant = &mut granted => return grant.map(|grant| self.lend(grant)),
                () = sleep_until(until) => {}
            }
        }
    }

    /// When the next one will have waited too long. `None`, and the courier turns back, when nobody waits.
    fn refuse_late(&self) -> Option<Instant> {
        let mut late = Vec::new();
        let mut queue = self.queue.lock();
        let next = loop {
            match queue.asked.front().map(|asked| asked.since + self.settings.wait_max) {
                Some(until) if until > Instant::now() => break Some(until),
                Some(_) => late.extend(queue.asked.pop_front()),
                None => break None,
            }
        };
        queue.courier = next.is_some();
        drop(queue);
        for asked in late {
            asked.tell(Err(exhausted(self.settings.wait_max).into()));
        }
        next
    }

    /// Takes a share of the queue, and sends the next courier when there is more.
    fn take_batch(self: &Arc<Self>) -> Vec<Asked> {
        let free = self.tenant.counts().free;
        let mut queue = self.queue.lock();
        let even = queue.asked.len().div_ceil(free + 1);
        let count = even.max(queue.pace.at_ease()).min(SHARED_MAX).min(queue.asked.len());
        let batch = queue.asked.drain(..count).filter(|asked| !asked.answer.is_closed()).collect();
        queue.courier = !queue.asked.is_empty();
        let more = queue.courier;
        drop(queue);
        if more {
            tokio::spawn(self.clone().carry());
        }
        batch
    }

    /// Puts reads back in front of the queue, in their order.
    fn give_back(self: &Arc<Self>, batch: impl DoubleEndedIterator<Item = Asked>) {
        let mut queue = self.queue.lock();
        for asked in batch.rev() {
            queue.asked.push_front(asked);
        }
        let courier = queue.courier || queue.asked.is_empty();
        queue.courier |= !queue.asked.is_empty();
        drop(queue);
        if !courier {
            tokio::spawn(self.clone().carry());
        }
    }

    /// Writes the batch and reads the answers.
    async fn exchange_all(self: &Arc<Self>, conn: &mut Conn, batch: Vec<Asked>) -> Left {
        let mut under_way = self.encode_all(conn, batch);
        if under_way.is_empty() {
            return Left::Stale(Vec::new());
        }
        let count = u32::try_from(under_way.len()).unwrap_or(u32::MAX);
        let began = Instant::now();
        if let Err(failure) = conn.send(count).await {
            return Left::Fresh(after_failure(None, under_way, &failure));
        }
        let mut patience = pin!(sleep(PATIENCE));
        let (mut stale, mut spoilt, mut heard) = (Vec::new(), false, 0);
        while let Some((mut asked, mut gather)) = under_way.pop_front() {
            conn.next_answer();
            heard += 1;
            let end = self.head(conn, &mut asked, &mut gather, &mut under_way, patience.as_mut()).await;
            match end {
                End::Whole(Ok(())) => asked.tell(Ok(gather.into_reply())),
                End::Whole(Err(Failure::Server(error))) if !asked.again && is_stale_plan(&error) => {
                    asked.again = true;
                    stale.push(asked);
                }
                End::Whole(Err(Failure::Server(_))) if !asked.again && conn.is_unbegun() => {
                    (asked.again, spoilt) = (true, true);
                    stale.push(asked);
                }
                End::Whole(Err(failure @ Failure::Server(_))) => asked.tell(Err(failure.run_error(true))),
                End::Whole(Err(failure @ Failure::TooLarge(_))) => {
                    asked.tell(Err(failure.run_error(true)));
                    stale.extend(under_way.into_iter().map(|(asked, _)| asked));
                    self.give_back(stale.into_iter());
                    return Left::Stale(Vec::new());
                }
                End::Whole(Err(failure)) => {
                    let mut left = after_failure(Some((asked, conn.is_unheard())), under_way, &failure);
                    left.append(&mut stale);
                    return Left::Fresh(left);
                }
                // What still runs is cancelled when the connection is given back.
                End::Gone => break,
                End::Late => {
                    asked.tell(Err(deadline_passed(true).into()));
                    break;
                }
            }
            if conn.is_broken() {
                stale.extend(under_way.into_iter().map(|(asked, _)| asked));
                return Left::Fresh(stale);
            }
        }
        conn.end_answers();
        self.queue.lock().pace.learn(began.elapsed(), heard);
        if !conn.is_reusable() && !stale.is_empty() {
            self.give_back(stale.into_iter());
            return Left::Stale(Vec::new());
        }
        if spoilt { Left::Fresh(stale) } else { Left::Stale(stale) }
    }

    /// Encodes as many as can go in one write: a statement that the connection must prepare goes first.
    fn encode_all(self: &Arc<Self>, conn: &mut Conn, batch: Vec<Asked>) -> VecDeque<(Asked, Gather)> {
        let mut under_way = VecDeque::with_capacity(batch.len());
        let mut batch = batch.into_iter();
        conn.begin();
        while let Some(asked) = batch.next() {
            if !under_way.is_empty() && !conn.knows(&asked.encoded) {
                self.give_back(std::iter::once(asked).chain(batch));
                break;
            }
            match conn.put(&asked.encoded) {
                Ok(gather) => under_way.push_back((asked, gather)),
                Err(failure) => asked.tell(Err(failure.run_error(true))),
            }
        }
        under_way
    }

    /// Reads the answer of the one that stands first. When patience ends, the others go elsewhere.
    async fn head(
        self: &Arc<Self>,
        conn: &mut Conn,
        asked: &mut Asked,
        gather: &mut Gather,
        others: &mut VecDeque<(Asked, Gather)>,
        mut patience: Pin<&mut Sleep>,
    ) -> End {
        let mut reading = pin!(conn.answer(gather, asked.bytes_max));
        // One timer serves the batch: it is set on only when it has run out.
        let until = Instant::now() + PATIENCE;
        loop {
            tokio::select! {
                biased;
                result = &mut reading => return End::Whole(result),
                () = patience.as_mut() => {}
            }
            if Instant::now() >= until {
                break;
            }
            patience.as_mut().reset(until);
        }
        self.give_back(others.drain(..).map(|(asked, _)| asked));
        tokio::select! {
            biased;
            result = &mut reading => End::Whole(result),
            () = asked.answer.closed() => End::Gone,
            () = sleep(asked.span.saturating_add(TIMEOUT_GRACE)) => End::Late,
        }
    }
}

/// Lets the tasks run that are ready already. Unlike `tokio::task::yield_now` this does not go through the
/// system's events first, which would cost each batch a call of the kernel.
async fn behind_the_others() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The connection is lost. What it has not answered a word of is asked once more; those behind have lost
/// nothing yet.
fn after_failure(
    first: Option<(Asked, bool)>,
    others: VecDeque<(Asked, Gather)>,
    failure: &Failure,
) -> Vec<Asked> {
    let mut left = Vec::with_capacity(others.len() + 1);
    let mut others = others.into_iter().map(|(asked, _)| asked);
    let first = first.or_else(|| others.next().map(|asked| (asked, true)));
    if let Some((mut asked, unheard)) = first {
        let mendable = match failure {
            Failure::Fatal(error) => error.is_shutdown(),
            Failure::Io(_) => unheard,
            _ => false,
        };
        if mendable && !asked.again {
            asked.again = true;
            left.push(asked);
        } else {
            asked.tell(Err(failure.lost()));
        }
    }
    left.extend(others);
    left
}

fn tell_all(batch: Vec<Asked>, fault: &Fault) {
    for asked in batch {
        asked.tell(Err(fault.clone().into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Request;

    #[test]
    fn reads_that_last_go_by_themselves_and_quick_ones_together() {
        let after = |millis: &[u64]| {
            let mut pace = Pace::default();
            millis.iter().for_each(|span| pace.learn(Duration::from_millis(*span), 4));
            pace.at_ease()
        };
        // One slow batch among quick ones, or a quick one among slow ones, changes little.
        for (millis, wanted) in [
            (&[][..], 4),
            (&[1; 20], SHARED_MAX),
            (&[8; 20], 2),
            (&[60; 20], 1),
            (&[1, 1, 1, 1, 1, 1, 1, 1, 4, 1], SHARED_MAX),
            (&[60, 60, 60, 60, 60, 60, 1], 1),
        ] {
            assert_eq!(after(millis), wanted, "{millis:?}");
        }
        let mut pace = Pace::default();
        pace.learn(Duration::ZERO, 0);
        (0..100).for_each(|_| pace.learn(Duration::ZERO, 8));
        assert_eq!(pace.at_ease(), SHARED_MAX);
    }

    #[test]
    fn a_courier_that_is_lost_leaves_a_queue_that_works() {
        let queue = Mutex::new(Queue::default());
        let (answer, mut answered) = oneshot::channel();
        let encoded = Encoded::new(&Request { sql: "select 1", ..Request::default() }, &[]).unwrap();
        let (span, since) = (Duration::from_secs(1), Instant::now());
        queue.lock().asked.push_back(Asked { encoded, bytes_max: 1, span, since, again: false, answer });
        queue.lock().courier = true;
        let lost = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _way = OnItsWay::to(&queue);
            panic!("on its way");
        }));
        assert!(lost.is_err());
        assert!(answered.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        let mut left = queue.lock();
        assert_eq!((left.len(), left.courier), (0, false));
        left.courier = true;
        drop(left);
        OnItsWay::to(&queue).ended();
        assert!(queue.lock().courier);
    }
}
