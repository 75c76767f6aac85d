//! One log, place by place.

use std::collections::HashMap;
use std::sync::Arc;

use doorward_tlog::Hash;
use doorward_tlog::tile::{self, TILE};
use doorward_tlog::tree::Tree;
use uuid::Uuid;

use super::expiry::{Expiry, Explained, KINDS, OTHER, spans, unexplained};
use super::{
    Evidence, FINDINGS_MAX, Finding, Item, Kind, Known, LogId, Report, Scope, UNSIGNED_US, VerifyError, What,
    outside_notes, size_of,
};
use crate::log::place::{Objects, PlaceError, log_folder};

/// A row may be so far behind the last checkpoint and the row before it, and no farther.
const AHEAD_MAX: u64 = 1 << 24;

/// What a log is compared with.
pub(super) struct With<'a> {
    /// Checkpoints in the order of their sizes.
    pub(super) known: Vec<Known>,
    /// Whether it is its gateway's newest.
    pub(super) newest: bool,
    /// Whether it may hold rows of the version that had no log.
    pub(super) predates: bool,
    pub(super) expiry: &'a Expiry,
    pub(super) scope: &'a Scope,
}

pub(super) fn walk(
    evidence: &mut dyn Evidence,
    log: &LogId,
    with: With<'_>,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let largest = with.known.last().map_or(0, |known| known.size);
    let tiles = Arc::new(Tiles::read(evidence, log, &with.scope.outside, largest)?);
    evidence.beside(&tiles, largest);
    let mut walk = Walk {
        log,
        with,
        report,
        tiles,
        tree: Tree::default(),
        largest,
        proved: 0,
        items: 0,
        present: [0; KINDS],
        marks: Vec::new(),
        last_ts: None,
        missing: Vec::new(),
        differing: Vec::new(),
    };
    evidence.items(log, &mut |item| walk.item(item))?;
    for text in evidence.damage() {
        walk.found(Kind::Damaged, None, None, (None, None), &text);
    }
    walk.end();
    Ok(())
}

/// Goes through a log's leaves as they are kept, and tells the root at each size up to `largest`.
pub(super) fn roots(
    evidence: &mut dyn Evidence,
    log: &LogId,
    outside: &[Arc<dyn Objects>],
    largest: u64,
    each: &mut dyn FnMut(u64, &dyn Fn() -> Hash),
) -> Result<(), VerifyError> {
    let tiles = Tiles::read(evidence, log, outside, largest)?;
    let mut tree = Tree::default();
    each(0, &|| tree.root());
    let push = |tree: &mut Tree, leaf: Hash, each: &mut dyn FnMut(u64, &dyn Fn() -> Hash)| {
        tree.push(leaf, |_| ());
        each(tree.size(), &|| tree.root());
    };
    evidence.items(log, &mut |item| {
        let Some(index) = item.index else { return };
        while tree.size() < index
            && let Some(leaf) = tiles.leaf(tree.size())
        {
            push(&mut tree, leaf, each);
        }
        let leaf = tiles.leaf(index).or(item.stored).or(item.leaf);
        if index == tree.size()
            && let Some(leaf) = leaf
        {
            push(&mut tree, leaf, each);
        }
    })?;
    while tree.size() < largest
        && let Some(leaf) = tiles.leaf(tree.size())
    {
        push(&mut tree, leaf, each);
    }
    Ok(())
}

/// The tiles of level 0 of one log: those kept outside before the store's own.
#[derive(Debug, Default)]
pub struct Tiles {
    leaves: HashMap<u64, Vec<Hash>>,
}

impl Tiles {
    pub(super) fn read(
        evidence: &mut dyn Evidence,
        log: &LogId,
        outside: &[Arc<dyn Objects>],
        largest: u64,
    ) -> Result<Self, VerifyError> {
        let mut leaves: HashMap<u64, Vec<Hash>> = HashMap::new();
        for place in outside {
            for (index, hashes) in outside_tiles(&**place, log, largest)? {
                let widest = leaves.entry(index).or_default();
                if hashes.len() > widest.len() {
                    *widest = hashes;
                }
            }
        }
        for index in 0..largest.div_ceil(256) {
            let known = leaves.get(&index).map_or(0, Vec::len);
            if known < tile::width(largest, 0, index) {
                let stored = evidence.tile(log, index)?;
                if stored.len() > known {
                    leaves.insert(index, stored);
                }
            }
        }
        Ok(Self { leaves })
    }

