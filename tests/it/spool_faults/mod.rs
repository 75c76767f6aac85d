//! Faults by the hundred against the spool and the shipper, over a real store: what was acknowledged is in
//! the store, nothing is there twice.
//!
//! A test process plays the gateway's callers and lives many lives in one spool; the parent kills most of
//! them where they stand, turns the clock, flips bits in the spool, and lets a second gateway of the same
//! name live beside the first. `DOORWARD_FAULT_SEED` repeats a run's choices.

mod binary;
mod child;
mod encrypted;
mod faulty;
mod postgres;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use doorward_audit::Audit;
use doorward_testkit::child::{Guarded, Signal};
use doorward_testkit::program::Bounded;
use doorward_testkit::{pause, wait_until};

use child::Orders;

/// Lives of the gateway.
const LIVES: u64 = 40;
/// How long a life may take to begin.
const BEGIN: Duration = Duration::from_secs(90);
/// How long the last one may take to ship what is left.
const DRAIN: Duration = Duration::from_secs(120);
const ORDERS: &str = "DOORWARD_FAULT_ORDERS";
/// A disk that fills soon.
const SMALL_DISK: &str = "size=12m,mode=0700";

/// Random numbers that can be repeated: splitmix64.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap_or(0)
    }
}

/// How a store is looked into, apart from how it is written.
trait Look {
    /// The configuration's sections for it, in one line; by the way that has faults of its own, or past it.
    fn config(&self, faulty: bool) -> String;
    /// The outcome of each record, dead letters included, by access id.
    fn records(&self) -> Result<HashMap<String, Vec<String>>>;
    /// Records lost, as gaps say; gaps that do not know how many count as `None`.
    fn gaps(&self) -> Result<Vec<(u64, String)>>;
    /// Faults on the way to it.
    fn cuts(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

struct Sqlite(PathBuf);

impl Look for Sqlite {
    fn config(&self, _: bool) -> String {
        format!("{{ store: 'sqlite:{}' }}", self.0.display())
    }

    fn records(&self) -> Result<HashMap<String, Vec<String>>> {
        let connection = rusqlite::Connection::open(&self.0)?;
        let mut found: HashMap<String, Vec<String>> = HashMap::new();
        for sql in [
            "SELECT access_id, outcome FROM access_event",
            "SELECT DISTINCT access_id, 'dead letter' FROM dead_letter",
        ] {
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                found.entry(row.get(0)?).or_default().push(row.get(1)?);
            }
        }
        Ok(found)
    }

    fn gaps(&self) -> Result<Vec<(u64, String)>> {
        let connection = rusqlite::Connection::open(&self.0)?;
        let mut statement = connection.prepare("SELECT lost, reason FROM audit_gap")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

/// What callers did and heard, over all lives.
#[derive(Default)]
struct Heard {
    sent: HashSet<String>,
    intents: HashSet<String>,
    kept: HashSet<String>,
    refused: u64,
    faults: BTreeMap<String, u64>,
}

impl Heard {
    fn fault(&mut self, what: &str) {
        *self.faults.entry(what.to_owned()).or_default() += 1;
    }

    fn listen(&mut self, log: &str) {
        for line in log.lines() {
            match line.split_once(' ') {
                Some(("sent", id)) => drop(self.sent.insert(id.to_owned())),
                Some(("intent", id)) => drop(self.intents.insert(id.to_owned())),
                Some(("kept", id)) => drop(self.kept.insert(id.to_owned())),
                Some(("fault", what)) => self.fault(what),
                Some(("refused", _)) => self.refused += 1,
                Some(_) | None => self.refused += u64::from(line == "refused"),
            }
        }
    }
}

/// A small disk of its own, where there is the right to mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> Result<Option<Self>> {
        fs::create_dir_all(path)?;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", SMALL_DISK, "tmpfs"]).arg(path).run();
        Ok(mounted.is_ok_and(|output| output.status.success()).then(|| Self(path.to_owned())))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whatever is left goes with the machine's memory.
        let _ = Command::new("umount").arg(&self.0).run();
    }
}

/// The lives in one folder.
struct Run<'a> {
    look: &'a dyn Look,
    folder: &'a Path,
    random: Random,
    heard: Heard,
    flips: u64,
    disk: Option<SmallDisk>,
}

