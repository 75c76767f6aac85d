//! What is measured: PostgreSQL, PgBouncer and the gateway in front of it, each on its core.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doorward_testkit::child::{Guarded, Signal};
use doorward_testkit::gateway::{Running, Setup};
use doorward_testkit::issuer::{Alg, Issuer};
use doorward_testkit::postgres::{Cluster, Durability, Installation};
use doorward_testkit::program::Bounded;
use doorward_testkit::{free_port, wait_until};

use crate::process::pin;

pub const PROXY_CORE: usize = 0;
pub const OTHER_CORE: usize = 1;
/// Connections to the server: of session mode, where each client has one, and of transaction mode.
const SESSIONS: usize = 110;
const SHARED: usize = 16;
const CONNECTIONS_MAX: u32 = 450;
/// Clients that may be connected at one time.
const CLIENTS_MAX: usize = 6_000;
const ROLE: &str = "reader";
const PASSWORD: &str = "bench";
const READY_SPAN_MAX: Duration = Duration::from_secs(10);

/// What bulk loads read and write: 8 columns of 1 kB, and a table to copy into.
const WIDE: &str = "
create table wide as select n, repeat('a', 1000) a, repeat('b', 1000) b, repeat('c', 1000) c, repeat('d', 1000) d,
  repeat('e', 1000) e, repeat('f', 1000) f, repeat('g', 1000) g, repeat('h', 1000) h from generate_series(1, 2000) n;
create unlogged table sink (like wide);
create role reader login password 'bench';
create role authenticator noinherit login password 'bench';
grant select on all tables in schema public to reader;
grant insert on sink to reader;
vacuum analyze wide;";

/// A way to the database.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: String,
    pub port: u16,
    pub database: &'static str,
    pub password: String,
    /// The process in between, if there is one.
    pub pid: Option<u32>,
    /// Whether it is the gateway, answering nothing without a record.
    pub required: bool,
    gateway: bool,
}

impl Route {
    pub fn waits_for_nothing(&self) -> bool {
        self.gateway && !self.required
    }

    /// A command of a client of PostgreSQL's, on the core of the load.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("taskset");
        command
            .args(["-c", &OTHER_CORE.to_string(), program, "-h", "127.0.0.1", "-U", ROLE])
            .args(["-p", &self.port.to_string()])
            // The token goes by the environment: it stands in no process's arguments.
            .env("PGPASSWORD", &self.password)
            .env("PGSSLMODE", "disable");
        command
    }
}

/// PgBouncer in a mode, and the gateway's routes in the same one.
pub struct Compared {
    pub mode: &'static str,
    pub peer: Route,
    pub routes: Vec<Route>,
}

pub struct Bed {
    gateway: Running,
    bouncers: Vec<(&'static str, Guarded, u16)>,
    token: String,
    issuer: Issuer,
    cluster: Cluster,
    ships: bool,
    _folder: tempfile::TempDir,
}

impl Bed {
    /// With or without what carries records from the spool to the store.
    pub fn set_up(ships: bool) -> Result<Self> {
        let cluster = Cluster::start_for(Installation::debian()?, Durability::Safe, CONNECTIONS_MAX)?;
        fill(&cluster)?;
        let issuer = Issuer::start_with(&[Alg::Es256])?;
        let token = issuer.token("bench").claim("groups", vec!["readers"]).expires_in(36_000).sign()?;
        let gateway = start_gateway(&cluster, &issuer, ships)?;
        pin_server(&cluster)?;
        let folder = tempfile::Builder::new().prefix("doorward-bench-").tempdir()?;
        let bouncers = ["session", "transaction"]
            .into_iter()
            .map(|mode| start_bouncer(&cluster, mode, folder.path()))
            .collect::<Result<_>>()?;
        Ok(Self { gateway, bouncers, token, issuer, cluster, ships, _folder: folder })
    }

    /// Another gateway in the place of this one, whose memory nobody has used before.
    pub fn renew_gateway(&mut self) -> Result<()> {
        self.gateway = start_gateway(&self.cluster, &self.issuer, self.ships)?;
        Ok(())
    }

    /// The server itself.
    pub fn direct(&self) -> Route {
        Route {
            name: "directly".to_owned(),
            port: self.cluster.port(),
            database: "postgres",
            password: PASSWORD.to_owned(),
            pid: None,
            required: false,
            gateway: false,
        }
    }

    /// What is compared with what.
    pub fn pools(&self) -> Vec<Compared> {
        let gateway = |name: &str, database: &'static str, required: bool| Route {
            name: name.to_owned(),
            port: self.gateway.address("postgres").map_or(0, |address| address.port()),
            database,
            password: self.token.clone(),
            pid: Some(self.gateway.pid()),
            required,
            gateway: true,
        };
        let bouncers = self.bouncers.iter().map(|(mode, process, port)| {
            let peer = Route {
                name: format!("PgBouncer, {mode}"),
                port: *port,
                pid: Some(process.pid()),
                ..self.direct()
            };
            let routes = match *mode {
                "session" => vec![
                    gateway("session, best-effort", "loose", false),
                    gateway("session, required", "shop", true),
                ],
                _ => vec![
                    gateway("transaction, best-effort", "looser", false),
                    gateway("transaction, required", "shared", true),
                ],
            };
            Compared { mode, peer, routes }
        });
        bouncers.collect()
    }
}

