//! A server that does not keep to the protocol, or wants what it must not have.

#![allow(clippy::unwrap_used, reason = "the helpers of the tests fail as the tests do")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward_core::{Login, Secret};
use doorward_pgclient::{Pool, PoolSettings, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers the start-up with these bytes, then with `more`, and keeps what was sent in between.
async fn login_against(answer: Vec<u8>, more: Vec<u8>) -> (String, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut startup = [0; 1024];
        let _ = stream.read(&mut startup).await.unwrap();
        stream.write_all(&answer).await.unwrap();
        let mut heard = vec![0; 4096];
        let read = stream.read(&mut heard).await.unwrap();
        heard.truncate(read);
        let _ = stream.write_all(&more).await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        [heard, rest].concat()
    });
    let target = Target::parse(&format!("postgres://127.0.0.1:{port}/shop"), false).unwrap();
    let login = Arc::new(Login::new("gateway", Secret::from("hunter2")));
    let settings = PoolSettings { connect_timeout: Duration::from_millis(800), ..PoolSettings::default() };
    let pool = Pool::new(target, login, settings).unwrap();
    let fault = pool.check_login(&["public"], false).await.unwrap_err();
    let why = format!("{} {}", fault.code().name, fault.cause_text().unwrap_or_default());
    drop(pool);
    (why, server.await.unwrap())
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

fn authentication(kind: i32, body: &[u8]) -> Vec<u8> {
    frame(b'R', &[&kind.to_be_bytes()[..], body].concat())
}

#[tokio::test]
async fn the_password_is_not_given_away() {
    for (what, answer) in [("cleartext", authentication(3, b"")), ("md5", authentication(5, b"salt"))] {
        let (why, heard) = login_against(answer, Vec::new()).await;
        assert!(why.starts_with("lease.login-refused"), "{what}: {why}");
        assert!(heard.is_empty(), "{what}: {heard:?}");
    }
    let (why, heard) = login_against(authentication(10, b"SCRAM-SHA-256\0\0"), authentication(0, b"")).await;
    assert!(!heard.windows(7).any(|part| part == b"hunter2"));
    // A server that skips its own proof is not believed.
    assert!(why.contains("SCRAM"), "{why}");
}

#[tokio::test]
async fn key_derivation_without_end() {
    let challenge = authentication(11, b"r=abc,s=c2FsdA==,i=4294967295");
    let started = Instant::now();
    let (why, _) = login_against(authentication(10, b"SCRAM-SHA-256\0\0"), challenge).await;
    assert!(why.contains("too many rounds") && started.elapsed() < Duration::from_secs(30), "{why}");
}

#[tokio::test]
async fn bytes_that_are_not_the_protocol() {
    let cases: [(&str, Vec<u8>); 5] = [
        ("a length below four", vec![b'R', 0, 0, 0, 0]),
        ("a frame without end", vec![b'R', 0x7f, 0xff, 0xff, 0xff]),
        ("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("a row", frame(b'D', &[0, 0])),
        ("silence", Vec::new()),
    ];
    for (what, answer) in cases {
        let (why, _) = login_against(answer, Vec::new()).await;
        assert!(why.starts_with("forward.backend-unavailable"), "{what}: {why}");
    }
}
