//! What the record has of a statement, and what a session can ask about itself.

use anyhow::{Context, Result, ensure};
use doorward_testkit::postgres::Cluster;
use serde_json::Value;

use super::Shop;
use super::client::{Wire, execute, message, parse, query, run, sync};

/// Bind of the unnamed portal and statement: each value with its format.
fn bind_values(values: &[(u16, Option<&[u8]>)]) -> Vec<u8> {
    let mut body = vec![0, 0];
    let count = u16::try_from(values.len()).unwrap_or_default().to_be_bytes();
    body.extend(count);
    values.iter().for_each(|(format, _)| body.extend(format.to_be_bytes()));
    body.extend(count);
    for (_, value) in values {
        let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or_default());
        body.extend(length.to_be_bytes());
        body.extend(value.unwrap_or_default());
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

fn operation(record: &Value) -> &str {
    record["operation"].as_str().unwrap_or_default()
}

/// The rows that a query answers, as text.
fn rows(wire: &mut Wire, messages: &[u8]) -> Result<Vec<Vec<Option<String>>>> {
    wire.send(messages)?;
    let mut rows = Vec::new();
    for said in wire.until_ready()? {
        ensure!(said.tag != 'E', "{}", said.field(b'M'));
        if said.tag != 'D' {
            continue;
        }
        let mut rest = said.body.get(2..).context("a row")?;
        let mut row = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(i32::from_be_bytes(*length)).ok();
            let (value, after) = after.split_at(length.unwrap_or(0));
            row.push(length.map(|_| String::from_utf8_lossy(value).into_owned()));
            rest = after;
        }
        rows.push(row);
    }
    Ok(rows)
}

#[test]
fn wire_bound_values_stand_behind_the_text_as_literals_would() -> Result<()> {
    let shop = Shop::start_with(Cluster::shared()?, "redact: { names: [customer-no] }")?;
    let mut wire = shop.connect(&["readers"])?;
    // The types come with the description, as asyncpg and others ask for it.
    let statement = "select id from orders where id = $1 and customer = $2 and total > $3";
    let described = [parse("", statement), message(b'D', b"S\0"), sync()].concat();
    ensure!(wire.ask(&described)?.0 == "1tTZI");
    let total: &[u8] = &[0, 1, 0, 0, 0, 0, 0, 1, 0, 2];
    let values = bind_values(&[(1, Some(&7_i32.to_be_bytes())), (0, Some(b"it's\nme")), (1, Some(total))]);
    ensure!(wire.ask(&[values, execute("", 0), sync()].concat())?.0 == "2CZI");
    let is = |row: &Value| operation(row).starts_with("select id from orders where id = $1");
    let found = shop.records(1, is)?;
    let wanted = format!("{statement}\n-- $1 = 7, $2 = 'it''s me', $3 = 2.0");
    ensure!(operation(&found[0]) == wanted, "{}", operation(&found[0]));

    // What is secret by its column or its form does not get there; nor does it by a refused statement.
    let insert = "insert into orders (customer, total) values ($1, $2)";
    let values = bind_values(&[(0, Some(b"4111 1111 1111 1111")), (0, None)]);
    let (_, code) = wire.ask(&[parse("", insert), sync()].concat())?;
    ensure!(code == "42501", "{code}");
    let secret =
        "select id from orders where customer = $1 and $2 in (select 'x' as password where 'p' = $2)";
    ensure!(wire.ask(&[parse("", secret), values, execute("", 0), sync()].concat())?.1.is_empty());
    let found =
        shop.records(1, |row| operation(row).starts_with("select id from orders where customer = $1"))?;
    ensure!(
        operation(&found[0]).ends_with("\n-- $1 = '[redacted:card]', $2 = NULL"),
        "{}",
        operation(&found[0])
    );
    let named = "select id from orders where customer = $1 and set_config('app.password', $2, true) = 'x'";
    let values = bind_values(&[(0, Some(b"open")), (0, Some(b"hunter2"))]);
    ensure!(wire.ask(&[parse("", named), values, execute("", 0), sync()].concat())?.1.is_empty());
    let found = shop.records(1, |row| operation(row).contains("app.password"))?;
    ensure!(operation(&found[0]).ends_with("\n-- $1 = 'open', $2 = ?"), "{}", operation(&found[0]));
    Ok(())
}

