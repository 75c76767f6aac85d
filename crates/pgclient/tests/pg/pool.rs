//! The pool: bounds, order, login, and a server that goes away and comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward_core::{Login, Secret};
use doorward_pgclient::{Pool, PoolSettings, RunError, Target};
use tokio::time::sleep;

use crate::support::{PASSWORD, cluster, clusters, login, pool, read, running, small, text, until, write};

fn code(error: RunError) -> &'static str {
    error.into_fault().code().name
}

#[tokio::test]
async fn the_pool_is_bounded_and_says_so() {
    let cluster = cluster();
    let settings = PoolSettings { size: 2, wait_max: Duration::from_millis(200), ..PoolSettings::default() };
    let pool = pool(&cluster, settings);
    let busy = |pool: Pool| tokio::spawn(async move { read(&pool, "alice", "select pg_sleep(5)").await });
    let (one, two) = (busy(pool.clone()), busy(pool.clone()));
    until(|| pool.stats().in_use == 2).await;
    let started = Instant::now();
    let error = read(&pool, "alice", "select 1").await.unwrap_err();
    let fault = error.into_fault();
    assert_eq!(fault.code().name, "forward.pool-exhausted");
    assert!(fault.retry_after_span().is_some() && started.elapsed() >= Duration::from_millis(200));
    one.await.unwrap().unwrap();
    two.await.unwrap().unwrap();
    assert_eq!(text(&read(&pool, "alice", "select 1").await.unwrap()), "1");
    assert_eq!((pool.stats().in_use, pool.stats().idle, pool.stats().waiting), (0, 2, 0));
}

#[tokio::test]
async fn many_callers_share_few_connections() {
    let cluster = cluster();
    let pool = pool(&cluster, small(3));
    let callers = (0..60).map(|number| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let role = if number % 2 == 0 { "alice" } else { "bob" };
            for _ in 0..10 {
                let reply = read(&pool, role, "select current_user").await.unwrap();
                assert_eq!(text(&reply), role);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    assert_eq!(pool.stats().idle, 3);
}

#[tokio::test]
async fn the_server_is_restarted() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(3));
        let reads = || async {
            futures_util::join!(read(&pool, "alice", "select 1"), read(&pool, "bob", "select 1"))
        };
        reads().await.0.unwrap();
        cluster.restart().unwrap();
        // Connections of before are dead; neither reads nor writes notice.
        let (one, two) = reads().await;
        assert_eq!((text(&one.unwrap()), text(&two.unwrap())), ("1".into(), "1".into()));
        cluster.restart().unwrap();
        write(&pool, "alice", "update shop.notes set body = 'again'").await.unwrap();
        cluster.stop().unwrap();
        for _ in 0..3 {
            let error = read(&pool, "alice", "select 1").await.unwrap_err();
            assert_eq!(code(error), "forward.backend-unavailable");
        }
        cluster.start().unwrap();
        // The pause between attempts is at most a second.
        sleep(Duration::from_millis(1100)).await;
        assert_eq!(text(&read(&pool, "alice", "select body from shop.notes").await.unwrap()), "again");
    }
}

#[tokio::test]
async fn the_server_dies_in_mid_answer() {
    let cluster = cluster();
    let pool = pool(&cluster, small(2));
    let ask = |pool: Pool, change: bool| {
        tokio::spawn(async move {
            if change {
                write(&pool, "alice", "select pg_sleep(20)").await
            } else {
                read(&pool, "alice", "select pg_sleep(20)").await
            }
        })
    };
    let (reading, writing) = (ask(pool.clone(), false), ask(pool.clone(), true));
    running(&cluster, "pg_sleep(20)", 2).await;
    cluster.kill9().unwrap();
    // Killing the postmaster leaves the sessions to find out; they end within their next wait.
    let error = writing.await.unwrap().unwrap_err();
    assert_eq!(code(error), "forward.outcome-unknown");
    let error = code(reading.await.unwrap().unwrap_err());
    assert!(error == "forward.backend-lost" || error == "forward.backend-unavailable", "{error}");
}

#[tokio::test]
async fn a_login_that_is_not_accepted() {
    let cluster = cluster();
    let target = || Target::parse(&cluster.url("postgres"), false).unwrap();
    let wrong = Arc::new(Login::new("authenticator", Secret::from("wrong battery")));
    let pool = Pool::new(target(), wrong, small(1)).unwrap();
    let fault = read(&pool, "alice", "select 1").await.unwrap_err().into_fault();
    assert_eq!((fault.code().name, fault.backend_code_text()), ("lease.login-refused", Some("28P01")));
    let shown = format!("{fault:?} {fault} {pool:?}");
    assert!(!shown.contains("battery") && !shown.contains(PASSWORD));
}

#[tokio::test]
async fn what_the_login_may_do() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        let facts = pool.check_login(&["shop"], false).await.unwrap();
        assert!(facts.can_become("alice") && facts.can_become("bob") && !facts.can_become("postgres"));
        assert_eq!((facts.warnings.len(), facts.version >= 15), (0, true));
        let target = Target::parse(&cluster.url("postgres"), false).unwrap();
        let superuser = Login::new("postgres", Secret::from(cluster.password()));
        let admin = Pool::new(target, Arc::new(superuser), small(1)).unwrap();
        let fault = admin.check_login(&["shop"], false).await.unwrap_err();
        assert_eq!(fault.code().name, "lease.login-refused");
        assert!(
            fault.public().contains("SUPERUSER") && fault.public().contains("owns what it serves (shop.")
        );
        assert!(!admin.check_login(&["shop"], true).await.unwrap().warnings.is_empty());
        for (attribute, word) in [("bypassrls", "BYPASSRLS"), ("replication", "REPLICATION")] {
            cluster.sql(&format!("alter role authenticator {attribute}")).unwrap();
            let fault = pool.check_login(&["shop"], false).await.unwrap_err();
            assert!(fault.public().contains(word), "{fault}");
            cluster.sql(&format!("alter role authenticator no{attribute}")).unwrap();
        }
        cluster.sql("alter role authenticator inherit; grant postgres to authenticator").unwrap();
        let warnings = pool.check_login(&["shop"], false).await.unwrap().warnings;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }
}

#[tokio::test]
async fn tls_is_asked_of_a_server_that_has_none() {
    let cluster = cluster();
    for (mode, works) in [("prefer", true), ("require", false), ("verify-full", false)] {
        let url = format!("{}?sslmode={mode}", cluster.url("postgres"));
        let target = Target::parse(&url, false).unwrap();
        let pool = Pool::new(target, login(), small(1)).unwrap();
        assert_eq!(read(&pool, "alice", "select 1").await.is_ok(), works, "{mode}");
    }
}