    /// The first place behind all that is here.
    pub(super) fn end(&self) -> u64 {
        let end = |(index, hashes): (&u64, &Vec<Hash>)| {
            index.saturating_mul(256).saturating_add(u64::try_from(hashes.len()).unwrap_or(0))
        };
        self.leaves.iter().map(end).max().unwrap_or(0)
    }

    pub(super) fn leaf(&self, index: u64) -> Option<Hash> {
        self.leaves.get(&(index / 256))?.get(usize::try_from(index % 256).ok()?).copied()
    }
}

/// How many tiles of a place are read at one time: each may be a request.
const READERS: u64 = 8;

/// The tiles of level 0 that a place has of a log.
fn outside_tiles(
    place: &dyn Objects,
    log: &LogId,
    largest: u64,
) -> Result<Vec<(u64, Vec<Hash>)>, VerifyError> {
    let notes = outside_notes(place, log)?;
    // Without a checkpoint there may still be tiles.
    let size = notes.iter().filter_map(|(_, note)| size_of(note)).max().unwrap_or(largest);
    let tiles = size.min(largest).div_ceil(256);
    let read = |reader: u64| -> Result<Vec<(u64, Vec<Hash>)>, PlaceError> {
        let mut found = Vec::new();
        for index in (reader..tiles).step_by(usize::try_from(READERS).unwrap_or(1)) {
            found.extend(outside_tile(place, log, index, size)?.map(|hashes| (index, hashes)));
        }
        Ok(found)
    };
    let found = std::thread::scope(|scope| {
        let readers: Vec<_> =
            (0..READERS.min(tiles)).map(|reader| scope.spawn(move || read(reader))).collect();
        let read = readers.into_iter().filter_map(|reader| reader.join().ok());
        read.collect::<Result<Vec<_>, PlaceError>>()
    });
    Ok(found?.concat())
}

/// One tile: the full one, or the one of the width that a log of this size has.
fn outside_tile(
    place: &dyn Objects,
    log: &LogId,
    index: u64,
    size: u64,
) -> Result<Option<Vec<Hash>>, PlaceError> {
    for width in [TILE, tile::width(size, 0, index)] {
        let key = format!("{}/{}", log_folder(&log.gateway_id, log.epoch), tile::path(0, index, width));
        if let Some(hashes) = place.read(&key, TILE * 32)?.and_then(|bytes| tile::hashes(&bytes)) {
            return Ok(Some(hashes));
        }
    }
    Ok(None)
}

/// A row whose leaf is not the one at its place.
struct Differing {
    index: u64,
    is: Option<Hash>,
    should: Hash,
    access_id: Option<Uuid>,
    ts: Option<i64>,
}

/// Places without a row, and the times of the rows around.
#[derive(Clone, Copy)]
pub(super) struct Lost {
    pub(super) first: u64,
    pub(super) last: u64,
    before_us: Option<i64>,
    after_us: Option<i64>,
}

struct Walk<'a, 'w> {
    log: &'a LogId,
    with: With<'w>,
    report: &'a mut Report,
    tiles: Arc<Tiles>,
    /// Over the leaves as they were logged: of tiles, or as the rows say themselves.
    tree: Tree,
    /// Leaves that checkpoints count, whether they hold or not.
    largest: u64,
    /// Leaves below the largest checkpoint that holds.
    proved: u64,
    items: u64,
    /// Leaves so far that have something to show, by kind.
    present: [u64; KINDS],
    /// The same at the size of each checkpoint.
    marks: Vec<(u64, [u64; KINDS])>,
    last_ts: Option<i64>,
    missing: Vec<Lost>,
    differing: Vec<Differing>,
}

