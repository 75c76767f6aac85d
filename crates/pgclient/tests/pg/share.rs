//! Reads that share a connection: nobody sees, cancels, fails or delays another.

use std::time::{Duration, Instant};

use doorward_pgclient::{Pool, Reply, Request, RunError};
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::{SOON, clusters, pool, read, run, running, small, text, until, write};

/// Keeps one connection at work, so that what is asked meanwhile waits and then goes together.
async fn hold(pool: &Pool, seconds: f64) -> JoinHandle<()> {
    let pool = pool.clone();
    let held = tokio::spawn(async move {
        write(&pool, "alice", &format!("select pg_sleep({seconds})")).await.unwrap();
    });
    sleep(Duration::from_millis(50)).await;
    held
}

fn ask(pool: &Pool, role: &'static str, sql: &'static str) -> JoinHandle<Result<Reply, RunError>> {
    let pool = pool.clone();
    tokio::spawn(async move { read(&pool, role, sql).await })
}

/// A read that leaves behind what it can, but for a timeout so short that a busy machine passes it.
/// It waits for no lock: what one connection leaves is released by its next read, and there may be none.
const LEAKING: &str = "
create function shop.settings_leak() returns text stable language plpgsql as $$ begin
  perform set_config('role', 'bob', false), set_config('app.tenant', 'leaked', false),
          set_config('search_path', 'leaked', false), set_config('request.jwt.claims', 'leaked', false),
          pg_try_advisory_lock(42);
  return 'done';
end $$;
create view shop.leaking as select shop.settings_leak() as said;
grant select on shop.leaking to alice, bob";

#[tokio::test]
async fn each_read_has_its_own_role_and_settings() {
    for cluster in clusters() {
        cluster.sql(LEAKING).unwrap();
        let pool = pool(&cluster, small(2));
        let callers = (0..40_usize).map(|number| {
            let pool = pool.clone();
            async move {
                let role = if number % 2 == 0 { "alice" } else { "bob" };
                for turn in 0..20_usize {
                    // Some leave behind what they can.
                    if (number + turn) % 5 == 0 {
                        read(&pool, role, "select said from shop.leaking").await.unwrap();
                        continue;
                    }
                    let claims = format!("{{\"sub\":\"{number}\"}}");
                    // Of some no tenant is set: then there is none.
                    let tenant = if number % 3 == 0 { vec![("app.tenant", "north")] } else { Vec::new() };
                    let mut settings = vec![("request.jwt.claims", claims.as_str())];
                    settings.extend(tenant.iter().copied());
                    let sql = "select current_user, current_setting('request.jwt.claims'), \
                               coalesce(current_setting('app.tenant', true), ''), \
                               (select string_agg(owner, ',') from shop.notes), $1::text";
                    let value = format!("{number}-{turn}");
                    let params = [Some(value.as_bytes())];
                    let request = Request {
                        read_only: true,
                        sql,
                        settings: &settings,
                        params: &params,
                        ..Request::default()
                    };
                    let reply = run(&pool, role, &request).await.unwrap();
                    let tenant = tenant.first().map_or("", |(_, tenant)| tenant);
                    assert_eq!(text(&reply), format!("{role}|{claims}|{tenant}|{role}|{value}"));
                }
            }
        });
        join_all(callers).await;
        assert_eq!((pool.stats().in_use, pool.stats().waiting), (0, 0));
    }
}

#[tokio::test]
async fn a_failing_read_fails_alone() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        // All are prepared, so that they go in one write.
        let statements = [
            "select 1",
            "select 1/(select 0)",
            "select one from shop.forgetful",
            "select body from shop.notes",
        ];
        for sql in statements {
            let _ = read(&pool, "alice", sql).await;
        }
        for _ in 0..5 {
            let held = hold(&pool, 0.2).await;
            let asked: Vec<_> = statements.iter().map(|sql| ask(&pool, "alice", sql)).collect();
            let mut texts = Vec::new();
            for answer in asked {
                texts.push(match answer.await.unwrap() {
                    Ok(reply) => text(&reply),
                    Err(error) => error.server().unwrap().sqlstate.to_string(),
                });
            }
            assert_eq!(texts, ["1", "22012", "1", "hers"]);
            held.await.unwrap();
        }
    }
}

