//! Wide rows and COPY: bytes that pass for each second of CPU.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use doorward_testkit::program::Bounded;

use super::bed::{Bed, Route};
use crate::process::cpu_nanos;
use crate::table::{Table, Target, median};

/// Against PgBouncer.
const RATIO_MIN: f64 = 0.8;
const ROUNDS: usize = 3;
/// How often a client sends the statement.
const TIMES: usize = 8;
/// What one statement carries: 2,000 rows of 8 kB.
const MEGABYTES: f64 = 16.0;
const NOWHERE: &str = "/dev/null";

/// What is carried.
#[derive(Clone, Copy, Debug)]
enum Cargo {
    Rows,
    CopyOut,
    CopyIn,
}

pub fn run(table: &Table, _: bool) -> Result<()> {
    let bed = Bed::set_up(false)?;
    let folder = tempfile::tempdir()?;
    let rows = folder.path().join("rows");
    copy(&bed.direct(), Cargo::CopyOut, 1, &rows, &rows)?;
    table.heading("postgres: bytes per second of CPU, one client, 8 kB a row");
    for (cargo, name) in
        [(Cargo::Rows, "wide rows"), (Cargo::CopyOut, "COPY out"), (Cargo::CopyIn, "COPY in")]
    {
        for pool in bed.pools() {
            let mut below = Vec::new();
            let mut above: Vec<(Vec<f64>, Vec<f64>)> =
                pool.routes.iter().map(|_| Default::default()).collect();
            for _ in 0..ROUNDS {
                let floor = measure(&pool.peer, cargo, &rows)?;
                below.push(floor);
                for (route, (all, ratios)) in pool.routes.iter().zip(&mut above) {
                    let rate = measure(route, cargo, &rows)?;
                    all.push(rate);
                    ratios.push(rate / floor);
                }
            }
            table.tell(format!("{name}: {}", pool.peer.name), median(&mut below), "MB/s");
            for (route, (all, ratios)) in pool.routes.iter().zip(&mut above) {
                let what = format!("{name}: {}", route.name);
                table.tell(what.as_str(), median(all), "MB/s");
                table.judge(
                    format!("{what}, gateway / PgBouncer"),
                    median(ratios),
                    "x",
                    Target::AtLeast(RATIO_MIN),
                );
            }
        }
    }
    Ok(())
}

/// Megabytes per second of the proxy's CPU.
fn measure(route: &Route, cargo: Cargo, rows: &Path) -> Result<f64> {
    let pid = route.pid.context("nothing stands in between")?;
    let before = cpu_nanos(pid)?;
    copy(route, cargo, TIMES, rows, Path::new(NOWHERE))?;
    let seconds = (cpu_nanos(pid)? - before) as f64 / 1e9;
    Ok(MEGABYTES * TIMES as f64 / seconds)
}

/// `out` is where psql puts what is copied out.
fn copy(route: &Route, cargo: Cargo, times: usize, rows: &Path, out: &Path) -> Result<()> {
    let mut command;
    match cargo {
        // pgbench takes rows in without printing them.
        Cargo::Rows => {
            let script = rows.with_extension("sql");
            std::fs::write(&script, "select * from wide;\n")?;
            command = route.command("pgbench");
            command.args(["-n", "-c", "1", "-t", &times.to_string(), "-f"]).arg(&script).arg(route.database);
        }
        Cargo::CopyOut => {
            command = route.command("psql");
            command.args(["-X", "-q", "-d", route.database]).arg("-o").arg(out);
            for _ in 0..times {
                command.args(["-c", "copy wide to stdout"]);
            }
        }
        Cargo::CopyIn => {
            let mut line = std::ffi::OsString::from("\\copy sink from '");
            line.push(rows);
            line.push("'");
            command = route.command("psql");
            command.args(["-X", "-q", "-d", route.database]);
            for _ in 0..times {
                command.arg("-c").arg(&line);
            }
        }
    }
    let output = command.run()?;
    ensure!(output.status.success(), "{}: {}", route.name, String::from_utf8_lossy(&output.stderr));
    Ok(())
}
