//! The spool against a model: a disk that crashes at each step, and a store that counts.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use doorward_core::{AccessRecord, Clock, Durable, NotDurable, Recorder, Slot};
use doorward_tlog::note::{Kind, Signer};
use proptest::prelude::*;
use tokio::runtime::Runtime;
use uuid::Uuid;

mod encrypted;
mod refused;

use super::model::{FakeDisk, FakeStore, record};
use super::pressure::Level;
use super::recovery::ours_to_settle;
use super::*;
use crate::config::Retention;
use crate::log::Log;
use crate::log::logger::{Logger, Signing, keep_lines};
use crate::shipper::{OpenStore, Progress, Shipper};

/// Records of a batch: a segment takes several.
const BATCH_RECORDS: usize = 2;

/// A gateway's spool and shipper on a fake disk, driven by hand.
struct World {
    shared: Arc<Shared>,
    writer: Writer,
    logger: Logger,
    shipper: Shipper,
    progress: Arc<Progress>,
    recorder: SpoolRecorder,
}

impl World {
    fn start(disk: &FakeDisk, store: &FakeStore) -> Result<Self, String> {
        Self::start_with(disk, store, 1 << 30)
    }

    fn start_with(disk: &FakeDisk, store: &FakeStore, size_max: u64) -> Result<Self, String> {
        let store = store.clone();
        Self::start_on(disk, Box::new(move || Ok(Box::new(store.reopened()))), size_max)
    }

    fn start_on(disk: &FakeDisk, open_store: OpenStore, size_max: u64) -> Result<Self, String> {
        let recovered =
            Recovered::read_at(disk, Some("gw"), 1_795_000_000).map_err(|error| error.to_string())?;
        let settings = Settings {
            gateway_id: recovered.gateway_id,
            epoch: recovered.epoch,
            size_max,
            segment_size: 4_000,
            commit_delay: Duration::from_millis(5),
            alarm_percent: 80,
        };
        let shared = Shared::new(settings, Arc::new(disk.clone()), recovered.segments);
        let shared = Arc::new(shared.with_owed(recovered.owed));
        let mut writer = Writer::new(shared.clone(), crate::personal::testing::keyring(shared.files.clone()));
        writer.prove()?;
        let progress = Arc::new(Progress::default());
        let log = Arc::new(Log::new(Arc::new(disk.clone()), false));
        let logger = Logger::new(shared.clone(), log.clone(), signing());
        let shipper = Shipper::new(shared.clone(), log, progress.clone(), open_store, Retention::default())
            .in_batches_of(BATCH_RECORDS);
        let recorder = SpoolRecorder(shared.clone());
        Ok(Self { shared, writer, logger, shipper, progress, recorder })
    }

    /// Lets the writer take what is queued.
    fn write(&mut self) {
        let mut items = std::mem::take(&mut self.shared.queue.lock().items);
        self.writer.write(&mut items);
    }

    /// Logs and ships all that is durable, what is settled on the way included.
    fn ship(&mut self) -> Result<(), String> {
        for _ in 0..2 {
            self.logger.log_all()?;
            self.shipper.ship_all()?;
            self.write();
        }
        self.shipper.ship_all()?;
        self.logger.log_all()?;
        self.shipper.ship_all()
    }

    fn keep(&mut self, record: Box<AccessRecord>) -> Result<(), NotDurable> {
        let durable = self.recorder.reserve().ok_or(NotDurable)?.complete(record);
        self.write();
        now(durable).expect("the writer has answered")
    }
}

/// A key for all of a test's starts, as the spool's directory would keep it.
fn signing() -> Signing {
    static KEY: LazyLock<String> =
        LazyLock::new(|| Signer::generate("doorward/gw", Kind::Ed25519).unwrap().1);
    Signing {
        signer: Signer::parse(&KEY).unwrap(),
        interval: Duration::ZERO,
        count: 1,
        keep: keep_lines(&Retention::default()),
    }
}

/// What a future says, if it says it now.
fn now(mut durable: Durable) -> Option<Result<(), NotDurable>> {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap());
    let _inside = RUNTIME.enter();
    match Pin::new(&mut durable).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// A call comes in; `true` when it writes an intent.
    Open(bool),
    /// The oldest open call ends.
    Finish,
    /// The writer writes.
    Write,
    /// The shipper ships.
    Ship,
    /// The store goes away, or comes back.
    Away(bool),
    /// The store tells later what became of a batch, or at once.
    Late(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any::<bool>().prop_map(Op::Open),
        4 => Just(Op::Finish),
        3 => Just(Op::Write),
        2 => Just(Op::Ship),
        1 => any::<bool>().prop_map(Op::Away),
        1 => any::<bool>().prop_map(Op::Late),
    ]
}

