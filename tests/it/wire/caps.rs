//! One cap on the connections of a resource, for both doors together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use doorward_testkit::http::StrictClient;
use doorward_testkit::postgres::Cluster;
use doorward_testkit::wait_until;

use super::Shop;
use super::client::query;
use crate::bed::{SOON, block_on, on_newer};

/// The most connections of the gateway that the database has seen, until somebody says that it is enough.
const WATCHER: &str = "
create table enough (of int);
create function gateway_connections() returns bigint language sql volatile as $$
  select count(*) from pg_stat_activity where datname = current_database()
    and usename in ('authenticator', 'wire_reader', 'wire_writer') $$;
create function most_connections() returns bigint language plpgsql as $$
declare most bigint := 0; began timestamptz := clock_timestamp();
begin
  loop
    perform pg_stat_clear_snapshot();
    most := greatest(most, gateway_connections());
    exit when exists (select from enough) or clock_timestamp() > began + interval '3 minutes';
    perform pg_sleep(0.001);
  end loop;
  return most;
end $$;
";
/// Connections that only watch the catalogue: one for each door.
const WATCHES: usize = 2;
/// What each door has to get done while the other one is busy.
const ENOUGH: usize = 60;
const CALLERS: usize = 4;

fn shop(cluster: &'static Cluster, pool: &str) -> Result<Shop> {
    let shop = Shop::prepared(cluster, pool, |database| {
        cluster.sql("grant wire_reader to authenticator")?;
        database.sql(WATCHER)
    })?;
    let at_rest = || connections(&shop).is_ok_and(|count| count == WATCHES);
    ensure!(wait_until(SOON, at_rest), "{:?} {}", connections(&shop), shop.gateway.log());
    Ok(shop)
}

fn connections(shop: &Shop) -> Result<usize> {
    Ok(shop.database.sql("select gateway_connections()")?.trim().parse()?)
}

/// Calls of both doors until both have done enough. Nobody is refused.
fn mixed_load(shop: &Shop) -> Result<()> {
    let done = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let began = Instant::now();
    let goes_on = || {
        let each = done.iter().all(|done| done.load(Ordering::Relaxed) >= ENOUGH);
        !each && began.elapsed() < SOON
    };
    let sessions = |group: &'static str| -> Result<()> {
        let mut session = shop.connect(&[group])?;
        while goes_on() {
            ensure!(session.ask(&query("begin"))?.0 == "CZT");
            let (tags, code) = session.ask(&query("select count(*) from orders, pg_sleep(0.002)"))?;
            ensure!(tags == "TDCZT", "{tags} {code}");
            ensure!(session.ask(&query("commit"))?.0 == "CZI");
            done[0].fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let calls = || -> Result<()> {
        let client = StrictClient::new(shop.gateway.url()?).bearer(shop.token(&["readers"])?);
        block_on(async {
            while goes_on() {
                let answer = client.get("/shop/big?limit=50").await?;
                ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
                done[1].fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })?
    };
    thread::scope(|scope| {
        let groups = ["readers", "writers"].into_iter().cycle().take(CALLERS);
        let mut all: Vec<_> = groups.map(|group| scope.spawn(move || sessions(group))).collect();
        all.extend((0..CALLERS).map(|_| scope.spawn(calls)));
        all.into_iter().try_for_each(|one| one.join().ok().context("a caller panicked")?)
    })?;
    let done = done.map(AtomicUsize::into_inner);
    ensure!(done.iter().all(|done| *done >= ENOUGH), "one door starves: {done:?}; {}", shop.gateway.log());
    Ok(())
}

/// The most connections that the database sees during the load, those that watch left out.
fn most_during_load(shop: &Shop) -> Result<usize> {
    let most = thread::scope(|scope| {
        let watcher = scope.spawn(|| shop.database.sql("select most_connections()"));
        let loaded = mixed_load(shop);
        shop.database.sql("insert into enough values (1)")?;
        let most = watcher.join().ok().context("the watcher panicked")??;
        loaded.map(|()| most)
    })?;
    shop.database.sql("truncate enough")?;
    Ok(most.trim().parse::<usize>()?.saturating_sub(WATCHES))
}

#[test]
fn wire_caps_both_doors_together_stay_below_the_size_and_neither_starves() -> Result<()> {
    on_newer(|cluster| {
        let pool = "size: 3, mode: transaction, wait_max: 60s";
        let shop = shop(cluster, pool)?;
        let most = most_during_load(&shop)?;
        ensure!(most == 3, "{most} connections of 3; {}", shop.gateway.log());
        ensure!(shop.shows("doorward_pool_connections_max{resource=\"shop\"} 3"));
        // The same room is smaller after a reload, and what was there before counts.
        let config = std::fs::read_to_string(shop.gateway.folder().join("doorward.yaml"))?;
        ensure!(config.contains(pool));
        let mut held = shop.connect(&["readers"])?;
        ensure!(held.ask(&query("begin; select 1 from orders limit 1"))?.0 == "CTDCZT");
        shop.gateway.write("doorward.yaml", config.replace(pool, &pool.replace('3', "2")))?;
        shop.gateway.sighup()?;
        let smaller = || shop.shows("doorward_pool_connections_max{resource=\"shop\"} 2");
        ensure!(wait_until(SOON, smaller), "{}", shop.gateway.log());
        // The session that goes on has one of the two; the watches of before end with it.
        ensure!(wait_until(SOON, || connections(&shop).is_ok_and(|count| count <= 2 + 2 * WATCHES)));
        ensure!(held.ask(&query("commit"))?.0 == "CZI");
        held.leave()?;
        ensure!(wait_until(SOON, || connections(&shop).is_ok_and(|count| count <= 2 + WATCHES)));
        let most = most_during_load(&shop)?;
        ensure!(most <= 2, "{most} connections of 2; {}", shop.gateway.log());
        Ok(())
    })
}

#[test]
fn wire_caps_an_idle_connection_of_one_door_makes_room_for_the_other() -> Result<()> {
    on_newer(|cluster| {
        let shop = shop(cluster, "size: 1, sessions: 5, wait_max: 300ms")?;
        let status = || {
            let client = StrictClient::new(shop.gateway.url()?).bearer(shop.token(&["readers"])?);
            block_on(async { anyhow::Ok(client.get("/shop/orders?limit=1").await?.status) })?
        };
        for _ in 0..2 {
            ensure!(status()? == 200);
            let mut session = shop.connect(&["writers"])?;
            ensure!(session.value("select 1")? == "1");
            ensure!(connections(&shop)? == WATCHES + 1);
            // The one place is a session's for as long as it lives.
            ensure!(status()? == 504);
            session.leave()?;
            ensure!(
                wait_until(SOON, || status().is_ok_and(|status| status == 200)),
                "{}",
                shop.gateway.log()
            );
        }
        Ok(())
    })
}
