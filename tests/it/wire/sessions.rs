//! What happens within a session: pipelines, cancellation, ends.

use std::time::Duration;

use anyhow::{Result, ensure};
use doorward_testkit::postgres::Cluster;
use doorward_testkit::{pause, wait_until};

use super::Shop;
use super::client::{bind, execute, message, parse, query, run, sync};
use crate::bed::SOON;

#[test]
fn wire_a_refusal_in_a_pipeline_is_an_error_in_its_place() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let mut wire = shop.connect(&["writers"])?;
    // The first in a batch, the last, and in the middle: nothing after it runs, nothing before it stays.
    let (tags, code) = wire.ask(&[run("select * from secrets"), run("select 1"), sync()].concat())?;
    ensure!(tags == "EZI" && code == "42501", "{tags} {code}");
    let insert = run("insert into orders (customer) values ('pipelined')");
    let batch = [insert.clone(), run("select * from secrets"), insert.clone(), sync()].concat();
    let (tags, code) = wire.ask(&batch)?;
    ensure!(tags == "12CEZI" && code == "42501", "{tags} {code}");
    let count = shop.database.sql("select count(*) from orders where customer = 'pipelined'")?;
    ensure!(count.trim() == "0", "the batch is one transaction: {count}");
    // In a transaction the refusal fails it, until its end, as an error of the server's would.
    let (tags, _) = wire.ask(&query("begin"))?;
    ensure!(tags == "CZT", "{tags}");
    let (tags, code) = wire.ask(&query("select * from secrets"))?;
    ensure!(tags == "EZE" && code == "42501", "{tags} {code}");
    let (tags, code) = wire.ask(&query("select 1"))?;
    ensure!(tags == "EZE" && code == "25P02", "{tags} {code}");
    let (tags, _) = wire.ask(&[run("rollback"), sync()].concat())?;
    ensure!(tags == "12CZI", "{tags}");
    // Several batches at once, a refused one between them.
    let all = [insert.clone(), sync(), run("select * from secrets"), sync(), insert, sync()].concat();
    wire.send(&all)?;
    let answers = [wire.answer()?, wire.answer()?, wire.answer()?];
    ensure!(answers.clone().map(|(tags, _)| tags) == ["12CZI", "EZI", "12CZI"], "{answers:?}");
    let count = shop.database.sql("select count(*) from orders where customer = 'pipelined'")?;
    ensure!(count.trim() == "2", "the others are not touched: {count}");
    Ok(())
}

#[test]
fn wire_prepared_statements_are_decided_when_they_run() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let mut wire = shop.connect(&["readers"])?;
    let prepared = [parse("s", "select id from orders order by id"), sync()].concat();
    ensure!(wire.ask(&prepared)?.0 == "1ZI");
    // A name that is taken stays what it was.
    let (tags, code) = wire.ask(&prepared)?;
    ensure!(tags == "EZI" && code == "42P05", "{tags} {code}");
    let (tags, _) = wire.ask(&[bind("", "s"), execute("", 3), execute("", 0), sync()].concat())?;
    ensure!(tags == format!("2DDDs{}CZI", "D".repeat(17)), "{tags}");
    let (tags, code) = wire.ask(&[bind("", "unknown"), execute("", 0), sync()].concat())?;
    ensure!(tags == "EZI" && code == "26000", "{tags} {code}");
    // The same statement means another table now.
    ensure!(wire.ask(&query("set search_path = other"))?.1.is_empty());
    let (tags, code) = wire.ask(&[bind("", "s"), execute("", 0), sync()].concat())?;
    ensure!(tags == "EZI" && code == "42501", "{tags} {code}");
    // SQL's own PREPARE and EXECUTE.
    ensure!(wire.ask(&query("reset search_path"))?.1.is_empty());
    ensure!(wire.ask(&query("prepare t as select 1 from orders limit 1"))?.0 == "CZI");
    ensure!(wire.ask(&query("execute t"))?.0 == "TDCZI");
    let (tags, code) = wire.ask(&query("prepare u as select * from secrets"))?;
    ensure!(tags == "EZI" && code == "42501", "{tags} {code}");
    let (tags, code) = wire.ask(&message(b'F', &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]))?;
    ensure!(tags == "EZI" && code == "0A000", "the fast path is refused: {tags} {code}");
    Ok(())
}

