//! Nothing of one call is seen by another, and nothing goes on for a caller who is gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward_core::{Obligations, Outcome};
use doorward_testkit::postgres::Cluster;
use expect_test::expect;

use crate::shop::{self, Setup, Shop, get, patch, post};

/// Until when something has come to be, on a busy machine too; what it must beat takes longer.
const SOON: Duration = Duration::from_secs(25);

const ONE_CONNECTION: &str = "pool: { size: 2 }";

#[tokio::test]
async fn rows_are_those_of_the_caller() {
    let shop = Shop::new().await;
    assert_eq!(shop.ann(get("orders?select=owner&id=lt.3")).await.text().matches("ann").count(), 2);
    assert_eq!(shop.call("bob", get("orders?select=owner")).await.text(), r#"[{"owner":"bob"}]"#);
    assert_eq!(shop.call("carl", get("orders")).await.text(), "[]");
    assert_eq!(shop.call("", get("orders")).await.text(), "[]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_callers_under_one_role_and_connection_share_nothing() {
    let shop = Arc::new(Shop::with(Setup { extra: ONE_CONNECTION, ..Setup::default() }).await);
    let asks = (0..200).map(|number| {
        let shop = shop.clone();
        tokio::spawn(async move {
            let (who, other) = if number % 2 == 0 { ("ann", "bob") } else { ("bob", "ann") };
            let asked = match number % 4 {
                0 | 1 => get("orders?select=owner"),
                _ => get("rpc/around"),
            };
            let answer = shop.call(who, asked).await;
            assert_eq!(answer.status(), 200, "{}", answer.text());
            assert!(answer.text().contains(who) && !answer.text().contains(other), "{}", answer.text());
        })
    });
    for ask in asks.collect::<Vec<_>>() {
        ask.await.unwrap();
    }
}

#[tokio::test]
async fn a_caller_who_hangs_up_cancels_the_query() {
    let shop = Shop::new().await;
    let call = shop.ann(post("rpc/slow", ""));
    let gone = tokio::time::timeout(Duration::from_millis(400), call).await;
    assert!(gone.is_err(), "it answered");
    let started = Instant::now();
    let running = "select count(*) from pg_stat_activity where state = 'active' and query ilike '%\"slow\"%' \
                   and pid <> pg_backend_pid()";
    while shop.database.sql(running).unwrap().trim() != "0" {
        assert!(started.elapsed() < SOON, "the query goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let records = shop.recorder.records();
    assert_eq!(records.iter().map(|record| record.outcome).collect::<Vec<_>>(), [Outcome::Abandoned]);
    assert_eq!(shop.ann(get("orders?id=eq.1&select=id")).await.status(), 200, "the pool goes on");
}

#[tokio::test]
async fn a_statement_ends_with_its_time() {
    let brief = Obligations { timeout: Some(Duration::from_millis(150)), ..Obligations::default() };
    let shop = Shop::with(Setup { obligations: brief, ..Setup::default() }).await;
    let started = Instant::now();
    shop.ann(post("rpc/slow", "")).await.is(&expect![[r#"504 {"code":"57014","details":null,"hint":"Ask for less: a filter, a limit, fewer columns; or ask the operator for a longer timeout.","message":"canceling statement due to statement timeout","fault":"forward.rest-timeout"}"#]]);
    assert!(started.elapsed() < SOON);
}

#[tokio::test]
async fn new_tables_are_known_after_a_reload() {
    let shop = Shop::new().await;
    assert_eq!(shop.ann(get("fresh")).await.status(), 404);
    shop.database
        .sql("create table fresh (id int); grant select on fresh to clerk; notify pgrst, 'reload schema'")
        .unwrap();
    let started = Instant::now();
    while shop.ann(get("fresh")).await.status() != 200 {
        assert!(started.elapsed() < SOON, "the catalogue is not read again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_login_that_may_do_everything_is_refused() {
    let database = shop::database();
    let refused = shop::open(&database.url(), "superb", "").await.err().unwrap().to_string();
    expect!["the database login is SUPERUSER. Use a login that is NOINHERIT, owns nothing and is a member of the roles that grants name; or set `dangerous_superuser: true` on the resource."].assert_eq(&refused);
    assert!(shop::open(&database.url(), "superb", "dangerous_superuser: true").await.is_ok());
    let wrong = shop::open(&database.url(), "nobody", "").await.err().unwrap().to_string();
    expect![[r#"the database does not accept the gateway's login (FATAL 28P01: password authentication failed for user "nobody")"#]].assert_eq(&wrong);
}

#[tokio::test]
async fn a_database_that_is_away_comes_back() {
    let database = shop::database_in(Cluster::debian().unwrap());
    let cluster = database.cluster();
    cluster.stop().unwrap();
    let away = shop::open(&database.url(), "authenticator", "").await.unwrap();
    let shop = Shop::over(database, Arc::new(away), Setup::default());
    shop.ann(get("orders")).await.is(&expect![[r#"503 {"code":"PGRST002","details":null,"hint":"Try again in a moment; the gateway's operator sees the cause in /readyz.","message":"Could not query the database for the schema cache. Retrying.","fault":"forward.rest-no-catalogue"}"#]]);
    shop.ann(patch("orders", r#"{"total":1}"#)).await.is(&expect![[r#"503 {"code":"PGRST002","details":null,"hint":"Try again in a moment; the gateway's operator sees the cause in /readyz.","message":"Could not query the database for the schema cache. Retrying.","fault":"forward.rest-no-catalogue"}"#]]);
    let cluster = shop.database.cluster();
    for _ in 0..2 {
        cluster.start().unwrap();
        let started = Instant::now();
        while shop.ann(get("orders?limit=1")).await.status() != 200 {
            assert!(started.elapsed() < SOON, "it does not come back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster.stop().unwrap();
        assert_eq!(shop.ann(get("orders?limit=1")).await.status(), 503);
    }
    // A running cluster is removed with this process, a stopped one would stay.
    cluster.start().unwrap();
}
