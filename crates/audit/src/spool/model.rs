//! A disk and a store for tests: the disk fails at a chosen step, fills up, and forgets what was not
//! synced; the store keeps what was committed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use doorward_core::{
    AccessId, AccessRecord, Action, Actions, AuthMethod, ConfigDigest, Object, Outcome, Principal,
    PrincipalKind, ResourceName, Timestamp, TraceContext, Verb,
};
use doorward_tlog::Hash;
use doorward_tlog::checkpoint::Checkpoint;
use doorward_tlog::note::Note;
use doorward_tlog::tree::Tree;
use parking_lot::Mutex;
use uuid::Uuid;

use super::encryption::Keys;
use super::files::{Appender, Files};
use crate::columns::CALL_COLUMNS;
use crate::config::Retention;
use crate::leaf::{self, Hasher};
use crate::row::Value;
use crate::store::{Batch, HighWater, OpenIntent, Record, Refused, Shrink, Store, StoreError, TooLarge};

#[derive(Clone, Debug, Default)]
struct FakeFile {
    /// Room that was set aside included.
    bytes: Vec<u8>,
    written: usize,
    synced: usize,
    /// Whether its length is durable.
    length_synced: bool,
}

impl FakeFile {
    fn whole(bytes: Vec<u8>) -> Self {
        let (written, synced) = (bytes.len(), bytes.len());
        Self { bytes, written, synced, length_synced: true }
    }
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<String, FakeFile>,
    /// Removed, but a crash may bring them back.
    removed: BTreeMap<String, FakeFile>,
    /// Steps until the crash.
    steps_left: Option<usize>,
    crashed: bool,
    quota: Option<usize>,
    sync_fails: bool,
    /// Whether no room can be set aside.
    plain: bool,
    read_only: bool,
    keys: Keys,
}

impl Disk {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.steps_left {
            Some(0) => self.crashed = true,
            Some(left) => *left -= 1,
            None => {}
        }
        if self.crashed {
            return Err(io::Error::other("the machine is off"));
        }
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    fn used(&self) -> usize {
        self.files.values().map(|file| file.bytes.len()).sum()
    }
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeDisk(Arc<Mutex<Disk>>);

impl FakeDisk {
    pub(crate) fn crash_after(&self, steps: Option<usize>) {
        self.0.lock().steps_left = steps;
    }

    pub(crate) fn crashed(&self) -> bool {
        self.0.lock().crashed
    }

    pub(crate) fn quota(&self, bytes: Option<usize>) {
        self.0.lock().quota = bytes;
    }

    pub(crate) fn sync_fails(&self, fails: bool) {
        self.0.lock().sync_fails = fails;
    }

    pub(crate) fn read_only(&self, read_only: bool) {
        self.0.lock().read_only = read_only;
    }

    /// The same disk, whose segments are encrypted under these keys from now on.
    pub(crate) fn encrypted(self, keys: Keys) -> Self {
        self.0.lock().keys = keys;
        self
    }

    pub(crate) fn plain(self, plain: bool) -> Self {
        self.0.lock().plain = plain;
        self
    }

    /// What all files with this ending hold.
    pub(crate) fn content(&self, ending: &str) -> Vec<u8> {
        let disk = self.0.lock();
        let files = disk.files.iter().filter(|(name, _)| name.ends_with(ending));
        files.flat_map(|(_, file)| file.bytes.clone()).collect()
    }

    pub(crate) fn used(&self) -> usize {
        self.0.lock().used()
    }

    pub(crate) fn flip(&self, name: &str, offset: usize) {
        if let Some(file) = self.0.lock().files.get_mut(name) {
            file.bytes[offset] ^= 0x10;
        }
    }

    pub(crate) fn grow(&self, name: &str, length: usize) {
        if let Some(file) = self.0.lock().files.get_mut(name) {
            file.bytes.resize(length, 0);
        }
    }

