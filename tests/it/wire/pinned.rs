//! What keeps a connection in transaction mode, and what does not in the end; names that are used before the answers to
//! an earlier batch are there.

use anyhow::{Result, ensure};
use doorward_testkit::postgres::Cluster;
use doorward_testkit::wait_until;

use super::Shop;
use super::client::{bind, execute, message, parse, query, run, sync};
use super::pools::{ONE, on_both};
use crate::bed::SOON;

impl Shop {
    /// Whether so many sessions come to keep their connections.
    fn keeps(&self, count: usize) -> bool {
        let line = format!("doorward_pool_sessions{{resource=\"shop\",state=\"pinned\"}} {count}");
        wait_until(SOON, || self.shows(&line))
    }
}

#[test]
fn wire_pool_what_has_failed_keeps_no_connection() -> Result<()> {
    on_both(|cluster| {
        let shop = Shop::pooled(cluster, ONE)?;
        let (mut ann, mut bob) = (shop.connect(&["writers"])?, shop.connect_as("bob", &["writers"])?);
        let batch = |statement: &str| [run(statement), sync()].concat();
        let undone: &[(&[Vec<u8>], &str)] = &[
            (&[query("declare c cursor with hold for select 1 / id from orders where id = id - id")], ""),
            (&[query("discard all")], ""),
            (&[query("declare c cursor with hold for select 1 / (id - 1) from orders")], "22012"),
            (&[query("declare c cursor with hold for select nothing from orders")], "42703"),
            (&[batch("declare c cursor with hold for select 1 / (id - 1) from orders")], "22012"),
            (&[query("begin"), query("declare c cursor with hold for select 1"), query("rollback")], ""),
            (&[query("begin"), batch("declare c cursor with hold for select 1"), batch("rollback")], ""),
            (&[query("begin; declare c cursor with hold for select 1; rollback")], ""),
            (&[query("declare c cursor with hold for select 1; select 1 / 0")], "22012"),
            (
                &[
                    query("begin"),
                    query("create temp table t (n int)"),
                    query("select 1 / 0"),
                    query("commit"),
                ],
                "22012",
            ),
            (&[query("create temp table t as select 1 / (id - 1) as n from orders")], "22012"),
            (&[query("set timezone = 'UTC'; set work_mem = 'no size'")], "22023"),
            (&[query("prepare p as select nothing from orders")], "42703"),
            (&[[run("create temp table t (n int)"), bind("", "nothing"), sync()].concat()], "26000"),
        ];
        for (texts, wanted) in undone {
            let mut failed = String::new();
            for text in *texts {
                let (tags, code) = ann.ask(text)?;
                ensure!(tags.contains('Z'), "{}: {tags}", text.escape_ascii());
                failed.push_str(&code);
            }
            ensure!(failed == *wanted, "{:?}: {failed}", texts.concat().escape_ascii().to_string());
            let first = texts.concat().escape_ascii().to_string();
            if first.contains("id - id") {
                ensure!(shop.keeps(1), "a cursor that is held keeps its connection");
                continue;
            }
            ensure!(shop.keeps(0), "{first} keeps a connection");
            ensure!(bob.value("select 1")? == "1", "{first}: somebody else gets it");
        }
        Ok(())
    })
}

#[test]
fn wire_pool_what_may_be_there_keeps_its_connection() -> Result<()> {
    on_both(|cluster| {
        let shop = Shop::pooled(cluster, ONE)?;
        let kept: &[(&[Vec<u8>], &str)] = &[
            // The failure comes behind the transaction's end, or behind what is taken back.
            (&[query("declare c cursor with hold for select 0; commit; select 1 / 0")], "fetch c"),
            (
                &[
                    query("begin"),
                    query("create temp table t (n int)"),
                    query("savepoint s"),
                    query("select 1 / 0"),
                    query("rollback to s"),
                    query("commit"),
                ],
                "select count(*) from t",
            ),
            // What is undone in one batch is not what is done in the next, which is under way already.
            (
                &[[
                    run("create temp table u as select 1 / (id - 1) as n from orders"),
                    sync(),
                    run("create temp table t (n int)"),
                    sync(),
                ]
                .concat()],
                "select count(*) from t",
            ),
            (
                &[[query("discard all"), query("create temp table t (n int)")].concat()],
                "select count(*) from t",
            ),
            // A statement that is prepared, and a lock, outlive the transaction that is rolled back.
            (&[query("begin"), query("prepare p as select 0"), query("rollback")], "execute p"),
            (&[query("select pg_advisory_lock(4711), 1 / (id - 1) from orders")], "select 0"),
        ];
        for (texts, asks) in kept {
            let mut ann = shop.connect(&["writers"])?;
            let first = texts.concat().escape_ascii().to_string();
            for text in *texts {
                let batches = usize::from(first.contains("discard all") || first.contains(" u as")) + 1;
                ann.send(text)?;
                for _ in 0..batches {
                    ann.answer()?;
                }
            }
            ensure!(shop.keeps(1), "{first} keeps no connection");
            ensure!(ann.value(asks)? == "0", "{first}: it is still there");
            ann.leave()?;
            ensure!(shop.keeps(0), "{first}: it is given back");
        }
        Ok(())
    })
}

