//! pgbench as the load, and the CPU that the process in between uses meanwhile.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use doorward_testkit::program::Bounded;

use super::bed::Route;
use crate::process::cpu_by_thread;

/// Seconds of one client whose transactions are looked at one by one.
const LATENCY_SECONDS: &str = "2";

/// A load of pgbench.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub clients: usize,
    pub protocol: &'static str,
    /// How long it is measured, behind one second in which clients connect.
    pub seconds: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Transactions per second.
    pub rate: f64,
    transactions: f64,
    nanos: BTreeMap<String, u64>,
}

impl Outcome {
    /// CPU of all threads for each transaction.
    pub fn cpu_micros(&self) -> f64 {
        self.micros_of("")
    }

    /// CPU of the threads whose names begin so.
    pub fn micros_of(&self, name: &str) -> f64 {
        let of_name = self.nanos.iter().filter(|(thread, _)| thread.starts_with(name));
        of_name.map(|(_, nanos)| *nanos as f64).sum::<f64>() / 1e3 / self.transactions
    }
}

impl Load {
    pub fn run(self, route: &Route) -> Result<Outcome> {
        let pid = route.pid.context("nothing stands in between")?;
        let mut program = route
            .command("pgbench")
            .args(["-S", "-n", "-P", "1", "-M", self.protocol, "-j", "1"])
            .args(["-c", &self.clients.to_string(), "-T", &(self.seconds + 2).to_string(), route.database])
            .open()?;
        let mut said = String::new();
        let mut marks = Vec::new();
        while let Ok(line) = program.error_line() {
            said.push_str(&line);
            said.push('\n');
            if let Some(rate) = line.strip_prefix("progress: ").and_then(rate)
                && marks.len() <= self.seconds
            {
                marks.push((Instant::now(), rate, cpu_by_thread(pid)?));
            }
        }
        let output = program.end()?;
        let end = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() && end.contains("number of failed transactions: 0 "),
            "{}: pgbench said: {said}{end}",
            route.name
        );
        let (Some((_, _, before)), Some((_, _, after))) = (marks.first(), marks.last()) else {
            anyhow::bail!("pgbench said: {said}")
        };
        let mut transactions = 0.0;
        let mut span = 0.0;
        for pair in marks.windows(2) {
            let seconds = pair[1].0.duration_since(pair[0].0).as_secs_f64();
            transactions += pair[1].1 * seconds;
            span += seconds;
        }
        ensure!(transactions > 0.0, "{}: nothing was measured: {said}", route.name);
        let used = |(name, nanos): (&String, &u64)| {
            (name.clone(), nanos.saturating_sub(before.get(name).copied().unwrap_or(0)))
        };
        Ok(Outcome { rate: transactions / span, transactions, nanos: after.iter().map(used).collect() })
    }
}

/// `1.0 s, 41208.8 tps, …`
fn rate(line: &str) -> Option<f64> {
    line.split(", ").find_map(|part| part.strip_suffix(" tps"))?.parse().ok()
}

/// The median of what one client waits for a transaction.
pub fn p50_micros(route: &Route, protocol: &str) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let output = route
        .command("pgbench")
        .args(["-S", "-n", "-M", protocol, "-c", "1", "-T", LATENCY_SECONDS, "--log", "--log-prefix"])
        .arg(folder.path().join("log"))
        .arg(route.database)
        .run()?;
    ensure!(output.status.success(), "{}: {}", route.name, String::from_utf8_lossy(&output.stderr));
    let mut micros = Vec::new();
    for file in std::fs::read_dir(folder.path())? {
        let text = std::fs::read_to_string(file?.path())?;
        micros.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()));
    }
    ensure!(!micros.is_empty(), "pgbench has logged nothing");
    Ok(crate::table::median(&mut micros))
}
