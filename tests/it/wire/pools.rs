//! Connections that sessions use one after another: what one leaves behind, nobody finds; who waits, has a turn.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use doorward_testkit::postgres::Cluster;
use doorward_testkit::program::Bounded;
use doorward_testkit::{http::StrictClient, wait_until};

use super::Shop;
use super::client::{Wire, bind, execute, message, parse, query, run, sync};
use crate::bed::{SOON, block_on, on_newer};

/// One connection, for all to fight over.
pub(super) const ONE: &str = "size: 1, pinned: 1, mode: transaction, wait_max: 60s";

impl Shop {
    /// Whether the admin address shows this line among the metrics.
    pub(super) fn shows(&self, line: &str) -> bool {
        let Ok(admin) = self.gateway.admin_url() else { return false };
        let asked = block_on(async {
            let admin = StrictClient::new(admin);
            Ok::<_, anyhow::Error>(admin.get("/metrics").await?.text())
        });
        matches!(asked, Ok(Ok(text)) if text.lines().any(|shown| shown == line))
    }

    /// How many connections the role has at the database.
    fn connections(&self, role: &str) -> Result<usize> {
        let sql = format!(
            "select count(*) from pg_stat_activity where usename = '{role}' and datname = current_database()"
        );
        Ok(self.database.sql(&sql)?.trim().parse()?)
    }

    fn terminate(&self, role: &str) -> Result<()> {
        let sql = format!(
            "select pg_terminate_backend(pid, 60000) from pg_stat_activity where usename = '{role}' and datname = current_database()"
        );
        self.database.sql(&sql).map(drop)
    }
}