#[test]
fn wire_prepared_statements_are_bounded_together() -> Result<()> {
    for pool in ["size: 2, sessions: 20", "size: 2, mode: transaction"] {
        let shop = Shop::pooled(Cluster::shared()?, pool)?;
        let mut wire = shop.connect(&["readers"])?;
        let large = format!("select '{}'", "x".repeat(1_000_000));
        let prepare = |n: u8| [parse(&format!("s{n}"), &large), sync()].concat();
        for n in 0..8 {
            ensure!(wire.ask(&prepare(n))?.0 == "1ZI", "{n}");
        }
        wire.send(&prepare(8))?;
        let said = wire.until_ready()?;
        let refused =
            said.iter().find(|said| said.tag == 'E').map(|said| (said.field(b'C'), said.field(b'H')));
        let (code, hint) = refused.unwrap_or_default();
        ensure!(code == "54000" && hint.contains("DEALLOCATE"), "{code} {hint}");
        // In SQL too; the session lives on, and what is closed or taken back gives its room to others.
        let (tags, code) = wire.ask(&query(&format!("prepare s8 as {large}")))?;
        ensure!(tags == "EZI" && code == "54000", "{tags} {code}");
        for freed in [[message(b'C', b"Ss0\0"), sync()].concat(), query("deallocate s0")] {
            ensure!(wire.ask(&freed)?.1.is_empty());
            ensure!(wire.ask(&prepare(0))?.0 == "1ZI", "there is room again");
            ensure!(wire.ask(&prepare(8))?.1 == "54000");
        }
        ensure!(wire.ask(&query("deallocate all"))?.1.is_empty());
        ensure!(wire.ask(&prepare(8))?.0 == "1ZI");
        // Portals keep the texts of statements that are not there any more.
        ensure!(wire.ask(&query("begin"))?.0 == "CZT");
        let open = |n: u8| [parse("", &large), bind(&format!("p{n}"), ""), sync()].concat();
        for n in 0..8 {
            ensure!(wire.ask(&open(n))?.0 == "12ZT", "{n}");
        }
        let (tags, code) = wire.ask(&open(8))?;
        ensure!(tags == "1EZE" && code == "54000", "{tags} {code}");
        ensure!(wire.ask(&query("rollback"))?.0 == "CZI");
        ensure!(wire.ask(&query("begin"))?.0 == "CZT" && wire.ask(&open(8))?.0 == "12ZT");
    }
    Ok(())
}

#[test]
fn wire_long_pipelines_and_copies_out_of_step() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let mut wire = shop.connect(&["writers"])?;
    // More messages than replies are remembered of, before one Sync: their replies are small, and wait at the server.
    let batch: Vec<u8> =
        std::iter::repeat_n(run("select 1 where false"), 1_500).flatten().chain(sync()).collect();
    let (tags, code) = wire.ask(&batch)?;
    ensure!(tags.len() == 4_500 + 2 && code.is_empty(), "{} {code}", tags.len());
    // Data for a COPY in the extended protocol, with the Sync that clients send before they know of it.
    wire.send(&[run("copy orders (customer) from stdin"), sync()].concat())?;
    while wire.next()?.tag != 'G' {}
    wire.send(&[message(b'd', b"extended\n"), message(b'c', b""), sync()].concat())?;
    let (tags, code) = wire.answer()?;
    ensure!(tags == "CZI", "{tags} {code}");
    ensure!(wire.ask(&query("select customer from orders where customer = 'extended'"))?.0 == "TDCZI");
    // Something else than data ends the session, instead of waiting forever.
    wire.send(&[query("copy orders (customer) from stdin"), query("select 1 from orders")].concat())?;
    let (_, code) = wire.answer()?;
    ensure!(code == "08P01", "{code}");
    Ok(())
}

