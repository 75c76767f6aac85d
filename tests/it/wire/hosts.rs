//! A primary and its replica behind one resource: who takes changes is found by asking, at both doors.

use std::process::Command;

use anyhow::{Result, ensure};
use doorward_testkit::http::StrictClient;
use doorward_testkit::postgres::Cluster;
use doorward_testkit::program::Bounded;
use doorward_testkit::{wait_until, workspace_root};

use super::Shop;
use super::client::{Wire, bind, execute, parse, query, sync};
use crate::bed::{SOON, block_on};

/// A primary, its replica, and a gateway that knows them both.
struct Pair {
    shop: Shop,
    primary: &'static Cluster,
    replica: Cluster,
}

impl Pair {
    /// With this in the resource's `pool`, and this in the resource.
    fn start(pool: &str, more: &str) -> Result<Self> {
        // Beds borrow their cluster for good.
        let primary: &'static Cluster = Box::leak(Box::new(Cluster::debian()?));
        let replica = primary.standby()?;
        // The first database of a cluster. The replica stands first: nobody trusts the order.
        let hosts = format!("127.0.0.1:{},127.0.0.1:{}", replica.port(), primary.port());
        let overlay = format!("resources: {{ shop: {{ url: \"postgres://{hosts}/test_0\"{more} }} }}");
        let shop = Shop::configured(primary, pool, &overlay)?;
        ensure!(shop.database.name() == "test_0", "{}", shop.database.name());
        // The REST door's login becomes the role.
        primary.sql("grant wire_reader to authenticator")?;
        Ok(Self { shop, primary, replica })
    }

    /// The primary goes, and the replica takes its place. (Sessions of a server that is killed live on for a moment, and may
    /// still commit.)
    fn fail_over(&self) -> Result<()> {
        self.replica.catch_up(self.primary)?;
        self.primary.stop()?;
        self.replica.promote()
    }

    /// Whether the REST door answers this with this status.
    fn answers(&self, path: &str, status: u16) -> bool {
        let asked = || {
            let client = StrictClient::new(self.shop.gateway.url()?).bearer(self.shop.token(&["readers"])?);
            block_on(async { anyhow::Ok(client.get(path).await?.status == status) })?
        };
        asked().unwrap_or(false)
    }
}

#[test]
fn wire_hosts_a_replica_that_is_promoted_is_found() -> Result<()> {
    let pair = Pair::start("mode: transaction, size: 4, wait_max: 60s", "")?;
    let shop = &pair.shop;
    let mut ann = shop.connect(&["writers"])?;
    let insert = query("insert into orders (customer) values ('of the pair')");
    ensure!(ann.ask(&insert)?.0 == "CZI");
    ensure!(ann.value("select pg_is_in_recovery()")? == "f");
    pair.fail_over()?;
    // The session in transaction mode lives on; what is told it meanwhile is an error that can be retried.
    let mut told = Vec::new();
    let again = wait_until(SOON, || match ann.ask(&insert) {
        Ok((tags, _)) if tags == "CZI" => true,
        Ok(other) => {
            told.push(other);
            false
        }
        Err(_) => {
            if let Ok(next) = shop.connect(&["writers"]) {
                ann = next;
            }
            false
        }
    });
    ensure!(again, "{told:?}\n{}", shop.gateway.log());
    let count = "select count(*) from orders where customer = 'of the pair'";
    ensure!(pair.replica.sql_in("test_0", count)? == "2");
    let (printed, errors) = shop.psql(&["writers"], count)?;
    ensure!(printed.trim() == "2", "{printed} {errors}");
    ensure!(wait_until(SOON, || pair.answers("/shop/orders?id=eq.1", 200)), "REST: {}", shop.gateway.log());
    // Both are away: whoever comes is told so, in time.
    pair.replica.stop()?;
    let (_, errors) = shop.psql(&["writers"], count)?;
    ensure!(errors.contains("08") || errors.contains("57P"), "{errors}");
    ensure!(wait_until(SOON, || pair.answers("/shop/orders?id=eq.1", 503)));
    // The one that was the primary is back, as it was.
    pair.primary.start()?;
    let back = wait_until(SOON, || shop.psql(&["writers"], count).is_ok_and(|(said, _)| said.trim() == "1"));
    ensure!(back, "it is not back: {}", shop.gateway.log());
    Ok(())
}