#[test]
fn wire_cursors_of_a_transaction_that_is_rolled_back_are_gone() -> Result<()> {
    for mode in ["session", "transaction"] {
        let shop = Shop::pooled(Cluster::shared()?, &format!("size: 2, mode: {mode}"))?;
        let mut wire = shop.connect(&["readers"])?;
        let declare = query("declare c cursor with hold for select id from orders order by id");
        for _ in 0..2 {
            ensure!(wire.ask(&query("begin"))?.0 == "CZT");
            ensure!(wire.ask(&declare)?.0 == "CZT");
            ensure!(wire.ask(&query("rollback"))?.0 == "CZI");
        }
        ensure!(wire.ask(&query("fetch c"))?.1 == "34000");
        let (tags, code) = wire.ask(&declare)?;
        ensure!(tags == "CZI", "its name is free: {tags} {code}");
        ensure!(wire.ask(&declare)?.1 == "42P03", "and taken, once it is there to stay");
        ensure!(wire.value("fetch c")? == "1");
        ensure!(wire.ask(&query("begin"))?.0 == "CZT" && wire.ask(&query("rollback"))?.0 == "CZI");
        ensure!(wire.value("fetch c")? == "2", "what another transaction undoes is not its");
        // Closed, its name is free at once, also where the answer is not waited for.
        let again = [query("close c"), declare.clone(), query("fetch c")].concat();
        ensure!(wire.ask(&again)?.0 == "CZI" && wire.answer()?.0 == "CZI" && wire.answer()?.0 == "TDCZI");
        ensure!(wire.ask(&query("close all"))?.0 == "CZI" && wire.ask(&query("fetch c"))?.1 == "34000");
        ensure!(wire.ask(&query("close c"))?.1 == "34000" && wire.ask(&declare)?.0 == "CZI");
    }
    Ok(())
}

#[test]
fn wire_a_batch_uses_its_own_names_while_another_is_answered() -> Result<()> {
    for mode in ["session", "transaction"] {
        let shop = Shop::pooled(Cluster::shared()?, &format!("size: 2, mode: {mode}"))?;
        let mut wire = shop.connect(&["readers"])?;
        let value = |n: usize| format!("select {n} + count(*)::int - 20 from orders");
        for (first, answer) in
            [(value(1), "12DCZI"), ("select 1 / 0".to_owned(), "1EZI"), ("selekt".to_owned(), "EZI")]
        {
            // The end of the first batch is told while the second one is half there.
            let begun = [run(&first), sync(), parse("", &value(2)), bind("", "")].concat();
            let (tags, _) = wire.ask(&begun)?;
            ensure!(tags == answer, "{first}: {tags}");
            let (tags, code) = wire.ask(&[execute("", 0), sync()].concat())?;
            ensure!(tags == "12DCZI", "behind {first}: {tags} {code}");
        }
    }
    Ok(())
}

#[test]
fn wire_pool_a_description_that_has_changed_is_told_anew() -> Result<()> {
    on_both(|cluster| {
        let shop = Shop::pooled(cluster, ONE)?;
        let (mut ann, mut bob) = (shop.connect(&["writers"])?, shop.connect_as("bob", &["writers"])?);
        ensure!(ann.ask(&query("create table shifting (a int)"))?.0 == "CZI");
        let prepare = [parse("s", "select * from shifting"), sync()].concat();
        let describe = [message(b'D', b"Ss\0"), sync()].concat();
        for session in [&mut ann, &mut bob] {
            ensure!(session.ask(&prepare)?.0 == "1ZI");
        }
        let columns = |session: &mut super::client::Wire| -> Result<u8> {
            session.send(&describe)?;
            let said = session.until_ready()?;
            let row = said.iter().find(|said| said.tag == 'T');
            Ok(row.and_then(|row| row.body.get(1).copied()).unwrap_or(0))
        };
        ensure!(columns(&mut ann)? == 1 && columns(&mut bob)? == 1);
        // Whoever asks first is told as without the gateway; what is prepared anew has the new columns, for everybody.
        shop.database.sql("alter table shifting add column b int")?;
        let (tags, code) = ann.ask(&describe)?;
        ensure!(tags.ends_with("EZI") && code == "0A000", "{tags} {code}");
        ensure!(ann.ask(&[message(b'C', b"Ss\0"), prepare.clone()].concat())?.0 == "31ZI");
        ensure!(columns(&mut ann)? == 2, "prepared anew, it has the new columns");
        ensure!(columns(&mut bob)? == 2, "and so has that of others, on a connection that is clean again");
        // In a transaction that began before.
        ensure!(ann.ask(&query("begin"))?.0 == "CZT");
        ensure!(ann.ask(&query("alter table shifting drop column a"))?.0 == "CZT");
        let (tags, code) = ann.ask(&[bind("", "s"), execute("", 0), sync()].concat())?;
        ensure!(tags == "EZE" && code == "0A000", "{tags} {code}");
        ensure!(ann.ask(&query("rollback"))?.0 == "CZI");
        ensure!(columns(&mut bob)? == 2 && columns(&mut ann)? == 2);
        Ok(())
    })
}