impl Walk<'_, '_> {
    fn item(&mut self, item: Item) {
        self.items += 1;
        let (access_id, ts, kind) = match &item.what {
            What::Row { access_id, ts, class, .. } => {
                self.report.summary.rows += 1;
                (*access_id, *ts, *class)
            }
            What::DeadLetter { class } => {
                self.report.summary.dead_letters += 1;
                (None, None, class.unwrap_or(OTHER))
            }
            What::Gap => {
                self.report.summary.gaps += 1;
                (None, None, OTHER)
            }
            What::Note { .. } => (None, None, OTHER),
        };
        let Some(index) = item.index else {
            if self.with.predates && matches!(item.what, What::Row { before_log: true, .. }) {
                self.report.summary.before_log += 1;
            } else if matches!(item.what, What::Row { .. }) {
                self.found(Kind::Inserted, None, access_id, (ts, ts), "a row without a place in the log");
            }
            return;
        };
        let size = self.tree.size();
        if index > size.max(self.with.known.last().map_or(0, |known| known.size)).saturating_add(AHEAD_MAX) {
            // Nothing is told by walking there, and a number costs whoever forges it nothing.
            let text = format!("a row says that its place is {index}, far behind the end of the log");
            return self.found(Kind::Inserted, Some((index, index)), access_id, (ts, ts), &text);
        }
        if index < size && self.take_missing(index) {
            if let Some(present) = self.present.get_mut(kind) {
                *present += 1;
            }
            let text = "the row stands behind rows that were logged after it".to_owned();
            return self.found(Kind::Reordered, Some((index, index)), access_id, (ts, ts), &text);
        }
        if index < size {
            let text = format!("a second row says that its place is {index}");
            return self.found(Kind::Duplicated, Some((index, index)), access_id, (ts, ts), &text);
        }
        if index > self.tree.size() {
            self.skip_to(index, ts);
        }
        if let Some(present) = self.present.get_mut(kind) {
            *present += 1;
        }
        let logged = self.tiles.leaf(index).or(item.stored).or(item.leaf);
        if let Some(should) = logged {
            if (item.leaf != Some(should) || item.stored != Some(should))
                && self.differing.len() < FINDINGS_MAX
            {
                self.differing.push(Differing { index, is: item.leaf, should, access_id, ts });
            }
            self.push(should);
        } else {
            self.found(
                Kind::Changed,
                Some((index, index)),
                access_id,
                (ts, ts),
                "it cannot be read as a row any more",
            );
            self.push([0; 32]);
        }
        if ts.is_some() {
            self.last_ts = ts;
        }
    }

    /// A row whose place was passed over has come: whether its place was one of those.
    fn take_missing(&mut self, index: u64) -> bool {
        let at = self.missing.partition_point(|lost| lost.last < index);
        let Some(lost) = self.missing.get_mut(at).filter(|lost| lost.first <= index) else { return false };
        let Lost { first, last, before_us, after_us } = *lost;
        match (first < index, index < last) {
            (false, false) => drop(self.missing.remove(at)),
            (true, false) => lost.last = index - 1,
            (false, true) => lost.first = index + 1,
            (true, true) => {
                lost.last = index - 1;
                self.missing.insert(at + 1, Lost { first: index + 1, last, before_us, after_us });
            }
        }
        true
    }

    fn push(&mut self, leaf: Hash) {
        self.tree.push(leaf, |_| ());
        self.compare();
    }

    /// Compares the tree with the checkpoints of its size.
    fn compare(&mut self) {
        let size = self.tree.size();
        let from = self.with.known.partition_point(|known| known.size < size);
        let mut roots = self.with.known.iter().skip(from).take_while(|known| known.size == size).peekable();
        if roots.peek().is_none() {
            return;
        }
        self.marks.push((size, self.present));
        let root = self.tree.root();
        let wrong: Vec<&str> =
            roots.filter(|known| known.root != root).map(|known| known.from.as_ref()).collect();
        if wrong.is_empty() {
            self.proved = size;
            return;
        }
        let text = format!(
            "a checkpoint over {size} leaves (from {}) was signed for others: values and leaves from place {} on were rewritten",
            wrong.join(", "),
            self.proved
        );
        self.found(
            Kind::RootMismatch,
            Some((self.proved, size.saturating_sub(1))),
            None,
            (None, None),
            &text,
        );
        // Each later one differs as well; one finding is enough.
        self.with.known.retain(|known| known.size <= size);
    }

    /// Passes over places that have no row, by their tiles.
    fn skip_to(&mut self, index: u64, next_ts: Option<i64>) {
        let first = self.tree.size();
        while self.tree.size() < index {
            match self.tiles.leaf(self.tree.size()) {
                Some(leaf) => self.push(leaf),
                None => self.push([0; 32]),
            }
        }
        self.missing.push(Lost { first, last: index - 1, before_us: self.last_ts, after_us: next_ts });
    }

