//! Entries for fuzzers: any bytes as what a client or a database says. They panic only when this crate is broken.

use bytes::BytesMut;
use doorward_core::Fault;
use doorward_pgclient::{HEADER, head};
use doorward_sql::{Limits, Parser};

use super::frontend;
use super::link::{Expected, Link, Probe};
use crate::codes;
use crate::message::{Severity, error_bytes};
use crate::settings;
use crate::startup::{self, First};
use crate::vet::Vetted;

/// What the parser may remember meanwhile.
const CACHE_BYTES: u64 = 64 << 10;
/// Settings that must never come from a client's start-up packet.
const NEVER_PASSED: [&str; 4] =
    ["role", "session_authorization", "client_encoding", "standard_conforming_strings"];

/// A first packet, without its length.
pub fn fuzz_startup(bytes: &[u8]) {
    let Ok(First::Startup(startup)) = startup::read(bytes) else { return };
    assert!(startup.spoken() <= startup.minor, "no more is spoken than was asked for");
    let mut out = BytesMut::new();
    startup.negotiation(&mut out);
    if let Ok(passed) = settings::passed(&startup) {
        for (name, value) in passed {
            assert!(!NEVER_PASSED.contains(&&*name), "{name} is passed on");
            assert!(!value.contains('\0'), "a value holds no end");
        }
    }
}

/// Messages of a client in a session.
pub fn fuzz_client(bytes: &[u8]) {
    let parser = Parser::new(Limits::default(), CACHE_BYTES);
    let mut rest = bytes;
    while let Ok(Some(message)) = head(rest) {
        let whole = HEADER.saturating_add(message.body);
        let body = rest.get(HEADER..whole.min(rest.len())).unwrap_or_default();
        let text = match message.tag {
            b'Q' => frontend::query(body).ok(),
            b'P' => frontend::parse(body).ok().map(|(_, text, _)| text),
            b'B' => frontend::bind(body).ok().map(|(_, statement, _)| statement),
            b'D' | b'C' => frontend::named(body).ok().map(|(_, name)| name),
            b'E' => frontend::execute(body).ok(),
            _ => None,
        };
        if let Some(text) = text {
            assert!(text.len() < body.len() && !text.contains('\0'), "a text ends within its message");
            if let Ok(vetted) = Vetted::read(&parser, text) {
                assert_eq!(vetted.text(), text, "what is read is what was sent");
            }
        }
        rest = rest.get(whole..).unwrap_or_default();
    }
}

/// What a database answers to a batch, to a question of the gateway's own, and to what it was sent for a refusal.
pub fn fuzz_server(bytes: &[u8]) {
    let link = Link::new(None);
    let refusal = error_bytes(Severity::Error, &Fault::new(codes::NAME, "refused"), None);
    for expected in [
        Expected::Parse("s".into()),
        Expected::Describe(None),
        Expected::Bind("p".into()),
        Expected::Close,
        Expected::Sync,
        Expected::Probe(Probe::default()),
        Expected::Failing(refusal.clone()),
        Expected::Sync,
        Expected::FailingQuery(refusal),
    ] {
        link.expect(expected);
    }
    let mut rest = bytes;
    while let Ok(Some(message)) = head(rest) {
        let whole = HEADER.saturating_add(message.body);
        let Some(body) = rest.get(HEADER..whole) else { break };
        let before = link.state().queue.len();
        if link.state().settle(message.tag, body).is_err() {
            break;
        }
        assert!(link.state().queue.len() <= before, "an answer asks for nothing");
        rest = rest.get(whole..).unwrap_or_default();
    }
}