/// On both versions: the older one by itself, the newer one in one test, because it is started for it.
pub(super) fn on_both(test: impl Fn(&'static Cluster) -> Result<()>) -> Result<()> {
    test(Cluster::shared()?)?;
    on_newer(test)
}

#[test]
fn wire_pool_nothing_of_a_session_is_left_for_the_next() -> Result<()> {
    on_both(|cluster| {
        let shop = Shop::pooled(cluster, "size: 1, sessions: 5, wait_max: 60s")?;
        let mut ann = shop.connect_as("ann", &["writers"])?;
        let process = ann.value("select pg_backend_pid()")?;
        let name = ann.value("show application_name")?;
        ensure!(name.starts_with("doorward: ann"), "{name}");
        for left in [
            "create temp table mine (n int)",
            "set search_path = other",
            "set timezone = 'Asia/Tokyo'",
            "set application_name = 'of ann'",
            "prepare kept as select 1",
            "select pg_advisory_lock(4711)",
            "declare c cursor with hold for select 1",
            "insert into public.orders (customer) values ('lastval')",
            "set statement_timeout = '1h'",
        ] {
            ensure!(ann.ask(&query(left))?.1.is_empty(), "{left}");
        }
        ann.ask(&[parse("s", "select 'of ann'"), sync()].concat())?;
        ensure!(ann.ask(&query("begin"))?.0 == "CZT", "she goes in the midst of a transaction");
        ann.ask(&query("insert into public.orders (customer) values ('never committed')"))?;
        ann.leave()?;

        let mut bob = shop.connect_as("bob", &["writers"])?;
        ensure!(bob.value("select pg_backend_pid()")? == process, "it is the same connection");
        let name = bob.value("show application_name")?;
        ensure!(name.starts_with("doorward: bob"), "{name}");
        ensure!(bob.value("show search_path")? == "\"$user\", public");
        ensure!(bob.value("show statement_timeout")? == "0");
        ensure!(bob.value("show timezone")? != "Asia/Tokyo");
        for (gone, code) in [
            ("select * from pg_temp.mine", "42P01"),
            ("select * from mine", "42P01"),
            ("execute kept", "26000"),
            ("fetch c", "34000"),
            ("select lastval()", "55000"),
        ] {
            let (tags, told) = bob.ask(&query(gone))?;
            ensure!(told == code, "{gone}: {tags} {told}");
        }
        let (tags, code) = bob.ask(&[bind("", "s"), execute("", 0), sync()].concat())?;
        ensure!(code == "26000", "{tags} {code}");
        let locks = shop
            .database
            .sql("select count(*) from pg_locks where locktype = 'advisory' and objid = 4711")?;
        ensure!(locks.trim() == "0", "{locks}");
        ensure!(bob.value("select count(*) from orders where customer = 'never committed'")? == "0");
        ensure!(bob.value("select count(*) from orders where customer = 'lastval'")? == "1");
        Ok(())
    })
}

#[test]
fn wire_pool_many_sessions_share_few_connections() -> Result<()> {
    on_both(|cluster| {
        let shop = Shop::pooled(cluster, "size: 4, mode: transaction, wait_max: 60s")?;
        let mut sessions = Vec::new();
        for n in 0..200 {
            sessions.push(shop.connect_as(if n % 2 == 0 { "ann" } else { "bob" }, &["writers"])?);
        }
        ensure!(
            wait_until(SOON, || shop.shows("doorward_pool_sessions{resource=\"shop\",state=\"open\"} 200"))
        );
        for round in 0..3 {
            let begun = format!("insert into orders (customer, total) values ('round', {round})");
            for session in &mut sessions {
                session.send(
                    &[query("begin"), query(&begun), query("commit"), query("show application_name")]
                        .concat(),
                )?;
            }
            for (n, session) in sessions.iter_mut().enumerate() {
                let told = [session.answer()?, session.answer()?, session.answer()?].map(|(tags, _)| tags);
                ensure!(told == ["CZT", "CZT", "CZI"], "{told:?}");
                let said = session.until_ready()?;
                let row = said
                    .iter()
                    .find(|said| said.tag == 'D')
                    .map(|said| said.body.clone())
                    .unwrap_or_default();
                let name = if n % 2 == 0 { "doorward: ann" } else { "doorward: bob" };
                ensure!(String::from_utf8_lossy(&row).contains(name), "{row:?}: each is named");
            }
        }
        ensure!(shop.database.sql("select count(*) from orders where customer = 'round'")?.trim() == "600");
        ensure!(shop.connections("wire_writer")? <= 4);
        Ok(())
    })
}

#[test]
fn wire_pool_pgbench_in_all_its_protocols() -> Result<()> {
    on_both(|cluster| {
        let shop = Shop::pooled(cluster, "size: 3, mode: transaction, wait_max: 60s, statements_max: 2")?;
        let script = shop.gateway.folder().join("pgbench.sql");
        std::fs::write(
            &script,
            "\\set id random(1, 20)\nbegin;\nupdate orders set total = total + 1 where id = :id;\n\
             select total from orders where id = :id;\nend;\nselect customer from orders where id = :id;\nselect 1;\n",
        )?;
        let address = shop.gateway.address("postgres")?;
        for protocol in ["simple", "extended", "prepared"] {
            // A thread for each: pgbench waits for Parse, and meanwhile its thread's other clients do nothing.
            let output = Command::new("pgbench")
                .args(["-n", "-c", "8", "-j", "8", "-t", "5", "-M", protocol, "-h", "127.0.0.1", "-U", "any"])
                .args(["-p", &address.port().to_string(), "-f"])
                .arg(&script)
                .arg("shop")
                .env("PGPASSWORD", shop.token(&["writers"])?)
                .run()?;
            let said = String::from_utf8_lossy(&output.stdout);
            let told = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success() && said.contains("40/40"), "{protocol}: {said}{told}");
            ensure!(!told.contains("ERROR"), "{protocol}: {told}");
        }
        let sum = shop.database.sql("select sum(total) from orders")?;
        ensure!(sum.trim() == (210 + 3 * 40).to_string(), "{sum}");
        Ok(())
    })
}

