//! Sessions and time: tokens that expire, grants that are taken away, statements that take too long, a gateway that is
//! killed.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::{CONFIG, Setup};
use doorward_testkit::program::Bounded;
use doorward_testkit::{pause, wait_until};

use super::{GRANTS, MODES, ROLE_PASSWORD, SECOND, Siege};
use crate::bed::SOON;
use crate::wire::client::{Wire, bind, execute, parse, query, sync};

/// How long the short-lived tokens live: long enough to log in with on a busy machine.
const TOKEN_SECONDS: i64 = 20;

/// The configuration of a running gateway with something replaced, once it is in force.
fn reconfigure(siege: &Siege, from: &str, to: &str) -> Result<()> {
    let config = std::fs::read_to_string(siege.gateway.folder().join(CONFIG))?;
    ensure!(config.contains(from), "nothing to replace: {from}");
    let loads = siege.gateway.log().matches("the configuration is reloaded").count();
    siege.gateway.write(CONFIG, config.replace(from, to))?;
    siege.gateway.sighup()?;
    ensure!(
        wait_until(SOON, || siege.gateway.log().matches("the configuration is reloaded").count() > loads),
        "{}",
        siege.gateway.log()
    );
    Ok(())
}

#[test]
fn hostile_times_expiry_ends_a_session_at_the_end_of_its_transaction() -> Result<()> {
    expiry_ends_a_session(MODES[0])
}

#[test]
fn hostile_times_expiry_ends_a_session_that_shares_connections() -> Result<()> {
    expiry_ends_a_session(MODES[1])
}

fn expiry_ends_a_session(mode: fn(&str) -> String) -> Result<()> {
    let graceful = |config: &str| Setup::new(&format!("{}\nsession_grace: 600s\n", mode(config)));
    let siege = Siege::start_with(GRANTS, |config, _| graceful(&config))?;
    let token =
        siege.issuer.token("mal").claim("groups", &["writers"][..]).expires_in(TOKEN_SECONDS).sign()?;
    let expires = std::time::Instant::now() + SECOND * u32::try_from(TOKEN_SECONDS)?;
    let address = siege.gateway.address("postgres")?;
    let connect = || Wire::connect(address, "mal", "shop", &token);
    let (mut idle, mut working, mut late) = (connect()?, connect()?, connect()?);
    for wire in [&mut working, &mut late] {
        ensure!(wire.ask(&query("begin"))?.0 == "CZT");
        ensure!(wire.ask(&query("insert into orders (customer) values ('in time')"))?.1.is_empty());
    }
    pause(expires.saturating_duration_since(std::time::Instant::now()) + SECOND);
    // Between transactions the session ends at once, by itself.
    let said = idle.next()?;
    ensure!(said.tag == 'E' && said.field(b'C') == "57P01", "{said:?}");
    // Within one, it may end what it began; and then it is over.
    let (tags, code) = working.ask(&query("select count(*) from orders"))?;
    ensure!(tags == "TDCZT", "{tags} {code}");
    ensure!(working.ask(&query("commit"))?.0 == "CZI");
    let said = working.next()?;
    ensure!(said.tag == 'E' && said.field(b'C') == "57P01", "{said:?}");
    // Who does not end it in time is cut, and what was not committed is not.
    reconfigure(&siege, "session_grace: 600s", "session_grace: 1s")?;
    let said = late.next()?;
    ensure!(said.tag == 'E' && said.field(b'C') == "57P01", "{said:?}");
    ensure!(siege.comes_to_rest(), "their backend sessions end");
    let rows = siege.database.sql("select count(*) from orders where customer = 'in time'")?;
    ensure!(rows.trim() == "1", "{rows}");
    ensure!(connect().is_err(), "nobody comes in with it any more");
    Ok(())
}

#[test]
fn hostile_times_a_grant_that_is_taken_away_counts_for_the_next_statement() -> Result<()> {
    Siege::start_in_each_mode(GRANTS)?.iter().try_for_each(a_grant_is_taken_away)
}