#[test]
fn wire_bound_values_may_be_hashed_or_left_out() -> Result<()> {
    let config = "redact: { bind_values: hashed, hash_key: \"env:HASH_KEY\" }";
    let shop = Shop::start_with(Cluster::shared()?, config)?;
    let mut wire = shop.connect(&["readers"])?;
    let statement = parse("", "select id from orders where id = $1 or customer = $2");
    let values = [(0, Some(&b"7"[..])), (0, None)];
    wire.ask(&[statement, bind_values(&values), execute("", 0), sync()].concat())?;
    // The same value, in the binary form and as another parameter.
    let typed = message(
        b'P',
        &[
            &b"\0select id from orders where customer = $1 or id = $2\0\0\x02"[..],
            &0_u32.to_be_bytes(),
            &23_u32.to_be_bytes(),
        ]
        .concat(),
    );
    let values = [(0, Some(&b"eve"[..])), (1, Some(&[0, 0, 0, 7][..]))];
    wire.ask(&[typed, bind_values(&values), execute("", 0), sync()].concat())?;
    let found = shop.records(2, |row| row["ext"]["parameters"].is_array())?;
    let hashes: Vec<&Value> =
        found.iter().flat_map(|row| row["ext"]["parameters"].as_array().into_iter().flatten()).collect();
    let equal = |one: &&&Value| hashes.iter().filter(|other| **other == **one).count();
    ensure!(hashes.len() == 4 && hashes.iter().filter(|one| equal(one) == 2).count() == 2, "{hashes:?}");
    ensure!(hashes.iter().filter(|hash| hash.is_null()).count() == 1, "{hashes:?}");
    ensure!(found.iter().all(|row| !operation(row).contains("--")), "{found:?}");

    let shop = Shop::start_with(Cluster::shared()?, "redact: { bind_values: off }")?;
    let mut wire = shop.connect(&["readers"])?;
    let statement = parse("", "select id from orders where id = $1");
    wire.ask(&[statement, bind_values(&[(0, Some(b"7"))]), execute("", 0), sync()].concat())?;
    let found = shop.records(1, |row| operation(row).starts_with("select id"))?;
    ensure!(operation(&found[0]) == "select id from orders where id = $1", "{found:?}");
    Ok(())
}

#[test]
fn wire_what_a_client_tells_of_its_work_is_kept_for_correlation() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let script = "/*traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',dag_id='daily%20load'*/ \
        select 1 as tagged /*run_id='manual__1',task_id='load',try_number='2',map_index='x',user='bob'*/;\n\
        set application_name = 'dag_id=nightly';\nselect 2 as named;\n\
        select 'app ' || application_name from pg_stat_activity where pid = pg_backend_pid();\n";
    let grants = "  watchers: { to: group:readers, allow: [\"read shop/pg_catalog/*\"], as: wire_reader }\n";
    let (out, err) = shop.psql(&["readers"], script)?;
    ensure!(out.starts_with("1\nSET\n2\n"), "{grants} {out}{err}");
    let tagged = shop.records(1, |row| operation(row).contains("tagged"))?;
    let told = |name: &str| tagged[0][name].clone();
    ensure!(told("trace_id") == "0af7651916cd43dd8448eb211c80319c", "{tagged:?}");
    ensure!(told("parent_span_id") == "b7ad6b7169203331" && told("dag_id") == "daily load", "{tagged:?}");
    ensure!(told("run_id") == "manual__1" && told("task_id") == "load", "{tagged:?}");
    ensure!(told("try_number") == 2 && told("map_index").is_null(), "{tagged:?}");
    ensure!(told("principal_subject") == "ann" && told("user_agent") == "psql", "{tagged:?}");
    let named = shop.records(1, |row| operation(row).contains("as named"))?;
    ensure!(named[0]["dag_id"] == "nightly" && named[0]["user_agent"] == "dag_id=nightly", "{named:?}");
    Ok(())
}