    /// Segments, and the bytes written into them.
    pub(crate) fn segments(&self) -> Vec<(String, usize)> {
        let disk = self.0.lock();
        disk.files
            .iter()
            .filter(|(name, _)| name.ends_with(".seg"))
            .map(|(name, file)| (name.clone(), file.written))
            .collect()
    }

    /// What is on the disk after the power comes back: what was synced, and some of the rest, in any order.
    pub(crate) fn power_cycle(&self, mut seed: u64) -> Self {
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap()
        };
        let disk = self.0.lock();
        let mut files = disk.files.clone();
        for (name, file) in &disk.removed {
            if random() % 2 == 0 {
                files.entry(name.clone()).or_insert_with(|| file.clone());
            }
        }
        for file in files.values_mut() {
            let kept = file.synced + random() % (file.written - file.synced + 1);
            file.bytes[kept..file.written].fill(0);
            let tail = kept - file.synced;
            if tail > 0 && random() % 3 == 0 {
                let from = file.synced + random() % tail;
                let until = kept.min(from + 1 + random() % 64);
                file.bytes[from..until].fill(0);
            }
            if !file.length_synced {
                file.bytes.truncate(kept + random() % (file.bytes.len() - kept + 1));
            }
            (file.written, file.synced, file.length_synced) = (kept, kept, true);
        }
        let (plain, keys) = (random() % 3 == 0, disk.keys.clone());
        Self(Arc::new(Mutex::new(Disk { files, plain, keys, ..Disk::default() })))
    }
}

impl Files for FakeDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let disk = self.0.lock();
        Ok(disk.files.iter().map(|(name, file)| (name.clone(), file.bytes.len() as u64)).collect())
    }

    fn create(&self, name: &str, room: u64) -> io::Result<Box<dyn Appender>> {
        let mut disk = self.0.lock();
        disk.step()?;
        assert!(!disk.files.contains_key(name), "{name} is there already");
        let room = usize::try_from(room).unwrap();
        let refused = disk.plain || disk.quota.is_some_and(|quota| disk.used() + room > quota);
        let bytes = if refused { Vec::new() } else { vec![0; room] };
        disk.files.insert(name.to_owned(), FakeFile { bytes, ..FakeFile::default() });
        disk.removed.clear();
        Ok(Box::new(FakeAppender { disk: self.clone(), name: name.to_owned() }))
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn Appender>> {
        assert!(self.0.lock().files.contains_key(name), "{name} is not there");
        Ok(Box::new(FakeAppender { disk: self.clone(), name: name.to_owned() }))
    }

    fn read(&self, name: &str, offset: u64, max: usize) -> io::Result<Vec<u8>> {
        let disk = self.0.lock();
        let file = disk.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let from = usize::try_from(offset).unwrap().min(file.bytes.len());
        Ok(file.bytes[from..file.bytes.len().min(from + max)].to_vec())
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.step()?;
        let file = disk.files.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        let length = usize::try_from(length).unwrap();
        file.bytes.truncate(length);
        (file.written, file.synced, file.length_synced) = (length, length, true);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.step()?;
        let file = disk.files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        disk.removed.insert(name.to_owned(), file);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.step()?;
        let file = disk.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn set_aside(&self, name: &str, bytes: u64) -> io::Result<()> {
        let length = usize::try_from(bytes).unwrap();
        if self.0.lock().files.get(name).is_some_and(|file| file.bytes.len() == length) {
            return Ok(());
        }
        self.put(name, &vec![0; length])
    }

    fn free(&self) -> io::Result<Option<u64>> {
        let disk = self.0.lock();
        Ok(disk.quota.map(|quota| u64::try_from(quota.saturating_sub(disk.used())).unwrap()))
    }

    fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.step()?;
        if disk.quota.is_some_and(|quota| disk.used() + content.len() > quota) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.files.insert(name.to_owned(), FakeFile::whole(content.to_vec()));
        disk.removed.clear();
        Ok(())
    }

    fn keys(&self) -> Keys {
        self.0.lock().keys.clone()
    }
}