impl Run<'_> {
    fn start(&mut self, orders: &Orders, number: u64, name: &'static str) -> Result<Guarded> {
        let mut command = Command::new(std::env::current_exe()?);
        let module = module_path!().split_once("::").map_or("", |(_, module)| module);
        command
            .args(["--exact", &format!("{module}::faults_by_the_hundred_lose_nothing"), "--nocapture"])
            .env(ORDERS, orders.encode())
            // A life that fails says why in a few lines.
            .env("RUST_BACKTRACE", "0");
        let log = self.folder.join(format!("{name}-{number}.log"));
        let mut child = Guarded::start(name, &mut command, &log, Signal::Kill, None)?;
        wait_until(BEGIN, || child.log().contains("alive\n") || !child.alive());
        ensure!(child.log().contains("alive\n"), "life {number} did not begin: {}", child.log());
        Ok(child)
    }

    /// One life, with a second gateway of the same name beside it now and then.
    fn life(&mut self, number: u64) -> Result<()> {
        let calls = Duration::from_millis(300 + self.random.below(1_100) as u64);
        let mut orders = Orders {
            seed: self.random.below(usize::MAX) as u64,
            config: self.look.config(true),
            spool: self.folder.join("spool"),
            calls,
            troubles: true,
            ballast: None,
        };
        let twin = (number % 6 == 3).then(|| {
            self.heard.fault("gateway:same-name");
            Orders { spool: self.folder.join("twin"), seed: orders.seed ^ 1, ..orders.clone() }
        });
        if let Some(disk) = &self.disk
            && number % 5 == 2
        {
            orders.spool = disk.0.join("spool");
            orders.ballast = Some(disk.0.join("ballast"));
            orders.calls = Duration::from_millis(3_500);
        }
        let kill = self.random.below(4) != 0;
        let mut lives = vec![self.start(&orders, number, "first")?];
        if let Some(twin) = &twin {
            lives.push(self.start(twin, number, "second")?);
        }
        if kill {
            pause(orders.calls.mul_f64(0.2 + self.random.below(80) as f64 / 100.0));
        }
        for mut child in lives {
            if kill {
                child.signal(Signal::Kill)?;
                self.heard.fault("gateway:killed");
            }
            let status = child.wait()?;
            let log = child.log();
            ensure!(kill || status.success(), "life {number} failed: {}", tail(&log));
            self.heard.listen(&log);
        }
        if let Some(ballast) = &orders.ballast {
            // A life that was killed leaves it.
            let _ = fs::remove_file(ballast);
        }
        if kill {
            self.meddle()?;
        }
        Ok(())
    }

    /// What happens to a spool while nobody is there.
    fn meddle(&mut self) -> Result<()> {
        let spool = self.folder.join("spool");
        if self.random.below(6) == 0 {
            // The clock was far ahead, and is right again: the last epoch is of the future.
            let epoch: u64 = fs::read_to_string(spool.join("epoch"))?.trim().parse()?;
            fs::write(spool.join("epoch"), (epoch + (3_600 << 20)).to_string())?;
            self.heard.fault("clock:back");
        }
        if self.random.below(3) == 0 && self.flip(&spool)? {
            self.heard.fault("spool:bit-flipped");
            self.flips += 1;
        }
        Ok(())
    }

    /// Flips a bit in the middle of a segment: behind its header, and before an end that may be torn.
    fn flip(&mut self, spool: &Path) -> Result<bool> {
        let mut segments: Vec<PathBuf> = fs::read_dir(spool)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .collect();
        segments.sort();
        let Some(path) = segments.last() else { return Ok(false) };
        let mut bytes = fs::read(path)?;
        let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        if written < 16 << 10 {
            return Ok(false);
        }
        let place = (8 << 10) + self.random.below(written / 2 - (4 << 10));
        bytes[place] ^= 1 << self.random.below(8);
        fs::write(path, bytes)?;
        Ok(true)
    }

    /// Ships what is left in all spools, without faults.
    fn drain(&self) -> Result<()> {
        let spools = [
            Some(self.folder.join("spool")),
            Some(self.folder.join("twin")),
            self.disk.as_ref().map(|disk| disk.0.join("spool")),
        ];
        for spool in spools.into_iter().flatten().filter(|spool| spool.is_dir()) {
            let audit = Audit::open(&child::config(&self.look.config(false), &spool)?)?;
            // What earlier lives left open is settled before the end.
            wait_until(DRAIN, || audit.status().settled);
            ensure!(audit.shutdown(DRAIN), "not drained: {:?}", audit.status());
        }
        Ok(())
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> =
        log.lines().filter(|line| !line.starts_with("sent") && !line.starts_with("kept")).collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

#[test]
fn faults_by_the_hundred_lose_nothing() -> Result<()> {
    if let Ok(orders) = std::env::var(ORDERS) {
        return child::live(&orders);
    }
    let folder = tempfile::tempdir()?;
    run(folder.path(), &Sqlite(folder.path().join("audit.db")))
}

fn run(folder: &Path, look: &dyn Look) -> Result<()> {
    let seed = match std::env::var("DOORWARD_FAULT_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos().into(),
    };
    println!("DOORWARD_FAULT_SEED={seed}");
    let disk = SmallDisk::mount(&folder.join("disk"))?;
    let mut run = Run { look, folder, random: Random(seed), heard: Heard::default(), flips: 0, disk };
    for number in 0..LIVES {
        run.life(number)?;
    }
    run.drain()?;
    for (cut, count) in look.cuts() {
        run.heard.faults.insert(cut.to_owned(), count);
    }
    compare(&run)
}

/// Records in the store = records acknowledged, none twice.
fn compare(run: &Run<'_>) -> Result<()> {
    let heard = &run.heard;
    let (records, gaps) = (run.look.records()?, run.look.gaps()?);
    let twice = records.values().filter(|had| had.len() > 1).count();
    let foreign = records.keys().filter(|id| !heard.sent.contains(*id)).count();
    let missing: Vec<&String> =
        heard.kept.union(&heard.intents).filter(|id| !records.contains_key(*id)).collect();
    let unheard =
        records.keys().filter(|id| !heard.kept.contains(*id) && !heard.intents.contains(*id)).count();
    let of_damage = |reason: &str| reason.contains("damaged frames") || reason.contains("are gone");
    let damaged: Vec<u64> =
        gaps.iter().filter(|(_, reason)| of_damage(reason)).map(|(lost, _)| *lost).collect();
    let of = |outcome: &str| records.values().filter(|had| had.as_slice() == [outcome]).count();
    let faults: u64 = heard.faults.values().sum();
    let mut twice_of: Vec<_> = records.values().filter(|had| had.len() > 1).collect();
    twice_of.truncate(5);
    println!("{faults} faults: {:?}", heard.faults);
    println!(
        "callers: sent {}, acknowledged {}, of intents {}, refused {}",
        heard.sent.len(),
        heard.kept.len(),
        heard.intents.len(),
        heard.refused
    );
    println!(
        "store: {} records ({} allowed, {} unknown, {} dead letters), {twice} twice; {unheard} whose acknowledgement \
         nobody heard; {} acknowledged and missing, in {} damaged places; {} gaps",
        records.len(),
        of("allowed"),
        of("unknown"),
        of("dead letter"),
        missing.len(),
        damaged.len(),
        gaps.len(),
    );
    ensure!(faults >= 120, "only {faults} faults were met");
    ensure!(heard.kept.len() > 2_000, "there was hardly any load");
    ensure!(twice == 0, "{twice} records are in the store twice: {twice_of:?}");
    ensure!(foreign == 0, "{foreign} records are of calls that nobody made");
    // A flipped bit costs a frame, and the store says so.
    let lost: u64 = damaged.iter().sum();
    ensure!(missing.len() as u64 <= lost, "missing without a gap: {missing:?}; {gaps:?}");
    ensure!(lost <= run.flips, "{} flipped bits cost {lost} frames", run.flips);
    Ok(())
}