#[test]
fn wire_the_backend_knows_the_caller_whatever_the_client_calls_itself() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let mut wire = shop.connect(&["readers"])?;
    let mut shown = |text: &str| -> Result<String> {
        let rows = rows(&mut wire, &query(text))?;
        rows.last().and_then(|row| row.first()?.clone()).context("a value")
    };
    ensure!(shown("show application_name")? == "doorward: ann (by hand)");
    ensure!(shown("set application_name to 'O''Neil'; show application_name")? == "doorward: ann (O'Neil)");
    ensure!(shown("begin; set local application_name = x; show application_name")? == "doorward: ann (x)");
    ensure!(shown("rollback; show application_name")? == "doorward: ann (O'Neil)");
    ensure!(shown("reset application_name; show application_name")? == "doorward: ann (by hand)");
    for gone in ["reset all", "discard all"] {
        let (_, code) = wire.ask(&query(gone))?;
        ensure!(code.is_empty(), "{gone}: {code}");
        ensure!(wire.value("show application_name")? == "doorward: ann (by hand)", "after {gone}");
    }
    let (_, code) = wire.ask(&query("select set_config('application_name', 'bob', false)"))?;
    ensure!(code == "42501", "{code}");
    let (_, code) = wire.ask(&query("set doorward.identity = 'bob'"))?;
    ensure!(code == "42501", "{code}");
    Ok(())
}

#[test]
fn wire_each_statement_of_a_text_has_a_record_of_its_own() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let mut wire = shop.connect(&["writers"])?;
    let text = "insert into orders (customer) values ('several'), ('of them'); select count(*) from orders; \
        delete from orders where customer = 'several'";
    let (tags, code) = wire.ask(&query(text))?;
    ensure!(tags == "CTDCCZI" && code.is_empty(), "{tags} {code}");
    let of_text = |row: &Value| {
        ["insert into orders (", "select count(*)", "delete from"]
            .iter()
            .any(|start| operation(row).starts_with(start))
    };
    let found = shop.records(3, of_text)?;
    let one = |start: &str| found.iter().find(|row| operation(row).starts_with(start)).context("a record");
    let (insert, select) = (one("insert into")?, one("select count")?);
    ensure!(insert["rows"] == 2 && select["rows"] == 1, "{found:?}");
    ensure!(insert["verb"] == "write" && select["verb"] == "read", "{found:?}");
    ensure!(insert["parent_access_id"].is_null(), "{insert}");
    ensure!(select["parent_access_id"] == insert["access_id"], "{select}");
    ensure!(one("delete from")?["rows"] == 1, "{found:?}");
    ensure!(insert["operation_fingerprint"] != select["operation_fingerprint"], "{found:?}");
    ensure!(found.iter().all(|row| !operation(row).contains(';')), "{found:?}");

    // What stands behind a statement that fails has not run, and its record says so.
    let (tags, code) = wire.ask(&query("select 1 as before; select 1/0 as fails; select 2 as behind"))?;
    ensure!(tags.ends_with("EZI") && code == "22012", "{tags} {code}");
    let found = shop.records(3, |row| {
        ["as before", "as fails", "as behind"].iter().any(|end| operation(row).ends_with(end))
    })?;
    let outcome = |end: &str| {
        let record = found.iter().find(|row| operation(row).ends_with(end));
        record.map(|row| (row["outcome"].as_str().unwrap_or(""), row["fault_code"].as_str().unwrap_or("")))
    };
    ensure!(outcome("before") == Some(("allowed", "")), "{found:?}");
    ensure!(outcome("fails").is_some_and(|(outcome, _)| outcome == "failed"), "{found:?}");
    ensure!(outcome("behind") == Some(("failed", "forward.wire-not-run")), "{found:?}");

    // Prepared statements and transactions of a text; each statement counts against the grant's limit.
    let (tags, code) = wire.ask(&query("begin; prepare p as select 1; execute p; commit"))?;
    ensure!(tags == "CCTDCCZI" && code.is_empty(), "{tags} {code}");
    ensure!(wire.ask(&query("execute p; deallocate p"))?.0 == "TDCCZI");
    let mut few = shop.connect(&["few"])?;
    let (tags, code) = few.ask(&query("select 1; select 2; select 3; select 4; select 5"))?;
    ensure!(tags == "EZI" && code == "53400", "nothing runs when one is over the limit: {tags} {code}");
    Ok(())
}