struct FakeAppender {
    disk: FakeDisk,
    name: String,
}

impl Appender for FakeAppender {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        let spare = disk.quota.map_or(usize::MAX, |quota| quota.saturating_sub(disk.used()));
        let on = disk.step();
        let Some(file) = disk.files.get_mut(&self.name) else { return Err(io::ErrorKind::NotFound.into()) };
        // Whatever goes wrong, some of it may be there.
        let own = file.bytes.len() - file.written;
        let taken = if on.is_err() { bytes.len() / 2 } else { bytes.len().min(own.saturating_add(spare)) };
        let end = file.written + taken;
        if end > file.bytes.len() {
            file.bytes.resize(end, 0);
            file.length_synced = false;
        }
        file.bytes[file.written..end].copy_from_slice(&bytes[..taken]);
        file.written = end;
        on?;
        if taken < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        disk.step()?;
        if disk.sync_fails {
            return Err(io::Error::other("I/O error"));
        }
        let Some(file) = disk.files.get_mut(&self.name) else { return Err(io::ErrorKind::NotFound.into()) };
        (file.synced, file.length_synced) = (file.written, true);
        Ok(())
    }
}

/// Why the store does not take a batch.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Away,
    Refused,
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Away => Self::Io(io::Error::other("away")),
            Trouble::Refused => Self::Rejected("not this one".to_owned()),
        }
    }
}

/// What the store has committed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    /// (epoch, seq, access id, outcome).
    pub(crate) records: Vec<(u64, u64, Uuid, String)>,
    /// Records lost, as gaps say.
    pub(crate) gaps: Vec<(u64, String)>,
    /// The leaves made of what the store has, by epoch and place.
    leaves: BTreeMap<(u64, u64), Hash>,
    checkpoints: BTreeMap<(u64, u64), String>,
    tiles: BTreeMap<(u64, u64), Vec<u8>>,
    high_water: BTreeMap<u64, HighWater>,
    open: BTreeMap<(u64, u64), OpenIntent>,
    pub(crate) away: bool,
    /// It is too large by the records from before this time.
    pub(crate) too_large: Option<i64>,
    /// What becomes of a batch is told by the next call.
    pub(crate) late: bool,
    /// A call whose record is refused.
    pub(crate) refused: Option<Uuid>,
    /// Records that were laid down as dead letters.
    pub(crate) dead: Vec<Uuid>,
    /// What the last call left to tell.
    untold: Option<Trouble>,
    /// Its housekeeping fails.
    pub(crate) stuck: bool,
    /// How often it was waited for with nothing to write.
    pub(crate) waits: usize,
}

impl Kept {
    /// Each place of each log has one row, and each checkpoint is over these rows.
    pub(crate) fn check_log(&self) {
        for (epoch, high_water) in &self.high_water {
            let of = |range: std::ops::RangeInclusive<(u64, u64)>| self.leaves.range(range);
            let leaves: Vec<Hash> = of((*epoch, 0)..=(*epoch, u64::MAX)).map(|(_, leaf)| *leaf).collect();
            assert_eq!(leaves.len() as u64, high_water.next_leaf, "epoch {epoch}");
            let mut tree = Tree::default();
            for leaf in leaves.iter().map(Some).chain([None]) {
                if let Some(note) = self.checkpoints.get(&(*epoch, tree.size())) {
                    let checkpoint = Checkpoint::parse(&Note::parse(note).unwrap().text).unwrap();
                    assert_eq!(checkpoint.root, tree.root(), "{checkpoint:?}");
                }
                if let Some(leaf) = leaf {
                    tree.push(*leaf, |_| ());
                }
            }
        }
        let starts: Vec<_> = self.leaves.keys().filter(|(_, place)| *place == 0).collect();
        assert_eq!(starts.len(), self.high_water.len(), "each log begins");
        let mut before = None;
        for (epoch, _) in self.high_water.iter().filter(|(_, high_water)| high_water.next_leaf > 0) {
            let last = self.checkpoints.keys().rfind(|(of, _)| Some(*of) == before);
            assert_eq!(last.is_some(), before.is_some(), "epoch {before:?} has a last checkpoint");
            before = Some(*epoch);
        }
    }