#[test]
fn wire_cursors_of_sql_are_portals_of_the_protocol() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let mut wire = shop.connect(&["readers"])?;
    wire.ask(&query("begin"))?;
    ensure!(wire.ask(&query("declare c cursor for select n from big"))?.0 == "CZT");
    let (tags, code) = wire.ask(&[message(b'D', b"Pc\0"), execute("c", 2), sync()].concat())?;
    ensure!(tags == "TDDsZT", "{tags} {code}");
    let (tags, code) = wire.ask(&[execute("d", 2), sync()].concat())?;
    ensure!(tags == "EZE" && code == "34000", "{tags} {code}");
    Ok(())
}

#[test]
fn wire_a_cancel_request_hits_its_own_session() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let mut one = shop.connect(&["readers"])?;
    let mut other = shop.connect(&["readers"])?;
    let long = query("select count(*) from big a, big b, big c");
    one.send(&long)?;
    other.send(&long)?;
    pause(Duration::from_millis(500));
    one.cancel()?;
    let (tags, code) = one.answer()?;
    ensure!(tags.ends_with("EZI") && code == "57014", "{tags} {code}");
    ensure!(one.ask(&query("select 1"))?.0 == "TDCZI", "it lives on");
    other.cancel()?;
    ensure!(other.answer()?.1 == "57014", "the other one ran until its own cancel request");
    Ok(())
}

#[test]
fn wire_a_client_that_hangs_up_leaves_an_abandoned_record_and_no_query() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let mut wire = shop.connect(&["readers"])?;
    wire.send(&query("select count(*) from big a, big b, big c"))?;
    let running = "select count(*) from pg_stat_activity where state = 'active' and query like '%big c%' and application_name like 'doorward: ann%'";
    let count = |wanted: &str| shop.database.sql(running).is_ok_and(|count| count.trim() == wanted);
    ensure!(wait_until(SOON, || count("1")), "it runs, under the caller's name");
    drop(wire);
    ensure!(wait_until(SOON, || count("0")), "it is cancelled");
    shop.records(1, |row| row["outcome"] == "abandoned" && row["verb"] == "read")?;
    Ok(())
}

#[test]
fn wire_large_answers_stream_and_limits_hold() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let mut wire = shop.connect(&["readers"])?;
    let (tags, _) = wire.ask(&query("select n, filler from big"))?;
    ensure!(tags.len() == 1 + 20_000 + 3, "{}", tags.len());
    let record = shop.records(1, |row| row["rows"] == 20_000)?;
    ensure!(record[0]["bytes_out"].as_u64().is_some_and(|bytes| bytes > 4_000_000), "{record:?}");

    let mut small = shop.connect(&["small"])?;
    ensure!(small.ask(&query("select * from orders limit 5"))?.1.is_empty());
    let (tags, code) = small.ask(&query("select * from orders"))?;
    ensure!(
        !tags.contains('Z') && code == "53400",
        "more than the grant's rows ends the session: {tags} {code}"
    );

    let mut few = shop.connect(&["few"])?;
    let mut codes = Vec::new();
    for _ in 0..6 {
        codes.push(few.ask(&query("select 1"))?.1);
    }
    ensure!(codes.contains(&"53400".to_owned()), "the grant's limit counts statements: {codes:?}");
    Ok(())
}

