//! The replication protocol, with PostgreSQL's own tools; and a catalogue that is hidden.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use doorward_testkit::postgres::{Cluster, Installation};
use doorward_testkit::program::Bounded;
use doorward_testkit::wait_until;

use super::Shop;
use super::client::{Wire, query, run, sync};
use crate::bed::SOON;

/// A grant for replication, and none for any table.
const REPLICATORS: &str = "
grants:
  replicators: { to: group:replicators, allow: connect shop/replication, as: wire_replica }
";

/// One of PostgreSQL's tools, with a token.
fn tool(shop: &Shop, name: &str, token: &str) -> Result<Command> {
    let address = shop.gateway.address("postgres")?;
    let mut command = Command::new(Installation::debian()?.path(name));
    command.args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-U", "any"]);
    command.env("PGPASSWORD", token);
    Ok(command)
}

fn done(command: &mut Command) -> Result<String> {
    let output = command.run()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A cluster of its own, whose log can be decoded.
fn replicating(cluster: Cluster) -> Result<&'static Cluster> {
    let cluster = Box::leak(Box::new(cluster));
    cluster.sql("alter system set wal_level = logical")?;
    cluster.restart()?;
    Ok(cluster)
}

fn logical_replication_works(cluster: &'static Cluster) -> Result<()> {
    let shop = Shop::start_with(cluster, REPLICATORS)?;
    let token = shop.token(&["replicators"])?;
    shop.database.sql("create publication everything for table orders")?;
    let logical = || -> Result<Command> {
        let mut command = tool(&shop, "pg_recvlogical", &token)?;
        command.args(["-d", "shop", "--slot", "changes"]);
        Ok(command)
    };
    done(logical()?.args(["--create-slot", "-P", "pgoutput"]))?;
    shop.database.sql("insert into orders (customer) values ('streamed to the client')")?;
    let end = shop.database.sql("select pg_current_wal_insert_lsn()")?;
    let started =
        ["--start", "-f", "-", "--no-loop", "-o", "proto_version=1", "-o", "publication_names=everything"];
    let changes = done(logical()?.args(started).args(["--endpos", end.trim()]))?;
    ensure!(changes.contains("streamed to the client"), "{changes:?}");

    // A stream has no end: it is cut when the client goes, and the slot is free again.
    let mut endless = logical()?.args(started).open()?;
    let active =
        || shop.database.sql("select active from pg_replication_slots").is_ok_and(|text| text.trim() == "t");
    let begun = wait_until(SOON, active);
    shop.database.sql("insert into orders (customer) values ('later')")?;
    // What it prints are pgoutput's messages: each is followed by the end of a line.
    let first = endless.line();
    drop(endless);
    ensure!(begun && first.is_ok(), "{first:?}: {}", shop.gateway.log());
    ensure!(wait_until(SOON, || !active()), "the stream has ended");
    done(logical()?.arg("--drop-slot"))?;

    let of = |start: &'static str| {
        move |row: &serde_json::Value| {
            row["object"] == "replication"
                && row["verb"] == "connect"
                && row["operation"].as_str().is_some_and(|text| text.starts_with(start))
        }
    };
    let streams = shop.records(2, of("START_REPLICATION"))?;
    let whole = streams.iter().find(|row| row["outcome"] == "allowed").context("a stream with an end")?;
    ensure!(whole["grant"] == "replicators" && whole["backend_role"] == "wire_replica", "{whole}");
    ensure!(whole["bytes_out"].as_u64().is_some_and(|bytes| bytes > 100), "{whole}");
    shop.records(1, of("CREATE_REPLICATION_SLOT"))?;
    shop.records(1, of("DROP_REPLICATION_SLOT"))?;
    Ok(())
}

#[test]
fn wire_logical_replication_on_debians_postgresql() -> Result<()> {
    logical_replication_works(replicating(Cluster::debian()?)?)
}

#[test]
fn wire_logical_replication_on_a_newer_postgresql() -> Result<()> {
    logical_replication_works(replicating(Cluster::newer()?)?)
}