    /// What became of the last batch, if that is still to be told.
    fn tell(&mut self) -> Result<(), StoreError> {
        self.untold.take().map_or(Ok(()), |trouble| Err(trouble.into()))
    }

    fn leaf(&mut self, epoch: u64, place: u64, leaf: Hash) {
        assert!(self.leaves.insert((epoch, place), leaf).is_none(), "place {place} is taken");
    }
}

/// The store. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeStore(pub(crate) Arc<Mutex<Kept>>);

impl FakeStore {
    /// Another connection: what the one before left to tell is never heard.
    pub(crate) fn reopened(&self) -> Self {
        self.0.lock().untold = None;
        self.clone()
    }
}

impl Store for FakeStore {
    fn high_water(&mut self, _: &str, epoch: u64) -> Result<HighWater, StoreError> {
        Ok(self.0.lock().high_water.get(&epoch).copied().unwrap_or_default())
    }

    fn open_intents(&mut self, _: &str, epoch: u64) -> Result<Vec<OpenIntent>, StoreError> {
        let kept = self.0.lock();
        Ok(kept.open.iter().filter(|((of, _), _)| *of == epoch).map(|(_, intent)| intent.clone()).collect())
    }

    fn unfinished_epochs(&mut self, _: &str, epoch: u64) -> Result<Vec<u64>, StoreError> {
        let mut epochs: Vec<u64> =
            self.0.lock().open.keys().map(|(of, _)| *of).filter(|of| *of < epoch).collect();
        epochs.dedup();
        Ok(epochs)
    }

    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let mut kept = self.0.lock();
        kept.tell()?;
        let refused = |record: &Record<'_>| kept.refused == Some(record.access.access_id);
        let trouble = match (kept.away, batch.records.iter().any(refused)) {
            (true, _) => Some(Trouble::Away),
            (false, true) => Some(Trouble::Refused),
            (false, false) => None,
        };
        if let Some(trouble) = trouble {
            if kept.late {
                kept.untold = Some(trouble);
                return Ok(());
            }
            return Err(trouble.into());
        }
        for letter in &batch.dead_letters {
            let Refused::Record(record) = &letter.what else { panic!("nothing else is refused here") };
            kept.dead.push(record.access.access_id);
            for (place, leaf) in (record.log_index..).zip(&record.leaf_hashes) {
                kept.leaf(batch.epoch, place, *leaf);
            }
        }
        let outcome = CALL_COLUMNS.iter().position(|(name, _)| *name == "outcome").unwrap();
        for record in &batch.records {
            let Value::Text(outcome) = &record.access.values[outcome] else { panic!("outcome is text") };
            let row = (batch.epoch, record.seq, record.access.access_id, outcome.to_string());
            kept.records.push(row);
            for action in 0..leaf::rows(&record.access) {
                let row = record.row(batch.gateway_id, batch.epoch, action);
                let leaf = Hasher::default().row(&row);
                assert_eq!(leaf, record.leaf_hashes[action], "the leaf that was logged is another one");
                kept.leaf(batch.epoch, record.log_index + action as u64, leaf);
            }
        }
        for lost in &batch.gaps {
            if let Some((place, leaf)) = lost.leaf {
                let made = Hasher::default().gap(batch.gateway_id, batch.epoch, lost.seq, &lost.gap);
                assert_eq!(leaf, made);
                kept.leaf(batch.epoch, place, leaf);
            }
        }
        for note in &batch.notes {
            let made = Hasher::default().note(batch.gateway_id, batch.epoch, &note.kind, &note.body);
            assert_eq!(note.leaf_hash, made);
            kept.leaf(batch.epoch, note.index, made);
        }
        for checkpoint in &batch.checkpoints {
            let before = kept.checkpoints.insert((batch.epoch, checkpoint.size), checkpoint.note.clone());
            // The same leaves may be signed at two times; the line after the root says when.
            let said = |note: &str| note.lines().take(3).map(str::to_owned).collect::<Vec<_>>();
            assert!(before.is_none_or(|before| said(&before) == said(&checkpoint.note)), "the log is forked");
        }
        for tile in &batch.tiles {
            let before = kept.tiles.insert((batch.epoch, tile.index), tile.hashes.clone());
            assert!(tile.hashes.starts_with(&before.unwrap_or_default()), "a tile of the log only grows");
        }
        for checkpoint in &batch.checkpoints {
            // Retention may remove any row by now.
            let last = (checkpoint.size - 1) / 256;
            let leaves = kept.tiles.get(&(batch.epoch, last)).map_or(0, |hashes| hashes.len() / 32) as u64;
            assert!(last * 256 + leaves >= checkpoint.size, "leaves of a checkpoint are in no tile");
        }
        for intent in &batch.opened {
            kept.open.insert((batch.epoch, intent.seq), intent.clone());
        }
        kept.open.retain(|_, intent| !batch.closed.contains(&intent.access_id));
        kept.gaps.extend(batch.gaps.iter().map(|lost| (lost.gap.lost, lost.gap.reason.to_string())));
        let before = kept.high_water.get(&batch.epoch).copied().unwrap_or_default();
        assert_eq!((before.last_seq, before.next_leaf), (batch.from_seq, batch.leaf_from));
        let after = HighWater { last_seq: batch.to_seq, next_leaf: batch.leaf_to };
        kept.high_water.insert(batch.epoch, after);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        let mut kept = self.0.lock();
        kept.waits += 1;
        kept.tell()
    }

    fn retain(&mut self, _: &Retention, _: i64) -> Result<bool, StoreError> {
        if self.0.lock().stuck { Err(StoreError::Io(io::Error::other("stuck"))) } else { Ok(false) }
    }

    fn shrink(&mut self, limit: u64, announced_us: Option<i64>) -> Result<Shrink, StoreError> {
        let Some(before_us) = self.0.lock().too_large else { return Ok(Shrink::Done) };
        if announced_us < Some(before_us) {
            return Ok(Shrink::Tell(TooLarge { before_us, bytes: limit + 1, limit }));
        }
        self.0.lock().too_large = None;
        Ok(Shrink::Removed)
    }
}

