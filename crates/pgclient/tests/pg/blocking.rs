//! The blocking client: statements, transactions, COPY, and what is left after each kind of failure.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward_core::{Login, Secret};
use doorward_pgclient::Target;
use doorward_pgclient::blocking::{Client, ClientError, Options, Param};
use doorward_testkit::postgres::{Cluster, Durability, Installation, SUPERUSER};
use doorward_testkit::wait_until;

use crate::support::SOON;

fn clusters() -> Vec<Cluster> {
    let newer = Cluster::start_new(Installation::newer().unwrap(), Durability::Fast).unwrap();
    vec![Cluster::debian().unwrap(), newer]
}

fn login(cluster: &Cluster) -> Arc<Login> {
    Arc::new(Login::new(SUPERUSER, Secret::from(cluster.password())))
}

fn connect(cluster: &Cluster, options: &Options) -> Client {
    let target = Target::parse(&cluster.url("postgres"), false).unwrap();
    Client::connect(&target, &login(cluster), options).unwrap()
}

#[test]
fn values_come_back_as_they_were_sent() {
    for cluster in clusters() {
        let mut client = connect(&cluster, &Options::default());
        let bytes: Vec<u8> = (0..=255).collect();
        let reply = client
            .query(
                "SELECT $1::text, $2::bigint, $3::bool, $4::bytea, $5::text, $6::uuid, $7::timestamptz",
                &[
                    Param::Text("grün 'quoted' \\ back"),
                    Param::Int(i64::MIN),
                    Param::Bool(true),
                    Param::Bytes(&bytes),
                    Param::Null,
                    Param::Text("01a2019f-9bc0-7080-88bc-0d48bfcf904f"),
                    Param::Text("2026-11-22T04:59:27.040004Z"),
                ],
            )
            .unwrap();
        let row = reply.first().unwrap();
        assert_eq!(row.text(0), Some("grün 'quoted' \\ back"));
        assert_eq!((row.int(1), row.bool(2)), (Some(i64::MIN), Some(true)));
        assert_eq!(row.bytes(3), Some(bytes));
        assert_eq!((row.text(4), row.bytes(0), row.bool(1)), (None, None, None));
        assert_eq!(row.text(5), Some("01a2019f-9bc0-7080-88bc-0d48bfcf904f"));
        assert_eq!(row.text(6), Some("2026-11-22 04:59:27.040004+00"));
        assert_eq!(reply.fields().len(), 7);
        // Nothing of the database stands before the system's own.
        client.batch("CREATE SCHEMA own; SET search_path = pg_catalog").unwrap();
        assert_eq!(
            client.query("SHOW search_path", &[]).unwrap().first().unwrap().text(0),
            Some("pg_catalog")
        );
    }
}

#[test]
fn transactions_end_as_they_say() {
    let cluster = Cluster::debian().unwrap();
    let mut client = connect(&cluster, &Options::default());
    client.batch("CREATE TABLE public.t (n int PRIMARY KEY)").unwrap();
    let insert =
        |client: &mut Client, n| client.execute("INSERT INTO public.t VALUES ($1)", &[Param::Int(n)]);
    let kept: Result<u64, ClientError> = client.transaction(|client| insert(client, 1));
    assert_eq!(kept.unwrap(), 1);
    let undone: Result<u64, ClientError> = client.transaction(|client| {
        insert(client, 2)?;
        insert(client, 1)
    });
    assert_eq!(undone.unwrap_err().sqlstate(), Some("23505"));
    // The server answers COMMIT of a failed transaction without an error: this client does not.
    client.begin().unwrap();
    insert(&mut client, 3).unwrap();
    insert(&mut client, 1).unwrap_err();
    assert!(matches!(client.commit(), Err(ClientError::RolledBack)));
    let count = client.query("SELECT count(*) FROM public.t", &[]).unwrap();
    assert_eq!(count.first().unwrap().int(0), Some(1));
    assert!(!client.is_broken());
}

#[test]
fn rows_without_end_are_seen_one_by_one_and_kept_within_a_bound() {
    let cluster = Cluster::debian().unwrap();
    let options = Options { answer_max: 1_000, ..Options::default() };
    let mut client = connect(&cluster, &options);
    let sql = "SELECT n, repeat('x', 100) FROM generate_series(1, 100000) n";
    let (mut rows, mut sum) = (0, 0);
    client
        .query_each(sql, &[], |row| {
            rows += 1;
            sum += row.int(0).unwrap();
            true
        })
        .unwrap();
    assert_eq!((rows, sum), (100_000, 5_000_050_000));
    let mut few = 0;
    client
        .query_each(sql, &[], |_| {
            few += 1;
            few < 3
        })
        .unwrap();
    assert_eq!(few, 3);
    assert!(matches!(client.query(sql, &[]), Err(ClientError::TooLarge(1_000))));
    // The connection is in step after all of that.
    assert_eq!(client.query("SELECT 7", &[]).unwrap().first().unwrap().int(0), Some(7));
}

