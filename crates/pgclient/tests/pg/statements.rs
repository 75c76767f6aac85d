//! One statement: its answer, its settings, its bounds, its errors.

use std::time::{Duration, Instant};

use doorward_pgclient::{Request, RunError};

use crate::support::{SOON, clusters, pool, read, run, small, text, write};

#[tokio::test]
async fn settings_reach_the_statement_and_end_with_it() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        let sql = "select current_user, current_setting('request.jwt.claims', true), \
                   current_setting('application_name'), current_setting('transaction_read_only'), \
                   length(current_setting('doorward.access_id')), $1::int + 1, $2::text";
        let request = Request {
            settings: &[("request.jwt.claims", "{\"sub\":\"a\"}"), ("application_name", "alice@shop")],
            read_only: true,
            sql,
            params: &[Some(b"41"), None],
            ..Request::default()
        };
        // Twice: the second one finds the statements prepared.
        for _ in 0..2 {
            let reply = run(&pool, "alice", &request).await.unwrap();
            assert_eq!(text(&reply), "alice|{\"sub\":\"a\"}|alice@shop|on|36|42|NULL");
            assert_eq!(reply.fields().len(), 7);
            assert_eq!(&*reply.fields()[0].name, "current_user");
            assert_eq!((reply.len(), reply.affected(), reply.more()), (1, 1, false));
        }
        let request = Request { settings: &[], ..request };
        assert_eq!(text(&run(&pool, "bob", &request).await.unwrap()), "bob||doorward|on|36|42|NULL");
        assert_eq!(pool.stats().idle, 1);
    }
}

#[tokio::test]
async fn rows_are_the_roles_own() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        let sql = "select body from shop.notes order by id";
        for _ in 0..8 {
            assert_eq!(text(&read(&pool, "alice", sql).await.unwrap()), "hers");
            assert_eq!(text(&read(&pool, "bob", sql).await.unwrap()), "his");
        }
    }
}

#[tokio::test]
async fn reads_cannot_write_and_writes_commit() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        let insert = "insert into shop.notes values (3, 'alice', 'new') returning id";
        let refused = read(&pool, "alice", insert).await.unwrap_err();
        assert_eq!(&*refused.server().unwrap().sqlstate, "25006");
        let reply = write(&pool, "alice", insert).await.unwrap();
        assert_eq!((text(&reply).as_str(), reply.affected()), ("3", 1));
        assert_eq!(cluster.sql("select count(*) from shop.notes").unwrap().trim(), "3");
    }
}

#[tokio::test]
async fn errors_carry_what_the_server_said() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        let error =
            write(&pool, "alice", "insert into shop.notes values (1, 'alice', 'x')").await.unwrap_err();
        let server = error.server().unwrap().clone();
        assert_eq!(&*server.sqlstate, "23505");
        assert_eq!(server.constraint.as_deref(), Some("notes_pkey"));
        // The server hides the key from a role under row-level security.
        assert_eq!((server.detail, server.table.as_deref()), (None, Some("notes")));
        let fault = error.into_fault();
        assert_eq!(
            (fault.code().name, fault.backend_code_text()),
            ("forward.backend-refused", Some("23505"))
        );
        // A constraint that is checked at commit fails the request too.
        let late = "insert into shop.notes values (9, 'alice', 'x', 77)";
        let error = write(&pool, "alice", late).await.unwrap_err();
        assert_eq!(&*error.server().unwrap().sqlstate, "23503");
        let error = read(&pool, "alice", "selec 1").await.unwrap_err();
        assert_eq!(&*error.server().unwrap().sqlstate, "42601");
        assert_eq!(error.server().unwrap().position, Some(1));
        // A role that the login is not a member of.
        let error = read(&pool, "postgres", "select 1").await.unwrap_err();
        assert_eq!(&*error.server().unwrap().sqlstate, "42501");
        assert_eq!(text(&read(&pool, "alice", "select 1").await.unwrap()), "1");
        assert_eq!(cluster.sql("select count(*) from shop.notes").unwrap().trim(), "2");
    }
}

#[tokio::test]
async fn a_statement_that_runs_too_long_is_ended_by_the_server() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        for _ in 0..2 {
            let started = Instant::now();
            let request = Request {
                read_only: true,
                sql: "select pg_sleep(300)",
                timeout: Some(Duration::from_millis(200)),
                ..Request::default()
            };
            let error = run(&pool, "alice", &request).await.unwrap_err();
            assert_eq!(&*error.server().unwrap().sqlstate, "57014");
            assert_eq!(error.into_fault().code().name, "forward.timeout");
            assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
        }
        // The timeout was that statement's alone.
        assert_eq!(text(&read(&pool, "alice", "select 1 from pg_sleep(0.4)").await.unwrap()), "1");
    }
}

#[tokio::test]
async fn an_answer_is_refused_before_it_is_buffered() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        let big = "select repeat('x', 50000000)";
        let request = Request { read_only: true, sql: big, bytes_max: Some(1 << 20), ..Request::default() };
        let error = run(&pool, "alice", &request).await.unwrap_err();
        assert_eq!(error.into_fault().code().name, "forward.answer-too-large");
        let many = "select generate_series(1, 100000000)";
        let request = Request { sql: many, ..request };
        let error = run(&pool, "alice", &request).await.unwrap_err();
        assert_eq!(error.into_fault().code().name, "forward.answer-too-large");
        // A change that was cut off may have been committed; nobody is told that it was refused.
        let error = run(&pool, "alice", &Request { read_only: false, ..request }).await.unwrap_err();
        assert_eq!(error.into_fault().code().name, "forward.outcome-unknown");
        let exact = Request { sql: "select repeat('x', 3000000)", bytes_max: Some(4_000_000), ..request };
        assert_eq!(
            run(&pool, "alice", &exact).await.unwrap().first().unwrap().value(0).unwrap().len(),
            3_000_000
        );
    }
}

