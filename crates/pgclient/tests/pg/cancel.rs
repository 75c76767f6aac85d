//! A caller who is gone: the statement is cancelled, and nobody else is.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::support::{SOON, clusters, pool, read, small, text, until};

const RUNNING: &str = "select count(*) from pg_stat_activity where query like '%pg_sleep(300)%' \
                       and state = 'active' and pid <> pg_backend_pid()";

#[tokio::test]
async fn a_dropped_request_is_cancelled_and_its_connection_used_again() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        let before = text(&read(&pool, "alice", "select pg_backend_pid()").await.unwrap());
        let asked = timeout(Duration::from_millis(300), read(&pool, "alice", "select pg_sleep(300)"));
        asked.await.unwrap_err();
        let started = Instant::now();
        // The only seat is taken until the cancelled statement has ended.
        let after = text(&read(&pool, "alice", "select pg_backend_pid()").await.unwrap());
        assert!(started.elapsed() < SOON);
        assert_eq!(before, after);
        assert_eq!(cluster.sql(RUNNING).unwrap().trim(), "0");
    }
}

#[tokio::test]
async fn a_late_cancel_never_hits_the_next_borrower() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(2));
        // Hang-ups at all moments of a request: before, while and after it runs.
        for micros in (0..6_000).step_by(40) {
            let asked = read(&pool, "alice", "select pg_sleep(0.002)");
            let _ = timeout(Duration::from_micros(micros), asked).await;
            for _ in 0..2 {
                assert_eq!(text(&read(&pool, "bob", "select 1 from pg_sleep(0.001)").await.unwrap()), "1");
            }
        }
        until(|| pool.stats().in_use == 0).await;
    }
}

#[tokio::test]
async fn hanging_up_in_the_midst_of_a_large_answer() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        for millis in [1, 5, 10, 20, 40, 80] {
            let sql = "select repeat(md5(x::text), 30000) from generate_series(1, 60) x";
            let _ = timeout(Duration::from_millis(millis), read(&pool, "alice", sql)).await;
            assert_eq!(text(&read(&pool, "bob", "select 'mine'").await.unwrap()), "mine");
        }
    }
}