#[test]
fn copy_takes_data_of_any_size_and_refuses_what_the_server_refuses() {
    for cluster in clusters() {
        let mut client = connect(&cluster, &Options::default());
        client.batch("CREATE TABLE public.t (n int CHECK (n > 0), body text)").unwrap();
        let mut copy = client.copy_in("COPY public.t FROM STDIN").unwrap();
        let line = |n: i32| format!("{n}\t{}\n", "x".repeat(1_000));
        let data: String = (1..=2_000).map(line).collect();
        // Cut anywhere, and as a whole.
        copy.write(&data.as_bytes()[..7]).unwrap();
        copy.write(&data.as_bytes()[7..]).unwrap();
        assert_eq!(copy.finish().unwrap(), 2_000);

        let mut copy = client.copy_in("COPY public.t FROM STDIN").unwrap();
        let mut refused = copy.write(b"-1\tno\n");
        for _ in 0..200 {
            refused = refused.and_then(|()| copy.write(data.as_bytes()));
        }
        let refused = refused.and_then(|()| copy.finish().map(drop)).unwrap_err();
        assert_eq!(refused.sqlstate(), Some("23514"));
        assert!(!client.is_broken());

        let mut copy = client.copy_in("COPY public.t FROM STDIN").unwrap();
        copy.write(b"3000\tgiven up\n").unwrap();
        copy.abort().unwrap();
        let count = |client: &mut Client| {
            client.query("SELECT count(*) FROM public.t", &[]).unwrap().first().unwrap().int(0).unwrap()
        };
        assert_eq!(count(&mut client), 2_000);

        // What is dropped in the middle is not kept, and takes the connection with it.
        let mut copy = client.copy_in("COPY public.t FROM STDIN").unwrap();
        copy.write(b"3001\tdropped\n").unwrap();
        drop(copy);
        assert!(client.is_broken());
        assert!(matches!(client.query("SELECT 1", &[]), Err(ClientError::Lost(_))));
        drop(client);
        assert_eq!(count(&mut connect(&cluster, &Options::default())), 2_000);

        let mut client = connect(&cluster, &Options::default());
        assert_eq!(client.copy_in("COPY public.nothing FROM STDIN").unwrap_err().sqlstate(), Some("42P01"));
        assert!(matches!(client.copy_in("SELECT 1"), Err(ClientError::Unsendable(_))));
        assert_eq!(count(&mut client), 2_000);
    }
}

#[test]
fn each_wait_has_an_end() {
    let cluster = Cluster::debian().unwrap();
    let options = Options {
        statement_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let mut client = connect(&cluster, &options);
    let slow = client.query("SELECT pg_sleep(20)", &[]).unwrap_err();
    assert_eq!(slow.sqlstate(), Some("57014"));
    client.begin().unwrap();
    let idle = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
    assert!(wait_until(SOON, || cluster.sql(idle).is_ok_and(|count| count.trim() == "0")));
    let idle = client.query("SELECT 1", &[]).unwrap_err();
    assert!(matches!(&idle, ClientError::Lost(_)), "{idle}");
    assert!(client.is_broken());

    // A server that takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://127.0.0.1:{}/db", silent.local_addr().unwrap().port());
    let target = Target::parse(&url, false).unwrap();
    let options = Options { connect_timeout: Duration::from_millis(300), ..Options::default() };
    let started = Instant::now();
    let refused = Client::connect(&target, &login(&cluster), &options).unwrap_err();
    assert!(matches!(refused, ClientError::Unreachable(_)), "{refused}");
    assert!(started.elapsed() < SOON);
}

#[test]
fn logins_and_addresses_that_are_wrong_are_told_apart() {
    let cluster = Cluster::debian().unwrap();
    let target = Target::parse(&cluster.url("postgres"), false).unwrap();
    let wrong = Arc::new(Login::new(SUPERUSER, Secret::from("wrong")));
    let refused = Client::connect(&target, &wrong, &Options::default()).unwrap_err();
    assert!(matches!(refused, ClientError::Login(_)), "{refused}");
    assert!(!refused.to_string().contains("wrong"), "{refused}");
    let nowhere = Target::parse("postgres://127.0.0.1:1/db", false).unwrap();
    let refused = Client::connect(&nowhere, &wrong, &Options::default()).unwrap_err();
    assert!(matches!(refused, ClientError::Unreachable(_)), "{refused}");
    let mut client = connect(&cluster, &Options::default());
    cluster.restart().unwrap();
    assert!(matches!(client.query("SELECT 1", &[]), Err(ClientError::Lost(_))));
}

/// Carries one connection, until COMMIT passes: that one it carries, and not its answer.
fn swallow_the_answer_of_commit(cluster: &Cluster) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = cluster.port();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", server)).unwrap();
        let (mut answers, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut answers, &mut to_client));
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = client.read(&mut buffer) {
            let said = buffer.get(..read).unwrap();
            if said.windows(6).any(|part| part == b"COMMIT") {
                client.shutdown(std::net::Shutdown::Both).unwrap();
                server.write_all(said).unwrap();
                doorward_testkit::pause(Duration::from_millis(300));
                return;
            }
            server.write_all(said).unwrap();
        }
    });
    port
}

#[test]
fn a_commit_without_an_answer_is_told_apart() {
    let cluster = Cluster::debian().unwrap();
    cluster.sql("create table t (n int)").unwrap();
    let port = swallow_the_answer_of_commit(&cluster);
    let target = Target::parse(&format!("postgres://127.0.0.1:{port}/postgres"), false).unwrap();
    let mut client = Client::connect(&target, &login(&cluster), &Options::default()).unwrap();
    let unknown: Result<u64, ClientError> =
        client.transaction(|client| client.execute("INSERT INTO public.t VALUES (1)", &[]));
    assert!(matches!(unknown, Err(ClientError::CommitUnknown(_))), "{unknown:?}");
    assert!(doorward_testkit::wait_until(Duration::from_secs(5), || cluster.sql("select * from t").unwrap()
        == "1"));
}