fn a_grant_is_taken_away(siege: &Siege) -> Result<()> {
    let mut wire = siege.connect("readers")?;
    ensure!(wire.ask(&query("declare held cursor with hold for select customer from orders"))?.1.is_empty());
    ensure!(wire.ask(&query("begin"))?.0 == "CZT");
    let prepared =
        [parse("s", "select customer from orders"), bind("p", "s"), execute("p", 1), sync()].concat();
    ensure!(wire.ask(&prepared)?.0 == "12DsZT");
    ensure!(wire.ask(&query("declare c cursor for select customer from orders"))?.1.is_empty());
    // One that was asked to close where nothing is done any more: it stays, and is still known.
    ensure!(wire.ask(&query("savepoint t; select 1 / 0"))?.1 == "22012");
    ensure!(wire.ask(&query("close held"))?.1 == "25P02" && wire.ask(&query("close all"))?.1 == "25P02");
    ensure!(wire.ask(&query("rollback to t"))?.1.is_empty());
    ensure!(wire.ask(&query("savepoint s"))?.1.is_empty());
    reconfigure(siege, "\"read shop/public/orders\", ", "")?;
    // A portal, a cursor, a prepared statement: none is a way around.
    for attempt in [
        [execute("p", 1), sync()].concat(),
        query("fetch c"),
        query("fetch held"),
        query("move held"),
        [bind("", "s"), execute("", 0), sync()].concat(),
        [execute("c", 1), sync()].concat(),
        query("select customer from orders"),
    ] {
        let (tags, code) = wire.ask(&attempt)?;
        ensure!(code == "42501" && !tags.contains('D'), "{}: {tags} {code}", attempt.escape_ascii());
        ensure!(wire.ask(&query("rollback to s"))?.1.is_empty());
    }
    // What is left of the grants goes on.
    ensure!(wire.ask(&query("select count(*) from big"))?.0 == "TDCZT");
    Ok(())
}

#[test]
fn hostile_times_a_statement_that_takes_too_long_is_cancelled() -> Result<()> {
    let bounded = format!(
        "{GRANTS}  hasty: {{ to: group:hasty, allow: [\"read shop/public/big\"], as: siege_reader, timeout: 500ms }}\n"
    );
    Siege::start_in_each_mode(&bounded)?.iter().try_for_each(a_statement_takes_too_long)
}

fn a_statement_takes_too_long(siege: &Siege) -> Result<()> {
    let mut wire = siege.connect("hasty")?;
    for long in ["select pg_sleep(600)", "select count(*) from big a, big b, big c"] {
        let (tags, code) = wire.ask(&query(long))?;
        ensure!(tags.ends_with("EZI") && code == "57014", "{long}: {tags} {code}");
    }
    ensure!(wire.ask(&query("select 1"))?.0 == "TDCZI", "the session lives on");
    siege.records(2, |row| row["sqlstate"] == "57014" || row["fault_code"] == "forward.timeout")?;
    Ok(())
}

#[test]
fn hostile_times_notifications_reach_who_may_hear_them() -> Result<()> {
    let channels = format!(
        "{GRANTS}  hearers: {{ to: group:hearers, allow: \"connect shop/pg_channel/news\", as: siege_reader }}\n  \
         callers: {{ to: group:callers, allow: \"write shop/pg_channel/news\", as: siege_writer }}\n"
    );
    Siege::start_in_each_mode(&channels)?.iter().try_for_each(notifications_reach_who_may_hear_them)
}

fn notifications_reach_who_may_hear_them(siege: &Siege) -> Result<()> {
    let mut hearer = siege.connect("hearers")?;
    let mut caller = siege.connect("callers")?;
    ensure!(hearer.ask(&query("listen news"))?.0 == "CZI");
    ensure!(hearer.ask(&query("listen others"))?.1 == "42501");
    ensure!(hearer.ask(&query("notify news, 'mine'"))?.1 == "42501");
    ensure!(caller.ask(&query("notify others, 'x'"))?.1 == "42501");
    ensure!(caller.ask(&query("notify news, 'hear, hear'"))?.0 == "CZI");
    // It comes while nothing is asked.
    let said = hearer.next()?;
    ensure!(said.tag == 'A' && said.body.ends_with(b"news\0hear, hear\0"), "{said:?}");
    ensure!(caller.ask(&query("select pg_notify('news', 'again')"))?.0 == "TDCZI");
    ensure!(hearer.next()?.tag == 'A');
    ensure!(hearer.ask(&query("unlisten *"))?.0 == "CZI");
    Ok(())
}

