//! Memory of clients that are connected and silent.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use doorward_testkit::program::Bounded;

use super::bed::{Bed, Route};
use crate::process::resident_bytes;
use crate::table::{Table, Target};

/// Kilobytes for each client.
const KILOBYTES_MAX: f64 = 20.0;
const CLIENTS: usize = 5_000;
/// In session mode each has a connection to the server.
const SESSIONS: usize = 100;
/// Descriptors: two for each session here and there, and some.
const FILES_MAX: u64 = 16_384;
const ANSWER_SPAN_MAX: Duration = Duration::from_secs(30);

pub fn run(table: &Table, _: bool) -> Result<()> {
    raise_files()?;
    let mut bed = Bed::set_up(false)?;
    table.heading("postgres: memory of idle clients");
    for (n, mode) in bed.pools().iter().map(|pool| pool.mode).enumerate() {
        let clients = if mode == "session" { SESSIONS } else { CLIENTS };
        let pool = bed.pools().swap_remove(n);
        let name = |route: &Route| format!("{clients} idle clients, {}, each", route.name);
        table.tell(name(&pool.peer), each_kilobytes(&pool.peer, clients)?, "kB");
        for at in 0..pool.routes.len() {
            // What others have used and given back would count as nobody's.
            bed.renew_gateway()?;
            let route = bed.pools().swap_remove(n).routes.swap_remove(at);
            table.judge(name(&route), each_kilobytes(&route, clients)?, "kB", Target::AtMost(KILOBYTES_MAX));
        }
    }
    Ok(())
}

fn each_kilobytes(route: &Route, clients: usize) -> Result<f64> {
    let pid = route.pid.context("nothing stands in between")?;
    // What the first ones make is not theirs alone.
    let first: Vec<_> = (0..8).map(|_| connect(route)).collect::<Result<_>>()?;
    let before = resident_bytes(pid)?;
    let all: Vec<_> = (first.len()..clients).map(|_| connect(route)).collect::<Result<_>>()?;
    let grown = resident_bytes(pid)?.saturating_sub(before);
    Ok(grown as f64 / 1024.0 / all.len() as f64)
}

/// A client that has logged in, has asked once, and says nothing more.
fn connect(route: &Route) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", route.port))?;
    stream.set_read_timeout(Some(ANSWER_SPAN_MAX))?;
    let mut start = Vec::from(196_608_u32.to_be_bytes());
    for text in ["user", "reader", "database", route.database, ""] {
        start.extend_from_slice(text.as_bytes());
        start.push(0);
    }
    stream.write_all(&u32::try_from(start.len() + 4)?.to_be_bytes())?;
    stream.write_all(&start)?;
    loop {
        let (tag, body) = message(&mut stream)?;
        match (tag, body.get(..4)) {
            (b'R', Some([0, 0, 0, 3])) => say(&mut stream, b'p', &route.password)?,
            (b'R', Some([0, 0, 0, 0])) => say(&mut stream, b'Q', "select 1")?,
            (b'E', _) => bail!("{}: {}", route.name, String::from_utf8_lossy(&body)),
            (b'C', _) => {
                let (tag, _) = message(&mut stream)?;
                ensure!(tag == b'Z', "a message of type {tag}");
                return Ok(stream);
            }
            _ => {}
        }
    }
}

fn message(stream: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let mut body = vec![0; usize::try_from(length)?.checked_sub(4).context("a length")?];
    stream.read_exact(&mut body)?;
    Ok((head[0], body))
}

fn say(stream: &mut TcpStream, tag: u8, text: &str) -> Result<()> {
    let mut all = vec![tag];
    all.extend_from_slice(&u32::try_from(text.len() + 5)?.to_be_bytes());
    all.extend_from_slice(text.as_bytes());
    all.push(0);
    Ok(stream.write_all(&all)?)
}

/// So many clients take more descriptors than a process has by default; children inherit them.
fn raise_files() -> Result<()> {
    let pid = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={FILES_MAX}:")]).run()?;
    ensure!(raised.status.success(), "prlimit: {}", String::from_utf8_lossy(&raised.stderr));
    Ok(())
}
