//! The same lives over the store in PostgreSQL, behind a proxy that cuts connections in mid-COPY and after a
//! COMMIT whose answer nobody hears.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use doorward_audit::store::postgres::{Grantee, Migration, Migrator};
use doorward_core::{Login, Secret};
use doorward_pgclient::Target;
use doorward_testkit::postgres::{Cluster, Database, SUPERUSER};

use super::{Look, run};

const USER: &str = "faulty_gateway";
const PASSWORD: &str = "the faulty gateway's own";
/// How many COPYs go well for one that does not; likewise COMMITs.
const COPIES_A_CUT: u64 = 9;
const COMMITS_A_CUT: u64 = 11;
/// The most bytes that are passed on at one time.
const BUFFER: usize = 32 << 10;

struct Postgres {
    database: Database<'static>,
    proxy: Proxy,
    passwords: String,
    subjects: String,
}

impl Postgres {
    fn make(folder: &Path) -> Result<Self> {
        let cluster = Cluster::shared()?;
        let database = cluster.database()?;
        let target = Target::parse(&database.url(), false)?;
        let login = |user: &str, password: &str| Arc::new(Login::new(user, Secret::from(password)));
        let mut migrator = Migrator::connect(&target, &login(SUPERUSER, cluster.password()))?;
        migrator.lock()?;
        let writer = Grantee { user: USER.into(), login: Some(login(USER, PASSWORD)) };
        for step in migrator.plan(&Migration { writers: vec![writer], ..Migration::default() })? {
            migrator.run(&step).with_context(|| step.title.clone())?;
        }
        let passwords = folder.join("password");
        std::fs::write(&passwords, PASSWORD)?;
        let subjects = folder.join("subjects.db").display().to_string();
        let proxy = Proxy::start(cluster.port())?;
        Ok(Self { database, proxy, passwords: passwords.display().to_string(), subjects })
    }

    fn rows(&self, sql: &str) -> Result<Vec<(String, String)>> {
        let text = self.database.sql(sql)?;
        let pair = |line: &str| {
            line.split_once('|').map(|(one, other)| (one.to_owned(), other.to_owned())).context("two columns")
        };
        text.lines().filter(|line| !line.is_empty()).map(pair).collect()
    }
}

impl Look for Postgres {
    fn config(&self, faulty: bool) -> String {
        let url = self.database.url();
        let own = format!(":{}", self.database.cluster().port());
        let url = if faulty { url.replace(&own, &format!(":{}", self.proxy.port)) } else { url };
        let url = url.replace("postgres://", &format!("postgres://{USER}@"));
        format!(
            "{{ store: {{ url: '{url}', password: 'file:{}' }}, personal: {{ store: 'sqlite:{}' }} }}",
            self.passwords, self.subjects
        )
    }

    fn records(&self) -> Result<HashMap<String, Vec<String>>> {
        let mut found: HashMap<String, Vec<String>> = HashMap::new();
        let rows = self.rows(
            "select access_id, outcome from doorward.access_event
             union all (select distinct access_id, 'dead letter' from doorward.dead_letter)",
        )?;
        for (id, outcome) in rows {
            found.entry(id).or_default().push(outcome);
        }
        Ok(found)
    }

    fn gaps(&self) -> Result<Vec<(u64, String)>> {
        let rows = self.rows("select lost, reason from doorward.audit_gap")?;
        rows.into_iter().map(|(lost, reason)| Ok((lost.parse()?, reason))).collect()
    }

    fn cuts(&self) -> Vec<(&'static str, u64)> {
        let cuts = &self.proxy.cuts;
        vec![
            ("connection:cut-in-COPY", cuts.in_copy.load(Ordering::Relaxed)),
            ("connection:cut-after-COMMIT", cuts.after_commit.load(Ordering::Relaxed)),
        ]
    }
}

#[derive(Default)]
struct Cuts {
    copies: AtomicU64,
    commits: AtomicU64,
    in_copy: AtomicU64,
    after_commit: AtomicU64,
    over: AtomicBool,
}

/// Passes connections on to a port, and cuts some.
struct Proxy {
    port: u16,
    cuts: Arc<Cuts>,
}

impl Proxy {
    fn start(to: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let cuts = Arc::new(Cuts::default());
        let shared = cuts.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else { continue };
                let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else {
                    continue;
                };
                let (up, down) = (shared.clone(), shared.clone());
                std::thread::spawn(move || pass(client, server, |bytes| up.cuts_copy(bytes)));
                std::thread::spawn(move || pass(server_too, client_too, |bytes| down.cuts_commit(bytes)));
            }
        });
        Ok(Self { port, cuts })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cuts.over.store(true, Ordering::Relaxed);
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Cuts {
    /// In the middle of what a COPY begins with: half of these bytes still go.
    fn cuts_copy(&self, bytes: &[u8]) -> Option<usize> {
        contains(bytes, b"PGCOPY\n").then_some(())?;
        let cut = self.copies.fetch_add(1, Ordering::Relaxed) % COPIES_A_CUT == COPIES_A_CUT - 1;
        cut.then(|| {
            self.in_copy.fetch_add(1, Ordering::Relaxed);
            bytes.len() / 2
        })
    }

    /// The answer to a COMMIT, of which nothing goes on.
    fn cuts_commit(&self, bytes: &[u8]) -> Option<usize> {
        contains(bytes, b"COMMIT\0").then_some(())?;
        let cut = self.commits.fetch_add(1, Ordering::Relaxed) % COMMITS_A_CUT == COMMITS_A_CUT - 1;
        cut.then(|| {
            self.after_commit.fetch_add(1, Ordering::Relaxed);
            0
        })
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// Passes bytes on until one side ends, or until `cut` says after how many of these bytes.
fn pass(mut from: TcpStream, mut to: TcpStream, cut: impl Fn(&[u8]) -> Option<usize>) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(count) = from.read(&mut buffer) {
        let bytes = &buffer[..count];
        let end = cut(bytes);
        let sent = to.write_all(&bytes[..end.unwrap_or(count)]);
        if count == 0 || end.is_some() || sent.is_err() {
            break;
        }
    }
    // Either side may be gone already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn faults_by_the_hundred_lose_nothing_in_postgresql() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = Postgres::make(folder.path())?;
    run(folder.path(), &store)?;
    let cuts = store.cuts();
    ensure!(cuts.iter().all(|(_, count)| *count > 0), "no connection was cut: {cuts:?}");
    Ok(())
}