#[test]
fn hostile_times_kill_9_leaves_one_record_of_each_statement() -> Result<()> {
    Siege::start_in_each_mode(GRANTS)?.into_iter().try_for_each(kill_9_leaves_one_record_of_each_statement)
}

fn kill_9_leaves_one_record_of_each_statement(mut siege: Siege) -> Result<()> {
    const SESSIONS: usize = 4;
    const DONE: usize = 5;
    let mut wires = Vec::new();
    for session in 0..SESSIONS {
        let mut wire = siege.connect("writers")?;
        for n in 0..DONE {
            let sql = format!("insert into orders (customer) select 'done' as done_{session}_{n}");
            ensure!(wire.ask(&query(&sql))?.1.is_empty());
        }
        // Half of them in a transaction whose end never comes.
        if session % 2 == 0 {
            wire.ask(&query("begin"))?;
        }
        wire.send(&query(&format!(
            "insert into orders (customer) select 'going' as going_{session} from generate_series(1, 100000000)"
        )))?;
        wires.push(wire);
    }
    ensure!(siege.runs("going", "4"), "they run");
    siege.gateway.kill9()?;
    siege.gateway.again()?;
    let own = |row: &serde_json::Value| {
        row["operation"].as_str().is_some_and(|text| text.contains("done_") || text.contains("going_"))
    };
    siege.records(SESSIONS * (DONE + 1), own)?;
    // None comes late: each is there once.
    let all = siege.records(SESSIONS * (DONE + 1), own)?;
    let mut outcomes: HashMap<String, Vec<String>> = HashMap::new();
    for row in &all {
        let text = row["operation"].as_str().context("an operation")?;
        let mark =
            text.split_whitespace().find(|word| word.starts_with("done_") || word.starts_with("going_"));
        let outcome = row["outcome"].as_str().context("an outcome")?;
        outcomes.entry(mark.context("its mark")?.to_owned()).or_default().push(outcome.to_owned());
    }
    ensure!(outcomes.len() == SESSIONS * (DONE + 1), "{outcomes:?}");
    for (mark, outcomes) in &outcomes {
        let wanted = if mark.starts_with("done_") { "allowed" } else { "unknown" };
        ensure!(outcomes.as_slice() == [wanted], "{mark}: {outcomes:?}");
    }
    Ok(())
}

#[test]
fn hostile_times_secrets_are_nowhere() -> Result<()> {
    let mut siege = Siege::start()?;
    let (reader, writer) = (siege.token("readers")?, siege.token("writers")?);
    let address = siege.gateway.address("postgres")?;
    for (token, user) in [(&reader, "mal"), (&writer, "mal"), (&reader, reader.as_str())] {
        // A token in the wrong place is still a secret.
        if let Ok(Ok(mut wire)) = Wire::start(address, token, &[("user", user), ("database", "shop")]) {
            wire.ask(&query("select count(*) from orders"))?;
        }
    }
    let _ = Wire::connect(address, "mal", "shop", &format!("{reader}x"));
    let arguments = std::fs::read(format!("/proc/{}/cmdline", siege.gateway.pid()))?;
    siege.records(1, |row| row["verb"] == "read")?;
    ensure!(siege.gateway.term()?.success());
    for secret in [ROLE_PASSWORD, crate::bed::PASSWORD, &reader, &writer] {
        ensure!(!arguments.windows(secret.len()).any(|word| word == secret.as_bytes()), "in the arguments");
        let found = std::process::Command::new("grep")
            .args(["-rlaF", "-e", secret])
            .arg(siege.gateway.folder())
            .run()?;
        ensure!(found.stdout.is_empty(), "found in {}", String::from_utf8_lossy(&found.stdout));
    }
    Ok(())
}
