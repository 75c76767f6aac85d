//! The Postgres door beside PgBouncer, with `pgbench -S`: CPU per transaction, what one client waits longer, bytes
//! per CPU-second of wide rows and COPY, memory of idle clients.
//!
//! One worker thread each and the same pool, pinned to one core; PostgreSQL and the load on the other. Routes take
//! turns within a round, and ratios are taken within a round: the machine's speed drifts. The gateway decides and
//! records each statement; `required` answers nothing without a durable record, `best-effort` does not wait for it.

mod bed;
mod bulk;
mod idle;
mod load;

use anyhow::Result;

use crate::table::{Table, Target, median};
use bed::{Bed, Route};
use load::{Load, p50_micros};

pub use bulk::run as bulk;
pub use idle::run as idle;

/// CPU per transaction, against PgBouncer.
const REQUIRED_RATIO_MAX: f64 = 2.0;
const BEST_EFFORT_RATIO_MAX: f64 = 1.3;
/// What one client waits longer for, where it does not wait for the record.
const ADDED_MICROS_MAX: f64 = 60.0;
const CLIENTS: [usize; 4] = [1, 8, 32, 100];
const CLIENTS_BRIEF: [usize; 2] = [1, 32];
const ROUNDS: usize = 5;
const ROUNDS_BRIEF: usize = 3;
const LATENCY_ROUNDS: usize = 5;

/// CPU per transaction by one protocol of pgbench.
pub fn transactions(table: &Table, brief: bool, protocol: &'static str) -> Result<()> {
    let bed = Bed::set_up(false)?;
    let clients = if brief { &CLIENTS_BRIEF[..] } else { &CLIENTS[..] };
    for &clients in clients {
        let load = Load { clients, protocol, seconds: if brief { 1 } else { 2 } };
        table.heading(&format!("postgres: pgbench -S, {protocol}, {clients} clients; CPU per transaction"));
        for pool in bed.pools() {
            // Before 1.21 PgBouncer has no prepared statements in transaction mode: its session mode stands in.
            let rounds = if brief { ROUNDS_BRIEF } else { ROUNDS };
            if protocol == "prepared" && pool.mode == "transaction" {
                let session = bed.pools().swap_remove(0);
                compare(table, &session.peer, &pool.routes, load, rounds)?;
                continue;
            }
            compare(table, &pool.peer, &pool.routes, load, rounds)?;
        }
    }
    Ok(())
}

/// One load on PgBouncer and on the gateway's routes, in turns.
fn compare(table: &Table, peer: &Route, routes: &[Route], load: Load, rounds: usize) -> Result<()> {
    let mut below = Vec::new();
    let mut above: Vec<(Vec<_>, Vec<f64>)> = routes.iter().map(|_| Default::default()).collect();
    for _ in 0..rounds {
        let floor = load.run(peer)?;
        for (route, (all, ratios)) in routes.iter().zip(&mut above) {
            let outcome = load.run(route)?;
            ratios.push(outcome.cpu_micros() / floor.cpu_micros());
            all.push(outcome);
        }
        below.push(floor);
    }
    table.tell(&*peer.name, median_of(&below, |outcome| outcome.cpu_micros()), "us/tx");
    for (route, (all, ratios)) in routes.iter().zip(&mut above) {
        let name = &route.name;
        table.tell(format!("{name}: worker"), median_of(all, |outcome| outcome.micros_of("tokio-")), "us/tx");
        table.tell(format!("{name}: spool"), median_of(all, |outcome| outcome.micros_of("audit-")), "us/tx");
        let target = if route.required { REQUIRED_RATIO_MAX } else { BEST_EFFORT_RATIO_MAX };
        table.judge(format!("{name}: CPU, gateway / PgBouncer"), median(ratios), "x", Target::AtMost(target));
        let rates = median_of(all, |outcome| outcome.rate) / median_of(&below, |outcome| outcome.rate);
        table.tell(format!("{name}: rate, gateway / PgBouncer"), rates, "x");
    }
    Ok(())
}

fn median_of(all: &[load::Outcome], figure: impl Fn(&load::Outcome) -> f64) -> f64 {
    median(&mut all.iter().map(figure).collect::<Vec<_>>())
}

/// What one client waits longer than directly at the server.
pub fn latency(table: &Table, _: bool) -> Result<()> {
    let bed = Bed::set_up(false)?;
    table.heading("postgres: one client, p50 of a transaction beyond the server's own");
    let direct = bed.direct();
    let pools = bed.pools();
    let routes: Vec<&Route> =
        pools.iter().flat_map(|pool| [&pool.peer].into_iter().chain(&pool.routes)).collect();
    for protocol in ["simple", "prepared"] {
        let mut own = Vec::new();
        let mut added: Vec<Vec<f64>> = vec![Vec::new(); routes.len()];
        for _ in 0..LATENCY_ROUNDS {
            let floor = p50_micros(&direct, protocol)?;
            own.push(floor);
            for (route, added) in routes.iter().zip(&mut added) {
                if protocol == "prepared" && route.name == "PgBouncer, transaction" {
                    continue;
                }
                added.push(p50_micros(route, protocol)? - floor);
            }
        }
        table.tell(format!("{protocol}: directly"), median(&mut own), "us");
        for (route, added) in routes.iter().zip(&mut added).filter(|(_, added)| !added.is_empty()) {
            let name = format!("{protocol}: added by {}", route.name);
            match route.waits_for_nothing() {
                true => table.judge(name, median(added), "us", Target::AtMost(ADDED_MICROS_MAX)),
                false => table.tell(name, median(added), "us"),
            }
        }
    }
    Ok(())
}

/// What becomes of the records behind the spool, by thread.
pub fn shipping(table: &Table, _: bool) -> Result<()> {
    let bed = Bed::set_up(true)?;
    table.heading("postgres: with the log of records and the store (SQLite) behind the spool");
    let load = Load { clients: 32, protocol: "simple", seconds: 5 };
    for route in bed.pools().iter().take(1).flat_map(|pool| &pool.routes) {
        let outcome = load.run(route)?;
        for (thread, what) in [
            ("tokio-", "worker"),
            ("audit-writer", "spool"),
            ("audit-log", "log"),
            ("audit-shipper", "shipper"),
        ] {
            table.tell(format!("{}: {what}", route.name), outcome.micros_of(thread), "us/tx");
        }
    }
    Ok(())
}
