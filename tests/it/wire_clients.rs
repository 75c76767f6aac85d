//! Drivers and tools as they are, through the Postgres door, on both versions of PostgreSQL.

mod sqlx;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::Setup;
use doorward_testkit::oidc_provider::{node, node_modules};
use doorward_testkit::postgres::Cluster;
use doorward_testkit::program::Bounded;
use doorward_testkit::workspace_root;
use futures_util::{SinkExt, StreamExt, TryStreamExt, pin_mut};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Config, NoTls, SimpleQueryMessage};

use crate::bed::block_on;
use crate::wire::client::{query, run, sync};
use crate::wire_hostile::{MODES, Siege};

const GRANTS: &str = "
grants:
  people:
    to: group:people
    allow:
      - read,write,delete shop/public/orders
      - read shop/public/big
      - read shop/public/orders_seen
      - read shop/pg_catalog/pg_stat_activity
      - read shop/pg_catalog/pg_stat_gssapi
      - read shop/pg_catalog/pg_prepared_xacts
      - execute shop/public/add_one
      - connect,write shop/pg_channel/news
    as: siege_writer
deny:
  no-secrets: { to: anyone, what: read shop/public/secrets }
";
/// Debian's package of pgjdbc.
const JDBC: &str = "/usr/share/java/postgresql.jar";

/// A shop in each mode of the pool.
fn shops(cluster: &'static Cluster) -> Result<Vec<Siege>> {
    let open =
        |mode: fn(&str) -> String| Siege::start_on(cluster, GRANTS, |config, _| Setup::new(&mode(&config)));
    MODES.into_iter().map(open).collect()
}

/// Runs a program in either mode; it prints a line that begins with `ok ` for each of its checks.
fn runs(cluster: &'static Cluster, command: &mut Command, checks: usize) -> Result<()> {
    shops(cluster)?.iter().try_for_each(|shop| runs_in(shop, command, checks))
}

fn runs_in(shop: &Siege, command: &mut Command, checks: usize) -> Result<()> {
    let address = shop.gateway.address("postgres")?;
    let output = command
        .env("DOORWARD_HOST", address.ip().to_string())
        .env("DOORWARD_PORT", address.port().to_string())
        .env("DOORWARD_TOKEN", shop.token("people")?)
        .run()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let passed = said.lines().filter(|line| line.starts_with("ok ")).count();
    ensure!(passed == checks, "{passed} of {checks} checks: {said}");
    Ok(())
}

fn program(name: &str) -> std::path::PathBuf {
    workspace_root().join("tests/clients").join(name)
}

fn python(cluster: &'static Cluster) -> Result<()> {
    let python = workspace_root().join(".cache/clients/bin/python");
    runs(cluster, Command::new(python).arg(program("drivers.py")), 16)
}

fn javascript(cluster: &'static Cluster) -> Result<()> {
    let mut command = Command::new(node()?);
    command.arg(program("postgres.mjs")).env("NODE_MODULES", node_modules()?);
    runs(cluster, &mut command, 14)
}

fn java(cluster: &'static Cluster) -> Result<()> {
    ensure!(Path::new(JDBC).exists(), "no pgjdbc here; run scripts/setup.sh test");
    let mut command = Command::new("java");
    command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", JDBC]).arg(program("Postgres.java"));
    runs(cluster, &mut command, 9)
}

#[test]
fn wire_clients_of_python_on_debians_postgresql() -> Result<()> {
    python(Cluster::shared()?)
}

#[test]
fn wire_clients_of_python_on_a_newer_postgresql() -> Result<()> {
    python(Cluster::shared_newer()?)
}

#[test]
fn wire_clients_of_javascript_on_debians_postgresql() -> Result<()> {
    javascript(Cluster::shared()?)
}

#[test]
fn wire_clients_of_javascript_on_a_newer_postgresql() -> Result<()> {
    javascript(Cluster::shared_newer()?)
}

#[test]
fn wire_clients_of_java_on_debians_postgresql() -> Result<()> {
    java(Cluster::shared()?)
}

#[test]
fn wire_clients_of_java_on_a_newer_postgresql() -> Result<()> {
    java(Cluster::shared_newer()?)
}

/// Debian's packages of Go are sources: its programs find them in one folder.
fn go(cluster: &'static Cluster) -> Result<()> {
    const SOURCES: &str = "/usr/share/gocode";
    ensure!(Path::new(SOURCES).exists(), "no lib/pq here; run scripts/setup.sh test");
    let folder = tempfile::tempdir()?;
    let binary = folder.path().join("clients");
    let mut build = Command::new("go");
    build.arg("build").arg("-o").arg(&binary).arg(program("postgres.go"));
    build.env("GO111MODULE", "off").env("GOPATH", SOURCES).env("CGO_ENABLED", "0");
    let built = build.env("GOCACHE", workspace_root().join(".cache/go")).run()?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    runs(cluster, &mut Command::new(&binary), 8)
}

#[test]
fn wire_clients_of_go_on_debians_postgresql() -> Result<()> {
    go(Cluster::shared()?)
}

#[test]
fn wire_clients_of_go_on_a_newer_postgresql() -> Result<()> {
    go(Cluster::shared_newer()?)
}

