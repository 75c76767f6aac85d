//! A backend that misbehaves: a real PostgreSQL behind a man in the middle, who lets everything through until a word
//! of a statement, or the start of a session of one role, is his sign.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use parking_lot::Mutex;

use crate::wire::client::message;

/// The code of a cancel request: 80877102.
const CANCEL_REQUEST: [u8; 4] = [4, 210, 22, 46];

/// What is written behind the sign.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    /// These bytes, and then nothing more.
    Say(Vec<u8>),
    /// These bytes, and the end of the connection.
    SayAndClose(Vec<u8>),
    /// These bytes once, and the others until nobody takes them any more.
    SayEndlessly(Vec<u8>, Vec<u8>),
}

/// The man in the middle. He stops with the process.
pub(super) struct Fake {
    pub(super) port: u16,
    state: Arc<State>,
}

struct State {
    server: u16,
    /// What happens at a word in a statement.
    at_word: Mutex<Option<(&'static [u8], Deed)>>,
    /// What happens instead of the login of the reader's role.
    at_login: Mutex<Option<Deed>>,
    /// A word of a start-up packet, and what it is refused with.
    refuses: Mutex<Option<(&'static [u8], Vec<u8>)>>,
    refused: AtomicUsize,
    /// What the gateway has sent after a login of the reader's role was met with a deed.
    heard: Mutex<Vec<u8>>,
    /// Whether cancel requests are met with silence; how many of those the gateway has given up.
    deaf: AtomicBool,
    given_up: AtomicUsize,
}

impl Fake {
    pub(super) fn start(server: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            server,
            at_word: Mutex::default(),
            at_login: Mutex::default(),
            refuses: Mutex::default(),
            refused: AtomicUsize::default(),
            heard: Mutex::default(),
            deaf: AtomicBool::default(),
            given_up: AtomicUsize::default(),
        });
        let accepting = state.clone();
        std::thread::spawn(move || {
            for gateway in listener.incoming().flatten() {
                let state = accepting.clone();
                // A connection that breaks is the test's to notice.
                std::thread::spawn(move || drop(state.carry(gateway)));
            }
        });
        Ok(Self { port, state })
    }

    pub(super) fn at_word(&self, word: &'static [u8], deed: Deed) {
        *self.state.at_word.lock() = Some((word, deed));
    }

    pub(super) fn at_login(&self, deed: Option<Deed>) {
        self.state.heard.lock().clear();
        *self.state.at_login.lock() = deed;
    }

    /// Start-up packets with this word are refused.
    pub(super) fn refuse(&self, word: &'static [u8], error: Vec<u8>) {
        *self.state.refuses.lock() = Some((word, error));
    }

    /// How many were.
    pub(super) fn refused(&self) -> usize {
        self.state.refused.load(Ordering::Relaxed)
    }

    /// Cancel requests are not answered, and not passed on.
    pub(super) fn be_deaf(&self) {
        self.state.deaf.store(true, Ordering::Relaxed);
    }

    /// How many cancel requests that were met with silence the gateway has given up.
    pub(super) fn given_up(&self) -> usize {
        self.state.given_up.load(Ordering::Relaxed)
    }

    /// What the gateway has said since the last deed at a login.
    pub(super) fn heard(&self) -> Vec<u8> {
        self.state.heard.lock().clone()
    }
}

impl State {
    fn carry(&self, mut gateway: TcpStream) -> Result<()> {
        let mut start_up = first_packet(&mut gateway)?;
        // A request for encryption: there is none here.
        while start_up.get(4..8).is_some_and(|code| code[0] == 4 && code[3] != 46) {
            gateway.write_all(b"N")?;
            start_up = first_packet(&mut gateway)?;
        }
        if start_up.get(4..8) == Some(&CANCEL_REQUEST) && self.deaf.load(Ordering::Relaxed) {
            let given_up = do_it(&mut gateway, &Deed::Say(Vec::new()));
            self.given_up.fetch_add(1, Ordering::Relaxed);
            return given_up;
        }
        let refusal = self.refuses.lock().clone().filter(|(word, _)| holds(&start_up, word));
        if let Some((_, error)) = refusal {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return do_it(&mut gateway, &Deed::SayAndClose(error));
        }
        let at_login = self.at_login.lock().clone();
        if let Some(deed) = at_login
            && holds(&start_up, b"siege_reader")
        {
            let mut hears = gateway.try_clone()?;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut bytes = [0; 4096];
                    while let Ok(count @ 1..) = hears.read(&mut bytes) {
                        self.heard.lock().extend_from_slice(bytes.get(..count).unwrap_or_default());
                    }
                });
                do_it(&mut gateway, &deed)
            })?;
            return Ok(());
        }
        let mut server = TcpStream::connect(("127.0.0.1", self.server))?;
        server.write_all(&start_up)?;
        let (mut from_server, mut to_gateway) = (server.try_clone()?, gateway.try_clone()?);
        let silent = Arc::new(AtomicBool::new(false));
        let down = std::thread::spawn({
            let silent = silent.clone();
            move || {
                let _ = std::io::copy(&mut from_server, &mut to_gateway);
                // The end of the server's connection is the end of both, unless the fake takes over.
                if !silent.load(Ordering::Relaxed) {
                    let _ = to_gateway.shutdown(Shutdown::Both);
                }
            }
        });
        let mut bytes = vec![0; 64 << 10];
        loop {
            let count = gateway.read(&mut bytes)?;
            let sent = bytes.get(..count).unwrap_or_default();
            let sign = self.at_word.lock().clone().filter(|(word, _)| holds(sent, word));
            if let Some((_, deed)) = sign {
                // The server is left alone with its session.
                silent.store(true, Ordering::Relaxed);
                server.shutdown(Shutdown::Both)?;
                let _ = down.join();
                return do_it(&mut gateway, &deed);
            }
            if count == 0 {
                server.shutdown(Shutdown::Write)?;
                return Ok(());
            }
            server.write_all(sent)?;
        }
    }
}

fn do_it(gateway: &mut TcpStream, deed: &Deed) -> Result<()> {
    match deed {
        Deed::Say(bytes) => {
            gateway.write_all(bytes)?;
            // It stays open for as long as the gateway wants.
            gateway.set_read_timeout(Some(Duration::from_secs(120)))?;
            let mut nothing = [0; 64];
            while let Ok(1..) = gateway.read(&mut nothing) {}
        }
        Deed::SayAndClose(bytes) => {
            gateway.write_all(bytes)?;
            gateway.shutdown(Shutdown::Both)?;
        }
        Deed::SayEndlessly(first, more) => {
            gateway.write_all(first)?;
            while gateway.write_all(more).is_ok() {}
        }
    }
    Ok(())
}

/// The first packet with its length, or a cancel request.
fn first_packet(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    stream.read_exact(&mut packet)?;
    let length = u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]);
    packet.resize(usize::try_from(length)?, 0);
    stream.read_exact(packet.get_mut(4..).unwrap_or_default())?;
    Ok(packet)
}

fn holds(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

/// A description of one column of text, and a row of it.
pub(super) fn described() -> Vec<u8> {
    message(b'T', b"\0\x01word\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0")
}

pub(super) fn row(value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    message(b'D', &[b"\0\x01", &length.to_be_bytes()[..], value].concat())
}