#[test]
fn wire_pool_prepared_names_are_the_sessions_own() -> Result<()> {
    on_both(|cluster| {
        let shop = Shop::pooled(cluster, "size: 1, mode: transaction, wait_max: 60s, statements_max: 2")?;
        let (mut ann, mut bob) = (shop.connect(&["writers"])?, shop.connect_as("bob", &["writers"])?);
        ensure!(ann.ask(&[parse("s", "select 'of ann'"), sync()].concat())?.0 == "1ZI");
        ensure!(bob.ask(&[parse("s", "select 'of bob'"), sync()].concat())?.0 == "1ZI");
        let run = [bind("", "s"), execute("", 0), sync()].concat();
        for _ in 0..3 {
            for (session, own) in [(&mut ann, "of ann"), (&mut bob, "of bob")] {
                session.send(&run)?;
                let said = session.until_ready()?;
                let tags: String = said.iter().map(|said| said.tag).collect();
                ensure!(tags == "2DCZ" && said[1].body.ends_with(own.as_bytes()), "{tags} {said:?}");
            }
        }
        // The unnamed one outlives its transaction too.
        ensure!(ann.ask(&[parse("", "select 'unnamed'"), sync()].concat())?.0 == "1ZI");
        ensure!(bob.ask(&[parse("", "select 'another'"), sync()].concat())?.0 == "1ZI");
        ensure!(bob.ask(&query("select 'a simple one'"))?.0 == "TDCZI");
        ann.send(&[message(b'D', b"S\0"), bind("", ""), execute("", 0), sync()].concat())?;
        let said = ann.until_ready()?;
        ensure!(said.iter().any(|said| said.tag == 'D' && said.body.ends_with(b"unnamed")), "{said:?}");
        // More statements than a connection keeps; each is closed and forgotten only by its owner.
        for n in 0..6 {
            let name = format!("n{n}");
            ensure!(ann.ask(&[parse(&name, &format!("select {n}")), sync()].concat())?.0 == "1ZI");
        }
        for n in (0..6).rev() {
            let name = format!("n{n}");
            let (tags, code) = ann.ask(&[bind("", &name), execute("", 0), sync()].concat())?;
            ensure!(tags == "2DCZI", "{name}: {tags} {code}");
        }
        ensure!(ann.ask(&[message(b'C', b"Ss\0"), sync()].concat())?.0 == "3ZI");
        ensure!(ann.ask(&run)?.1 == "26000" && bob.ask(&run)?.0 == "2DCZI");
        ensure!(bob.ask(&query("deallocate s"))?.0 == "CZI" && bob.ask(&run)?.1 == "26000");
        ensure!(ann.ask(&query("deallocate all"))?.0 == "CZI");
        ensure!(ann.ask(&[bind("", "n1"), execute("", 0), sync()].concat())?.1 == "26000");
        // What fails to be prepared is not believed to be there.
        let broken = [parse("b", "select 1/0 from orders where nothing = 1"), sync()].concat();
        ensure!(ann.ask(&broken)?.1 == "42703");
        ensure!(
            ann.ask(&[parse("b", "select 'whole'"), bind("", "b"), execute("", 0), sync()].concat())?.0
                == "12DCZI"
        );
        Ok(())
    })
}

#[test]
fn wire_pool_a_statement_whose_columns_change_is_prepared_anew() -> Result<()> {
    let shop = Shop::pooled(Cluster::shared()?, ONE)?;
    let mut wire = shop.connect(&["writers"])?;
    wire.ask(&query("create table shifting (a int)"))?;
    wire.ask(&query("insert into shifting values (1)"))?;
    let prepare = [parse("s", "select * from shifting"), sync()].concat();
    let run = [bind("", "s"), execute("", 0), sync()].concat();
    ensure!(wire.ask(&prepare)?.0 == "1ZI" && wire.ask(&run)?.0 == "2DCZI");
    shop.database.sql("alter table shifting add column b int")?;
    let (tags, code) = wire.ask(&run)?;
    ensure!(code == "0A000", "as without the gateway: {tags} {code}");
    let (tags, code) = wire.ask(&[message(b'C', b"Ss\0"), prepare, run].concat())?;
    ensure!(tags == "31ZI" && code.is_empty(), "{tags} {code}");
    ensure!(wire.answer()?.0 == "2DCZI", "prepared anew, it has the new columns");
    Ok(())
}

