//! Names that a client gives to statements and portals: what the server runs under a name is what is decided and
//! recorded under it.

use anyhow::{Result, ensure};
use doorward_testkit::postgres::Cluster;

use super::Shop;
use super::client::{bind, execute, message, parse, query, sync};
use super::pools::on_both;

/// As many bytes of a name as PostgreSQL tells from another's.
const TOLD_APART: usize = 63;
const HARMLESS: &str = "select 1";
const INSERT: &str = "insert into orders (customer) values ('under a name')";

fn batch(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), sync()].concat()
}

fn close(kind: &[u8], name: &str) -> Vec<u8> {
    message(b'C', &[kind, name.as_bytes(), b"\0"].concat())
}

/// Whether each insert that has happened is on the record as one.
fn inserts_are_recorded(shop: &Shop) -> Result<()> {
    let done: usize =
        shop.database.sql("select count(*) from orders where customer = 'under a name'")?.trim().parse()?;
    let insert = |row: &serde_json::Value| {
        row["outcome"] == "allowed"
            && row["operation"].as_str().is_some_and(|text| text.starts_with("insert into orders"))
            && row["verb"] == "write"
    };
    let recorded = shop.records(done, insert)?;
    ensure!(recorded.len() == done, "{done} inserts, and {} of them recorded", recorded.len());
    Ok(())
}

#[test]
fn wire_long_names_are_told_apart_as_far_as_the_server_does() -> Result<()> {
    on_both(|cluster| {
        for mode in ["session", "transaction"] {
            let shop = Shop::pooled(cluster, &format!("size: 4, sessions: 20, mode: {mode}"))?;
            let mut wire = shop.connect(&["writers"])?;
            let [one, other] = ["x", "y"].map(|end| format!("{}{end}", "n".repeat(TOLD_APART)));
            // A statement, and a portal, closed under the one name and made again under the other.
            let (_, code) = wire.ask(&batch(&[parse(&one, HARMLESS)]))?;
            ensure!(code.is_empty(), "{mode}: {code}");
            wire.ask(&batch(&[close(b"S", &other), parse(&other, INSERT)]))?;
            wire.ask(&batch(&[bind("", &one), execute("", 0)]))?;
            inserts_are_recorded(&shop)?;

            wire.ask(&query("begin"))?;
            wire.ask(&batch(&[parse("a", HARMLESS), parse("b", INSERT), bind(&one, "a")]))?;
            wire.ask(&batch(&[close(b"P", &other), bind(&other, "b")]))?;
            wire.ask(&batch(&[execute(&one, 0)]))?;
            wire.ask(&query("commit"))?;
            inserts_are_recorded(&shop)?;
        }
        Ok(())
    })
}

#[test]
fn wire_a_portal_that_was_not_closed_is_known() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let mut wire = shop.connect(&["small"])?;
    wire.ask(&query("begin"))?;
    wire.ask(&batch(&[parse("s", "select * from orders"), bind("p", "s")]))?;
    wire.ask(&query("savepoint s"))?;
    let (_, code) = wire.ask(&batch(&[parse("", "select 1 + 'x'"), close(b"P", "p")]))?;
    ensure!(code == "22P02", "{code}");
    wire.ask(&query("rollback to s"))?;
    ensure!(wire.ask(&query("fetch 3 from p"))?.0 == "TDDDCZT");
    let read = |row: &serde_json::Value| {
        row["rows"] == 3 && row["operation"].as_str().is_some_and(|text| text.starts_with("fetch"))
    };
    let record = &shop.records(1, read)?[0];
    ensure!(record["object"] == "public/orders" && record["verb"] == "read", "{record}");
    // One that was closed is not, and its name is free.
    let again = [close(b"P", "p"), bind("p", "s"), execute("p", 2), close(b"P", "p"), bind("p", "s")];
    let (tags, code) = wire.ask(&batch(&again))?;
    ensure!(tags == "32DDs32ZT", "{tags} {code}");
    let (tags, code) = wire.ask(&batch(&[parse("", "select 1 + 'x'"), close(b"P", "p"), bind("p", "s")]))?;
    ensure!(tags == "EZE" && code == "22P02", "{tags} {code}");
    Ok(())
}

#[test]
fn wire_names_of_the_gateways_are_the_gateways() -> Result<()> {
    on_both(|cluster| {
        let shop = Shop::pooled(cluster, "size: 1, sessions: 20, mode: transaction")?;
        let (mut one, mut other) = (shop.connect(&["writers"])?, shop.connect(&["writers"])?);
        let once_more = batch(&[bind("", "s"), execute("", 0)]);
        ensure!(one.ask(&batch(&[parse("s", HARMLESS)]))?.1.is_empty());
        ensure!(one.ask(&once_more)?.1.is_empty());
        // Somebody else closes what others have prepared on the connection that they share.
        other.ask(&query("begin"))?;
        let closing: Vec<_> = (1..50).map(|n| close(b"S", &format!("doorward_{n}"))).collect();
        ensure!(other.ask(&batch(&closing))?.1.is_empty());
        ensure!(other.ask(&query("commit"))?.1.is_empty());
        let (tags, code) = one.ask(&once_more)?;
        ensure!(code.is_empty(), "{tags} {code}");
        // Or executes it, whatever it is.
        let (mut many, mut few) = (shop.connect(&["readers"])?, shop.connect(&["small"])?);
        ensure!(many.ask(&batch(&[parse("big", "select n from big limit 3")]))?.1.is_empty());
        ensure!(few.ask(&batch(&[parse("doorward_2", HARMLESS)]))?.1.is_empty());
        let (tags, _) = few.ask(&query("execute doorward_2"))?;
        ensure!(tags == "EZI", "{tags}");
        // Or puts another statement in its place.
        one.ask(&query("begin"))?;
        one.ask(&once_more)?;
        for n in 1..50 {
            one.ask(&query("savepoint s"))?;
            one.ask(&query(&format!("deallocate doorward_{n}")))?;
            one.ask(&query("rollback to s"))?;
            one.ask(&query(&format!("prepare doorward_{n} as {INSERT}")))?;
            one.ask(&query("rollback to s"))?;
        }
        one.ask(&once_more)?;
        one.ask(&query("commit"))?;
        inserts_are_recorded(&shop)
    })
}