/// Asks for a replica, as any driver can: among the start-up parameters.
const ASKS: [(&str, &str); 1] = [("doorward.reads", "replicas")];

#[test]
fn wire_hosts_a_session_may_ask_for_a_replica() -> Result<()> {
    let pair = Pair::start("size: 4, sessions: 20, wait_max: 60s", ", replicas: { serve: sessions }")?;
    let shop = &pair.shop;
    let asks = || {
        let address = shop.gateway.address("postgres")?;
        Wire::connect_with(address, "shop", &shop.token(&["writers"])?, &ASKS)
    };
    let away = format!(
        "doorward_database_primary{{resource=\"shop\",server=\"127.0.0.1:{}\"}} 1",
        pair.primary.port()
    );
    ensure!(wait_until(SOON, || shop.shows(&away)), "{}", shop.gateway.log());
    let replica = |wire: &mut Wire| anyhow::Ok(wire.value("select pg_is_in_recovery()")? == "t");
    ensure!(wait_until(SOON, || asks().and_then(|mut wire| replica(&mut wire)).unwrap_or(false)));
    let mut bob = asks()?;
    ensure!(
        replica(&mut bob)?
            && bob.value("show in_hot_standby").map_err(|e| e.context(pair.replica.log()))? == "on"
    );
    let insert = query("insert into orders (customer) values ('never')");
    let (tags, code) = bob.ask(&insert)?;
    ensure!(tags == "EZI" && code == "25006", "{tags} {code}");
    // Who does not ask is on the primary, on a connection of its own; so is a cancel request's target.
    let mut ann = shop.connect(&["writers"])?;
    ensure!(!replica(&mut ann)? && ann.ask(&insert)?.0 == "CZI");
    bob.send(&query("select pg_sleep(600)"))?;
    let sleeps = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    ensure!(wait_until(SOON, || pair.replica.sql(sleeps).is_ok_and(|count| count == "1")));
    bob.cancel()?;
    ensure!(bob.answer()?.1 == "57014");
    let server = format!("127.0.0.1:{}", pair.replica.port());
    let there = shop.records(1, |row| row["sqlstate"] == "25006")?;
    ensure!(there[0]["ext"]["backend_server"] == server, "{there:?}");
    shop.records(1, |row| row["operation"] == "connect" && row["ext"]["backend_server"] == server)?;
    // psql asks like this; what it asks for must be known.
    let options = "postgresql://any@127.0.0.1/shop?options=-c%20doorward.reads%3D";
    for (reads, said) in [("replicas", "t"), ("primary", "f"), ("elsewhere", "doorward.reads")] {
        let output = Command::new("psql")
            .args(["-X", "-A", "-t", "-c", "select pg_is_in_recovery()"])
            .args(["-p", &shop.gateway.address("postgres")?.port().to_string(), &format!("{options}{reads}")])
            .env("PGPASSWORD", shop.token(&["writers"])?)
            .env("PGCONNECT_TIMEOUT", "60")
            .run()?;
        let told = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
        ensure!(told.contains(said), "{reads}: {told}");
    }
    // Without a replica such a session is on the primary, and changes nothing there either.
    pair.replica.stop()?;
    let mut eve = asks()?;
    ensure!(!replica(&mut eve)?);
    let (tags, code) = eve.ask(&insert)?;
    ensure!(tags == "EZI" && code == "25006", "{tags} {code}");
    // And without the primary it is on the replica, where the catalogue is read too.
    pair.replica.start()?;
    pair.primary.stop()?;
    ensure!(wait_until(SOON, || asks().and_then(|mut wire| replica(&mut wire)).unwrap_or(false)));
    Ok(())
}

#[test]
fn wire_hosts_no_replica_is_asked_for_where_there_is_none() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let token = shop.token(&["readers"])?;
    let refused = Wire::connect_with(shop.gateway.address("postgres")?, "shop", &token, &ASKS).map(drop);
    let said = refused.unwrap_err().to_string();
    ensure!(said.contains("no replicas"), "{said}");
    for (more, said) in [
        ("replicas: { serve: reads }", "names one host"),
        ("url: \"postgres://127.0.0.1:1,127.0.0.1:2/shop\", replicas: { serve: reads }", "mode: transaction"),
        ("replicas: { serve: all }", "serve"),
    ] {
        let overlay = format!("redact: {{ literals: redact }}\nresources: {{ shop: {{ {more} }} }}");
        let refused = Shop::start_with(Cluster::shared()?, &overlay).map(drop);
        let told = format!("{:#}", refused.unwrap_err());
        ensure!(told.contains(said), "{more}: {told}");
    }
    Ok(())
}

