//! The spool whose segments are encrypted: the same model, keys that come and go, and bytes that were changed.

use super::*;
use crate::spool::encryption::tests::key;
use crate::spool::encryption::{Keys, missing_key};
use crate::wire::{self, Frame};

/// Values of the model's record that are not personal, and so are not sealed elsewhere.
const PLANTED: [&[u8]; 4] = [b"GET /shop/{table}", b"sha256:0123456789abcdef", b"public/orders", b"allowed"];

pub(super) fn sealed() -> Keys {
    Keys::new(Some(key(1)), Vec::new())
}

/// A plain disk and an encrypted one.
pub(super) fn disks() -> [FakeDisk; 2] {
    [FakeDisk::default(), FakeDisk::default().encrypted(sealed())]
}

/// Keys that open everything, and seal under one of three or not at all.
pub(super) fn among(choice: u8) -> Keys {
    let current = Some(choice % 4).filter(|number| *number > 0).map(key);
    Keys::new(current, vec![key(1), key(2), key(3)])
}

fn is_planted(bytes: &[u8], planted: &[u8]) -> bool {
    bytes.windows(planted.len()).any(|window| window == planted)
}

fn headers(disk: &FakeDisk) -> Vec<(String, Option<[u8; 32]>)> {
    let random = |name: &str| {
        let bytes = disk.read(name, 0, 1 << 20).unwrap();
        match wire::decode(wire::payload(&bytes, 0).unwrap()).unwrap() {
            (_, Frame::Header(header)) => header.encryption.map(|encryption| encryption.random),
            (_, frame) => panic!("{frame:?}"),
        }
    };
    disk.segments().iter().map(|(name, _)| (name.clone(), random(name))).collect()
}

#[test]
fn nothing_that_is_recorded_stands_in_the_files() {
    for (disk, in_clear) in disks().into_iter().zip([true, false]) {
        let store = FakeStore::default();
        store.0.lock().away = true;
        let mut world = World::start(&disk, &store).unwrap();
        for _ in 0..12 {
            world.keep(record()).unwrap();
        }
        world.recorder.lost(&record());
        world.write();
        let _ = world.ship();
        for planted in PLANTED {
            let stands = is_planted(&disk.content(""), planted);
            assert_eq!(stands, in_clear, "{}", String::from_utf8_lossy(planted));
        }
        store.0.lock().away = false;
        world.ship().unwrap();
        let kept = store.0.lock().clone();
        assert_eq!((kept.records.len(), kept.gaps.iter().map(|(lost, _)| lost).sum::<u64>()), (12, 1));
        kept.check_log();
    }
}

#[test]
fn a_failed_batch_ends_its_segments_key() {
    let disk = FakeDisk::default().encrypted(sealed());
    let store = FakeStore::default();
    let mut world = World::start(&disk, &store).unwrap();
    world.keep(record()).unwrap();
    let mut seen = headers(&disk);
    for _ in 0..2 {
        disk.sync_fails(true);
        assert_eq!(world.keep(record()), Err(NotDurable));
        disk.sync_fails(false);
        std::thread::park_timeout(Duration::from_millis(1_050));
        world.write();
        world.keep(record()).unwrap();
        seen.extend(headers(&disk).pop());
    }
    let randoms: BTreeSet<_> = seen.iter().map(|(_, random)| random.unwrap()).collect();
    assert_eq!(randoms.len(), 3, "{seen:?}");
    world.ship().unwrap();
    assert_eq!(store.0.lock().records.len(), 3);
}

#[test]
fn a_missing_key_stops_the_start_and_changes_nothing() {
    let (disk, store) = (FakeDisk::default().encrypted(sealed()), FakeStore::default());
    let mut world = World::start(&disk, &store).unwrap();
    for _ in 0..12 {
        world.keep(record()).unwrap();
    }
    drop(world);
    let before = (disk.list().unwrap(), disk.content(""));
    for keys in [Keys::default(), Keys::new(Some(key(2)), vec![key(3)])] {
        let disk = disk.clone().encrypted(keys);
        let error = World::start(&disk, &store).err().unwrap();
        let id = format!("{:?}", key(1)).replace("SpoolKey(", "").replace(')', "");
        assert!(error.contains(&id) && error.contains("spool.encryption.old_keys"), "{error}");
        let error = repair::mend(&disk, true).unwrap_err();
        assert_eq!(missing_key(&error).unwrap().key_id, id);
        let found = inspect::look(&disk, &mut |_, _| Some(0)).unwrap();
        assert!(found.is_closed() && !found.is_damaged());
        assert_eq!(found.unshipped(), None, "what cannot be read cannot be counted");
        assert!(found.segments.iter().all(|segment| segment.encrypted.as_deref() == Some(&id)));
        assert_eq!((disk.list().unwrap(), disk.content("")), before);
    }
    let disk = disk.encrypted(sealed());
    World::start(&disk, &store).unwrap().ship().unwrap();
    assert_eq!(store.0.lock().records.len(), 12);
}