#[tokio::test]
async fn whoever_hangs_up_cancels_nobody_else() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        read(&pool, "bob", "select 'mine' from pg_sleep(0.002)").await.unwrap();
        for micros in (0..8_000).step_by(400) {
            let held = hold(&pool, 0.02).await;
            let quick = |role| ask(&pool, role, "select 'mine' from pg_sleep(0.002)");
            let asked = [quick("alice"), quick("bob"), quick("alice"), quick("bob")];
            held.await.unwrap();
            sleep(Duration::from_micros(micros)).await;
            asked[1].abort();
            asked[3].abort();
            for (turn, answer) in asked.into_iter().enumerate() {
                match answer.await {
                    Ok(reply) => assert_eq!(text(&reply.unwrap()), "mine"),
                    Err(aborted) => assert!(aborted.is_cancelled() && turn % 2 == 1),
                }
            }
        }
        until(|| (pool.stats().in_use, pool.stats().waiting) == (0, 0)).await;
    }
}

#[tokio::test]
async fn a_slow_read_keeps_nobody_waiting() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(2));
        let slow = "select 'slow' from pg_sleep(4)";
        let first = hold(&pool, 0.2).await;
        let second = hold(&pool, 0.3).await;
        let slow = ask(&pool, "alice", slow);
        sleep(Duration::from_millis(10)).await;
        let quick: Vec<_> = (0..3).map(|_| ask(&pool, "bob", "select 'quick'")).collect();
        for answer in quick {
            assert_eq!(text(&answer.await.unwrap().unwrap()), "quick");
        }
        assert!(!slow.is_finished());
        assert_eq!(text(&slow.await.unwrap().unwrap()), "slow");
        first.await.unwrap();
        second.await.unwrap();
        // What the others had left behind the slow one is gone, and its connection is used again.
        until(|| (pool.stats().idle, pool.stats().in_use, pool.stats().waiting) == (2, 0, 0)).await;
    }
}

#[tokio::test]
async fn a_read_whose_caller_is_gone_is_cancelled() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        let held = hold(&pool, 0.2).await;
        let gone = ask(&pool, "alice", "select pg_sleep(300)");
        held.await.unwrap();
        running(&cluster, "pg_sleep(300)", 1).await;
        gone.abort();
        let started = Instant::now();
        assert_eq!(text(&read(&pool, "bob", "select 'next'").await.unwrap()), "next");
        assert!(started.elapsed() < SOON);
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_fails_alone() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        let sql = "select repeat('x', 100000)";
        for sql in [sql, "select 1"] {
            read(&pool, "alice", sql).await.unwrap();
        }
        let held = hold(&pool, 0.2).await;
        let bounded = tokio::spawn({
            let pool = pool.clone();
            async move {
                let request = Request { read_only: true, sql, bytes_max: Some(10_000), ..Request::default() };
                run(&pool, "alice", &request).await
            }
        });
        sleep(Duration::from_millis(10)).await;
        let others: Vec<_> = (0..3).map(|_| ask(&pool, "bob", "select 1")).collect();
        let fault = bounded.await.unwrap().unwrap_err().into_fault();
        assert_eq!(fault.code().name, "forward.answer-too-large");
        for other in others {
            assert_eq!(text(&other.await.unwrap().unwrap()), "1");
        }
        held.await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_ends_sessions_loses_no_read() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        read(&pool, "alice", "select 1").await.unwrap();
        let held = hold(&pool, 0.3).await;
        let asked: Vec<_> = (0..4).map(|_| ask(&pool, "bob", "select 1 from pg_sleep(0.01)")).collect();
        held.await.unwrap();
        cluster
            .sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'authenticator'")
            .unwrap();
        for answer in asked {
            // The one that ran when the session ended may be told so; those behind it are asked again.
            match answer.await.unwrap() {
                Ok(reply) => assert_eq!(text(&reply), "1"),
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}