/// tokio-postgres: pipelines, binary parameters, portals, COPY, notifications, cancellation.
async fn rust(shop: &Siege) -> Result<()> {
    let address = shop.gateway.address("postgres")?;
    let mut config = Config::new();
    config.host(address.ip().to_string()).port(address.port()).user("any").dbname("shop");
    config.password(shop.token("people")?).application_name("tokio");
    let (mut client, mut connection) = config.connect(NoTls).await?;
    let (tell, mut told) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(note) = message {
                let _ = tell.send((note.channel().to_owned(), note.payload().to_owned())).await;
            }
        }
    });

    let statement = client.prepare("select id, customer from orders where id = any($1) order by id").await?;
    let wanted: &[&(dyn ToSql + Sync)] = &[&vec![3, 5, 7]];
    let all = futures_util::future::try_join_all((0..40).map(|_| client.query(&statement, wanted))).await?;
    ensure!(all.iter().all(|rows| rows.len() == 3 && rows[2].get::<_, String>(1) == "customer 7"));

    let large = vec![7_u8; 3 << 20];
    let row = client.query_one("select length($1::bytea), add_one(41)", &[&large]).await?;
    ensure!(row.get::<_, i32>(0) == 3 << 20 && row.get::<_, i32>(1) == 42);

    let transaction = client.transaction().await?;
    let portal = transaction.bind("select n from big order by n", &[]).await?;
    let mut read = 0;
    loop {
        let rows = transaction.query_portal(&portal, 700).await?;
        read += rows.len();
        if rows.is_empty() {
            break;
        }
    }
    ensure!(read == 3_000, "{read} rows by a portal");
    let inner = transaction.prepare("insert into orders (customer) values ($1)").await?;
    transaction.execute(&inner, &[&"tokio"]).await?;
    transaction.rollback().await?;

    let sink = client.copy_in("copy orders (customer) from stdin").await?;
    pin_mut!(sink);
    for n in 0..200 {
        sink.send(bytes::Bytes::from(format!("copied by tokio {n}\n"))).await?;
    }
    ensure!(sink.finish().await? == 200);
    let stream = client
        .copy_out("copy (select customer from orders where customer like 'copied by tokio%') to stdout")
        .await?;
    let copied: Vec<_> = stream.try_collect().await?;
    ensure!(copied.len() == 200);
    client.execute("delete from orders where customer like 'copied by tokio%'", &[]).await?;

    client.batch_execute("listen news; select pg_notify('news', 'from tokio')").await?;
    ensure!(told.recv().await == Some(("news".to_owned(), "from tokio".to_owned())));

    let refused = client.query("select word from secrets", &[]).await.err().context("not refused")?;
    let refused = refused.as_db_error().context("an error of the door")?;
    ensure!(refused.code().code() == "42501" && refused.hint().is_some(), "{refused:?}");

    let cancel = client.cancel_token();
    let long = client.simple_query("select count(*) as by_tokio from big a, big b, big c");
    let stop = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        cancel.cancel_query(NoTls).await
    };
    let (long, stopped) = tokio::join!(long, stop);
    stopped?;
    let long = long.err().context("not cancelled")?;
    ensure!(long.code().is_some_and(|code| code.code() == "57014"), "{long:?}");
    let rows = client.simple_query("select 1; select 'two'").await?;
    ensure!(rows.iter().filter(|row| matches!(row, SimpleQueryMessage::Row(_))).count() == 2);
    Ok(())
}

#[test]
fn wire_clients_of_rust_on_debians_postgresql() -> Result<()> {
    shops(Cluster::shared()?)?.iter().try_for_each(|shop| block_on(rust(shop))?)
}

#[test]
fn wire_clients_of_rust_on_a_newer_postgresql() -> Result<()> {
    shops(Cluster::shared_newer()?)?.iter().try_for_each(|shop| block_on(rust(shop))?)
}

/// What tools say to a database by themselves: as it is known of them, and as their own sources have it.
const TOOLS: [&str; 2] = ["tests/data/tools.sql", "tests/data/tools-captured.sql"];

/// Each statement passes with an ordinary grant.
fn tools(shop: &Siege) -> Result<()> {
    let orders = shop.database.sql("select 'public.orders'::regclass::oid")?;
    let mut complaints = Vec::new();
    let (mut tools, mut count) = (0, 0);
    for file in TOOLS {
        let text = std::fs::read_to_string(workspace_root().join(file))?;
        let text = text.replace("{orders}", orders.trim()).replace("{database}", shop.database.name());
        for tool in text.split("\n-- tool: ").skip(1) {
            let (name, statements) = tool.split_once('\n').context("statements")?;
            tools += 1;
            let all = statements.split(";;").map(str::trim).filter(|text| !text.is_empty());
            for extended in [false, true] {
                let mut wire = shop.connect("people")?;
                for statement in all.clone() {
                    count += 1;
                    let several = statement.trim_end_matches(';').contains(';');
                    let bytes = if extended && !several {
                        [run(statement), sync()].concat()
                    } else {
                        query(statement)
                    };
                    let (tags, code) = wire.ask(&bytes)?;
                    if !code.is_empty() || !tags.contains('Z') {
                        complaints.push(format!("{name}: {statement}: {tags} {code}"));
                    }
                }
            }
        }
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    println!("{count} statements of {tools} tools");
    Ok(())
}

#[test]
fn wire_clients_tools_on_debians_postgresql() -> Result<()> {
    shops(Cluster::shared()?)?.iter().try_for_each(tools)
}

#[test]
fn wire_clients_tools_on_a_newer_postgresql() -> Result<()> {
    shops(Cluster::shared_newer()?)?.iter().try_for_each(tools)
}