#[test]
fn wire_hosts_a_pooled_driver_reads_from_two_replicas() -> Result<()> {
    let more = ", replicas: { serve: reads, max_lag: 60s }";
    let primary: &'static Cluster = Box::leak(Box::new(Cluster::debian()?));
    let replicas = [primary.standby()?, primary.standby()?];
    let ports = replicas.each_ref().map(|replica| replica.port().to_string());
    let last = primary.port().to_string();
    let hosts: Vec<_> = ports.iter().chain([&last]).map(|port| format!("127.0.0.1:{port}")).collect();
    let hosts = hosts.join(",");
    let overlay = format!("resources: {{ shop: {{ url: \"postgres://{hosts}/test_0\"{more} }} }}");
    let shop = Shop::configured(primary, "mode: transaction, size: 6, wait_max: 60s", &overlay)?;
    let address = shop.gateway.address("postgres")?;
    let output = Command::new(workspace_root().join(".cache/clients/bin/python"))
        .arg(workspace_root().join("tests/clients/replicas.py"))
        .env("DOORWARD_HOST", address.ip().to_string())
        .env("DOORWARD_PORT", address.port().to_string())
        .env("DOORWARD_TOKEN", shop.token(&["writers"])?)
        .env("PRIMARY_PORT", primary.port().to_string())
        .env("REPLICA_PORTS", ports.join(","))
        .run()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}{errors}{}", shop.gateway.log());
    ensure!(said.lines().filter(|line| line.starts_with("ok ")).count() == 3, "{said}{errors}");
    Ok(())
}

/// A value, and whether it came from the replica.
fn read(wire: &mut Wire, sql: &str) -> Result<(String, bool)> {
    let value = wire.value(&format!("select ({sql})::text || '|' || pg_is_in_recovery()"))?;
    let (value, replica) = value.split_once('|').unwrap_or_default();
    Ok((value.to_owned(), replica == "true"))
}

