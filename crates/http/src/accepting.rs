//! What the listeners of all protocols have in common: they accept connections within their caps, and drain.
//!
//! Invariants: a connection over a cap is closed before anything is read from it; draining takes nothing new, and
//! ends when the last connection has.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Limits;
use crate::places::{Connections, Place, Places};

/// The pause after a failed accept: usually the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where a listener stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It takes connections.
    Serving,
    /// What is under way may end.
    Draining,
    /// The time to drain is over.
    Cut,
}

/// A connection within the caps.
#[derive(Debug)]
pub struct Guest {
    /// The connection; small answers leave at once.
    pub stream: TcpStream,
    /// Where it comes from.
    pub ip: IpAddr,
    /// The limits at the time that it came.
    pub limits: Arc<Limits>,
    /// Where the listener stands; held until the connection ends.
    pub phase: watch::Receiver<Phase>,
}

/// An accept loop at work. Dropped, it stops accepting; connections go on until they end.
#[derive(Debug)]
pub struct Accepting {
    places: Arc<Places>,
    phase: watch::Sender<Phase>,
    /// The accept loop and every connection hold a receiver of `phase` until they end.
    task: JoinHandle<()>,
}

impl Accepting {
    /// Begins to accept; each connection is served in a task of its own. Must be called on a runtime.
    pub fn start<S, E>(
        listener: TcpListener,
        limits: impl Fn() -> Arc<Limits> + Send + 'static,
        serve: impl Fn(Guest) -> S + Send + 'static,
    ) -> Self
    where
        S: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + 'static,
    {
        let places = Arc::<Places>::default();
        let (phase, watched) = watch::channel(Phase::Serving);
        let task = tokio::spawn(accept(listener, places.clone(), watched, limits, serve));
        Self { places, phase, task }
    }

    /// Counts of its connections, which outlive it.
    pub fn connections(&self) -> Connections {
        self.places.connections()
    }

    /// Accepts no more, lets what is under way end, and cuts what is left after `within`. How many were cut.
    pub async fn drain(&self, within: Duration) -> u32 {
        self.phase.send_replace(Phase::Draining);
        if tokio::time::timeout(within, self.phase.closed()).await.is_ok() {
            return 0;
        }
        let left = self.connections().open();
        self.phase.send_replace(Phase::Cut);
        self.phase.closed().await;
        left
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept<S, E>(
    listener: TcpListener,
    places: Arc<Places>,
    mut phase: watch::Receiver<Phase>,
    limits: impl Fn() -> Arc<Limits>,
    serve: impl Fn(Guest) -> S,
) where
    S: Future<Output = Result<(), E>> + Send + 'static,
    E: Display + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let limits = limits();
        let Some(place) = Place::take(&places, address.ip(), &limits) else { continue };
        // Small answers leave at once.
        let _ = stream.set_nodelay(true);
        let ip = address.ip().to_canonical();
        let served = serve(Guest { stream, ip, limits, phase: phase.clone() });
        // Not awaited in a block of its own, which would hold the room for it twice.
        tokio::spawn(served.map(move |ended| {
            if let Err(error) = ended {
                // Peers break off all the time; what matters of it stands in the calls' records.
                tracing::debug!(%error, "a connection ended badly");
            }
            drop(place);
        }));
    }
}