/// What is done, the step of the crash, what remains of it, and under which keys.
type Round = (Vec<Op>, Option<usize>, u64, u8);

fn round() -> impl Strategy<Value = Round> {
    (prop::collection::vec(op(), 0..60), prop::option::of(0_usize..40), any::<u64>(), any::<u8>())
}

/// What callers were told.
#[derive(Default)]
struct Told {
    sent: BTreeSet<Uuid>,
    intents: BTreeSet<Uuid>,
    completions: BTreeSet<Uuid>,
}

impl Told {
    fn listen(&mut self, waiting: &mut Vec<(Uuid, bool, Durable)>) {
        for (id, intent, durable) in std::mem::take(waiting) {
            if now(durable) == Some(Ok(())) {
                if intent { &mut self.intents } else { &mut self.completions }.insert(id);
            }
        }
    }
}

fn live(disk: &FakeDisk, store: &FakeStore, ops: &[Op], told: &mut Told) {
    let Ok(mut world) = World::start(disk, store) else { return };
    let mut open: Vec<(Box<dyn Slot>, Box<AccessRecord>)> = Vec::new();
    let mut waiting = Vec::new();
    for op in ops {
        if disk.crashed() {
            break;
        }
        match op {
            Op::Open(intent) => {
                let Some(mut slot) = world.recorder.reserve() else { continue };
                let record = record();
                let id = Uuid::from_bytes(*record.access_id.as_bytes());
                if *intent {
                    waiting.push((id, true, slot.intent(&record)));
                }
                told.sent.insert(id);
                open.push((slot, record));
            }
            Op::Finish if open.is_empty() => {}
            Op::Finish => {
                let (slot, record) = open.remove(0);
                let id = Uuid::from_bytes(*record.access_id.as_bytes());
                waiting.push((id, false, slot.complete(record)));
            }
            Op::Write => {
                world.write();
                told.listen(&mut waiting);
            }
            Op::Ship => drop(world.ship()),
            Op::Away(away) => store.0.lock().away = *away,
            Op::Late(late) => store.0.lock().late = *late,
        }
    }
}

