//! Clients that lie about lengths, send too much, read nothing, come too often, or never say who they are.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::Setup;
use doorward_testkit::wait_until;
use rcgen::CertificateParams;

use super::{GRANTS, MODES, Siege};
use crate::bed::SOON;
use crate::identity::Authority;
use crate::wire::client::{message, query, sync};

/// A request for TLS.
const SSL: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// How much more memory a hostile client may make the gateway hold, in KiB.
const GROWTH_KIB_MAX: u64 = 64 << 10;
/// The largest length that the protocol's head can say, but for its sign.
const GIB: usize = 1 << 30;

fn dial(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

/// All that comes until the end.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // An end by reset is an end.
    let _ = stream.read_to_end(&mut all);
    all
}

#[test]
fn hostile_lengths_before_the_session() -> Result<()> {
    let siege = Siege::start()?;
    let address = siege.gateway.address("postgres")?;
    let start_up: &[u8] = b"\0\0\0\x20\0\x03\0\0user\0mal\0database\0shop\0\0";
    let mut refused: Vec<Vec<u8>> = Vec::new();
    for length in [0_u32, 3, 7, 10_001, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        refused.push([&length.to_be_bytes()[..], b"\0\x03\0\0user\0mal\0\0"].concat());
    }
    for length in [0_u32, 3, 4, 70_000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        refused.push([start_up, b"p", &length.to_be_bytes(), b"x\0"].concat());
    }
    refused.push([start_up, &query("select 1")].concat());
    refused.push([start_up, &message(b'p', b"without an end")].concat());
    refused.push(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n".to_vec());
    refused.push([0xff; 64].to_vec());
    for bytes in refused {
        let mut stream = dial(address)?;
        stream.write_all(&bytes)?;
        let said = rest(&mut stream);
        let told = said.windows(5).any(|word| word == b"FATAL");
        ensure!(told || said.is_empty(), "{}: {}", bytes.escape_ascii(), said.escape_ascii());
        ensure!(!said.contains(&b'Z'), "it came in: {}", bytes.escape_ascii());
    }
    siege.serves()
}

#[test]
fn hostile_lengths_in_a_session() -> Result<()> {
    Siege::start_in_each_mode(GRANTS)?.iter().try_for_each(lengths_in_a_session)
}

fn lengths_in_a_session(siege: &Siege) -> Result<()> {
    for tag in [b'Q', b'P', b'B', b'E', b'D', b'C', b'S', b'H', b'F', b'd', b'c', b'f', b'X', b'z', 0] {
        for length in [0_u32, 3, 0x8000_0000, 0xffff_ffff] {
            let mut wire = siege.connect("readers")?;
            wire.send(&[&[tag][..], &length.to_be_bytes(), b"select 1\0"].concat())?;
            let said = wire.next()?;
            ensure!(said.tag == 'E' && said.field(b'C') == "08P01", "{tag} {length}: {said:?}");
        }
    }
    // A message that announces more than ever comes, and then nothing more.
    for tag in [b'Q', b'P', b'B'] {
        let mut wire = siege.connect("readers")?;
        wire.send(&[&[tag][..], &0x7fff_ffff_u32.to_be_bytes(), b"select"].concat())?;
        drop(wire);
    }
    ensure!(siege.comes_to_rest(), "their sessions end");
    siege.serves()
}

#[test]
fn hostile_messages_of_a_gigabyte_take_no_memory() -> Result<()> {
    Siege::start_in_each_mode(GRANTS)?.iter().try_for_each(messages_of_a_gigabyte_take_no_memory)
}

fn messages_of_a_gigabyte_take_no_memory(siege: &Siege) -> Result<()> {
    siege.serves()?;
    let before = siege.memory_peak()?;
    let piece = vec![b'x'; 1 << 20];
    // The server keeps a piece of copied data whole before it ignores it.
    for (tag, bytes) in [(b'Q', GIB), (b'P', GIB), (b'd', GIB / 8)] {
        let mut wire = siege.connect("readers")?;
        wire.send(&[&[tag][..], &u32::try_from(bytes + 4)?.to_be_bytes()].concat())?;
        let mut left = bytes;
        while left > 0 {
            wire.send(&piece)?;
            left -= piece.len();
        }
        // What is read past is refused, and the session lives on; data that nobody takes is ignored.
        let (tags, code) = wire.ask(&sync())?;
        match tag {
            b'd' => ensure!(tags == "ZI", "{tags} {code}"),
            _ => ensure!(tags == "EZI" && code == "54000", "{tags} {code}"),
        }
        drop(wire);
    }
    let grown = siege.memory_peak()? - before;
    ensure!(grown < GROWTH_KIB_MAX, "the gateway has grown by {grown} KiB");
    siege.serves()
}

#[test]
fn hostile_readers_that_take_nothing_take_no_memory() -> Result<()> {
    Siege::start_in_each_mode(GRANTS)?.iter().try_for_each(readers_that_take_nothing_take_no_memory)
}

fn readers_that_take_nothing_take_no_memory(siege: &Siege) -> Result<()> {
    siege.serves()?;
    let before = siege.memory_peak()?;
    let mut idlers = Vec::new();
    for _ in 0..4 {
        let mut wire = siege.connect("readers")?;
        // Some gigabytes, of which nothing is ever read.
        wire.send(&query("select a.filler, b.filler as endless from big a, big b"))?;
        idlers.push(wire);
    }
    ensure!(siege.runs("endless", "4"), "they run");
    siege.serves()?;
    let waits = "select count(*) from pg_stat_activity where wait_event = 'ClientWrite' and query like '%endless%' and pid <> pg_backend_pid()";
    ensure!(
        wait_until(SOON, || siege.database.sql(waits).is_ok_and(|count| count.trim() == "4")),
        "the database waits for the clients"
    );
    let grown = siege.memory_peak()? - before;
    ensure!(grown < GROWTH_KIB_MAX, "the gateway has grown by {grown} KiB");
    drop(idlers);
    ensure!(siege.runs("endless", "0"), "they are cancelled when the clients are gone");
    siege.records(4, |row| {
        row["outcome"] == "abandoned"
            && row["operation"].as_str().is_some_and(|text| text.contains("endless"))
    })?;
    siege.serves()
}

#[test]
fn hostile_ends_in_the_middle_of_a_copy() -> Result<()> {
    Siege::start_in_each_mode(GRANTS)?.iter().try_for_each(ends_in_the_middle_of_a_copy)
}

fn ends_in_the_middle_of_a_copy(siege: &Siege) -> Result<()> {
    for half_open in [false, true] {
        let mut wire = siege.connect("writers")?;
        wire.send(&query("copy orders (customer) from stdin"))?;
        while wire.next()?.tag != 'G' {}
        wire.send(&message(b'd', b"half of it\nand a"))?;
        // The rest never comes; one keeps its ear open.
        wire.shut(if half_open { Shutdown::Write } else { Shutdown::Both })?;
        ensure!(siege.comes_to_rest(), "the session ends (half open: {half_open})");
    }
    let rows = siege.database.sql("select count(*) from orders where customer like 'half%'")?;
    ensure!(rows.trim() == "0", "nothing of it stays: {rows}");
    let copies = siege.records(2, |row| {
        row["operation"].as_str().is_some_and(|text| text.contains("copy orders"))
            && row["outcome"] != "allowed"
    })?;
    ensure!(copies.len() == 2, "{copies:?}");
    siege.serves()
}

/// TLS for a gateway, and the configuration that goes with it.
fn with_tls(config: &str) -> Result<Setup> {
    let authority = Authority::new("Ours")?;
    let server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let (certificate, key) = authority.sign(&server)?;
    let tls = "tls: { cert: \"file:server.crt\", key: \"file:server.key\" }\n";
    Setup::new(&format!("{config}{tls}"))?.file("server.crt", certificate)?.file("server.key", key)
}

#[test]
fn hostile_bytes_before_tls_are_never_taken_for_what_came_through_it() -> Result<()> {
    let siege = Siege::start_with(GRANTS, |config, _| with_tls(&config))?;
    let address = siege.gateway.address("postgres")?;
    let start_up: &[u8] = b"\0\0\0\x20\0\x03\0\0user\0mal\0database\0shop\0\0";
    let password = message(b'p', &[siege.token("readers")?.as_bytes(), b"\0"].concat());
    // A start-up packet behind the request for TLS, in one piece and one by one (CVE-2021-23222, CVE-2024-10977).
    for behind in [start_up.to_vec(), SSL.to_vec(), [start_up, &password, &query("select 1")].concat()] {
        let mut stream = dial(address)?;
        stream.write_all(&[&SSL[..], &behind].concat())?;
        let said = rest(&mut stream);
        ensure!(said.first() == Some(&b'S'), "TLS is offered: {}", said.escape_ascii());
        let in_the_clear = said.get(1..).unwrap_or_default();
        // An alert of TLS at most.
        ensure!(
            in_the_clear.is_empty() || in_the_clear.first() == Some(&0x15),
            "answered in the clear: {}",
            in_the_clear.escape_ascii()
        );
    }
    // Asked for after the start-up packet it is too late.
    let mut stream = dial(address)?;
    stream.write_all(&[start_up, &SSL].concat())?;
    let said = rest(&mut stream);
    ensure!(!said.contains(&b'S') || said.windows(5).any(|word| word == b"FATAL"), "{}", said.escape_ascii());
    // A packet that asks for encryption and brings something else.
    for bytes in [&b"\0\0\0\x09\x04\xd2\x16\x2fx"[..], b"\0\0\0\x09\x04\xd2\x16\x30x"] {
        let mut stream = dial(address)?;
        stream.write_all(bytes)?;
        let said = rest(&mut stream);
        ensure!(said.windows(5).any(|word| word == b"FATAL"), "{}", said.escape_ascii());
    }
    siege.serves()
}

#[test]
fn hostile_floods_of_slow_starts_hold_nobody_up_for_long() -> Result<()> {
    MODES.into_iter().try_for_each(floods_of_slow_starts_hold_nobody_up_for_long)
}

fn floods_of_slow_starts_hold_nobody_up_for_long(mode: fn(&str) -> String) -> Result<()> {
    const BOUNDS: &str = "http: { connections: 30, connections_per_ip: 30, head_timeout: 3s }";
    let siege = Siege::start_with(GRANTS, |config, _| Setup::new(&format!("{}\n{BOUNDS}\n", mode(&config))))?;
    let address = siege.gateway.address("postgres")?;
    let mut slow = Vec::new();
    for n in 0..90_usize {
        let Ok(mut stream) = dial(address) else { continue };
        // Each says another part of the beginning, and then nothing; one over the cap finds its connection closed.
        let _ = stream.write_all(b"\0\0\0\x20\0\x03\0\0user\0mal".get(..n % 16).unwrap_or_default());
        slow.push(stream);
    }
    // In the end all of them are turned out, and others come in.
    ensure!(wait_until(SOON, || siege.serves().is_ok()), "{}", siege.gateway.log());
    for mut stream in slow {
        let said = rest(&mut stream);
        ensure!(!said.contains(&b'R'), "{}", said.escape_ascii());
    }
    Ok(())
}

#[test]
fn hostile_floods_of_sessions_stop_at_their_bound() -> Result<()> {
    let [sessions, transactions] = MODES;
    floods_of_sessions_stop_at_their_bound(sessions, "3")?;
    // Which share what they use one after another.
    floods_of_sessions_stop_at_their_bound(transactions, "1")
}

fn floods_of_sessions_stop_at_their_bound(mode: fn(&str) -> String, connections: &str) -> Result<()> {
    let siege = Siege::start_with(GRANTS, |config, _| {
        let config = mode(&config).replace(", wait_max: 60s", "");
        Setup::new(&config.replace("sessions: 20", "sessions: 3, wait_max: 100ms"))
    })?;
    let mut open = vec![siege.connect("readers")?, siege.connect("readers")?, siege.connect("readers")?];
    for _ in 0..10 {
        let refused = siege.connect("readers").err().context("a fourth session")?;
        ensure!(refused.to_string().contains("all sessions of this resource are taken"), "{refused}");
    }
    for wire in &mut open {
        ensure!(wire.ask(&query("select 1"))?.0 == "TDCZI", "those that are open go on");
    }
    ensure!(siege.has_connections("siege_reader", connections), "no more than that reach the database");
    open.pop();
    ensure!(wait_until(SOON, || siege.serves().is_ok()), "a seat that is free is taken");
    Ok(())
}

#[test]
fn hostile_guesses_of_cancel_keys_cancel_nothing() -> Result<()> {
    let siege = Siege::start()?;
    let address = siege.gateway.address("postgres")?;
    let mut wire = siege.connect("readers")?;
    wire.send(&query("select count(*) as guarded from big a, big b, big c"))?;
    ensure!(siege.runs("guarded", "1"), "it runs");
    let process = wire.key.get(..4).context("a key")?.to_vec();
    let secret = u32::from_be_bytes(wire.key.get(4..8).context("a secret")?.try_into()?);
    let mut guesses: Vec<Vec<u8>> = Vec::new();
    for n in 1..=300_u32 {
        // The right process with a wrong secret; a wrong process with the right one.
        guesses
            .push([&process[..], &secret.wrapping_add(n.wrapping_mul(0x9e37_79b9)).to_be_bytes()].concat());
        guesses.push([&(n * 7919).to_be_bytes()[..], &secret.to_be_bytes()].concat());
    }
    // Keys of other lengths, and none.
    guesses.push([&process[..], &secret.to_be_bytes(), &[0; 28]].concat());
    guesses.push([&process[..], &[0; 3]].concat());
    guesses.push(process.clone());
    for guess in guesses {
        let mut stream = dial(address)?;
        let length = u32::try_from(guess.len() + 8)?;
        stream.write_all(&[&length.to_be_bytes()[..], &80_877_102_u32.to_be_bytes(), &guess].concat())?;
        let said = rest(&mut stream);
        ensure!(said.is_empty() || said.windows(5).any(|word| word == b"FATAL"), "{}", said.escape_ascii());
    }
    ensure!(siege.runs("guarded", "1"), "it runs on");
    wire.cancel()?;
    let (tags, code) = wire.answer()?;
    ensure!(code == "57014", "its own key cancels it: {tags} {code}");
    Ok(())
}

#[test]
fn hostile_pauses_within_a_message_hold_up_nobody_else() -> Result<()> {
    Siege::start_in_each_mode(GRANTS)?.iter().try_for_each(pauses_within_a_message_hold_up_nobody_else)
}

fn pauses_within_a_message_hold_up_nobody_else(siege: &Siege) -> Result<()> {
    let mut wires = Vec::new();
    for n in 1..12_usize {
        let mut wire = siege.connect("readers")?;
        let whole = query("select 1");
        wire.send(whole.get(..n).unwrap_or_default())?;
        wires.push((wire, whole, n));
    }
    siege.serves()?;
    for (mut wire, whole, n) in wires {
        // Byte by byte it is still the same message.
        for byte in whole.get(n..).unwrap_or_default() {
            wire.send(&[*byte])?;
        }
        ensure!(wire.answer()?.0 == "TDCZI", "cut at {n}");
    }
    Ok(())
}
