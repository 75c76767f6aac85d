//! A TCP proxy that breaks connections where a test says: refused, cut in the middle of what a client sends,
//! or cut right after a word has been carried to the server, so that its answer is never heard.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use parking_lot::Mutex;

/// The most connections that are kept in mind to be cut.
const CONNECTIONS_MAX: usize = 256;
/// How long a server may take to act on what it was sent before its connection is cut.
const LAST_WORD: Duration = Duration::from_millis(100);
/// No number of bytes to cut after.
const NEVER: u64 = u64::MAX;

/// A proxy on loopback. It stops with the process that made it.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    server: u16,
    refusing: AtomicBool,
    /// Bytes from clients until the connection that sends them is cut.
    cut_after: AtomicU64,
    /// The word whose answer is lost, once.
    swallow: Mutex<Option<Vec<u8>>>,
    faults: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl FaultProxy {
    /// Carries connections to a port on loopback.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start(server: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            server,
            refusing: AtomicBool::new(false),
            cut_after: AtomicU64::new(NEVER),
            swallow: Mutex::new(None),
            faults: AtomicU64::new(0),
            open: Mutex::new(Vec::new()),
        });
        let accepting = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = accepting.clone();
                std::thread::spawn(move || state.carry(client));
            }
        });
        Ok(Self { port, state })
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts what is open, and refuses new connections or takes them again.
    pub fn refuse(&self, refusing: bool) {
        self.state.refusing.store(refusing, Ordering::SeqCst);
        if refusing {
            self.cut();
        }
    }

    /// Cuts all connections that are open.
    pub fn cut(&self) {
        for stream in self.state.open.lock().drain(..) {
            self.state.faults.fetch_add(1, Ordering::SeqCst);
            // One that has gone by itself is cut already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Cuts the connection that sends the last of so many bytes from now on. Once.
    pub fn cut_after(&self, bytes: u64) {
        self.state.cut_after.store(bytes, Ordering::SeqCst);
    }

    /// Carries the next occurrence of a word to the server, and cuts the connection before the answer. Once.
    pub fn swallow_answer_of(&self, word: &str) {
        *self.state.swallow.lock() = Some(word.as_bytes().to_vec());
    }

    /// How many connections were broken on purpose.
    pub fn faults(&self) -> u64 {
        self.state.faults.load(Ordering::SeqCst)
    }
}

impl State {
    fn carry(&self, mut client: TcpStream) {
        if self.refusing.load(Ordering::SeqCst) {
            return;
        }
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", self.server)) else { return };
        let (Ok(mut answers), Ok(mut to_client)) = (server.try_clone(), client.try_clone()) else { return };
        if let Ok(known) = client.try_clone() {
            let mut open = self.open.lock();
            open.truncate(CONNECTIONS_MAX);
            open.push(known);
        }
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut answers, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Both);
        });
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = client.read(&mut buffer) {
            let said = buffer.get(..read).unwrap_or_default();
            if self.swallows(said) {
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.write_all(said);
                crate::pause(LAST_WORD);
                break;
            }
            let carried = self.until_cut(said);
            if server.write_all(carried).is_err() || carried.len() < said.len() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    }

    fn swallows(&self, said: &[u8]) -> bool {
        let mut swallow = self.swallow.lock();
        let found = swallow.as_ref().is_some_and(|word| said.windows(word.len()).any(|part| part == word));
        if found {
            *swallow = None;
            self.faults.fetch_add(1, Ordering::SeqCst);
        }
        found
    }

    /// What of this is carried before the cut.
    fn until_cut<'s>(&self, said: &'s [u8]) -> &'s [u8] {
        let left = self.cut_after.load(Ordering::SeqCst);
        if left == NEVER {
            return said;
        }
        let length = u64::try_from(said.len()).unwrap_or(u64::MAX);
        if length < left {
            self.cut_after.store(left - length, Ordering::SeqCst);
            return said;
        }
        self.cut_after.store(NEVER, Ordering::SeqCst);
        self.faults.fetch_add(1, Ordering::SeqCst);
        let end = usize::try_from(left).unwrap_or(0).min(said.len().saturating_sub(1));
        said.get(..end).unwrap_or_default()
    }
}