#[test]
fn wire_pool_settings_follow_their_session() -> Result<()> {
    on_both(|cluster| {
        let shop = Shop::pooled(cluster, ONE)?;
        let (mut ann, mut bob) = (shop.connect(&["writers"])?, shop.connect_as("bob", &["writers"])?);
        let usual = bob.value("show timezone")?;
        ann.send(&query("set timezone = 'Asia/Tokyo' -- of ann"))?;
        ensure!(ann.until_ready()?.iter().any(|said| said.tag == 'S'), "the client is told");
        ann.ask(&query("set search_path = other"))?;
        ensure!(bob.value("show timezone")? == usual && bob.value("select count(*) from orders")? == "20");
        ensure!(ann.value("show timezone")? == "Asia/Tokyo");
        let elsewhere = ann.value("select customer from orders").map_err(|refused| refused.to_string());
        ensure!(
            elsewhere.is_err_and(|refused| refused.contains("shop/other/orders")),
            "her path leads elsewhere"
        );
        // What is rolled back was not set; what is committed was.
        for (end, wanted) in [("rollback", "Asia/Tokyo"), ("commit", "UTC")] {
            for statement in ["begin", "set timezone = 'UTC'", end] {
                ensure!(ann.ask(&query(statement))?.1.is_empty(), "{statement}");
            }
            ensure!(bob.value("show timezone")? == usual);
            ensure!(ann.value("show timezone")? == wanted, "after {end}");
        }
        ensure!(ann.ask(&query("set timezone = 'Nowhere/Atall'"))?.1 == "22023");
        ensure!(ann.value("show timezone")? == "UTC");
        ann.ask(&query("reset all"))?;
        ensure!(bob.value("show timezone")? == usual && ann.value("show timezone")? == usual);
        ensure!(
            shop.shows("doorward_pool_sessions{resource=\"shop\",state=\"pinned\"} 0"),
            "none of it keeps a connection"
        );
        Ok(())
    })
}

#[test]
fn wire_pool_what_needs_a_session_keeps_its_connection() -> Result<()> {
    let shop = Shop::pooled(Cluster::shared()?, "size: 2, pinned: 1, mode: transaction, wait_max: 60s")?;
    let (mut ann, mut bob) = (shop.connect(&["writers"])?, shop.connect_as("bob", &["writers"])?);
    ensure!(ann.ask(&query("create temp table mine (n int)"))?.0 == "CZI");
    ensure!(ann.ask(&query("insert into mine values (1)"))?.0 == "CZI");
    ensure!(ann.ask(&query("prepare kept as select n from mine"))?.0 == "CZI");
    ensure!(bob.ask(&query("select * from mine"))?.1 == "42P01");
    ensure!(ann.value("execute kept")? == "1", "it is still there");
    ensure!(shop.shows("doorward_pool_sessions{resource=\"shop\",state=\"pinned\"} 1"));
    let (tags, code) = bob.ask(&query("create temp table his (n int)"))?;
    ensure!(tags == "EZI" && code == "53300", "there is a bound to it: {tags} {code}");
    ensure!(bob.value("select 1")? == "1", "and the session lives on");
    let (tags, code) = ann.ask(&query("discard all"))?;
    ensure!(tags.ends_with("ZI") && code.is_empty(), "{tags} {code}");
    ensure!(bob.ask(&query("create temp table his (n int)"))?.0 == "CZI", "it is free again");
    ensure!(ann.ask(&query("select * from mine"))?.1 == "42P01");
    Ok(())
}

#[test]
fn wire_pool_what_triggers_leave_is_cleaned_where_it_is_asked_for() -> Result<()> {
    const TRIGGER: &str = "
        create function leave() returns trigger language plpgsql as $$ begin
          perform set_config('shop.left', 'behind', false); perform pg_advisory_lock(4712);
          create temp table if not exists left_behind (n int); return new; end $$;
        create trigger leaves before insert on orders for each row execute function leave();
        create function left_by_reading() returns boolean language plpgsql as $$ begin
          perform set_config('shop.left', 'behind', false); return true; end $$;
        create view leaving as select id from orders where left_by_reading();
        grant select on leaving to wire_reader, wire_writer";
    const INSERT: &str = "insert into orders (customer) values ('of ann')";
    const READ: &str = "select count(*) from leaving";
    for (clean, statement, is_left) in [
        ("known", INSERT, true),
        ("changes", INSERT, false),
        ("changes", READ, true),
        ("always", INSERT, false),
        ("always", READ, false),
    ] {
        let shop =
            Shop::prepared(Cluster::shared()?, &format!("{ONE}, clean: {clean}"), |db| db.sql(TRIGGER))?;
        let (mut ann, mut bob) = (shop.connect(&["writers"])?, shop.connect_as("bob", &["writers"])?);
        for statement in [query(statement), [run(statement), sync()].concat()] {
            let (tags, code) = ann.ask(&statement)?;
            ensure!(code.is_empty(), "{tags} {code}");
            let left = bob.value("select coalesce(current_setting('shop.left', true), '')")?;
            ensure!((left == "behind") == is_left, "{clean}: after {statement:?} {left:?} is left");
            let temporary = bob.ask(&query("select * from pg_temp.left_behind"))?.1;
            ensure!(is_left || temporary == "42P01", "{clean}: {temporary}");
        }
    }
    Ok(())
}

