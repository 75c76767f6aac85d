//! The relay: one client session on one backend session, until one of them ends it; or, where sessions share
//! backends, on one after another, each for a transaction.
//!
//! Two halves run side by side in one task: [`up`] reads the client, has each statement walk the road, and
//! forwards what may pass; [`down`] reads the backend and settles what it answers. So neither side can block
//! the other: a client that sends without reading stalls only itself.
//!
//! Constraint: a session is silent for most of its life, and its future is as large as the largest step that it may take.
//! What is done seldom (connecting, looking names up, parting) is boxed, so that it takes room only while it is done; a test
//! of the listener keeps watch.

mod down;
mod frontend;
mod fuzz;
mod gulp;
pub(crate) mod link;
mod port;
pub(crate) mod sharing;
mod table;
mod trial;
mod undo;
mod up;

pub(crate) use frontend::gone;
pub use fuzz::{
    fuzz_client, fuzz_oauth, fuzz_replication, fuzz_scram, fuzz_server, fuzz_startup, fuzz_values,
};

use std::time::Duration;

use bytes::BytesMut;
use doorward_core::{Fault, Standing};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::codes;
use crate::desk::Desk;
use crate::message::{Severity, error};
use crate::peer::BoxStream;
use crate::pool::{Left, Lent};
use doorward_http::Phase;
use down::Down;
use frontend::Inbox;
use link::{IDLE, Link};
use port::Port;
use sharing::Sharing;
use up::Up;

/// How often a session looks at the clock, though nothing comes.
const TICK: Duration = Duration::from_secs(1);
/// How long the last word to a client may take.
const FAREWELL_SPAN_MAX: Duration = Duration::from_secs(2);

/// How a session ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The client has gone, or said goodbye.
    ClientGone,
    /// The gateway ends it: the client is told why.
    Over(Fault),
    /// The backend has gone.
    BackendGone(String),
}

/// The two ends of a session.
pub(crate) struct Ends {
    pub(crate) client_reads: ReadHalf<BoxStream>,
    /// What the client has sent already.
    pub(crate) early: BytesMut,
    pub(crate) client_writes: WriteHalf<BoxStream>,
    /// The backend, unless it comes when it is needed.
    pub(crate) backend: Option<Lent>,
    /// What is known where sessions share backends.
    pub(crate) sharing: Option<Sharing>,
}

/// Runs a session to its end.
pub(crate) async fn run(desk: &Desk, ends: Ends, phase: watch::Receiver<Phase>) {
    let Ends { client_reads, early, mut client_writes, backend, sharing } = ends;
    let link = Link::new(sharing);
    let port = Port::new(backend);
    let input = port.with(|backend| std::mem::take(&mut backend.input)).unwrap_or_default();
    let mut up = Up::new(desk, &link, Inbox::new(client_reads, early), &port);
    let client = &mut client_writes;
    let mut down = Down {
        desk,
        link: &link,
        port: &port,
        client,
        input,
        passing: 0,
        owed: Vec::new(),
        kept: BytesMut::new(),
    };
    let ended = tokio::select! {
        biased;
        ended = down.run() => ended,
        ended = up.run() => ended,
        ended = watch_over(desk, &link, phase) => ended,
    };
    let done = down.is_done() && up.is_done();
    let in_step = link.state().in_step;
    // A backend that does not answer keeps no client waiting for the last word, nor the other way round.
    match ended {
        Ended::ClientGone => {
            let busy = link.abandon(None);
            Box::pin(part(desk, &link, port.take(), busy, done)).await;
        }
        Ended::Over(fault) => {
            let busy = link.abandon(Some(&fault));
            let told = Some(&fault).filter(|_| in_step);
            let parted = Box::pin(part(desk, &link, port.take(), busy, done));
            tokio::join!(farewell(client_writes, told), parted);
        }
        Ended::BackendGone(cause) => {
            link.lose(&cause);
            let gone = Fault::new(codes::SESSION_ENDED, "the database has ended the session");
            let gone = gone.hint("Connect again.").backend_code("08006").cause(cause);
            farewell(client_writes, Some(&gone).filter(|_| in_step)).await;
        }
    }
}

/// The last word to a client, if there is one.
async fn farewell(mut client: WriteHalf<BoxStream>, told: Option<&Fault>) {
    let Some(fault) = told else { return };
    let mut out = BytesMut::new();
    error(&mut out, Severity::Fatal, fault, None);
    // The client may be gone as well; there is nobody else to tell.
    let _ = timeout(FAREWELL_SPAN_MAX, async {
        client.write_all(&out).await?;
        client.shutdown().await
    })
    .await;
}

/// Parts with the backend at the session's end. What runs on it is cancelled, and the backend closed; one on
/// which nothing runs is given back.
async fn part(desk: &Desk, link: &Link, lent: Option<Lent>, busy: bool, done: bool) {
    let Some(lent) = lent else { return };
    if busy || !done {
        if busy {
            desk.cancels.cancel().await;
        }
        lent.close().await;
        return;
    }
    let in_transaction = link.state().status != IDLE;
    desk.cancels.give_back(lent, Left::Used { in_transaction });
}

/// Watches over what may end a session from outside: the proof's end, the configuration, the gateway's stop.
async fn watch_over(desk: &Desk, link: &Link, mut phase: watch::Receiver<Phase>) -> Ended {
    loop {
        let at_rest = link.is_at_rest();
        let snapshot = desk.gateway.snapshot();
        let standing = desk.session.standing(&snapshot, desk.gateway.now(), !at_rest);
        if let Standing::Over(fault) = standing {
            return Ended::Over(fault);
        }
        let now = *phase.borrow();
        if now == Phase::Cut || (now == Phase::Draining && at_rest) {
            let fault = Fault::new(codes::SESSION_ENDED, "the gateway is stopping");
            return Ended::Over(fault.hint("Connect again in a moment."));
        }
        if has_no_login(desk, link, at_rest) {
            let fault = Fault::new(codes::SESSION_ENDED, "the session's login at the database has ended");
            return Ended::Over(fault.hint("Connect again: a new session gets a new one."));
        }
        if is_late(link) {
            Box::pin(desk.cancels.cancel()).await;
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            changed = phase.changed(), if now == Phase::Serving => {
                if changed.is_err() {
                    // The listener is gone without a drain: only the clock is left.
                    tokio::time::sleep(TICK).await;
                }
            }
            () = link.turned.notified(), if now == Phase::Draining => {}
        }
    }
}

/// Whether the login on which the session stands has ended: one that was made for its role, and could not be renewed
/// any more. An open transaction has the grace that it has after the proof's end. A session that shares connections
/// gets one that stands on another login.
fn has_no_login(desk: &Desk, link: &Link, at_rest: bool) -> bool {
    let shares = link.state().sharing.is_some();
    let Some(login) = desk.lease.login().filter(|_| !shares) else { return false };
    let grace = if at_rest { Duration::ZERO } else { desk.gateway.snapshot().deadlines.session_grace };
    let now = desk.gateway.now();
    login.is_over(now) && login.expires_at().is_some_and(|end| end.plus(grace) <= now)
}

/// Whether the statement at the front has run for longer than its grant allows; it is told once.
fn is_late(link: &Link) -> bool {
    let mut state = link.state();
    match state.queue.front_mut() {
        Some(link::Expected::Query(running) | link::Expected::Execute(running)) if running.is_late() => {
            running.cancelled = true;
            true
        }
        _ => false,
    }
}
