//! Escapes by messages of the protocol, and by start-up packets.

use anyhow::{Result, ensure};

use super::Stopped::{self, Either, Ended, Gateway, Nobody, Server};
use super::{CANARY, Castle, contains};
use crate::wire::client::{Wire, bind, execute, message, parse, query, run, sync};

/// What is tried, its batches, and who stops it.
type Escape = (&'static str, Vec<Vec<u8>>, Stopped);

/// A batch of the extended protocol.
fn batch(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), sync()].concat()
}

fn close(name: &str) -> Vec<u8> {
    message(b'C', &[b"S", name.as_bytes(), b"\0"].concat())
}

fn describe(name: &str) -> Vec<u8> {
    message(b'D', &[b"S", name.as_bytes(), b"\0"].concat())
}

const VAULT: &str = "select word from vault";
const ORDERS: &str = "select * from orders";
const HIDE: &str = "set search_path = hid";
const UNRECORDED: &str = "insert into inbox (word) values ('unrecorded')";

pub(super) fn escapes() -> Vec<Escape> {
    let denied = Gateway("42501");
    let mut all = texts();
    all.extend(names());
    all.extend([
        // A refusal makes the backend fail in its place: nothing that a client has made may take that place.
        (
            "a portal of the name that refusals use",
            vec![batch(&[parse("s", UNRECORDED), bind("doorward refused", "s"), parse("", VAULT)])],
            denied,
        ),
        (
            "a cursor of the name that refusals use",
            vec![
                query("begin"),
                query("declare \"doorward refused\" cursor with hold for select 1"),
                query("commit"),
                batch(&[run(VAULT)]),
            ],
            denied,
        ),
        (
            "a statement of the name that refusals use",
            vec![batch(&[parse("doorward refused", "select 1")]), batch(&[run(VAULT)])],
            denied,
        ),
        (
            "a statement of the name that the gateway's own questions use",
            vec![
                batch(&[parse("doorward probe", "select 1")]),
                query(HIDE),
                query("select word from orders"),
            ],
            Gateway("42P05"),
        ),
        (
            "a cursor of the name that the gateway's own questions use",
            vec![query("begin"), query("declare \"doorward probe\" cursor for select 1")],
            Gateway("42P03"),
        ),
        (
            "a portal of the name that the gateway's own questions use",
            vec![batch(&[parse("s", "select 1"), bind("doorward probe", "s")]), query(HIDE)],
            Gateway("42P03"),
        ),
        (
            "a function by the fast path",
            vec![message(b'F', &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0])],
            Gateway("0A000"),
        ),
        ("a password in a session", vec![message(b'p', b"x\0")], Ended("08P01")),
        ("a message that there is not", vec![message(b'?', b"")], Ended("08P01")),
        ("a message of the server's", vec![message(b'Z', b"I")], Ended("08P01")),
        (
            "a query behind the end of a copy that there is not",
            vec![[message(b'c', b""), query(VAULT)].concat()],
            denied,
        ),
        (
            "a query within copied data that nobody takes",
            vec![batch(&[message(b'd', &query(VAULT))])],
            Nobody,
        ),
        (
            "a query in the middle of a copy",
            vec![[query("copy inbox from stdin"), query(VAULT)].concat()],
            Ended("08P01"),
        ),
        (
            "a query behind a copy that failed",
            vec![[query("copy inbox from stdin"), message(b'f', b"no\0")].concat(), query(VAULT)],
            Server("57014"),
        ),
        ("a query among the messages of a batch", vec![[run("select 1"), query(VAULT)].concat()], denied),
    ]);
    all
}

/// Texts that are not what they seem.
fn texts() -> Vec<Escape> {
    let denied = Gateway("42501");
    let raw = |tag, parts: &[&[u8]]| message(tag, &parts.concat());
    vec![
        (
            "several statements in one Parse",
            vec![batch(&[run("select 1; select word from vault")])],
            Gateway("42601"),
        ),
        (
            "a text behind the text",
            vec![raw(b'Q', &[b"select 1\0select word from vault\0"])],
            Gateway("08P01"),
        ),
        ("a text without an end", vec![raw(b'Q', &[VAULT.as_bytes()])], Gateway("08P01")),
        (
            "a text with bytes that are no UTF-8",
            vec![raw(b'Q', &[b"select '\xc0\xa7' from vault\0"])],
            Gateway("22021"),
        ),
        (
            "a name with an end in it",
            vec![batch(&[raw(b'P', &[b"a\0select 1\0select word from vault\0\0\0"])])],
            Server("08P01"),
        ),
        (
            "an overlong quote",
            vec![raw(b'Q', &[b"select 'a\xe0\x80\xa7, word from vault\0"])],
            Gateway("22021"),
        ),
        (
            "a refused text prepared",
            vec![batch(&[parse("s", VAULT)]), batch(&[bind("", "s"), execute("", 0)])],
            denied,
        ),
        ("a refused text described", vec![batch(&[parse("s", VAULT)]), batch(&[describe("s")])], denied),
        (
            "what stood there before a refused text",
            vec![
                batch(&[parse("", ORDERS)]),
                batch(&[parse("", VAULT)]),
                batch(&[bind("", ""), execute("", 0)]),
            ],
            denied,
        ),
        (
            "another text under a name that was closed",
            vec![
                batch(&[parse("s", ORDERS)]),
                batch(&[close("s"), parse("s", VAULT)]),
                batch(&[bind("", "s"), execute("", 0)]),
            ],
            denied,
        ),
        (
            "a text that the server never saw",
            vec![
                batch(&[parse("a", "select 1 + 'x'"), parse("s", ORDERS)]),
                batch(&[bind("", "s"), execute("", 0)]),
            ],
            Server("22P02"),
        ),
    ]
}