/// A record as a door leaves it.
pub(crate) fn record() -> Box<AccessRecord> {
    let mut principal = Principal::public();
    principal.kind = PrincipalKind::User;
    principal.issuer = doorward_core::IssuerName::new("corp");
    principal.subject = "u-17".into();
    principal.email = Some("analyst@corp.example".into());
    principal.groups = vec!["analysts".into()];
    principal.claims_json = r#"{"sub":"u-17"}"#.into();
    principal.auth_method = AuthMethod::Jwt;
    let action = Action {
        verb: Verb::Read,
        resource: ResourceName::new("shop"),
        object: Object::from_segments(["public", "orders"]),
    };
    let began = Timestamp::from_seconds(1_795_000_000);
    Box::new(AccessRecord {
        principal: Some(Arc::new(principal)),
        actions: Some(Actions::one(action)),
        endpoint: Some("GET /shop/{table}".into()),
        outcome: Outcome::Allowed,
        config_digest: Some(ConfigDigest::new("sha256:0123456789abcdef")),
        status: Some(200),
        rows: Some(1),
        bytes_out: 120,
        duration_us: 900,
        trace: TraceContext { trace_id: [7; 16], span_id: [3; 8], parent_span_id: None, sampled: false },
        ..AccessRecord::begin(AccessId::fresh(), began, "test".into(), "rest")
    })
}
