//! What an error does to a batch of messages: the server ignores all that follows up to Sync, and so do the gateway's
//! tables of names. The same messages go to PostgreSQL and to the gateway, and the answers are compared.

use anyhow::{Context, Result, ensure};
use doorward_testkit::postgres::Cluster;

use super::client::{Said, Wire, bind, execute, message, parse, query, run, sync};
use super::pools::ONE;
use super::{Shop, WRITER_PASSWORD};

/// What is tried, and its packets: each is sent whole, and answered whole before the next one.
type Trial = (&'static str, Vec<Vec<u8>>);

fn close(kind: u8, name: &str) -> Vec<u8> {
    message(b'C', &[&[kind][..], name.as_bytes(), b"\0"].concat())
}

/// Fails without the statement or portal that has no name.
fn fails() -> Vec<u8> {
    parse("bad", "select nothing from orders")
}

/// Executes a prepared statement, in a batch of its own.
fn uses(name: &str) -> Vec<u8> {
    [bind("", name), execute("", 0), sync()].concat()
}

fn executes(portal: &str) -> Vec<u8> {
    [execute(portal, 1), sync()].concat()
}

fn prepares(name: &str, text: &str) -> Vec<u8> {
    [parse(name, text), sync()].concat()
}

/// A batch that fails before these messages.
fn failed(messages: &[Vec<u8>]) -> Vec<u8> {
    [fails(), messages.concat(), sync()].concat()
}

fn statements() -> Vec<Trial> {
    let one = || prepares("s", "select 1");
    let deallocate = |text: &str| [parse("d", text), bind("", "d"), execute("", 0)].concat();
    vec![
        ("Close that is ignored", vec![one(), failed(&[close(b'S', "s")]), uses("s")]),
        ("the same in one packet", vec![[one(), failed(&[close(b'S', "s")]), uses("s")].concat()]),
        ("Close that is not", vec![one(), [close(b'S', "s"), sync(), uses("s")].concat()]),
        (
            "Close and Parse that are ignored",
            vec![[one(), failed(&[close(b'S', "s"), parse("s", "select 2")]), uses("s")].concat()],
        ),
        (
            "Close and Parse, twice",
            vec![
                [
                    one(),
                    [close(b'S', "s"), parse("s", "select 2"), fails(), close(b'S', "s")].concat(),
                    [parse("s", "select 3"), close(b'S', "s"), sync(), uses("s")].concat(),
                ]
                .concat(),
            ],
        ),
        (
            "Parse that is ignored makes nothing",
            vec![
                [failed(&[parse("n", "select 1")]), uses("n"), prepares("n", "select 2"), uses("n")].concat(),
            ],
        ),
        (
            "Parse of the statement without a name, ignored",
            vec![prepares("", "select 1"), [failed(&[parse("", "select 2")]), uses("")].concat()],
        ),
        (
            "the same of what its batch has made",
            vec![[parse("", "select 1"), fails(), parse("", "select 2"), sync(), uses("")].concat()],
        ),
        (
            "Parse of the statement without a name, failed",
            vec![prepares("", "select 1"), [prepares("", "select nothing"), uses("")].concat()],
        ),
        (
            "the same behind another one, ignored ones behind it",
            vec![
                prepares("", "select 1"),
                [
                    parse("x", "select 2"),
                    parse("", "select nothing"),
                    parse("", "select 3"),
                    sync(),
                    uses(""),
                ]
                .concat(),
            ],
        ),
        (
            "DEALLOCATE that is ignored",
            vec![[one(), failed(&[deallocate("deallocate s")]), uses("s")].concat()],
        ),
        (
            "DEALLOCATE ALL that is ignored",
            vec![[one(), failed(&[deallocate("deallocate all")]), uses("s")].concat()],
        ),
        (
            "DEALLOCATE that fails",
            vec![query("begin"), one(), failed(&[]), query("deallocate s"), query("rollback"), uses("s")],
        ),
        (
            "PREPARE of a name that is taken",
            vec![query("prepare q as select 1"), query("prepare q as select 2"), query("execute q")],
        ),
        (
            "PREPARE behind DEALLOCATE in a text that fails",
            vec![query("prepare q as select 1"), query("deallocate q; prepare q as select 2; select 1 / 0")],
        ),
        (
            "a name that another batch makes, in a batch that is half there",
            vec![[one(), parse("x", "select 2"), uses("s")].concat()],
        ),
        (
            "a name that is ignored in one batch, and used in the next",
            vec![
                [failed(&[parse("n", "select 1")]), prepares("n", "select 2"), failed(&[close(b'S', "n")])]
                    .concat(),
                [uses("n"), failed(&[close(b'S', "n")]), close(b'S', "n"), sync(), uses("n")].concat(),
            ],
        ),
    ]
}

fn portals() -> Vec<Trial> {
    let declare = || query("declare c cursor with hold for select id from orders order by id");
    let bound = || [parse("s", "select id from orders order by id"), bind("p", "s"), sync()].concat();
    let back = || [query("savepoint x"), failed(&[close(b'P', "p")]), query("rollback to x")];
    vec![
        (
            "Close of a cursor that is held, ignored",
            vec![declare(), [failed(&[close(b'P', "c")]), executes("c")].concat(), query("fetch 2 from c")],
        ),
        ("Close of one that is held", vec![declare(), [close(b'P', "c"), sync(), executes("c")].concat()]),
        (
            "Close of a portal that outlives its savepoint, ignored",
            [&[query("begin"), bound()][..], &back(), &[executes("p"), query("commit"), executes("p")]]
                .concat(),
        ),
        (
            "the same in one packet",
            vec![
                query("begin"),
                [&[bound()][..], &back(), &[executes("p")]].concat().concat(),
                query("commit"),
            ],
        ),
        (
            "Bind that is ignored makes nothing",
            vec![
                [query("begin"), prepares("s", "select 7"), query("savepoint x")].concat(),
                [failed(&[bind("p", "s")]), query("rollback to x")].concat(),
                [executes("p"), query("rollback to x"), bind("p", "s"), executes("p"), query("commit")]
                    .concat(),
            ],
        ),
        ("CLOSE that is ignored", vec![declare(), [failed(&[run("close c")]), executes("c")].concat()]),
    ]
}

/// An answer, but for what may come at any time and words of errors.
fn told(said: &Said) -> Option<String> {
    match said.tag {
        'N' | 'S' => None,
        'E' => Some(format!("E {}", said.field(b'C'))),
        tag => Some(format!("{tag} {}", said.body.escape_ascii())),
    }
}

/// What a packet is answered.
fn answered(wire: &mut Wire, packet: &[u8]) -> Result<Vec<String>> {
    wire.send(packet)?;
    let mut all = Vec::new();
    for _ in 0..ends(packet) {
        let said = wire.until_ready().with_context(|| format!("behind {all:#?}"))?;
        all.extend(said.iter().filter_map(told));
    }
    Ok(all)
}

/// How many of a packet's messages are answered by ReadyForQuery.
fn ends(mut packet: &[u8]) -> usize {
    let mut count = 0;
    while let Some((tag, rest)) = packet.split_first() {
        count += usize::from(matches!(tag, b'S' | b'Q'));
        let length = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        packet = &rest[length..];
    }
    count
}

fn compare(cluster: &'static Cluster, shop: &Shop) -> Result<()> {
    for (what, packets) in statements().into_iter().chain(portals()) {
        let mut server = Wire::direct(cluster.port(), "wire_writer", WRITER_PASSWORD, shop.database.name())
            .context(what)?;
        let mut gateway = shop.connect(&["writers"])?;
        for (index, packet) in packets.iter().enumerate() {
            let expected = answered(&mut server, packet)?;
            let found = answered(&mut gateway, packet)
                .with_context(|| format!("{what}: packet {index}\n{}", shop.gateway.log()))?;
            ensure!(
                found == expected,
                "{what}: packet {index}:\nthe server: {expected:#?}\nthe gateway: {found:#?}"
            );
        }
        gateway.leave()?;
    }
    Ok(())
}

#[test]
fn wire_what_follows_an_error_in_a_batch_has_no_effect() -> Result<()> {
    for cluster in [Cluster::shared()?, Cluster::shared_newer()?] {
        compare(cluster, &Shop::start(cluster)?)?;
        compare(cluster, &Shop::pooled(cluster, ONE)?)?;
    }
    Ok(())
}