#[test]
fn wire_physical_replication_streams_the_log() -> Result<()> {
    let cluster = replicating(Cluster::debian()?)?;
    let shop = Shop::start_with(cluster, REPLICATORS)?;
    let token = shop.token(&["replicators"])?;
    let folder = tempfile::tempdir()?;
    let receive = |resource: &str, end: &str| -> Result<std::process::Output> {
        let mut command = tool(&shop, "pg_receivewal", &token)?;
        // The tool has no database to name.
        let resource = format!("options='-c doorward.resource={resource}'");
        command.args(["-d", &resource, "-D"]).arg(folder.path()).args(["--no-loop", "--endpos", end]);
        command.run()
    };
    shop.database.sql("insert into orders (customer) select 'filler' from generate_series(1, 1000)")?;
    let end = shop.database.sql("select pg_current_wal_insert_lsn()")?;
    shop.database.sql("insert into orders (customer) values ('after the end')")?;
    let output = receive("shop", end.trim())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let segments: Vec<_> = Path::new(folder.path()).read_dir()?.filter_map(Result::ok).collect();
    ensure!(!segments.is_empty(), "a segment has come");
    let mut backup = tool(&shop, "pg_basebackup", &token)?;
    backup.args(["-d", "options='-c doorward.resource=shop'", "-Ft", "-X", "none", "-c", "fast", "-D"]);
    done(backup.arg(folder.path().join("backup")))?;
    ensure!(folder.path().join("backup/base.tar").metadata()?.len() > 1 << 20, "a base backup has come");
    let output = receive("nowhere", end.trim())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("no resource named \"nowhere\""), "{said}");
    Ok(())
}

#[test]
fn wire_replication_is_for_whom_a_grant_names() -> Result<()> {
    let shop = Shop::start_with(Cluster::shared()?, REPLICATORS)?;
    let address = shop.gateway.address("postgres")?;
    let token = shop.token(&["readers"])?;
    let refused = Wire::connect_with(address, "shop", &token, &[("replication", "database")]).err();
    let refused = refused.map(|error| error.to_string()).unwrap_or_default();
    ensure!(refused.contains("no grant gives you a role on shop"), "{refused}");
    // A role that may replicate is lent for that alone.
    let token = shop.token(&["replicators"])?;
    let refused = Wire::connect_with(address, "shop", &token, &[]).err();
    let refused = refused.map(|error| error.to_string()).unwrap_or_default();
    ensure!(refused.contains("too powerful to be lent"), "{refused}");
    // SQL in such a session is decided as everywhere; there are no parameters.
    let mut wire = Wire::connect_with(address, "shop", &token, &[("replication", "database")])?;
    ensure!(wire.ask(&query("IDENTIFY_SYSTEM"))?.0 == "TDCZI");
    ensure!(wire.ask(&query("select current_user"))?.0 == "TDCZI");
    for (text, code) in [
        ("select * from orders", "42501"),
        ("drop table orders", "42501"),
        ("IDENTIFY_SYSTEM; select 1", "42601"),
    ] {
        let (tags, told) = wire.ask(&query(text))?;
        ensure!(tags == "EZI" && told == code, "{text}: {tags} {told}");
    }
    let (tags, code) = wire.ask(&[run("select 1"), sync()].concat())?;
    ensure!(tags == "EZI" && code == "0A000", "{tags} {code}");
    ensure!(wire.ask(&query("show doorward.role"))?.0 == "TDCZI");
    let mut physical = Wire::connect_with(address, "shop", &token, &[("replication", "true")])?;
    let (tags, code) = physical.ask(&query("select 1"))?;
    ensure!(tags == "EZI" && code == "0A000", "{tags} {code}");
    ensure!(physical.ask(&query("SHOW wal_segment_size"))?.0 == "TDCZI");
    Ok(())
}

#[test]
fn wire_a_hidden_catalogue_is_read_with_a_grant_of_its_own() -> Result<()> {
    let config = "
resources: { shop: { catalog: hide } }
grants:
  lookers: { to: group:lookers, allow: [\"read shop/public/orders\", \"read shop/pg_catalog/pg_class\"], as: wire_reader }
";
    let shop = Shop::start_with(Cluster::shared()?, config)?;
    let mut wire = shop.connect(&["readers"])?;
    ensure!(wire.ask(&query("select count(*) from orders where lower(customer) like 'c%'"))?.0 == "TDCZI");
    let hidden = [
        "select relname from pg_class",
        "select * from information_schema.tables",
        "select pg_get_viewdef(1)",
        "select has_table_privilege('secrets', 'select')",
        "select pg_catalog.to_regclass('secrets')",
    ];
    for text in hidden {
        let (tags, code) = wire.ask(&query(text))?;
        ensure!(tags == "EZI" && code == "42501", "{text}: {tags} {code}");
    }
    let mut looker = shop.connect(&["lookers"])?;
    ensure!(looker.ask(&query("select relname from pg_class limit 1"))?.0 == "TDCZI");
    ensure!(looker.ask(&query("select * from pg_attribute limit 1"))?.1 == "42501");
    Ok(())
}