#[test]
fn it_is_switched_on_and_off_and_rotated_with_a_backlog() {
    let (mut disk, store) = (FakeDisk::default(), FakeStore::default());
    store.0.lock().away = true;
    let stages = [
        Keys::default(),
        sealed(),
        Keys::new(Some(key(2)), vec![key(1)]),
        Keys::new(None, vec![key(1), key(2)]),
    ];
    for keys in stages {
        disk = disk.encrypted(keys);
        let mut world = World::start(&disk, &store).unwrap();
        for _ in 0..3 {
            world.keep(record()).unwrap();
        }
        drop(world);
        disk = disk.power_cycle(0);
    }
    assert!(
        World::start(&disk.clone().encrypted(Keys::default()), &store).is_err(),
        "a backlog needs its keys"
    );
    disk = disk.encrypted(Keys::new(None, vec![key(1), key(2)]));
    store.0.lock().away = false;
    World::start(&disk, &store).unwrap().ship().unwrap();
    assert_eq!(store.0.lock().records.len(), 12);
    store.0.lock().check_log();
    // Nothing is encrypted any more, so no key is needed.
    World::start(&disk.encrypted(Keys::default()), &store).unwrap().ship().unwrap();
}

#[test]
fn a_frame_that_was_changed_with_its_checksum_is_damage() {
    let (disk, store) = (FakeDisk::default().encrypted(sealed()), FakeStore::default());
    let mut world = World::start(&disk, &store).unwrap();
    for _ in 0..5 {
        world.keep(record()).unwrap();
    }
    drop(world);
    let (name, written) = disk.segments().remove(0);
    let mut bytes = disk.read(&name, 0, 1 << 20).unwrap();
    let Ok((_, Frame::Header(header))) = wire::decode(wire::payload(&bytes, 0).unwrap()) else { panic!() };
    let salt = header.salt;
    // The second frame behind the header.
    let mut start = wire::PREFIX + wire::payload(&bytes, 0).unwrap().len();
    start += wire::PREFIX + wire::payload(&bytes[start..], salt).unwrap().len();
    let end = start + wire::PREFIX + wire::payload(&bytes[start..], salt).unwrap().len();
    assert!(end < written);
    bytes[end - 40] ^= 1;
    wire::finish_frame(&mut bytes[..end], start, salt);
    assert!(wire::payload(&bytes[start..], salt).is_ok(), "the checksum says that it is good");
    disk.put(&name, &bytes).unwrap();
    assert!(inspect::look(&disk, &mut |_, _| None).unwrap().is_damaged());
    let mut world = World::start(&disk, &store).unwrap();
    world.ship().unwrap();
    let kept = store.0.lock().clone();
    assert_eq!((kept.records.len(), kept.gaps.iter().map(|(lost, _)| lost).sum::<u64>()), (4, 1));
    assert_eq!(world.progress.damaged_total.load(Ordering::Relaxed), 1);
}

#[test]
fn a_repaired_segment_has_a_key_of_its_own() {
    let (disk, store) = (FakeDisk::default().encrypted(sealed()), FakeStore::default());
    let mut world = World::start(&disk, &store).unwrap();
    for _ in 0..40 {
        world.keep(record()).unwrap();
    }
    drop(world);
    let before = headers(&disk);
    let segments = disk.segments();
    for offset in segments[1].1 / 2..segments[1].1 {
        disk.flip(&segments[1].0, offset);
    }
    let done = repair::mend(&disk, true).unwrap();
    assert_eq!(done.len(), 1);
    let after = headers(&disk);
    for ((name, old), (_, new)) in before.iter().zip(&after) {
        // A gap stands at the end of it, under the number of a frame that was lost.
        assert_eq!(*name == done[0].name, old != new, "{name}");
    }
    for planted in PLANTED {
        assert!(!is_planted(&disk.content(""), planted));
    }
    World::start(&disk, &store).unwrap().ship().unwrap();
    let kept = store.0.lock().clone();
    let lost = kept.gaps.iter().map(|(lost, _)| lost).sum::<u64>();
    assert_eq!(Some(lost), done[0].lost);
    assert_eq!(kept.records.len() + usize::try_from(lost).unwrap(), 40);
}