/// The gateway, with a resource for each way of pooling and of keeping records.
fn start_gateway(cluster: &Cluster, issuer: &Issuer, ships: bool) -> Result<Running> {
    let session = format!("sessions: {SESSIONS}");
    let transaction = format!("mode: transaction, size: {SHARED}, sessions: {CLIENTS_MAX}");
    let resource = |name: &str, pool: &str, audit: &str| {
        format!(
            "  {name}:
    url: postgres://127.0.0.1:{}/postgres
    login: {{ user: authenticator, password: \"env:BENCH_PASSWORD\" }}
    roles: {{ {ROLE}: {{ password: \"env:BENCH_PASSWORD\" }} }}
    pool: {{ {pool} }}
    audit: {audit}
",
            cluster.port()
        )
    };
    let grant = |name: &str| {
        let allow = format!("[read {name}/public/*, write {name}/public/sink]");
        format!(
            "  {name}: {{ to: group:readers, allow: {allow}, as: {ROLE}, limit: 1000000/s burst 1000000 }}\n"
        )
    };
    let resources = [
        ("shop", &session, "required"),
        ("loose", &session, "best-effort"),
        ("shared", &transaction, "required"),
        ("looser", &transaction, "best-effort"),
    ];
    let config = format!(
        "version: 1
environment: bench
listen: {{ http: 127.0.0.1:0, admin: 127.0.0.1:0, postgres: 127.0.0.1:0 }}
http: {{ connections: {CLIENTS_MAX}, connections_per_ip: {CLIENTS_MAX} }}
issuers: {{ idp: {{ url: \"{}\", audience: doorward }} }}
resources:
{}grants:
{}",
        issuer.url(),
        resources.iter().map(|(name, pool, audit)| resource(name, pool, audit)).collect::<String>(),
        resources.iter().map(|(name, ..)| grant(name)).collect::<String>(),
    );
    let setup = Setup::new(&config)?.env("BENCH_PASSWORD", PASSWORD).env("TOKIO_WORKER_THREADS", "1");
    let setup = if ships { setup } else { setup.arg("--leave-records-in-spool") };
    let gateway = setup.start()?;
    pin(gateway.pid(), PROXY_CORE)?;
    Ok(gateway)
}

fn fill(cluster: &Cluster) -> Result<()> {
    let made = Command::new("pgbench")
        .args([
            "-i",
            "-q",
            "-s",
            "10",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-p",
            &cluster.port().to_string(),
        ])
        .arg("postgres")
        .env("PGPASSWORD", cluster.password())
        .run()
        .context("pgbench")?;
    ensure!(made.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&made.stderr));
    // VACUUM stands by itself, and psql sends one text as one transaction.
    for statement in WIDE.split_inclusive(';').filter(|statement| !statement.trim().is_empty()) {
        cluster.sql(statement)?;
    }
    Ok(())
}

fn start_bouncer(
    cluster: &Cluster,
    mode: &'static str,
    folder: &std::path::Path,
) -> Result<(&'static str, Guarded, u16)> {
    let port = free_port()?;
    let users = folder.join("users.txt");
    std::fs::write(&users, format!("\"{ROLE}\" \"{PASSWORD}\"\n"))?;
    let file = folder.join(format!("{mode}.ini"));
    let size = if mode == "session" { SESSIONS } else { SHARED };
    let text = format!(
        "[databases]
postgres = host=127.0.0.1 port={} dbname=postgres user={ROLE} password={PASSWORD}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {}
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = {CLIENTS_MAX}
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
log_stats = 0
",
        cluster.port(),
        users.display()
    );
    std::fs::write(&file, text)?;
    let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];
    let program = program.into_iter().find(|path| std::path::Path::new(path).exists());
    let mut command = Command::new(program.context("no PgBouncer here; run scripts/setup.sh bench")?);
    // It runs as anybody but root.
    if Command::new("id").arg("-u").run()?.stdout == b"0\n" {
        open_to_all(folder)?;
        command.args(["-u", "postgres"]);
    }
    command.arg(&file);
    let log = folder.join(format!("{mode}.log"));
    let mut process = Guarded::start("pgbouncer", &mut command, &log, Signal::Term, None)?;
    let ready = wait_until(READY_SPAN_MAX, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    ensure!(ready && process.alive(), "PgBouncer does not start: {}", process.log());
    pin(process.pid(), PROXY_CORE)?;
    Ok((mode, process, port))
}

fn open_to_all(folder: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755))?)
}

/// PostgreSQL's processes inherit the core of the postmaster.
fn pin_server(cluster: &Cluster) -> Result<()> {
    let pids = cluster.sql("select pid from pg_stat_activity")?;
    let postmaster = cluster.sql("select pg_read_file('postmaster.pid', 0, 12)")?;
    let first = postmaster.lines().next().unwrap_or_default().trim().parse()?;
    for pid in pids.lines().filter_map(|pid| pid.trim().parse().ok()).chain([first]) {
        // A session of psql's may have ended meanwhile.
        let _ = pin(pid, OTHER_CORE);
    }
    Ok(())
}