#[test]
fn wire_messages_that_are_not_the_protocols() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let mut wire = shop.connect(&["readers"])?;
    let (_, code) = wire.ask(&message(b'?', b""))?;
    ensure!(code == "08P01", "{code}");
    let mut wire = shop.connect(&["readers"])?;
    // A statement of two megabytes is refused, and read past.
    let large = query(&format!("select '{}'", "x".repeat(2 << 20)));
    let (tags, code) = wire.ask(&large)?;
    ensure!(tags == "EZI" && code == "54000", "{tags} {code}");
    let chain = format!("select 1{}", "+1".repeat(50_000));
    let (tags, code) = wire.ask(&query(&chain))?;
    ensure!(tags == "EZI" && code.starts_with("54"), "{tags} {code}");
    ensure!(wire.ask(&query("select 1"))?.0 == "TDCZI");
    Ok(())
}

#[test]
fn wire_a_kill_in_mid_statement_leaves_an_unknown_outcome() -> Result<()> {
    let mut shop = Shop::start(Cluster::shared()?)?;
    let mut wire = shop.connect(&["writers"])?;
    wire.send(&query("insert into orders (customer) select 'killed' from generate_series(1, 100000000) n"))?;
    let running = "select count(*) from pg_stat_activity where state = 'active' and query like '%killed%' and usename = 'wire_writer'";
    ensure!(wait_until(SOON, || shop.database.sql(running).is_ok_and(|count| count.trim() == "1")));
    shop.gateway.kill9()?;
    shop.gateway.again()?;
    let found = shop.records(1, |row| row["outcome"] == "unknown" && row["verb"] == "write")?;
    ensure!(
        found[0]["operation"].as_str().is_some_and(|text| text.contains("insert into orders")),
        "{found:?}"
    );
    Ok(())
}

#[test]
fn wire_sessions_end_when_the_gateway_stops() -> Result<()> {
    let mut shop = Shop::start(Cluster::shared()?)?;
    let mut idle = shop.connect(&["readers"])?;
    ensure!(idle.ask(&query("select 1"))?.0 == "TDCZI");
    let status = shop.gateway.term()?;
    ensure!(status.success(), "{}", shop.gateway.log());
    let said = idle.next()?;
    ensure!(said.tag == 'E' && said.field(b'C') == "57P01", "{said:?}");
    Ok(())
}

#[test]
fn wire_a_cursor_is_decided_when_it_is_read_on() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let mut wire = shop.connect(&["small"])?;
    // The grant's cap on rows holds for what is fetched, and the record says what was read.
    ensure!(wire.ask(&query("declare c cursor with hold for select * from orders order by id"))?.0 == "CZI");
    ensure!(wire.ask(&query("fetch 3 from c"))?.0 == "TDDDCZI");
    let read = |row: &serde_json::Value| row["rows"] == 3 && row["object"] == "public/orders";
    ensure!(shop.records(1, read)?[0]["verb"] == "read");
    // A name that is taken stays what it was.
    let (_, code) = wire.ask(&query("declare c cursor with hold for select 1"))?;
    ensure!(code == "42P03", "{code}");
    ensure!(wire.ask(&query("close c; declare c cursor with hold for select 2"))?.1.is_empty());
    ensure!(wire.ask(&query("close c"))?.0 == "CZI");
    // As psqlODBC sends it, and one that came to be before its text failed: the cap holds for both.
    let odbc = "begin;declare \"SQL_CUR1\" cursor with hold for select * from orders;fetch 4 in \"SQL_CUR1\"";
    ensure!(wire.ask(&query(odbc))?.0 == "CCTDDDDCZT");
    ensure!(wire.ask(&query("commit"))?.0 == "CZI");
    let failing = "begin; declare d cursor with hold for select * from orders; commit; select 1 / 0";
    ensure!(wire.ask(&query(failing))?.1 == "22012");
    let (tags, code) = wire.ask(&query("fetch 6 from d"))?;
    ensure!(!tags.contains('Z') && code == "53400", "{tags} {code}");
    let mut wire = shop.connect(&["small"])?;
    // One that a function opened is the server's to know.
    let (_, code) = wire.ask(&query("fetch all from \"<unnamed portal 1>\""))?;
    ensure!(code == "34000", "{code}");
    Ok(())
}