#[test]
fn wire_pool_a_connection_that_the_server_ends() -> Result<()> {
    on_both(|cluster| {
        for pool in ["size: 2, mode: transaction", "size: 2, mode: session"] {
            let shop = Shop::pooled(cluster, pool)?;
            let mut wire = shop.connect(&["writers"])?;
            ensure!(wire.value("select 1")? == "1");
            if pool.ends_with("session") {
                wire.leave()?;
                let idle = "doorward_pool_connections{resource=\"shop\",door=\"postgres\",state=\"idle\"} 1";
                ensure!(wait_until(SOON, || shop.shows(idle)));
                shop.terminate("wire_writer")?;
                wire = shop.connect(&["writers"])?;
            } else {
                shop.terminate("wire_writer")?;
            }
            ensure!(wire.value("select 1")? == "1", "a dead connection is not lent");
            ensure!(wire.ask(&query("begin"))?.0 == "CZT");
            shop.terminate("wire_writer")?;
            wire.send(&query("select 1"))?;
            let said = wire.until_ready()?;
            let last = said.last().map(|said| said.field(b'C')).unwrap_or_default();
            ensure!(["57P01", "08006"].contains(&&*last), "a transaction does not outlive it: {said:?}");
            ensure!(shop.connect(&["writers"])?.value("select 1")? == "1");
        }
        Ok(())
    })
}

#[test]
fn wire_pool_who_waits_is_told_in_time() -> Result<()> {
    let shop = Shop::pooled(Cluster::shared()?, "size: 1, mode: transaction, wait_max: 300ms")?;
    let (mut ann, mut bob) = (shop.connect(&["writers"])?, shop.connect_as("bob", &["writers"])?);
    ann.ask(&query("begin"))?;
    ann.ask(&query("select 1"))?;
    for statement in [query("select 1"), [parse("", "select 1"), sync()].concat()] {
        let (tags, code) = bob.ask(&statement)?;
        ensure!(tags == "EZI" && code == "53300", "{tags} {code}");
    }
    ann.ask(&query("commit"))?;
    ensure!(bob.value("select 1")? == "1");
    shop.records(1, |row| row["fault_code"] == "lease.wire-connections-busy" && row["sqlstate"] != "")?;
    Ok(())
}

#[test]
fn wire_pool_principals_take_turns() -> Result<()> {
    let shop = Shop::pooled(Cluster::shared()?, ONE)?;
    let mut holder = shop.connect(&["writers"])?;
    let mut many = (0..10).map(|_| shop.connect(&["writers"])).collect::<Result<Vec<_>>>()?;
    let mut bob = shop.connect_as("bob", &["writers"])?;
    // Everybody's names are looked up already.
    for session in many.iter_mut().chain([&mut bob]) {
        session.value("select count(*) from orders")?;
    }
    ensure!(holder.ask(&query("begin"))?.0 == "CZT");
    for session in &mut many {
        session.send(&query("insert into orders (customer) values ('ann')"))?;
    }
    let waiting =
        |count: u8| format!("doorward_pool_sessions{{resource=\"shop\",state=\"waiting\"}} {count}");
    ensure!(wait_until(SOON, || shop.shows(&waiting(10))));
    bob.send(&query("insert into orders (customer) values ('bob')"))?;
    ensure!(wait_until(SOON, || shop.shows(&waiting(11))));
    ensure!(holder.ask(&query("commit"))?.0 == "CZI");
    for session in many.iter_mut().chain([&mut bob]) {
        ensure!(session.answer()?.0 == "CZI");
    }
    let before = "select count(*) from orders where customer = 'ann' and id < (select id from orders where customer = 'bob')";
    let before: u32 = shop.database.sql(before)?.trim().parse()?;
    ensure!(before <= 1, "{before} of ann's sessions came before bob's one");
    Ok(())
}