fn check(rounds: &[Round]) {
    let (mut disk, store, mut told) = (FakeDisk::default(), FakeStore::default(), Told::default());
    for (ops, crash_after, seed, keys) in rounds {
        disk = disk.encrypted(encrypted::among(*keys));
        disk.crash_after(*crash_after);
        live(&disk, &store, ops, &mut told);
        disk = disk.power_cycle(*seed);
    }
    store.0.lock().away = false;
    let mut world = World::start(&disk, &store).unwrap();
    world.ship().unwrap();

    let kept = store.0.lock().clone();
    let mut outcomes: BTreeMap<Uuid, &str> = BTreeMap::new();
    let mut keys = BTreeSet::new();
    for (epoch, seq, id, outcome) in &kept.records {
        assert!(told.sent.contains(id), "a record of a call that was not made");
        assert!(outcomes.insert(*id, outcome).is_none(), "a call has two records");
        assert!(keys.insert((*epoch, *seq)), "two records have one key");
    }
    for id in &told.completions {
        assert_eq!(outcomes.get(id).copied(), Some("allowed"), "a durable record is lost");
    }
    kept.check_log();
    for id in &told.intents {
        assert!(outcomes.contains_key(id), "a durable intent left no record");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_durable_is_lost_and_nothing_comes_twice(rounds in prop::collection::vec(round(), 1..5)) {
        check(&rounds);
    }
}

#[test]
fn a_crash_at_each_step_loses_nothing() {
    let call = [Op::Open(true), Op::Write, Op::Finish, Op::Open(false), Op::Finish, Op::Write, Op::Ship];
    let ops: Vec<Op> = call.iter().cycle().take(call.len() * 6).cloned().collect();
    for step in 0..120 {
        for seed in 0..6 {
            for keys in [0, 1] {
                let (first, second) = ((Some(step), seed), (Some(step / 2), seed + 1));
                check(&[first, second].map(|(crash, seed)| (ops.clone(), crash, seed, keys)));
            }
        }
    }
}

#[test]
fn the_one_record_that_a_store_refuses_is_found_however_late_it_says_so() {
    for (late, refused) in [true, false].into_iter().flat_map(|late| (0..24).map(move |at| (late, at))) {
        let (disk, store) = (FakeDisk::default(), FakeStore::default());
        let mut world = World::start(&disk, &store).unwrap();
        let records: Vec<Box<AccessRecord>> = (0..24).map(|_| record()).collect();
        let ids: Vec<Uuid> =
            records.iter().map(|record| Uuid::from_bytes(*record.access_id.as_bytes())).collect();
        (store.0.lock().late, store.0.lock().refused) = (late, Some(ids[refused]));
        for record in records {
            world.keep(record).unwrap();
        }
        world.ship().unwrap();
        let kept = store.0.lock().clone();
        kept.check_log();
        assert_eq!(kept.dead, [ids[refused]], "late {late}");
        let shipped: Vec<Uuid> = kept.records.iter().map(|(_, _, id, _)| *id).collect();
        let others: Vec<Uuid> = ids.iter().filter(|id| **id != ids[refused]).copied().collect();
        assert_eq!(shipped, others, "late {late}, {refused}");
        assert_eq!(world.progress.shipped_total.load(Ordering::Relaxed), 24);
        assert_eq!(world.shared.segments.lock().len(), 1, "shipped segments are removed");
    }
}

#[test]
fn nothing_counts_as_shipped_before_the_store_has_said_so() {
    let (disk, store) = (FakeDisk::default(), FakeStore::default());
    let mut world = World::start(&disk, &store).unwrap();
    (store.0.lock().late, store.0.lock().away) = (true, true);
    for _ in 0..24 {
        world.keep(record()).unwrap();
    }
    let segments = world.shared.segments.lock().len();
    world.ship().unwrap_err();
    assert_eq!(world.progress.shipped_total.load(Ordering::Relaxed), 0);
    assert_eq!(world.shared.segments.lock().len(), segments);
    store.0.lock().away = false;
    world.ship().unwrap();
    assert_eq!(world.progress.shipped_total.load(Ordering::Relaxed), 24);
    assert_eq!(store.0.lock().records.len(), 24);
    store.0.lock().check_log();
}

#[test]
fn a_backlog_of_many_segments_is_shipped_without_a_wait_between_them() {
    let (disk, store) = (FakeDisk::default(), FakeStore::default());
    let mut world = World::start(&disk, &store).unwrap();
    // The first time there is more to do than to ship.
    world.ship().unwrap();
    for _ in 0..48 {
        world.keep(record()).unwrap();
    }
    let segments = world.shared.segments.lock().len();
    store.0.lock().waits = 0;
    world.ship().unwrap();
    let kept = store.0.lock().clone();
    assert!(segments > 5 && kept.waits < segments / 2, "{} waits for {segments} segments", kept.waits);
    assert_eq!(kept.records.len(), 48);
    kept.check_log();
    assert_eq!(world.shared.segments.lock().len(), 1, "shipped segments are removed");
}

#[test]
fn a_call_that_dies_with_the_gateway_is_recorded_as_unknown() {
    let (disk, store) = (FakeDisk::default(), FakeStore::default());
    let mut world = World::start(&disk, &store).unwrap();
    let mut slot = world.recorder.reserve().unwrap();
    let durable = slot.intent(&record());
    world.write();
    assert_eq!(now(durable), Some(Ok(())));
    world.ship().unwrap();
    assert_eq!(store.0.lock().records, []);

    let disk = disk.power_cycle(0);
    World::start(&disk, &store).unwrap().ship().unwrap();
    let kept = store.0.lock().clone();
    assert_eq!(kept.records.len(), 1);
    assert_eq!(kept.records[0].3, "unknown");
    // And only once.
    World::start(&disk.power_cycle(0), &store).unwrap().ship().unwrap();
    assert_eq!(store.0.lock().records.len(), 1);
}

#[test]
fn a_torn_end_is_cut_off_and_is_no_damage() {
    for (seed, disk) in (0..30).flat_map(|seed| encrypted::disks().map(|disk| (seed, disk))) {
        let store = FakeStore::default();
        let mut world = World::start(&disk, &store).unwrap();
        world.keep(record()).unwrap();
        disk.crash_after(Some(0));
        assert_eq!(world.keep(record()), Err(NotDurable));
        let disk = disk.power_cycle(seed);
        let mut world = World::start(&disk, &store).unwrap();
        world.ship().unwrap();
        let kept = store.0.lock().clone();
        assert_eq!((kept.records.len(), kept.gaps.len()), (1, 0), "seed {seed}");
        assert_eq!(world.progress.damaged_total.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_does_not_hold_callers_for_ever() {
    let (disk, store) = (FakeDisk::default(), FakeStore::default());
    let world = World::start(&disk, &store).unwrap();
    // The writer does not get to it.
    let durable = world.recorder.reserve().unwrap().complete(record());
    let started = tokio::time::Instant::now();
    assert_eq!(durable.await, Err(NotDurable));
    assert_eq!(started.elapsed().as_secs(), STALL.as_secs());
}

#[test]
fn a_full_disk_refuses_and_recovers_and_says_what_was_lost() {
    for plain in [true, false] {
        encrypted::disks().into_iter().for_each(|disk| fill_a_disk(disk, plain));
    }
}

fn fill_a_disk(disk: FakeDisk, plain: bool) {
    let (disk, store) = (disk.plain(plain), FakeStore::default());
    let mut world = World::start(&disk, &store).unwrap();
    disk.quota(Some(disk.used() + 100));
    let mut kept = 0;
    while world.keep(record()).is_ok() {
        kept += 1;
    }
    // Room that was set aside is there, whatever else fills the disk.
    assert_eq!(kept > 0, !plain);
    assert_eq!(world.shared.state(), State::Full);
    assert!(world.recorder.reserve().is_none());
    world.recorder.lost(&record());
    disk.quota(None);
    std::thread::park_timeout(Duration::from_millis(1_050));
    world.write();
    assert_eq!(world.shared.state(), State::Ready);
    world.keep(record()).unwrap();
    world.ship().unwrap();
    let store = store.0.lock().clone();
    assert_eq!(store.records.len(), kept + 1);
    assert_eq!(store.gaps.iter().map(|(lost, _)| lost).sum::<u64>(), 2);
    assert_eq!(world.progress.damaged_total.load(Ordering::Relaxed), 0);
}

#[test]
fn a_disk_that_the_records_themselves_have_filled_is_emptied() {
    for quota in (20_000..28_000).step_by(500) {
        let (disk, store) = (FakeDisk::default(), FakeStore::default());
        disk.quota(Some(quota));
        let mut world = World::start(&disk, &store).unwrap();
        store.0.lock().away = true;
        let mut kept = 0;
        while world.keep(record()).is_ok() {
            kept += 1;
        }
        assert_eq!(world.shared.state(), State::Full);
        assert!(kept > 10, "{kept} records fit into {quota} bytes");
        // Now and then the power fails too, and nobody has made room.
        if quota % 1_000 == 0 {
            drop(world);
            let disk = disk.power_cycle(quota as u64);
            disk.quota(Some(quota));
            world = World::start(&disk, &store).unwrap();
        }
        store.0.lock().away = false;
        for _ in 0..50 {
            world.ship().unwrap();
        }
        std::thread::park_timeout(Duration::from_millis(1_050));
        world.write();
        world.keep(record()).unwrap();
        world.ship().unwrap();
        let store = store.0.lock();
        assert_eq!(store.records.len(), kept + 1, "with {quota} bytes");
        store.check_log();
    }
}

#[test]
fn a_full_disk_at_the_start_is_waited_for() {
    let (disk, store) = (FakeDisk::default(), FakeStore::default());
    disk.quota(Some(0));
    let mut world = World::start(&disk, &store).unwrap();
    assert_eq!(world.shared.state(), State::Full);
    assert!(world.shared.trouble().unwrap().contains("the disk is full"));
    assert!(world.recorder.reserve().is_none());
    world.recorder.lost(&record());
    disk.quota(None);
    std::thread::park_timeout(Duration::from_millis(1_050));
    world.write();
    world.keep(record()).unwrap();
    let first = world.shared.settings.epoch;
    drop(world);
    // What the start owed was written before its first segment.
    let mut world = World::start(&disk.power_cycle(0), &store).unwrap();
    assert!(world.shared.settings.epoch > first);
    world.ship().unwrap();
    let kept = store.0.lock().clone();
    assert_eq!((kept.records.len(), kept.gaps.iter().map(|(lost, _)| lost).sum::<u64>()), (1, 1));
}

#[test]
fn a_read_only_volume_is_waited_for_while_running_and_at_the_start() {
    let (disk, store) = (FakeDisk::default(), FakeStore::default());
    let mut world = World::start(&disk, &store).unwrap();
    world.keep(record()).unwrap();
    disk.read_only(true);
    assert_eq!(world.keep(record()), Err(NotDurable));
    assert_eq!(world.shared.state(), State::Broken);
    assert!(world.shared.trouble().unwrap().contains("read-only"));
    drop(world);
    let mut world = World::start(&disk, &store).unwrap();
    assert!(world.recorder.reserve().is_none());
    disk.read_only(false);
    std::thread::park_timeout(Duration::from_millis(1_050));
    world.write();
    world.keep(record()).unwrap();
    world.ship().unwrap();
    // The refused one was written halfway; nothing of it is told as damage.
    assert_eq!((store.0.lock().records.len(), world.progress.damaged_total.load(Ordering::Relaxed)), (2, 0));
}

#[test]
fn an_alarm_comes_before_the_end_and_goes_again() {
    let (disk, store) = (FakeDisk::default(), FakeStore::default());
    let mut world = World::start_with(&disk, &store, 100_000).unwrap();
    let mut watch = pressure::Watch::default();
    let mut level = |world: &World| {
        watch.look(&world.shared);
        world.shared.pressure.level()
    };
    assert_eq!(level(&world), Level::Roomy);
    let mut seen = Vec::new();
    while world.keep(record()).is_ok() {
        let now = level(&world);
        if seen.last().is_none_or(|(last, _)| *last != now) {
            seen.push((now, world.shared.used_percent()));
        }
    }
    assert_eq!(level(&world), Level::Full);
    let [(Level::Roomy, _), (Level::Alarm, 80..=82), ..] = seen.as_slice() else { panic!("{seen:?}") };
    assert!(world.shared.trouble().unwrap().contains("spool.size_max"));
    world.ship().unwrap();
    assert_eq!(level(&world), Level::Roomy);
    assert_eq!(world.shared.trouble(), None);
    // Others can fill the disk too.
    disk.quota(Some(disk.used() + 5_000));
    std::thread::park_timeout(Duration::from_millis(1_050));
    assert_eq!(level(&world), Level::Alarm);
}

#[test]
fn what_was_lost_last_is_told_at_the_end() {
    let (disk, store) = (FakeDisk::default(), FakeStore::default());
    let world = World::start(&disk, &store).unwrap();
    world.recorder.lost(&record());
    world.shared.close();
    world.writer.run();
    World::start(&disk.power_cycle(0), &store).unwrap().ship().unwrap();
    assert_eq!(store.0.lock().gaps.iter().map(|(lost, _)| lost).sum::<u64>(), 1);
}

#[test]
fn room_that_was_set_aside_is_inside_the_bound_and_given_back() {
    let (disk, store) = (FakeDisk::default(), FakeStore::default());
    let mut world = World::start_with(&disk, &store, 20_000).unwrap();
    while world.keep(record()).is_ok() {
        // Beside the bound there is the reserve, of a segment's size.
        assert!(disk.used() <= 20_000 + 4_000 + 1_000, "{}", disk.used());
    }
    let (sealed, active): (Vec<_>, Vec<_>) =
        world.shared.segments.lock().iter().cloned().partition(|segment| segment.sealed);
    let lengths: BTreeMap<String, u64> = disk.list().unwrap().into_iter().collect();
    assert!(!sealed.is_empty() && active.len() == 1);
    for segment in sealed {
        assert_eq!(lengths[&segment.name], segment.length);
    }
}

#[test]
fn what_was_set_aside_and_not_used_is_no_damage() {
    for plain in [true, false] {
        let (disk, store) = (FakeDisk::default().plain(plain), FakeStore::default());
        let mut world = World::start(&disk, &store).unwrap();
        for _ in 0..12 {
            world.keep(record()).unwrap();
        }
        drop(world);
        // A start that wrote nothing: its segment is all zeros.
        disk.create(&segment::name(u64::MAX, 1), 4_000).unwrap();
        // A sealed segment whose unused end was not cut off.
        let (first, length) = disk.segments().remove(0);
        disk.grow(&first, length + 3_000);
        let disk = disk.power_cycle(0);
        let mut world = World::start(&disk, &store).unwrap();
        world.ship().unwrap();
        let kept = store.0.lock().clone();
        assert_eq!((kept.records.len(), kept.gaps.len()), (12, 0));
        assert_eq!(world.progress.damaged_total.load(Ordering::Relaxed), 0);
        assert!(disk.list().unwrap().iter().all(|(name, _)| !name.ends_with(".bad")));
    }
}

#[test]
fn a_failed_sync_is_not_trusted_again() {
    let (disk, store) = (FakeDisk::default(), FakeStore::default());
    let mut world = World::start(&disk, &store).unwrap();
    world.keep(record()).unwrap();
    disk.sync_fails(true);
    assert_eq!(world.keep(record()), Err(NotDurable));
    assert_eq!(world.shared.state(), State::Broken);
    assert!(world.shared.error.lock().as_deref().unwrap().contains("I/O error"));
    disk.sync_fails(false);
    std::thread::park_timeout(Duration::from_millis(1_050));
    world.write();
    world.keep(record()).unwrap();
    assert_eq!(disk.segments().len(), 2, "a new segment takes over");
    world.ship().unwrap();
    assert_eq!(store.0.lock().records.len(), 2);
}

#[test]
fn a_store_whose_housekeeping_fails_takes_records_all_the_same() {
    let (disk, store) = (FakeDisk::default(), FakeStore::default());
    store.0.lock().stuck = true;
    let mut world = World::start(&disk, &store).unwrap();
    world.keep(record()).unwrap();
    world.ship().unwrap();
    assert_eq!(store.0.lock().records.len(), 1);
}

#[test]
fn a_spool_at_its_size_refuses_until_the_store_has_caught_up() {
    let (disk, store) = (FakeDisk::default(), FakeStore::default());
    store.0.lock().away = true;
    let mut world = World::start_with(&disk, &store, 40_000).unwrap();
    let mut kept = 0;
    while world.keep(record()).is_ok() {
        kept += 1;
    }
    assert_eq!(world.shared.state(), State::Full);
    assert!(world.ship().unwrap_err().contains("away"));
    store.0.lock().away = false;
    world.ship().unwrap();
    assert_eq!(world.shared.state(), State::Ready);
    assert_eq!(store.0.lock().records.len(), kept);
    assert_eq!(disk.segments().len(), 1);
}

#[test]
fn places_are_bounded_and_come_back() {
    let (disk, store) = (FakeDisk::default(), FakeStore::default());
    let world = World::start(&disk, &store).unwrap();
    let slots: Vec<_> = (0..PLACES_MAX).map_while(|_| world.recorder.reserve()).collect();
    assert_eq!(slots.len(), PLACES_MAX);
    assert!(world.recorder.reserve().is_none());
    drop(slots);
    assert_eq!(world.shared.places(), 0);
    assert!(world.recorder.reserve().is_some());
}

#[test]
fn a_closed_spool_takes_nothing_and_says_so() {
    let (disk, store) = (FakeDisk::default(), FakeStore::default());
    let mut world = World::start(&disk, &store).unwrap();
    let slot = world.recorder.reserve().unwrap();
    world.shared.close();
    let durable = slot.complete(record());
    world.write();
    assert_eq!(now(durable), Some(Err(NotDurable)));
    assert!(world.recorder.reserve().is_none());
    assert_eq!(world.shared.lost_total(), 1);
}

#[test]
fn a_flipped_bit_costs_one_frame_and_is_reported() {
    encrypted::disks().into_iter().for_each(flip_two_bits);
}

fn flip_two_bits(disk: FakeDisk) {
    let store = FakeStore::default();
    let mut world = World::start(&disk, &store).unwrap();
    for _ in 0..40 {
        world.keep(record()).unwrap();
    }
    drop(world);
    let segments = disk.segments();
    assert!(segments.len() > 2, "{segments:?}");
    // In the middle of a segment in the middle, and in the middle of the last one.
    let (middle, last) = (&segments[1], &segments[segments.len() - 1]);
    disk.flip(&middle.0, middle.1 / 2);
    disk.flip(&last.0, last.1 / 2);
    let mut world = World::start(&disk, &store).unwrap();
    world.ship().unwrap();
    let kept = store.0.lock().clone();
    assert_eq!(kept.records.len(), 38);
    assert_eq!(kept.gaps.iter().map(|(lost, _)| lost).sum::<u64>(), 2);
    assert_eq!(world.progress.damaged_total.load(Ordering::Relaxed), 2);
}

#[test]
fn any_flipped_bit_is_survived() {
    encrypted::disks().into_iter().for_each(flip_any_bit);
}

fn flip_any_bit(disk: FakeDisk) {
    let store = FakeStore::default();
    let mut world = World::start(&disk, &store).unwrap();
    for _ in 0..12 {
        world.keep(record()).unwrap();
    }
    drop(world);
    let (name, length) = disk.segments().remove(0);
    for offset in (0..length).step_by(3) {
        let (disk, store) = (disk.power_cycle(0), FakeStore::default());
        disk.flip(&name, offset);
        let mut world = World::start(&disk, &store).unwrap();
        world.ship().unwrap();
        let kept = store.0.lock().clone();
        let ids: BTreeSet<Uuid> = kept.records.iter().map(|record| record.2).collect();
        assert_eq!(ids.len(), kept.records.len());
        assert!(kept.records.len() < 12, "offset {offset}");
        assert!(!kept.gaps.is_empty() || disk.list().unwrap().iter().any(|(name, _)| name.ends_with(".bad")));
    }
}

#[test]
fn each_start_is_a_new_epoch_of_the_same_gateway() {
    let disk = FakeDisk::default();
    let now = 1_795_000_000;
    let start = |seconds| Recovered::read_at(&disk, None, seconds).unwrap();
    let [first, second, later, clock_went_back] = [now, now, now + 7_000, now - 50].map(start);
    let epochs = [first.epoch, second.epoch, later.epoch, clock_went_back.epoch];
    assert_eq!(epochs.map(|epoch| epoch >> 20), [now, now + 1, now + 7_000, now + 7_001]);
    let fresh = Uuid::now_v7();
    let ours = |epoch| ours_to_settle(epoch, first.epoch, fresh, SystemClock.now());
    assert!(epochs.iter().all(|epoch| ours(*epoch) && *epoch < 1 << 53));
    // One of the same name that starts in the same second, elsewhere. One of a million has the same bits.
    let others: Vec<u64> =
        (0..3).map(|_| Recovered::read_at(&FakeDisk::default(), None, now).unwrap().epoch).collect();
    assert!(others.iter().any(|other| !ours(*other)));
    // What such a one left open is settled when it must be gone.
    let tomorrow = Timestamp::from_seconds(SystemClock.now().seconds() + 2 * 86_400);
    assert!(others.iter().all(|other| ours_to_settle(*other, first.epoch, fresh, tomorrow)));
    // An epoch of an older version was a number of seconds.
    let older = FakeDisk::default();
    older.put("epoch", (now + 5).to_string().as_bytes()).unwrap();
    assert!(Recovered::read_at(&older, None, now).unwrap().epoch > now + 5);
    assert!(first.gateway_id.starts_with("gw-"));
    assert_eq!(first.gateway_id, clock_went_back.gateway_id);
    // A directory that was wiped does not begin again at numbers that the store has seen.
    let wiped = Recovered::read_at(&FakeDisk::default(), None, now + 7_100).unwrap();
    assert!(wiped.epoch > clock_went_back.epoch);
}

#[test]
fn a_spool_of_another_gateway_is_refused() {
    let disk = FakeDisk::default();
    Recovered::read_at(&disk, Some("a"), 1).unwrap();
    let error = Recovered::read_at(&disk, Some("b"), 1).unwrap_err().to_string();
    assert!(error.contains("belongs to gateway `a`"), "{error}");
}

#[test]
fn inspection_tells_what_is_there_and_changes_nothing() {
    encrypted::disks().into_iter().for_each(look_into);
}

fn look_into(disk: FakeDisk) {
    let store = FakeStore::default();
    let mut world = World::start(&disk, &store).unwrap();
    for _ in 0..40 {
        world.keep(record()).unwrap();
    }
    let epoch = world.shared.settings.epoch;
    drop(world);
    let before = disk.list().unwrap();
    let mut asked = Vec::new();
    let found = inspect::look(&disk, &mut |gateway, epoch| {
        asked.push((gateway.to_owned(), epoch));
        Some(11)
    })
    .unwrap();
    assert_eq!(disk.list().unwrap(), before);
    assert_eq!(asked, [("gw".to_owned(), epoch)], "each epoch is asked for once");
    let completions: u64 = found.segments.iter().map(|segment| segment.frames.completions).sum();
    assert_eq!((found.gateway_id.as_deref(), found.epoch, completions), (Some("gw"), Some(epoch), 40));
    assert!(!found.is_damaged() && found.segments.len() > 2);
    // Frames up to the 11th are in the store; some of them are headers and the log's own notes.
    assert!((30..40).contains(&found.unshipped().unwrap()));
    assert_eq!(found.segments[0].oldest_us, Some(1_795_000_000_000_000));
}

#[test]
fn repair_keeps_what_is_readable_and_says_what_is_lost() {
    encrypted::disks().into_iter().for_each(repair_three);
}

fn repair_three(disk: FakeDisk) {
    let store = FakeStore::default();
    let mut world = World::start(&disk, &store).unwrap();
    for _ in 0..60 {
        world.keep(record()).unwrap();
    }
    drop(world);
    let segments = disk.segments();
    assert!(segments.len() > 5, "{segments:?}");
    // A frame in the middle of one, all behind the middle of another, and the header of a third.
    disk.flip(&segments[1].0, segments[1].1 / 2);
    for offset in segments[2].1 / 2..segments[2].1 {
        disk.flip(&segments[2].0, offset);
    }
    disk.flip(&segments[3].0, 20);
    let before = disk.list().unwrap();
    let plan = repair::mend(&disk, false).unwrap();
    assert_eq!(disk.list().unwrap(), before, "without `write` nothing changes");
    let done = repair::mend(&disk, true).unwrap();
    assert_eq!(plan, done);
    let names: Vec<&str> = done.iter().map(|repaired| repaired.name.as_str()).collect();
    assert_eq!(names, [&*segments[1].0, &*segments[2].0, &*segments[3].0]);
    assert_eq!((done[0].lost, done[0].places), (Some(1), 1));
    assert!(done[1].lost > Some(1) && done[1].kept > 0);
    assert_eq!(done[2].kept, 0);
    let aside: Vec<&str> = done.iter().map(|repaired| repaired.set_aside.as_str()).collect();
    assert!(
        aside[0].ends_with(".1.damaged") && aside[1].ends_with(".1.damaged") && aside[2].ends_with(".bad")
    );
    let kept = disk.read(aside[0], 0, 4_096).unwrap();
    assert!(kept.starts_with(b"-- ") && kept.windows(13).any(|text| text == b"1 frames lost"));
    assert_eq!(repair::mend(&disk, true).unwrap(), [], "it is sound now");
    assert!(!inspect::look(&disk, &mut |_, _| None).unwrap().is_damaged());

    let mut world = World::start(&disk, &store).unwrap();
    world.ship().unwrap();
    let kept = store.0.lock().clone();
    let lost = done[0].lost.unwrap() + done[1].lost.unwrap();
    assert_eq!(kept.gaps.iter().map(|(lost, _)| lost).sum::<u64>(), lost, "the timeline tells the same");
    let whole = u64::try_from(kept.records.len()).unwrap() + lost + done[2].lost.unwrap();
    // The third segment's own header is among its frames.
    assert!((60..=62).contains(&whole), "{whole}");
}

#[test]
fn a_crash_in_a_repair_loses_nothing() {
    for (step, disk) in (0..12).flat_map(|step| encrypted::disks().map(|disk| (step, disk))) {
        let store = FakeStore::default();
        let mut world = World::start(&disk, &store).unwrap();
        for _ in 0..40 {
            world.keep(record()).unwrap();
        }
        drop(world);
        let segments = disk.segments();
        disk.flip(&segments[1].0, segments[1].1 / 2);
        disk.crash_after(Some(step));
        let crashed = repair::mend(&disk, true).is_err();
        let disk = disk.power_cycle(3);
        if crashed {
            repair::mend(&disk, true).unwrap();
        }
        let mut world = World::start(&disk, &store).unwrap();
        world.ship().unwrap();
        let kept = store.0.lock().clone();
        assert_eq!((kept.records.len(), kept.gaps.len()), (39, 1), "step {step}");
    }
}
