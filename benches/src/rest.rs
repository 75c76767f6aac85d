//! The REST door against its floor: CPU per request and requests per second for a primary-key read and a
//! 100-row read, with token, grant, limit and durable record on; memory over a million requests.
//!
//! One worker thread each, pinned to one core; PostgreSQL and the load generator on the other. Targets take
//! turns within a round, and ratios are taken within a round: the machine's speed drifts.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doorward_testkit::child::{Guarded, Signal};
use doorward_testkit::gateway::{Running, Setup};
use doorward_testkit::issuer::{Alg, Issuer};
use doorward_testkit::postgres::{Cluster, Durability, Installation};
use doorward_testkit::program::Bounded;
use doorward_testkit::wait_until;

use crate::floor::{Plan, Route};
use crate::process::{cpu_nanos, pin, resident_bytes};
use crate::table::{Table, Target, median};

const ROUNDS: usize = 5;
const ROUND: &str = "2s";
const CONNECTIONS: usize = 32;
const POOL: usize = 8;
const GATEWAY_CORE: usize = 0;
const OTHER_CORE: usize = 1;
const FLOOR_RATIO_MAX: f64 = 1.4;
const MEGABYTE: f64 = 1024.0 * 1024.0;
/// Requests over which memory is watched.
const MANY: u64 = 1_000_000;

const SCHEMA: &str = "
create role reader nologin;
create role authenticator noinherit login password 'bench';
grant reader to authenticator;
create table items (id int primary key, name text not null, price numeric not null, created timestamptz not null);
insert into items select n, 'item ' || n, n * 1.5, timestamptz '2026-01-01' + n * interval '1 minute' from generate_series(1, 10000) n;
grant select on items to reader;
analyze items;";

/// What is asked: a name, the request, and the values that its statement takes.
const CASES: [(&str, &str, &str); 2] =
    [("primary key", "/shop/items?id=eq.77", "77"), ("100 rows", "/shop/items?order=id&limit=100", "100")];
/// The column of the gateway's statement that is the body.
const BODY_COLUMN: usize = 2;

struct Bed {
    gateway: Running,
    floor: Guarded,
    floor_address: String,
    token: String,
    _issuer: Issuer,
    _cluster: Cluster,
    _folder: tempfile::TempDir,
}

/// `brief` leaves out the million requests.
pub fn run(table: &Table, brief: bool) -> Result<()> {
    let bed = set_up()?;
    table.heading("rest: one worker thread each, 32 connections, spool on, shipping off");
    let idle = resident_bytes(bed.gateway.pid())?;
    table.judge("idle memory", mega(idle), "MB", Target::AtMost(30.0));
    for (name, path, _) in CASES {
        compare(table, &bed, name, path)?;
    }
    if brief { Ok(()) } else { many(table, &bed) }
}

fn compare(table: &Table, bed: &Bed, name: &str, path: &str) -> Result<()> {
    let gateway = Load {
        address: bed.gateway.address("http")?.to_string(),
        pid: bed.gateway.pid(),
        path,
        token: &bed.token,
    };
    let floor = Load { address: bed.floor_address.clone(), pid: bed.floor.pid(), path, token: &bed.token };
    let (mut cpu_ratios, mut rate_ratios) = (Vec::new(), Vec::new());
    let (mut gateway_cpu, mut floor_cpu, mut gateway_rate, mut floor_rate) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let below = floor.run(ROUND)?;
        let above = gateway.run(ROUND)?;
        cpu_ratios.push(above.cpu_micros / below.cpu_micros);
        rate_ratios.push(above.rate / below.rate);
        gateway_cpu.push(above.cpu_micros);
        floor_cpu.push(below.cpu_micros);
        gateway_rate.push(above.rate);
        floor_rate.push(below.rate);
    }
    table.tell(format!("{name}: floor CPU"), median(&mut floor_cpu), "us/req");
    table.tell(format!("{name}: gateway CPU"), median(&mut gateway_cpu), "us/req");
    table.judge(
        format!("{name}: CPU, gateway / floor"),
        median(&mut cpu_ratios),
        "x",
        Target::AtMost(FLOOR_RATIO_MAX),
    );
    table.tell(format!("{name}: floor"), median(&mut floor_rate), "req/s");
    table.tell(format!("{name}: gateway"), median(&mut gateway_rate), "req/s");
    table.tell(format!("{name}: rate, gateway / floor"), median(&mut rate_ratios), "x");
    Ok(())
}