/// PostgreSQL quotes the value that it refuses, however large: the refusal is still a refusal, and the
/// connection goes on.
#[tokio::test]
async fn an_error_is_an_error_however_large() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        let session = text(&read(&pool, "alice", "select pg_backend_pid()").await.unwrap());
        for (size, read_only) in [(9, true), (9, false), (3 << 20, true), (3 << 20, false)] {
            let large = "x".repeat(size);
            let (sql, params) = ("select $1::int", [Some(large.as_bytes())]);
            let request = Request { read_only, sql, params: &params, ..Request::default() };
            let error = run(&pool, "alice", &request).await.unwrap_err();
            let error = error.server().unwrap();
            assert_eq!(&*error.sqlstate, "22P02");
            assert!(error.message.starts_with("invalid input syntax for type integer: \"xxx"));
            assert!(error.message.len() <= 64 << 10);
            // A refused statement costs no connection.
            assert_eq!(text(&read(&pool, "alice", "select pg_backend_pid()").await.unwrap()), session);
        }
    }
}

#[tokio::test]
async fn rows_are_capped_and_said_to_be() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        let sql = "select generate_series(1, 10)";
        let request = Request { read_only: true, sql, rows_max: Some(3), ..Request::default() };
        let reply = run(&pool, "alice", &request).await.unwrap();
        assert_eq!((text(&reply).as_str(), reply.more()), ("1\n2\n3", true));
        let request = Request { rows_max: Some(11), ..request };
        let reply = run(&pool, "alice", &request).await.unwrap();
        assert_eq!((reply.len(), reply.more()), (10, false));
    }
}

#[tokio::test]
async fn values_come_in_binary_when_asked_for() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        let request =
            Request { read_only: true, sql: "select 258, null::int", binary: true, ..Request::default() };
        let reply = run(&pool, "alice", &request).await.unwrap();
        let row = reply.first().unwrap();
        assert_eq!((row.value(0), row.value(1)), (Some(&[0, 0, 1, 2][..]), None));
        assert_eq!(&row.shared(0).unwrap()[..], [0, 0, 1, 2]);
    }
}

#[tokio::test]
async fn what_the_pool_sets_cannot_be_set() {
    for cluster in [crate::support::cluster()] {
        let pool = pool(&cluster, small(1));
        for name in ["role", "ROLE", "session_authorization", "transaction_read_only", "doorward.access_id"] {
            let settings = [(name, "bob")];
            let request =
                Request { settings: &settings, read_only: true, sql: "select 1", ..Request::default() };
            let Err(RunError::Fault(fault)) = run(&pool, "alice", &request).await else { panic!("{name}") };
            assert_eq!(fault.code().name, "forward.request-invalid");
        }
        // A value cannot leave its place.
        let settings = [("application_name", "x', true), set_config('role', 'bob")];
        let request = Request {
            settings: &settings,
            read_only: true,
            sql: "select current_user",
            ..Request::default()
        };
        assert_eq!(text(&run(&pool, "alice", &request).await.unwrap()), "alice");
    }
}

#[tokio::test]
async fn statements_survive_what_happens_to_their_tables() {
    for cluster in clusters() {
        let pool = pool(&cluster, small(1));
        cluster.sql("create table shop.wide (a int); grant select on shop.wide to alice").unwrap();
        let sql = "select * from shop.wide";
        assert_eq!(read(&pool, "alice", sql).await.unwrap().fields().len(), 1);
        cluster.sql("alter table shop.wide add b text").unwrap();
        assert_eq!(read(&pool, "alice", sql).await.unwrap().fields().len(), 2);
        // Code in the database may deallocate what the pool has prepared.
        for _ in 0..3 {
            let reply = read(&pool, "alice", "select one from shop.forgetful where forgot is not null").await;
            assert_eq!(text(&reply.unwrap()), "1");
        }
        assert_eq!(pool.stats().idle, 1);
    }
}

#[tokio::test]
async fn more_statements_than_are_kept() {
    for cluster in clusters() {
        let settings = doorward_pgclient::PoolSettings { statements_max: 4, ..small(1) };
        let pool = pool(&cluster, settings);
        for round in 0..3 {
            for number in 0..10 {
                let sql = format!("select {number}");
                assert_eq!(text(&read(&pool, "alice", &sql).await.unwrap()), number.to_string(), "{round}");
            }
        }
        let count = "select count(*) from pg_prepared_statements where name ~ '^dw[0-9]'";
        assert_eq!(text(&read(&pool, "alice", count).await.unwrap()), "4");
        let long = format!("select 1 /* {} */", "x".repeat(5_000));
        assert_eq!(text(&read(&pool, "alice", &long).await.unwrap()), "1");
        assert_eq!(text(&read(&pool, "alice", count).await.unwrap()), "4");
    }
}
