//! The timeline in PostgreSQL and TimescaleDB, by the real binary: made by `store migrate`, written by the
//! gateway through every fault that a connection can have, and read by SQL. What was answered is counted
//! against what is in the store.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::{Running, Setup};
use doorward_testkit::http::StrictClient;
use doorward_testkit::postgres::{Cluster, Database};
use doorward_testkit::program::Bounded;
use doorward_testkit::proxy::FaultProxy;
use doorward_testkit::{Raised, pause, wait_until};

use crate::bed::{Bed, GRANTS, SHOP, block_on, id_of};

/// The store's writer, which must show nowhere either.
const STORE_PASSWORD: &str = "s3cret-of-the-stores-writer";
const READER_PASSWORD: &str = "s3cret-of-the-stores-reader";
const LOADERS: usize = 4;
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(60);

/// A gateway whose timeline is in a database, reached through a proxy that can be told to fail.
struct Timeline<'c> {
    bed: Bed,
    store: Database<'c>,
    proxy: FaultProxy,
    seen: Mutex<HashSet<String>>,
}

impl<'c> Timeline<'c> {
    fn start(cluster: &'c Cluster) -> Result<Self> {
        let store = cluster.database()?;
        let proxy = FaultProxy::start(cluster.port())?;
        let sections = format!(
            "{GRANTS}
store:
  url: postgres://dw_gateway@127.0.0.1:{}/{}
  password: env:STORE_PASSWORD
  reader: {{ user: dw_reader, password: env:READER_PASSWORD }}
",
            proxy.port(),
            store.name()
        );
        let bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
            let setup = Setup::new(&format!("{config}{sections}"))?
                .env("STORE_PASSWORD", STORE_PASSWORD)
                .env("READER_PASSWORD", READER_PASSWORD)
                .env("DOORWARD_ADMIN_PASSWORD", cluster.password())
                .env("SHOP_PASSWORD", crate::bed::PASSWORD);
            // Dry first: it prints SQL, and makes nothing.
            let dry = setup.run(&["store", "migrate", "--create-logins", "--dry-run"])?;
            let text = String::from_utf8_lossy(&dry.stdout);
            ensure!(dry.status.success() && text.contains("CREATE TABLE doorward.access_event"), "{dry:?}");
            ensure!(
                !text.contains(STORE_PASSWORD) && !text.contains(READER_PASSWORD),
                "a password is printed"
            );
            ensure!(store.sql("select count(*) from pg_namespace where nspname = 'doorward'")? == "0");
            for _ in 0..2 {
                let done = setup.run(&["store", "migrate", "--create-logins"])?;
                ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            }
            Ok(setup)
        })?;
        Ok(Self { bed, store, proxy, seen: Mutex::default() })
    }

    fn gateway(&self) -> &Running {
        &self.bed.gateway
    }

    /// Calls for as long as `work` takes, and keeps the ids of those that were answered.
    fn under_load(&self, work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let stop = AtomicBool::new(false);
        let client = self.bed.client("loader", &["writers"])?;
        std::thread::scope(|scope| {
            let loaders: Vec<_> = (0..LOADERS)
                .map(|_| {
                    let (client, stop) = (client.clone(), &stop);
                    scope.spawn(move || block_on(self.load(client, stop)))
                })
                .collect();
            let over = Raised(&stop);
            let worked = work(self);
            drop(over);
            for loader in loaders {
                loader.join().ok().context("the load panicked")??;
            }
            worked
        })
    }

    async fn load(&self, client: StrictClient, stop: &AtomicBool) {
        while !stop.load(Ordering::SeqCst) {
            // The gateway may be gone, which a test may want, or the disk may take its time.
            let Ok(answer) = client.get("/shop/orders?limit=1&select=id").await else {
                pause(Duration::from_millis(20));
                continue;
            };
            if answer.status == 200
                && let (Ok(id), Ok(mut seen)) = (id_of(&answer), self.seen.lock())
            {
                seen.insert(id);
            }
        }
    }

    /// Asks for a fault, and waits until it has broken a connection.
    fn breaks(&self, fault: impl FnOnce(&FaultProxy)) -> Result<()> {
        let before = self.proxy.faults();
        fault(&self.proxy);
        let broken = wait_until(CAUGHT_UP_WITHIN, || self.proxy.faults() > before);
        ensure!(broken, "no connection was broken: {}", self.gateway().log());
        Ok(())
    }

    /// Waits until so many calls more were answered, however busy the machine is.
    fn answered(&self, more: usize) -> Result<()> {
        let count = || self.seen.lock().map_or(0, |seen| seen.len());
        let before = count();
        ensure!(wait_until(CAUGHT_UP_WITHIN, || count() >= before + more), "there is hardly any load");
        Ok(())
    }

    /// Each call that was answered is in the store, and nothing is there twice.
    fn check(&self, what: &str) -> Result<()> {
        let seen = self.seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
        let mut kept: Vec<String> = Vec::new();
        let caught_up = wait_until(CAUGHT_UP_WITHIN, || {
            let rows = self.store.sql(
                "select access_id from doorward.access_event where action_index = 0
                 union all select access_id from doorward.dead_letter",
            );
            kept = rows.unwrap_or_default().lines().map(str::to_owned).collect();
            let there: HashSet<&String> = kept.iter().collect();
            seen.iter().all(|id| there.contains(id))
        });
        let distinct: HashSet<&String> = kept.iter().collect();
        println!(
            "{what}: {} answered, {} in the store, {} distinct, {} connections broken",
            seen.len(),
            kept.len(),
            distinct.len(),
            self.proxy.faults()
        );
        ensure!(caught_up, "answered calls are not in the store: {}", self.gateway().log());
        ensure!(distinct.len() == kept.len(), "records are there twice");
        let places =
            "select count(*) - count(distinct (gateway_id, epoch, log_index)) from doorward.access_event";
        ensure!(self.store.sql(places)? == "0", "a place of the log is taken twice");
        Ok(())
    }
}

