//! Nothing of one request is seen by the next: tries to leak, through everything that code in the
//! database can leave behind.

use doorward_pgclient::{Pool, Request};

use crate::support::{clusters, pool, read, run, small, text, write};

const STATE: &str = "select current_user, coalesce(current_setting('request.jwt.claims', true), ''), \
    coalesce(current_setting('app.tenant', true), ''), current_setting('search_path'), \
    current_setting('application_name'), current_setting('statement_timeout'), \
    (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()), \
    (select count(*) from pg_class where relname = 'leaked'), \
    (select count(*) from pg_listening_channels()), (select count(*) from pg_cursors where name = 'leaked'), \
    (select count(*) from pg_prepared_statements where name = 'leaked')";
const CLEAN: &str = "alice|||\"$user\", public|doorward|30s|0|0|0|0|0";

async fn backend(pool: &Pool) -> String {
    text(&read(pool, "alice", "select pg_backend_pid()").await.unwrap())
}

#[tokio::test]
async fn a_function_that_leaves_everything_behind() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        let before = backend(&pool).await;
        assert_eq!(text(&read(&pool, "alice", STATE).await.unwrap()), CLEAN);
        write(&pool, "alice", "select shop.leak()").await.unwrap();
        assert_eq!(text(&read(&pool, "alice", STATE).await.unwrap()), CLEAN);
        // The same connection: it was cleaned, not replaced.
        assert_eq!(backend(&pool).await, before);
        let notes = read(&pool, "alice", "select body from shop.notes").await.unwrap();
        assert_eq!(text(&notes), "hers");
    }
}

#[tokio::test]
async fn a_function_that_leaks_and_then_fails() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        write(&pool, "alice", "select shop.leak(), 1 / (random() * 0)::int").await.unwrap_err();
        assert_eq!(text(&read(&pool, "alice", STATE).await.unwrap()), CLEAN);
    }
}

#[tokio::test]
async fn a_read_through_a_view_that_leaks() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        for _ in 0..3 {
            let reply = read(&pool, "alice", "select said from shop.leaky").await.unwrap();
            assert_eq!(text(&reply), "done");
            assert_eq!(text(&read(&pool, "alice", STATE).await.unwrap()), CLEAN);
        }
    }
}

#[tokio::test]
async fn a_function_called_by_name_for_reading() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        let request = Request {
            read_only: true,
            calls_function: true,
            sql: "select shop.quiet_leak()",
            ..Request::default()
        };
        run(&pool, "alice", &request).await.unwrap();
        // The lock is released as soon as the answer is out, not when the connection is next used.
        let held = "select count(*) from pg_locks where locktype = 'advisory'";
        let mut tries = 0;
        while cluster.sql(held).unwrap().trim() != "0" {
            tries += 1;
            assert!(tries < 100, "the lock is still held");
        }
        assert_eq!(text(&read(&pool, "alice", STATE).await.unwrap()), CLEAN);
    }
}
