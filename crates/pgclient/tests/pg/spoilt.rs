//! A session in which an earlier request left something that ends the next one before it has begun: a timeout of
//! a millisecond, on a busy machine. Whether a real server comes to it is a matter of luck, so this one is played.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use doorward_pgclient::{Pool, Target};
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::support::{login, read, small, text, write};

const SQL: &str = "select 1";

/// How many requests of each connection are answered before all further ones fail in their reset.
const ALWAYS: usize = usize::MAX;

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

/// A server whose connections answer so many requests each; the last number is that of all later ones. The
/// first answer takes its time.
async fn server(good: &'static [usize]) -> (Pool, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let number = counter.fetch_add(1, Ordering::Relaxed);
            let good = good.get(number).or(good.last()).copied().unwrap();
            tokio::spawn(session(stream, good, number == 0));
        }
    });
    let target = Target::parse(&format!("postgres://127.0.0.1:{port}/shop"), false).unwrap();
    (Pool::new(target, login(), small(1)).unwrap(), count)
}

async fn session(mut stream: TcpStream, good: usize, mut slow: bool) -> std::io::Result<()> {
    let length = stream.read_u32().await? as usize;
    stream.read_exact(&mut vec![0; length - 4]).await?;
    let ready = frame(b'Z', b"I");
    let welcome = [frame(b'R', &0_i32.to_be_bytes()), frame(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]), ready.clone()];
    stream.write_all(&welcome.concat()).await?;
    let (mut answered, mut executed, mut answer) = (0, 0, Vec::new());
    loop {
        let tag = stream.read_u8().await?;
        let length = stream.read_u32().await? as usize;
        stream.read_exact(&mut vec![0; length - 4]).await?;
        answer.extend(match tag {
            b'P' => frame(b'1', b""),
            b'B' => frame(b'2', b""),
            b'C' => frame(b'3', b""),
            b'D' => [
                frame(b't', &[0, 0]),
                frame(b'T', b"\0\x01one\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0"),
            ]
            .concat(),
            b'E' => {
                executed += 1;
                match executed {
                    3 => [frame(b'D', b"\0\x01\0\0\0\x011"), frame(b'C', b"SELECT 1\0")].concat(),
                    _ => frame(b'C', b"SELECT 0\0"),
                }
            }
            b'Q' => [frame(b'C', b"DISCARD ALL\0"), ready.clone()].concat(),
            b'S' => ready.clone(),
            _ => return Ok(()),
        });
        if tag == b'S' {
            if answered >= good {
                let error = frame(b'E', b"SERROR\0VERROR\0C57014\0Mcanceling statement\0\0");
                answer = [error, ready.clone()].concat();
            }
            if std::mem::take(&mut slow) {
                sleep(Duration::from_millis(200)).await;
            }
            (answered, executed) = (answered + 1, 0);
        }
        if matches!(tag, b'S' | b'Q') {
            stream.write_all(&std::mem::take(&mut answer)).await?;
        }
    }
}

#[tokio::test]
async fn what_was_left_in_a_session_fails_nobody() {
    let (pool, connections) = server(&[1, ALWAYS]).await;
    for turn in 0..3 {
        assert_eq!(text(&read(&pool, "alice", SQL).await.unwrap()), "1", "turn {turn}");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 2, "the spoilt connection is not used again");
    // A change has not begun either.
    let (pool, connections) = server(&[1, ALWAYS]).await;
    for turn in 0..3 {
        assert_eq!(text(&write(&pool, "alice", SQL).await.unwrap()), "1", "turn {turn}");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_was_left_in_a_shared_session_fails_nobody() {
    let (pool, connections) = server(&[1, ALWAYS]).await;
    let callers = (0..5_u64).map(|number| {
        let pool = pool.clone();
        async move {
            // The first one keeps the only connection at work, so that the others go together.
            sleep(Duration::from_millis(20 * number.min(1))).await;
            text(&read(&pool, "alice", SQL).await.unwrap())
        }
    });
    assert_eq!(join_all(callers).await, ["1"; 5]);
    assert_eq!(connections.load(Ordering::Relaxed), 2);
    assert_eq!((pool.stats().idle, pool.stats().in_use), (1, 0));
}

#[tokio::test]
async fn what_fails_on_a_fresh_session_too_is_told() {
    for shared in [false, true] {
        let (pool, connections) = server(&[1, 0]).await;
        let first = tokio::spawn({
            let pool = pool.clone();
            async move { read(&pool, "alice", SQL).await.map(|reply| text(&reply)) }
        });
        if shared {
            sleep(Duration::from_millis(20)).await;
        } else {
            assert_eq!(first.await.unwrap().unwrap(), "1");
        }
        let error = read(&pool, "alice", SQL).await.unwrap_err();
        assert_eq!(&*error.server().unwrap().sqlstate, "57014");
        assert_eq!(connections.load(Ordering::Relaxed), 2);
    }
}