    fn end(&mut self) {
        self.report.had_items = self.items > 0;
        self.report.summary.logs += 1;
        let stored = self.tree.size();
        if self.items == 0 && !self.with.known.is_empty() {
            let known = self.with.known.last();
            let text = known.map(|known| {
                format!("the whole epoch is gone: {} rows and notes, by {}", known.size, known.from)
            });
            return self.found(Kind::EpochMissing, None, None, (None, None), &text.unwrap_or_default());
        }
        let largest = self.with.known.last().map_or(0, |known| known.size);
        if largest > stored {
            self.skip_to(largest, None);
        }
        self.wait_for_the_end();
        self.lost(stored);
        self.differ();
        let signed = self.with.known.iter().filter_map(|known| known.signed_us).max();
        // A checkpoint that does not hold was told, and those behind it are not compared any more: they count all the same.
        let largest = self.largest;
        let uncounted = stored.saturating_sub(largest);
        let late = signed.is_none_or(|at| at.saturating_add(UNSIGNED_US) < self.with.scope.now_us);
        if uncounted > 0 && (!self.with.newest || late) {
            let text = format!(
                "{uncounted} rows after the last checkpoint: no checkpoint counts them (when the gateway was killed, its next start signs them)"
            );
            self.found(Kind::Inserted, Some((largest, stored - 1)), None, (None, None), &text);
        } else {
            self.report.summary.unsigned += uncounted;
        }
        self.report.summary.proved += self.proved.min(stored);
    }

    /// The newest rows come to an archive later than to the log: those that no checkpoint of before then counts are
    /// not missing.
    fn wait_for_the_end(&mut self) {
        let Some(lag_us) = self.with.scope.lag_us.filter(|_| self.with.newest) else { return };
        let by = self.with.scope.now_us.saturating_sub(lag_us);
        let due = self.with.known.iter().filter(|known| known.signed_us.is_none_or(|at| at <= by));
        let due = due.map(|known| known.size).max().unwrap_or(0);
        // What has no row behind it is at the end; notes may stand between.
        while let Some(lost) =
            self.missing.last_mut().filter(|lost| lost.after_us.is_none() && lost.last >= due)
        {
            let from = lost.first.max(due);
            self.report.summary.waiting += lost.last + 1 - from;
            if from > lost.first {
                lost.last = from - 1;
                return;
            }
            self.missing.pop();
        }
    }

    /// Places without a row: removed by retention, or taken away.
    fn lost(&mut self, stored: u64) {
        let missing = std::mem::take(&mut self.missing);
        if missing.is_empty() {
            return;
        }
        let spans = spans(&self.with.known, &self.marks, missing.iter().map(|lost| (lost.first, lost.last)));
        let explained: Vec<Explained> = spans.iter().map(|span| self.with.expiry.explain(span)).collect();
        for one in explained.iter().filter(|one| one.left.is_empty()) {
            self.report.summary.expired += one.aged;
            self.report.summary.outgrown += one.outgrown;
        }
        for lost in missing {
            for (first, last, words) in unexplained(&lost, &spans, &explained) {
                let (kind, text) = match first >= stored {
                    true => (Kind::Truncated, "the newest rows were taken away"),
                    false => (Kind::Missing, "rows were taken away"),
                };
                let mut text = format!("{text}: {} of them", last - first + 1);
                if !words.is_empty() {
                    text.push_str(&format!(" (before their time: {words})"));
                }
                self.found(kind, Some((first, last)), None, (lost.before_us, lost.after_us), &text);
            }
        }
    }

    /// Rows that are not what was logged at their places.
    fn differ(&mut self) {
        let differing = std::mem::take(&mut self.differing);
        let places: HashMap<Hash, u64> = differing.iter().map(|one| (one.should, one.index)).collect();
        for one in &differing {
            let home = one.is.and_then(|leaf| places.get(&leaf)).filter(|home| **home != one.index);
            let (kind, text) = match home {
                Some(home) => {
                    (Kind::Reordered, format!("the row at place {} was logged at {home}", one.index))
                }
                None => (Kind::Changed, "the row is not the one that was logged".to_owned()),
            };
            self.found(kind, Some((one.index, one.index)), one.access_id, (one.ts, one.ts), &text);
        }
    }

    fn found(
        &mut self,
        kind: Kind,
        places: Option<(u64, u64)>,
        access_id: Option<Uuid>,
        between_us: (Option<i64>, Option<i64>),
        text: &str,
    ) {
        let scope = self.with.scope;
        let early = scope.since_us.is_some_and(|since| between_us.1.is_some_and(|ts| ts < since));
        let late = scope.until_us.is_some_and(|until| between_us.0.is_some_and(|ts| ts >= until));
        if early || late {
            return;
        }
        let mut finding = Finding::of(self.log, kind, text);
        (finding.places, finding.access_id, finding.between_us) = (places, access_id, between_us);
        self.report.add(finding);
    }
}