#[test]
fn wire_a_statement_that_fails_before_it_runs_says_why() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let mut wire = shop.connect(&["writers"])?;
    for (failing, code) in
        [("select nothing from orders", "42703"), ("insert into orders values (1 / 0)", "22012")]
    {
        let batch = [run(failing), run("select 1 as behind"), sync()].concat();
        ensure!(wire.ask(&batch)?.1 == code, "{failing}");
        let found =
            shop.records(1, |row| operation(row).starts_with(failing.get(..20).unwrap_or(failing)))?;
        ensure!(found[0]["sqlstate"] == code && found[0]["outcome"] == "failed", "{found:?}");
    }
    // A right that the role does not have shows before it runs, too.
    let denied = "select count(*) from big";
    ensure!(wire.ask(&[run(denied), sync()].concat())?.1 == "42501");
    ensure!(shop.records(1, |row| operation(row) == denied)?[0]["sqlstate"] == "42501");
    let behind = shop.records(2, |row| operation(row).ends_with("as behind"))?;
    ensure!(behind.iter().all(|row| row["fault_code"] == "forward.wire-not-run"), "{behind:?}");
    Ok(())
}

#[test]
fn wire_a_session_can_ask_about_itself() -> Result<()> {
    let shop = Shop::start(Cluster::shared()?)?;
    let mut wire = shop.connect(&["readers"])?;
    let all = rows(&mut wire, &query("show doorward.all"))?;
    let setting = |name: &str| {
        let row = all.iter().find(|row| row[0].as_deref() == Some(name));
        row.and_then(|row| row[1].clone()).unwrap_or_default()
    };
    ensure!(setting("doorward.identity.principal") == "ann", "{all:?}");
    ensure!(
        setting("doorward.identity.groups") == "readers" && setting("doorward.role") == "wire_reader",
        "{all:?}"
    );
    ensure!(setting("doorward.grant.readers").contains("read shop/public/orders"), "{all:?}");
    ensure!(setting("doorward.version").starts_with("doorward "), "{all:?}");
    // In the extended protocol it is described, and answered in each format.
    let messages = [
        parse("", "SHOW Doorward.Identity"),
        message(b'D', b"S\0"),
        super::client::bind("", ""),
        execute("", 0),
        sync(),
    ];
    let (tags, _) = wire.ask(&messages.concat())?;
    ensure!(tags == "1tT2DCZI", "{tags}");
    let access = rows(&mut wire, &query("show doorward.access"))?;
    let id = access[0][2].clone().context("an access id")?;
    let found = shop.records(1, |row| row["access_id"] == id.as_str())?;
    ensure!(operation(&found[0]) == "show doorward.access" && found[0]["rows"] == 1, "{found:?}");

    let mut few = shop.connect(&["few"])?;
    let limits = rows(&mut few, &query("show doorward.limits"))?;
    ensure!(
        limits[0][0].as_deref() == Some("few") && limits[0][1].as_deref() == Some("1/h burst 4"),
        "{limits:?}"
    );
    ensure!(limits[0][2].as_deref() == Some("2"), "connecting and this statement have counted: {limits:?}");

    // Other names are refused, with the list; the server's own settings are the server's.
    wire.send(&query("show doorward.secrets"))?;
    let said = wire.until_ready()?;
    let error = said.iter().find(|said| said.tag == 'E').context("an error")?;
    ensure!(error.field(b'C') == "42704" && error.field(b'H').contains("doorward.limits"), "{error:?}");
    ensure!(rows(&mut wire, &query("show all"))?.len() > 100);
    // In a failed transaction it fails, as any other statement.
    wire.ask(&query("begin"))?;
    wire.ask(&query("select 1/0"))?;
    let (tags, code) = wire.ask(&query("show doorward.role"))?;
    ensure!(tags == "EZE" && code == "25P02", "{tags} {code}");
    Ok(())
}