/// TimescaleDB where it can be had, PostgreSQL 15 otherwise.
fn best() -> Result<Cluster> {
    Cluster::timescale_if_possible()?.map_or_else(Cluster::debian, Ok)
}

#[test]
fn connections_that_break_anywhere_lose_nothing_and_double_nothing() -> Result<()> {
    let cluster = best()?;
    let timeline = Timeline::start(&cluster)?;
    timeline.under_load(|timeline| {
        // Anywhere: in the login, between statements, in mid-COPY.
        for bytes in [1, 60, 700, 3_000, 9_000, 15_000, 20_000, 33_000] {
            timeline.breaks(|proxy| proxy.cut_after(bytes))?;
        }
        // Right after COMMIT: whether it was committed is not known to the gateway.
        for _ in 0..8 {
            timeline.breaks(|proxy| proxy.swallow_answer_of("COMMIT"))?;
        }
        Ok(())
    })?;
    timeline.check("broken connections")
}

#[test]
fn a_store_that_is_away_and_a_gateway_that_is_killed_lose_nothing() -> Result<()> {
    let cluster = best()?;
    let mut timeline = Timeline::start(&cluster)?;
    timeline.under_load(|timeline| {
        pause(Duration::from_millis(300));
        timeline.proxy.refuse(true);
        pause(Duration::from_secs(3));
        timeline.proxy.refuse(false);
        pause(Duration::from_millis(300));
        // The server itself goes down hard and comes back.
        timeline.store.cluster().kill9()?;
        pause(Duration::from_millis(500));
        timeline.store.cluster().start()?;
        pause(Duration::from_millis(500));
        Ok(())
    })?;
    timeline.check("store away")?;
    for round in 1..=3 {
        timeline.under_load(|timeline| {
            timeline.answered(50)?;
            let pid = timeline.gateway().pid().to_string();
            let killed =
                std::process::Command::new("/bin/sh").args(["-c", "kill -9 \"$1\"", "kill", &pid]).run()?;
            ensure!(killed.status.success(), "the gateway could not be killed");
            Ok(())
        })?;
        // It is dead; this reaps it.
        timeline.bed.gateway.kill9().ok();
        timeline.bed.gateway.again().with_context(|| format!("round {round}"))?;
    }
    timeline.check("gateway killed")
}

