//! Entries for fuzzers: any bytes as what a client or a database says. They panic only when this crate is broken.

use std::num::NonZeroU32;

use bytes::BytesMut;
use doorward_core::{Fault, Redactor, ResourceName, Verb};
use doorward_pgclient::{HEADER, head};
use doorward_sql::{Limits, Parser};

use super::frontend;
use super::link::{Expected, Link, Probe};
use crate::codes;
use crate::message::{Severity, error_bytes};
use crate::replication::{self, Replication};
use crate::scram::{Exchange, Offer, PLAIN, PLUS, Verifier};
use crate::startup::{self, First};
use crate::vet::Vetted;
use crate::{oauth, settings, values};

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
        Expected::Parse("s".into(), 0, None, None),
        Expected::Describe(None),
        Expected::Bind("p".into(), 0),
        Expected::Close(None, None),
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

/// The two messages of a client that proves a password by SCRAM, with a zero byte between them: with the offer of
/// channel binding and without, by either mechanism.
pub fn fuzz_scram(bytes: &[u8]) {
    const NONCE: &str = "ours";
    let salt = [7; 16];
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (first, last) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let verifier = Verifier::derive(b"what nobody guesses", &salt, NonZeroU32::MIN);
    for (mechanism, end_point) in
        [(PLAIN, None), (PLAIN, Some(&b"end"[..])), (PLUS, Some(&b"end"[..])), (PLUS, None)]
    {
        let offer = Offer { end_point, salt: &salt, rounds: NonZeroU32::MIN, nonce: NONCE };
        let Ok(begun) = Exchange::begin(mechanism, first, offer) else { continue };
        assert!(mechanism == PLAIN || end_point.is_some(), "nothing is bound to what there is not");
        let (nonce, rest) = begun.server_first.split_once(',').unwrap_or_default();
        assert!(nonce.starts_with("r=") && nonce.ends_with(NONCE), "both sides have their part in the nonce");
        assert!(
            rest.starts_with("s=") && rest.split(',').count() == 2,
            "nothing of the client's is in the rest"
        );
        assert!(begun.finish(&verifier, last).is_err(), "a proof is not guessed");
        // The same behind a nonce that is right.
        let proof = String::from_utf8_lossy(last);
        assert!(begun.finish(&verifier, format!("c=biws,{nonce},p={proof}").as_bytes()).is_err());
    }
}

/// A client's first message of OAUTHBEARER.
pub fn fuzz_oauth(bytes: &[u8]) {
    match oauth::read(bytes) {
        Ok(Some(token)) => {
            let token = token.expose().as_bytes();
            assert!(!token.is_empty() && token.iter().all(u8::is_ascii_graphic), "a token is one word");
            assert!(bytes.windows(token.len()).any(|window| window == token), "a token is the client's");
        }
        Ok(None) => assert!(bytes.ends_with(b"\x01\x01"), "a message has an end"),
        Err(why) => assert!(!why.is_empty(), "a refusal says why"),
    }
}

/// The values of Bind on their way into a record: a statement's text up to a zero byte, a count of types and as many
/// types, and what stands behind the names in Bind.
pub fn fuzz_values(redactor: &dyn Redactor, bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let Some((count, rest)) = parts.next().and_then(<[u8]>::split_first) else { return };
    let (types, front) = rest.split_at(rest.len().min(4 * usize::from(*count)));
    let types: Vec<u32> = types.as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid)).collect();
    values::fuzz(redactor, &text, &types, front);
}

/// A text in a session of replication, and the parameter that opens one.
pub fn fuzz_replication(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Whatever it says, it is known or refused.
    let _ = Replication::read(Some(text));
    let parser = Parser::new(Limits::default(), CACHE_BYTES);
    let resource = ResourceName::new("shop");
    for kind in [Replication::Logical, Replication::Physical] {
        let Some(needs) = replication::needs(kind, &resource, text) else {
            assert_eq!(kind, Replication::Logical, "there is no SQL in a session of physical replication");
            continue;
        };
        let Ok(actions) = needs else { continue };
        let connects = actions.as_slice().iter().all(|action| action.verb == Verb::Connect);
        assert!(connects && !actions.as_slice().is_empty(), "a command is allowed by a grant to connect");
        // What is no SQL to the server must be none here; SHOW is both. A session of physical replication has no SQL:
        // what follows a command there is an error of the server's own grammar.
        let is_sql = kind == Replication::Logical
            && Vetted::read(&parser, text).is_ok_and(|vetted| vetted.asks_names());
        assert!(!is_sql, "a statement passes for a command: {text}");
    }
}