#[test]
fn wire_hosts_reads_are_split_from_changes() -> Result<()> {
    let more = ", replicas: { serve: reads, max_lag: 60s }";
    let pair = Pair::start("mode: transaction, size: 6, wait_max: 60s", more)?;
    let shop = &pair.shop;
    // A view that looks like a read, and asks for what a replica does not have.
    pair.primary.sql_in(
        "test_0",
        "create view liar as select pg_current_wal_lsn() is not null as word; grant select on liar to wire_writer",
    )?;
    let mut ann = shop.connect(&["writers"])?;
    let count = "select count(*) from orders";
    ensure!(
        wait_until(SOON, || read(&mut ann, count).is_ok_and(|(_, replica)| replica)),
        "{}",
        shop.gateway.log()
    );

    // Whoever has changed something sees it, wherever that is; and is on the replica again as soon as that shows it.
    for n in 21..26 {
        ensure!(ann.ask(&query("insert into orders (customer) values ('new')"))?.0 == "CZI");
        let (seen, _) = read(&mut ann, count)?;
        ensure!(seen == n.to_string(), "{seen} of {n}");
    }
    pair.primary.sql("checkpoint")?;
    pair.replica.sql("select pg_wal_replay_pause()")?;
    ensure!(ann.ask(&query("insert into orders (customer) values ('unseen')"))?.0 == "CZI");
    for _ in 0..20 {
        ensure!(read(&mut ann, count)? == ("26".to_owned(), false), "the replica does not show it");
    }
    pair.replica.sql("select pg_wal_replay_resume()")?;
    ensure!(wait_until(SOON, || read(&mut ann, count).is_ok_and(|read| read == ("26".to_owned(), true))));

    // The extended protocol, named and unnamed; changes among reads; what needs several messages is the primary's.
    let place = "select pg_is_in_recovery() from orders limit 1";
    ensure!(ann.values(place)? == ["t"]);
    for _ in 0..3 {
        let all = [parse("", place), bind("", ""), execute("", 0), sync()].concat();
        let said = asked(&mut ann, &all)?;
        ensure!(said == ("12DCZ".to_owned(), "t".to_owned()), "{said:?}");
    }
    ensure!(asked(&mut ann, &[parse("kept", place), sync()].concat())?.0 == "1Z");
    let again = [bind("", "kept"), execute("", 0), sync()].concat();
    ensure!(asked(&mut ann, &again)? == ("2DCZ".to_owned(), "t".to_owned()));
    let several =
        [again.clone(), query("insert into orders (customer) values ('a')"), again.clone()].concat();
    ann.send(&several)?;
    let answers = [ann.answer()?, ann.answer()?, ann.answer()?].map(|(tags, _)| tags);
    ensure!(answers == ["2DCZI", "CZI", "2DCZI"], "{answers:?}");
    let batch = [parse("", place), bind("", ""), execute("", 0)].concat();
    let insert =
        [parse("", "insert into orders (customer) values ('b')"), bind("", ""), execute("", 0)].concat();
    let said = asked(&mut ann, &[batch, insert, sync()].concat())?;
    ensure!(said == ("12DC12CZ".to_owned(), "f".to_owned()), "{said:?}");

    // Transactions: one that says that it reads, and one that does not.
    let mut bob = shop.connect_as("bob", &["writers"])?;
    ensure!(wait_until(SOON, || bob.value(place).is_ok_and(|replica| replica == "t")));
    for (begin, replica) in
        [("begin read only", "t"), ("begin", "f"), ("begin isolation level serializable read only", "f")]
    {
        ensure!(bob.ask(&query(begin))?.0 == "CZT");
        ensure!(bob.value(place)? == replica, "{begin}");
        let (tags, code) = bob.ask(&query("insert into orders (customer) values ('c')"))?;
        ensure!(
            (code == "25006") == begin.contains("read only"),
            "{begin}: {tags} {code} {}",
            pair.replica.log()
        );
        ensure!(bob.ask(&query("rollback"))?.0 == "CZI");
    }
    let there = wait_until(SOON, || {
        let began = bob.ask(&query("begin read only")).is_ok_and(|(tags, _)| tags == "CZT");
        began
            && (bob.value(place).is_ok_and(|replica| replica == "t") || bob.ask(&query("rollback")).is_err())
    });
    ensure!(there, "{}", shop.gateway.log());
    let (_, code) = bob.ask(&query("prepare p as select 1"))?;
    ensure!(code == "0A000", "what lasts would keep the session there: {code}");
    ensure!(bob.ask(&query("rollback"))?.0 == "CZI");

    // What a replica cannot answer, the primary does, and the client hears one answer.
    ensure!(bob.value("select word from liar")? == "t");
    for _ in 0..2 {
        let all = [parse("", "select word from liar"), bind("", ""), execute("", 0), sync()].concat();
        let said = asked(&mut bob, &all)?;
        ensure!(said == ("12DCZ".to_owned(), "t".to_owned()), "{said:?}");
    }
    let (tags, code) = bob.ask(&query("select 1 / (id - id) from orders"))?;
    ensure!(tags == "TEZI" || tags == "EZI", "{tags}");
    ensure!(code == "22012", "an error is an error: {code}");
    let (tags, code) = bob.ask(&query("select * from secrets"))?;
    ensure!(tags == "EZI" && code == "42501", "{tags} {code}");
    shop.records(1, |row| row["sqlstate"] == "55000" && row["outcome"] == "failed")?;

    // Both sides count against one cap, and each record says where it was.
    let server = |cluster: &Cluster| format!("127.0.0.1:{}", cluster.port());
    for cluster in [pair.primary, &pair.replica] {
        shop.records(1, |row| row["ext"]["backend_server"] == server(cluster))?;
    }
    // Without the replica all of it is the primary's; without the primary, reads go on.
    pair.replica.stop()?;
    ensure!(wait_until(SOON, || {
        shop.connect(&["writers"]).is_ok_and(|mut eve| read(&mut eve, count).is_ok_and(|(_, there)| !there))
    }));
    pair.replica.start()?;
    let mut eve = shop.connect(&["writers"])?;
    ensure!(wait_until(SOON, || read(&mut eve, count).is_ok_and(|(_, replica)| replica)));
    pair.primary.stop()?;
    ensure!(wait_until(SOON, || read(&mut eve, count).is_ok_and(|(_, replica)| replica)));
    let (tags, code) = eve.ask(&query("insert into orders (customer) values ('d')"))?;
    ensure!(tags == "EZI" && code == "57P03", "{tags} {code}");
    ensure!(wait_until(SOON, || {
        shop.connect(&["writers"]).is_ok_and(|mut new| read(&mut new, count).is_ok_and(|(_, there)| there))
    }));
    Ok(())
}