#[test]
fn a_schema_that_changes_under_way_keeps_records_in_the_spool() -> Result<()> {
    let cluster = best()?;
    let timeline = Timeline::start(&cluster)?;
    timeline.under_load(|timeline| {
        pause(Duration::from_millis(400));
        timeline.store.sql("alter table doorward.access_event rename column door to gate")?;
        let admin = StrictClient::new(timeline.gateway().admin_url()?);
        let mut said = String::new();
        let told = wait_until(CAUGHT_UP_WITHIN, || {
            let answer = block_on(admin.get("/readyz")).and_then(|answer| answer);
            said = answer.map(|answer| answer.text()).unwrap_or_default();
            said.contains("doorward.access_event has no door text")
        });
        ensure!(told, "readiness does not say what differs: {said}");
        ensure!(
            timeline.store.sql("select count(*) from doorward.dead_letter")? == "0",
            "rows were given up"
        );
        timeline.store.sql("alter table doorward.access_event rename column gate to door")?;
        pause(Duration::from_millis(300));
        Ok(())
    })?;
    timeline.check("schema changed")
}

#[test]
fn one_row_that_the_store_refuses_stops_no_other() -> Result<()> {
    let cluster = best()?;
    let timeline = Timeline::start(&cluster)?;
    // What refuses a row here is the operator's own rule.
    timeline.store.sql(
        "alter table doorward.access_event add constraint own check (object is null or object not like '%hidden%') not valid",
    )?;
    timeline.under_load(|timeline| {
        let client = timeline.bed.client("loader", &["writers"])?;
        for _ in 0..3 {
            pause(Duration::from_millis(200));
            let answer = block_on(client.get("/shop/hidden?select=id"))??;
            let mut seen = timeline.seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
            seen.insert(id_of(&answer)?);
        }
        Ok(())
    })?;
    timeline.check("refused rows")?;
    let letters =
        "select count(*) || ' ' || count(*) filter (where reason like '%own%' and payload like '%hidden%'
                   and leaf_hash is not null) from doorward.dead_letter";
    ensure!(timeline.store.sql(letters)? == "3 3", "{}", timeline.store.sql(letters)?);
    Ok(())
}

#[test]
fn both_versions_of_postgres_keep_and_show_the_timeline() -> Result<()> {
    for cluster in [Cluster::debian()?, Cluster::newer()?] {
        let timeline = Timeline::start(&cluster)?;
        timeline.under_load(|timeline| timeline.answered(50))?;
        timeline.check("plain PostgreSQL")?;
        let shown = timeline.gateway().run(&["audit", "query", "--json", "--limit", "100000"])?;
        let rows = String::from_utf8(shown.stdout)?.lines().count();
        let kept: usize = timeline.store.sql("select count(*) from timeline.access_event")?.parse()?;
        ensure!(
            rows > 0 && rows == kept,
            "{rows} shown of {kept}: {}",
            String::from_utf8_lossy(&shown.stderr)
        );
        // Another role is let in, to what its scope says.
        cluster.ensure_role("team", &format!("login password '{READER_PASSWORD}'"))?;
        let admit = ["store", "reader", "team", "--environment", "elsewhere"];
        let admitted = timeline.gateway().run(&admit)?;
        ensure!(admitted.status.success(), "{}", String::from_utf8_lossy(&admitted.stderr));
        let seen = "select count(*) from timeline.access_event";
        ensure!(
            cluster.sql_as("team", READER_PASSWORD, timeline.store.name(), seen)? == "0",
            "too much is seen"
        );
        let doctor = timeline.gateway().run(&["doctor"])?;
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        ensure!(doctor.status.success() && !said.contains("warn"), "{said}");
        for words in ["PostgreSQL without TimescaleDB", "store schema", "scopes: 1", "issuer idp"] {
            ensure!(said.contains(words), "no {words:?} in {said}");
        }
        let default = "select count(*) from doorward.access_event_default";
        ensure!(timeline.store.sql(default)? == "0", "records are in the default partition");
    }
    Ok(())
}