/// Memory after a tenth of the requests against memory after all of them.
fn many(table: &Table, bed: &Bed) -> Result<()> {
    let address = bed.gateway.address("http")?.to_string();
    let load = Load { address, pid: bed.gateway.pid(), path: CASES[0].1, token: &bed.token };
    let mut done = 0;
    let mut early = None;
    while done < MANY {
        done += load.run("10s")?.requests;
        if early.is_none() && done > MANY / 10 {
            early = Some(resident_bytes(load.pid)?);
        }
    }
    let late = resident_bytes(load.pid)?;
    let early = early.unwrap_or(late);
    table.tell("memory after 100,000 requests", mega(early), "MB");
    table.tell("memory after 1,000,000 requests", mega(late), "MB");
    table.judge("memory growth over a million requests", mega(late) / mega(early), "x", Target::AtMost(1.2));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "megabytes of memory")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / MEGABYTE
}

/// One target under load.
struct Load<'a> {
    address: String,
    pid: u32,
    path: &'a str,
    token: &'a str,
}

struct Outcome {
    rate: f64,
    cpu_micros: f64,
    requests: u64,
}

impl Load<'_> {
    #[expect(clippy::cast_precision_loss, reason = "averages over seconds")]
    fn run(&self, span: &str) -> Result<Outcome> {
        let script = tempfile::NamedTempFile::new()?;
        // The token goes by the environment: it stands in no process's arguments.
        std::fs::write(script.path(), WRK_SCRIPT)?;
        let before = cpu_nanos(self.pid)?;
        let output = Command::new("taskset")
            .args([
                "-c",
                &OTHER_CORE.to_string(),
                "wrk",
                "-t1",
                &format!("-c{CONNECTIONS}"),
                "-d",
                span,
                "-s",
            ])
            .arg(script.path())
            .arg(format!("http://{}{}", self.address, self.path))
            .env("BENCH_TOKEN", self.token)
            .run()
            .context("wrk")?;
        let used = cpu_nanos(self.pid)? - before;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("RESULT "))
            .with_context(|| format!("wrk said: {text}"))?;
        let numbers: Vec<u64> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
        let [requests, micros, errors] = numbers[..] else { anyhow::bail!("wrk said: {line}") };
        ensure!(errors == 0, "{errors} of {requests} answers were no success");
        let rate = requests as f64 / (micros as f64 / 1e6);
        Ok(Outcome { rate, cpu_micros: used as f64 / 1e3 / requests as f64, requests })
    }
}

const WRK_SCRIPT: &str = r#"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN")
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() bad = 0 end
function response(status) if status ~= 200 then bad = bad + 1 end end
function done(summary)
  local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  for _, thread in ipairs(threads) do errors = errors + thread:get("bad") end
  print(string.format("RESULT %d %d %d", summary.requests, summary.duration, errors))
end
"#;

