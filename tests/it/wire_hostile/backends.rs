//! Backends that lie, send garbage, never end, never begin, or ask for passwords in ways that would give them away.

use anyhow::{Result, ensure};
use doorward_testkit::gateway::Setup;
use doorward_testkit::wait_until;

use super::fake::{Deed, Fake, described, row};
use super::{GRANTS, MODES, ROLE_PASSWORD, Siege};
use crate::bed::SOON;
use crate::wire::client::{Wire, message, query};

/// How much more memory a hostile backend may make the gateway hold, in KiB.
const GROWTH_KIB_MAX: u64 = 64 << 10;
/// The word that is the fake's sign.
const SIGN: &[u8] = b"misbehave";
const STATEMENT: &str = "select customer as misbehave from orders";

/// A siege whose database is a fake.
fn siege(mode: fn(&str) -> String) -> Result<(Siege, Fake)> {
    let mut fake = None;
    let siege = Siege::start_with(GRANTS, |config, port| {
        let middle = Fake::start(port)?;
        let config = mode(&config)
            .replace(&format!("127.0.0.1:{port}/"), &format!("127.0.0.1:{}/", middle.port))
            .replace("sessions: 20", "sessions: 20, connect_timeout: 2s");
        fake = Some(middle);
        Setup::new(&config)
    })?;
    Ok((siege, fake.expect("it was started")))
}

/// Answers that do not fit what was asked, and whether the client is told why: in the middle of a row it cannot be.
fn answers() -> Vec<(&'static str, Vec<u8>, bool)> {
    let head = |tag: u8, length: u32| [&[tag][..], &length.to_be_bytes()].concat();
    let described = described();
    vec![
        ("garbage", vec![0xa5; 300], true),
        ("zeros", vec![0; 300], true),
        ("a length below itself", head(b'T', 3), true),
        ("a negative length", head(b'T', 0x8000_0000), true),
        ("a description of two gigabytes", head(b'T', 0x7fff_ffff), true),
        ("an error of a gigabyte", head(b'E', 1 << 30), true),
        ("an error without fields", message(b'E', b""), true),
        ("an error without ends", message(b'E', b"SERROR"), true),
        (
            "two ends",
            [described.clone(), message(b'C', b"SELECT 0\0"), message(b'Z', b"I"), message(b'Z', b"I")]
                .concat(),
            true,
        ),
        ("a state that there is not", message(b'Z', b"?"), true),
        ("an end without a state", message(b'Z', b""), true),
        ("an answer to Parse", message(b'1', b""), true),
        ("an answer to Bind", message(b'2', b""), true),
        ("a suspended portal", message(b's', b""), true),
        ("authentication again", message(b'R', &[0, 0, 0, 3]), true),
        ("a key again", message(b'K', &[0; 8]), true),
        ("replication", message(b'W', b"\0\0\0"), true),
        ("an answer to a function call", message(b'V', &[0xff; 4]), true),
        ("another protocol", message(b'v', &[0, 3, 0, 0, 0, 0, 0, 0]), true),
        ("another encoding", message(b'S', b"client_encoding\0SJIS\0"), true),
        ("another reading of strings", message(b'S', b"standard_conforming_strings\0off\0"), true),
        ("a setting without an end", message(b'S', b"client_encoding"), true),
        ("the end in the middle of a row", [described, head(b'D', 100), vec![0, 1, 0, 0]].concat(), false),
    ]
}

#[test]
fn hostile_answers_end_the_session_and_nothing_else() -> Result<()> {
    MODES.into_iter().try_for_each(answers_end_the_session)
}

fn answers_end_the_session(mode: fn(&str) -> String) -> Result<()> {
    let (siege, fake) = siege(mode)?;
    let mut count = 0;
    for (what, bytes, told) in answers() {
        let mut wire = siege.connect("readers")?;
        fake.at_word(SIGN, Deed::SayAndClose(bytes));
        wire.send(&query(STATEMENT))?;
        let mut last = None;
        while let Ok(said) = wire.next() {
            last = Some(said);
        }
        let fatal = last.is_some_and(|said| said.tag == 'E' && said.field(b'V') == "FATAL");
        ensure!(fatal == told, "{what}: told {fatal}");
        count += 1;
        fake.at_word(b"nothing any more", Deed::Say(Vec::new()));
        siege.serves()?;
    }
    // Each is one record, of a call that failed; none says that it was done, but where the answer was complete.
    let all = siege
        .records(count, |row| row["operation"].as_str().is_some_and(|text| text.contains("misbehave")))?;
    let allowed = all.iter().filter(|row| row["outcome"] == "allowed").count();
    let outcomes: Vec<_> = all.iter().map(|row| (&row["outcome"], &row["fault_code"])).collect();
    ensure!(all.len() == count && allowed <= 2, "{allowed} of {count}: {outcomes:?}");
    Ok(())
}

#[test]
fn hostile_silence_keeps_no_client_from_its_last_word() -> Result<()> {
    MODES.into_iter().try_for_each(silence_keeps_nobody)
}

fn silence_keeps_nobody(mode: fn(&str) -> String) -> Result<()> {
    let (siege, fake) = siege(mode)?;
    let mut wire = siege.connect("readers")?;
    fake.be_deaf();
    fake.at_word(SIGN, Deed::Say(message(b'v', &[0, 3, 0, 0, 0, 0, 0, 0])));
    wire.send(&query(STATEMENT))?;
    let (_, code) = wire.answer()?;
    let given_up = fake.given_up();
    ensure!(code == "08P01" && given_up == 0, "{code}: after {given_up} cancel requests were given up");
    ensure!(wait_until(SOON, || fake.given_up() == 1), "it was cancelled all the same");
    fake.at_word(b"nothing any more", Deed::Say(Vec::new()));
    siege.serves()
}