#[test]
fn wire_pool_a_question_of_the_gateways_that_is_cancelled_leaves_nothing_behind() -> Result<()> {
    let shop = Shop::pooled(Cluster::shared()?, ONE)?;
    let mut ann = shop.connect_as("ann", &["readers"])?;
    let mut bob = shop.connect_as("bob", &["readers"])?;
    for session in [&mut ann, &mut bob] {
        session.value("select count(*) from orders")?;
    }
    for _ in 0..2 {
        // The search path has changed, so what names mean is asked again; and the answer is held up.
        ensure!(ann.ask(&query("set search_path to public"))?.0 == "CZI");
        block_on(async {
            let (mut admin, connection) =
                tokio_postgres::connect(&shop.database.admin_url(), tokio_postgres::NoTls).await?;
            tokio::spawn(connection);
            let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query ~ 'current_schemas'";
            admin.query_one(waits, &[]).await?;
            let held = admin.transaction().await?;
            held.batch_execute("lock table pg_catalog.pg_class in access exclusive mode").await?;
            ann.send(&query("select count(*) from orders"))?;
            let mut waiting = 0_i64;
            for _ in 0..SOON.as_millis() / 10 {
                held.batch_execute("select pg_stat_clear_snapshot()").await?;
                waiting = held.query_one(waits, &[]).await?.get(0);
                if waiting > 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            ensure!(waiting > 0, "the question does not wait: {}", shop.gateway.log());
            ann.cancel()?;
            let answer = ann.answer()?;
            ensure!(answer == ("EZI".to_owned(), "57014".to_owned()), "{answer:?}");
            Ok::<_, anyhow::Error>(held.rollback().await?)
        })??;
        // The connection is asked again, by its next borrower and by the first one.
        ensure!(bob.ask(&query("set search_path to public"))?.0 == "CZI");
        for session in [&mut bob, &mut ann] {
            session.value("select count(*) from orders")?;
        }
    }
    let rows = shop.records(2, |row| row["fault_code"] == "forward.timeout")?;
    ensure!(rows.iter().all(|row| row["operation"] == "select count(*) from orders"), "{rows:?}");
    Ok(())
}

#[test]
fn wire_pool_a_cancel_request_never_hits_the_next_borrower() -> Result<()> {
    let shop = Shop::pooled(Cluster::shared()?, "size: 2, mode: transaction, wait_max: 60s")?;
    let mut target = shop.connect(&["readers"])?;
    let others = (0..4).map(|_| shop.connect_as("bob", &["readers"])).collect::<Result<Vec<_>>>()?;
    let (address, key) = (target.address(), target.key.clone());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let cancels = scope.spawn(|| {
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                Wire::cancel_by(address, &key)?;
                sent += 1;
            }
            Ok::<u32, anyhow::Error>(sent)
        });
        let others: Vec<_> = others
            .into_iter()
            .map(|mut other| {
                scope.spawn(move || {
                    for _ in 0..60 {
                        let (tags, code) = other.ask(&query("select pg_sleep(0.002)"))?;
                        ensure!(code.is_empty(), "somebody else's cancel request: {tags} {code}");
                    }
                    Ok(())
                })
            })
            .collect();
        let mut run = || {
            let (mut ran, mut hit) = (0, 0);
            while !others.iter().all(thread::ScopedJoinHandle::is_finished) {
                let (tags, code) = target.ask(&query("select pg_sleep(0.002)"))?;
                ensure!(tags.ends_with("ZI") && ["", "57014"].contains(&&*code), "{tags} {code}");
                hit += u32::from(code == "57014");
                ran += 1;
            }
            Ok((ran, hit))
        };
        // Whatever comes of it: the requests must end.
        let counts = run();
        done.store(true, Ordering::Relaxed);
        for other in others {
            other.join().map_err(|_| anyhow::anyhow!("a session panicked"))??;
        }
        let sent = cancels.join().map_err(|_| anyhow::anyhow!("the canceller panicked"))??;
        let (ran, hit) = counts?;
        ensure!(hit > 0, "of {ran} statements none was cancelled by {sent} requests");
        Ok(())
    })
}