fn set_up() -> Result<Bed> {
    let cluster = Cluster::start_new(Installation::debian()?, Durability::Safe)?;
    cluster.sql(SCHEMA)?;
    let issuer = Issuer::start_with(&[Alg::Es256])?;
    let token = issuer.token("bench").claim("groups", vec!["readers"]).expires_in(3600).sign()?;
    let config = format!(
        "version: 1
environment: bench
listen: {{ http: 127.0.0.1:0, admin: 127.0.0.1:0 }}
issuers: {{ idp: {{ url: \"{}\", audience: doorward }} }}
resources:
  shop:
    url: postgres://127.0.0.1:{}/postgres
    login: {{ user: authenticator, password: \"env:BENCH_PASSWORD\" }}
    pool: {{ size: {POOL} }}
grants:
  readers: {{ to: group:readers, allow: read shop/public/*, as: reader, limit: 1000000/s burst 1000000 }}
",
        issuer.url(),
        cluster.port()
    );
    let setup = Setup::new(&config)?
        .env("BENCH_PASSWORD", "bench")
        .env("TOKIO_WORKER_THREADS", "1")
        .arg("--leave-records-in-spool");
    let gateway = setup.start()?;
    pin(gateway.pid(), GATEWAY_CORE)?;
    pin_cluster(&cluster)?;
    let folder = tempfile::tempdir()?;
    let (floor, floor_address) = start_floor(&cluster, &gateway, &token, folder.path())?;
    pin(floor.pid(), GATEWAY_CORE)?;
    let bed =
        Bed { gateway, floor, floor_address, token, _issuer: issuer, _cluster: cluster, _folder: folder };
    same_answers(&bed)?;
    Ok(bed)
}

/// The gateway's own statements, read back from the server, are what the floor runs.
fn start_floor(
    cluster: &Cluster,
    gateway: &Running,
    token: &str,
    folder: &Path,
) -> Result<(Guarded, String)> {
    let mut routes = Vec::new();
    for (_, path, value) in CASES {
        get(&gateway.address("http")?.to_string(), path, token)?;
        let sql = cluster.sql(
            "select query from pg_stat_activity where usename = 'authenticator' and query ilike '%items%'
             order by query_start desc limit 1",
        )?;
        ensure!(!sql.trim().is_empty(), "the gateway's statement is not to be seen");
        let sql = sql.trim().to_owned();
        routes.push(Route {
            path: path.to_owned(),
            sql,
            params: vec![value.to_owned()],
            body_column: BODY_COLUMN,
        });
    }
    let ready_file = folder.join("floor");
    let plan = Plan {
        dsn: format!(
            "host=127.0.0.1 port={} user=authenticator password=bench dbname=postgres",
            cluster.port()
        ),
        setup: "set role reader; set default_transaction_read_only = on".to_owned(),
        routes,
        connections: POOL,
        ready_file: ready_file.display().to_string(),
    };
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("floor").env("FLOOR", serde_json::to_string(&plan)?).stdin(Stdio::null());
    let floor = Guarded::start("floor", &mut command, &folder.join("log"), Signal::Term, None)?;
    let ready = || std::fs::read_to_string(&ready_file).is_ok_and(|text| !text.is_empty());
    ensure!(wait_until(Duration::from_secs(10), ready), "the floor did not start: {}", floor.log());
    Ok((floor, std::fs::read_to_string(&ready_file)?))
}

/// Two servers are compared only when they say the same.
fn same_answers(bed: &Bed) -> Result<()> {
    for (name, path, _) in CASES {
        let above = get(&bed.gateway.address("http")?.to_string(), path, &bed.token)?;
        let below = get(&bed.floor_address, path, &bed.token)?;
        ensure!(
            above == below && above.starts_with('['),
            "{name}: the gateway says {above}, the floor {below}"
        );
    }
    Ok(())
}

fn get(address: &str, path: &str, token: &str) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answer = doorward_testkit::http::StrictClient::new(format!("http://{address}"))
            .bearer(token)
            .get(path)
            .await?;
        ensure!(answer.status == 200, "{address}{path} answers {}", answer.status);
        Ok(answer.text())
    })
}

/// PostgreSQL's processes inherit the core of the postmaster.
fn pin_cluster(cluster: &Cluster) -> Result<()> {
    let pids = cluster.sql("select pid from pg_stat_activity union select pg_backend_pid()")?;
    let postmaster: u32 = cluster
        .sql("select pg_read_file('postmaster.pid', 0, 12)")?
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .parse()?;
    for pid in pids.lines().filter_map(|pid| pid.trim().parse().ok()).chain([postmaster]) {
        // A session of psql's may have ended meanwhile.
        let _ = pin(pid, OTHER_CORE);
    }
    Ok(())
}