#[test]
fn hostile_answers_without_end_take_no_memory() -> Result<()> {
    let capped = format!(
        "{GRANTS}  capped: {{ to: group:capped, allow: \"read shop/public/orders\", as: siege_reader, max_bytes: 10MiB }}\n"
    );
    let mut fake = None;
    let siege = Siege::start_with(&capped, |config, port| {
        let middle = Fake::start(port)?;
        let config = config.replace(&format!("127.0.0.1:{port}/"), &format!("127.0.0.1:{}/", middle.port));
        fake = Some(middle);
        Setup::new(&config)
    })?;
    let fake = fake.expect("it was started");
    siege.serves()?;
    let before = siege.memory_peak()?;
    let rows = row(&[b'x'; 8_000]).repeat(16);
    let notices = message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mhear, hear\0\0").repeat(500);
    let one_row =
        [described(), [&b"D"[..], &(1_u32 << 30).to_be_bytes(), b"\0\x01\x3f\xff\xff\xf6"].concat()].concat();
    let deeds = [
        ("capped", Deed::SayEndlessly(described(), rows.clone()), "53400"),
        ("capped", Deed::SayEndlessly(one_row, vec![b'x'; 1 << 20]), "53400"),
        ("readers", Deed::SayEndlessly(described(), rows), ""),
        ("readers", Deed::SayEndlessly(Vec::new(), notices), ""),
    ];
    for (group, deed, code) in deeds {
        let mut wire: Wire = siege.connect(group)?;
        fake.at_word(SIGN, deed);
        wire.send(&query(STATEMENT))?;
        let mut told = String::new();
        let mut messages = 0;
        // Who is not cut hangs up in the end.
        while let Ok(said) = wire.next() {
            messages += 1;
            if said.tag == 'E' {
                told = said.field(b'C');
            }
            if code.is_empty() && messages > 20_000 {
                break;
            }
        }
        ensure!(told == code, "{told} instead of {code}");
        drop(wire);
        fake.at_word(b"nothing any more", Deed::Say(Vec::new()));
        siege.serves()?;
    }
    let grown = siege.memory_peak()? - before;
    ensure!(grown < GROWTH_KIB_MAX, "the gateway has grown by {grown} KiB");
    Ok(())
}

#[test]
fn hostile_logins_get_no_password_and_hold_up_nobody() -> Result<()> {
    let (siege, fake) = siege(str::to_owned)?;
    let request = |kind: u32, more: &[u8]| message(b'R', &[&kind.to_be_bytes()[..], more].concat());
    let deeds = [
        ("nothing", Deed::Say(Vec::new())),
        ("the end", Deed::SayAndClose(Vec::new())),
        ("garbage", Deed::Say(vec![0xa5; 300])),
        ("a message of two gigabytes", Deed::Say([&b"R"[..], &0x7fff_ffff_u32.to_be_bytes()].concat())),
        ("the password in the clear", Deed::Say(request(3, b""))),
        ("MD5", Deed::Say(request(5, b"salt"))),
        ("GSSAPI", Deed::Say(request(7, b""))),
        ("SSPI", Deed::Say(request(9, b""))),
        ("a method of nobody's", Deed::Say(request(10, b"ROT-13\0\0"))),
        ("SASL without methods", Deed::Say(request(10, b"\0"))),
        ("the end of SASL before its beginning", Deed::Say(request(12, b"v=AAAA"))),
        ("an error", Deed::Say(message(b'E', b"SFATAL\0VFATAL\0C28000\0Mno\0\0"))),
        ("settings without end", Deed::SayEndlessly(request(0, b""), message(b'S', b"a\0b\0").repeat(100))),
        ("readiness at once", Deed::Say(message(b'Z', b"I"))),
    ];
    for (what, deed) in deeds {
        fake.at_login(Some(deed));
        let refused = siege.connect("readers");
        ensure!(refused.is_err(), "{what}: a session opened");
        let heard = fake.heard();
        ensure!(
            !heard.windows(ROLE_PASSWORD.len()).any(|word| word == ROLE_PASSWORD.as_bytes()),
            "{what}: the password was given away"
        );
        ensure!(!siege.gateway.log().contains(ROLE_PASSWORD), "{what}: the password is in the log");
    }
    fake.at_login(None);
    ensure!(wait_until(SOON, || siege.serves().is_ok()), "{}", siege.gateway.log());
    Ok(())
}

/// Servers before PostgreSQL 14, and poolers, do not know the setting by which a server looks for its client.
#[test]
fn hostile_servers_that_refuse_to_look_for_their_client_serve_all_the_same() -> Result<()> {
    const SETTING: &[u8] = b"client_connection_check_interval";
    let errors: [&[u8]; 2] = [
        b"SFATAL\0VFATAL\0C42704\0Munrecognized configuration parameter \"client_connection_check_interval\"\0\0",
        b"SFATAL\0C08P01\0Munsupported startup parameter: client_connection_check_interval\0\0",
    ];
    for (mode, error) in MODES.into_iter().zip(errors) {
        let (siege, fake) = siege(mode)?;
        fake.refuse(SETTING, message(b'E', error));
        let mut first = siege.connect("readers")?;
        ensure!(first.value("show client_connection_check_interval")? == "0", "it was not asked to look");
        ensure!(first.ask(&query("begin"))?.0 == "CZT");
        // One who needs a connection of their own; the server is not asked again.
        let mut second = siege.connect("readers")?;
        ensure!(second.value("select count(*) from orders")? == "20");
        ensure!(first.ask(&query("commit"))?.0 == "CZI");
        ensure!(fake.refused() == 1, "refused {} times", fake.refused());
    }
    Ok(())
}
