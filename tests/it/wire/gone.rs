//! Clients that go, or think better of it, while they wait; and gateways that go.

use anyhow::{Result, ensure};
use doorward_testkit::postgres::Cluster;
use doorward_testkit::wait_until;

use super::Shop;
use super::client::{Wire, message, parse, query, sync};
use super::pools::on_both;
use crate::bed::SOON;

/// One connection, for which sessions wait for longer than any test does.
const ONE: &str = "size: 1, pinned: 1, mode: transaction, wait_max: 1h";

/// Waits until as many sessions wait for a connection.
fn in_line(shop: &Shop, count: u8) -> Result<()> {
    let line = format!("doorward_pool_sessions{{resource=\"shop\",state=\"waiting\"}} {count}");
    ensure!(wait_until(SOON, || shop.shows(&line)), "{count} wait\n{}", shop.gateway.log());
    Ok(())
}

#[test]
fn wire_who_hangs_up_in_line_gives_the_place_to_the_next() -> Result<()> {
    let shop = Shop::pooled(Cluster::shared()?, ONE)?;
    let mut holder = shop.connect(&["writers"])?;
    let mut known = shop.connect_as("bob", &["writers"])?;
    ensure!(known.value("select count(*) from orders")? == "20", "its names are looked up already");
    ensure!(holder.ask(&query("begin"))?.0 == "CZT" && holder.value("select 1")? == "1");
    // On the road already, before its names are known, and in the extended protocol; the last says goodbye as well.
    let known_statement = "insert into orders (customer) values ('gone 1')";
    known.send(&query(known_statement))?;
    in_line(&shop, 1)?;
    let mut fresh = shop.connect_as("bob", &["writers"])?;
    fresh.send(&query("insert into orders (customer) values ('gone 2')"))?;
    in_line(&shop, 2)?;
    let mut extended = shop.connect_as("bob", &["writers"])?;
    let insert = parse("", "insert into orders (customer) values ('gone 3')");
    extended.send(&[insert, sync(), message(b'X', b"")].concat())?;
    in_line(&shop, 3)?;
    let mut next = shop.connect_as("cat", &["writers"])?;
    next.send(&query("insert into orders (customer) values ('stays')"))?;
    in_line(&shop, 4)?;
    drop((known, fresh, extended));
    in_line(&shop, 1)?;
    let abandoned = |row: &serde_json::Value| {
        let text = row["operation"].as_str().unwrap_or_default();
        row["outcome"] == "abandoned"
            && text.starts_with("insert into orders")
            && row["principal_subject"] == "bob"
    };
    ensure!(shop.records(3, abandoned)?.len() == 3);
    ensure!(holder.ask(&query("commit"))?.0 == "CZI");
    ensure!(next.answer()?.0 == "CZI", "the next one has its turn");
    ensure!(shop.database.sql("select count(*) from orders where customer like 'gone%'")?.trim() == "0");
    Ok(())
}

#[test]
fn wire_who_hangs_up_at_the_door_gives_the_place_to_the_next() -> Result<()> {
    let shop = Shop::pooled(Cluster::shared()?, "size: 1, sessions: 5, wait_max: 1h")?;
    let holder = shop.connect(&["writers"])?;
    let parameters = [("user", "any"), ("database", "shop")];
    let address = shop.gateway.address("postgres")?;
    let gone = Wire::knock(address, &shop.token_of("bob", &["writers"])?, &parameters)?;
    in_line(&shop, 1)?;
    // Who does not wait for the answer has said the first words already.
    let mut next = Wire::knock(address, &shop.token_of("cat", &["writers"])?, &parameters)?;
    in_line(&shop, 2)?;
    next.send(&query("select customer from orders where id = 1"))?;
    drop(gone);
    in_line(&shop, 1)?;
    holder.leave()?;
    let (tags, _) = next.answer()?;
    ensure!(tags.ends_with("KZI"), "{tags}");
    ensure!(next.answer()?.0 == "TDCZI", "what it said meanwhile is answered");
    let abandoned =
        |row: &serde_json::Value| row["outcome"] == "abandoned" && row["principal_subject"] == "bob";
    ensure!(shop.records(1, abandoned)?.len() == 1);
    Ok(())
}

#[test]
fn wire_what_waits_in_line_can_be_cancelled() -> Result<()> {
    let shop = Shop::pooled(Cluster::shared()?, ONE)?;
    let mut holder = shop.connect(&["writers"])?;
    let mut bob = shop.connect_as("bob", &["readers"])?;
    ensure!(holder.ask(&query("begin"))?.0 == "CZT" && holder.value("select 1")? == "1");
    // A request that comes when nothing waits is for nothing.
    bob.cancel()?;
    let name = parse("s", "select id from orders");
    for statement in [query("select 1"), query("select id from orders"), [name, sync()].concat()] {
        bob.send(&statement)?;
        in_line(&shop, 1)?;
        bob.cancel()?;
        let (tags, code) = bob.answer()?;
        ensure!(tags == "EZI" && code == "57014", "{tags} {code}");
        in_line(&shop, 0)?;
    }
    ensure!(holder.ask(&query("commit"))?.0 == "CZI");
    ensure!(bob.value("select count(*) from orders")? == "20", "the session lives on");
    shop.records(3, |row| row["fault_code"] == "lease.wire-cancelled" && row["sqlstate"] == "57014")?;
    Ok(())
}

#[test]
fn wire_nothing_runs_on_for_a_gateway_that_was_killed() -> Result<()> {
    on_both(|cluster| {
        let mut shop = Shop::pooled(cluster, "size: 4, sessions: 20")?;
        let mut wire = shop.connect(&["readers"])?;
        ensure!(wire.value("show client_connection_check_interval")? == "2s");
        wire.ask(&query("reset all"))?;
        ensure!(wire.value("show client_connection_check_interval")? == "2s");
        wire.send(&query("select pg_sleep(4711)"))?;
        let running = "select count(*) from pg_stat_activity where query = 'select pg_sleep(4711)' \
                       and state = 'active' and datname = current_database()";
        let comes_to = |shop: &Shop, count: &str| {
            wait_until(SOON, || shop.database.sql(running).is_ok_and(|n| n.trim() == count))
        };
        ensure!(comes_to(&shop, "1"), "it runs");
        shop.gateway.kill9()?;
        ensure!(comes_to(&shop, "0"), "it runs on");
        Ok(())
    })
}

#[test]
fn wire_what_the_database_says_of_looking_for_clients_stands() -> Result<()> {
    on_both(|cluster| {
        let set = |database: &doorward_testkit::postgres::Database<'_>| {
            let name = database.name();
            database.sql(&format!(
                "alter role wire_reader in database {name} set client_connection_check_interval = '7s'"
            ))
        };
        let shop = Shop::prepared(cluster, "connection_check: 5s", set)?;
        ensure!(shop.connect(&["readers"])?.value("show client_connection_check_interval")? == "7s");
        ensure!(shop.connect(&["writers"])?.value("show client_connection_check_interval")? == "5s");
        let shop = Shop::pooled(cluster, "connection_check: 0s")?;
        ensure!(shop.connect(&["readers"])?.value("show client_connection_check_interval")? == "0");
        Ok(())
    })
}