#[test]
fn wire_hosts_a_read_whose_replica_is_lost_is_answered_by_the_primary() -> Result<()> {
    let more = ", replicas: { serve: reads, max_lag: 60s }";
    let pair = Pair::start("mode: transaction, size: 6, wait_max: 60s", more)?;
    let shop = &pair.shop;
    let (mut ann, mut bob) = (shop.connect(&["writers"])?, shop.connect_as("bob", &["writers"])?);
    let count = "select count(*) from orders";
    let waiting =
        "select count(*) from pg_stat_activity where usename = 'wire_writer' and wait_event_type = 'Lock'";
    let batch = [parse("kept", count), bind("p", "kept"), execute("p", 0), sync()].concat();
    for (asks, tags) in [(query(count), "TDCZ"), (batch, "12DCZ")] {
        let on_replica = || read(&mut ann, count).is_ok_and(|(_, replica)| replica);
        ensure!(wait_until(SOON, on_replica), "{}", shop.gateway.log());
        // Nobody reads the table, there or here, until this is over.
        ensure!(bob.ask(&query("begin"))?.0 == "CZT");
        ensure!(bob.ask(&query("truncate orders"))?.0 == "CZT");
        pair.primary.sql("select pg_switch_wal()")?;
        let locks = "select count(*) from pg_locks where mode = 'AccessExclusiveLock' and granted and relation is not null";
        ensure!(wait_until(SOON, || pair.replica.sql(locks).is_ok_and(|count| count != "0")));
        ann.send(&asks)?;
        ensure!(wait_until(SOON, || pair.replica.sql(waiting).is_ok_and(|count| count == "1")));
        let lost = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'wire_writer' \
                    and wait_event_type = 'Lock'";
        pair.replica.sql(lost)?;
        ensure!(
            wait_until(SOON, || pair.primary.sql(waiting).is_ok_and(|count| count == "1")),
            "{}",
            shop.gateway.log()
        );
        ensure!(bob.ask(&query("rollback"))?.0 == "CZI");
        let said = ann.until_ready()?;
        let told: String = said.iter().map(|said| said.tag).filter(|tag| !matches!(tag, 'S' | 'N')).collect();
        ensure!(told == tags, "{told}: {said:?}");
    }
    // The session goes on, and both attempts are on record.
    ensure!(ann.value(count)? == "20");
    shop.records(2, |row| row["sqlstate"] == "57P01" && row["outcome"] == "failed")?;
    // A transaction of several messages cannot be asked again: its session ends.
    ensure!(wait_until(SOON, || {
        let began = ann.ask(&query("begin read only")).is_ok_and(|(tags, _)| tags == "CZT");
        began && (read(&mut ann, count).is_ok_and(|(_, there)| there) || ann.ask(&query("rollback")).is_err())
    }));
    pair.replica
        .sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'wire_writer'")?;
    ann.send(&query(count))?;
    let said = ann.until_ready()?;
    let last = said.last().map(|said| said.field(b'C')).unwrap_or_default();
    ensure!(["57P01", "08006"].contains(&&*last), "{said:?}");
    Ok(())
}

/// The messages of an answer, without what is said of settings, and the first value in it.
fn asked(wire: &mut Wire, messages: &[u8]) -> Result<(String, String)> {
    wire.send(messages)?;
    let said = wire.until_ready()?;
    let tags = said.iter().map(|said| said.tag).filter(|tag| !matches!(tag, 'S' | 'N')).collect();
    let row =
        said.iter().find(|said| said.tag == 'D').map(|row| row.body.get(6..).unwrap_or_default().to_vec());
    Ok((tags, String::from_utf8(row.unwrap_or_default())?))
}
