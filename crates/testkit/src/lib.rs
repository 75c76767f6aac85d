//! Real parts for the tests and the demo: private PostgreSQL clusters, identity providers, a fake
//! clock, the gateway's own binary as a child process, a header-strict HTTP client, a proxy that breaks
//! connections, in-memory organs, and the echo door, which proves that the road serves any door.
//!
//! Invariants: everything listens on loopback only; every child process ends with the value that
//! holds it, and also when the test process is killed (`child`); nothing outlives its temporary folder.

pub mod child;
pub mod clock;
pub mod cloud;
pub mod echo;
pub mod gateway;
pub mod grafana;
pub mod http;
pub mod issuer;
pub mod object_store;
pub mod oidc_provider;
pub mod organs;
pub mod postgres;
pub mod program;
pub mod proxy;
pub mod records;
pub mod timescale_community;
pub mod vault;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The checkout that this was built in: where `.cache/` and `demo/` are.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// A port on loopback that was free a moment ago.
///
/// # Errors
/// When no port can be bound.
pub fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Waits on a thread of its own kind: tests block, the runtime does not.
pub fn pause(span: Duration) {
    std::thread::park_timeout(span);
}

/// A flag that is raised when this is dropped: however a test ends, the threads that wait for it do too.
#[derive(Debug)]
pub struct Raised<'a>(pub &'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Asks `ready` every few milliseconds until it says yes or the time is up.
pub fn wait_until(limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let start = std::time::Instant::now();
    loop {
        if ready() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        pause(Duration::from_millis(5));
    }
}