/// Names that come to mean another thing.
fn names() -> Vec<Escape> {
    let denied = Gateway("42501");
    vec![
        (
            "a prepared statement whose names mean another table now",
            vec![
                batch(&[parse("s", ORDERS)]),
                query(HIDE),
                batch(&[bind("", "s"), describe("s"), execute("", 0)]),
            ],
            denied,
        ),
        (
            "a statement prepared by SQL, bound by the protocol",
            vec![
                query("prepare s as select * from orders"),
                query(HIDE),
                batch(&[bind("", "s"), execute("", 0)]),
            ],
            denied,
        ),
        (
            "a statement prepared by the protocol, executed by SQL",
            vec![batch(&[parse("s", ORDERS)]), query(HIDE), query("execute s")],
            // On a shared connection SQL has not prepared it.
            Either(&["42501", "26000"]),
        ),
        ("a search path in the same batch", vec![batch(&[run(HIDE), run(ORDERS)])], denied),
        (
            "a search path by a function in the same batch",
            vec![batch(&[run("select set_config('search_path', 'hid', false)"), run(ORDERS)])],
            denied,
        ),
        (
            "a search path, and a query in the same batch",
            vec![[run("select set_config('search_path', 'hid', false)"), query(ORDERS)].concat()],
            denied,
        ),
        (
            "a search path of the transaction in the same batch",
            vec![batch(&[run("begin"), run("set local search_path = hid"), run(ORDERS)])],
            denied,
        ),
        (
            "a search path that a failed batch takes back",
            vec![
                query(HIDE),
                batch(&[run("set search_path = public"), run("select 1 / 0")]),
                query("select word from orders"),
            ],
            denied,
        ),
        (
            "a portal that was bound before",
            vec![
                query("begin"),
                batch(&[parse("s", ORDERS), bind("p", "s")]),
                query(HIDE),
                batch(&[execute("p", 0)]),
            ],
            Nobody,
        ),
        (
            "a temporary table that is gone in the same batch",
            vec![batch(&[
                run("create temp table vault (word text)"),
                run("drop table pg_temp.vault"),
                run(VAULT),
            ])],
            denied,
        ),
    ]
}

/// Parameters of a start-up packet beside user and database, and the SQLSTATE of the refusal; without one the session
/// opens, and is the guest.
pub(super) type StartUp = (&'static [(&'static str, &'static str)], &'static str);

pub(super) const STARTUPS: &[StartUp] = &[
    (&[("role", "esc_admin")], "0A000"),
    (&[("ROLE", "esc_admin")], "0A000"),
    (&[("session_authorization", "esc_admin")], "0A000"),
    (&[("options", "-c role=esc_admin")], "0A000"),
    (&[("options", "-crole=esc_admin")], "0A000"),
    (&[("options", "--role=esc_admin")], "0A000"),
    (&[("options", "-c\\ role=esc_admin")], "0A000"),
    (&[("options", "-c search_path=public -c Role=esc_admin")], "0A000"),
    (&[("options", "-c standard_conforming_strings=off")], "0A000"),
    (&[("options", "-c client_encoding=SJIS")], "0A000"),
    (&[("options", "-P")], "0A000"),
    (&[("standard_conforming_strings", "off")], "0A000"),
    (&[("client_encoding", "SJIS")], "0A000"),
    (&[("client_encoding", "LATIN1")], "0A000"),
    (&[("session_preload_libraries", "evil")], "0A000"),
    (&[("local_preload_libraries", "evil")], "0A000"),
    (&[("session_replication_role", "replica")], "0A000"),
    (&[("log_statement", "none")], "0A000"),
    (&[("is_superuser", "on")], "0A000"),
    (&[("replication", "true")], "28000"),
    (&[("replication", "database")], "28000"),
    (&[("database", "postgres")], "3D000"),
    (&[("database", "template1")], "3D000"),
    (&[("database", "shop/../shop")], "3D000"),
    (&[("user", "esc_admin")], ""),
    (&[("user", "esc_builder")], ""),
    (&[("user", "postgres")], ""),
    (&[("search_path", "hid")], ""),
    (&[("options", "-c search_path=hid,public")], ""),
];

/// Tries one start-up packet.
pub(super) fn start_up(castle: &Castle, (parameters, code): &StartUp) -> Result<()> {
    let mut all = vec![("user", "eve"), ("database", "shop")];
    all.retain(|(name, _)| !parameters.iter().any(|(given, _)| given == name));
    all.extend_from_slice(parameters);
    let token = castle.token("guests")?;
    match Wire::start(castle.gateway.address("postgres")?, &token, &all)? {
        Ok(mut wire) => {
            ensure!(code.is_empty(), "it opened");
            castle.is_itself(&mut wire, "guests")?;
            wire.send(&query("select * from orders"))?;
            let said = wire.until_ready()?;
            ensure!(!said.iter().any(|said| contains(&said.body, CANARY)), "LED OUT: {said:?}");
        }
        Err(refused) => ensure!(refused.field(b'C') == *code, "{}", refused.field(b'M')),
    }
    Ok(())
}
