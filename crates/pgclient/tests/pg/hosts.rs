//! Several servers of one database: the primary is found by asking, also after another one has become it.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use doorward_pgclient::{Pool, PoolSettings, Target};
use doorward_testkit::free_port;
use tokio::time::sleep;

use crate::support::{SOON, cluster, login, read, small, text, write};

const CHANGE: &str = "update shop.notes set body = 'changed' where id = 1";

fn pool(ports: &[u16], settings: PoolSettings) -> Pool {
    let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let target = Target::parse(&format!("postgres://{}/postgres", hosts.join(",")), false).unwrap();
    Pool::new(target, login(), settings).unwrap()
}

/// Changes something, as soon as the pause after a failed attempt is over.
async fn changes_soon(pool: &Pool) {
    let started = Instant::now();
    while let Err(error) = write(pool, "alice", CHANGE).await {
        let fault = error.into_fault();
        let retryable = ["forward.backend-unavailable", "forward.outcome-unknown"];
        assert!(retryable.contains(&fault.code().name) && started.elapsed() < SOON, "{fault:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn the_primary_is_found_and_found_again() {
    let cluster = cluster();
    let standby = cluster.standby().unwrap();
    // Nobody is at the first one, and whoever is at the second says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [free_port().unwrap(), silent.local_addr().unwrap().port(), standby.port(), cluster.port()];
    let settings = PoolSettings { connect_timeout: Duration::from_secs(12), ..small(2) };
    let pool = pool(&ports, settings);
    changes_soon(&pool).await;
    assert_eq!(text(&read(&pool, "alice", "select pg_is_in_recovery()").await.unwrap()), "f");
    // The silent one has had its share of the time once, and is asked last from now on.
    cluster.restart().unwrap();
    let started = Instant::now();
    changes_soon(&pool).await;
    assert!(started.elapsed() < settings.connect_timeout / 4, "{:?}", started.elapsed());
    standby.catch_up(&cluster).unwrap();

    cluster.kill9().unwrap();
    let fault = loop {
        let fault = write(&pool, "alice", CHANGE).await.unwrap_err().into_fault();
        // What was under way when the server died is one thing, that there is no primary another.
        if fault.cause_text().is_some_and(|cause| cause.contains("is a replica")) {
            break fault;
        }
        assert!(started.elapsed() < SOON * 2, "{fault:?}");
    };
    assert_eq!(fault.code().name, "forward.backend-unavailable");
    assert!(fault.public().contains("no server that takes changes"), "{fault}");
    assert!(!fault.public().contains("127.0.0.1"), "{fault}");

    standby.promote().unwrap();
    changes_soon(&pool).await;
    assert_eq!(standby.sql("select body from shop.notes where id = 1").unwrap(), "changed");
    standby.stop().unwrap();
    let fault = read(&pool, "alice", "select 1").await.unwrap_err().into_fault();
    assert_eq!(fault.code().name, "forward.backend-unavailable");
}

#[tokio::test]
async fn what_is_wrong_with_the_login_is_said_though_there_are_replicas() {
    let cluster = cluster();
    let standby = cluster.standby().unwrap();
    let pool = pool(&[standby.port(), cluster.port()], small(1));
    write(&pool, "alice", CHANGE).await.unwrap();
    cluster.sql("alter role authenticator password 'another one'").unwrap();
    cluster
        .sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'authenticator'")
        .unwrap();
    let fault = loop {
        match write(&pool, "alice", CHANGE).await {
            Ok(_) => {}
            Err(error) => match error.into_fault() {
                fault if fault.code().name == "lease.login-refused" => break fault,
                fault => assert!(fault.code().retry, "{fault:?}"),
            },
        }
    };
    assert_eq!(fault.backend_code_text(), Some("28P01"));
}
